"""Survival tasks: cumulative risk at H horizons, right-censored. Shapes: P exams, H horizons."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from m4oe.schema import TaskSpec
from m4oe.tasks.intervals import log_interval, pick, with_ends


def survival_loss(task: TaskSpec, logits: Tensor, target: Tensor, focal_gamma: float = 0.0) -> Tensor:
    """(P,) weighted negative log-likelihood of the interval in which the event lies; it has no focal form.

    logits (P, H) of F_k = P(T <= h_k), increasing in k; target (P, 2): years, and 1 for an event or 0 for
    censored. With F_0 = 0 and h_0 = 0:
      event at t, h_(k-1) < t <= h_k                          F_k - F_(k-1)
      event after the last horizon, or censored at t          1 - F_j, j the last horizon with h_j <= t
    Censored before the first horizon (j = 0) the likelihood is 1 and the loss exactly 0. The weight is
    task.weights[1] for an event within the horizons, task.weights[0] otherwise.
    """
    lower, upper, happened = _interval(task, target)
    edges = with_ends(logits.float(), -inf, inf)
    weights = torch.tensor(task.weights, dtype=torch.float32, device=logits.device)[happened.long()]
    return -weights * log_interval(pick(edges, upper), pick(edges, lower))


def _interval(task: TaskSpec, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(P,) indices of the edges around T among (-inf, F_1 ... F_H, inf), and whether an event lies between them."""
    time, horizons = target[:, :1], target.new_tensor(task.horizons)
    passed, survived = (horizons < time).sum(1), (horizons <= time).sum(1)
    happened = (target[:, 1] > 0.5) & (passed < len(horizons))
    lower = torch.where(happened, passed, survived)
    return lower, torch.where(happened, passed + 1, len(horizons) + 1), happened
