"""A picture as read: pixels, and where they lie. Axes: C channels · D, H, W slices, rows, columns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy import ndarray

from m4oe.data.readers.facts import Facts
from m4oe.data.readers.window import Window
from m4oe.errors import UserError

MOST_PIXELS = 1_000_000_000


def check_size(shape: Iterable[int], path: Path) -> None:
    """Raises UserError for a header that promises more pixels than a picture may have, before memory is asked for."""
    count = prod(int(length) for length in shape)
    if count > MOST_PIXELS:
        raise UserError(
            f"{path}: promises {count:,} pixels; above {MOST_PIXELS:,} a picture must be made smaller first"
        )


@dataclass(frozen=True)
class Form:
    """What a file's header says: number of spatial axes, of channels, and whether they are red, green and blue."""

    axes: int
    channels: int = 1
    colour: bool = False


@dataclass(frozen=True)
class Orientation:
    """How a file's array (i, j, k) lies in ours (D, H, W).

    grid: (D, H, W) with the axis of a single slice still there · axes: for i, j and k, which of ours it is ·
    flipped: for i, j and k, whether it runs against ours.
    """

    grid: tuple[int, ...]
    axes: tuple[int, ...]
    flipped: tuple[bool, ...]

    def to_file(self, values: ndarray) -> ndarray:
        """`values` (D, H, W), or (H, W) of a single slice, in the order of the file's own array."""
        turned = values.reshape(self.grid).transpose(self.axes)
        return np.flip(turned, [axis for axis, flip in enumerate(self.flipped) if flip])

    def from_file(self, values: ndarray) -> ndarray:
        """`values` (i, j, k) of a file's own array in our order, (D, H, W), the axis of a single slice still there."""
        unflipped = np.flip(values, [axis for axis, flip in enumerate(self.flipped) if flip])
        return unflipped.transpose(np.argsort(self.axes))


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where the pixels of a picture lie: all that is needed to write a mask on its grid.

    shape: (H, W) or (D, H, W) as read · spacing: mm along each of them, or None · affine: (4, 4) from (d, h, w) to
    RAS+ mm, or None · source: the file · orientation: the way back to the array of a NIfTI file, or None.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...] | None = None
    affine: ndarray | None = None
    source: str = ""
    orientation: Orientation | None = None

    def to_file(self, labels: ndarray) -> ndarray:
        """`labels` (*shape) in the order of the source file's own array."""
        return labels if self.orientation is None else self.orientation.to_file(labels)


@dataclass(frozen=True, eq=False)
class Picture:
    """Pixels as read: values (C, H, W) or (C, D, H, W) float32, in physical units or at full bit depth.

    Where a file says how it lies in the patient (NIfTI, a DICOM series), D runs from inferior to superior, H from
    posterior to anterior and W from left to right: RAS+, slowest axis last in that name. Elsewhere axes are the file's.
    spacing, affine, source, orientation: as in Geometry · full_scale: the largest value that the file's format holds,
    None where values are of a physical unit · colour: channels are red, green and blue of one picture · focus: first
    and last + 1 of the rows and columns that matter (the breast of a mammogram), None for all · window: how the file
    asks to be shown, in the unit of values, not applied · facts: what a DICOM header says that may be told · notes:
    sentences about the file that a user should know.
    """

    values: ndarray
    spacing: tuple[float, ...] | None = None
    affine: ndarray | None = None
    source: str = ""
    full_scale: float | None = None
    colour: bool = False
    orientation: Orientation | None = None
    focus: tuple[tuple[int, int], ...] | None = None
    window: Window | None = None
    facts: Facts | None = None
    notes: tuple[str, ...] = ()

    @property
    def side(self) -> str | None:
        """Which breast it shows, where the file's header tells: "left" or "right"."""
        return self.facts.view.side if self.facts is not None else None

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W) or (D, H, W)."""
        return self.values.shape[1:]

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.shape, self.spacing, self.affine, self.source, self.orientation)
