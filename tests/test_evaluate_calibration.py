"""Calibration: numbers by hand, draws that are calibrated by design, and temperatures that were put in."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit, softmax

from m4oe.evaluate.calibration import (
    Statements,
    debiased_error,
    debiased_square,
    error_of_the_calibrated,
    expected_error,
    fit_temperature,
    log_loss,
    probabilities,
    reliability,
    scaled,
    statements,
    wilson,
)
from m4oe.evaluate.exams import Exams
from m4oe.tasks import KINDS
from m4oe.tasks.classification_metrics import decided
from task_examples import TASKS

KNOWN = [kind for kind in TASKS if kind != "segmentation"]


def exams_of(kind: str, target: np.ndarray, probability: np.ndarray) -> Exams:
    names = [f"e{n}" for n in range(len(target))]
    about = pd.DataFrame({"study": "s", "exam": names, "patient": names, "split": "test", "fold": "0", "inputs": "a"})
    return Exams(TASKS[kind], about, KINDS[kind].sample(TASKS[kind], target, probability))


def true_to_its_word(kind: str, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(target, probability) of a model that is calibrated: labels are drawn from what it states."""
    rng = np.random.default_rng(seed)
    if kind == "binary":
        p = expit(rng.normal(-1, 1.5, size))
        return (rng.random(size) < p).astype(float), np.stack([1 - p, p], 1)
    if kind == "multilabel":
        p = expit(rng.normal(-0.5, 1.5, (size, 3)))
        drawn = (rng.random((size, 3)) < p).astype(float)
        return np.where(rng.random((size, 3)) < 0.2, np.nan, drawn), p
    if kind == "survival":
        p = np.sort(expit(rng.normal(-1, 1.5, (size, 1)) + np.array([0.0, 0.8, 1.6])), 1)
        place = (rng.random((size, 1)) > p).sum(1)  # the first horizon by which it happened, 3: by none
        return np.stack([np.array([0.5, 1.5, 4.0, 9.0])[place], place < 3], 1).astype(float), p
    p = softmax(rng.normal(0, 1.5, (size, 3)), 1)
    return (rng.random((size, 1)) > p.cumsum(1)).sum(1).astype(float), p


def overconfident(kind: str, probability: np.ndarray, temperature: float) -> np.ndarray:
    """What a model would state whose logits are `temperature` times too large."""
    if kind == "multiclass":
        return softmax(np.log(probability) * temperature, 1)
    if kind == "ordinal":
        above = expit(temperature * logit(probability[:, ::-1].cumsum(1)[:, ::-1][:, 1:]))
        return -np.diff(np.concatenate([np.ones((len(above), 1)), above, np.zeros((len(above), 1))], 1))
    if kind == "binary":
        p = expit(temperature * logit(probability[:, 1]))
        return np.stack([1 - p, p], 1)
    return expit(temperature * logit(probability))


@pytest.mark.parametrize("kind", KNOWN)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_was_put_in_comes_out(kind, temperature):
    """And undoing it gives back what was stated before, and the loss of a calibrated model. 4000 exams: 6 %."""
    target, probability = true_to_its_word(kind, 4000)
    exams = exams_of(kind, target, overconfident(kind, probability, temperature))
    found = fit_temperature(exams)
    assert found == pytest.approx(temperature, rel=0.06)
    np.testing.assert_allclose(probabilities(scaled(exams, temperature)), probability, atol=2e-3)
    after, before = (np.nanmean(log_loss(e)) for e in (scaled(exams, found), exams))
    assert after <= before + 1e-9


@pytest.mark.parametrize("kind", KNOWN)
def test_a_temperature_changes_no_decision_and_no_ranking(kind):
    target, probability = true_to_its_word(kind, 300)
    before = exams_of(kind, target, probability)
    after, whole = scaled(before, 1.7), np.ones((1, 300))
    for metric in {"auroc", "accuracy", "c_index"} & set(before.sample(whole)):
        if kind != "multiclass" or metric == "accuracy":  # one class against the rest may be ranked anew
            np.testing.assert_allclose(after.sample(whole)[metric], before.sample(whole)[metric], atol=1e-12)
    if kind in ("multiclass", "ordinal"):
        np.testing.assert_array_equal(decided(kind, probabilities(after)), decided(kind, probability))
    assert np.isclose(probabilities(after).sum(1), 1).all() or kind in ("multilabel", "survival")


