"""The truth of a generated cohort, stored beside it, and the score of an oracle that reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from m4oe.errors import UserError


@dataclass(frozen=True)
class Truth:
    """What is so in a generated cohort, whether or not the study shows it.

    exams: one row per exam and task, columns exam, task, target (the label, also where the study hides it; of a
    survival task the linear predictor of its hazard), carriers (inputs that carry the finding of *this* exam,
    joined by `+`; empty where there is none), carrier_present (whether enough of them is there to know the target),
    latent (the continuous quantity behind the target) · oracle: exam, task, class, score: the best anyone can say
    from the inputs that are there · population: {"carries": {task: {"modalities", "inputs"}}, "synergy": {"task",
    "inputs"} | None, "noise": modality | None}.
    """

    exams: pd.DataFrame
    oracle: pd.DataFrame
    population: Mapping[str, Any]


def write_truth(folder: Path, truth: Truth) -> None:
    """Writes truth.csv, oracle.csv and truth.json into `folder`."""
    truth.exams.to_csv(folder / "truth.csv", index=False)
    truth.oracle.to_csv(folder / "oracle.csv", index=False)
    (folder / "truth.json").write_text(json.dumps(truth.population, indent=2) + "\n", encoding="utf-8")


def read_truth(folder: Path | str) -> Truth:
    """The truth stored in the folder of a generated cohort.

    Raises UserError where there is none: real cohorts have no truth.
    """
    folder = Path(folder)
    if not (folder / "truth.json").is_file():
        raise UserError(f"{folder}: no truth.json here; only generated cohorts have a stored truth")
    text = {"exam": str, "task": str, "class": str, "carriers": str}
    exams, oracle = (
        pd.read_csv(folder / name, dtype=text, keep_default_na=False) for name in ("truth.csv", "oracle.csv")
    )
    return Truth(exams, oracle, json.loads((folder / "truth.json").read_text(encoding="utf-8")))


def oracle_scores(truth: Truth, table: pd.DataFrame, exam: str = "exam_id") -> pd.DataFrame:
    """The oracle's scores (exam, task, class, score) for the exams of `table`, named in its column `exam`.

    class: as in predictions.csv (binary: the positive class; ordinal: every class; survival: empty, and the score
    is the linear predictor). Where a carrier is missing the score is the probability given what is there.
    """
    return truth.oracle[truth.oracle["exam"].isin(set(table[exam].astype(str)))].reset_index(drop=True)


def scores(exams: pd.Series, task: str, probabilities: np.ndarray, classes: tuple[str, ...]) -> pd.DataFrame:
    """Rows of Truth.oracle from probabilities (N, C) of one task's classes."""
    frames = [
        pd.DataFrame({"exam": exams, "task": task, "class": name, "score": probabilities[:, k]})
        for k, name in enumerate(classes)
    ]
    return pd.concat(frames, ignore_index=True)
