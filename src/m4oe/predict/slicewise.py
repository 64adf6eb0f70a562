"""A picture to masks, some slices at a time: the class scores of a whole volume never exist.

Axes: S slices · P of them in a batch · C channels, or classes of scores · h, w of a slice as prepared, H, W as the
network takes it · E experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy import ndarray
from torch import Tensor, nn

from m4oe.batch import Batch, Routing, Rows
from m4oe.data.augmentation import flips_of
from m4oe.data.readers import Picture
from m4oe.data.volumes.prepare import Slices, Way, prepare
from m4oe.device import has_fast_bf16
from m4oe.errors import UserError
from m4oe.predict.goals import Goal
from m4oe.schema import Plan, Stream

MIRRORED = ((), (2,), (3,), (2, 3))  # axes of (P, C, H, W): none, rows, columns, both
FAR = 2**20  # pixels of a side so long that its tokens tell how many pixels one has


@dataclass(frozen=True, eq=False)
class Segmented:
    """labels {goal: class indices on the picture's grid, uint8, or uint16 of more than 256 classes} · gate {layer:
    (E,) float64}, what its slices were given to each expert, summed over tokens."""

    labels: dict[str, ndarray]
    gate: dict[str, ndarray]


@dataclass(frozen=True)
class Slicewise:
    """A network that takes the slices of one picture after the other.

    at_once: slices of the plan's size in a batch; of larger ones fewer, so that memory is bounded · flips: scores are
    means over slices mirrored as their kind allows.
    """

    network: nn.Module
    plan: Plan
    device: torch.device
    at_once: int = 32
    flips: bool = False

    @torch.no_grad()
    def segment(self, picture: Picture, stream: Stream, goals: Sequence[Goal]) -> Segmented:
        """Class indices of each goal on the picture's own grid. Raises UserError for another number of channels."""
        if len(picture.values) != stream.channels:
            raise UserError(
                f"{picture.source}: {len(picture.values)} channels, where {stream.name!r} has {stream.channels}, as "
                "its first picture had"
            )
        prepared = prepare(picture, self.plan.streams[stream.name], self.plan.size)
        found = Segmented({goal.task: np.zeros(picture.shape, _index_type(goal)) for goal in goals}, {})
        stacks = [prepared.way.stack(labels) for labels in found.labels.values()]
        for numbers in self._batches(prepared.slices):
            values = self._framed(with_neighbours(prepared.slices, numbers, self.plan.context), prepared.slices.floor)
            for stack, scores in zip(stacks, self._scores(values, stream, goals, found.gate), strict=True):
                for number, one in zip(numbers, _unframed(scores, prepared.way.inner), strict=True):
                    # Channels last, and max for argmax: four times as fast on a CPU, where most of the time went.
                    slim = one[None].contiguous(memory_format=torch.channels_last)
                    stack[number] = prepared.way.back(slim)[0].max(0).indices.cpu().numpy()
        return found

    @torch.no_grad()
    def experts(self, picture: Picture, number: int, stream: Stream) -> dict[str, ndarray]:
        """{layer: (rows, columns, E) float32}: the share of each expert in every pixel of slice `number`, on the
        picture's own grid, where a pixel has that of the token in which it lies."""
        prepared = prepare(picture, self.plan.streams[stream.name], self.plan.size)
        values = self._framed(with_neighbours(prepared.slices, [number], self.plan.context), prepared.slices.floor)
        _, routing = self._forward(values.to(self.device), stream, ())
        return {
            layer: self._on_plane(one.combine, layer, values.shape[2:], prepared.way) for layer, one in routing.items()
        }

    def _on_plane(self, combine: Tensor, layer: str, size: Sequence[int], way: Way) -> ndarray:
        """combine (1, N, E), or (1, 1, E) of the slice as a whole -> (rows, columns, E)."""
        rows, columns = self.network.grid(layer, size)  # type: ignore[operator]
        tokens = combine.expand(-1, rows * columns, -1).mT.unflatten(2, (rows, columns))
        pixels = round(FAR / self.network.grid(layer, (FAR, FAR))[0])  # type: ignore[operator]
        shares = tokens.repeat_interleave(pixels, 2).repeat_interleave(pixels, 3)[:, :, : size[0], : size[1]]
        shares = F.interpolate(_unframed(shares.float(), way.inner), way.plane, mode="nearest-exact")
        return shares[0].permute(1, 2, 0).cpu().numpy()

    def _batches(self, slices: Slices) -> Iterator[range]:
        rows, columns = (max(pair) for pair in zip(slices.shape[2:], self.plan.size))
        count = max(1, self.at_once * self.plan.size[0] * self.plan.size[1] // (rows * columns))
        for start in range(0, len(slices), count):
            yield range(start, min(start + count, len(slices)))

    def _framed(self, values: Tensor, floor: float) -> Tensor:
        """(P, C, H, W): at least of the plan's size, as training slices are, what is around them `floor`."""
        (above, below), (left, right) = (_margins(*pair) for pair in zip(values.shape[2:], self.plan.size))
        return F.pad(values, (left, right, above, below), value=floor)

    def _scores(self, values: Tensor, stream: Stream, goals: Sequence[Goal], gate: dict[str, ndarray]) -> list[Tensor]:
        """Of each goal the class probabilities (P, C, H, W) float32; adds to the sums of `gate`."""
        values = values.to(self.device)
        sums: list[Tensor | float] = [0.0] * len(goals)
        for axes in mirrored(stream.kind) if self.flips else MIRRORED[:1]:
            logits, routing = self._forward(values.flip(axes), stream, goals)
            for place, goal in enumerate(goals):
                shares = goal.of(logits[goal.logits]).float().softmax(1).flip(axes)
                sums[place] = sums[place] + shares
            for layer, one in routing.items() if not axes else ():
                gate[layer] = gate.get(layer, 0.0) + one.combine.double().sum((0, 1)).cpu().numpy()
        return [total for total in sums if isinstance(total, Tensor)]

    def _forward(
        self, values: Tensor, stream: Stream, goals: Sequence[Goal]
    ) -> tuple[dict[str, Tensor], dict[str, Routing]]:
        exams = Batch(("",) * len(values), {stream.name: Rows(values, torch.arange(len(values), device=self.device))})
        tasks = tuple(dict.fromkeys(goal.logits for goal in goals))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=has_fast_bf16(self.device)):
            prediction = self.network(exams, tasks)
        return {task: prediction.logits[task].values.float() for task in tasks}, dict(prediction.routing)


