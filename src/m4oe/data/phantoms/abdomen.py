"""The abdomen cohort: volumes of three modalities in three data sets, each of which outlines organs of its own choice
under names and numbers of its own. A patient is in one data set; the anatomy behind all of them is the same.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from m4oe.data.phantoms import scanner
from m4oe.data.phantoms.anatomy import ORGANS
from m4oe.data.phantoms.tissue import STREAMED, Array
from m4oe.errors import UserError


@dataclass(frozen=True)
class Annotation:
    """What one data set outlines: mask value to class name, and what those names mean elsewhere."""

    kind: str
    task: str
    classes: dict[int, str]
    synonyms: dict[str, str | list[str]] = field(default_factory=dict)

    def values(self) -> Array:
        """The mask value of each organ code of a scan (1 + organs,) uint8: 0 where it is not outlined."""
        known = {organ: value for value, name in self.classes.items() for organ in self._organs(name)}
        return np.array([0, *(known.get(organ, 0) for organ in ORGANS)], np.uint8)

    def _organs(self, name: str) -> list[str]:
        meant = self.synonyms.get(name, name)
        return [meant] if isinstance(meant, str) else meant


ANNOTATIONS: Mapping[str, Annotation] = {
    "ct": Annotation(
        "ct",
        "ct_organs",
        dict(enumerate(("background", "liver", "right_kidney", "spleen", "left_kidney", "aorta", "stomach", "spine"))),
    ),
    "mr": Annotation(
        "mr",
        "mr_organs",
        {0: "background", 63: "hepar", 126: "kidneys", 189: "spleen", 252: "stomach"},
        {"hepar": "liver", "kidneys": ["left_kidney", "right_kidney"]},
    ),
    "ce_mr": Annotation("mr", "ce_lesion", {0: "background", 1: "liver", 2: "tumour"}),
}
MOST_PATIENTS = 3000  # of one study; their numbers have four digits

# How the voxels of a file run through the patient, one patient after the other, where scanners and converters differ.
ORIENTATIONS: Mapping[str, tuple[str, ...]] = {
    "ct": ("LPS", "RAS", "LAS"),
    "mr": ("LPS", "RAS", "PIR", "ASL"),
    "ce_mr": ("LPS", "LAI", "RAS"),
}


def write_abdomen(folder: Path | str, *, patients: int = 12, seed: int = 0, size: int = 96) -> list[Path]:
    """Writes three studies (folders ct, mr and ce_mr with NIfTI images and masks, volumes.csv, study.yaml); returns the
    paths of their study.yaml.

    patients: in each study, one volume of each · size: voxels of a row, over 31 to 39 cm; slices are 4.5 to 6 mm thick.
    Tumours are in patients of ce_mr only, in all of them. Equal arguments write equal bytes.

    Raises UserError for patients outside 2..MOST_PATIENTS, or fewer than 48 voxels.
    """
    if not 2 <= patients <= MOST_PATIENTS or size < 48:
        raise UserError(
            f"an abdomen cohort needs patients from 2 to {MOST_PATIENTS}, and size >= 48; "
            f"got patients={patients}, size={size}"
        )
    numbers = 1000 + np.random.default_rng([seed, 0]).permutation(9000).reshape(-1, MOST_PATIENTS)
    return [
        _write_study(Path(folder) / modality, modality, own[:patients].tolist(), (seed, place), size)
        for place, (modality, own) in enumerate(zip(ANNOTATIONS, numbers), start=1)
    ]


def _write_study(folder: Path, modality: str, numbers: list[int], key: tuple[int, int], size: int) -> Path:
    """Patients have generators of their own, so that the first ones stay the same when there are more."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    annotation, ways = ANNOTATIONS[modality], ORIENTATIONS[modality]
    exams = [f"{modality}_{number}" for number in numbers]
    for row, exam in enumerate(exams):
        found = scanner.scan(np.random.default_rng([*key, row]), modality, size)
        way = ways[row % len(ways)]
        _write_nifti(folder / "images" / f"{exam}.nii.gz", found.values, found.affine, way)
        _write_nifti(folder / "masks" / f"{exam}.nii.gz", annotation.values()[found.organs], found.affine, way)
    table = pd.DataFrame({"exam_id": exams, "patient_id": [f"P{number}" for number in numbers]})
    for name in ("image", "mask"):
        table[name] = [f"{name}s/{exam}.nii.gz" for exam in exams]
    table.to_csv(folder / "volumes.csv", index=False)
    path = folder / "study.yaml"
    text = yaml.safe_dump(_study(modality, annotation), sort_keys=False, default_flow_style=None, width=120)
    path.write_text(_HEADING + text, "utf-8")
    return path


def _write_nifti(path: Path, volume: Array, affine: Array, way: str) -> None:
    """Writes `volume`, stored so that its axes run as `way` says; the same bytes for the same volume (gzip would store
    the time)."""
    import nibabel as nib

    plain = nib.Nifti1Image(volume, affine)
    plain.header.set_xyzt_units("mm")
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(way))
    turned = plain.as_reoriented(turn)
    turned.set_qform(turned.affine, code=1)
    turned.set_sform(turned.affine, code=1)
    path.write_bytes(gzip.compress(turned.to_bytes(), STREAMED, mtime=0))


_HEADING = "# A generated abdomen cohort: one of three data sets that share organs, not labels.\n"


def _study(modality: str, annotation: Annotation) -> dict[str, Any]:
    task: dict[str, Any] = {"column": "mask", "kind": "segmentation", "on": "image", "classes": annotation.classes}
    if annotation.synonyms:
        task["synonyms"] = annotation.synonyms
    return {
        "name": f"abdomen-{modality.replace('_', '-')}",
        "table": "volumes.csv",
        "exam": "exam_id",
        "patient": "patient_id",
        "inputs": {"image": {"column": "image", "modality": modality, "kind": annotation.kind}},
        "tasks": {annotation.task: task},
        "split": {"seed": 0, "fractions": [0.6, 0.15, 0.25]},
    }
