"""AMOS22: abdominal CT and MR in one folder, with 15 organs; two studies that share a task.

CT and MR are told apart as the release says: numbers below 500 are CT, the others MR.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from m4oe.data.sources import volumes
from m4oe.data.sources.layout import find, find_all, number_in
from m4oe.data.sources.release import Release, Source, StudyTable

FIRST_MR = 500
PARTS = {"train": ("imagesTr", "labelsTr"), "validation": ("imagesVa", "labelsVa"), "test": ("imagesTs", "labelsTs")}
NAMES = r"(amos_\d+)(?:_0000)?"
CLASSES = (
    "background",
    "spleen",
    "right kidney",
    "left kidney",
    "gall bladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "postcava",
    "pancreas",
    "right adrenal gland",
    "left adrenal gland",
    "duodenum",
    "bladder",
    "prostate/uterus",
)
MISSPELT = {"arota": "aorta"}  # so in the release's dataset.json
SYNONYMS = {"gall bladder": "gallbladder", "postcava": "inferior vena cava"}  # what FLARE22 calls them


def read(raw: Path) -> Release:
    """The release in `raw`: imagesTr with labelsTr, and imagesVa and imagesTs where they are there."""
    find(raw, ["imagesTr"], "folder of training images")
    table = pd.concat([_part(raw, part) for part in PARTS if find_all(raw, PARTS[part][:1])], ignore_index=True)
    modality = (table["case"].map(number_in) < FIRST_MR).map({True: "ct", False: "mr"})
    studies: list[StudyTable] = []
    counts: dict[str, int] = {}
    notes = dict.fromkeys(_label_notes(raw))
    for name in ("ct", "mr"):
        cases = table[modality == name].reset_index(drop=True)
        counts |= volumes.counts_by_part(cases, name.upper())
        if len(cases):
            cases, split, remarks = volumes.split(cases)
            notes |= dict.fromkeys(remarks)
            facts = volumes.facts(f"amos22-{name}", name, "amos_organs", CLASSES, SYNONYMS)
            studies.append(StudyTable(facts | split, cases))
    return Release(tuple(studies), counts, notes=tuple(notes))


def _part(raw: Path, part: str) -> pd.DataFrame:
    images, masks = PARTS[part]
    folder = find(raw, [images], f"folder of {part} images")
    beside = folder.parent / masks
    return volumes.paired(raw, part, folder, beside if beside.is_dir() else None, names=NAMES)


def _label_notes(raw: Path) -> list[str]:
    """A note where the dataset.json at hand numbers the organs otherwise than ours, which was made from it."""
    for path in find_all(raw, ["dataset.json"])[:1]:
        try:
            labels = json.loads(path.read_text(encoding="utf-8")).get("labels", {})
        except (ValueError, AttributeError):
            return [f"{path.name} is not readable; the organs are numbered as in the release of 2022"]
        theirs = {str(value): MISSPELT.get(name, name) for value, name in dict(labels).items()}
        if theirs and theirs != {str(value): name for value, name in enumerate(CLASSES)}:
            return [f"{path.name} numbers the organs otherwise than the release of 2022; check the study's 'classes'"]
    return []


AMOS22 = Source(
    title="AMOS22 (abdominal organs in CT and MR)",
    read=read,
    published={
        "CT train cases": 200,
        "CT train masks": 200,
        "CT validation cases": 100,
        "CT validation masks": 100,
        "CT test cases": 200,
        "MR train cases": 40,
        "MR train masks": 40,
        "MR validation cases": 20,
        "MR validation masks": 20,
        "MR test cases": 40,
    },
)
