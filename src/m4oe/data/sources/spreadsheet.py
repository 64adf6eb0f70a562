"""The first sheet of an .xlsx file, which is a zip of XML (ECMA-376, part 1, section 18)."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd

from m4oe.errors import UserError

SPACE = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
MOST_BYTES = 64 * 2**20


def read_sheet(path: Path) -> pd.DataFrame:
    """Cells of the first sheet as text, empty where missing; its first row names the columns.

    Raises UserError for a file that is none, or is implausibly large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sheets = sorted(name for name in archive.namelist() if re.fullmatch(r"xl/worksheets/sheet\d+\.xml", name))
            shared = [_text(item) for item in _children(archive, "xl/sharedStrings.xml", f"{SPACE}si")]
            rows = [dict(_cells(row, shared)) for row in _children(archive, sheets[0], f"{SPACE}row")]
    except (zipfile.BadZipFile, ElementTree.ParseError, IndexError, KeyError, ValueError):
        raise UserError(f"{path}: not readable as a spreadsheet; save it as CSV of the same name") from None
    filled = [row for row in rows if any(row.values())]
    if not filled:
        raise UserError(f"{path}: an empty spreadsheet")
    names = {place: name for place, name in filled[0].items() if name}
    return pd.DataFrame([{name: row.get(place, "") for place, name in names.items()} for row in filled[1:]], dtype=str)


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
        yield re.sub(r"\d", "", cell.get("r", "")), shared[int(text)] if cell.get("t") == "s" else text


def _text(element: ElementTree.Element) -> str:
    values = [*element.iter(f"{SPACE}v")] or [*element.iter(f"{SPACE}t")]
    return "".join(value.text or "" for value in values)
