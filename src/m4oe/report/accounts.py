"""What contributions.csv and routing.json say, summed up: by modality, by exam, and where the measures differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy import ndarray

from m4oe.report.folder import KEY

MEASURES = ("shapley", "evidence", "routing")
LOOKING = 0.95  # share of the tokens that slots read: above, routing has not learned to look
COLLAPSED = 0.10  # share of the experts that a task uses
GAME = [*KEY, "task", "class"]


def mean_weight(contributions: pd.DataFrame, measure: str, by: str) -> pd.DataFrame:
    """Task by `by` (modality or input): mean |value|, summed over a modality's inputs, over exams that have it."""
    rows = contributions[contributions["measure"] == measure].assign(size=lambda frame: frame["value"].abs())
    of_each = rows.groupby([*GAME, by], sort=False)["size"].sum()
    return of_each.groupby(["task", by], sort=False).mean().unstack(by)


def tops(contributions: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Of each exam, task and class the input with the largest |value|: columns input and value, indexed by GAME."""
    rows = contributions[(contributions["measure"] == measure) & contributions["value"].notna()]
    largest = rows.assign(size=rows["value"].abs()).sort_values("size", ascending=False, kind="stable")
    return largest.drop_duplicates(GAME).set_index(GAME)[["input", "value"]]


def disagreements(contributions: pd.DataFrame) -> pd.DataFrame:
    """Exams, tasks and classes with both measures (indexed by GAME), and whether these `differ`.

    They differ when they name different inputs as the strongest, or the same one with opposite signs.
    """
    both = tops(contributions, "shapley").join(tops(contributions, "evidence"), rsuffix="_evidence", how="inner")
    other = both["input"] != both["input_evidence"]
    opposed = ~other & (both["value"] * both["value_evidence"] < 0)
    return both.assign(other=other, opposed=opposed, differ=other | opposed)


def effective_experts(routing: Mapping[str, Any]) -> dict[str, float]:
    """{task: number of experts that its routing uses in effect}, exp H(E | task), from 1 to num_experts."""
    of_modality = np.asarray(routing["P_modality_given_task"], float)
    of_expert = np.asarray(routing["P_expert_given_modality_task"], float)
    load = np.einsum("tm,mte->te", np.nan_to_num(of_modality), np.nan_to_num(of_expert))
    return {task: float(np.exp(_entropy(share))) for task, share in zip(routing["tasks"], load, strict=True)}


def _entropy(share: ndarray) -> float:
    positive = share[share > 0] / share.sum()
    return float(-(positive * np.log(positive)).sum())


def alarms(routing: Mapping[str, Any]) -> list[str]:
    """What is wrong with the routing, in sentences; none where it is healthy."""
    count = int(routing["num_experts"])
    few = {
        task: n for task, n in effective_experts(routing).items() if n < max(COLLAPSED * count, min(1.5, count - 0.5))
    }
    found = [f"Collapse: {task} uses {n:.1f} of {count} experts in effect." for task, n in few.items()]
    looked = routing.get("effective_tokens")
    if isinstance(looked, int | float) and looked > LOOKING:
        found.append(
            f"Routing is not looking: experts read {100 * looked:.0f} % of the tokens in effect, nearly all alike. "
            "Nothing about specialisation can be read from the maps below."
        )
    return found
