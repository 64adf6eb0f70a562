"""Is routing real? Scores with the trained routing against that of other exams and against none, and experts' load.

Axes: P exams · M modalities · E experts · T tasks · R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import nn

from m4oe.analyses.estimates import Estimate, estimate, mean
from m4oe.analyses.rerouting import Change, of_partners, partners, rerouted, soft_routers, uniform
from m4oe.analyses.subject import Subject
from m4oe.batch import Prediction, Tokens
from m4oe.evaluate.exams import Exams, read_exams
from m4oe.moe.losses import effective_tokens
from m4oe.tasks import KINDS

SPLIT = "test"
DRAWS = {"permuted": 5, "uniform": 1}  # of a change: its gain is the mean over them, so that no one draw decides
Predicted = Mapping[str, Exams]  # by task
COLLAPSED, LOOKING = 0.1, 0.95


def routing_of(subject: Subject) -> dict[str, Any] | None:
    """{"changes": {layers: {change: {task: what the trained routing gains}}}, "experts": {task: load, number in effect,
    whether it collapsed}, "tokens": share of the tokens that slots read}; None of a model without soft routing.

    Gains are in the task's main metric, paired by exam: 0 within the interval says that the score does not show
    that this routing is better than another exam's ("permuted"), or than none ("uniform").
    """
    routers = soft_routers(subject.network)
    if not routers or not subject.tasks:
        return None
    shared = [router for name, router in routers.items() if name.startswith("shared.")]
    layers = {"shared": shared, "all": list(routers.values())} if shared else {"all": list(routers.values())}
    trained = _predicted(subject, subject.decide)
    changes = {
        name: {change: _gains(subject, trained, chosen, change) for change in DRAWS} for name, chosen in layers.items()
    }
    return {"split": SPLIT, "changes": changes, **_experts(subject)}


def _gains(subject: Subject, trained: Predicted, routers: list[nn.Module], change: str) -> dict[str, Any]:
    rng = np.random.default_rng(0)

    def decide(tokens: Tokens) -> Prediction:
        change_: Change = of_partners(partners(tokens.present, rng)) if change == "permuted" else uniform
        with rerouted(routers, change_):
            return subject.decide(tokens)

    altered = [_predicted(subject, decide) for _ in range(DRAWS[change])]
    gains = {task: _gain(exams, [draw[task] for draw in altered]) for task, exams in trained.items()}
    return {name: gain for name, gain in gains.items() if gain is not None}


def _predicted(subject: Subject, decide: Callable[[Tokens], Prediction]) -> Predicted:
    """{task: its labelled exams, as `decide` answers them}."""
    table = subject.predictions(SPLIT, decide=lambda part: decide(part.tokens))
    found = read_exams(table, None, subject.artifact.schema, subject.training_labels)
    return {exams.task.name: exams for exams in found}


def _gain(trained: Exams, altered: Sequence[Exams]) -> dict[str, Any] | None:
    """What the main metric loses, in the mean, in `altered`, the same patients drawn for all; None where it is
    undefined, or too few exams are labelled for an interval."""
    metric = KINDS[trained.task.kind].primary_metric

    def gained(weights: ndarray) -> ndarray:
        return trained.sample(weights)[metric] - np.mean([draw.sample(weights)[metric] for draw in altered], axis=0)

    found = estimate(gained, trained.patients)
    return None if found is None or found["low"] is None else {"metric": metric, **found}


def _experts(subject: Subject) -> dict[str, Any]:
    """Load and number of experts in effect, of the layer that all modalities and tasks share."""
    joints, looked = [], []
    with torch.no_grad():
        for part in subject.encoded(SPLIT):
            shared = subject.decide(part.tokens).routing.get("shared")
            if shared is None or shared.joint is None or shared.dispatch is None:
                return {}
            joints.append(shared.joint.sum(1).float().cpu().numpy())
            looked += [_looked(shared.dispatch, part.tokens.present, row) for row in range(len(part.samples))]
    load, patients = np.concatenate(joints), subject.patients(SPLIT)
    names = [task.name for task in subject.artifact.schema.tasks]
    found = {name: _load(load[:, :, number], patients) for number, name in enumerate(names)}
    return {"num_experts": load.shape[1], "experts": found, "tokens": mean(np.array(looked), patients)}


def _looked(dispatch: torch.Tensor, present: torch.Tensor, row: int) -> float:
    return float(effective_tokens(dispatch[row : row + 1], present[row : row + 1]))


def _load(load: ndarray, patients: ndarray) -> dict[str, Any]:
    """Of one task's load (P, E)."""
    average, count = load.sum(0) / load.sum(), load.shape[1]
    effective: Estimate | None = estimate(lambda weights: _in_effect(weights @ load), patients)
    collapsed = effective is not None and float(effective["value"] or 0) < max(COLLAPSED * count, min(1.5, count - 0.5))
    return {"load": average.tolist(), "effective": effective, "collapsed": collapsed}


def _in_effect(load: ndarray) -> ndarray:
    """exp of the entropy of load (R, E), (R,): from 1 to E."""
    share = load / load.sum(1, keepdims=True)
    return np.exp(-(share * np.log(np.where(share > 0, share, 1.0))).sum(1))
