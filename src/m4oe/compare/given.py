"""Finished runs as entries of a comparison: their splits must be one and the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from m4oe.compare.entries import Entry, total_cost
from m4oe.compare.trainings import facts_of, places
from m4oe.compare.variants import Variant
from m4oe.compare.workers import cost_of
from m4oe.errors import UserError
from m4oe.evaluate import read_table

SPLIT = ["study", "exam", "fold", "split"]


def entries_of_runs(runs: Sequence[Path]) -> list[Entry]:
    """An entry for each config, those that differ in train.seed alone are seeds of one. Raises UserError for a folder
    that is no finished run, and for runs whose splits differ."""
    if len(runs) < 2:
        raise UserError("compare needs two runs at least, or study files to train on")
    for run in runs:
        facts_of(places(run)[0])
    first = _splits(runs[0])
    for run in runs[1:]:
        _refuse_other_splits(runs[0], first, run, _splits(run))
    groups: dict[str, dict[int, Path]] = {}
    for run in runs:
        seed, rest = _config(run)
        group = groups.setdefault(rest, {})
        if seed in group:
            raise UserError(f"{run}: is the same config and seed as {group[seed]}; give each once")
        group[seed] = run
    names = _names([next(iter(group.values())) for group in groups.values()])
    return [_entry(name, group) for name, group in zip(names, groups.values(), strict=True)]


def _entry(name: str, seeds: dict[int, Path]) -> Entry:
    cost = total_cost([[cost_of(run)] for run in seeds.values()])
    return Entry(name, Variant(name, "ours"), seeds, cost=cost, models=[places(next(iter(seeds.values())))[0]])


def _names(runs: Sequence[Path]) -> list[str]:
    """Names of the folders, with those above them as far as they are needed to tell them apart."""
    parts = [run.resolve().parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def _config(run: Path) -> tuple[int, str]:
    content: dict[str, Any] = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    seed = int(content["train"].pop("seed"))
    return seed, yaml.safe_dump(content)


def _splits(run: Path) -> pd.DataFrame:
    return read_table(run / "splits.csv").sort_values(SPLIT, ignore_index=True)[SPLIT]


def _refuse_other_splits(one: Path, first: pd.DataFrame, two: Path, second: pd.DataFrame) -> None:
    both = first.merge(second, on=SPLIT[:3], how="outer", suffixes=("", "_there")).fillna("in none")
    differing = both[both["split"] != both["split_there"]]
    if len(differing):
        row = differing.iloc[0]
        raise UserError(
            f"the runs are trained on different splits: exam {row['exam']!r} of study {row['study']!r} is "
            f"{row['split']} in {one} and {row['split_there']} in {two}; compare runs on the same splits"
        )
