"""The additive head: what an input says is told against what it says on average in training."""

from __future__ import annotations

import pytest
import torch

from m4oe.batch import Tokens
from m4oe.nets.heads import AdditiveHead, Verdict


def tokens(*exams: tuple[float | None, float | None]) -> Tokens:
    """Two streams of one token of width 1 each; None where an exam lacks the stream."""
    x = torch.tensor([[[value or 0.0] for value in exam] for exam in exams])
    present = torch.tensor([[value is not None for value in exam] for exam in exams])
    return Tokens(x, torch.tensor([0, 1]), torch.tensor([0, 1]), present)


@pytest.fixture
def head() -> AdditiveHead:
    """Of a token v it holds the maximum and the mean, (v, v); with weights of 1 and 2 they say 3 v."""
    head = AdditiveHead(1, [0.5], 0, 2)
    torch.nn.init.constant_(head.value.weight, 1.0)
    with torch.no_grad():
        head.value.weight[0, 1] = 2.0
    return head


def said(head: AdditiveHead, *exams: tuple[float | None, float | None]) -> Verdict:
    given = tokens(*exams)
    return head(given.x, given)


def test_parts_are_told_against_the_average_by_hand(head: AdditiveHead) -> None:
    """Means of the first batch are (2, 10): parts are 3 (1 - 2), 3 (3 - 2) and 3 (10 - 10)."""
    verdict = said(head, (1.0, 10.0), (3.0, None))
    assert verdict.evidence is not None
    assert verdict.evidence[..., 0].tolist() == [[-3.0, 0.0], [3.0, 0.0]]
    assert verdict.logits[:, 0].tolist() == [-2.5, 3.5]


def test_the_first_batches_weigh_the_same(head: AdditiveHead) -> None:
    """Stream 0: (2 + 5) / 2. Stream 1 is in the first batch alone, and stays."""
    said(head, (1.0, 10.0), (3.0, None))
    said(head, (5.0, None))
    assert head.usual.tolist() == [[3.5, 3.5], [10.0, 10.0]]


def test_the_average_follows_what_changes(head: AdditiveHead) -> None:
    """After 20 batches of 0, each batch of 1 brings it nearer by a twentieth: 1 - .95^n."""
    for value in [0.0] * 20 + [1.0] * 30:
        said(head, (value, None))
    assert head.usual[0, 0].item() == pytest.approx(1 - 0.95**30)


@pytest.mark.parametrize("still", ["in prediction", "frozen"])
def test_the_average_stays(head: AdditiveHead, still: str) -> None:
    said(head, (2.0, 4.0))
    if still == "frozen":
        head.requires_grad_(False)
    else:
        head.eval()
    verdict = said(head, (5.0, 4.0))
    assert head.usual.tolist() == [[2.0, 2.0], [4.0, 4.0]]
    assert verdict.logits.item() == pytest.approx(9.5)


def test_an_absent_input_speaks_like_the_average_one(head: AdditiveHead) -> None:
    said(head, (2.0, 4.0), (6.0, 8.0))
    head.eval()
    verdict = said(head, (None, None), (4.0, 6.0), (4.0, None))
    assert verdict.logits[:, 0].tolist() == [0.5, 0.5, 0.5]


def test_an_input_stands_in_for_absent_ones_by_hand(head: AdditiveHead) -> None:
    """Of usual values 0 a token of 2 says 6; where the other is absent, 1.5 times that, and the other way .75 times."""
    head.eval()
    with torch.no_grad():
        head.stand_in[1, 0], head.stand_in[0, 1] = 0.5, -0.25
    verdict = said(head, (2.0, 4.0), (2.0, None), (None, 4.0))
    assert verdict.evidence is not None
    assert verdict.evidence[..., 0].tolist() == [[6.0, 12.0], [9.0, 0.0], [0.0, 9.0]]
    assert verdict.logits[:, 0].tolist() == [18.5, 9.5, 9.5]


def test_a_fresh_head_has_no_stand_ins_and_learns_them(head: AdditiveHead) -> None:
    """At first parts do not hang on who else is there; of (2, absent) the gradient is 6 for [absent, present]."""
    head.eval()
    verdict = said(head, (2.0, None))
    assert verdict.logits.item() == 6.5
    verdict.logits.sum().backward()
    assert head.stand_in.grad is not None
    assert head.stand_in.grad.tolist() == [[0.0, 0.0], [6.0, 0.0]]
