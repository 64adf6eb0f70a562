"""A phase is: build, load, freeze, fit. A training is a list of phases; each starts from what the last one kept."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pandas as pd
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar
from torch import nn
from torch.utils.data import DataLoader

from m4oe.artifact import load_weights, save_weights, write_text
from m4oe.config import Config, Phase
from m4oe.data.dataset import ExamDataset, collate
from m4oe.data.table import Cohort
from m4oe.device import precision_for
from m4oe.errors import UserError
from m4oe.nets.build import build_model
from m4oe.schema import Schema
from m4oe.train.module import Schedule, Training
from m4oe.train.objective import Objective


@dataclass(frozen=True)
class Fold:
    """What one training sees: the cohorts, a schema fitted on its training split, rows (study, exam) by split."""

    cohorts: Sequence[Cohort]
    schema: Schema
    splits: pd.DataFrame

    def rows(self, split: str) -> pd.DataFrame:
        return self.splits[self.splits["split"] == split]


def fit(fold: Fold, config: Config, out: Path, device: torch.device, *, progress: bool = False) -> nn.Module:
    """The network after all phases, on the CPU. What `out` already holds of the same run is not done again."""
    network: nn.Module | None = None
    for phase in config.phases:
        finished = out / "checkpoints" / f"{phase.name}.safetensors"
        previous = None if network is None else network.state_dict()
        torch.manual_seed(config.train.seed)
        network = build_model(config.model, fold.schema)
        if finished.is_file():
            load_weights(network, finished)
            continue
        if previous is not None:
            load_previous(network, previous, phase)
        freeze(network, phase)
        network = _fit_phase(network, phase, fold, config, out, device, progress)
        save_weights(network, finished)
    assert network is not None
    return network.eval()


def load_previous(network: nn.Module, state: dict[str, torch.Tensor], phase: Phase) -> None:
    """Loads `state` strictly, except for parameters that the phase declares fresh.

    Raises UserError for a parameter that is in one network alone, or of another shape, and not declared.
    """
    own = network.state_dict()
    for pattern in phase.fresh:
        if not any(fnmatchcase(name, pattern) for name in own):
            raise UserError(f"phases: {pattern!r} makes no parameter fresh; they are called like {next(iter(own))!r}")
    fresh = {name for name in own if any(fnmatchcase(name, pattern) for pattern in phase.fresh)}
    for name in (own.keys() | state.keys()) - fresh:
        if name not in state or name not in own or own[name].shape != state[name].shape:
            raise UserError(
                f"phases: {phase.name!r} cannot take {name!r} from the phase before it; "
                "list it (or a pattern such as 'shared.*') under 'fresh'"
            )
    network.load_state_dict({**own, **{name: state[name] for name in own.keys() - fresh}})


def freeze(network: nn.Module, phase: Phase) -> None:
    """Parameters that match a pattern of `phase.freeze` get no gradient. Raises UserError for an idle pattern."""
    names = dict(network.named_parameters())
    for pattern in phase.freeze:
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            raise UserError(f"phases: {pattern!r} freezes no parameter; they are called like {next(iter(names))!r}")
        for name in matched:
            names[name].requires_grad_(False)


def _fit_phase(
    network: nn.Module, phase: Phase, fold: Fold, config: Config, out: Path, device: torch.device, progress: bool
) -> nn.Module:
    train = config.train
    epochs = phase.max_epochs or train.max_epochs
    schedule = Schedule(epochs, train.max_minutes, train.warmup)
    training = Training(
        network,
        _objective(fold.schema, config),
        fold.schema,
        schedule,
        phase=phase.name,
        seed=train.seed,
        learning_rate=phase.learning_rate or train.learning_rate,
        weight_decay=train.weight_decay,
        modality_dropout=train.modality_dropout,
    )
    best = ModelCheckpoint(
        out / "checkpoints",
        "best",
        monitor="score",
        mode="max",
        save_last=True,
        enable_version_counter=False,
        save_on_train_epoch_end=True,  # after the diary's line of the epoch: what goes on from here writes the next
    )
    callbacks: list[Any] = [best, Diary(out / "log.jsonl"), *([RichProgressBar(leave=False)] if progress else [])]
    if train.patience:
        callbacks.append(EarlyStopping("score", mode="max", patience=train.patience))
    with _quiet():
        trainer = pl.Trainer(
            accelerator=device.type,
            devices=1,
            precision=precision_for(device, train.precision),
            max_epochs=epochs,
            gradient_clip_val=train.clip,
            callbacks=callbacks,
            logger=_loggers(train.trackers, out),
            default_root_dir=out,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            enable_progress_bar=progress,
            enable_model_summary=False,
            reload_dataloaders_every_n_epochs=1,
        )
        last = _last_checkpoint(out, phase)
        try:
            trainer.fit(training, datamodule=Loaders(fold, config, device), ckpt_path=last, weights_only=True)
        except SystemExit:  # Lightning's end after an interruption
            raise KeyboardInterrupt from None
        except UserError as error:
            raise UserError(str(error).rpartition("UserError: ")[2].strip()) from None  # a worker's holds a traceback
    if train.keep == "best" and best.best_model_path:
        state = torch.load(best.best_model_path, weights_only=True)["state_dict"]
        network.load_state_dict({k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")})
    return network.cpu()


def _objective(schema: Schema, config: Config) -> Objective:
    train = config.train
    if isinstance(train.task_weights, dict) and (odd := train.task_weights.keys() - {t.name for t in schema.tasks}):
        raise UserError(f"config: train.task_weights names {sorted(odd)[0]!r}, which is no task of the studies")
    tasks = schema.tasks
    if not train.class_weights:
        tasks = tuple(task.model_copy(update={"weights": (1.0,) * len(task.weights)}) for task in tasks)
    return Objective(
        tasks,
        train.task_weights if isinstance(train.task_weights, dict) else None,
        learned=train.task_weights == "learned",
        focal_gamma=train.focal_gamma,
        cmi_weight=train.cmi_weight,
        cmi_cap=train.cmi_cap,
    )


class Loaders(pl.LightningDataModule):
    """Training exams in an order drawn from (seed, epoch); validation exams in the order of the table."""

    def __init__(self, fold: Fold, config: Config, device: torch.device) -> None:
        super().__init__()
        self.train_config, self.pin = config.train, device.type == "cuda"
        make = {"seed": config.train.seed, "cache_bytes": int(config.train.cache_gb * 2**30)}
        training, validation = fold.rows("train"), fold.rows("validation")
        self.training = ExamDataset(fold.cohorts, training, fold.schema, augment=config.train.augment, **make)
        self.validation = ExamDataset(fold.cohorts, validation, fold.schema, augment=0.0, **make)

    def train_dataloader(self) -> DataLoader:
        epoch = self.trainer.current_epoch if self.trainer else 0
        self.training.set_epoch(epoch)
        order = torch.Generator().manual_seed(self.train_config.seed * 100_003 + epoch)
        return self._loader(self.training, shuffle=True, generator=order)

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.validation)

    def _loader(self, dataset: ExamDataset, **options: Any) -> DataLoader:
        return DataLoader(
            dataset,
            batch_size=self.train_config.batch_size,
            collate_fn=collate,
            num_workers=self.train_config.workers or 0,
            pin_memory=self.pin,
            **options,
        )


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


def _loggers(trackers: Sequence[str], out: Path) -> Any:
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


def _last_checkpoint(out: Path, phase: Phase) -> Path | None:
    """The phase's own last checkpoint. Raises UserError where it is damaged."""
    path = out / "checkpoints" / "last.ckpt"
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a damaged file
        raise UserError(
            f"{path}: damaged ({type(error).__name__}); delete it to start the phase {phase.name!r} again"
        ) from None
    return path if content.get("phase") == phase.name else None


class _quiet(warnings.catch_warnings):
    """Lightning's advice to people who write training loops is not for people who run ours."""

    def __enter__(self) -> None:  # type: ignore[override]
        super().__enter__()
        warnings.simplefilter("ignore")
        for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
            logging.getLogger(name).setLevel(logging.ERROR)
