"""Statistics of a comparison, against closed forms, naive twins, SciPy and hand-worked cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from m4oe.evaluate.delong import delong, delong_test
from m4oe.evaluate.exams import read_exams
from m4oe.evaluate.significance import Drawn, difference, drawn, holm, mean_over_seeds
from m4oe.schema import Schema
from task_examples import TASKS
from test_evaluate import binary


def twin_delong(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of a positive and a negative looked at, as the paper of 1988 writes it."""
    first, second = scores[:, positive], scores[:, ~positive]
    wins = (first[:, :, None] > second[:, None, :]) + 0.5 * (first[:, :, None] == second[:, None, :])
    above, below = wins.mean(2), wins.mean(1)
    areas = wins.mean((1, 2))
    gaps = above - areas[:, None], below - areas[:, None]
    return areas, sum(gap @ gap.T / (gap.shape[1] - 1) / gap.shape[1] for gap in gaps)


@given(st.integers(0, 10_000))
def test_delong_is_its_naive_twin_and_areas_are_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    positive = rng.permutation(np.arange(25) < rng.integers(2, 23))
    scores = rng.integers(0, 8, (3, 25)) / 8  # with ties
    areas, covariance = delong(positive, scores)
    twin_areas, twin_covariance = twin_delong(positive, scores)
    np.testing.assert_allclose(areas, twin_areas, atol=1e-12)
    np.testing.assert_allclose(covariance, twin_covariance, atol=1e-12)
    np.testing.assert_allclose(areas, [roc_auc_score(positive, score) for score in scores], atol=1e-12)


def test_delong_by_hand():
    """Positives score 3 and 1, negatives 2 and 0. Of the positives, 3 beats both and 1 beats one: 1 and 1/2, mean 3/4,
    variance 1/8. Of the negatives, 2 is beaten by one and 0 by both: 1/2 and 1, variance 1/8. (1/8) / 2 twice: 1/8."""
    areas, covariance = delong(np.array([True, True, False, False]), np.array([[3.0, 1.0, 2.0, 0.0]]))
    assert areas[0] == 0.75 and covariance[0, 0] == pytest.approx(1 / 8)


def test_delong_calls_a_model_equal_to_itself_and_says_nothing_of_one_positive():
    rng = np.random.default_rng(0)
    positive, scores = np.arange(40) < 15, rng.random((2, 40))
    assert delong_test(positive, scores, scores[::-1]) == 1.0
    assert delong_test(np.arange(40) < 1, scores[:1], scores[1:]) is None


def test_delong_is_level_and_has_power():
    """Of 400 pairs that differ by chance alone, about 5 % are called different; a better score is nearly always."""
    rng = np.random.default_rng(1)
    positive = np.arange(120) < 60
    truth, noise = positive * 1.0, rng.normal(size=(400, 3, 120))
    null = np.mean([delong_test(positive, truth + n[:1], truth + n[1:2]) < 0.05 for n in noise])
    power = np.mean([delong_test(positive, 2.5 * truth + n[:1], truth + n[1:2]) < 0.05 for n in noise])
    assert 0.02 <= null <= 0.08 and power > 0.95


def test_holm_by_hand():
    """0.01 x 4 = 0.04; 0.02 x 3 = 0.06; 0.03 x 2 = 0.06; 0.04 x 1, raised to those before it."""
    np.testing.assert_allclose(holm([0.03, 0.01, 0.04, 0.02]), [0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]).tolist() == [1.0, 1.0] and holm([]).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_no_correction_and_bonferroni_and_keeps_order(p):
    adjusted, p = holm(p), np.array(p)
    assert (adjusted >= p - 1e-12).all() and (adjusted <= np.minimum(1, len(p) * p) + 1e-12).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()


def trained(values, draws=None, patients=10_000) -> Drawn:
    """Trainings of these values; without draws, patients bring no chance."""
    values = np.array(values, float)
    return Drawn(values, np.repeat(values[:, None], 50, 1) if draws is None else np.asarray(draws, float), patients)


def test_trainings_alone_make_students_interval():
    """Three values have two degrees of freedom: SciPy's interval of their mean, and Welch's test of two means."""
    one, two = [0.90, 0.96, 0.95], [0.87, 0.88, 0.86, 0.87]
    low, high = mean_over_seeds(trained(one)).interval()
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 2, np.mean(one), stats.sem(one)))
    welch = stats.ttest_ind(one, two, equal_var=False)
    found = difference(trained(one), trained(two))
    assert found.p_value() == pytest.approx(welch.pvalue)
    assert found.interval() == pytest.approx(tuple(welch.confidence_interval()))


def test_patients_alone_make_the_bootstraps_normal_interval():
    """One training of 10,000 patients: 1.96 standard deviations of its draws each way."""
    draws = np.random.default_rng(0).normal(0.8, 0.02, (1, 5000))
    low, high = mean_over_seeds(trained([0.8], draws)).interval()
    assert (low, high) == pytest.approx((0.8 - 1.96 * draws.std(), 0.8 + 1.96 * draws.std()), abs=1e-4)


