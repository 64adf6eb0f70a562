"""From tables of test predictions to the content of comparison.json: scores, paired differences, who is best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from m4oe.compare.entries import Entry
from m4oe.errors import UserError
from m4oe.evaluate import read_table
from m4oe.evaluate.delong import delong_test
from m4oe.evaluate.exams import Exams, read_exams
from m4oe.evaluate.significance import Drawn, Inferred, difference, drawn, holm, mean_over_seeds
from m4oe.schema import Schema, TaskSpec
from m4oe.tasks import KINDS
from m4oe.tasks.metrics import range_of

LEVEL = 0.05


@dataclass(frozen=True)
class Scored:
    """A variant on one task: its labelled test exams by seed, and its metrics drawn."""

    name: str
    seeds: tuple[Exams, ...]
    metrics: Mapping[str, Drawn]

    def value(self, metric: str) -> float:
        return float(self.metrics[metric].values.mean())


def scored_tasks(
    entries: Sequence[Entry], tasks: Sequence[TaskSpec], resamples: int, seed: int = 0
) -> dict[str, dict[str, Scored]]:
    """{task: {variant: Scored}} of all that can be scored. Raises UserError where two variants differ in the exams of a
    task: numbers on different exams are not to be compared."""
    schema = Schema(streams=(), tasks=tuple(tasks))
    found: dict[str, dict[str, Scored]] = {task.name: {} for task in tasks}
    for entry in entries:
        by_task = [_test_exams(folder, schema) for folder in entry.seeds.values()]
        for name in found:
            if by_task and all(name in exams for exams in by_task):
                seeds = tuple(exams[name] for exams in by_task)
                _refuse_other_exams(name, entry.name, seeds, found[name])
                found[name][entry.name] = Scored(entry.name, seeds, drawn(seeds, resamples, seed))
    return found


def _test_exams(folder: Path, schema: Schema) -> dict[str, Exams]:
    cases = read_table(folder / "cases.csv") if (folder / "cases.csv").is_file() else None
    known = {task.name for task in schema.tasks}
    predictions = read_table(folder / "predictions.csv")
    tables = [table if table is None else table[table["task"].isin(known)] for table in (predictions, cases)]
    found = {}
    for exams in read_exams(tables[0], tables[1], schema):
        rows = np.flatnonzero(exams.about["split"] == "test")
        if len(rows):
            found[exams.task.name] = exams.take(rows)
    return found


def _refuse_other_exams(task: str, name: str, seeds: Sequence[Exams], others: Mapping[str, Scored]) -> None:
    first = next((scored.seeds[0] for scored in others.values()), seeds[0])
    for exams in seeds:
        one, two = (
            set(part.about[["study", "exam", "fold"]].itertuples(index=False, name=None)) for part in (first, exams)
        )
        if one != two:
            study, exam, _ = min(one ^ two)
            raise UserError(
                f"{name}: exam {exam!r} of study {study!r} is labelled for task {task!r} in one variant alone; "
                "compare variants on the same test exams"
            )


def content_of(
    entries: Sequence[Entry], tasks: Sequence[TaskSpec], reference: str, resamples: int, seed: int = 0
) -> dict[str, Any]:
    """What comparison.json holds, apart from the words."""
    found = scored_tasks(entries, tasks, resamples, seed)
    primary = {task.name: KINDS[task.kind].primary_metric for task in tasks}
    comparable = {task: _defined(scored, primary[task]) for task, scored in found.items()}
    against = _adjusted(
        {
            (task, name): _difference(other, scored[reference], primary[task])
            for task, scored in comparable.items()
            if reference in scored
            for name, other in scored.items()
            if name != reference
        }
    )
    return {
        "reference": reference,
        "level": LEVEL,
        "resamples": resamples,
        "tasks": {task.name: _about(task, found[task.name], primary[task.name]) for task in tasks},
        "best": _best(comparable, primary),
        "scored": {task: list(scored) for task, scored in comparable.items()},
        "variants": {entry.name: _row(entry, found, against) for entry in entries},
        "pairs": _pairs(entries, comparable, primary),
    }


def _pairs(
    entries: Sequence[Entry], found: Mapping[str, Mapping[str, Scored]], primary: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """{variant: {task: its difference to its pair}} of variants that have one; Holm over all pairs and tasks."""
    pairs = {entry.name: entry.variant.pair for entry in entries if entry.variant.pair}
    differences = _adjusted({
        (name, task): _difference(scored[name], scored[pair], primary[task])
        for name, pair in pairs.items()
        for task, scored in found.items()
        if {name, pair} <= scored.keys()
    })  # fmt: skip
    both = dict.fromkeys(name for name, _ in differences)
    return {name: {task: one for (of, task), one in differences.items() if of == name} for name in both}


def _defined(scored: Mapping[str, Scored], metric: str) -> dict[str, Scored]:
    return {name: one for name, one in scored.items() if np.isfinite(one.value(metric))}


def _about(task: TaskSpec, scored: Mapping[str, Scored], metric: str) -> dict[str, Any]:
    exams = next((one.seeds[0] for one in scored.values()), None)
    counts = {} if exams is None else {"exams": len(exams), "patients": len(set(exams.patients))}
    return {"kind": task.kind, "metric": metric, **counts}


def _row(entry: Entry, found: Mapping[str, Mapping[str, Scored]], against: Mapping[tuple[str, str], Any]) -> dict:
    variant = entry.variant
    return {
        **{key: getattr(variant, key) for key in ("title", "group", "overrides", "paper", "differs", "pair")},
        "seeds": list(entry.seeds),
        "failed": entry.failed,
        "cost": dict(entry.cost),
        "chosen": dict(entry.chosen),
        "scores": {task: _estimates(scored[entry.name]) for task, scored in found.items() if entry.name in scored},
        "differences": {task: against[task, entry.name] for task in found if (task, entry.name) in against},
    }


def _estimates(scored: Scored) -> dict[str, Any]:
    """{metric: {"value", "low", "high", "n", "seeds"}}: mean over seeds, its interval, each seed's own value."""
    estimates = {}
    for name, one in scored.metrics.items():
        if np.isfinite(one.values).all():
            low, high = _bounds(mean_over_seeds(one), *range_of(name))
            facts = {"value": scored.value(name), "low": low, "high": high, "n": len(scored.seeds[0])}
            estimates[name] = facts | {"seeds": one.values.tolist()}
    return estimates


