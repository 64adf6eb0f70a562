"""Predicting masks of images and volumes, one exam in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy import ndarray

from m4oe.artifact import Artifact
from m4oe.data.dataset import ExamDataset, located
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
from m4oe.predict.goals import Goal, goals_for, stream_for
from m4oe.predict.part import CASE_COLUMNS, Answer, Part, case_rows
from m4oe.predict.slicewise import Segmented, Slicewise
from m4oe.schema import Stream
from m4oe.study import Input


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

    def predict(self, inputs: Mapping[str, Any], *, explain: bool = False) -> Answer:
        """The masks for one exam, e.g. predict({"scan": "a.nii.gz"}); of each input those of the tasks that lie on it.

        A picture is a path, a list of paths (channels) or an array; labels are class indices. Where several tasks lie
        on an input, and labels are unified, there is the mask "unified" as well, in the order of `schema.unified`. Of
        a segmenter nothing is explained.
        Raises UserError for an unknown input and for a file that cannot be read.
        """
        masks: dict[str, ndarray] = {}
        for name, value in inputs.items():
            stream = stream_named(name, self.schema)
            masks |= self._segment(given_picture(stream, value), stream, self._goals_without_study(stream), 32).labels
        return Answer({}, {}, masks, self.artifact.withheld)

    def stream(self, dataset: ExamDataset, *, batch_size: int = 32, explain: bool = False) -> Iterator[Part]:
        """A Part for each exam of `dataset`: its masks, and its cases where it has true ones.

        batch_size: slices of the plan's size that go through the network together. `explain` is there so that both
        predictors are asked alike; of a segmenter nothing is explained.
        """
        for _, row in dataset.rows.iterrows():
            cohort = dataset.cohorts[row["study"]]
            place = int(np.flatnonzero(cohort.exams == row["exam"])[0])
            head = (cohort.study.name, row["exam"], cohort.patients[place], row.get("split", ""), row.get("fold", 0))
            for name in _pictures(cohort, place):
                yield self._part(cohort, place, name, head, batch_size)

    def _part(self, cohort: Cohort, place: int, name: str, head: tuple[Any, ...], batch_size: int) -> Part:
        """Of one picture of an exam."""
        masks: list[Mask] = []
        rows: list[tuple[Any, ...]] = []
        gate: Mapping[str, ndarray] = {}
        failed = {}
        try:
            with located(cohort, place, f"input {name!r}"):
                masks, gate = self._masks(cohort, place, name, batch_size)
            for mask in masks:
                with located(cohort, place, f"task {mask.task!r}"):
                    rows += self._cases(cohort, mask, head)
        except UserError as error:
            failed = {f"{head[0]}/{head[1]}": str(error)}
        return Part(masks=masks, cases=pd.DataFrame(rows, columns=CASE_COLUMNS), failed=failed, gate=gate)

    def _masks(
        self, cohort: Cohort, place: int, name: str, batch_size: int
    ) -> tuple[list[Mask], Mapping[str, ndarray]]:
        source, modality = cohort.study.inputs[name], str(cohort.modalities[name][place])
        stream = stream_for(self.schema, name, modality, source.kind, any_modality=self.any_modality)
        goals = goals_for(self.schema, self.settings.labels, stream, name, cohort.study)
        picture = read_picture(cohort.paths[name][place], source.kind)
        found = self._segment(picture, stream, goals, batch_size)
        exam = cohort.study.name, str(cohort.exams[place])
        masks = [Mask(*exam, g.task, found.labels[g.task], picture.geometry, g.classes) for g in goals]
        return masks, self._by_modality(found.gate, modality)

    def _segment(self, picture: Picture, stream: Stream, goals: tuple[Goal, ...], batch_size: int) -> Segmented:
        flips = self.settings.flips
        found = Slicewise(self.network, self.schema.plan, self.device, batch_size, flips).segment(
            picture, stream, goals
        )
        for goal in goals:
            names = list(goal.classes.values())
            largest_components(found.labels[goal.task], map(names.index, {*self.settings.largest_component} & {*names}))
        return found

    def _goals_without_study(self, stream: Stream) -> tuple[Goal, ...]:
        tasks = [task for task in self.schema.tasks if task.on == stream.input]
        goals = [Goal(task.name, label_set(task.classes, task.values), task.name) for task in tasks]
        if self.settings.labels == "unified" and len(tasks) != 1:
            goals.append(Goal(UNIFIED, label_set(self.schema.unified), UNIFIED))
        return tuple(goals)

    def _cases(self, cohort: Cohort, mask: Mask, head: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        """Rows of cases.csv; of a label set that the model was not trained for there are none."""
        for task in self.schema.tasks:
            if task.name == mask.task and task.classes == tuple(mask.classes.values()):
                yield from case_rows(cohort, mask, task, head)

    def _by_modality(self, gate: Mapping[str, ndarray], modality: str) -> dict[str, ndarray]:
        """{layer: (M, E)} with the sums (E,) in the row of `modality`; none of one that the model never saw."""
        if modality not in self.schema.modalities:
            return {}
        row = np.eye(len(self.schema.modalities))[self.schema.modalities.index(modality)]
        return {layer: np.outer(row, sums) for layer, sums in gate.items()}


def predictor_of(artifact: Artifact, device: torch.device | str = "cpu") -> Predictor | VolumePredictor:
    """What applies the model: to whole exams, or to volumes slice by slice."""
    return (Predictor if artifact.schema.plan is None else VolumePredictor)(artifact, device)


def _pictures(cohort: Cohort, place: int) -> list[str]:
    """Inputs of the exam at `place` that are pictures and are there: those on which masks lie, if there is one."""
    inputs: Mapping[str, Input] = cohort.study.inputs
    there = [name for name, source in inputs.items() if source.kind != "table" and cohort.modalities[name][place]]
    asked = {task.on for task in cohort.study.tasks.values()}
    return [name for name in there if name in asked] or there