def test_patients_and_trainings_add_up():
    """Patients: variance .0004, 99 degrees of freedom; trainings .9, .8, .7: .01 / 3, two. By Welch and Satterthwaite
    (.0004 + .01 / 3)^2 / (.0004^2 / 99 + (.01 / 3)^2 / 2) = 2.508."""
    patients = np.where(np.arange(50) % 2, 0.02, -0.02)
    found = mean_over_seeds(trained([0.9, 0.8, 0.7], np.array([[0.9], [0.8], [0.7]]) + patients, 100))
    assert found.variance == pytest.approx(0.0004 + 0.01 / 3)
    assert found.freedom == pytest.approx(2.508, abs=0.001)


def test_what_two_models_share_of_patients_is_no_difference():
    draws = np.random.default_rng(0).normal(0.8, 0.05, (2, 500))
    found = difference(trained([0.8, 0.8], draws, 100), trained([0.7, 0.7], draws - 0.1, 100))
    assert found.value == pytest.approx(0.1) and found.variance == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("of_patients, of_trainings", [(1.0, 0.0), (1.0, 1.0), (0.3, 1.0), (0.0, 1.0)])
def test_of_equal_models_one_in_twenty_is_told_apart_and_one_in_a_thousand_of_a_thousand(of_patients, of_trainings):
    """Three trainings of each of two equal models, 2000 times, whatever chance is of. A bootstrap of three seeds calls
    far more different where chance is of training, and most of all at p < .001, where Holm has to look."""
    rng, p = np.random.default_rng(7), []
    for _ in range(2000):
        patients = of_patients * rng.normal(size=(2, 1))
        values = patients + of_trainings * rng.normal(size=(2, 3))
        draws = values[:, :, None] + of_patients * rng.normal(size=(2, 1, 300))
        found = difference(*(Drawn(value, draw, 500) for value, draw in zip(values, draws)))
        p.append(found.p_value())
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.065 and np.mean(np.array(p) < 0.001) < 0.006


def test_p_has_no_floor():
    """Of however many comparisons: a difference of 20 standard errors stays one, times a thousand."""
    draws = np.random.default_rng(0).normal(0, 0.01, (2, 1, 200))
    found = difference(trained([0.9], 0.9 + draws[0]), trained([0.6], 0.6 + draws[1]))
    assert 1000 * found.p_value() < 1e-6


def test_equal_values_do_not_differ_and_what_never_varies_cannot_be_tested():
    assert difference(trained([0.8]), trained([0.8])).p_value() == 1.0
    assert difference(trained([0.8]), trained([0.7])).p_value() is None
    few = mean_over_seeds(trained([0.8], np.empty((1, 0))))
    assert few.value == 0.8 and few.interval() is None and few.p_value() is None


def test_draws_that_are_undefined_are_left_out_and_most_must_be_defined():
    draws = np.where(np.arange(100) % 4, np.linspace(0.7, 0.9, 100), np.nan)[None]
    assert mean_over_seeds(trained([0.8], draws)).variance == pytest.approx(np.nanvar(draws))
    assert mean_over_seeds(trained([0.8], np.where(np.arange(100) < 51, np.nan, draws))).interval() is None


def exams_of(table):
    return next(read_exams(table, None, Schema(streams=(), tasks=(TASKS["binary"],))))


def test_the_same_patients_are_drawn_for_every_model():
    """Two seeds of one prediction: their draws are equal, and so have no difference."""
    exams = exams_of(binary(60))
    found = drawn([exams, exams], 100, 0)["auroc"]
    again = drawn([exams], 100, 0)["auroc"]
    assert found.draws.shape == (2, 100) and np.ptp(found.draws[0]) > 0
    np.testing.assert_array_equal(found.draws[0], found.draws[1])
    np.testing.assert_array_equal(found.draws[:1], again.draws)
    assert found.values[0] == exams.sample(np.ones((1, 60)))["auroc"][0]


def test_few_exams_have_a_value_and_no_draws():
    found = drawn([exams_of(binary(8))], 100, 0)["auroc"]
    assert found.draws.shape == (1, 0) and found.values.shape == (1,)


def test_models_of_different_folds_are_not_ranked_against_each_other():
    """A fold whose model says half of every probability ranks its exams as before: the mean over folds is the same."""
    table = binary(120, signal=1.0)
    table["fold"] = np.arange(len(table)) % 2
    halved = table["probability"].astype(float) * np.where(table["fold"] == 1, 0.5, 1.0)
    schema = Schema(streams=(), tasks=(TASKS["binary"],))
    exams = [next(read_exams(each, None, schema)) for each in (table, table.assign(probability=halved))]
    found = [drawn([each], 50, seed=0)["auroc"] for each in exams]
    np.testing.assert_allclose(found[0].draws, found[1].draws)
    folds = [table[table["fold"] == fold].astype({"target": float, "probability": float}) for fold in (0, 1)]
    areas = [roc_auc_score(fold["target"], fold["probability"]) for fold in folds]
    assert found[1].values == pytest.approx([np.mean(areas)])
