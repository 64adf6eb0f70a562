"""Predicting whole exams: encoded once, decided, and explained from the tokens that are there already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from m4oe.artifact import Artifact
from m4oe.batch import Prediction, Tokens
from m4oe.contributions import evidence_values, routing_values, shapley_values
from m4oe.data.dataset import ExamDataset, Sample, collate, exam_sample
from m4oe.errors import UserError
from m4oe.masks import Mask, mask_of
from m4oe.moe.losses import effective_tokens
from m4oe.predict.goals import alike
from m4oe.predict.part import CASE_COLUMNS, CONTRIBUTION_COLUMNS, PREDICTION_COLUMNS, Answer, Part, case_rows
from m4oe.schema import Schema, TaskSpec
from m4oe.study import Study
from m4oe.tasks import KINDS


class Predictor:
    """A trained model, ready. `explain` adds contributions, for all tasks but those withheld."""

    takes_any_scan = False  # its encoders are of modalities

    def __init__(self, artifact: Artifact, device: torch.device | str = "cpu") -> None:
        self.artifact, self.schema = artifact, artifact.schema
        self.device = torch.device(device)
        self.network = artifact.network.to(self.device).eval()

    def predict(
        self, inputs: Mapping[str, Any], *, sides: Mapping[str, str] | None = None, explain: bool = True
    ) -> Answer:
        """The answer for one exam, e.g. predict({"left_mlo": "a.png", "history": {"age": 61}}).

        A picture is a path, a list of paths (channels) or an array; what is left out is absent. sides {input: "left"
        or "right"}: needed for inputs that have a laterality in the study.
        Raises UserError for an unknown input, for a side that is not told and for a file that cannot be read.
        """
        part = self.part([exam_sample(inputs, self.schema, sides)], explain=explain)
        probabilities: dict[str, dict[str, float]] = {}
        for row in part.predictions.dropna(subset="probability").itertuples():
            probabilities.setdefault(row.task, {})[row[8]] = float(row.probability)
        contributions: dict[str, Any] = {}
        for task, name, input, modality, measure, value in part.contributions.iloc[:, 2:].itertuples(index=False):
            place = contributions.setdefault(task, {}).setdefault(name, {}).setdefault(measure, {})
            place[input or modality] = float(value)
        masks = {mask.task: mask.labels for mask in part.masks}
        return Answer(probabilities, contributions, masks, self.artifact.withheld)

    def stream(
        self, dataset: ExamDataset, *, batch_size: int = 32, explain: bool = True, workers: int = 0
    ) -> Iterator[Part]:
        """A Part for each batch of `dataset`, whose frame of rows may hold `split` and `fold`."""
        loader = torch.utils.data.DataLoader(
            _Isolated(dataset), batch_size=batch_size, collate_fn=list, num_workers=workers
        )
        for entries in loader:
            samples = [entry for entry in entries if not isinstance(entry, _Failure)]
            failed = {entry.exam: entry.reason for entry in entries if isinstance(entry, _Failure)}
            if not samples:
                yield Part(failed=failed)
                continue
            part = self.part(samples, explain=explain)
            cases = pd.DataFrame(_cases(part, samples, dataset), columns=CASE_COLUMNS)
            yield replace(part, cases=cases, failed=failed)

    @torch.no_grad()
    def part(self, samples: Sequence[Sample], *, explain: bool = True) -> Part:
        """One batch: encode once, decide, and value coalitions of the tokens that are there already."""
        batch = collate(samples).to(self.device)
        tokens = self.network.encode(batch)
        prediction = self.network.decide(tokens, batch.inputs)
        contributions = self._contributions(samples, tokens, batch.inputs, prediction) if explain else []
        shared = prediction.routing.get("shared")
        return Part(
            self.table(samples, prediction),
            pd.DataFrame(contributions, columns=CONTRIBUTION_COLUMNS),
            masks=self._masks(samples, prediction),
            joint=None if shared is None else shared.joint.cpu().numpy(),
            effective_tokens=None if shared is None else float(effective_tokens(shared.dispatch, tokens.present)),
        )

    def scored(self, dataset: ExamDataset) -> list[TaskSpec]:
        """The tasks that only the studies have: none, masks are of the classes that were trained.

        Raises UserError for a study that has other ones.
        """
        for cohort in dataset.cohorts.values():
            _refuse_other_classes(cohort.study, self.schema)
        return []

    def table(self, samples: Sequence[Sample], prediction: Prediction) -> pd.DataFrame:
        """What `prediction` says of `samples`, as it stands in predictions.csv."""
        return pd.DataFrame(self._predictions(samples, prediction), columns=PREDICTION_COLUMNS)

    def _predictions(self, samples: Sequence[Sample], prediction: Prediction) -> Iterator[tuple[Any, ...]]:
        heads = [(*_head(sample), _inputs_of(sample, self.schema)) for sample in samples]
        for task in self.schema.tasks:
            form = KINDS[task.kind].rows
            if form is None:
                continue
            logits = prediction.logits[task.name].values.float()
            shown = form.to_probabilities(task, KINDS[task.kind].probabilities(task, logits).cpu().numpy())
            truth = form.to_targets(task, _targets(task, samples))
            for head, target, probability in zip(heads, truth, shown):
                for name, t, p in zip(form.names(task), target, probability):
                    yield (*head, task.name, name, t, p)

    def _contributions(
        self, samples: Sequence[Sample], tokens: Tokens, pictures: Any, prediction: Prediction
    ) -> Iterator[tuple[Any, ...]]:
        measures = {
            "shapley": shapley_values(self.network, tokens, pictures, self.schema),
            "evidence": evidence_values(prediction, self.schema),
        }
        routing = routing_values(prediction)
        for number, task in enumerate(self.schema.tasks):
            if task.name in self.artifact.withheld:
                continue
            names = KINDS[task.kind].score_names(task)
            for b, sample in enumerate(samples):
                head = (sample.study, sample.exam, task.name)
                for measure, found in measures.items():
                    if task.name in found and np.isfinite(found[task.name][b]).all():
                        yield from self._by_input(head, names, measure, found[task.name][b], sample, task)
                for m, modality in enumerate(self.schema.modalities if routing is not None else ()):
                    yield from ((*head, name, "", modality, "routing", routing[b, number, m]) for name in names[-1:])

    def _by_input(
        self,
        head: tuple[Any, ...],
        names: Sequence[str],
        measure: str,
        values: np.ndarray,
        sample: Sample,
        task: TaskSpec,
    ) -> Iterator[tuple[Any, ...]]:
        for i, stream in enumerate(self.schema.streams):
            plays = stream.name in sample.inputs and not (measure == "shapley" and stream.input == task.on)
            for c, name in enumerate(names if plays else ()):
                yield (*head, name, stream.input, stream.modality, measure, values[i, c])

    def _masks(self, samples: Sequence[Sample], prediction: Prediction) -> list[Mask]:
        masks = []
        for task in self.schema.tasks:
            if KINDS[task.kind].rows is None:
                rows = prediction.logits[task.name]
                for scores, b in zip(rows.values.float().cpu().numpy(), rows.index.tolist()):
                    stream = next(s.name for s in self.schema.streams_of(task.on) if s.name in samples[b].inputs)
                    masks.append(mask_of(scores, samples[b], stream, task))
        return masks


@dataclass(frozen=True)
class _Failure:
    exam: str
    reason: str


class _Isolated(torch.utils.data.Dataset):
    """Samples, or what was wrong with them."""

    def __init__(self, dataset: ExamDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, number: int) -> Sample | _Failure:
        try:
            return self.dataset[number]
        except UserError as error:
            row = self.dataset.rows.iloc[number]
            return _Failure(f"{row['study']}/{row['exam']}", str(error))


def _refuse_other_classes(study: Study, schema: Schema) -> None:
    for task in schema.tasks:
        told = study.tasks.get(task.name)
        if told and task.kind == told.kind == "segmentation" and not alike(told.class_names, task.classes):
            raise UserError(
                f"study {study.name!r}: task {task.name!r} has the classes {', '.join(told.class_names)}, and that of "
                f"the model has {', '.join(task.classes)}; name the task otherwise"
            )


def _head(sample: Sample) -> tuple[Any, ...]:
    return (sample.study, sample.exam, sample.patient, sample.split, sample.fold)


def _inputs_of(sample: Sample, schema: Schema) -> str:
    return "+".join(dict.fromkeys(s.input for s in schema.streams if s.name in sample.inputs))


def _targets(task: TaskSpec, samples: Sequence[Sample]) -> np.ndarray:
    """Labels of one task, NaN where missing, in the shape that KINDS[...].rows.to_targets takes."""
    width = {"survival": 2, "multilabel": len(task.classes)}.get(task.kind)
    empty = np.full(width, np.nan) if width else np.nan
    return np.array([np.asarray(s.targets[task.name], float) if task.name in s.targets else empty for s in samples])


def _cases(part: Part, samples: Sequence[Sample], dataset: ExamDataset) -> Iterator[tuple[Any, ...]]:
    by_exam = {(sample.study, sample.exam): sample for sample in samples}
    for mask in part.masks:
        head, task = _head(by_exam[mask.study, mask.exam]), dataset.schema.task(mask.task)
        yield from case_rows(dataset.cohorts[mask.study], mask, task, head)
