"""The part on encoders: what a linear probe finds in each input by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from m4oe.report.analyses.pieces import listed, shaded, spoken, table
from m4oe.report.words import MISSING, title

READ = (
    "AUROC on test exams of a linear probe on each input's frozen encoder, before it has met any other input; 0.5 is "
    "guessing. An input that is known to carry a task, and of which the probe finds nothing, has lost to the others in "
    "training; 'm4oe compare' with single inputs shows what it could have learned."
)


def competition(content: Mapping[str, Any]) -> Markup:
    """Which input knows each task best, and all probes."""
    probes = content["probes"]
    tasks = list(dict.fromkeys(task for found in probes.values() for task in found))
    rows = [(name, *(_cell(found.get(task)) for task in tasks)) for name, found in probes.items()]
    head = ("Input", *(title(task) for task in tasks))
    return listed(_best(task, probes) for task in tasks) + table("Probes of encoders", head, rows, READ)


def _best(task: str, probes: Mapping[str, Any]) -> str:
    known = {name: found[task] for name, found in probes.items() if task in found}
    first = max(known, key=lambda name: known[name]["value"])
    return f"{title(task)}: the encoder of {first} by itself knows most, AUROC {spoken(known[first])}."


def _cell(entry: Mapping[str, Any] | None) -> Markup | str:
    return MISSING if entry is None else shaded(spoken(entry), max(0.0, 2 * entry["value"] - 1))
