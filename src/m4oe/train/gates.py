"""Where gates start: at what specialisation has come to, each picture with the expert of its modality.

From the blend of specialised experts that gates give which know nothing, much of what the experts have learned is lost
before it is found again.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import torch
from torch import nn

from m4oe.batch import Batch
from m4oe.config import Config
from m4oe.moe import Discriminant, ExpertFFN, GateRouter, ModalityRouter
from m4oe.train.loading import Fold, Loaders

# What the expert of a modality has of a picture of it: most, and a gate that is not so sure that it cannot learn.
CERTAINTY = 0.97
PICTURES = 512  # from which gates learn to tell modalities, one epoch of training at most


def start_gates(network: nn.Module, hard: nn.Module, fold: Fold, config: Config, device: torch.device) -> None:
    """Starts the gates of `network` so that they choose as `hard` does, the network as it was routed by modality."""
    if any(isinstance(module, GateRouter) for module in network.modules()):
        loader = Loaders(fold, config, device).train_dataloader()
        batches = (batch.to(device) for batch in islice(loader, -(-PICTURES // config.train.batch_size)))
        imitate(network, hard.to(device), batches)
        hard.cpu()


def imitate(network: nn.Module, hard: nn.Module, batches: Iterable[Batch]) -> None:
    """Each gate of `network` becomes the linear discriminant, by the mean of a picture's tokens before the layer, of
    the experts that `hard` has run there for pictures of `batches`."""
    layers = {name: layer for name, layer in hard.named_modules() if isinstance(layer, ExpertFFN)}
    seen = {}
    for name, layer in layers.items():
        experts, width, _ = layer.experts.weight_in.shape
        seen[name] = Discriminant(width, experts)
    hooks = [layer.register_forward_pre_hook(_Watch(seen[name])) for name, layer in layers.items()]
    hard.eval()
    with torch.no_grad():
        for batch in batches:
            hard(batch)
    for hook in hooks:
        hook.remove()
    for name, discriminant in seen.items():
        network.get_submodule(name).router.start_from(*discriminant.solve(CERTAINTY))


class _Watch:
    """Adds to a discriminant what a layer is given, and the experts that its router names."""

    def __init__(self, discriminant: Discriminant) -> None:
        self.discriminant = discriminant

    def __call__(self, layer: nn.Module, given: tuple[torch.Tensor, torch.Tensor]) -> None:
        x, modality = given
        assert isinstance(layer.router, ModalityRouter)
        self.discriminant.add(x.float().mean(1), layer.router.expert_of[modality])
