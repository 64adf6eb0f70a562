"""FLARE22: abdominal CT with 13 organs; 50 training and 50 tuning cases have masks."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from m4oe.data.sources import volumes
from m4oe.data.sources.layout import find, find_all, number_in
from m4oe.data.sources.release import Release, Source, StudyTable

TRAINING = ("FLARE22_LabeledCase50", "FLARE_LabeledCase50", "FLARE22_LabeledCase50-20220324T003930Z-001", "train")
TUNING = ("Tuning", "Validation", "FLARE22_Tuning")
TESTING = ("Testing", "Test")
UNLABELLED = ("FLARE22_UnlabeledCase1-1000", "FLARE22_UnlabeledCase1001-2000")
NAMES = r"((?:FLARE22_Tr|FLARETs)_\d+)(?:_0000)?"
CLASSES = (
    "background",
    "liver",
    "right kidney",
    "spleen",
    "pancreas",
    "aorta",
    "inferior vena cava",
    "right adrenal gland",
    "left adrenal gland",
    "gallbladder",
    "esophagus",
    "stomach",
    "duodenum",
    "left kidney",
)


def read(raw: Path) -> Release:
    """The release in `raw`: the labelled training cases, and tuning and testing where they are there."""
    cases = [_part(raw, "train", find(raw, TRAINING, "folder of labelled cases"))]
    for part, names in (("validation", TUNING), ("test", TESTING)):
        cases += [_part(raw, part, folder) for folder in find_all(raw, names)[:1]]
    table = pd.concat(cases, ignore_index=True)
    table, split, notes = volumes.split(table.assign(case=table["part"] + "_" + table["case"].map(number_in_case)))
    unlabelled = sum(len(list(folder.rglob("*.nii.gz"))) for folder in find_all(raw, UNLABELLED))
    left_out = {"unlabelled training cases": unlabelled} if unlabelled else {}
    facts = volumes.facts("flare22", "ct", "flare_organs", CLASSES) | split
    return Release((StudyTable(facts, table),), volumes.counts_by_part(table, "CT"), left_out, notes)


def _part(raw: Path, part: str, folder: Path) -> pd.DataFrame:
    """Cases of a part, whose images lie in `images` or, as those of testing, in the folder itself."""
    images = folder / "images" if (folder / "images").is_dir() else folder
    masks = folder / "labels"
    return volumes.paired(raw, part, images, masks if masks.is_dir() else None, names=NAMES)


def number_in_case(case: str) -> str:
    """The number alone: cases of tuning and testing share their names."""
    return f"{number_in(case.rpartition('_')[2]):04d}"


FLARE22 = Source(
    title="FLARE22 (abdominal organs in CT)",
    read=read,
    published={
        "CT train cases": 50,
        "CT train masks": 50,
        "CT validation cases": 50,
        "CT validation masks": 50,
        "CT test cases": 200,
    },
)
