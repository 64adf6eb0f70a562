"""Contributions: which input carried a decision, as games over the inputs that an exam has.

A game is linear in the values of its coalitions: Shapley values are `weights @ values`, so all coalitions of all
exams can be valued in one batched pass. Axes: I players in all · K coalitions · C scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

EXACT_UP_TO = 6


@dataclass(frozen=True)
class Game:
    """coalitions (K, I) bool: who takes part, the first of them nobody but the fixed · weights (I, K): Shapley value
    of player i = weights[i] @ value of each coalition; rows of those who do not play are zero."""

    coalitions: np.ndarray
    weights: np.ndarray


def shapley_game(players: np.ndarray, fixed: np.ndarray | None = None, *, seed: int = 0, orders: int = 64) -> Game:
    """The game of `players` (I,) bool; `fixed` (I,) bool take part in every coalition and get no value.

    Exact (2^k coalitions) up to six players; above, the mean over `orders` random orders and their reverses, which
    stays exactly efficient: values sum to v(all) - v(nobody). (Shapley 1953; antithetic permutation sampling)
    """
    fixed = np.zeros_like(players) if fixed is None else fixed
    who = np.flatnonzero(players & ~fixed)
    small = _exact(len(who)) if len(who) <= EXACT_UP_TO else _sampled(len(who), np.random.default_rng(seed), orders)
    coalitions = np.broadcast_to(fixed, (len(small.coalitions), len(players))).copy()
    coalitions[:, who] = small.coalitions
    weights = np.zeros((len(players), len(coalitions)))
    weights[who] = small.weights
    return Game(coalitions, weights)


def occlusion_game(players: np.ndarray, fixed: np.ndarray | None = None) -> Game:
    """The game of `players` (I,) bool in which each gets what all would lose without it: v(all) - v(all but i).

    Coalitions as those of `shapley_game`: the first is nobody but the `fixed`, who take part in every one.
    """
    fixed = np.zeros_like(players) if fixed is None else fixed
    who = np.flatnonzero(players & ~fixed)
    if len(who) < 2:
        return shapley_game(players, fixed)
    coalitions = np.concatenate([fixed[None], np.tile(fixed | players, (1 + len(who), 1))])
    coalitions[2 + np.arange(len(who)), who] = False
    weights = np.zeros((len(players), len(coalitions)))
    weights[who, 1] = 1
    weights[who, 2 + np.arange(len(who))] = -1
    return Game(coalitions, weights)


def _exact(k: int) -> Game:
    """Shapley's formula: v(S + i) - v(S) weighs 1 / (k comb(k - 1, |S|))."""
    sets = [frozenset(members) for size in range(k + 1) for members in combinations(range(k), size)]
    number = {members: row for row, members in enumerate(sets)}
    weights = np.zeros((k, len(sets)))
    for members in sets:
        for i in set(range(k)) - members:
            weight = 1 / (k * comb(k - 1, len(members)))
            weights[i, number[members]] -= weight
            weights[i, number[members | {i}]] += weight
    return Game(np.array([[i in members for i in range(k)] for members in sets], bool).reshape(len(sets), k), weights)


def _sampled(k: int, rng: np.random.Generator, orders: int) -> Game:
    half = [rng.permutation(k) for _ in range(orders // 2)]
    drawn = [order for one in half for order in (one, one[::-1])]
    number: dict[bytes, int] = {np.zeros(k, bool).tobytes(): 0}
    steps = []
    for order in drawn:
        members = np.zeros(k, bool)
        for i in order:
            before = number[members.tobytes()]
            members[i] = True
            steps.append((i, before, number.setdefault(members.tobytes(), len(number))))
    weights = np.zeros((k, len(number)))
    for i, before, after in steps:
        weights[i, before] -= 1 / len(drawn)
        weights[i, after] += 1 / len(drawn)
    return Game(np.frombuffer(b"".join(number), bool).reshape(len(number), k), weights)


def rank_agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation of two measures over the inputs of many exams; NaN where either is constant."""
    from scipy.stats import spearmanr

    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)
