"""One Lightning module: the network, its objective, the step, the validation score, the learning rate."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Collection
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from m4oe.batch import Batch, Prediction, Rows
from m4oe.errors import UserError
from m4oe.schema import Schema
from m4oe.train.objective import Losses, Objective
from m4oe.train.validation import Seen

# Of the learning rate. A head that is quick to shrink gives up a task before the encoder has found what it needs, and
# through a head near zero no gradient comes back to find it.
HEAD_PACE = 0.2
# A gate that is new among experts that know their work must find them before blending makes them alike.
GATE_PACE = 10.0


class Schedule:
    """Linear warm-up, then cosine to zero, over whichever ends first: the epochs or the minutes."""

    def __init__(self, epochs: int, minutes: float | None, warmup: float) -> None:
        self.epochs, self.seconds, self.warmup = epochs, minutes and 60 * minutes, warmup
        self.started = time.monotonic()

    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def is_over(self) -> bool:
        """Whether the minutes are spent."""
        return self.seconds is not None and self.elapsed() >= self.seconds

    def factor(self, epoch: float) -> float:
        """Share of the full learning rate at `epoch` (a real number)."""
        done = epoch / self.epochs
        if self.seconds:
            done = max(done, self.elapsed() / self.seconds)
        if done < self.warmup:
            return max(done, 1e-3) / self.warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - self.warmup) / (1 - self.warmup))))


class Training(pl.LightningModule):
    """Trains `network` on batches of `schema`; logs "score", the mean over tasks of their validation metric.

    masked_images: on pictures alone, whose hidden parts it learns to complete (`network.masked_images`).
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        schema: Schema,
        schedule: Schedule,
        *,
        phase: str,
        seed: int,
        learning_rate: float,
        weight_decay: float,
        modality_dropout: float,
        masked_images: bool = False,
        undecayed: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.network, self.objective, self.schema, self.schedule = network, objective, schema, schedule
        self.phase, self.seed = phase, seed
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.modality_dropout, self.masked_images = modality_dropout, masked_images
        self.undecayed = {f"network.{name}" for name in undecayed}
        self.history: dict[str, dict[str, list[float]]] = {"train": {}, "validation": {}}
        self.seen = Seen(schema)

    def training_step(self, batch: Batch, number: int) -> Tensor:
        batch = drop_inputs(batch, self.modality_dropout, self.seed, self.current_epoch)
        losses = self._losses(batch)[0]
        refuse_non_finite(losses, batch)
        self._note("train", losses)
        return losses.total

    def validation_step(self, batch: Batch, number: int) -> None:
        losses, prediction = self._losses(batch)
        self._note("validation", losses)
        if prediction is not None:
            self.seen.add(prediction, batch)

    def on_validation_epoch_end(self) -> None:
        scores = self.seen.scores()
        self.seen = Seen(self.schema)
        # Without a single score (too few labels to rank, or none asked for) the loss decides.
        fallback = -float(np.mean(self.history["validation"].get("loss", [0.0])))
        self.log("score", float(np.mean(list(scores.values()))) if scores else fallback, prog_bar=True)
        self.log_dict({f"{task}_score": value for task, value in scores.items()})
        self.history["validation"] |= {f"{task}_score": [value] for task, value in scores.items()}

    def _losses(self, batch: Batch) -> tuple[Losses, Prediction | None]:
        """Losses of a batch and, where labels are the objective, the prediction that they judge."""
        if self.masked_images:
            loss = self.network.masked_images(batch)
            return Losses(loss, {"masked_images": loss}, {}), None
        prediction = self.network(batch)
        return self.objective(prediction, batch), prediction

    def on_train_batch_start(self, batch: Batch, number: int) -> None:
        """Sets the learning rates. What dropout drops is told by seed and epoch: a training that goes on drops the
        same. Not at the start of an epoch, of which Lightning tells nothing where a training goes on."""
        if number == 0:
            torch.manual_seed(self.seed * 100_003 + self.current_epoch)
        epoch = self.current_epoch + number / max(1, self.trainer.num_training_batches)
        for group in self.optimizers().param_groups:
            group["lr"] = group["pace"] * self.learning_rate * self.schedule.factor(epoch)

    def on_train_batch_end(self, outputs: object, batch: Batch, number: int) -> None:
        """Ends training within an epoch where the minutes are spent; what has been learned is validated and kept."""
        if self.schedule.is_over():
            self.trainer.should_stop = True

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; vectors (norms, biases, scales) are not decayed, and heads' weights neither: they learn at HEAD_PACE,
        gates at GATE_PACE."""
        used = {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}
        heads = {name for name in used if name.endswith("head.value.weight")}
        gates = {name for name in used if ".gate." in name}
        bare = {name for name, parameter in used.items() if parameter.ndim < 2 or name in self.undecayed}
        bare -= heads | gates
        groups = [
            {"params": [used[name] for name in names], "weight_decay": decay, "pace": pace}
            for names, decay, pace in (
                ([name for name in used if name not in heads | gates | bare], self.weight_decay, 1.0),
                ([name for name in used if name in bare], 0.0, 1.0),
                ([name for name in used if name in heads], 0.0, HEAD_PACE),
                ([name for name in used if name in gates], 0.0, GATE_PACE),
            )
        ]
        return torch.optim.AdamW([group for group in groups if group["params"]], lr=self.learning_rate, fused=True)

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None = None, **how: object
    ) -> None:
        """By the norm. Lightning refuses a fused optimiser here, on account of float16's scaler, which we never use."""
        if gradient_clip_val:
            nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"phase": self.phase, "elapsed": self.schedule.elapsed()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Minutes that an interrupted training has spent are spent."""
        self.schedule.started = time.monotonic() - checkpoint["elapsed"]

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)

    def epoch_means(self) -> dict[str, dict[str, float]]:
        """{"train": {"loss", task, "cmi"}, "validation": ...} of the epoch that ends, and forgets them."""
        means = {side: {key: float(np.mean(v)) for key, v in parts.items()} for side, parts in self.history.items()}
        self.history = {"train": {}, "validation": {}}
        return {side: self._of_all_tasks(parts) for side, parts in means.items()}

    def _of_all_tasks(self, means: dict[str, float]) -> dict[str, float]:
        """Of slices: batches hold some tasks and lack others, so that the loss of all is the sum of tasks' means."""
        tasks = [name for name in self.objective.weights if name in means]
        if self.schema.plan is None or not tasks:
            return means
        return {**means, "loss": sum(self.objective.weights[name] * means[name] for name in tasks)}

    def _note(self, side: str, losses: Losses) -> None:
        for key, value in {"loss": losses.total, **losses.parts}.items():
            self.history[side].setdefault(key, []).append(float(value.detach()))
        if side == "train":
            self.log("loss", losses.total.detach(), prog_bar=True, logger=True)


