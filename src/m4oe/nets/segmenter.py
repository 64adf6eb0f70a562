"""The segmentation network (M4oE, MICCAI 2024): a Swin-UNet with experts, and class logits of every pixel.

Axes as in batch.py; U classes of the unified label set, of which a task's logits are marginals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from m4oe.batch import Batch, Prediction, Rows
from m4oe.nets.masked_images import MaskedImages
from m4oe.nets.swin_unet import SwinUNet

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
    """All pictures of a batch: `values` by channel count, (P, C, H, W) each, one after the other; of each picture its
    `modality`, its exam's position `index`, and the number of its `stream`, (B,) int64."""

    values: tuple[Tensor, ...]
    modality: Tensor
    index: Tensor
    stream: Tensor


class Segmenter(nn.Module):
    """Slices of any modality -> logits of each task's classes.

    outputs: of each task, for each class the outputs of the head that it consists of; a class of several has their
    logsumexp. With a head for each task these are its own; with unified labels they are shared. prior: share of
    pixels of each output, where logits start.
    """

    def __init__(
        self,
        network: SwinUNet,
        streams: Sequence[SliceStream],
        outputs: Mapping[str, Sequence[Sequence[int]]],
        prior: Sequence[float],
        *,
        masked_images: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.streams = network, tuple(streams)
        self.outputs = {task: tuple(tuple(members) for members in classes) for task, classes in outputs.items()}
        self.head = nn.Conv2d(network.features, len(prior), 1)
        with torch.no_grad():
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            self.head.bias.copy_(torch.tensor(prior).clamp_min(1e-4).log())
        channels = sorted({stream.channels for stream in streams})
        self.masked = MaskedImages(network, channels) if masked_images else None

    def forward(self, batch: Batch, tasks: Sequence[str] | None = None) -> Prediction:
        """Logits (P, C, H, W) of `tasks`, by default all, for the exams that have an input on which the mask lies.

        Of the task "unified" (unified labels only): (P, U, H, W) of every picture, an exam with two having two rows.
        Raises ValueError for a batch without pictures.
        """
        pictures = self.pictures(batch)
        features, routing = self.network(pictures.values, pictures.modality)
        logits = self.head(features)
        names = self.outputs if tasks is None else tasks
        return Prediction({task: self._of_task(task, logits, pictures) for task in names}, routing=routing)

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
        stream = torch.cat([torch.full_like(rows.index, number) for _, number, rows in found])
        modality = torch.tensor([one.modality for one in self.streams], device=device)[stream]
        values = tuple(torch.cat([rows.values for c, _, rows in found if c == count]) for count in counts)
        return Pictures(values, modality, torch.cat([rows.index for _, _, rows in found]), stream)

    def _of_task(self, task: str, logits: Tensor, pictures: Pictures) -> Rows:
        streams = [number for number, one in enumerate(self.streams) if task == UNIFIED or task in one.tasks]
        rows = torch.isin(pictures.stream, torch.tensor(streams, device=logits.device)).nonzero().squeeze(1)
        rows = rows[pictures.index[rows].argsort(stable=True)]
        values = logits if torch.equal(rows, torch.arange(len(logits), device=rows.device)) else logits[rows]
        return Rows(values if task == UNIFIED else marginal(values, self.outputs[task]), pictures.index[rows])


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
