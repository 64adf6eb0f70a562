"""Single cases of a segmenter: which are shown, and the slice of each on which picture, truth and prediction lie.

Axes: C channels · S slices · H, W rows and columns of a slice, as a reader expects it: the patient's front and right
side are up and left, where files say how they lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy import ndarray

from m4oe.data.readers import Picture, read_labels, read_picture
from m4oe.data.volumes.grids import labels_on
from m4oe.data.volumes.prepare import Way, way_of
from m4oe.errors import UserError
from m4oe.masks import Mask, label_set, true_mask
from m4oe.predict.goals import stream_for
from m4oe.report.folder import KEY, RunFolder
from m4oe.report.pictures import facing
from m4oe.schema import Preparation, Stream, TaskSpec

if TYPE_CHECKING:
    from m4oe.data.table import Cohort


@dataclass(frozen=True)
class Case:
    """An exam of a task and why it is shown. rows: its rows of cases.csv · dice: their mean."""

    task: TaskSpec
    rank: str
    study: str
    exam: str
    patient: str
    dice: float
    rows: pd.DataFrame


@dataclass(frozen=True, eq=False)
class View:
    """A slice of a case. truth, prediction: stacks (S, H, W) of class indices, -100 where nothing counts, or None ·
    `number` is that of the slice, from 0 · why: the reason for it, in words."""

    picture: Picture
    stream: Stream
    preparation: Preparation
    way: Way
    truth: ndarray | None
    prediction: ndarray | None
    number: int
    why: str

    def plane(self, stack: ndarray) -> ndarray:
        """The slice of a stack (S, ..., H, W) as a reader expects it."""
        return self.turned(stack[self.number])

    def turned(self, plane: ndarray) -> ndarray:
        """(..., H, W) of the picture's own grid as a reader expects it."""
        return facing(plane, self.picture)

    @property
    def pixels(self) -> ndarray:
        """(C, H, W): one channel, or three of colour."""
        plane = self.plane(self.way.stack(self.picture.values))
        return plane if self.picture.colour else plane[:1]

    @property
    def spacing(self) -> tuple[float, ...] | None:
        """mm between rows and between columns."""
        told, flat = self.picture.spacing, self.picture.values.ndim == 3
        return told and tuple(mm for axis, mm in enumerate(told) if flat or axis != self.way.axis)


def cases_of(run: RunFolder, task: TaskSpec) -> list[Case]:
    """Best, median and worst exam of the split by mean Dice; of two exams best and worst, of one that one.

    Of an even number the lower of both in the middle; exams without a Dice, both masks being empty, do not count.
    """
    if run.cases is None:
        return []
    rows = run.cases[(run.cases["split"] == run.split) & (run.cases["task"] == task.name)]
    mean = rows.groupby([*KEY, "patient"], sort=False)["dice"].mean().dropna().sort_values(kind="stable")
    if not len(mean):
        return []
    last = len(mean) - 1
    places = {last: "Best" if last else "The only case", last // 2: "Median", 0: "Worst"} if last > 1 else {}
    places = places or ({1: "Best", 0: "Worst"} if last else {0: "The only case"})
    return [_case(task, rank, mean.index[place], float(mean.iloc[place]), rows) for place, rank in places.items()]


def _case(task: TaskSpec, rank: str, key: tuple[str, str, str], dice: float, rows: pd.DataFrame) -> Case:
    study, exam, patient = (str(part) for part in key)
    return Case(task, rank, study, exam, patient, dice, rows[(rows["study"] == study) & (rows["exam"] == exam)])


def view_of(run: RunFolder, case: Case, cohort: Cohort) -> View:
    """The slice of a case with most of the truth, of the worst case that with most errors.

    Of a case without truth that with most of the prediction.

    Raises UserError and OSError for files that are gone or damaged.
    """
    if run.schema is None or run.schema.plan is None:
        raise UserError(f"{run.path}: has no model, which says how pictures become slices")
    name = str(case.task.on)
    place = _place(case, cohort, name)
    source, modality = cohort.study.inputs[name], str(cohort.modalities[name][place])
    stream, plan = stream_for(run.schema, name, modality, source.kind, any_modality=True), run.schema.plan
    preparation = plan.streams[stream.name]
    picture = read_picture(cohort.paths[name][place], source.kind)
    way = way_of(picture.shape, picture.spacing, preparation, plan.size)
    truth, said = (None if mask is None else way.stack(mask) for mask in _masks(run, case, cohort, picture))
    telling = telling_slice(truth, said, way.slices, errors=case.rank == "Worst")
    return View(picture, stream, preparation, way, truth, said, *telling)


def _place(case: Case, cohort: Cohort, input: str) -> int:
    """Where the case stands in its study's table, which may have changed since the run was made."""
    found = np.flatnonzero((cohort.exams == case.exam) & cohort.present(input))
    if not len(found):
        raise UserError(f"{cohort.study.table_path}: exam {case.exam!r} has no {input!r} any more")
    return int(found[0])


def _masks(run: RunFolder, case: Case, cohort: Cohort, picture: Picture) -> tuple[ndarray | None, ndarray | None]:
    """Truth and prediction on the picture's grid, as far as there are files."""
    task, file = cohort.study.tasks[case.task.name], run.mask(case.study, case.exam, case.task.name)
    number = {name: value for value, name in label_set(task.class_names, task.class_values).items()}
    classes = {number[name]: name for name in case.task.classes}
    said = None if file is None else labels_on(picture.geometry, read_labels(str(file), list(classes)))
    mask = Mask(case.study, case.exam, case.task.name, np.empty(0), picture.geometry, classes)
    return true_mask(cohort, mask), said


def telling_slice(truth: ndarray | None, prediction: ndarray | None, count: int, *, errors: bool) -> tuple[int, str]:
    """Of masks (S, H, W) the slice with the most pixels of the truth, or with `errors` of those that are wrong; where
    there are none, with the most of the prediction; and why it is that one.

    Pixels of -100 count for nothing; where nothing is marked it is the middle one of `count`.
    """
    counted = truth is None or truth >= 0
    chosen: dict[str, ndarray] = {}
    if errors and truth is not None and prediction is not None:
        chosen["where most pixels are wrong"] = (truth != prediction) & counted
    for name, stack in (("truth", truth), ("prediction", prediction)):
        if stack is not None:
            chosen[f"where the {name} is largest"] = (stack > 0) & counted
    for why, pixels in chosen.items():
        if pixels.any():
            return int(pixels.sum((1, 2)).argmax()), why
    return count // 2, "in the middle"
