"""Predictions against truth, as numbers that a figure can draw. numpy and pandas; one split at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy import ndarray

from m4oe.report.folder import KEY
from m4oe.schema import TaskSpec
from m4oe.tasks.classification_metrics import decided

EXCLUSIVE = ("binary", "multiclass", "ordinal")


@dataclass(frozen=True)
class Outcome:
    """What was predicted of a task and what was true.

    exams: frame of study, exam, patient, split, inputs, one row for each of N exams · probability (N, C) in the order
    of task.classes, of a binary task (N, 2) · target (N, C) of 0, 1 and NaN · time, event (N,), NaN where unknown.
    """

    task: TaskSpec
    exams: pd.DataFrame
    probability: ndarray
    target: ndarray
    time: ndarray
    event: ndarray

    def __len__(self) -> int:
        return len(self.exams)

    @property
    def labelled(self) -> ndarray:
        """(N,) whether the exam has a label (of a multilabel task, at least one)."""
        if self.task.kind == "survival":
            return ~np.isnan(self.time) & ~np.isnan(self.event)
        return ~np.isnan(self.target).all(1)

    @property
    def truth(self) -> ndarray:
        """(N,) true class of an exclusive kind, -1 where unknown."""
        return np.where(self.labelled, np.nan_to_num(self.target, nan=-1.0).argmax(1), -1)

    @property
    def decision(self) -> ndarray:
        """(N,) class that is called, of an exclusive kind."""
        return decided(self.task.kind, self.probability)

    def place(self, exam: tuple[str, str]) -> int | None:
        """Position of an exam, given by study and name."""
        found = np.flatnonzero((self.exams["study"] == exam[0]) & (self.exams["exam"] == exam[1]))
        return int(found[0]) if len(found) else None

    def of(self, rows: ndarray) -> Outcome:
        parts = (self.probability[rows], self.target[rows], self.time[rows], self.event[rows])
        return Outcome(self.task, self.exams[rows].reset_index(drop=True), *parts)


def outcome(predictions: pd.DataFrame, task: TaskSpec, split: str | None = None) -> Outcome:
    """The task's predictions in a split (None: in all); an exam predicted in several folds counts once in each."""
    rows = predictions[predictions["task"] == task.name]
    rows = rows if split is None else rows[rows["split"] == split]
    index = [*KEY, "patient", "split", "fold", "inputs"]
    rows = rows.drop_duplicates([*index, "class"]).set_index([*index, "class"])[["probability", "target"]]
    wide = rows.unstack("class")
    wide = wide[wide["probability"].notna().any(axis=1)]
    columns = task.classes[1:] if task.kind == "binary" else task.classes
    probability, target = (_columns(wide, name, columns) for name in ("probability", "target"))
    if task.kind == "binary":
        probability, target = (np.concatenate([1 - part, part], 1) for part in (probability, target))
    time, event = _columns(wide, "target", ("time", "event")).T
    return Outcome(task, wide.index.to_frame(index=False), probability, target, time, event)


def _columns(wide: pd.DataFrame, name: str, classes: tuple[str, ...]) -> ndarray:
    return wide[name].reindex(columns=list(classes)).to_numpy(float)


def contests(outcome: Outcome) -> dict[str, tuple[ndarray, ndarray]]:
    """{name: (truth of 0 and 1, score)}: the two-class questions behind AUROC.

    Binary: the positive class · multiclass: each class against the rest · multilabel: each label · ordinal: above
    each threshold.
    """
    task, known = outcome.task, outcome.of(outcome.labelled)
    if task.kind == "binary":
        return {task.classes[1]: (known.target[:, 1], known.probability[:, 1])}
    if task.kind == "ordinal":
        above = known.probability[:, ::-1].cumsum(1)[:, ::-1]
        return {f"above {name}": (known.truth > k, above[:, k + 1]) for k, name in enumerate(task.classes[:-1])}
    pairs = {}
    for c, name in enumerate(task.classes):
        rows = ~np.isnan(known.target[:, c])
        pairs[name] = (known.target[rows, c], known.probability[rows, c])
    return pairs


def roc(truth: ndarray, score: ndarray) -> tuple[ndarray, ndarray] | None:
    """False and true positive rates; None with one class only."""
    from sklearn.metrics import roc_curve

    return roc_curve(truth, score)[:2] if len(np.unique(truth)) == 2 else None


def precision_recall(truth: ndarray, score: ndarray) -> tuple[ndarray, ndarray] | None:
    """Recall and precision; None with one class only."""
    from sklearn.metrics import precision_recall_curve

    if len(np.unique(truth)) < 2:
        return None
    precision, recall, _ = precision_recall_curve(truth, score)
    return recall[::-1], precision[::-1]


def confusion(outcome: Outcome) -> ndarray:
    """(C, C) exams of each true class (rows) that were called each class (columns)."""
    known, classes = outcome.of(outcome.labelled), len(outcome.task.classes)
    return np.bincount(known.truth * classes + known.decision, minlength=classes**2).reshape(classes, classes)


def sure_and_right(outcome: Outcome) -> tuple[ndarray, ndarray]:
    """What is asked of calibration: stated probability, and whether it came true (0 or 1).

    Binary: of the positive class · multilabel: of each label, pooled · multiclass, ordinal: of the class decided for.
    """
    known = outcome.of(outcome.labelled)
    if outcome.task.kind == "binary":
        return known.probability[:, 1], known.target[:, 1]
    if outcome.task.kind == "multilabel":
        rows = ~np.isnan(known.target)
        return known.probability[rows], known.target[rows]
    stated = known.probability[np.arange(len(known)), known.decision]
    return stated, (known.decision == known.truth).astype(float)


def kaplan_meier(time: ndarray, event: ndarray) -> tuple[ndarray, ndarray]:
    """Times from 0, and the cumulative incidence 1 - S(t) at each, censoring allowed for."""
    times, place = np.unique(time, return_inverse=True)
    leaving, events = np.bincount(place, minlength=len(times)), np.bincount(place, event == 1, len(times))
    at_risk = leaving[::-1].cumsum()[::-1]
    return np.concatenate([[0.0], times]), np.concatenate([[0.0], 1 - np.cumprod(1 - events / at_risk)])


def thirds(risk: ndarray) -> list[ndarray]:
    """Positions of the lowest, middle and highest third by risk."""
    return [np.sort(part) for part in np.array_split(np.argsort(risk, kind="stable"), 3)]
