"""What the analyses of a run found, in plain words first, then figures: one part of a section for each of them.

A row of SECTIONS is a title and a function from the content of RUN/analyses/NAME.json to HTML.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from m4oe.report.analyses.calibration import calibration
from m4oe.report.analyses.competition import competition
from m4oe.report.analyses.conformal import conformal
from m4oe.report.analyses.gradients import gradients
from m4oe.report.analyses.missing_inputs import missing_inputs
from m4oe.report.analyses.routing import routing
from m4oe.report.analyses.synergy import synergy
from m4oe.report.analyses.utilisation import utilisation
from m4oe.report.folder import RunFolder, places
from m4oe.report.sections import Section
from m4oe.report.svg import tag
from m4oe.report.words import plain

SECTIONS: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], Markup]]] = {
    "utilisation": ("What each task uses", utilisation),
    "routing": ("Is the routing real?", routing),
    "synergy": ("Which inputs are worth more together", synergy),
    "competition": ("What the encoder of each input knows", competition),
    "gradients": ("Do the tasks agree?", gradients),
    "missing_inputs": ("Which input can be left out", missing_inputs),
    "calibration": ("Does what is stated happen?", calibration),
    "conformal": ("Answers with a promise", conformal),
}


def analyses_section(run: RunFolder) -> Section:
    """All analyses in the run, of a cross-validated one those of its first fold."""
    heading = "Analyses"
    folder = next((place / "analyses" for place in places(run.path) if (place / "analyses").is_dir()), None)
    parts = (
        [] if folder is None else [part for name in SECTIONS if (part := _part(folder / f"{name}.json")) is not None]
    )
    if not parts or folder is None:
        return Section("analyses", heading, missing=f"No analyses: 'm4oe evaluate {run.path.name}' makes them.")
    fold = folder.parent.name if folder.parent != run.path else ""
    whose = [tag("p", f"Of {plain(fold)}, the first of the cross-validation.")] if fold else []
    return Section("analyses", heading, Markup("").join([*whose, *parts]))


def _part(file: Path) -> Markup | None:
    """The part of one analysis; a line where its file is damaged or was written by another version."""
    if not file.is_file():
        return None
    title, draw = SECTIONS[file.stem]
    try:
        drawn = draw(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        drawn = tag("p", f"{file.name} cannot be read: 'm4oe evaluate' makes it anew.", class_="missing")
    return tag("h3", title) + drawn
