"""From a picture as read to the network's grid and back. Axes: C channels · D, H, W slices, rows, columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch.nn.functional as F
from numpy import ndarray
from torch import Tensor

from m4oe.data.augmentation import Augmentation, sample_augmentation
from m4oe.data.readers import Picture
from m4oe.errors import UserError

__all__ = ["Augmentation", "Fit", "fit", "normalise", "sample_augmentation"]

OUTSIDE = -100  # the label of what is not in the picture, as torch's losses ignore it
HU = 1000.0
LOW, HIGH = 0.5, 99.5
LARGEST_Z = 5.0
SCALES = (1.0, 255.0, 65535.0, 2.0**32 - 1)


def normalise(picture: Picture, kind: str) -> Picture:
    """The picture with values of about -2 to 2, by the physics of its `kind`; float32.

    One increasing affine map with both ends clipped, for all channels of a colour picture and for each channel of a
    stack. mammogram: from the 0.5th to the 99.5th percentile of what is brighter than the background, to -2 ... 2 ·
    xray, ultrasound, oct, pathology, other: the same percentiles of the whole picture · ct: -1000 ... 1000 HU to
    -1 ... 1; pixels of 8 bits and of raster files have no unit, and are treated as other · mr: z-score within the
    foreground · photo: from 0 to the full scale of its format, to -1 ... 1.
    """
    scale = _SCALING.get(kind, _by_percentiles)
    if kind == "ct" and picture.full_scale is not None:
        scale = _by_percentiles
    groups = [picture.values] if picture.colour else list(picture.values[:, None])
    scaled = [scale(group, picture.full_scale).astype(np.float32) for group in groups]
    return replace(picture, values=np.concatenate(scaled), full_scale=None)


def _affine(values: ndarray, low: float, high: float, to: float) -> ndarray:
    """low ... high to -to ... to, clipped."""
    return (((values - low) / (high - low)).clip(0, 1) - 0.5) * (2 * to)


def _by_percentiles(values: ndarray, full_scale: float | None) -> ndarray:
    return _affine(values, *_ends(values), to=2.0)


def _within_breast(values: ndarray, full_scale: float | None) -> ndarray:
    inside = _foreground(values, 0.05)
    return _affine(values, *_ends(inside if inside.min() < inside.max() else values), to=2.0)


def _hounsfield(values: ndarray, full_scale: float | None) -> ndarray:
    return _affine(values, -HU, HU, to=1.0)


def _z_score(values: ndarray, full_scale: float | None) -> ndarray:
    inside = _foreground(values, 0.1)
    return ((values - inside.mean()) / max(inside.std(), 1e-6 * np.abs(values).max())).clip(-LARGEST_Z, LARGEST_Z)


def _of_full_scale(values: ndarray, full_scale: float | None) -> ndarray:
    top = full_scale or next((scale for scale in SCALES if values.max() <= scale), float(values.max()))
    return _affine(values, 0.0, top, to=1.0)


def _foreground(values: ndarray, share: float) -> ndarray:
    """Pixels above `share` of the way from the darkest to the brightest half percent; all, where none is."""
    low, high = _ends(values)
    inside = values[values > low + share * (high - low)]
    return inside if len(inside) > 1 else values.ravel()


def _ends(values: ndarray) -> tuple[float, float]:
    """The robust range; the whole range where almost all pixels are the same, which readers leave never empty."""
    low, high = (float(end) for end in np.percentile(values, (LOW, HIGH)))
    return (low, high) if high > low else (float(values.min()), float(values.max()))


_SCALING: Mapping[str, Callable[[ndarray, float | None], ndarray]] = {
    "mammogram": _within_breast,
    "ct": _hounsfield,
    "mr": _z_score,
    "photo": _of_full_scale,
}


@dataclass(frozen=True)
class Fit:
    """The way from a picture's grid to the network's, and back.

    shape: (H, W) or (D, H, W) of the picture · size: of the network's grid, as many axes · inner: the part of it that
    the picture takes, centred; the rest is padding · mirrored: columns run the other way · focus: first and last + 1 of
    the rows and columns of an image that are looked at, None for all.
    """

    shape: tuple[int, ...]
    size: tuple[int, ...]
    inner: tuple[int, ...]
    mirrored: bool = False
    focus: tuple[tuple[int, int], ...] | None = None

    @property
    def _start(self) -> tuple[int, ...]:
        return tuple((full - part) // 2 for full, part in zip(self.size, self.inner))

    def apply(self, values: Tensor) -> Tensor:
        """`values` (C, *shape) on the network's grid (C, *size), antialiased; padded with their smallest value."""
        seen = self._turned(values)
        return self._padded(_resized(seen, self.inner), float(seen.min()))

    def apply_mask(self, mask: Tensor) -> Tensor:
        """Class indices (*shape) on the network's grid (*size) int64, by the nearest pixel; -100 in the padding."""
        near = F.interpolate(self._turned(mask)[None, None].float(), self.inner, mode="nearest-exact")[0, 0]
        return self._padded(near.long(), OUTSIDE)

    def invert(self, scores: Tensor) -> Tensor:
        """`scores` (C, *size) on the grid of the picture (C, *shape), linear; beyond the focus as at its rim."""
        for axis, (start, length) in enumerate(zip(self._start, self.inner), start=1):
            scores = scores.narrow(axis, start, length)
        mode = "bilinear" if len(self.shape) == 2 else "trilinear"
        near = F.interpolate(scores[None], self._looked_at, mode=mode, align_corners=False)
        return self._widened(near.flip(-1) if self.mirrored else near)[0]

    @property
    def _looked_at(self) -> tuple[int, ...]:
        """(H, W) or (D, H, W) of the focus."""
        return self.shape if self.focus is None else tuple(stop - start for start, stop in self.focus)

    def _turned(self, values: Tensor) -> Tensor:
        """The focus of `values` (..., *shape), mirrored if need be."""
        for axis, (start, stop) in enumerate(self.focus or (), start=-2):
            values = values.narrow(axis, start, stop - start)
        return values.flip(-1) if self.mirrored else values

    def _widened(self, scores: Tensor) -> Tensor:
        if self.focus is None:
            return scores
        (top, bottom), (left, right) = self.focus
        height, width = self.shape
        return F.pad(scores, (left, width - right, top, height - bottom), mode="replicate")

    def _padded(self, values: Tensor, filler: float) -> Tensor:
        sides = [(start, full - part - start) for full, part, start in zip(self.size, self.inner, self._start)]
        return F.pad(values, [width for side in reversed(sides) for width in side], value=filler)


