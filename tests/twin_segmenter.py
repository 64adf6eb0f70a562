"""The naive twin of the segmenter: as one would first write it, in float32, every expert always run.

Experts in a list, attention written out (product, bias, mask, softmax, product), windows cut by roll and copy. It has
copies of a segmenter's weights, and is its specification (tests/test_nets_twin.py) and what benchmarks/segmenter.py
measures against. For patch stems, dense gates per token, and grids that windows fill exactly. Axes as in swin_block.py.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from m4oe.nets.segmenter import Segmenter
from m4oe.nets.swin_block import SwinBlock
from m4oe.nets.swin_unet import Decode, Expand, Merge
from twins import experts_as_modules


class NaiveSegmenter(nn.Module):
    """Pictures (B, C, H, W) -> logits (B, U, H, W) of the head's U outputs."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        network = segmenter.network
        (self.stem,) = deepcopy(network.stems).values()
        self.encoder = nn.ModuleList(nn.ModuleList(map(NaiveBlock, blocks)) for blocks in network.encoder)
        self.decoder = nn.ModuleList(nn.ModuleList(map(NaiveBlock, blocks)) for blocks in network.decoder)
        self.merges = nn.ModuleList(map(NaiveMerge, network.merges))
        self.decodes = nn.ModuleList(map(NaiveDecode, network.decodes))
        self.norm, self.end = deepcopy(network.norm), NaiveExpand(network.end, network.patch)
        self.head = deepcopy(segmenter.head)

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.stem.norm(self.stem.project(pictures).permute(0, 2, 3, 1))
        stages = []
        for number, blocks in enumerate(self.encoder):
            x = self.merges[number - 1](x) if number else x
            for block in blocks:
                x = block(x)
            stages.append(x)
        x = self.norm(x)
        for number in reversed(range(len(self.decoder))):
            x = self.decodes[number](x, stages[number])
            for block in self.decoder[number]:
                x = block(x)
        return self.head(self.end(x)).permute(0, 3, 1, 2)


class NaiveBlock(nn.Module):
    def __init__(self, block: SwinBlock) -> None:
        super().__init__()
        attention, self.drop_path = block.attention, block.drop_path
        self.heads, self.window, self.shifted = attention.heads, attention.window, block.shifted
        self.norm1, self.norm2 = deepcopy(block.norm1), deepcopy(block.norm2)
        self.qkv, self.out = deepcopy(attention.qkv), deepcopy(attention.out)
        self.bias_table = nn.Parameter(attention.bias_table.detach().clone())
        self.gate, self.experts = deepcopy(block.ffn.router.gate), experts_as_modules(block.ffn.experts)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropped(self.attended(self.norm1(x)))
        return x + self.dropped(self.mixed(self.norm2(x)))

    def dropped(self, update: Tensor) -> Tensor:
        if not self.training or not self.drop_path:
            return update
        return update * (torch.rand(len(update), 1, 1, 1) >= self.drop_path) / (1 - self.drop_path)

    def mixed(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2), keepdim=True)
        weights = (self.gate["sample"](mean) + self.gate["token"](x)).softmax(-1)
        return sum(weights[..., e : e + 1] * expert(x) for e, expert in enumerate(self.experts))

    def attended(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        window = min(self.window, height, width)
        shift = window // 2 if self.shifted and window < min(height, width) else 0
        windows = parted(x.roll((-shift, -shift), (1, 2)), window)  # (B K, n, D)
        q, k, v = self.qkv(windows).view(*windows.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        logits = q @ k.transpose(-2, -1) * (channels // self.heads) ** -0.5 + self.bias(window)
        if shift:
            hidden = self.hidden(height, width, window, shift)
            logits = logits.view(batch, len(hidden), *logits.shape[1:]) + hidden[:, None]
            logits = logits.flatten(0, 1)
        y = self.out((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))
        y = y.view(batch, height // window, width // window, window, window, channels)
        return y.permute(0, 1, 3, 2, 4, 5).reshape(x.shape).roll((shift, shift), (1, 2))

    def bias(self, window: int) -> Tensor:
        """(heads, n, n)."""
        place = torch.cartesian_prod(torch.arange(window), torch.arange(window))
        away = place[:, None] - place[None] + self.window - 1
        return self.bias_table[away[..., 0] * (2 * self.window - 1) + away[..., 1]].permute(2, 0, 1)

    def hidden(self, height: int, width: int, window: int, shift: int) -> Tensor:
        """(K, n, n): -100 between tokens that the shift alone made neighbours, else 0."""
        region = torch.zeros(1, height, width, 1)
        for number, rows in enumerate((slice(-window), slice(-window, -shift), slice(-shift, None))):
            for other, columns in enumerate((slice(-window), slice(-window, -shift), slice(-shift, None))):
                region[:, rows, columns] = 3 * number + other
        region = parted(region, window).squeeze(2)
        return (region[:, :, None] != region[:, None]) * -100.0


class NaiveMerge(nn.Module):
    def __init__(self, merge: Merge) -> None:
        super().__init__()
        self.norm, self.reduce = deepcopy(merge.norm), deepcopy(merge.reduce)

    def forward(self, x: Tensor) -> Tensor:
        corners = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
        return self.reduce(self.norm(torch.cat(corners, -1)))


class NaiveExpand(nn.Module):
    def __init__(self, expand: Expand | nn.Module, factor: int) -> None:
        super().__init__()
        self.factor, self.spread, self.norm = factor, deepcopy(expand.spread), deepcopy(expand.norm)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        x = self.spread(x).view(batch, height, width, self.factor, self.factor, -1).permute(0, 1, 3, 2, 4, 5)
        return self.norm(x.reshape(batch, height * self.factor, width * self.factor, -1))


class NaiveDecode(nn.Module):
    def __init__(self, decode: Decode) -> None:
        super().__init__()
        self.expand, self.join = NaiveExpand(decode.expand, 2), deepcopy(decode.join)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.join(torch.cat([self.expand(x), skip], -1))


def parted(x: Tensor, window: int) -> Tensor:
    """(B, h, w, D) -> (B K, n, D)."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // window, window, width // window, window, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window**2, channels)
