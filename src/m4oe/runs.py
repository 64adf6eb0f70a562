"""Whole paths through the house: train then predict, evaluate, question; a run folder is what they leave.

Everything is written beside and renamed, so that what a run already holds is never half of something.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from m4oe.artifact import Artifact, count_parameters, load_artifact, save_artifact, write_text
from m4oe.config import Config
from m4oe.data.dataset import ExamDataset
from m4oe.data.fingerprint import fit_schema, refuse_empty_classes
from m4oe.data.intake import cohorts_from
from m4oe.data.splits import split_exams
from m4oe.data.table import Cohort, load_cohort
from m4oe.device import describe
from m4oe.errors import UserError
from m4oe.evaluate import evaluate, read_table, write_metrics
from m4oe.explain import rank_agreement
from m4oe.masks import write_mask
from m4oe.moe.losses import expert_given_modality_task, modality_given_task
from m4oe.nets.build import build_model
from m4oe.predict import CASE_COLUMNS, CONTRIBUTION_COLUMNS, PREDICTION_COLUMNS, Part, Predictor
from m4oe.schema import Schema
from m4oe.study import load_study
from m4oe.tasks import KINDS
from m4oe.train.resume import begin_run

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What a prediction of many exams came to: how many, which failed and why, which tasks are not explained."""

    exams: int
    failed: Mapping[str, str] = field(default_factory=dict)
    withheld: Mapping[str, str] = field(default_factory=dict)


def train_run(
    studies: Sequence[Path],
    config: Config,
    out: Path,
    device: torch.device,
    *,
    progress: bool = False,
    tell: Tell = lambda text: None,
) -> None:
    """Trains on `studies` into the run folder `out`; with folds, a run for each and their pooled test predictions.

    The same call on the same folder resumes, or finds all done. Raises UserError for what is wrong with the studies,
    and for a folder that holds another run.
    """
    loaded = [load_study(path) for path in studies]
    cohorts = [load_cohort(study) for study in loaded]
    splits = split_exams(cohorts)
    refuse_empty_classes(cohorts)
    begin_run(out, config, loaded, describe())
    _write_csv(splits, out / "splits.csv")
    folds = sorted(splits["fold"].unique())
    for fold in folds:
        folder = out if len(folds) == 1 else out / f"fold_{fold}"
        if (folder / "metrics.json").is_file():
            tell(f"{folder}: trained already")
            continue
        _train_fold(cohorts, splits[splits["fold"] == fold], config, folder, device, progress, tell)
    if len(folds) > 1:
        _pool(out, [out / f"fold_{fold}" for fold in folds], cohorts)


def _train_fold(
    cohorts: Sequence[Cohort],
    splits: pd.DataFrame,
    config: Config,
    folder: Path,
    device: torch.device,
    progress: bool,
    tell: Tell,
) -> None:
    from m4oe.train.phases import Fold, fit

    fold, model = int(splits["fold"].iloc[0]), config.model
    schema = fit_schema(cohorts, splits, fold, model.image_size, model.volume_size)
    folder.mkdir(parents=True, exist_ok=True)
    tell(f"training: {', '.join(f'{n} {split}' for split, n in splits['split'].value_counts().items())} exams")
    network = fit(Fold(cohorts, schema, splits), config, folder, device, progress=progress)
    finish_run(Artifact(network, model, schema), cohorts, splits, folder, device, config.train.batch_size)


def finish_run(
    artifact: Artifact, cohorts: Sequence[Cohort], splits: pd.DataFrame, folder: Path, device: torch.device, size: int
) -> None:
    """Predictions of validation and test, metrics, the saved model with what may be explained, contributions of test.

    Which tasks are withheld is decided on the validation split alone.
    """
    schema = artifact.schema
    validation = _predicted(Predictor(artifact, device), _rows(cohorts, splits, "validation", schema), size)
    training = survival_labels(cohorts, splits[splits["split"] == "train"], schema)
    scores = evaluate(validation.predictions, validation.cases, schema, training=training).get("validation", {})
    artifact = Artifact(artifact.network, artifact.model, schema, scores, withheld_tasks(scores, schema))
    save_artifact(artifact, folder / "model")
    test = _predicted(Predictor(artifact, device), _rows(cohorts, splits, "test", schema), size, folder / "masks")
    _write_tables(folder, [validation, test], artifact)
    _refuse_failed({**validation.failed, **test.failed})
    write_metrics(_metrics(folder, artifact, cohorts, training), folder / "metrics.json")


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


