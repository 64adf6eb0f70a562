"""Splits: which exams train, which validate, which test. A patient is in one split, across all studies of a run.

Axes: N exams · Q patients of a study · K kinds of label · P parts of a split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np
import pandas as pd

from m4oe.data.centres import at_centre, centres_of
from m4oe.data.stratify import stratify
from m4oe.data.table import Cohort
from m4oe.errors import UserError

NAMES = ("train", "validation", "test")
DECLARED = {"train": 0, "training": 0, "validation": 1, "valid": 1, "val": 1, "test": 2, "testing": 2}
VALIDATION_SHARE = 0.15  # of the patients left over by a test fold, or declared for training without validation

Parts = dict[str, int]  # part of each patient that has one


def split_exams(cohorts: Sequence[Cohort], *, shared_patients: bool = False) -> pd.DataFrame:
    """The split of all exams: a frame with study, exam, patient, split (train, validation or test) and fold.

    Patients are drawn stratified by their labels, by a hash of (seed, patient), whatever the order of rows. A
    patient of one study is another than the same id of another, unless `shared_patients`. With k folds the frame
    holds each exam k times: fold i tests part i of the patients, and validates on 15 % of the others. With
    `leave_out`, fold i tests the exams of the i-th centre, and validates on 15 % of the patients that have none there;
    what a tested patient has at other centres is in no split of that fold.
    Raises UserError for too few patients, a declared split that is none, a patient in two splits, and centres that
    cannot be left out.
    """
    _refuse_one_name(cohorts)
    folds, centres = _folds(cohorts), centres_of(cohorts)
    keys = {cohort.study.name: _keys(cohort, shared_patients) for cohort in cohorts}
    if centres:
        parted = [_with_rest(cohorts, keys, _patients_at(cohorts, keys, centre)) for centre in centres]
    else:
        parted = _folded(cohorts, keys, folds) if folds else [_parted(cohorts, keys)]
    frames = []
    for fold, parts in enumerate(parted):
        for cohort in cohorts:
            names = [NAMES[parts[key]] for key in keys[cohort.study.name]]
            columns = {"exam": cohort.exams, "patient": cohort.patients, "split": names, "fold": fold}
            frame = pd.DataFrame({"study": cohort.study.name, **columns})
            frames.append(frame[(frame["split"] != "test") | at_centre(cohort, centres[fold])] if centres else frame)
    return pd.concat(frames, ignore_index=True)


def _refuse_one_name(cohorts: Sequence[Cohort]) -> None:
    for number, cohort in enumerate(cohorts):
        if cohort.study.name in (other.study.name for other in cohorts[:number]):
            raise UserError(f"{cohort.study.table_path}: two studies are called {cohort.study.name!r}; rename one")


def _folds(cohorts: Sequence[Cohort]) -> int | None:
    folds = {cohort.study.name: cohort.study.split.folds for cohort in cohorts}
    if len(set(folds.values())) > 1:
        said = ", ".join(f"{name}: {count or 'none'}" for name, count in folds.items())
        raise UserError(f"studies that train together need the same number of 'folds' under 'split' ({said})")
    return next(iter(folds.values()))


def _keys(cohort: Cohort, shared_patients: bool) -> list[str]:
    return [patient if shared_patients else f"{cohort.study.name}/{patient}" for patient in cohort.patients]


def _parted(cohorts: Sequence[Cohort], keys: Mapping[str, list[str]]) -> Parts:
    """Declared splits first: where studies share patients, the others have to follow."""
    parts: Parts = {}
    for cohort in sorted(cohorts, key=lambda cohort: cohort.declared_split is None):
        own = keys[cohort.study.name]
        if cohort.declared_split is not None:
            _declare(cohort, own, parts)
        else:
            parts |= _drawn(cohort, own, cohort.study.split.fractions or (0.7, 0.15, 0.15), parts)
    return parts


def _folded(cohorts: Sequence[Cohort], keys: Mapping[str, list[str]], folds: int) -> list[Parts]:
    tested: Parts = {}
    for cohort in cohorts:
        tested |= _drawn(cohort, keys[cohort.study.name], (1 / folds,) * folds, tested)
    return [
        _with_rest(cohorts, keys, {key: 2 for key, part in tested.items() if part == fold}) for fold in range(folds)
    ]


def _patients_at(cohorts: Sequence[Cohort], keys: Mapping[str, list[str]], centre: str) -> Parts:
    """The patients that have an exam at `centre`, as test."""
    there = [(keys[cohort.study.name], at_centre(cohort, centre)) for cohort in cohorts]
    return {own[exam]: 2 for own, here in there for exam in np.flatnonzero(here)}


def _with_rest(cohorts: Sequence[Cohort], keys: Mapping[str, list[str]], parts: Parts) -> Parts:
    """`parts` of those tested, and training and validation of all others."""
    parts = dict(parts)
    for cohort in cohorts:
        parts |= _drawn_from_rest(cohort, keys[cohort.study.name], parts)
    return parts


def _declare(cohort: Cohort, keys: list[str], parts: Parts) -> None:
    """Adds to `parts` what the column `split.column` says; without validation, part of training becomes it."""
    column, said = str(cohort.study.split.column), {}
    for exam, (key, text) in enumerate(zip(keys, cohort.declared_split)):
        part = DECLARED.get(text.lower())
        if part is None:
            raise UserError(f"{cohort.at(exam, column)}: {text!r} is no split; write train, validation or test")
        other = said.setdefault(key, exam)
        if parts.setdefault(key, part) != part:
            first = f"row {cohort.rows[other]}" if other != exam else "another study"
            raise UserError(
                f"{cohort.at(exam, column)}: patient {cohort.patients[exam]!r} is in {NAMES[part]!r} here and in "
                f"{NAMES[parts[key]]!r} by {first}; all exams of a patient belong to one split"
            )
    if not any(parts[key] == 1 for key in keys):
        for key in said:
            if parts[key] == 0:
                del parts[key]
        parts |= _drawn_from_rest(cohort, keys, parts)


def _drawn_from_rest(cohort: Cohort, keys: list[str], parts: Parts) -> Parts:
    """Training and validation of the patients that have no part yet."""
    rest = [exam for exam, key in enumerate(keys) if parts.get(key, -1) < 0 or parts[key] < 2]
    if not rest:
        return {}
    return _drawn(
        cohort.take(np.array(rest)), [keys[exam] for exam in rest], (1 - VALIDATION_SHARE, VALIDATION_SHARE), parts
    )


def _drawn(cohort: Cohort, keys: list[str], shares: Sequence[float], placed: Parts) -> Parts:
    """The part of each patient of `cohort`, those `placed` already included.

    Raises UserError where there are fewer patients than parts.
    """
    seed = cohort.study.split.seed
    patients = sorted(set(keys), key=lambda key: blake2b(f"{seed}/{key}".encode(), digest_size=8).digest())
    parts = sum(share > 0 for share in shares)
    if len(patients) < parts:
        raise UserError(
            f"{cohort.study.table_path}: {len(patients)} patient{'s' * (len(patients) != 1)}, and a split into "
            f"{parts} parts needs at least {parts}; add patients, or change 'split' in the study"
        )
    rank = {key: number for number, key in enumerate(patients)}
    number = np.array([rank[key] for key in keys])
    fixed = np.array([placed.get(key, -1) for key in patients])
    drawn = stratify(np.unique(_pairs(cohort, number), axis=0), shares, fixed)
    return dict(zip(patients, drawn.tolist()))


def _pairs(cohort: Cohort, patient: np.ndarray) -> np.ndarray:
    """(·, 2) patient and kind of label, for every label of every exam. Everyone has kind 0."""
    kinds, pairs = 1, [np.stack([patient, np.zeros_like(patient)], axis=1)]
    for name in sorted(cohort.labels):
        for column in _columns(cohort.study.tasks[name].kind, cohort.labels[name]):
            values, codes = np.unique(column, return_inverse=True)
            pairs.append(np.stack([patient, kinds + codes], axis=1)[~np.isnan(column)])
            kinds += len(values)
    return np.concatenate(pairs)


def _columns(kind: str, labels: np.ndarray) -> list[np.ndarray]:
    """Labels as columns of few values: classes, each label, whether an event happened, whether there is a mask."""
    if kind == "segmentation":
        return [np.where(np.equal(labels, None).astype(bool), np.nan, 1.0)]
    if kind == "survival":
        return [labels[:, 1]]
    return [labels] if labels.ndim == 1 else list(labels.T)
