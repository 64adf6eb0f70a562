"""A folder with one DICOM series: slices to a volume. Axes: C channels · i columns, j rows, k slices of the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from m4oe.data.readers import dicom
from m4oe.data.readers.nifti import oriented
from m4oe.data.readers.picture import Form, Picture
from m4oe.errors import UserError

TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
UNEVEN = 0.05
TILT_MM = 0.05
SAME = {
    "SeriesInstanceUID": "several series",
    "ImageOrientationPatient": "slices of several directions",
    "Rows": "slices of several sizes",
    "Columns": "slices of several sizes",
    "PixelSpacing": "slices of several spacings",
    "PhotometricInterpretation": "grey and inverted slices",
}


def read(folder: Path) -> Picture:
    """The volume (C, D, H, W) of the slices in `folder`, in the order of their positions, turned to RAS+.

    Raises UserError for a folder without DICOM files or with others, several series, slices of different forms, a
    missing or repeated position, gaps, and a tilted gantry.
    """
    files = listed(folder)
    if len(files) == 1:
        return dicom.read(files[0])
    slices = [dicom.load(path) for path in files]
    _agree(slices, folder)
    order, affine = _placed(slices, folder)
    planes = np.stack([dicom.grey(slices[index], files[index]) for index in order], axis=-1)
    return oriented(planes.transpose(1, 0, 2)[None], TO_RAS @ affine, str(folder))


def form(folder: Path) -> Form:
    """From how many files there are."""
    files = listed(folder)
    return dicom.form(files[0]) if len(files) == 1 else Form(3)


def listed(folder: Path) -> list[Path]:
    """The files of a series, hidden ones and an index (DICOMDIR) left out. Raises UserError where there are none."""
    files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.name != "DICOMDIR")
    if not files:
        raise UserError(f"{folder}: an empty folder; it should hold the slices of one DICOM series")
    if inner := [path for path in files if path.is_dir()]:
        raise UserError(f"{folder}: holds a folder ({inner[0].name}); name the folder of one DICOM series")
    if foreign := [path for path in files if not dicom.is_dicom(path)]:
        raise UserError(f"{foreign[0]}: is not DICOM; a folder that is named as a picture holds one DICOM series alone")
    return files


def _agree(slices: list[Any], folder: Path) -> None:
    if slices[0].PhotometricInterpretation not in dicom.GREY:
        raise UserError(f"{folder}: a DICOM series in colour, which is not read yet")
    for key, trouble in SAME.items():
        if any(key not in one for one in slices):
            raise UserError(f"{folder}: a slice without {key}; its place in the volume is not known")
        if any(_differs(one[key].value, slices[0][key].value) for one in slices):
            raise UserError(f"{folder}: holds {trouble} ({key} differs); keep one series in a folder")


def _differs(a: Any, b: Any) -> bool:
    if isinstance(a, str | int):
        return bool(a != b)
    return len(a) != len(b) or not np.allclose(np.asarray(a, float), np.asarray(b, float), atol=1e-4)


def _placed(slices: list[Any], folder: Path) -> tuple[ndarray, ndarray]:
    """The order of the slices, and the affine from (i, j, k) to the patient's LPS mm (C.7.6.2.1.1)."""
    if any(not one.get("ImagePositionPatient") for one in slices):
        raise UserError(f"{folder}: a slice without ImagePositionPatient; its place in the volume is not known")
    along_row, along_column = np.asarray(slices[0].ImageOrientationPatient, float).reshape(2, 3)
    positions = np.array([one.ImagePositionPatient for one in slices], float)
    depth = positions @ np.cross(along_row, along_column)
    order = np.argsort(depth)
    step = _step(depth[order], folder)
    offset = (positions[order[-1]] - positions[order[0]]) / (len(order) - 1)
    if np.abs(offset - step * np.cross(along_row, along_column)).max() > TILT_MM:
        raise UserError(f"{folder}: slices shift sideways (a tilted gantry), which is not read yet")
    between_rows, between_columns = map(float, slices[0].PixelSpacing)
    affine = np.eye(4)
    affine[:3] = np.stack(
        [along_row * between_columns, along_column * between_rows, offset, positions[order[0]]], axis=1
    )
    return order, affine


def _step(depth: ndarray, folder: Path) -> float:
    """Millimetres from slice to slice."""
    steps = np.diff(depth)
    step = float(np.median(steps))
    if steps.min() < 0.01:
        raise UserError(f"{folder}: several slices at one position (times or echoes); keep one of each position")
    if np.abs(steps - step).max() > max(UNEVEN * step, 0.01):
        raise UserError(f"{folder}: uneven gaps between slices ({steps.min():g} to {steps.max():g} mm); one is missing")
    return step
