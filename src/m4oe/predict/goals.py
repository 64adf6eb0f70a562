"""What is asked of a segmenter for one picture: by which stream it goes in, and which label sets come out.

Axes: P slices · C classes of a label set · U classes of the unified one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from m4oe.errors import UserError
from m4oe.masks import label_set
from m4oe.nets.segmenter import UNIFIED
from m4oe.schema import Schema, Stream, TaskSpec
from m4oe.study import Study, Task, one_spelling


@dataclass(frozen=True)
class Goal:
    """A label set to predict, under the name `task`.

    classes: {value in a file: name} in the order of the class indices · logits: the network's task that it is read
    from · members: of each class the unified ones of which it consists; None: the classes are those of the logits.
    """

    task: str
    classes: Mapping[int, str]
    logits: str
    members: tuple[tuple[int, ...], ...] | None = None

    @property
    def unknown(self) -> tuple[str, ...]:
        """Classes that the model does not know, and never says."""
        return tuple(name for name, members in zip(self.classes.values(), self.members or ()) if not members)

    def of(self, logits: Tensor) -> Tensor:
        """(P, C, H, W) logits of its classes from those of the network's task; -inf of unknown classes."""
        if self.members is None:
            return logits
        return torch.stack([logits[:, list(members)].logsumexp(1) for members in self.members], 1)


def stream_for(schema: Schema, input: str, modality: str, kind: str, *, any_modality: bool) -> Stream:
    """The stream by which a picture goes in: that of its input and modality, else of its modality and kind.

    any_modality: a modality that was never seen goes in as the first one of its kind does; the gate sees the picture.
    Raises UserError, naming the known modalities, where there is none.
    """
    alike = [stream for stream in schema.streams if stream.form == "slices" and stream.kind == kind]
    seen = [stream for stream in alike if stream.modality == modality]
    found = [stream for stream in seen if stream.input == input] or seen or (alike if any_modality else [])
    if found:
        return found[0]
    known = ", ".join(dict.fromkeys(f"{stream.modality} (kind {stream.kind})" for stream in schema.streams))
    why = f"no picture of kind {kind!r} was" if any_modality else "it sends pictures to experts by modality: such was"
    raise UserError(
        f"the model does not know modality {modality!r} of kind {kind!r}: {why} never trained; known: {known}"
    )


def goals_for(schema: Schema, labels: str, stream: Stream, input: str, study: Study) -> tuple[Goal, ...]:
    """The label sets to predict for the picture `input` of an exam of `study`: its own tasks, in its own numbering.

    labels: "unified" or "heads", as in the model's config. With unified labels a study may have a task that the model
    was not trained for: its classes are found by name; without any task that is understood, the unified set is
    predicted. Raises UserError where heads are told apart by a task that the study does not have.
    """
    known = {task.name: task for task in schema.tasks if task.on == stream.input}
    asked = {name: task for name, task in study.tasks.items() if task.kind == "segmentation" and task.on == input}
    own = tuple(
        Goal(name, _in_order(task, known[name].classes), name)
        for name, task in asked.items()
        if name in known and _alike(task.class_names, known[name].classes)
    )
    if labels == "unified":
        new = [_by_name(name, task, schema) for name, task in asked.items() if name not in {goal.task for goal in own}]
        return (*own, *filter(None, new)) or (Goal(UNIFIED, label_set(schema.unified), UNIFIED),)
    if not own and len(known) == 1:
        own = tuple(Goal(name, label_set(task.classes, task.values), name) for name, task in known.items())
    if not own:
        raise UserError(
            f"study {study.name!r} has no task of this model on input {input!r}, and its label sets are told apart by "
            f"task; name a study with one of: {', '.join(known) or '(none)'}"
        )
    return own


def scored_as(goal: Goal, study: Study, schema: Schema) -> TaskSpec | None:
    """The task as which masks of `goal` are scored: the model's of these classes, else the study's; None of a label set
    that is not the study's."""
    classes = tuple(goal.classes.values())
    trained = next((task for task in schema.tasks if (task.name, task.classes) == (goal.task, classes)), None)
    told = study.tasks.get(goal.task)
    if trained is not None or told is None:
        return trained
    regions = {name: tuple(members) for name, members in told.regions.items()}
    return TaskSpec(name=goal.task, kind="segmentation", classes=classes, regions=regions, prior=(), weights=())


def without(task: TaskSpec, names: Sequence[str]) -> TaskSpec:
    """`task` less the classes `names`, and less the regions in which they are."""
    regions = {region: members for region, members in task.regions.items() if not {*members} & {*names}}
    classes = tuple(name for name in task.classes if name not in names)
    return task.model_copy(update={"classes": classes, "regions": regions})


def meant_by(names: Sequence[str], goal: Goal, schema: Schema) -> list[int]:
    """Indices of the classes of `goal` that `names` mean, by any spelling and by synonyms; none of the background."""
    meant = schema.meant(names)
    rows = list(enumerate(zip(goal.classes.values(), _comprised(goal, schema), strict=True)))[1:]
    return [number for number, (name, own) in rows if {one_spelling(name), *own[: len(own) == 1]} & meant]


def _comprised(goal: Goal, schema: Schema) -> list[tuple[str, ...]]:
    """Of each class of `goal` the unified ones of which it consists, in one spelling."""
    unified = [one_spelling(name) for name in schema.unified]
    if goal.members is not None:
        return [tuple(unified[member] for member in members) for members in goal.members]
    if goal.logits == UNIFIED:
        return [(name,) for name in unified]
    (task,) = (task for task in schema.tasks if task.name == goal.logits)
    return [tuple(map(one_spelling, names)) for names in task.comprises]


def _alike(one: Sequence[str], other: Sequence[str]) -> bool:
    """The same classes and the same background, in whatever order."""
    return one[0] == other[0] and sorted(one) == sorted(other)


def _in_order(task: Task, classes: Sequence[str]) -> dict[int, str]:
    """{value: name} of the task, in the order of `classes`."""
    number = {name: value for value, name in label_set(task.class_names, task.class_values).items()}
    return {number[name]: name for name in classes}


def _by_name(name: str, task: Task, schema: Schema) -> Goal | None:
    """A label set of its own on the unified classes; None where not one of its classes is known."""
    place = {one_spelling(known): number for number, known in enumerate(schema.unified)}
    members = [tuple(_known(task, one, place)) for one in task.class_names[1:]]
    if not any(members):
        return None
    rest = tuple(number for number in place.values() if not any(number in one for one in members))
    return Goal(name, label_set(task.class_names, task.class_values), UNIFIED, (rest, *members))


def _known(task: Task, name: str, place: Mapping[str, int]) -> Iterator[int]:
    return (place[one] for one in task.comprises(name) if one in place)
