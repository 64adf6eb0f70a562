"""Statistics of a comparison: models trained from several seeds, scored on the same exams.

Axes: S seeds · R resamples of patients · P exams · K comparisons.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from m4oe.evaluate.bootstrap import FEWEST, resample_weights
from m4oe.evaluate.exams import Exams
from m4oe.tasks.metrics import mean_metrics


class Drawn(NamedTuple):
    """A metric of S trainings: values (S,), and draws (S, R) under R resamples of patients, none below 10 exams."""

    values: ndarray
    draws: ndarray


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
        )
        for name in whole[0]
    }


def _of_folds(exams: Exams, weights: ndarray) -> dict[str, ndarray]:
    """{metric: (R,)} under weights (R, P): the mean over the folds in which it is defined."""
    rows = exams.about.groupby("fold").indices.values()
    return mean_metrics(exams.sample.take(of_fold)(weights[:, of_fold]) for of_fold in rows)


def over_seeds(draws: ndarray, rng: np.random.Generator) -> ndarray:
    """(R,) mean over seeds drawn anew for each resample: patients and seeds vary together, draws (S, R).

    S - 1 of S seeds are drawn with replacement, which makes the variance of their mean unbiased (J. N. K. Rao and
    C. F. J. Wu, JASA 83 (1988), section 2.1); S of S would understate it by a third at three seeds. One seed has none.
    """
    count, resamples = draws.shape
    if count == 1:
        return draws[0]
    chosen = rng.multinomial(count - 1, np.full(count, 1 / count), size=resamples).T
    return np.where(chosen > 0, draws * chosen, 0.0).sum(0) / (count - 1)


def p_value(differences: ndarray) -> float | None:
    """Two-sided p of no difference, from (R,) bootstrap draws of it: twice the smaller tail, at least 2 / (R + 1).

    None where fewer than half of the draws are defined.
    """
    defined = differences[np.isfinite(differences)]
    if not len(defined) or 2 * len(defined) < len(differences):
        return None
    tail = min((defined <= 0).sum(), (defined >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (len(defined) + 1)))


def holm(p: Sequence[float]) -> ndarray:
    """(K,) p-values adjusted for K comparisons (S. Holm, Scandinavian Journal of Statistics 6 (1979)): the chance that
    any of those called different is not stays below the level at which they are called so."""
    values = np.asarray(p, float)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * (len(values) - np.arange(len(values))))
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted
