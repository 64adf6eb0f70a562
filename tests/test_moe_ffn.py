"""A gate of one expert a token: many tokens, sorted into places whose numbers are rounded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from m4oe.moe import ExpertFFN, Experts, GateRouter
from m4oe.moe.ffn import Moved, _rounded

B, N, D, E = 2, 320, 4, 3  # 640 tokens: experts' shares are rounded up


@pytest.fixture
def layer() -> ExpertFFN:
    torch.manual_seed(0)
    layer = ExpertFFN(GateRouter(D, E, top_k=1), Experts(E, D, 6)).double()
    for parameter in layer.parameters():
        parameter.data.add_(0.5 * torch.randn_like(parameter))
    return layer


def each_by_its_expert(layer: ExpertFFN, x: Tensor, combine: Tensor) -> Tensor:
    """All experts on all tokens, then the weighted sum."""
    answers = layer.experts(x.flatten(0, 1).expand(E, -1, -1)).view(E, B, N, D)
    return (answers * combine.permute(2, 0, 1).unsqueeze(-1)).sum(0)


def test_many_tokens_each_go_through_their_expert(layer: ExpertFFN) -> None:
    x = torch.randn(B, N, D, dtype=torch.float64, requires_grad=True)
    y, routing = layer(x, torch.zeros(B).long())
    assert len(routing.combine.argmax(-1).unique()) == E
    twin = each_by_its_expert(layer, x, routing.combine)
    torch.testing.assert_close(y, twin, rtol=0, atol=1e-12)
    direction = torch.randn_like(y)
    variables = [x, *layer.parameters()]
    for mine, theirs in zip(
        *(torch.autograd.grad((z * direction).sum(), variables, retain_graph=True) for z in (y, twin)), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


def test_few_numbers_of_rows_occur(layer: ExpertFFN, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    grouped = layer.experts.grouped
    monkeypatch.setattr(layer.experts, "grouped", lambda x, counts: (seen.append(counts), grouped(x, counts))[1])
    combine = layer(torch.randn(B, N, D, dtype=torch.float64), torch.zeros(B).long())[1].combine
    (counts,) = seen
    needed = (combine > 0).flatten(0, 1).sum(0).tolist()
    assert counts == [_rounded(count) for count in needed] and counts != needed


def test_numbers_of_rows_are_rounded_up_to_four_binary_digits() -> None:
    assert [_rounded(count) for count in (0, 1, 15, 16, 17, 31, 33, 1000, 1025)] == [
        0,
        1,
        15,
        16,
        18,
        32,
        36,
        1024,
        1152,
    ]
    assert all(count <= _rounded(count) <= count + count // 8 for count in range(1, 5000))
    assert len({_rounded(count) for count in range(1024, 25088)}) < 40


def test_rows_move_and_their_gradients_move_back() -> None:
    x, place = torch.arange(8.0).view(4, 2).requires_grad_(), torch.tensor([2, 0, 0])
    y = Moved.apply(x, place, torch.tensor([1, 0, 0, 0]), [slice(2, 3)], [slice(1, 2), slice(3, 4)])
    assert y.tolist() == [[4, 5], [0, 1], [0, 0]]
    (gradient,) = torch.autograd.grad(y, x, torch.tensor([[1.0, 2], [3, 4], [0, 0]]))
    assert gradient.tolist() == [[3, 4], [0, 0], [1, 2], [0, 0]]
