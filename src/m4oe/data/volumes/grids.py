"""Masks on the grids of their pictures: whether they lie there, and what to do where they do not."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy import ndarray

from m4oe.data.readers import Geometry, Picture
from m4oe.errors import UserError

Fix = Literal["resample", "copy_affine"]


def labels_on(geometry: Geometry, mask: Picture, fix: Fix | None = None) -> ndarray:
    """The labels of `mask` on the grid of a picture, int16 (*geometry.shape).

    fix: what to do with a mask that lies elsewhere: "resample" takes the label of the mask's pixel nearest in space,
    and background where it has none · "copy_affine" takes the mask's array as if its file had the picture's affine.
    Raises UserError, with both shapes and affines, for a mask that lies elsewhere and no fix, or one that cannot be.
    """
    labels: ndarray = mask.values[0]
    if fits(geometry, mask):
        return labels
    if fix == "copy_affine":
        return _as_stored(geometry, mask)
    if fix == "resample" and geometry.affine is not None and mask.affine is not None:
        return _resampled(geometry, mask)
    raise UserError(f"{complaint(geometry, mask)}; {_advice(geometry, mask, fix)}")


def fits(geometry: Geometry, mask: Picture) -> bool:
    """Whether `mask` is of the shape of the picture, and lies within half a pixel of it where both say how they lie."""
    if mask.shape != geometry.shape:
        return False
    if mask.affine is None or geometry.affine is None:
        return True
    grid = _grid(geometry)
    if _grid(mask.geometry) != grid:
        return False
    corners = np.array([(*np.multiply(place, np.subtract(grid, 1)), 1) for place in np.ndindex(2, 2, 2)], float)
    apart = np.linalg.norm(corners @ (mask.affine - geometry.affine).T, axis=1).max()
    return bool(apart <= 0.5 * np.linalg.norm(geometry.affine[:3, :3], axis=0).min())


def complaint(geometry: Geometry, mask: Picture) -> str:
    """What differs between a mask and its picture, as their own headers say it."""
    sides = _described(mask.geometry), _described(geometry)
    return f"the mask {mask.source} is {sides[0]}, and its picture {geometry.source} {sides[1]}"


def _advice(geometry: Geometry, mask: Picture, fix: Fix | None) -> str:
    if geometry.affine is None or mask.affine is None:
        return "a mask has the shape of its picture, and these files do not tell how they lie: correct one of them"
    same = sorted(_grid(geometry)) == sorted(_grid(mask.geometry))
    offers = ["'fix: resample' (the nearest label in space)"]
    offers += ["'fix: copy_affine' (only the affine of the mask is wrong)"] if same else []
    return f"save the mask on the picture's grid, or give the task {' or '.join(offers)}"


def _as_stored(geometry: Geometry, mask: Picture) -> ndarray:
    stored = mask.geometry.to_file(mask.values[0])
    turned = stored if geometry.orientation is None else _turned(geometry, stored)
    if turned is None or turned.size != np.prod(geometry.shape):
        raise UserError(f"{complaint(geometry, mask)}; 'fix: copy_affine' needs one shape, 'fix: resample' does not")
    return turned.reshape(geometry.shape)


def _turned(geometry: Geometry, stored: ndarray) -> ndarray | None:
    orientation = geometry.orientation
    if orientation is None or stored.ndim != 3:
        return None
    turned = orientation.from_file(stored)
    return turned if turned.shape == tuple(orientation.grid) else None


def _resampled(geometry: Geometry, mask: Picture) -> ndarray:
    """Slice by slice of the picture, so that coordinates of no more than one are in memory."""
    labels = mask.values[0].reshape(_grid(mask.geometry))
    depth, height, width = _grid(geometry)
    there = np.linalg.inv(mask.affine) @ geometry.affine
    found = np.zeros((depth, height, width), labels.dtype)
    rows, columns = np.mgrid[:height, :width]
    for slice_ in range(depth):
        places = np.rint(
            np.tensordot(there[:3, :3], np.stack([np.full_like(rows, slice_), rows, columns]), 1)
            + there[:3, 3, None, None]
        ).astype(int)
        inside = np.all((places >= 0) & (places < np.reshape(labels.shape, (3, 1, 1))), axis=0)
        found[slice_][inside] = labels[tuple(axis[inside] for axis in places)]
    return found.reshape(geometry.shape)


def _grid(geometry: Geometry) -> tuple[int, ...]:
    """(D, H, W), with the axis of a single slice still there."""
    return tuple(geometry.orientation.grid) if geometry.orientation else (1, *geometry.shape)[-3:]


def _described(geometry: Geometry) -> str:
    """Shape and affine of a file's own array (i, j, k)."""
    turn, affine = geometry.orientation, geometry.affine
    if turn is None or affine is None:
        return " x ".join(map(str, geometry.shape))
    stored, flips = affine[:, list(turn.axes)], np.array(turn.flipped)
    shape = [turn.grid[axis] for axis in turn.axes]
    origin = affine[:, 3] + stored[:, flips] @ (np.array(shape) - 1)[flips]
    own = np.column_stack([np.where(flips, -stored, stored), origin])[:3]
    return f"{' x '.join(map(str, shape))} with the affine {(np.round(own, 3) + 0.0).tolist()}"
