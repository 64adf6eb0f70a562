"""Cells to labels, one function for each kind of task. Axes: R rows · N exams · U distinct texts of a column."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from m4oe.data.columns import FALSE, TRUE, Cells, Table, number, spellings
from m4oe.data.exams import Exams
from m4oe.errors import UserError
from m4oe.study import Task

ONLY_EMPTY = "only an empty cell is a missing label"


def labels_of(task: Task, exams: Exams) -> np.ndarray:
    """float32 labels of the N exams, in the shapes of `Cohort.labels`; NaN where missing. Not for masks.

    Raises UserError for a missing column, a cell that is no label, and rows of an exam that disagree.
    """
    return READ[task.kind](task, exams)


def no_labels(task: Task, exams: int) -> np.ndarray:
    """Labels of so many exams, all of them missing."""
    if task.kind == "segmentation":
        return np.full(exams, None, object)
    width = {"survival": (2,), "multilabel": (len(task.columns),)}.get(task.kind, ())
    return np.full((exams, *width), np.nan, np.float32)


def _classes(task: Task, exams: Exams) -> np.ndarray:
    return _class_index(exams, str(task.column), class_texts(task))


def _labels(task: Task, exams: Exams) -> np.ndarray:
    return np.stack([_class_index(exams, column, _ZERO_ONE) for column in task.columns], axis=1)


_ZERO_ONE: Mapping[str, int] = {"0": 0, "1": 1, **dict.fromkeys(FALSE, 0), **dict.fromkeys(TRUE, 1)}


def class_texts(task: Task) -> Mapping[str, int]:
    """Every text that a cell of a binary, multiclass or ordinal `task` may have, with its class index."""
    if task.kind == "binary" and task.classes is None:
        return _ZERO_ONE
    return {text: index for index, value in enumerate(task.class_values) for text in spellings(value)}


def _class_index(exams: Exams, column: str, known: Mapping[str, int]) -> np.ndarray:
    cells = exams.table.cells(column)
    index = np.array([known.get(text, np.nan) for text in cells.texts], np.float32)
    _refuse(exams.table, column, cells, np.isnan(index), f"is none of its classes: {', '.join(_first_spelling(known))}")
    return _spread(index, cells, exams.agreed(column))


def _first_spelling(known: Mapping[str, int]) -> list[str]:
    return list({index: text for text, index in reversed(known.items())}.values())[::-1]


def _survival(task: Task, exams: Exams) -> np.ndarray:
    time, event = str(task.time), str(task.event)
    cells = exams.table.cells(time)
    years = np.array([number(text) for text in cells.texts], np.float32)
    _refuse(exams.table, time, cells, ~(years > 0), "is no time in years above 0")
    labels = np.stack([_spread(years, cells, exams.agreed(time)), _class_index(exams, event, _ZERO_ONE)], axis=1)
    half = np.flatnonzero(np.isnan(labels).sum(1) == 1)
    if len(half):
        empty = time if np.isnan(labels[half[0], 0]) else event
        raise UserError(
            f"{exams.table.at(exams.first[half[0]], empty)}: empty, but the other of {time!r} and {event!r} is not; "
            "an exam needs both, or neither where its follow-up is unknown"
        )
    return labels


def _refuse(table: Table, column: str, cells: Cells, bad: np.ndarray, why: str) -> None:
    wrong = np.flatnonzero((bad & (cells.texts != ""))[cells.codes])
    if len(wrong):
        raise UserError(f"{table.at(wrong[0], column)}: {cells[wrong[:1]][0]!r} {why}; {ONLY_EMPTY}")


def _spread(values: np.ndarray, cells: Cells, rows: np.ndarray) -> np.ndarray:
    """(N,) the value of each exam's row; NaN where the row is -1, that is, has no label."""
    return np.where(rows < 0, np.float32(np.nan), values[cells.codes[rows]])


READ: Mapping[str, Callable[[Task, Exams], np.ndarray]] = {
    "binary": _classes,
    "multiclass": _classes,
    "ordinal": _classes,
    "multilabel": _labels,
    "survival": _survival,
}
