"""Binary, multiclass, multilabel and ordinal tasks: losses, probabilities, priors. Shapes: P exams, C outputs."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor

from m4oe.schema import TaskSpec
from m4oe.tasks.intervals import log_interval, pick, with_ends

RAREST = 1e-6


def binary_loss(task: TaskSpec, logits: Tensor, target: Tensor, focal_gamma: float = 0.0) -> Tensor:
    """(P,) weighted focal cross-entropy -w_y (1 - p_y)^gamma log p_y; logits (P, 1), target (P,) of 0 and 1."""
    return _weights(task, logits)[target] * _logistic(logits[:, 0].float(), target, focal_gamma)


def multilabel_loss(task: TaskSpec, logits: Tensor, target: Tensor, focal_gamma: float = 0.0) -> Tensor:
    """(P,) mean over an exam's present labels of w_label x focal logistic loss; logits, target (P, C), NaN missing."""
    present = ~target.isnan()
    losses = _weights(task, logits) * _logistic(logits.float(), target.nan_to_num(), focal_gamma)
    return torch.where(present, losses, 0.0).sum(1) / present.sum(1).clamp_min(1)


def multiclass_loss(task: TaskSpec, logits: Tensor, target: Tensor, focal_gamma: float = 0.0) -> Tensor:
    """(P,) weighted focal cross-entropy -w_y (1 - p_y)^gamma log p_y; logits (P, C), target (P,) class index.

    log(1 - p_y) is taken over the logits of the other classes, so that it is exact where p_y rounds to 1.
    """
    logits = logits.float()
    total = logits.logsumexp(1)
    others = logits.masked_fill(F.one_hot(target, logits.shape[1]).bool(), -inf).logsumexp(1)
    return _weights(task, logits)[target] * (total - pick(logits, target)) * (focal_gamma * (others - total)).exp()


def ordinal_loss(task: TaskSpec, logits: Tensor, target: Tensor, focal_gamma: float = 0.0) -> Tensor:
    """(P,) -w_y log(P(y > c - 1) - P(y > c)) at the class c = target (P,); logits (P, C) of P(y > k), decreasing.

    The cumulative (proportional-odds) likelihood; P(y > -1) = 1 and P(y > C) = 0. It has no focal form.
    """
    edges = with_ends(logits.float(), inf, -inf)
    return -_weights(task, logits)[target] * log_interval(pick(edges, target), pick(edges, target + 1))


def binary_probabilities(task: TaskSpec, logits: Tensor) -> Tensor:
    """(P, 2): of the negative and of the positive class."""
    return torch.cat([(-logits).sigmoid(), logits.sigmoid()], 1)


def ordinal_probabilities(task: TaskSpec, logits: Tensor) -> Tensor:
    """(P, C + 1): differences of neighbouring P(y > k), which sum to 1."""
    edges = with_ends(logits, inf, -inf).sigmoid()
    return edges[:, :-1] - edges[:, 1:]


def logit(share: Sequence[float]) -> Tensor:
    """log(p / (1 - p)) of shares, kept off 0 and 1 by one in a million so that it is finite."""
    return torch.tensor(share, dtype=torch.float64).logit(eps=RAREST).float()


def multiclass_prior(task: TaskSpec) -> Tensor:
    """(C,) log share of each class, up to the constant that softmax does not see."""
    return torch.tensor(task.prior).clamp_min(RAREST).log()


def ordinal_prior(task: TaskSpec) -> Tensor:
    """(C,) logit of P(y > k) for k = 0 ... C - 1: shares of the classes above each threshold."""
    return logit([sum(task.prior[k + 1 :]) for k in range(len(task.prior) - 1)])


def _weights(task: TaskSpec, logits: Tensor) -> Tensor:
    return torch.tensor(task.weights, dtype=torch.float32, device=logits.device)


def _logistic(logits: Tensor, target: Tensor, gamma: float) -> Tensor:
    signed = torch.where(target > 0.5, logits, -logits)
    return -F.logsigmoid(signed) * (gamma * F.logsigmoid(-signed)).exp()
