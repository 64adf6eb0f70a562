"""Mammograms: side and view by what a header says, in a stated order, and the breast's place in the picture.

Axes: H rows · W columns.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy import ndarray

Side = Literal["left", "right"]
Box = tuple[tuple[int, int], ...]

SIDES: Mapping[str, Side] = {"L": "left", "R": "right"}
# Codes of SNOMED CT, and of SNOMED RT in older files (CID 244, 4014, 4015).
SIDE_CODES: Mapping[str, Side] = {"7771000": "left", "G-A101": "left", "24028007": "right", "G-A100": "right"}
VIEW_CODES: Mapping[str, str] = {
    "399162004": "CC", "R-10242": "CC", "399368009": "MLO", "R-10226": "MLO", "399260004": "ML", "R-10224": "ML",
    "399352003": "LM", "R-10228": "LM", "399099002": "LMO", "R-10230": "LMO", "399192008": "XCCL", "R-1024A": "XCCL",
    "399101009": "XCCM", "R-1024B": "XCCM", "399196006": "FB", "R-10244": "FB", "399188001": "SIO", "R-102D0": "SIO",
    "441555000": "ISO", "R-40AAA": "ISO",
}  # fmt: skip
MODIFIER_CODES: Mapping[str, str] = {
    "399055006": "spot compression", "R-102D7": "spot compression", "399163009": "magnification",
    "R-102D6": "magnification", "399209000": "implant displaced", "R-102D5": "implant displaced",
    "399161006": "cleavage", "R-102D2": "cleavage", "399110001": "tangential", "R-102C2": "tangential",
    "399011000": "axillary tail", "R-102D1": "axillary tail", "442580003": "axillary tissue",
    "R-40AB2": "axillary tissue", "441752004": "anterior compression", "399197002": "rolled", "R-102D3": "rolled",
    "399226006": "rolled", "R-102D4": "rolled", "415670009": "rolled", "R-102C9": "rolled", "414493004": "rolled",
    "R-102CA": "rolled",
}  # fmt: skip
VIEWS = tuple(dict.fromkeys(VIEW_CODES.values()))
# What stands before and after a view: RMLO, LCCID (implant displaced), MLOS (spot), CCM (magnification).
WORD = re.compile(rf"^(?P<side>[LR]?)(?P<view>{'|'.join(sorted(VIEWS, key=len, reverse=True))})(?P<more>ID|S|M)?$")
LETTERS = {"ID": "implant displaced", "S": "spot compression", "M": "magnification"}
SKIN = 0.25
MARGIN = 0.02
LEAST_AREA, LEAST_SHARE = 0.02, 0.5  # of the picture, and of all that is bright
COARSE = 256  # rows or columns that are looked at, at most
THIN = 100  # what is thinner than about two of so many parts of the picture is a rim


@dataclass(frozen=True)
class View:
    """Which breast, seen how: side · view, e.g. CC or MLO · modifiers, e.g. spot compression · notes: sentences about
    tags that contradict each other. None and () where nothing in the header says.
    """

    side: Side | None = None
    view: str | None = None
    modifiers: tuple[str, ...] = ()
    disagreeing: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        of_part = [f"a view with {name}" for name in self.modifiers if name in ("spot compression", "magnification")]
        return (*self.disagreeing, *of_part)


def view_of(dataset: Any) -> View:
    """The view by a header. The first that says something is believed, in this order; a later one that contradicts it
    is noted.

    Side: ImageLaterality · FrameLaterality · Laterality · the code in AnatomicRegionSequence · the letter before
    ViewPosition (RMLO) · words of SeriesDescription, then ProtocolName. View: ViewPosition · ViewCodeSequence · the
    same words. No word of a description leaves this function.
    """
    side, sides_differ = _first_of(_SIDE_SOURCES, dataset)
    view, views_differ = _first_of(_VIEW_SOURCES, dataset)
    word = WORD.match(_letters(dataset, "ViewPosition"))
    modifiers = [LETTERS[word["more"]]] if word and word["more"] else []
    modifiers += [MODIFIER_CODES[code] for code in _modifier_codes(dataset) if code in MODIFIER_CODES]
    return View(side, view, tuple(dict.fromkeys(modifiers)), tuple(filter(None, (sides_differ, views_differ))))


Source = Callable[[Any], str | None]


def _first_of(sources: Mapping[str, Source], dataset: Any) -> tuple[Any, str | None]:
    """What the first source says that says something, and a sentence where a later one says otherwise."""
    said = {name: found for name, ask in sources.items() if (found := ask(dataset))}
    if not said:
        return None, None
    (first, value), *others = said.items()
    other = next(((name, found) for name, found in others if found != value), None)
    return value, other and f"{first} says {value} and {other[0]} {other[1]}; {value} is taken"


def _letters(dataset: Any, keyword: str) -> str:
    """A tag's text in capitals, without what is no letter."""
    return re.sub(r"[^A-Z]", "", str(dataset.get(keyword) or "").upper())


