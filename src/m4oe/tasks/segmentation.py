"""Segmentation tasks: Dice + cross-entropy. Shapes: P exams, C classes (0 is background), any spatial size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from m4oe.schema import TaskSpec
from m4oe.tasks.classification import logit

IGNORED = -100
SMOOTH = 1.0


def segmentation_loss(task: TaskSpec, logits: Tensor, target: Tensor, focal_gamma: float = 0.0) -> Tensor:
    """(P,) mean pixel cross-entropy -w_y log p_y plus soft Dice loss; it has no focal form.

    logits (P, C, *size); target (P, *size) int64, -100 where a pixel counts for nothing. The Dice loss is
    1 - (2 sum p t + 1) / (sum p + sum t + 1) of each foreground class over the exam's pixels, then their mean.
    """
    logits, counted = logits.float(), target != IGNORED
    weights = torch.tensor(task.weights, dtype=torch.float32, device=logits.device)
    pixels = F.cross_entropy(logits, target, weight=weights, ignore_index=IGNORED, reduction="none")
    return pixels.flatten(1).sum(1) / counted.flatten(1).sum(1).clamp_min(1) + _dice_loss(logits, target, counted)


def _dice_loss(logits: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    truth = F.one_hot(target.where(counted, 0), logits.shape[1]).movedim(-1, 1) * counted[:, None]
    share = logits.softmax(1) * counted[:, None]
    both, either = ((x[:, 1:]).flatten(2).sum(2) for x in (share * truth, share + truth))
    return (1 - (2 * both + SMOOTH) / (either + SMOOTH)).mean(1)


def overlap_counts(task: TaskSpec, logits: Tensor, target: Tensor) -> Tensor:
    """(P, C - 1, 3) int64 pixels of each foreground class: in both, said, true. Counts add up over an exam's slices."""
    rows, classes = len(target), logits.shape[1]
    counted = target != IGNORED
    row = torch.arange(rows, device=target.device).view(-1, *(1,) * (target.ndim - 1)).expand_as(target)
    pairs = (row * classes + target) * classes + logits.argmax(1)
    confusion = pairs[counted].bincount(minlength=rows * classes**2).view(rows, classes, classes)
    return torch.stack([confusion.diagonal(0, 1, 2), confusion.sum(1), confusion.sum(2)], -1)[:, 1:]


def foreground_score(task: TaskSpec, logits: Tensor) -> Tensor:
    """(P, 1) mean over pixels of the logit of foreground: logsumexp of the foreground logits less background's."""
    return (logits[:, 1:].logsumexp(1) - logits[:, 0]).flatten(1).mean(1, keepdim=True)


def foreground_prior(task: TaskSpec) -> Tensor:
    """(1,) logit of the foreground's share of pixels: the prior of `foreground_score`."""
    return logit([1 - task.prior[0]])


def dice_by_chance(task: TaskSpec) -> float:
    """Dice of marking every pixel, 2p / (1 + p) for a class of share p of the pixels, averaged over foreground."""
    shares = task.prior[1:]
    return sum(2 * p / (1 + p) for p in shares) / len(shares)
