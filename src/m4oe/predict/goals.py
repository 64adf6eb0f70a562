"""What is asked of a segmenter for one picture: by which stream it goes in, and which label sets come out.

Axes: P slices · C classes of a label set · U classes of the unified one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
    from · members: of each class those of the logits of which it consists; None: the classes are those of the logits ·
    lacking: of classes that the model knows in part, what of them it does not know · own: whether it is a label set of
    the study, whose true masks it can be measured by.
    """

    task: str
    classes: Mapping[int, str]
    logits: str
    members: tuple[tuple[int, ...], ...] | None = None
    lacking: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    own: bool = False

    @property
    def unknown(self) -> tuple[str, ...]:
        """Classes that the model does not know, and never says."""
        return tuple(name for name, members in zip(self.classes.values(), self.members or ()) if not members)

    @property
    def unscored(self) -> tuple[str, ...]:
        """Classes whose true masks say more than the model can."""
        return (*self.unknown, *self.lacking)

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

    labels: "unified" or "heads", as in the model's config. Of a task that was not trained, or with other classes, the
    classes are found by name: among the unified ones, or those of the head of its name. Without any task that is
    understood, the unified set is predicted, or that of the only head. Raises UserError where heads are told apart by a
    task that the study does not have.
    """
    known = {task.name: task for task in schema.tasks if task.on == stream.input}
    asked = {name: task for name, task in study.tasks.items() if task.kind == "segmentation" and task.on == input}
    own = [_own(name, task, known.get(name), labels, schema) for name, task in asked.items()]
    if found := tuple(filter(None, own)):
        return found
    if labels == "unified":
        return (Goal(UNIFIED, label_set(schema.unified), UNIFIED),)
    if len(known) == 1:
        return tuple(Goal(name, label_set(task.classes, task.values), name) for name, task in known.items())
    raise UserError(
        f"study {study.name!r} has no task of this model on input {input!r}, and its label sets are told apart by "
        f"task; name a study with one of: {', '.join(known) or '(none)'}"
    )


def scored_as(goal: Goal, study: Study, schema: Schema) -> TaskSpec | None:
    """The task as which masks of `goal` are scored: the model's of these classes, else the study's; None of a label set
    that is not the study's."""
    if not goal.own:
        return None
    classes = tuple(goal.classes.values())
    trained = next((task for task in schema.tasks if (task.name, task.classes) == (goal.task, classes)), None)
    return trained or _as_told(goal, study.tasks[goal.task])


def _as_told(goal: Goal, task: Task) -> TaskSpec:
    classes, regions = tuple(goal.classes.values()), {name: tuple(members) for name, members in task.regions.items()}
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
    known = list(_known(goal.logits, schema).values())
    if goal.members is None:
        return known
    return [tuple(name for member in members for name in known[member]) for members in goal.members]


def _known(logits: str, schema: Schema) -> dict[str, tuple[str, ...]]:
    """{class: the unified ones of which it consists, in one spelling}, of the network's task `logits`."""
    if logits == UNIFIED:
        return {name: (one_spelling(name),) for name in schema.unified}
    (task,) = (task for task in schema.tasks if task.name == logits)
    return {name: tuple(map(one_spelling, names)) for name, names in zip(task.classes, task.comprises)}


def alike(one: Sequence[str], other: Sequence[str]) -> bool:
    """The same classes and the same background, in whatever order and spelling."""
    first, second = (list(map(one_spelling, names)) for names in (one, other))
    return first[0] == second[0] and sorted(first) == sorted(second)


def _own(name: str, task: Task, trained: TaskSpec | None, labels: str, schema: Schema) -> Goal | None:
    """The label set of the study's `task`: as `trained`, or its classes by name; None where not one is known."""
    if trained is not None and alike(task.class_names, trained.classes):
        return Goal(name, _in_order(task, trained.classes), name, own=True)
    if labels == "unified":
        return _by_name(name, task, UNIFIED, _known(UNIFIED, schema))
    return None if trained is None else _by_name(name, task, name, _known(name, schema))


def _in_order(task: Task, classes: Sequence[str]) -> dict[int, str]:
    """{value: name} of the task, in the order of `classes`, and as these spell the names."""
    number = {one_spelling(name): value for value, name in label_set(task.class_names, task.class_values).items()}
    return {number[one_spelling(name)]: name for name in classes}


def _by_name(name: str, task: Task, logits: str, known: Mapping[str, Sequence[str]]) -> Goal | None:
    """A label set of its own on the classes of `logits`, {class: what it comprises}; None where none is known."""
    members = {one: _parts(task, one, known) for one in task.class_names[1:]}
    if not any(members.values()):
        return None
    rest = tuple(number for number in range(len(known)) if not any(number in one for one in members.values()))
    lacking = {one: missing for one, found in members.items() if (missing := _missing(task, one, found, known))}
    classes = label_set(task.class_names, task.class_values)
    return Goal(name, classes, logits, (rest, *members.values()), lacking, own=True)


def _parts(task: Task, name: str, known: Mapping[str, Sequence[str]]) -> tuple[int, ...]:
    """The classes of `known` of which the class `name` consists: by what both comprise, else the one of its name."""
    own, classes = {*task.comprises(name)}, list(enumerate(known.items()))
    found = tuple(number for number, (_, comprised) in classes if {*comprised} <= own)
    return found or tuple(number for number, (called, _) in classes if one_spelling(called) == one_spelling(name))


def _missing(task: Task, name: str, parts: Sequence[int], known: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Of what the class `name` consists of, what no class of `known` among `parts` comprises; none if one has its name,
    and none of a class that is unknown altogether."""
    found = [list(known.items())[number] for number in parts]
    if not found or any(one_spelling(called) == one_spelling(name) for called, _ in found):
        return ()
    comprised = {part for _, parts_of_one in found for part in parts_of_one}
    return tuple(part for part in task.comprises(name) if part not in comprised)
