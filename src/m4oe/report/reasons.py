"""What carried the answers of single exams: signed bars by input, under the three names of the measures."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from m4oe.report.accounts import MEASURES, disagreements
from m4oe.report.folder import KEY, RunFolder
from m4oe.report.outcomes import Outcome
from m4oe.report.words import number, signed, title
from m4oe.schema import TaskSpec

Exam = tuple[str, str]
Values = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Bar:
    """A signed bar: `share` of the longest of its measure, -1 to 1; of routing the probability itself."""

    share: float
    written: str


@dataclass(frozen=True)
class Account:
    """What carried a task's answer: rows of (input, {measure: Bar}), and a warning where the measures differ."""

    task: str
    about: str
    rows: tuple[tuple[str, Mapping[str, Bar]], ...]
    dispute: str = ""


def give_accounts(
    run: RunFolder, exams: Collection[Exam], outcomes: Sequence[Outcome]
) -> dict[Exam, tuple[Account, ...]]:
    """{exam: an account of each task that is not withheld}."""
    if run.contributions is None:
        return {}
    chosen = set(exams)
    of_exam = np.array([exam in chosen for exam in zip(*(run.contributions[column] for column in KEY))], dtype=bool)
    rows = run.contributions[of_exam]
    rows = rows[~rows["task"].isin(run.withheld)]
    disputes = disagreements(rows).to_dict("index")
    parts = {exam: dict(list(part.groupby("task"))) for exam, part in rows.groupby(KEY)}
    return {exam: tuple(_accounts(run, exam, part, outcomes, disputes)) for exam, part in parts.items()}


def _accounts(
    run: RunFolder,
    exam: Exam,
    parts: Mapping[Any, pd.DataFrame],
    outcomes: Sequence[Outcome],
    disputes: Mapping[Any, Mapping[Any, Any]],
) -> Iterator[Account]:
    known = {outcome.task.name: outcome for outcome in outcomes}
    for task in run.tasks:
        if task.name in parts:
            asked = _asked(parts[task.name], known.get(task.name), exam)
            dispute = _dispute(disputes.get((*exam, task.name, asked), {}))
            yield Account(title(task.name), _about(task, asked), _bars(_values(parts[task.name], asked)), dispute)


def _asked(rows: pd.DataFrame, outcome: Outcome | None, exam: Exam) -> str:
    """The class whose contributions are shown: the only one there is, or the most probable."""
    names = list(rows.loc[rows["measure"] != "routing", "class"].unique()) or list(rows["class"].unique())
    place = None if outcome is None else outcome.place(exam)
    if len(names) == 1 or outcome is None or place is None:
        return str(names[0])
    probability = dict(zip(outcome.task.classes, outcome.probability[place]))
    return str(max(names, key=lambda name: probability.get(name, -1.0)))


def _values(rows: pd.DataFrame, asked: str) -> Values:
    """{measure: {input: value}} of one class; routing is the same for all."""
    found: dict[str, dict[str, float]] = {name: {} for name in MEASURES}
    for row in rows.to_dict("records"):
        if row["measure"] in found and (row["class"] == asked or row["measure"] == "routing"):
            found[row["measure"]].setdefault(row["input"], row["value"])
    return found


def _bars(values: Values) -> tuple[tuple[str, Mapping[str, Bar]], ...]:
    inputs = dict.fromkeys(name for of_measure in values.values() for name in of_measure)
    longest = {
        kind: max((abs(v) for v in part.values() if v == v), default=0.0) or 1.0 for kind, part in values.items()
    }
    longest["routing"] = 1.0
    return tuple(
        (
            name,
            {kind: _bar(kind, part[name] / longest[kind], part[name]) for kind, part in values.items() if name in part},
        )
        for name in inputs
    )


def _bar(kind: str, share: float, value: float) -> Bar:
    if value != value:
        return Bar(0.0, number(None))
    return Bar(share, number(value) if kind == "routing" else signed(value))


def _about(task: TaskSpec, asked: str) -> str:
    if task.kind == "survival":
        return f"towards an event within {asked} years"
    return "towards more foreground" if task.kind == "segmentation" else f"towards {asked}"


def _dispute(found: Mapping[Any, Any]) -> str:
    if found.get("other"):
        return f"The measures disagree: Shapley names {found['input']}, evidence {found['input_evidence']}. Unsettled."
    return f"The measures disagree on the direction of {found['input']}. Unsettled." if found.get("opposed") else ""
