"""Metrics with intervals over a table of predictions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy import ndarray
from pandas import DataFrame

from m4oe.artifact import write_text
from m4oe.errors import UserError, unknown
from m4oe.evaluate.bootstrap import Estimate, interval, resample_weights, summarise
from m4oe.evaluate.exams import Exams, read_cases, read_exams
from m4oe.schema import Schema
from m4oe.tasks.metrics import mean_defined

Metrics = dict[str, dict[str, dict[str, Estimate]]]


class Difference(NamedTuple):
    """A metric of one table of predictions less that of another, and its 95 % interval."""

    value: float
    low: float
    high: float


def evaluate(
    predictions: DataFrame,
    cases: DataFrame | None,
    schema: Schema,
    *,
    groups: DataFrame | None = None,
    training: DataFrame | None = None,
    resamples: int = 1000,
    stratum_resamples: int = 200,
    seed: int = 0,
) -> dict:
    """The content of metrics.json (docs/architecture.md): 95 % percentile intervals of a bootstrap over patients.

    predictions, cases: as in predictions.csv and cases.csv; the exams of all folds are pooled · groups: study, exam,
    and columns by which to part the exams · training: task, time, event, the survival labels of the training split
    (for censoring weights); default: those in `predictions`, or the evaluated exams' own · resamples: for a split;
    its strata get `stratum_resamples`. low and high are null below 10 exams or 2 patients; a metric that is undefined
    on its exams is absent, and so is a task without labels.

    Raises UserError for a column, task, class or number that is missing, unknown or repeated.
    """
    metrics: dict = {"by_inputs": {}, "by_class": {}, "by_study": {}, "by_group": {}}
    for exams in read_exams(predictions, cases, schema, training):
        for split, rows in _levels(exams.about["split"]):
            part, name = exams.take(rows), exams.task.name
            metrics.setdefault(split, {})[name] = summarise(part, resamples, seed)
            for stratum, level, some in _strata(part, groups):
                place = metrics[stratum].setdefault(split, {}).setdefault(level, {})
                place[name] = summarise(some, stratum_resamples, seed)
    return metrics


def paired_difference(
    metric: str,
    a: DataFrame,
    b: DataFrame,
    schema: Schema,
    task: str,
    *,
    split: str = "test",
    training: DataFrame | None = None,
    by_fold: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> Difference:
    """`metric` of predictions a less that of b on the same exams, the same patients drawn for both.

    Tables as in `evaluate`; by_fold: the mean over folds, where models of different folds are not to be ranked
    against each other; otherwise the exams of all folds are pooled. Of a segmentation task, tables of cases.
    Raises UserError where the exams of the two differ, or the metric is unknown or undefined on them.
    """
    pair = [_exams_of(table, schema, task, split, training) for table in (a, b)]
    first, second = (exams.about[["study", "exam", "fold"]].to_numpy() for exams in pair)
    if not np.array_equal(first, second):
        raise UserError(
            f"the two tables hold different labelled {split} exams of task {task!r}; compare the same exams"
        )
    parts = [rows for _, rows in _levels(pair[0].about["fold"])] if by_fold else [np.arange(len(pair[0]))]
    value = _difference(metric, pair, parts, np.ones((1, len(pair[0]))))
    draws = [
        _difference(metric, pair, parts, weights) for weights in resample_weights(pair[0].patients, resamples, seed)
    ]
    bounds = interval(np.concatenate(draws))
    if np.isnan(value[0]) or bounds is None:
        raise UserError(f"{metric} of task {task!r} is undefined on these {len(pair[0])} exams")
    return Difference(float(value[0]), *bounds)


def read_table(path: Path) -> DataFrame:
    """predictions.csv or cases.csv with every cell as text, so that an exam called NA or 007 keeps its name.

    Raises UserError for a file that is absent or is no table.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; 'm4oe train' writes it")
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except ValueError as error:  # pandas' parser errors, and bytes that are no text
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: not readable as a table ({reason}); 'm4oe evaluate' writes it anew") from None


def write_metrics(metrics: dict, path: Path) -> None:
    """Writes metrics.json, whole or not at all."""
    write_text(path, json.dumps(metrics, indent=1, allow_nan=False) + "\n")


def _exams_of(table: DataFrame, schema: Schema, task: str, split: str, training: DataFrame | None) -> Exams:
    found = read_cases(table, schema) if "dice" in table else read_exams(table, None, schema, training)
    for exams in found:
        rows = np.flatnonzero(exams.about["split"] == split)
        if exams.task.name == task and len(rows):
            return exams.take(rows)
    raise UserError(f"no labelled {split} exams of task {task!r} in the table")


def _difference(metric: str, pair: list[Exams], parts: list[ndarray], weights: ndarray) -> ndarray:
    """(R,) mean over `parts`, rows of the exams, of the difference under each of R `weights` (R, P)."""
    gaps = []
    for rows in parts:
        a, b = (exams.take(rows).sample(weights[:, rows]) for exams in pair)
        if metric not in a:
            raise unknown("metric", metric, a)
        gaps.append(a[metric] - b[metric])
    return mean_defined(np.stack(gaps))


def _strata(exams: Exams, groups: DataFrame | None) -> Iterator[tuple[str, str, Exams]]:
    """(by_inputs, by_study, by_group or by_class, its level, the exams of that level)."""
    columns = {"by_inputs": exams.about[["inputs"]], "by_study": exams.about[["study"]]}
    if groups is not None:
        columns["by_group"] = _groups_of(exams, groups)
    for stratum, frame in columns.items():
        for column in frame:
            for level, rows in _levels(frame[column]):
                yield stratum, f"{column}={level}" if stratum == "by_group" else level, exams.take(rows)
    for name, part in exams.classes():
        yield "by_class", name, part


def _groups_of(exams: Exams, groups: DataFrame) -> DataFrame:
    if missing := [column for column in ("study", "exam") if column not in groups]:
        raise UserError(f"the table of groups has no column {missing[0]!r}")
    text = groups.astype("string").fillna("").astype(object).drop_duplicates(["study", "exam"])
    found = exams.about[["study", "exam"]].merge(text, on=["study", "exam"], how="left")
    return found.drop(columns=["study", "exam"]).fillna("")


def _levels(column: pd.Series) -> Iterator[tuple[str, ndarray]]:
    """(value, its rows) of each value but the empty one, sorted."""
    values = column.to_numpy(dtype=object)
    for level in sorted(set(values) - {""}):
        yield level, np.flatnonzero(values == level)
