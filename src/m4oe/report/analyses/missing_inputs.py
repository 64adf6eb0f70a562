"""Which input can be left out, for which task, at what cost: in words first, then every subset as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from m4oe.report.analyses.pieces import listed, paragraph, spoken, table
from m4oe.report.words import measure, number, plain, title

SMALL = 0.05  # what a cost must surely be below to be called none that matters
Cost = Mapping[str, Any]


def missing_inputs(content: Mapping[str, Any]) -> Markup:
    """See analyses.missing_inputs."""
    left_out = content["left_out"]
    tasks = list(dict.fromkeys(task for entries in left_out.values() for task in entries))
    told = [sentence for task in tasks for sentence in _of_task(task, left_out)]
    parts = [listed(told), _left_out(left_out, tasks)]
    if content["subsets"]:
        parts.append(_subsets(content, tasks))
    if content["not_scored"]:
        names = ", ".join(map(plain, content["not_scored"]))
        words = f"Not scored here: {names}, whose masks lie on a picture that they cannot do without."
        parts.append(paragraph(words, "caption"))
    return Markup("").join(parts)


def verdict(cost: Cost) -> str:
    """What an interval of a cost says: "needed", "harmful", "free", or "unclear"."""
    low, high = cost["low"], cost["high"]
    if low is None or high is None:
        return "unclear"
    if low > 0:
        return "needed"
    if high < 0:
        return "harmful"
    return "free" if high <= SMALL else "unclear"


def _of_task(task: str, left_out: Mapping[str, Any]) -> Iterator[Markup]:
    known = {name: entries[task] for name, entries in left_out.items() if task in entries}
    by_verdict = {word: [n for n, e in known.items() if verdict(e["cost"]) == word] for word in _TOLD}
    for word, names in by_verdict.items():
        if names:
            told = ", ".join(_TOLD[word](plain(name), known[name]) for name in names)
            yield Markup("<strong>{}:</strong> {}.").format(title(task), _LEAD[word].format(told))


def _amount(entry: Mapping[str, Any]) -> str:
    """0.08 AUROC (0.05 to 0.12); a gain is written as a positive number, too."""
    sign = -1 if entry["cost"]["value"] < 0 else 1
    value, *ends = (sign * entry["cost"][key] for key in ("value", "low", "high"))
    low, high = sorted(ends)
    return f"{number(value)} {measure(entry['metric']).name} ({number(low)} to {number(high)})"


_TOLD = {
    "needed": lambda name, entry: f"{name} costs {_amount(entry)}",
    "harmful": lambda name, entry: f"{name} gains {_amount(entry)}",
    "free": lambda name, entry: f"{name} (at most {number(entry['cost']['high'])} lost)",
    "unclear": lambda name, entry: f"{name} {spoken(entry['cost'])}",
}
_LEAD = {
    "needed": "leaving out {}",
    "harmful": "leaving out {}",
    "free": "can be left out at no measurable cost: {}",
    "unclear": "these exams do not tell what it costs to leave out {}",
}


def _left_out(left_out: Mapping[str, Any], tasks: list[str]) -> Markup:
    rows = []
    for name, entries in left_out.items():
        cells = [_with_and_without(entries[task]) if task in entries else "" for task in tasks]
        rows.append([plain(name), *cells])
    note = "Score with everything that an exam has, score without the input, and the cost: the same patients drawn for "
    note += "both. On all test exams that have the input and another one, so that rows are of different exams."
    heads = ["Left out", *map(title, tasks)]
    return table("Cost of leaving out an input", heads, rows, note)


def _with_and_without(entry: Mapping[str, Any]) -> str:
    before, after = (number(entry[key]["value"]) for key in ("with", "without"))
    return f"{before} to {after}: cost {spoken(entry['cost'])}, n {entry['cost']['n']}"


def _subsets(content: Mapping[str, Any], tasks: list[str]) -> Markup:
    first = content["subsets"][0]["tasks"]
    metrics = [
        f"{title(task)}, {measure(first[task]['metric']).name}" if task in first else title(task) for task in tasks
    ]
    rows = []
    for subset in content["subsets"]:
        cells = [_scored(subset["tasks"].get(task), subset["inputs"] == content["together"]) for task in tasks]
        rows.append([" + ".join(map(plain, subset["inputs"])), *cells])
    count = max((entry["score"]["n"] for entry in first.values()), default=0)
    together = ", ".join(map(plain, content["together"]))
    note = f"The same test exams in every row, up to {count}: those that have {together}."
    return table("Every subset of inputs", ["Inputs", *metrics], rows, note)


def _scored(entry: Mapping[str, Any] | None, whole: bool) -> str:
    if entry is None:
        return ""
    return spoken(entry["score"]) + ("" if whole else f"; cost {spoken(entry['cost'])}")
