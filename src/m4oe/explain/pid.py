"""Partial information decomposition of two discrete sources and a target, by the convex program of Bertschinger et al.

    I(T; X1 X2) = R + U1 + U2 + S        R: either source tells it · U1, U2: one alone tells it · S: both, together
    R + U1 = I(T; X1)     R + U2 = I(T; X2)     U1 + S = I(T; X1 | X2)     U2 + S = I(T; X2 | X1)

Of all joint distributions q with p's margins (T, X1) and (T, X2), the one that tells least has no synergy:
S = I_p(T; X1 X2) - min_q I_q(T; X1 X2). (Bertschinger et al. 2014, Entropy 16, "Quantifying unique information")

Axes: R distributions at once · T target · A first source · B second source. All in nats.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy import ndarray

# Of the distance to the minimum, in nats; and the most sweeps that are spent on it, which few tables need.
TOLERANCE, SWEEPS = 1e-5, 100_000
TINY = 1e-300


class Parts(NamedTuple):
    """What two sources tell of a target, in nats: numbers, or (R,) arrays of `decompose_many`."""

    redundancy: float | ndarray
    unique_1: float | ndarray
    unique_2: float | ndarray
    synergy: float | ndarray

    @property
    def total(self) -> float | ndarray:
        """I(T; X1 X2)."""
        return self.redundancy + self.unique_1 + self.unique_2 + self.synergy


def decompose(p: ndarray, *, tolerance: float = TOLERANCE) -> Parts:
    """The four parts of p (T, A, B), probabilities or counts.

    tolerance: in nats; how far the minimum may be missed. Raises ValueError for numbers that are negative or all 0, and
    RuntimeError where 100,000 sweeps do not come within the tolerance.
    """
    parts, miss = decompose_many(np.asarray(p, float)[None], tolerance=tolerance, sweeps=SWEEPS)
    if miss[0] > tolerance:
        raise RuntimeError(f"not within {tolerance:g} nats of the minimum after {SWEEPS} sweeps; allow {miss[0]:.1g}")
    return Parts(*(float(part[0]) for part in parts))


def decompose_many(p: ndarray, *, tolerance: float = TOLERANCE, sweeps: int = SWEEPS) -> tuple[Parts, ndarray]:
    """The parts of each of p (R, T, A, B), (R,) each, and `miss` (R,): by how much, at most, in nats, synergy and
    redundancy are too small and what is unique too large. It is above `tolerance` where `sweeps` do not suffice. What
    rounding makes negative is 0."""
    p = np.asarray(p, float)
    if (p < 0).any() or not (p.sum((1, 2, 3)) > 0).all():
        raise ValueError("a distribution needs numbers that are not negative, and not all 0")
    p = p / p.sum((1, 2, 3), keepdims=True)
    q, miss = least_informative(p, tolerance, sweeps)
    least = information(q)
    first, second, both = information(p.sum(3, keepdims=True)), information(p.sum(2, keepdims=True)), information(p)
    least = np.minimum(np.maximum(least, np.maximum(first, second)), both)
    return Parts(np.maximum(first + second - least, 0.0), least - second, least - first, both - least), miss


def information(p: ndarray) -> ndarray:
    """I(T; X1 X2) of p (R, T, A, B), (R,)."""
    independent = p.sum((2, 3), keepdims=True) * p.sum(1, keepdims=True)
    return (p * np.log(np.maximum(p, TINY) / np.maximum(independent, TINY))).sum((1, 2, 3))


def least_informative(p: ndarray, tolerance: float = TOLERANCE, sweeps: int = SWEEPS) -> tuple[ndarray, ndarray]:
    """q (R, T, A, B) with p's margins (T, A) and (T, B) that tells least of T: the minimum of a convex function; and
    how far, at most, it is from that (R,): in nats, or in the margin (T, A), whichever is more.

    I_q(T; X1 X2) = min over r (A, B) of sum_t q(t) KL(q(. | t) || r). Both are minimised in turn, which finds the
    minimum over the pair, since KL is convex in it (Csiszar and Tusnady 1984; Banerjee et al. 2018). Given r, q is r
    scaled to the margins (Sinkhorn); given q, r is its margin (A, B).
    """
    first, second = p.sum(3), p.sum(2)
    r = _over(first[:, :, :, None] * second[:, :, None], p.sum((2, 3))[:, :, None, None]).sum(1)
    q, v, todo, miss = np.empty_like(p), np.ones_like(second), np.arange(len(p)), np.full(len(p), np.inf)
    for sweep in range(sweeps):
        q[todo], v[todo] = _scaled(r[todo], v[todo], first[todo], second[todo])
        new, old = q[todo].sum(1), r[todo]
        r[todo] = new
        if sweep % 10 == 9:
            error = np.abs(q[todo].sum(3) - first[todo]).sum((1, 2))
            miss[todo] = np.maximum(_gap(new, old), error)
            todo = todo[miss[todo] > tolerance]
        if not len(todo):
            break
    return q, miss


def _scaled(r: ndarray, v: ndarray, first: ndarray, second: ndarray, rounds: int = 4) -> tuple[ndarray, ndarray]:
    """q(t, a, b) = u(t, a) r(a, b) v(t, b) with the margins `first` (R, T, A) and `second` (R, T, B), and v."""
    for _ in range(rounds):
        u = _over(first, np.einsum("rab,rtb->rta", r, v))
        v = _over(second, np.einsum("rab,rta->rtb", r, u))
    return np.einsum("rta,rab,rtb->rtab", u, r, v), v


def _gap(new: ndarray, old: ndarray) -> ndarray:
    """(R,) by how much, at most, q is above the minimum: log u and log v, lowered by the largest log new / old, are a
    feasible point of the dual."""
    growth = np.log(np.maximum(new, TINY)) - np.log(np.maximum(old, TINY))
    return np.where(old > 0, growth, -np.inf).max((1, 2)) - (new * np.where(new > 0, growth, 0.0)).sum((1, 2))


def _over(a: ndarray, b: ndarray) -> ndarray:
    """a / b, and 0 where b is 0."""
    a, b = np.broadcast_arrays(a, b)
    return np.divide(a, b, out=np.zeros(a.shape), where=b > 0)
