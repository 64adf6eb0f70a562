"""Where a segmenter's first phase starts: dense weights that the config names, and a head where tasks are the same."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path

from torch import nn

from m4oe.artifact import WEIGHTS, Artifact, load_artifact, model_folder, write_text
from m4oe.config import Config
from m4oe.nets.build import start
from m4oe.schema import Schema
from m4oe.settings import Model, Phase


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


def weights_before(config: Config) -> dict[str, Path]:
    """The file of weights that a training by `config` starts from, under the key that names it; none of a hub."""
    grow, given = config.phases[0].grow, config.model.segmenter.start
    if grow is not None:
        return {"weights of grow.from": model_folder(grow.run) / WEIGHTS}
    if config.model.kind != "segmenter" or given is None or given.startswith("hf:"):
        return {}
    path = Path(given)
    return {"weights of model.segmenter.start": path if path.is_file() else model_folder(path) / WEIGHTS}


def _model_of_ours(folder: Path) -> Artifact | None:
    """The model of a run or of a model folder that `folder` is; None for bare weights."""
    folder = model_folder(folder)
    known = folder / "config.json"
    if not known.is_file() or "schema" not in json.loads(known.read_text(encoding="utf-8")):
        return None  # a folder of Hugging Face has a config.json, too
    return load_artifact(folder)


def _labels(model: Model, schema: Schema) -> tuple[object, ...]:
    """What decides the meaning of each output of a head."""
    return model.segmenter.labels, tuple((task.name, task.classes, task.comprises) for task in schema.tasks)
