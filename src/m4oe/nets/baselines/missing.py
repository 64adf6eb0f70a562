"""Baselines made for missing inputs: something learned stands in their place. Axes as in ends.py; E experts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from m4oe.batch import Tokens
from m4oe.moe import Experts
from m4oe.nets.baselines.ends import Body, Summary
from m4oe.nets.baselines.mixtures import BALANCE, CHOSEN
from m4oe.nets.baselines.shape import Shape
from m4oe.nets.baselines.sparse import balance, blend, strongest


class LaplaceGate(nn.Module):
    """Logits -||x - c_e||, so that a gate is proportional to exp(-||x - c_e||) (FuseMoE, eq. 4)."""

    def __init__(self, width: int, num_experts: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(num_experts, width))

    def forward(self, x: Tensor) -> Tensor:
        """(R, D) -> (R, E)."""
        # Not by matrix products, whose rounding would depend on how many rows there are.
        exact = "donot_use_mm_for_euclid_dist"
        return -torch.cdist(x.float(), self.centres.float(), compute_mode=exact)


class FuseMoE(nn.Module):
    """A sparse mixture, by a Laplace gate, of the inputs' vectors; an indicator stands for a missing one (Han 2024)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.summary = Summary(shape)
        self.indicator = nn.Parameter(0.02 * torch.randn(shape.num_streams, shape.width))
        self.norm = nn.LayerNorm(shape.width)
        self.router = LaplaceGate(shape.width, shape.num_experts)
        self.experts = Experts(shape.num_experts, shape.width, shape.hidden)
        self.join = nn.Linear(shape.num_streams * shape.width, shape.width)

    def forward(self, tokens: Tokens) -> Body:
        x, here = self.summary(tokens)
        x = torch.where(here.unsqueeze(-1), x, self.indicator.to(x.dtype))
        rows = self.norm(x).flatten(0, 1)
        logits = self.router(rows)
        weight = strongest(logits, CHOSEN)
        x = x + blend(self.experts, rows, weight).view_as(x)
        return Body(self.join(x.flatten(1)).unsqueeze(1), {"balance": BALANCE * balance(logits, weight)})


class Bank(nn.Module):
    """What stands for a missing input: learned for each pair of (missing, present), the mean over those present."""

    def __init__(self, num_streams: int, width: int) -> None:
        super().__init__()
        self.entries = nn.Parameter(0.02 * torch.randn(num_streams, num_streams, width))

    def forward(self, x: Tensor, here: Tensor) -> Tensor:
        """x (B, I, D), here (B, I) bool -> (B, I, D): x where it is present, the bank's elsewhere."""
        share = here.to(x.dtype) / here.sum(1, keepdim=True).clamp_min(1)
        return torch.where(here.unsqueeze(-1), x, torch.einsum("bj,ijd->bid", share, self.entries.to(x.dtype)))


class FlexMoE(nn.Module):
    """A sparse mixture over the inputs' vectors and the bank's; each combination of inputs has an expert (Yun 2024).

    Complete exams train the router in general, with balance; incomplete ones are pulled to the expert of their
    combination by cross-entropy.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.summary, self.bank = Summary(shape), Bank(shape.num_streams, shape.width)
        self.norm = nn.LayerNorm(shape.width)
        self.router = nn.Linear(shape.width, shape.num_experts, bias=False)
        self.experts = Experts(shape.num_experts, shape.width, shape.hidden)
        self.join = nn.Linear(shape.num_streams * shape.width, shape.width)

    def forward(self, tokens: Tokens) -> Body:
        x, here = self.summary(tokens)
        x = self.bank(x, here)
        rows = self.norm(x)
        logits = self.router(rows).float()
        weight = strongest(logits, CHOSEN)
        x = x + blend(self.experts, rows.flatten(0, 1), weight.flatten(0, 1)).view_as(x)
        return Body(self.join(x.flatten(1)).unsqueeze(1), self._penalties(logits, weight, here))

    def _penalties(self, logits: Tensor, weight: Tensor, here: Tensor) -> dict[str, Tensor]:
        whole = here.all(1)
        even = balance(logits[whole].flatten(0, 1), weight[whole].flatten(0, 1))
        part = logits[~whole].mean(1)
        target = expert_of(here[~whole], logits.shape[-1])
        pull = F.cross_entropy(part, target) if len(part) else logits.sum() * 0
        return {"balance": BALANCE * even, "combination": BALANCE * pull}


def expert_of(here: Tensor, num_experts: int) -> Tensor:
    """(B,) the expert of each exam's combination of inputs (B, I), read as a binary number modulo E."""
    power = torch.ones((), dtype=torch.int64, device=here.device)
    target = torch.zeros(len(here), dtype=torch.int64, device=here.device)
    for stream in here.unbind(1):
        target = (target + stream * power) % num_experts
        power = power * 2 % num_experts
    return target
