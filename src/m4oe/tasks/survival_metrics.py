"""How cumulative risks are scored under right censoring. Axes: R resamples, P exams, H horizons."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy import ndarray

from m4oe.schema import TaskSpec
from m4oe.tasks.metrics import Sample, auroc, mean_defined, ratio

BLOCK = 256


def survival_sample(task: TaskSpec, target: ndarray, probability: ndarray, training: ndarray | None = None) -> Sample:
    """target (P, 2) years and event, probability (P, H) cumulative risk.

    training: (n, 2) labels of the training split, from which the censoring weights are estimated; without any, the
    sample's own. Metrics: Harrell's C, cumulative/dynamic AUROC averaged over horizons, integrated Brier score.
    """
    inverse = inverse_censoring_weights(
        target, task.horizons, training if training is not None and len(training) else target
    )
    return Sample(partial(_survival, task.horizons), (target[:, 0], target[:, 1] == 1, probability, inverse))


def horizon_samples(task: TaskSpec, sample: Sample) -> dict[str, tuple[ndarray, Sample]]:
    """{horizon: (all rows, its sample: AUROC and Brier score at that horizon)}."""
    time, event, probability, inverse = sample.arrays
    rows = np.arange(len(time))
    return {
        name: (rows, Sample(_horizon, (event & (time <= h), probability[:, k], inverse[:, k])))
        for k, (name, h) in enumerate(zip(task.classes, task.horizons, strict=True))
    }


def censoring_curve(labels: ndarray) -> tuple[ndarray, ndarray]:
    """Kaplan-Meier of censoring: distinct times (G,), and P(censored later than each) (G,); labels (n, 2).

    At equal times events come first, so those who had one are no longer at risk of being censored.
    """
    times, place = np.unique(labels[:, 0], return_inverse=True)
    events, censored = (np.bincount(place, labels[:, 1] == flag, len(times)) for flag in (1, 0))
    at_risk = (events + censored)[::-1].cumsum()[::-1] - events
    return times, np.cumprod(1 - np.divide(censored, at_risk, out=np.zeros(len(times)), where=at_risk > 0))


def inverse_censoring_weights(target: ndarray, horizons: tuple[float, ...], training: ndarray) -> ndarray:
    """(P, H) 1 / P(not censored before min(T, h)) where the status at h is known, 0 where it is not.

    NaN (infinite weight) where the training split says that no one is followed so long.
    """
    times, later = censoring_curve(training)
    until = np.minimum(target[:, :1], np.asarray(horizons))
    reached = np.concatenate([[1.0], later])[np.searchsorted(times, until, side="left")]
    known = (target[:, 1:] == 1) | (target[:, :1] >= np.asarray(horizons))
    return np.where(known, ratio(np.ones_like(reached), reached), 0.0)


def concordance(time: ndarray, event: ndarray, risk: ndarray, weights: ndarray) -> ndarray:
    """(R,) Harrell's C: among pairs known to have failed in an order, the share with risks in that order.

    A pair counts when the earlier time is an event; at equal times, when one is an event and the other censored.
    Equal risks count half.
    """
    ordered, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    events = np.flatnonzero(event)
    for rows in np.split(events, range(BLOCK, len(events), BLOCK)):
        first_time, first_risk = time[rows, None], risk[rows, None]
        later = (time > first_time) | ((time == first_time) & ~event)
        won = later * ((risk < first_risk) + 0.5 * (risk == first_risk))
        ordered += (weights[:, rows] * (weights @ won.T)).sum(1)
        pairs += (weights[:, rows] * (weights @ later.T)).sum(1)
    return ratio(ordered, pairs)


def _survival(
    horizons: tuple[float, ...], time: ndarray, event: ndarray, risk: ndarray, inverse: ndarray, weights: ndarray
) -> dict[str, ndarray]:
    at = [_horizon(event & (time <= h), risk[:, k], inverse[:, k], weights) for k, h in enumerate(horizons)]
    return {
        "c_index": concordance(time, event, risk[:, -1], weights),
        "auroc": mean_defined(np.stack([metrics["auroc"] for metrics in at])),
        "integrated_brier": _integrate(np.stack([metrics["brier"] for metrics in at]), horizons),
    }


def _horizon(happened: ndarray, risk: ndarray, inverse: ndarray, weights: ndarray) -> dict[str, ndarray]:
    return {
        "auroc": auroc(happened, risk, weights * inverse),
        "brier": ratio(weights @ (inverse * (happened - risk) ** 2), weights.sum(1)),
    }


def _integrate(scores: ndarray, horizons: tuple[float, ...]) -> ndarray:
    """(R,) mean of scores (H, R) over time, by trapezoids; with a single horizon, the score there."""
    if len(horizons) == 1:
        return scores[0]
    return np.trapezoid(scores, horizons, axis=0) / (horizons[-1] - horizons[0])
