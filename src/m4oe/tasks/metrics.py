"""Weighted metrics of a whole sample, for many bootstrap resamples at once.

Axes: R resamples · P exams · C classes · G distinct scores. A resample is a row of weights, how often each exam was
drawn; a metric takes weights (R, P) and returns (R,), NaN where it is undefined (one class only).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy import ndarray

CALIBRATION_BINS = 15
RANGES = {"quadratic_kappa": (-1.0, 1.0), **dict.fromkeys(("hd95", "missed", "invented", "empty"), (0.0, inf))}


def range_of(metric: str) -> tuple[float, float]:
    """What a metric can be at least and at most: shares, areas and mean squares of probabilities lie in 0 to 1."""
    return RANGES.get(metric, (0.0, 1.0))


@dataclass(frozen=True)
class Sample:
    """P exams with their truth and prediction, and the way to score them.

    arrays: (P, ...) each · measure: (*arrays, weights (R, P)) -> {metric: (R,)}.
    """

    measure: Callable[..., dict[str, ndarray]]
    arrays: tuple[ndarray, ...]

    def __len__(self) -> int:
        return len(self.arrays[0])

    def take(self, rows: ndarray) -> Sample:
        return Sample(self.measure, tuple(array[rows] for array in self.arrays))

    def __call__(self, weights: ndarray) -> dict[str, ndarray]:
        return self.measure(*self.arrays, weights)


def ratio(part: ndarray, whole: ndarray) -> ndarray:
    """part / whole, NaN where the whole is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, float), np.asarray(whole, float))
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole != 0)


def mean_defined(values: ndarray) -> ndarray:
    """Mean over the first axis of what is not NaN; NaN where nothing is."""
    return ratio(np.nansum(values, 0), (~np.isnan(values)).sum(0))


def mean_metrics(parts: Iterable[Mapping[str, ndarray]]) -> dict[str, ndarray]:
    """The mean of each metric over parts (labels, classes) where it is defined: a macro average."""
    parts = list(parts)
    return {name: mean_defined(np.stack([part[name] for part in parts])) for name in (parts[0] if parts else ())}


def auroc(positive: ndarray, score: ndarray, weights: ndarray) -> ndarray:
    """(R,) area under the ROC curve: P(score of a positive > of a negative), ties counting half."""
    positives, negatives = _by_score(positive, score, weights)
    below = negatives.cumsum(1) - negatives / 2
    return ratio((positives * below).sum(1), positives.sum(1) * negatives.sum(1))


def auprc(positive: ndarray, score: ndarray, weights: ndarray) -> ndarray:
    """(R,) average precision: sum over distinct scores, from the highest, of the recall gained x the precision."""
    positives, negatives = (part[:, ::-1] for part in _by_score(positive, score, weights))
    found = positives.cumsum(1)
    precision = np.nan_to_num(ratio(found, found + negatives.cumsum(1)))
    return np.where(negatives.sum(1) > 0, ratio((positives * precision).sum(1), positives.sum(1)), np.nan)


def _by_score(positive: ndarray, score: ndarray, weights: ndarray) -> tuple[ndarray, ndarray]:
    """(R, G) weight of the positives and of the negatives at each distinct score, ascending."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    sorted_weights = weights[:, order]
    positives = np.add.reduceat(sorted_weights * positive[order], starts, axis=1)
    negatives = np.add.reduceat(sorted_weights * ~positive[order], starts, axis=1)
    return positives, negatives


def calibration_error(correct: ndarray, confidence: ndarray, weights: ndarray) -> ndarray:
    """(R,) expected calibration error: mean |confidence - accuracy| over 15 bins of equal mass.

    The bins are quantiles of the whole sample, the same for every resample; equal confidences share a bin.
    """
    edges = np.quantile(confidence, np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1])
    bins = np.searchsorted(edges, confidence, side="right")
    gaps = np.eye(CALIBRATION_BINS)[bins] * (confidence - correct)[:, None]
    return ratio(np.abs(weights @ gaps).sum(1), weights.sum(1))


def confusion(target: ndarray, decision: ndarray, num_classes: int, weights: ndarray) -> ndarray:
    """(R, C, C) weight of the exams of each true class (rows) that were called each class (columns)."""
    cells = np.eye(num_classes**2)[target * num_classes + decision]
    return (weights @ cells).reshape(-1, num_classes, num_classes)


def agreement(table: ndarray) -> dict[str, ndarray]:
    """Accuracy, balanced accuracy and macro F1 of a confusion (R, C, C), over the classes that occur in it."""
    hits, truths, calls = table.diagonal(axis1=1, axis2=2), table.sum(2), table.sum(1)
    return {
        "accuracy": ratio(hits.sum(1), table.sum((1, 2))),
        "balanced_accuracy": mean_defined(ratio(hits, truths).T),
        "macro_f1": mean_defined(ratio(2 * hits, truths + calls).T),
    }


def quadratic_kappa(table: ndarray) -> ndarray:
    """(R,) Cohen's kappa of a confusion (R, C, C), disagreement weighted by the squared distance of classes."""
    distance = np.subtract.outer(np.arange(table.shape[1]), np.arange(table.shape[1])) ** 2
    expected = table.sum(2)[:, :, None] * table.sum(1)[:, None, :]
    observed = (table * distance).sum((1, 2)) * table.sum((1, 2))
    return 1 - ratio(observed, (expected * distance).sum((1, 2)))
