"""Paired differences to the reference as a forest: a row for each variant, an upright at no difference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from m4oe.report.figures import Figure
from m4oe.report.svg import HUES, Plane, line, picture, tag, text
from m4oe.report.words import measure, number, signed, title

ROW = 24


def forest(content: Mapping[str, Any], task: str) -> Figure:
    """The differences of `task`; filled where Holm calls them significant."""
    shown = {
        row["title"]: row["differences"][task]
        for row in content["variants"].values()
        if task in row["differences"] and row["differences"][task]["low"] is not None
    }
    name = measure(content["tasks"][task]["metric"]).name
    reference = content["variants"][content["reference"]]["title"]
    ends = [end for one in shown.values() for end in (one["low"], one["high"])]
    reach = 1.1 * max(map(abs, ends), default=1.0) or 1.0
    left = 16 + 6.4 * max(map(len, shown), default=0)
    plane = Plane((-reach, reach), (0, 1), width=left + 300, height=54 + ROW * len(shown), left=left, bottom=44)
    drawn = plane.x_axis(f"{name} less that of {reference}")
    drawn.append(line(plane.x(0), plane.top, plane.x(0), plane.height - plane.bottom, class_="diagonal"))
    for place, (variant, one) in enumerate(shown.items()):
        drawn += _row(plane, plane.top + ROW * (place + 0.5), variant, one, content["level"])
    label = "; ".join(f"{variant} {signed(one['value'], 3)}" for variant, one in shown.items())
    svg = picture(plane.width, plane.height, *drawn, label=f"Differences of {name} on {task}: {label}")
    return Figure(title(task), svg, [], "" if shown else "Too few exams for intervals.")


def _row(plane: Plane, y: float, name: str, one: Mapping[str, Any], level: float) -> list[Markup]:
    sure = one["p_holm"] is not None and one["p_holm"] < level
    hue = HUES[1] if one["value"] > 0 else HUES[0]
    tip = tag("title", f"{name}: {signed(one['value'], 3)} ({number(one['low'], 3)} to {number(one['high'], 3)})")
    return [
        text(plane.left - 8, y + 4, name, anchor="end", class_="name"),
        line(plane.x(one["low"]), y, plane.x(one["high"]), y, stroke=hue, stroke_width="2"),
        tag(
            "circle",
            tip,
            cx=plane.x(one["value"]),
            cy=y,
            r=4.5,
            fill=hue if sure else "#fff",
            stroke=hue,
            stroke_width="2",
        ),
    ]
