"""What growing did to the old: the grown model, its gate open, on the test split of the run that it grew from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from m4oe.artifact import Artifact, load_artifact, write_text
from m4oe.errors import UserError
from m4oe.evaluate import paired_difference, read_table
from m4oe.predict import predictor_of
from m4oe.runs.facts import run_cohorts
from m4oe.runs.tables import predicted, rows_of


def write_growth(artifact: Artifact, old_run: Path, folder: Path, device: torch.device) -> None:
    """Writes growth.json: {task: {"difference", "low", "high"}} of the mean Dice, after less before, paired by exam."""
    cohorts, splits = run_cohorts(old_run), read_table(old_run / "splits.csv").astype({"fold": int})
    found = predicted(predictor_of(artifact, device), rows_of(cohorts, splits, "test", artifact.schema), 32)
    before, after = read_table(old_run / "cases.csv"), found.cases.astype(str).replace("nan", "")
    changes: dict[str, Any] = {}
    for task in load_artifact(old_run).schema.tasks:
        try:
            change = paired_difference("dice", after, before, artifact.schema, task.name)
        except UserError as error:
            changes[task.name] = {"undefined": str(error)}
        else:
            changes[task.name] = {"difference": change.value, "low": change.low, "high": change.high}
    write_text(folder / "growth.json", json.dumps(changes, indent=1))
