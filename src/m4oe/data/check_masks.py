"""Every mask of a cohort: whether it lies on its picture, and how much of each class there is. K classes of a task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from m4oe.data.findings import Findings, Problem
from m4oe.data.table import Cohort
from m4oe.errors import UserError

if TYPE_CHECKING:
    from m4oe.data.readers import Geometry

FEW_PATIENTS = 3
ENDS = ("SI", "AP", "RL")  # where D, H and W lead, and where they do if flipped


@dataclass(frozen=True, eq=False)
class SeenMask:
    """A mask that was read: pixels (K,) of each class and how many count for nothing, and whether it had to be moved
    onto its picture."""

    exam: int
    task: str
    counts: np.ndarray
    ignored: int
    moved: bool


def check_masks(
    cohort: Cohort, geometries: Mapping[tuple[int, str], Geometry], findings: Findings, pool: Executor
) -> None:
    """All masks of `cohort`, on the pictures of `geometries` {(exam, input)}; `findings` gets what does not fit, and a
    table of classes for each task."""
    for name, task in cohort.study.tasks.items():
        if task.kind == "segmentation":
            exams = [exam for exam, path in enumerate(cohort.labels[name]) if path is not None]
            found = list(pool.map(partial(_look, cohort, geometries, name), exams))
            seen = [mask for mask in found if isinstance(mask, SeenMask)]
            findings.report([problem for problem in found if isinstance(problem, Problem)])
            findings.report(list(_problems(cohort, name, seen)))
            findings.tables.append(_table(cohort, name, seen))


def _look(cohort: Cohort, geometries: Mapping[tuple[int, str], Geometry], name: str, exam: int) -> SeenMask | Problem:
    from m4oe.data.readers import read_labels
    from m4oe.data.volumes.grids import fits, labels_on

    task = cohort.study.tasks[name]
    geometry = geometries.get((exam, str(task.on)))
    try:
        mask = read_labels(cohort.labels[name][exam], task.class_values, task.ignore)
        moved = geometry is not None and not fits(geometry, mask)
        labels = mask.values if geometry is None else labels_on(geometry, mask, task.fix)
    except UserError as error:
        return Problem("error", str(cohort.study.table_path), str(error), int(cohort.rows[exam]), str(task.column))
    counts = np.bincount(labels[labels >= 0], minlength=len(task.class_names))
    return SeenMask(exam, name, counts, int((labels < 0).sum()), moved)


def _problems(cohort: Cohort, name: str, seen: Sequence[SeenMask]) -> Iterator[Problem]:
    task, table = cohort.study.tasks[name], str(cohort.study.table_path)
    if moved := sum(mask.moved for mask in seen):
        message = f"{moved} masks of task {name!r} lie elsewhere than their pictures; 'fix: {task.fix}' moves them"
        yield Problem("warning", table, message, None, task.column)
    if seen and not any(mask.counts[1:].any() for mask in seen):
        message = f"all {len(seen)} masks of task {name!r} are empty; correct their paths, or the values of 'classes'"
        yield Problem("error", table, message, None, task.column)
        return
    for index, label in enumerate(task.class_names[1:], start=1):
        patients = len({cohort.patients[mask.exam] for mask in seen if mask.counts[index]})
        if seen and patients < FEW_PATIENTS:
            message = f"task {name!r}: {label!r} occurs in {patients} patients, too few to learn it and to be tested on"
            yield Problem("warning", table, message, None, task.column)


def _table(cohort: Cohort, name: str, seen: Sequence[SeenMask]) -> tuple[str, list[str], list[list[str]]]:
    task = cohort.study.tasks[name]
    total = np.sum([mask.counts for mask in seen], axis=0) if seen else np.zeros(len(task.class_names), int)
    rows = [
        [
            label,
            str(int(count)),
            f"{100 * count / max(total.sum(), 1):.3g} %",
            str(sum(m.counts[index] > 0 for m in seen)),
        ]
        for index, (label, count) in enumerate(zip(task.class_names, total))
    ]
    if task.ignore is not None:
        rows.append(["(ignored)", str(sum(m.ignored for m in seen)), "", str(sum(m.ignored > 0 for m in seen))])
    return f"{cohort.study.name}: masks of {name!r}", ["class", "pixels", "share", "masks with it"], rows


def grid_table(
    cohort: Cohort, geometries: Mapping[tuple[int, str], Geometry]
) -> tuple[str, list[str], list[list[str]]] | None:
    """Spacings and orders of storage of the pictures of each input; None where no file tells them."""
    rows = []
    for name in cohort.paths:
        own = [geometry for (_, input_), geometry in geometries.items() if input_ == name]
        known = [geometry.spacing for geometry in own if geometry.spacing is not None]
        stored = Counter(axis_codes(geometry) for geometry in own).most_common()
        rows.append([name, _spacings(known), str(len(own) - len(known)), ", ".join(f"{c} ({n})" for c, n in stored)])
    if not any(geometry.affine is not None for geometry in geometries.values()):
        return None
    return f"{cohort.study.name}: grids", ["input", "spacing in mm", "without spacing", "stored as (how many)"], rows


def _spacings(known: Sequence[tuple[float, ...]]) -> str:
    """The median along each axis, and from where to where they go."""
    most = [spacing for spacing in known if len(spacing) == max(map(len, known))]
    if not most:
        return ""
    median, low, high = np.median(most, axis=0), np.min(most, axis=0), np.max(most, axis=0)
    sides = [f"{m:.3g}" if h - l < 0.005 * m else f"{m:.3g} ({l:.3g} to {h:.3g})" for m, l, h in zip(median, low, high)]
    return " x ".join(sides)


def axis_codes(geometry: Geometry) -> str:
    """Where the axes of the file's own array lead, such as RAS or LPS; the empty text where it does not say."""
    turn = geometry.orientation
    return "" if turn is None else "".join(ENDS[axis][flip] for axis, flip in zip(turn.axes, turn.flipped))