def survival_labels(cohorts: Sequence[Cohort], rows: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """task, time and event of the exams in `rows`: what censoring weights are estimated from."""
    frames = [pd.DataFrame(columns=["task", "time", "event"])]
    for cohort in cohorts:
        mine = np.isin(cohort.exams, rows.loc[rows["study"] == cohort.study.name, "exam"])
        for task in schema.tasks:
            if task.kind == "survival" and task.name in cohort.labels:
                label = cohort.labels[task.name][mine]
                known = label[~np.isnan(label).any(1)]
                frames.append(pd.DataFrame({"task": task.name, "time": known[:, 0], "event": known[:, 1]}))
    return pd.concat([frame for frame in frames if len(frame)] or frames, ignore_index=True)


def evaluate_run(run: Path, studies: Sequence[Path], out: Path | None, device: torch.device) -> dict[str, Any]:
    """metrics.json of a run's own splits, made anew from its predictions; or of other studies, predicted for it."""
    if studies:
        return _evaluate_elsewhere(run, studies, out or run / "external", device)
    if not (run / "model").is_dir() and (run / "fold_0").is_dir():
        return json.loads((run / "metrics.json").read_text())
    artifact = load_artifact(run)
    cohorts = run_cohorts(run)
    splits = read_table(run / "splits.csv")
    training = survival_labels(cohorts, splits[splits["split"] == "train"], artifact.schema)
    metrics = _metrics(run, artifact, cohorts, training)
    write_metrics(metrics, (out or run) / "metrics.json")
    return metrics


def run_cohorts(run: Path) -> list[Cohort]:
    """The cohorts on which a run was trained. Raises UserError where their tables are gone."""
    paths = sorted((run / "studies").glob("*.yaml"))
    if not paths:
        raise UserError(f"{run}: no studies/ in it: not a run, or not the top folder of one")
    return [load_cohort(load_study(path)) for path in paths]


def _evaluate_elsewhere(run: Path, studies: Sequence[Path], out: Path, device: torch.device) -> dict[str, Any]:
    artifact = load_artifact(run)
    cohorts = [load_cohort(load_study(path)) for path in studies]
    _make_folder(out)
    found = _predicted(Predictor(artifact, device), _all_rows(cohorts, artifact.schema, "test"), 32, out / "masks")
    _write_tables(out, [found], artifact)
    metrics = _metrics(out, artifact, cohorts, None)
    write_metrics(metrics, out / "metrics.json")
    return metrics


def predict_run(run: Path, sources: Sequence[str], out: Path, device: torch.device) -> Outcome:
    """Predictions, contributions and masks of new exams, into `out`. See data.intake for what `sources` may be."""
    artifact = load_artifact(run)
    cohorts = cohorts_from(sources, [load_study(path) for path in sorted((run / "studies").glob("*.yaml"))])
    _make_folder(out)
    found = _predicted(Predictor(artifact, device), _all_rows(cohorts, artifact.schema, ""), 32, out / "masks")
    _write_tables(out, [found], artifact)
    exams = found.predictions[["study", "exam"]].drop_duplicates() if len(found.predictions) else []
    return Outcome(max(len(exams), len(found.masks)), found.failed, artifact.withheld)


def _make_folder(out: Path) -> None:
    if (out / "environment.json").is_file():
        raise UserError(f"{out}: is a run; give another folder with -o, what the run holds would be lost")
    out.mkdir(parents=True, exist_ok=True)


def describe_model(sources: Sequence[Path], config: Config) -> dict[str, Any]:
    """Size and cost of a run's model, or of the model that `config` makes for studies: for an exam with every input."""
    from torch.utils.flop_counter import FlopCounterMode

    network, schema, model = _model_of(sources, config)
    batch = _one_exam(schema)
    with FlopCounterMode(display=False) as counter:
        prediction = network(batch)
    sum(rows.values.sum() for rows in prediction.logits.values()).backward()
    active = sum(p.numel() for p in network.parameters() if p.grad is not None)
    experts = sum(p.numel() for name, p in network.named_parameters() if ".experts." in name)
    return {
        "preset": model.preset,
        "streams": ", ".join(stream.name for stream in schema.streams),
        "tasks": ", ".join(task.name for task in schema.tasks),
        "parameters": count_parameters(network),
        "of them in experts": experts,
        "active for one exam": active,
        "FLOPs for one exam": counter.get_total_flops(),
    }


def _model_of(sources: Sequence[Path], config: Config) -> tuple[torch.nn.Module, Schema, Any]:
    if len(sources) == 1 and sources[0].is_dir():
        artifact = load_artifact(sources[0])
        return artifact.network.eval(), artifact.schema, artifact.model
    cohorts = [load_cohort(load_study(path)) for path in sources]
    schema = fit_schema(cohorts, split_exams(cohorts), 0, config.model.image_size, config.model.volume_size)
    # Weights do not matter for size and cost: none are fetched.
    encoder = config.model.encoder.model_copy(update={"pretrained": False})
    model = config.model.model_copy(update={"encoder": encoder})
    return build_model(model, schema).eval(), schema, model


def _one_exam(schema: Schema) -> Any:
    from m4oe.batch import Batch, Rows

    first = {stream.input: stream for stream in reversed(schema.streams)}.values()
    rows = {s.name: Rows(torch.zeros(1, s.channels, *s.size), torch.zeros(1, dtype=torch.int64)) for s in first}
    return Batch(("exam",), rows)


@dataclass
class _Found:
    """Parts of a prediction joined, and routing's sums over exams."""

    predictions: pd.DataFrame
    contributions: pd.DataFrame
    cases: pd.DataFrame
    failed: dict[str, str]
    masks: list[Path]
    joint: np.ndarray | None
    effective_tokens: float | None


def _predicted(predictor: Predictor, dataset: ExamDataset, size: int, masks: Path | None = None) -> _Found:
    """All of `dataset`, a batch at a time; masks go to disk as they come. `masks` None: nothing is explained either."""
    parts, written = [], []
    for part in predictor.stream(dataset, batch_size=size, explain=masks is not None):
        if masks is not None:
            several = len(dataset.cohorts) > 1
            tasks = predictor.schema.task
            written += [write_mask(mask, masks, tasks(mask.task), of_study=several) for mask in part.masks]
        parts.append(Part(**{**part.__dict__, "masks": ()}))
    failed = {exam: reason for part in parts for exam, reason in part.failed.items()}
    joints = [part.joint for part in parts if part.joint is not None]
    shares = [part.effective_tokens for part in parts if part.effective_tokens is not None]
    return _Found(
        _joined([part.predictions for part in parts], PREDICTION_COLUMNS),
        _joined([part.contributions for part in parts], CONTRIBUTION_COLUMNS),
        _joined([part.cases for part in parts], CASE_COLUMNS),
        failed,
        written,
        np.concatenate(joints).mean(0) if joints else None,
        float(np.nanmean(shares)) if shares and not np.isnan(shares).all() else None,
    )


def _joined(frames: Sequence[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=columns)


def _write_tables(folder: Path, found: Sequence[_Found], artifact: Artifact) -> None:
    last = found[-1]
    _write_csv(_joined([one.predictions for one in found], PREDICTION_COLUMNS), folder / "predictions.csv")
    _write_csv(last.contributions, folder / "contributions.csv")
    if any(KINDS[task.kind].rows is None for task in artifact.schema.tasks):
        _write_csv(_joined([one.cases for one in found], CASE_COLUMNS), folder / "cases.csv")
    write_text(folder / "routing.json", json.dumps(_routing(last, artifact), indent=1))


def _routing(found: _Found, artifact: Artifact) -> dict[str, Any]:
    """The content of routing.json."""
    schema = artifact.schema
    facts: dict[str, Any] = {
        "modalities": list(schema.modalities),
        "tasks": [task.name for task in schema.tasks],
        "withheld": dict(artifact.withheld),
        "agreement": _agreement(found.contributions),
        "effective_tokens": found.effective_tokens,
    }
    if found.joint is not None:
        joint = torch.from_numpy(found.joint)
        facts["num_experts"] = joint.shape[1]
        facts["P_modality_given_task"] = modality_given_task(joint).tolist()
        facts["P_expert_given_modality_task"] = expert_given_modality_task(joint).tolist()
    return facts


def _agreement(contributions: pd.DataFrame) -> dict[str, float]:
    """{task: rank correlation of Shapley and evidence over inputs and exams}."""
    agreement = {}
    for task, rows in contributions.groupby("task"):
        keys = ["study", "exam", "class", "input", "modality"]
        wide = rows[rows["measure"] != "routing"].pivot(index=keys, columns="measure", values="value").dropna()
        if {"shapley", "evidence"} <= set(wide.columns):
            value = rank_agreement(wide["shapley"].to_numpy(float), wide["evidence"].to_numpy(float))
            if np.isfinite(value):
                agreement[str(task)] = value
    return agreement


def _metrics(
    folder: Path, artifact: Artifact, cohorts: Sequence[Cohort], training: pd.DataFrame | None
) -> dict[str, Any]:
    predictions = read_table(folder / "predictions.csv")
    cases = read_table(folder / "cases.csv") if (folder / "cases.csv").is_file() else None
    return evaluate(predictions, cases, artifact.schema, groups=groups_of(cohorts), training=training)


def groups_of(cohorts: Sequence[Cohort]) -> pd.DataFrame | None:
    """study, exam and the group columns of all exams; None where no study has groups."""
    frames = [
        pd.DataFrame({"study": cohort.study.name, "exam": cohort.exams, **cohort.groups})
        for cohort in cohorts
        if cohort.groups
    ]
    return pd.concat(frames, ignore_index=True) if frames else None


def _pool(out: Path, folders: Sequence[Path], cohorts: Sequence[Cohort]) -> None:
    """The test predictions of all folds as one table, with its metrics."""
    artifact = load_artifact(folders[0])
    for name in ("predictions.csv", "cases.csv", "contributions.csv"):
        tables = [read_table(folder / name) for folder in folders if (folder / name).is_file()]
        if tables:
            table = pd.concat(tables, ignore_index=True)
            _write_csv(table[table["split"] == "test"] if "split" in table else table, out / name)
    write_metrics(_metrics(out, artifact, cohorts, None), out / "metrics.json")


def _rows(cohorts: Sequence[Cohort], splits: pd.DataFrame, split: str, schema: Schema) -> ExamDataset:
    return ExamDataset(cohorts, splits[splits["split"] == split], schema, cache_bytes=0)


def _all_rows(cohorts: Sequence[Cohort], schema: Schema, split: str) -> ExamDataset:
    frames = [pd.DataFrame({"study": cohort.study.name, "exam": cohort.exams}) for cohort in cohorts]
    return ExamDataset(cohorts, pd.concat(frames, ignore_index=True).assign(split=split, fold=0), schema, cache_bytes=0)


def _refuse_failed(failed: Mapping[str, str]) -> None:
    if failed:
        exam, reason = next(iter(failed.items()))
        raise UserError(f"{len(failed)} exams could not be read, the first {exam}: {reason}; 'm4oe check' lists all")


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    write_text(path, table.to_csv(index=False))
