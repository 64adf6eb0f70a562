"""How labels and predictions stand in predictions.csv: one row for each name in column `class`, by kind of task.

Shapes: P exams, C rows of an exam. A missing label is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from m4oe.schema import TaskSpec


@dataclass(frozen=True)
class RowForm:
    """The rows of an exam, and the way there and back.

    classes: (task) -> names of the rows that hold a probability · facts: names of the rows after them, target only
    to_targets: (task, target (P, ...), NaN where missing) -> (P, C) · to_probabilities: (task, (P, classes)) -> (P, C)
    from_rows: (targets (P, C), probabilities (P, classes)) -> target and probability as Kind.sample has them.
    """

    classes: Callable[[TaskSpec], tuple[str, ...]]
    to_targets: Callable[[TaskSpec, ndarray], ndarray]
    to_probabilities: Callable[[TaskSpec, ndarray], ndarray]
    from_rows: Callable[[ndarray, ndarray], tuple[ndarray, ndarray]]
    facts: tuple[str, ...] = ()

    def names(self, task: TaskSpec) -> tuple[str, ...]:
        """Column `class` of an exam's rows, in order."""
        return (*self.classes(task), *self.facts)


def _one_hot(task: TaskSpec, target: ndarray) -> ndarray:
    known = np.where(np.isnan(target), 0, target).astype(int)
    return np.where(np.isnan(target)[:, None], np.nan, np.eye(len(task.classes))[known])


def _from_one_hot(targets: ndarray, probabilities: ndarray) -> tuple[ndarray, ndarray]:
    return np.where(np.isnan(targets).any(1), np.nan, targets.argmax(1)), probabilities


def _status(task: TaskSpec, target: ndarray) -> ndarray:
    """(P, H + 2): whether the event came by each horizon, NaN if censored before it; then years and event."""
    time, event, horizons = target[:, :1], target[:, 1:] == 1, np.asarray(task.horizons)
    happened = event & (time <= horizons)
    known = happened | (time > horizons) | (~event & (time >= horizons))
    return np.concatenate([np.where(known & ~np.isnan(target[:, 1:]), happened, np.nan), target], 1)


def _risks(task: TaskSpec, probabilities: ndarray) -> ndarray:
    return np.concatenate([probabilities, np.full((len(probabilities), 2), np.nan)], 1)


POSITIVE = RowForm(
    classes=lambda task: task.classes[-1:],
    to_targets=lambda task, target: np.asarray(target, float)[:, None],
    to_probabilities=lambda task, probabilities: probabilities[:, 1:],
    from_rows=lambda targets, probabilities: (targets[:, 0], np.concatenate([1 - probabilities, probabilities], 1)),
)
ONE_HOT = RowForm(
    classes=lambda task: task.classes,
    to_targets=lambda task, target: _one_hot(task, np.asarray(target, float)),
    to_probabilities=lambda task, probabilities: probabilities,
    from_rows=_from_one_hot,
)
LABELS = RowForm(
    classes=lambda task: task.classes,
    to_targets=lambda task, target: np.asarray(target, float),
    to_probabilities=lambda task, probabilities: probabilities,
    from_rows=lambda targets, probabilities: (targets, probabilities),
)
RISKS = RowForm(
    classes=lambda task: task.classes,
    to_targets=lambda task, target: _status(task, np.asarray(target, float)),
    to_probabilities=_risks,
    from_rows=lambda targets, probabilities: (targets[:, -2:], probabilities),
    facts=("time", "event"),
)
