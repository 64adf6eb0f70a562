"""Metrics against scikit-learn, hand-worked numbers and naive twins; weights against resampled exams."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy import ndarray
from sklearn import metrics as sk

from m4oe.tasks import KINDS, case_metrics
from m4oe.tasks.classification_metrics import decided
from m4oe.tasks.metrics import auroc, calibration_error
from m4oe.tasks.segmentation_metrics import hd95, nsd, surface_distances
from m4oe.tasks.survival_metrics import censoring_curve, concordance, inverse_censoring_weights
from task_examples import TASKS

SCORED = [kind for kind in KINDS if kind != "segmentation"]


def labels_and_probabilities(kind: str, exams: int = 200, seed: int = 0) -> tuple[ndarray, ndarray]:
    """Random labels, and probabilities of one decimal: many ties."""
    rng, classes = np.random.default_rng(seed), len(TASKS[kind].classes)
    if kind == "survival":
        target = np.stack([rng.integers(1, 8, exams), rng.integers(0, 2, exams)], 1).astype(float)
        return target, np.sort(rng.uniform(size=(exams, classes)).round(1), 1)
    if kind == "multilabel":
        target = rng.integers(0, 2, (exams, classes)).astype(float)
        target[rng.uniform(size=target.shape) < 0.3] = np.nan
        return target, rng.uniform(size=(exams, classes)).round(1)
    target = rng.integers(0, classes, exams)
    share = rng.dirichlet(np.ones(classes), exams) + 0.3 * np.eye(classes)[target]
    first = (share / share.sum(1, keepdims=True))[:, 1:].round(1)
    return target, np.concatenate([1 - first.sum(1, keepdims=True), first], 1)


@pytest.mark.parametrize("kind", SCORED)
def test_weights_are_repeated_exams(kind: str) -> None:
    """A resample scored by weights equals the same exams written out, for all that does not look at quantiles."""
    target, probability = labels_and_probabilities(kind)
    weights = np.random.default_rng(1).integers(0, 3, (2, len(target)))
    training = target if kind == "survival" else None
    values = KINDS[kind].sample(TASKS[kind], target, probability, training)(weights.astype(float))
    for r in range(2):
        rows = np.repeat(np.arange(len(target)), weights[r])
        expected = KINDS[kind].metrics(TASKS[kind], target[rows], probability[rows], training)
        assert {name for name in values if name != "calibration_error"} >= {KINDS[kind].primary_metric}
        for name in values.keys() - {"calibration_error"}:
            assert values[name][r] == pytest.approx(expected[name], abs=1e-12), name


@pytest.mark.parametrize("kind", SCORED)
def test_the_order_of_exams_does_not_matter(kind: str) -> None:
    target, probability = labels_and_probabilities(kind)
    order = np.random.default_rng(2).permutation(len(target))
    there = KINDS[kind].metrics(TASKS[kind], target, probability)
    back = KINDS[kind].metrics(TASKS[kind], target[order], probability[order])
    assert there == pytest.approx(back, abs=1e-12)


@pytest.mark.parametrize("kind", SCORED)
def test_undefined_metrics_are_absent(kind: str) -> None:
    target, probability = labels_and_probabilities(kind, exams=6)
    target = np.where(np.isnan(target), np.nan, 0 * target) if kind != "survival" else np.tile([9.0, 0.0], (6, 1))
    values = KINDS[kind].metrics(TASKS[kind], target, probability)
    assert KINDS[kind].primary_metric not in values
    assert np.isfinite(list(values.values())).all()


def test_binary_metrics_are_those_of_scikit_learn() -> None:
    target, probability = labels_and_probabilities("binary")
    score, decision = probability[:, 1], (probability[:, 1] > 0.5).astype(int)
    assert KINDS["binary"].metrics(TASKS["binary"], target, probability) == pytest.approx(
        {
            "accuracy": sk.accuracy_score(target, decision),
            "balanced_accuracy": sk.balanced_accuracy_score(target, decision),
            "macro_f1": sk.f1_score(target, decision, average="macro"),
            "auroc": sk.roc_auc_score(target, score),
            "auprc": sk.average_precision_score(target, score),
            "sensitivity": sk.recall_score(target, decision),
            "specificity": sk.recall_score(target, decision, pos_label=0),
            "calibration_error": naive_calibration_error(target == 1, score),
        }
    )


def naive_calibration_error(correct: ndarray, confidence: ndarray) -> float:
    edges = [-np.inf, *np.quantile(confidence, np.arange(1, 15) / 15), np.inf]
    inside = [(confidence >= low) & (confidence < high) for low, high in pairwise(edges)]
    return sum(m.mean() * abs(confidence[m].mean() - correct[m].mean()) for m in inside if m.any())


def test_calibration_error_by_hand() -> None:
    """Confidence 0.9 with 1 of 2 right, 0.3 with 1 of 2 right: (0.4 + 0.2) / 2."""
    confidence, correct = np.array([0.9, 0.9, 0.3, 0.3]), np.array([1, 0, 1, 0])
    assert calibration_error(correct, confidence, np.ones((1, 4)))[0] == pytest.approx(0.3)


@pytest.mark.parametrize("kind", ["multiclass", "ordinal"])
def test_class_metrics_are_those_of_scikit_learn(kind: str) -> None:
    target, probability = labels_and_probabilities(kind)
    decision, values = naive_decision(kind, probability), KINDS[kind].metrics(TASKS[kind], target, probability)
    assert values["accuracy"] == pytest.approx(sk.accuracy_score(target, decision))
    assert values["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(target, decision))
    assert values["macro_f1"] == pytest.approx(sk.f1_score(target, decision, average="macro"))
    one_hot = np.eye(3)[target]
    assert values["auprc"] == pytest.approx(sk.average_precision_score(one_hot, probability, average="macro"))
    if kind == "multiclass":
        assert values["auroc"] == pytest.approx(sk.roc_auc_score(one_hot, probability, average="macro"))
    else:
        above = [sk.roc_auc_score(target > k, probability[:, k + 1 :].sum(1).round(9)) for k in range(2)]
        assert values["auroc"] == pytest.approx(np.mean(above))
        kappa = sk.cohen_kappa_score(target, decision, weights="quadratic")
        assert values["quadratic_kappa"] == pytest.approx(kappa)


def naive_decision(kind: str, probability: ndarray) -> list[int]:
    """Multiclass: the most probable class. Ordinal: the one that is the fewest classes off in expectation."""
    if kind == "multiclass":
        return [max(range(3), key=lambda c: row[c]) for row in probability]
    off = [[sum(p * abs(c - y) for y, p in enumerate(row)) for c in range(3)] for row in probability]
    return [min(range(3), key=lambda c: round(row[c], 9)) for row in off]


def test_a_grade_is_called_by_its_median() -> None:
    """Cumulative .40, .60 / .50, .70 / .45, .49 / .20, .50: halves are reached at 1, 0, 2 and 1.

    The most probable classes are 0 or 2 throughout. With truths 1, 0, 2, 2 three of four are right, and the stated
    probabilities of what is called are .2, .5, .51 and .3.
    """
    probability = np.array([[0.4, 0.2, 0.4], [0.5, 0.2, 0.3], [0.45, 0.04, 0.51], [0.2, 0.3, 0.5]])
    assert decided("ordinal", probability).tolist() == [1, 0, 2, 1]
    assert decided("multiclass", probability).tolist() == [0, 0, 2, 2]
    target = np.array([1, 0, 2, 2])
    values = KINDS["ordinal"].metrics(TASKS["ordinal"], target, probability)
    assert values["accuracy"] == pytest.approx(0.75)
    assert values["balanced_accuracy"] == pytest.approx((1 + 1 + 1 / 2) / 3)
    # Squared distances: 1 exam is 1 off. By chance, truths (1, 1, 2) against calls (1, 2, 1) of 4: 20 / 4 are expected.
    assert values["quadratic_kappa"] == pytest.approx(1 - 1 / 5)
    called = KINDS["ordinal"].classes(TASKS["ordinal"], KINDS["ordinal"].sample(TASKS["ordinal"], target, probability))
    assert called[TASKS["ordinal"].classes[1]][1](np.ones((1, 4)))["sensitivity"][0] == 1


def test_a_label_is_scored_on_the_exams_that_have_it() -> None:
    target, probability = labels_and_probabilities("multilabel")
    expected = []
    sample = KINDS["multilabel"].sample(TASKS["multilabel"], target, probability)
    for c, (rows, part) in enumerate(KINDS["multilabel"].classes(TASKS["multilabel"], sample).values()):
        assert (rows == np.flatnonzero(~np.isnan(target[:, c]))).all()
        expected.append(sk.roc_auc_score(target[rows, c], probability[rows, c]))
        assert part(np.ones((1, len(rows))))["auroc"][0] == pytest.approx(expected[-1])
    assert KINDS["multilabel"].metrics(TASKS["multilabel"], target, probability)["auroc"] == pytest.approx(
        np.mean(expected)
    )


def test_one_class_against_the_rest() -> None:
    target, probability = labels_and_probabilities("multiclass")
    sample = KINDS["multiclass"].sample(TASKS["multiclass"], target, probability)
    parts = KINDS["multiclass"].classes(TASKS["multiclass"], sample)
    assert tuple(parts) == TASKS["multiclass"].classes
    value = parts["none"][1](np.ones((1, len(target))))
    assert value["auroc"][0] == pytest.approx(sk.roc_auc_score(target == 2, probability[:, 2]))
    assert value["sensitivity"][0] == pytest.approx(
        sk.recall_score(target, probability.argmax(1), labels=[2], average=None)[0]
    )


def test_harrells_c_by_hand() -> None:
    """Exams (time, event, risk): a (1, 1, .9), b (2, 1, .3), c (2, 0, .3), d (3, 1, .5), e (4, 0, .1), f (1.5, 0, .99).

    Pairs whose earlier time is an event: a with b c d e f: 4 of 5 (f's risk is higher). b with d, e and c, censored
    when b fails: d wrong, e right, c a tie: 1.5 of 3. d with e: right. Together 6.5 of 9.
    """
    time, event = np.array([1, 2, 2, 3, 4, 1.5]), np.array([1, 1, 0, 1, 0, 0]) == 1
    risk = np.array([0.9, 0.3, 0.3, 0.5, 0.1, 0.99])
    assert concordance(time, event, risk, np.ones((1, 6)))[0] == pytest.approx(6.5 / 9)


def test_harrells_c_is_that_of_all_pairs_in_blocks() -> None:
    target, probability = labels_and_probabilities("survival", exams=700)
    time, event, risk = target[:, 0], target[:, 1] == 1, probability[:, -1]
    won = pairs = 0.0
    for i in np.flatnonzero(event):
        later = (time > time[i]) | ((time == time[i]) & ~event)
        won += (risk[later] < risk[i]).sum() + 0.5 * (risk[later] == risk[i]).sum()
        pairs += later.sum()
    assert concordance(time, event, risk, np.ones((1, 700)))[0] == pytest.approx(won / pairs)


def test_censoring_curve_by_hand() -> None:
    """Events at 1, 2 and 4, censored at 2 and 3. At 2 four are left, the event goes first: 1 of 3 is censored: 2/3.

    At 3 two are left, 1 of 2 is censored: 1/3. At 4 there is an event only: still 1/3.
    """
    times, later = censoring_curve(np.array([[1, 1], [2, 1], [2, 0], [3, 0], [4, 1.0]]))
    assert times.tolist() == [1, 2, 3, 4]
    assert later == pytest.approx([1, 2 / 3, 1 / 3, 1 / 3])


def test_censoring_weights_by_hand() -> None:
    """With the curve above and a horizon of 3: known by 3 are events until then and all followed to 3 or longer.

    Weights are 1 / P(not censored before min(T, 3)): 1 at 1 and 2, 1 / (2/3) at 3, 0 for who was censored at 2.
    """
    labels = np.array([[1, 1], [2, 1], [2, 0], [3, 0], [4, 1.0]])
    assert inverse_censoring_weights(labels, (3.0,), labels)[:, 0] == pytest.approx([1, 1, 0, 1.5, 1.5])
    beyond = inverse_censoring_weights(np.array([[9.0, 1.0]]), (8.0,), np.array([[1.0, 0.0], [2.0, 0.0]]))
    assert np.isnan(beyond).all()


def test_survival_scores_by_hand() -> None:
    """At 3 years, weights 1, 1, 0, 1.5, 1.5 as above. Brier: (.1^2 + .2^2 + 1.5 .6^2 + 1.5 .3^2) / 5.

    AUROC: cases .9 and .8 against .6 and .3: 1. With a single horizon the integrated score is the score.
    """
    task = TASKS["survival"].model_copy(update={"horizons": (3.0,), "classes": ("3",)})
    labels = np.array([[1, 1], [2, 1], [2, 0], [3, 0], [4, 1.0]])
    values = KINDS["survival"].metrics(task, labels, np.array([[0.9], [0.8], [0.7], [0.6], [0.3]]), labels)
    assert values["auroc"] == 1
    assert values["integrated_brier"] == pytest.approx((0.01 + 0.04 + 1.5 * 0.36 + 1.5 * 0.09) / 5)


def test_without_censoring_survival_scores_are_those_of_binary_labels() -> None:
    target, probability = labels_and_probabilities("survival")
    target[:, 1] = 1
    sample = KINDS["survival"].sample(TASKS["survival"], target, probability)
    parts = KINDS["survival"].classes(TASKS["survival"], sample)
    assert tuple(parts) == ("1", "2", "5")
    for k, (horizon, (_, part)) in enumerate(parts.items()):
        happened, values = target[:, 0] <= float(horizon), part(np.ones((1, len(target))))
        assert values["auroc"][0] == pytest.approx(sk.roc_auc_score(happened, probability[:, k]))
        assert values["brier"][0] == pytest.approx(sk.brier_score_loss(happened, probability[:, k]))


def test_integrated_brier_is_a_mean_over_time() -> None:
    """Horizons 1, 2, 5: trapezoids (b1 + b2) / 2 x 1 and (b2 + b5) / 2 x 3, over 4 years."""
    target, probability = labels_and_probabilities("survival")
    sample = KINDS["survival"].sample(TASKS["survival"], target, probability)
    once = np.ones((1, len(target)))
    b = [part(once)["brier"][0] for _, part in KINDS["survival"].classes(TASKS["survival"], sample).values()]
    expected = ((b[0] + b[1]) / 2 + 3 * (b[1] + b[2]) / 2) / 4
    assert sample(once)["integrated_brier"][0] == pytest.approx(expected)


def test_auroc_by_hand() -> None:
    """Positives .8 and .5, negatives .5 and .1: 3 wins and a tie of 4 pairs. Without negatives there is none."""
    positive, score = np.array([1, 1, 0, 0]) == 1, np.array([0.8, 0.5, 0.5, 0.1])
    weights = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 3, 1, 0.0]])
    assert auroc(positive, score, weights) == pytest.approx([3.5 / 4, np.nan, 2.5 / 4], nan_ok=True)


def mask(*pixels: tuple[int, int]) -> ndarray:
    values = np.zeros((8, 8), int)
    for index, (row, column) in enumerate(pixels):
        values[row, column] = 1 + index % 2
    return values


def test_cases_of_empty_masks_by_hand() -> None:
    """Class rim is 1, cup 2, region disc both."""
    task, nothing = TASKS["segmentation"], mask()
    rows = {row["class"]: row for row in case_metrics(mask((1, 1)), nothing, task, (1, 1))}
    assert rows["rim"] == {
        "class": "rim",
        "dice": 0,
        "iou": 0,
        "hd95": pytest.approx(np.nan, nan_ok=True),
        "nsd": 0,
        "outcome": "invented",
    }
    assert rows["cup"]["outcome"] == "empty" and np.isnan(rows["cup"]["dice"]) and np.isnan(rows["cup"]["iou"])
    assert rows["disc"]["outcome"] == "invented"
    (rim, cup, disc) = case_metrics(mask((1, 1)), mask((1, 1), (1, 2)), task, (1, 1))
    assert (rim["dice"], rim["iou"], rim["hd95"], rim["outcome"]) == (1, 1, 0, "scored")
    assert (cup["dice"], cup["iou"], cup["outcome"]) == (0, 0, "missed") and np.isnan(cup["hd95"])
    assert (disc["dice"], disc["iou"], disc["hd95"], disc["outcome"]) == (
        pytest.approx(2 / 3),
        0.5,
        pytest.approx(0.95),
        "scored",
    )


def test_segmentation_metrics_by_hand() -> None:
    """Three exams of class rim: dice 1, missed (0), both empty (excluded): mean 1/2, one missed, one empty."""
    task = TASKS["segmentation"].model_copy(update={"classes": ("background", "rim"), "regions": {}})
    truth = np.stack([mask((1, 1)), mask((1, 1)), mask()])
    said = np.stack([mask((1, 1)), mask(), mask()])
    probability = np.moveaxis(np.eye(2)[said], -1, 1)
    values = KINDS["segmentation"].metrics(task, truth, probability)
    assert values == {"dice": 0.5, "iou": 0.5, "missed": 1, "invented": 0, "empty": 1}


def test_pixels_outside_the_picture_are_not_scored() -> None:
    truth = mask((1, 1))
    truth[0] = -100
    said = mask((1, 1))
    said[0] = 1
    assert case_metrics(said, truth, TASKS["segmentation"], None)[0]["dice"] == 1


def test_hd95_is_in_millimetres() -> None:
    """Two single pixels three rows apart, rows 2 mm, columns 0.5 mm: 6 mm; three columns apart: 1.5 mm."""
    a = mask((1, 1)) > 0
    for pixel, distance in (((4, 1), 6), ((1, 4), 1.5), ((4, 5), (36 + 4) ** 0.5)):
        assert hd95(*surface_distances(a, mask(pixel) > 0, (2, 0.5))) == pytest.approx(distance)


def test_hd95_is_that_of_all_pairs_of_surface_pixels() -> None:
    rng, spacing = np.random.default_rng(0), np.array([3.0, 0.7, 1.3])
    a, b = (np.kron(rng.uniform(size=(4, 5, 4)) < p, np.ones((2, 3, 2))) > 0 for p in (0.3, 0.4))
    distance = np.linalg.norm((surface(a)[:, None] - surface(b)[None]) * spacing, axis=-1)
    expected = max(np.percentile(distance.min(1), 95), np.percentile(distance.min(0), 95))
    found = surface_distances(a, b, tuple(spacing))
    assert hd95(*found) == pytest.approx(expected)
    near = np.concatenate([distance.min(1), distance.min(0)]) <= 1.5
    assert 0 < near.mean() < 1 and nsd(*found, tolerance=1.5) == pytest.approx(near.mean())


def test_nsd_by_hand() -> None:
    """A bar of four pixels of 1 mm against one of five that starts two pixels further, a and b the pixels of each:

    . a a a a . . .     a: 2, 1, 0, 0 mm to the nearest b, 3 of 4 within 1 mm
    . . . b b b b b     b: 0, 0, 1, 2, 3 mm to the nearest a, 3 of 5 within 1 mm
    """
    a, b = np.zeros((3, 8), bool), np.zeros((3, 8), bool)
    a[1, 1:5], b[1, 3:8] = True, True
    assert nsd(*surface_distances(a, b, (1, 1))) == pytest.approx(6 / 9)
    assert nsd(*surface_distances(a, b, (1, 3))) == pytest.approx(4 / 9)
    assert nsd(*surface_distances(a, b, (1, 1)), tolerance=2) == pytest.approx(8 / 9)
    # Of masks that touch, what is looked at is a surface, not all pixels: a square of 5 x 5 has 16 of them.
    square = np.pad(np.ones((5, 5), bool), 2)
    assert [len(found) for found in surface_distances(square, square, (1, 1))] == [16, 16]


def test_a_header_s_rounding_does_not_move_a_surface_out_of_tolerance() -> None:
    """Pixels of 1 mm, as a turned volume's header tells them: every surface pixel is one pixel away."""
    a, b = np.zeros((2, 3, 9), bool)
    a[1, 2:7], b[2, 2:7] = True, True
    for mm in (1 - 1e-7, 1, 1 + 1e-7):
        assert nsd(*surface_distances(a, b, (mm, mm))) == 1
    assert nsd(*surface_distances(a, b, (1.01, 1.01))) == 0


def naive_case(prediction: ndarray, truth: ndarray, members: tuple[int, ...], spacing: ndarray) -> tuple[float, ...]:
    """Dice, IoU, HD95 and NSD over all pixels and all pairs of surface pixels."""
    counted = truth != -100
    a, b = np.isin(prediction, members) & counted, np.isin(truth, members)
    distance = np.linalg.norm((surface(a)[:, None] - surface(b)[None]) * spacing, axis=-1)
    to, back = distance.min(1), distance.min(0)
    shared, total = (a & b).sum(), a.sum() + b.sum()
    far = max(np.percentile(to, 95), np.percentile(back, 95))
    near = ((to <= 1).sum() + (back <= 1).sum()) / (len(to) + len(back))
    return 2 * shared / total, shared / (total - shared), far, near


def test_cases_are_those_of_a_naive_twin() -> None:
    """Random blobs of three classes in a volume, with a slab that does not count; boxes of classes overlap."""
    rng, task, spacing = np.random.default_rng(4), TASKS["segmentation"], np.array([3.0, 0.7, 1.3])
    truth, said = (np.kron(rng.integers(0, 3, (3, 4, 3)), np.ones((2, 3, 3), int)) for _ in range(2))
    truth[:, :2] = -100
    for row, members in zip(case_metrics(said, truth, task, spacing), ((1,), (2,), (1, 2)), strict=True):
        found = (row["dice"], row["iou"], row["hd95"], row["nsd"])
        assert found == pytest.approx(naive_case(said, truth, members, spacing)) and row["outcome"] == "scored"
    without = case_metrics(said, truth, task, None)
    assert all(np.isnan(row["hd95"]) and np.isnan(row["nsd"]) and row["dice"] > 0 for row in without)


def test_structures_are_scored_within_their_box_alone() -> None:
    """A large volume with two small organs takes less than a second of processor time."""
    from time import process_time

    truth = np.zeros((120, 256, 256), np.int64)
    truth[50:60, 100:120, 90:115] = 1
    said = np.roll(truth, 2, 1).astype(np.uint8)
    said[5:8, 5:8, 5:8] = 2
    start = process_time()
    rows = case_metrics(said, truth, TASKS["segmentation"], (2.0, 1.0, 1.0))
    assert process_time() - start < 2
    assert [row["outcome"] for row in rows] == ["scored", "invented", "scored"]
    # 20 rows moved by 2: 18 of 20 shared, and 27 pixels more in the region.
    assert rows[0]["dice"] == pytest.approx(0.9) and rows[2]["dice"] == pytest.approx(2 * 4500 / (5000 + 5027))


def surface(values: ndarray) -> ndarray:
    """(n, 3) pixels of the mask that have a face outside it, the border of the grid included."""
    padded = np.pad(values, 1)
    inner = [np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1] for axis in range(3) for step in (1, -1)]
    return np.argwhere(values & ~np.logical_and.reduce(inner))


def test_metrics_take_what_loss_and_probabilities_have() -> None:
    logits = torch.tensor([[2.0, 0.0], [1.0, -1.0], [3.0, 2.0], [-1.0, -2.0]])
    probability = KINDS["ordinal"].probabilities(TASKS["ordinal"], logits).numpy()
    assert KINDS["ordinal"].metrics(TASKS["ordinal"], np.array([1, 1, 2, 0]), probability)["auroc"] == 1
