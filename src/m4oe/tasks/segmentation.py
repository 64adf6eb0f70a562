"""Segmentation tasks: Dice + cross-entropy. Shapes: P exams, C classes (0 is background), any spatial size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from m4oe.schema import TaskSpec
from m4oe.tasks.classification import logit

IGNORED = -100
SMOOTH = 1.0


def segmentation_loss(task: TaskSpec, logits: Tensor, target: Tensor, focal_gamma: float = 0.0) -> Tensor:
    """(P,) mean pixel cross-entropy -w_y log p_y plus soft Dice loss; it has no focal form.

    logits (P, C, *size); target (P, *size) int64, -100 where a pixel counts for nothing. The Dice loss is
    1 - (2 sum p t + 1) / (sum p + sum t + 1) of each foreground class over the exam's pixels, then their mean.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    weights = torch.tensor(task.weights, dtype=logits.dtype, device=logits.device)
    return CrossEntropyAndDice.apply(logits.flatten(2), target.flatten(1), weights)


class CrossEntropyAndDice(torch.autograd.Function):
    """The loss of pixels, S to an exam: logits (P, C, S), target (P, S), weights (C,) -> (P,).

    Written out, since it looks at every logit of every pixel: few passes instead of the two dozen, each with a result
    of that size, of the library's parts.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        counted, label = (target != IGNORED).to(logits.dtype), target.clamp_min(0).unsqueeze(1)
        log_share = logits.log_softmax(1)
        pixel_weight = weights[label.squeeze(1)] * counted / counted.sum(1, keepdim=True).clamp_min(1)
        entropy = -(pixel_weight * log_share.gather(1, label).squeeze(1)).sum(1)
        share = log_share.exp_()
        of_label = share.gather(1, label).squeeze(1)
        said = (share * counted.unsqueeze(1)).sum(2)  # no product: autocast would lower it
        both, true = (_by_class(values, label, logits.shape[1]) for values in (of_label * counted, counted))
        either = said + true + SMOOTH
        overlap = (2 * both + SMOOTH) / either
        ctx.save_for_backward(share, label, counted, pixel_weight, of_label, overlap, either)
        return entropy + (1 - overlap[:, 1:]).mean(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """d Dice / d p_c = at_label_c [c = y] + everywhere_c, through the softmax; of cross-entropy w (p - [c = y])."""
        share, label, counted, pixel_weight, of_label, overlap, either = ctx.saved_tensors
        gradient = gradient.unsqueeze(1)
        everywhere = gradient * overlap / either / (overlap.shape[1] - 1)
        at_label = -2 * gradient / either / (overlap.shape[1] - 1)
        everywhere[:, 0] = at_label[:, 0] = 0.0
        pixel_weight = pixel_weight * gradient
        raised = of_label * at_label.gather(1, label.squeeze(1)) * counted
        mean = (share * everywhere.unsqueeze(2)).sum(1) * counted + raised
        towards = everywhere.unsqueeze(2) * counted.unsqueeze(1) + (pixel_weight - mean).unsqueeze(1)
        towards.mul_(share).scatter_add_(1, label, (raised - pixel_weight).unsqueeze(1))
        return towards, None, None


def _by_class(values: Tensor, label: Tensor, classes: int) -> Tensor:
    """(P, C) sums of values (P, S) over the pixels of each class; label (P, 1, S)."""
    return torch.stack([(values * (label.squeeze(1) == number)).sum(1) for number in range(classes)], 1)


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
