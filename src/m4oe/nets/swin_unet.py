"""Swin-UNet: a U-Net whose stages are Swin transformer blocks (Cao 2021; M4oE, MICCAI 2024).

    pixels --stem--> tokens --blocks, merge--> bottleneck --expand, skip, blocks--> tokens --end--> features

Axes as in swin_block.py; C channels of a picture, H and W its pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m4oe.batch import Routing
from m4oe.moe.forms import Linear
from m4oe.moe.precision import lowered
from m4oe.nets.stems import STEMS, Spread
from m4oe.nets.swin_block import FeedForward, SwinBlock


@dataclass(frozen=True)
class SwinSpec:
    """Plain numbers of a Swin-UNet: `depths` and `heads` by stage, of which the last is the bottleneck."""

    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int
    patch: int = 4
    stem: str = "patch"
    drop_path: float = 0.0

    def drop_paths(self, stage: int) -> list[float]:
        """Chances of the stage's blocks: from 0 at the first block of the encoder to `drop_path` at the bottleneck."""
        last = max(1, sum(self.depths) - 1)
        start = sum(self.depths[:stage])
        return [self.drop_path * (start + block) / last for block in range(self.depths[stage])]


class Merge(nn.Module):
    """Four neighbours become one token of twice the width: (B, h, w, D) -> (B, ceil h/2, ceil w/2, 2D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduce = Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        # Columns before rows: the order in which published weights have the four.
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2, 5)
        return self.reduce(self.norm(x.flatten(3)))


class Expand(nn.Module):
    """One token becomes factor x factor of width `out`: (B, h, w, D) -> (B, factor h, factor w, out)."""

    def __init__(self, width: int, out: int, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor
        self.spread = Linear(width, factor**2 * out, bias=False)
        self.norm = nn.LayerNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.spread(x).unflatten(3, (self.factor, self.factor, -1)).transpose(2, 3)
        return self.norm(x.flatten(3, 4).flatten(1, 2))


class Decode(nn.Module):
    """Enters a stage of the decoder: tokens of the stage below, enlarged, joined with those of the encoder."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = Expand(2 * width, width)
        self.join = Linear(2 * width, width)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """x (B, ceil h/2, ceil w/2, 2D), skip (B, h, w, D) -> (B, h, w, D)."""
        h, w = skip.shape[1:3]
        return self.join(torch.cat(lowered(self.expand(x)[:, :h, :w], skip), -1))


class SwinUNet(nn.Module):
    """Features of every pixel, through experts where `encoder` and `decoder` make feed-forward networks of them.

    `features` is their number, `width` that of the tokens of the finest grid. Layers are called
    "encoder.STAGE.BLOCK" and "decoder.STAGE.BLOCK"; stage 0 is finest.
    """

    def __init__(self, spec: SwinSpec, channels: Sequence[int], encoder: FeedForward, decoder: FeedForward) -> None:
        super().__init__()
        self.width, self.patch = spec.width, spec.patch
        widths = [spec.width * 2**stage for stage in range(len(spec.depths))]
        stem, end = STEMS[spec.stem]
        self.stems = nn.ModuleDict({str(count): stem(count, spec.width, spec.patch) for count in sorted({*channels})})
        self.encoder = nn.ModuleList(_blocks(spec, stage, encoder) for stage in range(len(widths)))
        self.merges = nn.ModuleList(Merge(width) for width in widths[:-1])
        self.norm = nn.LayerNorm(widths[-1])
        self.decodes = nn.ModuleList(Decode(width) for width in widths[:-1])
        self.decoder = nn.ModuleList(_blocks(spec, stage, decoder) for stage in range(len(widths) - 1))
        self.end = end(spec.width, spec.patch)
        self.features = self.end.features
        self.apply(_initialise)

    def forward(self, pictures: Sequence[Tensor], modality: Tensor) -> tuple[Tensor | Spread, dict[str, Routing]]:
        """pictures of B exams together, each (P, C, H, W) of a channel count of its own, modality (B,) int64 of all ->
        features of every pixel, as stems.linear reads them, and the Routing of each layer that has one."""
        x, details = self.embed(pictures)
        return self.read(x, details, modality)

    def embed(self, pictures: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Tokens (B, h, w, D), and what the stem keeps of finer grids, finest first (B, c, H, W)."""
        parts = [self.stems[str(picture.shape[1])](picture) for picture in pictures]
        if len(parts) == 1:
            return parts[0]
        return torch.cat([x for x, _ in parts]), [torch.cat(level) for level in zip(*(details for _, details in parts))]

    def read(
        self, x: Tensor, details: Sequence[Tensor], modality: Tensor
    ) -> tuple[Tensor | Spread, dict[str, Routing]]:
        """What `forward` gives of pictures, from what `embed` gives of them."""
        stages, routing = self.encode(x, modality)
        y, more = self.decode(stages, modality)
        return self.end(y, details), routing | more

    def encode(self, x: Tensor, modality: Tensor) -> tuple[list[Tensor], dict[str, Routing]]:
        """Tokens of every stage, finest first; the last are of the bottleneck, after a LayerNorm."""
        stages, routing = [], {}
        for number, blocks in enumerate(self.encoder):
            x = self.merges[number - 1](x) if number else x
            x = _through(blocks, x, modality, f"encoder.{number}", routing)
            stages.append(x)
        return [*stages[:-1], self.norm(x)], routing

    def decode(self, stages: Sequence[Tensor], modality: Tensor) -> tuple[Tensor, dict[str, Routing]]:
        """Tokens (B, h, w, D) of the finest grid from those of the encoder's stages."""
        x, routing = stages[-1], {}
        for number in reversed(range(len(self.decoder))):
            x = self.decodes[number](x, stages[number])
            x = _through(self.decoder[number], x, modality, f"decoder.{number}", routing)
        return x, routing

    def grid(self, layer: str, size: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of the tokens of `layer` for pictures of `size` (H, W)."""
        grid = [-(-side // self.patch) for side in size]
        for _ in range(int(layer.split(".")[1])):
            grid = [-(-side // 2) for side in grid]
        return grid[0], grid[1]


def _blocks(spec: SwinSpec, stage: int, feed_forward: FeedForward) -> nn.ModuleList:
    width, heads = spec.width * 2**stage, spec.heads[stage]
    return nn.ModuleList(
        SwinBlock(width, heads, spec.window, bool(number % 2), chance, feed_forward)
        for number, chance in enumerate(spec.drop_paths(stage))
    )


def _through(blocks: nn.ModuleList, x: Tensor, modality: Tensor, name: str, routing: dict[str, Routing]) -> Tensor:
    for number, block in enumerate(blocks):
        x, found = block(x, modality)
        if found is not None:
            routing[f"{name}.{number}"] = found
    return x


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=(2 / sum(module.weight.shape)) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
