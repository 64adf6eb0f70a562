"""Statistics of a comparison, against closed forms, naive twins, SciPy and hand-worked cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from m4oe.evaluate.delong import delong, delong_test
from m4oe.evaluate.exams import read_exams
from m4oe.evaluate.significance import drawn, holm, over_seeds, p_value
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


def test_p_counts_the_smaller_tail_twice():
    """Of 99 draws 4 are at most 0: 2 x (4 + 1) / 100. It is never 0, and 1 where nothing differs."""
    draws = np.concatenate([np.full(4, -1.0), np.full(95, 1.0)])
    assert p_value(draws) == p_value(-draws) == pytest.approx(0.1)
    assert p_value(np.ones(99)) == pytest.approx(0.02)
    assert p_value(np.zeros(50)) == 1.0
    assert p_value(np.full(9, np.nan)) is None and p_value(np.empty(0)) is None


def test_the_mean_over_seeds_varies_as_a_mean_of_seeds_does():
    """Without patients' chance, seeds of values x have a mean of variance var(x, ddof=1) / S."""
    values = np.array([0.1, 0.4, 0.5, 0.9])
    draws = over_seeds(np.repeat(values[:, None], 40_000, 1), np.random.default_rng(0))
    assert draws.var() == pytest.approx(values.var(ddof=1) / 4, rel=0.05)
    assert draws.mean() == pytest.approx(values.mean(), abs=0.01)


def test_patients_and_seeds_add_up():
    """A mean of P patients' values under S seeds: variance of patients / P, and of seeds / S, within 10 %."""
    rng = np.random.default_rng(3)
    patients, seeds = rng.normal(size=200), np.array([-0.2, 0.0, 0.3])
    weights = rng.multinomial(200, np.full(200, 1 / 200), 20_000)
    draws = over_seeds((weights @ patients / 200)[None] + seeds[:, None], rng)
    assert draws.var() == pytest.approx(patients.var() / 200 + seeds.var(ddof=1) / 3, rel=0.1)


def test_one_seed_has_no_variance_of_seeds_and_an_undefined_draw_stays_undefined():
    draws = np.array([[1.0, np.nan, 3.0]])
    np.testing.assert_array_equal(over_seeds(draws, np.random.default_rng(0)), draws[0])
    two = over_seeds(np.array([[np.nan] * 500, [1.0] * 500]), np.random.default_rng(0))
    assert set(two[np.isfinite(two)]) == {1.0} and 0.3 < np.isnan(two).mean() < 0.7


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
