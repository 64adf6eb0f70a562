"""Training a run: every fold, then its predictions, metrics, and the saved model with what may be explained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from m4oe.artifact import Artifact, load_artifact, save_artifact
from m4oe.config import Config
from m4oe.data.augmentation import flips_of
from m4oe.data.fingerprint import refuse_empty_classes, training_cohorts
from m4oe.data.splits import split_exams
from m4oe.data.table import Cohort, load_cohort
from m4oe.device import describe
from m4oe.errors import UserError
from m4oe.evaluate import evaluate, read_table, write_metrics
from m4oe.predict import predictor_of
from m4oe.runs.facts import schema_of, survival_labels, task_kinds
from m4oe.runs.growth import write_growth
from m4oe.runs.inheritance import inherited
from m4oe.runs.tables import metrics_of, predicted, rows_of, write_csv, write_tables
from m4oe.schema import Schema, Stream
from m4oe.study import Study, load_study
from m4oe.tasks import KINDS
from m4oe.train.resume import PLAN, begin_run, hold_to
from m4oe.train.starting import weights_before

Tell = Callable[[str], None]


def train_run(
    studies: Sequence[Path],
    config: Config,
    out: Path,
    device: torch.device,
    *,
    splits: pd.DataFrame | None = None,
    progress: bool = False,
    tell: Tell = lambda text: None,
) -> None:
    """Trains on `studies` into the run folder `out`; with folds, a run for each and their pooled test predictions.

    splits: what is to be used in place of the studies' own split; exams that no study has are left out of it.
    The same call on the same folder resumes, or finds all done. Raises UserError for what is wrong with the studies,
    and for a folder that holds another run.
    """
    loaded = [load_study(path) for path in studies]
    cohorts = [load_cohort(study) for study in loaded]
    splits = split_exams(cohorts) if splits is None else _of_cohorts(splits, cohorts)
    refuse_empty_classes(cohorts)
    config = inherited(config).for_tasks(task_kinds(loaded))
    _refuse_refit(config, splits)
    _check_flips(config, loaded, tell)
    folds = sorted(splits["fold"].unique())
    folders = {fold: out if len(folds) == 1 else out / f"fold_{fold}" for fold in folds}
    slices = config.model.kind == "segmenter"
    begin_run(out, config, loaded, describe(), [folder / PLAN for folder in folders.values()] if slices else [])
    hold_to(out, weights_before(config))
    _hold_to_splits(out / "splits.csv", splits)
    for fold, folder in folders.items():
        if (folder / "metrics.json").is_file():
            tell(f"{folder}: trained already")
            continue
        _train_fold(cohorts, splits[splits["fold"] == fold], config, out, folder, device, progress, tell)
    if len(folds) > 1:
        _pool(out, list(folders.values()), cohorts)


def _of_cohorts(splits: pd.DataFrame, cohorts: Sequence[Cohort]) -> pd.DataFrame:
    known = {(cohort.study.name, exam) for cohort in cohorts for exam in cohort.exams}
    here = [pair in known for pair in zip(splits["study"], splits["exam"])]
    return splits[here].reset_index(drop=True)


def _hold_to_splits(path: Path, splits: pd.DataFrame) -> None:
    """Writes splits.csv. Raises UserError where exams stand there in other splits: some were trained on already."""
    if path.is_file() and not read_table(path).equals(splits.astype(str).reset_index(drop=True)):
        raise UserError(
            f"{path}: the exams of this run are others now, or in other splits, although its tables are the same: "
            "pictures have come or gone ('missing_files: absent'); bring them back, or give another folder with -o"
        )
    write_csv(splits, path)


def _refuse_refit(config: Config, splits: pd.DataFrame) -> None:
    if not config.train.refit:
        return
    if config.model.kind == "segmenter" or len(config.phases) > 1:
        raise UserError(
            "config: train.refit is for classifiers trained in one phase, whose kept epoch says how long to train; "
            "leave it out for segmenters, several phases and 'grow'"
        )
    judged = splits.groupby("fold")["split"].agg(lambda names: (names == "validation").any())
    if not judged.all():
        raise UserError("config: train.refit: the split has no validation exams to train on again; leave it out")


def _check_flips(config: Config, studies: Sequence[Study], tell: Tell) -> None:
    """Says which pictures are not mirrored though it is asked for. Raises UserError where none would be."""
    kinds = {source.kind for study in studies for source in study.inputs.values() if source.kind != "table"}
    fixed = sorted(kind for kind in kinds if not any(flips_of(kind)))
    if config.model.kind != "segmenter" or not config.model.segmenter.flips or not fixed:
        return
    why = f"model.segmenter.flips: pictures of kind {', '.join(fixed)} are not mirrored, here as in training"
    if len(fixed) == len(kinds) and config.phases[0].grow is None:
        raise UserError(f"config: {why}; leave it out")
    tell(why)


def _train_fold(
    cohorts: Sequence[Cohort],
    splits: pd.DataFrame,
    config: Config,
    out: Path,
    folder: Path,
    device: torch.device,
    progress: bool,
    tell: Tell,
) -> None:
    from m4oe.train.phases import Fold, fit
    from m4oe.train.refit import refit

    fold = int(splits["fold"].iloc[0])
    folder.mkdir(parents=True, exist_ok=True)
    grow = config.phases[0].grow
    schema = schema_of(cohorts, splits, fold, config.model, folder / PLAN, grow and grow.run)
    hold_to(out, {str((folder / PLAN).relative_to(out)): folder / PLAN})
    tell(f"training: {', '.join(f'{n} {split}' for split, n in splits['split'].value_counts().items())} exams")
    _tell_untaught(cohorts, training_cohorts(cohorts, splits, fold), schema, tell)
    exams = Fold(cohorts, schema, splits, folder / "cache")
    judge = network = fit(exams, config, folder, device, progress=progress)
    if config.train.refit:
        tell("training again, on train and validation exams")
        network = refit(exams, config, folder, device, progress=progress)
    artifact = Artifact(network, config.model, schema, phase=config.phases[-1], refitted=config.train.refit)
    if grow is not None:
        write_growth(artifact, grow.run, folder, device)
    finish_run(artifact, judge, cohorts, splits, folder, device, config.train.batch_size)


def _tell_untaught(cohorts: Sequence[Cohort], training: Sequence[Cohort], schema: Schema, tell: Tell) -> None:
    """Says of which pictures nothing is learned: they occur, and in no training exam, or nowhere there with a mask."""
    for stream in schema.streams:
        masked = stream.form == "slices"
        if any(_has(each, stream) for each in cohorts) and not any(_has(each, stream, masked) for each in training):
            what = f"input {stream.input!r} of modality {stream.modality!r}"
            tell(f"no training exam has {what}{' with a mask' * masked}: nothing is learned of it")


def _has(cohort: Cohort, stream: Stream, masked: bool = False) -> bool:
    """Whether an exam has a picture, or variables, of `stream`; with a mask on it, if that is asked."""
    if stream.input not in cohort.modalities:
        return False
    there = cohort.modalities[stream.input] == stream.modality
    masks = [cohort.labels[name] for name, task in cohort.study.tasks.items() if task.on == stream.input]
    return bool(any((there & np.not_equal(mask, None).astype(bool)).any() for mask in masks) if masked else there.any())


def finish_run(
    artifact: Artifact,
    judge: nn.Module,
    cohorts: Sequence[Cohort],
    splits: pd.DataFrame,
    folder: Path,
    device: torch.device,
    size: int,
) -> None:
    """Predictions of validation and test, metrics, the saved model with what may be explained, contributions of test.

    Which tasks are withheld is decided on the validation split alone, by `judge`: the network of `artifact`, or the
    one before it where `artifact` has learned from validation exams.
    """
    schema = artifact.schema
    judged = replace(artifact, network=judge)
    validation = predicted(predictor_of(judged, device), rows_of(cohorts, splits, "validation", schema), size)
    training = survival_labels(cohorts, splits[splits["split"] == "train"], schema)
    scores = evaluate(validation.predictions, validation.cases, schema, training=training).get("validation", {})
    artifact = replace(artifact, scores=scores, withheld={} if schema.plan else withheld_tasks(scores, schema))
    save_artifact(artifact, folder / "model")
    test = predicted(predictor_of(artifact, device), rows_of(cohorts, splits, "test", schema), size, folder / "masks")
    write_tables(folder, [validation, test], artifact)
    _refuse_failed({**validation.failed, **test.failed})
    write_metrics(metrics_of(folder, artifact.schema, cohorts, training), folder / "metrics.json")


def withheld_tasks(scores: Mapping[str, Any], schema: Schema) -> dict[str, str]:
    """{task: reason} of the tasks whose validation score is not surely better than guessing."""
    withheld = {}
    for task in schema.tasks:
        kind = KINDS[task.kind]
        score = scores.get(task.name, {}).get(kind.primary_metric)
        chance, name = kind.chance(task), kind.primary_metric.replace("_", " ")
        if score is None or score["low"] is None:
            withheld[task.name] = f"too few labelled validation exams to tell its {name} from chance"
        elif score["low"] <= chance:
            interval = f"{score['value']:.2f} ({score['low']:.2f} to {score['high']:.2f})"
            withheld[task.name] = f"its validation {name} {interval} does not surely beat chance ({chance:.2f})"
    return withheld


def _pool(out: Path, folders: Sequence[Path], cohorts: Sequence[Cohort]) -> None:
    """The test predictions of all folds as one table, with its metrics."""
    artifact = load_artifact(folders[0])
    for name in ("predictions.csv", "cases.csv", "contributions.csv"):
        tables = [read_table(folder / name) for folder in folders if (folder / name).is_file()]
        if tables:
            table = pd.concat(tables, ignore_index=True)
            write_csv(table[table["split"] == "test"] if "split" in table else table, out / name)
    write_metrics(metrics_of(out, artifact.schema, cohorts, None), out / "metrics.json")


def _refuse_failed(failed: Mapping[str, str]) -> None:
    if failed:
        exam, reason = next(iter(failed.items()))
        raise UserError(f"{len(failed)} exams could not be read, the first {exam}: {reason}; 'm4oe check' lists all")
