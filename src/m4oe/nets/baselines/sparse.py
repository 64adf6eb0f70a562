"""Sparse choice: the k strongest of E experts read a row. Axes: R rows · D width · E experts."""

from __future__ import annotations

import torch
from torch import Tensor

from m4oe.moe import Experts


def strongest(logits: Tensor, k: int) -> Tensor:
    """(..., E) softmax over the k largest logits of each row, and exact zeros."""
    values, places = logits.topk(min(k, logits.shape[-1]), dim=-1)
    return torch.zeros_like(logits).scatter(-1, places, values.softmax(-1))


def blend(experts: Experts, x: Tensor, weight: Tensor) -> Tensor:
    """sum_e weight_e f_e(x) of x (R, D), weight (R, E); an expert reads only rows in which it has weight."""
    expert, row = weight.T.nonzero(as_tuple=True)
    counts = torch.bincount(expert, minlength=weight.shape[1]).tolist()
    y = experts.grouped(x.index_select(0, row), counts)
    return torch.zeros_like(x, dtype=y.dtype).index_add(0, row, y * weight[row, expert].to(y.dtype).unsqueeze(-1))


def balance(logits: Tensor, weight: Tensor) -> Tensor:
    """E sum_e f_e P_e: f_e the share of choices that fall on expert e, P_e its mean probability; 1 when even.

    (Switch Transformer, eq. 4.) logits, weight (R, E); 0 where there are no rows.
    """
    if not len(logits):
        return logits.sum()
    chosen = (weight > 0).to(logits.dtype)
    return logits.shape[1] * (chosen.sum(0) / chosen.sum() * logits.softmax(1).mean(0)).sum()
