"""Does the demo's model learn, and are its explanations true? Fresh breast phantoms, with and without a noise input.

    python benchmarks/breast.py --seeds 201 202 203 204 205 -o OUT --jobs 2

For each seed a cohort is generated, trained on with the shipped defaults, and judged on
its test split: AUROC and C-index beside the oracle's and beside logistic regressions on cheap features; how well each
measure of contribution finds the input that carries the finding, in exams where it is present; and, with a modality of
pure noise added, the mean |Shapley value| of every input for every task. Give seeds that development did not use.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from m4oe.artifact import load_artifact
from m4oe.config import load_config
from m4oe.data.dataset import ExamDataset
from m4oe.data.phantoms import oracle_scores, read_truth, write_breast
from m4oe.data.table import load_cohort
from m4oe.predict import Predictor
from m4oe.runs import train_run
from m4oe.study import load_study
from phantom_difficulty import cheap_features, concordance, labels, load, regression_auroc

TASKS = ("density", "birads", "malignancy", "risk")
MEASURES = ("shapley", "evidence", "routing")


def judged(seed: int, noise: bool, out: Path, overrides: list[str]) -> dict:
    """One cohort, one training, all figures."""
    torch.set_num_threads(1)
    name = f"seed_{seed}{'_noise' if noise else ''}"
    study = out / name / "study" / "study.yaml"
    if not study.is_file():
        write_breast(study.parent, seed=seed, noise_modality=noise)
    run = out / name / "run"
    train_run([study], load_config(None, [f"train.seed={seed}", *overrides]), run, torch.device("cpu"))
    table = pd.read_csv(study.parent / "images.csv", dtype={"exam_id": str})
    splits = pd.read_csv(run / "splits.csv", dtype={"exam": str}).set_index("exam")["split"]
    test = (table["exam_id"].map(splits) == "test").to_numpy()
    contributions = explained(run, study)
    return {
        "seed": seed,
        "noise": noise,
        "model": scores_of(run),
        "oracle": oracle(study.parent, table, test),
        "cheap": cheap(study.parent, test),
        "carrier": carriers(study.parent, contributions),
        "mean_shapley": mean_shapley(contributions),
        "routing": routing(run),
        "withheld": json.loads((run / "routing.json").read_text())["withheld"],
        "epochs": len((run / "log.jsonl").read_text().splitlines()),
    }


def scores_of(run: Path) -> dict[str, float]:
    test = json.loads((run / "metrics.json").read_text())["test"]
    return {task: test[task]["c_index" if task == "risk" else "auroc"]["value"] for task in TASKS}


def explained(run: Path, study: Path) -> pd.DataFrame:
    """Contributions of all test exams and all tasks, those withheld from users too."""
    artifact = load_artifact(run)
    splits = pd.read_csv(run / "splits.csv", dtype={"exam": str})
    rows = ExamDataset([load_cohort(load_study(study))], splits[splits["split"] == "test"], artifact.schema)
    parts = Predictor(replace(artifact, withheld={})).stream(rows)
    return pd.concat([part.contributions for part in parts], ignore_index=True)


def oracle(folder: Path, table: pd.DataFrame, test: np.ndarray) -> dict[str, float]:
    """What reading the stored truth reaches on the same exams: ordinal AUROC over thresholds, as ours."""
    known = table[test].set_index("exam_id")
    found = oracle_scores(read_truth(folder), table[test])
    result = {}
    for task, classes in {"density": list("ABCD"), "birads": ["1", "2", "4"]}.items():
        wide = found[found["task"] == task].pivot(index="exam", columns="class", values="score")[classes]
        label = known[task].dropna().astype(str).str.removesuffix(".0").map(classes.index)
        tails = wide.loc[label.index].to_numpy()[:, ::-1].cumsum(1)[:, ::-1]
        result[task] = float(np.mean([roc_auc_score(label > k, tails[:, k + 1]) for k in range(len(classes) - 1)]))
    label = known["malignancy"].dropna()
    score = found[found["task"] == "malignancy"].set_index("exam")["score"]
    result["malignancy"] = float(roc_auc_score(label, score.loc[label.index]))
    told = known.dropna(subset="years")
    score = found[found["task"] == "risk"].set_index("exam")["score"].loc[told.index]
    result["risk"] = concordance(told["years"].to_numpy(), told["event"].to_numpy(), score.to_numpy())
    return result


def cheap(folder: Path, test: np.ndarray) -> dict[str, float]:
    """Malignancy from intensity histograms, and from image means, by logistic regression."""
    table, pictures = load(folder)
    target = labels(table)["malignancy"]
    return {
        name: regression_auroc(cheap_features(pictures, bins), target, ~test, test)
        for name, bins in {"histograms": 32, "means": 0}.items()
    }


def carriers(folder: Path, contributions: pd.DataFrame) -> dict[str, float]:
    """AUROC with which each measure tells the carrier from an exam's other inputs, carriers being present."""
    truth = read_truth(folder).exams
    truth = truth[(truth["task"] == "malignancy") & (truth["carriers"] != "") & truth["carrier_present"]]
    carrier = truth.set_index("exam")["carriers"]
    rows = contributions[(contributions["task"] == "malignancy") & contributions["exam"].isin(carrier.index)]
    result = {}
    for measure in MEASURES:
        mine = rows[rows["measure"] == measure]
        found = mine["input"] if measure != "routing" else mine["modality"]
        of = mine["exam"].map(carrier)
        hit = found == (
            of if measure != "routing" else of.str.split("_").str[0].map({"ffdm": "ffdm", "syn": "synthetic2d"})
        )
        result[measure] = float(roc_auc_score(hit, mine["value"].astype(float)))
    return result


