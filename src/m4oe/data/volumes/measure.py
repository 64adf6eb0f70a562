"""What training pictures are like: grids, spacings, intensities. Axes: C channels · D, H, W as in a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from m4oe.data.dataset import located
from m4oe.data.readers import Geometry, read_labels, read_picture
from m4oe.data.table import Cohort
from m4oe.data.volumes.grids import labels_on
from m4oe.schema import Stream

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
    with located(cohort, place, f"input {stream.input!r}"):
        picture = read_picture(cohort.paths[stream.input][place], stream.kind)
    masks = dict(_masks(cohort, place, stream, picture.geometry))
    inside = [_few(picture.values[:, labels > 0].ravel()) for labels in masks.values()]
    return Measured(
        picture.shape,
        picture.spacing,
        picture.full_scale is None,
        np.concatenate(inside) if inside else np.empty(0, np.float32),
        {name: np.bincount(labels[labels >= 0], minlength=_classes(cohort, name)) for name, labels in masks.items()},
    )


def _masks(cohort: Cohort, place: int, stream: Stream, geometry: Geometry) -> Iterator[tuple[str, ndarray]]:
    """(task, labels on the picture's grid) of each mask that lies on the picture."""
    for name, task in cohort.study.tasks.items():
        path = cohort.labels[name][place] if task.on == stream.input else None
        if path is not None:
            with located(cohort, place, f"task {name!r}"):
                yield name, labels_on(geometry, read_labels(path, task.class_values, task.ignore), task.fix)


def _classes(cohort: Cohort, task: str) -> int:
    return len(cohort.study.tasks[task].class_names)


def _few(values: ndarray) -> ndarray:
    return values[:: max(1, len(values) // KEPT)]
