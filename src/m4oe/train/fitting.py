"""Fitting one phase: Lightning's loop with our module, loaders, diary and checkpoints."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch import callbacks as hooks
from torch import nn

from m4oe.config import Config
from m4oe.device import precision_for
from m4oe.errors import UserError
from m4oe.schema import Schema
from m4oe.settings import Phase
from m4oe.train.diary import Diary, loggers_of, quiet
from m4oe.train.loading import Fold, Loaders
from m4oe.train.module import Schedule, Training
from m4oe.train.objective import Objective


def fit_phase(
    network: nn.Module,
    phase: Phase,
    fold: Fold,
    config: Config,
    out: Path,
    device: torch.device,
    *,
    progress: bool = False,
    undecayed: Collection[str] = (),
) -> nn.Module:
    """`network` after `phase`, on the CPU; goes on from the phase's last checkpoint in `out`, if there is one.

    undecayed: names of parameters without weight decay, beside those that never have any.
    """
    training, train = training_of(network, phase, fold.schema, config, undecayed), config.train
    best, latest = _checkpoint(out, "best", monitor="score"), _checkpoint(out, "last", monitor=None)
    judged = len(fold.rows("validation")) > 0
    # The latest comes after the best, whose score it holds.
    callbacks: list[Any] = [Diary(out / "log.jsonl"), *([best] if judged else []), latest]
    if progress:
        callbacks.append(hooks.RichProgressBar(leave=False))
    if train.patience:  # not strict: where nothing is validated, there is no score to wait for
        callbacks.append(hooks.EarlyStopping("score", mode="max", patience=train.patience, strict=False))
    with quiet():
        trainer = pl.Trainer(
            accelerator=device.type,
            devices=1,
            precision=precision_for(device, train.precision, large_products=config.model.kind == "segmenter"),
            max_epochs=training.schedule.epochs,
            gradient_clip_val=train.clip,
            callbacks=callbacks,
            logger=loggers_of(train.trackers, out),
            default_root_dir=out,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            enable_progress_bar=progress,
            enable_model_summary=False,
            reload_dataloaders_every_n_epochs=1,
        )
        last = last_checkpoint(out, phase)
        try:
            trainer.fit(training, datamodule=Loaders(fold, config, device), ckpt_path=last, weights_only=True)
        except SystemExit:  # Lightning's end after an interruption
            raise KeyboardInterrupt from None
        except UserError as error:
            raise UserError(str(error).rpartition("UserError: ")[2].strip()) from None  # a worker's holds a traceback
    if train.keep == "best" and best.best_model_path:
        remedy = f"it holds what is kept of the phase {phase.name!r}: delete {out / 'checkpoints'} to train again"
        state = read_checkpoint(Path(best.best_model_path), remedy)["state_dict"]
        network.load_state_dict({k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")})
    return network.cpu()


def training_of(
    network: nn.Module, phase: Phase, schema: Schema, config: Config, undecayed: Collection[str] = ()
) -> Training:
    """The Lightning module of `phase`."""
    train = config.train
    return Training(
        network,
        objective_of(schema, config, phase),
        schema,
        Schedule(phase.max_epochs or train.max_epochs, _minutes(phase, config), train.warmup),
        phase=phase.name,
        seed=train.seed,
        learning_rate=phase.learning_rate or train.learning_rate,
        weight_decay=train.weight_decay,
        modality_dropout=train.modality_dropout,
        masked_images=phase.objective == "masked_images",
        undecayed=undecayed,
    )


def _minutes(phase: Phase, config: Config) -> float | None:
    """The phase's own minutes, or its share of the training's, by epochs."""
    if phase.max_minutes or not config.train.max_minutes:
        return phase.max_minutes
    epochs = [each.max_epochs or config.train.max_epochs for each in config.phases]
    return config.train.max_minutes * (phase.max_epochs or config.train.max_epochs) / sum(epochs)


class ModelCheckpoint(hooks.ModelCheckpoint):
    """Lightning's, for a run folder that may be moved while it waits; by Lightning's name, under which checkpoints know
    its state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What lay in the folder lies in it, wherever that is now; else the best so far would be forgotten."""

        def here(path: str) -> str:
            return path and str(Path(str(self.dirpath)) / Path(path).name)

        paths = {key: here(state_dict[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath})


def _checkpoint(out: Path, name: str, monitor: str | None) -> ModelCheckpoint:
    """Of the epoch with the highest `monitor`; without one, of the latest."""
    return ModelCheckpoint(
        out / "checkpoints",
        name,
        monitor=monitor,
        mode="max",
        enable_version_counter=False,
        save_on_train_epoch_end=True,  # after the diary's line of the epoch: what goes on from here writes the next
    )


def objective_of(schema: Schema, config: Config, phase: Phase) -> Objective:
    """What `phase` minimises. Raises UserError for a weight of a task that no study has."""
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
        cmi_form=train.cmi.model_dump(),
        balance_weight=train.balance_weight if phase.routing == "gate" else 0.0,
    )


def last_checkpoint(out: Path, phase: Phase) -> Path | None:
    """The phase's own last checkpoint. Raises UserError where it is damaged."""
    path = out / "checkpoints" / "last.ckpt"
    if not path.is_file():
        return None
    content = read_checkpoint(path, f"delete it to start the phase {phase.name!r} again")
    return path if content.get("phase") == phase.name else None


def read_checkpoint(path: Path, remedy: str) -> dict[str, Any]:
    """What Lightning wrote. Raises UserError, with the remedy, where it is damaged."""
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises a dozen kinds for a damaged file
        raise UserError(f"{path}: damaged ({type(error).__name__}); {remedy}") from None
