"""Both ends of a Swin-UNet: from pixels to tokens, and from tokens to features of every pixel.

A row of STEMS is a stem and the end that belongs to it. A stem is made of (channels, width, patch) and gives tokens
(B, h, w, D) and details of finer grids, finest first; an end is made of (width, patch) and has `features`.

Features of pixels come as the products leave them, (B, h, w, a, b, F): of each token its a x b pixels, so that a head,
a linear map of the last axis, reads them where they lie; `as_picture` then moves its few outputs instead of them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import log2

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m4oe.errors import UserError

FEWEST = 8  # feature maps of any resolution


class PatchStem(nn.Module):
    """A token for each patch of patch x patch pixels, by one linear map."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, width, patch, patch)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        patch = self.project.stride[0]
        x = F.pad(x, (0, -x.shape[3] % patch, 0, -x.shape[2] % patch))
        return self.norm(self.project(x).permute(0, 2, 3, 1)), []


class PatchEnd(nn.Module):
    """Each token becomes patch x patch pixels, by one linear map."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.patch, self.features = patch, width
        self.spread = nn.Linear(width, patch**2 * width, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, details: Sequence[Tensor]) -> Tensor:
        """x (B, h, w, D) -> (B, h, w, patch, patch, features)."""
        return self.norm(self.spread(x).unflatten(3, (self.patch, self.patch, -1)))


class ConvStem(nn.Module):
    """Convolutions at every resolution down to the tokens', whose feature maps are the details."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        counts = [*level_counts(width, patch), width]
        self.levels = nn.ModuleList(
            convolution(inner, outer, 2 if number else 1)
            for number, (inner, outer) in enumerate(zip([channels, *counts], counts))
        )

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        x, details = x.contiguous(memory_format=torch.channels_last), []
        for level in self.levels:
            x = level(x)
            details.append(x)
        return x.permute(0, 2, 3, 1), details[:-1]


class ConvEnd(nn.Module):
    """Tokens, enlarged twofold at a time and joined with the stem's details by convolutions."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        counts = [*level_counts(width, patch), width]
        self.features = counts[0]
        self.ups = nn.ModuleList(nn.Conv2d(below, 4 * count, 1) for count, below in pairwise(counts))
        self.joins = nn.ModuleList(convolution(2 * count, count) for count in counts[:-1])

    def forward(self, x: Tensor, details: Sequence[Tensor]) -> Tensor:
        """x (B, h, w, D) and details (B, c, H, W), ... -> (B, H, W, 1, 1, features)."""
        x = x.permute(0, 3, 1, 2)
        for up, join, detail in reversed(list(zip(self.ups, self.joins, details))):
            x = F.pixel_shuffle(up(x), 2)[:, :, : detail.shape[2], : detail.shape[3]]
            x = join(torch.cat([x, detail], 1))
        return x.permute(0, 2, 3, 1)[:, :, :, None, None]


def as_picture(x: Tensor, size: Sequence[int]) -> Tensor:
    """(B, h, w, a, b, C), a x b pixels of each token -> (B, C, H, W) of `size`, what stands beyond it cut off."""
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)[:, :, : size[0], : size[1]]


def level_counts(width: int, patch: int) -> list[int]:
    """Feature maps of each resolution finer than the tokens', finest first: each halving doubles them, up to `width`.

    Raises UserError for a patch of 6.
    """
    steps = round(log2(patch))
    if 2**steps != patch:
        raise UserError(f"model.segmenter.patch is {patch}: a stem of convolutions needs a power of two")
    return [max(FEWEST, width >> left) for left in range(steps, 0, -1)]


def convolution(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, instance normalisation, GELU."""
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.InstanceNorm2d(out, affine=True), nn.GELU()
    )


STEMS: Mapping[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "patch": (PatchStem, PatchEnd),
    "conv": (ConvStem, ConvEnd),
}
