"""The information term and the statistics of a routing, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from m4oe.batch import Tokens
from m4oe.moe import TaskRouter
from m4oe.moe.losses import (
    conditional_mutual_information,
    effective_experts,
    effective_tokens,
    entropy,
    expert_given_modality_task,
    expert_load,
    modality_given_task,
)

B, M, E, T = 6, 3, 5, 2


def a_joint(seed: int = 0) -> Tensor:
    """(B, M, E, T), every exam a distribution, in float64."""
    torch.manual_seed(seed)
    return torch.randn(B, M, E, T, dtype=torch.float64).mul(2).flatten(1).softmax(1).view(B, M, E, T)


def by_the_definition(joint: Tensor, weights: Tensor) -> Tensor:
    """sum_t w_t sum_{m,e} P(m,e|t) log P(m,e|t) / (P(m|t) P(e|t)), cell by cell."""
    total = torch.tensor(0.0, dtype=joint.dtype)
    for t, weight in enumerate(weights):
        p = joint.mean(0)[:, :, t] / joint.mean(0)[:, :, t].sum()
        for m in range(M):
            for e in range(E):
                total += weight * p[m, e] * (p[m, e] / (p[m].sum() * p[:, e].sum())).log()
    return total


def one_to_one(modalities: int, experts: int) -> Tensor:
    """(1, modalities, experts, T): uniform modalities, each with experts of its own (or experts with modalities)."""
    joint = torch.zeros(1, modalities, experts, T)
    for k in range(max(modalities, experts)):
        joint[0, k % modalities, k % experts] = 1
    return joint / joint.sum()


@pytest.mark.parametrize("uniform_tasks", [True, False])
def test_information_is_its_definition(uniform_tasks: bool) -> None:
    joint = a_joint()
    task = joint.mean(0).sum((0, 1))
    weights = torch.full((T,), 1 / T) if uniform_tasks else task
    ours = conditional_mutual_information(joint, uniform_tasks=uniform_tasks)
    torch.testing.assert_close(ours, by_the_definition(joint, weights))
    assert abs(ours - conditional_mutual_information(joint, uniform_tasks=not uniform_tasks)) > 1e-4


def test_over_exams_it_is_the_mean_of_each_exams_own() -> None:
    joint = a_joint()
    each = torch.stack([by_the_definition(exam[None], torch.full((T,), 1 / T)) for exam in joint])
    torch.testing.assert_close(conditional_mutual_information(joint, over="exam"), each.mean())


def test_over_presence_exams_with_the_same_modalities_are_pooled() -> None:
    joint = a_joint()
    joint[:2, 0] = 0  # two exams lack modality 0, four have all
    parts = [joint[:2], joint[2:]]
    wanted = sum(len(part) / B * conditional_mutual_information(part) for part in parts)
    torch.testing.assert_close(conditional_mutual_information(joint, over="presence"), wanted)


def test_held_even_over_modalities_it_cannot_be_raised_by_sending_more_through_one() -> None:
    joint, more = a_joint(), a_joint()
    more[:, 1] *= 30
    held = [conditional_mutual_information(each, uniform_modalities=True) for each in (joint, more)]
    torch.testing.assert_close(*held)
    even = joint.mean(0) / joint.mean(0).sum(1, keepdim=True) / M  # P(m|t) = 1/M, and P(e|m,t) as it is
    torch.testing.assert_close(held[0], conditional_mutual_information(even[None]))
    assert abs(conditional_mutual_information(joint) - conditional_mutual_information(more)) > 1e-2


def test_held_even_a_modality_that_no_exam_has_takes_no_share() -> None:
    joint = a_joint()
    joint[:, 0] = 0
    ours = conditional_mutual_information(joint, uniform_modalities=True)
    torch.testing.assert_close(ours, conditional_mutual_information(joint[:, 1:], uniform_modalities=True))


def test_the_entropy_identity_both_ways() -> None:
    # I(M;E|T) = H(E|T) - H(E|M,T) = H(M|T) - H(M|E,T)
    joint = a_joint()
    p = joint.mean(0)
    task, expert, modality = p.sum((0, 1)), p.sum(0), p.sum(1)
    expert_side = (task * entropy(expert / task, 0)).sum() - (modality * entropy(p / modality[:, None], 1)).sum()
    modality_side = (task * entropy(modality / task, 0)).sum() - (expert * entropy(p / expert, 0)).sum()
    ours = conditional_mutual_information(joint, uniform_tasks=False)
    torch.testing.assert_close(ours, expert_side)
    torch.testing.assert_close(ours, modality_side)


def test_information_is_zero_when_routing_ignores_modality_whatever_the_token_counts() -> None:
    # The same token everywhere: logits depend on expert and task alone. 2, 30 and 7 tokens a modality, some absent.
    torch.manual_seed(0)
    modality = torch.repeat_interleave(torch.arange(M), torch.tensor([2, 30, 7]))
    x = torch.randn(B, 1, 8).expand(B, len(modality), 8)
    present = torch.rand(B, len(modality)) > 0.3
    joint = TaskRouter(8, E, T)(Tokens(x, modality, modality, present), M).joint
    assert conditional_mutual_information(joint[:1]).item() == pytest.approx(0, abs=1e-6)
    assert modality_given_task(joint[0])[0].tolist() == pytest.approx([1 / 3] * 3)
    assert effective_experts(joint).max() < 0.99  # and yet routing is not flat: experts differ


@pytest.mark.parametrize(("modalities", "experts"), [(2, 2), (3, 6), (4, 2), (4, 8)])
def test_information_is_log_min_at_one_to_one(modalities: int, experts: int) -> None:
    joint = one_to_one(modalities, experts)
    assert conditional_mutual_information(joint).item() == pytest.approx(math.log(min(modalities, experts)), abs=1e-6)


def test_a_hand_worked_value() -> None:
    # One task, two modalities, two experts, P = [[.4, .1], [.1, .4]]: I = log 2 - h(.2), h the binary entropy
    #   = .6931 - (.2 x 1.6094 + .8 x .2231) = .6931 - .5004 = .1927
    joint = torch.tensor([[0.4, 0.1], [0.1, 0.4]]).view(1, 2, 2, 1)
    assert conditional_mutual_information(joint).item() == pytest.approx(0.1927, abs=1e-4)


def test_holding_tasks_uniform_leaves_no_gain_in_starving_one() -> None:
    good, flat = one_to_one(2, 2)[0, :, :, :1], torch.full((2, 2, 1), 0.25)

    def of(share: float) -> Tensor:
        return torch.cat([share * good / good.sum(), (1 - share) * flat], -1).unsqueeze(0)

    held = [conditional_mutual_information(of(share)).item() for share in (0.5, 0.99)]
    free = [conditional_mutual_information(of(share), uniform_tasks=False).item() for share in (0.5, 0.99)]
    assert held == pytest.approx([math.log(2) / 2] * 2, abs=1e-6)
    assert free == pytest.approx([0.5 * math.log(2), 0.99 * math.log(2)], abs=1e-6)


def test_a_cap_bounds_the_term_and_silences_its_gradient() -> None:
    joint = a_joint().requires_grad_()
    full = conditional_mutual_information(joint).item()
    assert conditional_mutual_information(joint, cap=full + 1).item() == full
    capped = conditional_mutual_information(joint, cap=full / 2)
    assert capped.item() == pytest.approx(full / 2)
    assert torch.count_nonzero(torch.autograd.grad(capped, joint)[0]) == 0


def test_a_modality_absent_from_the_whole_batch_leaves_value_and_gradients_finite() -> None:
    torch.manual_seed(0)
    modality = torch.tensor([0, 0, 1, 1, 2])
    x = torch.randn(B, 5, 8, requires_grad=True)
    router = TaskRouter(8, E, T)
    joint = router(Tokens(x, modality, modality, (modality != 1).expand(B, 5)), M).joint
    information = conditional_mutual_information(joint)
    torch.testing.assert_close(information, conditional_mutual_information(joint[:, [0, 2]]))
    gradients = torch.autograd.grad(information, [x, router.phi, router.scale])
    assert all(gradient.isfinite().all() and gradient.abs().sum() > 0 for gradient in gradients)


def test_a_batch_without_any_token_has_no_information_and_finite_gradients() -> None:
    x = torch.randn(B, 4, 8, requires_grad=True)
    router = TaskRouter(8, E, T)
    modality = torch.tensor([0, 0, 1, 2])
    joint = router(Tokens(x, modality, modality, torch.zeros(B, 4, dtype=torch.bool)), M).joint
    information = conditional_mutual_information(joint)
    assert information.item() == 0
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(information, [x, router.phi]))


def test_an_exam_without_tokens_does_not_dilute_the_others() -> None:
    joint = a_joint()
    padded = torch.cat([joint, torch.zeros(3, M, E, T)])
    torch.testing.assert_close(conditional_mutual_information(padded), conditional_mutual_information(joint))


def test_gradient_agrees_with_finite_differences() -> None:
    logits = torch.randn(2, M * E * T, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda values: conditional_mutual_information(values.softmax(1).view(2, M, E, T)), logits
    )


def test_information_is_computed_in_float32_whatever_the_precision_around_it() -> None:
    joint = a_joint().float()
    wanted = conditional_mutual_information(joint)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(conditional_mutual_information(joint), wanted)
    assert conditional_mutual_information(joint.bfloat16()).dtype == torch.float32


def test_conditionals_by_hand() -> None:
    # P(m, e | one task) = [[.4, .1], [.1, .4]] twice over, and a third modality that is absent
    joint = torch.tensor([[0.2, 0.05], [0.05, 0.2], [0.0, 0.0]]).unsqueeze(-1).expand(3, 2, 2)
    torch.testing.assert_close(modality_given_task(joint), torch.tensor([[0.5, 0.5, 0.0]]).expand(2, 3))
    expert = expert_given_modality_task(joint)
    assert expert.shape == (3, 2, 2)
    torch.testing.assert_close(expert[:, 0], torch.tensor([[0.8, 0.2], [0.2, 0.8], [0.0, 0.0]]))
    torch.testing.assert_close(expert_load(joint), torch.full((2, 2), 0.5))


def test_conditionals_keep_exams_apart() -> None:
    joint = a_joint()
    assert modality_given_task(joint).shape == (B, T, M)
    assert expert_given_modality_task(joint).shape == (B, M, T, E)
    assert expert_load(joint).shape == (B, T, E)
    for shares in (modality_given_task(joint), expert_given_modality_task(joint), expert_load(joint)):
        torch.testing.assert_close(shares.sum(-1), torch.ones_like(shares[..., 0]))
    torch.testing.assert_close(modality_given_task(joint)[2], modality_given_task(joint[2]))


def test_effective_experts_tells_collapse_from_even_use() -> None:
    even, collapsed = torch.ones(M, E, T), torch.zeros(M, E, T)
    collapsed[:, 2] = 1
    assert effective_experts(even).tolist() == pytest.approx([1.0] * T)
    assert effective_experts(collapsed).tolist() == pytest.approx([1 / E] * T)


def test_effective_tokens_by_hand() -> None:
    # Exam 0, four present tokens of five: slot 0 reads two of them evenly (2/4), slot 1 all four (4/4); mean 0.75.
    # Exams with one token or none say nothing about looking and are left out.
    dispatch = torch.zeros(3, 5, 1, 2)
    dispatch[0, :2, 0, 0] = 0.5
    dispatch[0, :4, 0, 1] = 0.25
    dispatch[1, 0] = 1.0
    present = torch.tensor([[1, 1, 1, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    assert effective_tokens(dispatch, present).item() == pytest.approx(0.75)
    assert effective_tokens(dispatch[1:], present[1:]).isnan()


@pytest.mark.parametrize(("scale", "low", "high"), [(0.0, 0.999, 1.0), (1.0, 0.95, 1.0), (8.0, 0.0, 0.95)])
def test_a_scale_of_one_all_but_reads_the_mean_and_eight_does_not(scale: float, low: float, high: float) -> None:
    torch.manual_seed(0)
    tokens = torch.randn(4, 144, 64)
    present = torch.ones(4, 144, dtype=torch.bool)
    modality = torch.arange(144) // 48
    routing = TaskRouter(64, 8, 3, scale=scale)(Tokens(tokens, modality, modality, present), 3)
    assert low <= effective_tokens(routing.dispatch, present).item() <= high + 1e-6
