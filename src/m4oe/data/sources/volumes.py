"""What the segmentation releases share: NIfTI volumes in folders of parts, with masks of the same names beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from m4oe.data.sources.layout import listing, relative
from m4oe.errors import UserError

NIFTI = r"\.nii(\.gz)?$"
PARTS = {"train": "train", "validation": "test", "test": "test"}  # official part -> split, see `split`


def paired(
    raw: Path, part: str, images: Path, masks: Path | None, *, names: str, masked_as: str = r"\1"
) -> pd.DataFrame:
    """Cases of one part: case, part, scan, mask (paths from `raw` on; an absent mask is an empty cell).

    names: pattern of the stem of an image, whose first group is the case · masked_as: the stem of its mask, with the
    groups of `names`. Raises UserError where no image is called so.
    """
    known = {re.sub(NIFTI, "", file.name): file for file in _volumes(masks)} if masks is not None else {}
    rows = []
    for file in _volumes(images):
        match = re.fullmatch(names, re.sub(NIFTI, "", file.name))
        if match is not None:
            mask = known.get(match.expand(masked_as))
            rows.append((match[1], part, relative(file, raw), relative(mask, raw) if mask else ""))
    if not rows:
        raise UserError(f"{images}: no volume is called like {names}.nii.gz; found {listing(images)}")
    return pd.DataFrame(rows, columns=["case", "part", "scan", "mask"])


def _volumes(folder: Path) -> list[Path]:
    """Volumes by name; hidden files, as macOS leaves them in archives, are none."""
    return sorted(file for file in folder.iterdir() if re.search(NIFTI, file.name) and not file.name.startswith("."))


def split(cases: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any], tuple[str, ...]]:
    """`cases` with a column `split`, what the study says of it, and notes.

    What is official stays in the column `part`. Where the official test has masks, the official parts are the split.
    Elsewhere the official validation is the test, so that nothing is chosen on what is reported; without masks in
    either, patients are drawn at random.
    """
    masked = set(cases.loc[cases["mask"] != "", "part"])
    if "test" in masked:
        return cases.assign(split=cases["part"]), {"split": {"column": "split"}}, ()
    if "validation" in masked:
        note = (
            "the official test has no masks: the official validation is the test split, and validation is drawn from "
            "the official training"
        )
        return cases.assign(split=cases["part"].map(PARTS)), {"split": {"column": "split"}}, (note,)
    note = "only the official training has masks: training, validation and test are drawn from all cases"
    return cases, {"split": {"seed": 0, "fractions": [0.7, 0.15, 0.15]}}, (note,)


def facts(
    name: str, modality: str, task: str, classes: Sequence[str], synonyms: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What the study file of such cases says; every one calls its input `scan`, so that studies train together."""
    organs = {"kind": "segmentation", "column": "mask", "on": "scan", "classes": list(classes)}
    return {
        "name": name,
        "exam": "case",
        "inputs": {"scan": {"column": "scan", "modality": modality, "kind": modality}},
        "tasks": {task: organs | ({"synonyms": dict(synonyms)} if synonyms else {})},
    }


def counts_by_part(cases: pd.DataFrame, what: str) -> dict[str, int]:
    """Number of cases, and of those with a mask, in each official part."""
    counts = {}
    for part, group in cases.groupby("part"):
        counts[f"{what} {part} cases"] = len(group)
        counts[f"{what} {part} masks"] = int((group["mask"] != "").sum())
    return counts
