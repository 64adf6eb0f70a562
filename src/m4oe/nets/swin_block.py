"""The block of a Swin transformer: attention within shifted windows, then a feed-forward network, the caller's choice.

Axes: B pictures · h, w tokens of a grid · D width · K windows of a grid · n tokens of a window · E experts.
Any grid will do: windows of a grid are of one size, `window` at most, and what is padded to fill them is not read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m4oe.batch import Routing
from m4oe.moe import Experts
from m4oe.moe.forms import Linear
from m4oe.moe.precision import lowered
from m4oe.nets.biased_attention import biased_attention

# Of width D, a module (x (B, N, D), modality (B,) int64) -> (y (B, N, D), Routing | None).
FeedForward = Callable[[int], nn.Module]
RATIO = 4  # of a feed-forward network's hidden width to D


class Tiling(NamedTuple):
    """How one axis of a grid is cut into windows: `count` of `side` tokens, moved by `shift`."""

    side: int
    count: int
    shift: int


def tile(length: int, window: int, shifted: bool) -> Tiling:
    """Windows of equal side, `window` at most, that need the least padding; one window is never shifted."""
    count = -(-length // window)
    side = -(-length // count)
    return Tiling(side, count, side // 2 if shifted and count > 1 else 0)


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows, with a learned bias for each relative position (Swin, Liu 2021).

    Parameters: `bias_table` ((2 window - 1)^2, heads), row (dy + window - 1)(2 window - 1) + dx + window - 1.
    """

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)
        self.bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.bias_table, std=0.02)

    def forward(self, x: Tensor, shifted: bool) -> Tensor:
        """x (B, h, w, D) -> (B, h, w, D)."""
        h, w = x.shape[1:3]
        rows, columns = tile(h, self.window, shifted), tile(w, self.window, shifted)
        qkv = self.qkv(_parted(*lowered(x), rows, columns))  # lowered first: half as much is moved
        y = biased_attention(qkv, self._bias(h, w, rows, columns).to(qkv.dtype))
        return _joined(self.out(y), h, w, rows, columns)

    def _bias(self, h: int, w: int, rows: Tiling, columns: Tiling) -> Tensor:
        """(K or 1, heads, n, n): bias of relative positions, -inf between tokens that do not see each other."""
        n = rows.side * columns.side
        index = _relative(rows.side, columns.side, self.window).to(self.bias_table.device)
        bias = self.bias_table[index].view(n, n, -1).permute(2, 0, 1).unsqueeze(0)
        hidden = _hidden(h, w, rows, columns)
        return bias if hidden is None else bias.masked_fill(hidden.to(bias.device).unsqueeze(1), float("-inf"))


class DenseFeedForward(nn.Module):
    """A two-layer perceptron, the one expert of everything."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.experts = Experts(1, width, RATIO * width)

    def forward(self, x: Tensor, modality: Tensor) -> tuple[Tensor, Routing | None]:
        """x (B, N, D) -> (B, N, D), and no routing."""
        return self.experts(x.flatten(0, 1).unsqueeze(0)).view(x.shape), None


class SwinBlock(nn.Module):
    """Window attention and the feed-forward network, each after a LayerNorm and with a residual path."""

    def __init__(
        self, width: int, heads: int, window: int, shifted: bool, drop_path: float, feed_forward: FeedForward
    ) -> None:
        super().__init__()
        self.shifted, self.drop_path = shifted, drop_path
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = WindowAttention(width, heads, window)
        self.ffn = feed_forward(width)

    def forward(self, x: Tensor, modality: Tensor) -> tuple[Tensor, Routing | None]:
        """x (B, h, w, D), modality (B,) int64 -> the same shape, and the routing of the feed-forward network."""
        x = self._added(x, self.attention(self.norm1(x), self.shifted))
        y, routing = self.ffn(self.norm2(x).flatten(1, 2), modality)
        return self._added(x, y.view(x.shape)), routing

    def _added(self, x: Tensor, update: Tensor) -> Tensor:
        """Stochastic depth: in training, a picture goes without this update with a chance of `drop_path`."""
        if not self.training or not self.drop_path:
            return x + update
        stays = torch.rand(len(update), 1, 1, 1, device=update.device) >= self.drop_path
        return torch.addcmul(x, update, (stays / (1 - self.drop_path)).to(update.dtype))


def _parted(x: Tensor, rows: Tiling, columns: Tiling) -> Tensor:
    """(B, h, w, D) -> (B, K, n, D), shifted and padded."""
    h, w, width = x.shape[1:]
    below, right = rows.side * rows.count - h, columns.side * columns.count - w
    x = F.pad(x, (0, 0, 0, right, 0, below)) if below or right else x
    if rows.shift or columns.shift:
        x = x.roll((-rows.shift, -columns.shift), (1, 2))
    x = x.view(len(x), rows.count, rows.side, columns.count, columns.side, width).transpose(2, 3)
    return x.reshape(len(x), rows.count * columns.count, -1, width)


def _joined(x: Tensor, h: int, w: int, rows: Tiling, columns: Tiling) -> Tensor:
    """The way back of `_parted`: (B, K, n, D) -> (B, h, w, D)."""
    x = x.view(len(x), rows.count, columns.count, rows.side, columns.side, -1).transpose(2, 3)
    x = x.reshape(len(x), rows.count * rows.side, columns.count * columns.side, -1)
    if rows.shift or columns.shift:
        x = x.roll((rows.shift, columns.shift), (1, 2))
    return x[:, :h, :w]


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is first asked for while predicting serves training, too
def _relative(rows: int, columns: int, window: int) -> Tensor:
    """(n * n,) row of the bias table for each pair of tokens of a window of rows x columns."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy, dx = y[:, None] - y[None], x[:, None] - x[None]
    return ((dy + window - 1) * (2 * window - 1) + dx + window - 1).flatten()


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _hidden(h: int, w: int, rows: Tiling, columns: Tiling) -> Tensor | None:
    """(K, n, n) bool: pairs of a window that must not see each other, since one is padding or they only became
    neighbours by the shift; None where all may."""
    region = 3 * _region(h, rows)[:, None] + _region(w, columns)[None]
    region = _parted(region[None, :, :, None], rows._replace(shift=0), columns._replace(shift=0))[0, ..., 0]
    hidden = region[:, :, None] != region[:, None, :]
    return hidden if hidden.any() else None


def _region(length: int, tiling: Tiling) -> Tensor:
    """(padded length,) int64, of each place after the shift: 0, 1 where it came round the end, 2 for padding."""
    whole = tiling.side * tiling.count
    place = torch.arange(whole) + tiling.shift
    return torch.where(place % whole >= length, 2, place // whole)
