"""The feed-forward network of a block, as a mixture: a router of tokens or exams, experts, perhaps one always on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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
    counts = torch.bincount(expert, minlength=weight.shape[1])
    single = len(unit) == len(x)
    if single and x.shape[1] == 1:
        return _one_each(experts, x.squeeze(1), weight, counts).unsqueeze(1)
    in_order = single and torch.equal(unit, torch.arange(len(x), device=x.device))
    rows = x if in_order else x.index_select(0, unit)
    y = experts.grouped(rows.flatten(0, 1), (counts * x.shape[1]).tolist()).view_as(rows)
    if weight.requires_grad or not single:
        y = y * weight[unit, expert].to(y.dtype)[:, None, None]
    if in_order:
        return y
    if single:
        return y.index_select(0, unit.argsort())
    return torch.zeros_like(x, dtype=y.dtype).index_add(0, unit, y)


def _one_each(experts: Experts, x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """(U, D) tokens, each through the one expert to which it gives weight (U, E); `counts` (E,) tokens of each."""
    taken = counts.tolist()
    sizes = [_rounded(count) for count in taken]
    starts = [0, *accumulate(sizes)]
    chosen = weight > 0
    place = ((torch.tensor(starts[:-1], device=x.device) + chosen.cumsum(0) - 1) * chosen).sum(1)
    source = place.new_zeros(starts[-1]).index_copy_(0, place, torch.arange(len(x), device=x.device))
    gaps = [slice(start + count, end) for start, count, end in zip(starts, taken, starts[1:])]
    y = experts.grouped(Moved.apply(x, source, place, gaps, []), sizes)
    return Moved.apply(y, place, source, [], gaps) * weight.sum(1, keepdim=True).to(y.dtype)


def _rounded(count: int) -> int:
    """`count`, up to the next number of four binary digits and zeros, at most an eighth more.

    Products are planned anew for each number of rows, which takes longer than many of them. Counts drift in training:
    rounded, they meet the same few numbers again.
    """
    step = 1 << max(0, count.bit_length() - 4)
    return -(-count // step) * step


class Moved(torch.autograd.Function):
    """Rows (R, D) of x (U, D) that `index` (R,) names, with zeros in `gaps`; by `back` (U,) and `gaps_back` gradients
    move the other way.

    Both ways rows are read where they are, none twice but for gaps: putting them where they go takes ten times as
    long, and adding up gradients one by one longer still.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, index: Tensor, back: Tensor, gaps: Sequence[slice], gaps_back: Sequence[slice]
    ) -> Tensor:
        ctx.save_for_backward(back)
        ctx.gaps = gaps_back
        return _moved(x, index, gaps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (back,) = ctx.saved_tensors
        return _moved(gradient, back, ctx.gaps), None, None, None, None


def _moved(x: Tensor, index: Tensor, gaps: Sequence[slice]) -> Tensor:
    rows = x.index_select(0, index)
    for gap in gaps:
        rows[gap] = 0
    return rows
