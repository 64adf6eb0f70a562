"""The rows of a table joined to exams. Axes: R rows · N exams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from m4oe.data.columns import Table, spellings
from m4oe.errors import UserError
from m4oe.study import Cell, Study


@dataclass(frozen=True)
class Exams:
    """N exams of a table: `names` (N,), exam `of_row` (R,) of each row, and the `first` (N,) row of each exam."""

    table: Table
    names: np.ndarray
    of_row: np.ndarray
    first: np.ndarray

    def agreed(self, column: str) -> np.ndarray:
        """(N,) an exam's first row in which `column` is filled, -1 where none is.

        Raises UserError where rows of an exam say different things.
        """
        filled = self.table.filled(column)
        if len(self.first) == len(filled):
            return np.where(filled, np.arange(len(filled)), -1)
        cells, rows = self.table.cells(column), np.flatnonzero(filled)
        chosen = self._first_of(rows)
        self._refuse(rows[cells.codes[rows] != cells.codes[chosen[self.of_row[rows]]]], chosen, column, "conflicting")
        return chosen

    def single(self, column: str, where: Mapping[str, Cell]) -> np.ndarray:
        """(N,) the row that matches `where` and in which `column` is filled, -1 where none does.

        Raises UserError for two such rows; without `where`, only if they hold different things.
        """
        if not where:
            return self.agreed(column)
        matches = self.table.filled(column)
        for key, value in where.items():
            matches &= self.table.cells(key).among(spellings(value))
        rows = np.flatnonzero(matches)
        chosen = self._first_of(rows)
        self._refuse(rows[rows != chosen[self.of_row[rows]]], chosen, column, "two rows for one input:")
        return chosen

    def text(self, column: str) -> np.ndarray:
        """(N,) what `column` says of each exam, the empty text where it says nothing."""
        return self.table.cells(column)[self.agreed(column)]

    def _first_of(self, rows: np.ndarray) -> np.ndarray:
        chosen = np.full(len(self.names), -1)
        chosen[self.of_row[rows[::-1]]] = rows[::-1]
        return chosen

    def _refuse(self, wrong: np.ndarray, chosen: np.ndarray, column: str, what: str) -> None:
        if len(wrong) == 0:
            return
        row, cells = wrong[0], self.table.cells(column)
        first = chosen[self.of_row[row]]
        values = " and ".join(repr(text) for text in cells[np.array([first, row])])
        raise UserError(
            f"{self.table.path}, rows {self.table.lines[first]} and {self.table.lines[row]}, column {column!r}: "
            f"{what} {values} in exam {self.names[self.of_row[row]]!r}; correct one, or tell the rows apart by 'where'"
        )


def join(study: Study, table: Table) -> Exams:
    """The exams of `table`, in the order of their first rows.

    Raises UserError for a row without an exam id, and for an id that repeats where no input says which row it is in.
    """
    if study.exam is None:
        rows = np.arange(len(table.lines))
        return Exams(table, (table.lines - 1).astype(str).astype(object), rows, rows)
    texts = table.cells(study.exam, plain=False)
    empty = np.flatnonzero(~table.filled(study.exam))
    if len(empty):
        raise UserError(f"{table.at(empty[0], study.exam)}: empty; every row needs the id of its exam")
    of_row, _ = pd.factorize(texts.codes)
    _, first = np.unique(of_row, return_index=True)
    exams = Exams(table, texts[first], of_row, first)
    if len(first) < len(of_row) and not any(source.where for source in study.inputs.values()):
        _refuse_repeated(exams, study.exam)
    return exams


def _refuse_repeated(exams: Exams, column: str) -> None:
    row = np.flatnonzero(exams.first[exams.of_row] != np.arange(len(exams.of_row)))[0]
    exam = exams.of_row[row]
    raise UserError(
        f"{exams.table.path}, rows {exams.table.lines[exams.first[exam]]} and {exams.table.lines[row]}, column "
        f"{column!r}: exam {exams.names[exam]!r} occurs twice; remove one, or give the inputs a 'where' that tells "
        "which row holds which picture"
    )
