"""How classes of segmentation tasks stand on the outputs of one head: each task's own, or one unified label set.

Both give, for each task, the outputs of which each of its classes consists, and of each output its share of pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from m4oe.errors import UserError
from m4oe.schema import Schema, TaskSpec

Outputs = dict[str, list[tuple[int, ...]]]


def own_outputs(schema: Schema) -> tuple[Outputs, list[float]]:
    """An output for each class of each task, as published: the label sets know nothing of each other."""
    outputs: Outputs = {}
    prior: list[float] = []
    for task in schema.tasks:
        outputs[task.name] = [(len(prior) + number,) for number in range(len(task.classes))]
        prior += task.prior
    return outputs, prior


def unified_outputs(schema: Schema) -> tuple[Outputs, list[float]]:
    """An output for each class of `schema.unified`. A task's background is everything that it does not annotate, the
    classes of other tasks included: a class that a data set never annotated is not background there.

    Raises UserError where a class of a task comprises what another of its classes comprises.
    """
    place = {name: number for number, name in enumerate(schema.unified)}
    outputs = {task.name: _on_unified(task, place) for task in schema.tasks}
    shares: list[list[float]] = [[] for _ in place]
    for task in schema.tasks:
        for members, share in list(zip(outputs[task.name], task.prior))[1:]:
            for member in members:
                shares[member].append(share / len(members))
    foreground = [sum(found) / len(found) for found in shares[1:]]
    return outputs, [max(0.0, 1 - sum(foreground)), *foreground]


def _on_unified(task: TaskSpec, place: Mapping[str, int]) -> list[tuple[int, ...]]:
    named = [name for names in task.comprises[1:] for name in names]
    if twice := next((name for name in named if named.count(name) > 1), None):
        raise UserError(f"task {task.name!r}: {twice!r} is in two of its classes; 'synonyms' may name it once")
    rest = tuple(number for name, number in place.items() if name not in named)
    return [rest, *(tuple(place[name] for name in names) for names in task.comprises[1:])]


OUTPUTS: Mapping[str, Callable[[Schema], tuple[Outputs, list[float]]]] = {
    "heads": own_outputs,
    "unified": unified_outputs,
}


def experts_of(modalities: Sequence[str], given: Mapping[str, int]) -> list[int]:
    """The expert of each modality: the one given, else one of its own. Experts are numbered without gaps.

    Raises UserError for a modality that does not exist, and for an expert that would serve none.
    """
    if odd := sorted(given.keys() - set(modalities)):
        known = ", ".join(modalities)
        raise UserError(f"model.segmenter.expert_of names {odd[0]!r}, which is no modality of the studies: {known}")
    free = (number for number in range(len(modalities)) if number not in given.values())
    experts = [given[name] if name in given else next(free) for name in modalities]
    if idle := sorted(set(range(max(experts) + 1)) - set(experts)):
        raise UserError(f"model.segmenter.expert_of leaves expert {idle[0]} without a modality; number them 0, 1, ...")
    return experts
