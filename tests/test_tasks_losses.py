"""Losses, probabilities and priors of the six kinds, against hand-worked numbers and naive twins."""

from __future__ import annotations

from math import log

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import twins
from m4oe.study import TaskKind
from m4oe.tasks import KINDS
from m4oe.tasks.intervals import log_interval
from task_examples import TARGETS, TASKS


def logits_for(kind: str, scale: float = 1.0) -> Tensor:
    """(3, C, ...) logits as a head gives them: decreasing for ordinal, increasing for survival."""
    size = TARGETS[kind].shape[1:] if kind == "segmentation" else ()
    raw = scale * torch.randn(
        3, KINDS[kind].num_outputs(TASKS[kind]), *size, generator=torch.Generator().manual_seed(0)
    )
    return raw.sort(1, descending=kind == "ordinal")[0] if kind in ("ordinal", "survival") else raw


def test_every_kind_has_a_row_and_an_example() -> None:
    assert set(KINDS) == set(TaskKind.__args__) == set(TASKS) == set(TARGETS)
    assert len(KINDS) == 6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("scale", [1.0, 80.0])
def test_loss_is_one_finite_number_an_exam_with_finite_gradients(kind: str, gamma: float, scale: float) -> None:
    logits = logits_for(kind, scale).requires_grad_()
    loss = KINDS[kind].loss(TASKS[kind], logits, TARGETS[kind], gamma)
    loss.sum().backward()
    assert loss.shape == (3,) and loss.dtype == torch.float32
    assert loss.isfinite().all() and (loss >= 0).all()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sign", [80.0, -80.0])
def test_all_logits_equal_and_extreme_leave_loss_and_gradient_finite(kind: str, sign: float) -> None:
    logits = torch.full_like(logits_for(kind), sign).requires_grad_()
    loss = KINDS[kind].loss(TASKS[kind], logits, TARGETS[kind])
    loss.sum().backward()
    assert loss.isfinite().all() and logits.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_loss_of_half_precision_logits_is_float32(kind: str) -> None:
    loss = KINDS[kind].loss(TASKS[kind], logits_for(kind).bfloat16(), TARGETS[kind])
    assert loss.dtype == torch.float32 and loss.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_and_scores_have_their_names(kind: str) -> None:
    task, row = TASKS[kind], KINDS[kind]
    probabilities = row.probabilities(task, logits_for(kind))
    assert probabilities.shape[:2] == (3, len(task.classes))
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    if kind not in ("multilabel", "survival"):
        torch.testing.assert_close(probabilities.sum(1), torch.ones_like(probabilities[:, 0]))
    assert row.scores(task, logits_for(kind)).shape == (3, len(row.score_names(task)))
    assert row.prior_scores(task).shape == (len(row.score_names(task)),)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "segmentation"])
def test_prior_logits_give_the_prior(kind: str) -> None:
    task, row = TASKS[kind], KINDS[kind]
    probabilities = row.probabilities(task, row.prior_logits(task)[None])[0]
    expected = (0.8, 0.2) if kind == "binary" else task.prior
    torch.testing.assert_close(probabilities, torch.tensor(expected))


def test_prior_scores_by_hand() -> None:
    assert KINDS["ordinal"].prior_scores(TASKS["ordinal"]).tolist() == pytest.approx([log(0.5 / 0.5)])
    assert KINDS["survival"].prior_scores(TASKS["survival"]).tolist() == pytest.approx([log(0.4 / 0.6)])
    assert KINDS["segmentation"].prior_scores(TASKS["segmentation"]).tolist() == pytest.approx([log(0.1 / 0.9)])
    never = TASKS["binary"].model_copy(update={"prior": (0.0,)})
    assert KINDS["binary"].prior_logits(never).tolist() == pytest.approx([log(1e-6)], rel=1e-4)


def test_score_names_by_hand() -> None:
    names = {kind: KINDS[kind].score_names(task) for kind, task in TASKS.items()}
    assert names["binary"] == ("malignant",) and names["ordinal"] == ("C",) and names["survival"] == ("5",)
    assert names["segmentation"] == ("foreground",) and names["multilabel"] == TASKS["multilabel"].classes


def test_cross_entropy_is_the_focal_loss_without_focus() -> None:
    task = TASKS["multiclass"].model_copy(update={"weights": (0.5, 1.0, 1.5)})
    logits = logits_for("multiclass")
    expected = F.cross_entropy(logits, TARGETS["multiclass"], weight=torch.tensor(task.weights), reduction="none")
    torch.testing.assert_close(KINDS["multiclass"].loss(task, logits, TARGETS["multiclass"]), expected)


