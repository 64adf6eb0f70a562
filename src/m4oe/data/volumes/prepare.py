"""A picture as slices for a network, and the way back. Axes: S slices · C channels · h, w rows and columns as prepared.

An image is a stack of one slice. Slices are made when they are asked for: of a volume, no second copy is held.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy import ndarray
from torch import Tensor

from m4oe.data.readers import Picture
from m4oe.errors import UserError
from m4oe.schema import Preparation

LARGEST_Z = 5.0
LOW, HIGH = 0.5, 99.5
FOREGROUND = 0.1  # of the way from the darkest to the brightest half percent
MOST_PIXELS = 2_000_000  # that a statistic of one volume looks at
ANOTHER_UNIT = 100.0  # times larger or smaller than prepared: what no pixel is, unless its file means another unit


@dataclass(frozen=True)
class Way:
    """The way between a picture's grid and its slices, and back.

    shape: (H, W) or (D, H, W) of the picture · axis: of the picture, along which slices are stacked; an image has
    none · inner: (h, w), rows and columns of a slice as prepared.
    """

    shape: tuple[int, ...]
    axis: int
    inner: tuple[int, int]

    @property
    def slices(self) -> int:
        return 1 if len(self.shape) == 2 else self.shape[self.axis]

    @property
    def plane(self) -> tuple[int, int]:
        """Rows and columns of a slice on the picture's own grid."""
        rows, columns = (length for axis, length in enumerate(self.shape) if len(self.shape) == 2 or axis != self.axis)
        return rows, columns

    def stack(self, values: ndarray) -> ndarray:
        """`values` (..., *shape) as a stack (S, ..., rows, columns): a view, to be written through as well."""
        if len(self.shape) == 2:
            return values[None]
        return np.moveaxis(values, values.ndim - 3 + self.axis, 0)

    def there(self, slices: Tensor) -> Tensor:
        """Slices (n, C, rows, columns) of the picture as (n, C, h, w), averaged where it shrinks."""
        if tuple(slices.shape[-2:]) == self.inner:
            return slices
        return F.interpolate(slices, self.inner, mode="bilinear", align_corners=False, antialias=True)

    def back(self, scores: Tensor) -> Tensor:
        """Scores (n, C, h, w) on the picture's own grid, (n, C, rows, columns), linear between pixels."""
        if tuple(scores.shape[-2:]) == self.plane:
            return scores
        return F.interpolate(scores, self.plane, mode="bilinear", align_corners=False)

    def labels_there(self, labels: ndarray) -> ndarray:
        """Labels (n, rows, columns) as (n, h, w), each that of the nearest pixel."""
        if labels.shape[1:] == self.inner:
            return labels
        rows, columns = (
            ((np.arange(new) + 0.5) * (old / new)).astype(int) for new, old in zip(self.inner, labels.shape[1:])
        )
        return labels[:, rows[:, None], columns]


