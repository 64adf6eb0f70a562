"""VinDr-Mammo: an exam is one breast; BI-RADS and density are given for each, and a split for each study."""

from __future__ import annotations

from pathlib import Path

from m4oe.data.sources import breasts
from m4oe.data.sources.layout import find, read_columns, relative
from m4oe.data.sources.release import Release, Source, StudyTable, tally

TABLE = ("breast-level_annotations.csv", "breast_level_annotations.csv")
COLUMNS = {
    "patient": ("study_id",),
    "image": ("image_id",),
    "side": ("laterality",),
    "view": ("view_position",),
    "birads": ("breast_birads",),
    "density": ("breast_density",),
    "part": ("split",),
}
LABELS = ("birads", "density", "part")
PARTS = {"training": "train", "test": "test"}
TASKS = {
    "density": breasts.DENSITY,
    "vindr_birads": {"kind": "ordinal", "column": "birads", "classes": [1, 2, 3, 4, 5]},
}


def read(raw: Path) -> Release:
    """The release in `raw`: the table of breasts, and images/STUDY/IMAGE.dicom."""
    images = read_columns(find(raw, TABLE, "table of breasts"), COLUMNS)
    folder = relative(find(raw, ["images"], "folder of images"), raw)
    images = images.assign(
        kind="ffdm",
        exam=images["patient"] + "_" + images["side"],
        path=folder + "/" + images["patient"] + "/" + images["image"] + ".dicom",
        birads=images["birads"].str.extract(r"(\d)\s*$")[0].fillna(""),
        density=images["density"].str.upper().str.extract(r"([A-D])\s*$")[0].fillna(""),
    )
    table, left_out = breasts.one_row_a_breast(images.sort_values(["exam", "image"], kind="stable"), ("ffdm",))
    columns, notes = {}, []
    for column in LABELS:
        values, disagreeing = breasts.agreed(images[column], images["exam"])
        columns[column] = table["exam"].map(values).fillna("")
        if disagreeing:
            notes.append(f"{disagreeing} breasts whose images disagree on {column}, which is left empty")
    split = columns["part"].map(PARTS).fillna(columns["part"])
    facts = breasts.facts("vindr", ("ffdm",), TASKS, split={"column": "split"})
    breast = images.drop_duplicates("exam")
    counts = {
        "exams": images["patient"].nunique(),
        "images": len(images),
        **tally("breasts of part", breast["part"]),
        **tally("breasts of BI-RADS", breast["birads"]),
        **tally("breasts of density", breast["density"]),
    }
    return Release((StudyTable(facts, table.assign(**columns, split=split)),), counts, left_out, tuple(notes))


VINDR = Source(
    title="VinDr-Mammo",
    read=read,
    published={
        "exams": 5_000,
        "images": 20_000,
        "breasts of part training": 8_000,
        "breasts of part test": 2_000,
        "breasts of BI-RADS 1": 6_703,
        "breasts of BI-RADS 2": 2_338,
        "breasts of BI-RADS 3": 465,
        "breasts of BI-RADS 4": 381,
        "breasts of BI-RADS 5": 113,
        "breasts of density A": 50,
        "breasts of density B": 954,
        "breasts of density C": 7_646,
        "breasts of density D": 1_350,
    },
)