def mean_shapley(contributions: pd.DataFrame) -> dict[str, dict[str, float]]:
    """{task: {input: mean |Shapley value|}}."""
    rows = contributions[contributions["measure"] == "shapley"]
    means = rows.assign(value=rows["value"].astype(float).abs()).groupby(["task", "input"])["value"].mean()
    return {task: means[task].round(4).to_dict() for task in TASKS}


def routing(run: Path) -> dict[str, dict[str, float]]:
    facts = json.loads((run / "routing.json").read_text())
    shares = facts["P_modality_given_task"]
    return {task: dict(zip(facts["modalities"], np.round(row, 3))) for task, row in zip(facts["tasks"], shares)}


def noise_below(result: dict, folder: Path) -> dict[str, bool]:
    """{task: whether noise moves it less than every input that truly carries it}."""
    carries = read_truth(folder).population["carries"]
    mean = result["mean_shapley"]
    return {task: all(mean[task]["noise"] < mean[task][name] for name in carries[task]["inputs"]) for task in TASKS}


def show(results: list[dict], out: Path) -> None:
    print("\n| seed | noise | density (oracle) | malignancy (oracle) | BI-RADS (oracle) | risk C (oracle) |"
          " histograms, means | carrier: Shapley, evidence, routing | withheld |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for r in results:
        pairs = [f"{r['model'][t]:.3f} ({r['oracle'][t]:.3f})" for t in ("density", "malignancy", "birads", "risk")]
        found = ", ".join(f"{r['carrier'][measure]:.3f}" for measure in MEASURES)
        easy = ", ".join(f"{value:.3f}" for value in r["cheap"].values())
        print(f"| {r['seed']} | {r['noise']} | {' | '.join(pairs)} | {easy} | {found} | {', '.join(r['withheld'])} |")
    print("\n| seed | task | mean abs Shapley by input | noise below every carrier | P(noise given task) |")
    print("|---|---|---|---|---|")
    for r in (r for r in results if r["noise"]):
        below = noise_below(r, out / f"seed_{r['seed']}_noise" / "study")
        for task in TASKS:
            values = ", ".join(f"{name} {value:.3f}" for name, value in r["mean_shapley"][task].items())
            print(f"| {r['seed']} | {task} | {values} | {below[task]} | {r['routing'][task]['noise']:.2f} |")


def _judged(job: tuple[int, bool, Path, list[str]]) -> dict:
    return judged(*job)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[201, 202, 203, 204, 205])
    parser.add_argument("--only", choices=("plain", "noise"), help="one of the two cohorts of each seed")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("overrides", nargs="*", help="of the config, e.g. train.max_epochs=20")
    given = parser.parse_args()
    kinds = {"plain": [False], "noise": [True], None: [False, True]}[given.only]
    jobs = [(seed, noise, given.out, given.overrides) for seed in given.seeds for noise in kinds]
    with get_context("spawn").Pool(given.jobs) as pool:
        results = pool.map(_judged, jobs, chunksize=1)
    show(results, given.out)
    (given.out / "results.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
