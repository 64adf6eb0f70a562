"""Conformal sets and abstention: quantiles and areas by hand, and the law of coverage by simulation."""

from __future__ import annotations

from math import ceil, comb

import numpy as np
import pytest
from scipy.stats import betabinom

from m4oe.evaluate.conformal import (
    Question,
    abstention_limit,
    covered,
    fewest,
    least_expected,
    questions,
    risk_area,
    sets,
    share_interval,
    threshold,
)
from test_evaluate_calibration import exams_of, true_to_its_word


def binary(positive: list[float], target: list[int]) -> Question:
    p = np.array(positive)
    return Question("binary", np.stack([1 - p, p], 1), np.array(target), np.arange(len(p)))


def test_the_threshold_is_an_order_statistic():
    """Nine exams, all positive, with scores 1 - p = 0.1 ... 0.9: of 90 % the ceil(10 x 0.9) = 9th, of 50 % the 5th.
    Of 95 % the ceil(9.5) = 10th, which is not there: every set holds every class."""
    calibration = binary([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], [1] * 9)
    assert threshold(calibration, 0.9) == pytest.approx(0.9) and threshold(calibration, 0.5) == pytest.approx(0.5)
    assert threshold(calibration, 0.95) == float("inf")
    assert sets(calibration, float("inf")).all()
    assert fewest(0.9) == 9 and fewest(0.95) == 19 and fewest(0.5) == 1


def test_sets_by_hand():
    """At 0.6, a class is in where p >= 0.4. The called class is in always; an ordinal set has no hole."""
    p = np.array([[0.45, 0.1, 0.45], [0.3, 0.35, 0.35], [0.9, 0.06, 0.04]])
    asked = Question("multiclass", p, np.array([2, 0, 1]), np.arange(3))
    assert sets(asked, 0.6).tolist() == [[True, False, True], [False, True, False], [True, False, False]]
    assert covered(asked, sets(asked, 0.6)).tolist() == [True, False, False]
    ordinal = Question("ordinal", p, asked.target, asked.exam)  # called: the median, B, B and A
    assert sets(ordinal, 0.6).tolist() == [[True, True, True], [False, True, False], [True, False, False]]


@pytest.mark.parametrize("kind", ["binary", "multiclass", "ordinal"])
@pytest.mark.parametrize("promised", [0.8, 0.9])
def test_law_of_coverage(kind, promised):
    """Over 150 draws of 39 calibration exams and 200 of test, sets hold the truth as often as promised: at least
    `promised` on average (less three standard errors), though the model is not calibrated at all."""
    found = []
    for seed in range(150):
        target, probability = true_to_its_word(kind, 239, seed)
        stated = probability**3 / (probability**3).sum(1, keepdims=True)
        asked = questions(exams_of(kind, target, stated))[""]
        limit = threshold(asked.take(np.arange(39)), promised)
        test = asked.take(np.arange(39, 239))
        held = 1 - test.probability <= limit  # before anything is added: neither too few nor too many
        found.append(covered(test, held).mean())
        assert covered(test, sets(test, limit)).mean() >= found[-1]
    error = np.std(found) / np.sqrt(150)
    assert promised - 3 * error <= np.mean(found) <= promised + 1 / 40 + 3 * error


def covered_at_most(most, promised, n, m):
    """P(at most `most` of m test exams are covered): of all orders of n + m scores, those in which that many of test
    lie below the calibration exams' r-th, counted. (negative hypergeometric)"""
    r = ceil((n + 1) * promised)
    return sum(comb(k + r - 1, k) * comb(m - k + n - r, m - k) for k in range(most + 1)) / comb(n + m, m)


@pytest.mark.parametrize(("promised", "n", "m"), [(0.9, 39, 60), (0.9, 200, 30), (0.8, 24, 500), (0.95, 99, 100)])
def test_how_low_coverage_may_fall_by_chance(promised, n, m):
    """The highest count below which a true promise falls in 2.5 % of cases at most."""
    least = round(m * least_expected(promised, n, m))
    assert covered_at_most(least - 1, promised, n, m) <= 0.025 < covered_at_most(least, promised, n, m)
    assert least_expected(promised, n, m) == pytest.approx(betabinom.ppf(0.025, m, *_beta(promised, n)) / m)


def _beta(promised, n):
    """Of the coverage that a threshold has: Beta(r, n + 1 - r)."""
    r = ceil((n + 1) * promised)
    return r, n + 1 - r


def test_what_is_counted_is_what_happens():
    """Of 300 draws of 39 calibration and 60 test exams as many cover at most 52 as are counted, less or more three
    standard errors."""
    few = 0
    for seed in range(300):
        asked = questions(exams_of("binary", *true_to_its_word("binary", 99, seed)))[""]
        test = asked.take(np.arange(39, 99))
        limit = threshold(asked.take(np.arange(39)), 0.9)
        few += (1 - test.probability[np.arange(60), test.target] <= limit).sum() <= 52
    share = covered_at_most(52, 0.9, 39, 60)
    assert share > 0.1 and few / 300 == pytest.approx(share, abs=3 * (share * (1 - share) / 300) ** 0.5)


def test_sets_that_must_hold_all_classes_always_do():
    assert least_expected(0.9, 5, 60) == 1.0


def test_a_share_and_its_interval():
    """Clopper and Pearson's of 8 of 10: 0.4439 to 0.9748."""
    assert share_interval(8, 10) == pytest.approx((0.4439, 0.9748), abs=1e-4)
    assert share_interval(0, 5)[0] == 0 and share_interval(5, 5)[1] == 1


def test_labels_are_questions_of_their_own_and_survival_is_none():
    target, probability = true_to_its_word("multilabel", 60)
    asked = questions(exams_of("multilabel", target, probability))
    assert list(asked) == ["diabetes", "glaucoma", "cataract"]
    known = ~np.isnan(target[:, 0])
    assert len(asked["diabetes"].target) == known.sum() and (asked["diabetes"].exam == np.flatnonzero(known)).all()
    assert questions(exams_of("survival", *true_to_its_word("survival", 20))) == {}


def test_abstaining_by_hand():
    """Sure to 0.9, 0.8, 0.7, 0.6, of which the last two are wrong: risks 0, 0, 1/3, 1/2 at shares 1/4 ... 1."""
    asked = binary([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 0])
    np.testing.assert_allclose(risk_area(asked, np.ones((1, 4))), [(0 + 0 + 1 / 3 + 1 / 2) / 4])
    np.testing.assert_allclose(risk_area(asked, np.array([[1.0, 1.0, 0.0, 0.0]])), [0.0])
    backwards = binary([0.6, 0.7, 0.8, 0.9], [1, 1, 0, 0])
    np.testing.assert_allclose(risk_area(backwards, np.ones((1, 4))), [(1 + 1 + 2 / 3 + 1 / 2) / 4])
    even = binary([0.7] * 4, [1, 1, 0, 0])  # nothing to choose by: the error rate
    np.testing.assert_allclose(risk_area(even, np.ones((1, 4))), [0.5])


def test_the_limit_answers_the_share_that_was_asked_for():
    asked = binary([0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.51], [1] * 10)
    assert abstention_limit(asked, 1.0) == 0.0
    for answered in (0.9, 0.5, 0.2):
        assert (asked.sureness >= abstention_limit(asked, answered)).mean() == pytest.approx(answered, abs=0.101)
