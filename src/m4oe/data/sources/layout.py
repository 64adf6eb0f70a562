"""Finding the files of a release by lists of known names, and reading its tables as text."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from m4oe.data.columns import read_table
from m4oe.data.sources.spreadsheet import read_sheet
from m4oe.errors import UserError

LISTED = 8
DEEPEST = 5  # folders below the one that was named: archives unpack into folders of their own names


def find(raw: Path, names: Sequence[str], what: str) -> Path:
    """The file or folder called one of `names` (case counts for nothing), the least deep in `raw`, first by name.

    Raises UserError that says what was expected and what was found.
    """
    found = find_all(raw, names)
    if not found:
        raise UserError(f"{raw}: no {what}: expected {' or '.join(names)}; found {listing(raw)}")
    return found[0]


def find_all(raw: Path, names: Sequence[str]) -> list[Path]:
    """All files and folders called one of `names`, the least deep in `raw` first; none within another of them."""
    wanted, found = {name.lower() for name in names}, []
    level = [raw]
    for _ in range(DEEPEST):
        inside = sorted(child for folder in level for child in _children(folder))
        found += [child for child in inside if child.name.lower() in wanted]
        level = [child for child in inside if child.is_dir() and child not in found and not _is_full(child)]
    return found


def _children(folder: Path) -> list[Path]:
    return [child for child in folder.iterdir() if not child.name.startswith((".", "__MACOSX"))]


def _is_full(folder: Path) -> bool:
    """A folder of exams or pictures, in which nothing else is looked for: it would take hours."""
    with os.scandir(folder) as entries:
        return sum(1 for _, _ in zip(entries, range(50))) == 50


def listing(folder: Path) -> str:
    """What lies in a folder, for messages: the first names and how many there are."""
    names = sorted(child.name for child in _children(folder))
    shown = ", ".join(names[:LISTED]) or "an empty folder"
    return f"{shown} and {len(names) - LISTED} more" if len(names) > LISTED else shown


def read_columns(path: Path, needed: Mapping[str, Sequence[str]], optional: Iterable[str] = ()) -> pd.DataFrame:
    """The columns of a table as stripped text, numbers without ".0", empty where missing; other columns are not read.

    needed: our name of a column -> the names that it has in known versions of the release · optional: columns that
    are taken where they are there, and are empty where not. The index is the line in the file, the header being 1.
    Raises UserError for a table that is none, and for a needed column that it has under no known name.
    """
    known = {*chain.from_iterable(needed.values()), *optional}
    table = read_sheet(path) if path.suffix.lower() == ".xlsx" else read_table(path, known)
    theirs = {ours: _called(path, table.header, names) for ours, names in needed.items()}
    theirs |= {name: name for name in optional if name in table.columns}
    rows = np.arange(len(table.lines))
    cells = {ours: table.cells(name)[rows] for ours, name in theirs.items()}
    return pd.DataFrame(cells, table.lines, dtype=str).reindex(columns=[*needed, *optional], fill_value="")


def _called(path: Path, header: Sequence[str], names: Sequence[str]) -> str:
    for name in names:
        if name in header:
            return name
    raise UserError(f"{path}: no column {' or '.join(map(repr, names))}; its columns are {', '.join(header[:40])}")


def number_in(name: str) -> int:
    """The first whole number in a file's name; files are ordered by it, since "10" comes before "2" as text."""
    digits = re.search(r"\d+", name)
    return int(digits[0]) if digits else -1


def relative(path: Path, raw: Path) -> str:
    return path.relative_to(raw).as_posix()
