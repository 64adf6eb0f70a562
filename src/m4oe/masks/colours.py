"""What the numbers of a mask mean, for people and for viewers: names, and one colour for a name wherever it occurs."""

from __future__ import annotations

import colorsys
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from m4oe.artifact import write_text
from m4oe.study import one_spelling

Colour = tuple[int, int, int]

# Names that come often, far apart from one another; any other name has the colour of its hash.
KNOWN: Mapping[str, Colour] = {
    "liver": (178, 74, 60),
    "spleen": (120, 60, 140),
    "left kidney": (230, 160, 50),
    "right kidney": (245, 205, 90),
    "kidney": (238, 182, 70),
    "kidneys": (238, 182, 70),
    "gallbladder": (70, 160, 70),
    "pancreas": (240, 150, 170),
    "stomach": (210, 120, 95),
    "oesophagus": (150, 110, 80),
    "esophagus": (150, 110, 80),
    "duodenum": (190, 170, 120),
    "aorta": (225, 40, 40),
    "inferior vena cava": (50, 90, 200),
    "bladder": (225, 225, 110),
    "tumour": (90, 235, 90),
    "tumor": (90, 235, 90),
    "vessel": (60, 140, 230),
    "left ventricle": (215, 60, 75),
    "right ventricle": (65, 110, 215),
    "myocardium": (90, 190, 120),
    "anterior": (235, 120, 50),
    "posterior": (50, 170, 190),
}


def colour_of(name: str) -> Colour:
    """Red, green and blue, 0 to 255, of the class `name`: decided by the name alone, however it is spelt."""
    plain = one_spelling(name).replace("_", " ")
    if plain in KNOWN:
        return KNOWN[plain]
    hue, saturation, value, *_ = hashlib.sha256(plain.encode()).digest()
    red, green, blue = colorsys.hsv_to_rgb(hue / 256, 0.55 + 0.45 * saturation / 255, 0.7 + 0.3 * value / 255)
    return round(255 * red), round(255 * green), round(255 * blue)


def write_colours(label_sets: Mapping[str, Mapping[int, str]], folder: Path) -> None:
    """Writes NAME.ctbl (3D Slicer) and NAME.itksnap.txt (ITK-SNAP) of each set {value: class}, and labels.json of all.

    The first class of a set is its background: black, and not shown.
    """
    for name, classes in label_sets.items():
        write_text(folder / f"{name}.ctbl", _slicer(name, classes))
        write_text(folder / f"{name}.itksnap.txt", _itk_snap(classes))
    facts = {name: [_fact(*row) for row in _rows(classes)] for name, classes in label_sets.items()}
    write_text(folder / "labels.json", json.dumps(facts, indent=1) + "\n")


def _rows(classes: Mapping[int, str]) -> list[tuple[int, str, Colour, bool]]:
    """(value, name, colour, shown), by value."""
    background = next(iter(classes))
    shown = {value: value != background for value in classes}
    return [
        (value, classes[value], colour_of(classes[value]) if shown[value] else (0, 0, 0), shown[value])
        for value in sorted(classes)
    ]


def _fact(value: int, name: str, colour: Colour, shown: bool) -> dict[str, object]:
    return {"value": value, "name": name, "colour": "#{:02x}{:02x}{:02x}".format(*colour)}


def _slicer(title: str, classes: Mapping[int, str]) -> str:
    """A colour table: number, name without spaces, red, green, blue, opacity."""
    rows = [
        " ".join(map(str, (value, re.sub(r"\s+", "_", name), *colour, 255 * shown)))
        for value, name, colour, shown in _rows(classes)
    ]
    return "\n".join([f"# Color table file {title}.ctbl", f"# {len(rows)} values", *rows, ""])


def _itk_snap(classes: Mapping[int, str]) -> str:
    """A label description: number, red, green, blue, opacity, seen, seen in 3D, "name". 0 is always its clear label."""
    rows = [] if 0 in classes else [(0, "Clear Label", (0, 0, 0), False)]
    lines = [
        f"{value:5d} {r:5d} {g:4d} {b:4d} {shown:8d} {shown:2d} {shown:2d}    " + f'"{name.replace(chr(34), "")}"'
        for value, name, (r, g, b), shown in rows + _rows(classes)
    ]
    bar = "#" * 48
    head = [bar, "# ITK-SnAP Label Description File", "# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL", bar]
    return "\n".join([*head, *lines, ""])
