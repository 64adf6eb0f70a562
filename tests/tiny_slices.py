"""A schema of slices: three streams of two modalities, three label sets that overlap, and batches for it."""

from __future__ import annotations

import torch

from m4oe.batch import Batch, Rows
from m4oe.config import load_config
from m4oe.schema import Schema, Stream, TaskSpec
from m4oe.settings import Model

SIZE = (24, 20)
# The head "abdomen" comprises two classes of "kidneys"; its liver is the liver of "liver".
COMPRISES = {
    "abdomen": (("background",), ("liver",), ("left", "right")),
    "kidneys": (("background",), ("left",), ("right",)),
    "liver": (("background",), ("liver",), ("tumour",), ("vessel",)),
}
ON = {"abdomen": "ct", "kidneys": "mr", "liver": "contrast"}


def _stream(name: str, modality: str, channels: int) -> Stream:
    return Stream(name=name, input=name, modality=modality, kind="mr", form="slices", channels=channels, size=SIZE)


def _task(name: str) -> TaskSpec:
    classes = tuple("+".join(names) for names in COMPRISES[name])
    prior = (0.8, *[0.2 / (len(classes) - 1)] * (len(classes) - 1))
    return TaskSpec(
        name=name,
        kind="segmentation",
        classes=classes,
        on=ON[name],
        prior=prior,
        weights=(1.0,) * len(classes),
        comprises=COMPRISES[name],
    )


STREAMS = (_stream("ct", "ct", 1), _stream("mr", "mr", 1), _stream("contrast", "mr", 2))
SCHEMA = Schema(streams=STREAMS, tasks=tuple(_task(name) for name in COMPRISES))


def slices_model(**segmenter: object) -> Model:
    """A small segmenter, with keys of its section changed."""
    small = {"width": 16, "patch": 4, "depths": (2, 2), "heads": (2, 4), "window": 4, "size": SIZE, **segmenter}
    model = load_config().model
    return model.model_copy(update={"kind": "segmenter", "segmenter": model.segmenter.model_copy(update=small)})


def slices_batch(size: int = 6, seed: int = 0) -> Batch:
    """Exams in turn have a CT, an MR and a contrast MR, each with its mask."""
    g = torch.Generator().manual_seed(seed)
    inputs, targets = {}, {}
    for number, stream in enumerate(STREAMS):
        index = torch.arange(number, size, len(STREAMS))
        task = next(task for task in SCHEMA.tasks if task.on == stream.input)
        inputs[stream.name] = Rows(torch.randn(len(index), stream.channels, *SIZE, generator=g), index)
        targets[task.name] = Rows(torch.randint(0, len(task.classes), (len(index), *SIZE), generator=g), index)
    return Batch(tuple(f"s/{number}" for number in range(size)), inputs, targets)
