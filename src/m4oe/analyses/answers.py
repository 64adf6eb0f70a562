"""Labels as questions with discrete answers, whatever the kind of task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy import ndarray

from m4oe.data.dataset import Sample
from m4oe.schema import TaskSpec

MISSING = -1


def answers(task: TaskSpec, samples: Sequence[Sample]) -> dict[str, ndarray]:
    """{question: (P,) int answers, -1 where missing}.

    One question named "" for classes and grades; one for each label of a multilabel task; of a survival task whether
    the event comes by the last horizon, missing where censored before it.
    """
    labels = [sample.targets.get(task.name) for sample in samples]
    if task.kind == "multilabel":
        width = len(task.classes)
        table = np.array([np.full(width, np.nan) if label is None else label.cpu().numpy() for label in labels])
        return {name: _whole(table[:, number]) for number, name in enumerate(task.classes)}
    if task.kind == "survival":
        table = np.array([np.full(2, np.nan) if label is None else label.cpu().numpy() for label in labels])
        return {f"by {task.classes[-1]}": _whole(_event_by(table, task.horizons[-1]))}
    return {"": np.array([MISSING if label is None else int(label) for label in labels])}


def _event_by(table: ndarray, horizon: float) -> ndarray:
    """(P,) 1, 0, or NaN, of (P, 2) years and event."""
    years, event = table[:, 0], table[:, 1] == 1
    happened = event & (years <= horizon)
    return np.where(happened | (years >= horizon), happened, np.nan).astype(float)


def _whole(values: ndarray) -> ndarray:
    return np.where(np.isnan(values), MISSING, np.nan_to_num(values)).astype(int)
