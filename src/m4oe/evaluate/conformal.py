"""Answers with a promise: sets of classes that hold the true one as often as promised, and abstaining when unsure.

Split conformal prediction (Vovk et al. 2005; Papadopoulos et al. 2002) with the score 1 - p(class), which makes the
smallest sets on average (Sadinle et al. 2019). The promise is of exams drawn alike and independently, over draws of
the calibration exams; nothing is assumed of the model.

Axes: P exams · C classes · n calibration exams.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy import ndarray

from m4oe.evaluate.calibration import probabilities
from m4oe.evaluate.exams import Exams
from m4oe.tasks.classification_metrics import decided


@dataclass(frozen=True)
class Question:
    """Which of C classes? kind: "binary", "multiclass" or "ordinal" · probability (P, C) · target (P,) int ·
    exam (P,): places among the exams of the task."""

    kind: str
    probability: ndarray
    target: ndarray
    exam: ndarray

    @property
    def called(self) -> ndarray:
        """(P,) the class that is called."""
        return decided(self.kind, self.probability)

    @property
    def sureness(self) -> ndarray:
        """(P,) probability of the class that is called."""
        return self.probability[np.arange(len(self.target)), self.called]

    @property
    def wrong(self) -> ndarray:
        """(P,) bool."""
        return self.called != self.target

    def take(self, rows: ndarray) -> Question:
        return Question(self.kind, self.probability[rows], self.target[rows], self.exam[rows])


def questions(exams: Exams) -> Mapping[str, Question]:
    """{name: question}: one of an exclusive task, yes or no of each label of a multilabel one, none of survival, whose
    censored exams have no answer to be counted."""
    if exams.task.kind == "survival":
        return {}
    target, probability = exams.sample.arrays[0], probabilities(exams)
    if exams.task.kind != "multilabel":
        return {"": Question(exams.task.kind, probability, target.astype(int), np.arange(len(target)))}
    asked = {}
    for k, name in enumerate(exams.task.classes):
        known = np.flatnonzero(~np.isnan(target[:, k]))
        pair = np.stack([1 - probability[known, k], probability[known, k]], 1)
        asked[name] = Question("binary", pair, target[known, k].astype(int), known)
    return asked


def fewest(promised: float) -> int:
    """Calibration exams below which every set must hold all classes."""
    return ceil(round(promised / (1 - promised), 9))


def threshold(calibration: Question, promised: float) -> float:
    """The ceil((n + 1) promised)-th smallest score of the true classes; infinite where n is smaller than that."""
    scores = 1 - calibration.probability[np.arange(len(calibration.target)), calibration.target]
    rank = ceil(round((len(scores) + 1) * promised, 9))
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else float("inf")


def sets(question: Question, limit: float) -> ndarray:
    """(P, C) bool: the classes whose score is within the limit, and always the class that is called; of an ordinal
    task also those in between. What is added can only raise coverage."""
    held = 1 - question.probability <= limit
    held[np.arange(len(held)), question.called] = True
    if question.kind == "ordinal":
        held = np.logical_or.accumulate(held, 1) & np.logical_or.accumulate(held[:, ::-1], 1)[:, ::-1]
    return held


def covered(question: Question, held: ndarray) -> ndarray:
    """(P,) bool: the set holds the true class."""
    return held[np.arange(len(held)), question.target]


def share_interval(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a share by the binomial distribution (Clopper and Pearson 1934)."""
    from scipy.stats import beta

    low = beta.ppf(0.025, hits, count - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, count - hits) if hits < count else 1.0
    return float(low), float(high)


def least_expected(promised: float, calibration: int, count: int) -> float:
    """Coverage of `count` exams below which a true promise falls in 2.5 % of cases at most: beta-binomial, since the
    threshold comes from `calibration` exams by chance as well. (Vovk 2012; Angelopoulos and Bates 2023, section 3.2)"""
    from scipy.stats import betabinom

    rank = ceil(round((calibration + 1) * promised, 9))
    if rank > calibration or not count:
        return 1.0 if count else 0.0
    return float(betabinom.ppf(0.025, count, rank, calibration + 1 - rank)) / count


def abstention_limit(calibration: Question, answered: float) -> float:
    """How sure an answer must be for a share `answered` of the calibration exams to be answered."""
    return float(np.quantile(calibration.sureness, 1 - answered, method="lower")) if answered < 1 else 0.0


def risk_area(question: Question, weights: ndarray) -> ndarray:
    """(R,) area under the curve of risk against coverage: the mean, over shares answered, of the share of wrong answers
    among the surest; weights (R, P). Guessing when to abstain leaves the error rate. (Geifman and El-Yaniv 2017)"""
    order = np.argsort(-question.sureness, kind="stable")
    starts = np.flatnonzero(np.diff(-question.sureness[order], prepend=-np.inf))
    weight = np.add.reduceat(weights[:, order], starts, axis=1)
    errors = np.add.reduceat(weights[:, order] * question.wrong[order], starts, axis=1).cumsum(1)
    answered = weight.cumsum(1)
    risk = np.divide(errors, answered, out=np.zeros_like(errors), where=answered > 0)
    return (risk * weight).sum(1) / answered[:, -1]
