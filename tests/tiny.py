"""A schema with every kind of task and form of input, and batches for it: what tests of networks share."""

from __future__ import annotations

import torch

from m4oe.batch import Batch, Rows
from m4oe.config import load_config
from m4oe.schema import Schema, Stream, TaskSpec, Variable
from m4oe.settings import Model

AGE = Variable(column="age", mean=60.0, sd=10.0)
SEX = Variable(column="sex", categories=("F", "M"))
STREAMS = (
    Stream(name="cc", input="cc", modality="ffdm", kind="mammogram", form="image", channels=1, size=(32, 32)),
    Stream(name="mlo", input="mlo", modality="ffdm", kind="mammogram", form="image", channels=1, size=(32, 32)),
    Stream(name="photo", input="photo", modality="fundus", kind="photo", form="image", channels=3, size=(32, 32)),
    Stream(name="scan@t1", input="scan", modality="t1", kind="mr", form="volume", channels=1, size=(4, 16, 16)),
    Stream(name="scan@t2", input="scan", modality="t2", kind="mr", form="volume", channels=1, size=(4, 16, 16)),
    Stream(name="age", input="age", modality="clinical", kind="table", form="vector", channels=4, variables=(AGE, SEX)),
)
TASKS = (
    TaskSpec(name="cancer", kind="binary", classes=("0", "1"), prior=(0.2,), weights=(0.5, 1.5)),
    TaskSpec(name="type", kind="multiclass", classes=("a", "b", "c"), prior=(0.5, 0.3, 0.2), weights=(1, 1, 1)),
    TaskSpec(name="findings", kind="multilabel", classes=("m", "c"), prior=(0.3, 0.1), weights=(1, 1)),
    TaskSpec(name="density", kind="ordinal", classes=("A", "B", "C"), prior=(0.3, 0.4, 0.3), weights=(1, 1, 1)),
    TaskSpec(name="risk", kind="survival", classes=("1", "2"), horizons=(1, 2), prior=(0.1, 0.2), weights=(1, 1)),
    TaskSpec(
        name="disc", kind="segmentation", classes=("back", "disc"), on="photo", prior=(0.9, 0.1), weights=(0.5, 1.5)
    ),
)
SCHEMA = Schema(streams=STREAMS, tasks=TASKS)
MODEL = load_config(
    overrides=[
        "model.width=32",
        "model.image_size=[32, 32]",
        "model.volume_size=[4, 16, 16]",
        "model.encoder.depth=1",
        "model.encoder.dropout=0",
        "model.specific.num_experts=3",
        "model.specific.hidden=16",
        "model.shared.num_experts=4",
        "model.shared.hidden=16",
        "model.fusion.depth=1",
        "model.fusion.num_experts=2",
        "model.fusion.hidden=16",
    ]
).model


def variant(**sections: dict[str, object]) -> Model:
    """MODEL with keys of its sections changed: variant(fusion={"head": "pooled"})."""
    changes = {name: getattr(MODEL, name).model_copy(update=keys) for name, keys in sections.items()}
    return MODEL.model_copy(update=changes)


def values(stream: Stream, rows: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(rows, stream.channels, *stream.size, generator=generator)


def full_batch(size: int = 6, seed: int = 0) -> Batch:
    """Every exam has every input (the scan in one of its two modalities) and every label."""
    g = torch.Generator().manual_seed(seed)
    everyone = torch.arange(size)
    inputs = {}
    for stream in STREAMS:
        index = {"scan@t1": everyone[::2], "scan@t2": everyone[1::2]}.get(stream.name, everyone)
        inputs[stream.name] = Rows(values(stream, len(index), g), index)
    targets = {
        "cancer": torch.arange(size) % 2,
        "type": torch.arange(size) % 3,
        "findings": torch.tensor([[0.0, 1.0], [1.0, float("nan")]]).repeat(size, 1)[:size],
        "density": torch.arange(size) % 3,
        "risk": torch.tensor([[0.5, 1.0], [1.5, 0.0], [3.0, 0.0]]).repeat(size, 1)[:size],
        "disc": torch.randint(0, 2, (size, 32, 32), generator=g),
    }
    exams = tuple(f"s/{number}" for number in range(size))
    return Batch(exams, inputs, {name: Rows(target, everyone) for name, target in targets.items()})


def subset(batch: Batch, keep: torch.Tensor) -> Batch:
    """The exams `keep` (positions, in any order) as a batch of their own."""

    def rows_of(rows: Rows) -> Rows:
        place = {int(exam): row for row, exam in enumerate(rows.index)}
        pairs = [(new, place[int(old)]) for new, old in enumerate(keep) if int(old) in place]
        return Rows(rows.values[[row for _, row in pairs]], torch.tensor([new for new, _ in pairs], dtype=torch.int64))

    inputs = {name: rows_of(rows) for name, rows in batch.inputs.items()}
    targets = {name: rows_of(rows) for name, rows in batch.targets.items()}
    exams = tuple(batch.exams[int(old)] for old in keep)
    return Batch(exams, {name: rows for name, rows in inputs.items() if len(rows.index)}, targets)


def without(batch: Batch, *streams: str) -> Batch:
    return Batch(batch.exams, {k: v for k, v in batch.inputs.items() if k not in streams}, batch.targets)
