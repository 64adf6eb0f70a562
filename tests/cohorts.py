"""Small studies on disk: a table from text, pictures that are really there, and the study that names them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from m4oe.data.table import Cohort, load_cohort
from m4oe.study import Study, parse_study

PICTURE = {"column": "path", "modality": "ffdm", "kind": "mammogram"}
BINARY = {"kind": "binary", "column": "y"}


def write_pictures(folder: Path, names: Iterable[str], size: tuple[int, int] = (8, 6)) -> None:
    """Pictures (H, W) of noise, each another one."""
    for seed, name in enumerate(names):
        pixels = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)


def study(folder: Path, text: str, **facts: Any) -> Study:
    """A study in `folder` of a table with this `text`; one picture `path` and one label `y`, unless told otherwise."""
    (folder / "table.csv").write_text(text, encoding="utf-8")
    content = {"name": "s", "table": "table.csv", "inputs": {"cc": PICTURE}, "tasks": {"y": BINARY}, **facts}
    return parse_study(content, folder / "study.yaml")


def cohort(folder: Path, text: str, **facts: Any) -> Cohort:
    return load_cohort(study(folder, text, **facts))


def labelled(folder: Path, labels: Iterable[str], **facts: Any) -> Cohort:
    """Patients p0, p1, ... with a plain variable and these labels, and no picture."""
    rows = "\n".join(f"p{number},{number},{label}" for number, label in enumerate(labels))
    inputs = {"age": {"columns": ["age"], "modality": "clinical", "kind": "table"}}
    return cohort(
        folder, f"patient,age,y\n{rows}\n", **{"inputs": inputs, "exam": "patient", "patient": "patient", **facts}
    )
