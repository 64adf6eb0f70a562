"""One expert: a two-layer perceptron with GELU, as few passes over its rows as there can be. Axes as in experts.py."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from m4oe.moe.precision import lowered


def perceptron(x: Tensor, weight_in: Tensor, bias_in: Tensor, weight_out: Tensor, bias_out: Tensor) -> Tensor:
    """gelu(x @ weight_in + bias_in) @ weight_out + bias_out of rows x (R, D), weights (D, F) and (F, D).

    Under autocast, in its precision.
    """
    parts = lowered(x, weight_in, bias_in, weight_out, bias_out)
    if torch.is_grad_enabled() and any(part.requires_grad for part in parts):
        return Perceptron.apply(*parts)
    x, weight_in, bias_in, weight_out, bias_out = parts
    return affine(affine(x, weight_in, bias_in, gelu=True), weight_out, bias_out)


class Perceptron(torch.autograd.Function):
    """`perceptron` with gradients; all in one precision."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_in: Tensor, bias_in: Tensor, weight_out: Tensor, bias_out: Tensor
    ) -> Tensor:
        before = affine(x, weight_in, bias_in)
        hidden = F.gelu(before)
        ctx.save_for_backward(x, weight_in, weight_out, before, hidden)
        return affine(hidden, weight_out, bias_out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        x, weight_in, weight_out, before, hidden = ctx.saved_tensors
        of_hidden = torch.ops.aten.gelu_backward(gradient @ weight_out.T, before)
        of_in, of_out = x.T @ of_hidden, hidden.T @ gradient
        return of_hidden @ weight_in.T, of_in, of_hidden.sum(0), of_out, gradient.sum(0)


def affine(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    """x @ weight + bias, after GELU if asked for; weight (D, F), or its form (`forms.laid_out`). No gradients.

    In bfloat16 on a CPU by one fused kernel: `addmm` first writes the bias to every row, and reads it again.
    """
    if x.device.type == "cpu" and x.dtype == torch.bfloat16 and FUSED is not None:
        weight = weight if weight.is_mkldnn else weight.T
        return FUSED(x, weight, bias, "gelu" if gelu else "none", [], "none" if gelu else "")
    assert bias is not None, "a form, or a bias"
    y = torch.addmm(bias, x, weight)
    return F.gelu(y) if gelu else y


def _fused() -> Any:
    """The kernel that torch's own compiler uses; None where a build lacks it, or the processor cannot."""
    names = "_linear_pointwise", "_is_mkldnn_bf16_supported"
    if not torch.backends.mkldnn.is_available() or not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return None
    return torch.ops.mkldnn._linear_pointwise if torch.ops.mkldnn._is_mkldnn_bf16_supported() else None


FUSED = _fused()
