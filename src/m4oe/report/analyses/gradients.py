"""The part on gradients: whether tasks pull the shared weights in one direction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from m4oe.report.analyses.pieces import listed, spoken, surely_above, table
from m4oe.report.words import percent, plain, title

READ = (
    "Cosine of the gradients of two tasks' losses, mean over training batches with its 95 % interval; in brackets the "
    "share of batches in which they oppose each other. -1: opposed, 0: indifferent, 1: the same."
)


def gradients(content: Mapping[str, Any]) -> Markup:
    """A sentence for each pair of tasks, and the table by layer."""
    pairs = [pair for pair in content["pairs"] if pair["layers"]]
    layers = list(dict.fromkeys(layer for pair in pairs for layer in pair["layers"]))
    head = ("Layer", *(" and ".join(plain(task) for task in pair["tasks"]) for pair in pairs))
    rows = [(layer, *(_cell(pair["layers"].get(layer)) for pair in pairs)) for layer in layers]
    return listed(_said(pair) for pair in pairs) + table("Cosine of gradients", head, rows, READ)


def _said(pair: Mapping[str, Any]) -> str:
    a, b = (plain(task) for task in pair["tasks"])
    opposed = [name for name, found in pair["layers"].items() if surely_above(_turned(found["cosine"]))]
    agreed = [name for name, found in pair["layers"].items() if surely_above(found["cosine"])]
    both = f"{title(a)} and {b}"
    if opposed:
        return f"{both} pull against each other in {', '.join(opposed)}."
    return f"{both} agree in {', '.join(agreed)}." if agreed else f"{both} leave each other alone."


def _turned(entry: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if entry is None or entry["high"] is None else {"low": -entry["high"]}


def _cell(found: Mapping[str, Any] | None) -> str:
    return "" if found is None else f"{spoken(found['cosine'])} [{percent(found['conflict'], 1)}]"
