"""The smallest .xlsx that spreadsheet programs open: one sheet, numbers as numbers, text in the table of strings."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

NAMES = "http://schemas.openxmlformats.org"
MAIN = f'xmlns="{NAMES}/spreadsheetml/2006/main"'
RELATED = f"{NAMES}/officeDocument/2006/relationships"
KIND = "application/vnd.openxmlformats-officedocument.spreadsheetml"
PARTS = {"xl/workbook": "sheet.main", "xl/worksheets/sheet1": "worksheet", "xl/sharedStrings": "sharedStrings"}


def write_sheet(path: Path, rows: Sequence[Sequence[str | float]]) -> None:
    """Writes `rows`, the first being the header, of at most 26 columns."""
    texts = list(dict.fromkeys(cell for row in rows for cell in row if isinstance(cell, str)))
    strings = "".join(f"<si><t>{escape(text)}</t></si>" for text in texts)
    lines = "".join(_row(number, row, texts) for number, row in enumerate(rows, start=1))
    members = {
        "[Content_Types].xml": _types(),
        "_rels/.rels": _relations({"officeDocument": "xl/workbook.xml"}),
        "xl/workbook.xml": f'<workbook {MAIN} xmlns:r="{RELATED}"><sheets><sheet name="Sheet1" sheetId="1" r:id="r0"/>'
        "</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": _relations(
            {"worksheet": "worksheets/sheet1.xml", "sharedStrings": "sharedStrings.xml"}
        ),
        "xl/worksheets/sheet1.xml": f"<worksheet {MAIN}><sheetData>{lines}</sheetData></worksheet>",
        "xl/sharedStrings.xml": f"<sst {MAIN}>{strings}</sst>",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(zipfile.ZipInfo(name), f'<?xml version="1.0" encoding="UTF-8"?>{text}')


def _row(number: int, row: Sequence[str | float], texts: list[str]) -> str:
    cells = (
        f'<c r="{chr(65 + place)}{number}" t="s"><v>{texts.index(cell)}</v></c>'
        if isinstance(cell, str)
        else f'<c r="{chr(65 + place)}{number}"><v>{cell}</v></c>'
        for place, cell in enumerate(row)
    )
    return f'<row r="{number}">{"".join(cells)}</row>'


def _types() -> str:
    kinds = "".join(
        f'<Override PartName="/{part}.xml" ContentType="{KIND}.{kind}+xml"/>' for part, kind in PARTS.items()
    )
    rels = '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    return f'<Types xmlns="{NAMES}/package/2006/content-types">{rels}{kinds}</Types>'


def _relations(targets: dict[str, str]) -> str:
    each = "".join(
        f'<Relationship Id="r{number}" Type="{RELATED}/{kind}" Target="{target}"/>'
        for number, (kind, target) in enumerate(targets.items())
    )
    return f'<Relationships xmlns="{NAMES}/package/2006/relationships">{each}</Relationships>'