def _by_letter(keyword: str) -> Source:
    return lambda dataset: SIDES.get(_letters(dataset, keyword))


def _by_frame(dataset: Any) -> str | None:
    shared = _items(dataset, "SharedFunctionalGroupsSequence")
    anatomy = [item for group in shared for item in _items(group, "FrameAnatomySequence")]
    return next((side for item in anatomy if (side := SIDES.get(_letters(item, "FrameLaterality")))), None)


def _by_region_code(dataset: Any) -> str | None:
    regions = _items(dataset, "AnatomicRegionSequence")
    codes = [_code(item) for region in regions for item in _items(region, "AnatomicRegionModifierSequence")]
    return next((SIDE_CODES[code] for code in codes if code in SIDE_CODES), None)


def _by_position(group: str) -> Source:
    def ask(dataset: Any) -> str | None:
        word = WORD.match(_letters(dataset, "ViewPosition"))
        return None if word is None else SIDES.get(word["side"]) if group == "side" else word["view"]

    return ask


def _by_view_code(dataset: Any) -> str | None:
    codes = [_code(item) for item in _items(dataset, "ViewCodeSequence")]
    return next((VIEW_CODES[code] for code in codes if code in VIEW_CODES), None)


def _by_words(keyword: str, group: str) -> Source:
    def ask(dataset: Any) -> str | None:
        words = re.findall(r"[A-Z]+", str(dataset.get(keyword) or "").upper())
        views = [found for word in words if (found := WORD.match(word))]
        if group == "view":
            return _only(found["view"] for found in views)
        named = [{"LEFT": "left", "RIGHT": "right", **SIDES}.get(word) for word in words]
        return _only([*named, *(SIDES.get(found["side"]) for found in views)])

    return ask


def _only(found: Iterable[str | None]) -> str | None:
    """The one thing that is said, None where several are: a description of both breasts names none."""
    said = {name for name in found if name}
    return said.pop() if len(said) == 1 else None


_SIDE_SOURCES: Mapping[str, Source] = {
    "ImageLaterality": _by_letter("ImageLaterality"),
    "FrameLaterality": _by_frame,
    "Laterality": _by_letter("Laterality"),
    "AnatomicRegionSequence": _by_region_code,
    "ViewPosition": _by_position("side"),
    "SeriesDescription": _by_words("SeriesDescription", "side"),
    "ProtocolName": _by_words("ProtocolName", "side"),
}
_VIEW_SOURCES: Mapping[str, Source] = {
    "ViewPosition": _by_position("view"),
    "ViewCodeSequence": _by_view_code,
    "SeriesDescription": _by_words("SeriesDescription", "view"),
    "ProtocolName": _by_words("ProtocolName", "view"),
}


def _modifier_codes(dataset: Any) -> Iterator[str]:
    for item in (dataset, *_items(dataset, "ViewCodeSequence")):
        yield from (_code(found) for found in _items(item, "ViewModifierCodeSequence"))


def _items(dataset: Any, keyword: str) -> list[Any]:
    return list(dataset.get(keyword) or ())


def _code(item: Any) -> str:
    return str(item.get("CodeValue") or "")


def breast_box(values: ndarray) -> Box:
    """((top, bottom), (left, right)) of the largest bright thing in `values` (H, W), with a margin; all, where there
    is none that is large enough. Only every n-th row and column is looked at, so that the cost is that of a small
    picture; the margin is wider than what may be missed.

    Bright is what is a quarter of the way from the background to Otsu's threshold: the skin is not much brighter than
    the air. Markers and labels, which are smaller, and the rim of a film, which is thin, fall outside.
    """
    from scipy import ndimage

    step = math.ceil(max(values.shape) / COARSE)
    coarse = np.ascontiguousarray(values[::step, ::step])
    parting = _otsu(coarse)
    background = float(np.median(coarse[coarse <= parting]))
    bright = coarse > background + SKIN * (parting - background)
    thick = ndimage.binary_opening(bright, iterations=max(1, max(coarse.shape) // THIN))
    things, count = ndimage.label(thick)
    sizes = np.bincount(things.ravel(), minlength=2)[1:]
    if count == 0 or sizes.max() < max(LEAST_AREA * coarse.size, LEAST_SHARE * bright.sum()):
        return tuple((0, length) for length in values.shape)
    inside = ndimage.find_objects(things)[int(sizes.argmax())]
    return tuple(
        (max(0, int(part.start * step - MARGIN * length)), min(length, int(part.stop * step + MARGIN * length)))
        for part, length in zip(inside, values.shape)
    )


def _otsu(values: ndarray) -> float:
    """The threshold that parts `values` into two classes of the least variance (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=256, range=tuple(np.percentile(values, (0.5, 99.5))))
    centers = (edges[:-1] + edges[1:]) / 2
    below, weighted = np.cumsum(counts), np.cumsum(counts * centers)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = below * above * (weighted / below - (weighted[-1] - weighted) / above) ** 2
    apart = np.nan_to_num(apart)
    return float(centers[apart >= apart.max()].mean())  # of a gap without values, its middle
