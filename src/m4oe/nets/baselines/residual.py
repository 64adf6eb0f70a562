"""Convolutional networks of residual blocks: an encoder, a decoder, and a dilated encoder-decoder.

Axes: B pictures · c feature maps · H, W pixels. Normalisation is by picture, so that no exam sees its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.01


class Residual(nn.Module):
    """Two 3x3 convolutions and a path around them: (B, c, H, W) -> (B, out, H / stride, W / stride) (He 2016)."""

    def __init__(self, channels: int, out: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.path = nn.Sequential(
            _convolution(channels, out, stride, dilation),
            nn.InstanceNorm2d(out, affine=True),
            nn.LeakyReLU(SLOPE),
            _convolution(out, out, 1, dilation),
            nn.InstanceNorm2d(out, affine=True),
        )
        same = channels == out and stride == 1
        self.around = nn.Identity() if same else nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.path(x) + self.around(x), SLOPE)


def _convolution(channels: int, out: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, stride, dilation, dilation, bias=False)


def residuals(channels: int, out: int, depth: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """`depth` blocks, of which the first has the stride."""
    rest = (Residual(out, out, 1, dilation) for _ in range(depth - 1))
    return nn.Sequential(Residual(channels, out, stride, dilation), *rest)


class ResidualEncoder(nn.Module):
    """Feature maps of every resolution, finest first, each half as fine as the one before: `counts` of them."""

    def __init__(self, channels: int, counts: Sequence[int], depth: int) -> None:
        super().__init__()
        pairs = zip([channels, *counts], counts)
        self.stages = nn.ModuleList(residuals(a, b, depth, 2 if number else 1) for number, (a, b) in enumerate(pairs))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """x (B, C, H, W), sides multiples of 2 ** (stages - 1)."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps)


class ResidualDecoder(nn.Module):
    """What a ResidualEncoder gives -> (B, counts[0], H, W): enlarged step by step, joined with the finer maps."""

    def __init__(self, counts: Sequence[int], depth: int) -> None:
        super().__init__()
        self.ups = nn.ModuleList(nn.Conv2d(below, count, 1) for count, below in pairwise(counts))
        self.joins = nn.ModuleList(residuals(2 * count, count, depth) for count in counts[:-1])

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = maps[-1]
        for up, join, finer in reversed(list(zip(self.ups, self.joins, maps))):
            x = F.interpolate(up(x), scale_factor=2, mode="nearest")
            x = join(torch.cat([x, finer], 1))
        return x


class ResidualUNet(nn.Module):
    """Encoder and decoder of residual blocks: (B, C, H, W) -> (B, counts[0], H, W)."""

    def __init__(self, channels: int, counts: Sequence[int], depth: int) -> None:
        super().__init__()
        self.encoder, self.decoder = ResidualEncoder(channels, counts, depth), ResidualDecoder(counts, depth)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class DilatedResNet(nn.Module):
    """A ResNet whose last two stages are dilated and keep an eighth of the resolution, and a short way back without
    finer maps (Med3D, Chen 2019): (B, C, H, W) -> (B, features, H, W), sides multiples of 8."""

    def __init__(self, channels: int, width: int, depth: int, features: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 7, 2, 3, bias=False),
            nn.InstanceNorm2d(width, affine=True),
            nn.LeakyReLU(SLOPE),
            nn.MaxPool2d(3, 2, 1),
        )
        self.stages = nn.Sequential(
            residuals(width, width, depth),
            residuals(width, 2 * width, depth, 2),
            residuals(2 * width, 4 * width, depth, 1, 2),
            residuals(4 * width, 8 * width, depth, 1, 4),
        )
        self.back = nn.Sequential(
            nn.ConvTranspose2d(8 * width, features, 2, 2, bias=False),
            nn.InstanceNorm2d(features, affine=True),
            nn.LeakyReLU(SLOPE),
            _convolution(features, features, 1, 1),
            nn.InstanceNorm2d(features, affine=True),
            nn.LeakyReLU(SLOPE),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.back(self.stages(self.stem(x))), x.shape[-2:], mode="bilinear")
