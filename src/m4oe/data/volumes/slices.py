"""Slices of prepared volumes as samples, for training and validation. Axes: S slices · C channels · K classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from numpy import ndarray

from m4oe.data.dataset import places_of
from m4oe.data.samples import Sample
from m4oe.data.table import Cohort
from m4oe.data.volumes.cache import SliceCache
from m4oe.data.volumes.views import View, centred, sample_view
from m4oe.errors import UserError
from m4oe.schema import Schema, Stream, TaskSpec

FORCED = 1 / 3  # share of draws that hold a class chosen at random


@dataclass(frozen=True, eq=False)
class Stack:
    """The slices of one exam in one stream, with the masks that lie on them.

    counts {task: (S, K)}: pixels of each class · floor: what stands outside of the picture · split, fold: as the rows
    of the data set say.
    """

    cohort: Cohort
    place: int
    stream: Stream
    tasks: tuple[TaskSpec, ...]
    counts: dict[str, ndarray]
    floor: float
    split: str
    fold: int

    @cached_property
    def labelled(self) -> ndarray:
        """(n,) slices on which at least one pixel counts."""
        return np.flatnonzero(sum(count.sum(1) for count in self.counts.values()))

    def task(self, name: str) -> int:
        """The place of a task among those of this stack."""
        return [task.name for task in self.tasks].index(name)


class SliceDataset(torch.utils.data.Dataset[Sample]):
    """Slices of the exams in `rows` (columns study, exam; split and fold if there) as samples of one size, the plan's.

    draws: slices an epoch, drawn in balance over studies, exams and classes, each decided by (seed, epoch, number)
    alone; None: every slice on which a pixel counts, in order, its middle, unchanged. augment: strength, 0 is none.
    Every volume is prepared when the data set is made, unless the cache has it; afterwards no file is decoded.
    Raises UserError for what cannot be read, and, of draws, for a task whose every mask is empty.
    """

    def __init__(
        self,
        cohorts: Sequence[Cohort],
        rows: pd.DataFrame,
        schema: Schema,
        cache: SliceCache,
        *,
        augment: float = 0.0,
        seed: int = 0,
        draws: int | None = None,
    ) -> None:
        self.rows, self.schema, self.cache = rows.reset_index(drop=True), schema, cache
        self.augment, self.seed, self.draws = augment, seed, draws
        self._stacks = _stacks({cohort.study.name: cohort for cohort in cohorts}, self.rows, schema, cache)
        self._slices = [(stack, slice_) for stack in self._stacks for slice_ in stack.labelled.tolist()]
        if draws is not None:
            _refuse_empty(self._stacks, schema)
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that persist see it change

    def __len__(self) -> int:
        return len(self._slices) if self.draws is None else self.draws

    def set_epoch(self, epoch: int) -> None:
        """Draws of this epoch from now on, in the workers as well."""
        self._epoch.fill_(epoch)

    def __getitem__(self, number: int) -> Sample:
        if self.draws is None:
            stack, slice_ = self._slices[number]
            masks = self._masks(stack, slice_)
            return self._sample(stack, slice_, masks, centred(masks.shape[1:], self.size))
        rng = np.random.default_rng([self.seed, int(self._epoch), number])
        stack, slice_, sought = self._balance.draw(rng)
        masks = self._masks(stack, slice_)
        around = None if sought is None else _pixel_of(rng, masks[sought[0]], sought[1])
        view = sample_view(rng, masks.shape[1:], self.size, stack.stream.kind, self.augment, around)
        return self._sample(stack, slice_, masks, view)

    @property
    def size(self) -> tuple[int, int]:
        return self.cache.plan.size

    @cached_property
    def _balance(self) -> Balance:
        return Balance(self._stacks)

    def _masks(self, stack: Stack, slice_: int) -> ndarray:
        """(T, h, w) of the stack's tasks."""
        return np.stack([self.cache.masks(stack.cohort, stack.place, task)[slice_] for task in stack.tasks])

    def _sample(self, stack: Stack, slice_: int, masks: ndarray, view: View) -> Sample:
        pictures = self.cache.pictures(stack.cohort, stack.place, stack.stream)
        values = with_neighbours(pictures, slice_, self.cache.plan.context)
        labels = torch.from_numpy(masks.astype(np.int64))
        picture, labels = view.apply(torch.from_numpy(values), labels, self.size, stack.floor)
        return Sample(
            study=stack.cohort.study.name,
            exam=str(stack.cohort.exams[stack.place]),
            patient=str(stack.cohort.patients[stack.place]),
            inputs={stack.stream.name: picture},
            targets={task.name: label for task, label in zip(stack.tasks, labels)},
            split=stack.split,
            fold=stack.fold,
        )


