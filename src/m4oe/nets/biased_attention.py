"""Attention within windows, with a bias that is being learned, on a CPU. Axes as in swin_block.py; N = B K heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class BiasedAttention(torch.autograd.Function):
    """qkv (B, K, n, 3 D), bias (K or 1, heads, n, n), in one precision -> (B, K, n, D).

    Written out: no fused kernel learns a bias, and the library's own way around it takes twice as long. Of its parts,
    autograd would scale, join and move the gradients of queries, keys and values in a pass each.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, bias: Tensor) -> Tensor:
        batch, windows, n, _ = qkv.shape
        parts = qkv.unflatten(-1, (3, bias.shape[1], -1)).permute(3, 0, 1, 4, 2, 5).flatten(1, 3)
        q, k, v = parts
        every = bias.expand(batch, windows, *bias.shape[1:]).flatten(0, 2)
        weight = torch.baddbmm(every, q, k.mT, alpha=q.shape[-1] ** -0.5).softmax(-1)
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
