"""The part on whether routing is real: what is lost with another exam's routing, and with none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from m4oe.report.analyses.pieces import listed, paragraph, spoken, surely_above, table
from m4oe.report.words import measure, number, percent, plain, title

LAYERS = {"shared": "the shared experts", "all": "all experts"}
CHANGES = {"permuted": "another exam's routing", "uniform": "no routing, all experts alike"}
READ = (
    "What the trained routing gains over the other, in the task's main measure, with a 95 % interval, paired by exam. "
    "Where the interval includes 0, the score does not show that this routing matters."
)
LOOKING = 0.95


def routing(content: Mapping[str, Any]) -> Markup:
    """Alarms, a sentence for each task, the table of gains, and the load of the experts."""
    changes = content["changes"]
    alarms = [paragraph(words, "alarm") for words in _alarms(content)]
    tasks = list(dict.fromkeys(task for layer in changes.values() for gains in layer.values() for task in gains))
    said = [_said(task, changes.get("shared", changes["all"]), "shared" in changes) for task in tasks]
    rows = [
        (
            f"{title(task)}, {measure(gain['metric']).name}",
            *(_gain(changes, *column, task) for column in _columns(changes)),
        )
        for task in tasks
        if (gain := _any(changes, task))
    ]
    head = ("Task", *(f"{LAYERS[layer]}: {CHANGES[change]}" for layer, change in _columns(changes)))
    return Markup("").join([*alarms, listed(said), table("What routing gains", head, rows, READ), _load(content)])


def _said(task: str, changes: Mapping[str, Any], shared: bool) -> str:
    whose = LAYERS["shared" if shared else "all"]
    own, any_ = (surely_above(changes[change].get(task)) for change in ("permuted", "uniform"))
    if own:
        return f"{title(task)}: routing by {whose} is real: with another exam's, the answers get worse."
    if any_:
        return (
            f"{title(task)}: what {whose} have learned to look at matters, but not that it differs from exam to exam."
        )
    return f"{title(task)}: the score does not show that routing by {whose} matters."


def _columns(changes: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(layer, change) for layer, found in changes.items() for change in found]


def _any(changes: Mapping[str, Any], task: str) -> Mapping[str, Any]:
    return next(changes[layer][change][task] for layer, change in _columns(changes) if task in changes[layer][change])


def _gain(changes: Mapping[str, Any], layer: str, change: str, task: str) -> str:
    return spoken(changes[layer][change].get(task))


def _alarms(content: Mapping[str, Any]) -> Iterator[str]:
    for task, found in content.get("experts", {}).items():
        if found["collapsed"]:
            used = number(found["effective"]["value"], 1)
            yield f"Collapse: {plain(task)} uses {used} of {content['num_experts']} experts in effect."
    if surely_above(content.get("tokens"), LOOKING):
        yield f"Routing is not looking: experts read {percent(content['tokens']['value'], 1)} of the tokens alike."


def _load(content: Mapping[str, Any]) -> Markup:
    rows = [
        (title(task), spoken(found["effective"], 1), percent(max(found["load"]), 1))
        for task, found in content.get("experts", {}).items()
    ]
    head = ("Task", f"experts in effect, of {content.get('num_experts')}", "the busiest expert's share")
    return table("Experts' load", head, rows) if rows else Markup("")
