"""Runs that take a second or two: a config of little, and the ways to a run and a study on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

LITTLE = (
    "model.width=16",
    "model.image_size=[32, 32]",
    "model.volume_size=[4, 16, 16]",
    "model.encoder.heads=2",
    "model.encoder.depth=0",
    "model.specific.num_experts=2",
    "model.specific.hidden=16",
    "model.shared.num_experts=2",
    "model.shared.hidden=16",
    "train.max_epochs=2",
    "train.precision='32'",
)


def trained(studies: Sequence[Path], out: Path, *overrides: str, config: Path | None = None) -> Path:
    """`out`, a run on the studies with the config of little and `overrides`."""
    import torch

    from m4oe.config import load_config
    from m4oe.runs import train_run

    train_run(list(studies), load_config(config, [*LITTLE, *overrides]), out, torch.device("cpu"))
    return out


def edited(study: Path, to: Path, **facts: Any) -> Path:
    """`study` with `facts` changed, as a file of its own that uses the same table and pictures."""
    content = yaml.safe_load(study.read_text())
    content |= {"table": str(study.parent / content["table"]), "root": str(study.parent), **facts}
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(yaml.safe_dump(content, sort_keys=False))
    return to


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