@dataclass(frozen=True, eq=False)
class Slices:
    """S prepared slices (S, C, h, w), each made when it is asked for: [4] is (C, h, w), [2:5] and [[0, 3]] are stacks.

    stack: (S, C, rows, columns) as read · offset, scale, low, high: (C, 1, 1); values are clipped to low and high, then
    the offset is subtracted and the scale divided by.
    """

    stack: ndarray
    way: Way
    offset: ndarray
    scale: ndarray
    low: ndarray
    high: ndarray

    def __len__(self) -> int:
        return len(self.stack)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (*self.stack.shape[:2], *self.way.inner)

    def __getitem__(self, which: int | slice | Sequence[int]) -> Tensor:
        if isinstance(which, int):
            return self[[which]][0]
        values = np.array(self.stack[which], np.float32)
        values = (np.clip(values, self.low, self.high, out=values) - self.offset) / self.scale
        return self.way.there(torch.from_numpy(values))

    @property
    def floor(self) -> float:
        """The darkest that a prepared pixel can be: what stands outside of the picture."""
        return float(((self.low - self.offset) / self.scale).min())


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture as slices, (S, C, h, w) float32, and the way back to its own grid."""

    slices: Slices
    way: Way


def prepare(picture: Picture, preparation: Preparation, size: Sequence[int]) -> Prepared:
    """`picture` as the slices that `preparation` says, (S, C, h, w) float32, made lazily; `size` is the plan's (H, W).

    Where the spacing of the preparation or of the picture is not known, slices are scaled to fit `size`. A picture of
    bytes has no physical unit: its own mean and deviation are taken, whatever the preparation says of units.
    Raises UserError for a spacing that must be in another unit than mm.
    """
    _refuse_another_unit(picture, preparation)
    way = way_of(picture.shape, picture.spacing, preparation, size)
    groups = [picture.values] if picture.colour else picture.values
    ends = [_ends(group, preparation, picture.full_scale) for group in groups]
    offset, scale, low, high = (np.array(part, np.float32).reshape(-1, 1, 1) for part in zip(*ends))
    return Prepared(Slices(way.stack(picture.values), way, offset, scale, low, high), way)


def way_of(shape: Sequence[int], spacing: Sequence[float] | None, preparation: Preparation, size: Sequence[int]) -> Way:
    """The Way of a picture (H, W) or (D, H, W) with `spacing` mm along each axis, if that is known."""
    pixel = _in_plane(spacing, preparation) if spacing is not None else (1.0, 1.0)
    extent = [length * mm for length, mm in zip(_in_plane(shape, preparation), pixel)]
    if preparation.spacing is None or spacing is None:
        unit = max(length / full for length, full in zip(extent, size))
        target = (unit, unit)
    else:
        target = preparation.spacing
    rows, columns = (max(1, round(length / mm)) for length, mm in zip(extent, target))
    return Way(tuple(shape), preparation.slice_axis, (rows, columns))


def _in_plane(axes: Sequence[float], preparation: Preparation) -> list[float]:
    """Of what is told of each axis of a picture, that of the rows and the columns of its slices."""
    return [told for axis, told in enumerate(axes) if len(axes) == 2 or axis != preparation.slice_axis]


def _refuse_another_unit(picture: Picture, preparation: Preparation) -> None:
    """A slice of metres would be prepared as one pixel, and one of micrometres as more than memory holds."""
    if preparation.spacing is None or picture.spacing is None:
        return
    for mm, wanted in zip(_in_plane(picture.spacing, preparation), preparation.spacing):
        if not wanted / ANOTHER_UNIT <= mm <= wanted * ANOTHER_UNIT:
            raise UserError(
                f"{picture.source}: says that a pixel is {mm:.3g} mm large, and slices are prepared at {wanted:.3g} "
                "mm: its header is in another unit, or the spacing of the plan is; correct it"
            )


def _ends(values: ndarray, preparation: Preparation, full_scale: float | None) -> tuple[float, float, float, float]:
    """(mean, deviation, low, high) of one channel in its own units; low and high are never infinite."""
    told = Preparation() if preparation.mean is not None and full_scale is not None else preparation
    if told.mean is None or told.sd is None:
        mean, sd = foreground_statistics(values)
        reach = LARGEST_Z * sd
    else:
        mean, sd, reach = told.mean, told.sd, np.inf
    low, high = (end if end is not None else mean + way * reach for end, way in ((told.low, -1), (told.high, 1)))
    return mean, sd, *np.clip((values.min(), values.max()), low, high).tolist()


def foreground_statistics(values: ndarray) -> tuple[float, float]:
    """Mean and standard deviation of what is brighter than the background of one volume."""
    seen = sampled(values)
    low, high = (float(end) for end in np.percentile(seen, (LOW, HIGH)))
    inside = seen[seen > low + FOREGROUND * (high - low)]
    inside = inside if len(inside) > 1 and inside.min() < inside.max() else seen
    least = 1e-6 * float(max(-values.min(), values.max()))  # of its own unit, whichever that is
    return float(inside.mean(dtype=np.float64)), max(float(inside.std(dtype=np.float64)), least)


def sampled(values: ndarray) -> ndarray:
    """Pixels (n,) of `values`, evenly spread, and no more than a statistic needs."""
    step = max(1, math.ceil((values.size / MOST_PIXELS) ** (1 / values.ndim)))
    return values[(slice(None, None, step),) * values.ndim].ravel()
