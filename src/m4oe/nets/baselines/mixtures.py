"""Baselines that are mixtures of experts. Axes as in ends.py; E experts, R present tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from m4oe.batch import Tokens
from m4oe.moe import Experts, MSoE
from m4oe.moe.losses import entropy
from m4oe.nets.baselines.ends import Body, Joined
from m4oe.nets.baselines.shape import Shape
from m4oe.nets.baselines.sparse import balance, blend, strongest

CHOSEN = 2  # experts that read a token, where choice is sparse
BALANCE = 0.01  # weight of the term that keeps experts in use, as in the Switch Transformer
INFORMATION = 0.002  # weight of I(T; E), as that of our own I(M; E | T)


class Gated(nn.Module):
    """A softmax gate over experts that have all read the same vector: sum_e g_e(x) y_e."""

    def __init__(self, width: int, num_experts: int) -> None:
        super().__init__()
        self.weigh = nn.Linear(width, num_experts)

    def forward(self, x: Tensor, answers: Tensor) -> Tensor:
        """x (B, D), answers (E, B, D) -> (B, D)."""
        return torch.einsum("be,ebd->bd", self.weigh(x).softmax(-1), answers)


class MMoE(nn.Module):
    """Experts shared by all tasks, a softmax gate for each task (Ma 2018)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.joined = Joined(shape)
        self.experts = Experts(shape.num_experts, shape.width, shape.hidden)
        self.gates = nn.ModuleList(Gated(shape.width, shape.num_experts) for _ in shape.tasks)

    def forward(self, tokens: Tokens) -> Body:
        x = self.joined(tokens)
        answers = self.experts(x.expand(len(self.experts.weight_in), -1, -1))
        return Body(torch.stack([x + gate(x, answers) for gate in self.gates], 1))


class Extraction(nn.Module):
    """A level of PLE (CGC, if it is the only one): each task blends its own experts with those that all share.

    The shared path blends the experts of all; the last level, after which nobody reads it, has none.
    """

    def __init__(self, shape: Shape, own: int, shared: int, last: bool) -> None:
        super().__init__()
        self.own = nn.ModuleList(Experts(own, shape.width, shape.hidden) for _ in shape.tasks)
        self.shared = Experts(shared, shape.width, shape.hidden)
        self.gates = nn.ModuleList(Gated(shape.width, own + shared) for _ in shape.tasks)
        self.gate_of_all = None if last else Gated(shape.width, len(shape.tasks) * own + shared)

    def forward(self, x: Tensor, common: Tensor) -> tuple[Tensor, Tensor]:
        """x (T, B, D) of each task, common (B, D) -> the same, one level up."""
        own = [experts(z.expand(len(experts.weight_in), -1, -1)) for experts, z in zip(self.own, x)]
        shared = self.shared(common.expand(len(self.shared.weight_in), -1, -1))
        up = [z + gate(z, torch.cat([mine, shared])) for gate, z, mine in zip(self.gates, x, own)]
        if self.gate_of_all is not None:
            common = common + self.gate_of_all(common, torch.cat([*own, shared]))
        return torch.stack(up), common


class PLE(nn.Module):
    """Progressive layered extraction (Tang 2020): two levels, half of the experts shared, half the tasks' own."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.joined = Joined(shape)
        a_level = max(2, shape.num_experts // 2)
        own = max(1, a_level // 2 // len(shape.tasks))
        self.levels = nn.ModuleList(Extraction(shape, own, a_level // 2, last) for last in (False, True))
        self.num_tasks = len(shape.tasks)

    def forward(self, tokens: Tokens) -> Body:
        common = self.joined(tokens)
        x = common.expand(self.num_tasks, -1, -1)
        for level in self.levels:
            x, common = level(x, common)
        return Body(x.transpose(0, 1))


class SoftMixture(nn.Module):
    """A soft mixture over the tokens of all inputs, as many slots as ours, none a task's (Puigcerver 2023)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.mixture = MSoE(shape.width, shape.num_experts, shape.hidden, slots=len(shape.tasks))

    def forward(self, tokens: Tokens) -> Body:
        return Body((tokens.x + self.mixture(tokens.x, tokens.present)[0]).unsqueeze(1))


class SparseMixture(nn.Module):
    """The two strongest of E experts read a token, and are kept in use by a penalty (Shazeer 2017, Fedus 2021)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(shape.width)
        self.router = nn.Linear(shape.width, shape.num_experts, bias=False)
        self.experts = Experts(shape.num_experts, shape.width, shape.hidden)

    def forward(self, tokens: Tokens) -> Body:
        rows = self.norm(tokens.x[tokens.present])
        logits = self.router(rows).float()
        weight = strongest(logits, CHOSEN)
        y = _placed(blend(self.experts, rows, weight), tokens)
        return Body((tokens.x + y).unsqueeze(1), {"balance": BALANCE * balance(logits, weight)})


class ModSquad(nn.Module):
    """Sparse experts with a router for each task; tasks and experts are tied by I(T; E) (Chen 2023)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(shape.width)
        self.routers = nn.ModuleList(nn.Linear(shape.width, shape.num_experts, bias=False) for _ in shape.tasks)
        self.experts = Experts(shape.num_experts, shape.width, shape.hidden)

    def forward(self, tokens: Tokens) -> Body:
        rows = self.norm(tokens.x[tokens.present])
        logits = torch.stack([router(rows) for router in self.routers]).float()
        own = [tokens.x + _placed(blend(self.experts, rows, strongest(of, CHOSEN)), tokens) for of in logits]
        return Body(torch.stack(own, 1), {"information": -INFORMATION * task_information(logits.softmax(-1))})


def task_information(p: Tensor) -> Tensor:
    """I(T; E) = H(E) - H(E | T) in nats, tasks alike, of p (T, R, E), each token's P(expert | task); 0 if empty."""
    if not p.shape[1]:
        return p.sum()
    given_task = p.mean(1)
    return entropy(given_task.mean(0), dim=0) - entropy(given_task, dim=1).mean()


def _placed(rows: Tensor, tokens: Tokens) -> Tensor:
    """(R, D) of the present tokens -> (B, N, D), zero at the others."""
    y = torch.zeros_like(tokens.x, dtype=rows.dtype)
    return y.masked_scatter(tokens.present.unsqueeze(-1), rows)
