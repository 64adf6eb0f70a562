"""A table as columns of text. CSV or Parquet; an empty cell is a missing value, and nothing else is.

Axes: R rows · U distinct texts of a column.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from m4oe.errors import UserError, nearest
from m4oe.study import Cell

WHOLE_NUMBER = r"^([+-]?\d+)\.0+$"
TRUE, FALSE = ("true", "True", "TRUE", "yes", "Yes", "YES"), ("false", "False", "FALSE", "no", "No", "NO")


@dataclass(frozen=True)
class Cells:
    """One column: `texts` (U,) object holds each distinct text once, `codes` (R,) says which one a row has."""

    texts: np.ndarray
    codes: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Texts of `rows`, object; the empty text where a row is -1."""
        return (
            np.where(rows < 0, "", self.texts[self.codes[rows]]) if len(self.codes) else np.full(len(rows), "", object)
        )

    def among(self, texts: Iterable[str]) -> np.ndarray:
        """(R,) bool: the cell is one of `texts`."""
        wanted = set(texts)
        return np.array([text in wanted for text in self.texts], bool)[self.codes]


@dataclass(frozen=True)
class Table:
    """Columns of a file as stripped text; `lines` (R,) are their rows in it, of which the `header` is the first."""

    path: Path
    header: list[str]
    arrow: pa.Table
    lines: np.ndarray

    @property
    def columns(self) -> list[str]:
        return self.arrow.column_names

    def cells(self, column: str, *, plain: bool = True) -> Cells:
        """The column `column`; a `plain` one writes 1.0 as 1, so that numbers compare as text.

        Raises UserError for a column that the table does not have.
        """
        texts = self._texts(column)
        if plain:
            texts = pc.replace_substring_regex(texts, WHOLE_NUMBER, r"\1")
        coded = pa.chunked_array(texts, pa.string()).combine_chunks().dictionary_encode()
        return Cells(coded.dictionary.to_numpy(zero_copy_only=False), coded.indices.to_numpy())

    def filled(self, column: str) -> np.ndarray:
        """(R,) bool: the cell of `column` is not empty."""
        return pc.not_equal(self._texts(column), "").to_numpy()

    def _texts(self, column: str) -> pa.ChunkedArray:
        if column not in self.columns:
            raise UserError(f"{self.path}: no column {column!r}; {nearest(column, self.header)}")
        return self.arrow.column(column)

    def at(self, row: int, column: str) -> str:
        """Where a cell is, for messages."""
        return f"{self.path}, row {self.lines[row]}, column {column!r}"


def spellings(value: Cell) -> tuple[str, ...]:
    """The plain texts that mean `value`, which a study file may have as text, number or truth value."""
    if isinstance(value, bool):
        return TRUE if value else FALSE
    text = str(value).strip()
    head, dot, zeros = text.partition(".")
    return (head if dot and zeros and not zeros.strip("0") and head.lstrip("+-").isdigit() else text,)


def number(text: str) -> float:
    """The finite number that `text` says, or NaN."""
    try:
        value = float(text)
    except ValueError:
        return np.nan
    return value if np.isfinite(value) else np.nan


def read_table(path: Path, names: Iterable[str] | None = None) -> Table:
    """The table in the CSV or Parquet file `path`; of its columns those among `names`, or all.

    A name that the file does not have is left out. Rows with nothing in them are dropped.
    Raises UserError for a file that is absent, empty, ragged, or not UTF-8.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such table; write its path, from the folder of the study, under 'table'")
    read = _read_parquet if path.suffix.lower() in (".parquet", ".pq") else _read_csv
    try:
        header, table = read(path, None if names is None else set(names))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {_complaint(path, str(error))}") from None
    table = pa.table({name: pc.utf8_trim_whitespace(table[name]) for name in table.column_names})
    lines = np.arange(len(table)) + 2
    empty = [pc.equal(table[name], "").to_numpy() for name in table.column_names]
    kept = ~np.logical_and.reduce(empty) if empty else np.zeros(len(table), bool)
    if not kept.any():
        raise UserError(f"{path}: the table has no rows{'' if empty else ' in the columns that the study names'}")
    return Table(path, header, table if kept.all() else table.filter(pa.array(kept)), lines[kept])


def _read_csv(path: Path, names: set[str] | None) -> tuple[list[str], pa.Table]:
    header, separator = _header(path)
    wanted = [name for name in header if name and (names is None or name in names)]
    parse = pacsv.ParseOptions(delimiter=separator, newlines_in_values=True, ignore_empty_lines=False)
    convert = pacsv.ConvertOptions(
        column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False, include_columns=wanted or header[:1]
    )
    table = pacsv.read_csv(path, pacsv.ReadOptions(column_names=header, skip_rows=1), parse, convert)
    return header, table.select(wanted)


def _header(path: Path) -> tuple[list[str], str]:
    """Column names, and what stands between cells: a comma, a semicolon or a tab, whichever the first line has most."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        line = file.readline()
        separator = max(",;\t", key=line.count)
        file.seek(0)
        header = [name.strip() for name in next(csv.reader(file, delimiter=separator), [])]
    if not any(header):
        raise csv.Error("the table is empty: its first row names the columns")
    return _distinct(header), separator


def _distinct(header: list[str]) -> list[str]:
    name, times = Counter(header).most_common(1)[0]
    if times > 1 and name:
        raise csv.Error(f"column {name!r} occurs {times} times in the header; give each column its own name")
    return header


def _read_parquet(path: Path, names: set[str] | None) -> tuple[list[str], pa.Table]:
    header = _distinct(pq.read_schema(path).names)
    wanted = [name for name in header if (names is None or name in names) and not name.startswith("__index_level_")]
    table = pq.read_table(path, columns=wanted)
    return header, pa.table({name: _as_text(table[name]) for name in wanted})


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text of a typed column. A float that is not a number is what writers make of an empty cell."""
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
        return pc.replace_substring_regex(pc.fill_null(column.cast(pa.string()), ""), WHOLE_NUMBER, r"\1")
    return pc.fill_null(column.cast(pa.string()), "")


def _complaint(path: Path, error: str) -> str:
    """What is wrong with a table, in words for its writer rather than its reader."""
    if "utf" in error.lower():
        return "is not UTF-8 text; save the table as 'CSV UTF-8' (comma separated), or as Parquet"
    if path.suffix.lower() in (".xlsx", ".xls", ".ods"):
        return "is a spreadsheet; save it as CSV (UTF-8) or Parquet"
    if "Expected" in error and "columns" in error:
        expected = error.split("Expected ")[1].split(" columns")[0]
        return f"{_ragged_row(path, int(expected))}; quote cells that hold the separator"
    return error.splitlines()[0]


def _ragged_row(path: Path, expected: int) -> str:
    _, separator = _header(path)
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        for number, row in enumerate(csv.reader(file, delimiter=separator), start=1):
            if row and len(row) != expected:
                return f"row {number} has {len(row)} cells, and the header has {expected}"
    return f"a row does not have {expected} cells, as the header has"
