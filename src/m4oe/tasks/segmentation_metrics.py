"""How masks are scored: Dice, IoU, HD95 of each class and region of an exam, and their means over exams.

Axes: R resamples, P exams, K classes and regions. Both masks empty: excluded and counted; exactly one empty: Dice
and IoU 0, no distance, counted as missed or invented.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy import ndarray

from m4oe.schema import TaskSpec
from m4oe.tasks.metrics import Sample, mean_defined, ratio
from m4oe.tasks.segmentation import IGNORED

OUTCOMES = ("scored", "missed", "invented", "empty")


# The key `class` is a Python keyword, hence the functional form.
CaseRow = TypedDict("CaseRow", {"class": str, "dice": float, "iou": float, "hd95": float, "outcome": str})


def structures(task: TaskSpec) -> dict[str, tuple[int, ...]]:
    """What is scored: {name: class indices} of every foreground class and every region."""
    singles = {name: (index,) for index, name in enumerate(task.classes) if index > 0}
    return singles | {
        region: tuple(task.classes.index(name) for name in members) for region, members in task.regions.items()
    }


def case_metrics(prediction: ndarray, truth: ndarray, task: TaskSpec, spacing: Sequence[float] | None) -> list[CaseRow]:
    """The rows of cases.csv of one exam; prediction, truth: class indices of one shape, truth -100 not counted.

    spacing: mm along each axis; hd95 is NaN where it is None, or a mask is empty. Dice and IoU of two empty masks
    are NaN.
    """
    counted = truth != IGNORED
    return [
        _score(name, np.isin(prediction, members) & counted, np.isin(truth, members), spacing)
        for name, members in structures(task).items()
    ]


def _score(name: str, prediction: ndarray, truth: ndarray, spacing: Sequence[float] | None) -> CaseRow:
    both, said, true = (int(mask.sum()) for mask in (prediction & truth, prediction, truth))
    outcome = OUTCOMES[2 * (not true) + (not said)]
    distance = hd95(prediction, truth, spacing) if spacing is not None and outcome == "scored" else np.nan
    return {
        "class": name,
        "dice": 2 * both / (said + true) if said + true else np.nan,
        "iou": both / (said + true - both) if said + true else np.nan,
        "hd95": distance,
        "outcome": outcome,
    }


def hd95(a: ndarray, b: ndarray, spacing: Sequence[float]) -> float:
    """95th percentile of the distance in mm from one surface to the other, the larger of both directions.

    a, b: bool masks of one shape, neither empty. A surface is the mask's pixels with a face outside it.
    """
    from scipy.ndimage import binary_erosion, distance_transform_edt, find_objects

    box = find_objects((a | b).astype(np.int8))[0]
    a, b = a[box], b[box]
    edge_a, edge_b = a & ~binary_erosion(a), b & ~binary_erosion(b)
    to_b = distance_transform_edt(~edge_b, sampling=spacing)[edge_a]
    to_a = distance_transform_edt(~edge_a, sampling=spacing)[edge_b]
    return float(max(np.percentile(to_b, 95), np.percentile(to_a, 95)))


def segmentation_sample(
    task: TaskSpec, target: ndarray, probability: ndarray, training: ndarray | None = None
) -> Sample:
    """target (P, *size) class index, -100 not counted; probability (P, C, *size). Overlaps only, no distances."""
    exams = zip(probability.argmax(1), target, strict=True)
    rows = [case_metrics(said, true, task, None) for said, true in exams]
    columns = (np.array([[row[name] for row in exam] for exam in rows]) for name in ("dice", "iou", "hd95", "outcome"))
    return cases_sample(*columns)


def cases_sample(dice: ndarray, iou: ndarray, hd95: ndarray, outcome: ndarray) -> Sample:
    """Each (P, K), a column of cases.csv by exam and structure: numbers, NaN where excluded, and words."""
    return Sample(_segmentation, (dice, iou, hd95, outcome))


def structure_samples(task: TaskSpec, sample: Sample) -> dict[str, tuple[ndarray, Sample]]:
    """{class or region: (all rows, its own sample)}."""
    rows = np.arange(len(sample))
    return {
        name: (rows, cases_sample(*(array[:, k : k + 1] for array in sample.arrays)))
        for k, name in enumerate(structures(task))
    }


def _segmentation(dice: ndarray, iou: ndarray, hd95: ndarray, outcome: ndarray, weights: ndarray) -> dict[str, ndarray]:
    """Means over exams, then over structures; counts of (exam, structure) pairs."""
    means = {"dice": dice, "iou": iou, "hd95": hd95}
    counts = {word: weights @ (outcome == word).sum(1) for word in OUTCOMES[1:]}
    return {name: mean_defined(_mean_over_exams(values, weights).T) for name, values in means.items()} | counts


def _mean_over_exams(values: ndarray, weights: ndarray) -> ndarray:
    return ratio(weights @ np.nan_to_num(values), weights @ ~np.isnan(values))