def mirrored(kind: str) -> list[tuple[int, ...]]:
    """Those of MIRRORED that show what a picture of `kind` may look like: a mirrored left kidney is no left kidney."""
    may = dict(zip((2, 3), flips_of(kind)))
    return [axes for axes in MIRRORED if all(may[axis] for axis in axes)]


def with_neighbours(slices: Slices, numbers: Sequence[int], context: int) -> Tensor:
    """The slices `numbers` (P, C * (2 * context + 1), h, w), each among its neighbours in the order of the stack, as
    training slices are; beyond the ends of the stack the last one repeats."""
    around = np.arange(-context, context + 1)
    places = np.clip(np.asarray(numbers)[:, None] + around, 0, len(slices) - 1)
    needed, where = np.unique(places, return_inverse=True)
    return slices[needed.tolist()][torch.from_numpy(where.reshape(places.shape))].flatten(1, 2)


def _margins(length: int, full: int) -> tuple[int, int]:
    missing = max(0, full - length)
    return missing // 2, missing - missing // 2


def _unframed(scores: Tensor, inner: tuple[int, int]) -> Tensor:
    """(P, C, h, w): what `_framed` put around is taken off."""
    above, left = (_margins(length, full)[0] for length, full in zip(inner, scores.shape[2:]))
    return scores[:, :, above : above + inner[0], left : left + inner[1]]


def _index_type(goal: Goal) -> type:
    return np.uint8 if len(goal.classes) <= 256 else np.uint16
