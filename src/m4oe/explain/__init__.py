"""Explaining: games of inputs, and what two sources tell of a target together and apart."""

from m4oe.explain.games import EXACT_UP_TO, Game, occlusion_game, rank_agreement, shapley_game
from m4oe.explain.pid import Parts, decompose, decompose_many

__all__ = [
    "EXACT_UP_TO",
    "Game",
    "Parts",
    "decompose",
    "decompose_many",
    "occlusion_game",
    "rank_agreement",
    "shapley_game",
]
