"""What the trainings of a variant left behind, brought into one form: tables of test predictions by seed, and costs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from m4oe.compare.trainings import Training, facts_of, places
from m4oe.compare.variants import Variant
from m4oe.compare.workers import COST
from m4oe.data.table import Cohort
from m4oe.evaluate import read_table
from m4oe.predict import CASE_COLUMNS, PREDICTION_COLUMNS
from m4oe.runs.tables import joined, write_csv
from m4oe.schema import Schema, TaskSpec
from m4oe.tasks import KINDS
from m4oe.tasks.rows import RowForm


@dataclass(frozen=True)
class Entry:
    """A row of the table. seeds: {seed: folder with its predictions.csv and cases.csv} · failed: why there are none ·
    cost: means over seeds · chosen: what validation has chosen, {task or "": {"input", "learning_rate"}} · models:
    folders that hold a model of each of its tasks."""

    name: str
    variant: Variant
    seeds: Mapping[int, Path] = field(default_factory=dict)
    failed: str = ""
    cost: Mapping[str, float | None] = field(default_factory=dict)
    chosen: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    models: Sequence[Path] = ()


def finished_entry(
    name: str,
    variant: Variant,
    trained: Sequence[Training],
    out: Path,
    cohorts: Sequence[Cohort],
    splits: pd.DataFrame,
) -> Entry:
    """The entry of a variant all of whose trainings are finished; of one that is trained apart, its tables are joined
    into one for each seed."""
    seeds = {}
    for seed in dict.fromkeys(training.seed for training in trained):
        parts = [training for training in trained if training.seed == seed]
        seeds[seed] = out / parts[0].place if not variant.apart else _joined(parts, out, cohorts, splits)
    first = [training for training in trained if training.seed == trained[0].seed]
    chosen = {training.task: {"input": training.input, "learning_rate": training.rate} for training in first}
    cost = total_cost([_costs(trained, seed, out) for seed in seeds])
    models = [places(out / training.place)[0] for training in first]
    return Entry(name, variant, seeds, cost=cost, chosen=chosen, models=models)


def _costs(trained: Iterable[Training], seed: int, out: Path) -> list[dict[str, float | None]]:
    places_ = [out / training.place / COST for training in trained if training.seed == seed]
    return [json.loads(path.read_text(encoding="utf-8")) for path in places_]


def total_cost(seeds: Sequence[Sequence[Mapping[str, float | None]]]) -> dict[str, float | None]:
    """Mean over seeds of the cost of all models of a seed: sums, and of memory and epochs the largest, since models
    are trained after one another."""
    names = dict.fromkeys(name for models in seeds for cost in models for name in cost)
    return {name: _mean([_together(name, [cost.get(name) for cost in models]) for models in seeds]) for name in names}


def _together(name: str, values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return None
    return max(known) if name in ("peak_memory", "epochs") else sum(known)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _joined(parts: Sequence[Training], out: Path, cohorts: Sequence[Cohort], splits: pd.DataFrame) -> Path:
    """The folder of a seed, with the test predictions of a model for each task; an exam that lacks the model's input
    gets the training prevalence."""
    folder = out / Path("runs", parts[0].variant, f"seed_{parts[0].seed}")
    predictions, cases = [], []
    for training in parts:
        run = out / training.place
        table = read_table(run / "predictions.csv")
        predictions += [table[table["split"] == "test"], *_by_prevalence(training.task, run, table, cohorts, splits)]
        if (run / "cases.csv").is_file():
            cases.append(read_table(run / "cases.csv"))
    write_csv(joined(predictions, list(PREDICTION_COLUMNS)), folder / "predictions.csv")
    if cases:
        write_csv(joined(cases, list(CASE_COLUMNS)), folder / "cases.csv")
    return folder


def _by_prevalence(
    name: str, run: Path, table: pd.DataFrame, cohorts: Sequence[Cohort], splits: pd.DataFrame
) -> Iterable[pd.DataFrame]:
    """Rows of the test exams that have a label of the task `name` and none in `table`."""
    known = set(zip(table["study"], table["exam"], table["fold"]))
    tests = splits[splits["split"] == "test"]
    for fold, folder in zip(sorted(splits["fold"].unique()), places(run)):
        task = Schema.model_validate(facts_of(folder)["schema"]).task(name)
        if KINDS[task.kind].rows is None:
            continue
        for cohort in (cohort for cohort in cohorts if name in cohort.labels):
            mine = tests[(tests["fold"] == fold) & (tests["study"] == cohort.study.name)]
            lacking = [exam for exam in mine["exam"] if (cohort.study.name, exam, str(fold)) not in known]
            yield _prior_rows(task, cohort, np.flatnonzero(np.isin(cohort.exams, lacking)), fold)


def _prior_rows(task: TaskSpec, cohort: Cohort, exams: np.ndarray, fold: int) -> pd.DataFrame:
    kind = KINDS[task.kind]
    form = cast(RowForm, kind.rows)
    prior = kind.probabilities(task, kind.prior_logits(task)[None]).double().numpy()
    probability = form.to_probabilities(task, np.repeat(prior, len(exams), 0))
    target = form.to_targets(task, np.asarray(cohort.labels[task.name][exams], float))
    names = form.names(task)
    about = {"study": cohort.study.name, "exam": cohort.exams[exams], "patient": cohort.patients[exams]}
    frame = pd.DataFrame({**about, "split": "test", "fold": fold, "inputs": "", "task": task.name})
    frame = frame.loc[frame.index.repeat(len(names))].reset_index(drop=True)
    frame = frame.assign(**{"class": names * len(exams)}, target=target.ravel(), probability=probability.ravel())
    return frame.astype(str).replace("nan", "")[list(PREDICTION_COLUMNS)]
