"""Centres: the values of a column of groups, each of which is left out of training once, and tested.

Axes: N exams.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from m4oe.data.table import Cohort
from m4oe.errors import UserError


def centres_of(cohorts: Sequence[Cohort]) -> list[str]:
    """All centres of studies that leave them out, sorted; fold i tests the i-th. None where no study leaves any out.

    Raises UserError for studies of which some leave centres out and some do not, an exam without a centre, a single
    centre, and a task that would have no training labels when a centre is left out.
    """
    leaving = [cohort for cohort in cohorts if cohort.study.split.leave_out]
    if not leaving:
        return []
    if len(leaving) < len(cohorts):
        first, other = leaving[0].study, next(c.study for c in cohorts if not c.study.split.leave_out)
        raise UserError(
            f"{first.table_path}: 'split' leaves out {first.split.leave_out!r}, and that of study {other.name!r} "
            "leaves out nothing; studies that train together need 'leave_out' all, or none"
        )
    for cohort in cohorts:
        _refuse_empty(cohort)
    centres = sorted({name for cohort in cohorts for name in _names(cohort)})
    if len(centres) < 2:
        raise UserError(
            f"{cohorts[0].study.table_path}, column {cohorts[0].study.split.leave_out!r}: every exam is of "
            f"{centres[0]!r}, and leaving that out leaves nothing to train on; change 'split' in the study"
        )
    for centre in centres:
        _refuse_unlearnable(cohorts, centre)
    return centres


def at_centre(cohort: Cohort, centre: str) -> np.ndarray:
    """(N,) bool: the exam is of that centre."""
    return np.equal(_names(cohort), centre).astype(bool)


def _names(cohort: Cohort) -> np.ndarray:
    return cohort.groups[str(cohort.study.split.leave_out)]


def _refuse_empty(cohort: Cohort) -> None:
    """An exam of no known centre can neither be tested nor trained on: it may be of the centre that is left out."""
    for exam in np.flatnonzero(np.equal(_names(cohort), "").astype(bool)):
        where = cohort.at(exam, str(cohort.study.split.leave_out))
        raise UserError(f"{where}: empty, but 'split' leaves out each of its values once; every exam needs one")


def _refuse_unlearnable(cohorts: Sequence[Cohort], centre: str) -> None:
    """Here rather than when training comes to that fold, hours later."""
    for task in dict.fromkeys(name for cohort in cohorts for name in cohort.labels):
        having = [cohort for cohort in cohorts if task in cohort.labels]
        parts = [pd.notna(cohort.labels[task][~at_centre(cohort, centre)]) for cohort in having]
        known = sum(part.reshape(len(part), -1).sum(0) for part in parts)
        if not np.all(known):
            labels = having[0].study.tasks[task].columns
            which = f" {labels[int(np.argmin(known))]!r}" if labels else ""
            raise UserError(
                f"{having[0].study.table_path}: only exams of {centre!r} have a label{which} of task {task!r}, so "
                f"nothing could be learned of it when {centre!r} is left out; remove the task, or change 'split'"
            )