def test_log_loss_by_hand():
    binary = exams_of("binary", np.array([1.0, 0.0]), np.array([[0.75, 0.25], [0.9, 0.1]]))
    np.testing.assert_allclose(log_loss(binary), [-np.log(0.25), -np.log(0.9)])
    labels = exams_of("multilabel", np.array([[1.0, 0.0, np.nan]]), np.array([[0.5, 0.2, 0.9]]))
    np.testing.assert_allclose(log_loss(labels), [-(np.log(0.5) + np.log(0.8)) / 2])
    # Censored at 1.5 years: known at horizon 1 alone, where it had not happened. Nobody was censored before.
    survival = exams_of("survival", np.array([[1.5, 0.0], [1.6, 1.0]]), np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]]))
    np.testing.assert_allclose(log_loss(survival)[0], -np.log(0.9))


def test_calibration_error_by_hand():
    """Ten statements of 0.2 of which four come true, ten of 0.8 of which eight: gaps 0.2 and 0, 0.1 on average. The
    variance taken off: (0.2^2 - 0.24 / 9 + 0 - 0.16 / 9) / 2 < 0."""
    stated, happened = np.repeat([0.2, 0.8], 10), np.array([1.0] * 4 + [0.0] * 6 + [1.0] * 8 + [0.0] * 2)
    said = {"": Statements(stated, happened, np.ones(20), np.arange(20))}
    np.testing.assert_allclose(expected_error(said, np.ones((1, 20))), [0.1])
    half = np.concatenate([np.ones(10), np.zeros(10)])[None]
    np.testing.assert_allclose(expected_error(said, half), [0.2])


def test_the_debiased_error_of_the_calibrated_is_nothing_on_average_where_the_plain_one_is_not():
    """200 exams, 60 draws. And of a model that is off by 0.2 throughout it is 0.2."""
    plain, squares, off = [], [], []
    for seed in range(60):
        target, probability = true_to_its_word("binary", 200, seed)
        said = statements(exams_of("binary", target, probability))
        plain.append(expected_error(said, np.ones((1, 200)))[0])
        squares.append(debiased_square(said[""]))
        rng = np.random.default_rng(seed)
        p = rng.uniform(0.3, 0.7, 200)
        off.append(debiased_error({"": Statements(p, (rng.random(200) < p + 0.2) * 1.0, np.ones(200), np.arange(200))}))
    assert np.mean(plain) > 0.05 and abs(np.mean(squares)) < 0.001
    assert np.mean(off) == pytest.approx(0.2, abs=0.02)


def test_what_the_calibrated_err_by_is_told():
    """A calibrated model of 200 exams exceeds the 95 % quantile in about one of twenty draws; of 40, 0 to 6."""
    beyond, gaps = 0, []
    for seed in range(40):
        said = statements(exams_of("binary", *true_to_its_word("binary", 200, seed)))
        mean, high = error_of_the_calibrated(said, draws=40, seed=seed)
        error = expected_error(said, np.ones((1, 200)))[0]
        beyond, gaps = beyond + (error > high), [*gaps, error - mean]
    assert beyond <= 6 and abs(np.mean(gaps)) < 0.01
    target, probability = true_to_its_word("binary", 200)
    sure = exams_of("binary", target, overconfident("binary", probability, 4.0))
    assert expected_error(statements(sure), np.ones((1, 200)))[0] > error_of_the_calibrated(statements(sure))[1]


@pytest.mark.parametrize("kind", KNOWN)
def test_statements_of_every_kind(kind):
    target, probability = true_to_its_word(kind, 400)
    said = statements(exams_of(kind, target, probability))
    assert set(said) == (set(TASKS[kind].classes) if kind in ("multilabel", "survival") else {""})
    for one in said.values():
        assert len(one.stated) == len(one.happened) == len(one.weight) == len(one.exam) > 0
        if kind != "ordinal":
            assert abs(np.mean(one.stated - one.happened)) < 0.08
    missing = np.isnan(target).sum() if kind == "multilabel" else 0
    assert missing == 0 or sum(len(one.stated) for one in said.values()) == 1200 - missing


def test_a_label_that_nobody_has_states_nothing():
    target, probability = true_to_its_word("multilabel", 50)
    target[:, 1] = np.nan
    assert set(statements(exams_of("multilabel", target, probability))) == {"diabetes", "cataract"}


def test_wilson_and_reliability():
    assert wilson(np.array([1.0, 0.0] * 5)) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    weighted = wilson(np.array([1.0, 0.0] * 5), np.full(10, 3.0))
    assert weighted == pytest.approx((0.2366, 0.7634), abs=1e-4)  # equal weights are none
    bins = reliability(np.linspace(0, 1, 150), np.repeat([0.0, 1.0], 75))
    assert len(bins) == 10 and bins["n"].tolist() == [15] * 10
    assert bins["observed"].tolist() == [0.0] * 5 + [1.0] * 5 and (bins["low"] <= bins["observed"]).all()
    assert len(reliability(np.linspace(0, 1, 20), np.ones(20))) == 2  # as many as have 15 cases, and two at least
