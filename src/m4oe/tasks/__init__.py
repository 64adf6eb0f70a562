"""Tasks: what each kind of task asks of a network, how it is learned, and how it is scored.

One row of KINDS for each kind; nothing outside this folder branches on a task's kind. Shapes: P exams that have the
label, C outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from torch import Tensor

from m4oe.schema import TaskSpec
from m4oe.tasks import classification as c
from m4oe.tasks import classification_metrics as cm
from m4oe.tasks import segmentation as g
from m4oe.tasks import segmentation_metrics as gm
from m4oe.tasks import survival as s
from m4oe.tasks import survival_metrics as sm
from m4oe.tasks.metrics import Sample
from m4oe.tasks.rows import LABELS, ONE_HOT, POSITIVE, RISKS, RowForm
from m4oe.tasks.segmentation_metrics import case_metrics

__all__ = ["KINDS", "Kind", "case_metrics"]


@dataclass(frozen=True)
class Kind:
    """All that is particular to a kind of task.

    num_outputs: C, the logits of an exam (of a pixel, for segmentation)
    loss: (task, logits (P, C, ...), target (P, ...), focal_gamma=0.0) -> (P,) of each exam, class-weighted, float32
    probabilities: (task, logits) -> (P, classes, ...) in the order of task.classes
    prior_logits: (task) -> logits of the training prevalence, (C,); for segmentation (1,), that of foreground
    score_names, scores: (task) -> names, and (task, logits) -> (P, names): the numbers that contributions explain
    sample: (task, target, probability, training=None) -> Sample, to be scored by weights, numpy
    classes: (task, sample) -> {class: (rows, Sample)}, one against the rest
    rows: how it stands in predictions.csv; None for segmentation, which stands in cases.csv
    primary_metric: the metric that chooses a model; higher is better · chance: (task) -> its value by guessing
    counts: (task, logits, target) -> (P, ..., 3) that add up over the slices of an exam; segmentation only
    """

    num_outputs: Callable[[TaskSpec], int]
    loss: Callable[..., Tensor]
    probabilities: Callable[[TaskSpec, Tensor], Tensor]
    prior_logits: Callable[[TaskSpec], Tensor]
    score_names: Callable[[TaskSpec], tuple[str, ...]]
    scores: Callable[[TaskSpec, Tensor], Tensor]
    sample: Callable[..., Sample]
    classes: Callable[[TaskSpec, Sample], dict[str, tuple[ndarray, Sample]]]
    rows: RowForm | None
    primary_metric: str
    chance: Callable[[TaskSpec], float]
    counts: Callable[[TaskSpec, Tensor, Tensor], Tensor] | None = None

    def prior_scores(self, task: TaskSpec) -> Tensor:
        """(names,) what `scores` would be at the training prevalence: the value of an exam without inputs."""
        return self.prior_logits(task)[-len(self.score_names(task)) :]

    def metrics(
        self, task: TaskSpec, target: ndarray, probability: ndarray, training: ndarray | None = None
    ) -> dict[str, float]:
        """Every metric that is defined on these exams; arrays as `loss` and `probabilities` have them, numpy.

        training: labels of the training split (survival's censoring weights).
        """
        sample = self.sample(task, np.asarray(target), np.asarray(probability), training)
        values = sample(np.ones((1, len(sample)))) if len(sample) else {}
        return {name: float(value[0]) for name, value in values.items() if np.isfinite(value[0])}


def _all_classes(task: TaskSpec) -> tuple[str, ...]:
    return task.classes


def _last_class(task: TaskSpec) -> tuple[str, ...]:
    return task.classes[-1:]


KINDS: dict[str, Kind] = {
    "binary": Kind(
        num_outputs=lambda task: 1,
        loss=c.binary_loss,
        probabilities=c.binary_probabilities,
        prior_logits=lambda task: c.logit(task.prior),
        score_names=_last_class,
        scores=lambda task, logits: logits,
        sample=cm.binary_sample,
        classes=cm.no_classes,
        rows=POSITIVE,
        primary_metric="auroc",
        chance=lambda task: 0.5,
    ),
    "multiclass": Kind(
        num_outputs=lambda task: len(task.classes),
        loss=c.multiclass_loss,
        probabilities=lambda task, logits: logits.softmax(1),
        prior_logits=c.multiclass_prior,
        score_names=_all_classes,
        scores=lambda task, logits: logits,
        sample=cm.multiclass_sample,
        classes=cm.class_samples,
        rows=ONE_HOT,
        primary_metric="auroc",
        chance=lambda task: 0.5,
    ),
    "multilabel": Kind(
        num_outputs=lambda task: len(task.classes),
        loss=c.multilabel_loss,
        probabilities=lambda task, logits: logits.sigmoid(),
        prior_logits=lambda task: c.logit(task.prior),
        score_names=_all_classes,
        scores=lambda task, logits: logits,
        sample=cm.multilabel_sample,
        classes=cm.label_samples,
        rows=LABELS,
        primary_metric="auroc",
        chance=lambda task: 0.5,
    ),
    "ordinal": Kind(
        num_outputs=lambda task: len(task.classes) - 1,
        loss=c.ordinal_loss,
        probabilities=c.ordinal_probabilities,
        prior_logits=c.ordinal_prior,
        score_names=_last_class,
        scores=lambda task, logits: logits[:, -1:],
        sample=cm.ordinal_sample,
        classes=cm.class_samples,
        rows=ONE_HOT,
        primary_metric="auroc",
        chance=lambda task: 0.5,
    ),
    "survival": Kind(
        num_outputs=lambda task: len(task.horizons),
        loss=s.survival_loss,
        probabilities=lambda task, logits: logits.sigmoid(),
        prior_logits=lambda task: c.logit(task.prior),
        score_names=_last_class,
        scores=lambda task, logits: logits[:, -1:],
        sample=sm.survival_sample,
        classes=sm.horizon_samples,
        rows=RISKS,
        primary_metric="c_index",
        chance=lambda task: 0.5,
    ),
    "segmentation": Kind(
        num_outputs=lambda task: len(task.classes),
        loss=g.segmentation_loss,
        probabilities=lambda task, logits: logits.softmax(1),
        prior_logits=g.foreground_prior,
        score_names=lambda task: ("foreground",),
        scores=g.foreground_score,
        sample=gm.segmentation_sample,
        classes=gm.structure_samples,
        rows=None,
        primary_metric="dice",
        chance=g.dice_by_chance,
        counts=g.overlap_counts,
    ),
}
