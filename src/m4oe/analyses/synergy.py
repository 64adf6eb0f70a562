"""What pairs of inputs tell of each task together and apart: partial information decomposition of a run's test exams.

The sources are what each input says by itself (profiles.py) in bins that the validation split has set; the target is
the label. Counts of few exams pretend information, so what labels shuffled among the exams would show is taken off.

Axes: P exams · R resamples · T answers · A, B bins of the first and the second input.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
from numpy import ndarray

from m4oe.analyses.answers import MISSING, answers
from m4oe.analyses.profiles import BINS, binned, profiles, references
from m4oe.analyses.subject import Subject
from m4oe.evaluate.bootstrap import interval, resample_weights
from m4oe.explain import Parts, decompose_many
from m4oe.schema import TaskSpec

FEWEST = 40  # exams with both inputs and a label; below, shuffled labels tell as much
RESAMPLES, SHUFFLES = 200, 500
TOLERANCE, SWEEPS = 1e-3, 5_000  # nats: less than is shown; most tables are there after 100 sweeps
BITS = 1 / np.log(2)


def synergy_of(subject: Subject) -> dict[str, Any] | None:
    """{"tasks": {task: [a pair, the most synergetic first]}}; None where no pair of inputs has enough exams.

    A pair: {"inputs", "answer", "n", "redundancy", "unique_1", "unique_2", "synergy"}: estimates in bits beyond what
    shuffled labels show; "p", the share of shuffled labels that show as much synergy; and "converged": whether every
    table that stands behind them came within `tolerance` bits of its decomposition.
    """
    tested_exams = int((subject.splits["split"] == "test").sum())
    if len(subject.inputs) < 2 or not subject.tasks or tested_exams < FEWEST or not subject.encoded("validation"):
        return None
    among = references(subject)
    fitted, tested = profiles(subject, "validation", among), profiles(subject, "test", among)
    found = {}
    for task in subject.tasks:
        bins = {name: binned(fitted[name][task.name], tested[name][task.name]) for name in subject.inputs}
        if pairs := sorted(_pairs(subject, task, bins), key=lambda pair: -pair["synergy"]["value"]):
            found[task.name] = pairs
    about = {"split": "test", "unit": "bits", "bins": BINS, "tolerance": TOLERANCE * BITS}
    return about | {"tasks": found} if found else None


def _pairs(subject: Subject, task: TaskSpec, bins: dict[str, ndarray]) -> Iterator[dict[str, Any]]:
    samples = [sample for part in subject.encoded("test") for sample in part.samples]
    patients = subject.patients("test")
    for question, answer in answers(task, samples).items():
        for first, second in combinations(subject.inputs, 2):
            known = (answer != MISSING) & (bins[first] >= 0) & (bins[second] >= 0)
            if known.sum() >= FEWEST and len(set(answer[known])) > 1:
                codes = (answer[known], bins[first][known], bins[second][known])
                yield {"inputs": [first, second], "answer": question, **pair_of(codes, patients[known])}


def pair_of(codes: tuple[ndarray, ndarray, ndarray], patients: ndarray, seed: int = 0) -> dict[str, Any]:
    """The decomposition of one pair: answers and bins, (P,) each, and whose exams they are.

    Intervals are those of a bootstrap over patients, about the value without its bias; p counts the data themselves.
    """
    rng, n = np.random.default_rng(seed), len(patients)
    whole, sure = _decomposed(_counts(codes, np.ones((1, n))))
    shuffled, sure_of_shuffled = _decomposed(
        np.concatenate([_counts((rng.permutation(codes[0]), *codes[1:]), np.ones((1, n))) for _ in range(SHUFFLES)])
    )
    weights = np.concatenate(list(resample_weights(patients, RESAMPLES, seed)))
    drawn, sure_of_drawn = _decomposed(_counts(codes, weights))
    found: dict[str, Any] = {"n": n, "converged": sure and sure_of_shuffled and sure_of_drawn}
    for name in Parts._fields:
        value = float(getattr(whole, name)[0] - getattr(shuffled, name).mean())
        draws = getattr(drawn, name)
        low, high = interval(draws - draws.mean() + value) or (None, None)
        found[name] = {"value": value, "low": low, "high": high, "n": n}
    found["p"] = float((1 + (shuffled.synergy >= whole.synergy[0]).sum()) / (1 + SHUFFLES))
    return found


def _counts(codes: tuple[ndarray, ndarray, ndarray], weights: ndarray) -> ndarray:
    """(R, T, A, B) sums of weights (R, P) over the exams of each combination of codes."""
    shape = tuple(int(code.max()) + 1 for code in codes)
    place = np.ravel_multi_index(codes, shape)
    return (weights @ np.eye(int(np.prod(shape)))[place]).reshape(-1, *shape)


def _decomposed(counts: ndarray) -> tuple[Parts, bool]:
    """In bits; and whether all are within the tolerance."""
    parts, miss = decompose_many(counts, tolerance=TOLERANCE, sweeps=SWEEPS)
    return Parts(*(part * BITS for part in parts)), bool((miss <= TOLERANCE).all())
