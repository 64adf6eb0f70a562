"""A comparison in plain sentences, no stronger than its numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from m4oe.report.words import measure, plain, plural, signed


def reading(content: Mapping[str, Any]) -> list[str]:
    """What the table says, most important first."""
    return [*_standing(content), *_against(content), *_pairs(content), *_cautions(content)]


def title_of(content: Mapping[str, Any], name: str) -> str:
    return str(content["variants"][name]["title"])


def mark(content: Mapping[str, Any], name: str, task: str) -> str:
    """best: significantly better than every other on this task · tied: the highest, or not told apart from it."""
    names = content["best"].get(task, [])
    return ("best" if len(names) == 1 else "tied") if name in names else ""


def _standing(content: Mapping[str, Any]) -> Iterator[str]:
    name, title = content["reference"], title_of(content, content["reference"])
    best = {task: names for task, names in content["best"].items() if name in content["scored"][task]}
    if content["variants"][name]["failed"] or not best:
        yield f"{title} has no scores, so nothing is compared to it."
        return
    alone = [task for task, names in best.items() if names == [name]]
    tied = [task for task, names in best.items() if name in names and len(names) > 1]
    behind = [task for task, names in best.items() if name not in names]
    yield f"{title} is best or tied for best on {len(alone) + len(tied)} of {plural(len(best), 'task')}."
    if alone:
        yield f"Best, significantly better than every other: {_tasks(alone)}."
    if tied:
        yield f"Tied for best, not told apart from the highest score or from others: {_tasks(tied)}."
    for task in behind:
        yield f"Significantly below the highest score on {plain(task)}, that of {title_of(content, best[task][0])}."


def _against(content: Mapping[str, Any]) -> Iterator[str]:
    """What differs from the reference, Holm over the table."""
    title, worse = title_of(content, content["reference"]), defaultdict(list)
    found = [(name, task, one) for name, row in content["variants"].items() for task, one in row["differences"].items()]
    tested = [each for each in found if each[2]["p_holm"] is not None]
    for name, task, one in tested:
        if one["p_holm"] < content["level"] and one["value"] > 0:
            yield f"{title} is worse than {title_of(content, name)} on {plain(task)} ({_shown(one)})."
        elif one["p_holm"] < content["level"]:
            worse[name].append(task)
    for name, tasks in worse.items():
        yield f"{title} is better than {title_of(content, name)} on {_tasks(tasks)}."
    if tested and not worse:
        yield f"It is significantly better than none of the others ({plural(len(tested), 'comparison')}, by Holm)."


def _pairs(content: Mapping[str, Any]) -> Iterator[str]:
    """What the one thing brings in which two variants differ, Holm over all pairs."""
    for name, differences in content["pairs"].items():
        both = f"{title_of(content, name)} and {title_of(content, content['variants'][name]['pair'])}"
        tested = {task: one for task, one in differences.items() if one["p_holm"] is not None}
        sure = {task: one for task, one in tested.items() if one["p_holm"] < content["level"]}
        better, worse = ([task for task, one in sure.items() if (one["value"] > 0) == up] for up in (True, False))
        if better:
            yield f"Of {both}, the first is better on {_tasks(better)}."
        if worse:
            yield f"Of {both}, the first is worse on {_tasks(worse)}."
        if not sure:
            yield f"{both} are told apart on none of {plural(len(differences), 'task')}."


def _shown(one: Mapping[str, Any]) -> str:
    """A difference as the reference sees it."""
    value, low, high = -one["value"], -one["high"], -one["low"]
    return f"{measure(one['metric']).name} {signed(value, 3)}, {signed(low, 3)} to {signed(high, 3)}"


def _cautions(content: Mapping[str, Any]) -> Iterator[str]:
    for name, row in content["variants"].items():
        if row["failed"]:
            yield f"{title_of(content, name)} failed: {row['failed']}."
    if any(len(row["seeds"]) == 1 for row in content["variants"].values()):
        yield "Where there is one seed, intervals hold the chance of patients alone, not that of training."
    for task, about in content["tasks"].items():
        if about.get("exams", 0) < 30 and task in content["best"]:
            exams = plural(about["exams"], "labelled test exam")
            yield f"{plain(task)[:1].upper()}{plain(task)[1:]} has {exams}: too few to tell small differences."


def _tasks(names: list[str]) -> str:
    words = [plain(name) for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
