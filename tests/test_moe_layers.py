"""The layers of m4oe.moe: equal to their naive twins, deaf to absent tokens, exact in their shares."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import twins
from m4oe.batch import Routing, Tokens
from m4oe.moe import Experts, MoE, MSoE, MToE, SoftRouter, TaskRouter, all_present

B, N, D, E, S, T, M, HIDDEN = 4, 9, 8, 5, 2, 3, 3, 16
MODALITY = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2])
TOLERANCE = {"rtol": 0, "atol": 1e-6}

Layer = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Routing]]


def _msoe() -> MSoE:
    return MSoE(D, E, HIDDEN, slots=S)


def _mtoe() -> MToE:
    return MToE(D, E, T, HIDDEN)


def _mtoe_embedded() -> MToE:
    return MToE(D, E, T, HIDDEN, embed_in_routing=True)


def _run_msoe(layer: nn.Module, x: Tensor, present: Tensor, modality: Tensor = MODALITY) -> tuple[Tensor, Routing]:
    y, routing = layer(x, present)
    return y.unsqueeze(1), routing  # (B, 1, N, D): one stream, so that one test reads both layers


def _run_mtoe(layer: nn.Module, x: Tensor, present: Tensor, modality: Tensor = MODALITY) -> tuple[Tensor, Routing]:
    return layer(Tokens(x, modality, modality, present), M)


LAYERS = {"MSoE": (_msoe, _run_msoe), "MToE": (_mtoe, _run_mtoe), "MToE, embedded": (_mtoe_embedded, _run_mtoe)}
each_layer = pytest.mark.parametrize(("make", "run"), LAYERS.values(), ids=LAYERS)


def a_batch() -> tuple[Tensor, Tensor]:
    """Tokens of four exams: complete, two that lack a modality or single tokens, and one that has none at all."""
    torch.manual_seed(0)
    present = torch.ones(B, N, dtype=torch.bool)
    present[1, MODALITY == 1] = False
    present[2, [0, 4, 8]] = False
    present[3] = False
    return torch.randn(B, N, D), present


def a_layer(make: Callable[[], nn.Module]) -> nn.Module:
    """A layer whose every parameter is away from its starting value, so that none can be forgotten unnoticed."""
    torch.manual_seed(1)
    layer = make()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer


def gradients(layer: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Of a fixed random functional of y, averaged over exams, with respect to the tokens and every parameter."""
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=y.dtype) / len(y)
    names = ["x", *(name for name, _ in layer.named_parameters())]
    grads = torch.autograd.grad((y * direction).sum(), [x, *layer.parameters()])
    return dict(zip(names, grads, strict=True))


def assert_same(ours: Tensor, theirs: Tensor, name: str = "") -> None:
    """Equal within 1e-6 in float32, and to 12 digits in float64, where rounding cannot hide a mistake."""
    atol = {torch.float32: 1e-6, torch.float64: 1e-12}[theirs.dtype] * max(1.0, theirs.abs().max().item())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol, msg=lambda text: f"{name}: {text}")


def test_there_are_three_layers_to_test() -> None:
    assert len(LAYERS) == 3


