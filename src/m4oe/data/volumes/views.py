"""Views of a slice: where a training picture is cut out of it, and how it is changed; numbers first, applied after.

Axes: C channels · h, w of the slice · H, W of the view · T masks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from m4oe.data.augmentation import Augmentation, flips_of
from m4oe.data.readers.indices import OUTSIDE

ANGLE, SCALE = 20.0, 1.25
TURNED, BLURRED = 0.7, 0.15  # shares of views: turning and scaling read between pixels, so that some stay as they are
BRIGHTNESS, CONTRAST, GAMMA, NOISE, BLUR = 0.2, 0.25, 0.3, 0.1, 1.0
RADIUS = 3.0  # of the blur, in its deviations


@dataclass(frozen=True)
class View:
    """One cut, as numbers; the same numbers on the same slice give the same view, bit for bit.

    centre: row and column of the slice that come to the middle · angle: degrees, counter-clockwise as seen with the
    first row on top · scale: above 1 enlarges · flips: whether rows and columns are reversed · blur: deviation in
    pixels · intensity: what happens to values.
    """

    centre: tuple[float, float]
    angle: float = 0.0
    scale: float = 1.0
    flips: tuple[bool, bool] = (False, False)
    blur: float = 0.0
    intensity: Augmentation = field(default_factory=Augmentation)

    def apply(self, values: Tensor, masks: Tensor, size: tuple[int, int], floor: float) -> tuple[Tensor, Tensor]:
        """`values` (C, h, w) float32 and `masks` (T, h, w) int64 as (C, H, W) and (T, H, W).

        What lies outside is `floor`, and -100 in masks.
        """
        grid = self._grid(values.shape[1:], size)
        picture = _read(values - floor, grid, "bilinear" if self._between else "nearest") + floor
        labels = _read((masks - OUTSIDE).float(), grid, "nearest").long() + OUTSIDE
        blurred = _blurred(picture, self.blur) if self.blur > 0 else picture
        return self.intensity.apply(blurred), labels

    @property
    def _between(self) -> bool:
        return self.angle != 0 or self.scale != 1

    def _grid(self, shape: torch.Size, size: tuple[int, int]) -> Tensor:
        """(1, H, W, 2): where each pixel of the view lies in the slice, column first, in halves of its extent."""
        steps = [torch.arange(length) - (length - 1) / 2 for length in size]
        rows, columns = (-step if flip else step for step, flip in zip(steps, self.flips))
        cosine, sine = (f(math.radians(self.angle)) / self.scale for f in (math.cos, math.sin))
        row = self.centre[0] + cosine * rows[:, None] + sine * columns
        column = self.centre[1] + cosine * columns - sine * rows[:, None]
        return torch.stack([(2 * column + 1) / shape[1] - 1, (2 * row + 1) / shape[0] - 1], -1)[None]


def centred(shape: tuple[int, int], size: tuple[int, int]) -> View:
    """The view of the middle, pixel by pixel."""
    return View((_middle(shape[0], size[0]), _middle(shape[1], size[1])))


def _middle(length: int, full: int) -> float:
    """The centre that brings pixels onto pixels."""
    return (length - 1) / 2 + ((length - full) % 2) / 2


def sample_view(
    rng: np.random.Generator,
    shape: tuple[int, int],
    size: tuple[int, int],
    kind: str,
    strength: float = 1.0,
    around: tuple[int, int] | None = None,
) -> View:
    """A view for a slice (h, w) of `kind`, changed with `strength`, where 0 is a cut alone.

    around: a pixel that shall be in it. It draws equally often from `rng` whatever the arguments.
    """
    shift, draw = rng.uniform(-0.5, 0.5, 2), (strength * rng.uniform(-1, 1, 5)).tolist()
    flips, turned, blurred = rng.random(2) < 0.5, rng.random() < TURNED, rng.random() < BLURRED
    noise, blur, seed = strength * rng.random(), strength * rng.random(), int(rng.integers(2**31))
    may = flips_of(kind)
    centre = [_near(around[axis] if around else None, shape[axis], size[axis], float(shift[axis])) for axis in range(2)]
    return View(
        centre=(centre[0], centre[1]),
        angle=ANGLE * draw[0] * turned,
        scale=SCALE ** (draw[1] * turned),
        flips=(may[0] and bool(flips[0]) and strength > 0, may[1] and bool(flips[1]) and strength > 0),
        blur=BLUR * blur * blurred,
        intensity=Augmentation(
            brightness=BRIGHTNESS * draw[2],
            contrast=math.exp(math.log1p(CONTRAST) * draw[3]),
            gamma=math.exp(math.log1p(GAMMA) * draw[4]),
            noise=NOISE * noise,
            noise_seed=seed,
        ),
    )


def _near(pixel: int | None, length: int, full: int, shift: float) -> float:
    """A centre along one axis: anywhere that leaves no more outside than must be, half a view from `pixel` at most."""
    middle, room = _middle(length, full), abs(length - full)
    if pixel is None or length <= full:
        return middle + round(shift * (room - room % 2))
    near = round(pixel - middle + shift * full / 2)
    return middle + min(max(near, -(room // 2)), room // 2)


def _read(values: Tensor, grid: Tensor, mode: str) -> Tensor:
    return F.grid_sample(values[None], grid, mode, "zeros", align_corners=False)[0]


def _blurred(values: Tensor, sigma: float) -> Tensor:
    """By a Gaussian of deviation `sigma` pixels, edges repeated."""
    from scipy.ndimage import gaussian_filter

    return torch.from_numpy(gaussian_filter(values.numpy(), (0, sigma, sigma), mode="nearest", truncate=RADIUS))
