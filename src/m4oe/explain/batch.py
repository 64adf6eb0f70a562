"""Partial information decomposition of continuous sources, by a learned joint distribution (Liang et al. 2023).

Where sources are vectors, the least informative q with p's margins is learned: two networks score how well a first and
a second source of a batch go together under each label, and Sinkhorn scales the scores to p(t | x1) and p(t | x2),
which are learned, too. An estimate: its parts carry the errors of three classifiers.

Axes: P exams · T target · A rows of a batch as first sources, B the same rows as second ones · F numbers of a source.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor, nn
from torch.nn import functional as F

from m4oe.explain.pid import Parts

HIDDEN, EMBED = 32, 10
TINY = 1e-8


def decompose_batches(
    first: ndarray,
    second: ndarray,
    target: ndarray,
    *,
    epochs: int = 20,
    align_epochs: int = 10,
    size: int = 128,
    rounds: int = 30,
    seed: int = 0,
) -> Parts:
    """The four parts, in nats, of sources (P, F) and target (P,) int, which are sampled from some p.

    epochs: of the classifiers p(t | x1), p(t | x2), p(t | x1, x2) · align_epochs: of the joint q · size: of a batch ·
    rounds: of Sinkhorn. What is learned on these exams is judged on them: give many more exams than numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    x1, x2 = (_standardised(source) for source in (first, second))
    labels = torch.from_numpy(np.unique(target, return_inverse=True)[1])
    sources = (x1, x2, torch.cat([x1, x2], 1))
    guesses = [_classifier(source, labels, epochs, size, generator) for source in sources]
    least = _aligned(sources[:2], guesses[:2], align_epochs, size, rounds, generator)
    shares = torch.bincount(labels).double() / len(labels)
    told = [float(_information(guess.double(), labels, shares)) for guess in guesses]
    least = min(max(least, *told[:2]), max(told))
    both = max(told[2], least)
    return Parts(told[0] + told[1] - least, least - told[1], least - told[0], both - least)


def _standardised(source: ndarray) -> Tensor:
    values = torch.from_numpy(np.asarray(source, np.float32)).reshape(len(source), -1)
    return (values - values.mean(0)) / values.std(0).clamp_min(1e-6)


def _information(guess: Tensor, labels: Tensor, shares: Tensor) -> Tensor:
    """I(T; X) as what p(t | x) of the true label says beyond its share, (P, T) -> scalar."""
    said = guess[torch.arange(len(labels)), labels].clamp_min(TINY)
    return (said.log() - shares[labels].log()).mean().clamp_min(0)


def _network(inputs: int, outputs: int, generator: torch.Generator) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        return nn.Sequential(
            nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs)
        )


def _batches(count: int, size: int, epochs: int, generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(epochs):
        yield from torch.randperm(count, generator=generator).split(size)


def _classifier(x: Tensor, labels: Tensor, epochs: int, size: int, generator: torch.Generator) -> Tensor:
    """(P, T) p(t | x), of a network that has learned it."""
    network = _network(x.shape[1], int(labels.max()) + 1, generator)
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    for rows in _batches(len(x), size, epochs, generator):
        optimiser.zero_grad()
        F.cross_entropy(network(x[rows]), labels[rows]).backward()
        optimiser.step()
    return network(x).softmax(1).detach()


def _aligned(
    sources: Sequence[Tensor],
    guesses: Sequence[Tensor],
    epochs: int,
    size: int,
    rounds: int,
    generator: torch.Generator,
) -> float:
    """I_q(T; X1 X2) of the q that tells least, the mean over the batches of its last epoch."""
    answers = guesses[0].shape[1]
    networks = [_network(source.shape[1], answers * EMBED, generator) for source in sources]
    optimiser = torch.optim.Adam([p for network in networks for p in network.parameters()], 1e-2)
    told: list[float] = []
    for rows in _batches(len(sources[0]), size, epochs, generator):
        embedded = [network(x[rows]).unflatten(1, (answers, EMBED)) for network, x in zip(networks, sources)]
        scores = torch.einsum("ate,bte->abt", *embedded) / EMBED**0.5
        loss = _told(_scaled(scores, guesses[0][rows], guesses[1][rows], rounds))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        told.append(float(loss.detach()))
    steps = -(-len(sources[0]) // size)
    return float(np.mean(told[-steps:]))


def _scaled(scores: Tensor, first: Tensor, second: Tensor, rounds: int) -> Tensor:
    """q (A, B, T) = exp(scores) scaled until its margins are p(t | x1) / A and p(t | x2) / B, all rows alike likely."""
    count = len(first)
    log_first, log_second = ((guess / count).clamp_min(TINY).log() for guess in (first, _balanced(second, first)))
    log_q = scores
    for _ in range(rounds):
        log_q = log_q + (log_first - log_q.logsumexp(1)).unsqueeze(1)
        log_q = log_q + (log_second - log_q.logsumexp(0)).unsqueeze(0)
    return log_q.exp()


def _balanced(second: Tensor, first: Tensor) -> Tensor:
    """`second` with the same mass of each label as `first`: two classifiers differ a little on a batch."""
    return second * (first.sum(0) / second.sum(0).clamp_min(TINY))


def _told(q: Tensor) -> Tensor:
    """I(T; X1 X2) of q (A, B, T)."""
    q = q / q.sum()
    independent = q.sum(2, keepdim=True) * q.sum((0, 1))
    return (q * (q.clamp_min(1e-30).log() - independent.clamp_min(1e-30).log())).sum()
