"""What an input says by itself, in the model's own words: its profile.

The profile of an input of an exam is the logits that the network gives when this input stands among the other inputs
of K reference exams. It depends on that input alone, and it shows what a score with all other inputs absent cannot:
that the input turns the meaning of another one (of two inputs that only together decide, each alone says nothing).

Axes as in batch.py; K reference exams.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from m4oe.analyses.subject import Encoded, Subject
from m4oe.batch import Tokens

REFERENCES = 8
BINS = 3


def references(subject: Subject, split: str = "validation", count: int = REFERENCES) -> Tokens:
    """Tokens of `count` exams by chance among those that have most inputs."""
    parts = subject.encoded(split)
    x, present = (torch.cat([getattr(part.tokens, name) for part in parts]) for name in ("x", "present"))
    chance = np.random.default_rng(0).random(len(x))
    chosen = np.lexsort([chance, -present.sum(1).cpu().numpy()])[:count]
    first = parts[0].tokens
    return Tokens(x[chosen], first.modality, first.stream, present[chosen])


@torch.no_grad()
def profiles(subject: Subject, split: str, among: Tokens) -> dict[str, dict[str, ndarray]]:
    """{input: {task: (P, K * C)}} of all exams of `split`, in the order of `encoded`; NaN where the input is absent."""
    return {name: _of_input(subject, split, subject.streams_of([name]), among) for name in subject.inputs}


def _of_input(subject: Subject, split: str, streams: Sequence[int], among: Tokens) -> dict[str, ndarray]:
    own = torch.isin(among.stream, torch.tensor(list(streams), device=among.stream.device))
    parts = [_of_part(subject, part, own, among) for part in subject.encoded(split)]
    return {task.name: np.concatenate([part[task.name] for part in parts]) for task in subject.tasks}


def _of_part(subject: Subject, part: Encoded, own: Tensor, among: Tokens) -> Mapping[str, ndarray]:
    """One pass for each reference: (B, N, D) tokens, of which those of `own` (N,) are the exams'."""
    has = (part.tokens.present & own).any(1).cpu().numpy()
    said: dict[str, list[ndarray]] = {task.name: [] for task in subject.tasks}
    for x, present in zip(among.x, among.present):
        mixed = torch.where(own.unsqueeze(-1), part.tokens.x, x), torch.where(own, part.tokens.present, present)
        prediction = subject.decide(Tokens(mixed[0], among.modality, among.stream, mixed[1]))
        for name, logits in said.items():
            logits.append(prediction.logits[name].values.float().cpu().numpy())
    joined = {name: np.concatenate(logits, 1) for name, logits in said.items()}
    return {name: np.where(has[:, None], logits, np.nan) for name, logits in joined.items()}


def binned(fitted: ndarray, applied: ndarray, bins: int = BINS) -> ndarray:
    """(P,) the nearest of `bins` centres for each row of `applied` (P, F), centres found by k-means on `fitted`.

    -1 where a row has NaN; all 0 where `fitted` has too few rows to find centres.
    """
    from sklearn.cluster import KMeans

    known, there = fitted[np.isfinite(fitted).all(1)], np.isfinite(applied).all(1)
    places = np.where(there, 0, -1)
    distinct = len(np.unique(known, axis=0))
    if distinct >= 2 and there.any():
        means = KMeans(min(bins, distinct), n_init=10, random_state=0).fit(known.astype(np.float64))
        places[there] = means.predict(applied[there].astype(np.float64))
    return places
