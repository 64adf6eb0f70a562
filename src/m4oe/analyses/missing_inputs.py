"""What is lost without an input: every subset of inputs scored for every task, paired with all inputs.

Exams are encoded once; a subset is decided from the tokens that are left. Axes: R resamples · P exams.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
from numpy import ndarray

from m4oe.analyses.subject import Subject
from m4oe.evaluate.bootstrap import FEWEST, Estimate, interval, resample_weights
from m4oe.evaluate.exams import Exams, read_exams
from m4oe.tasks import KINDS

EXACT_UP_TO = 6  # inputs of which all subsets are scored
RANDOM = 24  # subsets drawn by chance where there are more
ENOUGH = 30  # test exams that must have a combination of inputs for its subsets to be compared
RESAMPLES = 300
KEY = ["study", "exam"]
Scored = Mapping[str, Exams]  # by task


def missing_inputs_of(subject: Subject) -> dict[str, Any] | None:
    """{"inputs", "together", "subsets", "left_out", "not_scored"}; None of a run with a single input.

    together: the inputs of which subsets are compared: the largest combination that 30 test exams have · subsets:
    [{"inputs", "tasks": {task: {"metric", "score", "cost"}}}] on the exams that have all of `together`, the first
    with all of them; cost: score with all less score with the subset, the same patients drawn for both · left_out:
    {input: {task: {"metric", "with", "without", "cost"}}} on all exams that have it and another one · not_scored:
    segmentations, which cannot do without the picture they lie on.
    """
    if len(subject.inputs) < 2:
        return None
    together = _together(subject)
    whole, known = _scored(subject, subject.inputs), {}
    for inputs in {tuple(n for n in subject.inputs if n != name) for name in subject.inputs}:
        known[inputs] = _scored(subject, inputs)
    left_out = {name: _left_out(subject, name, whole, known) for name in subject.inputs}
    table = []
    if together:
        rows = _exams_with(subject, together)
        full = {name: _only(exams, rows) for name, exams in _look_up(subject, together, known, whole).items()}
        subsets = [together, *_subsets(together)]
        table = [_subset(inputs, full, _look_up(subject, inputs, known, whole)) for inputs in subsets]
    tasks = {task.name for task in subject.tasks}
    not_scored = [task.name for task in subject.artifact.schema.tasks if task.name not in tasks]
    return {
        "split": "test", "inputs": list(subject.inputs), "together": list(together), "subsets": table,
        "left_out": left_out, "not_scored": not_scored,
    }  # fmt: skip


def _together(subject: Subject) -> tuple[str, ...]:
    """The largest combination of two inputs or more that 30 test exams have; of several, the most common."""
    counts: dict[tuple[str, ...], int] = {}
    present = [set(row) for row in _present(subject).values()]
    for inputs in {tuple(name for name in subject.inputs if name in row) for row in present}:
        counts[inputs] = sum(set(inputs) <= row for row in present)
    fit = [inputs for inputs, count in counts.items() if count >= ENOUGH and len(inputs) > 1]
    return max(fit, key=lambda inputs: (len(inputs), counts[inputs], inputs), default=())


def _present(subject: Subject) -> dict[tuple[str, str], set[str]]:
    """{(study, exam): its inputs} of test exams."""
    of_stream = {stream.name: stream.input for stream in subject.artifact.schema.streams}
    samples = [sample for part in subject.encoded("test") for sample in part.samples]
    return {(sample.study, sample.exam): {of_stream[name] for name in sample.inputs} for sample in samples}


def _exams_with(subject: Subject, inputs: Iterable[str]) -> set[tuple[str, str]]:
    return {exam for exam, present in _present(subject).items() if present >= set(inputs)}


def _subsets(inputs: tuple[str, ...], seed: int = 0) -> list[tuple[str, ...]]:
    """All true subsets but the empty one, the largest first; of many inputs those without one, single ones, and some
    drawn by chance."""
    count = len(inputs)
    if count <= EXACT_UP_TO:
        return [some for size in range(count - 1, 0, -1) for some in combinations(inputs, size)]
    rng = np.random.default_rng(seed)
    drawn = {tuple(np.flatnonzero(rng.permutation(count) < rng.integers(2, count - 1))) for _ in range(RANDOM)}
    some = [tuple(inputs[place] for place in places) for places in sorted(drawn, key=lambda p: (-len(p), p))]
    return [*combinations(inputs, count - 1), *some, *combinations(inputs, 1)]


def _scored(subject: Subject, inputs: Iterable[str]) -> Scored:
    """{task: labelled test exams}, predicted as if they had no other inputs."""
    table = subject.predictions("test", inputs)
    found = read_exams(table, None, subject.artifact.schema, subject.training_labels) if len(table) else ()
    return {exams.task.name: exams for exams in found}


def _look_up(subject: Subject, inputs: tuple[str, ...], known: dict[tuple[str, ...], Scored], whole: Scored) -> Scored:
    if inputs == subject.inputs:
        return whole
    if inputs not in known:
        known[inputs] = _scored(subject, inputs)
    return known[inputs]


def _only(exams: Exams, wanted: set[tuple[str, str]]) -> Exams:
    keys = zip(*(exams.about[column] for column in KEY))
    return exams.take(np.flatnonzero([key in wanted for key in keys]))


def _keys(exams: Exams) -> set[tuple[str, str]]:
    return set(zip(*(exams.about[column] for column in KEY)))


def _subset(inputs: tuple[str, ...], full: Scored, part: Scored) -> dict[str, Any]:
    tasks = {}
    for name, exams in full.items():
        if name in part and (compared := _compared(exams, _only(part[name], _keys(exams)))):
            metric, _, score, cost = compared
            tasks[name] = {"metric": metric, "score": score, "cost": cost}
    return {"inputs": list(inputs), "tasks": tasks}


def _left_out(subject: Subject, name: str, whole: Scored, known: Mapping[tuple[str, ...], Scored]) -> dict[str, Any]:
    rest = known[tuple(other for other in subject.inputs if other != name)]
    having, tasks = _exams_with(subject, [name]), {}
    for task, exams in rest.items():
        without = _only(exams, having)
        if compared := _compared(_only(whole[task], _keys(without)), without):
            metric, before, after, cost = compared
            tasks[task] = {"metric": metric, "with": before, "without": after, "cost": cost}
    return tasks


def _compared(a: Exams, b: Exams) -> tuple[str, Estimate, Estimate, Estimate] | None:
    """(metric, that of a, that of b, a less b) on the same exams, the same patients drawn for both; None where it is
    undefined."""
    metric = KINDS[a.task.kind].primary_metric
    if not len(a):
        return None
    once = [_values(exams, metric, np.ones((1, len(a)))) for exams in (a, b)]
    if not np.isfinite(once).all():
        return None
    drawn: list[list[ndarray]] = [[], []]
    if len(a) >= FEWEST and len(set(a.patients)) > 1:
        for weights in resample_weights(a.patients, RESAMPLES, 0):
            for place, exams in enumerate((a, b)):
                drawn[place].append(_values(exams, metric, weights))
    first, second = (np.concatenate(values) if values else np.empty(0) for values in drawn)
    before, after = float(once[0][0]), float(once[1][0])
    cost = _estimate(before - after, first - second, len(a))
    return metric, _estimate(before, first, len(a)), _estimate(after, second, len(a)), cost


def _values(exams: Exams, metric: str, weights: ndarray) -> ndarray:
    return exams.sample(weights)[metric]


def _estimate(value: float, draws: ndarray, n: int) -> Estimate:
    low, high = interval(draws) or (None, None)
    return {"value": value, "low": low, "high": high, "n": n}
