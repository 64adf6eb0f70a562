"""Decomposition of two sources: gates with known answers, the consistency equations, cvxpy as an independent solver."""

from __future__ import annotations

import numpy as np
import pytest

from m4oe.explain import decompose, decompose_many, pid
from m4oe.explain.pid import information, least_informative

BIT = np.log(2)


def gate(answer, answers=2):
    """(T, 2, 2) of a gate of two fair coins."""
    p = np.zeros((answers, 2, 2))
    for a in (0, 1):
        for b in (0, 1):
            p[answer(a, b), a, b] += 0.25
    return p


def twins():
    """Both sources and the target are one fair coin."""
    p = np.zeros((2, 2, 2))
    p[0, 0, 0] = p[1, 1, 1] = 0.5
    return p


# AND: I(T; X1) = .3113 bits, all of it shared, since the margins alone cannot tell X1 from X2 (Bertschinger 2014).
GATES = {
    "and": (gate(lambda a, b: a & b), (0.311278, 0, 0, 0.5)),
    "or": (gate(lambda a, b: a | b), (0.311278, 0, 0, 0.5)),
    "xor": (gate(lambda a, b: a ^ b), (0, 0, 0, 1)),
    "copy": (gate(lambda a, b: 2 * a + b, 4), (0, 1, 1, 0)),
    "first": (gate(lambda a, b: a), (0, 1, 0, 0)),
    "second": (gate(lambda a, b: b), (0, 0, 1, 0)),
    "twins": (twins(), (1, 0, 0, 0)),
    "nothing": (np.full((2, 2, 2), 1 / 8), (0, 0, 0, 0)),
}


def some(count, shape=(2, 3, 4), seed=0, sparse=False):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(np.prod(shape), 0.3 if sparse else 1.0), size=count).reshape(count, *shape)
    return p * (rng.random(p.shape) < 0.6) + 1e-9 * (not sparse) if sparse else p


@pytest.mark.parametrize("name", GATES)
def test_gates_have_their_known_answers(name):
    p, expected = GATES[name]
    assert np.array(decompose(p)) / BIT == pytest.approx(expected, abs=1e-5)


def test_counts_are_as_good_as_probabilities():
    p, expected = GATES["and"]
    assert np.array(decompose(400 * p)) / BIT == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("sparse", [False, True])
def test_the_parts_are_consistent(sparse):
    """R + U1 = I(T; X1), R + U2 = I(T; X2), all four = I(T; X1 X2), and none is negative."""
    p = some(20, sparse=sparse)
    p = p / p.sum((1, 2, 3), keepdims=True)
    parts, _ = decompose_many(p, tolerance=1e-4, sweeps=500)
    assert parts.redundancy + parts.unique_1 == pytest.approx(information(p.sum(3, keepdims=True)), abs=1e-9)
    assert parts.redundancy + parts.unique_2 == pytest.approx(information(p.sum(2, keepdims=True)), abs=1e-9)
    assert parts.total == pytest.approx(information(p), abs=1e-9)
    assert min(part.min() for part in parts) > -1e-9


def test_swapping_the_sources_swaps_what_is_unique():
    p = some(10)
    (one, _), (other, _) = decompose_many(p, sweeps=500), decompose_many(p.swapaxes(2, 3), sweeps=500)
    assert one.unique_1 == pytest.approx(other.unique_2, abs=1e-4)
    assert one.synergy == pytest.approx(other.synergy, abs=1e-4)


def test_the_least_informative_keeps_the_margins():
    p = some(10)
    q, _ = least_informative(p, sweeps=500)
    assert q.sum(3) == pytest.approx(p.sum(3), abs=1e-5)
    assert q.sum(2) == pytest.approx(p.sum(2), abs=1e-9)
    assert (information(q) <= information(p) + 1e-9).all()


def test_many_are_each_as_if_alone():
    p = some(3)
    together, _ = decompose_many(p, tolerance=1e-3)
    assert together.synergy == pytest.approx([decompose(one, tolerance=1e-3).synergy for one in p], abs=1e-9)


def test_how_far_the_minimum_may_be_is_told():
    """A bound that holds: what many more sweeps find beyond few is never more than it; few sweeps do not suffice."""
    p = some(20, sparse=True)
    (exact, near), (early, far) = decompose_many(p, tolerance=1e-6, sweeps=3000), decompose_many(p, sweeps=20)
    assert (near < far + 1e-12).all() and (far > 1e-5).any()
    lost = exact.synergy - early.synergy
    assert lost.max() > 1e-3 and (lost <= far + 1e-9).all()


def test_one_table_is_within_the_tolerance_or_refused(monkeypatch):
    p = some(1, sparse=True, seed=3)[0]
    monkeypatch.setattr(pid, "SWEEPS", 10)
    with pytest.raises(RuntimeError, match="not within 1e-05 nats"):
        decompose(p)


@pytest.mark.parametrize("wrong", [-np.ones((2, 2, 2)), np.zeros((2, 2, 2))])
def test_what_is_no_distribution_is_refused(wrong):
    with pytest.raises(ValueError, match="not negative"):
        decompose(wrong)


@pytest.mark.parametrize("seed", range(4))
def test_cvxpy_finds_the_same_minimum(seed):
    """max H_q(T | X1 X2) over q with p's margins, written as a disciplined convex program."""
    cp = pytest.importorskip("cvxpy", reason="cvxpy, of the extra `dev`, is not installed")
    p = some(1, shape=(2, 2, 3), seed=seed)[0]
    q = [cp.Variable(p.shape[1:], nonneg=True) for _ in p]
    both = sum(q)
    uncertainty = -sum(cp.sum(cp.rel_entr(one, both)) for one in q)
    margins = [cp.sum(one, axis=1) == want.sum(1) for one, want in zip(q, p)]
    margins += [cp.sum(one, axis=0) == want.sum(0) for one, want in zip(q, p)]
    problem = cp.Problem(cp.Maximize(uncertainty), margins)
    problem.solve(solver=cp.CLARABEL)
    given_both = -(p * np.log(p / p.sum(0))).sum()
    assert decompose(p).synergy == pytest.approx(problem.value - given_both, abs=1e-4)
