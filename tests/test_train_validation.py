"""What validation gathers: probabilities of labels, and of masks counts that add up over the slices of an exam."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from m4oe.batch import Batch, Prediction, Rows
from m4oe.tasks.segmentation import overlap_counts
from m4oe.tasks.segmentation_metrics import case_metrics
from m4oe.train.validation import Seen, mean_dice
from tiny_slices import SCHEMA

KIDNEYS = SCHEMA.task("kidneys")


def logits_of(labels: torch.Tensor, classes: int = 3) -> torch.Tensor:
    return 9.0 * torch.nn.functional.one_hot(labels, classes).movedim(-1, 1).float()


def test_counts_by_hand():
    target = torch.tensor([[[0, 1, 1, 2]], [[-100, 2, 2, 0]]])
    said = torch.tensor([[[1, 1, 0, 2]], [[2, 2, 0, 1]]])
    both_said_true = overlap_counts(KIDNEYS, logits_of(said), target)
    assert both_said_true.tolist() == [[[1, 2, 2], [1, 1, 1]], [[0, 1, 0], [1, 1, 2]]]


def test_counts_of_slices_give_the_dice_of_the_volume():
    g = torch.Generator().manual_seed(0)
    truth, said = (torch.randint(0, 3, (4, 6, 5), generator=g) for _ in range(2))
    truth[0, :2] = -100
    counts = overlap_counts(KIDNEYS, logits_of(said), truth).sum(0, keepdim=True).numpy()
    cases = case_metrics(said.numpy(), truth.numpy(), KIDNEYS, None)
    assert mean_dice(counts) == pytest.approx(np.mean([row["dice"] for row in cases]))


def test_a_class_that_is_neither_said_nor_true_does_not_count():
    assert mean_dice(np.array([[[1, 2, 2], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]])) == 0.5
    assert np.isnan(mean_dice(np.zeros((2, 2, 3), int)))


def test_slices_of_one_exam_are_one_exam():
    seen = Seen(SCHEMA)
    target = torch.tensor([[[1, 1]], [[1, 1]], [[2, 2]]])
    said = torch.tensor([[[1, 1]], [[0, 0]], [[2, 2]]])
    rows = torch.arange(3)
    batch = Batch(("s/a", "s/a", "s/b"), {}, {"kidneys": Rows(target, rows)})
    seen.add(Prediction({"kidneys": Rows(logits_of(said), rows)}), batch)
    assert seen.scores() == {"kidneys": pytest.approx((2 / 3 + 1) / 2)}  # exam a: 2 * 2 / (2 + 4); exam b: 1
