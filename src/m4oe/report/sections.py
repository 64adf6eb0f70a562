"""What stands in the sections on data and on scores, ready for the page's template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from m4oe.report.figures import interval
from m4oe.report.folder import KEY, RunFolder
from m4oe.report.outcomes import Outcome
from m4oe.report.population import SPLITS, Population, label_names
from m4oe.report.words import MEASURES, Measure, estimate, measure, percent, plural, span, title
from m4oe.schema import TaskSpec

MOST_COMBINATIONS = 12
ALL = "all structures"  # the row of their means, and of counts their sums
NARROW = 3  # columns of scores that fit into half a page
PRIMARY = {"survival": "c_index", "segmentation": "dice"}


@dataclass(frozen=True)
class Section:
    """A section: an anchor, a heading, and its content, or what is missing and which command makes it."""

    name: str
    title: str
    content: Any = None
    missing: str = ""


@dataclass(frozen=True)
class Summary:
    """A task in one sentence, and a doubt that belongs to it."""

    task: str
    sentence: str
    doubt: str = ""


@dataclass(frozen=True)
class Score:
    """A row of a table of metrics."""

    measure: Measure
    written: str
    drawn: Markup | None
    n: int | None


@dataclass(frozen=True)
class Cell:
    """A metric at a level: value, its interval or nothing, and exams, which are not told of a count."""

    value: str
    interval: str
    n: int | None


@dataclass(frozen=True)
class Breakdown:
    """Scores by level: rows of (level, a Cell for each column, None where there is none)."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]

    @property
    def wide(self) -> bool:
        return len(self.columns) > NARROW


def primary(task: TaskSpec) -> str:
    """The metric that a task is summed up by."""
    return PRIMARY.get(task.kind, "auroc")


def summaries(run: RunFolder, outcomes: Sequence[Outcome]) -> list[Summary]:
    """A sentence for each task: its main metric, its interval, on how many exams of how many patients."""
    scores = (run.metrics or {}).get(run.split or "", {})
    return [_summary(task, scores.get(task.name, {}), run, outcomes) for task in run.tasks]


def _summary(task: TaskSpec, scores: Mapping[str, Any], run: RunFolder, outcomes: Sequence[Outcome]) -> Summary:
    name = primary(task)
    entry = scores.get(name)
    if entry is None:
        return Summary(title(task.name), "not scored: no labelled exams, or 'm4oe evaluate' has not run.")
    shown, n = measure(name), entry.get("n")
    patients = _patients(task, run, outcomes)
    where = f" on {plural(n, 'exam')}" if n is not None else ""
    where += f" of {plural(patients, 'patient')}" if patients else ""
    low, high = entry.get("low"), entry.get("high")
    unsure = shown.chance is not None and low is not None and high is not None and low <= shown.chance <= high
    doubt = (
        f"The interval includes {shown.chance:g}: no better than guessing, as far as these exams tell."
        if unsure
        else ""
    )
    return Summary(title(task.name), f"{shown.name} {estimate(entry, name)}{where} in the {run.split} split.", doubt)


def _patients(task: TaskSpec, run: RunFolder, outcomes: Sequence[Outcome]) -> int:
    if task.kind == "segmentation" and run.cases is not None:
        rows = run.cases[(run.cases["task"] == task.name) & (run.cases["split"] == run.split)]
        return len(rows.drop_duplicates(["study", "patient"]))
    known = next((outcome for outcome in outcomes if outcome.task.name == task.name), None)
    return 0 if known is None else len(known.exams[known.labelled].drop_duplicates(["study", "patient"]))


