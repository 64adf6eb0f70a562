"""A study: facts about data, read from one YAML file beside one table. No torch, no pixels.

The file is the whole data contract; docs/study.md shows it by example.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from m4oe.errors import UserError, from_validation
from m4oe.strict_yaml import StrictLoader

InputKind = Literal["mammogram", "xray", "ct", "mr", "ultrasound", "photo", "oct", "pathology", "table", "other"]
TaskKind = Literal["binary", "multiclass", "multilabel", "ordinal", "survival", "segmentation"]
Cell = str | int | float | bool
LARGEST_LABEL = 65535  # masks are written in two bytes at most


def is_plain_name(name: str) -> bool:
    """Whether `name` can name a stream, a task, a file and a parameter alike."""
    return bool(name) and not set(name) & set("@/\\,:. \t\n")


def one_spelling(name: str) -> str:
    """The class `name` as all who mean it spell it: `Left kidney`, `left-kidney` and `LEFT_KIDNEY` are left_kidney."""
    return "_".join(re.findall(r"[^\s_-]+", name.casefold())) or name


class Facts(BaseModel):
    """Frozen, and closed: a key that is not known is an error, not a silence."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModalityColumn(Facts):
    """The column that says, row by row, of which modality a picture is."""

    column: str


class Input(Facts):
    """One picture (or one set of plain variables) of an exam.

    `modality` decides which experts it uses; `kind` is its physics and decides how it is read and normalised.
    A list in `column` stacks co-registered images as channels. `where` picks rows of the table.
    """

    column: str | list[str] | None = None
    columns: list[str] = []
    where: dict[str, Cell] = {}
    modality: str | ModalityColumn
    kind: InputKind
    laterality: str | None = None

    @model_validator(mode="after")
    def _columns_fit_kind(self) -> Input:
        if self.kind == "table" and not (self.columns and self.column is None):
            raise ValueError("an input of kind 'table' needs 'columns: [a, b]', and no 'column'")
        if self.kind == "table" and not isinstance(self.modality, str):
            raise ValueError("an input of kind 'table' has one modality, written as a name")
        if self.kind != "table" and (self.columns or not self.column):
            raise ValueError(f"an input of kind {self.kind!r} needs 'column', and no 'columns'")
        return self

    @property
    def paths(self) -> tuple[str, ...]:
        """Columns that hold paths: several are channels of one picture."""
        if self.column is None:
            return ()
        return (self.column,) if isinstance(self.column, str) else tuple(self.column)


