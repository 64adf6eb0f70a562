"""What a run folder says, as far as it is there: tables, means, settings. Reads files, draws nothing.

A file that is absent is None (an empty log, an empty mapping); a file that is damaged is a UserError.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pydantic import ValidationError

from m4oe.data.volumes.plan import read_plan
from m4oe.errors import UserError
from m4oe.masks import mask_name
from m4oe.report.words import name_metrics, plain
from m4oe.schema import Plan, Schema, Stream, TaskSpec
from m4oe.study import Study, Task, load_study

KEY = ["study", "exam"]
_COLUMNS = {
    "splits": ("study", "exam", "patient", "split", "fold"),
    "predictions": ("study", "exam", "patient", "split", "fold", "inputs", "task", "class", "target", "probability"),
    "cases": ("study", "exam", "patient", "split", "fold", "task", "class", "dice", "iou", "hd95", "nsd", "outcome"),
    "contributions": ("study", "exam", "task", "class", "input", "modality", "measure", "value"),
}
_NUMBERS = ("target", "probability", "dice", "iou", "hd95", "nsd", "value")


@dataclass(frozen=True)
class RunFolder:
    """A run folder, read. `facts` is model/config.json; `folds` are the folders of a cross-validated run."""

    path: Path
    studies: tuple[Study, ...]
    facts: dict[str, Any]
    config: dict[str, Any]
    environment: dict[str, Any]
    splits: pd.DataFrame | None
    predictions: pd.DataFrame | None
    cases: pd.DataFrame | None
    contributions: pd.DataFrame | None
    metrics: dict[str, Any] | None
    routing: dict[str, Any] | None
    plan: Plan | None = None
    growth: dict[str, Any] | None = None
    log: list[dict[str, Any]] = field(default_factory=list)

    @cached_property
    def tasks(self) -> tuple[TaskSpec, ...]:
        """From the model's schema; without a model, as far as the studies tell (no priors)."""
        merged = {name: task for study in self.studies for name, task in study.tasks.items()}
        known = [_spec(*entry) for entry in merged.items()] if self.schema is None else self.schema.tasks
        return tuple(task.model_copy(update={"classes": _in_words(task)}) for task in known)

    @cached_property
    def streams(self) -> tuple[Stream, ...]:
        return self.schema.streams if self.schema is not None else ()

    @cached_property
    def schema(self) -> Schema | None:
        try:
            return Schema.model_validate(self.facts["schema"]) if "schema" in self.facts else None
        except ValidationError:
            raise UserError(f"{self.path / 'model' / 'config.json'}: damaged: its schema cannot be read") from None

    @property
    def segmenter(self) -> bool:
        """Whether the model takes slices; nothing is explained of such a one."""
        model = self.facts.get("model") or self.config.get("model") or {}
        return model.get("kind") == "segmenter"

    @property
    def refitted(self) -> bool:
        """Whether the model has learned from the validation exams, too."""
        return bool(self.facts.get("refitted", False))

    @property
    def model_place(self) -> Path | None:
        """The folder of the model, of a cross-validated run that of the first fold."""
        return next((folder for folder in self._places("model") if (folder / "config.json").is_file()), None)

    @property
    def split(self) -> str | None:
        """The split that figures are drawn on: test where there is one."""
        tables = [table for table in (self.predictions, self.cases) if table is not None and len(table)]
        known = {split for table in tables for split in table["split"].unique()}
        return next((name for name in ("test", "validation", "train", *sorted(known)) if name in known), None)

    @property
    def withheld(self) -> dict[str, str]:
        """{task: why its contributions are not shown}."""
        reasons = {**self.facts.get("withheld", {}), **(self.routing or {}).get("withheld", {})}
        return {task: name_metrics(reason) for task, reason in reasons.items()}

    @property
    def parameters(self) -> int | None:
        """Numbers in the model's weights, from the header of the file."""
        return next((count for folder in self._places("model") if (count := _count_parameters(folder))), None)

    def mask(self, study: str, exam: str, task: str) -> Path | None:
        """The predicted mask of an exam."""
        names = [f"{mask_name(of, exam, task)}{end}" for of in (study, None) for end in (".png", ".nii.gz")]
        files = (folder / name for folder in self._places("masks") for name in names)
        return next((file for file in files if file.is_file()), None)

    def _places(self, name: str) -> list[Path]:
        return [folder / name for folder in places(self.path)]


def places(run: Path) -> list[Path]:
    """The run, then its folds."""
    return [run, *sorted(path for path in run.glob("fold_*") if path.is_dir())]


