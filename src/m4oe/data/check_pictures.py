"""Every picture and mask of a cohort, decoded once: what cannot be read, what repeats, what does not fit."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from m4oe.data.check_masks import check_masks, grid_table
from m4oe.data.findings import Findings, Problem
from m4oe.data.table import Cohort
from m4oe.errors import UserError

if TYPE_CHECKING:
    from m4oe.data.readers import Geometry

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Seen:
    """A picture that was read: the exam's position, its input, its shape (C, ...), range, hash of its pixels, where
    they lie, and what its file says that should be known."""

    cohort: Cohort
    exam: int
    input: str
    shape: tuple[int, ...]
    low: float
    high: float
    digest: bytes
    geometry: Geometry
    notes: tuple[str, ...] = ()

    @property
    def patient(self) -> str:
        return f"{self.cohort.study.name}/{self.cohort.patients[self.exam]}"

    @property
    def place(self) -> str:
        return self.cohort.at(self.exam, self.cohort.study.inputs[self.input].paths[0])


def check_pictures(cohort: Cohort, findings: Findings, progress: Progress | None = None) -> list[Seen]:
    """All pictures of `cohort` that can be read; `findings` gets what cannot, and a table of shapes and ranges."""
    jobs = [
        (cohort, exam, name)
        for name, paths in cohort.paths.items()
        for exam, path in enumerate(paths)
        if path is not None
    ]
    seen, problems = [], []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, found in enumerate(pool.map(lambda job: _look(*job), jobs), start=1):
            (problems if isinstance(found, Problem) else seen).append(found)
            if progress is not None:
                progress(done, len(jobs))
        findings.report(problems)
        findings.report(_noted(seen))
        findings.report(_odd_channels(seen))
        findings.tables.append(_table(cohort, seen))
        geometries = {(picture.exam, picture.input): picture.geometry for picture in seen}
        findings.tables.extend(filter(None, [grid_table(cohort, geometries)]))
        check_masks(cohort, geometries, findings, pool)
    return seen


def _look(cohort: Cohort, exam: int, name: str) -> Seen | Problem:
    from m4oe.data.readers import read_picture

    source = cohort.study.inputs[name]
    try:
        picture = read_picture(cohort.paths[name][exam], source.kind)
    except UserError as error:
        return _problem(cohort, exam, source.paths[0], str(error))
    values, told, file = picture.values, cohort.sides.get(name), picture.side
    contrary = told is not None and None not in (told[exam], file) and told[exam] != file
    notes = (*picture.notes, *([f"the table says {told[exam]} and the file {file}"] if contrary else []))
    digest = sha256(repr(values.shape).encode())
    digest.update(np.ascontiguousarray(values).data)
    ends = float(values.min()), float(values.max())
    return Seen(cohort, exam, name, values.shape, *ends, digest.digest(), picture.geometry, notes)


def _odd_channels(seen: Sequence[Seen]) -> list[Problem]:
    """Pictures of an input and modality that have another number of channels than most."""
    groups: dict[tuple[str, str], list[Seen]] = {}
    for picture in seen:
        modality = picture.cohort.modalities[picture.input][picture.exam]
        groups.setdefault((picture.input, str(modality)), []).append(picture)
    problems = []
    for (name, _), group in groups.items():
        most = Counter(picture.shape[0] for picture in group).most_common(1)[0][0]
        for odd in (picture for picture in group if picture.shape[0] != most):
            message = (
                f"{odd.cohort.paths[name][odd.exam][0]}: {odd.shape[0]} channels, where most pictures of {name!r} have "
                f"{most}; take it out, or give it a modality of its own"
            )
            problems.append(_problem(odd.cohort, odd.exam, odd.cohort.study.inputs[name].paths[0], message))
    return problems


def _noted(seen: Sequence[Seen]) -> list[Problem]:
    """One warning for each input and note, at the first picture that has it."""
    groups: dict[tuple[str, str], list[Seen]] = {}
    for picture in seen:
        for note in picture.notes:
            groups.setdefault((picture.input, note), []).append(picture)
    return [
        Problem(
            "warning",
            str(first.cohort.study.table_path),
            f"{first.place}: {note}" + (f" (and {len(group) - 1} more of {name!r})" if len(group) > 1 else ""),
            int(first.cohort.rows[first.exam]),
            first.cohort.study.inputs[name].paths[0],
        )
        for (name, note), group in groups.items()
        if (first := group[0])
    ]


def _problem(cohort: Cohort, exam: int, column: str, message: str) -> Problem:
    return Problem("error", str(cohort.study.table_path), message, int(cohort.rows[exam]), column)


def _size(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))


def _table(cohort: Cohort, seen: Sequence[Seen]) -> tuple[str, list[str], list[list[str]]]:
    rows = []
    for name in cohort.paths:
        own = [picture for picture in seen if picture.input == name]
        shapes = Counter(_size(picture.shape) for picture in own).most_common()
        common = ", ".join(f"{shape} ({times})" for shape, times in shapes[:3])
        more = f", {len(shapes) - 3} more" if len(shapes) > 3 else ""
        spread = f"{min(p.low for p in own):g} to {max(p.high for p in own):g}" if own else ""
        rows.append([name, str(len(own)), str(int((~cohort.present(name)).sum())), common + more, spread])
    return f"{cohort.study.name}: pictures", ["input", "read", "absent", "channels x size (how many)", "values"], rows


def find_repeats(seen: Sequence[Seen], parted: Callable[[Sequence[Seen]], bool], findings: Findings) -> None:
    """Adds pictures that are identical, pixel for pixel, under different patients; `parted` says whether training and
    test would share them, which makes it an error."""
    alike: dict[bytes, list[Seen]] = {}
    for picture in seen:
        alike.setdefault(picture.digest, []).append(picture)
    problems = []
    for group in alike.values():
        others = [picture for picture in group if picture.patient != group[0].patient]
        if others:
            first, other, table = group[0], others[0], str(others[0].cohort.study.table_path)
            column = other.cohort.study.inputs[other.input].paths[0]
            where = "in different splits" if parted(group) else "in one split"
            message = (
                f"patient {other.patient!r} has the very picture of patient {first.patient!r} ({first.place}), "
                f"{where}; if they are one patient give them one id, otherwise remove one"
            )
            severity = "error" if parted(group) else "warning"
            problems.append(Problem(severity, table, message, int(other.cohort.rows[other.exam]), column))
    findings.report(problems)
