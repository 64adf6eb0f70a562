"""Who is in the run: exams, the inputs they have, the labels they have. From the studies' tables where these can be
read, otherwise from predictions.csv alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy import ndarray

from m4oe.errors import UserError
from m4oe.report.folder import KEY, RunFolder
from m4oe.report.outcomes import Outcome, outcome
from m4oe.schema import TaskSpec

if TYPE_CHECKING:
    from m4oe.data.table import Cohort

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Population:
    """Exams of a run.

    exams: frame of study, exam, patient, split, inputs (joined by "+"), one row for each of N · labels: {task: frame
    of split and one column for each class or label: 1, 0, or NaN where missing} · cohorts: {study: its table, read}
    · notes: what could not be read, and why.
    """

    exams: pd.DataFrame
    labels: Mapping[str, pd.DataFrame]
    cohorts: Mapping[str, Cohort] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_population(run: RunFolder) -> Population:
    """The population, as far as the run and its studies' tables tell."""
    cohorts, notes = _cohorts(run)
    if cohorts and not notes:
        frames = [_cohort_exams(name, cohort) for name, cohort in cohorts.items()]
        exams = _with_split(pd.concat(frames, ignore_index=True), run.splits)
        labels = {task.name: _cohort_labels(task, cohorts, exams) for task in run.tasks}
        return Population(exams, labels, cohorts)
    if run.predictions is None or not len(run.predictions):
        return Population(
            _with_split(pd.DataFrame(columns=[*KEY, "patient", "inputs"]), run.splits), {}, cohorts, notes
        )
    exams = run.predictions.drop_duplicates(KEY)[[*KEY, "patient", "split", "inputs"]].reset_index(drop=True)
    labels = {
        task.name: _outcome_labels(outcome(run.predictions, task)) for task in run.tasks if task.kind != "segmentation"
    }
    return Population(exams, labels, cohorts, notes)


def _cohorts(run: RunFolder) -> tuple[dict[str, Cohort], tuple[str, ...]]:
    from m4oe.data.table import load_cohort

    cohorts, notes = {}, []
    for study in run.studies:
        try:
            cohorts[study.name] = load_cohort(study)
        except (UserError, OSError) as error:
            notes.append(f"The table of study {study.name} could not be read: {error}")
    return cohorts, tuple(notes)


def _cohort_exams(name: str, cohort: Cohort) -> pd.DataFrame:
    present = {key: cohort.present(key) for key in cohort.study.inputs}
    inputs = ["+".join(key for key, has in present.items() if has[row]) for row in range(len(cohort.exams))]
    return pd.DataFrame({"study": name, "exam": cohort.exams, "patient": cohort.patients, "inputs": inputs})


def _with_split(exams: pd.DataFrame, splits: pd.DataFrame | None) -> pd.DataFrame:
    """Splits of the first fold; of exams that splits.csv alone knows, what it says of them."""
    if splits is None:
        return exams.assign(split="")
    first = splits.drop_duplicates(KEY)[[*KEY, "patient", "split"]]
    if not len(exams):
        return first.assign(inputs="")
    return exams.merge(first[[*KEY, "split"]], on=KEY, how="left").fillna({"split": ""})


def _cohort_labels(task: TaskSpec, cohorts: Mapping[str, Cohort], exams: pd.DataFrame) -> pd.DataFrame:
    parts = [_one_hot(task, cohort.labels.get(task.name), len(cohort.exams)) for cohort in cohorts.values()]
    return pd.concat(parts, ignore_index=True).assign(split=exams["split"].to_numpy())


def _one_hot(task: TaskSpec, values: ndarray | None, count: int) -> pd.DataFrame:
    """(count, classes) of 1, 0 and NaN from labels as a cohort holds them."""
    names = label_names(task)
    if values is None:
        return pd.DataFrame(np.nan, index=range(count), columns=list(names))
    if task.kind == "multilabel":
        return pd.DataFrame(values.astype(float), columns=list(names))
    if task.kind == "segmentation":
        return pd.DataFrame({names[0]: [1.0 if path is not None else np.nan for path in values]})
    index = values[:, 1] if task.kind == "survival" else values
    hot = (np.asarray(index, float)[:, None] == np.arange(len(names))).astype(float)
    hot[np.isnan(np.asarray(index, float))] = np.nan
    return pd.DataFrame(hot, columns=list(names))


def _outcome_labels(known: Outcome) -> pd.DataFrame:
    names, task = label_names(known.task), known.task
    target: Any = known.target
    if task.kind == "survival":
        target = np.stack([known.event == 0, known.event == 1], 1).astype(float)
        target[~known.labelled] = np.nan
    return pd.DataFrame(target, columns=list(names)).assign(split=known.exams["split"].to_numpy())


def label_names(task: TaskSpec) -> tuple[str, ...]:
    """What is counted of a task's labels."""
    return {"survival": ("censored", "event"), "segmentation": ("mask",)}.get(task.kind, task.classes)
