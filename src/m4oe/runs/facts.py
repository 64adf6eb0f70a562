"""What a run knows of its data before it builds a network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from m4oe.artifact import load_artifact
from m4oe.config import flattened
from m4oe.data.fingerprint import fit_schema
from m4oe.data.table import Cohort, load_cohort
from m4oe.data.volumes.plan import make_plan, read_plan, write_plan
from m4oe.errors import UserError
from m4oe.schema import Plan, Schema
from m4oe.settings import Model, Segmenter
from m4oe.study import Study, load_study


def task_kinds(studies: Iterable[Study]) -> set[str]:
    return {task.kind for study in studies for task in study.tasks.values()}


def schema_of(
    cohorts: Sequence[Cohort],
    splits: pd.DataFrame,
    fold: int,
    model: Model,
    plan_file: Path | None = None,
    grown_from: Path | None = None,
) -> Schema:
    """The schema of one fold; for a segmenter with its plan: the one in `plan_file`, else made, and written there.

    grown_from: the run of which it is the schema, grown by the streams and tasks of `cohorts`. Raises UserError for a
    plan that treats pictures of that run otherwise than it did, and for a segmenter of other tasks than segmentations.
    """
    slices = model.kind == "segmenter"
    if slices:
        _refuse_other_tasks(cohorts)
    schema = fit_schema(cohorts, splits, fold, model.image_size, model.volume_size, volumes_as_slices=slices)
    old = None if grown_from is None else load_artifact(grown_from).schema
    schema = schema if old is None else old.grown(schema)
    if not slices:
        return schema
    if plan_file is not None and plan_file.is_file():
        plan = read_plan(plan_file)
    else:
        plan = _plan(cohorts, splits, fold, schema, model.segmenter, old)
        if plan_file is not None:
            write_plan(plan, plan_file)
    if old is not None and old.plan is not None:
        _refuse_replanned(plan, old.plan, f"{plan_file or 'plan.json'}", grown_from)
    streams = tuple(stream.model_copy(update={"size": plan.size}) for stream in schema.streams)
    return schema.model_copy(update={"streams": streams, "plan": plan})


def _plan(
    cohorts: Sequence[Cohort], splits: pd.DataFrame, fold: int, schema: Schema, own: Segmenter, old: Schema | None
) -> Plan:
    """A plan for the streams of `schema`, of which those of `old` stay as they were, and slices of its size."""
    before = None if old is None else old.plan
    known = {} if before is None else before.streams
    new = schema.model_copy(update={"streams": tuple(s for s in schema.streams if s.name not in known)})
    kept = own if before is None else before
    plan = make_plan(cohorts, splits, fold, new, size=kept.size, spacing=own.spacing, context=kept.context)
    return plan.model_copy(update={"streams": {**known, **plan.streams}})


def _refuse_other_tasks(cohorts: Sequence[Cohort]) -> None:
    for study in (cohort.study for cohort in cohorts):
        for name, task in study.tasks.items():
            if task.kind != "segmentation":
                raise UserError(
                    f"study {study.name!r}: task {name!r} is of kind {task.kind}, and the model is a segmenter, which "
                    "has no other tasks than segmentations; leave the task, or model.kind or 'grow', out"
                )


def _refuse_replanned(plan: Plan, old: Plan, file: str, run: Path | None) -> None:
    now, then = (flattened(one.model_dump(mode="json", exclude={"found"})) for one in (plan, old))
    for key, value in then.items():
        if now.get(key) != value:
            raise UserError(
                f"{file}: {key} is {now.get(key)}, but {value} in {run}, whose pictures growing treats as before; "
                "delete the file, and it is made again"
            )


def run_cohorts(run: Path) -> list[Cohort]:
    """The cohorts on which a run was trained. Raises UserError where their tables are gone."""
    paths = sorted((run / "studies").glob("*.yaml"))
    if not paths:
        raise UserError(f"{run}: no studies/ in it: not a run, or not the top folder of one")
    return [load_cohort(load_study(path)) for path in paths]


def survival_labels(cohorts: Sequence[Cohort], rows: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """task, time and event of the exams in `rows`: what censoring weights are estimated from."""
    frames = [pd.DataFrame(columns=["task", "time", "event"])]
    for cohort in cohorts:
        mine = np.isin(cohort.exams, rows.loc[rows["study"] == cohort.study.name, "exam"])
        for task in schema.tasks:
            if task.kind == "survival" and task.name in cohort.labels:
                label = cohort.labels[task.name][mine]
                known = label[~np.isnan(label).any(1)]
                frames.append(pd.DataFrame({"task": task.name, "time": known[:, 0], "event": known[:, 1]}))
    return pd.concat([frame for frame in frames if len(frame)] or frames, ignore_index=True)
