"""Attention within windows, with a learned bias. Axes as in swin_block.py; N = B K heads, d the width of a head."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

AT_ONCE = 192  # windows x heads whose weights, of Swin's 49 tokens, stay in a processor's cache


def biased_attention(qkv: Tensor, bias: Tensor) -> Tensor:
    """qkv (B, K, n, 3 D), bias (K or 1, heads, n, n), in one precision -> (B, K, n, D).

    Written out on a CPU: of windows as small as these, its fused kernel takes half as long again, and learns no bias.
    """
    if qkv.device.type != "cpu":
        return fused(qkv, bias)
    return BiasedAttention.apply(qkv, bias) if torch.is_grad_enabled() else in_the_cache(qkv, bias)


def fused(qkv: Tensor, bias: Tensor) -> Tensor:
    """By the library's kernel, which wants four axes: windows join the heads where each has its own bias, else the
    pictures."""
    q, k, v = qkv.unflatten(-1, (3, bias.shape[1], -1)).permute(3, 0, 1, 4, 2, 5)
    axes = (1, 2) if len(bias) == q.shape[1] else (0, 1)
    y = F.scaled_dot_product_attention(*(part.flatten(*axes) for part in (q, k, v)), bias.flatten(0, 1).unsqueeze(0))
    return y.unflatten(axes[0], q.shape[axes[0] : axes[1] + 1]).transpose(2, 3).flatten(3)


def in_the_cache(qkv: Tensor, bias: Tensor) -> Tensor:
    """A few windows at a time. No gradients."""
    windows, heads = qkv.shape[1], bias.shape[1]
    rows = qkv.flatten(0, 1).unflatten(-1, (3, heads, -1))
    places = torch.arange(len(rows), device=qkv.device) % windows
    answers = torch.empty_like(rows[:, :, 0])
    for some, place, answer in zip(*(part.split(max(1, AT_ONCE // heads)) for part in (rows, places, answers))):
        q, k, v = some.permute(2, 0, 3, 1, 4).flatten(1, 2)
        own = bias[place] if len(bias) > 1 else bias.expand(len(place), -1, -1, -1)
        answer.copy_(torch.bmm(_weights(q, k, own.flatten(0, 1)), v).unflatten(0, (-1, heads)).transpose(1, 2))
    return answers.flatten(2).unflatten(0, (-1, windows))


def _weights(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    """(N, n, n): softmax of q k' / sqrt(d) + bias."""
    logits = torch.baddbmm(bias, q, k.mT, alpha=q.shape[-1] ** -0.5)
    return logits.softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)


class BiasedAttention(torch.autograd.Function):
    """`biased_attention` with gradients, on a CPU.

    The library's own way to learn a bias takes twice as long. Of the parts of this, autograd would scale, join and move
    the gradients of queries, keys and values in a pass each.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, bias: Tensor) -> Tensor:
        batch, windows, n, _ = qkv.shape
        parts = qkv.unflatten(-1, (3, bias.shape[1], -1)).permute(3, 0, 1, 4, 2, 5).flatten(1, 3)
        q, k, v = parts
        every = bias.expand(batch, windows, *bias.shape[1:]).flatten(0, 2)
        weight = _weights(q, k, every)
        ctx.save_for_backward(parts, weight)
        ctx.of_bias = len(bias), *bias.shape[1:]
        return torch.bmm(weight, v).view(batch, windows, -1, n, q.shape[-1]).transpose(2, 3).flatten(3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        (q, k, v), weight = ctx.saved_tensors
        heads, d = ctx.of_bias[1], q.shape[-1]
        gradient = gradient.unflatten(-1, (heads, d)).transpose(2, 3)
        shape, gradient = gradient.shape, gradient.flatten(0, 2)
        of_v, of_weight = torch.bmm(weight.mT, gradient), torch.bmm(gradient, v.mT)
        of_logits = torch.ops.aten._softmax_backward_data(of_weight, weight, -1, weight.dtype)
        of_q, of_k = (torch.bmm(by, part).mul_(d**-0.5) for by, part in ((of_logits, k), (of_logits.mT, q)))
        of_qkv = torch.cat([part.view(shape).transpose(2, 3).flatten(3) for part in (of_q, of_k, of_v)], -1)
        return of_qkv, of_logits.view(-1, *ctx.of_bias).sum(0)
