"""comparison.html: the comparison as one page that needs nothing else, in the look of a run's report."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

import m4oe.report
from m4oe.compare.competition import section
from m4oe.compare.forest import forest
from m4oe.compare.reading import mark, title_of
from m4oe.report.words import MEASURES, measure, number, plain, signed, title

MEBIBYTE = 2**20


def render(content: Mapping[str, Any]) -> str:
    """The page as HTML."""
    return _template().render(
        content=content,
        reading=content["reading"],
        reference=title_of(content, content["reference"]),
        tasks=[(name, title(name), measure(about["metric"]).name) for name, about in content["tasks"].items()],
        rows=[_row(content, name) for name in content["variants"]],
        forests=[forest(content, task) for task in content["best"]],
        pairs=[_pair(content, name, task) for name, found in content["pairs"].items() for task in found],
        details=[_detail(content, name, task) for task in content["best"] for name in content["variants"]],
        competition=section(content["competition"]) if content["competition"] else None,
        measures=[MEASURES[name] for name in _metrics(content) if name in MEASURES],
        date=datetime.date.today().isoformat(),
        version=m4oe.__version__,
        style=Markup((_report() / "report.css").read_text(encoding="utf-8")),
    )


def _report() -> Path:
    return Path(m4oe.report.__file__).parent


def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    places = FileSystemLoader([Path(__file__).parent, _report()])
    options: dict[str, Any] = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=places, autoescape=True, **options)
    return environment.get_template("comparison.html")


def _metrics(content: Mapping[str, Any]) -> Sequence[str]:
    scores = (scores for row in content["variants"].values() for scores in row["scores"].values())
    return list(dict.fromkeys(metric for one in scores for metric in one))


def _row(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    row = content["variants"][name]
    cells = [_cell(content, name, task) for task in content["tasks"]]
    return {**row, "name": name, "cells": cells, "cost": _cost(row["cost"]), "notes": _notes(row)}


def _cell(content: Mapping[str, Any], name: str, task: str) -> dict[str, str]:
    one = content["variants"][name]["scores"].get(task, {}).get(content["tasks"][task]["metric"])
    if one is None:
        return {"value": number(None), "span": "", "mark": ""}
    return {"value": number(one["value"], 3), "span": _span(one), "mark": mark(content, name, task)}


def _span(one: Mapping[str, Any]) -> str:
    return "" if one["low"] is None else f"{number(one['low'], 3)}\N{EN DASH}{number(one['high'], 3)}"


def _cost(cost: Mapping[str, float | None]) -> list[str]:
    memory = cost.get("peak_memory")
    flops = cost.get("flops")
    return [
        number(cost.get("parameters"), 0),
        number(cost.get("active_parameters"), 0),
        number(None if flops is None else flops / 1e6, 1),
        number(cost.get("seconds_an_epoch"), 2),
        number(cost.get("epochs"), 0),
        number(None if memory is None else memory / MEBIBYTE, 0),
    ]


def _notes(row: Mapping[str, Any]) -> str:
    """What validation chose, in words."""
    parts = []
    for task, chosen in row["chosen"].items():
        rate = None if chosen["learning_rate"] is None else f"learning rate {chosen['learning_rate']:g}"
        words = ", ".join(filter(None, (chosen["input"], rate)))
        if words:
            parts.append(f"{plain(task)}: {words}" if task else words)
    return "; ".join(parts)


def _pair(content: Mapping[str, Any], name: str, task: str) -> dict[str, str]:
    one, other = content["pairs"][name][task], content["variants"][name]["pair"]
    span = "" if one["low"] is None else f"{signed(one['low'], 3)} to {signed(one['high'], 3)}"
    return {
        "variant": title_of(content, name),
        "pair": title_of(content, other),
        "task": title(task),
        "value": signed(one["value"], 3),
        "span": span,
        "p_holm": _p(one["p_holm"]),
    }


def _detail(content: Mapping[str, Any], name: str, task: str) -> dict[str, Any]:
    row = content["variants"][name]
    scores = row["scores"].get(task, {})
    shown = {
        metric: number(one["value"], 3) + (f" ({_span(one)})" if _span(one) else "") for metric, one in scores.items()
    }
    difference = row["differences"].get(task)
    return {
        "task": title(task),
        "variant": row["title"],
        "scores": ", ".join(f"{measure(metric).name} {words}" for metric, words in shown.items()),
        "p": _p(difference and difference["p"]),
        "p_holm": _p(difference and difference["p_holm"]),
        "p_delong": _p(difference and difference["p_delong"]),
    }


def _p(value: float | None) -> str:
    if value is None:
        return number(None)
    return f"{value:.4f}" if value >= 0.0001 else "< 0.0001"
