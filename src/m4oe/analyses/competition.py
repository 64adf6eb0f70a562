"""Do inputs compete for training? What each encoder of a joint model knows, beside encoders trained alone.

A linear probe reads the frozen encoder: pooled tokens of one input, before any other input has been seen, to labels of
one task. (poster of M4oE, ICLR 2025, figure 4a)

Axes: P exams · F features of an exam · C answers that are told apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Probe:
    """A linear probe of one input for one task on test exams: its AUROC, positive (P, C) and score (P, C), whose exams
    (P,) and whose patients (P,) they are."""

    auroc: Estimate
    positive: ndarray
    score: ndarray
    exams: ndarray
    patients: ndarray


def competition_of(subject: Subject) -> dict[str, Any] | None:
    """{"probes": {input: {task: AUROC of the probe on test exams, mean over classes}}} of the run's own encoders."""
    probes = {name: probes_of(subject, name) for name in subject.inputs}
    shown = {name: {task: probe.auroc for task, probe in found.items()} for name, found in probes.items() if found}
    return {"split": "test", "metric": "auroc", "probes": shown} if shown else None


def probes_of(subject: Subject, name: str) -> dict[str, Probe]:
    """{task: the probe of the encoder of the input `name`}, of tasks that can be told from it on all splits."""
    streams = subject.streams_of([name])
    splits = {split: _features(subject.encoded(split), streams) for split in ("train", "validation", "test")}
    if any(not len(here) for _, here, _ in splits.values()):
        return {}
    patients = subject.patients("test")[splits["test"][1]]
    exams = np.array([f"{sample.study}/{sample.exam}" for sample in splits["test"][2]])
    found = {}
    for task in subject.tasks:
        probed = _probed(task, splits)
        score = None if probed is None else estimate(lambda weights, p=probed: macro_auroc(*p, weights), patients)
        if probed is not None and score is not None:
            found[task.name] = Probe(score, *probed, exams, patients)
    return found


def compared(joint: Probe, alone: Probe) -> dict[str, Any] | None:
    """{"joint", "alone", "difference"} on the exams that both have seen, paired; None where nothing can be told.

    A negative difference is what training together cost the encoder. Raises UserError where labels differ.
    """
    _, ours, theirs = np.intersect1d(joint.exams, alone.exams, return_indices=True)
    label = joint.positive[ours]
    if not np.array_equal(label, alone.positive[theirs]):
        raise UserError("the two runs have different labels for one exam; compare runs on the same splits")
    scores = {"joint": joint.score[ours], "alone": alone.score[theirs]}
    patients = joint.patients[ours]
    found = {
        name: estimate(lambda weights, s=score: macro_auroc(label, s, weights), patients)
        for name, score in scores.items()
    }
    found["difference"] = estimate(
        lambda weights: macro_auroc(label, scores["joint"], weights) - macro_auroc(label, scores["alone"], weights),
        patients,
    )
    return None if None in found.values() else found


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
