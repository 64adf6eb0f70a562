"""A release in its official layout to ordinary studies: tables and study files that point at the pictures."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from m4oe.data.sources.pictures import Chunk, Folders, Job, Progress, cut, look
from m4oe.data.sources.release import Release, Source, StudyTable
from m4oe.data.sources.whole import sweep, write_whole
from m4oe.errors import UserError

MORE = "another version than docs/sources.md describes"


@dataclass(frozen=True)
class Prepared:
    """What came out: `studies` (paths of study files; none while parts are missing), the `counts` of the release as
    (what, found, published or None), what was `left_out`, `notes`, `problems` (a row for each file that cannot be
    used: study, row, column, path, reason), and how many files are still to be looked at by other parts."""

    studies: tuple[Path, ...]
    counts: tuple[tuple[str, int, int | None], ...]
    left_out: Mapping[str, int]
    notes: tuple[str, ...]
    problems: pd.DataFrame
    waiting: int = 0

    @property
    def problem_lines(self) -> list[str]:
        return [f"{row.path}: {row.reason}" for row in self.problems.itertuples()]

    @property
    def differing(self) -> tuple[str, ...]:
        """The counts that are not as published, in words."""
        return tuple(
            f"{what}: {found:,} found, {published:,} published; {'a part is missing' if found < published else MORE}"
            for what, found, published in self.counts
            if published is not None and found != published
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "studies": [str(path) for path in self.studies],
            "counts": {what: {"found": found, "published": said} for what, found, said in self.counts},
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
            "problems": self.problem_lines,
            "waiting": self.waiting,
        }


def prepare_source(
    name: str, source: Source, raw: Path, out: Path, *, part: str | None = None, progress: Progress | None = None
) -> Prepared:
    """Reads the release of `source` in the folder `raw`, looks at every picture, and writes its studies into `out`.

    Pictures stay where they are, unless they have to be converted. A file that cannot be used becomes an empty cell
    and a row in problems.csv. part "i/n": looks at every n-th chunk of pictures from the i-th on; the studies are
    written by whichever part is the last to end. The same release gives the same bytes, however often it was stopped.
    Raises UserError for a folder that is not such a release, and an `out` that holds something else.
    """
    folders = Folders(Path(raw).resolve(), Path(out).resolve())
    _refuse_folders(name, folders.raw, folders.out)
    turn, turns = _turn(part)
    release = source.read(folders.raw)
    for study in release.studies:
        if study.table.empty:
            raise UserError(f"{folders.raw}: nothing of {study.name!r} is left; left out are {dict(release.left_out)}")
    chunks = cut(_jobs(release), folders.raw)
    try:
        folders.work.mkdir(parents=True, exist_ok=True)
        look([chunk for place, chunk in enumerate(chunks) if place % turns == turn], folders, _processes(), progress)
    except OSError as error:
        raise UserError(
            f"{folders.out}: cannot be written to ({error.strerror}); see to it, and the same command goes on"
        ) from None
    waiting = sum(len(chunk.jobs) for chunk in chunks if not chunk.is_done(folders))
    facts = _facts(release, source)
    if waiting:
        return Prepared((), *facts, pd.DataFrame(columns=_PROBLEM), waiting)
    return _written(name, release, facts, chunks, folders)


_PROBLEM = ("study", "row", "column", "path", "reason")
_Facts = tuple[tuple[tuple[str, int, int | None], ...], Mapping[str, int], tuple[str, ...]]


def _refuse_folders(name: str, raw: Path, out: Path) -> None:
    if not raw.is_dir():
        raise UserError(f"{raw}: no such folder; it should hold the release of {name!r}, unpacked")
    if out == raw or raw in out.parents:
        raise UserError(f"{out}: lies in the release itself; name a folder outside of {raw}")
    known = out / "prepared.json"
    if known.is_file() and (other := json.loads(known.read_text(encoding="utf-8")).get("source")) != name:
        raise UserError(f"{out}: holds {other!r} already; name another folder for {name!r}")


def _turn(part: str | None) -> tuple[int, int]:
    """(i - 1, n) of "i/n"."""
    if part is None:
        return 0, 1
    match = re.fullmatch(r"(\d+)/(\d+)", part)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"part {part!r}: write i/n, as 1/4, 2/4, 3/4 and 4/4 for four parts")
    return int(match[1]) - 1, int(match[2])


def _processes() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _jobs(release: Release) -> list[Job]:
    """A job for every file that the tables name, in their order."""
    jobs: dict[str, Job] = {}
    for study in release.studies:
        for column, kind in study.pictures.items():
            for cell in _filled(study.table[column]):
                target = _target(column, cell) if column in release.stacks else ""
                jobs[cell] = Job(cell, kind, target=target)
        for column, values in study.masks.items():
            jobs |= {cell: Job(cell, values=values) for cell in _filled(study.table[column])}
    return list(jobs.values())


def _filled(cells: pd.Series) -> list[str]:
    return [cell for cell in cells if cell]


def _target(column: str, cell: str) -> str:
    """Where the volume of a folder of slices goes, from `out` on."""
    return f"{column}/{cell.replace('/', '_')}.npz"


def _facts(release: Release, source: Source) -> _Facts:
    names = dict.fromkeys([*source.published, *release.counts])
    counts = tuple((name, release.counts.get(name, 0), source.published.get(name)) for name in names)
    return counts, release.left_out, release.notes


def _written(name: str, release: Release, facts: _Facts, chunks: list[Chunk], folders: Folders) -> Prepared:
    reasons = {path: reason for chunk in chunks for path, reason in chunk.problems(folders).items()}
    table = pd.DataFrame([row for study in release.studies for row in _problem_rows(study, reasons)], columns=_PROBLEM)
    for folder in (folders.work, *(folders.out / column for column in release.stacks)):
        sweep(folder)
    write_whole(folders.out / "problems.csv", _csv(table))
    paths = tuple(_write_study(study, release, reasons, folders) for study in release.studies)
    prepared = Prepared(paths, *facts, table)
    write_whole(folders.out / "prepared.json", json.dumps({"source": name, **prepared.to_json()}, indent=1).encode())
    return prepared


def _problem_rows(study: StudyTable, reasons: Mapping[str, str]) -> list[tuple[str, int, str, str, str]]:
    return [
        (study.name, row + 2, column, cell, reasons[cell])
        for column in (*study.pictures, *study.masks)
        for row, cell in enumerate(study.table[column])
        if cell in reasons
    ]


def _write_study(study: StudyTable, release: Release, reasons: Mapping[str, str], folders: Folders) -> Path:
    """Writes NAME.csv, in which files that cannot be used are empty cells, and NAME.yaml; returns the latter."""
    table = study.table.copy()
    for column in (*study.pictures, *study.masks):
        table[column] = ["" if cell in reasons else cell for cell in table[column]]
        if column in release.stacks:
            table[column] = [str(folders.out / _target(column, cell)) if cell else "" for cell in table[column]]
    write_whole(folders.out / f"{study.name}.csv", _csv(table))
    facts = {"name": study.name, "table": f"{study.name}.csv", "root": str(folders.raw), **study.facts}
    text = yaml.safe_dump(facts, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)
    path = folders.out / f"{study.name}.yaml"
    write_whole(path, text.encode())
    return path


def _csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False, lineterminator="\n").encode()
