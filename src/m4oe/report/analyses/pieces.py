"""Pieces that the parts on analyses share: sentences, tables, and numbers with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from m4oe.report.figures import shade
from m4oe.report.svg import tag
from m4oe.report.words import MISSING, number

Cell = object


def paragraph(words: str, kind: str | None = None) -> Markup:
    """kind: "caption", "missing" or "alarm"."""
    return tag("p", words, class_=kind)


def listed(sentences: Iterable[str]) -> Markup:
    return tag("ul", *(tag("li", sentence) for sentence in sentences))


def table(label: str, head: Sequence[str], rows: Iterable[Sequence[Cell]], note: str = "") -> Markup:
    """A table that scrolls by itself; the first cell of a row names it, the others stand at the right."""
    top = tag("tr", tag("th", head[0], scope="col"), *(tag("th", name, scope="col", class_="n") for name in head[1:]))
    body = [tag("tr", tag("th", row[0], scope="row"), *(_cell(cell) for cell in row[1:])) for row in rows]
    drawn = tag("table", tag("thead", top), tag("tbody", *body))
    box = tag("div", drawn, class_="box", tabindex="0", role="region", aria_label=label)
    return box + (paragraph(note, "caption") if note else Markup(""))


def _cell(cell: Cell) -> Markup:
    return cell if isinstance(cell, Markup) and cell.startswith("<td") else tag("td", cell, class_="n")


def shaded(written: str, share: float) -> Markup:
    """A cell of a heat map: share 0 is white, 1 is dark."""
    fill, ink = shade(share)
    return tag("td", written, class_="n", style=f"background:{fill};color:{ink}")


def spoken(entry: Mapping[str, Any] | None, decimals: int = 2) -> str:
    """A number with its interval: 0.31 (0.12 to 0.48)."""
    if entry is None:
        return MISSING
    low, high = number(entry.get("low"), decimals), number(entry.get("high"), decimals)
    ends = f" ({low} to {high})" if MISSING not in (low, high) else ""
    return number(entry.get("value"), decimals) + ends


def surely_above(entry: Mapping[str, Any] | None, bound: float = 0.0) -> bool:
    """Whether the whole interval is above `bound`; never without an interval."""
    return entry is not None and entry.get("low") is not None and entry["low"] > bound
