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
    return CrossEntropyAndDice.apply(logits.flatten(2), target.flatten(1), torch.tensor(task.weights))


class CrossEntropyAndDice(torch.autograd.Function):
    """The loss of pixels, S to an exam: logits (P, C, S), target (P, S), weights (C,) -> (P,), float32 or better.

    Written out, since it looks at every logit of every pixel: few passes instead of the two dozen of the library's
    parts, and those over pixels that stay in a processor's cache meanwhile.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        precise = torch.promote_types(logits.dtype, torch.float32)
        weights = weights.to(logits.device, precise)
        share = torch.empty(logits.shape, dtype=precise, device=logits.device)
        sums, entropy = [], []
        for pixels in _at_once(logits):
            log_share = logits[..., pixels].to(precise).log_softmax(1)
            pixel_weight, counted, place = _weighed(target[:, pixels], weights)
            entropy.append(-(pixel_weight * log_share.gather(1, place).squeeze(1)).sum(1))
            part = share[..., pixels].copy_(log_share.exp_())
            of_label = part.gather(1, place).squeeze(1) * counted
            none = part.new_zeros(part.shape[:2])
            said = (part * counted.unsqueeze(1)).sum(2)  # no product: autocast would lower it
            sums.append(torch.stack([said, *(none.scatter_add(1, place.squeeze(1), v) for v in (of_label, counted))]))
        said, both, true = torch.stack(sums).sum(0)
        either = said + true + SMOOTH
        overlap = (2 * both + SMOOTH) / either
        count = true.sum(1).clamp_min(1)
        ctx.save_for_backward(share, target, weights, overlap, either, count)
        ctx.dtype = logits.dtype
        return torch.stack(entropy).sum(0) / count + (1 - overlap[:, 1:]).mean(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """d Dice / d p_c = at_label_c [c = y] + everywhere_c, through the softmax; of cross-entropy w (p - [c = y])."""
        share, target, weights, overlap, either, count = ctx.saved_tensors
        gradient = gradient.unsqueeze(1)
        everywhere = gradient * overlap / either / (overlap.shape[1] - 1)
        at_label = -2 * gradient / either / (overlap.shape[1] - 1)
        everywhere[:, 0] = at_label[:, 0] = 0.0
        towards = torch.empty(share.shape, dtype=ctx.dtype, device=share.device)
        for pixels in _at_once(share):
            part = share[..., pixels]
            pixel_weight, counted, place = _weighed(target[:, pixels], weights)
            pixel_weight = pixel_weight * (gradient / count.unsqueeze(1))
            raised = part.gather(1, place).squeeze(1) * at_label.gather(1, place.squeeze(1)) * counted
            mean = (part * everywhere.unsqueeze(2)).sum(1) * counted + raised
            change = (pixel_weight - mean).unsqueeze(1)
            change = torch.addcmul(change, everywhere.unsqueeze(2), counted.unsqueeze(1)).mul_(part)
            towards[..., pixels] = change.scatter_add_(1, place, (raised - pixel_weight).unsqueeze(1))
        return towards, None, None


def _at_once(x: Tensor) -> list[slice]:
    """Ranges of the last axis of x (P, C, S) that fit into a processor's cache; a GPU takes all."""
    pixels = x.shape[2]
    step = max(1, 2**16 // (len(x) * x.shape[1])) if x.device.type == "cpu" else pixels
    return [slice(start, start + step) for start in range(0, pixels, step)]


def _weighed(label: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of pixels' labels (P, S): their weights by class, 1 where they count, both 0 where not, (P, S), and the class
    as an index (P, 1, S)."""
    counted, label = (label != IGNORED).to(weights.dtype), label.clamp_min(0)
    return weights[label] * counted, counted, label.unsqueeze(1)


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
