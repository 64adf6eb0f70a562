"""Segmentation runs that take a second or two: studies of small volumes on disk, and the ways to train and to grow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import yaml

from m4oe.config import Config, load_config
from m4oe.runs import train_run
from m4oe.train.resume import absolute_study
from small_volumes import block, study_of, volume

CPU = torch.device("cpu")
NETWORK = (
    "model.segmenter.size=[16, 16]",
    "model.segmenter.width=8",
    "model.segmenter.patch=4",
    "model.segmenter.depths=[1, 1]",
    "model.segmenter.heads=[1, 2]",
    "model.segmenter.window=4",
)
TRAINING = ("train.max_epochs=1", "train.slices_per_epoch=4", "train.precision='32'")
PHASES = (
    {"name": "pretrain", "routing": "modality", "objective": "masked_images"},
    {"name": "specialise", "routing": "modality"},
    {"name": "gate"},
)


def study(folder: Path, name: str, kind: str, cases: int = 6, **facts: object) -> Path:
    """A study of noise, in which nothing can be learned."""
    pairs = {f"{name}{case}": (volume(case), block()) for case in range(cases)}
    return _written(folder, name, kind, pairs, (0.5, 0.25, 0.25), **facts)


def clear_study(folder: Path, name: str, kind: str, **facts: object) -> Path:
    """A study whose organ is brighter than what is around it, at a place that differs from case to case."""
    g, pairs = np.random.default_rng(1), {}
    for case in range(8):
        mask = np.zeros((6, 20, 16), np.uint8)
        row, column = g.integers(2, 8), g.integers(2, 6)
        mask[1:5, row : row + 9, column : column + 8] = 1
        pairs[f"{name}{case}"] = (volume(case) + 100 * mask, mask)
    return _written(folder, name, kind, pairs, (0.4, 0.2, 0.4), **facts)


def _written(folder: Path, name: str, kind: str, pairs: dict, fractions: Sequence[float], **facts: object) -> Path:
    cohort = study_of(folder, pairs, name, kind=kind, **facts)
    path = folder / name / "study.yaml"
    content = yaml.safe_load(absolute_study(cohort.study)) | {"split": {"fractions": list(fractions)}}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def train(studies: Sequence[Path], out: Path, phases: Sequence[dict], *more: str) -> Path:
    """`out`, a run on the studies with the small network and `more`."""
    config = load_config(None, [*NETWORK, *TRAINING, f"phases={json.dumps(list(phases))}", *more])
    train_run(list(studies), config, out, CPU)
    return out


def growing(run: Path, *more: str, **phase: object) -> Config:
    """What a user writes to grow `run`, as the page has it, and `more`: nothing of the network."""
    phases = [{"name": "grow", "grow": {"from": str(run)}, **phase}]
    return load_config(None, [*TRAINING, f"phases={json.dumps(phases)}", *more])


def grow(study: Path, out: Path, run: Path, *more: str) -> Path:
    """`out`, which grows `run` by the study."""
    train_run([study], growing(run, *more), out, CPU)
    return out
