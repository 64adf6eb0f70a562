"""Do tasks pull the shared weights in one direction? The cosine of their gradients, by layer, on training batches."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor, nn

from m4oe.analyses.estimates import mean
from m4oe.analyses.subject import BATCH, Subject
from m4oe.batch import Batch, Prediction, shared_rows
from m4oe.data.dataset import collate
from m4oe.tasks import KINDS

BATCHES = 12
INDIFFERENT = 0.01  # a cosine within it is neither conflict nor accord, as in the paper's figure


def gradients_of(subject: Subject) -> dict[str, Any] | None:
    """{"pairs": [{"tasks", "layers": {layer: {"cosine": mean over batches with its interval, "conflict": share of the
    batches below -0.01, "accord": above 0.01}}}]}; None of a model with fewer than two tasks.

    At the end of training, without augmentation and dropout. A layer is a part of the network that both tasks use.
    """
    network, names = subject.network, [task.name for task in subject.tasks]
    if len(names) < 2:
        return None
    layers = layers_of(network)
    found: dict[tuple[str, str, str], list[float]] = {}
    dataset = subject.dataset("train", BATCHES * BATCH)
    order = np.random.default_rng(0).permutation(len(dataset))
    for start in range(0, len(order), BATCH):
        batch = collate([dataset[int(number)] for number in order[start : start + BATCH]]).to(subject.device)
        for key, cosine in _cosines(task_gradients(subject, network, batch), layers).items():
            found.setdefault(key, []).append(cosine)
    pairs = [_pair(a, b, found) for a, b in combinations(names, 2)]
    return {"split": "train", "pairs": pairs} if any(pair["layers"] for pair in pairs) else None


def layers_of(network: nn.Module) -> dict[str, list[str]]:
    """{layer: its parameters}: a layer is a module of the second level, such as the encoder of a stream."""
    layers: dict[str, list[str]] = {}
    for name, _ in network.named_parameters():
        layers.setdefault(".".join(name.split(".")[:2]), []).append(name)
    return layers


def task_gradients(subject: Subject, network: nn.Module, batch: Batch) -> dict[str, dict[str, Tensor]]:
    """{task: {parameter: gradient of the task's mean loss}} of the tasks with labels in `batch`; those that a task does
    not reach are absent."""
    parameters = dict(network.named_parameters())
    prediction: Prediction = network(batch)
    found = {}
    for task in subject.tasks:
        if task.name not in batch.targets:
            continue
        logits, target = shared_rows(prediction.logits[task.name], batch.targets[task.name])
        if len(logits):
            loss = KINDS[task.kind].loss(task, logits.float(), target).mean()
            parts = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
            found[task.name] = {name: part for name, part in zip(parameters, parts) if part is not None}
    return found


def _cosines(
    gradients: dict[str, dict[str, Tensor]], layers: dict[str, list[str]]
) -> dict[tuple[str, str, str], float]:
    """{(task, task, layer): cosine} over the parameters that both tasks reach; absent where a gradient is 0."""
    cosines = {}
    for (a, of_a), (b, of_b) in combinations(gradients.items(), 2):
        for layer, names in layers.items():
            shared = [name for name in names if name in of_a and name in of_b]
            if shared:
                first, second = (torch.cat([of[name].flatten().double() for name in shared]) for of in (of_a, of_b))
                size = first.norm() * second.norm()
                if size > 0:
                    cosines[a, b, layer] = float(first @ second / size)
    return cosines


def _pair(a: str, b: str, found: dict[tuple[str, str, str], list[float]]) -> dict[str, Any]:
    layers = {layer: _summed(np.array(cosines)) for (x, y, layer), cosines in found.items() if (x, y) == (a, b)}
    return {"tasks": [a, b], "layers": layers}


def _summed(cosines: ndarray) -> dict[str, Any]:
    """The interval is over batches, each a draw of its own."""
    batches = np.arange(len(cosines))
    conflict, accord = (float(part.mean()) for part in (cosines < -INDIFFERENT, cosines > INDIFFERENT))
    return {"cosine": mean(cosines, batches), "conflict": conflict, "accord": accord}
