"""The learned decomposition is near the exact one on sources that are discrete, and works on those that are not."""

from __future__ import annotations

import numpy as np
import pytest

from m4oe.explain import decompose
from m4oe.explain.batch import decompose_batches

BIT = np.log(2)
LITTLE = {"epochs": 12, "align_epochs": 6, "rounds": 20}


def coins(count=1000, seed=0):
    return np.random.default_rng(seed).integers(0, 2, (2, count))


def hot(values):
    return np.eye(2)[values]


GATES = {
    "and": (lambda a, b: a & b, (0.311, 0, 0, 0.5)),
    "xor": (lambda a, b: a ^ b, (0, 0, 0, 1)),
    "copy": (lambda a, b: 2 * a + b, (0, 1, 1, 0)),
    "first": (lambda a, b: a, (0, 1, 0, 0)),
}


@pytest.mark.parametrize(
    "name", ["xor", "and", *(pytest.param(name, marks=pytest.mark.slow) for name in ("copy", "first"))]
)
def test_gates_are_near_their_known_answers(name):
    gate, expected = GATES[name]
    a, b = coins()
    assert np.array(decompose_batches(hot(a), hot(b), gate(a, b), **LITTLE)) / BIT == pytest.approx(expected, abs=0.06)


def test_it_is_near_the_exact_one_on_a_noisy_table():
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.full(8, 0.7)).reshape(2, 2, 2)
    t, a, b = np.unravel_index(rng.choice(8, 1500, p=p.ravel()), p.shape)
    counts = np.zeros_like(p)
    np.add.at(counts, (t, a, b), 1)
    found = decompose_batches(hot(a), hot(b), t, **LITTLE)
    assert np.array(found) == pytest.approx(np.array(decompose(counts)), abs=0.04)


def test_continuous_sources_that_only_together_decide():
    x = np.random.default_rng(0).normal(size=(2, 1000, 1))
    target = ((x[0] > 0) ^ (x[1] > 0)).astype(int).ravel()
    parts = decompose_batches(x[0], x[1], target, **LITTLE)
    assert parts.synergy / BIT > 0.7 and max(parts[:3]) / BIT < 0.15


def test_the_same_seed_gives_the_same_parts():
    a, b = coins(200)
    one, other = (decompose_batches(hot(a), hot(b), a ^ b, epochs=2, align_epochs=1) for _ in range(2))
    assert one == other
