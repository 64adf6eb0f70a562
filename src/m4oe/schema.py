"""A schema: what a network must know of its studies, and all it knows. Saved with every model as JSON.

Everything fitted to data (class priors, means of variables) comes from the training split alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from m4oe.errors import UserError
from m4oe.study import Facts, InputKind, TaskKind, one_spelling


class Variable(Facts):
    """A plain variable: a number (`mean`, `sd` of the training split) or a category (`categories`)."""

    column: str
    mean: float = 0.0
    sd: float = 1.0
    categories: tuple[str, ...] | None = None

    @property
    def width(self) -> int:
        """Numbers it takes in the input vector: value and presence, or one for each category."""
        return 2 if self.categories is None else len(self.categories)


class Stream(Facts):
    """An input of one modality: the unit that a network encodes.

    name: the input's name, or "input@modality" where an input's modality differs from row to row ·
    form: image (C, H, W), volume (C, D, H, W), vector (V,), or slices: (C, H, W) at a time, of an image or a volume,
    prepared by the schema's plan, with neighbours as further channels · size: pixels to which a picture is brought ·
    laterality: pictures of right sides are mirrored; "told": the side must be told with each picture.
    """

    name: str
    input: str
    modality: str
    kind: InputKind
    form: Literal["image", "volume", "vector", "slices"]
    channels: int
    size: tuple[int, ...] = ()
    variables: tuple[Variable, ...] = ()
    laterality: Literal["left", "right", "told"] | None = None


class TaskSpec(Facts):
    """A task as the network sees it.

    classes: names in index order; of a multilabel task its labels; of a survival task its horizons as text ·
    prior: training prevalence, of the positive class (binary: 1 number), each label, each class, the cumulative
    risk at each horizon (Kaplan-Meier), or each class's share of pixels · weights: class weights for the loss,
    as many as classes (binary and survival: 2, negative then positive), mean 1 · values: cell or mask values ·
    ignore: mask value that counts for nothing · comprises: of each class, its names in the unified label set, as
    `study.Task.comprises` spells them.
    """

    name: str
    kind: TaskKind
    classes: tuple[str, ...]
    values: tuple[str | int | float | bool, ...] = ()
    regions: dict[str, tuple[str, ...]] = Field(default={})
    on: str | None = None
    horizons: tuple[float, ...] = ()
    prior: tuple[float, ...]
    weights: tuple[float, ...]
    ignore: int | None = None
    comprises: tuple[tuple[str, ...], ...] = ()


class Preparation(Facts):
    """How the pictures of a stream become slices.

    slice_axis: of (D, H, W), the axis along which slices are stacked · spacing: mm between rows and between columns of
    a slice as the network sees it; None where no spacing serves all: each slice is then scaled to fit the plan's size ·
    low, high: ends to which values are clipped; None: not clipped · mean, sd: what is subtracted and divided by; None:
    each volume's own, within its foreground.
    """

    slice_axis: Literal[0, 1, 2] = 0
    spacing: tuple[float, float] | None = None
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    sd: float | None = None


class Plan(Facts):
    """How volumes become slices: plan.json of a run, written before training, readable and editable.

    size: rows and columns of a training slice · context: neighbouring slices on either side, as channels ·
    found: what of the training split led to it, for people; nothing reads it.
    """

    size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    context: int = Field(default=0, ge=0)
    streams: dict[str, Preparation]
    found: dict[str, dict[str, object]] = Field(default={})


class Schema(Facts):
    """Streams and tasks of all studies of a run, in a fixed order."""

    streams: tuple[Stream, ...]
    tasks: tuple[TaskSpec, ...]
    plan: Plan | None = None

    @property
    def unified(self) -> tuple[str, ...]:
        """Class names of all segmentation tasks as one label set, background first, in order of first appearance."""
        named = (name for task in self.tasks for names in task.comprises[1:] for name in names)
        return tuple(dict.fromkeys(("background", *named)))

    def meant(self, names: Sequence[str]) -> frozenset[str]:
        """The classes, in the one spelling of the unified set, that `names` mean: theirs, or what a task calls so. A
        class that comprises several is none of them."""
        asked = frozenset(map(one_spelling, names))
        rows = [row for task in self.tasks for row in list(zip(task.classes, task.comprises))[1:]]
        return asked | {one_spelling(own[0]) for name, own in rows if len(own) == 1 and one_spelling(name) in asked}

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities, in order of first appearance: the M axis everywhere."""
        return tuple(dict.fromkeys(stream.modality for stream in self.streams))

    def grown(self, new: Schema) -> Schema:
        """This schema with the streams and tasks of `new` that it does not have, behind its own.

        Raises UserError for a task of one name whose classes differ.
        """
        own, taken = {(s.input, s.modality) for s in self.streams}, {s.name for s in self.streams}
        streams = [
            s.model_copy(update={"name": f"{s.input}@{s.modality}"}) if s.name in taken else s
            for s in new.streams
            if (s.input, s.modality) not in own
        ]
        for task in new.tasks:
            known = next((each for each in self.tasks if each.name == task.name), task)
            if (known.classes, known.on, known.comprises) != (task.classes, task.on, task.comprises):
                raise UserError(f"task {task.name!r} has other classes in the model that is grown; name it otherwise")
        names = {task.name for task in self.tasks}
        tasks = [task for task in new.tasks if task.name not in names]
        return self.model_copy(update={"streams": (*self.streams, *streams), "tasks": (*self.tasks, *tasks)})

    def shape(self, stream: Stream) -> tuple[int, ...]:
        """Of a picture or vector of `stream` as a network takes it: channels with those of neighbours, and size."""
        neighbours = 2 * self.plan.context if self.plan and stream.form == "slices" else 0
        return (stream.channels * (1 + neighbours), *stream.size)

    def task(self, name: str) -> TaskSpec:
        return next(task for task in self.tasks if task.name == name)

    def stream(self, name: str) -> Stream:
        return next(stream for stream in self.streams if stream.name == name)

    def streams_of(self, input: str) -> tuple[Stream, ...]:
        return tuple(stream for stream in self.streams if stream.input == input)
