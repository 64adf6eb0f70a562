"""Patient cards: what an exam looks like, what was said of it, what was true, and what carried the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from m4oe.errors import UserError
from m4oe.report.choice import Chosen, choose
from m4oe.report.folder import KEY, RunFolder
from m4oe.report.outcomes import EXCLUSIVE, Outcome
from m4oe.report.pictures import outline_hue, thumbnail
from m4oe.report.population import Population
from m4oe.report.reasons import Account, give_accounts
from m4oe.report.words import number, plural, title
from m4oe.schema import TaskSpec

if TYPE_CHECKING:
    from m4oe.data.table import Cohort


@dataclass(frozen=True)
class Shot:
    """A picture on a card: its data URI, or why there is none; `outlines` are (structure, colour) drawn on it."""

    name: str
    uri: str | None
    note: str = ""
    outlines: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Answer:
    """What was said of a task: (class, probability, whether it is true) and the truth in words."""

    task: str
    said: str
    truth: str
    verdict: str
    bars: tuple[tuple[str, float, bool], ...] = ()


@dataclass(frozen=True)
class Card:
    """One exam."""

    study: str
    exam: str
    patient: str
    reason: str
    present: tuple[str, ...]
    absent: tuple[str, ...]
    shots: tuple[Shot, ...]
    answers: tuple[Answer, ...]
    accounts: tuple[Account, ...]
    withheld: tuple[str, ...] = ()


def make_cards(run: RunFolder, population: Population, outcomes: Sequence[Outcome]) -> list[Card]:
    """A card for each chosen exam."""
    chosen = choose(run, outcomes)
    accounts = give_accounts(run, [one.exam for one in chosen], outcomes)
    return [_card(one, run, population, outcomes, accounts.get(one.exam, ())) for one in chosen]


def _card(
    chosen: Chosen, run: RunFolder, population: Population, outcomes: Sequence[Outcome], accounts: tuple[Account, ...]
) -> Card:
    study, exam = chosen.exam
    rows = [(outcome, place) for outcome in outcomes if (place := outcome.place(chosen.exam)) is not None]
    facts = rows[0][0].exams.iloc[rows[0][1]] if rows else _of(run.cases, chosen.exam).iloc[0]
    listed = _of(population.exams, chosen.exam)["inputs"]
    inputs = str(facts.get("inputs") or (listed.iloc[0] if len(listed) else ""))
    present = tuple(name for name in inputs.split("+") if name)
    known = _inputs(run, population, study) or present
    answers = [_answer(outcome, place) for outcome, place in rows]
    answers += [_outlined(task, run, chosen.exam) for task in run.tasks if task.kind == "segmentation"]
    absent = tuple(name for name in known if name not in present)
    return Card(
        study, exam, str(facts["patient"]), chosen.reason, present, absent,
        tuple(_shots(run, population, chosen.exam, present)), tuple(answer for answer in answers if answer),
        accounts, tuple(title(name) for name in run.withheld),
    )  # fmt: skip


def _of(frame: pd.DataFrame | None, exam: tuple[str, str]) -> pd.DataFrame:
    """The exam's rows."""
    if frame is None:
        return pd.DataFrame(columns=[*KEY, "task"])
    return frame[(frame["study"] == exam[0]) & (frame["exam"] == exam[1])]


def _inputs(run: RunFolder, population: Population, study: str) -> tuple[str, ...]:
    if study in population.cohorts:
        return tuple(population.cohorts[study].study.inputs)
    return tuple(dict.fromkeys(stream.input for stream in run.streams))


def _answer(outcome: Outcome, place: int) -> Answer:
    task, p, y = outcome.task, outcome.probability[place], outcome.target[place]
    if task.kind == "survival":
        return _survival_answer(outcome, place)
    names = task.classes[1:] if task.kind == "binary" else task.classes
    shown = list(zip(names, p[-len(names) :], y[-len(names) :]))
    bars = tuple((name, float(share), bool(true == 1)) for name, share, true in shown)
    known = bool(outcome.labelled[place])
    if task.kind not in EXCLUSIVE:
        said = ", ".join(name for name, share, _ in shown if share > 0.5) or "none"
        truth = ", ".join(name for name, _, true in shown if true == 1) or "none"
        wrong = sum(bool((share > 0.5) != true) for _, share, true in shown if true in (0, 1))
        verdict = "" if not known else "right" if not wrong else f"{plural(wrong, 'label')} wrong"
        return Answer(title(task.name), said, truth if known else "unknown", verdict, bars)
    said, truth = task.classes[outcome.decision[place]], task.classes[outcome.truth[place]] if known else "unknown"
    return Answer(title(task.name), said, truth, "" if not known else "right" if said == truth else "wrong", bars)


def _survival_answer(outcome: Outcome, place: int) -> Answer:
    risks = outcome.probability[place]
    bars = tuple((f"{name} y", float(risk), False) for name, risk in zip(outcome.task.classes, risks))
    truth = "unknown"
    if outcome.labelled[place]:
        happened = outcome.event[place] == 1
        truth = f"{'event after' if happened else 'no event within'} {number(float(outcome.time[place]), 1)} years"
    return Answer(
        title(outcome.task.name),
        f"risk {number(float(risks[-1]))} at {outcome.task.classes[-1]} years",
        truth,
        "",
        bars,
    )


def _outlined(task: TaskSpec, run: RunFolder, exam: tuple[str, str]) -> Answer | None:
    rows = _of(run.cases, exam)
    rows = rows[rows["task"] == task.name]
    if not len(rows):
        return None
    bars = tuple(
        (f"{row['class']} (Dice)", float(row["dice"]), False)
        for _, row in rows.iterrows()
        if row["dice"] == row["dice"]
    )
    odd = ", ".join(
        f"{row['class']} {row['outcome']}" for _, row in rows.iterrows() if row["outcome"] in ("missed", "invented")
    )
    return Answer(title(task.name), "outline", "mask", odd, bars)


def _shots(run: RunFolder, population: Population, exam: tuple[str, str], present: tuple[str, ...]) -> Iterator[Shot]:
    cohort = population.cohorts.get(exam[0])
    row = None if cohort is None else next((n for n, name in enumerate(cohort.exams) if str(name) == exam[1]), None)
    if cohort is None or row is None:
        return
    for name, entry in cohort.study.inputs.items():
        if name not in present:
            yield Shot(name, None, "not in this exam")
        elif entry.kind == "table":
            yield Shot(name, None, f"plain variables: {', '.join(entry.columns)}")
        elif cohort.paths[name][row] is None:
            yield Shot(name, None, "not there any more")
        else:
            yield _shot(run, cohort, row, name, exam)


def _shot(run: RunFolder, cohort: Cohort, row: int, name: str, exam: tuple[str, str]) -> Shot:
    from m4oe.data.readers import read_picture

    drawn = ((task, run.mask(*exam, task.name)) for task in run.tasks if task.on == name)
    overlay = next(((task, mask) for task, mask in drawn if mask is not None), None)
    try:
        picture = read_picture(cohort.paths[name][row], cohort.study.inputs[name].kind)
        uri = thumbnail(picture, overlay)
    except (UserError, OSError):
        return Shot(name, None, "could not be read")
    outlines = tuple((label, outline_hue(n)) for n, label in enumerate(overlay[0].classes[1:])) if overlay else ()
    return Shot(name, uri, str(cohort.modalities[name][row]), outlines)