def data_section(run: RunFolder, population: Population) -> Section:
    """Exams and patients by split, labels and their missingness, combinations of inputs."""
    exams = population.exams
    if not len(exams):
        return Section("data", "Data", missing="No splits.csv and no predictions.csv: 'm4oe train' makes the first.")
    shown = _splits(exams)
    rows = [(name, len(part), len(part.drop_duplicates(["study", "patient"]))) for name, part in shown.items()]
    labels = [
        _label_row(task, population.labels[task.name], tuple(shown))
        for task in run.tasks
        if task.name in population.labels
    ]
    torn = exams.groupby(["study", "patient"])["split"].nunique()
    content = {
        "torn": plural(int((torn > 1).sum()), "patient") if (torn > 1).any() else "",
        "splits": rows,
        "split_names": tuple(shown),
        "labels": labels,
        "notes": population.notes,
    }
    return Section("data", "Data", content | _combinations(exams, run))


def _splits(exams: pd.DataFrame) -> dict[str, pd.DataFrame]:
    names = [*SPLITS, *sorted(set(exams["split"]) - set(SPLITS))]
    return {name or "(none)": part for name in names if len(part := exams[exams["split"] == name])}


def _label_row(task: TaskSpec, labels: pd.DataFrame, splits: tuple[str, ...]) -> dict[str, Any]:
    names = list(label_names(task))
    known = labels[names].notna().any(axis=1)
    by_split = [int((known & (labels["split"] == ("" if split == "(none)" else split))).sum()) for split in splits]
    counts = [(name, int(labels[name].sum()), int(labels[name].notna().sum())) for name in names]
    parts = [
        f"{name} {count:,}" + (f" of {total:,}" if task.kind == "multilabel" else "") for name, count, total in counts
    ]
    missing = percent(int((~known).sum()), len(known))
    return {
        "task": title(task.name),
        "kind": task.kind,
        "by_split": by_split,
        "missing": missing,
        "counts": " · ".join(parts),
    }


def _combinations(exams: pd.DataFrame, run: RunFolder) -> dict[str, Any]:
    counts = Counter(exams["inputs"])
    found = [name for combination in counts for name in combination.split("+") if name]
    named = [stream.input for stream in run.streams if stream.input in found]
    inputs = list(dict.fromkeys([*named, *found]))
    common = counts.most_common(MOST_COMBINATIONS)
    peak = common[0][1]
    rows = [
        (set(text.split("+")), count, percent(count, len(exams)), 100 * count / peak) for text, count in common if text
    ]
    rest = len(exams) - sum(count for text, count in common)
    totals = [sum(count for text, count in counts.items() if name in text.split("+")) for name in inputs]
    present = [percent(total, len(exams)) for total in totals]
    return {
        "inputs": inputs,
        "present": present,
        "combinations": rows,
        "rest": rest,
        "others": len(counts) - len(common),
    }


def metrics_section(run: RunFolder) -> Section:
    """Every metric of every task with its interval, then by inputs, class, study and group."""
    scores = (run.metrics or {}).get(run.split or "test") if run.metrics else None
    if not scores or run.metrics is None:
        return Section("metrics", "Scores", missing="No metrics.json for this split: 'm4oe evaluate' makes it.")
    tasks = {task.name: task for task in run.tasks}
    classes = run.metrics.get("by_class", {}).get(run.split, {})
    # The classes of a segmenter's tasks, and all of them together, stand in one table each.
    alone = {name: entry for name, entry in scores.items() if not run.segmenter or not _levels_of(classes, name)}
    tables = [
        (title(name), tasks[name].kind if name in tasks else "", list(_scores(entry))) for name, entry in alone.items()
    ]
    broken = {name: run.metrics.get(name, {}).get(run.split, {}) for name in ("by_inputs", "by_study", "by_group")}
    titles = {"by_inputs": "By combination of inputs present", "by_study": "By study", "by_group": _of_groups(run)}
    if not any(len(_levels_of(broken["by_study"], name)) > 1 for name in scores):
        broken["by_study"] = {}  # it would say what has been said
    breakdowns = [_by_level(titles[name], levels, run) for name, levels in broken.items() if levels]
    by_class = _by_class(classes, scores, tasks)
    breakdowns = by_class + breakdowns if run.segmenter else breakdowns + by_class
    return Section("metrics", "Scores", {"tables": tables, "breakdowns": breakdowns})


