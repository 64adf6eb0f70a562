"""Analyses of a trained run: is its explanation true, and what does each part of it do?

An analysis is a row of ANALYSES: a function of a Subject, to numbers ready for JSON, or None where it has nothing to
say of such a run. Validation chooses, test reports.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from m4oe.analyses.calibration import calibration_of
from m4oe.analyses.competition import competition_of
from m4oe.analyses.conformal import conformal_of
from m4oe.analyses.gradients import gradients_of
from m4oe.analyses.missing_inputs import missing_inputs_of
from m4oe.analyses.routing import routing_of
from m4oe.analyses.subject import Subject, subject_of
from m4oe.analyses.synergy import synergy_of
from m4oe.analyses.utilisation import utilisation_of
from m4oe.artifact import load_artifact, write_text

__all__ = ["ANALYSES", "FOLDER", "Subject", "analyse", "analyse_run", "subject_of"]

Analysis = Callable[[Subject], dict[str, Any] | None]
FOLDER = "analyses"
ANALYSES: Mapping[str, Analysis] = {
    "utilisation": utilisation_of,
    "routing": routing_of,
    "synergy": synergy_of,
    "competition": competition_of,
    "gradients": gradients_of,
    "missing_inputs": missing_inputs_of,
    "calibration": calibration_of,
    "conformal": conformal_of,
}


def analyse_run(
    run: Path, device: torch.device, out: Path | None = None, *, tell: Callable[[str], None] = lambda text: None
) -> dict[str, dict[str, Any]]:
    """{name: content} of all analyses of a diagnosis run, written to OUT/analyses/NAME.json; none of a segmenter.

    out: default RUN. Of a cross-validated run each fold is analysed, into its own folder; what comes back is of the
    first. Raises UserError for a folder without a trained model, or without the tables it was trained on.
    """
    folders = sorted(path for path in run.glob("fold_*") if (path / "model").is_dir()) or [run]
    if load_artifact(folders[0]).schema.plan is not None:
        return {}
    places = [(out or run) / folder.relative_to(run) for folder in folders]
    found = [analyse(subject_of(folder, device), place, tell) for folder, place in zip(folders, places)]
    return found[0]


def analyse(subject: Subject, out: Path, tell: Callable[[str], None] = lambda text: None) -> dict[str, dict[str, Any]]:
    """{name: content} of all analyses of one model, written to OUT/analyses as they come, whole or not at all."""
    folder, found = out / FOLDER, {}
    folder.mkdir(parents=True, exist_ok=True)
    for name, analysis in ANALYSES.items():
        tell(f"{subject.folder}: {name}")
        content = analysis(subject)
        if content is None:
            (folder / f"{name}.json").unlink(missing_ok=True)
            continue
        found[name] = content
        write_text(folder / f"{name}.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    return found
