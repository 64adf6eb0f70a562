"""Size and cost of a model, before or after training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from m4oe.artifact import count_parameters, load_artifact, without_pretrained
from m4oe.batch import Batch, Rows
from m4oe.config import Config
from m4oe.data.splits import split_exams
from m4oe.data.table import load_cohort
from m4oe.nets.build import build_model
from m4oe.runs.facts import schema_of, task_kinds
from m4oe.runs.inheritance import inherited
from m4oe.schema import Schema
from m4oe.study import load_study


def describe_model(sources: Sequence[Path], config: Config) -> dict[str, Any]:
    """Size and cost of a run's model, or of the model that `config` makes for studies: for an exam with every input."""
    from torch.utils.flop_counter import FlopCounterMode

    network, schema, model = _model_of(sources, config)
    batch = _one_exam(schema)
    with FlopCounterMode(display=False) as counter:
        prediction = network(batch)
    sum(rows.values.sum() for rows in prediction.logits.values()).backward()
    active = sum(p.numel() for p in network.parameters() if p.grad is not None)
    experts = sum(p.numel() for name, p in network.named_parameters() if ".experts." in name)
    return {
        "preset": model.preset,
        "streams": ", ".join(stream.name for stream in schema.streams),
        "tasks": ", ".join(task.name for task in schema.tasks),
        "parameters": count_parameters(network),
        "of them in experts": experts,
        "active for one exam": active,
        "FLOPs for one exam": counter.get_total_flops(),
    }


def _model_of(sources: Sequence[Path], config: Config) -> tuple[torch.nn.Module, Schema, Any]:
    if len(sources) == 1 and sources[0].is_dir():
        artifact = load_artifact(sources[0])
        return artifact.network.eval(), artifact.schema, artifact.model
    cohorts = [load_cohort(load_study(path)) for path in sources]
    model = inherited(config).for_tasks(task_kinds([cohort.study for cohort in cohorts])).model
    grow = config.phases[0].grow
    schema = schema_of(cohorts, split_exams(cohorts), 0, model, grown_from=grow and grow.run)
    # Weights do not matter for size and cost: none are fetched.
    model = without_pretrained(model)
    return build_model(model, schema).eval(), schema, model


def _one_exam(schema: Schema) -> Batch:
    first = {stream.input: stream for stream in reversed(schema.streams)}.values()
    rows = {s.name: Rows(torch.zeros(1, *schema.shape(s)), torch.zeros(1, dtype=torch.int64)) for s in first}
    return Batch(("exam",), rows)
