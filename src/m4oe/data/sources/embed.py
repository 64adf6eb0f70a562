"""EMBED, the open release: an exam is one breast at one date, in up to two kinds of picture and two views."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from m4oe.data.sources import breasts, embed_labels
from m4oe.data.sources.layout import find, read_columns, relative
from m4oe.data.sources.release import Release, Source, StudyTable

METADATA = ("EMBED_OpenData_metadata.csv", "EMBED_OpenData_metadata_reduced.csv")
CLINICAL = ("EMBED_OpenData_clinical.csv", "EMBED_OpenData_clinical_reduced.csv")
COHORTS = ("cohort_1", "cohort_2", "cohort1", "cohort2")
IMAGE_COLUMNS = {
    "patient": ("empi_anon",),
    "accession": ("acc_anon",),
    "path": ("anon_dicom_path",),
    "type": ("FinalImageType",),
    "side": ("ImageLateralityFinal",),
    "view": ("ViewPosition",),
    "special": ("spot_mag",),
    "date": ("study_date_anon",),
}
FINDING_COLUMNS = {
    "patient": ("empi_anon",),
    "accession": ("acc_anon",),
    "date": ("study_date_anon",),
    "side": ("side",),
    "assessment": ("asses",),
    "density": ("tissueden",),
    "severity": ("path_severity",),
    "specimen_side": ("bside",),
    "procedure_date": ("procdate_anon",),
}
TYPES = {"2d": "ffdm", "cview": "synthetic2d", "c-view": "synthetic2d"}
SPECIAL = ("1", "true", "yes")
KINDS = ("ffdm", "synthetic2d")
TASKS = {
    "density": breasts.DENSITY,
    "embed_birads": {"kind": "ordinal", "column": "birads_group", "classes": ["negative", "benign", "suspicious"]},
    "risk": {"kind": "survival", "time": "years", "event": "cancer", "horizons": [1, 2, 3, 4, 5]},
}


def read(raw: Path) -> Release:
    """The release in `raw`. Raises UserError where tables or images are not where they are expected."""
    images = read_columns(find(raw, METADATA, "table of images"), IMAGE_COLUMNS, ["AcquisitionTime"])
    findings = read_columns(find(raw, CLINICAL, "table of findings"), FINDING_COLUMNS, ["desc", "age_at_study"])
    images = _with_paths(images, raw)
    special = images["special"].str.lower().isin(SPECIAL)
    male = set(findings.loc[findings["density"] == embed_labels.MALE, "accession"])
    men = images["accession"].isin(male)
    table, left_out = breasts.one_row_a_breast(_ordered(images[~special & ~men]), KINDS)
    labels, notes = embed_labels.label(table, images, findings)
    left_out = {
        "images of special views (spot compression, magnification)": int(special.sum()),
        "images of exams of men (tissueden 5)": int((men & ~special).sum()),
        **left_out,
    }
    counts = {
        "patients": images["patient"].nunique(),
        "exams": images["accession"].nunique(),
        "images": len(images),
    }
    study = StudyTable(breasts.facts("embed", KINDS, TASKS), table.join(labels))
    return Release((study,), counts, {what: count for what, count in left_out.items() if count}, notes)


def _with_paths(images: pd.DataFrame, raw: Path) -> pd.DataFrame:
    """`images` with paths from `raw` on, an exam for each breast, and our name of each type of image."""
    folder = relative(find(raw, COHORTS, "folder of images (images/cohort_1/PATIENT/EXAM/IMAGE.dcm)").parent, raw)
    paths = images["path"].map(lambda path: re.sub(r"^.*?(?=cohort_?\d+/)", "", path.replace("\\", "/")))
    return images.assign(
        path=paths if folder == "." else f"{folder}/" + paths,
        exam=images["accession"] + "_" + images["side"],
        kind=images["type"].str.lower().map(TYPES).fillna(""),
        view=images["view"].str.upper(),
    )


def _ordered(images: pd.DataFrame) -> pd.DataFrame:
    """By time of acquisition where the table has it, then by path: the order in which repeats were made."""
    return images.sort_values(["exam", "AcquisitionTime", "path"], kind="stable")


EMBED = Source(
    title="EMBED, open data (Emory breast imaging)",
    read=read,
    published={"patients": 22_382, "exams": 76_373, "images": 480_323},
)
