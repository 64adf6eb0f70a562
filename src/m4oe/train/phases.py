"""A phase is: build, load, freeze, fit. A training is a list of phases; each starts from what the last one kept."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import nn

from m4oe.artifact import load_artifact, load_weights, save_weights
from m4oe.config import Config
from m4oe.errors import UserError
from m4oe.nets.build import build_model
from m4oe.settings import Phase
from m4oe.train.fitting import fit_phase
from m4oe.train.gates import start_gates
from m4oe.train.growth import freeze_grown, load_grown
from m4oe.train.loading import Fold
from m4oe.train.starting import start_network

__all__ = ["Fold", "fit"]

# Parameters that a segmenter has in one phase only: a gate where there is gating, a decoder of hidden pixels where
# images are masked.
OF_ONE_PHASE = ("*.gate.*", "masked.*")


def fit(fold: Fold, config: Config, out: Path, device: torch.device, *, progress: bool = False) -> nn.Module:
    """The network after all phases, on the CPU. What `out` already holds of the same run is not done again."""
    network: nn.Module | None = None
    for phase in config.phases:
        finished = out / "checkpoints" / f"{phase.name}.safetensors"
        previous = network
        torch.manual_seed(config.train.seed)
        network = build_model(config.model, fold.schema, phase)
        if finished.is_file():
            load_weights(network, finished)
            continue
        if previous is not None:
            load_previous(network, previous.state_dict(), phase)
            if _adds_gates(phase, config):
                start_gates(network, previous, fold, config, device)
        elif config.model.kind == "segmenter" and phase.grow is None:
            start_network(network, config, phase, fold.schema, out)
        kept = _grow(network, phase)
        freeze(network, phase)
        network = fit_phase(network, phase, fold, config, out, device, progress=progress, undecayed=kept)
        save_weights(network, finished)
    assert network is not None
    return network.eval()


def _adds_gates(phase: Phase, config: Config) -> bool:
    """Whether `phase`, not the first, adds gates that shall start as the phase before it has routed."""
    before = config.phases[config.phases.index(phase) - 1]
    changes = (before.routing, phase.routing) == ("modality", "gate")
    return changes and config.model.kind == "segmenter" and config.model.segmenter.gate.start == "modality"


def _grow(network: nn.Module, phase: Phase) -> set[str]:
    """Takes over the model that `phase` grows, frozen; names of parameters that are frozen in part."""
    if phase.grow is None:
        return set()
    state = load_artifact(phase.grow.run).network.state_dict()
    load_grown(network, state)
    return freeze_grown(network, state)


def load_previous(network: nn.Module, state: Mapping[str, torch.Tensor], phase: Phase) -> None:
    """Loads `state` strictly, except for what the phase declares fresh and what its routing or objective adds.

    Raises UserError for a parameter that is in one network alone, or of another shape, and not declared.
    """
    own = network.state_dict()
    every = own.keys() | state.keys()
    for pattern in phase.fresh:
        if not any(fnmatchcase(name, pattern) for name in every):
            raise UserError(f"phases: {pattern!r} makes no parameter fresh; they are called like {next(iter(own))!r}")
    fresh = {name for name in every if any(fnmatchcase(name, pattern) for pattern in phase.fresh)}
    fresh |= {name for name in own.keys() ^ state.keys() if any(fnmatchcase(name, kind) for kind in OF_ONE_PHASE)}
    for name in every - fresh:
        if name not in state or name not in own or own[name].shape != state[name].shape:
            raise UserError(
                f"phases: {phase.name!r} cannot take {name!r} from the phase before it; "
                "list it (or a pattern such as 'shared.*') under 'fresh'"
            )
    network.load_state_dict({**own, **{name: state[name] for name in own.keys() - fresh}})


def freeze(network: nn.Module, phase: Phase) -> None:
    """Parameters that match a pattern of `phase.freeze` get no gradient. Raises UserError for an idle pattern."""
    names = dict(network.named_parameters())
    for pattern in phase.freeze:
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            raise UserError(f"phases: {pattern!r} freezes no parameter; they are called like {next(iter(names))!r}")
        for name in matched:
            names[name].requires_grad_(False)
