"""What flows through a network: rows of what exists, tokens, routing, predictions.

Axes, here and in every file below: B exams of a batch · P exams that have a thing · N tokens · D width ·
E experts · S slots · T tasks · M modalities · C outputs of a task · I input streams.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """What P of the B exams of a batch have. Absence is the absence of a row: there is no filler value.

    values: (P, ...), any dtype · index: (P,) int64, strictly increasing positions of the exams in the batch.
    """

    values: Tensor
    index: Tensor

    def to(self, device: torch.device | str) -> Rows:
        return Rows(self.values.to(device, non_blocking=True), self.index.to(device, non_blocking=True))

    def scatter(self, size: int) -> tuple[Tensor, Tensor]:
        """(size, ...) values with zeros where there is no row, and (size,) bool of where there is one."""
        full = self.values.new_zeros(size, *self.values.shape[1:]).index_copy(0, self.index, self.values)
        present = torch.zeros(size, dtype=torch.bool, device=self.index.device)
        return full, present.index_fill(0, self.index, True)


def shared_rows(a: Rows, b: Rows) -> tuple[Tensor, Tensor]:
    """Values of `a` and of `b` for the exams that have both, in the same order."""
    return _of_exams(a, b.index), _of_exams(b, a.index)


def _of_exams(rows: Rows, index: Tensor) -> Tensor:
    """Values of the exams at `index`: without a copy where that is all."""
    keep = torch.isin(rows.index, index)
    return rows.values if keep.all() else rows.values[keep]


@dataclass(frozen=True)
class Batch:
    """B exams: `inputs` {stream: Rows} (P, C, H, W), (P, C, D, H, W) or (P, V); `targets` {task: Rows}.

    A stream is an input of one modality (schema.Stream). `exams` are names for messages, "study/exam".
    """

    exams: tuple[str, ...]
    inputs: Mapping[str, Rows]
    targets: Mapping[str, Rows] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.exams)

    def to(self, device: torch.device | str) -> Batch:
        move = {name: rows.to(device) for name, rows in self.inputs.items()}
        return Batch(self.exams, move, {name: rows.to(device) for name, rows in self.targets.items()})


@dataclass(frozen=True)
class Tokens:
    """Tokens of all inputs of a batch, side by side; whatever stands where `present` is False is never read.

    x: (B, N, D) float · modality: (N,) int64 · stream: (N,) int64 · present: (B, N) bool.
    """

    x: Tensor
    modality: Tensor
    stream: Tensor
    present: Tensor

    def with_x(self, x: Tensor) -> Tokens:
        return Tokens(x, self.modality, self.stream, self.present)


@dataclass(frozen=True)
class Routing:
    """Who reads what, of one layer and one batch: the single object that layers, losses and figures read.

    dispatch: (..., N, E, S) what each slot reads, a distribution over present tokens; None = every expert reads
    every token · combine: (..., N, E, S), or (..., N, E) when dispatch is None: how each token is rebuilt, exactly
    0 at absent tokens · joint: (B, M, E, T) P(modality, expert, task) of each exam, where the router defines one.
    """

    dispatch: Tensor | None
    combine: Tensor
    joint: Tensor | None = None


@dataclass(frozen=True)
class Prediction:
    """What a network says of a batch.

    logits: {task: Rows (P, C)} or, for a segmentation, {task: Rows (P, C, H, W)} for exams that have its `on`
    input · evidence: {task: (B, I, C)} signed parts of the logits by stream, which with `bias` {task: (C,)} sum
    to the logits (additive heads only) · routing: {layer: Routing} · penalties: {name: scalar} that the network itself
    adds to the loss, weights inside.
    """

    logits: Mapping[str, Rows]
    evidence: Mapping[str, Tensor] = field(default_factory=dict)
    bias: Mapping[str, Tensor] = field(default_factory=dict)
    routing: Mapping[str, Routing] = field(default_factory=dict)
    penalties: Mapping[str, Tensor] = field(default_factory=dict)