class Task(Facts):
    """One thing to predict. Which keys are needed depends on `kind`; an empty cell is a missing label.

    Of a segmentation: `ignore` is a mask value whose pixels count for nothing · `synonyms` say what a class is called
    elsewhere, {hepar: liver}, or which classes of other studies it comprises, {kidneys: [left_kidney, right_kidney]} ·
    `fix` says what to do with a mask that does not lie on its picture's grid.
    """

    kind: TaskKind
    column: str | None = None
    columns: list[str] = []
    classes: list[Cell] | dict[Cell, str] | None = None
    regions: dict[str, list[str]] = {}
    synonyms: dict[str, str | list[str]] = {}
    ignore: int | None = None
    fix: Literal["resample", "copy_affine"] | None = None
    on: str | None = None
    time: str | None = None
    event: str | None = None
    horizons: list[float] = []

    @model_validator(mode="after")
    def _keys_fit_kind(self) -> Task:
        _require(self, _NEEDS[self.kind])
        names = self.class_names
        if self.kind in ("multiclass", "ordinal", "segmentation") and len(names) < 2:
            raise ValueError(f"a {self.kind} task needs at least two 'classes'")
        if self.kind == "binary" and len(names) != 2:
            raise ValueError("a binary task has exactly two 'classes' (the second is the positive one)")
        if len(set(names)) < len(names):
            raise ValueError(f"'classes' names a class twice: {', '.join(names)}")
        if self.kind == "segmentation" and (pair := _same(names)):
            raise ValueError(
                f"'classes' names one class twice, {pair[0]!r} and {pair[1]!r}: case, spaces, '_' and '-' do not tell "
                "classes apart; rename one"
            )
        if self.kind == "segmentation":
            _check_mask_values(self.class_values)
        for region, members in self.regions.items():
            _check_region(region, members, names)
        for name in self.synonyms:
            if name not in names[1:]:
                raise ValueError(f"'synonyms' names {name!r}, which is no class but the background of 'classes'")
        if self.ignore is not None and self.ignore in self.class_values:
            raise ValueError(f"'ignore' is {self.ignore}, which is a class as well")
        if self.horizons and (self.horizons != sorted(set(self.horizons)) or self.horizons[0] <= 0):
            raise ValueError("'horizons' must be positive and increasing, in years")
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in index order; of a multilabel task its labels, of a survival task none."""
        if self.kind == "multilabel":
            return tuple(self.columns)
        if self.kind == "survival":
            return ()
        if self.kind == "binary" and self.classes is None:
            return ("0", "1")
        return tuple(
            str(name) for name in (self.classes.values() if isinstance(self.classes, dict) else self.classes or ())
        )

    def comprises(self, name: str) -> tuple[str, ...]:
        """What the class `name` is across studies, in one spelling: itself, its synonym, or the classes of which it
        consists."""
        return tuple(map(one_spelling, self.called(name)))

    def called(self, name: str) -> tuple[str, ...]:
        """As `comprises`, but as the study file spells it."""
        others = self.synonyms.get(name, name)
        return (others,) if isinstance(others, str) else tuple(others)

    @property
    def class_values(self) -> tuple[Cell, ...]:
        """Cell values (of a mask: pixel values) in index order, as the study file writes them."""
        if isinstance(self.classes, dict):
            return tuple(self.classes)
        if self.kind == "segmentation" or self.classes is None:
            return tuple(range(len(self.class_names)))
        return tuple(self.classes)


def _check_mask_values(values: Sequence[Cell]) -> None:
    for value in values:
        if not str(value).isdecimal() or int(value) > LARGEST_LABEL:
            raise ValueError(
                f"'classes' names the value {value!r}; values of a mask are whole numbers from 0 to {LARGEST_LABEL}"
            )


def _check_region(region: str, members: Sequence[str], names: Sequence[str]) -> None:
    if not members:
        raise ValueError(f"region {region!r} names no class")
    if missing := [name for name in members if name not in names]:
        raise ValueError(f"region {region!r} names {missing[0]!r}, which is not among 'classes'")
    if region in names:
        raise ValueError(
            f"region {region!r} has the name of a class, which is scored by itself; rename the region, or leave it out"
        )


_NEEDS: Mapping[str, tuple[str, ...]] = {
    "binary": ("column",),
    "multiclass": ("column", "classes"),
    "ordinal": ("column", "classes"),
    "multilabel": ("columns",),
    "survival": ("time", "event", "horizons"),
    "segmentation": ("column", "on", "classes"),
}
_MAY = {"binary": ("classes",), "segmentation": ("regions", "synonyms", "ignore", "fix")}


def _same(names: Sequence[str]) -> tuple[str, str] | None:
    """The first two of `names` that are one class."""
    return next((pair for pair in combinations(names, 2) if len(set(map(one_spelling, pair))) == 1), None)


def _require(task: Task, needed: tuple[str, ...]) -> None:
    for key in filter("kind".__ne__, Task.model_fields):
        given = getattr(task, key) not in (None, "", [], {})
        if key in needed and not given:
            raise ValueError(f"a {task.kind} task needs '{key}'")
        if given and key not in needed and key not in _MAY.get(task.kind, ()):
            raise ValueError(f"a {task.kind} task has no '{key}'")


class Split(Facts):
    """How patients are parted: `fractions` (train, validation, test), a `column` that says, k `folds`, or `leave_out`,
    a column of `groups` each of whose values is left out of training once, and tested."""

    seed: int = 0
    fractions: tuple[float, float, float] | None = None
    column: str | None = None
    folds: int | None = Field(default=None, ge=2)
    leave_out: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Split:
        if sum(way is not None for way in (self.fractions, self.column, self.folds, self.leave_out)) > 1:
            raise ValueError("give one of 'fractions', 'column', 'folds' and 'leave_out'")
        if self.fractions and (abs(sum(self.fractions) - 1) > 1e-6 or min(self.fractions) < 0):
            raise ValueError("'fractions' are three shares (train, validation, test) that sum to 1")
        return self


class Study(Facts):
    """One study file, validated. `folder` is where it lies; paths in it start there."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    table: str
    root: str = "."
    exam: str | None = None
    patient: str | None = None
    missing_files: Literal["error", "absent"] = "error"
    inputs: dict[str, Input] = Field(min_length=1)
    tasks: dict[str, Task] = Field(min_length=1)
    split: Split = Split(fractions=(0.7, 0.15, 0.15))
    groups: list[str] = []
    folder: Path = Path()

    @model_validator(mode="after")
    def _names_agree(self) -> Study:
        modalities = [source.modality for source in self.inputs.values() if isinstance(source.modality, str)]
        for name in [*self.inputs, *self.tasks, *modalities]:
            if not is_plain_name(name):
                raise ValueError(f"the name {name!r} may hold no '@', '/', '.', ',', ':' or space")
        for name, task in self.tasks.items():
            if task.on is not None and (task.on not in self.inputs or self.inputs[task.on].kind == "table"):
                pictures = [key for key, value in self.inputs.items() if value.kind != "table"]
                raise ValueError(f"task {name!r} lies on {task.on!r}, which is no picture input: {', '.join(pictures)}")
        return self

    @model_validator(mode="after")
    def _left_out_is_a_group(self) -> Study:
        column = self.split.leave_out
        if column is not None and column not in self.groups:
            named = ", ".join([*self.groups, column])
            raise ValueError(f"'split' leaves out {column!r}, which is not among 'groups'; write groups: [{named}]")
        return self

    @property
    def root_folder(self) -> Path:
        return self.folder / self.root

    @property
    def table_path(self) -> Path:
        return self.folder / self.table


def load_study(path: Path | str) -> Study:
    """The study in the YAML file `path`.

    Raises UserError for a file that is absent, not YAML, or not a study.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such study file; 'm4oe init TABLE' writes one")
    try:
        content = StrictLoader(path.read_text(encoding="utf-8")).get_single_data()
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f", line {where.line + 1}" if where else ""
        raise UserError(f"{path}{line}: not readable as YAML{f': {problem}' if problem else ''}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: a study is a mapping with 'name', 'table', 'inputs' and 'tasks'")
    return parse_study(content, path)


def parse_study(content: dict[str, object], path: Path) -> Study:
    """The study in `content`, as read from `path` (for messages, and as the place where its paths start)."""
    try:
        return Study.model_validate({**content, "folder": path.parent})
    except ValidationError as error:
        keys = {key for model in (Study, Input, Task, Split, ModalityColumn) for key in model.model_fields}
        raise from_validation(error, str(path), keys - {"folder"}) from None
