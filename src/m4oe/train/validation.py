"""What validation gathers over batches, and the score of each task at its end.

Axes: P exams that have the label, or slices of them · K foreground classes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import torch

from m4oe.batch import Batch, Prediction, shared_rows
from m4oe.schema import Schema, TaskSpec
from m4oe.tasks import KINDS


class Seen:
    """Labels and probabilities of all exams; of masks, counts of pixels alone, summed over the slices of an exam."""

    def __init__(self, schema: Schema) -> None:
        self.tasks = schema.tasks
        self.labels: dict[str, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
        self.overlaps: dict[str, dict[str, np.ndarray]] = defaultdict(dict)

    def add(self, prediction: Prediction, batch: Batch) -> None:
        for task in self.tasks:
            if task.name in batch.targets:
                logits, target = shared_rows(prediction.logits[task.name], batch.targets[task.name])
                kind = KINDS[task.kind]
                if len(target) and kind.counts is None:
                    probability = kind.probabilities(task, logits.float())
                    self.labels[task.name].append((target.cpu().numpy(), probability.cpu().numpy()))
                elif len(target):
                    self._add_counts(
                        task, kind.counts(task, logits, target).cpu().numpy(), _exams(batch, prediction, task)
                    )

    def _add_counts(self, task: TaskSpec, counts: np.ndarray, exams: Iterable[str]) -> None:
        known = self.overlaps[task.name]
        for exam, count in zip(exams, counts, strict=True):
            known[exam] = known.get(exam, 0) + count

    def scores(self) -> dict[str, float]:
        """{task: its primary metric}, of those tasks for which it is defined."""
        scores = {}
        for task in self.tasks:
            if task.name in self.overlaps:
                value = mean_dice(np.stack(list(self.overlaps[task.name].values())))
            elif task.name in self.labels:
                target, probability = (np.concatenate(parts) for parts in zip(*self.labels[task.name]))
                kind = KINDS[task.kind]
                value = kind.metrics(task, target, probability).get(kind.primary_metric, np.nan)
            else:
                continue
            if np.isfinite(value):
                scores[task.name] = float(value)
        return scores


def _exams(batch: Batch, prediction: Prediction, task: TaskSpec) -> list[str]:
    index = batch.targets[task.name].index
    return [batch.exams[place] for place in index[torch.isin(index, prediction.logits[task.name].index)].tolist()]


def mean_dice(counts: np.ndarray) -> float:
    """Dice of counts (P, K, 3): mean over exams where a class is said or true, then over classes; NaN without any."""
    both, said, true = np.moveaxis(counts.astype(float), -1, 0)
    whole = said + true
    dice = np.divide(2 * both, whole, out=np.full(both.shape, np.nan), where=whole > 0)
    known = ~np.isnan(dice)
    by_class = [dice[known[:, k], k].mean() for k in range(dice.shape[1]) if known[:, k].any()]
    return float(np.mean(by_class)) if by_class else float("nan")
