"""A cohort: a study with its table read and validated, and no picture opened.

Axes: N exams · V plain variables of an input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from m4oe.data.columns import read_table
from m4oe.data.exams import Exams, join
from m4oe.data.files import Files, Folders, find
from m4oe.data.labels import labels_of, no_labels
from m4oe.errors import UserError
from m4oe.study import Input, ModalityColumn, Split, Study, Task, is_plain_name

SIDES = {"l": "left", "left": "left", "r": "right", "right": "right"}


@dataclass(frozen=True)
class Cohort:
    """A study and what its table says of N exams.

    exams, patients (N,) object, text · rows (N,) int, line of each exam's first row, the header being line 1 ·
    paths {picture input: (N,) object}, a tuple of absolute paths, one for each channel, or None ·
    modalities {input: (N,) object}, None where the input is absent · variables {table input: (N, V) text}, empty
    where missing · labels {task: (N, ...)}: float32, NaN missing: class index (N,), multilabel (N, labels), survival
    (N, 2) years and event; segmentation (N,) object, path of the mask or None · groups {column: (N,) text} ·
    declared_split (N,) text, or None · sides {input: (N,) object}, "left", "right" or None, of inputs with
    `laterality` · without_inputs: exams that were left out because they have no input at all · lost: (line, column,
    path) of files that do not exist, where the study takes such pictures as absent.
    """

    study: Study
    exams: np.ndarray
    patients: np.ndarray
    rows: np.ndarray
    paths: Mapping[str, np.ndarray]
    modalities: Mapping[str, np.ndarray]
    variables: Mapping[str, pd.DataFrame]
    labels: Mapping[str, np.ndarray]
    groups: Mapping[str, np.ndarray]
    declared_split: np.ndarray | None = None
    sides: Mapping[str, np.ndarray] = field(default_factory=dict)
    without_inputs: tuple[str, ...] = ()
    lost: tuple[tuple[int, str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.exams)

    def present(self, name: str) -> np.ndarray:
        """(N,) bool: the exam has the input `name`."""
        return np.not_equal(self.modalities[name], None).astype(bool)

    def take(self, index: np.ndarray) -> Cohort:
        """The exams at the positions `index`, in that order."""
        by_exam = [f.name for f in fields(self) if f.name not in ("study", "without_inputs", "lost")]
        return replace(self, **{name: _take(getattr(self, name), index) for name in by_exam})

    def at(self, exam: int, column: str) -> str:
        """Where a cell of the exam at position `exam` is, for messages."""
        return f"{self.study.table_path}, row {self.rows[exam]}, column {column!r}"


def _take(values: Any, index: np.ndarray) -> Any:
    if isinstance(values, Mapping):
        return {key: _take(value, index) for key, value in values.items()}
    if isinstance(values, pd.DataFrame):
        return values.iloc[index].reset_index(drop=True)
    return None if values is None else values[index]


def load_cohort(study: Study, *, need_labels: bool = True) -> Cohort:
    """The cohort of `study`. With need_labels=False its table may lack what prediction does without: labels,
    patients (every exam is its own, then), groups and the split.

    Raises UserError for all that is wrong with the table or missing beside it: file, row, column and fix.
    """
    table = read_table(study.table_path, columns_of(study))
    exams, folders = join(study, table), Folders()
    asked = study if need_labels else _asked_of(study, set(table.columns))
    files = {name: _channels(study, source, exams, folders) for name, source in _pictures(study).items()}
    variables = {name: _variables(source, exams) for name, source in study.inputs.items() if name not in files}
    modalities = {name: _modality(source, exams, files, variables, name) for name, source in study.inputs.items()}
    masks = {name: _masks(study, task, exams, folders) for name, task in asked.tasks.items() if task.on is not None}
    cohort = Cohort(
        study=study,
        exams=exams.names,
        patients=_patients(asked, exams),
        rows=table.lines[exams.first],
        paths={name: _stacked(channels) for name, channels in files.items()},
        modalities=modalities,
        variables=variables,
        labels={name: _labels(task, name, asked, exams, masks, modalities) for name, task in study.tasks.items()},
        groups={column: exams.text(column) for column in asked.groups},
        declared_split=exams.text(asked.split.column) if asked.split.column else None,
        sides={name: _sides(source, exams, files[name][0]) for name, source in _pictures(study).items()},
        lost=_lost([*chain.from_iterable(files.values()), *masks.values()]),
    )
    return _with_inputs(cohort)


def _pictures(study: Study) -> dict[str, Input]:
    return {name: source for name, source in study.inputs.items() if source.kind != "table"}


def _lost(files: Sequence[Files]) -> tuple[tuple[int, str, str], ...]:
    return tuple((line, column.column, path) for column in files for line, path in column.lost)


def _asked_of(study: Study, columns: set[str]) -> Study:
    """`study`, asking only for those of its patients, groups, split and tasks for which the table has the columns."""
    return study.model_copy(
        update={
            "patient": study.patient if study.patient in columns else None,
            "groups": [column for column in study.groups if column in columns],
            "split": study.split if study.split.column in columns else Split(seed=study.split.seed),
            "tasks": {name: task for name, task in study.tasks.items() if task_columns(task) <= columns},
        }
    )


def _channels(study: Study, source: Input, exams: Exams, folders: Folders) -> list[Files]:
    """Files of each channel of a picture input. Raises UserError where an exam has some channels and lacks others."""
    channels = [find(study, exams, column, source.where, folders) for column in source.paths]
    for channel in channels[1:]:
        uneven = np.flatnonzero(channel.present != channels[0].present)
        if len(uneven):
            there, lacks = sorted((channels[0], channel), key=lambda files: files.paths[uneven[0]] is None)
            raise UserError(
                f"{exams.table.at(there.rows[uneven[0]], lacks.column)}: no picture, but column {there.column!r} has "
                "one; stacked channels must all be there, or none"
            )
    return channels


def _stacked(channels: Sequence[Files]) -> np.ndarray:
    stacked, present = np.full(len(channels[0].paths), None, object), channels[0].present
    stacked[present] = np.fromiter(zip(*(files.paths[present] for files in channels)), object, present.sum())
    return stacked


def _modality(
    source: Input, exams: Exams, files: Mapping[str, list[Files]], variables: Mapping[str, pd.DataFrame], name: str
) -> np.ndarray:
    """(N,) modality of each exam's input, None where it is absent."""
    if name in variables:
        return np.where((variables[name] != "").to_numpy(bool).any(axis=1), source.modality, None)
    return _picture_modality(source, exams, files[name][0])


