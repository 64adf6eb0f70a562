"""Weights in the form that products want: the same answers, and forgotten where weights are about to change."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from m4oe.moe import Experts, forms
from m4oe.moe.forms import Linear, lay_out

pytestmark = pytest.mark.skipif(forms.REORDER is None, reason="this build or processor lacks the kernels")

ROUNDING = 2**-8  # of bfloat16
ASK = {
    "linear": (lambda: Linear(8, 6), lambda layer, x: layer(x)),
    "linear without bias": (lambda: Linear(8, 6, bias=False), lambda layer, x: layer(x)),
    "grouped": (lambda: Experts(2, 8, 16), lambda layer, x: layer.grouped(x.flatten(0, 1), [4, 2])),
    "blended": (lambda: Experts(2, 8, 16), lambda layer, x: layer.blended(x.flatten(0, 1), torch.ones(6, 2))),
}
Said = Callable[..., Tensor]


@pytest.fixture(params=ASK)
def layer_and_said(request) -> tuple[nn.Module, Said]:
    """A layer, and what it says of three rows of two tokens, by default in prediction."""
    make, ask = ASK[request.param]
    torch.manual_seed(0)
    layer, x = make(), torch.randn(3, 2, 8)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)

    def said(of: nn.Module, *, gradients: bool = False, lowered: bool = True, dtype: torch.dtype = x.dtype) -> Tensor:
        with torch.set_grad_enabled(gradients), torch.autocast("cpu", torch.bfloat16, enabled=lowered):
            return ask(of, x.to(dtype))

    return layer.eval(), said


def spoilt(layer: nn.Module) -> nn.Module:
    """Zero weights behind the back of the form: who still reads the form says what was said before."""
    for parameter in layer.parameters():
        parameter.data.zero_()
    return layer


def test_answers_are_those_of_the_weights(layer_and_said):
    layer, said = layer_and_said
    plain = said(layer)
    lay_out(layer)
    y = said(layer)
    assert y.dtype == plain.dtype == torch.bfloat16
    assert (y - plain).abs().max() <= 2 * ROUNDING * plain.abs().max()
    assert torch.equal(said(spoilt(layer)), y)  # it was the form that answered


@pytest.mark.parametrize("how", [{"gradients": True}, {"lowered": False}, {"lowered": False, "gradients": True}])
def test_where_it_cannot_be_read_the_weights_are(layer_and_said, how):
    layer, said = layer_and_said
    lay_out(layer)
    assert not said(spoilt(layer), **how).any()


def test_double_precision_stays(layer_and_said):
    layer, said = layer_and_said
    lay_out(layer.double())
    assert said(layer, dtype=torch.float64).dtype == torch.float64


def test_training_forgets_the_form(layer_and_said):
    """One step of the fused optimiser, which changes weights without their counting it."""
    layer, said = layer_and_said
    lay_out(layer)
    before = said(layer)
    optimiser = torch.optim.AdamW(layer.train().parameters(), lr=1.0, fused=True)
    said(layer, gradients=True).float().sum().backward()
    optimiser.step()
    after = said(layer.eval())
    lay_out(layer)
    assert not torch.equal(after, before)
    assert (said(layer) - after).abs().max() <= 2 * ROUNDING * after.abs().max()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_reads_its_own_weights(layer_and_said, copied):
    layer, said = layer_and_said
    lay_out(layer)
    assert said(layer).any()
    assert not said(spoilt(copied(layer))).any()


def test_what_is_saved_is_the_same(layer_and_said):
    layer, _ = layer_and_said
    before = layer.state_dict()
    lay_out(layer)
    assert layer.state_dict().keys() == before.keys()
