"""Numbers of a mask to class indices, a slab at a time. Axes: D, H, W as in a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy import ndarray

from m4oe.errors import UserError

OUTSIDE = -100  # the index of what counts for nothing, as torch's losses ignore it
LARGEST_TABLE = 1 << 16


def class_indices(pixels: ndarray, path: str, values: Sequence[int], ignore: int | None, hint: str = "") -> ndarray:
    """The place in `values` of each of `pixels` (H, W) or (D, H, W), int16; -100 where they are `ignore`.

    Raises UserError for pixels that are not whole, and for one that is neither in `values` nor `ignore`.
    """
    if pixels.ndim not in (2, 3) or pixels.dtype.kind not in "buif":
        raise UserError(f"{path}: an array {pixels.shape} of {pixels.dtype}; a mask is (H, W) or (D, H, W) of integers")
    known = {int(value): index for index, value in enumerate(values)}
    found = sorted({value for slab in pixels for value in _found(slab, path)})
    if sorted(known) == [0, 1] and set(found) - {ignore} <= {0, 255}:
        known[255] = known[1]
    if ignore is not None:
        known[ignore] = OUTSIDE
    if unnamed := [value for value in found if value not in known]:
        more = f" and {len(unnamed) - 1} more" if len(unnamed) > 1 else ""
        raise UserError(
            f"{path}: the mask holds the value {unnamed[0]}{more}, which the task's 'classes' do not name; "
            f"known: {', '.join(map(str, values))}{hint}"
        )
    indices = np.empty(pixels.shape, np.int16)
    places = np.array([known[value] for value in found], np.int16)
    for slab, row in zip(pixels, indices):
        row[...] = places[np.searchsorted(found, slab)]
    return indices


def _found(slab: ndarray, path: str) -> list[int]:
    """The different values of a slab."""
    if slab.dtype.kind == "f" and not (whole := np.isfinite(slab) & (slab == np.rint(slab))).all():
        raise UserError(f"{path}: the mask holds {slab[~whole].flat[0]}; values of a mask are whole numbers")
    if slab.size and slab.min() >= 0 and slab.max() < LARGEST_TABLE:
        return np.flatnonzero(np.bincount(slab.ravel().astype(np.intp))).tolist()
    return np.unique(slab).astype(np.int64).tolist()