both_precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@both_precisions
@pytest.mark.parametrize("make", [_msoe, _mtoe, _mtoe_embedded])
def test_a_layer_equals_its_naive_twin_forward_and_backward(make: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    x, present = a_batch()
    x = x.to(dtype).requires_grad_()
    layer = a_layer(make).to(dtype)
    tokens = Tokens(x, MODALITY, MODALITY, present)
    ours, theirs = (
        (layer(x, present)[0], twins.msoe(layer, x, present))
        if isinstance(layer, MSoE)
        else (layer(tokens, M)[0], twins.mtoe(layer, tokens))
    )
    assert_same(ours, theirs)
    wanted = gradients(layer, x, theirs)
    assert len(wanted) >= 9
    for name, gradient in gradients(layer, x, ours).items():
        assert_same(gradient, wanted[name], name)


@both_precisions
@pytest.mark.parametrize("make", [_mtoe, _mtoe_embedded])
def test_joint_equals_its_naive_twin_forward_and_backward(make: Callable[[], MToE], dtype: torch.dtype) -> None:
    x, present = a_batch()
    x = x.to(dtype).requires_grad_()
    layer = a_layer(make).to(dtype)
    tokens = Tokens(x, MODALITY, MODALITY, present)
    ours, theirs = layer(tokens, M)[1].joint, twins.joint(layer, tokens, M)
    assert_same(ours, theirs)
    direction = torch.randn(B, M, E, T, dtype=dtype) / B
    inputs = [x, layer.router.phi, layer.router.scale, layer.norm.weight]
    for a, b in zip(*(torch.autograd.grad((p * direction).sum(), inputs) for p in (ours, theirs)), strict=True):
        assert_same(a, b)


def test_experts_equal_a_loop_over_linear_layers() -> None:
    torch.manual_seed(0)
    experts = Experts(E, D, HIDDEN)
    nn.init.normal_(experts.bias_in), nn.init.normal_(experts.bias_out)
    x = torch.randn(E, 6, D)
    loop = torch.stack([expert(x[e]) for e, expert in enumerate(twins.experts_as_modules(experts))])
    torch.testing.assert_close(experts(x), loop, **TOLERANCE)
    slots = torch.randn(B, E, S, D)
    torch.testing.assert_close(experts.on_slots(slots), twins.ExpertsInALoop(experts).on_slots(slots), **TOLERANCE)


def test_experts_start_with_the_spread_of_a_single_expert() -> None:
    # Xavier: uniform within sqrt(6 / (D + F)), a standard deviation of sqrt(2 / (D + F)); 48 experts do not shrink it.
    weight = Experts(48, 60, 90).weight_in
    assert weight.abs().max() <= math.sqrt(6 / 150)
    assert weight.std().item() == pytest.approx(math.sqrt(2 / 150), rel=0.02)


@each_layer
@pytest.mark.parametrize("content", [0.0, 1e30, float("nan"), float("inf")])
def test_law_1_content_of_absent_tokens_changes_nothing_bit_for_bit(
    make: Callable[[], nn.Module], run: Layer, content: float
) -> None:
    x, present = a_batch()
    layer = a_layer(make)
    results = []
    for filler in (1.0, content):
        filled = torch.where(present[..., None], x, filler).requires_grad_()
        y, routing = run(layer, filled, present)
        values = [y, routing.dispatch, routing.combine, y if routing.joint is None else routing.joint]
        results.append([*values, *gradients(layer, filled, y).values()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert all(value.isfinite().all() for value in results[1])


@each_layer
def test_law_1_removing_absent_columns_changes_nothing(make: Callable[[], nn.Module], run: Layer) -> None:
    x, present = a_batch()
    x, present = x[1:3], present[1:3] & (MODALITY != 1)  # both exams now lack modality 1
    layer = a_layer(make)
    kept = present.any(0)
    y, routing = run(layer, x, present)
    y_kept, routing_kept = run(layer, x[:, kept], present[:, kept], MODALITY[kept])
    torch.testing.assert_close(y[:, :, kept], y_kept, **TOLERANCE)
    torch.testing.assert_close(routing.dispatch[:, kept], routing_kept.dispatch, **TOLERANCE)
    if routing.joint is not None:
        torch.testing.assert_close(routing.joint, routing_kept.joint, **TOLERANCE)


@each_layer
def test_law_1_permuting_the_batch_permutes_the_result(make: Callable[[], nn.Module], run: Layer) -> None:
    x, present = a_batch()
    layer = a_layer(make)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(run(layer, x[order], present[order])[0], run(layer, x, present)[0][order], **TOLERANCE)


@each_layer
def test_permuting_the_tokens_permutes_the_result(make: Callable[[], nn.Module], run: Layer) -> None:
    x, present = a_batch()
    layer, order = a_layer(make).double(), torch.randperm(N)
    y, routing = run(layer, x.double(), present)
    y_p, routing_p = run(layer, x.double()[:, order], present[:, order], MODALITY[order])
    exact = {"rtol": 0, "atol": 1e-13}  # in float64: sums over tokens are taken in another order
    torch.testing.assert_close(y_p, y[:, :, order], **exact)
    torch.testing.assert_close(routing_p.combine, routing.combine[:, order], **exact)
    if routing.joint is not None:
        torch.testing.assert_close(routing_p.joint, routing.joint, **exact)


@each_layer
def test_law_5_every_parameter_gets_a_gradient(make: Callable[[], nn.Module], run: Layer) -> None:
    x, _ = a_batch()
    x.requires_grad_()
    layer = make()
    y, _ = run(layer, x, torch.ones(B, N, dtype=torch.bool))
    idle = [name for name, gradient in gradients(layer, x, y).items() if not gradient.abs().sum() > 0]
    assert idle == []


@each_layer
def test_an_exam_without_tokens_gets_zeros_and_disturbs_nobody(make: Callable[[], nn.Module], run: Layer) -> None:
    x, present = a_batch()
    x.requires_grad_()
    layer = a_layer(make)
    y, routing = run(layer, x, present)
    for value in (y, routing.dispatch, routing.combine, y if routing.joint is None else routing.joint):
        assert torch.count_nonzero(value[3]) == 0
    found = gradients(layer, x, y)
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert torch.count_nonzero(found["x"][~present]) == 0
    nobody = torch.zeros_like(present)
    assert all(gradient.isfinite().all() for gradient in gradients(layer, x, run(layer, x, nobody)[0]).values())


@each_layer
def test_without_absent_tokens_present_may_be_left_out(make: Callable[[], nn.Module], run: Layer) -> None:
    x, _ = a_batch()
    layer = a_layer(make)
    wanted, _ = run(layer, x, torch.ones(B, N, dtype=torch.bool))
    assert torch.equal(layer(x)[0].view_as(wanted), wanted)


def test_moe_takes_present_or_none() -> None:
    x, present = a_batch()
    moe = MoE(SoftRouter(D, E, S), Experts(E, D, HIDDEN))
    assert moe(x)[0].shape == x.shape
    assert torch.count_nonzero(moe(x, present)[0][~present]) == 0


def test_soft_router_shares_sum_to_one() -> None:
    x, present = a_batch()
    routing = SoftRouter(D, E, S)(x, present)
    some = present.any(1).float()
    torch.testing.assert_close(routing.dispatch.sum(1), some[:, None, None].expand(B, E, S), **TOLERANCE)
    torch.testing.assert_close(routing.combine.sum((2, 3)), present.float(), **TOLERANCE)
    assert torch.count_nonzero(routing.dispatch[~present]) == 0
    assert torch.count_nonzero(routing.combine[~present]) == 0


def test_task_router_combines_over_the_experts_of_one_task() -> None:
    x, present = a_batch()
    routing = TaskRouter(D, E, T)(Tokens(x, MODALITY, MODALITY, present), M)
    torch.testing.assert_close(routing.combine.sum(2), present.float()[:, :, None].expand(B, N, T), **TOLERANCE)
    torch.testing.assert_close(routing.joint.sum((1, 2, 3)), present.any(1).float(), **TOLERANCE)


def test_hand_worked_routing() -> None:
    # D = 2, tokens (3, 0), (0, 5) and an absent one, slots (expert 0: direction (1, 0), expert 1: (0, 2)), scale log 3:
    # cosines are the identity, so weights are 3 : 1. Lengths of tokens and directions play no part.
    router = SoftRouter(2, 2, slots=1, scale=math.log(3))
    with torch.no_grad():
        router.phi.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]).unsqueeze(2))
    x = torch.tensor([[[3.0, 0.0], [0.0, 5.0], [7.0, 7.0]]])
    routing = router(x, torch.tensor([[True, True, False]]))
    shares = torch.tensor([[[0.75, 0.25], [0.25, 0.75], [0.0, 0.0]]])
    torch.testing.assert_close(routing.dispatch.squeeze(-1), shares)
    torch.testing.assert_close(routing.combine.squeeze(-1), shares)


