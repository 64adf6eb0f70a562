"""Calibration: whether what is stated happens as often as it is stated, and one number that mends it.

Axes: P labelled exams of a task · C classes, labels or horizons · Q statements · R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy import ndarray

from m4oe.evaluate.exams import Exams
from m4oe.tasks.classification_metrics import decided
from m4oe.tasks.metrics import CALIBRATION_BINS, calibration_error, mean_defined

BINS, FEWEST = 10, 15  # bins of a reliability diagram, and cases that a bin should have
COLDEST, HOTTEST = 0.1, 10.0
SMALLEST = 1e-7  # of a probability, so that its logit is finite


@dataclass(frozen=True)
class Statements:
    """Q stated probabilities, what came true, and of which exams they are.

    stated (Q,) 0 ... 1 · happened (Q,) 0 or 1 · weight (Q,): 1, or for a survival task that of inverse probability of
    censoring · exam (Q,): places among P exams.
    """

    stated: ndarray
    happened: ndarray
    weight: ndarray
    exam: ndarray


def statements(exams: Exams) -> dict[str, Statements]:
    """{name: what is stated}: of a binary task its positive class, of a multiclass or ordinal one the class that is
    called, of a multilabel one each label, of survival the event by each horizon. A label or horizon that is known of
    no exam is absent."""
    stated, happened, weight = _STATED[exams.task.kind](exams)
    names = exams.task.classes if stated.shape[1] > 1 else ("",)
    said = {}
    for k, name in enumerate(names):
        known = np.flatnonzero(np.isfinite(happened[:, k]) & np.isfinite(weight[:, k]) & (weight[:, k] > 0))
        if len(known):
            said[name] = Statements(stated[known, k], happened[known, k], weight[known, k], known)
    return said


def expected_error(said: Mapping[str, Statements], weights: ndarray) -> ndarray:
    """(R,) expected calibration error under weights (R, P) of the exams: over 15 bins of equal mass, mean over names.

    Biased upwards: few exams err by chance. `error_of_the_calibrated` says how much of it that is. (Guo et al. 2017)
    """
    return mean_defined(
        np.stack([calibration_error(s.happened, s.stated, weights[:, s.exam] * s.weight) for s in said.values()])
    )


def error_of_the_calibrated(said: Mapping[str, Statements], draws: int = 200, seed: int = 0) -> tuple[float, float]:
    """Mean and 95 % quantile of what `expected_error` would be of these statements were they true: what happens is
    drawn with the stated probabilities (consistency resampling, Bröcker and Smith 2007)."""
    rng = np.random.default_rng(seed)
    whole = np.ones((1, 1 + max(int(s.exam.max()) for s in said.values())))

    def drawn() -> dict[str, Statements]:
        return {name: replace(s, happened=(rng.random(len(s.stated)) < s.stated) * 1.0) for name, s in said.items()}

    found = [expected_error(drawn(), whole)[0] for _ in range(draws)]
    return float(np.mean(found)), float(np.quantile(found, 0.95))


def debiased_error(said: Mapping[str, Statements]) -> float:
    """Root mean squared calibration error with the binomial variance of each bin taken off, mean over names; NaN
    where no bin has two cases. Of statements that are true its square is 0 on average. (Kumar et al. 2019, L2)"""
    squares = np.array([debiased_square(s) for s in said.values()])
    return float(mean_defined(np.sqrt(np.maximum(squares, 0))))


def debiased_square(s: Statements) -> float:
    """Mean squared gap over bins less what chance makes of it: below 0 as often as above where statements are true."""
    total, counted = 0.0, 0.0
    for rows in _parts(s.stated, min(CALIBRATION_BINS, len(s.stated) // 2)):
        weight, mean = s.weight[rows], np.average(s.happened[rows], weights=s.weight[rows])
        size = weight.sum() ** 2 / (weight**2).sum()
        gap = np.average(s.stated[rows], weights=weight) - mean
        if size > 1:
            total += weight.sum() * (gap**2 - mean * (1 - mean) / (size - 1))
            counted += weight.sum()
    return total / counted if counted else np.nan


def reliability(stated: ndarray, happened: ndarray, weight: ndarray | None = None) -> pd.DataFrame:
    """Mean stated probability and observed frequency with Wilson's 95 % interval, in bins of equally many cases."""
    weight = np.ones(len(stated)) if weight is None else weight
    rows = []
    for part in _parts(stated, int(np.clip(len(stated) // FEWEST, 2, BINS))):
        ends = wilson(happened[part], weight[part])
        means = [float(np.average(values[part], weights=weight[part])) for values in (stated, happened)]
        rows.append((*means, *ends, len(part)))
    return pd.DataFrame(rows, columns=["stated", "observed", "low", "high", "n"])


def wilson(happened: ndarray, weight: ndarray | None = None) -> tuple[float, float]:
    """95 % interval of a frequency (Wilson 1927); of weighted cases, with the effective number of them."""
    weight = np.ones(len(happened)) if weight is None else weight
    n, share, z = weight.sum() ** 2 / (weight**2).sum(), np.average(happened, weights=weight), 1.959964
    centre, spread = share + z * z / (2 * n), z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = ((centre + side * spread) / (1 + z * z / n) for side in (-1, 1))
    return max(0.0, float(low)), min(1.0, float(high))


def _parts(stated: ndarray, bins: int) -> Iterator[ndarray]:
    yield from (part for part in np.array_split(np.argsort(stated, kind="stable"), max(bins, 1)) if len(part))


def fit_temperature(exams: Exams) -> float:
    """The temperature, 0.1 to 10, at which the exams' log loss is smallest: logits are divided by it. (Guo et al. 2017)

    Below 1 a model was too shy, above 1 too sure. It changes no ranking and no decision.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        return float(np.nanmean(log_loss(scaled(exams, float(np.exp(log_temperature))))))

    ends = (np.log(COLDEST), np.log(HOTTEST))
    return float(np.exp(minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-4}).x))


def scaled(exams: Exams, temperature: float) -> Exams:
    """The exams with every logit divided by `temperature`: of an ordinal task those of P(y > k), of a survival task
    those of the cumulative risks, so that both keep their order."""
    return _with(exams, _SCALE[exams.task.kind](probabilities(exams), temperature))


def log_loss(exams: Exams) -> ndarray:
    """(P,) negative log-likelihood of each exam in nats: of the true class, or the mean over labels or horizons that
    are known; of survival weighted by inverse probability of censoring, NaN where nothing is known."""
    probability = np.clip(probabilities(exams), SMALLEST, 1 - SMALLEST)
    if exams.task.kind in ("binary", "multiclass", "ordinal"):
        target = exams.sample.arrays[0].astype(int)
        return -np.log(probability[np.arange(len(exams)), target])
    _, happened, weight = _STATED[exams.task.kind](exams)
    known = np.isfinite(happened) & np.isfinite(weight) & (weight > 0)
    losses = -np.log(np.where(happened == 1, probability, 1 - probability)) * np.where(known, weight, 0)
    count = known.sum(1)
    return np.divide(losses.sum(1), count, out=np.full(len(exams), np.nan), where=count > 0)


def probabilities(exams: Exams) -> ndarray:
    """(P, C) in the order of the task's classes, labels or horizons; of a binary task (P, 2)."""
    arrays = exams.sample.arrays
    if exams.task.kind == "binary":
        return np.stack([1 - arrays[1], arrays[1]], 1)
    return arrays[2 if exams.task.kind == "survival" else 1]


def _with(exams: Exams, probability: ndarray) -> Exams:
    """The exams with other probabilities, in the arrays that their kind's Sample holds."""
    arrays = exams.sample.arrays
    if exams.task.kind == "binary":
        changed = (arrays[0], probability[:, 1], probability[:, 1] > 0.5)
    elif exams.task.kind == "survival":
        changed = (*arrays[:2], probability, arrays[3])
    else:
        changed = (arrays[0], probability)
    return replace(exams, sample=replace(exams.sample, arrays=changed))


def _positive(exams: Exams) -> tuple[ndarray, ndarray, ndarray]:
    happened, stated = exams.sample.arrays[:2]
    return stated[:, None], happened[:, None].astype(float), np.ones((len(stated), 1))


def _called(exams: Exams) -> tuple[ndarray, ndarray, ndarray]:
    target, probability = exams.sample.arrays
    called = decided(exams.task.kind, probability)
    stated = probability[np.arange(len(called)), called]
    return stated[:, None], (called == target)[:, None].astype(float), np.ones((len(called), 1))


def _each_label(exams: Exams) -> tuple[ndarray, ndarray, ndarray]:
    target, probability = exams.sample.arrays
    return probability, target, np.ones(target.shape)


def _each_horizon(exams: Exams) -> tuple[ndarray, ndarray, ndarray]:
    time, event, probability, inverse = exams.sample.arrays
    happened = event[:, None] & (time[:, None] <= np.asarray(exams.task.horizons))
    return probability, happened.astype(float), inverse


def _logistic(probability: ndarray, temperature: float) -> ndarray:
    clipped = np.clip(probability, SMALLEST, 1 - SMALLEST)
    return 1 / (1 + np.exp(-np.log(clipped / (1 - clipped)) / temperature))


def _softmax(probability: ndarray, temperature: float) -> ndarray:
    powers = np.exp(np.log(np.clip(probability, SMALLEST, None)) / temperature)
    return powers / powers.sum(1, keepdims=True)


def _cumulative(probability: ndarray, temperature: float) -> ndarray:
    above = _logistic(probability[:, ::-1].cumsum(1)[:, ::-1][:, 1:], temperature)
    ends = np.ones((len(above), 1)), np.zeros((len(above), 1))
    return np.maximum(-np.diff(np.concatenate([ends[0], above, ends[1]], 1)), 0)


_STATED: Mapping[str, Callable[[Exams], tuple[ndarray, ndarray, ndarray]]] = {
    "binary": _positive,
    "multiclass": _called,
    "ordinal": _called,
    "multilabel": _each_label,
    "survival": _each_horizon,
}
_SCALE: Mapping[str, Callable[[ndarray, float], ndarray]] = {
    "binary": _logistic,
    "multiclass": _softmax,
    "ordinal": _cumulative,
    "multilabel": _logistic,
    "survival": _logistic,
}
