"""Pictures and masks on the network's grid, kept so that later epochs decode nothing: in memory, and then on disk.

A file is named by what it is made of: path, size and time of change of its sources, what was done with them, and the
version below. A changed file or setting makes another file; nothing is ever stale, or mixed.
"""

from __future__ import annotations

import hashlib
import json
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from m4oe.data.readers import Geometry, Orientation
from m4oe.data.samples import Loaded
from m4oe.data.transforms import Fit
from m4oe.errors import UserError

VERSION = 1  # of what readers and transforms make: another one leaves all files as they are, and unused


class Cache:
    """What was loaded, by key, until `limit` bytes are full; what comes after is written into `folder`, or, where that
    is None, loaded each time.

    Nothing is thrown out: epochs go through all exams, so that any replacement would be thrown out in turn.
    """

    def __init__(self, limit: int, folder: Path | None = None) -> None:
        self.limit, self.folder, self.used = limit, folder, 0
        self._kept: dict[Any, Any] = {}

    def get(self, key: Any, load: Callable[[], Any], made_of: Callable[[], Sequence[Any]] | None = None) -> Any:
        """What is kept under `key`, or what `load` gives: a Loaded, or the Tensor of a mask.

        made_of: all that decides what `load` gives; without it nothing is written.
        Raises UserError where the folder cannot be written to.
        """
        if key in self._kept:
            return self._kept[key]
        path = None if self.folder is None or made_of is None else self.folder / _name(made_of())
        found = None if path is None else _read(path)
        loaded = load() if found is None else found
        if self.used + loaded.nbytes <= self._share:
            self.used += loaded.nbytes
            self._kept[key] = loaded
        elif path is not None and found is None:
            _write(path, loaded)
        return loaded

    @property
    def _share(self) -> int:
        worker = torch.utils.data.get_worker_info()
        return self.limit if worker is None else self.limit // worker.num_workers


def identity(source: str) -> list[object]:
    """What changes with a file; of a folder, with any file in it."""
    path = Path(source)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [(file.name, file.stat()) for file in files if file.exists()]
    return [source, *((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)]


@contextmanager
def aside(path: Path, advice: str = "make room") -> Iterator[Path]:
    """A file to write that becomes `path` when all is written. Raises UserError, with `advice`, where it cannot be."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield beside
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be written to ({error.strerror}); {advice}") from None


def geometry_from(facts: Mapping[str, Any]) -> Geometry:
    """A Geometry from what JSON made of it."""
    turn = facts["orientation"]
    orientation = turn and Orientation(tuple(turn["grid"]), tuple(turn["axes"]), tuple(turn["flipped"]))
    affine = None if facts["affine"] is None else np.array(facts["affine"])
    spacing = facts["spacing"] and tuple(facts["spacing"])
    return Geometry(tuple(facts["shape"]), spacing, affine, facts["source"], orientation)


def _name(facts: Sequence[Any]) -> str:
    text = json.dumps([VERSION, *facts], default=str)
    return f"{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}.npz"


def _write(path: Path, loaded: Loaded | Tensor) -> None:
    """One file, compressed without loss, each of its parts with a checksum."""
    values = loaded.values if isinstance(loaded, Loaded) else loaded
    advice = "make room, or let memory keep more pictures, train.cache_gb"
    with aside(path, advice) as beside, beside.open("wb") as file:
        np.savez_compressed(file, values=values.numpy(), facts=_facts(loaded))


def _facts(loaded: Loaded | Tensor) -> str:
    """All of a picture but its values, as JSON; null of a mask."""
    if not isinstance(loaded, Loaded):
        return "null"
    facts = {"fit": asdict(loaded.fit), "geometry": asdict(loaded.geometry)}
    return json.dumps(facts, default=lambda array: array.tolist())


def _read(path: Path) -> Loaded | Tensor | None:
    """What was written, None where it was not, or is damaged and must be made anew."""
    try:
        with np.load(path, allow_pickle=False) as parts:
            values = torch.from_numpy(parts["values"])
            facts = json.loads(str(parts["facts"]))
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
        return None
    return values if facts is None else Loaded(values, _fit_from(facts["fit"]), geometry_from(facts["geometry"]))


def _fit_from(facts: Mapping[str, Any]) -> Fit:
    focus = facts["focus"] and tuple(tuple(ends) for ends in facts["focus"])
    return Fit(tuple(facts["shape"]), tuple(facts["size"]), tuple(facts["inner"]), facts["mirrored"], focus)
