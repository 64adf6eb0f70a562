"""The trainings of a comparison: which there are, where each lives, which of several candidates goes on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from m4oe.artifact import write_text
from m4oe.compare.comparison import Comparison
from m4oe.compare.variants import Variant
from m4oe.config import Config
from m4oe.errors import UserError
from m4oe.study import Study
from m4oe.tasks import KINDS
from m4oe.train.resume import absolute_study


@dataclass(frozen=True)
class Training:
    """One run folder. task and input: of variants that are trained apart · rate: where learning rates are tried."""

    variant: str
    seed: int
    task: str = ""
    input: str = ""
    rate: float | None = None

    @property
    def place(self) -> Path:
        """Its folder within the comparison."""
        rate = "" if self.rate is None else f"lr_{self.rate:g}"
        return Path("runs", self.variant, f"seed_{self.seed}", *filter(None, (self.task, self.input, rate)))

    def __str__(self) -> str:
        return str(self.place.relative_to("runs"))

    @property
    def slot(self) -> tuple[str, str]:
        """What has one model in the end: a variant, or a task of a variant that is trained apart."""
        return self.variant, self.task

    def config(self, comparison: Comparison, variant: Variant, kind: str) -> Config:
        """kind: of model, told by all tasks together, which one of them alone might tell otherwise."""
        rate = [] if self.rate is None else [f"train.learning_rate={self.rate!r}"]
        own = [*variant.overrides, f"model.kind={kind}", *rate, f"train.seed={self.seed}"]
        config = comparison.config_of(own)
        if self.task and isinstance(config.train.task_weights, dict):
            own.append("train.task_weights={}")  # of tasks among each other
        if self.task and config.model.fusion.head_start:
            own.append("model.fusion.head_start={}")
        return comparison.config_of(own)


def candidates(name: str, variant: Variant, comparison: Comparison, studies: Sequence[Study]) -> list[Training]:
    """All that is tried of a variant with the first seed."""
    first, rates = Training(name, comparison.seeds[0]), comparison.learning_rates or (None,)
    places = [(task, source) for task in _tasks(studies) for source in _inputs(studies, task)]
    if variant.apart == "task_and_input":
        starts = [replace(first, task=task, input=source) for task, source in places]
    elif variant.apart == "task":
        starts = [replace(first, task=task) for task in _tasks(studies)]
    else:
        starts = [first]
    return [replace(start, rate=rate) for start in starts for rate in rates]


def _tasks(studies: Sequence[Study]) -> list[str]:
    return list(dict.fromkeys(name for study in studies for name in study.tasks))


def _inputs(studies: Sequence[Study], task: str) -> list[str]:
    """Inputs from which `task` may be told: of a segmentation the one that its mask lies on."""
    having = [study for study in studies if task in study.tasks]
    allowed = ((study.tasks[task].on, name) for study in having for name in study.inputs)
    return list(dict.fromkeys(name for on, name in allowed if on in (None, name)))


def write_studies(training: Training, studies: Sequence[Study], out: Path) -> tuple[Path, ...]:
    """Files of the studies that `training` sees: those of the comparison, or what is left of them for its task and
    input."""
    parts = list(filter(None, (training.task, training.input)))
    folder = out / Path("studies", *parts)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for study in (part for part in (_left(study, training) for study in studies) if part is not None):
        paths.append(folder / f"{study.name}.yaml")
        write_text(paths[-1], absolute_study(study))
    return tuple(paths)


def _left(study: Study, training: Training) -> Study | None:
    tasks = {name: task for name, task in study.tasks.items() if training.task in ("", name)}
    inputs = {name: source for name, source in study.inputs.items() if training.input in ("", name)}
    return study.model_copy(update={"tasks": tasks, "inputs": inputs}) if tasks and inputs else None


def choose(candidates: Iterable[Training], out: Path) -> dict[tuple[str, str], Training]:
    """Of each slot the candidate that is best on the validation split, the earlier of equals."""
    best: dict[tuple[str, str], tuple[float, Training]] = {}
    for training in candidates:
        score = validation_score(out / training.place)
        if training.slot not in best or score > best[training.slot][0]:
            best[training.slot] = score, training
    return {slot: training for slot, (_, training) in best.items()}


def validation_score(run: Path) -> float:
    """Mean over folds and tasks of the primary metric on the validation split; one that is undefined counts as 0."""
    scores = [score for folder in places(run) for score in _scores(folder)]
    return sum(scores) / len(scores) if scores else 0.0


def _scores(folder: Path) -> list[float]:
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8")).get("validation", {})
    tasks = facts_of(folder)["schema"]["tasks"]
    primary = {task["name"]: KINDS[task["kind"]].primary_metric for task in tasks}
    return [metrics.get(name, {}).get(metric, {}).get("value", 0.0) for name, metric in primary.items()]


def places(run: Path) -> list[Path]:
    """The folders that hold a model: those of the folds, or the run itself."""
    return sorted(path for path in run.glob("fold_*") if path.is_dir()) or [run]


def facts_of(folder: Path) -> Mapping[str, Any]:
    """model/config.json of a run or fold. Raises UserError where there is none."""
    path = folder / "model" / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: {folder} holds no finished run; 'm4oe train' makes one") from None
    except ValueError:
        raise UserError(f"{path}: damaged: not JSON; train again") from None