def test_focal_losses_by_hand() -> None:
    """At p = 0.8 of the true class and gamma 2: 0.2^2 x -log 0.8. Weight 0.4 of the negatives, 1.6 of the positives."""
    task = TASKS["binary"].model_copy(update={"weights": (0.4, 1.6)})
    logits = torch.tensor([[-log(4)], [log(4)], [-log(4)]])
    expected = torch.tensor([0.4 * 0.04 * -log(0.8), 1.6 * 0.04 * -log(0.8), 1.6 * 0.64 * -log(0.2)])
    torch.testing.assert_close(KINDS["binary"].loss(task, logits, TARGETS["binary"], 2.0), expected)
    three = torch.tensor([[0.8, 0.1, 0.1]]).log() + 7
    loss = KINDS["multiclass"].loss(TASKS["multiclass"], three, torch.tensor([0]), 2.0)
    torch.testing.assert_close(loss, torch.tensor([0.04 * -log(0.8)]))


def test_a_missing_label_is_no_part_of_the_mean() -> None:
    """Present labels of exam 0 are 0 and 1, at probability 0.5: (log 2 + log 2) / 2; its gradient at the third is 0."""
    logits = torch.zeros(3, 3, requires_grad=True)
    loss = KINDS["multilabel"].loss(TASKS["multilabel"], logits, TARGETS["multilabel"])
    torch.testing.assert_close(loss, torch.full((3,), log(2)))
    loss.sum().backward()
    assert logits.grad[0, 2] == 0 and (logits.grad[2, :2] == 0).all()
    torch.testing.assert_close(logits.grad[0, :2], torch.tensor([0.25, -0.25]))


def test_interval_by_hand_and_its_tangent() -> None:
    """sigmoid(log 3) - sigmoid(0) = 3/4 - 1/2. A closed or crossed interval has a finite pull that opens it."""
    torch.testing.assert_close(log_interval(torch.tensor(log(3)), torch.tensor(0.0)), torch.tensor(log(0.25)))
    for width in (0.0, -1.0):
        upper = torch.tensor(width, requires_grad=True)
        value = log_interval(upper, torch.tensor(0.0))
        value.backward()
        assert value.isfinite() and 900 < upper.grad < 1100
    edge = torch.tensor([1e-3 - 1e-6, 1e-3 + 1e-6])
    values = log_interval(edge, torch.zeros(2))
    assert abs(values[1] - values[0]) < 4e-3


@pytest.mark.parametrize("c", [0, 1, 2])
def test_ordinal_likelihood_is_that_of_differences(c: int) -> None:
    logits = logits_for("ordinal")
    target = torch.full((3,), c)
    naive = [[1 - a, a - b, b][c] for a, b in logits.double().sigmoid().tolist()]
    loss = KINDS["ordinal"].loss(TASKS["ordinal"], logits, target)
    torch.testing.assert_close(loss, -torch.tensor(naive).log())
    torch.testing.assert_close(KINDS["ordinal"].probabilities(TASKS["ordinal"], logits)[:, c], torch.tensor(naive))


def naive_survival_likelihood(risk: list[float], horizons: tuple[float, ...], time: float, event: bool) -> float:
    """By explicit products of interval hazards: survive every interval passed, then fail in one or be let go."""
    survived, before, likelihood = 1.0, 0.0, 1.0
    for horizon, cumulative in zip(horizons, risk, strict=True):
        hazard = (cumulative - before) / survived
        if time <= horizon and event:
            return likelihood * hazard
        if time < horizon:
            return likelihood
        likelihood *= 1 - hazard
        survived, before = 1 - cumulative, cumulative
    return likelihood


@pytest.mark.parametrize("event", [0.0, 1.0])
@pytest.mark.parametrize("time", [0.3, 1.0, 1.5, 2.0, 3.0, 5.0, 9.0])
def test_survival_likelihood_is_the_product_of_hazards(time: float, event: float) -> None:
    task = TASKS["survival"]
    logits = torch.tensor([[-2.0, -1.0, 0.5]])
    naive = naive_survival_likelihood(logits.double().sigmoid()[0].tolist(), task.horizons, time, event == 1)
    loss = KINDS["survival"].loss(task, logits, torch.tensor([[time, event]]))
    torch.testing.assert_close(loss, torch.tensor([-log(naive)]), atol=1e-6, rtol=1e-6)


def test_survival_by_hand() -> None:
    """Risks 0.25, 0.5, 0.8 at 1, 2, 5 years: event at 2 years 0.25, at 6 years 0.2, censored at 2 years 0.5."""
    logits = torch.tensor([0.25, 0.5, 0.8]).logit().expand(3, 3)
    loss = KINDS["survival"].loss(TASKS["survival"], logits, torch.tensor([[2.0, 1.0], [6.0, 1.0], [2.0, 0.0]]))
    torch.testing.assert_close(loss, -torch.tensor([0.25, 0.2, 0.5]).log())