def _of_groups(run: RunFolder) -> str:
    """Of a run whose folds leave out centres, every centre is scored by the model that has not seen it."""
    left_out = sorted({study.split.leave_out for study in run.studies if study.split.leave_out})
    return f"By group; each {' and '.join(left_out)} left out of its model's training" if left_out else "By group"


def _scores(entries: Mapping[str, Mapping[str, Any]]) -> Iterator[Score]:
    known = [name for name in MEASURES if name in entries]
    for name in [*known, *(name for name in entries if name not in MEASURES)]:
        entry, shown = entries[name], measure(name)
        ends = [entry.get(key) for key in ("value", "low", "high")]
        inside = not shown.counts and all(isinstance(end, int | float) and 0 <= end <= 1 for end in ends)
        drawn = interval(*ends, shown.chance) if inside else None  # type: ignore[arg-type]
        yield Score(shown, estimate(entry, name), drawn, entry.get("n"))


def _by_level(name: str, levels: Mapping[str, Any], run: RunFolder) -> Breakdown:
    tasks = [task for task in run.tasks if any(task.name in entry for entry in levels.values())]
    columns = tuple(f"{title(task.name)}, {measure(primary(task)).name}" for task in tasks)
    rows = [
        (level, tuple(_cell(entry.get(task.name, {}), primary(task)) for task in tasks))
        for level, entry in levels.items()
    ]
    return Breakdown(name, columns, tuple(rows))


def _by_class(levels: Mapping[str, Any], scores: Mapping[str, Any], known: Mapping[str, TaskSpec]) -> list[Breakdown]:
    """A table for each task: rows are its classes, columns the metrics of a class against the rest.

    Of a segmentation the last row is all classes: their mean, or of counts their sum.
    """
    tables = []
    for task in scores:
        of_task = _levels_of(levels, task)
        if not of_task:
            continue
        places = {name: place for place, name in enumerate(known[task].classes)} if task in known else {}
        of_task = dict(sorted(of_task.items(), key=lambda entry: places.get(entry[0], len(places))))
        names = [name for name in MEASURES if any(name in entry for entry in of_task.values())]
        if task in known and known[task].kind == "segmentation" and len(of_task) > 1:
            of_task[ALL] = scores[task]
        rows = tuple((level, tuple(_cell(entry, name) for name in names)) for level, entry in of_task.items())
        tables.append(Breakdown(f"{title(task)}, by class", tuple(measure(name).name for name in names), rows))
    return tables


def _levels_of(levels: Mapping[str, Any], task: str) -> dict[str, Any]:
    return {level: entry[task] for level, entry in levels.items() if task in entry}


def _cell(entries: Mapping[str, Any], name: str) -> Cell | None:
    if name not in entries:
        return None
    return Cell(*span(entries[name], name), None if measure(name).counts else entries[name].get("n"))


def identity(run: RunFolder) -> list[tuple[str, str]]:
    """Facts for the head of the page: studies, model, size."""
    names = [study.name for study in run.studies]
    names = names or (list(run.predictions["study"].unique()) if run.predictions is not None else [])
    facts = [("Study" if len(names) == 1 else "Studies", ", ".join(names)), ("Model", _model(run))]
    if run.parameters:
        facts.append(("Size", f"{run.parameters:,} parameters"))
    if run.splits is not None:
        facts.append(("Exams", f"{len(run.splits.drop_duplicates(KEY)):,}"))
    return [(name, value) for name, value in facts if value]


def _model(run: RunFolder) -> str:
    model = run.facts.get("model") or run.config.get("model") or {}
    if not model:
        return ""
    own, shared, preset = model.get("segmenter", {}), model.get("shared", {}), f"preset {model.get('preset', '?')}"
    if run.segmenter:
        places = {"both": "encoder and decoder", "none": None}.get(own.get("experts"), own.get("experts"))
        experts = f", experts in {places}" if places else ", no experts"
        return f"segmenter, {preset}, width {own.get('width', '?')}{experts}"
    experts = f", {shared['num_experts']} shared experts" if shared.get("num_experts") else ""
    return f"{preset}, width {model.get('width', '?')}{experts}"
