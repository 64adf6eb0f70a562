"""A subject without files: exams with one token for each input, and a network whose logits are written down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from m4oe.analyses.subject import BATCH, Encoded, Subject
from m4oe.artifact import Artifact
from m4oe.batch import Prediction, Rows, Tokens
from m4oe.data.dataset import Sample
from m4oe.schema import Schema, Stream, TaskSpec
from m4oe.settings import Model

INPUTS = ("first", "second", "third")
STREAMS = tuple(
    Stream(name=name, input=name, modality=name, kind="photo", form="image", channels=1, size=(8, 8)) for name in INPUTS
)
YES = TaskSpec(name="y", kind="binary", classes=("no", "yes"), prior=(0.5,), weights=(1.0, 1.0))


class Written(nn.Module):
    """logits of task y: `answer` of the values (B, I) of the inputs, 0 where absent."""

    def __init__(self, answer: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.answer = answer

    def decide(self, tokens: Tokens, pictures: object) -> Prediction:
        values = torch.where(tokens.present, tokens.x[..., 0], 0.0)
        return Prediction({"y": Rows(self.answer(values).unsqueeze(1), torch.arange(len(values)))})


def planted(values: dict[str, np.ndarray], labels: dict[str, np.ndarray], answer: Callable[[Tensor], Tensor],
            folder: Path = Path()) -> Subject:  # fmt: skip
    """values, labels: of each split, (P, I) with NaN where an input is absent, and (P,) 0 or 1."""
    known = {split: _encoded(split, values[split], labels[split]) for split in values}
    exams = [(sample.exam, split) for split, parts in known.items() for part in parts for sample in part.samples]
    splits = pd.DataFrame(exams, columns=["exam", "split"]).assign(study="s", fold="0")
    splits["patient"] = splits["exam"]
    artifact = Artifact(Written(answer), Model(), Schema(streams=STREAMS, tasks=(YES,)))
    subject = Subject(artifact, (), splits, folder)
    subject._known.update(known)
    return subject


def _encoded(split: str, values: np.ndarray, labels: np.ndarray) -> list[Encoded]:
    return [_part(split, start, values[start : start + BATCH], labels[start : start + BATCH])
            for start in range(0, len(values), BATCH)]  # fmt: skip


def _part(split: str, start: int, values: np.ndarray, labels: np.ndarray) -> Encoded:
    present = torch.from_numpy(np.isfinite(values))
    x = torch.from_numpy(np.nan_to_num(values)).float().unsqueeze(-1)
    places = torch.arange(len(INPUTS))
    samples = tuple(
        Sample("s", f"{split}{start + n}", f"{split}{start + n}",
               {name: torch.empty(0) for name, here in zip(INPUTS, present[n]) if here},
               {"y": torch.tensor(int(label))}, split=split)
        for n, label in enumerate(labels)
    )  # fmt: skip
    return Encoded(samples, Tokens(x, places, places, present))
