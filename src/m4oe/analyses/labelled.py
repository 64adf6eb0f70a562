"""The labelled exams of a run's own predictions: validation, on which things are chosen, and test, which reports."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy import ndarray

from m4oe.analyses.subject import Subject
from m4oe.evaluate import read_table
from m4oe.evaluate.exams import Exams, read_exams

FEWEST_OF_INPUTS = 20  # exams of a combination of inputs below which it is not looked at by itself


def labelled(subject: Subject) -> Iterator[tuple[Exams, Exams]]:
    """(validation, test) of each task that has labelled test exams in predictions.csv."""
    file = subject.folder / "predictions.csv"
    if not file.is_file():
        return
    for exams in read_exams(read_table(file), None, subject.artifact.schema, subject.training_labels):
        split = exams.about["split"].to_numpy()
        validation, test = (exams.take(np.flatnonzero(split == name)) for name in ("validation", "test"))
        if len(test):
            yield validation, test


def by_inputs(exams: Exams) -> Iterator[tuple[str, ndarray]]:
    """(combination, its exams) of the combinations of inputs of which there are 20 exams, the most common first."""
    inputs = exams.about["inputs"].to_numpy(dtype=object)
    names, counts = np.unique(inputs, return_counts=True)
    for place in np.argsort(-counts, kind="stable"):
        if counts[place] >= FEWEST_OF_INPUTS and names[place]:
            yield str(names[place]), np.flatnonzero(inputs == names[place])
