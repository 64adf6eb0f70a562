"""The segmentation network (M4oE, MICCAI 2024): a Swin-UNet with experts, and class logits of every pixel.

Axes as in batch.py; U classes of the unified label set, of which a task's logits are marginals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from m4oe.batch import Batch, Prediction, Rows
from m4oe.moe import GateRouter
from m4oe.nets.masked_images import MaskedImages
from m4oe.nets.stems import as_picture, linear

UNIFIED = "unified"


@dataclass(frozen=True)
class SliceStream:
    """A stream of slices: whose experts serve it, and which tasks' masks lie on it."""

    name: str
    modality: int
    channels: int
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Pictures:
    """All pictures of a batch: `values` by channel count, (P, C, H, W) each, one after the other, and within them by
    stream: `streams` are those present, `index` the positions of each one's exams; `modality` (B,) int64 of all."""

    values: tuple[Tensor, ...]
    modality: Tensor
    index: tuple[Tensor, ...]
    streams: tuple[SliceStream, ...]


class Segmenter(nn.Module):
    """Slices of any modality -> logits of each task's classes.

    outputs: of each task, for each class the outputs of the head that it consists of; a class of several has their
    logsumexp. With a head for each task these are its own; with unified labels they are shared. prior: share of
    pixels of each output, where logits start. network: any module that is called as SwinUNet is, and has `features`.
    """

    def __init__(
        self,
        network: nn.Module,
        streams: Sequence[SliceStream],
        outputs: Mapping[str, Sequence[Sequence[int]]],
        prior: Sequence[float],
        *,
        masked_images: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.streams = network, tuple(streams)
        self.open_outputs: int | None = None
        self.outputs = {task: tuple(tuple(members) for members in classes) for task, classes in outputs.items()}
        self.head = nn.Linear(network.features, len(prior))
        with torch.no_grad():
            nn.init.trunc_normal_(self.head.weight, std=network.features**-0.5)  # a small head learns late
            self.head.bias.copy_(torch.tensor(prior).clamp_min(1e-4).log())
        channels = sorted({stream.channels for stream in streams})
        self.masked = MaskedImages(network, channels) if masked_images else None

    def forward(self, batch: Batch, tasks: Sequence[str] | None = None) -> Prediction:
        """Logits (P, C, H, W) of `tasks`, for the exams that have an input on which the mask lies.

        By default of all open tasks; where the batch has labels, of those and of the exams that have them, no more.
        Of the task "unified" (unified labels only): (P, U, H, W) of every picture, an exam with two having two rows.
        Raises ValueError for a batch without pictures, and for a task that `restrict` has closed.
        """
        pictures = self.pictures(batch)
        features, routing = self.network(pictures.values, pictures.modality)
        parts = features.split([len(index) for index in pictures.index])
        if tasks is not None or not batch.targets:
            names = [task for task in self.outputs if all(self._open(task))] if tasks is None else tasks
            logits = {task: self._of_task(task, parts, pictures) for task in names}
        else:
            logits = {task: self._of_task(task, parts, pictures, rows.index) for task, rows in batch.targets.items()}
        return Prediction(logits, routing=routing)

    def restrict(self, experts: int | None = None, outputs: int | None = None) -> None:
        """Closes all experts and outputs but the first ones: a grown model is what it was, bit for bit. None opens."""
        self.open_outputs = outputs
        for module in self.modules():
            if isinstance(module, GateRouter):
                module.limit = experts

    def masked_images(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """Scalar loss of completing pictures of which most is hidden (a segmenter built for that objective only)."""
        assert self.masked is not None, "built without masked_images=True"
        pictures = self.pictures(batch)
        return self.masked(self.network, pictures.values, pictures.modality, generator)

    def grid(self, layer: str, size: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of the tokens that `layer` of a routing sees, for pictures of `size` (H, W)."""
        return self.network.grid(layer, size)

    def pictures(self, batch: Batch) -> Pictures:
        """What the batch holds, pictures of one channel count side by side."""
        found = [
            (stream.channels, number, batch.inputs[stream.name])
            for number, stream in enumerate(self.streams)
            if stream.name in batch.inputs and len(batch.inputs[stream.name].index)
        ]
        if not found:
            raise ValueError(f"no picture in the batch of exams {', '.join(batch.exams)}")
        found.sort(key=lambda one: one[:2])
        counts = dict.fromkeys(channels for channels, _, _ in found)
        device = found[0][2].index.device
        index = tuple(rows.index for _, _, rows in found)
        streams = tuple(self.streams[number] for _, number, _ in found)
        counts_of = torch.tensor([len(rows) for rows in index], device=device)
        modality = torch.tensor([stream.modality for stream in streams], device=device).repeat_interleave(counts_of)
        values = tuple(torch.cat([rows.values for c, _, rows in found if c == count]) for count in counts)
        return Pictures(values, modality, index, streams)

    def _of_task(self, task: str, parts: Sequence[Tensor], pictures: Pictures, labelled: Tensor | None = None) -> Rows:
        """Logits of the exams whose pictures the task's masks lie on, from features of each stream's; of those alone
        that are among `labelled`, if that is told."""
        if labelled is not None:
            keep = [torch.isin(index, labelled) for index in pictures.index]
            parts = [part if kept.all() else part[kept] for part, kept in zip(parts, keep)]
            pictures = replace(pictures, index=tuple(index[kept] for index, kept in zip(pictures.index, keep)))
        size = pictures.values[0].shape[-2:]
        mine = [number for number, one in enumerate(pictures.streams) if task == UNIFIED or task in one.tasks]
        if not mine:
            return Rows(self._logits(task, parts[0][:0], size), pictures.index[0][:0])
        index = torch.cat([pictures.index[number] for number in mine])
        values = torch.cat([self._logits(task, parts[number], size) for number in mine])
        if len(mine) == 1:
            return Rows(values, index)
        order = index.argsort(stable=True)
        return Rows(values[order], index[order])

    def _features(self, task: str, part: Tensor, size: Sequence[int]) -> Tensor:
        """What the head reads for `task`, of what the network says of P pictures: for all tasks the same."""
        return part

    def _open(self, task: str) -> list[list[int]]:
        """Of each class of `task` the outputs that are open; none of a class that is new in a model which `restrict`
        has made what it was."""
        count = len(self.head.bias) if self.open_outputs is None else self.open_outputs
        classes = [[number] for number in range(count)] if task == UNIFIED else self.outputs[task]
        return [[output for output in members if output < count] for members in classes]

    def _logits(self, task: str, part: Tensor, size: Sequence[int]) -> Tensor:
        """(P, C, H, W) of the task's classes, from features of P pictures; of the head, what these classes need."""
        features, classes = self._features(task, part, size), self._open(task)
        if not all(classes):
            raise ValueError(f"task {task!r} has a class that is closed: it is new in the grown model")
        first, last = min(map(min, classes)), max(map(max, classes))
        logits = linear(features, self.head.weight[first : last + 1], self.head.bias[first : last + 1])
        return marginal(as_picture(logits, size), [[output - first for output in outputs] for outputs in classes])


def marginal(logits: Tensor, classes: Sequence[Sequence[int]]) -> Tensor:
    """(P, U, ...) logits of outputs -> (P, C, ...) of classes that consist of them: logsumexp over each one's.

    A softmax over the classes is then the sum of what a softmax over the outputs gives to each, if every output is
    in one class.
    """
    members = [output for outputs in classes for output in outputs]
    if len(members) == len(classes):
        whole = members == list(range(members[0], members[0] + len(members)))
        return logits[:, members[0] : members[0] + len(members)] if whole else logits[:, members]
    return torch.stack([_joined(logits, outputs) for outputs in classes], 1)


def _joined(logits: Tensor, outputs: Sequence[int]) -> Tensor:
    return logits[:, outputs[0]] if len(outputs) == 1 else logits[:, list(outputs)].logsumexp(1)
