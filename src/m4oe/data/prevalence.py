"""What a training split says of each task before any picture is seen: priors and class weights.

Axes: N training exams · C classes, labels or horizons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from m4oe.study import Task

RAREST = 1e-3
LIGHTEST, HEAVIEST = 0.2, 5.0

Numbers = tuple[float, ...]


def prevalence(task: Task, labels: np.ndarray) -> tuple[Numbers, Numbers]:
    """(prior, weights) of a task without masks from its training labels, as schema.TaskSpec holds them."""
    return _BY_KIND[task.kind](task, labels)


def pixel_prevalence(counts: np.ndarray) -> tuple[Numbers, Numbers]:
    """(prior, weights) of a segmentation from the pixels (C,) counted of each class."""
    shares = counts / counts.sum()
    return _clipped(shares), balanced(shares)


def balanced(shares: np.ndarray) -> Numbers:
    """Class weights 1/sqrt(share) within a factor of 5 of their mean, mean 1; 1 for a class that does not occur.

    The square root is half way between none and full balance: with full balance, a few exams of a rare class
    outvote all others.
    """
    weights, occurs = np.ones(len(shares)), shares > 0
    raw = 1 / np.sqrt(shares[occurs])
    limited = np.clip(raw / raw.mean(), LIGHTEST, HEAVIEST)
    weights[occurs] = limited / limited.mean()
    return tuple(weights.tolist())


def _clipped(shares: np.ndarray) -> Numbers:
    """Shares kept off 0 and 1, so that their logits are finite."""
    return tuple(np.clip(shares, RAREST, 1 - RAREST).tolist())


def _classes(task: Task, labels: np.ndarray) -> tuple[Numbers, Numbers]:
    counts = np.bincount(labels[~np.isnan(labels)].astype(int), minlength=len(task.class_names))
    shares = counts / counts.sum()
    return _clipped(shares[1:] if task.kind == "binary" else shares), balanced(shares)


def _labels(task: Task, labels: np.ndarray) -> tuple[Numbers, Numbers]:
    shares = np.nanmean(labels, axis=0)
    return _clipped(shares), balanced(shares)


def _survival(task: Task, labels: np.ndarray) -> tuple[Numbers, Numbers]:
    known = labels[~np.isnan(labels).any(1)]
    return _clipped(cumulative_risk(known, task.horizons)), (1.0, 1.0)


def cumulative_risk(labels: np.ndarray, horizons: Sequence[float]) -> np.ndarray:
    """(C,) share with an event by each horizon, by Kaplan and Meier; labels (N, 2) years and event."""
    from scipy.stats import CensoredData, ecdf  # takes a second to import

    happened = labels[:, 1] > 0.5
    data = CensoredData(uncensored=labels[happened, 0], right=labels[~happened, 0])
    return np.asarray(ecdf(data).cdf.evaluate(np.asarray(horizons, float)))


_BY_KIND: Mapping[str, Callable[[Task, np.ndarray], tuple[Numbers, Numbers]]] = {
    "binary": _classes,
    "multiclass": _classes,
    "ordinal": _classes,
    "multilabel": _labels,
    "survival": _survival,
}
