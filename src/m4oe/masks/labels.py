"""Labels on the grid of the picture on which they lie: as predicted, and as they should be.

Axes: C classes · D, H, W slices, rows, columns of the picture as read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy import ndarray

from m4oe.data.readers import Geometry, read_labels
from m4oe.data.samples import Sample
from m4oe.data.table import Cohort
from m4oe.data.volumes.grids import labels_on
from m4oe.errors import UserError
from m4oe.schema import TaskSpec
from m4oe.study import Task, one_spelling
from m4oe.tasks.segmentation import IGNORED


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

    Classes are found by name, whatever their order here and there. Raises UserError where it cannot be read, where it
    has a class that `mask` lacks, and where it does not lie on the picture and the study offers no fix.
    """
    if mask.task not in cohort.labels:
        return None
    path = cohort.labels[mask.task][int(np.flatnonzero(cohort.exams == mask.exam)[0])]
    task = cohort.study.tasks[mask.task]
    if path is None:
        return None
    values = label_set(task.class_names, task.class_values)
    pairs = sorted(zip(_places(task, tuple(mask.classes.values())), values, strict=True))
    found = read_labels(path, [value for _, value in pairs], task.ignore)
    indices = _renumbered(found.values, [place for place, _ in pairs])
    return labels_on(mask.geometry, replace(found, values=indices), task.fix)


def _renumbered(indices: ndarray, places: list[int]) -> ndarray:
    """`indices` as those of `places`; what counts for nothing stays."""
    if places == list(range(len(places))):
        return indices
    table = np.array([*places, IGNORED], indices.dtype)
    return table[np.maximum(indices, -1)]  # -100 is brought to -1, the last of the table


def _places(task: Task, classes: Sequence[str]) -> Iterator[int]:
    """Of each class of `task` its index among `classes`: that of its name, or of the synonym of it."""
    place = {one_spelling(name): index for index, name in enumerate(classes)}
    for name in task.class_names:
        synonyms = task.comprises(name)
        meant = (one_spelling(name), *synonyms[: len(synonyms) == 1])  # of several none is the class
        index = next((place[word] for word in meant if word in place), None)
        if index is None:
            raise UserError(f"the true mask has the class {name!r}, and the predicted one has {', '.join(classes)}")
        yield index


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
