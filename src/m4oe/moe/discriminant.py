"""A linear classifier in closed form. Axes: R rows · D width · K classes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


class Discriminant:
    """Linear discriminant analysis of rows that come in parts: normal classes of one covariance (Fisher 1936).

    Sums are kept in float64, on the CPU. The covariance is shrunk to a sphere of its mean variance by D / (R + D), so
    that few rows do.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        self.count = torch.zeros(num_classes, dtype=torch.float64)
        self.sum = torch.zeros(num_classes, width, dtype=torch.float64)
        self.square = torch.zeros(width, width, dtype=torch.float64)

    def add(self, x: Tensor, label: Tensor) -> None:
        """Takes in rows x (R, D) and their classes, label (R,) int64."""
        x = x.detach().cpu().double()
        member = F.one_hot(label.cpu(), len(self.count)).double()
        self.count += member.sum(0)
        self.sum += member.T @ x
        self.square += x.T @ x

    def solve(self, certainty: float | None = None) -> tuple[Tensor, Tensor]:
        """weight (K, D), bias (K,), float64: softmax(weight x + bias) is P(class | x), the classes' shares included.

        certainty: logits are scaled down where at every class's mean that class would have more than this share.
        A class that was never seen has a share as if of one row, and stands where all rows have their mean.
        """
        rows, width = self.count.sum(), self.sum.shape[1]
        centre = self.sum.sum(0) / rows.clamp_min(1)
        mean = torch.where(self.count[:, None] > 0, self.sum / self.count[:, None].clamp_min(1), centre)
        covariance = (self.square - (mean * self.count[:, None]).T @ mean) / rows.clamp_min(1)
        shrunk = width / (rows + width)
        sphere = covariance.diagonal().mean().clamp_min(1e-6) * torch.eye(width, dtype=torch.float64)
        weight = torch.linalg.solve((1 - shrunk) * covariance + shrunk * sphere, mean.T).T
        bias = (self.count + 1).log() - 0.5 * (weight * mean).sum(1)
        scale = 1.0 if certainty is None else self._scale(mean @ weight.T + bias, certainty)
        return scale * weight, scale * bias

    def _scale(self, logits: Tensor, certainty: float) -> float:
        """In (0, 1]: what brings the smallest lead of a class, at its own mean, to where it has the share `certainty`.

        logits (K, K): of each class at each mean.
        """
        seen = self.count > 0
        lead = (logits.diagonal()[:, None] - logits)[seen][:, seen]
        others = lead[~torch.eye(len(lead), dtype=torch.bool)]
        if not len(others) or others.min() <= 0:
            return 1.0
        wanted = math.log(certainty / (1 - certainty) * (len(lead) - 1))
        return min(1.0, wanted / float(others.min()))
