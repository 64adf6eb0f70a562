"""What stands in the sections on contributions and on experts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from m4oe.report import accounts
from m4oe.report.figures import experts, shade
from m4oe.report.folder import RunFolder
from m4oe.report.sections import Section
from m4oe.report.words import number, percent, title

MAPS = (
    ("shapley", "modality", "Shapley values by modality",
     "The reference: how far a modality moves the answer, in logits."),
    ("shapley", "input", "Shapley values by input", "The same, for each input by itself."),
    ("evidence", "modality", "Evidence by modality", "Parts of the logit that the head books on a modality's tokens."),
)  # fmt: skip


def contributions_section(run: RunFolder) -> Section:
    """Heat maps of mean contributions, agreement of the measures, and tasks that are withheld with the reason."""
    heading = "Which modality mattered"
    withheld = [(title(task), reason) for task, reason in run.withheld.items()]
    if run.contributions is None and not withheld:
        return Section("contributions", heading, missing="No contributions.csv: 'm4oe evaluate' makes it.")
    shown = run.contributions
    maps = [] if shown is None else [found for row in MAPS if (found := _map(run, shown, *row)) is not None]
    agreement = [] if shown is None else list(_agreement(run, shown))
    return Section("contributions", heading, {"maps": maps, "withheld": withheld, "agreement": agreement})


def _map(
    run: RunFolder, contributions: pd.DataFrame, measure: str, by: str, name: str, note: str
) -> dict[str, Any] | None:
    rows = contributions[~contributions["task"].isin(run.withheld)]
    if by == "input" and rows["input"].nunique() == rows["modality"].nunique():
        return None
    table = accounts.mean_weight(rows, measure, by)
    if table.empty:
        return None
    columns = _ordered(list(table.columns), run, by)
    tasks = [task for task in _tasks(run, table) if task in table.index]
    table = table.reindex(index=tasks, columns=columns)
    return {"title": name, "note": note, "columns": columns, "rows": list(_cells(table)), "measure": measure}


def _cells(table: pd.DataFrame) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """Rows coloured by their own largest value: logits of two tasks are on different scales."""
    for task, row in table.iterrows():
        peak = float(row.max()) or 1.0
        yield title(str(task)), [(number(float(value)), *shade(float(value) / peak)) for value in row]


def _tasks(run: RunFolder, table: pd.DataFrame) -> list[str]:
    named = [task.name for task in run.tasks]
    return [*named, *(task for task in table.index if task not in named)]


def _ordered(names: list[str], run: RunFolder, by: str) -> list[str]:
    known = list(dict.fromkeys(getattr(stream, by) for stream in run.streams))
    return [*(name for name in known if name in names), *(name for name in names if name not in known)]


def _agreement(run: RunFolder, contributions: pd.DataFrame) -> Iterator[tuple[str, str, str, int]]:
    """Of each task: rank correlation of Shapley and evidence, share of answers in which they differ, answers."""
    correlation = (run.routing or {}).get("agreement", {})
    differ = accounts.disagreements(contributions)["differ"]
    by_task = dict(list(differ.groupby(level="task", sort=False)))
    for task in run.tasks:
        if task.name in run.withheld or (task.name not in by_task and task.name not in correlation):
            continue
        cases = by_task.get(task.name, pd.Series(dtype=bool))
        yield title(task.name), number(correlation.get(task.name)), percent(int(cases.sum()), len(cases)), len(cases)


def experts_section(run: RunFolder) -> Section:
    """Routing: P(modality | task), P(expert | modality, task), how many experts are used, and alarms."""
    heading = "Experts and routing"
    routing = run.routing
    if routing is None or "P_modality_given_task" not in routing:
        return Section(
            "experts", heading, missing="No routing.json: 'm4oe evaluate' makes it, for a model with shared experts."
        )
    modalities, tasks = routing["modalities"], routing["tasks"]
    shares = np.nan_to_num(np.asarray(routing["P_modality_given_task"], float))
    rows = [(title(task), [(number(float(p)), *shade(float(p))) for p in row]) for task, row in zip(tasks, shares)]
    of_expert = np.nan_to_num(np.asarray(routing["P_expert_given_modality_task"], float))
    maps = [experts(title(task), modalities, of_expert[:, place]) for place, task in enumerate(tasks)]
    used = [(title(task), number(n, 1)) for task, n in accounts.effective_experts(routing).items()]
    looked = routing.get("effective_tokens")
    content = {
        "alarms": accounts.alarms(routing), "modalities": modalities, "rows": rows, "maps": maps, "used": used,
        "num_experts": routing["num_experts"],
        "tokens": percent(looked, 1) if isinstance(looked, int | float) else None,
    }  # fmt: skip
    return Section("experts", heading, content)
