"""Weights in the form that products want: the same answers to the bit, never of weights that have changed."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from m4oe.moe import Experts, experts, forms
from m4oe.moe.forms import Form, Linear

pytestmark = pytest.mark.skipif(forms.REORDER is None, reason="this build or processor lacks the kernels")

ASK = {
    "linear": (lambda: Linear(8, 6), lambda layer, x: layer(x)),
    "linear without bias": (lambda: Linear(8, 6, bias=False), lambda layer, x: layer(x)),
    "grouped": (lambda: Experts(2, 8, 16), lambda layer, x: layer.grouped(x.flatten(0, 1), [4, 2])),
    "blended": (lambda: Experts(2, 8, 16), lambda layer, x: layer.blended(x.flatten(0, 1), torch.ones(6, 2))),
}


@pytest.fixture(params=ASK)
def layer_and_ask(request) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    """A layer, and what it says of three rows of two tokens in prediction."""
    make, ask = ASK[request.param]
    torch.manual_seed(0)
    layer, x = make(), torch.randn(3, 2, 8)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)

    def said(of: nn.Module) -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return ask(of, x)

    return layer, said


def test_answers_are_those_of_the_weights(layer_and_ask, monkeypatch):
    layer, said = layer_and_ask
    first, second = said(layer), said(layer)
    for module in forms, experts:
        monkeypatch.setattr(module, "reads_forms", lambda x: False)
    plain = said(layer)
    assert first.dtype == plain.dtype == torch.bfloat16
    assert torch.equal(first, plain) and torch.equal(second, plain)


def test_a_changed_weight_is_read_anew(layer_and_ask):
    layer, said = layer_and_ask
    before = said(layer)
    with torch.no_grad():
        next(layer.parameters()).mul_(2)
    changed = said(layer)
    assert not torch.equal(changed, before)
    layer.load_state_dict({name: torch.zeros_like(value) for name, value in layer.state_dict().items()})
    assert not said(layer).any()


def test_a_copy_reads_its_own_weights(layer_and_ask):
    layer, said = layer_and_ask
    before = said(layer)
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert not said(twin).any()
    assert torch.equal(said(layer), before)


def test_a_form_is_made_once():
    weight, made = torch.ones(2), []
    form: Form[int] = Form()
    for _ in range(3):
        form.of([weight], lambda: made.append(0) or len(made))
    assert len(made) == 1
    with torch.inference_mode():
        form.of([torch.ones(2)], lambda: made.append(0) or len(made))
    assert len(made) == 2


@pytest.mark.parametrize(("gradients", "lowered"), [(True, True), (False, False), (True, False)])
def test_nothing_but_prediction_in_bfloat16_reads_forms(gradients, lowered):
    with torch.set_grad_enabled(gradients), torch.autocast("cpu", torch.bfloat16, enabled=lowered):
        assert not forms.reads_forms(torch.ones(1))
