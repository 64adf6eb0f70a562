"""Do inputs compete for training? What each encoder of a joint model knows, beside encoders trained alone.

A linear probe reads the frozen encoder: pooled tokens of one input, before any other input has been seen, to labels of
one task. (poster of M4oE, ICLR 2025, figure 4a)

Axes: P exams · F features of an exam · C answers that are told apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy import ndarray

from m4oe.analyses.answers import MISSING, answers
from m4oe.analyses.estimates import estimate
from m4oe.analyses.subject import Encoded, Subject
from m4oe.errors import UserError
from m4oe.evaluate.bootstrap import Estimate
from m4oe.nets.heads import pooled
from m4oe.schema import TaskSpec
from m4oe.tasks.metrics import auroc

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # inverse weights of the probe's penalty; validation chooses
Pair = tuple[ndarray, ndarray]


def competition_of(subject: Subject) -> dict[str, Any] | None:
    """{"probes": {input: {task: AUROC of the probe on test exams, mean over classes}}} of the run's own encoders."""
    probes = {name: _of_input(subject, name) for name in subject.inputs}
    shown = {name: {task: probe[0] for task, probe in found.items()} for name, found in probes.items() if found}
    return {"split": "test", "metric": "auroc", "probes": shown} if shown else None


def competition_between(joint: Subject, alone: Mapping[str, Sequence[Subject]]) -> dict[str, Any]:
    """{input: {task: {"joint", "alone", "difference"}}}: probes of the joint model's encoders and of those that were
    trained with one input alone, {input: its runs, each of tasks of its own}, on the same splits; the difference is
    paired by exam.

    Negative differences are what training together cost an input. Raises UserError where test exams differ.
    """
    found: dict[str, Any] = {}
    for name, runs in alone.items():
        own = _of_input(joint, name)
        single = {task: probe for run in runs for task, probe in _of_input(run, name).items()}
        found[name] = {task: _compared(own[task], single[task]) for task in own if task in single}
    return found


def _of_input(subject: Subject, name: str) -> dict[str, tuple[Estimate, Pair, ndarray]]:
    """{task: (AUROC, (positive (P, C), score (P, C)) of test exams, patients)} of the probe of one input."""
    streams = subject.streams_of([name])
    splits = {split: _features(subject.encoded(split), streams) for split in ("train", "validation", "test")}
    if any(not len(here) for _, here, _ in splits.values()):
        return {}
    patients = subject.patients("test")[splits["test"][1]]
    found = {}
    for task in subject.tasks:
        probed = _probed(task, splits)
        score = None if probed is None else estimate(lambda weights, p=probed: macro_auroc(*p, weights), patients)
        if probed is not None and score is not None:
            found[task.name] = (score, probed, patients)
    return found


@torch.no_grad()
def _features(parts: Iterable[Encoded], streams: list[int]) -> tuple[ndarray, ndarray, list[Any]]:
    """(P, F) maximum and mean of each stream's tokens of the exams that have the input, their places, and samples."""
    features, here, samples, start = [], [], [], 0
    for part in parts:
        having, rows = part.having(streams)
        if len(rows):
            largest, mean = pooled(having.tokens.x, having.tokens, 1 + max(int(s) for s in having.tokens.stream))
            features.append(torch.cat([largest[:, streams], mean[:, streams]], -1).flatten(1).float().cpu().numpy())
            here += [start + row for row in rows.tolist()]
            samples += having.samples
        start += len(part.samples)
    return (np.concatenate(features) if features else np.empty((0, 0))), np.array(here, int), samples


def _probed(task: TaskSpec, splits: Mapping[str, tuple[ndarray, ndarray, list[Any]]]) -> Pair | None:
    """(positive (P, C), score (P, C)) of test exams, -1 of a label that is missing; None where nothing can be told.

    The penalty that does best on validation is taken.
    """
    labels = {split: _one_against_rest(task, samples) for split, (_, _, samples) in splits.items()}
    centre, spread = splits["train"][0].mean(0), splits["train"][0].std(0) + 1e-6
    features = {split: (values - centre) / spread for split, (values, _, _) in splits.items()}
    columns = []
    for column in range(labels["train"].shape[1]):
        fits = [_fitted(features["train"], labels["train"][:, column], strength) for strength in STRENGTHS]
        if fits[0] is not None:
            columns.append((labels["test"][:, column], _best(fits, features, labels["validation"][:, column])))
    return None if not columns else (np.stack([c for c, _ in columns], 1), np.stack([s for _, s in columns], 1))


def _one_against_rest(task: TaskSpec, samples: list[Any]) -> ndarray:
    """(P, C) 1 or 0, and -1 where the label is missing; two classes are one column."""
    columns = []
    for answer in answers(task, samples).values():
        classes = range(1, 2) if task.kind in ("binary", "multilabel", "survival") else range(len(task.classes))
        columns += [np.where(answer == MISSING, MISSING, answer == value) for value in classes]
    return np.stack(columns, 1)


def _fitted(features: ndarray, label: ndarray, strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    known = label != MISSING
    if len(set(label[known])) < 2:
        return None
    return LogisticRegression(C=strength, max_iter=300).fit(features[known], label[known])


def _best(fits: list[Any], features: Mapping[str, ndarray], label: ndarray) -> ndarray:
    """Scores (P,) on test of the fit that ranks validation best; the middle one where validation cannot tell."""
    known = label != MISSING
    weights = np.ones((1, int(known.sum())))
    ranks = [auroc(label[known] == 1, fit.decision_function(features["validation"])[known], weights)[0] for fit in fits]
    chosen = len(fits) // 2 if not np.isfinite(ranks).any() else int(np.nanargmax(ranks))
    return fits[chosen].decision_function(features["test"])


def macro_auroc(positive: ndarray, score: ndarray, weights: ndarray) -> ndarray:
    """(R,) mean over columns of the AUROC over exams whose label (P, C) is known, of weights (R, P)."""
    known = positive != MISSING
    columns = [
        auroc(positive[rows, column] == 1, score[rows, column], weights[:, rows])
        for column, rows in enumerate(known.T)
        if rows.any()
    ]
    defined = np.isfinite(columns)
    return np.divide(np.nansum(columns, 0), defined.sum(0), out=np.full(len(weights), np.nan), where=defined.any(0))


def _compared(joint: tuple[Estimate, Pair, ndarray], alone: tuple[Estimate, Pair, ndarray]) -> dict[str, Any]:
    (own, ours, patients), (other, theirs, _) = joint, alone
    if not np.array_equal(ours[0], theirs[0]):
        raise UserError("the two runs have different test exams or labels; compare runs on the same splits")
    gap = estimate(lambda weights: macro_auroc(*ours, weights) - macro_auroc(*theirs, weights), patients)
    return {"joint": own, "alone": other, "difference": gap}
