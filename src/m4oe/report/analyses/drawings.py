"""Figures in the parts on analyses: title, drawing, legend and caption, side by side where there is room."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup

from m4oe.report.analyses.pieces import paragraph
from m4oe.report.figures import Figure
from m4oe.report.svg import line, tag


def figures(drawn: Iterable[Figure]) -> Markup:
    return tag("div", *(_figure(one) for one in drawn), class_="grid")


def _figure(drawn: Figure) -> Markup:
    keys = (tag("li", _sample(hue, dashed), name) for name, hue, dashed in drawn.legend)
    parts = [tag("figcaption", drawn.title, class_="title"), tag("div", drawn.svg, class_="box")]
    parts += [tag("ul", *keys, class_="legend")] if drawn.legend else []
    parts += [paragraph(drawn.caption, "caption")] if drawn.caption else []
    return tag("figure", *parts)


def _sample(hue: str, dashed: bool) -> Markup:
    dash = "5 3" if dashed else None
    stroke = line(1, 5, 21, 5, stroke=hue, stroke_width="3", stroke_dasharray=dash)
    return tag("svg", stroke, width="22", height="10", aria_hidden="true")
