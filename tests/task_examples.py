"""One task of each kind, with targets for three exams: the rows over which contract tests run."""

from __future__ import annotations

import torch

from m4oe.schema import TaskSpec

NAN = float("nan")
EVEN = (1.0, 1.0, 1.0)


def a_task(kind: str, classes: tuple[str, ...], **facts: object) -> TaskSpec:
    return TaskSpec(name=kind, kind=kind, classes=classes, **{"prior": (0.2, 0.3, 0.5), "weights": EVEN, **facts})


TASKS = {
    "binary": a_task("binary", ("benign", "malignant"), prior=(0.2,), weights=(1.0, 1.0)),
    "multiclass": a_task("multiclass", ("mass", "calcification", "none")),
    "multilabel": a_task("multilabel", ("diabetes", "glaucoma", "cataract")),
    "ordinal": a_task("ordinal", ("A", "B", "C")),
    "survival": a_task(
        "survival", ("1", "2", "5"), horizons=(1.0, 2.0, 5.0), prior=(0.1, 0.2, 0.4), weights=(1.0, 1.0)
    ),
    "segmentation": a_task(
        "segmentation", ("background", "rim", "cup"), prior=(0.9, 0.06, 0.04), regions={"disc": ("rim", "cup")}, on="f"
    ),
}

TARGETS = {
    "binary": torch.tensor([0, 1, 1]),
    "multiclass": torch.tensor([0, 1, 2]),
    "multilabel": torch.tensor([[0.0, 1.0, NAN], [1.0, 0.0, 1.0], [NAN, NAN, 0.0]]),
    "ordinal": torch.tensor([0, 1, 2]),
    "survival": torch.tensor([[0.5, 0.0], [1.5, 1.0], [6.0, 0.0]]),
    "segmentation": torch.tensor([[[0, 1], [2, -100]], [[0, 0], [0, 0]], [[-100, -100], [-100, -100]]]),
}
