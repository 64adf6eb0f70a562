"""A schema, fitted to the training split of a run: streams merged over studies, tasks, priors, variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from m4oe.data.prevalence import pixel_prevalence, prevalence
from m4oe.data.table import SIDES, Cohort
from m4oe.data.variables import encode_variables, fit_variable
from m4oe.errors import UserError
from m4oe.schema import Schema, Stream, TaskSpec, Variable
from m4oe.study import Input, Task

__all__ = ["encode_variables", "fit_schema"]

MASKS_READ = 32


def fit_schema(
    cohorts: Sequence[Cohort],
    splits: pd.DataFrame,
    fold: int,
    image_size: tuple[int, int],
    volume_size: tuple[int, int, int],
    *,
    volumes_as_slices: bool = False,
) -> Schema:
    """The schema of a run, in the order of its studies. What is fitted comes from the training exams of `fold` alone.

    image_size (H, W) and volume_size (D, H, W) are the grids to which pictures are brought, in pixels.
    volumes_as_slices: pictures become streams of form "slices", of size image_size; a plan says how.
    Raises UserError where studies disagree on an input or a task of one name, for a task without training labels.
    """
    chosen = training_cohorts(cohorts, splits, fold)
    sizes: Mapping[str, tuple[int, ...]] = {"image": tuple(image_size), "volume": tuple(volume_size)}
    streams = [_stream(found, cohorts, chosen, sizes) for found in _found_streams(cohorts)]
    if volumes_as_slices:
        streams = [stream if stream.form == "vector" else _sliced(stream, image_size) for stream in streams]
    names = dict.fromkeys(name for cohort in cohorts for name in cohort.study.tasks)
    return Schema(streams=tuple(streams), tasks=tuple(_task(name, chosen) for name in names))


def training_cohorts(cohorts: Sequence[Cohort], splits: pd.DataFrame, fold: int) -> list[Cohort]:
    """The training exams of `fold` of each cohort."""
    training = splits[(splits["fold"] == fold) & (splits["split"] == "train")]
    return [_training(cohort, training) for cohort in cohorts]


def _sliced(stream: Stream, size: tuple[int, int]) -> Stream:
    return stream.model_copy(update={"form": "slices", "size": tuple(size)})


def _training(cohort: Cohort, training: pd.DataFrame) -> Cohort:
    exams = set(training.loc[training["study"] == cohort.study.name, "exam"])
    return cohort.take(np.array([place for place, exam in enumerate(cohort.exams) if exam in exams], int))


@dataclass(frozen=True)
class _Found:
    """A pair of input and modality that occurs, and the name of its stream."""

    input: str
    modality: str
    source: Input
    name: str


def _found_streams(cohorts: Sequence[Cohort]) -> list[_Found]:
    pairs: dict[tuple[str, str], tuple[Cohort, Input]] = {}
    for cohort in cohorts:
        for name, source in cohort.study.inputs.items():
            for modality in sorted(set(cohort.modalities[name][cohort.present(name)])):
                other, first = pairs.setdefault((name, modality), (cohort, source))
                _agree(name, [(other, _of_input(first)), (cohort, _of_input(source))], "input")
    times = pd.Series([name for name, _ in pairs]).value_counts()
    return [
        _Found(name, modality, source, name if times[name] == 1 else f"{name}@{modality}")
        for (name, modality), (_, source) in pairs.items()
    ]


def _of_input(source: Input) -> tuple[object, ...]:
    return source.kind, source.columns, "with laterality" if source.laterality else "without laterality"


def _agree(name: str, said: Sequence[tuple[Cohort, object]], what: str) -> None:
    for cohort, facts in said[1:]:
        if facts != said[0][1]:
            raise UserError(
                f"{what} {name!r} is not the same in studies {said[0][0].study.name!r} ({said[0][1]}) and "
                f"{cohort.study.name!r} ({facts}); rename it in one of them, or make both alike"
            )


def _stream(
    found: _Found, cohorts: Sequence[Cohort], training: Sequence[Cohort], sizes: Mapping[str, tuple[int, ...]]
) -> Stream:
    facts = {"name": found.name, "input": found.input, "modality": found.modality, "kind": found.source.kind}
    if found.source.kind == "table":
        variables = tuple(_variable(found.input, column, training) for column in found.source.columns)
        return Stream(**facts, form="vector", channels=sum(v.width for v in variables), variables=variables)
    from m4oe.data.readers import form_of  # readers load the libraries of their formats

    form, channels = form_of(_first_paths(found, [*training, *cohorts]), found.source.kind)
    return Stream(**facts, form=form, channels=channels, size=sizes[form], laterality=_laterality(found.input, cohorts))


def _laterality(name: str, cohorts: Sequence[Cohort]) -> str | None:
    """The one side that an input always shows, "told" where it differs from picture to picture."""
    said = {cohort.study.inputs[name].laterality for cohort in cohorts if name in cohort.study.inputs}
    sides = {word and SIDES.get(word.lower(), "told") for word in said}
    return sides.pop() if len(sides) == 1 else "told"


def _first_paths(found: _Found, cohorts: Sequence[Cohort]) -> tuple[str, ...]:
    """The first picture of a stream, by name: the same whatever the order of rows."""
    for cohort in cohorts:
        if found.input in cohort.paths:
            paths = cohort.paths[found.input][cohort.modalities[found.input] == found.modality]
            if len(paths):
                return min(paths)
    raise AssertionError(f"a stream without pictures: {found.name}")


def _variable(name: str, column: str, training: Sequence[Cohort]) -> Variable:
    having = [cohort for cohort in training if name in cohort.variables]
    try:
        return fit_variable(
            column, np.concatenate([cohort.variables[name][column].to_numpy(object) for cohort in having])
        )
    except UserError as error:
        raise UserError(f"{_tables(having)}: {error}") from None


def _task(name: str, training: Sequence[Cohort]) -> TaskSpec:
    having = [cohort for cohort in training if name in cohort.study.tasks]
    task = having[0].study.tasks[name]
    _agree(name, [(cohort, _facts(cohort.study.tasks[name])) for cohort in having], "task")
    prior, weights = (
        _pixels(name, having) if task.kind == "segmentation" else prevalence(task, _all_labels(name, having))
    )
    return TaskSpec(
        name=name,
        kind=task.kind,
        classes=classes_of(task),
        values=() if task.kind == "survival" else task.class_values,
        regions={region: tuple(members) for region, members in task.regions.items()},
        on=task.on,
        horizons=tuple(task.horizons),
        prior=prior,
        weights=weights,
        ignore=task.ignore,
        comprises=tuple(map(task.comprises, classes_of(task))) if task.kind == "segmentation" else (),
    )


def classes_of(task: Task) -> tuple[str, ...]:
    """Names of a task's classes; of a survival task its horizons as text."""
    return tuple(f"{horizon:g}" for horizon in task.horizons) or task.class_names


