"""What the truth test asks of one training: benchmarks/truth.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from breast import TASKS, noise_below, oracle, routing, scores_of
from m4oe.analyses import subject_of
from m4oe.analyses.synergy import synergy_of
from m4oe.artifact import load_artifact
from m4oe.contributions import evidence_values, game_values, routing_values
from m4oe.data.dataset import ExamDataset, collate
from m4oe.data.phantoms import read_truth
from m4oe.data.table import load_cohort
from m4oe.explain import occlusion_game, shapley_game
from m4oe.moe.losses import conditional_mutual_information
from m4oe.predict import Predictor
from m4oe.study import load_study

MEASURES = ("shapley", "evidence", "occlusion", "routing")


def figures(run: Path, study: Path, synergy: bool) -> dict[str, Any]:
    """All figures. synergy: whether pairs are ranked, too, which takes as long as the training."""
    table = pd.read_csv(study.parent / "images.csv", dtype={"exam_id": str})
    splits = pd.read_csv(run / "splits.csv", dtype={"exam": str}).set_index("exam")["split"]
    measured, test = measures(run, study), (table["exam_id"].map(splits) == "test").to_numpy()
    means = {
        task: {row.input: row.value for row in rows.itertuples()}
        for task, rows in mean_sizes(measured[measured["measure"] == "shapley"]).groupby("task")
    }
    pairs = synergy_of(subject_of(run, torch.device("cpu"))) if synergy else None
    return {
        "model": scores_of(run),
        "oracle": oracle(study.parent, table, test),
        "in_exams": found_in_exams(study.parent, measured),
        "in_tasks": found_in_tasks(study.parent, measured),
        "mean_shapley": means,
        "noise_below": noise_below({"mean_shapley": means}, study.parent),
        "information": information(run),
        "noise_routed": {task: float(shares["noise"]) for task, shares in routing(run).items()},
        "synergy_rank": synergy_rank(pairs, study.parent),
        "withheld": sorted(json.loads((run / "routing.json").read_text())["withheld"]),
    }


def information(run: Path) -> float:
    """I(M; E | T) in nats of the routing over all test exams: how far modalities have experts of their own."""
    facts = json.loads((run / "routing.json").read_text())
    modality, expert = (
        torch.tensor(facts[f"P_{name}"]) for name in ("modality_given_task", "expert_given_modality_task")
    )
    joint = modality.T[:, None] * expert.permute(0, 2, 1) / len(facts["tasks"])
    return float(conditional_mutual_information(joint[None]))


@torch.no_grad()
def measures(run: Path, study: Path) -> pd.DataFrame:
    """exam, task, input, measure, value of all test exams; routing of an input is that of its modality."""
    artifact = load_artifact(run)
    splits = pd.read_csv(run / "splits.csv", dtype={"exam": str})
    rows = ExamDataset([load_cohort(load_study(study))], splits[splits["split"] == "test"], artifact.schema)
    network, schema, found = Predictor(artifact).network, artifact.schema, []
    for start in range(0, len(rows), 32):
        samples = [rows[number] for number in range(start, min(start + 32, len(rows)))]
        batch = collate(samples)
        tokens = network.encode(batch)
        prediction = network.decide(tokens, batch.inputs)
        values = {
            "shapley": game_values(network, tokens, batch.inputs, schema, shapley_game),
            "occlusion": game_values(network, tokens, batch.inputs, schema, occlusion_game),
            "evidence": evidence_values(prediction, schema),
            "routing": _by_stream(routing_values(prediction), schema),
        }
        for measure, of in values.items():
            for task in schema.tasks:
                for b, sample in enumerate(samples):
                    for i, stream in enumerate(schema.streams):
                        if stream.name in sample.inputs:
                            value = of[task.name][b, i, -1]  # malignancy: the one score; others: the last
                            found.append((sample.exam, task.name, stream.input, measure, float(value)))
    return pd.DataFrame(found, columns=["exam", "task", "input", "measure", "value"])


def _by_stream(routed: np.ndarray, schema: Any) -> dict[str, np.ndarray]:
    places = [schema.modalities.index(stream.modality) for stream in schema.streams]
    return {task.name: routed[:, number][:, places, None] for number, task in enumerate(schema.tasks)}


def found_in_exams(folder: Path, measured: pd.DataFrame) -> dict[str, float]:
    """{measure: AUROC with which its value tells the carrier from an exam's other inputs}."""
    truth = read_truth(folder).exams
    truth = truth[(truth["task"] == "malignancy") & (truth["carriers"] != "") & truth["carrier_present"]]
    carrier = truth.set_index("exam")["carriers"]
    rows = measured[(measured["task"] == "malignancy") & measured["exam"].isin(carrier.index)]
    hit = rows["input"] == rows["exam"].map(carrier)
    return {name: float(roc_auc_score(hit[rows["measure"] == name], rows["value"][rows["measure"] == name]))
            for name in MEASURES}  # fmt: skip


def mean_sizes(measured: pd.DataFrame) -> pd.DataFrame:
    """measure, task, input, value: the mean over exams of its size."""
    sizes = measured.assign(value=measured["value"].abs())
    return sizes.groupby(["measure", "task", "input"], as_index=False)["value"].mean()


def found_in_tasks(folder: Path, measured: pd.DataFrame) -> dict[str, float]:
    """{measure: AUROC with which its mean tells inputs that carry a task from the others, mean over tasks}."""
    carries = read_truth(folder).population["carries"]
    means, found = mean_sizes(measured), {}
    for measure in MEASURES:
        scores = []
        for task in TASKS:
            rows = means[(means["measure"] == measure) & (means["task"] == task)]
            scores.append(roc_auc_score(rows["input"].isin(carries[task]["inputs"]), rows["value"]))
        found[measure] = float(np.mean(scores))
    return found


def synergy_rank(synergy: Mapping[str, Any] | None, folder: Path) -> int | None:
    """The place, from 1, of the planted pair among all pairs of inputs by synergy for its task."""
    planted = read_truth(folder).population["synergy"]
    if synergy is None or planted["task"] not in synergy["tasks"]:
        return None
    pairs = synergy["tasks"][planted["task"]]  # the most synergetic first; a pair comes once for each question asked
    order = list(dict.fromkeys(frozenset(pair["inputs"]) for pair in pairs))
    return 1 + order.index(frozenset(planted["inputs"]))
