"""Heads: the tokens of one task -> its logits, and what each stream contributed to them.

Axes: B exams · N tokens · D width · I streams · C logits · A what is summed: C, or 1 where thresholds are ordered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from m4oe.batch import Tokens
from m4oe.nets.blocks import CONV, NORM

MEMORY = 20  # batches over which a running mean reaches back


class Verdict(NamedTuple):
    """logits (B, C) · evidence (B, I, C), empty for heads without · bias (C,): logits = evidence.sum(1) + bias."""

    logits: Tensor
    evidence: Tensor | None
    bias: Tensor


class Thresholds(nn.Module):
    """C biases, free or ordered (`order` +1 increasing, -1 decreasing, 0 free), that start at `start`."""

    def __init__(self, start: Sequence[float], order: int) -> None:
        super().__init__()
        self.order, first = order, torch.tensor(start, dtype=torch.float32)
        self.first = nn.Parameter(first[:1].clone() if order else first)
        if order and len(start) > 1:
            gaps = (order * first.diff()).clamp_min(1e-2)
            self.gaps = nn.Parameter(gaps + torch.log(-torch.expm1(-gaps)))  # inverse of softplus

    def forward(self) -> Tensor:
        if not self.order or not hasattr(self, "gaps"):
            return self.first
        return torch.cat([self.first, self.first + self.order * F.softplus(self.gaps).cumsum(0)])


class AdditiveHead(nn.Module):
    """Each input has a part of its own: a linear logit of what its tokens hold at most and on average.

    Nothing nonlinear comes after the sum over inputs: a logit *is* the sum of its inputs' signed parts and the bias.
    The maximum over an input's tokens, feature by feature, is what lets a small finding be learned: under a mean, or
    attention that starts as one, it drowns among hundreds of tokens. There is no gate on an input's part either: a
    gate closes on a task whose features are not there yet, and then they never come (docs/performance.md).

    An input's part is told against what it says on average in training. So an input that is absent speaks like the
    average one, an input from which nothing can be learned is not given a constant part that others take back, and a
    fresh head does not shift logits away from the prevalence.

    Of two views that say the same, one alone would say half. So a part is multiplied by 1 + the sum over absent inputs
    of a learned number for the pair, 0 at first: the input that is there stands in for the one that is not.
    """

    usual: Tensor  # (I, 2D), a running mean
    batches: Tensor  # (I,), how many have made it

    def __init__(self, width: int, start: Sequence[float], order: int, num_streams: int) -> None:
        super().__init__()
        sums = 1 if order else len(start)
        self.num_streams = num_streams
        self.value = nn.Linear(2 * width, sums, bias=False)
        self.stand_in = nn.Parameter(torch.zeros(num_streams, num_streams))  # [absent, present]
        self.thresholds = Thresholds(start, order)
        self.register_buffer("usual", torch.zeros(num_streams, 2 * width))
        self.register_buffer("batches", torch.zeros(num_streams))

    def forward(self, z: Tensor, tokens: Tokens) -> Verdict:
        """z (B, N, D), zero at absent tokens."""
        held = torch.cat(pooled(z, tokens, self.num_streams), -1)
        here = present_streams(tokens, self.num_streams)
        if self.training and self.value.weight.requires_grad:
            self._follow(held.detach().float(), here)
        evidence = self.value(torch.where(here.unsqueeze(-1), held - self.usual, 0.0))
        evidence = evidence * (1 + (~here).to(evidence.dtype) @ self.stand_in).unsqueeze(-1)
        bias = self.thresholds()
        return Verdict(evidence.sum(1) + bias, evidence.expand(-1, -1, len(bias)), bias)

    @torch.no_grad()
    def _follow(self, held: Tensor, here: Tensor) -> None:
        """Moves `usual` towards the means of a batch: their plain average at first, then over the last batches."""
        count = here.sum(0)
        self.batches += count > 0
        share = (count > 0) / self.batches.clamp(1, MEMORY)
        self.usual.lerp_(held.sum(0) / count.clamp_min(1).unsqueeze(-1), share.unsqueeze(-1))


class PooledHead(nn.Module):
    """The paper's: the mean over present streams of each stream's mean token, then a linear layer."""

    def __init__(self, width: int, start: Sequence[float], order: int, num_streams: int) -> None:
        super().__init__()
        self.num_streams = num_streams
        self.value = nn.Linear(width, 1 if order else len(start), bias=False)
        self.thresholds = Thresholds(start, order)

    def forward(self, z: Tensor, tokens: Tokens) -> Verdict:
        here = present_streams(tokens, self.num_streams)
        mean = pooled(z, tokens, self.num_streams)[1].sum(1) / here.sum(1, keepdim=True).clamp_min(1)
        bias = self.thresholds()
        return Verdict(self.value(mean) + bias, None, bias)


HEADS = {"additive": AdditiveHead, "pooled": PooledHead}


def present_streams(tokens: Tokens, num_streams: int) -> Tensor:
    """(B, I) bool: which streams an exam has."""
    count = tokens.present.new_zeros(len(tokens.present), num_streams, dtype=torch.float32)
    return count.index_add(1, tokens.stream, tokens.present.float()) > 0


def pooled(z: Tensor, tokens: Tokens, num_streams: int) -> tuple[Tensor, Tensor]:
    """(B, I, D) maximum, and mean, over each stream's tokens, feature by feature; zeros for an absent stream.

    A stream is present with all its tokens or with none, and its tokens stand side by side.
    """
    counts = torch.bincount(tokens.stream, minlength=num_streams).tolist()
    parts = z.split(counts, 1)
    empty = z.new_zeros(len(z), z.shape[-1])
    largest = [part.amax(1) if part.shape[1] else empty for part in parts]
    return torch.stack(largest, 1), torch.stack([part.mean(1) if part.shape[1] else empty for part in parts], 1)


class MaskHead(nn.Module):
    """Class logits of every pixel of the input on which the mask lies: its spatial tokens, enlarged, beside a shallow
    look at the pixels themselves, since tokens of a patch have lost the edges."""

    def __init__(self, width: int, channels: int, size: Sequence[int], classes: int, detail: int = 16) -> None:
        super().__init__()
        dims = len(size)
        self.size, self.mode = tuple(size), "bilinear" if dims == 2 else "trilinear"
        self.look = nn.Sequential(
            *_conv(dims, channels, detail), *_conv(dims, detail, detail), *_conv(dims, detail, detail)
        )
        self.reduce = CONV[dims](width, 2 * detail, 1)
        self.join = nn.Sequential(*_conv(dims, 3 * detail, 2 * detail), *_conv(dims, 2 * detail, 2 * detail))
        self.out = CONV[dims](2 * detail, classes, 1)

    def forward(self, z: Tensor, grid: Sequence[int], picture: Tensor) -> Tensor:
        """z (P, n, D) of which the last prod(grid) tokens are spatial, picture (P, C, *size) -> (P, classes, *size)."""
        spatial = z[:, -torch.Size(grid).numel() :].transpose(1, 2).unflatten(2, tuple(grid))
        coarse = F.interpolate(self.reduce(spatial), size=self.size, mode=self.mode, align_corners=False)
        return self.out(self.join(torch.cat([coarse, self.look(picture)], 1)))


def _conv(dims: int, channels: int, out: int) -> list[nn.Module]:
    return [CONV[dims](channels, out, 3, padding=1), NORM[dims](out, affine=True), nn.GELU()]
