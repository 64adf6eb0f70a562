"""Hard routing and gates: equal to naive loops, deaf to the order of the batch, one expert's cost for one expert."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import twins
from m4oe.moe import ExpertFFN, Experts, GateRouter, ModalityRouter
from m4oe.moe.losses import load_balance

B, N, D, E, HIDDEN = 5, 7, 8, 4, 24
MODALITY = torch.tensor([2, 0, 3, 0, 1])
EXPERT_OF = (0, 3, 1, 2)  # another order than the modalities'

ROUTERS: dict[str, Callable[[], ModalityRouter | GateRouter]] = {
    "modality": lambda: ModalityRouter(EXPERT_OF),
    "token": lambda: GateRouter(D, E),
    "token, top 1": lambda: GateRouter(D, E, top_k=1),
    "token, top 2": lambda: GateRouter(D, E, top_k=2),
    "sample": lambda: GateRouter(D, E, per="sample"),
    "sample, top 1": lambda: GateRouter(D, E, per="sample", top_k=1),
    "sample, top 3": lambda: GateRouter(D, E, per="sample", top_k=3),
}
each_router = pytest.mark.parametrize("make", ROUTERS.values(), ids=ROUTERS)
SINGLE = ("modality", "token, top 1", "sample, top 1")


def a_layer(make: Callable[[], nn.Module], shared: bool = False, dtype: torch.dtype = torch.float64) -> ExpertFFN:
    """A layer whose gate is decided and whose biases are not zero."""
    torch.manual_seed(1)
    layer = ExpertFFN(make(), Experts(E, D, HIDDEN), Experts(1, D, HIDDEN) if shared else None)
    for parameter in layer.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return layer.to(dtype)


def tokens(dtype: torch.dtype = torch.float64) -> Tensor:
    torch.manual_seed(2)
    return torch.randn(B, N, D, dtype=dtype)


def test_there_are_seven_routers_to_test() -> None:
    assert len(ROUTERS) == 7 and set(SINGLE) < set(ROUTERS)


@each_router
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layer_and_gradients_equal_the_naive_twin(make, shared: bool, dtype: torch.dtype) -> None:
    layer, x = a_layer(make, shared, dtype), tokens(dtype).requires_grad_()
    (ours, _), theirs = layer(x, MODALITY), twins.expert_ffn(layer, x, MODALITY)
    close = {"rtol": 0, "atol": {torch.float32: 2e-5, torch.float64: 1e-12}[dtype]}
    torch.testing.assert_close(ours, theirs, **close)
    direction = torch.randn_like(ours)
    names, parameters = zip(*layer.named_parameters())
    wanted = torch.autograd.grad((theirs * direction).sum(), [x, *parameters])
    found = torch.autograd.grad((ours * direction).sum(), [x, *parameters])
    assert len(found) >= 5
    for name, a, b in zip(["x", *names], found, wanted, strict=True):
        torch.testing.assert_close(a, b, **close, msg=lambda text, name=name: f"{name}: {text}")


@each_router
def test_combine_is_float32_sums_to_one_and_names_as_many_experts_as_asked(make) -> None:
    layer, x = a_layer(make, dtype=torch.float32), tokens(torch.float32)
    routing = layer(x, MODALITY)[1]
    router = layer.router
    per_exam = isinstance(router, ModalityRouter) or router.per == "sample"
    assert routing.dispatch is None and routing.combine.dtype == torch.float32
    assert routing.combine.shape == (B, 1 if per_exam else N, E)
    torch.testing.assert_close(routing.combine.sum(-1), torch.ones(routing.combine.shape[:2]))
    kept = 1 if isinstance(router, ModalityRouter) else router.top_k or E
    assert ((routing.combine > 0).sum(-1) == kept).all()


def test_modality_names_the_expert() -> None:
    combine = ModalityRouter((0, 0, 2))(torch.tensor([2, 1, 0])).combine
    assert combine.tolist() == [[[0, 0, 1]], [[1, 0, 0]], [[1, 0, 0]]]
    assert list(ModalityRouter((0, 1)).state_dict()) == []


def test_gate_by_hand() -> None:
    # One token (1, 2); logits (1, 2, 0) + bias (0, 0, log 3): exponentials e, e^2, 3 of a sum of 13.107
    gate = GateRouter(2, 3, per="sample")
    gate.start_from(torch.tensor([[1.0, 0], [0, 1], [0, 0]]), torch.tensor([0, 0, 3.0]).log().nan_to_num(neginf=0))
    x = torch.tensor([[[1.0, 2.0]]])
    assert gate(x).combine.flatten().tolist() == pytest.approx([0.20739, 0.56374, 0.22888], abs=1e-5)
    gate.top_k = 2  # the two largest, 0.56374 and 0.22888, over their sum
    assert gate(x).combine.flatten().tolist() == pytest.approx([0, 0.71123, 0.28877], abs=1e-5)


def test_a_gate_per_sample_reads_the_mean_token() -> None:
    torch.manual_seed(0)
    by_sample, x = GateRouter(D, E, per="sample"), tokens(torch.float32)
    torch.testing.assert_close(by_sample(x.mean(1, keepdim=True).expand_as(x)).combine, by_sample(x).combine)


def test_a_gate_per_token_reads_the_token_and_the_mean_of_all() -> None:
    # Tokens 1 and 3, of mean 2. Expert 0 has the logit 2 token - mean, 0 and 4; expert 1 has none.
    gate = GateRouter(1, 2)
    gate.start_from(torch.tensor([[-1.0], [0.0]]), torch.zeros(2))
    gate.gate["token"].weight.data = torch.tensor([[2.0], [0.0]])
    combine = gate(torch.tensor([[[1.0], [3.0]]])).combine
    assert combine[0, :, 0].tolist() == pytest.approx([0.5, 0.98201], abs=1e-5)


@pytest.mark.parametrize("per", ["token", "sample"])
def test_a_gate_starts_as_the_classifier_of_mean_tokens_that_it_is_given(per: str) -> None:
    gate, x = GateRouter(D, E, per), tokens(torch.float32)
    weight, bias = torch.randn(E, D), torch.randn(E)
    gate.start_from(weight, bias)
    wanted = (x.mean(1) @ weight.T + bias).softmax(-1)[:, None].expand_as(gate(x).combine)
    torch.testing.assert_close(gate(x).combine, wanted)


@each_router
def test_permuting_the_batch_permutes_the_result(make) -> None:
    layer, x, order = a_layer(make), tokens(), torch.tensor([3, 1, 4, 0, 2])
    y, routing = layer(x, MODALITY)
    y_p, routing_p = layer(x[order], MODALITY[order])
    torch.testing.assert_close(y_p, y[order], rtol=0, atol=1e-12)
    torch.testing.assert_close(routing_p.combine, routing.combine[order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("per", ["token", "sample"])
def test_keeping_all_experts_is_the_dense_gate(per: str) -> None:
    dense = a_layer(lambda: GateRouter(D, E, per=per))
    kept = a_layer(lambda: GateRouter(D, E, per=per, top_k=E))
    x = tokens()
    torch.testing.assert_close(kept(x, MODALITY)[0], dense(x, MODALITY)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("top_k", [None, 1, 2])
def test_a_gate_that_is_certain_is_hard_routing(top_k: int | None) -> None:
    hard = a_layer(lambda: ModalityRouter([2]))
    gated = a_layer(lambda: GateRouter(D, E, top_k=top_k))
    gated.experts = hard.experts
    gated.router.start_from(torch.zeros(E, D), torch.tensor([-1e4, -1e4, 1e4, -1e4]))
    x, modality = tokens(), torch.zeros(B, dtype=torch.int64)
    torch.testing.assert_close(gated(x, modality)[0], hard(x, modality)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in ROUTERS if name != "modality"])
def test_a_restricted_gate_has_the_same_bits_as_a_smaller_one(name: str) -> None:
    layer, x = a_layer(ROUTERS[name], dtype=torch.float32), tokens(torch.float32)
    few = 2
    router = layer.router
    smaller = ExpertFFN(GateRouter(D, few, router.per, router.top_k), Experts(few, D, HIDDEN))
    smaller.load_state_dict({key: value[:few].clone() for key, value in layer.state_dict().items()})
    router.limit = few
    (y, routing), (y_small, routing_small) = layer(x, MODALITY), smaller(x, MODALITY)
    assert torch.equal(y, y_small) and torch.equal(routing.combine, routing_small.combine)
    router.limit = None
    assert not torch.equal(layer(x, MODALITY)[0], y)


def flops(layer: ExpertFFN, x: Tensor, modality: Tensor) -> int:
    """Of a forward and a backward pass."""
    with FlopCounterMode(display=False) as counter:
        layer(x, modality)[0].sum().backward()
    return counter.get_total_flops()


def with_experts(name: str, count: int) -> ExpertFFN:
    router = ROUTERS[name]()
    if isinstance(router, ModalityRouter):
        return ExpertFFN(ModalityRouter(range(count)), Experts(count, D, HIDDEN))
    return ExpertFFN(GateRouter(D, count, router.per, router.top_k), Experts(count, D, HIDDEN))


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("count", [4, 16])
def test_one_active_expert_costs_one_expert_however_many_there_are(name: str, count: int) -> None:
    x, modality = tokens(torch.float32).requires_grad_(), torch.arange(B) % 4
    read = {"modality": 0, "sample, top 1": B, "token, top 1": B + B * N}[name]  # mean tokens, and tokens
    gate = 3 * 2 * read * D * count
    assert flops(with_experts(name, count), x, modality) == 3 * 2 * 2 * B * N * D * HIDDEN + gate


def test_the_dense_gate_costs_all_experts() -> None:
    x = tokens(torch.float32).requires_grad_()
    one, four = (flops(with_experts("token", count), x, MODALITY) for count in (1, 4))
    assert four == 4 * one


@each_router
def test_bfloat16_around_it_leaves_the_routing_in_float32(make) -> None:
    layer, x = a_layer(make, dtype=torch.float32), tokens(torch.float32)
    y, routing = layer(x, MODALITY)
    with torch.autocast("cpu", torch.bfloat16):
        y_half, routing_half = layer(x, MODALITY)
    assert y_half.dtype == torch.bfloat16 and torch.equal(routing_half.combine, routing.combine)
    torch.testing.assert_close(y_half.float(), y, rtol=0, atol=0.03 * y.abs().max().item())
    y_half.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_noise_comes_in_training_alone_and_from_torchs_generator() -> None:
    gate, x = GateRouter(D, E, noise=1.0), tokens(torch.float32)
    quiet = gate.eval()(x).combine
    assert torch.equal(gate(x).combine, quiet)
    gate.train()
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(gate(x).combine)
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], quiet)
    still = GateRouter(D, E).train()
    assert torch.equal(still(x).combine, still.eval()(x).combine)


@pytest.mark.parametrize("per", ["token", "sample"])
def test_a_gate_of_one_expert_at_a_time_still_learns_which(per: str) -> None:
    # Expert 1 doubles the loss that expert 0 has; both weigh 1, yet the gradient lowers the logit of the chosen one.
    torch.manual_seed(0)
    layer = ExpertFFN(GateRouter(D, 2, per, top_k=1), Experts(2, D, HIDDEN))
    y, routing = layer(tokens(torch.float32), MODALITY)
    assert set(routing.combine.unique().tolist()) <= {0.0, 1.0}
    y.square().sum().backward()
    assert all(part.weight.grad.abs().sum() > 0 for part in layer.router.gate.values())


def test_balance_by_hand() -> None:
    even = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert load_balance(even.unsqueeze(0)).item() == pytest.approx(1)  # decided, and evenly
    assert load_balance(torch.full((2, 5, 3), 1 / 3)).item() == pytest.approx(1)
    assert load_balance(torch.tensor([[[1.0, 0, 0]] * 4])).item() == pytest.approx(3)
    # shares (3/4, 1/4): 2 (9/16 + 1/16) = 1.25
    assert load_balance(torch.tensor([[[1.0, 0]], [[0.5, 0.5]]])).item() == pytest.approx(1.25)


@pytest.mark.parametrize("top_k", [None, 1])
def test_descending_the_balance_evens_the_load(top_k: int | None) -> None:
    torch.manual_seed(0)
    gate, x = GateRouter(D, 3, top_k=top_k), torch.randn(8, 20, D)
    gate.gate["sample"].bias.data = torch.tensor([2.0, 0, 0])
    optimiser = torch.optim.SGD(gate.parameters(), lr=0.1)
    combines = []
    for _ in range(100):
        optimiser.zero_grad()
        combines.append(gate(x).combine)
        load_balance(combines[-1]).backward()
        optimiser.step()
    # Experts that take turns are in use, all of them: of one expert a token, all tokens may move at once.
    assert load_balance(combines[0]) > 1.5 and load_balance(torch.cat(combines[50:])) < 1.1


def test_empty_batches_pass() -> None:
    for make in ROUTERS.values():
        y, _ = a_layer(make)(torch.empty(0, N, D, dtype=torch.float64), MODALITY[:0])
        assert y.shape == (0, N, D)
