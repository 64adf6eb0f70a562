"""Statistics of a comparison: models trained from several seeds, scored on the same exams.

Axes: S seeds · R resamples of patients · P exams · K comparisons.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from scipy.special import stdtr, stdtrit

from m4oe.evaluate.bootstrap import FEWEST, defined, resample_weights
from m4oe.evaluate.exams import Exams
from m4oe.tasks.metrics import mean_metrics

TINY = 1e-20  # a variance that rounding alone makes


class Drawn(NamedTuple):
    """A metric of S trainings on the same exams: values (S,), and draws (S, R) under R resamples of their patients, of
    whom there are `patients`; no draws below 10 exams."""

    values: ndarray
    draws: ndarray
    patients: int


class Inferred(NamedTuple):
    """A mean over trainings, or a difference of two, with its variance and the degrees of freedom of that variance; no
    variance (NaN) where nothing was drawn, or fewer than half of the draws are defined."""

    value: float
    variance: float
    freedom: float

    def interval(self) -> tuple[float, float] | None:
        """95 %, by Student's t; None without a variance."""
        if not np.isfinite(self.variance):
            return None
        half = float(stdtrit(self.freedom, 0.975)) * self.variance**0.5 if self.variance else 0.0
        return self.value - half, self.value + half

    def p_value(self) -> float | None:
        """Two-sided, of a true value of 0. None without a variance, and where chance shows in no training and no
        resample, so that nothing tells how much of it there is."""
        if self.value == 0 and np.isfinite(self.variance):
            return 1.0
        if not self.variance > TINY:
            return None
        return float(2 * stdtr(self.freedom, -abs(self.value) / self.variance**0.5))


def drawn(seeds: Sequence[Exams], resamples: int, seed: int) -> dict[str, Drawn]:
    """{metric: Drawn} of the same exams, predicted by S trainings; of cross-validated ones means over folds, since
    models of different folds are not to be ranked against each other. Equal patients get equal resamples: what is drawn
    for two models on the same exams is paired."""
    patients = seeds[0].patients
    whole = [_of_folds(exams, np.ones((1, len(exams)))) for exams in seeds]
    enough = len(patients) >= FEWEST and len(set(patients)) > 1
    blocks = list(resample_weights(patients, resamples, seed)) if enough else []
    parts = [[_of_folds(exams, weights) for weights in blocks] for exams in seeds]
    return {
        name: Drawn(
            np.array([float(values[name][0]) for values in whole]),
            np.array([np.concatenate([np.empty(0), *(part[name] for part in some)]) for some in parts]),
            len(set(patients)),
        )
        for name in whole[0]
    }


def _of_folds(exams: Exams, weights: ndarray) -> dict[str, ndarray]:
    """{metric: (R,)} under weights (R, P): the mean over the folds in which it is defined."""
    rows = exams.about.groupby("fold").indices.values()
    return mean_metrics(exams.sample.take(of_fold)(weights[:, of_fold]) for of_fold in rows)


def mean_over_seeds(one: Drawn) -> Inferred:
    """What S trainings reach on average: chance is of patients and of trainings."""
    return _inferred(one.values.mean(), one.draws.mean(0), one.patients, one.values)


def difference(a: Drawn, b: Drawn) -> Inferred:
    """Of a less b, whose patients are the same and whose trainings are not."""
    gap = a.draws.mean(0) - b.draws.mean(0)
    return _inferred(a.values.mean() - b.values.mean(), gap, a.patients, a.values, b.values)


def _inferred(value: float, draws: ndarray, patients: int, *trainings: ndarray) -> Inferred:
    """Variances add up: that of patients, from (R,) draws, and of each mean over trainings, var(ddof=1) / S. Degrees of
    freedom by Welch and Satterthwaite (B. L. Welch, Biometrika 34 (1947)): three trainings that disagree say little,
    which draws of three values cannot express. What patients and trainings do only together is in both parts, which
    errs on the wide side. One training has a part of patients alone.
    """
    known = defined(draws)
    if not len(known):
        return Inferred(float(value), np.nan, np.nan)
    parts = [(known.var(), patients - 1)]
    parts += [(values.var(ddof=1) / len(values), len(values) - 1) for values in trainings if len(values) > 1]
    variance = sum(part for part, _ in parts)
    squares = sum(part**2 / freedom for part, freedom in parts)
    return Inferred(float(value), float(variance), float(variance**2 / squares) if squares else np.inf)


def holm(p: Sequence[float]) -> ndarray:
    """(K,) p-values adjusted for K comparisons (S. Holm, Scandinavian Journal of Statistics 6 (1979)): the chance that
    any of those called different is not stays below the level at which they are called so."""
    values = np.asarray(p, float)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * (len(values) - np.arange(len(values))))
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted
