"""Experts: many small networks held as one. F is the hidden width, R the rows that each expert reads.

Three ways to run them: each on rows of its own (`forward`), each on its share of sorted rows (`grouped`, which costs
what one expert costs), all on the same rows, weighted (`blended`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from m4oe.moe.forms import LaidOut, laid_out
from m4oe.moe.perceptron import perceptron
from m4oe.moe.precision import lowered


class Experts(LaidOut):
    """E two-layer perceptrons with GELU, stacked, so that one batched matrix product runs them all.

    Parameters: `weight_in` (E, D, F), `bias_in` (E, F), `weight_out` (E, F, D), `bias_out` (E, D).
    """

    def __init__(self, num_experts: int, width: int, hidden: int) -> None:
        super().__init__()
        self.weight_in = nn.Parameter(torch.empty(num_experts, width, hidden))
        self.bias_in = nn.Parameter(torch.empty(num_experts, hidden))
        self.weight_out = nn.Parameter(torch.empty(num_experts, hidden, width))
        self.bias_out = nn.Parameter(torch.empty(num_experts, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights with the fans of one expert (not of the stack), zero biases."""
        for weight in (self.weight_in, self.weight_out):
            bound = math.sqrt(6 / (weight.shape[1] + weight.shape[2]))
            nn.init.uniform_(weight, -bound, bound)
        nn.init.zeros_(self.bias_in)
        nn.init.zeros_(self.bias_out)

    def forward(self, x: Tensor) -> Tensor:
        """(E, R, D) rows, each block read by its own expert -> (E, R, D)."""
        hidden = F.gelu(torch.baddbmm(self.bias_in.unsqueeze(1), x, self.weight_in))
        return torch.baddbmm(self.bias_out.unsqueeze(1), hidden, self.weight_out)

    def grouped(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """(R, D) rows sorted by expert, `counts[e]` of expert e -> (R, D); those without rows are not run."""
        shares = zip(x.split(list(counts)), self._apart(x))
        answers = [perceptron(rows, *expert) for rows, expert in shares if len(rows)]
        return answers[0] if len(answers) == 1 else torch.cat(answers) if answers else x

    def blended(self, x: Tensor, weight: Tensor) -> Tensor:
        """(R, D) rows, each read by the first K experts -> (R, D): their answers' sum, by `weight` (R, K).

        Weighing answers costs a quarter of weighing hidden rows, which one wide product for all would ask for.
        """
        total = None
        for share, expert in zip(weight.unsqueeze(-1).unbind(-2), self._apart(x)):
            answer = perceptron(x, *expert)
            share = share.to(answer.dtype)
            total = answer * share if total is None else torch.addcmul(total, answer, share)
        assert total is not None, "a gate without experts"
        return total

    def _apart(self, x: Tensor) -> Iterable[tuple[Tensor, ...]]:
        """Weights and biases of one expert after the other, to be read by `perceptron` with rows like `x`.

        In training in the precision of products; otherwise in their form, or only the experts that run lower theirs.
        """
        stacks = self.weight_in, self.bias_in, self.weight_out, self.bias_out
        if self.reads_form(x):
            return self.form
        return zip(*(Apart.apply(stack) if torch.is_grad_enabled() else stack.unbind(0) for stack in stacks))

    def laid_out(self) -> list[tuple[Tensor, ...]]:
        """Of each expert, in the order of `perceptron`."""
        stacks = (stack.detach() for stack in (self.weight_in, self.bias_in, self.weight_out, self.bias_out))
        return [(laid_out(a.T), b.bfloat16(), laid_out(c.T), d.bfloat16()) for a, b, c, d in zip(*stacks)]

    def on_slots(self, slots: Tensor) -> Tensor:
        """(B, E, S, D) slots -> (B, E, S, D): the exams' slots of one expert become its rows."""
        batch, experts, per_expert, width = slots.shape
        rows = self(slots.transpose(0, 1).reshape(experts, batch * per_expert, width))
        return rows.view(experts, batch, per_expert, width).transpose(0, 1)


class Apart(torch.autograd.Function):
    """The experts of a stack (E, ...), lowered: so that gradients are written once, into the stack's own precision.

    The library's parts put them together in the lower one first, and copy what they have.
    """

    @staticmethod
    def forward(ctx: Any, stack: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.shape, ctx.none = stack.shape, stack.new_empty(0)
        return lowered(stack)[0].unbind(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Tensor:
        """An expert that did not run has none: zeros."""
        together = ctx.none.new_empty(ctx.shape)
        for place, gradient in zip(together, gradients):
            place.zero_() if gradient is None else place.copy_(gradient)
        return together
