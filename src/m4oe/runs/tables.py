"""The tables of a run folder: predictions, contributions, cases, routing, metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from m4oe.artifact import Artifact, write_text
from m4oe.data.dataset import ExamDataset
from m4oe.data.table import Cohort
from m4oe.evaluate import evaluate, read_table
from m4oe.explain import rank_agreement
from m4oe.masks import MaskFolder
from m4oe.moe.losses import expert_given_modality_task, modality_given_task
from m4oe.predict import CASE_COLUMNS, CONTRIBUTION_COLUMNS, PREDICTION_COLUMNS, Part, Predictor, VolumePredictor
from m4oe.schema import Schema
from m4oe.tasks import KINDS


@dataclass
class Found:
    """Parts of a prediction joined, and routing's sums over exams. Fields are those of Part, each thing told once."""

    predictions: pd.DataFrame
    contributions: pd.DataFrame
    cases: pd.DataFrame
    failed: dict[str, str]
    notes: list[str]
    masks: list[Path]
    joint: np.ndarray | None
    effective_tokens: float | None
    gate: Mapping[str, Mapping[str, np.ndarray]]

    @property
    def nothing(self) -> bool:
        """Whether no exam came to anything."""
        return not (len(self.predictions) or self.masks)


def predicted(
    predictor: Predictor | VolumePredictor, dataset: ExamDataset, size: int, masks: Path | None = None
) -> Found:
    """All of `dataset`, a batch at a time; masks go to disk as they come. `masks` None: nothing is explained either."""
    parts, written = [], []
    folder = None if masks is None else MaskFolder(masks, of_study=len(dataset.cohorts) > 1)
    for part in predictor.stream(dataset, batch_size=size, explain=masks is not None):
        if folder is not None:
            written += [folder.write(mask) for mask in part.masks]
        parts.append(Part(**{**part.__dict__, "masks": ()}))
    joints = [part.joint for part in parts if part.joint is not None]
    shares = [part.effective_tokens for part in parts if part.effective_tokens is not None]
    return Found(
        joined([part.predictions for part in parts], PREDICTION_COLUMNS),
        joined([part.contributions for part in parts], CONTRIBUTION_COLUMNS),
        joined([part.cases for part in parts], CASE_COLUMNS),
        _failed(parts),
        list(dict.fromkeys(note for part in parts for note in part.notes)),
        written,
        np.concatenate(joints).mean(0) if joints else None,
        float(np.nanmean(shares)) if shares and not np.isnan(shares).all() else None,
        _summed([part.gate for part in parts]),
    )


def _failed(parts: Sequence[Part]) -> dict[str, str]:
    """{exam: what was wrong with it}: with each of its pictures, where these are parts of their own."""
    reasons: dict[str, list[str]] = {}
    for part in parts:
        for exam, reason in part.failed.items():
            reasons.setdefault(exam, []).append(reason)
    return {exam: "; ".join(told) for exam, told in reasons.items()}


def _summed(gates: Sequence[Mapping[str, Mapping[str, np.ndarray]]]) -> dict[str, dict[str, np.ndarray]]:
    """{modality: {layer: (E,)}}, the sums of all parts."""
    total: dict[str, dict[str, np.ndarray]] = {}
    for gate in gates:
        for modality, layers in gate.items():
            place = total.setdefault(modality, {})
            for layer, sums in layers.items():
                place[layer] = place.get(layer, 0) + sums
    return {modality: layers for modality, layers in total.items() if layers}


def joined(frames: Sequence[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=columns)


def write_tables(folder: Path, found: Sequence[Found], artifact: Artifact) -> None:
    last = found[-1]
    write_csv(joined([one.predictions for one in found], PREDICTION_COLUMNS), folder / "predictions.csv")
    write_csv(last.contributions, folder / "contributions.csv")
    if any(KINDS[task.kind].rows is None for task in artifact.schema.tasks):
        write_csv(joined([one.cases for one in found], CASE_COLUMNS), folder / "cases.csv")
    write_text(folder / "routing.json", json.dumps(_routing(last, artifact), indent=1))


def _routing(found: Found, artifact: Artifact) -> dict[str, Any]:
    """The content of routing.json."""
    schema = artifact.schema
    facts: dict[str, Any] = {
        "modalities": [*schema.modalities, *(name for name in found.gate if name not in schema.modalities)],
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
    if found.gate:
        facts["gate"] = _gate(found.gate, facts["modalities"])
    return facts


def _gate(gate: Mapping[str, Mapping[str, np.ndarray]], modalities: Sequence[str]) -> dict[str, Any]:
    """layers, and of each the load (M, E): the share of each expert in what pictures of a modality were routed to; 0
    for a modality that was not seen."""
    any_one = next(iter(gate.values()))
    none = np.zeros_like(next(iter(any_one.values())))
    loads = [[gate.get(name, {}).get(layer, none) for name in modalities] for layer in any_one]
    return {"layers": list(any_one), "load": [[(sums / (sums.sum() or 1)).tolist() for sums in one] for one in loads]}


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


def metrics_of(
    folder: Path, schema: Schema, cohorts: Sequence[Cohort], training: pd.DataFrame | None
) -> dict[str, Any]:
    predictions = read_table(folder / "predictions.csv")
    cases = read_table(folder / "cases.csv") if (folder / "cases.csv").is_file() else None
    return evaluate(predictions, cases, schema, groups=groups_of(cohorts), training=training)


def groups_of(cohorts: Sequence[Cohort]) -> pd.DataFrame | None:
    """study, exam and the group columns of all exams; None where no study has groups."""
    frames = [
        pd.DataFrame({"study": cohort.study.name, "exam": cohort.exams, **cohort.groups})
        for cohort in cohorts
        if cohort.groups
    ]
    return pd.concat(frames, ignore_index=True) if frames else None


def rows_of(cohorts: Sequence[Cohort], splits: pd.DataFrame, split: str, schema: Schema) -> ExamDataset:
    return ExamDataset(cohorts, splits[splits["split"] == split], schema, cache_bytes=0)


def all_rows(cohorts: Sequence[Cohort], schema: Schema, split: str) -> ExamDataset:
    frames = [pd.DataFrame({"study": cohort.study.name, "exam": cohort.exams}) for cohort in cohorts]
    return ExamDataset(cohorts, pd.concat(frames, ignore_index=True).assign(split=split, fold=0), schema, cache_bytes=0)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    write_text(path, table.to_csv(index=False))
