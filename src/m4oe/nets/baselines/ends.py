"""How baselines begin and end: a vector of each stream, and heads that start at the prevalence as ours do.

Axes: B exams · N tokens · D width · I streams · T tasks · C logits of a task · A numbers before thresholds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from m4oe.batch import Prediction, Rows, Tokens
from m4oe.nets.baselines.shape import Shape, TaskShape
from m4oe.nets.heads import AdditiveHead, Thresholds, pooled, present_streams


class Body(NamedTuple):
    """What stands between tokens and heads gives: x (B, T, D), or (B, T, N, D); T may be 1, for all tasks alike."""

    x: Tensor
    penalties: Mapping[str, Tensor] = {}


class Summary(nn.Module):
    """Each stream as one vector: its tokens' maximum and mean, what our own head reads, projected to width D."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.num_streams = shape.num_streams
        self.project = nn.Linear(2 * shape.width, shape.width)

    def forward(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """(B, I, D), zero for an absent stream, and (B, I) bool of those present."""
        here = present_streams(tokens, self.num_streams)
        x = self.project(torch.cat(pooled(tokens.x, tokens, self.num_streams), -1))
        return torch.where(here.unsqueeze(-1), x, 0.0), here


class Joined(nn.Module):
    """All inputs side by side as one vector (B, D); an absent input adds nothing.

    What stands behind it keeps a residual path to it: without, mixtures have hardly begun to learn when a training of
    the usual length ends.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.summary = Summary(shape)
        self.project = nn.Linear(shape.num_streams * shape.width, shape.width)

    def forward(self, tokens: Tokens) -> Tensor:
        return self.project(self.summary(tokens)[0].flatten(1))


class Head(nn.Module):
    """A linear layer and thresholds: (B, D) -> (B, C)."""

    def __init__(self, width: int, task: TaskShape) -> None:
        super().__init__()
        self.value = nn.Linear(width, task.sums, bias=False)
        self.thresholds = Thresholds(task.start, task.order)

    def forward(self, x: Tensor) -> Tensor:
        return self.value(x) + self.thresholds()


class Ending(nn.Module):
    """The end of one task. Its head is called so in every network, since training treats heads by that name."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head


def endings(tasks: Iterable[TaskShape], heads: Iterable[nn.Module]) -> nn.ModuleDict:
    """An ending for each task; the prefix keeps names of tasks apart from methods of ModuleDict."""
    return nn.ModuleDict({f"for_{task.name}": Ending(head) for task, head in zip(tasks, heads)})


def everyone(logits: Tensor) -> Rows:
    """Logits (B, C) of all exams of a batch."""
    return Rows(logits, torch.arange(len(logits), device=logits.device))


class OnVectors(nn.Module):
    """A body that gives each task a vector, and a linear head on it."""

    def __init__(self, body: nn.Module, shape: Shape) -> None:
        super().__init__()
        self.body, self.names = body, [task.name for task in shape.tasks]
        self.tasks = endings(shape.tasks, (Head(shape.width, task) for task in shape.tasks))

    def forward(self, tokens: Tokens) -> Prediction:
        x, penalties = self.body(tokens)
        own = x.expand(-1, len(self.names), -1).unbind(1)
        logits = {name: everyone(self.tasks[f"for_{name}"].head(z)) for name, z in zip(self.names, own)}
        return Prediction(logits, penalties=penalties)


class OnTokens(nn.Module):
    """A body that gives each task its tokens, and our own additive head on them: only the mixture differs."""

    def __init__(self, body: nn.Module, shape: Shape) -> None:
        super().__init__()
        self.body, self.names = body, [task.name for task in shape.tasks]
        heads = (AdditiveHead(shape.width, task.start, task.order, shape.num_streams) for task in shape.tasks)
        self.tasks = endings(shape.tasks, heads)

    def forward(self, tokens: Tokens) -> Prediction:
        x, penalties = self.body(tokens)
        own = x.expand(-1, len(self.names), -1, -1).unbind(1)
        verdicts = {name: self.tasks[f"for_{name}"].head(z, tokens) for name, z in zip(self.names, own)}
        return Prediction(
            {name: everyone(verdict.logits) for name, verdict in verdicts.items()},
            {name: verdict.evidence for name, verdict in verdicts.items()},
            {name: verdict.bias for name, verdict in verdicts.items()},
            penalties=penalties,
        )
