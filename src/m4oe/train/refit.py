"""Fitting again: once the validation exams have said how long to train, they are learned from as well."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from m4oe.config import Config
from m4oe.train.fitting import read_checkpoint
from m4oe.train.loading import Fold
from m4oe.train.phases import fit

FOLDER = "refit"  # in the folder of the training that it repeats


def refit(fold: Fold, config: Config, out: Path, device: torch.device, *, progress: bool = False) -> nn.Module:
    """The network trained from scratch on training and validation exams, for as many epochs as the finished training
    in `out` has kept; on the CPU. The schema stays that of the training split. Resumes as `fit` does."""
    splits = fold.splits.assign(split=fold.splits["split"].replace("validation", "train"))
    again = lasting(config, kept_epochs(out, config.train.keep))
    (out / FOLDER).mkdir(exist_ok=True)
    return fit(replace(fold, splits=splits), again, out / FOLDER, device, progress=progress)


def lasting(config: Config, epochs: int) -> Config:
    """`config` of one phase that lasts `epochs`: nothing is left to choose an epoch by, and no clock ends it."""
    train = {"max_epochs": epochs, "max_minutes": None, "patience": None, "keep": "last"}
    phase = config.phases[0].model_copy(update={"max_epochs": None, "max_minutes": None})
    return config.model_copy(update={"train": config.train.model_copy(update=train), "phases": (phase,)})


def kept_epochs(out: Path, keep: str) -> int:
    """Epochs after which the finished training in `out` was as it was kept. Raises UserError where that is lost."""
    if keep == "last":
        return len((out / "log.jsonl").read_text(encoding="utf-8").splitlines())
    best = out / "checkpoints" / "best.ckpt"
    remedy = f"it said how long to train: delete {best.parent} to train again"
    return int(read_checkpoint(best, remedy)["epoch"]) + 1
