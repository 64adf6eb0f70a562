"""Labels on the grid of the picture on which they lie: as predicted, and as they should be.

Axes: C classes · D, H, W slices, rows, columns of the picture as read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy import ndarray

from m4oe.data.readers import Geometry, read_labels
from m4oe.data.samples import Sample
from m4oe.data.table import Cohort
from m4oe.data.volumes.grids import labels_on
from m4oe.schema import TaskSpec


@dataclass(frozen=True, eq=False)
class Mask:
    """labels (H, W) or (D, H, W) uint8 or uint16: class indices, on the grid of the picture of `geometry`.

    classes: {value in a file: name} in the order of the indices · input: of the picture, where `task` does not tell it.
    """

    study: str
    exam: str
    task: str
    labels: ndarray
    geometry: Geometry
    classes: Mapping[int, str]
    input: str | None = None


def label_set(classes: Sequence[str], values: Iterable[object] = ()) -> dict[int, str]:
    """{value in a file: name} of `classes`; without `values` their indices."""
    numbers = [int(str(value)) for value in values] or range(len(classes))
    return dict(zip(numbers, classes, strict=True))


def mask_of(scores: ndarray, sample: Sample, stream: str, task: TaskSpec) -> Mask:
    """The mask of one exam from class scores (C, *size) on the network's grid."""
    original = sample.fits[stream].invert(torch.from_numpy(scores))
    labels = original.argmax(0).to(torch.uint8).numpy()
    classes = label_set(task.classes, task.values)
    return Mask(sample.study, sample.exam, task.name, labels, sample.geometry[stream], classes)


def true_mask(cohort: Cohort, mask: Mask) -> ndarray | None:
    """The exam's own mask on the same grid in the same class indices, -100 where nothing counts; None without one.

    Raises UserError where it cannot be read, or does not lie on the picture and the study offers no fix.
    """
    if mask.task not in cohort.labels:
        return None
    path = cohort.labels[mask.task][int(np.flatnonzero(cohort.exams == mask.exam)[0])]
    task = cohort.study.tasks[mask.task]
    if path is None:
        return None
    values = label_set(task.class_names, task.class_values)
    number = {name: value for value, name in values.items()}
    in_order = [number[name] for name in mask.classes.values() if name in number]
    found = read_labels(path, in_order if len(in_order) == len(values) else list(values), task.ignore)
    return labels_on(mask.geometry, found, task.fix)


def largest_components(labels: ndarray, indices: Iterable[int]) -> None:
    """Of each class in `indices`, all but the largest part becomes background (index 0), in `labels` themselves.

    Parts touch by faces; of two of one size the first stays.
    """
    from scipy.ndimage import find_objects, label

    boxes = find_objects(labels)
    for index in indices:
        box = boxes[index - 1] if index <= len(boxes) else None
        if box is not None:
            within = labels[box]
            parts = label(within == index)[0]
            largest = np.bincount(parts.ravel())[1:].argmax() + 1
            within[(parts != largest) & (parts > 0)] = 0
