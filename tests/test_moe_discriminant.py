"""The closed-form classifier: by hand, beside scikit-learn's, and where there is little or nothing to learn from."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from m4oe.moe import Discriminant


def solved(x: Tensor, label: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    discriminant = Discriminant(x.shape[1], classes)
    discriminant.add(x, label)
    return discriminant.solve()


def test_by_hand() -> None:
    # Width 1: class 0 has -3 and -1, class 1 has 1 and 3: means -2 and 2, variance 1 (which is its own mean variance),
    # two rows each: weight mean / 1, bias log(2 + 1) - mean^2 / 2.
    weight, bias = solved(torch.tensor([[-3.0], [-1], [1], [3]]), torch.tensor([0, 0, 1, 1]), 2)
    assert weight.flatten().tolist() == pytest.approx([-2, 2])
    assert bias.tolist() == pytest.approx([math.log(3) - 2] * 2)


def rows(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """`count` rows of each of three classes, width 4, of one covariance that is no sphere."""
    g = torch.Generator().manual_seed(seed)
    mean = torch.tensor([[2.0, 0, 0, 0], [0, 2, 0, 1], [-1, 0, 1, 0]])
    label = torch.arange(3).repeat(count)
    noise = torch.randn(len(label), 4, generator=g) @ torch.tensor(
        [[1.0, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 0.3, 0], [0, 0, 0, 2]]
    )
    return mean[label] + noise, label


def test_many_rows_give_what_scikit_learn_gives() -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    x, label = rows(5000)
    weight, bias = solved(x, label, 3)
    found = (x.double() @ weight.T + bias).softmax(-1)
    wanted = LinearDiscriminantAnalysis().fit(x.numpy(), label.numpy()).predict_proba(x.numpy())
    assert (found - torch.from_numpy(wanted)).abs().max() < 0.01
    assert (found.argmax(-1) == label).float().mean() > 0.85


def test_parts_add_up() -> None:
    x, label = rows(10)
    whole, parts = Discriminant(4, 3), Discriminant(4, 3)
    whole.add(x, label)
    for start in range(0, 30, 7):
        parts.add(x[start : start + 7], label[start : start + 7])
    for a, b in zip(whole.solve(), parts.solve(), strict=True):
        torch.testing.assert_close(a, b)


def test_half_way_between_two_classes_they_share() -> None:
    x, label = rows(200)
    x, label = x[label < 2], label[label < 2]
    weight, bias = solved(x, label, 2)
    middle = (x[label == 0].mean(0) + x[label == 1].mean(0)) / 2
    assert (weight @ middle.double() + bias).softmax(-1).tolist() == pytest.approx([0.5, 0.5], abs=1e-6)


def test_a_class_that_was_never_seen_is_all_but_closed() -> None:
    x, label = rows(200)
    weight, bias = solved(x, label, 4)
    share = (x.double() @ weight.T + bias).softmax(-1)
    assert share.isfinite().all() and share[:, 3].mean() < 0.02
    assert (share.argmax(-1) == label).float().mean() > 0.85


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_rows_than_columns_still_tell_classes_apart(count: int) -> None:
    torch.manual_seed(0)
    label = torch.arange(3).repeat(count)
    x = 5 * torch.eye(40)[label] + 0.1 * torch.randn(len(label), 40)
    weight, bias = solved(x, label, 3)
    assert ((x.double() @ weight.T + bias).argmax(-1) == label).all()


@pytest.mark.parametrize("certainty", [0.6, 0.97])
def test_where_it_is_too_sure_it_is_made_less_so(certainty: float) -> None:
    # Means 0, 1 and 9 of width 1: at its own mean, that of the pair that is nearest has the share asked for beside
    # two others of its lead.
    x = torch.tensor([0.0, 1, 9])[torch.arange(3).repeat(200)][:, None] + 0.01 * torch.randn(600, 1)
    discriminant = Discriminant(1, 3)
    discriminant.add(x, torch.arange(3).repeat(200))
    sure, told = discriminant.solve(), discriminant.solve(certainty)
    torch.testing.assert_close(told[0] / sure[0], (told[1] / sure[1])[:, None])
    logits = torch.tensor([[0.0], [1], [9]], dtype=torch.float64) @ told[0].T + told[1]
    lead = logits.diagonal()[:, None] - logits + 1e9 * torch.eye(3)
    assert (1 / (1 + 2 * (-lead.min()).exp())).item() == pytest.approx(certainty, abs=0.01)
    assert discriminant.solve(1 - 1e-12)[0].abs().max() <= sure[0].abs().max()


def test_nothing_seen_is_even() -> None:
    weight, bias = Discriminant(4, 3).solve()
    assert (weight == 0).all() and (bias == 0).all()
