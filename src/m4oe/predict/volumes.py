"""Predicting masks of images and volumes, one exam in memory at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy import ndarray

from m4oe.artifact import Artifact
from m4oe.data.dataset import ExamDataset, located
from m4oe.data.described import pictures_of
from m4oe.data.readers import Picture, read_picture
from m4oe.data.samples import given_picture, stream_named
from m4oe.data.table import Cohort
from m4oe.device import has_fast_bf16
from m4oe.errors import UserError
from m4oe.masks import Mask, label_set, largest_components
from m4oe.moe import ModalityRouter
from m4oe.moe.forms import lay_out
from m4oe.nets.segmenter import UNIFIED
from m4oe.predict.exams import Predictor
from m4oe.predict.goals import Goal, goals_for, meant_by, scored_as, stream_for, without
from m4oe.predict.part import CASE_COLUMNS, Answer, Part, case_rows
from m4oe.predict.slicewise import Segmented, Slicewise
from m4oe.schema import Stream, TaskSpec
from m4oe.study import Study
from m4oe.tasks.segmentation_metrics import structures

CLASS = CASE_COLUMNS.index("class")


class VolumePredictor:
    """A trained segmenter, ready: slices go through the network in batches, masks come out on the input's own grid."""

    def __init__(self, artifact: Artifact, device: torch.device | str = "cpu") -> None:
        self.artifact, self.schema = artifact, artifact.schema
        self.device = torch.device(device)
        self.network = artifact.network.to(self.device).eval()
        if self.device.type == "cpu" and has_fast_bf16(self.device):
            lay_out(self.network)
        self.settings = artifact.model.segmenter
        # With routing by modality a picture of an unknown one has no expert; a gate looks at the picture itself.
        self.any_modality = not any(isinstance(module, ModalityRouter) for module in self.network.modules())

    @property
    def takes_any_scan(self) -> bool:
        """Whether a picture gets a mask of which nobody says modality or study."""
        return self.any_modality and self.settings.labels == "unified"

    def predict(self, inputs: Mapping[str, Any], *, explain: bool = False) -> Answer:
        """The masks for one exam, e.g. predict({"scan": "a.nii.gz"}); of each input those of the tasks that lie on it.

        A picture is a path, a list of paths (channels) or an array; labels are class indices. Where several tasks lie
        on an input, and labels are unified, there is the mask "unified" as well, in the order of `schema.unified`. A
        task of which several inputs have a mask is called after each of them: "scan@ct__unified". Of a segmenter
        nothing is explained.
        Raises UserError for an unknown input and for a file that cannot be read.
        """
        found: dict[str, dict[str, ndarray]] = {}
        for name, value in inputs.items():
            stream = stream_named(name, self.schema)
            goals = self._goals_without_study(stream)
            found[name] = self._segment(given_picture(stream, value), stream, goals, 32).labels
        return Answer({}, {}, _by_name(found), self.artifact.withheld)

    def stream(self, dataset: ExamDataset, *, batch_size: int = 32, explain: bool = False) -> Iterator[Part]:
        """A Part for each exam of `dataset`: its masks, and its cases where it has true ones.

        batch_size: slices of the plan's size that go through the network together. `explain` is there so that both
        predictors are asked alike; of a segmenter nothing is explained.
        """
        for row, cohort, place in _exams(dataset):
            head = (cohort.study.name, row["exam"], cohort.patients[place], row.get("split", ""), row.get("fold", 0))
            for name in _pictures(cohort, place):
                yield self._part(cohort, place, name, head, batch_size)

    def scored(self, dataset: ExamDataset) -> list[TaskSpec]:
        """The tasks as which masks of `dataset` will be scored, each once. No file is read."""
        found: dict[str, TaskSpec] = {}
        for _, cohort, place in _exams(dataset):
            for name in _pictures(cohort, place):
                found |= {task.model_dump_json(): task for task in self._scored_of(cohort, place, name)}
        return list(found.values())

    def _scored_of(self, cohort: Cohort, place: int, name: str) -> list[TaskSpec]:
        try:
            _, goals = self._asked(cohort, place, name)
        except UserError:  # it is told of the exam, when its turn comes
            return []
        tasks = [(goal, scored_as(goal, cohort.study, self.schema)) for goal in goals]
        return [without(task, goal.unscored) for goal, task in tasks if task is not None]

    def _part(self, cohort: Cohort, place: int, name: str, head: tuple[Any, ...], batch_size: int) -> Part:
        """Of one picture of an exam. A task of it that fails takes nothing from the others."""
        try:
            with located(cohort, place, f"input {name!r}"):
                stream, goals = self._asked(cohort, place, name)
                part = self._predicted(cohort, place, name, stream, goals, batch_size)
        except UserError as error:
            return Part(failed={_called(head): str(error)})
        rows, reasons = [], []
        for goal, mask in zip(goals, part.masks, strict=True):
            try:
                with located(cohort, place, f"task {goal.task!r}"):
                    rows += self._cases(cohort, mask, goal, head)
            except UserError as error:
                reasons.append(str(error))
        failed = {_called(head): "; ".join(reasons)} if reasons else {}
        return replace(part, cases=pd.DataFrame(rows, columns=CASE_COLUMNS), failed=failed)

    def _asked(self, cohort: Cohort, place: int, name: str) -> tuple[Stream, tuple[Goal, ...]]:
        """By which stream the picture goes in, and which label sets come out."""
        modality, kind = str(cohort.modalities[name][place]), cohort.study.inputs[name].kind
        stream = stream_for(self.schema, name, modality, kind, any_modality=self.any_modality)
        return stream, goals_for(self.schema, self.settings.labels, stream, name, cohort.study)

    def _predicted(
        self, cohort: Cohort, place: int, name: str, stream: Stream, goals: tuple[Goal, ...], batch_size: int
    ) -> Part:
        """The masks of one picture, with what is to be told of it."""
        study, modality = cohort.study, str(cohort.modalities[name][place])
        picture = read_picture(cohort.paths[name][place], study.inputs[name].kind)
        found = self._segment(picture, stream, goals, batch_size)
        exam, of = (study.name, str(cohort.exams[place])), picture.geometry
        masks = [Mask(*exam, g.task, found.labels[g.task], of, g.classes, _told(study, name, g)) for g in goals]
        notes = (*_notes(modality, stream, goals), *_left_out(study, name, goals))
        return Part(masks=masks, notes=notes, gate={modality: found.gate})

    def _cases(self, cohort: Cohort, mask: Mask, goal: Goal, head: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """The rows of one mask: of the study's own label sets, and of classes the model knows."""
        task = scored_as(goal, cohort.study, self.schema)
        if task is None:
            return []
        names = structures(without(task, goal.unscored))
        return [row for row in case_rows(cohort, mask, task, head) if row[CLASS] in names]

    def _segment(self, picture: Picture, stream: Stream, goals: tuple[Goal, ...], batch_size: int) -> Segmented:
        flips = self.settings.flips
        found = Slicewise(self.network, self.schema.plan, self.device, batch_size, flips).segment(
            picture, stream, goals
        )
        for goal in goals:
            largest_components(found.labels[goal.task], meant_by(self.settings.largest_component, goal, self.schema))
        return found

    def _goals_without_study(self, stream: Stream) -> tuple[Goal, ...]:
        tasks = [task for task in self.schema.tasks if task.on == stream.input]
        goals = [Goal(task.name, label_set(task.classes, task.values), task.name) for task in tasks]
        if self.settings.labels == "unified" and len(tasks) != 1:
            goals.append(Goal(UNIFIED, label_set(self.schema.unified), UNIFIED))
        return tuple(goals)


def predictor_of(artifact: Artifact, device: torch.device | str = "cpu") -> Predictor | VolumePredictor:
    """What applies the model: to whole exams, or to volumes slice by slice."""
    return (Predictor if artifact.schema.plan is None else VolumePredictor)(artifact, device)


def _by_name(found: Mapping[str, Mapping[str, ndarray]]) -> dict[str, ndarray]:
    """{input: {task: labels}} as {task: labels}; {INPUT__TASK: labels} of a task that several inputs have."""
    times = Counter(task for of_one in found.values() for task in of_one)
    return {
        task if times[task] == 1 else f"{name}__{task}": labels
        for name, of_one in found.items()
        for task, labels in of_one.items()
    }


def _told(study: Study, name: str, goal: Goal) -> str | None:
    """The input `name` where the label set does not tell it: a task lies on one, any other set on all of the study."""
    return None if goal.own or len(pictures_of(study)) == 1 else name


def _called(head: tuple[Any, ...]) -> str:
    return f"{head[0]}/{head[1]}"


def _exams(dataset: ExamDataset) -> Iterator[tuple[pd.Series, Cohort, int]]:
    """(row of `dataset`, its cohort, the exam's place in that)."""
    for _, row in dataset.rows.iterrows():
        cohort = dataset.cohorts[row["study"]]
        yield row, cohort, int(np.flatnonzero(cohort.exams == row["exam"])[0])


def _notes(modality: str, stream: Stream, goals: Iterable[Goal]) -> Iterator[str]:
    if stream.modality != modality:
        yield f"modality {modality!r} was never trained: its pictures were prepared as those of {stream.modality!r} are"
    for goal in goals:
        if goal.unknown:
            names = ", ".join(goal.unknown)
            yield f"task {goal.task!r}: the model does not know {names}: in no mask, and not scored"
        for name, parts in goal.lacking.items():
            yield (
                f"task {goal.task!r}: of {name} the model does not know {', '.join(parts)}: "
                "masks show the rest of it, and it is not scored"
            )


def _left_out(study: Study, input: str, goals: Iterable[Goal]) -> Iterator[str]:
    own = {goal.task for goal in goals if goal.own}
    for name, task in study.tasks.items():
        if task.kind == "segmentation" and task.on == input and name not in own:
            yield f"study {study.name!r}: the model does not understand task {name!r}: in no mask, and not scored"


def _pictures(cohort: Cohort, place: int) -> list[str]:
    """Inputs of the exam at `place` that are pictures and are there: those on which masks lie, if there is one."""
    there = [name for name in pictures_of(cohort.study) if cohort.modalities[name][place]]
    asked = {task.on for task in cohort.study.tasks.values()}
    return [name for name in there if name in asked] or there
