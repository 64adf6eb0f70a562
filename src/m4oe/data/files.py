"""Which files a column names, and which of them exist, without opening one. Axes: N exams."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from m4oe.data.exams import Exams
from m4oe.errors import UserError
from m4oe.study import Cell, Study


@dataclass(frozen=True)
class Files:
    """What one column names: `rows` (N,) of the table, -1 where nothing, and `paths` (N,) object, absolute or None."""

    column: str
    rows: np.ndarray
    paths: np.ndarray

    @property
    def present(self) -> np.ndarray:
        return np.not_equal(self.paths, None).astype(bool)


@dataclass(frozen=True)
class Folders:
    """What lies in folders, each of which is listed once: half a million questions one by one take minutes."""

    names: dict[str, frozenset[str]] = field(default_factory=dict)

    def lost(self, paths: Iterable[str]) -> set[str]:
        """Those of the absolute `paths` that lead nowhere."""
        return {path for path in paths if not self._listed(path) and not Path(path).exists()}

    def _listed(self, path: str) -> bool:
        folder, _, name = path.rpartition(os.sep)
        if folder not in self.names:
            self.names[folder] = _listing(folder or os.sep)
        return name in self.names[folder]


def _listing(folder: str) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries)
    except OSError:
        return frozenset()


def find(study: Study, exams: Exams, column: str, where: Mapping[str, Cell], folders: Folders) -> Files:
    """The files that `column` names, in the rows that match `where`.

    Raises UserError for a file that does not exist, unless the study takes such files as absent.
    """
    rows = exams.single(column, where)
    cells = exams.table.cells(column, plain=False)
    start = os.path.abspath(study.root_folder)  # noqa: PTH100  (resolving links would change what the user wrote)
    places = [os.path.join(start, text) for text in cells.texts]  # noqa: PTH118  (a Path is ten times slower)
    paths = np.array([*places, None], object)[np.where(rows < 0, len(places), cells.codes[rows])]
    lost = folders.lost({path for path in paths if path is not None})
    if lost and study.missing_files == "error":
        _refuse(exams, column, rows, paths, lost)
    if lost:
        paths[[path in lost for path in paths]] = None
    return Files(column, rows, paths)


def _refuse(exams: Exams, column: str, rows: np.ndarray, paths: np.ndarray, lost: set[str]) -> None:
    first = next(exam for exam, path in enumerate(paths) if path in lost)
    raise UserError(
        f"{exams.table.at(rows[first], column)}: no file {paths[first]} ({len(lost)} of {len(set(paths) - {None})} are "
        "missing); correct the cell or 'root', or write 'missing_files: absent' to take such pictures as missing"
    )
