"""Baselines without experts: shared, early, late and attention fusion. Axes as in ends.py."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from m4oe.batch import Prediction, Tokens
from m4oe.moe import Experts
from m4oe.moe.routers import masked_softmax
from m4oe.nets.baselines.ends import Body, Joined, Summary, endings, everyone
from m4oe.nets.baselines.shape import Shape, TaskShape
from m4oe.nets.blocks import Attention
from m4oe.nets.heads import Thresholds


class HardSharing(nn.Module):
    """One trunk for all tasks, on all inputs side by side (Caruana 1997)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.joined = Joined(shape)
        self.trunk = Experts(1, shape.width, shape.budget)

    def forward(self, tokens: Tokens) -> Body:
        x = self.joined(tokens)
        return Body((x + self.trunk(x.unsqueeze(0))[0]).unsqueeze(1))


class EarlyFusion(nn.Module):
    """One transformer block over the tokens of all inputs; absent ones are not attended to."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(shape.width) for _ in range(2))
        self.attention = Attention(shape.width, shape.heads)
        self.mlp = Experts(1, shape.width, shape.budget)

    def forward(self, tokens: Tokens) -> Body:
        x = tokens.x + self.attention(self.norms[0](tokens.x), tokens.present)
        x = x + self.mlp(self.norms[1](x).flatten(0, 1).unsqueeze(0)).view_as(x)
        return Body(torch.where(tokens.present.unsqueeze(-1), x, 0.0).unsqueeze(1))


class LateHead(nn.Module):
    """Each stream's own logits of one task, blended: evenly, or by weights that are learned, over present streams."""

    def __init__(self, shape: Shape, task: TaskShape, learned: bool) -> None:
        super().__init__()
        self.value = nn.Linear(shape.width, shape.num_streams * task.sums, bias=False)
        self.weight = nn.Parameter(torch.zeros(shape.num_streams)) if learned else None
        self.thresholds = Thresholds(task.start, task.order)

    def forward(self, x: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, I, D), here (B, I) -> each stream's part (B, I, C) and the bias (C,) to which they add."""
        own = self.value.weight.view(x.shape[1], -1, x.shape[2])
        votes = torch.einsum("bid,iad->bia", x, own.to(x.dtype))
        trust = torch.zeros_like(x[..., 0]) if self.weight is None else self.weight.expand_as(here)
        bias = self.thresholds()
        return (votes * masked_softmax(trust, here, 1).unsqueeze(-1)).expand(-1, -1, len(bias)), bias


class LateFusion(nn.Module):
    """A network for each input up to the logits, which are then blended."""

    def __init__(self, shape: Shape, learned: bool) -> None:
        super().__init__()
        self.summary = Summary(shape)
        self.own = Experts(shape.num_streams, shape.width, shape.share)
        self.tasks = endings(shape.tasks, (LateHead(shape, task, learned) for task in shape.tasks))

    def forward(self, tokens: Tokens) -> Prediction:
        x, here = self.summary(tokens)
        x = x + self.own(x.transpose(0, 1)).transpose(0, 1)
        parts = {key.removeprefix("for_"): ending.head(x, here) for key, ending in self.tasks.items()}
        logits = {name: everyone(part.sum(1) + bias) for name, (part, bias) in parts.items()}
        evidence = {name: part for name, (part, _) in parts.items()}
        return Prediction(logits, evidence, {name: bias for name, (_, bias) in parts.items()})


class AttentionFusion(nn.Module):
    """Each task asks the inputs: its query attends to their vectors (Vaswani 2017), then one perceptron for all."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.summary = Summary(shape)
        self.query = nn.Parameter(torch.randn(len(shape.tasks), shape.width))
        self.key_value = nn.Linear(shape.width, 2 * shape.width)
        self.norm = nn.LayerNorm(shape.width)
        self.mlp = Experts(1, shape.width, shape.budget)

    def forward(self, tokens: Tokens) -> Body:
        x, here = self.summary(tokens)
        # An exam without inputs reads zeros: attention to nothing would be NaN.
        here = here | ~here.any(1, keepdim=True)
        key, value = self.key_value(x).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query = self.query.unflatten(-1, (self.heads, -1)).transpose(0, 1).expand(len(x), -1, -1, -1)
        y = F.scaled_dot_product_attention(query.to(key.dtype), key, value, here[:, None, None, :])
        y = y.transpose(1, 2).flatten(2)
        return Body(y + self.mlp(self.norm(y).flatten(0, 1).unsqueeze(0)).view_as(y))
