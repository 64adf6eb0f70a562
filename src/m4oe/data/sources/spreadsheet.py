"""The first sheet of an .xlsx file, which is a zip of XML (ECMA-376, part 1, section 18)."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa

from m4oe.data.columns import Table
from m4oe.errors import UserError

SPACE = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
MOST_BYTES = 64 * 2**20
UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    ElementTree.ParseError,
    IndexError,
    KeyError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    EOFError,
)


def read_sheet(path: Path) -> Table:
    """The first sheet as a table of text, empty where missing; its first row names the columns.

    Raises UserError for a file that is none, or is implausibly large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sheets = sorted(name for name in archive.namelist() if re.fullmatch(r"xl/worksheets/sheet\d+\.xml", name))
            shared = [_text(item) for item in _children(archive, "xl/sharedStrings.xml", f"{SPACE}si")]
            rows = [dict(_cells(row, shared)) for row in _children(archive, sheets[0], f"{SPACE}row")]
    except UNREADABLE:
        raise UserError(f"{path}: not readable as a spreadsheet; save it as CSV of the same name") from None
    lines = np.array([line for line, row in enumerate(rows, start=1) if any(row.values())])
    if len(lines) < 2:
        raise UserError(f"{path}: a spreadsheet without rows")
    names = {place: name for place, name in rows[lines[0] - 1].items() if name}
    columns = {name: [rows[line - 1].get(place, "") for line in lines[1:]] for place, name in names.items()}
    return Table(path, list(columns), pa.table(columns), lines[1:])


def _children(archive: zipfile.ZipFile, member: str, tag: str) -> Iterator[ElementTree.Element]:
    if member not in archive.namelist():
        return iter(())
    if archive.getinfo(member).file_size > MOST_BYTES:
        raise ValueError(member)
    return ElementTree.fromstring(archive.read(member)).iter(tag)


def _cells(row: ElementTree.Element, shared: list[str]) -> Iterator[tuple[str, str]]:
    """(column letters, text) of each cell: a number, an index of shared strings, or a string of its own."""
    for cell in row.iter(f"{SPACE}c"):
        text = _text(cell)
        yield re.sub(r"\d", "", cell.get("r", "")), (shared[int(text)] if cell.get("t") == "s" else text).strip()


def _text(element: ElementTree.Element) -> str:
    values = [*element.iter(f"{SPACE}v")] or [*element.iter(f"{SPACE}t")]
    return "".join(value.text or "" for value in values)
