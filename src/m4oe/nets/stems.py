"""Both ends of a Swin-UNet: from pixels to tokens, and from tokens to features of every pixel.

A row of STEMS is a stem and the end that belongs to it. A stem is made of (channels, width, patch) and gives tokens
(B, h, w, D) and details of finer grids, finest first; an end is made of (width, patch) and has `features`.

Features of pixels come as the products leave them, (B, h, w, a, b, F): of each token its a x b pixels, so that a head,
a linear map of the last axis (`linear`), reads them where they lie; `as_picture` then moves its few outputs instead of
them all. Those of a patch are not written out at all (`Spread`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log2
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from m4oe.errors import UserError
from m4oe.moe.precision import lowered

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

    def forward(self, x: Tensor, details: Sequence[Tensor]) -> Spread:
        """x (B, h, w, D) -> (B, h, w, patch, patch, features)."""
        return Spread(x, self)


@dataclass(frozen=True)
class Spread:
    """Features of pixels as the tokens x (B, h, w, D) of which `end` makes them: a linear map of features that are
    normalised is one of the tokens, divided by the deviation of each pixel's features."""

    x: Tensor
    end: PatchEnd

    def __getitem__(self, rows: slice | Tensor) -> Spread:
        return Spread(self.x[rows], self.end)

    def split(self, counts: Sequence[int]) -> list[Spread]:
        return [Spread(part, self.end) for part in self.x.split(list(counts))]

    def linear(self, weight: Tensor, bias: Tensor) -> Tensor:
        """(B, h, w, a, b, C) by weight (C, F), bias (C,). Sums over features of what is centred are those of the
        scalar product: the mean goes into the weights, once for all pixels."""
        norm, patch = self.end.norm, self.end.patch
        spread = self.end.spread.weight.unflatten(0, (patch**2, -1))
        spread = spread - spread.mean(1, keepdim=True)
        of_tokens = ((weight * norm.weight) @ spread).flatten(0, 1)
        squares = MeanSquares.apply(*lowered(self.x, spread.flatten(0, 1)), norm.normalized_shape[0])
        y = F.linear(self.x, of_tokens).unflatten(3, (patch**2, -1))
        scale = (squares + norm.eps).rsqrt().unsqueeze(-1)
        y = torch.addcmul((weight @ norm.bias + bias).to(y.dtype), y, scale.to(y.dtype))
        return y.unflatten(3, (patch, patch))


class MeanSquares(torch.autograd.Function):
    """Mean squares (..., K) float32 or better of K groups of `size` features x @ weight.T; x (..., D), weight
    (K size, D), in one precision.

    The features, several times as large as all tokens, are never there as a whole: both ways make them anew for a few
    rows, which stay in the cache of a processor.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.size = size
        rows = x.flatten(0, -2)
        norms = [torch.linalg.vector_norm(_grouped(part, weight, size), dim=-1) for part in rows.split(_at_once(x))]
        precise = torch.cat(norms).to(torch.promote_types(x.dtype, torch.float32))
        return (precise.square() / size).view(*x.shape[:-1], len(weight) // size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        scale = (gradient.flatten(0, -2) * (2 / ctx.size)).to(x.dtype).unsqueeze(-1)
        of_x = torch.empty_like(x, memory_format=torch.contiguous_format).flatten(0, -2)
        of_weight = torch.zeros_like(weight, dtype=gradient.dtype)
        count = _at_once(x)
        for rows, factor, place in zip(x.flatten(0, -2).split(count), scale.split(count), of_x.split(count)):
            towards = _grouped(rows, weight, ctx.size).mul_(factor).flatten(1)
            of_weight += towards.T @ rows
            torch.mm(towards, weight, out=place)
        return of_x.view(x.shape), of_weight.to(weight.dtype), None


def _grouped(rows: Tensor, weight: Tensor, size: int) -> Tensor:
    """(R, K, size) features of rows (R, D)."""
    return (rows @ weight.T).unflatten(-1, (-1, size))


def _at_once(x: Tensor) -> int:
    """Rows whose features fit into a processor's cache; a GPU takes all."""
    return 1024 if x.device.type == "cpu" else max(1, x.numel())


def linear(features: Tensor | Spread, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear map of the last axis of features (..., F), by weight (C, F) and bias (C,) -> (..., C)."""
    return features.linear(weight, bias) if isinstance(features, Spread) else F.linear(features, weight, bias)


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
