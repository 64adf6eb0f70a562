"""Growing: a trained model takes in a modality or a task, and what it was stays as it is, bit for bit.

What is wider than it was is wider by new rows behind the old: experts of new modalities, outputs of the gates for them,
outputs of the head for new classes. So the old weights are the leading block of the new ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from m4oe.errors import UserError


def load_grown(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Puts the weights `state` of the smaller model into `network`; new experts start as copies of the first.

    Raises UserError where `network` is not the model of `state`, grown.
    """
    own = network.state_dict()
    for name, old in state.items():
        if name not in own or not _contains(own[name].shape, old.shape):
            raise UserError(
                f"phases: the model to be grown has {name!r} {tuple(old.shape)}, for which its grown form has no "
                "place; grow a run whose last phase has learned from labels, by a phase that does"
            )
        if ".experts." in name:
            own[name][len(old) :] = old[0]
        own[name][_leading(old)] = old
    network.load_state_dict(own)


def freeze_grown(network: nn.Module, state: Mapping[str, Tensor]) -> set[str]:
    """Freezes what comes from `state`. Names of the parameters that are frozen in part, which must not be decayed."""
    partly = set()
    for name, parameter in network.named_parameters():
        if name in state and parameter.shape == state[name].shape:
            parameter.requires_grad_(False)
        elif name in state:
            parameter.register_hook(_Masked(_leading(state[name])))
            partly.add(name)
    return partly


class _Masked:
    """A gradient with zeros in the block that is not to be changed: there, Adam's step is exactly zero."""

    def __init__(self, block: tuple[slice, ...]) -> None:
        self.block = block

    def __call__(self, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        gradient[self.block] = 0.0
        return gradient


def _leading(old: Tensor) -> tuple[slice, ...]:
    return tuple(slice(length) for length in old.shape)


def _contains(whole: torch.Size, part: torch.Size) -> bool:
    return len(whole) == len(part) and all(a >= b for a, b in zip(whole, part))