def drop_inputs(batch: Batch, chance: float, seed: int, epoch: int) -> Batch:
    """The batch with each input of each exam left out with `chance`, never an exam's last one.

    The choice depends on (seed, epoch, exam, input) alone, not on what else is in the batch.
    """
    if not chance:
        return batch
    draws = np.full((len(batch), len(batch.inputs)), -1.0)
    for column, (name, rows) in enumerate(batch.inputs.items()):
        for exam in rows.index.tolist():
            keys = [seed, epoch, zlib.crc32(batch.exams[exam].encode()), zlib.crc32(name.encode())]
            draws[exam, column] = np.random.default_rng(keys).random()
    stay = (draws >= chance) | ((draws == draws.max(1, keepdims=True)) & (draws >= 0))
    kept = {}
    for (name, rows), column in zip(batch.inputs.items(), stay.T):
        stays = torch.from_numpy(column).to(rows.index.device)[rows.index]
        if stays.any():
            kept[name] = Rows(rows.values[stays], rows.index[stays])
    return Batch(batch.exams, kept, batch.targets)


def refuse_non_finite(losses: Losses, batch: Batch) -> None:
    """Raises UserError with exam, task and input named, where a loss is NaN or infinite."""
    if torch.isfinite(losses.total):
        return
    for task, (loss, index) in losses.exams.items():
        bad = (~torch.isfinite(loss)).nonzero().flatten()
        if len(bad):
            exam = int(index[bad[0]])
            raise UserError(
                f"the loss of task {task!r} is not finite for exam {batch.exams[exam]!r}, {_suspect(batch, exam)}"
            )
    raise UserError("the loss is not finite although each task's is: lower train.learning_rate or train.cmi_weight")


def _suspect(batch: Batch, exam: int) -> str:
    """The exam's input that is not finite, else the one with the largest value."""
    peak = {}
    for name, rows in batch.inputs.items():
        mine = rows.values[rows.index == exam]
        if mine.numel() and not torch.isfinite(mine).all():
            return f"input {name!r}: it holds values that are not finite; m4oe check names the file"
        if mine.numel():
            peak[name] = float(mine.abs().max())
    largest = max(peak, key=lambda name: peak[name])
    return f"inputs {', '.join(peak)} (largest value: {peak[largest]:.3g} in {largest!r}); lower train.learning_rate"
