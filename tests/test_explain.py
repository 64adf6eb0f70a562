"""Games: Shapley values against their definition, on games with known answers."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from m4oe.explain import EXACT_UP_TO, occlusion_game, rank_agreement, shapley_game


def solve(game, worth):
    return game.weights @ np.array([worth(frozenset(np.flatnonzero(row))) for row in game.coalitions])


def naive(players, worth):
    """The mean over all orders of what each player adds."""
    values = dict.fromkeys(players, 0.0)
    orders = list(permutations(players))
    for order in orders:
        for place, player in enumerate(order):
            before = frozenset(order[:place])
            values[player] += (worth(before | {player}) - worth(before)) / len(orders)
    return values


def everyone(k):
    return np.ones(k, bool)


def test_two_players_by_hand():
    """v({}) = 1, v({0}) = 3, v({1}) = 2, v({0, 1}) = 8: 0 adds 2 or 6, 1 adds 1 or 5."""
    worth = {frozenset(): 1, frozenset({0}): 3, frozenset({1}): 2, frozenset({0, 1}): 8}.__getitem__
    assert solve(shapley_game(everyone(2)), worth) == pytest.approx([4, 3])


@pytest.mark.parametrize("k", range(1, 6))
def test_exact_values_are_the_mean_over_all_orders(k):
    rng = np.random.default_rng(k)
    table = {}
    worth = lambda members: table.setdefault(members, rng.normal())  # noqa: E731
    expected = naive(range(k), worth)
    assert solve(shapley_game(everyone(k)), worth) == pytest.approx([expected[i] for i in range(k)])


@pytest.mark.parametrize("k", [1, 4, EXACT_UP_TO, EXACT_UP_TO + 3])
def test_values_sum_to_all_minus_nobody_sampled_or_not(k):
    rng = np.random.default_rng(0)
    table = {}
    worth = lambda members: table.setdefault(members, rng.normal())  # noqa: E731
    values = solve(shapley_game(everyone(k)), worth)
    assert values.sum() == pytest.approx(worth(frozenset(range(k))) - worth(frozenset()))


def test_sampled_values_of_an_additive_game_are_exact():
    share = np.arange(9.0)
    values = solve(shapley_game(everyone(9)), lambda members: sum(share[i] for i in members))
    assert values == pytest.approx(share)


def test_sampled_values_are_near_the_exact_ones():
    rng = np.random.default_rng(1)
    main, pairs = rng.normal(size=7), rng.normal(size=(7, 7))
    worth = lambda s: sum(main[i] for i in s) + sum(pairs[i, j] for i in s for j in s if i < j)  # noqa: E731
    exact = main + sum((pairs[i, j] / 2 * (np.eye(7)[i] + np.eye(7)[j])) for i in range(7) for j in range(i + 1, 7))
    values = solve(shapley_game(everyone(7), orders=400), worth)
    assert np.abs(values - exact).max() < 0.3


def test_who_is_absent_gets_nothing_and_is_in_no_coalition():
    game = shapley_game(np.array([True, False, True]))
    assert not game.coalitions[:, 1].any() and not game.weights[1].any() and len(game.coalitions) == 4


def test_who_is_fixed_is_in_every_coalition_and_gets_nothing():
    game = shapley_game(np.array([True, True, True]), np.array([False, True, False]))
    assert game.coalitions[:, 1].all() and not game.weights[1].any()
    assert game.coalitions[0].tolist() == [False, True, False]


def test_the_first_coalition_is_nobody():
    for k in (3, 8):
        assert not shapley_game(everyone(k)).coalitions[0].any()


def test_occlusion_is_what_all_lose_without_one_by_hand():
    # v = x0 + x1 + 3 x0 x2, player 3 absent: without 0 four are lost, without 1 one, without 2 three.
    game = occlusion_game(np.array([True, True, True, False]))
    x = game.coalitions.astype(float)
    value = x[:, 0] + x[:, 1] + 3 * x[:, 0] * x[:, 2]
    assert (game.weights @ value).tolist() == [4, 1, 3, 0]
    assert not game.coalitions[0].any()


def test_occlusion_of_one_alone_is_its_shapley_value_also_beside_who_is_fixed():
    players, fixed = np.array([True, True]), np.array([True, False])
    game = occlusion_game(players, fixed)
    assert game.coalitions.tolist() == [[True, False], [True, True]]
    assert game.weights.tolist() == [[0, 0], [-1, 1]]


def test_agreement_of_ranks():
    assert rank_agreement(np.array([1.0, 2, 3]), np.array([10.0, 20, 30])) == pytest.approx(1)
    assert rank_agreement(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == pytest.approx(-1)
    assert np.isnan(rank_agreement(np.ones(3), np.arange(3.0)))
