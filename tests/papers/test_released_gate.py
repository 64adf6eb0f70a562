"""The released gate selects no expert: it is a channel-wise attenuation of one wider perceptron. Ours selects."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from released_gate import ReleasedChannelGateFFN
from torch import Tensor

from m4oe.moe import ExpertFFN, Experts, GateRouter

B, N, D, E, HIDDEN = 2, 5, 12, 3, 16
CLOSE = {"rtol": 0, "atol": 1e-12}


@pytest.fixture
def layer() -> ReleasedChannelGateFFN:
    torch.manual_seed(0)
    layer = ReleasedChannelGateFFN(D, E, HIDDEN).double()
    for parameter in layer.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return layer


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(B, N, D, dtype=torch.float64)


def wide(experts: Experts) -> Experts:
    """One expert of E times the hidden width: first layers side by side, second ones stacked, output biases added."""
    one = Experts(1, D, E * HIDDEN).double()
    one.weight_in.data[0] = torch.cat(list(experts.weight_in), 1)
    one.bias_in.data[0] = torch.cat(list(experts.bias_in))
    one.weight_out.data[0] = torch.cat(list(experts.weight_out))
    one.bias_out.data[0] = experts.bias_out.sum(0)
    return one


def test_released_gate_is_its_loops(layer: ReleasedChannelGateFFN, x: Tensor) -> None:
    experts = layer.experts
    for b in range(B):
        for n in range(N):
            gate = layer.gate(x[b, n]).exp()
            wanted = torch.zeros(D, dtype=torch.float64)
            for e in range(E):
                hidden = F.gelu(x[b, n] @ experts.weight_in[e] + experts.bias_in[e])
                wanted += gate / gate.sum() * (hidden @ experts.weight_out[e] + experts.bias_out[e])
            torch.testing.assert_close(layer(x)[b, n], wanted, **CLOSE)


def test_a_sum_of_e_perceptrons_is_one_of_e_times_the_hidden_width(layer: ReleasedChannelGateFFN, x: Tensor) -> None:
    rows = x.flatten(0, 1)
    total = layer.experts(rows.expand(E, -1, -1)).sum(0)
    torch.testing.assert_close(wide(layer.experts)(rows.unsqueeze(0))[0], total, **CLOSE)


def test_released_layer_is_that_wide_perceptron_attenuated_by_channel(layer: ReleasedChannelGateFFN, x: Tensor) -> None:
    dense = wide(layer.experts)(x.flatten(0, 1).unsqueeze(0))[0].view_as(x)
    torch.testing.assert_close(layer(x), layer.gate(x).softmax(-1) * dense, **CLOSE)


def test_no_gate_can_single_out_an_expert_where_ours_can(layer: ReleasedChannelGateFFN, x: Tensor) -> None:
    # Whatever the gate, every expert's share of an output channel is the same as without a gate: y / sum_e f_e(x)
    # depends on the channel alone. Exchanging two experts therefore changes nothing; in ours it does.
    def exchanged(experts: Experts) -> Experts:
        other = Experts(E, D, HIDDEN).double()
        other.load_state_dict({name: value.flip(0) for name, value in experts.state_dict().items()})
        return other

    before = layer(x)
    layer.experts = exchanged(layer.experts)
    torch.testing.assert_close(layer(x), before, **CLOSE)

    ours = ExpertFFN(GateRouter(D, E).double(), layer.experts)
    torch.nn.init.normal_(ours.router.gate["token"].weight)
    before, _ = ours(x, torch.zeros(B, dtype=torch.int64))
    ours.experts = exchanged(ours.experts)
    assert (ours(x, torch.zeros(B, dtype=torch.int64))[0] - before).abs().max() > 0.01


def test_released_outputs_shrink_by_the_width_and_ours_do_not() -> None:
    torch.manual_seed(0)
    width = 96
    x = torch.randn(4, 50, width)
    released = ReleasedChannelGateFFN(width, 1, 4 * width)
    plain = released.experts(x.flatten(0, 1).unsqueeze(0)).view_as(x)
    assert (released(x).std() / plain.std()).item() == pytest.approx(1 / width, rel=0.5)
    ours, _ = ExpertFFN(GateRouter(width, 1), released.experts)(x, torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(ours, plain)
