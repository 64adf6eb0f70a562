"""Which files a column names, and which of them exist, without opening one. Axes: N exams."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from m4oe.data.exams import Exams
from m4oe.errors import UserError
from m4oe.study import Cell, Study


@dataclass(frozen=True)
class Files:
    """What one column names: `rows` (N,) of the table, -1 where nothing, and `paths` (N,) object, absolute or None.

    `lost` are paths that lead nowhere, with the table's line that names them; they are None among `paths`.
    """

    column: str
    rows: np.ndarray
    paths: np.ndarray
    lost: tuple[tuple[int, str], ...] = ()

    @property
    def present(self) -> np.ndarray:
        return np.not_equal(self.paths, None).astype(bool)


@dataclass(frozen=True)
class Folders:
    """What lies in folders, each of which is listed once: half a million questions one by one take minutes."""

    names: dict[str, frozenset[str]] = field(default_factory=dict)

    def lost(self, paths: Iterable[str]) -> set[str]:
        """Those of the absolute `paths` that lead nowhere; what no listing has (as "..") is asked for by itself."""
        by_folder: dict[str, list[str]] = {}
        for path in paths:
            by_folder.setdefault(path[: path.rfind(os.sep)], []).append(path)
        return {path for folder, members in by_folder.items() for path in self._lost(folder, members)}

    def _lost(self, folder: str, paths: Iterable[str]) -> Iterator[str]:
        if folder not in self.names:
            self.names[folder] = _listing(folder or os.sep)
        names, start = self.names[folder], len(folder) + 1
        return (path for path in paths if path[start:] not in names and not Path(path).exists())


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
    used = np.unique(cells.codes[rows[rows >= 0]])
    places = np.full(len(cells.texts) + 1, None, object)
    places[used] = _absolute(study.root_folder, cells.texts[used])
    lost = folders.lost(places[used])
    paths = places[np.where(rows < 0, -1, cells.codes[rows])]
    if lost and study.missing_files == "error":
        _refuse(exams, column, rows, paths, lost, len(used))
    gone = np.flatnonzero([path in lost for path in paths]) if lost else np.empty(0, int)
    named = tuple((int(exams.table.lines[rows[exam]]), paths[exam]) for exam in gone)
    paths[gone] = None
    return Files(column, rows, paths, named)


def _absolute(root: Path, texts: Iterable[str]) -> list[str]:
    """`texts` from `root` on, unless they are absolute. Text, since half a million Paths take seconds."""
    start = f"{root.absolute()}{os.sep}"
    return [text if text[0] in "/\\" or text[1:2] == ":" else start + text for text in texts]


def _refuse(exams: Exams, column: str, rows: np.ndarray, paths: np.ndarray, lost: set[str], all_files: int) -> None:
    first = next(exam for exam, path in enumerate(paths) if path in lost)
    raise UserError(
        f"{exams.table.at(rows[first], column)}: no file {paths[first]} ({len(lost)} of {all_files} are "
        "missing); correct the cell or 'root', or write 'missing_files: absent' to take such pictures as missing"
    )
