"""The form in which a CPU's bfloat16 products take weights: made once for all batches, where nothing is trained.

Autocast lowers every weight in every batch, and a product then lays it out anew, which together take a twentieth to an
eighth of a segmenter's prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from m4oe.moe.perceptron import FUSED, affine

Made = TypeVar("Made")


class Form(Generic[Made]):
    """What is made of parameters, kept until they change; a copy of the module that holds it makes its own."""

    def __init__(self) -> None:
        self._key: list[tuple[int, int]] | None = None
        self._made: Made | None = None

    def of(self, parameters: Sequence[Tensor], make: Callable[[], Made]) -> Made:
        key = [(part.data_ptr(), 0 if part.is_inference() else part._version) for part in parameters]
        if self._made is None or key != self._key:
            self._made, self._key = make(), key
        return self._made

    def __deepcopy__(self, memo: dict[int, Any]) -> Form[Made]:
        return Form()


class Linear(nn.Linear):
    """torch's, but that prediction reads its weights in their form."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias)
        self.form: Form[tuple[Tensor, Tensor | None]] = Form()

    def forward(self, x: Tensor) -> Tensor:
        if not reads_forms(x):
            return super().forward(x)
        parts = [self.weight] if self.bias is None else [self.weight, self.bias]
        weight, bias = self.form.of(parts, lambda: (formed(self.weight), _lowered(self.bias)))
        return affine(x.bfloat16(), weight, bias)


def reads_forms(x: Tensor) -> bool:
    """Whether products of `x` can: without gradients, in bfloat16 by autocast, on a CPU that has the kernels."""
    return (
        not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and REORDER is not None
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )


def formed(weight: Tensor) -> Tensor:
    """The form of a weight (F, D), for `perceptron.affine`; opaque, but for its shape."""
    assert REORDER is not None, "asked for without `reads_forms`"
    return REORDER(weight.detach().bfloat16().contiguous())


def _lowered(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach().bfloat16()


REORDER = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None) if FUSED is not None else None
