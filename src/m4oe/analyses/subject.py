"""What an analysis is of: a trained run with its data, each split encoded once. Axes as in batch.py; P exams."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from m4oe.artifact import Artifact, load_artifact
from m4oe.batch import Prediction, Tokens
from m4oe.data.dataset import ExamDataset, Sample, collate
from m4oe.data.table import Cohort
from m4oe.errors import UserError
from m4oe.evaluate import read_table
from m4oe.predict import PREDICTION_COLUMNS, Predictor
from m4oe.runs import run_cohorts
from m4oe.runs.facts import survival_labels
from m4oe.schema import TaskSpec
from m4oe.tasks import KINDS

MOST_EXAMS = 2000  # of a split: what tokens of more would need is not there on every machine
BATCH = 32
NOTHING = torch.empty(0)


@dataclass(frozen=True)
class Encoded:
    """Exams of one batch, encoded: what every question of an analysis starts from.

    samples: who they are, which inputs they have and their labels, without pixels · tokens (B, N, D).
    """

    samples: tuple[Sample, ...]
    tokens: Tokens

    def having(self, streams: Iterable[int]) -> tuple[Encoded, Tensor]:
        """The exams that have any of `streams`, as if they had no other, and their places (P,)."""
        wanted = torch.isin(self.tokens.stream, torch.tensor(sorted(streams), device=self.tokens.stream.device))
        present = self.tokens.present & wanted
        rows = present.any(1).nonzero().squeeze(1)
        tokens = Tokens(self.tokens.x[rows], self.tokens.modality, self.tokens.stream, present[rows])
        return Encoded(tuple(self.samples[row] for row in rows.tolist()), tokens), rows


@dataclass(frozen=True)
class Subject:
    """A trained diagnosis run: its model, the cohorts and splits of its fold, its folder.

    `splits`: study, exam, patient, split, fold, of one fold. Exams that cannot be read are an error: training has read
    them all.
    """

    artifact: Artifact
    cohorts: Sequence[Cohort]
    splits: pd.DataFrame
    folder: Path
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _known: dict[str, list[Encoded]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def tasks(self) -> tuple[TaskSpec, ...]:
        """The tasks that stand in predictions.csv: all but segmentations."""
        return tuple(task for task in self.artifact.schema.tasks if KINDS[task.kind].rows is not None)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in order of first appearance."""
        return tuple(dict.fromkeys(stream.input for stream in self.artifact.schema.streams))

    def streams_of(self, inputs: Iterable[str]) -> list[int]:
        """Numbers of the streams of `inputs`."""
        wanted = set(inputs)
        return [number for number, s in enumerate(self.artifact.schema.streams) if s.input in wanted]

    def dataset(self, split: str, most: int = MOST_EXAMS) -> ExamDataset:
        """The exams of a split, at most `most`, drawn by chance where there are more (always the same ones)."""
        rows = self.splits[self.splits["split"] == split]
        if len(rows) > most:
            rows = rows.iloc[np.sort(np.random.default_rng(0).choice(len(rows), most, replace=False))]
        return ExamDataset(self.cohorts, rows, self.artifact.schema, cache_bytes=0)

    @torch.no_grad()
    def encoded(self, split: str) -> list[Encoded]:
        """The exams of a split by batches, read and encoded once and then remembered."""
        if split not in self._known:
            dataset = self.dataset(split)
            batches = ([dataset[i] for i in range(start, min(start + BATCH, len(dataset)))]
                       for start in range(0, len(dataset), BATCH))  # fmt: skip
            self._known[split] = [self._encode(samples) for samples in batches]
        return self._known[split]

    def _encode(self, samples: Sequence[Sample]) -> Encoded:
        tokens = self.network.encode(collate(samples).to(self.device))
        return Encoded(tuple(_without_pixels(sample) for sample in samples), tokens)

    @property
    def network(self) -> torch.nn.Module:
        return self.artifact.network.to(self.device).eval()

    @torch.no_grad()
    def predictions(
        self, split: str, inputs: Iterable[str] | None = None, *, decide: Callable[[Encoded], Prediction] | None = None
    ) -> pd.DataFrame:
        """The table of predictions.csv of a split.

        inputs: as if exams had no others (those that have none of them are left out) · decide: what says it, default
        the network.
        """
        streams = range(len(self.artifact.schema.streams)) if inputs is None else self.streams_of(inputs)
        names = {self.artifact.schema.streams[number].name for number in streams}
        predictor, tables = Predictor(self.artifact, self.device), []
        for part in self.encoded(split):
            some = part.having(streams)[0]
            if len(some.samples):
                samples = [_with_inputs(sample, names) for sample in some.samples]
                prediction = self.decide(some.tokens) if decide is None else decide(some)
                tables.append(predictor.table(samples, prediction))
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=PREDICTION_COLUMNS)

    def patients(self, split: str) -> np.ndarray:
        """(P,) the patient, namespaced by study, of each exam of `encoded`, in its order."""
        return np.array([f"{s.study}/{s.patient}" for part in self.encoded(split) for s in part.samples], object)

    @cached_property
    def training_labels(self) -> pd.DataFrame:
        """task, time, event of the training split: what censoring weights are made of."""
        return survival_labels(self.cohorts, self.splits[self.splits["split"] == "train"], self.artifact.schema)

    def decide(self, tokens: Tokens) -> Prediction:
        """What the network says of tokens; its segmentations, which need pictures, are empty."""
        return self.network.decide(tokens, {})


def _with_inputs(sample: Sample, names: Collection[str]) -> Sample:
    return replace(sample, inputs={name: values for name, values in sample.inputs.items() if name in names})


def _without_pixels(sample: Sample) -> Sample:
    labels = {name: target for name, target in sample.targets.items() if target.dim() < 2}
    return replace(sample, inputs=dict.fromkeys(sample.inputs, NOTHING), targets=labels, fits={}, geometry={})


def subject_of(run: Path, device: torch.device) -> Subject:
    """The run in `run`, or the fold in it. Raises UserError for a folder without a trained model or its tables."""
    artifact = load_artifact(run)
    top = run if (run / "splits.csv").is_file() else run.parent
    splits = read_table(top / "splits.csv")
    if top != run:
        splits = splits[splits["fold"] == run.name.removeprefix("fold_")]
    if not len(splits):
        raise UserError(f"{top / 'splits.csv'}: no exams of {run.name}; train again")
    return Subject(artifact, run_cohorts(top), splits, run, device)
