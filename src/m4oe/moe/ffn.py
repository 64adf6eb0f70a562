"""The feed-forward network of a block, as a mixture: a router of tokens or exams, experts, perhaps one always on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from m4oe.batch import Routing
from m4oe.moe.experts import Experts
from m4oe.moe.routers import GateRouter, ModalityRouter


class ExpertFFN(nn.Module):
    """y = sum_e combine_e f_e(x), plus the shared experts' answers: M4oE, MICCAI 2024. No LayerNorm, no residual path.

    Only experts of positive weight run: hard routing and top-1 cost one expert, however many there are.
    """

    def __init__(self, router: ModalityRouter | GateRouter, experts: Experts, shared: Experts | None = None) -> None:
        super().__init__()
        self.router = router
        self.experts = experts
        self.shared = shared

    def forward(self, x: Tensor, modality: Tensor) -> tuple[Tensor, Routing]:
        """x (B, N, D), modality (B,) int64, which a gate does not read -> y (B, N, D) and the Routing."""
        router = self.router
        routing = router(modality) if isinstance(router, ModalityRouter) else router(x)
        y = self._mixed(x, routing.combine)
        if self.shared is not None:
            rows = x.flatten(0, 1)
            y = y + self.shared.blended(rows, rows.new_ones(len(rows), len(self.shared.weight_in))).view_as(x)
        return y, routing

    def _mixed(self, x: Tensor, combine: Tensor) -> Tensor:
        """(B, N, D): tokens x (B, N, D) through experts, by combine (B, N, E), or (B, 1, E) for all of an exam's."""
        if _is_dense(self.router):
            weight = combine.expand(-1, x.shape[1], -1).flatten(0, 1)
            return self.experts.blended(x.flatten(0, 1), weight).view_as(x)
        units = combine.flatten(0, 1)
        tokens = x.shape[1] // combine.shape[1]
        return _sparse(self.experts, x.reshape(len(units), tokens, x.shape[-1]), units).view_as(x)


def _is_dense(router: ModalityRouter | GateRouter) -> bool:
    """Whether every expert has some weight everywhere."""
    return isinstance(router, GateRouter) and router.top_k is None


def _sparse(experts: Experts, x: Tensor, weight: Tensor) -> Tensor:
    """(U, n, D) units of tokens through the experts of positive weight (U, E): sorted by expert, run, put back."""
    expert, unit = weight.T.nonzero(as_tuple=True)
    counts = [count * x.shape[1] for count in torch.bincount(expert, minlength=weight.shape[1]).tolist()]
    single = len(unit) == len(x)
    in_order = single and torch.equal(unit, torch.arange(len(x), device=x.device))
    rows = x if in_order else x.index_select(0, unit)
    y = experts.grouped(rows.flatten(0, 1), counts).view_as(rows)
    if weight.requires_grad or not single:
        y = y * weight[unit, expert].to(y.dtype)[:, None, None]
    if in_order:
        return y
    if single:
        return y.index_select(0, unit.argsort())
    return torch.zeros_like(x, dtype=y.dtype).index_add(0, unit, y)
