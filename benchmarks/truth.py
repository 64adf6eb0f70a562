"""Are explanations true? Phantoms with known carriers, from easy to unlearnable, and forms of the information term.

    python benchmarks/truth.py --seeds 701 702 703 704 705 -o OUT --jobs 2

For each seed and condition a breast cohort with a noise modality is written, trained on with the shipped defaults and
judged on its test split. Two questions of each measure (Shapley, evidence, occlusion, routing): does it find the one
input that carries the finding *in this exam* (malignancy, carrier present), and does its mean tell the inputs that
carry a *task* from those that do not? Further: whether noise stays below every carrier, how much is routed through it,
how far modalities have experts of their own, I(M; E | T), where the planted synergy pair comes among all pairs by
partial information decomposition, and what it costs or brings in AUROC. All as means over seeds with 95 % intervals
(Student's t).

Conditions: `clarity` scales every sign that pictures show, down to 0, where there is nothing to learn; `cmi` is the
information term of the loss: its weight, and its forms (docs/config.md, train.cmi).

A run that is there is not made again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score

from breast import TASKS, noise_below, oracle, routing, scores_of
from m4oe.analyses import subject_of
from m4oe.analyses.synergy import synergy_of
from m4oe.artifact import load_artifact
from m4oe.config import load_config
from m4oe.contributions import evidence_values, game_values, routing_values
from m4oe.data.dataset import ExamDataset, collate
from m4oe.data.phantoms import read_truth, write_breast
from m4oe.data.table import load_cohort
from m4oe.explain import occlusion_game, shapley_game
from m4oe.moe.losses import conditional_mutual_information
from m4oe.predict import Predictor
from m4oe.runs import train_run
from m4oe.study import load_study

MEASURES = ("shapley", "evidence", "occlusion", "routing")


@dataclass(frozen=True)
class Condition:
    """One column of the table: a cohort and a config."""

    family: str
    name: str
    cohort: Mapping[str, Any] = field(default_factory=dict)
    config: tuple[str, ...] = ()


def _cmi(name: str, weight: float, *form: str) -> Condition:
    return Condition("cmi", name, config=(f"train.cmi_weight={weight}", *(f"train.cmi.{part}" for part in form)))


CONDITIONS = (
    Condition("shipped", "as shipped"),
    *(Condition("clarity", f"clarity {clarity}", {"clarity": clarity}) for clarity in (1.0, 0.6, 0.3, 0.0)),
    _cmi("weight 0", 0),
    _cmi("weight .05", 0.05),
    _cmi("weight .2", 0.2),
    _cmi("weight .05, P(t) free", 0.05, "uniform_tasks=false"),
    _cmi("weight .05, capped at .3", 0.05, "cap=0.3"),
    _cmi("weight .05, per exam", 0.05, "over=exam"),
    _cmi("weight .05, by presence", 0.05, "over=presence"),
    _cmi("weight .05, modalities even", 0.05, "uniform_modalities=true"),
    _cmi("weight .2, modalities even", 0.2, "uniform_modalities=true"),
)


def judged(condition: Condition, seed: int, out: Path, overrides: list[str]) -> dict[str, Any]:
    """All figures of one training."""
    torch.set_num_threads(1)
    folder = out / f"seed_{seed}" / condition.name.replace(" ", "_").replace(",", "")
    study = out / f"seed_{seed}" / f"study_{condition.cohort.get('clarity', 1.0)}" / "study.yaml"
    if not study.is_file():
        write_breast(study.parent, seed=seed, noise_modality=True, **condition.cohort)
    config = load_config(None, [f"train.seed={seed}", *condition.config, *overrides])
    run = folder / "run"
    train_run([study], config, run, torch.device("cpu"))  # of a finished run only refuses another config
    if (folder / "truth.json").is_file():
        return json.loads((folder / "truth.json").read_text())
    found = figures(run, study, synergy=condition.family != "cmi")
    (folder / "truth.json").write_text(json.dumps(found, indent=1))
    return found


def figures(run: Path, study: Path, synergy: bool) -> dict[str, Any]:
    """synergy: whether pairs are ranked, too, which takes as long as the training."""
    table = pd.read_csv(study.parent / "images.csv", dtype={"exam_id": str})
    splits = pd.read_csv(run / "splits.csv", dtype={"exam": str}).set_index("exam")["split"]
    measured, test = measures(run, study), (table["exam_id"].map(splits) == "test").to_numpy()
    means = {
        task: {row.input: row.value for row in rows.itertuples()}
        for task, rows in mean_sizes(measured[measured["measure"] == "shapley"]).groupby("task")
    }
    pairs = synergy_of(subject_of(run, torch.device("cpu"))) if synergy else None
    return {
        "model": scores_of(run),
        "oracle": oracle(study.parent, table, test),
        "in_exams": found_in_exams(study.parent, measured),
        "in_tasks": found_in_tasks(study.parent, measured),
        "mean_shapley": means,
        "noise_below": noise_below({"mean_shapley": means}, study.parent),
        "information": information(run),
        "noise_routed": {task: float(shares["noise"]) for task, shares in routing(run).items()},
        "synergy_rank": synergy_rank(pairs, study.parent),
        "withheld": sorted(json.loads((run / "routing.json").read_text())["withheld"]),
    }


def information(run: Path) -> float:
    """I(M; E | T) in nats of the routing over all test exams: how far modalities have experts of their own."""
    facts = json.loads((run / "routing.json").read_text())
    modality, expert = (
        torch.tensor(facts[f"P_{name}"]) for name in ("modality_given_task", "expert_given_modality_task")
    )
    joint = modality.T[:, None] * expert.permute(0, 2, 1) / len(facts["tasks"])
    return float(conditional_mutual_information(joint[None]))


@torch.no_grad()
def measures(run: Path, study: Path) -> pd.DataFrame:
    """exam, task, input, measure, value of all test exams; routing of an input is that of its modality."""
    artifact = load_artifact(run)
    splits = pd.read_csv(run / "splits.csv", dtype={"exam": str})
    rows = ExamDataset([load_cohort(load_study(study))], splits[splits["split"] == "test"], artifact.schema)
    network, schema, found = Predictor(artifact).network, artifact.schema, []
    for start in range(0, len(rows), 32):
        samples = [rows[number] for number in range(start, min(start + 32, len(rows)))]
        batch = collate(samples)
        tokens = network.encode(batch)
        prediction = network.decide(tokens, batch.inputs)
        values = {
            "shapley": game_values(network, tokens, batch.inputs, schema, shapley_game),
            "occlusion": game_values(network, tokens, batch.inputs, schema, occlusion_game),
            "evidence": evidence_values(prediction, schema),
            "routing": _by_stream(routing_values(prediction), schema),
        }
        for measure, of in values.items():
            for task in schema.tasks:
                for b, sample in enumerate(samples):
                    for i, stream in enumerate(schema.streams):
                        if stream.name in sample.inputs:
                            value = of[task.name][b, i, -1]  # malignancy: the one score; others: the last
                            found.append((sample.exam, task.name, stream.input, measure, float(value)))
    return pd.DataFrame(found, columns=["exam", "task", "input", "measure", "value"])


def _by_stream(routed: np.ndarray, schema: Any) -> dict[str, np.ndarray]:
    places = [schema.modalities.index(stream.modality) for stream in schema.streams]
    return {task.name: routed[:, number][:, places, None] for number, task in enumerate(schema.tasks)}


def found_in_exams(folder: Path, measured: pd.DataFrame) -> dict[str, float]:
    """{measure: AUROC with which its value tells the carrier from an exam's other inputs}."""
    truth = read_truth(folder).exams
    truth = truth[(truth["task"] == "malignancy") & (truth["carriers"] != "") & truth["carrier_present"]]
    carrier = truth.set_index("exam")["carriers"]
    rows = measured[(measured["task"] == "malignancy") & measured["exam"].isin(carrier.index)]
    hit = rows["input"] == rows["exam"].map(carrier)
    return {name: float(roc_auc_score(hit[rows["measure"] == name], rows["value"][rows["measure"] == name]))
            for name in MEASURES}  # fmt: skip


def mean_sizes(measured: pd.DataFrame) -> pd.DataFrame:
    """measure, task, input, value: the mean over exams of its size."""
    sizes = measured.assign(value=measured["value"].abs())
    return sizes.groupby(["measure", "task", "input"], as_index=False)["value"].mean()


def found_in_tasks(folder: Path, measured: pd.DataFrame) -> dict[str, float]:
    """{measure: AUROC with which its mean tells inputs that carry a task from the others, mean over tasks}."""
    carries = read_truth(folder).population["carries"]
    means, found = mean_sizes(measured), {}
    for measure in MEASURES:
        scores = []
        for task in TASKS:
            rows = means[(means["measure"] == measure) & (means["task"] == task)]
            scores.append(roc_auc_score(rows["input"].isin(carries[task]["inputs"]), rows["value"]))
        found[measure] = float(np.mean(scores))
    return found


def synergy_rank(synergy: Mapping[str, Any] | None, folder: Path) -> int | None:
    """The place, from 1, of the planted pair among all pairs of inputs by synergy for its task."""
    planted = read_truth(folder).population["synergy"]
    if synergy is None or planted["task"] not in synergy["tasks"]:
        return None
    pairs = synergy["tasks"][planted["task"]]  # the most synergetic first; a pair comes once for each question asked
    order = list(dict.fromkeys(frozenset(pair["inputs"]) for pair in pairs))
    return 1 + order.index(frozenset(planted["inputs"]))


def interval(values: Iterable[float | None]) -> str:
    """Mean (95 % interval by Student's t over seeds)."""
    known = np.array([value for value in values if value is not None], float)
    if len(known) < 2:
        return f"{known.mean():.3f}" if len(known) else "-"
    low, high = limits(known)
    return f"{known.mean():.3f} ({low:.3f} to {high:.3f})"


def limits(values: Sequence[float]) -> tuple[float, float]:
    """Of the 95 % interval of a mean over two seeds or more."""
    known = np.asarray(values, float)
    half = student.ppf(0.975, len(known) - 1) * known.std(ddof=1) / len(known) ** 0.5
    return float(known.mean() - half), float(known.mean() + half)


def by_condition(results: list[dict[str, Any]]) -> dict[str, dict[int, dict[str, Any]]]:
    """{condition: {seed: its figures}}."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for result in results:
        found.setdefault(result["condition"], {})[result["seed"]] = result["figures"]
    return found


def show(results: list[dict[str, Any]]) -> str:
    """Three tables: what is found, what noise gets, what it costs."""
    by_name = by_condition(results)
    lines = ["## The carrier of an exam's finding, and of a task: AUROC of each measure", ""]
    lines += _table(
        [*(f"exam: {m}" for m in MEASURES), *(f"task: {m}" for m in MEASURES)],
        by_name,
        [*(lambda f, m=m: f["in_exams"][m] for m in MEASURES), *(lambda f, m=m: f["in_tasks"][m] for m in MEASURES)],
    )
    lines += ["", "## Noise, and the planted synergy", ""]
    lines += _table(
        ["noise below every carrier, share of tasks", "P(noise given malignancy)", "largest P(noise given task)",
         "I(M; E given T), nats", "rank of the planted pair"],
        by_name,
        [lambda f: np.mean(list(f["noise_below"].values())), lambda f: f["noise_routed"]["malignancy"], most_noise,
         lambda f: f["information"], lambda f: f["synergy_rank"]],
    )  # fmt: skip
    lines += ["", "## What is learned: AUROC, C-index of risk (oracle)", ""]
    lines += _table(list(TASKS), by_name, [lambda f, t=t: f["model"][t] for t in TASKS])
    changes = changed(by_name)
    if changes:
        lines += ["", f"## What the information term changes, against {PLAIN}, by seed", ""]
        lines += [f"| condition | {' | '.join(CHANGES)} |", "|---" * (len(CHANGES) + 1) + "|"]
        lines += [f"| {name} | {' | '.join(map(interval, row.values()))} |" for name, row in changes.items()]
    return "\n".join(lines)


def most_noise(figures: Mapping[str, Any]) -> float:
    return max(figures["noise_routed"].values())


PLAIN = "weight 0"
CHANGES: Mapping[str, Callable[[Mapping[str, Any]], float]] = {
    "mean score of the four tasks": lambda f: float(np.mean([f["model"][task] for task in TASKS])),
    "worst task's score": lambda f: min(f["model"][task] for task in TASKS),
    "I(M; E given T)": lambda f: f["information"],
    "largest P(noise given task)": most_noise,
}


def changed(by_name: Mapping[str, Mapping[int, Any]]) -> dict[str, dict[str, list[float]]]:
    """{condition: {figure: its difference to a training without the term, of each seed that both have}}."""
    plain = by_name.get(PLAIN, {})
    family = {condition.name for condition in CONDITIONS if condition.family == "cmi"} - {PLAIN}
    return {
        name: {figure: [of(one) - of(plain[seed]) for seed, one in found.items() if seed in plain]
               for figure, of in CHANGES.items()}
        for name, found in by_name.items() if name in family and plain
    }  # fmt: skip


def _table(heads: list[str], by_name: dict[str, dict[int, dict]], columns: list[Callable[[dict], Any]]) -> list[str]:
    rows = [
        f"| {name} ({len(found)} seeds) | {' | '.join(interval(map(of, found.values())) for of in columns)} |"
        for name, found in by_name.items()
    ]
    return [f"| condition | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|", *rows]


def _judged(job: tuple[Condition, int, Path, list[str]]) -> dict[str, Any]:
    condition, seed, _, overrides = job
    return {"condition": condition.name, "seed": seed, "overrides": overrides, "figures": judged(*job)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[701, 702, 703, 704, 705])
    parser.add_argument("--only", choices=("shipped", "clarity", "cmi"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("overrides", nargs="*", help="of the config, e.g. train.max_epochs=20")
    given = parser.parse_args()
    chosen = [condition for condition in CONDITIONS if given.only in (None, condition.family)]
    jobs = [(condition, seed, given.out, given.overrides) for seed in given.seeds for condition in chosen]
    results = []
    with get_context("spawn").Pool(given.jobs) as pool:
        for result in pool.imap(_judged, jobs):
            results.append(result)
            print(f"{result['condition']}, seed {result['seed']}", flush=True)
    (given.out / "truth.json").write_text(json.dumps(results, indent=1))
    text = show(results)
    (given.out / "truth.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