def _bounds(found: Inferred, lowest: float = -inf, highest: float = inf) -> tuple[float | None, float | None]:
    """The interval, within what the metric can be."""
    ends = found.interval()
    return (None, None) if ends is None else (max(ends[0], lowest), min(ends[1], highest))


def _difference(a: Scored, b: Scored, metric: str) -> dict[str, Any]:
    """`metric` of a less that of b, the same patients drawn for both, with p before any adjustment."""
    found = difference(a.metrics[metric], b.metrics[metric])
    low, high = _bounds(found)
    return {"metric": metric, "value": found.value, "low": low, "high": high,
            "p": found.p_value(), "p_delong": _delong(a, b)}  # fmt: skip


def _delong(a: Scored, b: Scored) -> float | None:
    """For a binary task with one exam a patient and one model a seed: p of equal areas, by DeLong."""
    exams = a.seeds[0]
    folds = exams.about["fold"].nunique()
    if exams.task.kind != "binary" or len(set(exams.patients)) < len(exams) or folds > 1:
        return None
    first, second = (np.stack([one.sample.arrays[1] for one in scored.seeds]) for scored in (a, b))
    return delong_test(exams.sample.arrays[0], first, second)


def _adjusted(differences: dict[Any, dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    """The differences with "p_holm", over all of them that could be tested."""
    tested = [key for key, one in differences.items() if one["p"] is not None]
    adjusted = dict(zip(tested, holm([differences[key]["p"] for key in tested]).tolist()))
    return {key: one | {"p_holm": adjusted.get(key)} for key, one in differences.items()}


def _best(found: Mapping[str, Mapping[str, Scored]], primary: Mapping[str, str]) -> dict[str, list[str]]:
    """{task: the highest mean, and all that do not differ from it significantly}: one name is best, several are tied.

    Holm over the comparisons of each task's highest with all others, of all tasks.
    """
    tops = {
        task: max(scored.values(), key=lambda one: one.value(primary[task])) for task, scored in found.items() if scored
    }
    differences = _adjusted({
        (task, name): _difference(tops[task], other, primary[task])
        for task in tops
        for name, other in found[task].items()
        if other is not tops[task]
    })  # fmt: skip
    tied: dict[str, list[str]] = {task: [top.name] for task, top in tops.items()}
    for (task, name), one in differences.items():
        if one["p_holm"] is None or one["p_holm"] >= LEVEL:
            tied[task].append(name)
    return tied
