"""RSNA 2022, screening mammography: an exam is one breast of a patient."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from m4oe.data.sources import breasts
from m4oe.data.sources.layout import find, find_all, read_columns, relative
from m4oe.data.sources.release import Release, Source, StudyTable, tally

COLUMNS = {
    "patient": ("patient_id",),
    "image": ("image_id",),
    "side": ("laterality",),
    "view": ("view",),
    "site": ("site_id",),
}
LABELS = ("cancer", "BIRADS", "density")
ABOUT = ("age", "implant", "machine_id", "biopsy", "invasive", "difficult_negative_case")
TASKS = {
    "cancer": {"kind": "binary", "column": "cancer"},
    "density": breasts.DENSITY,
    "rsna_birads": {
        "kind": "multiclass",
        "column": "BIRADS",
        "classes": {0: "follow-up", 1: "negative", 2: "benign"},
    },
}


def read(raw: Path) -> Release:
    """The release in `raw`: train.csv with its images, and test.csv where it is there."""
    train = _part(raw, find(raw, ["train.csv"], "table of training images"), "train")
    tests = [_part(raw, path, "test") for path in find_all(raw, ["test.csv"])[:1] if find_all(raw, ["test_images"])]
    images = pd.concat([train, *tests], ignore_index=True)
    images = images.assign(kind="ffdm", exam=images["patient"] + "_" + images["side"], view=images["view"].str.upper())
    table, left_out = breasts.one_row_a_breast(images.sort_values(["exam", "image"], kind="stable"), ("ffdm",))
    columns, notes = {}, []
    for column in (*LABELS, "site", "part", *ABOUT):
        values, disagreeing = breasts.agreed(images[column], images["exam"])
        columns[column] = table["exam"].map(values).fillna("")
        if disagreeing and column in LABELS:
            notes.append(f"{disagreeing} breasts whose images disagree on {column}, which is left empty")
    study = StudyTable(breasts.facts("rsna", ("ffdm",), TASKS, groups=["site"]), table.assign(**columns))
    return Release((study,), _counts(train), left_out, tuple(notes))


def _part(raw: Path, path: Path, part: str) -> pd.DataFrame:
    """Images of one part, with the column `part`; labels that its table does not have are empty."""
    images = read_columns(path, COLUMNS, (*LABELS, *ABOUT))
    folder = relative(find(raw, [f"{part}_images"], f"folder of {part} images"), raw)
    return images.assign(part=part, path=folder + "/" + images["patient"] + "/" + images["image"] + ".dcm")


def _counts(train: pd.DataFrame) -> dict[str, int]:
    """Of the training part, by image, as the table was published."""
    return {
        "training patients": train["patient"].nunique(),
        "training images": len(train),
        **tally("training images of cancer", train["cancer"]),
        **tally("training images of BIRADS", train["BIRADS"]),
        **tally("training images of density", train["density"]),
        **tally("training images of site", train["site"]),
    }


RSNA = Source(
    title="RSNA 2022 screening mammography",
    read=read,
    published={
        "training patients": 11_913,
        "training images": 54_706,
        "training images of cancer 0": 53_548,
        "training images of cancer 1": 1_158,
        "training images of BIRADS 0": 8_249,
        "training images of BIRADS 1": 15_772,
        "training images of BIRADS 2": 2_265,
        "training images of density A": 3_105,
        "training images of density B": 12_651,
        "training images of density C": 12_175,
        "training images of density D": 1_539,
        "training images of site 1": 29_519,
        "training images of site 2": 25_187,
    },
)
