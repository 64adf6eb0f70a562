"""What each task uses: shares of modalities by three measures, their spread over the population, and examples.

Shapley is the measure that says what moved the answer; routing says where tokens were sent. Where routing gives a
modality much more than the answers take from it, it misleads, and the analysis says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy import ndarray

from m4oe.analyses.estimates import Estimate, ratio
from m4oe.analyses.subject import Subject
from m4oe.evaluate import read_table

MISLEADS = 0.1  # more of the routing than of the answers, surely
EXAM = ["study", "exam"]
QUANTILES = {"p10": 0.1, "median": 0.5, "p90": 0.9}


def utilisation_of(subject: Subject) -> dict[str, Any] | None:
    """Of each task: {"modalities": {modality: {measure: estimate, "spread": {measure: quantiles}}}, "misleads":
    modalities that routing overstates, "examples": the exam in which each modality has the largest share}.

    A share is of the sizes of all modalities: sum of |value| over exams by modality, over that of all. Test exams of
    contributions.csv; tasks whose contributions are withheld are absent, with them all is None.
    """
    file = subject.folder / "contributions.csv"
    table = read_table(file) if file.is_file() else pd.DataFrame(columns=[*EXAM, "task"])
    patients = _patients(subject)
    tasks = {task.name: rows for task in subject.tasks if len(rows := table[table["task"] == task.name])}
    found = {name: _of_task(rows, patients, subject.artifact.schema.modalities) for name, rows in tasks.items()}
    return {"split": "test", "tasks": found} if found else None


def _patients(subject: Subject) -> pd.Series:
    """The patient, namespaced by study, of each (study, exam)."""
    rows = subject.splits.drop_duplicates(EXAM)
    return pd.Series((rows["study"] + "/" + rows["patient"]).to_numpy(), pd.MultiIndex.from_frame(rows[EXAM]))


def _of_task(rows: pd.DataFrame, patients: pd.Series, modalities: tuple[str, ...]) -> dict[str, Any]:
    sizes = {measure: sizes_of(rows, measure, modalities) for measure in dict.fromkeys(rows["measure"])}
    shares: dict[str, dict[str, Any]] = {name: {"spread": {}} for name in modalities}
    for measure, size in sizes.items():
        owner = patients.reindex(size.index).to_numpy()
        whole = size.sum(axis=1).to_numpy()
        for name in modalities:
            shares[name][measure] = ratio(size[name].to_numpy(), whole, owner)
            shares[name]["spread"][measure] = _spread(size[name].to_numpy()[whole > 0] / whole[whole > 0])
    misleads = [name for name in modalities if _overstated(shares[name])]
    return {"modalities": shares, "misleads": misleads, "examples": list(_examples(sizes))}


def sizes_of(rows: pd.DataFrame, measure: str, modalities: tuple[str, ...]) -> pd.DataFrame:
    """(exams, modalities) sum of |value| over the inputs of a modality, mean over scores; 0 where it is absent."""
    own = rows[rows["measure"] == measure]
    size = pd.to_numeric(own["value"]).abs() / max(1, own["class"].nunique())
    table = size.groupby([own["study"], own["exam"], own["modality"]]).sum().unstack(fill_value=0.0)
    return table.reindex(columns=list(modalities), fill_value=0.0)


def _spread(shares: ndarray) -> dict[str, float]:
    return {name: float(np.quantile(shares, q)) for name, q in QUANTILES.items()} if len(shares) else {}


def _overstated(shares: dict[str, Estimate | None]) -> bool:
    routed, used = shares.get("routing"), shares.get("shapley")
    if not routed or not used or routed["low"] is None or used["high"] is None:
        return False
    return float(routed["low"]) - float(used["high"]) > MISLEADS


def _examples(sizes: dict[str, pd.DataFrame]) -> Iterator[dict[str, Any]]:
    """Of each modality the exam whose answer rests on it most, by Shapley."""
    size = sizes.get("shapley", pd.DataFrame())
    size = size[size.sum(axis=1) > 0] if len(size) else size
    shares = size.div(size.sum(axis=1), axis=0) if len(size) else size
    for modality in shares:
        if shares[modality].max() > 0:
            study, exam = shares[modality].idxmax()
            yield {"study": study, "exam": exam, "modality": modality, "share": float(shares[modality].max())}
