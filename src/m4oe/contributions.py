"""Three measures of what carried a decision, of a batch: Shapley, evidence, routing. Plain torch.

Scores are logits (tasks.Kind.scores). Axes as in batch.py: B exams · I streams · C scores · K coalitions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor

from m4oe.batch import Prediction, Rows, Tokens
from m4oe.explain import Game, shapley_game
from m4oe.moe.losses import modality_given_task
from m4oe.nets.classifier import Classifier
from m4oe.nets.heads import present_streams
from m4oe.schema import Schema, TaskSpec
from m4oe.tasks import KINDS

# Numbers held at once while coalitions are valued, a bound on memory.
PASS_SIZE = 2**26


def shapley_values(
    network: Classifier, tokens: Tokens, pictures: Mapping[str, Rows], schema: Schema, seed: int = 0
) -> dict[str, np.ndarray]:
    """{task: (B, I, C)} Shapley values of present streams; they sum to v(all) - v(nobody)."""
    return game_values(network, tokens, pictures, schema, partial(shapley_game, seed=seed))


@torch.no_grad()
def game_values(
    network: Classifier,
    tokens: Tokens,
    pictures: Mapping[str, Rows],
    schema: Schema,
    game: Callable[[np.ndarray, np.ndarray], Game],
) -> dict[str, np.ndarray]:
    """{task: (B, I, C)} what each present stream gets in `game` (players, fixed), whose first coalition is nobody.

    v is the task's scores, v(nobody) the training prevalence's. A segmentation's own input takes part always and
    gets no value: its sums start from that input alone; an exam without it has NaN.
    """
    present = present_streams(tokens, len(schema.streams)).cpu().numpy()
    found: dict[str, np.ndarray] = {}
    for on in dict.fromkeys(task.on for task in schema.tasks):
        tasks = [task for task in schema.tasks if task.on == on]
        fixed = np.array([stream.input == on for stream in schema.streams])
        games = [game(row, fixed & row) for row in present]
        found |= _solved(network, tokens, pictures if on else {}, tasks, games)
        for task in tasks if on else ():
            found[task.name][~present[:, fixed].any(1)] = np.nan
    return {task.name: found[task.name] for task in schema.tasks}


def _solved(
    network: Classifier, tokens: Tokens, pictures: Mapping[str, Rows], tasks: list[TaskSpec], games: list[Game]
) -> dict[str, np.ndarray]:
    """Values every coalition of every exam in few passes, then weighs them."""
    exam = np.repeat(np.arange(len(games)), [len(game.coalitions) for game in games])
    coalitions = np.concatenate([game.coalitions for game in games])
    chunk = max(1, PASS_SIZE // (tokens.x[0].numel() * (1 + network.num_tasks)))
    parts = [
        _values(network, tokens, pictures, tasks, exam[start : start + chunk], coalitions[start : start + chunk])
        for start in range(0, len(exam), chunk)
    ]
    starts = np.cumsum([0, *(len(game.coalitions) for game in games)])
    solved = {}
    for task in tasks:
        values = np.concatenate([part[task.name] for part in parts])
        if task.on is None:
            values[starts[:-1]] = KINDS[task.kind].prior_scores(task).numpy()
        solved[task.name] = np.stack([g.weights @ values[a:b] for g, a, b in zip(games, starts, starts[1:])])
    return solved


def _values(
    network: Classifier,
    tokens: Tokens,
    pictures: Mapping[str, Rows],
    tasks: list[TaskSpec],
    exam: np.ndarray,
    coalitions: np.ndarray,
) -> dict[str, np.ndarray]:
    """{task: (K, C)} scores of `coalitions` (K, I) of the exams `exam` (K,)."""
    where = torch.from_numpy(exam).to(tokens.x.device)
    members = torch.from_numpy(coalitions).to(tokens.x.device)[:, tokens.stream]
    part = Tokens(tokens.x[where], tokens.modality, tokens.stream, tokens.present[where] & members)
    prediction = network.decide(part, {name: _repeated(rows, where) for name, rows in pictures.items()})
    values = {}
    for task in tasks:
        rows, kind = prediction.logits[task.name], KINDS[task.kind]
        scores = Rows(kind.scores(task, rows.values.float()), rows.index)
        values[task.name] = scores.scatter(len(exam))[0].cpu().numpy().astype(float)
    return values


def _repeated(rows: Rows, where: Tensor) -> Rows:
    """Rows of the repeated exams `where` (K,): each exam's row as often as it is named."""
    hit = where.unsqueeze(1) == rows.index
    return Rows(rows.values[hit.nonzero()[:, 1]], hit.any(1).nonzero().squeeze(1))


def evidence_values(prediction: Prediction, schema: Schema) -> dict[str, np.ndarray]:
    """{task: (B, I, C)} signed parts of the scores, for heads that are sums: with `bias` they add up to them."""
    found = {}
    for name, evidence in prediction.evidence.items():
        task = schema.task(name)
        scores = KINDS[task.kind].scores(task, evidence.detach().float().flatten(0, 1))
        found[name] = scores.unflatten(0, evidence.shape[:2]).cpu().numpy()
    return found


def routing_values(prediction: Prediction) -> np.ndarray | None:
    """(B, T, M) P(m | t): how tokens were routed, never called importance."""
    shared = prediction.routing.get("shared")
    return None if shared is None or shared.joint is None else modality_given_task(shared.joint.detach()).cpu().numpy()
