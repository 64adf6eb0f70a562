"""What training reads, in which order. Axes as in batch.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from m4oe.config import Config
from m4oe.data.dataset import ExamDataset, collate
from m4oe.data.table import Cohort
from m4oe.data.volumes.cache import SliceCache
from m4oe.data.volumes.slices import SliceDataset
from m4oe.schema import Schema

MOST_SLICES = 4000  # an epoch, unless the config says otherwise


@dataclass(frozen=True)
class Fold:
    """What one training sees: the cohorts, a schema fitted on its training split, rows (study, exam) by split, and
    the folder of what is decoded once: prepared volumes, and pictures that memory does not hold."""

    cohorts: Sequence[Cohort]
    schema: Schema
    splits: pd.DataFrame
    cache: Path | None = None

    def rows(self, split: str) -> pd.DataFrame:
        return self.splits[self.splits["split"] == split]


class Shuffled(Sampler[int]):
    """The order of an epoch's exams, drawn from (seed, epoch) alone: the same however often it is asked for, as
    Lightning does when it resumes."""

    def __init__(self, size: int, seed: int, epoch: int) -> None:
        self.size, self.seed = size, seed * 100_003 + epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        yield from torch.randperm(self.size, generator=generator).tolist()


class Loaders(pl.LightningDataModule):
    """Training exams in an order drawn from (seed, epoch); validation exams in the order of the table."""

    def __init__(self, fold: Fold, config: Config, device: torch.device) -> None:
        super().__init__()
        self.train_config, self.pin = config.train, device.type == "cuda"
        make = _exam_datasets if fold.schema.plan is None else _slice_datasets
        self.training, self.validation = make(fold, config)

    def train_dataloader(self) -> DataLoader:
        epoch = self.trainer.current_epoch if self.trainer else 0
        self.training.set_epoch(epoch)
        return self._loader(self.training, sampler=Shuffled(len(self.training), self.train_config.seed, epoch))

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.validation)

    def _loader(self, dataset: Dataset, **options: Any) -> DataLoader:
        return DataLoader(
            dataset,
            batch_size=self.train_config.batch_size,
            collate_fn=collate,
            num_workers=self.train_config.workers or 0,
            pin_memory=self.pin,
            **options,
        )


def _exam_datasets(fold: Fold, config: Config) -> tuple[ExamDataset, ExamDataset]:
    make = {
        "seed": config.train.seed,
        "cache_bytes": int(config.train.cache_gb * 2**30),
        "cache_folder": fold.cache,
    }
    training, validation = fold.rows("train"), fold.rows("validation")
    return (
        ExamDataset(fold.cohorts, training, fold.schema, augment=config.train.augment, **make),
        ExamDataset(fold.cohorts, validation, fold.schema, augment=0.0, **make),
    )


def _slice_datasets(fold: Fold, config: Config) -> tuple[SliceDataset, SliceDataset]:
    cache = SliceCache(fold.cache, fold.schema.plan)
    training, validation = fold.rows("train"), fold.rows("validation")
    all_slices = SliceDataset(fold.cohorts, training, fold.schema, cache)
    draws = config.train.slices_per_epoch or min(len(all_slices), MOST_SLICES)
    return (
        SliceDataset(
            fold.cohorts,
            training,
            fold.schema,
            cache,
            augment=config.train.augment,
            seed=config.train.seed,
            draws=draws,
        ),
        SliceDataset(fold.cohorts, validation, fold.schema, cache),
    )
