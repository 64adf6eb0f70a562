"""Small studies of volumes on disk: arrays in our order (D, H, W), written as NIfTI, and the cohort that names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from m4oe.data.fingerprint import fit_schema
from m4oe.data.table import Cohort, load_cohort
from m4oe.data.volumes.cache import SliceCache
from m4oe.data.volumes.plan import make_plan
from m4oe.schema import Schema
from m4oe.study import parse_study

SPACING = (3.0, 1.0, 1.0)  # of D, H, W


def write_volume(
    path: Path, values: np.ndarray, spacing: Sequence[float] = SPACING, affine: np.ndarray | None = None
) -> str:
    """`values` (D, H, W), or (D, H, W, C), as a NIfTI file whose array is (W, H, D): RAS+, its origin at (5, 6, 7)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if affine is None:
        affine = np.diag([*spacing[::-1], 1.0])
        affine[:3, 3] = (5, 6, 7)
    image = nib.Nifti1Image(np.swapaxes(values, 0, 2), affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return str(path)


def volume(seed: int, shape: Sequence[int] = (6, 20, 16), low: float = 0.0, high: float = 100.0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def block(shape: Sequence[int] = (6, 20, 16), slices: slice = slice(2, 4), index: int = 1) -> np.ndarray:
    """A mask with a block of `index` in some slices."""
    mask = np.zeros(shape, np.uint8)
    mask[slices, 5:10, 4:9] = index
    return mask


def study_of(
    folder: Path,
    cases: Mapping[str, tuple[np.ndarray, np.ndarray]],
    name: str = "s",
    *,
    kind: str = "mr",
    spacing: Sequence[float] = SPACING,
    **facts: Any,
) -> Cohort:
    """The cohort of cases {name: (picture, mask)}, each a patient; `facts` are keys of its task."""
    for case, (picture, mask) in cases.items():
        write_volume(folder / name / f"{case}.nii.gz", picture, spacing)
        write_volume(folder / name / f"{case}_mask.nii.gz", mask, spacing)
    rows = "\n".join(f"{case},{case}.nii.gz,{case}_mask.nii.gz" for case in cases)
    (folder / name / "table.csv").write_text(f"case,image,mask\n{rows}\n", encoding="utf-8")
    task = {"kind": "segmentation", "column": "mask", "on": "image", "classes": ["background", "organ"], **facts}
    content = {
        "name": name,
        "table": "table.csv",
        "exam": "case",
        "inputs": {"image": {"column": "image", "modality": kind, "kind": kind}},
        "tasks": {f"{name}_organs": task},
    }
    return load_cohort(parse_study(content, folder / name / "study.yaml"))


def rows_of(cohorts: Sequence[Cohort], split: str = "train") -> pd.DataFrame:
    """All exams in one split."""
    parts = [
        pd.DataFrame({"study": c.study.name, "exam": c.exams, "patient": c.patients, "split": split, "fold": 0})
        for c in cohorts
    ]
    return pd.concat(parts, ignore_index=True)


def planned(cohorts: Sequence[Cohort], size: tuple[int, int] = (16, 16), **facts: Any) -> Schema:
    """The schema with its plan, all exams being for training."""
    rows = rows_of(cohorts)
    schema = fit_schema(cohorts, rows, 0, size, (8, 8, 8), volumes_as_slices=True)
    return schema.model_copy(update={"plan": make_plan(cohorts, rows, 0, schema, size=size, **facts)})


def cache_of(folder: Path, schema: Schema) -> SliceCache:
    assert schema.plan is not None
    return SliceCache(folder / "cache", schema.plan)
