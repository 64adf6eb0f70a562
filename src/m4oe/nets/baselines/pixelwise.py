"""A network of pictures as a segmenter takes it: any channels and sizes go in, features of every pixel come out.

Axes: P pictures of one channel count · B of all · C channels · H, W pixels · F features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m4oe.batch import Routing
from m4oe.nets.baselines.residual import ResidualDecoder, ResidualEncoder
from m4oe.nets.segmenter import Segmenter


class Fronts(nn.Module):
    """Pictures of several channel counts -> (B, inner, H, W): by a 1x1 convolution, which starts as the mean of the
    channels, unless they have that many."""

    def __init__(self, channels: Sequence[int], inner: int) -> None:
        super().__init__()
        self.fronts = nn.ModuleDict({str(count): _front(count, inner) for count in sorted({*channels})})

    def forward(self, pictures: Sequence[Tensor]) -> Tensor:
        return torch.cat([self.fronts[str(picture.shape[1])](picture) for picture in pictures])


def _front(count: int, inner: int) -> nn.Module:
    if count == inner:
        return nn.Identity()
    front = nn.Conv2d(count, inner, 1)
    nn.init.constant_(front.weight, 1 / count)
    nn.init.zeros_(front.bias)
    return front


def framed(x: Tensor, multiple: int) -> Tensor:
    """`x` with zeros to the right and below, so that its sides are multiples; of two at least, since one value cannot
    be normalised by picture."""
    h, w = (multiple * max(2, -(-side // multiple)) - side for side in x.shape[-2:])
    return F.pad(x, (0, w, 0, h))


def as_features(x: Tensor, size: Sequence[int]) -> Tensor:
    """(B, F, >= H, >= W) -> (B, H, W, 1, 1, F), as stems.as_picture reads them."""
    return x.permute(0, 2, 3, 1)[:, : size[0], : size[1], None, None]


class Pixelwise(nn.Module):
    """A network (B, inner, H, W) -> (B, features, H, W), for sides that are multiples of `multiple`.

    `make` is given the number of channels that go in.
    """

    def __init__(self, make: Callable[[int], nn.Module], channels: Sequence[int], features: int, multiple: int) -> None:
        super().__init__()
        self.features, self.multiple = features, multiple
        self.fronts, self.network = Fronts(channels, max(channels)), make(max(channels))

    def forward(self, pictures: Sequence[Tensor], modality: Tensor) -> tuple[Tensor, dict[str, Routing]]:
        x = self.fronts(pictures)
        return as_features(self.network(framed(x, self.multiple)), x.shape[-2:]), {}


@dataclass(frozen=True)
class Encoded:
    """Feature maps of pictures by resolution, (B, c, h, w) each; rows are taken of all of them at once."""

    maps: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.maps[0])

    def __getitem__(self, rows: slice | Tensor) -> Encoded:
        return Encoded(tuple(one[rows] for one in self.maps))

    def split(self, counts: Sequence[int]) -> list[Encoded]:
        return [Encoded(parts) for parts in zip(*(one.split(list(counts)) for one in self.maps))]


class SharedEncoder(nn.Module):
    """One encoder for all pictures, and a decoder of its own for the label set of each task."""

    def __init__(self, channels: Sequence[int], counts: Sequence[int], depth: int, tasks: Sequence[str]) -> None:
        super().__init__()
        self.features, self.multiple, self.tasks = counts[0], 2 ** (len(counts) - 1), tuple(tasks)
        self.fronts = Fronts(channels, max(channels))
        self.encoder = ResidualEncoder(max(channels), counts, depth)
        self.decoders = nn.ModuleList(ResidualDecoder(counts, depth) for _ in tasks)

    def forward(self, pictures: Sequence[Tensor], modality: Tensor) -> tuple[Encoded, dict[str, Routing]]:
        return Encoded(self.encoder(framed(self.fronts(pictures), self.multiple))), {}

    def decode(self, task: str, encoded: Encoded) -> Tensor:
        """(B, F, >= H, >= W), by the decoder of the task."""
        if not len(encoded):
            return encoded.maps[0][:, : self.features]
        return self.decoders[self.tasks.index(task)](encoded.maps)


class SeparateSegmenter(Segmenter):
    """A segmenter whose network decodes for each task by itself."""

    def _features(self, task: str, part: Encoded, size: Sequence[int]) -> Tensor:
        return as_features(self.network.decode(task, part), size)
