"""Layers: a router and experts put together.

`MSoE` and `MToE` are blocks with a LayerNorm in front and no residual path: they return the *update*, which the
caller adds to its tokens (`x = x + block(x)[0]`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from m4oe.batch import Routing, Tokens
from m4oe.moe.experts import Experts
from m4oe.moe.routers import SoftRouter, TaskRouter, clear_absent


def all_present(x: Tensor, modality: Tensor | None = None) -> Tokens:
    """Tokens (B, N, D) none of which is absent; of one modality, unless `modality` (N,) int64 says otherwise."""
    if modality is None:
        modality = torch.zeros(x.shape[1], dtype=torch.int64, device=x.device)
    return Tokens(x, modality, modality, _everywhere(x))


class MoE(nn.Module):
    """A soft mixture: slots read tokens, experts work on slots, tokens are rebuilt from slots."""

    def __init__(self, router: SoftRouter, experts: Experts) -> None:
        super().__init__()
        self.router = router
        self.experts = experts

    def forward(self, x: Tensor, present: Tensor | None = None) -> tuple[Tensor, Routing]:
        """x (B, N, D), present (B, N) bool, None = all -> y (B, N, D), exactly 0 at absent tokens, and the Routing."""
        present = _everywhere(x) if present is None else present
        x = clear_absent(x, present)
        routing = self.router(x, present)
        answers = self.experts.on_slots(_read(routing, x))
        return torch.einsum("bnes,besd->bnd", routing.combine.to(answers.dtype), answers), routing


class MSoE(nn.Module):
    """The block of one modality: LayerNorm and a soft mixture over that modality's tokens."""

    def __init__(self, width: int, num_experts: int, hidden: int, slots: int = 1, scale: float = 8.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.moe = MoE(SoftRouter(width, num_experts, slots, scale), Experts(num_experts, width, hidden))

    def forward(self, x: Tensor, present: Tensor | None = None) -> tuple[Tensor, Routing]:
        """x (B, N, D), present (B, N) bool, None = all -> the update y (B, N, D) and the Routing (B, N, E, S)."""
        present = _everywhere(x) if present is None else present
        return self.moe(self.norm(clear_absent(x, present)), present)


class MToE(nn.Module):
    """The block shared by all modalities and tasks: each expert has a slot for each task.

    y_t[i] = sum_e C[i, e, t] f_e(sum_j D[j, e, t] x_j + tau_t), with x after a LayerNorm.
    """

    def __init__(
        self,
        width: int,
        num_experts: int,
        num_tasks: int,
        hidden: int,
        scale: float = 8.0,
        embed_in_routing: bool = False,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.router = TaskRouter(width, num_experts, num_tasks, scale, embed_in_routing)
        self.experts = Experts(num_experts, width, hidden)

    def forward(self, tokens: Tokens | Tensor, num_modalities: int = 1) -> tuple[Tensor, Routing]:
        """Tokens of M modalities -> updates y (B, T, N, D), one stream of tokens a task, and the Routing.

        A plain tensor (B, N, D) is read as tokens of one modality, all of them present.
        """
        tokens = all_present(tokens) if isinstance(tokens, Tensor) else tokens
        x = self.norm(clear_absent(tokens.x, tokens.present))
        routing = self.router(tokens.with_x(x), num_modalities)
        answers = self.experts.on_slots(_read(routing, x) + self.router.task_embedding)
        return torch.einsum("bnet,betd->btnd", routing.combine.to(answers.dtype), answers), routing


def _everywhere(x: Tensor) -> Tensor:
    return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)


def _read(routing: Routing, x: Tensor) -> Tensor:
    """What slots read, (B, E, S, D): blends of tokens x (B, N, D), as they are (only logits see them normalised)."""
    assert routing.dispatch is not None
    return torch.einsum("bnes,bnd->besd", routing.dispatch.to(x.dtype), x)
