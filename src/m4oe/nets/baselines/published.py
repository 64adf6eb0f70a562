"""Baselines in the style of systems that the papers compare with. Axes as in ends.py; K hypotheses of an opinion."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from m4oe.batch import Prediction, Tokens
from m4oe.moe import Experts
from m4oe.moe.routers import masked_softmax
from m4oe.nets.baselines.ends import Body, Head, Summary, endings, everyone
from m4oe.nets.baselines.shape import Shape, TaskShape
from m4oe.nets.blocks import Attention
from m4oe.nets.heads import Thresholds


class HazardHead(nn.Module):
    """Logits of cumulative risk: a base, and a hazard >= 0 that each horizon adds (Mirai's additive hazard layer)."""

    def __init__(self, width: int, task: TaskShape) -> None:
        super().__init__()
        self.value = nn.Linear(width, 1 + len(task.start), bias=False)
        self.thresholds = Thresholds(task.start, task.order)

    def forward(self, x: Tensor) -> Tensor:
        base, hazards = self.value(x).split([1, self.value.out_features - 1], 1)
        return self.thresholds() + base + hazards.relu().cumsum(1)


class Mirai(nn.Module):
    """A transformer over views, attention pooling, and a hazard layer for survival (Yala 2021)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.summary = Summary(shape)
        self.norms = nn.ModuleList(nn.LayerNorm(shape.width) for _ in range(2))
        self.attention = Attention(shape.width, shape.heads)
        self.mlp = Experts(1, shape.width, shape.budget)
        self.score = nn.Linear(shape.width, 1, bias=False)
        heads = (HazardHead if task.order > 0 else Head for task in shape.tasks)
        self.tasks = endings(shape.tasks, (kind(shape.width, task) for kind, task in zip(heads, shape.tasks)))

    def forward(self, tokens: Tokens) -> Prediction:
        x, here = self.summary(tokens)
        x = x + self.attention(self.norms[0](x), here)
        x = x + self.mlp(self.norms[1](x).flatten(0, 1).unsqueeze(0)).view_as(x)
        pooled = torch.einsum("bi,bid->bd", masked_softmax(self.score(x).squeeze(-1), here, 1), x)
        logits = {key.removeprefix("for_"): everyone(ending.head(pooled)) for key, ending in self.tasks.items()}
        return Prediction(logits)


class MModN(nn.Module):
    """A state that each present input changes in turn; an absent one leaves it as it is (Swamy 2023)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.summary = Summary(shape)
        self.start = nn.Parameter(torch.zeros(shape.width))
        self.steps = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * shape.width, shape.share), nn.GELU(), nn.Linear(shape.share, shape.width))
            for _ in shape.modalities
        )

    def forward(self, tokens: Tokens) -> Body:
        x, here = self.summary(tokens)
        state = self.start.to(x.dtype).expand(len(x), -1)
        for number, step in enumerate(self.steps):
            changed = state + step(torch.cat([state, x[:, number]], 1))
            state = torch.where(here[:, number, None], changed, state)
        return Body(state.unsqueeze(1))


class EvidenceHead(nn.Module):
    """Each stream's evidence for the hypotheses of one task, fused by Dempster's rule.

    A task of classes has K = C hypotheses, any other K = 2 (for and against) for each of its A numbers.
    """

    def __init__(self, width: int, task: TaskShape) -> None:
        super().__init__()
        self.exclusive = task.exclusive
        self.groups, self.hypotheses = (1, task.sums) if task.exclusive else (task.sums, 2)
        self.value = nn.Linear(width, self.groups * self.hypotheses, bias=False)
        self.thresholds = Thresholds(task.start, task.order)

    def forward(self, x: Tensor, here: Tensor) -> Tensor:
        """x (B, I, D), here (B, I) bool -> (B, C)."""
        evidence = F.softplus(self.value(x).float()).masked_fill(~here.unsqueeze(-1), 0.0)
        alpha = fused_concentration(evidence.unflatten(-1, (self.groups, self.hypotheses))).log()
        score = alpha.flatten(1) if self.exclusive else alpha[..., 1] - alpha[..., 0]
        return score + self.thresholds()


def fused_concentration(evidence: Tensor) -> Tensor:
    """Dirichlet parameters (B, ..., K) of opinions with evidence (B, I, ..., K) >= 0, fused by Dempster's rule.

    An opinion has beliefs b_k = e_k / S and doubt u = K / S, S = sum e + K. The rule multiplies b_k + u and u, up to a
    constant, over opinions; so alpha_k = K prod_i (1 + e_ik / K) - K + 1. No evidence is no opinion.
    """
    count = evidence.shape[-1]
    return 1 + count * torch.expm1(torch.log1p(evidence / count).sum(1))


class Evidential(nn.Module):
    """Each input's opinion, trusted by how little it doubts: trusted multi-view classification (Han 2021)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.summary = Summary(shape)
        self.own = Experts(shape.num_streams, shape.width, shape.share)
        self.tasks = endings(shape.tasks, (EvidenceHead(shape.width, task) for task in shape.tasks))

    def forward(self, tokens: Tokens) -> Prediction:
        x, here = self.summary(tokens)
        x = x + self.own(x.transpose(0, 1)).transpose(0, 1)
        logits = {key.removeprefix("for_"): everyone(e.head(x, here)) for key, e in self.tasks.items()}
        return Prediction(logits)
