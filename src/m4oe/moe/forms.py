"""The form in which a CPU's bfloat16 products take weights, made once for all batches that are predicted.

Autocast lowers every weight in every batch, and a product then lays it out anew, which together take a twentieth to an
eighth of a segmenter's prediction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import torch
from torch import Tensor, nn

from m4oe.moe.perceptron import FUSED, affine


def lay_out(network: nn.Module) -> None:
    """From now on layers of `network`, on a CPU, read their weights in this form where they can (`LaidOut.reads_form`).

    Their weights must then stay as they are, until the network is to be trained again: `train()` forgets the form.
    """
    for layer in network.modules():
        if isinstance(layer, LaidOut) and REORDER is not None:
            layer.form = layer.laid_out()


class LaidOut(nn.Module, ABC):
    """A layer that can be laid out. `form` is not among its weights, and is left out where it is copied."""

    form: Any = None

    @abstractmethod
    def laid_out(self) -> Any:
        """What `form` becomes."""

    def reads_form(self, x: Tensor) -> bool:
        """Whether rows like `x` are to meet the form: without gradients, in bfloat16 by autocast, on a CPU."""
        return (
            self.form is not None
            and not torch.is_grad_enabled()
            and x.device.type == "cpu"
            and x.dtype != torch.float64
            and torch.is_autocast_enabled("cpu")
            and torch.get_autocast_dtype("cpu") == torch.bfloat16
        )

    def train(self, mode: bool = True) -> Self:
        if mode:
            self.form = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "form": None}


class Linear(LaidOut, nn.Linear):
    """torch's, which can be laid out."""

    def laid_out(self) -> tuple[Tensor, Tensor | None]:
        return laid_out(self.weight), None if self.bias is None else self.bias.detach().bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        return affine(x.bfloat16(), *self.form) if self.reads_form(x) else super().forward(x)


def laid_out(weight: Tensor) -> Tensor:
    """The form of a weight (F, D), for `perceptron.affine`; opaque, but for its shape."""
    assert REORDER is not None, "asked for by `lay_out` alone"
    return REORDER(weight.detach().bfloat16().contiguous())


REORDER = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None) if FUSED is not None else None
