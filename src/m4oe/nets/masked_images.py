"""Masked image modelling: most of a picture is hidden, and the network completes it; no labels are needed.

What is hidden are whole windows of tokens, so that a hidden place is not told by its next neighbour (the idea of
Swin-MAE, Xu 2023; the details here are our own). Axes as in swin_unet.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from m4oe.nets.stems import Spread, as_picture, linear
from m4oe.nets.swin_unet import SwinUNet

SHARE = 0.75  # of the windows that are hidden
WINDOW = 16  # pixels on a side: four patches of four, as published


class MaskedImages(nn.Module):
    """What stands for hidden tokens, and a linear map from features to pixels."""

    def __init__(self, network: SwinUNet, channels: Sequence[int]) -> None:
        super().__init__()
        self.token = nn.Parameter(0.02 * torch.randn(network.width))
        self.pixels = nn.ModuleDict({str(count): nn.Linear(network.features, count) for count in channels})

    def forward(
        self,
        network: SwinUNet,
        pictures: Sequence[Tensor],
        modality: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Mean squared error over hidden pixels, a scalar. The hidden pixels are 0 before the stem sees the picture
        (its finer maps would tell them otherwise); windows are drawn from `generator` or torch's own."""
        size = pictures[0].shape[-2:]
        grid, window = network.grid("encoder.0", size), max(1, WINDOW // network.patch)
        hidden = self.draw(len(modality), grid, window, generator).to(modality.device)
        pixels = enlarged(hidden, network.patch)[:, None, : size[0], : size[1]]
        parts = [len(picture) for picture in pictures]
        seen = [picture.masked_fill(where, 0.0) for picture, where in zip(pictures, pixels.split(parts))]
        tokens, details = network.embed(seen)
        tokens = torch.where(hidden.unsqueeze(-1), self.token.to(tokens.dtype), tokens)
        features = network.read(tokens, details, modality)[0]
        errors = [
            (as_picture(self._completed(own, truth.shape[1]), size).float() - truth).square()[where.expand_as(truth)]
            for own, truth, where in zip(features.split(parts), pictures, pixels.split(parts))
        ]
        return torch.cat(errors).mean()

    def _completed(self, features: Tensor | Spread, channels: int) -> Tensor:
        pixels = self.pixels[str(channels)]
        return linear(features, pixels.weight, pixels.bias)

    @staticmethod
    def draw(count: int, grid: Sequence[int], window: int, generator: torch.Generator | None = None) -> Tensor:
        """(count, h, w) bool, True where hidden: as many windows of window x window tokens in every picture."""
        rows, columns = (-(-side // window) for side in grid)
        windows = rows * columns
        ranks = torch.rand(count, windows, generator=generator).argsort(1).argsort(1)
        hidden = (ranks < max(1, round(SHARE * windows))).view(count, rows, columns)
        return enlarged(hidden, window)[:, : grid[0], : grid[1]]


def enlarged(mask: Tensor, factor: int) -> Tensor:
    """(B, h, w) -> (B, factor h, factor w), each value factor x factor times."""
    return mask.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