def refuse_empty_classes(cohorts: Sequence[Cohort]) -> None:
    """Raises UserError for a class that no exam of any study has."""
    for name in dict.fromkeys(name for cohort in cohorts for name in cohort.study.tasks):
        _refuse_empty_class(name, [cohort for cohort in cohorts if name in cohort.study.tasks])


def _refuse_empty_class(name: str, having: Sequence[Cohort]) -> None:
    task = having[0].study.tasks[name]
    labels = np.concatenate([cohort.labels[name] for cohort in having])
    for index, label in enumerate(classes_of(task) if task.kind in ("binary", "multiclass", "ordinal") else ()):
        if not (labels == index).any():
            raise UserError(
                f"{_tables(having)}, column {task.column!r}: no exam is of class {label!r} of task {name!r}; label "
                "some, or remove the class from the study"
            )


def _facts(task: Task) -> tuple[object, ...]:
    return task.kind, classes_of(task), task.regions, task.on, task.synonyms


def _all_labels(name: str, training: Sequence[Cohort]) -> np.ndarray:
    labels = np.concatenate([cohort.labels[name] for cohort in training])
    for column in np.flatnonzero(np.isnan(labels.reshape(len(labels), -1)).all(0)):
        columns = training[0].study.tasks[name].columns
        raise _unlabelled(name, training, f" {columns[column]!r}" if columns else "")
    return labels


def _pixels(name: str, training: Sequence[Cohort]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Prior and weights from the pixels of up to 32 training masks, spread evenly over the exams by name."""
    from m4oe.data.dataset import located
    from m4oe.data.readers import read_labels

    masks = sorted(
        (path, number, place)
        for number, cohort in enumerate(training)
        for place, path in enumerate(cohort.labels[name])
        if path is not None
    )
    if not masks:
        raise _unlabelled(name, training)
    counts = np.zeros(len(training[0].study.tasks[name].class_names))
    for chosen in np.unique(np.linspace(0, len(masks) - 1, MASKS_READ).round().astype(int)):
        path, number, place = masks[chosen]
        task = training[number].study.tasks[name]
        with located(training[number], place, f"task {name!r}"):
            indices = read_labels(path, task.class_values, task.ignore).values
        counts += np.bincount(indices[indices >= 0].ravel(), minlength=len(counts))
    return pixel_prevalence(counts)


def _unlabelled(name: str, training: Sequence[Cohort], label: str = "") -> UserError:
    exams = sum(map(len, training))
    return UserError(
        f"{_tables(training)}: task {name!r} has no label{label} in the {exams} training exams; label some, or remove "
        "the task"
    )


def _tables(cohorts: Sequence[Cohort]) -> str:
    return ", ".join(str(cohort.study.table_path) for cohort in cohorts)
