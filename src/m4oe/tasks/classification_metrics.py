"""How binary, multiclass, multilabel and ordinal predictions are scored, over all classes and one against the rest.

A decision is the most probable class, of an ordinal task the median class; for binary tasks and single labels, a
probability above 0.5.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from m4oe.schema import TaskSpec
from m4oe.tasks.metrics import (
    Sample,
    agreement,
    auprc,
    auroc,
    calibration_error,
    confusion,
    mean_defined,
    mean_metrics,
    quadratic_kappa,
    ratio,
)

Parts = dict[str, tuple[ndarray, Sample]]


def binary_sample(task: TaskSpec, target: ndarray, probability: ndarray, training: ndarray | None = None) -> Sample:
    """target (P,) of 0 and 1, probability (P, 2)."""
    return Sample(_binary, (target == 1, probability[:, 1], probability[:, 1] > 0.5))


def multilabel_sample(task: TaskSpec, target: ndarray, probability: ndarray, training: ndarray | None = None) -> Sample:
    """target (P, C) of 0, 1 and NaN (missing), probability (P, C): metrics are means over labels."""
    return Sample(_multilabel, (target, probability))


def multiclass_sample(task: TaskSpec, target: ndarray, probability: ndarray, training: ndarray | None = None) -> Sample:
    """target (P,) class index, probability (P, C): AUROC and AUPRC are macro one-vs-rest."""
    return Sample(_multiclass, (target.astype(int), probability))


def ordinal_sample(task: TaskSpec, target: ndarray, probability: ndarray, training: ndarray | None = None) -> Sample:
    """target (P,) class index, probability (P, C): AUROC is the mean over thresholds k of P(y > k) against y > k."""
    return Sample(_ordinal, (target.astype(int), probability))


def decided(kind: str, probability: ndarray) -> ndarray:
    """(P,) class index that is called, of an exclusive kind; probability (P, C).

    Ordinal: the median, the first class by which half of the probability is reached. It errs by the fewest classes in
    expectation, where the most probable class may leave a middle one, whose neighbours are likely too, never called.
    """
    if kind == "ordinal":
        return (probability.cumsum(1).round(12) >= 0.5).argmax(1)  # rounded, so that half on paper is half
    return probability.argmax(1)


def no_classes(task: TaskSpec, sample: Sample) -> Parts:
    """A binary task has one class to tell from the rest, which is the task itself."""
    return {}


def label_samples(task: TaskSpec, sample: Sample) -> Parts:
    """{label: (rows of the exams that have it, their binary sample)}."""
    target, probability = sample.arrays
    present = {name: np.flatnonzero(~np.isnan(target[:, c])) for c, name in enumerate(task.classes)}
    return {
        name: (rows, _one_class(target[rows, c] == 1, probability[rows, c], probability[rows, c] > 0.5))
        for c, (name, rows) in enumerate(present.items())
    }


def class_samples(task: TaskSpec, sample: Sample) -> Parts:
    """{class: (all rows, the binary sample of the class against the rest)}."""
    target, probability = sample.arrays
    rows, decision = np.arange(len(target)), decided(task.kind, probability)
    return {
        name: (rows, _one_class(target == c, probability[:, c], decision == c)) for c, name in enumerate(task.classes)
    }


def _one_class(positive: ndarray, score: ndarray, decision: ndarray) -> Sample:
    return Sample(_binary, (positive, score, decision))


def _binary(positive: ndarray, score: ndarray, decision: ndarray, weights: ndarray) -> dict[str, ndarray]:
    table = confusion(positive.astype(int), decision.astype(int), 2, weights)
    return {
        **agreement(table),
        "auroc": auroc(positive, score, weights),
        "auprc": auprc(positive, score, weights),
        "sensitivity": ratio(table[:, 1, 1], table[:, 1].sum(1)),
        "specificity": ratio(table[:, 0, 0], table[:, 0].sum(1)),
        "calibration_error": calibration_error(positive, score, weights),
    }


def _multilabel(target: ndarray, probability: ndarray, weights: ndarray) -> dict[str, ndarray]:
    present = [np.flatnonzero(~np.isnan(column)) for column in target.T]
    return mean_metrics(
        _binary(target[rows, c] == 1, probability[rows, c], probability[rows, c] > 0.5, weights[:, rows])
        for c, rows in enumerate(present)
        if len(rows)
    )


def _multiclass(target: ndarray, probability: ndarray, weights: ndarray) -> dict[str, ndarray]:
    return {
        **_decisions(target, probability, decided("multiclass", probability), weights),
        "auroc": mean_defined(np.stack([auroc(target == c, score, weights) for c, score in enumerate(probability.T)])),
    }


def _ordinal(target: ndarray, probability: ndarray, weights: ndarray) -> dict[str, ndarray]:
    above = probability[:, ::-1].cumsum(1)[:, ::-1].round(12)  # so that sums that are equal on paper tie
    decision, thresholds = decided("ordinal", probability), range(1, probability.shape[1])
    return {
        **_decisions(target, probability, decision, weights),
        "auroc": mean_defined(np.stack([auroc(target >= k, above[:, k], weights) for k in thresholds])),
        "quadratic_kappa": quadratic_kappa(confusion(target, decision, probability.shape[1], weights)),
    }


def _decisions(target: ndarray, probability: ndarray, decision: ndarray, weights: ndarray) -> dict[str, ndarray]:
    """What is the same for classes with and without an order; calibration is of the class decided for."""
    stated, classes = probability[np.arange(len(decision)), decision], probability.shape[1]
    return {
        **agreement(confusion(target, decision, classes, weights)),
        "auprc": mean_defined(np.stack([auprc(target == c, probability[:, c], weights) for c in range(classes)])),
        "calibration_error": calibration_error(decision == target, stated, weights),
    }
