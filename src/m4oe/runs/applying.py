"""A trained run applied: evaluated anew, on other studies, or predicting new exams."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from m4oe.artifact import load_artifact
from m4oe.data.intake import cohorts_from
from m4oe.data.table import load_cohort
from m4oe.errors import UserError
from m4oe.evaluate import read_table, write_metrics
from m4oe.predict import predictor_of
from m4oe.runs.facts import run_cohorts, survival_labels
from m4oe.runs.tables import Found, all_rows, metrics_of, predicted, write_tables
from m4oe.schema import Schema, TaskSpec
from m4oe.study import load_study


@dataclass(frozen=True)
class Outcome:
    """What a prediction of many exams came to: how many, where it is written (None: none came to anything), which
    failed and why, what one should know of the others, which tasks are not explained."""

    exams: int
    written: Path | None
    failed: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    withheld: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluated:
    """metrics: the content of metrics.json, without a split where nothing was scored · failed {study/exam: why it is in
    none of them, or the picture or task of it that is named} · notes: what one should know who reads them · unscored:
    why nothing was scored, where `failed` does not say it."""

    metrics: dict[str, Any]
    failed: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    unscored: str = ""

    @property
    def splits(self) -> list[str]:
        return [name for name in self.metrics if not name.startswith("by_")]


def evaluate_run(run: Path, studies: Sequence[Path], out: Path | None, device: torch.device) -> Evaluated:
    """Metrics of a run's own splits, made anew from its predictions, with folds those of all, as training left them; or
    of other studies, predicted for it.

    Raises UserError for folds that are not all trained; where other studies have no label that the model could be
    measured by, and no exam failed; and for two of their label sets that have one name, before anything is predicted.
    """
    if studies:
        return _evaluate_elsewhere(run, studies, out or run / "external", device)
    folds = not (run / "model").is_dir() and (run / "fold_0").is_dir()
    metrics = _pooled(run / "metrics.json") if folds else _anew(run)
    (out or run).mkdir(parents=True, exist_ok=True)
    write_metrics(metrics, (out or run) / "metrics.json")
    return Evaluated(metrics)


def _anew(run: Path) -> dict[str, Any]:
    artifact = load_artifact(run)
    cohorts = run_cohorts(run)
    splits = read_table(run / "splits.csv")
    training = survival_labels(cohorts, splits[splits["split"] == "train"], artifact.schema)
    return metrics_of(run, artifact.schema, cohorts, training)


def _pooled(path: Path) -> dict[str, Any]:
    """The metrics of all folds together."""
    if not path.is_file():
        raise UserError(f"{path}: no such file: not all folds are trained; the same 'm4oe train' goes on with them")
    return dict(json.loads(path.read_text()))


def _evaluate_elsewhere(run: Path, studies: Sequence[Path], out: Path, device: torch.device) -> Evaluated:
    artifact = load_artifact(run)
    cohorts = [load_cohort(load_study(path)) for path in studies]
    _make_folder(out)
    dataset = all_rows(cohorts, artifact.schema, "test")
    predictor = predictor_of(artifact, device)
    scored = predictor.scored(dataset)
    schema = _scored_schema(artifact.schema, scored)
    found = predicted(predictor, dataset, 32, out / "masks")
    if found.nothing and found.failed:
        return Evaluated({}, found.failed)
    (out / "metrics.json").unlink(missing_ok=True)  # of an earlier call; the tables beside it are new
    write_tables(out, [found], artifact)
    evaluated = Evaluated(metrics_of(out, schema, cohorts, None), found.failed, _notes(found, len(dataset)))
    if evaluated.splits:
        write_metrics(evaluated.metrics, out / "metrics.json")
        return evaluated
    left = len(dataset) - len(found.failed)
    why = _unscored(studies, artifact.schema, scored, left) if left else ""
    if not found.failed:
        raise UserError(why)
    return Evaluated({}, found.failed, found.notes, why)


def _scored_schema(schema: Schema, scored: Sequence[TaskSpec]) -> Schema:
    """`schema` with the tasks of the studies that are scored. Raises UserError for two of one name."""
    names = [task.name for task in scored]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"task {twice!r} has other classes in one of the studies than in another; evaluate each alone")
    tasks = {task.name: task for task in (*schema.tasks, *scored)}
    return schema.model_copy(update={"tasks": tuple(tasks.values())})


def _notes(found: Found, exams: int) -> list[str]:
    return [*([_lost(found, exams)] if found.failed else []), *found.notes]


def _lost(found: Found, exams: int) -> str:
    counted = set(found.cases["study"] + "/" + found.cases["exam"])
    failed, partly = f"{len(found.failed)} of {exams} exams failed", len(found.failed.keys() & counted)
    if partly:
        return f"{failed}, {partly} of them in part: what failed is in none of these numbers, their other masks are"
    return f"{failed}, and are in none of these numbers"


def _unscored(studies: Sequence[Path], schema: Schema, scored: Sequence[TaskSpec], left: int) -> str:
    """Why none of the `left` exams that did not fail gave a number; scored: tasks by which they could."""
    where = f"{', '.join(map(str, studies))}: nothing to score: of {left} exams that could be predicted none has a"
    if scored:
        return f"{where} mask of {', '.join(task.name for task in scored)}; is the column of masks empty?"
    known = "; ".join(f"{task.name} ({', '.join(task.classes)})" for task in schema.tasks)
    return (
        f"{where} label that the model knows; its tasks are {known}; name the study's tasks, or the classes of its "
        "masks, as these are, or tell their 'synonyms'"
    )


def predict_run(run: Path, sources: Sequence[str], out: Path, device: torch.device) -> Outcome:
    """Predictions, contributions and masks of new exams, into `out`. See data.intake for what `sources` may be."""
    artifact = load_artifact(run)
    predictor = predictor_of(artifact, device)
    trained = [load_study(path) for path in sorted((run / "studies").glob("*.yaml"))]
    cohorts = cohorts_from(sources, trained, any_modality=predictor.takes_any_scan)
    _make_folder(out)
    dataset = all_rows(cohorts, artifact.schema, "")
    found = predicted(predictor, dataset, 32, out / "masks")
    exams = len(dataset) - len(found.failed)
    if found.nothing and not found.failed:
        raise UserError(f"{', '.join(sources)}: no exam has a picture that the model takes")
    if found.nothing:
        return Outcome(exams, None, found.failed, found.notes, artifact.withheld)
    write_tables(out, [found], artifact)
    written = out / ("predictions.csv" if len(found.predictions) else "masks")
    return Outcome(exams, written, found.failed, found.notes, artifact.withheld)


def _make_folder(out: Path) -> None:
    if (out / "environment.json").is_file():
        raise UserError(f"{out}: is a run; give another folder with -o, what the run holds would be lost")
    out.mkdir(parents=True, exist_ok=True)
