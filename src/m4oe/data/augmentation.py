"""Random changes of pictures: sampled as numbers first, applied after. Axes: C channels · D, H, W as in a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

OUTSIDE = -100.0
# Turning and scaling read between pixels, and a spicule one pixel wide does not survive that: most pictures of an
# epoch stay sharp, moved by whole pixels.
TURNED = 0.3


@dataclass(frozen=True)
class Ranges:
    """How far an augmentation of strength 1 goes, either way.

    angle: degrees, in the plane of rows and columns · scale: share · shift: share of each side · brightness: in units
    of normalised values · contrast, gamma: share, of its logarithm · tint: brightness of each colour · noise: the
    largest standard deviation · flips: whether rows, and columns, may be reversed.
    """

    angle: float = 10.0
    scale: float = 0.1
    shift: float = 0.06
    brightness: float = 0.2
    contrast: float = 0.15
    gamma: float = 0.15
    tint: float = 0.0
    noise: float = 0.05
    flips: tuple[bool, bool] = (False, False)


# Left and right are never swapped but in tissue on a slide: sides are anatomy. A breast has no up and down.
RANGES: Mapping[str, Ranges] = {
    "mammogram": Ranges(flips=(True, False)),
    "xray": Ranges(angle=7.0),
    "ct": Ranges(brightness=0.05, contrast=0.05, gamma=0.05, noise=0.03),
    "mr": Ranges(brightness=0.1, contrast=0.2, gamma=0.2),
    "ultrasound": Ranges(gamma=0.2, noise=0.1),
    "photo": Ranges(angle=15.0, brightness=0.1, tint=0.05, noise=0.02),
    "oct": Ranges(angle=5.0, gamma=0.2, noise=0.1),
    "pathology": Ranges(angle=180.0, tint=0.1, flips=(True, True)),
    "other": Ranges(),
}


def flips_of(kind: str) -> tuple[bool, bool]:
    """Whether rows, and columns, of pictures of `kind` may be reversed."""
    return RANGES.get(kind, Ranges()).flips


@dataclass(frozen=True)
class Augmentation:
    """One change, as numbers. The same numbers on the same picture give the same result, bit for bit.

    angle: degrees, counter-clockwise as seen with the first row on top · scale: above 1 enlarges · shift: share of
    the extent by which content moves to the higher index, for D, H and W · flips: whether rows
    and columns are reversed · contrast, brightness, tint: v -> contrast (v - mean) + mean + brightness + tint ·
    gamma: of values between the picture's ends · noise: standard deviation · noise_seed: of its generator.
    """

    angle: float = 0.0
    scale: float = 1.0
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    flips: tuple[bool, bool] = (False, False)
    brightness: float = 0.0
    contrast: float = 1.0
    tint: tuple[float, float, float] = (0.0, 0.0, 0.0)
    gamma: float = 1.0
    noise: float = 0.0
    noise_seed: int = 0

    def apply(self, values: Tensor) -> Tensor:
        """`values` (C, H, W) or (C, D, H, W) float, changed; what comes in from outside is their minimum."""
        return self._intensity(self._moved(values, float(values.min()), "bilinear"))

    def apply_mask(self, mask: Tensor) -> Tensor:
        """Class indices (H, W) or (D, H, W) int64, moved as the picture is; what comes in from outside is -100."""
        return self._moved(mask[None].float(), OUTSIDE, "nearest")[0].long()

    @property
    def moves(self) -> bool:
        """Whether pixels change place other than by a flip."""
        return self.angle != 0 or self.scale != 1 or any(self.shift)

    def _moved(self, values: Tensor, outside: float, mode: str) -> Tensor:
        flipped = [axis for axis, flip in zip((-2, -1), self.flips) if flip]
        values = values.flip(flipped) if flipped else values
        if not self.moves:
            return values
        if self.angle == 0 and self.scale == 1:
            return _shifted(
                values,
                [round(part * full) for part, full in zip(self.shift[-values.ndim + 1 :], values.shape[1:])],
                outside,
            )
        shape = (1, *values.shape)
        grid = F.affine_grid(self._theta(values.shape[1:])[None], shape, align_corners=False)
        return F.grid_sample((values - outside)[None], grid, mode, "zeros", align_corners=False)[0] + outside

    def _theta(self, shape: torch.Size) -> Tensor:
        """(2, 3) or (3, 4): where a place of the result lies in the picture, in halves of its extent, x first."""
        height, width = shape[-2:]
        cosine, sine = math.cos(math.radians(self.angle)) / self.scale, math.sin(math.radians(self.angle)) / self.scale
        rows = [[cosine, -sine * height / width], [sine * width / height, cosine]]
        if len(shape) == 3:
            rows = [[*rows[0], 0.0], [*rows[1], 0.0], [0.0, 0.0, 1 / self.scale]]
        back = [-2 * share for share in reversed(self.shift)]
        return torch.tensor([[*row, sum(a * b for a, b in zip(row, back))] for row in rows])

    def _intensity(self, values: Tensor) -> Tensor:
        if self.gamma != 1:
            low, high = values.aminmax()
            span = (high - low).clamp(min=1e-6)
            values = ((values - low) / span).pow(self.gamma) * span + low
        if self.contrast != 1 or self.brightness != 0:
            mean = values.mean()
            values = (values - mean) * self.contrast + (mean + self.brightness)
        if any(self.tint) and len(values) == 3:
            values = values + torch.tensor(self.tint).view(3, *[1] * (values.ndim - 1))
        if self.noise > 0:
            generator = torch.Generator().manual_seed(self.noise_seed)
            values = values + self.noise * torch.randn(values.shape, generator=generator)
        return values


def _shifted(values: Tensor, steps: list[int], outside: float) -> Tensor:
    """`values` (C, *shape) moved by whole pixels along each axis; what comes in is `outside`."""
    for axis, step in enumerate(steps, start=1):
        if step:
            values = values.roll(step, axis)
            values.narrow(axis, 0 if step > 0 else values.shape[axis] + step, abs(step)).fill_(outside)
    return values


def sample_augmentation(rng: np.random.Generator, kind: str, strength: float = 1.0) -> Augmentation:
    """An augmentation for pictures of `kind`: RANGES times `strength`, where 0 is none.

    It draws equally often from `rng` whatever the kind and strength.
    """
    ranges = RANGES.get(kind, Ranges())
    draw = (strength * rng.uniform(-1, 1, 11)).tolist()
    flips = rng.random(2) < 0.5 * (strength > 0)
    turned = rng.random() < TURNED
    noise = strength * rng.random()
    seed = int(rng.integers(2**31))
    return Augmentation(
        angle=ranges.angle * draw[0] * turned,
        scale=math.exp(math.log1p(ranges.scale) * draw[1] * turned),
        shift=(ranges.shift * draw[2], ranges.shift * draw[3], ranges.shift * draw[4]),
        flips=(ranges.flips[0] and bool(flips[0]), ranges.flips[1] and bool(flips[1])),
        brightness=ranges.brightness * draw[5],
        contrast=math.exp(math.log1p(ranges.contrast) * draw[6]),
        tint=(ranges.tint * draw[7], ranges.tint * draw[8], ranges.tint * draw[9]),
        gamma=math.exp(math.log1p(ranges.gamma) * draw[10]),
        noise=ranges.noise * noise,
        noise_seed=seed,
    )
