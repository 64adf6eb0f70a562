"""GAMMA: an exam is one eye, with a colour photograph of its fundus and an OCT volume of its macula.

The release has a folder for each of three tasks, which share their eyes by number; each part of it (training,
testing) has the pictures as multi-modality_images/0001/0001.jpg and the slices of the volume in 0001/0001/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from m4oe.data.sources.layout import find_all, listing, number_in, read_columns, relative
from m4oe.data.sources.release import Release, Source, StudyTable
from m4oe.errors import UserError

PICTURES = ("multi-modality_images", "multi_modality_images")
GRADES = ("glaucoma_grading_training_GT.xlsx", "glaucoma_grading_training_GT.csv")
FOVEAE = ("fovea_localization_training_GT.xlsx", "fovea_localization_training_GT.csv")
MASKS = ("Disc_Cup_Mask", "Disc_Cup_Masks")
GRADE_COLUMNS = {"number": ("data",), "normal": ("non",), "early": ("early",), "progressive": ("mid_advanced",)}
FOVEA_COLUMNS = {"number": ("data",), "fovea_x": ("Fovea_X", "fovea_x"), "fovea_y": ("Fovea_Y", "fovea_y")}
CLASSES = ("normal", "early", "progressive")
RASTER = (".png", ".jpg", ".jpeg", ".bmp")
FACTS = {
    "name": "gamma",
    "exam": "exam",
    "inputs": {
        "fundus": {"column": "fundus", "modality": "fundus", "kind": "photo"},
        "oct": {"column": "oct", "modality": "oct", "kind": "oct"},
    },
    "tasks": {
        "glaucoma": {"kind": "ordinal", "column": "glaucoma", "classes": list(CLASSES)},
        "optic": {
            "kind": "segmentation",
            "column": "mask",
            "on": "fundus",
            "classes": {255: "background", 128: "rim", 0: "cup"},
            "regions": {"disc": ["rim", "cup"]},
        },
    },
    "split": {"seed": 0, "fractions": [0.7, 0.15, 0.15]},
}


def read(raw: Path) -> Release:
    """The release in `raw`. Labels exist for the training part alone; other parts stay in with empty cells."""
    eyes = pd.concat([_eyes(folder, raw) for folder in _parts(raw)], ignore_index=True)
    training = eyes["part"] == "training"
    grades, foveae = _grades(raw), _foveae(raw)
    masks = _masks(raw)
    number = eyes["number"].where(training, -1)
    table = eyes.assign(
        glaucoma=number.map(grades).fillna(""),
        mask=number.map(masks).fillna(""),
        fovea_x=number.map(foveae["fovea_x"]).fillna(""),
        fovea_y=number.map(foveae["fovea_y"]).fillna(""),
    )
    notes = [f"no {what} found; its column is empty" for what, there in _optional(masks, foveae).items() if not there]
    counts = {
        "pairs": len(table),
        "training pairs": int(training.sum()),
        **{f"grade {name}": int((table["glaucoma"] == name).sum()) for name in CLASSES},
        "masks": int((table["mask"] != "").sum()),
    }
    study = StudyTable(FACTS, table.drop(columns="number"))
    return Release((study,), counts, notes=tuple(notes), stacks=frozenset({"oct"}))


def _parts(raw: Path) -> list[Path]:
    """The folders of pictures, one for each part. Raises UserError where none is for training."""
    folders = {_part(folder): folder for folder in reversed(find_all(raw, PICTURES))}
    if "training" not in folders:
        raise UserError(
            f"{raw}: no pictures for training: expected Glaucoma_grading/training/multi-modality_images/0001/0001.jpg; "
            f"found {listing(raw)}"
        )
    return [folders[part] for part in sorted(folders, key=lambda part: (part != "training", part))]


def _part(folder: Path) -> str:
    """training, validation, testing ... by the folder above; a folder alone is the one for training."""
    above = folder.parent.name.lower()
    known = {"train": "training", "val": "validation", "test": "testing"}
    return next((part for start, part in known.items() if above.startswith(start)), "training")


def _eyes(folder: Path, raw: Path) -> pd.DataFrame:
    """A row for each eye of a part; a picture that is not there is an empty cell."""
    part, rows = _part(folder), []
    for eye in sorted(child for child in folder.iterdir() if child.is_dir() and child.name.isdigit()):
        photographs = [file for file in sorted(eye.iterdir()) if file.is_file() and file.suffix.lower() in RASTER]
        slices = eye / eye.name
        rows.append(
            {
                "exam": f"{part}_{eye.name}",
                "part": part,
                "number": int(eye.name),
                "fundus": relative(photographs[0], raw) if photographs else "",
                "oct": relative(slices, raw) if slices.is_dir() else "",
            }
        )
    if not rows:
        raise UserError(f"{folder}: no folders of eyes: expected 0001, 0002, ...; found {listing(folder)}")
    return pd.DataFrame(rows)


def _grades(raw: Path) -> dict[int, str]:
    """Grade of each training eye. Raises UserError for a row that has not exactly one."""
    tables = find_all(raw, GRADES)
    if not tables:
        raise UserError(f"{raw}: no table of grades: expected {' or '.join(GRADES)}; found {listing(raw)}")
    rows = _numbered(tables[0], GRADE_COLUMNS)
    ones = rows[list(CLASSES)] == "1"
    for line in rows.index[ones.sum(axis=1) != 1]:
        raise UserError(f"{tables[0]}, row {line}: exactly one of non, early and mid_advanced should be 1")
    return dict(zip(rows["number"], ones.idxmax(axis=1)))


def _foveae(raw: Path) -> pd.DataFrame:
    """fovea_x and fovea_y, in pixels of the photograph, by number; empty where the release at hand has no table."""
    tables = find_all(raw, FOVEAE)
    rows = _numbered(tables[0], FOVEA_COLUMNS) if tables else pd.DataFrame(columns=list(FOVEA_COLUMNS))
    return rows.drop_duplicates("number").set_index("number")


def _numbered(path: Path, columns: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """A table of eyes, their numbers as such. Raises UserError for a row without a whole number."""
    rows = read_columns(path, columns)
    for line in rows.index[~rows["number"].str.fullmatch(r"\d+")]:
        raise UserError(f"{path}, row {line}, column {columns['number'][0]!r}: not the number of an eye")
    return rows.assign(number=rows["number"].astype(int))


def _masks(raw: Path) -> dict[int, str]:
    folders = find_all(raw, MASKS)
    files = [file for file in sorted(folders[0].iterdir()) if file.suffix.lower() in RASTER] if folders else []
    return {number_in(file.stem): relative(file, raw) for file in files}


def _optional(masks: dict[int, str], foveae: pd.DataFrame) -> dict[str, bool]:
    return {f"masks ({' or '.join(MASKS)})": bool(masks), f"positions of the fovea ({FOVEAE[0]})": len(foveae) > 0}


GAMMA = Source(
    title="GAMMA (glaucoma grading from fundus and OCT)",
    read=read,
    published={
        "pairs": 300,
        "training pairs": 100,
        "grade normal": 50,
        "grade early": 26,
        "grade progressive": 24,
        "masks": 100,
    },
)
