"""A check of studies before training: what would spoil it, and what the data are. Behind `m4oe check`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from m4oe.data.check_pictures import Progress, Seen, check_pictures, find_repeats
from m4oe.data.findings import Findings, Problem
from m4oe.data.splits import NAMES, split_exams
from m4oe.data.table import Cohort, load_cohort
from m4oe.errors import UserError
from m4oe.study import Study, Task, one_spelling

__all__ = ["Findings", "Problem", "check_studies"]

FEW_PATIENTS = 20
FEW_OF_A_CLASS = 3


def check_studies(studies: Sequence[Study], *, progress: Progress | None = None) -> Findings:
    """All that can be found in `studies` that train together; every picture and mask is decoded.

    A mistake that would end training becomes a problem among others. progress(done, all) is called after each picture.
    """
    findings = Findings()
    cohorts = [cohort for study in studies if (cohort := _load(study, findings)) is not None]
    seen = []
    for cohort in cohorts:
        seen += check_pictures(cohort, findings, progress)
        for name, task in cohort.study.tasks.items():
            findings.report(list(_label_problems(cohort, name, task)))
        findings.tables.append(_label_table(cohort))
        findings.tables.append(_input_table(cohort))
    findings.report(list(_joined_classes(studies)))
    splits = _split(cohorts, findings) if len(cohorts) == len(studies) else None
    find_repeats(seen, lambda group: splits is None or _parted(group, splits), findings)
    return findings


def _load(study: Study, findings: Findings) -> Cohort | None:
    """The cohort, as if absent files were allowed, so that all of them are found rather than the first."""
    table = str(study.table_path)
    try:
        cohort = load_cohort(study.model_copy(update={"missing_files": "absent"}))
    except UserError as error:
        findings.problems.append(Problem("error", table, str(error)))
        return None
    severity = "error" if study.missing_files == "error" else "warning"
    findings.report([Problem(severity, table, f"no file {path}", line, column) for line, column, path in cohort.lost])
    if cohort.without_inputs:
        some = ", ".join(cohort.without_inputs[:5])
        message = f"{len(cohort.without_inputs)} exams have no input and are left out: {some}"
        findings.problems.append(Problem("warning", table, message))
    patients = len(set(cohort.patients))
    if patients < FEW_PATIENTS:
        message = f"{patients} patients are too few to learn from; expect wide intervals"
        findings.problems.append(Problem("warning", table, message))
    return cohort


def _label_problems(cohort: Cohort, name: str, task: Task) -> Iterator[Problem]:
    if task.kind == "segmentation":
        if np.equal(cohort.labels[name], None).all():
            yield _problem(cohort, task.column, f"task {name!r} has no mask; add some, or remove the task", "error")
        return
    for column, label, count, patients in _counts(cohort, name, task):
        if count == 0:
            message = f"task {name!r}: no exam is {label!r}; correct 'classes', or add exams of it"
            yield _problem(cohort, column, message, "error")
        elif patients < FEW_OF_A_CLASS:
            message = (
                f"task {name!r}: {label!r} occurs in {patients} patients, too few for training, validation and test"
            )
            yield _problem(cohort, column, message, "warning")


def _joined_classes(studies: Sequence[Study]) -> Iterator[Problem]:
    """Classes that are one in a unified label set though they are not spelt alike."""
    spelt: dict[str, dict[str, Study]] = {}
    for study in studies:
        for task in study.tasks.values():
            for name in task.class_names[1:] if task.kind == "segmentation" else ():
                for word in task.called(name):
                    spelt.setdefault(one_spelling(word), {}).setdefault(word, study)
    for name, words in spelt.items():
        if len(words) > 1:
            said = " and ".join(f"{word!r} (study {study.name!r})" for word, study in words.items())
            message = f"{said} are one class, {name!r}, where label sets are unified; if they are not, rename one"
            yield Problem("warning", str(next(iter(words.values())).table_path), message)


def _problem(cohort: Cohort, column: str | None, message: str, severity: str) -> Problem:
    return Problem(severity, str(cohort.study.table_path), message, None, column)


def _counts(cohort: Cohort, name: str, task: Task) -> Iterator[tuple[str, str, int, int]]:
    """(column, label, exams, patients) of each class of a task, each label's 0 and 1, or event and censoring."""
    labels = cohort.labels[name]
    if task.kind == "survival":
        columns, names = [(str(task.event), labels[:, 1])], ("censored", "event")
    elif task.kind == "multilabel":
        columns, names = list(zip(task.columns, labels.T)), ("0", "1")
    else:
        columns, names = [(str(task.column), labels)], task.class_names
    for column, values in columns:
        for index, label in enumerate(names):
            which = values == index
            text = f"{column} = {label}" if task.kind == "multilabel" else label
            yield column, text, int(which.sum()), len(set(cohort.patients[which]))


def _label_table(cohort: Cohort) -> tuple[str, list[str], list[list[str]]]:
    rows = []
    for name, task in cohort.study.tasks.items():
        if task.kind == "segmentation":
            has = int(np.not_equal(cohort.labels[name], None).sum())
            rows.append([name, "mask", str(has), str(len(cohort) - has)])
            continue
        missing = _missing(cohort.labels[name])
        rows += [[name, label, str(count), str(missing)] for _, label, count, _ in _counts(cohort, name, task)]
    return f"{cohort.study.name}: labels of {len(cohort)} exams", ["task", "label", "exams", "exams without"], rows


def _missing(labels: np.ndarray) -> int:
    """Exams without any label of a task."""
    if labels.dtype == object:
        return int(np.equal(labels, None).sum())
    return int(np.isnan(labels.reshape(len(labels), -1)).all(1).sum())


def _input_table(cohort: Cohort) -> tuple[str, list[str], list[list[str]]]:
    """Exams and labels for each combination of inputs present."""
    present = pd.DataFrame({name: cohort.present(name) for name in cohort.study.inputs})
    rows = []
    for combination, group in present.groupby(list(present), sort=False):
        index = group.index.to_numpy()
        names = " + ".join(name for name, has in zip(present, combination) if has)
        labelled = [str(len(index) - _missing(cohort.labels[task][index])) for task in cohort.study.tasks]
        rows.append([names, str(len(index)), *labelled])
    header = ["inputs present", "exams", *(f"with {task}" for task in cohort.study.tasks)]
    return f"{cohort.study.name}: combinations of inputs", header, sorted(rows, key=lambda row: -int(row[1]))


def _split(cohorts: Sequence[Cohort], findings: Findings) -> pd.DataFrame | None:
    try:
        splits = split_exams(cohorts)
    except UserError as error:
        findings.problems.append(Problem("error", str(cohorts[0].study.table_path), str(error)))
        return None
    ordered = splits.assign(split=pd.Categorical(splits["split"], NAMES))
    counts = ordered.groupby(["study", "fold", "split"], observed=True).agg(
        exams=("exam", "size"), patients=("patient", "nunique")
    )
    rows = [[str(cell) for cell in row] for row in counts.reset_index().itertuples(index=False)]
    findings.tables.append(("split", ["study", "fold", "split", "exams", "patients"], rows))
    return splits.set_index(["study", "exam"])


def _parted(group: Sequence[Seen], splits: pd.DataFrame) -> bool:
    places = pd.MultiIndex.from_tuples([(seen.cohort.study.name, seen.cohort.exams[seen.exam]) for seen in group])
    return bool((splits[splits.index.isin(places)].groupby("fold")["split"].nunique() > 1).any())
