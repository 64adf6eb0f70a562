"""Small parts that several networks share: attention, a transformer block, a convolution stem.

Axes: P pictures · N tokens · D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
NORM = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


class Attention(nn.Module):
    """Multi-head self-attention over present tokens; absent tokens are not read and get zeros."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """x (P, N, D), present (P, N) bool or None for all -> (P, N, D)."""
        if present is not None:
            x = torch.where(present.unsqueeze(-1), x, 0.0)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # An exam without any present token reads its (zeroed) tokens: softmax over nothing would be NaN.
        mask = None if present is None else (present | ~present.any(1, keepdim=True))[:, None, None, :]
        y = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        y = self.out(y.transpose(1, 2).flatten(2))
        return y if present is None else torch.where(present.unsqueeze(-1), y, 0.0)


class TransformerBlock(nn.Module):
    """Pre-norm attention and a two-layer perceptron, each with a residual path."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0, ratio: int = 2) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.mlp = nn.Sequential(nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attention(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))


class ConvStem(nn.Module):
    """Strided 3x3 convolutions with instance normalisation, then a maximum: (P, C, *size) -> (P, D, *size / patch).

    Instance normalisation, after the last convolution too, is what lets small findings be learned from few exams: a
    rare strong response stands out of its picture (docs/performance.md).
    """

    def __init__(self, channels: int, width: int, patch: Sequence[int]) -> None:
        super().__init__()
        dims, steps = len(patch), [round(math.log2(side)) for side in patch]
        if any(2**step != side for step, side in zip(steps, patch)):
            raise ValueError(f"a patch is a power of two in every direction, not {list(patch)}")
        # The last halvings are a maximum: what is found on the finer grid is found in the token.
        pooled = [min(step, 2 if max(steps) > 3 else 1) for step in steps]
        strided = [step - pool for step, pool in zip(steps, pooled)]
        layers = []
        for left in range(max(strided), -1, -1):
            # A shorter axis is halved in the last layers only, so that all meet at the same grid.
            stride = tuple(2 if left and left <= step else 1 for step in strided)
            out = min(width, max(24, width >> max(0, left)))
            layers += [CONV[dims](channels, out, 3, stride, 1), NORM[dims](out, affine=True), nn.GELU()]
            channels = out
        self.layers = nn.Sequential(*layers, POOL[dims](tuple(2**pool for pool in pooled)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
