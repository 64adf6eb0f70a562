"""ATLAS23: contrast-enhanced T1 MR of livers with tumours; 60 training cases have masks."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from m4oe.data.sources import volumes
from m4oe.data.sources.layout import find, find_all
from m4oe.data.sources.release import Release, Source, StudyTable

NAMES = r"(im(\d+))"
MASKED_AS = r"lb\2"
CLASSES = ("background", "liver", "tumor")


def read(raw: Path) -> Release:
    """The release in `raw`: imagesTr/im0.nii.gz with labelsTr/lb0.nii.gz; imagesTs where it is there."""
    folder = find(raw, ["imagesTr"], "folder of training images")
    cases = [_part(raw, "train", folder, "labelsTr")]
    cases += [_part(raw, "test", test, "labelsTs") for test in find_all(raw, ["imagesTs"])[:1]]
    table, split, notes = volumes.split(pd.concat(cases, ignore_index=True))
    facts = volumes.facts("atlas23", "mr", "atlas_liver", CLASSES)
    facts["tasks"]["atlas_liver"]["regions"] = {"whole liver": ["liver", "tumor"]}
    return Release((StudyTable(facts | split, table),), volumes.counts_by_part(table, "MR"), notes=notes)


def _part(raw: Path, part: str, images: Path, masks: str) -> pd.DataFrame:
    beside = images.parent / masks
    cases = volumes.paired(raw, part, images, beside if beside.is_dir() else None, names=NAMES, masked_as=MASKED_AS)
    return cases.assign(case=part + "_" + cases["case"])


ATLAS23 = Source(
    title="ATLAS23 (liver and tumour in contrast-enhanced MR)",
    read=read,
    published={"MR train cases": 60, "MR train masks": 60},
)
