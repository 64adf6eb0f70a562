"""Experts: many small networks held as one. F is the hidden width, R the rows that each expert reads."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Experts(nn.Module):
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

    def on_slots(self, slots: Tensor) -> Tensor:
        """(B, E, S, D) slots -> (B, E, S, D): the exams' slots of one expert become its rows."""
        batch, experts, per_expert, width = slots.shape
        rows = self(slots.transpose(0, 1).reshape(experts, batch * per_expert, width))
        return rows.view(experts, batch, per_expert, width).transpose(0, 1)
