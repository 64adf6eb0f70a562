"""The part on pairs of inputs: what they tell of a task together and apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from m4oe.report.analyses.pieces import listed, spoken, surely_above, table
from m4oe.report.words import number, plain, title

SHOWN = 6  # pairs of a task
SURE = 0.05
COLUMNS = {
    "synergy": "only both together", "redundancy": "either of them", "unique_1": "only the first",
    "unique_2": "only the second",
}  # fmt: skip
READ = (
    "Information about the label, in bits beyond what shuffled labels show, with 95 % intervals. p: how often shuffled "
    "labels show as much synergy, of one pair; with many pairs, small ones come by chance. A partial information "
    "decomposition (Bertschinger et al. 2014) of what each input says in this model, in {bins} bins."
)
OPEN = " *: not converged; these numbers may be off by more than {tolerance} bits."


def synergy(content: Mapping[str, Any]) -> Markup:
    """A sentence and a table for each task."""
    tasks = list(content["tasks"].items())
    drawn = [listed(_said(task, pairs) for task, pairs in tasks)]
    for place, (task, pairs) in enumerate(tasks):
        head = (title(task), *COLUMNS.values(), "p", "exams")
        note = _note(content) if place == len(tasks) - 1 else ""
        drawn.append(table(f"Pairs of inputs, {plain(task)}", head, [_row(pair) for pair in pairs[:SHOWN]], note))
    return Markup("").join(drawn)


def _note(content: Mapping[str, Any]) -> str:
    unsure = any(not pair["converged"] for pairs in content["tasks"].values() for pair in pairs[:SHOWN])
    return READ.format(bins=content["bins"]) + OPEN.format(tolerance=number(content["tolerance"], 4)) * unsure


def _said(task: str, pairs: list[Mapping[str, Any]]) -> str:
    first = pairs[0]
    a, b = first["inputs"]
    # As many chances to be first as there are pairs (Bonferroni).
    if surely_above(first["synergy"]) and first["p"] * len(pairs) <= SURE:
        bits = number(first["synergy"]["value"])
        return f"{title(task)}: {a} and {b} tell {bits} bits together that neither tells alone."
    return f"{title(task)}: no pair of inputs surely tells more together than apart; {a} with {b} comes nearest."


def _row(pair: Mapping[str, Any]) -> tuple[str, ...]:
    name = " + ".join(pair["inputs"]) + "*" * (not pair["converged"]) + f", {pair['answer']}" * bool(pair["answer"])
    return (name, *(spoken(pair[part]) for part in COLUMNS), number(pair["p"], 3), str(pair["n"]))
