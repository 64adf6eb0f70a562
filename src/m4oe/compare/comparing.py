"""A whole comparison: plan, train, choose, score, write. The same call on the same folder goes on where it stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from m4oe.compare.comparison import Comparison
from m4oe.compare.competition import encoders_compared
from m4oe.compare.entries import Entry, finished_entry
from m4oe.compare.given import entries_of_runs
from m4oe.compare.reading import reading
from m4oe.compare.results import write_results
from m4oe.compare.scores import content_of
from m4oe.compare.trainings import Training, candidates, choose, facts_of, write_studies
from m4oe.compare.variants import Variant, chosen_variants
from m4oe.compare.workers import Order, run_orders
from m4oe.data.fingerprint import refuse_empty_classes
from m4oe.data.splits import split_exams
from m4oe.data.table import Cohort, load_cohort
from m4oe.errors import UserError, unknown
from m4oe.evaluate import read_table
from m4oe.runs.facts import task_kinds
from m4oe.runs.tables import write_csv
from m4oe.schema import Schema, TaskSpec
from m4oe.study import load_study
from m4oe.train.resume import begin_run

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What a comparison of studies is made of; `out` is its folder."""

    comparison: Comparison
    variants: Mapping[str, Variant]
    cohorts: tuple[Cohort, ...]
    splits: pd.DataFrame
    out: Path
    device: str
    kind: Literal["classifier", "segmenter"]

    @cached_property
    def first(self) -> list[Training]:
        """All that is tried with the first seed."""
        studies = [cohort.study for cohort in self.cohorts]
        rows = self.variants.items()
        return [each for name, row in rows for each in candidates(name, row, self.comparison, studies)]

    def order(self, training: Training) -> Order:
        """Raises UserError where its folder holds another run."""
        paths = write_studies(training, [cohort.study for cohort in self.cohorts], self.out)
        variant, folder = self.variants[training.variant], self.out / training.place
        config = training.config(self.comparison, variant, self.kind)
        if (folder / "environment.json").is_file():
            studies = [load_study(path) for path in paths]
            begin_run(folder, config.for_tasks(task_kinds(studies)), studies, {})
        return Order(paths, config, self.out / "splits.csv", folder, self.device)


def compare_studies(
    studies: Sequence[Path], comparison: Comparison, out: Path, device: str, *, tell: Tell = lambda text: None
) -> dict[str, Any]:
    """Trains every variant on `studies` from every seed, on the same splits; writes comparison.json, table.csv,
    table.tex and comparison.html into `out`, and returns the content of the first.

    A variant that fails is told with its reason and does not stop the rest. Raises UserError for what is wrong with
    the studies or the comparison, and for a folder that holds another one.
    """
    if not studies:
        raise UserError("compare needs study files to train on, or two runs at least")
    cohorts = tuple(load_cohort(load_study(path)) for path in studies)
    splits = split_exams(cohorts)
    refuse_empty_classes(cohorts)
    told = comparison.config_of(()).for_tasks(task_kinds(cohort.study for cohort in cohorts)).model.kind
    kind: Literal["classifier", "segmenter"] = "segmenter" if told == "segmenter" else "classifier"
    variants = chosen_variants(comparison.variants, comparison.own, kind)
    reference = _reference(comparison.reference, variants)
    _begin(out, splits)
    plan = Plan(comparison, variants, cohorts, splits, out, device, kind)
    trained, failed = _train(plan, tell)
    entries = [_entry(plan, name, trained, failed) for name in variants]
    return _finish(entries, reference, comparison.resamples, out, _competition(plan, reference, entries, failed))


def _competition(
    plan: Plan, reference: str, entries: Sequence[Entry], failed: Mapping[Training, str]
) -> dict[str, Any]:
    """Of the encoders of the reference, where models of one input and one task were trained, too."""
    joint = next(entry for entry in entries if entry.name == reference)
    apart = [each for each in plan.first if each.input and each not in failed]
    if plan.kind != "classifier" or not apart or joint.failed or joint.variant.apart:
        return {}
    rates: dict[tuple[str, str], list[Training]] = {}
    for each in apart:
        rates.setdefault((each.task, each.input), []).append(each)
    singles = [best for tried in rates.values() for best in choose(tried, plan.out).values()]
    return encoders_compared(next(iter(joint.seeds.values())), singles, plan.out, plan.device)