def _picture_modality(source: Input, exams: Exams, files: Files) -> np.ndarray:
    if isinstance(source.modality, str):
        return np.where(files.present, source.modality, None)
    column = source.modality.column
    names = exams.table.cells(column)[files.rows]
    for exam in np.flatnonzero(files.present & ~_plain(names)):
        raise UserError(
            f"{exams.table.at(files.rows[exam], column)}: {names[exam]!r} names no modality; write the modality of "
            f"the picture in {files.column!r}, without '@', '/', '.', ',', ':' or space"
        )
    return np.where(files.present, names, None)


def _plain(names: np.ndarray) -> np.ndarray:
    known = {name: is_plain_name(name) for name in set(names)}
    return np.array([known[name] for name in names], bool)


def _variables(source: Input, exams: Exams) -> pd.DataFrame:
    rows = {column: exams.single(column, source.where) for column in source.columns}
    return pd.DataFrame({column: exams.table.cells(column)[chosen] for column, chosen in rows.items()})


def _sides(source: Input, exams: Exams, files: Files) -> np.ndarray:
    """(N,) which side a picture shows, by the column `laterality`, or by that word itself if it is left or right."""
    column = source.laterality
    if column is None:
        return np.full(len(files.rows), None, object)
    if column not in exams.table.columns and column.lower() in SIDES:
        return np.where(files.present, SIDES[column.lower()], None)
    texts = exams.table.cells(column)[files.rows]
    sides = np.array([SIDES.get(text.lower()) for text in texts], object)
    for exam in np.flatnonzero((texts != "") & np.equal(sides, None).astype(bool)):
        raise UserError(f"{exams.table.at(files.rows[exam], column)}: {texts[exam]!r} is no side; write left or right")
    return np.where(files.present, sides, None)


def _patients(study: Study, exams: Exams) -> np.ndarray:
    if study.patient is None:
        return exams.names
    patients = exams.text(study.patient)
    for exam in np.flatnonzero(patients == ""):
        raise UserError(f"{exams.table.at(exams.first[exam], study.patient)}: empty; every exam needs its patient")
    return patients


def _masks(study: Study, task: Task, exams: Exams, folders: Folders) -> Files:
    """The mask of each exam, in the row of the picture on which it lies."""
    return find(study, exams, str(task.column), study.inputs[str(task.on)].where, folders)


def _labels(
    task: Task, name: str, asked: Study, exams: Exams, masks: Mapping[str, Files], modalities: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Labels of the task `name`; a mask without its picture is none, and a task that is not asked for has none."""
    if name not in asked.tasks:
        return no_labels(task, len(exams.names))
    if name in masks:
        return np.where(np.equal(modalities[str(task.on)], None), None, masks[name].paths)
    return labels_of(task, exams)


def _with_inputs(cohort: Cohort) -> Cohort:
    """The cohort without exams that have no input at all; UserError where no exam is left."""
    has = np.logical_or.reduce([cohort.present(name) for name in cohort.study.inputs])
    if not has.any():
        raise UserError(
            f"{cohort.study.table_path}: no exam has any of the inputs {', '.join(cohort.study.inputs)}; "
            "compare their 'column' and 'where' with the table, and 'root' with where the files are"
        )
    if has.all():
        return cohort
    return replace(cohort.take(np.flatnonzero(has)), without_inputs=tuple(cohort.exams[~has]))


def columns_of(study: Study) -> set[str]:
    """Names of all columns that `study` mentions."""
    named: set[str | None] = {study.exam, study.patient, study.split.column, *study.groups}
    for source in study.inputs.values():
        modality = source.modality.column if isinstance(source.modality, ModalityColumn) else None
        named |= {*source.paths, *source.columns, *source.where, modality, source.laterality}
    for task in study.tasks.values():
        named |= task_columns(task)
    return {name for name in named if name is not None}


def task_columns(task: Task) -> set[str]:
    return {column for column in (task.column, task.time, task.event, *task.columns) if column is not None}
