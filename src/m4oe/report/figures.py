"""The drawings of a report: charts of lines, strips of exams, intervals, heat maps. Numbers in, SVG out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

import numpy as np
from markupsafe import Markup

from m4oe.report.svg import HUES, INK, MUTED, Plane, line, picture, tag, text
from m4oe.report.words import plural

MOST_POINTS = 200
Range = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A curve of a chart. `low` and `high` are ends of error bars; `dots` marks the points."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    stepped: bool = False
    dashed: bool = False
    dots: bool = False
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    hue: int | None = None


@dataclass(frozen=True)
class Figure:
    """A drawing with its title, a legend of (name, colour, dashed), and a sentence on how to read it."""

    title: str
    svg: Markup
    legend: list[tuple[str, str, bool]] = field(default_factory=list)
    caption: str = ""


def chart(
    title: str, lines: Sequence[Line], axes: tuple[str, str], *, x_range: Range | None = None,
    y_range: Range | None = None, diagonal: bool = False, marks: Sequence[tuple[float, str]] = (), caption: str = "",
) -> Figure:  # fmt: skip
    """Curves over two named axes; ranges default to those of the data. `diagonal` draws the line of y = x, `marks` an
    upright at each (x, name)."""
    lines = [_finite(curve) for curve in lines]
    plane = Plane(
        x_range or _range([x for curve in lines for x in curve.xs]),
        y_range or _range([y for curve in lines for y in curve.ys]),
    )
    drawn = [*plane.y_axis(axes[1]), *plane.x_axis(axes[0])]
    if diagonal:
        drawn.append(line(plane.x(0), plane.y(0), plane.x(1), plane.y(1), class_="diagonal"))
    uprights = [(plane.x(x), name) for x, name in marks]
    drawn += [line(x, plane.top, x, plane.height - plane.bottom, class_="diagonal") for x, _ in uprights]
    hues = [HUES[(place if curve.hue is None else curve.hue) % len(HUES)] for place, curve in enumerate(lines)]
    for curve, hue in zip(lines, hues, strict=True):
        drawn += _curve(plane, curve, hue)
    drawn += [text(x + 4, plane.top + 9 + 13 * (n % 2), name, class_="halo") for n, (x, name) in enumerate(uprights)]
    legend = [(curve.name, hue, curve.dashed) for curve, hue in zip(lines, hues, strict=True) if curve.name]
    label = f"{title}: {axes[1]} against {axes[0]}" + (
        f"; {', '.join(name for name, _, _ in legend)}" if legend else ""
    )
    return Figure(title, picture(plane.width, plane.height, *drawn, label=label), legend, caption)


def _finite(curve: Line) -> Line:
    """The curve's finite points, at most MOST_POINTS of them (steps keep all), so that a page stays small."""
    keep = [place for place, (x, y) in enumerate(zip(curve.xs, curve.ys, strict=True)) if isfinite(x) and isfinite(y)]
    if len(keep) > MOST_POINTS and not curve.stepped:
        keep = [keep[round(place)] for place in np.linspace(0, len(keep) - 1, MOST_POINTS)]
    pick = {
        name: [float(values[k]) for k in keep] for name in ("xs", "ys") if (values := getattr(curve, name)) is not None
    }
    bars = {name: [float(values[k]) for k in keep] for name in ("low", "high") if len(values := getattr(curve, name))}
    return Line(**{**curve.__dict__, **pick, **bars})


def _range(values: Sequence[float]) -> Range:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    low = 0.0 if 0 < low < 0.5 * high else low
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _curve(plane: Plane, curve: Line, hue: str) -> list[Markup]:
    if not curve.xs:
        return []
    drawn = []
    for x, low, high in zip(curve.xs, curve.low, curve.high):
        drawn.append(line(plane.x(x), plane.y(low), plane.x(x), plane.y(high), stroke=hue, class_="whisker"))
    dash = "4 4" if curve.dashed else None
    path = plane.path(list(curve.xs), list(curve.ys), stepped=curve.stepped)
    drawn.append(tag("path", d=path, stroke=hue, class_="curve", stroke_dasharray=dash))
    if curve.dots or len(curve.xs) == 1:
        drawn += [tag("circle", cx=plane.x(x), cy=plane.y(y), r=3.5, fill=hue) for x, y in zip(curve.xs, curve.ys)]
    return drawn


def strips(title: str, groups: Mapping[str, Sequence[float]], axis: str, caption: str = "") -> Figure:
    """Each exam a dot between 0 and 1, a row for each group, with its median and the middle half as a bar."""
    rows = {name: sorted(value for value in values if isfinite(value)) for name, values in groups.items()}
    plane = Plane((0.0, 1.0), (0.0, 1.0), height=54 + 46 * len(rows), left=12, bottom=44)
    drawn = plane.x_axis(axis)
    for place, (name, values) in enumerate(rows.items()):
        drawn += _strip(plane, 10 + 46 * place, name, values, HUES[place % len(HUES)])
    medians = ", ".join(f"{name} median {np.median(values):.2f}" for name, values in rows.items() if values)
    return Figure(
        title, picture(plane.width, plane.height, *drawn, label=f"{title}: {axis} by exam; {medians}"), [], caption
    )


def _strip(plane: Plane, top: float, name: str, values: list[float], hue: str) -> list[Markup]:
    drawn = [text(plane.left + 2, top + 11, f"{name} · {plural(len(values), 'exam')}", class_="name halo")]
    if not values:
        return drawn
    lower, median, upper = (plane.x(float(value)) for value in np.percentile(values, [25, 50, 75]))
    shown = values if len(values) <= MOST_POINTS else np.percentile(values, np.linspace(0, 100, MOST_POINTS))
    for place, value in enumerate(shown):
        # The golden ratio spreads neighbours without a random number.
        height = top + 18 + 18 * (place * 0.618034 % 1)
        drawn.append(tag("circle", cx=plane.x(float(value)), cy=height, r=2.6, fill=hue, fill_opacity="0.45"))
    drawn.append(line(lower, top + 27, upper, top + 27, stroke=INK, stroke_width="2"))
    drawn.append(line(median, top + 17, median, top + 37, stroke=INK, stroke_width="3"))
    return drawn


def interval(value: float, low: float, high: float, chance: float | None = None) -> Markup:
    """A value from 0 to 1 with its interval, small enough for a table's cell; chance is a dashed mark."""
    x = [8 + 124 * min(max(number, 0.0), 1.0) for number in (low, value, high)]
    drawn = [line(8, 9, 132, 9, class_="gridline")]
    if chance is not None:
        drawn.append(line(8 + 124 * chance, 2, 8 + 124 * chance, 16, stroke=MUTED, stroke_dasharray="2 2"))
    drawn.append(line(x[0], 9, x[2], 9, stroke=HUES[0], stroke_width="3"))
    drawn.append(tag("circle", cx=x[1], cy=9, r=4, fill=HUES[0]))
    return picture(140, 18, *drawn, label=f"{value:.2f}, 95 % interval {low:.2f} to {high:.2f}, on a scale from 0 to 1")


def shade(share: float) -> tuple[str, str]:
    """Background and text colour of a heat map's cell, share 0 (white) to 1 (dark blue); contrast is 4.5 or more."""
    share = min(max(share, 0.0), 1.0) if isfinite(share) else 0.0
    pale, deep = (247, 250, 253), (12, 74, 128)
    red, green, blue = (round(a + (b - a) * share**0.8) for a, b in zip(pale, deep))
    return f"#{red:02x}{green:02x}{blue:02x}", "#ffffff" if share > 0.675 else "#000000"


def experts(title: str, rows: Sequence[str], shares: np.ndarray) -> Figure:
    """P(expert | modality) of a task as cells, (M, E): a row for each modality, coloured from 0 to the largest."""
    count = shares.shape[1]
    side = max(3.0, min(22.0, 256 / count))
    left, top = 8 + 7.2 * max((len(name) for name in rows), default=0), 4
    peak = float(np.nanmax(shares)) or 1.0
    drawn = []
    for place, (name, row) in enumerate(zip(rows, shares, strict=True)):
        y = top + place * 24
        drawn.append(text(left - 8, y + 15, name, anchor="end", class_="name"))
        for expert, share in enumerate(row):
            fill, _ = shade(float(share) / peak)
            tip = tag("title", f"{name}, expert {expert + 1}: {share:.3f}")
            drawn.append(tag("rect", tip, x=left + expert * side, y=y, width=side - 1, height=22, fill=fill))
    foot = top + 24 * len(rows) + 14
    drawn.append(text(left, foot, "expert 1"))
    drawn.append(text(left + count * side, foot, str(count), anchor="end"))
    label = f"{title}: probability of each of {count} experts for {', '.join(rows)}"
    drawing = picture(round(left + count * side + 4), foot + 6, *drawn, label=label)
    return Figure(title, drawing, [], f"darkest: {peak:.2f}; even use would be {1 / count:.3f}")


def stacked(title: str, rows: Sequence[str], shares: np.ndarray, names: Sequence[str], caption: str = "") -> Figure:
    """Rows of bars that are parted by shares (L, E), which add up to 1 or are all 0; `names` of the E parts."""
    left, width, step = 8 + 7.2 * max(len(row) for row in rows), 190, 22
    drawn = []
    for place, (row, parts) in enumerate(zip(rows, shares, strict=True)):
        drawn.append(text(left - 8, place * step + 14, row, anchor="end", class_="name"))
        start = left
        for number, share in enumerate(parts):
            tip = tag("title", f"{row}, {names[number]}: {share:.3f}")
            where = {"x": float(start), "y": float(place * step + 1), "width": float(share * width), "height": 17}
            drawn.append(tag("rect", tip, **where, fill=HUES[number % len(HUES)]))
            start += share * width
    label = f"{title}: shares of {', '.join(names)} in {', '.join(rows)}"
    svg = picture(round(left + width + 4), step * len(rows) + 2, *drawn, label=label)
    return Figure(title, svg, [(name, HUES[number % len(HUES)], False) for number, name in enumerate(names)], caption)