def with_neighbours(slices: ndarray, place: int, context: int) -> ndarray:
    """Slice `place` of (S, C, h, w) with `context` neighbours on either side as further channels, float32.

    (C * (2 * context + 1), h, w), in the order of the stack; beyond its ends the last slice repeats.
    """
    places = np.clip(np.arange(place - context, place + context + 1), 0, len(slices) - 1)
    return np.concatenate([slices[near] for near in places]).astype(np.float32)


class Balance:
    """Which slice to draw. Studies and modalities count alike, so that a small one is not lost beside a large one; a
    third of draws is of a class other than background, all classes of a study alike; within these, exams count alike.
    """

    def __init__(self, stacks: Sequence[Stack]) -> None:
        groups: dict[tuple[str, str], list[Stack]] = {}
        for stack in stacks:
            if len(stack.labelled):
                groups.setdefault((stack.cohort.study.name, stack.stream.name), []).append(stack)
        self.groups = list(groups.values())
        self.classes = [_classes(group) for group in self.groups]

    def draw(self, rng: np.random.Generator) -> tuple[Stack, int, tuple[int, int] | None]:
        """A stack, a slice of it, and (place of a task in the stack's, class) of which it is sure to hold a pixel."""
        group, forced = int(rng.integers(len(self.groups))), rng.random() < FORCED
        if forced and self.classes[group]:
            task, index, having = self.classes[group][rng.integers(len(self.classes[group]))]
            stack = having[rng.integers(len(having))]
            return stack, int(rng.choice(np.flatnonzero(stack.counts[task][:, index]))), (stack.task(task), index)
        stack = self.groups[group][rng.integers(len(self.groups[group]))]
        return stack, int(rng.choice(stack.labelled)), None


def _classes(group: Sequence[Stack]) -> list[tuple[str, int, list[Stack]]]:
    """(task, class, stacks with a pixel of it) of each class but background that occurs in `group`."""
    found: dict[tuple[str, int], list[Stack]] = {}
    for stack in group:
        for task, counts in stack.counts.items():
            for index in np.flatnonzero(counts.sum(0)[1:]) + 1:
                found.setdefault((task, int(index)), []).append(stack)
    return [(*key, stacks) for key, stacks in found.items()]


def _stacks(cohorts: Mapping[str, Cohort], rows: pd.DataFrame, schema: Schema, cache: SliceCache) -> list[Stack]:
    """The stacks of all exams in `rows` that have a mask, prepared."""
    stacks = []
    for row, place in zip(rows.to_dict("records"), places_of(cohorts, rows)):
        cohort = cohorts[row["study"]]
        for stream in schema.streams:
            if tasks := _tasks_on(cohort, place, stream, schema):
                counts = {task.name: cache.counts(cohort, place, task) for task in tasks}
                cache.pictures(cohort, place, stream)
                floor = cache.floor(cohort, place, stream)
                split, fold = str(row.get("split", "")), int(row.get("fold", 0))
                stacks.append(Stack(cohort, place, stream, tasks, counts, floor, split, fold))
    return stacks


def _refuse_empty(stacks: Sequence[Stack], schema: Schema) -> None:
    """Raises UserError for a task of which no mask has a pixel of any class but background."""
    for task in schema.tasks:
        having = [stack for stack in stacks if task.name in stack.counts]
        if having and not any(stack.counts[task.name][:, 1:].any() for stack in having):
            study = having[0].cohort.study
            raise UserError(
                f"{study.table_path}, column {study.tasks[task.name].column!r}: all {len(having)} masks of task "
                f"{task.name!r} are empty in training; correct the paths of the masks, or the values of 'classes'"
            )


def _tasks_on(cohort: Cohort, place: int, stream: Stream, schema: Schema) -> tuple[TaskSpec, ...]:
    """Tasks of which the exam at `place` has a mask that lies on its picture of `stream`."""
    if stream.input not in cohort.paths or cohort.modalities[stream.input][place] != stream.modality:
        return ()
    return tuple(
        task
        for task in schema.tasks
        if task.on == stream.input and task.name in cohort.labels and cohort.labels[task.name][place] is not None
    )


def _pixel_of(rng: np.random.Generator, mask: ndarray, index: int) -> tuple[int, int]:
    """A pixel of class `index`."""
    rows, columns = np.nonzero(mask == index)
    place = rng.integers(len(rows))
    return int(rows[place]), int(columns[place])
