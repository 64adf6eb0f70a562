"""Slices to a volume by their positions, whether they are files of a series or frames of one file.

Sections are of DICOM PS3.3. Axes: i columns, j rows, k slices of the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy import ndarray

from m4oe.data.readers.nifti import oriented
from m4oe.data.readers.picture import Picture
from m4oe.errors import UserError

TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
UNEVEN = 0.05
TILT_MM = 0.05
SAME_PLACE_MM = 0.01
SQUARE = 1e-3
GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")


def placed(slices: Sequence[Any], source: str) -> tuple[ndarray, ndarray]:
    """The order of the slices by position along their normal, and the affine from (i, j, k) to RAS+ mm (C.7.6.2.1.1).

    `slices`: the tags of each. The distance between slices is that of their positions; SliceThickness is not looked
    at. Raises UserError for slices without a place, of several directions or spacings, at one position, with gaps, or
    sheared by a tilted gantry.
    """
    _agree(slices, source)
    along_row, along_column = _directions(slices[0], source)
    normal = np.cross(along_row, along_column)
    positions = np.array([one.ImagePositionPatient for one in slices], float)
    order = np.argsort(positions @ normal, kind="stable")
    step = _step((positions @ normal)[order], source)
    offset = (positions[order[-1]] - positions[order[0]]) / (len(order) - 1) if len(order) > 1 else step * normal
    _check_tilt(offset, normal, source)
    between_rows, between_columns = (float(mm) for mm in slices[0].PixelSpacing)
    affine = np.eye(4)
    affine[:3] = np.stack(
        [along_row * between_columns, along_column * between_rows, offset, positions[order[0]]], axis=1
    )
    return order, TO_RAS @ affine


def volume(planes: ndarray, affine: ndarray, source: str) -> Picture:
    """The picture (1, D, H, W) of `planes` (k, j, i), turned to RAS+."""
    return oriented(planes.transpose(2, 1, 0)[None], affine, source)


def _agree(slices: Sequence[Any], source: str) -> None:
    for key, lengths in zip(GEOMETRY, (3, 6, 2)):
        values = [one.get(key) for one in slices]
        if any(value is None or len(value) != lengths for value in values):
            raise UserError(f"{source}: a slice without a valid {key}; its place in the volume is not known")
        if not np.isfinite(np.asarray(values, float)).all():
            raise UserError(f"{source}: a slice whose {key} is no number; its place in the volume is not known")
    for key, trouble in (("ImageOrientationPatient", "directions"), ("PixelSpacing", "spacings")):
        values = np.array([one.get(key) for one in slices], float)
        if not np.allclose(values, values[0], atol=1e-4):
            raise UserError(f"{source}: holds slices of several {trouble} ({key} differs); keep one series in a folder")


def _directions(tags: Any, source: str) -> tuple[ndarray, ndarray]:
    """Unit vectors along a row and along a column."""
    rows = np.asarray(tags.ImageOrientationPatient, float).reshape(2, 3)
    if not np.allclose(rows @ rows.T, np.eye(2), atol=SQUARE) or min(tags.PixelSpacing) <= 0:
        raise UserError(f"{source}: its rows and columns are not at right angles, or have no size; damaged geometry")
    return rows[0], rows[1]


def _step(depth: ndarray, source: str) -> float:
    """Millimetres from slice to slice, of sorted depths."""
    if len(depth) == 1:
        return 1.0
    steps = np.diff(depth)
    step = float(np.median(steps))
    if steps.min() < SAME_PLACE_MM:
        twice = int((steps < SAME_PLACE_MM).sum())
        raise UserError(
            f"{source}: several slices at one position ({twice} repeat another's: copies, times or echoes); keep one "
            "of each position"
        )
    if np.abs(steps - step).max() > max(UNEVEN * step, SAME_PLACE_MM):
        raise UserError(f"{source}: uneven gaps between slices ({steps.min():g} to {steps.max():g} mm); one is missing")
    return step


def _check_tilt(offset: ndarray, normal: ndarray, source: str) -> None:
    """A sheared volume has no spacing of its own: it would have to be resampled, and its masks with it."""
    sideways = float(np.linalg.norm(offset - (offset @ normal) * normal))
    if sideways > TILT_MM:
        degrees = np.degrees(np.arctan2(sideways, abs(offset @ normal)))
        raise UserError(
            f"{source}: slices shift sideways by {sideways:.2g} mm each (a tilted gantry, {degrees:.1f} degrees), "
            "which is not read; straighten the volume with a converter first"
        )