def fit(
    shape: Sequence[int],
    size: Sequence[int],
    *,
    mirrored: bool = False,
    focus: tuple[tuple[int, int], ...] | None = None,
) -> Fit:
    """The Fit of a picture (H, W) or (D, H, W) to `size`: rows and columns keep their proportion.

    focus: the rows and columns of an image (H, W) that fill the grid, as Picture.focus. Slices of a volume fill the
    depth, whatever their number: between slices and within them pixels rarely have the same spacing, which is not
    looked at. Raises UserError where one is an image and the other a volume.
    """
    if len(shape) != len(size):
        raise UserError(f"a picture of {len(shape)} axes {tuple(shape)} where one of {len(size)} axes is expected")
    seen = shape[-2:] if focus is None else [stop - start for start, stop in focus]
    scale = min(full / length for full, length in zip(size[-2:], seen))
    plane = [min(full, max(1, round(length * scale))) for full, length in zip(size[-2:], seen)]
    return Fit(tuple(shape), tuple(size), (*size[:-2], *plane), mirrored, focus)


def _resized(values: Tensor, size: tuple[int, ...]) -> Tensor:
    """`values` (C, *shape) at `size`; what shrinks is averaged, what grows is interpolated."""
    if len(size) == 2:
        return F.interpolate(values[None], size, mode="bilinear", align_corners=False, antialias=True)[0]
    smaller = tuple(min(old, new) for old, new in zip(values.shape[1:], size))
    averaged = F.interpolate(values[None], smaller, mode="area")
    return F.interpolate(averaged, size, mode="trilinear", align_corners=False)[0]
