"""Which exams get a card: one for each thing a reader should have seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from m4oe.report.accounts import disagreements
from m4oe.report.folder import KEY, RunFolder
from m4oe.report.outcomes import EXCLUSIVE, Outcome
from m4oe.report.words import title

CARDS = 6
Exam = tuple[str, str]


@dataclass(frozen=True)
class Chosen:
    """An exam, and why it was chosen."""

    exam: Exam
    reason: str


def choose(run: RunFolder, outcomes: Sequence[Outcome], count: int = CARDS) -> list[Chosen]:
    """Up to `count` exams: right and sure, wrong and sure, undecided, inputs missing, in dispute, hard to outline."""
    calls = _calls(outcomes, run)
    right, wrong = calls[calls["right"] == 1], calls[calls["right"] == 0]
    gaps = calls[calls["inputs"] < calls["inputs"].max()]
    rules = [
        ("Right and sure", right.sort_values(["rare", "margin"], ascending=False, kind="stable")),
        ("Wrong and sure", wrong.sort_values("margin", ascending=False, kind="stable")),
        ("Undecided", calls.dropna(subset="margin").sort_values("margin", kind="stable")),
        ("Inputs missing", gaps.sort_values(["inputs", "margin"], ascending=[True, False], kind="stable")),
        ("Measures disagree", _disputed(run, set(calls["key"]))),
        ("Hard to outline", _poor_masks(run)),
    ]
    spare = [rules[0], rules[1], ("One more exam", calls), ("One more exam", rules[-1][1])] * count
    chosen: dict[Exam, Chosen] = {}
    for name, candidates in (*rules, *spare):
        if len(chosen) < count:
            _take(chosen, name, candidates, calls)
    return list(chosen.values())


def _take(chosen: dict[Exam, Chosen], name: str, candidates: pd.DataFrame, calls: pd.DataFrame) -> None:
    """Adds the first candidate that has no card yet, exams with contributions first."""
    if not len(candidates):
        return
    explained = set(calls.loc[calls["explained"], "key"]) if len(calls) else set()
    keys = [key for key in candidates["key"] if key not in chosen]
    best = next((key for key in keys if key in explained), keys[0] if keys else None)
    if best is not None:
        tasks = candidates.loc[[key == best for key in candidates["key"]], "task"]
        chosen[best] = Chosen(best, f"{name}: {title(tasks.iloc[0])}" if tasks.iloc[0] else name)


def _calls(outcomes: Sequence[Outcome], run: RunFolder) -> pd.DataFrame:
    """A row for each exam and task with exclusive classes; survival and multilabel tasks call no single class.

    margin: 0 (guessing) to 1 (sure), NaN where no class is called · right: 1, 0, or NaN without a label · rare: the
    true class is not the commonest.
    """
    frames = [_calls_of(outcome) for outcome in outcomes if outcome.task.kind in EXCLUSIVE and len(outcome)]
    frames = frames or [_uncalled(outcome) for outcome in outcomes if len(outcome)]
    columns = ["key", "task", "margin", "right", "rare", "inputs"]
    calls = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)
    explained = set() if run.contributions is None else set(_keys(run.contributions))
    return calls.assign(explained=[key in explained for key in calls["key"]])


def _calls_of(outcome: Outcome) -> pd.DataFrame:
    classes = outcome.probability.shape[1]
    known, truth = outcome.labelled, outcome.truth
    commonest = np.bincount(truth[known], minlength=classes).argmax()
    right = np.where(known, outcome.decision == truth, np.nan)
    margin = (outcome.probability.max(1) - 1 / classes) / (1 - 1 / classes)
    return _uncalled(outcome).assign(margin=margin, right=right, rare=known & (truth != commonest))


def _uncalled(outcome: Outcome) -> pd.DataFrame:
    inputs = [len(text.split("+")) if text else 0 for text in outcome.exams["inputs"]]
    frame = {"key": _keys(outcome.exams), "task": outcome.task.name, "inputs": inputs}
    return pd.DataFrame(frame).assign(margin=np.nan, right=np.nan, rare=False)


def _disputed(run: RunFolder, exams: set[Exam]) -> pd.DataFrame:
    """Those of the exams in which Shapley and evidence differ, the strongest first."""
    if run.contributions is None:
        return pd.DataFrame(columns=["key", "task"])
    shown = run.contributions[~run.contributions["task"].isin(run.withheld)]
    rows = disagreements(shown).reset_index()
    rows = rows[rows["differ"]].assign(size=lambda frame: frame["value"].abs() + frame["value_evidence"].abs())
    rows = rows.sort_values("size", ascending=False, kind="stable")
    found = pd.DataFrame({"key": _keys(rows), "task": rows["task"].to_numpy()})
    return found[[key in exams for key in found["key"]]]


def _poor_masks(run: RunFolder) -> pd.DataFrame:
    if run.cases is None:
        return pd.DataFrame(columns=["key", "task"])
    rows = run.cases[run.cases["split"] == run.split].sort_values("dice", kind="stable")
    return pd.DataFrame({"key": _keys(rows), "task": rows["task"].to_numpy()})


def _keys(frame: pd.DataFrame) -> list[Exam]:
    return list(zip(*(frame[column] for column in KEY)))