def test_experts_read_tokens_as_they_are_and_logits_read_their_direction() -> None:
    x, present = a_batch()
    router = SoftRouter(D, E, S)
    torch.testing.assert_close(router(7 * x, present).dispatch, router(x, present).dispatch, **TOLERANCE)
    moe = MoE(router, Experts(E, D, HIDDEN))
    assert (moe(7 * x, present)[0] - moe(x, present)[0]).abs().max() > 0.1


def test_the_scale_starts_at_eight_so_that_dispatch_can_look() -> None:
    assert SoftRouter(D, E).scale.item() == TaskRouter(D, E, T).scale.item() == 8.0


def test_the_task_embedding_moves_routing_only_on_request() -> None:
    x, present = a_batch()
    tokens = Tokens(x, MODALITY, MODALITY, present)
    for embed_in_routing in (False, True):
        router = TaskRouter(D, E, T, embed_in_routing=embed_in_routing)
        before = router(tokens, M).dispatch
        with torch.no_grad():
            router.task_embedding[1] += 1.0
        moved = (router(tokens, M).dispatch - before).abs().amax((0, 1, 2)) > 1e-3
        assert moved.tolist() == [False, embed_in_routing, False]


def test_flat_logits_mean_uniform_present_modalities_whatever_the_token_counts() -> None:
    router = TaskRouter(D, E, T, scale=0.0)
    x, present = a_batch()
    joint = router(Tokens(x, MODALITY, MODALITY, present), M).joint
    wanted = [[1 / 3, 1 / 3, 1 / 3], [1 / 2, 0, 1 / 2], [1 / 2, 1 / 2, 0], [0, 0, 0]]
    torch.testing.assert_close(joint.sum((2, 3)), torch.tensor(wanted), **TOLERANCE)
    torch.testing.assert_close(joint[0, 0], torch.full((E, T), 1 / (3 * E * T)), **TOLERANCE)


