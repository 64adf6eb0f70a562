"""Variants of a comparison as tables on disk: what statistics and pages are tested on. Nothing was trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from m4oe.compare.entries import Entry
from m4oe.compare.variants import Variant
from m4oe.runs.tables import write_csv
from task_examples import TASKS
from test_evaluate import table

SPECS = [TASKS["binary"], TASKS["ordinal"]]
# Variants, and how far each one's scores of a task follow the truth.
SIGNALS: Mapping[str, tuple[float, float]] = {"m4oe": (3.0, 1.5), "twin": (3.0, 1.5), "plain": (0.5, 1.5)}
COST = {"parameters": 12_000, "active_parameters": 9_000, "flops": 2.5e6, "seconds_an_epoch": 1.25, "epochs": 4}


def predictions(seed: int, binary: float, ordinal: float, exams: int = 120) -> pd.DataFrame:
    """Of one patient an exam; the same truth for every seed, noise of its own."""
    truth, noise = np.random.default_rng(0), np.random.default_rng([1, seed])
    target, grade = truth.integers(0, 2, exams), truth.integers(0, 3, exams)
    score = 1 / (1 + np.exp(-(binary * (target - 0.5) + noise.normal(size=exams))))
    near = np.exp(-((np.arange(3) - grade[:, None]) ** 2) * ordinal + noise.normal(size=(exams, 3)))
    frames = [table("binary", target, np.stack([1 - score, score], 1))]
    return pd.concat([*frames, table("ordinal", grade, near / near.sum(1, keepdims=True))], ignore_index=True)


def write_entries(folder: Path, seeds: int = 3) -> list[Entry]:
    """Ours; a twin with the very same predictions; one that is worse at the binary task alone; one that failed."""
    entries = []
    for name, signal in SIGNALS.items():
        places = {seed: folder / name / f"seed_{seed}" for seed in range(seeds)}
        for seed, place in places.items():
            place.mkdir(parents=True)
            write_csv(predictions(seed, *signal), place / "predictions.csv")
        variant = Variant({"m4oe": "M4oE"}.get(name, name.title()), "ours", (f"model.width={len(name)}",))
        entries.append(Entry(name, variant, places, cost=COST | {"peak_memory": 3 * 2**30}))
    failed = "seed_0: RuntimeError: out of memory & <all> 100 %"
    return [*entries, Entry("broken", Variant("Broken_one", "baseline"), failed=failed)]
