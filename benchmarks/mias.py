"""Mammograms of 124 patients, learned from scratch: m4oe beside a logistic regression on intensity histograms.

    python benchmarks/mias.py DATA -o OUT

DATA holds patients.csv and the pictures it names. m4oe takes the path of any user: a drafted study, five folds, a
config (mias.yaml beside this file), a run. The network that predicts the patients tested is fitted on training and
validation patients, and so is the regression; it is shown fitted on the training patients alone as well. Its penalty is
chosen by cross-validation among them. Both are told nothing of the patients tested.

The config was chosen on the splits of seeds 100 to 105, and on those of 100 to 102 the form of the histogram that
serves the regression best (of raw grey values, not of normalised ones); what is printed is seed 0 unless --seed says
otherwise. All figures are means over folds; the interval is of a bootstrap over patients, the same ones drawn for both.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from numpy import ndarray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from m4oe.artifact import load_artifact
from m4oe.config import load_config
from m4oe.data.draft import write_draft
from m4oe.data.readers import read_picture
from m4oe.data.table import Cohort
from m4oe.evaluate import evaluate, paired_difference, read_table
from m4oe.runs import run_cohorts, train_run
from m4oe.schema import Schema

CONFIG = Path(__file__).with_name("mias.yaml")
COMPARED = (
    ("density", "accuracy"),
    ("density", "quadratic_kappa"),
    ("density", "auroc"),
    ("abnormal", "auroc"),
    ("malignant", "auroc"),
    ("severity", "auroc"),
)
FITTED_ON = {
    "training patients": ("train",),
    "training and validation patients, as the network is in the end": ("train", "validation"),
}
BINS = 16
PENALTIES = np.logspace(-4, 1, 6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    args = parser.parse_args()
    started = time.monotonic()
    study = write_study(args.data / "patients.csv", args.out / "study.yaml", args.seed)
    run = args.out / "run"
    train_run([study], load_config(args.config), run, torch.device("cpu"), tell=print)
    minutes = (time.monotonic() - started) / 60
    ours = read_table(run / "predictions.csv")
    schema, splits, cohort = load_artifact(run / "fold_0").schema, read_table(run / "splits.csv"), run_cohorts(run)[0]
    for title, parts in FITTED_ON.items():
        print(f"Regression fitted on {title}:\n")
        print("\n".join([*compared(ours, regressed(ours, splits, cohort, parts), schema), ""]))
    print(f"Split seed {args.seed}; m4oe took {minutes:.1f} minutes.")


def write_study(table: Path, out: Path, seed: int) -> Path:
    """What `m4oe init` drafts for `table`, with five folds; kept where it is there already.

    The pictures are scans of film by one digitiser: a grey value is an optical density, the same in all of them. Read
    as photographs they keep it, where each mammogram would be stretched to its own darkest and brightest.
    """
    if not out.exists():
        write_draft(table, out)
    content = yaml.safe_load(out.read_text(encoding="utf-8"))
    inputs = {name: facts | {"kind": "photo"} for name, facts in content["inputs"].items()}
    content |= {"inputs": inputs, "split": {"seed": seed, "folds": 5}}
    out.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return out


def histograms(cohort: Cohort) -> ndarray:
    """(N, inputs x BINS): how the grey values of each picture are distributed."""
    return np.stack(
        [np.concatenate([_histogram(cohort, name, exam) for name in cohort.paths]) for exam in range(len(cohort.exams))]
    )


def _histogram(cohort: Cohort, name: str, exam: int) -> ndarray:
    picture = read_picture(cohort.paths[name][exam], "mammogram")
    return np.histogram(picture.values, BINS, (0, picture.full_scale or 255))[0] / picture.values.size


def regressed(ours: pd.DataFrame, splits: pd.DataFrame, cohort: Cohort, parts: Sequence[str]) -> pd.DataFrame:
    """`ours` with probabilities of a regression, fitted on the splits `parts`, in place of the network's."""
    theirs, features = ours.copy(), histograms(cohort)
    place = {exam: number for number, exam in enumerate(cohort.exams)}
    for (fold, task), rows in ours.groupby(["fold", "task"]):
        known = splits[(splits["fold"] == fold) & splits["split"].isin(parts)]["exam"].map(place).to_numpy()
        labels = cohort.labels[task]
        known = known[~np.isnan(labels[known])]
        probability = _fitted(features[known], labels[known]).predict_proba(features)
        names = cohort.study.tasks[task].classes or ("0", "1")
        column = rows["class"].map({str(name): number for number, name in enumerate(names)})
        theirs.loc[rows.index, "probability"] = probability[rows["exam"].map(place), column].astype(str)
    return theirs


def _fitted(features: ndarray, labels: ndarray) -> GridSearchCV:
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    grid = {"logisticregression__C": PENALTIES}
    return GridSearchCV(model, grid, cv=5, scoring="neg_log_loss").fit(features, labels.astype(int))


def compared(ours: pd.DataFrame, theirs: pd.DataFrame, schema: Schema) -> Iterator[str]:
    """Lines of a Markdown table."""
    called = most_probable(theirs)
    own_means, means, called_means = (fold_means(table, schema) for table in (ours, theirs, called))
    yield "| task | metric | m4oe | regression | difference (95 % interval) | majority class |"
    yield "|---|---|---|---|---|---|"
    for task, metric in COMPARED:
        rival, rivals = (theirs, means) if metric == "auroc" else (called, called_means)
        own, other = own_means[task, metric], rivals[task, metric]
        gap = paired_difference(metric, ours, rival, schema, task, by_fold=True)
        interval = f"{gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})"
        yield f"| {task} | {metric} | {own:.3f} | {other:.3f} | {interval} | {by_guess(ours, task, metric):.2f} |"


def most_probable(table: pd.DataFrame) -> pd.DataFrame:
    """`table` with all probability on each exam's most probable class, which is then what is called.

    A grade is called by its median class. The regression knows no order, its median is .08 worse than its most
    probable class, and it is to be met at its best.
    """
    probability = table["probability"].astype(float)
    exams = probability.groupby([table[key] for key in ("fold", "exam", "task")])
    called = (probability == exams.transform("max")).astype(float)
    return table.assign(probability=called.where(exams.transform("size") > 1, probability).astype(str))


def fold_means(table: pd.DataFrame, schema: Schema) -> dict[tuple[str, str], float]:
    """{(task, metric): mean over the folds on which it is defined}."""
    found: dict[tuple[str, str], list[float]] = {}
    for _, rows in table.groupby("fold"):
        for task, metrics in evaluate(rows, None, schema, resamples=1, stratum_resamples=1)["test"].items():
            for metric, estimate in metrics.items():
                found.setdefault((task, metric), []).append(estimate["value"])
    return {key: float(np.mean(values)) for key, values in found.items()}


def by_guess(table: pd.DataFrame, task: str, metric: str) -> float:
    """What the most frequent class reaches."""
    if metric != "accuracy":
        return 0.5 if metric == "auroc" else 0.0
    rows = table[(table["task"] == task) & (table["target"] != "")]
    return float(rows.assign(target=rows["target"].astype(float)).groupby("class")["target"].mean().max())


if __name__ == "__main__":
    main()
