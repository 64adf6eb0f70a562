"""The released layers, pinned against plain loops, and what sets ours apart from them."""

from __future__ import annotations

import math

import pytest
import torch
from released_layers import ReleasedMSoE, ReleasedMToE, released_token_task_information
from torch import Tensor, nn

from m4oe.batch import Tokens
from m4oe.moe import MSoE, MToE, SoftRouter, TaskRouter
from m4oe.moe.losses import conditional_mutual_information, effective_tokens
from twins import experts_one_by_one

B, N, D, E, S, T, HIDDEN = 2, 6, 8, 4, 2, 3, 12
MODALITY = torch.tensor([0, 0, 0, 0, 1, 1])


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return 3 * torch.randn(B, N, D)


def shaken(layer: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return layer


def loops(layer: ReleasedMSoE | ReleasedMToE, exam: Tensor) -> tuple[dict, list[Tensor], dict[tuple, Tensor]]:
    """Of one exam (N, D): logits {(token, expert, slot)}, unit tokens, and answers {(expert, slot)}."""
    unit = [token / token.norm() for token in exam]
    experts = experts_one_by_one(layer.experts)
    places = [(e, s) for e in range(E) for s in range(layer.phi.shape[2])]
    logits = {
        (i, e, s): layer.scale * (unit[i] @ layer.phi[:, e, s]) / layer.phi[:, e, s].norm()
        for i in range(N)
        for e, s in places
    }
    answers = {}
    for e, s in places:
        total = sum(logits[i, e, s].exp() for i in range(N))
        read = sum(logits[i, e, s].exp() / total * unit[i] for i in range(N))
        answers[e, s] = experts[e](read + layer.task_embedding[s] if isinstance(layer, ReleasedMToE) else read)
    return logits, unit, answers


def test_released_msoe_is_its_loops(x: Tensor) -> None:
    layer = shaken(ReleasedMSoE(D, E, HIDDEN, slots=S))
    y = layer(x)[0]
    for b in range(B):
        logits, _, answers = loops(layer, x[b])
        for i in range(N):
            total = sum(logits[i, e, s].exp() for e, s in answers)
            wanted = sum(logits[i, e, s].exp() / total * answer for (e, s), answer in answers.items())
            torch.testing.assert_close(y[b, i], wanted, rtol=0, atol=1e-6)


def test_released_mtoe_is_its_loops(x: Tensor) -> None:
    layer = shaken(ReleasedMToE(D, E, T, HIDDEN))
    y = layer(x)[0]
    for b in range(B):
        logits, _, answers = loops(layer, x[b])
        for i in range(N):
            total = sum(logits[i, e, t].exp() for e, t in answers)
            for t in range(T):
                wanted = sum(logits[i, e, t].exp() / total * answers[e, t] for e in range(E))
                torch.testing.assert_close(y[b, t, i], wanted, rtol=0, atol=1e-6)


def test_released_information_is_its_loops(x: Tensor) -> None:
    logits = ReleasedMToE(D, E, T, HIDDEN)(x)[1]
    total = 0.0
    for exam in logits.exp():
        p = {(i, t): (exam[i, :, t].sum() / exam.sum()).item() for i in range(N) for t in range(T)}
        token = [sum(p[i, t] for t in range(T)) for i in range(N)]
        task = [sum(p[i, t] for i in range(N)) for t in range(T)]
        total += sum(p[i, t] * math.log(p[i, t] / (token[i] * task[t])) for i, t in p)
    assert released_token_task_information(logits).item() == pytest.approx(total, abs=1e-6)


def test_released_task_streams_are_scaled_down_and_ours_are_not(x: Tensor) -> None:
    # Experts that answer 1 whatever they read: a token's stream of a task is then the sum of its combine weights.
    released, ours = ReleasedMToE(D, E, T, HIDDEN), MToE(D, E, T, HIDDEN)
    for layer in (released, ours):
        nn.init.zeros_(layer.experts.weight_out)
        nn.init.ones_(layer.experts.bias_out)
    torch.testing.assert_close(ours(x)[0], torch.ones(B, T, N, D))
    assert released(x)[0].max() < 0.6
    torch.testing.assert_close(released(x)[0].sum(1), torch.ones(B, N, D))  # tasks compete for every token


def test_released_experts_cannot_see_how_long_a_token_is_and_ours_can(x: Tensor) -> None:
    released, ours = ReleasedMSoE(D, E, HIDDEN, slots=S), MSoE(D, E, HIDDEN, slots=S).moe
    torch.testing.assert_close(released(5 * x)[0], released(x)[0], rtol=0, atol=1e-6)
    assert (ours(5 * x)[0] - ours(x)[0]).abs().max() > 0.1


def test_released_dispatch_starts_all_but_uniform_and_ours_does_not() -> None:
    torch.manual_seed(0)
    x, present = torch.randn(4, 144, 64), torch.ones(4, 144, dtype=torch.bool)
    released = ReleasedMSoE(64, 8, HIDDEN)(x)[1].softmax(1)
    ours = SoftRouter(64, 8)(x, present).dispatch
    assert effective_tokens(released, present) > 0.98
    assert effective_tokens(ours, present) < 0.80


def test_released_information_sees_neither_experts_nor_modalities_and_ours_does() -> None:
    # Experts 0, 1 take modality 0 and experts 2, 3 modality 1, the same for every task: perfect specialisation.
    own = (MODALITY[:, None] == torch.arange(E) // 2).float()
    logits = 10 * own[None, :, :, None].expand(B, N, E, T)
    assert released_token_task_information(logits).item() == pytest.approx(0, abs=1e-6)

    router = TaskRouter(2, E, T, scale=10.0)
    with torch.no_grad():
        router.phi.copy_(torch.eye(2).repeat_interleave(2, 1)[:, :, None].expand(2, E, T))
    tokens = Tokens(torch.eye(2)[MODALITY].expand(B, N, 2), MODALITY, MODALITY, torch.ones(B, N, dtype=torch.bool))
    joint = router(tokens, 2).joint
    assert conditional_mutual_information(joint).item() == pytest.approx(math.log(2), abs=1e-3)


def test_released_information_grows_with_the_batch_and_ours_does_not(x: Tensor) -> None:
    logits = shaken(ReleasedMToE(D, E, T, HIDDEN))(x)[1]
    once, twice = (released_token_task_information(batch) for batch in (logits, torch.cat([logits, logits])))
    torch.testing.assert_close(twice, 2 * once)
    joint = TaskRouter(D, E, T)(Tokens(x, MODALITY, MODALITY, torch.ones(B, N, dtype=torch.bool)), 2).joint
    doubled = conditional_mutual_information(torch.cat([joint, joint]))
    torch.testing.assert_close(doubled, conditional_mutual_information(joint))
