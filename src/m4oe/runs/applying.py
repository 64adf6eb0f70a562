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
from m4oe.runs.tables import all_rows, metrics_of, predicted, write_tables
from m4oe.study import load_study


@dataclass(frozen=True)
class Outcome:
    """What a prediction of many exams came to: how many, where it is written, which failed and why, which tasks are
    not explained."""

    exams: int
    written: Path
    failed: Mapping[str, str] = field(default_factory=dict)
    withheld: Mapping[str, str] = field(default_factory=dict)


def evaluate_run(run: Path, studies: Sequence[Path], out: Path | None, device: torch.device) -> dict[str, Any]:
    """metrics.json of a run's own splits, made anew from its predictions; or of other studies, predicted for it."""
    if studies:
        return _evaluate_elsewhere(run, studies, out or run / "external", device)
    if not (run / "model").is_dir() and (run / "fold_0").is_dir():
        return json.loads((run / "metrics.json").read_text())
    artifact = load_artifact(run)
    cohorts = run_cohorts(run)
    splits = read_table(run / "splits.csv")
    training = survival_labels(cohorts, splits[splits["split"] == "train"], artifact.schema)
    metrics = metrics_of(run, artifact, cohorts, training)
    (out or run).mkdir(parents=True, exist_ok=True)
    write_metrics(metrics, (out or run) / "metrics.json")
    return metrics


def _evaluate_elsewhere(run: Path, studies: Sequence[Path], out: Path, device: torch.device) -> dict[str, Any]:
    artifact = load_artifact(run)
    cohorts = [load_cohort(load_study(path)) for path in studies]
    _make_folder(out)
    found = predicted(predictor_of(artifact, device), all_rows(cohorts, artifact.schema, "test"), 32, out / "masks")
    write_tables(out, [found], artifact)
    metrics = metrics_of(out, artifact, cohorts, None)
    write_metrics(metrics, out / "metrics.json")
    return metrics


def predict_run(run: Path, sources: Sequence[str], out: Path, device: torch.device) -> Outcome:
    """Predictions, contributions and masks of new exams, into `out`. See data.intake for what `sources` may be."""
    artifact = load_artifact(run)
    cohorts = cohorts_from(sources, [load_study(path) for path in sorted((run / "studies").glob("*.yaml"))])
    _make_folder(out)
    dataset = all_rows(cohorts, artifact.schema, "")
    found = predicted(predictor_of(artifact, device), dataset, 32, out / "masks")
    write_tables(out, [found], artifact)
    written = out / ("predictions.csv" if len(found.predictions) else "masks")
    return Outcome(len(dataset) - len(found.failed), written, found.failed, artifact.withheld)


def _make_folder(out: Path) -> None:
    if (out / "environment.json").is_file():
        raise UserError(f"{out}: is a run; give another folder with -o, what the run holds would be lost")
    out.mkdir(parents=True, exist_ok=True)
