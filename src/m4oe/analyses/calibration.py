"""Whether what the model states happens as often, by combination of inputs too, and what a temperature mends.

The temperature is fitted on validation; every figure is of test exams.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

from m4oe.analyses.estimates import Estimate, estimate, mean
from m4oe.analyses.labelled import by_inputs, labelled
from m4oe.analyses.subject import Subject
from m4oe.evaluate.bootstrap import FEWEST
from m4oe.evaluate.calibration import (
    COLDEST,
    HOTTEST,
    Statements,
    debiased_error,
    error_of_the_calibrated,
    expected_error,
    fit_temperature,
    log_loss,
    reliability,
    scaled,
    statements,
)
from m4oe.evaluate.exams import Exams

RESAMPLES = 200
EDGE = 1.02  # a temperature within 2 % of its limits has been stopped by them


def calibration_of(subject: Subject) -> dict[str, Any] | None:
    """Of each task {"temperature", "states": {"before", "after": scores}, "gain", "by_inputs"}, of none None.

    Scores: calibration_error with `if_true`, the mean and 95 % quantile of what it would be were all statements true
    · rms, debiased · log_loss · curves {name: reliability}. gain: before less after, paired. A temperature of null
    was not fitted, for want of validation exams. "refitted": it was fitted to answers of another network than the one
    that predicts test exams (train.refit); what it does to these is measured all the same.
    """
    tasks = {test.task.name: _of_task(validation, test) for validation, test in labelled(subject)}
    known = {name: content for name, content in tasks.items() if content}
    about = {"split": "test", "fitted_on": "validation", "refitted": subject.artifact.refitted}
    return about | {"tasks": known} if known else None


def _of_task(validation: Exams, test: Exams) -> dict[str, Any] | None:
    if not statements(test):
        return None
    temperature = fit_temperature(validation) if len(validation) >= FEWEST and statements(validation) else None
    states = {"before": test} | ({"after": scaled(test, temperature)} if temperature else {})
    return {
        "kind": test.task.kind,
        "n_validation": len(validation),
        "temperature": temperature,
        "at_limit": temperature is not None and not COLDEST * EDGE < temperature < HOTTEST / EDGE,
        "states": {name: _scores(exams) for name, exams in states.items()},
        "gain": _gain(**states) if temperature else None,
        "by_inputs": {
            inputs: {name: _of_inputs(exams.take(rows)) for name, exams in states.items()}
            for inputs, rows in by_inputs(test)
        },
    }


def _scores(exams: Exams) -> dict[str, Any]:
    said = statements(exams)
    usual, high = error_of_the_calibrated(said)
    rms = debiased_error(said)
    return {
        "calibration_error": _error(said, exams.patients),
        "if_true": {"mean": usual, "high": high},
        "rms": rms if np.isfinite(rms) else None,
        "log_loss": mean(log_loss(exams), exams.patients),
        "curves": {name: reliability(s.stated, s.happened, s.weight).to_dict("records") for name, s in said.items()},
    }


def _error(said: dict[str, Statements], patients: ndarray) -> Estimate | None:
    return estimate(lambda weights: expected_error(said, weights), patients, resamples=RESAMPLES)


def _gain(before: Exams, after: Exams) -> dict[str, Estimate | None]:
    first, second = statements(before), statements(after)
    return {
        "log_loss": mean(log_loss(before) - log_loss(after), before.patients),
        "calibration_error": estimate(
            lambda weights: expected_error(first, weights) - expected_error(second, weights),
            before.patients,
            resamples=RESAMPLES,
        ),
    }


def _of_inputs(exams: Exams) -> dict[str, Any]:
    """Calibration error, with what it would be were all true, and `surplus`: mean stated less frequency observed."""
    said = statements(exams)
    if not said:
        return {"n": len(exams)}
    places = np.concatenate([s.exam for s in said.values()])
    weight = np.concatenate([s.weight for s in said.values()])
    surplus = np.concatenate([s.weight * (s.stated - s.happened) for s in said.values()])
    usual, high = error_of_the_calibrated(said, draws=100)
    return {
        "n": len(exams),
        "calibration_error": _error(said, exams.patients),
        "if_true": {"mean": usual, "high": high},
        "surplus": estimate(lambda w: (w[:, places] @ surplus) / _not_zero(w[:, places] @ weight), exams.patients),
    }


def _not_zero(values: ndarray) -> ndarray:
    return np.where(values == 0, np.nan, values)
