"""Intervals: a bootstrap over patients, each drawn with all their exams. Axes: R resamples, P exams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy import ndarray

from m4oe.evaluate.exams import Exams

Estimate = dict[str, float | int | None]

FEWEST = 10
BLOCK = 4_000_000


def summarise(exams: Exams, resamples: int, seed: int) -> dict[str, Estimate]:
    """{metric: {value, low, high, n}} of the metrics that are defined on these exams.

    n counts exams; low and high are None below 10 exams or 2 patients.
    """
    if not len(exams):
        return {}
    values, n = exams.sample(np.ones((1, len(exams)))), len(exams.about[["study", "exam"]].drop_duplicates())
    draws: list[dict[str, ndarray]] = []
    if n >= FEWEST and len(set(exams.patients)) > 1:
        draws = [exams.sample(weights) for weights in resample_weights(exams.patients, resamples, seed)]
    return {
        name: {"value": float(value[0]), **_bounds([draw[name] for draw in draws]), "n": n}
        for name, value in values.items()
        if np.isfinite(value[0])
    }


def resample_weights(patients: ndarray, resamples: int, seed: int) -> Iterator[ndarray]:
    """(R, P) how often each exam comes when as many patients as there are are drawn with replacement; in blocks."""
    names, code = np.unique(patients, return_inverse=True)
    rng, rows = np.random.default_rng(seed), max(1, BLOCK // len(patients))
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=size)
        yield drawn[:, code].astype(float)


def interval(values: ndarray) -> tuple[float, float] | None:
    """95 % percentile interval of (R,) values; None where fewer than half of them are defined."""
    known = defined(values)
    if not len(known):
        return None
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def defined(values: ndarray) -> ndarray:
    """Those of (R,) values that are numbers; none where fewer than half are, since the rest would speak for all."""
    known = values[np.isfinite(values)]
    return known if 2 * len(known) >= len(values) else known[:0]


def _bounds(draws: Sequence[ndarray]) -> Estimate:
    low, high = (interval(np.concatenate(draws)) if draws else None) or (None, None)
    return {"low": low, "high": high}
