"""SVG written by hand: elements that escape what they are given, and the plane that a chart is drawn on."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

from markupsafe import Markup, escape

# Okabe and Ito: told apart with any colour vision, and in grey as far as seven hues can be.
HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#4D4D4D", "#56B4E9", "#B07D00")
INK, MUTED, RULE = "#1d2733", "#52606d", "#dde3e9"


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """An element. `class_` is class, `stroke_width` is stroke-width; None leaves an attribute out."""
    pairs = ((key.strip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    written = "".join(f' {key}="{escape(number(value))}"' for key, value in pairs)
    return Markup(f"<{name}{written}>{''.join(escape(child) for child in children)}</{name}>")


def number(value: object) -> object:
    """Coordinates to a tenth of a pixel: a page of curves stays small."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value


def picture(width: float, height: float, *children: object, label: str) -> Markup:
    """An SVG that a screen reader announces by `label`."""
    box = f"0 0 {width:g} {height:g}"
    return tag("svg", *children, role="img", aria_label=label, viewBox=box, width=width, height=height)


def text(x: float, y: float, words: object, *, anchor: str = "start", **attributes: object) -> Markup:
    return tag("text", words, x=float(x), y=float(y), text_anchor=anchor, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, **attributes: object) -> Markup:
    return tag("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), **attributes)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them."""
    if not (isfinite(low) and isfinite(high)) or high <= low:
        return [low]
    raw = (high - low) / count
    unit = 10.0 ** floor(log10(raw))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= raw * 0.999)
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


@dataclass(frozen=True)
class Plane:
    """Where data lie on a drawing: x and y ranges, pixels, margins for the axes."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    width: float = 340
    height: float = 280
    left: float = 48
    right: float = 12
    top: float = 10
    bottom: float = 44

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.height - self.bottom - (value - low) / (high - low) * (self.height - self.top - self.bottom)

    def path(self, xs: list[float], ys: list[float], *, stepped: bool = False) -> str:
        points = [(self.x(x), self.y(y)) for x, y in zip(xs, ys, strict=True)]
        parts = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
        for x, y in points[1:]:
            parts.append(f"H{x:.1f}V{y:.1f}" if stepped else f"L{x:.1f} {y:.1f}")
        return "".join(parts)

    def x_axis(self, label: str) -> list[Markup]:
        """Grid, ticks and name of the horizontal axis."""
        foot, centre = self.height - self.bottom, (self.left + self.width - self.right) / 2
        drawn = [self._x_tick(value, foot) for value in ticks(*self.x_range)]
        drawn.append(line(self.left, foot, self.width - self.right, foot, class_="axis"))
        return [*drawn, text(centre, self.height - 6, label, anchor="middle", class_="name")]

    def y_axis(self, label: str) -> list[Markup]:
        """Grid, ticks and name of the vertical axis."""
        middle = (self.top + self.height - self.bottom) / 2
        turned = f"rotate(-90 12 {middle:.1f})"
        drawn = [self._y_tick(value) for value in ticks(*self.y_range)]
        return [*drawn, text(12, middle, label, anchor="middle", class_="name", transform=turned)]

    def _x_tick(self, value: float, foot: float) -> Markup:
        return line(self.x(value), self.top, self.x(value), foot, class_="gridline") + text(
            self.x(value), foot + 15, f"{value:g}", anchor="middle"
        )

    def _y_tick(self, value: float) -> Markup:
        return line(self.left, self.y(value), self.width - self.right, self.y(value), class_="gridline") + text(
            self.left - 6, self.y(value) + 4, f"{value:g}", anchor="end"
        )
