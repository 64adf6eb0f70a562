"""What training pictures are like: grids, spacings, intensities. Axes: C channels · D, H, W as in a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from m4oe.data.readers import Picture, read_labels, read_picture
from m4oe.data.table import Cohort
from m4oe.schema import Stream
from m4oe.study import Task

MEASURED = 16  # pictures of a stream and a study that are decoded, spread evenly over the exams by name
KEPT = 20_000  # foreground values kept of one picture


@dataclass(frozen=True, eq=False)
class Measured:
    """One picture: grid, spacing, whether it has a physical unit, values within annotated foreground (n,), and pixels
    of each class by task."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...] | None
    physical: bool
    foreground: ndarray
    counts: dict[str, ndarray]


def measure(cohorts: Sequence[Cohort], stream: Stream) -> list[Measured]:
    """Up to 16 pictures of `stream` from each cohort, spread evenly over its exams by name.

    Raises UserError for a picture or a mask that cannot be read.
    """
    return [
        _one(cohort, place, stream)
        for cohort in cohorts
        if stream.input in cohort.paths
        for place in _some(cohort, stream)
    ]


def _some(cohort: Cohort, stream: Stream) -> list[int]:
    places = np.flatnonzero(cohort.modalities[stream.input] == stream.modality).tolist()
    places.sort(key=lambda place: cohort.paths[stream.input][place])
    chosen = np.unique(np.linspace(0, len(places) - 1, MEASURED).round().astype(int)) if places else []
    return [places[index] for index in chosen]


def _one(cohort: Cohort, place: int, stream: Stream) -> Measured:
    picture = read_picture(cohort.paths[stream.input][place], stream.kind)
    counts, inside = {}, []
    for name, task in cohort.study.tasks.items():
        path = cohort.labels[name][place] if task.on == stream.input else None
        if path is not None:
            labels = read_labels(path, [int(value) for value in task.class_values], task.ignore).values[0]
            counts[name] = np.bincount(labels[labels >= 0].ravel(), minlength=len(task.class_names))
            inside.append(_within(picture, labels, task))
    foreground = np.concatenate(inside) if inside else np.empty(0, np.float32)
    return Measured(picture.shape, picture.spacing, picture.full_scale is None, foreground, counts)


def _within(picture: Picture, labels: ndarray, task: Task) -> ndarray:
    """Values of the picture where the mask is of a class that is not background; few are enough."""
    if labels.shape != picture.shape:
        return np.empty(0, np.float32)  # the cache says so with all that is known of both grids
    values = picture.values[:, labels > 0].ravel()
    return values[:: max(1, len(values) // KEPT)]
