"""Do inputs compete for training? Encoders of the joint model beside those trained with one input alone.

Poster of M4oE (ICLR 2025), figure 4a: what an encoder knows falls where another input is learned from more easily.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup

from m4oe.analyses import subject_of
from m4oe.analyses.competition import compared, probes_of
from m4oe.compare.trainings import Training, places
from m4oe.report.analyses.pieces import listed, spoken, surely_above, table
from m4oe.report.words import MISSING, plain, title

READ = (
    "AUROC on test exams of a linear probe on the frozen encoder of one input: trained with all inputs and tasks, and "
    "trained for that task from that input alone (first seed; of a cross-validated comparison, first fold). "
    "Differences are paired by exam, with 95 % intervals over patients, not adjusted for their number. Below 0: the "
    "encoder knows less than it could have. The model of one input fuses nothing, so a difference holds what other "
    "tasks and another fusion ask of the encoder, as well as what other inputs take from it."
)


def encoders_compared(joint: Path, singles: Sequence[Training], out: Path, device: str) -> dict[str, Any]:
    """{input: {task: {"joint", "alone", "difference"}}} of the run `joint` and the trainings of one input and one task;
    where any of them has nothing to probe, it is absent."""
    where, found = torch.device(device), defaultdict(dict)
    together = subject_of(places(joint)[0], where)
    for name in dict.fromkeys(training.input for training in singles):
        own = probes_of(together, name)
        for single in (training for training in singles if training.input == name and training.task in own):
            alone = probes_of(subject_of(places(out / single.place)[0], where), name)
            gap = compared(own[single.task], alone[single.task]) if single.task in alone else None
            if gap is not None:
                found[name][single.task] = gap
    return dict(found)


def section(found: Mapping[str, Any]) -> Markup:
    """In words what was surely lost or gained, then all probes."""
    tasks = list(dict.fromkeys(task for probes in found.values() for task in probes))
    rows = [(name, *(_cell(probes.get(task)) for task in tasks)) for name, probes in found.items()]
    return listed(_told(found)) + table("Encoders", ("Input", *map(title, tasks)), rows, READ)


def _told(found: Mapping[str, Any]) -> Iterator[str]:
    lost = [(name, task) for name, task, gap in _gaps(found) if surely_above(_negative(gap))]
    gained = [(name, task) for name, task, gap in _gaps(found) if surely_above(gap)]
    for name, task in lost:
        yield f"Trained together, the encoder of {name} knows less of {plain(task)} than trained for it alone."
    for name, task in gained:
        yield f"Trained together, the encoder of {name} knows more of {plain(task)} than trained for it alone."
    if not lost:
        yield "No encoder surely knows less for having been trained together with the others."


def _gaps(found: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any] | None]]:
    for name, probes in found.items():
        for task, one in probes.items():
            yield name, task, one["difference"]


def _negative(gap: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    return None if gap is None or gap.get("high") is None else {"low": -gap["high"]}


def _cell(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return MISSING
    joint, alone = (spoken({"value": one[key]["value"]}) for key in ("joint", "alone"))
    return f"{joint} with all, {alone} alone: {spoken(one['difference'])}"
