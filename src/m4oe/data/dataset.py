"""The exams of a table as samples, read, fitted, augmented and kept.

Axes as in batch.py: C channels · V numbers of a vector · `size`, pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from m4oe.data.augmentation import Augmentation, sample_augmentation
from m4oe.data.cache import Cache, identity
from m4oe.data.readers import Picture, read_picture
from m4oe.data.samples import Loaded, Sample, collate, exam_sample, fitted, fitted_mask
from m4oe.data.table import Cohort
from m4oe.data.variables import encode_variables
from m4oe.errors import UserError
from m4oe.schema import Schema, Stream, TaskSpec

__all__ = ["ExamDataset", "Sample", "collate", "exam_sample"]

CACHE_BYTES = 2 << 30


class ExamDataset(torch.utils.data.Dataset[Sample]):
    """The exams in `rows` (columns study and exam, in this order; split and fold if there) as samples.

    augment: strength of augmentation, 0 is none. It depends on seed, epoch, exam and input alone: not on workers, on
    order, or on what else is in `rows`. cache_bytes: of pictures as fitted, kept so that later epochs decode nothing;
    shared out between the workers of a loader, which must be persistent for it to be of use. cache_folder: where what
    they do not hold is written, for later epochs, workers and runs.
    Raises UserError for an exam that is in none of `cohorts`; indexing raises it for what cannot be read.
    """

    def __init__(
        self,
        cohorts: Sequence[Cohort],
        rows: pd.DataFrame,
        schema: Schema,
        *,
        augment: float = 0.0,
        seed: int = 0,
        cache_bytes: int = CACHE_BYTES,
        cache_folder: Path | None = None,
    ) -> None:
        self.cohorts = {cohort.study.name: cohort for cohort in cohorts}
        self.rows, self.schema, self.augment, self.seed = rows.reset_index(drop=True), schema, augment, seed
        self._places = places_of(self.cohorts, self.rows)
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that persist see it change
        self._cache = Cache(cache_bytes, cache_folder)

    def __len__(self) -> int:
        return len(self.rows)

    def set_epoch(self, epoch: int) -> None:
        """Augmentations of this epoch from now on, in the workers as well."""
        self._epoch.fill_(epoch)

    def __getitem__(self, number: int) -> Sample:
        row = self.rows.iloc[number]
        cohort, place = self.cohorts[row["study"]], self._places[number]
        inputs: dict[str, Tensor] = {}
        pictures: dict[str, tuple[Loaded, Augmentation]] = {}
        for stream in self.schema.streams:
            if _has(cohort, place, stream):
                if stream.form == "vector":
                    inputs[stream.name] = self._vector(cohort, place, stream)
                else:
                    loaded, change = self._picture(cohort, place, stream), self._augmentation(row, stream)
                    pictures[stream.name] = (loaded, change)
                    inputs[stream.name] = change.apply(loaded.values)
        return Sample(
            study=str(row["study"]),
            exam=str(row["exam"]),
            patient=str(cohort.patients[place]),
            inputs=inputs,
            targets=self._targets(cohort, place, pictures),
            fits={name: loaded.fit for name, (loaded, _) in pictures.items()},
            geometry={name: loaded.geometry for name, (loaded, _) in pictures.items()},
            split=str(row.get("split", "")),
            fold=int(row.get("fold", 0)),
        )

    def _vector(self, cohort: Cohort, place: int, stream: Stream) -> Tensor:
        with located(cohort, place, f"input {stream.input!r}"):
            return torch.from_numpy(encode_variables(stream, cohort.variables[stream.input].iloc[place].to_dict()))

    def _picture(self, cohort: Cohort, place: int, stream: Stream) -> Loaded:
        def load() -> Loaded:
            with located(cohort, place, f"input {stream.input!r}"):
                picture = read_picture(cohort.paths[stream.input][place], stream.kind)
                return fitted(picture, stream, mirrored=_is_right(cohort, place, stream.input, picture))

        return self._cache.get(
            (cohort.study.name, place, stream.name), load, lambda: _picture_facts(cohort, place, stream)
        )

    def _augmentation(self, row: pd.Series, stream: Stream) -> Augmentation:
        if self.augment == 0:
            return Augmentation()
        keys = [self.seed, int(self._epoch), _hash(f"{row['study']}/{row['exam']}"), _hash(stream.input)]
        return sample_augmentation(np.random.default_rng(keys), stream.kind, self.augment)

    def _targets(
        self, cohort: Cohort, place: int, pictures: Mapping[str, tuple[Loaded, Augmentation]]
    ) -> dict[str, Tensor]:
        targets = {}
        for task in self.schema.tasks:
            if task.name not in cohort.labels:
                continue
            label = cohort.labels[task.name][place]
            if task.kind == "segmentation":
                target = self._mask(cohort, place, task, label, pictures)
            else:
                target = _target(task, label)
            if target is not None:
                targets[task.name] = target
        return targets

    def _mask(
        self,
        cohort: Cohort,
        place: int,
        task: TaskSpec,
        path: str | None,
        pictures: Mapping[str, tuple[Loaded, Augmentation]],
    ) -> Tensor | None:
        """(*size) int64, moved as the picture is on which it lies."""
        stream = next((s.name for s in self.schema.streams_of(str(task.on)) if s.name in pictures), None)
        if path is None or stream is None:
            return None
        (loaded, change), own = pictures[stream], cohort.study.tasks[task.name]

        def load() -> Tensor:
            with located(cohort, place, f"task {task.name!r}"):
                return fitted_mask(path, own, loaded)

        def made_of() -> list[Any]:
            on = _picture_facts(cohort, place, self.schema.stream(stream))
            return [identity(path), own.class_values, own.ignore, own.fix, on]

        mask = self._cache.get((cohort.study.name, place, f"mask:{task.name}"), load, made_of)
        return change.apply_mask(mask.long())


def _picture_facts(cohort: Cohort, place: int, stream: Stream) -> list[Any]:
    """All that decides what a picture is on the grid of `stream`; what its file says comes with the file."""
    name = stream.input
    side = None if cohort.study.inputs[name].laterality is None else ("side", cohort.sides[name][place])
    settings = (stream.kind, stream.form, stream.channels, stream.size)
    return [*map(identity, cohort.paths[name][place]), *settings, side]


def _target(task: TaskSpec, label: Any) -> Tensor | None:
    """The label of one exam as the losses take it; None where it is missing."""
    missing = np.isnan(label)
    if task.kind == "multilabel":
        return None if missing.all() else torch.as_tensor(label, dtype=torch.float32)
    if missing.any():
        return None
    return torch.as_tensor(label) if task.kind == "survival" else torch.tensor(int(label))


def _has(cohort: Cohort, place: int, stream: Stream) -> bool:
    return stream.input in cohort.modalities and cohort.modalities[stream.input][place] == stream.modality


def _is_right(cohort: Cohort, place: int, name: str, picture: Picture) -> bool:
    """Whether the picture is to be mirrored: by the table, else by the file's header.

    Raises UserError where its side should be known, and neither tells it.
    """
    if cohort.study.inputs[name].laterality is None:
        return False
    side = cohort.sides[name][place] or picture.side
    if side is None:
        raise UserError(f"column {cohort.study.inputs[name].laterality!r} is empty; write left or right")
    return bool(side == "right")


def places_of(cohorts: Mapping[str, Cohort], rows: pd.DataFrame) -> list[int]:
    """Where each exam of `rows` stands in its cohort."""
    known = {(name, exam): place for name, cohort in cohorts.items() for place, exam in enumerate(cohort.exams)}
    places = [known.get(key, -1) for key in zip(rows["study"], rows["exam"])]
    if -1 in places:
        lost = rows.iloc[places.index(-1)]
        raise UserError(f"exam {lost['exam']!r} of study {lost['study']!r} is in no table of this run")
    return places


@contextmanager
def located(cohort: Cohort, place: int, what: str) -> Iterator[None]:
    """Adds to a UserError where in the table its cause stands."""
    try:
        yield
    except UserError as error:
        where = f"{cohort.study.table_path}, row {cohort.rows[place]}, {what} of exam {cohort.exams[place]!r}"
        raise UserError(f"{where}: {error}") from error


def _hash(text: str) -> int:
    """The same in every process, which Python's own hash is not."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
