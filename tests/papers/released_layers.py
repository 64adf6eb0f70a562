"""The layers of M4oE (ICLR 2025) as its code was released: kept for comparison, never used by the package.

They differ from `m4oe.moe` in four ways, each shown by a test beside this file:
1. experts read tokens of length 1 (m4oe: tokens as they are; only logits see directions);
2. the routing scale starts at 1 (m4oe: 8);
3. combine is one softmax over experts and tasks, so a task's stream is scaled down by its share (m4oe: over experts);
4. the information term is between tokens and tasks, summed over exams (m4oe: I(M; E | T) of the mean over exams).
There is no notion of an absent token. Written from the equations; axes as in m4oe.batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m4oe.moe import Experts


class ReleasedMSoE(nn.Module):
    """Soft mixture on normalised tokens, as released: x (B, N, D) -> y (B, N, D) and logits (B, N, E, S)."""

    def __init__(self, width: int, num_experts: int, hidden: int, slots: int = 1) -> None:
        super().__init__()
        self.phi = nn.Parameter(torch.randn(width, num_experts, slots) / width**0.5)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.experts = Experts(num_experts, width, hidden)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x, logits = released_logits(x, self.phi, self.scale)
        answers = self.experts.on_slots(torch.einsum("bnes,bnd->besd", logits.softmax(1), x))
        return torch.einsum("bnes,besd->bnd", released_combine(logits), answers), logits


class ReleasedMToE(nn.Module):
    """Mixture with a slot for each (expert, task), as released: x (B, N, D) -> y (B, T, N, D), logits (B, N, E, T)."""

    def __init__(self, width: int, num_experts: int, num_tasks: int, hidden: int) -> None:
        super().__init__()
        self.phi = nn.Parameter(torch.randn(width, num_experts, num_tasks) / width**0.5)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.task_embedding = nn.Parameter(torch.zeros(num_tasks, width))
        self.experts = Experts(num_experts, width, hidden)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x, logits = released_logits(x, self.phi, self.scale)
        slots = torch.einsum("bnet,bnd->betd", logits.softmax(1), x) + self.task_embedding
        return torch.einsum("bnet,betd->btnd", released_combine(logits), self.experts.on_slots(slots)), logits


def released_logits(x: Tensor, phi: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The normalised tokens, which also go to the experts, and their logits (B, N, E, S)."""
    x = F.normalize(x, dim=-1)
    return x, torch.einsum("bnd,des->bnes", x, scale * F.normalize(phi, dim=0))


def released_combine(logits: Tensor) -> Tensor:
    """One softmax over all slots of all experts, tasks included."""
    return logits.flatten(2).softmax(-1).view_as(logits)


def released_token_task_information(logits: Tensor) -> Tensor:
    """I(token; task) of each exam's softmax over everything, summed over exams; nothing about experts or modalities."""
    p = logits.flatten(1).softmax(1).view_as(logits).sum(2)
    return (p * (p / (p.sum(2, keepdim=True) * p.sum(1, keepdim=True)) + 1e-10).log()).sum()
