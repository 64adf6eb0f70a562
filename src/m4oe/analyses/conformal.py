"""Sets that hold the true class as often as promised, and abstaining: thresholds from validation, figures of test."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

from m4oe.analyses.estimates import Estimate, estimate
from m4oe.analyses.labelled import by_inputs, labelled
from m4oe.analyses.subject import Subject
from m4oe.evaluate.bootstrap import FEWEST
from m4oe.evaluate.conformal import (
    Question,
    abstention_limit,
    covered,
    fewest,
    least_expected,
    questions,
    risk_area,
    sets,
    share_interval,
    threshold,
)
from m4oe.evaluate.exams import Exams

RESAMPLES = 300
PROMISES = (0.9, 0.95)
ANSWERED = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)


def conformal_of(subject: Subject) -> dict[str, Any] | None:
    """Of each task and question (a label of a multilabel task, "" of others) {"promises": [sets at 90 and 95 %],
    "abstention": ...}; None without predictions. Survival has no sets: censored exams have no answer to be counted.

    sets: coverage, with a binomial 95 % interval · least: what coverage falls below in 2.5 % of cases though the
    promise is true · size: mean number of classes · single: share of sets of one class · by_inputs, with the common
    threshold and, under "own", with one from validation exams of the same inputs. abstention: answering the surest
    share of exams, by a limit from validation: share answered and share of wrong answers; "area": risk over coverage.
    "refitted": the thresholds are of another network than the sets (train.refit). Test exams are then not drawn like
    those of validation, and nothing is promised: least and kept tell what is measured against what was aimed at.
    """
    tasks = {test.task.name: _of_task(validation, test) for validation, test in labelled(subject)}
    known = {name: content for name, content in tasks.items() if content}
    about = {"split": "test", "calibrated_on": "validation", "refitted": subject.artifact.refitted}
    return about | {"tasks": known} if known else None


def _of_task(validation: Exams, test: Exams) -> dict[str, Any]:
    before, after = questions(validation), questions(test)
    return {
        name: {
            "classes": after[name].probability.shape[1],
            "n_validation": len(before[name].target),
            "repeated": len(set(test.patients)) < len(test),
            "promises": [_promise(before[name], after[name], promised, validation, test) for promised in PROMISES],
            "abstention": _abstention(before[name], after[name], test.patients[after[name].exam]),
        }
        for name in after
        if name in before
    }


def _promise(before: Question, after: Question, promised: float, validation: Exams, test: Exams) -> dict[str, Any]:
    content: dict[str, Any] = {"promised": promised, "enough": len(before.target) >= fewest(promised)}
    if not content["enough"]:
        return content | {"fewest": fewest(promised)}
    limit, alike = threshold(before, promised), dict(by_inputs(validation))
    content |= _kept(before, after, limit, promised, test.patients[after.exam]) | {"by_inputs": {}}
    for inputs, rows in by_inputs(test):
        some, own = _among(after, rows), _among(before, alike.get(inputs, np.arange(0)))
        patients = test.patients[some.exam]
        if len(some.target) < FEWEST:
            continue
        content["by_inputs"][inputs] = _kept(before, some, limit, promised, patients)
        if len(own.target) >= fewest(promised):
            kept = _kept(own, some, threshold(own, promised), promised, patients)
            content["by_inputs"][inputs]["own"] = kept | {"n_validation": len(own.target)}
    return content


def _among(question: Question, rows: ndarray) -> Question:
    return question.take(np.flatnonzero(np.isin(question.exam, rows)))


def _kept(before: Question, after: Question, limit: float, promised: float, patients: ndarray) -> dict[str, Any]:
    held = sets(after, limit)
    hits, count = int(covered(after, held).sum()), len(held)
    low, high = share_interval(hits, count)
    least = least_expected(promised, len(before.target), count)
    return {
        "coverage": {"value": hits / count, "low": low, "high": high, "n": count},
        "least": least,
        "kept": hits / count >= least,
        "size": _ratio(held.sum(1), np.ones(count), patients),
        "single": _ratio(held.sum(1) == 1, np.ones(count), patients),
    }


def _abstention(before: Question, after: Question, patients: ndarray) -> dict[str, Any]:
    area = estimate(lambda weights: risk_area(after, weights), patients, resamples=RESAMPLES)
    curve = [_answered(before, after, share, patients) for share in ANSWERED] if len(before.target) >= FEWEST else []
    return {"area": area, "curve": curve}


def _answered(before: Question, after: Question, share: float, patients: ndarray) -> dict[str, Any]:
    limit = abstention_limit(before, share)
    answered = after.sureness >= limit
    share_answered = _ratio(answered, np.ones(len(answered)), patients)
    return {
        "aimed": share,
        "limit": limit,
        "answered": share_answered,
        "wrong": _ratio(after.wrong & answered, answered, patients),
    }


def _ratio(above: ndarray, below: ndarray, patients: ndarray) -> Estimate | None:
    with np.errstate(invalid="ignore", divide="ignore"):
        return estimate(lambda weights: (weights @ above) / (weights @ below), patients, resamples=RESAMPLES)
