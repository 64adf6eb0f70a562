"""How masks are scored: Dice, IoU, HD95 and NSD of each class and region of an exam, and their means over exams.

Axes: R resamples, P exams, K classes and regions. Both masks empty: excluded and counted; exactly one empty: Dice,
IoU and NSD 0, no HD95, counted as missed or invented.
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
SCORES = ("dice", "iou", "hd95", "nsd")
TOLERANCE_MM = 1.0
ROUNDING_MM = 1e-3  # headers round: pixels of 1.0000001 mm are of 1 mm


# The key `class` is a Python keyword, hence the functional form.
CaseRow = TypedDict("CaseRow", {"class": str, "dice": float, "iou": float, "hd95": float, "nsd": float, "outcome": str})
Box = tuple[slice, ...]


def structures(task: TaskSpec) -> dict[str, tuple[int, ...]]:
    """What is scored: {name: class indices} of every foreground class and every region."""
    singles = {name: (index,) for index, name in enumerate(task.classes) if index > 0}
    return singles | {
        region: tuple(task.classes.index(name) for name in members) for region, members in task.regions.items()
    }


def case_metrics(prediction: ndarray, truth: ndarray, task: TaskSpec, spacing: Sequence[float] | None) -> list[CaseRow]:
    """The rows of cases.csv of one exam; prediction, truth: class indices of one shape, truth -100 not counted.

    spacing: mm along each axis; hd95 and nsd are NaN where it is None. All scores of two empty masks are NaN.
    """
    from scipy.ndimage import find_objects

    # Classes from 1 on, so that 0 is what does not count: each class is then looked at within its own box alone.
    count, kind, counted = len(task.classes), np.uint8 if len(task.classes) < 255 else np.uint16, truth != IGNORED
    said, true = ((labels.astype(kind) + kind(1)) * counted for labels in (prediction, truth))
    boxes = [(*pair,) for pair in zip(find_objects(said, count), find_objects(true, count), strict=True)]
    rows = []
    for name, members in structures(task).items():
        box = _around([box for index in members for box in boxes[index] if box is not None], truth.ndim)
        labels = [index + 1 for index in members]
        rows.append(_score(name, np.isin(said[box], labels), np.isin(true[box], labels), spacing))
    return rows


def _around(boxes: Sequence[Box], axes: int) -> Box:
    """The smallest box that holds all `boxes`; an empty one where there is none."""
    if not boxes:
        return (slice(0, 0),) * axes
    return tuple(slice(min(side.start for side in sides), max(side.stop for side in sides)) for sides in zip(*boxes))


def _score(name: str, prediction: ndarray, truth: ndarray, spacing: Sequence[float] | None) -> CaseRow:
    both, said, true = (int(mask.sum()) for mask in (prediction & truth, prediction, truth))
    outcome = OUTCOMES[2 * (not true) + (not said)]
    far, near = np.nan, np.nan
    if spacing is not None and outcome == "scored":
        distances = surface_distances(prediction, truth, spacing)
        far, near = hd95(*distances), nsd(*distances)
    elif spacing is not None and outcome != "empty":
        near = 0.0
    return {
        "class": name,
        "dice": 2 * both / (said + true) if said + true else np.nan,
        "iou": both / (said + true - both) if said + true else np.nan,
        "hd95": far,
        "nsd": near,
        "outcome": outcome,
    }


def surface_distances(a: ndarray, b: ndarray, spacing: Sequence[float]) -> tuple[ndarray, ndarray]:
    """mm from each pixel of the surface of `a` to the nearest of that of `b`, and the other way round.

    a, b: bool masks of one shape, neither empty. A surface is the mask's pixels with a face outside it; the border
    of the array is outside.
    """
    from scipy.spatial import cKDTree

    first, second = (_surface(mask) * np.asarray(spacing, float) for mask in (a, b))
    return cKDTree(second).query(first)[0], cKDTree(first).query(second)[0]


def _surface(mask: ndarray) -> ndarray:
    """(n, axes) pixels of `mask` that are of its surface."""
    from scipy.ndimage import binary_erosion

    return np.argwhere(mask & ~binary_erosion(mask))


def hd95(from_a: ndarray, from_b: ndarray) -> float:
    """95th percentile in mm of the distances from one surface to the other, the larger of both directions."""
    return float(max(np.percentile(from_a, 95), np.percentile(from_b, 95)))


def nsd(from_a: ndarray, from_b: ndarray, tolerance: float = TOLERANCE_MM) -> float:
    """Normalised surface distance, 0 to 1: the share of the pixels of both surfaces that lie within `tolerance` mm of
    the other surface, to a micrometre."""
    distances = np.concatenate([from_a, from_b])
    return float((distances <= tolerance + ROUNDING_MM).mean())


def segmentation_sample(
    task: TaskSpec, target: ndarray, probability: ndarray, training: ndarray | None = None
) -> Sample:
    """target (P, *size) class index, -100 not counted; probability (P, C, *size). Overlaps only, no distances."""
    exams = zip(probability.argmax(1), target, strict=True)
    rows = [case_metrics(said, true, task, None) for said, true in exams]
    return cases_sample(*(np.array([[row[name] for row in exam] for exam in rows]) for name in (*SCORES, "outcome")))


def cases_sample(*columns: ndarray) -> Sample:
    """Each (P, K), a column of cases.csv by exam and structure: SCORES, NaN where excluded, and the outcome."""
    return Sample(_segmentation, columns)


def structure_samples(task: TaskSpec, sample: Sample) -> dict[str, tuple[ndarray, Sample]]:
    """{class or region: (all rows, its own sample)}."""
    rows = np.arange(len(sample))
    return {
        name: (rows, cases_sample(*(array[:, k : k + 1] for array in sample.arrays)))
        for k, name in enumerate(structures(task))
    }


def _segmentation(*columns: ndarray) -> dict[str, ndarray]:
    """Means over exams, then over structures; counts of (exam, structure) pairs. The last column is the weights."""
    *scores, outcome, weights = columns
    counts = {word: weights @ (outcome == word).sum(1) for word in OUTCOMES[1:]}
    means = {name: mean_defined(_mean_over_exams(values, weights).T) for name, values in zip(SCORES, scores)}
    return means | counts


def _mean_over_exams(values: ndarray, weights: ndarray) -> ndarray:
    return ratio(weights @ np.nan_to_num(values), weights @ ~np.isnan(values))
