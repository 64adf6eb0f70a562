"""Prepared volumes on disk: written once, read a slice at a time. Axes: S slices · C channels · h, w · K classes.

A file is named by what it is made of: path, size and time of change of its sources, their preparation, and the version
below. A changed file or a changed plan is prepared anew; nothing is ever stale.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from m4oe.data.cache import aside, geometry_from, identity
from m4oe.data.dataset import located
from m4oe.data.readers import Geometry, read_labels, read_picture
from m4oe.data.table import Cohort
from m4oe.data.volumes.grids import labels_on
from m4oe.data.volumes.prepare import Prepared, Way, prepare
from m4oe.errors import UserError
from m4oe.schema import Plan, Preparation, Stream, TaskSpec

VERSION = 1
AT_ONCE = 8  # slices that are in memory as float32 while a volume is written


class SliceCache:
    """Pictures and masks as slices on disk, in `folder`, prepared as `plan` says.

    Arrays are opened for each access and map the file: what is not read takes no memory. A picture or mask is prepared
    when it is first asked for; several processes may ask for the same at one time.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = Path(folder), plan
        self._known: dict[tuple[str, int, str], Path] = {}

    def pictures(self, cohort: Cohort, place: int, stream: Stream) -> ndarray:
        """(S, C, h, w) float16, memory-mapped: the slices of one exam, without neighbours.

        Raises UserError, naming file and row, for what cannot be read, and for another number of channels than the
        stream has.
        """
        slices = _mapped(self._picture(cohort, place, stream.input))
        if slices.shape[1] != stream.channels:
            with located(cohort, place, f"input {stream.input!r}"):
                raise UserError(
                    f"{', '.join(cohort.paths[stream.input][place])}: {slices.shape[1]} channels, where "
                    f"{stream.name!r} has {stream.channels}, as its first picture has"
                )
        return slices

    def floor(self, cohort: Cohort, place: int, stream: Stream) -> float:
        """What stands outside of the picture, in prepared units."""
        return float(_facts(self._picture(cohort, place, stream.input))["floor"])

    def masks(self, cohort: Cohort, place: int, task: TaskSpec) -> ndarray:
        """(S, h, w) int16, memory-mapped: class indices on the slices of the picture on which the mask lies, -100 where
        nothing counts. Raises UserError for what cannot be read, or does not lie on the picture's grid."""
        return _mapped(self._mask(cohort, place, task))

    def counts(self, cohort: Cohort, place: int, task: TaskSpec) -> ndarray:
        """(S, K) int64: pixels of each class on each slice, as prepared."""
        return np.load(_counts(self._mask(cohort, place, task)), allow_pickle=False)

    def _picture(self, cohort: Cohort, place: int, name: str) -> Path:
        def made() -> Path:
            paths, kind = cohort.paths[name][place], cohort.study.inputs[name].kind
            preparation = self._preparation(cohort, place, name)
            path = self._named([*map(identity, paths), kind, preparation.model_dump(), self.plan.size])
            if not path.exists():
                picture = read_picture(paths, kind)
                _write_picture(path, prepare(picture, preparation, self.plan.size), picture.geometry)
            return path

        return self._once(cohort, place, f"input {name!r}", made)

    def _mask(self, cohort: Cohort, place: int, spec: TaskSpec) -> Path:
        picture = self._picture(cohort, place, str(spec.on))

        def made() -> Path:
            task, source = cohort.study.tasks[spec.name], cohort.labels[spec.name][place]
            path = self._named([identity(source), picture.name, task.class_values, task.ignore, task.fix])
            if not path.exists():
                geometry, way = _lies(_facts(picture))
                labels = labels_on(geometry, read_labels(source, task.class_values, task.ignore), task.fix)
                _write_mask(path, labels, way, len(task.class_names))
            return path

        return self._once(cohort, place, f"task {spec.name!r}", made)

    def _once(self, cohort: Cohort, place: int, what: str, made: Callable[[], Path]) -> Path:
        """Where a thing of an exam lies; made where it does not. Files are looked at once in a process."""
        key = (cohort.study.name, int(cohort.rows[place]), what)
        if key not in self._known:
            with located(cohort, place, what):
                self._known[key] = made()
        return self._known[key]

    def _preparation(self, cohort: Cohort, place: int, name: str) -> Preparation:
        modality = cohort.modalities[name][place]
        found = self.plan.streams.get(f"{name}@{modality}") or self.plan.streams.get(name)
        if found is None:
            raise UserError(f"plan.json says nothing of input {name!r} of modality {modality!r}; delete it, or add it")
        return found

    def _named(self, facts: list[Any]) -> Path:
        text = json.dumps([VERSION, *facts], default=str)
        return self.folder / f"{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}.npy"


def _mapped(path: Path) -> ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _facts(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return facts


def _counts(path: Path) -> Path:
    return path.with_suffix(".counts.npy")


def _write_picture(path: Path, prepared: Prepared, geometry: Geometry) -> None:
    """The array, and beside it what its masks must know; written aside first, the array renamed last."""
    facts = {"floor": prepared.slices.floor, "way": asdict(prepared.way), "geometry": asdict(geometry)}
    with aside(path.with_suffix(".json")) as beside:
        beside.write_text(json.dumps(facts, default=np.ndarray.tolist), encoding="utf-8")
    slices = prepared.slices
    _write_array(path, np.float16, slices.shape, (slices[some].numpy() for some in _some(len(slices))))


def _write_mask(path: Path, labels: ndarray, way: Way, classes: int) -> None:
    """The counts of classes first, then the array that is looked for."""
    stack = way.stack(labels)
    slices = (slice_ for some in _some(len(stack)) for slice_ in way.labels_there(stack[some]))
    counts = (np.bincount(slice_[slice_ >= 0], minlength=classes) for slice_ in slices)
    _write_array(_counts(path), np.int64, (len(stack), classes), counts)
    _write_array(
        path, np.int16, (len(stack), *way.inner), (way.labels_there(stack[some]) for some in _some(len(stack)))
    )


def _some(count: int) -> Iterator[slice]:
    return (slice(start, start + AT_ONCE) for start in range(0, count, AT_ONCE))


def _write_array(path: Path, dtype: type, shape: tuple[int, ...], parts: Iterable[ndarray]) -> None:
    """`parts`, one after the other, as an array of `shape`, which is on the disk before it gets its name.

    Written, not mapped: a full disk ends a process that writes through a map. Raises UserError where there is no room.
    """
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    with aside(path) as beside, beside.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype))
        file.flush()
        os.fsync(file.fileno())


def _lies(facts: dict[str, Any]) -> tuple[Geometry, Way]:
    """The geometry and the way of a picture, as written beside it."""
    way = facts["way"]
    return geometry_from(facts["geometry"]), Way(tuple(way["shape"]), way["axis"], tuple(way["inner"]))
