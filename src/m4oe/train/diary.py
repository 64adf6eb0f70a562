"""What training tells while it runs: a line an epoch, trackers that the user asked for, and no advice."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from m4oe.artifact import write_text
from m4oe.errors import UserError
from m4oe.train.module import Training


class Diary(pl.Callback):
    """A line of JSON an epoch, and the end of training where the minutes are spent."""

    def __init__(self, path: Path) -> None:
        self.path, self.began = path, 0.0

    def on_train_start(self, trainer: pl.Trainer, training: Training) -> None:
        """Forgets the lines of epochs that are done again, because their checkpoint was not written in time."""
        if self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            told = ((line, json.loads(line)) for line in lines if line.endswith("\n"))
            again = trainer.current_epoch
            write_text(self.path, "".join(s for s, d in told if d["phase"] != training.phase or d["epoch"] < again))

    def on_train_epoch_start(self, trainer: pl.Trainer, training: pl.LightningModule) -> None:
        self.began = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, training: Training) -> None:
        seconds = time.monotonic() - self.began
        line = {"phase": training.phase, "epoch": trainer.current_epoch, "seconds": round(seconds, 3)}
        line |= training.epoch_means()
        line["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        budget = training.schedule.seconds
        if budget and training.schedule.elapsed() + 0.5 * seconds > budget:
            trainer.should_stop = True


def loggers_of(trackers: Sequence[str], out: Path) -> Any:
    from lightning.pytorch import loggers

    make = {
        "tensorboard": lambda: loggers.TensorBoardLogger(str(out), name="tensorboard"),
        "mlflow": lambda: loggers.MLFlowLogger(experiment_name="m4oe", run_name=out.name),
        "wandb": lambda: loggers.WandbLogger(project="m4oe", name=out.name, save_dir=str(out)),
    }
    try:
        return [make[name]() for name in trackers] or False
    except ModuleNotFoundError as error:
        raise UserError(f"train.trackers: {error.name} is not installed; pip install 'm4oe[track]'") from None


class quiet(warnings.catch_warnings):
    """Lightning's advice to people who write training loops is not for people who run ours."""

    def __enter__(self) -> None:  # type: ignore[override]
        super().__enter__()
        warnings.simplefilter("ignore")
        for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
            logging.getLogger(name).setLevel(logging.ERROR)
