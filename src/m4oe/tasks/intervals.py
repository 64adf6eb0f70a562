"""Log-probability of an interval under a logistic distribution: what ordinal and survival likelihoods share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NARROWEST = 1e-3


def log_interval(upper: Tensor, lower: Tensor) -> Tensor:
    """log(sigmoid(upper) - sigmoid(lower)), of the broadcast shape; either edge may be infinite.

    For upper > lower this is logsigmoid(upper) + logsigmoid(-lower) + log(1 - exp(lower - upper)), which neither
    cancels nor overflows. Below a width of 1e-3 the last term goes on as its tangent: gradients stay finite (at
    most 1000) and still pull a closed or crossed interval open, where a clamp would leave it shut.
    """
    width = upper - lower
    exact = (-torch.expm1(-width.clamp_min(NARROWEST))).log()
    slope = 1 / torch.expm1(torch.tensor(NARROWEST, dtype=width.dtype)).item()
    share = torch.where(width < NARROWEST, exact + (width - NARROWEST) * slope, exact)
    return F.logsigmoid(upper) + F.logsigmoid(-lower) + share


def pick(edges: Tensor, index: Tensor) -> Tensor:
    """(P,) the edge of each exam: edges (P, C), index (P,)."""
    return edges.gather(1, index[:, None])[:, 0]


def with_ends(logits: Tensor, first: float, last: float) -> Tensor:
    """(P, C + 2) logits between an edge before the first and one after the last."""
    ends = logits.new_tensor([first, last]).expand(len(logits), 2)
    return torch.cat([ends[:, :1], logits, ends[:, 1:]], 1)
