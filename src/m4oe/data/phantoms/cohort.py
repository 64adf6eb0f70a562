"""What the generated cohorts share: their patients, and what is missing."""

from __future__ import annotations

import numpy as np
import pandas as pd

from m4oe.errors import UserError


def check_rates(what: str, exams: int, size: int, missing_inputs: float, missing_labels: float) -> None:
    """Raises UserError for fewer than 2 exams, fewer than 32 pixels, or a rate outside 0..1 (1 excluded)."""
    if exams < 2 or size < 32 or not (0 <= missing_inputs < 1 and 0 <= missing_labels < 1):
        raise UserError(
            f"a {what} cohort needs exams >= 2, size >= 32, and rates of missing things from 0 to below 1; "
            f"got exams={exams}, size={size}, missing_inputs={missing_inputs}, missing_labels={missing_labels}"
        )


def people(rng: np.random.Generator, exams: int) -> pd.DataFrame:
    """Exams in random order (columns exam, patient, side, site, age); three patients in ten have both sides here."""
    owner = np.repeat(np.arange(exams), 1 + (rng.random(exams) < 0.3))[:exams]
    second = np.concatenate([[False], owner[1:] == owner[:-1]])
    left = (rng.random(exams)[owner] < 0.5) ^ second
    frame = pd.DataFrame(
        {
            "patient": _ids(rng, "P", exams)[owner],
            "side": np.where(left, "L", "R"),
            "site": np.where(rng.random(exams)[owner] < 0.6, "north", "south"),
            "age": np.round(np.clip(rng.normal(58, 9, exams), 38, 82))[owner].astype(int),
        }
    )
    frame = frame.iloc[rng.permutation(exams)].reset_index(drop=True)
    frame.insert(0, "exam", _ids(rng, "E", exams))
    return frame


def _ids(rng: np.random.Generator, letter: str, count: int) -> np.ndarray:
    return np.array([f"{letter}{number}" for number in 100_000 + rng.permutation(900_000)[:count]], dtype=object)


def present_inputs(rng: np.random.Generator, exams: int, inputs: tuple[str, ...], rate: float) -> pd.DataFrame:
    """Which inputs are there, (exams, inputs) bool: at random, but one at least."""
    draws = rng.random((exams, len(inputs)))
    there = draws >= rate
    there[np.arange(exams), draws.argmax(axis=1)] = True
    return pd.DataFrame(there, columns=list(inputs))
