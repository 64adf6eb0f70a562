"""Where a segmenter's first phase starts: dense weights that the config names, and a head where tasks are the same."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path

from torch import nn

from m4oe.artifact import Artifact, load_artifact, write_text
from m4oe.config import Config, Model, Phase
from m4oe.nets.build import start
from m4oe.schema import Schema


def start_network(network: nn.Module, config: Config, phase: Phase, schema: Schema, out: Path) -> None:
    """Loads the dense weights that the config names, if any; start.json says what was loaded and what was left over.

    A head has no class names: it is taken from a model of ours alone, and where all tasks have the same classes.
    """
    report = start(network, config.model, phase.fresh)
    if report is None:
        return
    teacher = _model_of_ours(Path(str(config.model.segmenter.start)))
    if teacher is not None and _labels(teacher.model, teacher.schema) == _labels(config.model, schema):
        head = {f"head.{name}": value for name, value in teacher.network.head.state_dict().items()}
        if not any(fnmatchcase(name, pattern) for name in head for pattern in phase.fresh):
            network.load_state_dict(head, strict=False)
            left = tuple(name for name in report.left_over if name not in head)
            report = report._replace(loaded=(*report.loaded, *head), left_over=left)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "start.json", json.dumps(report._asdict(), indent=1))


def _model_of_ours(folder: Path) -> Artifact | None:
    """The model of a run or of a model folder that `folder` is; None for bare weights."""
    folder = folder / "model" if (folder / "model").is_dir() else folder
    known = folder / "config.json"
    if not known.is_file() or "schema" not in json.loads(known.read_text(encoding="utf-8")):
        return None  # a folder of Hugging Face has a config.json, too
    return load_artifact(folder)


def _labels(model: Model, schema: Schema) -> tuple[object, ...]:
    """What decides the meaning of each output of a head."""
    return model.segmenter.labels, tuple((task.name, task.classes, task.comprises) for task in schema.tasks)
