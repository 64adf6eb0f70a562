"""A release: what a published data set is in its official layout, before and after it was read. No torch, no pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class StudyTable:
    """One study of a release: `facts` of its study file (all but table and root) and its `table`.

    Cells of `table` are text, empty where missing; paths in it start at the release's folder.
    """

    facts: Mapping[str, Any]
    table: pd.DataFrame

    @property
    def name(self) -> str:
        return str(self.facts["name"])

    @property
    def pictures(self) -> dict[str, str]:
        """Columns that hold pictures, with the kind of each."""
        return {entry["column"]: entry["kind"] for entry in self.facts["inputs"].values()}

    @property
    def masks(self) -> dict[str, tuple[int, ...]]:
        """Columns that hold masks, with the values that each may have."""
        tasks = self.facts["tasks"].values()
        return {task["column"]: _values(task["classes"]) for task in tasks if task["kind"] == "segmentation"}


def _values(classes: list[str] | dict[int, str]) -> tuple[int, ...]:
    return tuple(classes) if isinstance(classes, dict) else tuple(range(len(classes)))


@dataclass(frozen=True)
class Release:
    """A release as read: its studies, `counts` of what it holds, what was `left_out` and how often, and `notes`.

    counts: named as those that were published, taken before anything was left out · stacks: columns whose cells are
    folders with one picture for each slice; these alone have to be converted, into one volume each.
    """

    studies: tuple[StudyTable, ...]
    counts: Mapping[str, int]
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    stacks: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Source:
    """A data set that `m4oe prepare` knows: `title`, how its folder is `read`, and the numbers `published` of it."""

    title: str
    read: Callable[[Path], Release]
    published: Mapping[str, int]


def tally(prefix: str, values: pd.Series) -> dict[str, int]:
    """Counts of the non-empty texts among `values`, each under "prefix value"."""
    counts = values[values != ""].value_counts().sort_index()
    return {f"{prefix} {value}": int(count) for value, count in counts.items()}
