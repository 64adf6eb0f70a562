"""The part on what each task uses: Shapley first; where routing misleads, that it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from m4oe.report.analyses.pieces import listed, paragraph, shaded, table
from m4oe.report.words import MISSING, percent, plain, title

MEASURES = {"shapley": "share of the answer (Shapley)", "evidence": "share of evidence", "routing": "share of routing"}
READ = (
    "Shapley says what moved the answer; routing only where tokens were sent. In brackets, the middle eight tenths of "
    "the exams. Shares of an exam add up to 100 % over modalities."
)


def utilisation(content: Mapping[str, Any]) -> Markup:
    """Plain sentences, then a table for each task, then the exams that rest most on each modality."""
    tasks = content["tasks"]
    warned = [line for task, found in tasks.items() for line in _misleading(task, found)]
    drawn = [paragraph(line, "alarm") for line in warned]
    drawn.append(listed(_leading(task, found["modalities"]) for task, found in tasks.items()))
    for place, (task, found) in enumerate(tasks.items()):
        drawn.append(_table(task, found["modalities"], READ if place == len(tasks) - 1 else ""))
    examples = [line for task, found in tasks.items() for line in _examples(task, found["examples"])]
    return Markup("").join(drawn) + (listed(examples) if examples else Markup(""))


def _misleading(task: str, found: Mapping[str, Any]) -> Iterator[str]:
    for name in found["misleads"]:
        routed, used = (found["modalities"][name][measure] for measure in ("routing", "shapley"))
        yield (
            f"Routing sends {_share(routed)} of {plain(task)}'s weight through {name}, which makes {_share(used)} of "
            "what moves the answers (Shapley): do not read routing as importance."
        )


def _leading(task: str, modalities: Mapping[str, Any]) -> str:
    known = {name: found["shapley"] for name, found in modalities.items() if found.get("shapley")}
    if not known:
        return f"{title(task)}: no contributions."
    first = max(known, key=lambda name: known[name]["value"])
    entry = known[first]
    ends = "" if entry["low"] is None else f" ({_share(entry, 'low')} to {_share(entry, 'high')})"
    return f"{title(task)} rests most on {first}: {_share(entry)}{ends} of what moves its answers."


def _table(task: str, modalities: Mapping[str, Any], note: str) -> Markup:
    shown = [measure for measure in MEASURES if any(found.get(measure) for found in modalities.values())]
    rows = [(name, *(_cell(found, measure) for measure in shown)) for name, found in modalities.items()]
    return table(f"What {plain(task)} uses", (title(task), *(MEASURES[measure] for measure in shown)), rows, note)


def _cell(found: Mapping[str, Any], measure: str) -> Markup | str:
    entry, spread = found.get(measure), found["spread"].get(measure) or {}
    if not entry:
        return MISSING
    ends = f" [{percent(spread['p10'], 1)} to {percent(spread['p90'], 1)}]" if spread else ""
    return shaded(f"{_share(entry)}{ends}", entry["value"])


def _examples(task: str, examples: list[Mapping[str, Any]]) -> Iterator[str]:
    told = ", ".join(f"{one['modality']} in exam {one['exam']} ({percent(one['share'], 1)})" for one in examples)
    if told:
        yield f"{title(task)}, the exams that rest most on one modality: {told}."


def _share(entry: Mapping[str, Any], end: str = "value") -> str:
    return percent(float(entry[end]), 1)
