"""Numbers with intervals, as metrics.json has them: a bootstrap over patients. Axes: P exams · R resamples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy import ndarray

from m4oe.evaluate.bootstrap import FEWEST, Estimate, interval, resample_weights

RESAMPLES = 1000


def estimate(
    statistic: Callable[[ndarray], ndarray], patients: ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate | None:
    """{value, low, high, n} of a statistic of weights (R, P) -> (R,); None where it is undefined on all exams.

    low and high are None below 10 exams or 2 patients.
    """
    whole = float(statistic(np.ones((1, len(patients))))[0]) if len(patients) else np.nan
    if not np.isfinite(whole):
        return None
    bounds = None
    if len(patients) >= FEWEST and len(set(patients)) > 1:
        drawn = [statistic(weights) for weights in resample_weights(patients, resamples, seed)]
        bounds = interval(np.concatenate(drawn))
    low, high = bounds or (None, None)
    return {"value": whole, "low": low, "high": high, "n": len(patients)}


def mean(values: ndarray, patients: ndarray) -> Estimate | None:
    """The mean of values (P,), of which NaN are left out, with its interval."""
    known = np.isfinite(values)
    return ratio(values[known], np.ones(known.sum()), patients[known])


def ratio(above: ndarray, below: ndarray, patients: ndarray) -> Estimate | None:
    """sum of `above` (P,) over sum of `below` (P,), with its interval."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return estimate(lambda weights: (weights @ above) / (weights @ below), patients)
