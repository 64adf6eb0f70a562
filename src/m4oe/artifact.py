"""A saved model: one folder of `config.json` (network, schema, what may be explained), `model.safetensors`, a card.

No pickle: whoever loads a model runs none of its code, save an encoder of the form `pkg.mod:function`, which is
imported by name from the loader's own installation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from m4oe import __version__
from m4oe.errors import UserError
from m4oe.schema import Schema
from m4oe.settings import Model, Phase

FORMAT = 1
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Artifact:
    """A network with all that is needed to use it.

    scores: validation scores {task: {metric: {"value", "low", "high", "n"}}} · withheld: {task: why its
    contributions are not shown} · phase: the last of its training, which says how a segmenter routes · refitted:
    whether it has learned from validation exams, of which scores are those of the network before it.
    """

    network: nn.Module
    model: Model
    schema: Schema
    scores: Mapping[str, Any] = field(default_factory=dict)
    withheld: Mapping[str, str] = field(default_factory=dict)
    phase: Phase = field(default_factory=Phase)
    refitted: bool = False


def write_text(path: Path, text: str) -> None:
    """Writes beside, then renames: `path` never holds half of `text`."""
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def save_artifact(artifact: Artifact, folder: Path) -> None:
    """Writes the model folder; an older model in it is replaced only by whole files."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(artifact.network, folder / WEIGHTS)
    facts = {
        "format": FORMAT,
        "m4oe": __version__,
        "model": artifact.model.model_dump(mode="json"),
        "schema": artifact.schema.model_dump(mode="json"),
        "scores": artifact.scores,
        "withheld": artifact.withheld,
        "phase": artifact.phase.model_dump(mode="json", exclude={"grow"}),
        "refitted": artifact.refitted,
    }
    write_text(folder / "config.json", json.dumps(facts, indent=1))
    write_text(folder / "README.md", card(artifact))


def save_weights(network: nn.Module, path: Path) -> None:
    """Writes the weights beside, then renames."""
    from safetensors.torch import save_file

    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    beside = path.with_name(f".{path.name}.part")
    save_file(state, beside, metadata={"format": "pt"})
    beside.replace(path)


def load_artifact(folder: Path) -> Artifact:
    """The model in `folder` (a run, or its `model/`), on the CPU, ready to predict.

    Raises UserError for a folder without a model, and for a damaged one.
    """
    from m4oe.nets.build import build_model

    folder = model_folder(folder)
    facts = _facts(folder / "config.json")
    try:
        model, schema = Model.model_validate(facts["model"]), Schema.model_validate(facts["schema"])
        phase = Phase.model_validate(facts.get("phase", {}))
    except (KeyError, ValidationError):
        raise UserError(f"{folder / 'config.json'}: damaged: it does not describe a model; train again") from None
    # Weights come from the file: nothing is fetched to build the network that takes them.
    network = build_model(without_pretrained(model), schema, phase)
    load_weights(network, folder / WEIGHTS)
    told = facts.get("scores", {}), facts.get("withheld", {}), phase, bool(facts.get("refitted", False))
    return Artifact(network.eval(), model, schema, *told)


def model_folder(run: Path) -> Path:
    """Where the model of a run lies: in its `model/`; of a model folder, in itself."""
    return run / "model" if (run / "model").is_dir() else run


def without_pretrained(model: Model) -> Model:
    """The same network, built without fetching or reading weights of others."""
    encoder = model.encoder.model_copy(update={"pretrained": False})
    segmenter = model.segmenter.model_copy(update={"start": None})
    return model.model_copy(update={"encoder": encoder, "segmenter": segmenter})


def _facts(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such file: {path.parent} holds no trained model ('m4oe train' writes one)")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{path}: damaged: not JSON; restore it or train again") from None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        found = facts.get("format") if isinstance(facts, dict) else None
        raise UserError(f"{path}: model format {found!r}, but this version of m4oe reads format {FORMAT}")
    return facts


def load_weights(network: nn.Module, path: Path) -> None:
    """Loads the weights in `path`, strictly. Raises UserError where they are missing, damaged or another network's."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"{path}: no such file; the model folder is incomplete")
    try:
        network.load_state_dict(load_file(path), strict=True)
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"{path}: damaged, or of another network: {reason}; restore it or train again") from None


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


SCORED = {
    False: "scores are of the validation split of the data it was made from",
    True: "scores are of a first training, without the validation exams that this model has learned from as well",
}


def card(artifact: Artifact) -> str:
    """The model card: what goes in, what comes out, how well, and what it is not."""
    schema = artifact.schema
    inputs = [f"- `{s.name}`: {s.kind}, modality {s.modality}, {s.form} {list(s.size)}" for s in schema.streams]
    tasks = [f"- `{t.name}`: {t.kind}, {', '.join(t.classes)}{_scored(artifact, t.name)}" for t in schema.tasks]
    return "\n".join(
        [
            "# m4oe model",
            "",
            f"{count_parameters(artifact.network):,} parameters, preset `{artifact.model.preset}`, m4oe {__version__}.",
            "",
            "## Inputs (any may be missing)",
            *inputs,
            "",
            "## Tasks",
            *tasks,
            "",
            "## Use",
            "",
            "`m4oe predict RUN -i TABLE -o OUT`, or `m4oe.load(RUN).predict({input: path})` in Python.",
            f"A research model, not a medical device; {SCORED[artifact.refitted]}.",
            "",
        ]
    )


def _scored(artifact: Artifact, task: str) -> str:
    scores = artifact.scores.get(task, {})
    surely = {name: score for name, score in scores.items() if score["low"] is not None}
    shown = [f"{name} {m['value']:.3f} ({m['low']:.3f} to {m['high']:.3f})" for name, m in surely.items()]
    withheld = f"; contributions withheld: {artifact.withheld[task]}" if task in artifact.withheld else ""
    return f"; validation {', '.join(shown[:2])}{withheld}" if shown else withheld
