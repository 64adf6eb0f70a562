"""Tables of predictions and of cases, checked, as labelled exams that can be scored.

Axes: P labelled exams of a task · C rows of an exam in the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd
from numpy import ndarray
from pandas import DataFrame

from m4oe.errors import UserError, unknown
from m4oe.schema import Schema, TaskSpec
from m4oe.tasks import KINDS
from m4oe.tasks.metrics import Sample
from m4oe.tasks.rows import RowForm
from m4oe.tasks.segmentation_metrics import OUTCOMES, SCORES, cases_sample, structures

ABOUT = ["study", "exam", "patient", "split", "fold"]
PREDICTION_COLUMNS = (*ABOUT, "inputs", "task", "class", "target", "probability")
CASE_COLUMNS = (*ABOUT, "task", "class", *SCORES, "outcome")


@dataclass(frozen=True)
class Exams:
    """P labelled exams of a task. about: frame (P rows) of study, exam, patient, split, fold, inputs, all text."""

    task: TaskSpec
    about: DataFrame
    sample: Sample

    def __len__(self) -> int:
        return len(self.about)

    def take(self, rows: ndarray) -> Exams:
        return Exams(self.task, self.about.iloc[rows].reset_index(drop=True), self.sample.take(rows))

    def classes(self) -> Iterator[tuple[str, Exams]]:
        """(class, its exams, scored as one class against the rest)."""
        for name, (rows, sample) in KINDS[self.task.kind].classes(self.task, self.sample).items():
            yield name, Exams(self.task, self.about.iloc[rows].reset_index(drop=True), sample)

    @property
    def patients(self) -> ndarray:
        """(P,) patients, namespaced by study."""
        return (self.about["study"] + "/" + self.about["patient"]).to_numpy(dtype=object)


def read_exams(
    predictions: DataFrame, cases: DataFrame | None, schema: Schema, training: DataFrame | None = None
) -> Iterator[Exams]:
    """The labelled exams of every task of the schema, sorted by study, exam and fold: row order does not matter.

    training: task, time, event of the training split; default: what `predictions` holds of it. Tasks without
    rows are left out. Raises UserError for a table that is not one of the two of docs/architecture.md.
    """
    predictions = _checked(predictions, "predictions", PREDICTION_COLUMNS, schema)
    for task in schema.tasks:
        rows = predictions[predictions["task"] == task.name]
        if task.kind != "segmentation" and len(rows):
            yield _predicted(task, rows, training)
    if cases is not None:
        yield from read_cases(cases, schema, predictions)


def read_cases(cases: DataFrame, schema: Schema, predictions: DataFrame | None = None) -> Iterator[Exams]:
    """The scored exams of every segmentation task; `predictions` says which inputs an exam had."""
    cases = _checked(cases, "cases", CASE_COLUMNS, schema)
    inputs = (
        pd.Series(dtype=object) if predictions is None else predictions.groupby(["study", "exam"])["inputs"].first()
    )
    for task in schema.tasks:
        rows = cases[cases["task"] == task.name]
        if task.kind == "segmentation" and len(rows):
            exams = _segmented(task, rows)
            known = pd.MultiIndex.from_frame(exams.about[["study", "exam"]])
            present = inputs.reindex(known).fillna("").to_numpy() if len(inputs) else ""
            yield Exams(task, exams.about.assign(inputs=present), exams.sample)


def _checked(table: DataFrame, what: str, columns: Sequence[str], schema: Schema) -> DataFrame:
    """The columns of the table, those that are no numbers as text; a missing cell is empty text."""
    if missing := [column for column in columns if column not in table]:
        raise UserError(f"the {what} have no column {missing[0]!r}; needed: {', '.join(columns)}")
    text = table[list(columns)].astype("string").fillna("")
    names = [task.name for task in schema.tasks]
    if strange := sorted(set(text["task"]) - set(names)):
        raise unknown(f"task in the {what}", strange[0], names)
    return text.astype(object)


def _predicted(task: TaskSpec, rows: DataFrame, training: DataFrame | None) -> Exams:
    kind = KINDS[task.kind]
    form = cast(RowForm, kind.rows)
    about, place = _places(rows, form.names(task), task.name)
    targets, probabilities = (_numbers(rows, name, task.name)[place] for name in ("target", "probability"))
    probabilities = probabilities[:, : len(form.classes(task))]
    _check_range(task, targets[:, : probabilities.shape[1]], probabilities)
    target, probability = form.from_rows(targets, probabilities)
    earlier = target[about["split"] == "train"] if training is None else _training_labels(task, training)
    known = np.flatnonzero(_labelled(target))
    sample = kind.sample(task, target[known], probability[known], earlier[_labelled(earlier)])
    return Exams(task, about.iloc[known].reset_index(drop=True), sample)


def _labelled(target: ndarray) -> ndarray:
    """(P,) whether any label is there: target (P,) or (P, labels), NaN where missing."""
    return ~np.isnan(target).all(axis=tuple(range(1, target.ndim)))


def _check_range(task: TaskSpec, targets: ndarray, probabilities: ndarray) -> None:
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise UserError(f"the predictions of task {task.name!r} hold a probability that is missing or not in 0 ... 1")
    if not np.isin(targets[~np.isnan(targets)], (0, 1)).all():
        raise UserError(f"the predictions of task {task.name!r} hold a target that is neither 0, 1 nor empty")


def _segmented(task: TaskSpec, rows: DataFrame) -> Exams:
    about, place = _places(rows, tuple(structures(task)), task.name)
    if strange := sorted(set(rows["outcome"]) - set(OUTCOMES)):
        raise unknown(f"outcome of task {task.name!r}", strange[0], OUTCOMES)
    scores = [_numbers(rows, name, task.name)[place] for name in SCORES]
    return Exams(task, about, cases_sample(*scores, rows["outcome"].to_numpy()[place]))


def _training_labels(task: TaskSpec, training: DataFrame) -> ndarray:
    """(n, 2) years and event of the training split; none for a task that is not of survival."""
    if missing := [column for column in ("task", "time", "event") if column not in training]:
        raise UserError(f"the training labels have no column {missing[0]!r}; needed: task, time, event")
    return training.loc[training["task"] == task.name, ["time", "event"]].to_numpy(dtype=float)


def _places(rows: DataFrame, names: tuple[str, ...], task: str) -> tuple[DataFrame, ndarray]:
    """The exams (P rows), sorted, and for each of P x C places, in order, the row of the table that belongs there."""
    if strange := sorted(set(rows["class"]) - set(names)):
        raise unknown(f"class of task {task!r}", strange[0], names)
    exam = rows.groupby(["study", "exam", "fold", "split"]).ngroup().to_numpy()
    place = exam * len(names) + rows["class"].map({name: k for k, name in enumerate(names)}).to_numpy(dtype=int)
    counts = np.bincount(place, minlength=(exam.max() + 1) * len(names))
    if len(wrong := np.flatnonzero(counts != 1)):
        row, name = rows.iloc[np.flatnonzero(exam == wrong[0] // len(names))[0]], names[wrong[0] % len(names)]
        where = f"task {task!r}, study {row['study']!r}, exam {row['exam']!r}, fold {row['fold']!r}"
        raise UserError(f"{where}: {counts[wrong[0]]} rows for class {name!r}, where one is needed")
    order = np.argsort(place)
    columns = [column for column in (*ABOUT, "inputs") if column in rows]
    return rows.iloc[order[:: len(names)]][columns].reset_index(drop=True), order.reshape(-1, len(names))


def _numbers(rows: DataFrame, column: str, task: str) -> ndarray:
    numbers = pd.to_numeric(rows[column], errors="coerce").to_numpy(dtype=float)
    wrong = np.flatnonzero(np.isnan(numbers) & (rows[column] != "").to_numpy())
    if len(wrong):
        row = rows.iloc[wrong[0]]
        raise UserError(f"task {task!r}, exam {row['exam']!r}, column {column!r}: {row[column]!r} is no number")
    return numbers