def read_run(path: Path) -> RunFolder:
    """The run folder `path`. Raises UserError where it is none, or a file in it is damaged."""
    if not path.is_dir():
        raise UserError(f"{path}: no such run folder; 'm4oe train STUDY -o {path}' makes one")
    run = RunFolder(
        path=path,
        studies=tuple(load_study(file) for file in sorted((path / "studies").glob("*.y*ml"))),
        facts=_first(path, "model/config.json", _json) or {},
        config=_first(path, "config.yaml", _yaml) or {},
        environment=_first(path, "environment.json", _json) or {},
        splits=_table(path, "splits"),
        predictions=_table(path, "predictions"),
        cases=_table(path, "cases"),
        contributions=_table(path, "contributions"),
        metrics=_json(path / "metrics.json"),
        routing=_first(path, "routing.json", _json),
        plan=_first(path, "plan.json", lambda file: read_plan(file) if file.is_file() else None),
        growth=_first(path, "growth.json", _json),
        log=list(_log(path)),
    )
    if run.splits is None and run.predictions is None and run.metrics is None and not run.log and not run.facts:
        raise UserError(
            f"{path}: holds no m4oe run (no splits.csv, log.jsonl, model/, predictions.csv or metrics.json)"
        )
    tables = {name: _named(getattr(run, name), run.tasks) for name in ("predictions", "contributions")}
    return replace(run, **tables)


def _first(run: Path, name: str, read: Callable[[Path], Any]) -> Any:
    return next((found for place in places(run) if (found := read(place / name)) is not None), None)


def _table(run: Path, name: str) -> pd.DataFrame | None:
    """The pooled table, or the folds' tables one after the other. Only an empty cell is missing: 'NA' may be an id."""
    files = [run / f"{name}.csv"]
    if not files[0].is_file():
        files = [file for place in places(run)[1:] if (file := place / f"{name}.csv").is_file()]
    frames = [_csv(file, _COLUMNS[name]) for file in files if file.is_file()]
    table = pd.concat(frames, ignore_index=True) if frames else None
    if table is not None and name == "contributions":  # routing is of a modality, not of one of its inputs
        table["input"] = table["input"].where(table["input"] != "", table["modality"])
    return table


def _csv(file: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    try:
        frame = pd.read_csv(file, dtype=str, keep_default_na=False)
        for column in _NUMBERS:
            if column in frame:
                frame[column] = pd.to_numeric(frame[column].where(frame[column] != ""))
    except (ValueError, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise UserError(f"{file}: damaged: {str(error).splitlines()[0]}; make it again with 'm4oe evaluate'") from None
    if missing := [column for column in columns if column not in frame]:
        raise UserError(f"{file}: has no column {missing[0]!r}; make it again with 'm4oe evaluate'")
    return frame


def _json(file: Path) -> dict[str, Any] | None:
    return _mapping(file, json.loads)


def _yaml(file: Path) -> dict[str, Any] | None:
    return _mapping(file, yaml.safe_load)


def _mapping(file: Path, parse: Callable[[str], Any]) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        content = parse(file.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{file}: damaged; restore it, or run the command that wrote it again")
    return content


def _log(run: Path) -> Iterator[dict[str, Any]]:
    """Lines of log.jsonl, of a cross-validated run with their `fold`; a last line cut short is no line."""
    for place in places(run):
        fold = place.name.removeprefix("fold_") if place != run else ""
        file = place / "log.jsonl"
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
            try:
                content = json.loads(line)
            except ValueError:
                continue
            if isinstance(content, dict):
                yield {**content, "fold": fold}


def _count_parameters(folder: Path) -> int:
    from safetensors import SafetensorError, safe_open

    file = folder / "model.safetensors"
    try:
        with safe_open(file, framework="numpy") as weights:
            shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
    except (OSError, SafetensorError):
        return 0
    return sum(_product(shape) for shape in shapes)


def _product(shape: list[int]) -> int:
    return shape[0] * _product(shape[1:]) if shape else 1


def _spec(name: str, task: Task) -> TaskSpec:
    classes = task.class_names or tuple(f"{horizon:g}" for horizon in task.horizons)
    shared = {"regions": {key: tuple(value) for key, value in task.regions.items()}, "on": task.on}
    return TaskSpec(
        name=name, kind=task.kind, classes=classes, values=task.class_values if task.kind != "survival" else (),
        horizons=tuple(task.horizons), prior=(), weights=(), **shared,
    )  # fmt: skip


def _in_words(task: TaskSpec) -> tuple[str, ...]:
    """Classes with names: those of a binary task that its study calls by nothing but 0 and 1 take the task's name."""
    bare = task.kind == "binary" and task.classes == ("0", "1")
    return (f"not {plain(task.name)}", plain(task.name)) if bare else task.classes


def _named(table: pd.DataFrame | None, tasks: Iterable[TaskSpec]) -> pd.DataFrame | None:
    """A table that calls the positive class of binary tasks as `tasks` do."""
    if table is None:
        return None
    positive = {task.name: task.classes[1] for task in tasks if task.kind == "binary"}
    bare = (table["class"] == "1") & table["task"].isin(positive)
    return table.assign(**{"class": table["class"].where(~bare, table["task"].map(positive))})
