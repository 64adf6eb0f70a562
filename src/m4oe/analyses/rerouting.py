"""Routing changed from outside: what soft routers answer is replaced while a network decides.

Axes as in batch.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from m4oe.batch import Routing, Tokens
from m4oe.moe import SoftRouter, TaskRouter
from m4oe.moe.routers import clear_absent

Change = Callable[[Routing, Tensor], Routing]


def soft_routers(network: nn.Module) -> dict[str, nn.Module]:
    """{its name: router} of all routers whose routing can be changed."""
    return {name: part for name, part in network.named_modules() if isinstance(part, SoftRouter | TaskRouter)}


@contextmanager
def rerouted(routers: Sequence[nn.Module], change: Change) -> Iterator[None]:
    """Within it `routers` answer with change(routing, present (B, N))."""

    def answer(_: nn.Module, given: tuple[Tokens | Tensor, ...], routing: Routing) -> Routing:
        present = given[0].present if isinstance(given[0], Tokens) else given[1]
        return change(routing, present)

    with ExitStack() as hooks:
        for router in routers:
            hooks.callback(router.register_forward_hook(answer).remove)
        yield


def uniform(routing: Routing, present: Tensor) -> Routing:
    """Every slot reads all present tokens alike, every token is rebuilt from all slots alike."""
    blank = Routing(torch.zeros_like(routing.dispatch), torch.zeros_like(routing.combine), routing.joint)
    return _completed(blank, routing, present)


def of_partners(partner: Tensor) -> Change:
    """Exam b is routed as exam partner[b] (B,) is; where that one has no such token, uniformly."""

    def change(routing: Routing, present: Tensor) -> Routing:
        taken = Routing(routing.dispatch[partner], routing.combine[partner], routing.joint)
        return _completed(taken, routing, present)

    return change


def _completed(taken: Routing, own: Routing, present: Tensor) -> Routing:
    """`taken` on the tokens that are present: dispatch and combine sum to what they do in `own`."""
    dispatch = clear_absent(taken.dispatch, present)
    count = present.sum(1).clamp_min(1)
    even = clear_absent(torch.ones_like(dispatch) / count.view(-1, 1, 1, 1), present)
    total = dispatch.sum(1, keepdim=True)
    dispatch = torch.where(total > 0, dispatch / total.where(total > 0, 1.0), even)
    mass = own.combine.sum((2, 3), keepdim=True)
    flat = (mass / own.combine[0, 0].numel()).expand_as(own.combine)
    known = taken.combine.sum((2, 3), keepdim=True) > 0
    return Routing(dispatch, clear_absent(torch.where(known, taken.combine, flat), present), own.joint)


def partners(present: Tensor, rng: np.random.Generator) -> Tensor:
    """(B,) of each exam another one, by chance among those that have every token that it has; if none, among all.

    Of routing over more tokens, what falls on the exam's own is scaled up: it is what that router would have said of
    these tokens alone.
    """
    has = present.cpu().numpy()
    includes = (has[:, None] <= has[None]).all(2) & ~np.eye(len(has), dtype=bool)
    others = ~np.eye(len(has), dtype=bool)
    chosen = [
        int(rng.choice(np.flatnonzero(inside if inside.any() else other))) if other.any() else row
        for row, (inside, other) in enumerate(zip(includes, others))
    ]
    return torch.tensor(chosen, device=present.device)