@each_layer
def test_routing_stays_in_float32_under_bfloat16(make: Callable[[], nn.Module], run: Layer) -> None:
    x, present = a_batch()
    x.requires_grad_()
    layer = a_layer(make)
    wanted, routing = run(layer, x, present)
    with torch.autocast("cpu", torch.bfloat16):
        y, routing_low = run(layer, x, present)
    for name in ("dispatch", "combine", "joint"):
        if (value := getattr(routing_low, name)) is not None:
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, getattr(routing, name), **TOLERANCE)
    torch.testing.assert_close(y.float(), wanted, rtol=0.05, atol=0.05)
    assert all(gradient.isfinite().all() for gradient in gradients(layer, x, y.float()).values())


def test_a_whole_network_in_bfloat16_runs() -> None:
    x, present = a_batch()
    y, routing = _mtoe().bfloat16()(Tokens(x.bfloat16(), MODALITY, MODALITY, present), M)
    assert y.dtype == torch.bfloat16 and routing.joint.dtype == torch.float32


def test_a_token_of_zeros_keeps_gradients_finite() -> None:
    x = torch.zeros(1, N, D, requires_grad=True)
    moe = MoE(SoftRouter(D, E, S), Experts(E, D, HIDDEN))
    assert gradients(moe, x, moe(x)[0])["x"].isfinite().all()


def test_all_present_makes_tokens_of_a_plain_tensor() -> None:
    tokens = all_present(torch.randn(B, N, D), MODALITY)
    assert tokens.present.all() and torch.equal(tokens.modality, MODALITY)
    assert torch.count_nonzero(all_present(tokens.x).modality) == 0