def compare_runs(runs: Sequence[Path], comparison: Comparison, out: Path) -> dict[str, Any]:
    """The same tables of finished runs, trained on identical splits; runs whose configs differ in train.seed alone are
    seeds of one row. Raises UserError that names the first difference of the splits."""
    entries = entries_of_runs(runs)
    reference = _reference(comparison.reference, {entry.name: entry for entry in entries})
    out.mkdir(parents=True, exist_ok=True)
    return _finish(entries, reference, comparison.resamples, out)


def _reference(name: str | None, known: Mapping[str, Any]) -> str:
    if name is not None and name not in known:
        raise unknown("reference", name, known)
    return name or next(iter(known))


def _begin(out: Path, splits: pd.DataFrame) -> None:
    """Makes the folder, or finds in it a comparison on the same splits."""
    path = out / "splits.csv"
    if path.is_file():
        if not read_table(path).equals(splits.astype(str).reset_index(drop=True)):
            raise UserError(f"{path}: holds a comparison on other splits; give another folder with -o")
        return
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: the folder is not empty and holds no comparison; give another with -o")
    out.mkdir(parents=True, exist_ok=True)
    write_csv(splits, path)


def _train(plan: Plan, tell: Tell) -> tuple[list[Training], dict[Training, str]]:
    """The chosen trainings of all seeds, and why those that failed did: what is tried first, then the other seeds."""
    failed = _run(plan, plan.first, tell)
    chosen = list(choose((each for each in plan.first if each not in failed), plan.out).values())
    others = [replace(each, seed=seed) for seed in plan.comparison.seeds[1:] for each in chosen]
    return [*chosen, *others], failed | _run(plan, others, tell)


def _run(plan: Plan, trainings: Sequence[Training], tell: Tell) -> dict[Training, str]:
    jobs = plan.comparison.jobs or _default_jobs(plan.device)
    orders = {each: plan.order(each) for each in trainings}
    left = {each: order for each, order in orders.items() if not order.finished}
    tell(f"{len(orders)} trainings, {len(orders) - len(left)} of them finished before; {jobs} at a time")
    count = 0

    def done(training: Training, reason: str) -> None:
        nonlocal count
        count += 1
        tell(f"{count}/{len(left)} {training}: {f'failed: {reason}' if reason else 'trained'}")

    return run_orders(left, jobs, done)


def _default_jobs(device: str) -> int:
    """A process a core; one at a time where they would share a GPU's memory."""
    if device != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _entry(plan: Plan, name: str, trained: Sequence[Training], failed: Mapping[Training, str]) -> Entry:
    """Failed, where a training did and no other candidate took its place."""
    variant, mine = plan.variants[name], [each for each in trained if each.variant == name]
    missing = {each.slot for each in plan.first if each.variant == name} - {each.slot for each in mine}
    lost = [each for each in failed if each.slot in missing or each in mine]
    if lost:
        return Entry(name, variant, failed=f"{lost[0]}: {failed[lost[0]]}")
    return finished_entry(name, variant, mine, plan.out, plan.cohorts, plan.splits)


def _finish(
    entries: Sequence[Entry], reference: str, resamples: int, out: Path, competition: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    content = content_of(entries, _tasks(entries), reference, resamples)
    content |= {"reading": reading(content), "competition": competition or {}}
    write_results(content, out)
    return content


def _tasks(entries: Iterable[Entry]) -> list[TaskSpec]:
    """Tasks of all models, in their first order."""
    found: dict[str, TaskSpec] = {}
    for entry in entries:
        for folder in entry.models:
            for task in Schema.model_validate(facts_of(folder)["schema"]).tasks:
                found.setdefault(task.name, task)
    return list(found.values())
