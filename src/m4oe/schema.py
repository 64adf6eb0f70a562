"""A schema: what a network must know of its studies, and all it knows. Saved with every model as JSON.

Everything fitted to data (class priors, means of variables) comes from the training split alone.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from m4oe.study import Facts, InputKind, TaskKind


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
    form: image (C, H, W), volume (C, D, H, W) or vector (V,) · size: pixels to which a picture is brought ·
    laterality: pictures of right sides are mirrored; "told": the side must be told with each picture.
    """

    name: str
    input: str
    modality: str
    kind: InputKind
    form: Literal["image", "volume", "vector"]
    channels: int
    size: tuple[int, ...] = ()
    variables: tuple[Variable, ...] = ()
    laterality: Literal["left", "right", "told"] | None = None


class TaskSpec(Facts):
    """A task as the network sees it.

    classes: names in index order; of a multilabel task its labels; of a survival task its horizons as text ·
    prior: training prevalence, of the positive class (binary: 1 number), each label, each class, the cumulative
    risk at each horizon (Kaplan-Meier), or each class's share of pixels · weights: class weights for the loss,
    as many as classes (binary and survival: 2, negative then positive), mean 1 · values: cell or mask values.
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


class Schema(Facts):
    """Streams and tasks of all studies of a run, in a fixed order."""

    streams: tuple[Stream, ...]
    tasks: tuple[TaskSpec, ...]

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities, in order of first appearance: the M axis everywhere."""
        return tuple(dict.fromkeys(stream.modality for stream in self.streams))

    def task(self, name: str) -> TaskSpec:
        return next(task for task in self.tasks if task.name == name)

    def stream(self, name: str) -> Stream:
        return next(stream for stream in self.streams if stream.name == name)

    def streams_of(self, input: str) -> tuple[Stream, ...]:
        return tuple(stream for stream in self.streams if stream.input == input)