def test_censored_before_the_first_horizon_says_nothing() -> None:
    logits = torch.tensor([[-80.0, 0.0, 80.0]], requires_grad=True)
    loss = KINDS["survival"].loss(TASKS["survival"], logits, torch.tensor([[0.99, 0.0]]))
    loss.sum().backward()
    assert loss.item() == 0 and (logits.grad == 0).all()


def test_survival_weight_is_that_of_an_event_within_the_horizons() -> None:
    target = torch.tensor([[1.0, 1.0], [9.0, 1.0], [3.0, 0.0]])
    logits = logits_for("survival")
    weighted = TASKS["survival"].model_copy(update={"weights": (0.5, 1.5)})
    ratio = KINDS["survival"].loss(weighted, logits, target) / KINDS["survival"].loss(TASKS["survival"], logits, target)
    torch.testing.assert_close(ratio, torch.tensor([1.5, 0.5, 0.5]))


def test_segmentation_loss_by_hand() -> None:
    """Two pixels of four counted, truth 0 and 1, uniform over 3 classes: cross-entropy log 3.

    Dice: rim has sum p t = 1/3, sum p + sum t = 2/3 + 1: 1 - (2/3 + 1)/(5/3 + 1) = 3/8; cup 1 - 1/(2/3 + 1) = 2/5.
    """
    target = torch.tensor([[[0, 1], [-100, -100]]])
    loss = KINDS["segmentation"].loss(TASKS["segmentation"], torch.zeros(1, 3, 2, 2), target)
    torch.testing.assert_close(loss, torch.tensor([log(3) + (3 / 8 + 2 / 5) / 2]))


def test_segmentation_loss_is_that_of_the_libraries_parts() -> None:
    """With class weights, and one exam without a single pixel; gradients too."""
    task = TASKS["segmentation"].model_copy(update={"weights": (0.5, 1.0, 3.0)})
    target, direction = TARGETS["segmentation"], torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    assert (target[2] == -100).all()
    found = []
    for loss_of in (KINDS["segmentation"].loss, twins.segmentation_loss):
        logits = 4 * logits_for("segmentation").double().requires_grad_()
        loss = loss_of(task, logits, target)
        found.append((loss, *torch.autograd.grad((loss * direction).sum(), logits)))
    (loss, gradient), (naive_loss, naive_gradient) = found
    torch.testing.assert_close(loss, naive_loss, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, naive_gradient, rtol=0, atol=1e-12)


def test_autocast_does_not_lower_the_segmentation_loss() -> None:
    losses = []
    for lower in (False, True):
        logits = logits_for("segmentation").requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            loss = KINDS["segmentation"].loss(TASKS["segmentation"], logits, TARGETS["segmentation"])
            losses.append((loss, *torch.autograd.grad(loss.sum(), logits)))
    for plain, under in zip(*losses, strict=True):
        assert torch.equal(plain, under)


def test_segmentation_loss_of_a_class_that_is_ruled_out_is_finite() -> None:
    logits = torch.tensor([[[1e4], [-1e4], [0.0]]], requires_grad=True)
    loss = KINDS["segmentation"].loss(TASKS["segmentation"], logits, torch.tensor([[1]]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(2e4, rel=1e-3) and torch.isfinite(logits.grad).all()


def test_pixels_outside_the_picture_change_nothing() -> None:
    logits = logits_for("segmentation").requires_grad_()
    loss = KINDS["segmentation"].loss(TASKS["segmentation"], logits, TARGETS["segmentation"])
    loss.sum().backward()
    outside = (TARGETS["segmentation"] == -100)[:, None].expand_as(logits)
    assert (logits.grad[outside] == 0).all() and (logits.grad[~outside] != 0).any()
    assert loss[2] == 0


def test_foreground_score_by_hand() -> None:
    """Foreground logits log 1 and log 2 against background 0: log 3 at one pixel; log 3 - 1 at the other."""
    logits = torch.tensor([[[[0.0, 1.0]], [[0.0, 0.0]], [[log(2), log(2)]]]])
    score = KINDS["segmentation"].scores(TASKS["segmentation"], logits)
    torch.testing.assert_close(score, torch.tensor([[log(3) - 0.5]]))


def test_volumes_are_segmented_like_images() -> None:
    target = torch.zeros(2, 2, 3, 4, dtype=torch.long)
    logits = torch.randn(2, 3, 2, 3, 4)
    assert KINDS["segmentation"].loss(TASKS["segmentation"], logits, target).shape == (2,)
    assert KINDS["segmentation"].scores(TASKS["segmentation"], logits).shape == (2, 1)


def test_chance_of_dice_is_marking_everything() -> None:
    expected = (2 * 0.06 / 1.06 + 2 * 0.04 / 1.04) / 2
    assert KINDS["segmentation"].chance(TASKS["segmentation"]) == pytest.approx(expected)
