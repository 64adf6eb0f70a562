"""Every picture and mask of a release, looked at once by several processes: what cannot be read, what is converted.

The work is cut into chunks. What came out of a chunk is a small file of its own, named by all that it depends on: a
run that was stopped goes on where it was, parts may run on several machines, and a changed file is looked at again.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from hashlib import blake2b
from multiprocessing import get_all_start_methods
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread

from m4oe.data.sources.stacks import stack
from m4oe.data.sources.whole import write_whole
from m4oe.errors import UserError

Progress = Callable[[int, int], None]
IMAGES, VOLUMES = 64, 4  # looked at between two records: less than a minute's work
WAITING = 4  # chunks that wait for each process: few, so that memory does not grow with the release
SECONDS = 300  # for one file; whatever takes longer hangs
VERSION = 1
PRELOADED = ["m4oe.data.sources.pictures", "gdcm", "nibabel", "pydicom.pixels"]
FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk that is written to: no fault of the file that is read
KILLED = f"reading it killed its process, or took more than {SECONDS} seconds"


@dataclass(frozen=True)
class Job:
    """One file to look at: a picture of `kind`, or a mask of `values`, or a folder of slices that becomes `target`.

    `path` starts at the release, `target` at the folder of results: both may lie elsewhere on another machine.
    """

    path: str
    kind: str = ""
    values: tuple[int, ...] = ()
    target: str = ""


@dataclass(frozen=True)
class Folders:
    """Where the release lies, where results go, and within them the records of what is done."""

    raw: Path
    out: Path

    @property
    def work(self) -> Path:
        return self.out / ".prepare"


@dataclass(frozen=True)
class Chunk:
    """Jobs that are recorded together; `name` depends on them, and on size and time of their files."""

    jobs: tuple[Job, ...]
    name: str

    def record(self, folders: Folders) -> Path:
        return folders.work / f"{self.name}.json"

    def problems(self, folders: Folders) -> dict[str, str]:
        """What was recorded: the reason by path, of files that cannot be used."""
        found: dict[str, str] = json.loads(self.record(folders).read_text(encoding="utf-8"))
        return found

    def is_done(self, folders: Folders) -> bool:
        """Recorded, and what was converted is still there."""
        if not self.record(folders).is_file():
            return False
        lost = {job.path for job in self.jobs if not (folders.out / job.target).exists()}
        return not lost or lost <= self.problems(folders).keys()


def cut(jobs: Sequence[Job], raw: Path) -> list[Chunk]:
    """Chunks of jobs in order, those of one size together; what is converted is a chunk by itself."""
    by_size = {size: [job for job in jobs if _chunk_size(job) == size] for size in sorted(set(map(_chunk_size, jobs)))}
    groups = [
        tuple(alike[start : start + size]) for size, alike in by_size.items() for start in range(0, len(alike), size)
    ]
    return [Chunk(group, _digest(group, raw)) for group in groups]


def _chunk_size(job: Job) -> int:
    if job.target:
        return 1
    return IMAGES if job.kind in ("mammogram", "xray", "photo", "pathology") else VOLUMES


def _digest(jobs: Sequence[Job], raw: Path) -> str:
    facts = [(asdict(job), *_identity(raw / job.path)) for job in jobs]
    return blake2b(json.dumps([VERSION, facts]).encode(), digest_size=12).hexdigest()


def _identity(path: Path) -> tuple[int, int]:
    """Size and time of a file, or of all files in a folder."""
    try:
        found = [file.stat() for file in path.iterdir()] if path.is_dir() else [path.stat()]
    except OSError:
        return -1, -1
    return sum(file.st_size for file in found), max((file.st_mtime_ns for file in found), default=0)


def look(chunks: Sequence[Chunk], folders: Folders, processes: int, progress: Progress | None = None) -> None:
    """Looks at the chunks that have no record yet, and writes one for each, and what is converted.

    A file that kills its process is found out by looking at its chunk again, one file in each process.
    progress(done, all) counts files, those of earlier runs included.
    """
    todo = [chunk for chunk in chunks if not chunk.is_done(folders)]
    total = sum(len(chunk.jobs) for chunk in chunks)
    done = total - sum(len(chunk.jobs) for chunk in todo)
    if progress is not None:
        progress(done, total)
    for chunk in _finished(todo, folders, max(1, min(processes, len(todo)))):
        done += len(chunk.jobs)
        if progress is not None:
            progress(done, total)


def _finished(chunks: list[Chunk], folders: Folders, processes: int) -> Iterator[Chunk]:
    """The chunks, each as soon as it is recorded."""
    left = list(reversed(chunks))
    while left:
        running: dict[Future[None], Chunk] = {}
        pool = _pool(processes)
        try:
            while left or running:
                while left and len(running) < WAITING * processes:
                    running[pool.submit(_look, left[-1], folders)] = left[-1]
                    left.pop()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    future.result()
                    yield running.pop(future)
        except BrokenProcessPool:
            for chunk in running.values():
                if not chunk.is_done(folders):
                    _look_carefully(chunk, folders)
                yield chunk
        finally:
            pool.shutdown(cancel_futures=True)


def _pool(processes: int) -> ProcessPoolExecutor:
    """Processes forked from a clean one that has loaded the readers: a copy of this one would copy the locks of its
    threads, too."""
    context = multiprocessing.get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    context.set_forkserver_preload(PRELOADED)
    return ProcessPoolExecutor(processes, context, initializer=_attend)


def _attend() -> None:
    """In each process: Ctrl-C is for the one that started it, without which it ends, too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if (parent := multiprocessing.parent_process()) is not None:
        Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _look(chunk: Chunk, folders: Folders) -> None:
    _write(chunk.record(folders), {job.path: reason for job in chunk.jobs if (reason := _reason(job, folders))})


def _look_carefully(chunk: Chunk, folders: Folders) -> None:
    """One process for each file, so that the one that kills it is known."""
    reasons = {}
    for job in chunk.jobs:
        with _pool(1) as pool:
            try:
                reasons[job.path] = pool.submit(_reason, job, folders).result()
            except BrokenProcessPool:
                reasons[job.path] = KILLED
    _write(chunk.record(folders), {path: reason for path, reason in reasons.items() if reason})


def _write(path: Path, found: dict[str, str]) -> None:
    write_whole(path, json.dumps(found, ensure_ascii=False, indent=0).encode())


def _reason(job: Job, folders: Folders) -> str:
    """Why a file cannot be used, the empty text where it can."""
    if hasattr(signal, "alarm"):
        signal.alarm(SECONDS)  # unhandled, it ends the process even within a decoder
    try:
        _use(job, folders)
    except UserError as error:
        return str(error).removeprefix(f"{folders.raw / job.path}: ")
    except MemoryError:
        return "does not fit in memory"
    except OSError as error:
        if error.errno in FULL:
            raise
        return error.strerror or type(error).__name__
    finally:
        if hasattr(signal, "alarm"):
            signal.alarm(0)
    return ""


def _use(job: Job, folders: Folders) -> None:
    from m4oe.data.readers import read_mask, read_picture

    path = folders.raw / job.path
    if job.target:
        stack(path, job.kind, folders.out / job.target)
    elif job.values:
        read_mask(str(path), job.values)
    else:
        read_picture((str(path),), job.kind)
