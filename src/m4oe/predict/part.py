"""What comes out of a prediction: the answer for one exam, or a part of a run's tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from m4oe.data.table import Cohort
from m4oe.masks import Mask, true_mask
from m4oe.schema import TaskSpec
from m4oe.tasks import case_metrics
from m4oe.tasks.segmentation_metrics import SCORES

PREDICTION_COLUMNS = ["study", "exam", "patient", "split", "fold", "inputs", "task", "class", "target", "probability"]
CONTRIBUTION_COLUMNS = ["study", "exam", "task", "class", "input", "modality", "measure", "value"]
CASE_COLUMNS = ["study", "exam", "patient", "split", "fold", "task", "class", *SCORES, "outcome"]


@dataclass(frozen=True)
class Answer:
    """What a model says of one exam.

    probabilities {task: {class: p}} · contributions {task: {class: {measure: {input or modality: value}}}} in logits
    · masks {task: labels on the input's own grid}, of a task that several inputs have a mask of {INPUT__TASK: ...} ·
    withheld {task: why it has no contributions}.
    """

    probabilities: Mapping[str, Mapping[str, float]]
    contributions: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]
    masks: Mapping[str, np.ndarray]
    withheld: Mapping[str, str]


@dataclass(frozen=True)
class Part:
    """What came out of one batch: rows of the three tables, masks, what failed, and routing's population sums.

    notes: what one should know who reads the rest, a sentence each · gate: {modality:
    {layer: (E,) float64}}, what its pictures were given to each expert, summed over tokens.
    """

    predictions: pd.DataFrame = field(default_factory=pd.DataFrame)
    contributions: pd.DataFrame = field(default_factory=pd.DataFrame)
    cases: pd.DataFrame = field(default_factory=pd.DataFrame)
    masks: Sequence[Mask] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    joint: np.ndarray | None = None
    effective_tokens: float | None = None
    gate: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)


def case_rows(cohort: Cohort, mask: Mask, task: TaskSpec, head: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """Rows of cases.csv: the mask against the exam's true one, if it has one, on the input's own grid.

    head: the first five columns. Raises UserError where the true mask cannot be read, or lies elsewhere.
    """
    truth = true_mask(cohort, mask)
    if truth is not None:
        for row in case_metrics(mask.labels, truth, task, mask.geometry.spacing):
            yield (*head, mask.task, *(row[column] for column in CASE_COLUMNS[6:]))
