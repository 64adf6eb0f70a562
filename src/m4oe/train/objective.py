"""What training minimises: task losses over the labels that exist, weighted, less the information term.

    L = sum_t w_t L_t  -  alpha I(M; E | T)          (M4oE, ICLR 2025: I is maximised)
    L = sum_t w_t L_t  +  beta balance                (a segmenter's gates: their experts are kept in use)

Axes as in batch.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from m4oe.batch import Batch, Prediction, shared_rows
from m4oe.moe.losses import conditional_mutual_information, load_balance
from m4oe.schema import TaskSpec
from m4oe.tasks import KINDS


class Losses(NamedTuple):
    """total: scalar to minimise · parts: {task: mean loss over its labelled exams, "cmi": I in nats, "balance"} and
    the network's penalties · exams: {task: (loss of each labelled exam, its position in the batch)}."""

    total: Tensor
    parts: dict[str, Tensor]
    exams: dict[str, tuple[Tensor, Tensor]]


class Objective(nn.Module):
    """Fixed task weights, or learned ones by Mod-Squad's rule: 0.5 / s_t^2 L_t + log(1 + s_t^2), s_t from 1.

    cmi_form: how the information term is taken, arguments of moe.losses.conditional_mutual_information.
    """

    def __init__(
        self,
        tasks: Sequence[TaskSpec],
        weights: Mapping[str, float] | None = None,
        *,
        learned: bool = False,
        focal_gamma: float = 0.0,
        cmi_weight: float = 0.0,
        cmi_form: Mapping[str, Any] | None = None,
        balance_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.tasks, self.focal_gamma = tuple(tasks), focal_gamma
        self.cmi_weight, self.cmi_form, self.balance_weight = cmi_weight, cmi_form or {}, balance_weight
        self.weights = {task.name: (weights or {}).get(task.name, 1.0) for task in tasks}
        self.scales = nn.Parameter(torch.ones(len(tasks))) if learned else None

    def forward(self, prediction: Prediction, batch: Batch) -> Losses:
        """A task without labels in the batch contributes no term; a batch without any has task loss 0."""
        total: Tensor | float = 0.0
        parts: dict[str, Tensor] = {}
        exams: dict[str, tuple[Tensor, Tensor]] = {}
        for number, task in enumerate(self.tasks):
            if task.name not in batch.targets or not len(batch.targets[task.name].index):
                continue
            logits, target = shared_rows(prediction.logits[task.name], batch.targets[task.name])
            if not len(logits):
                continue
            loss = KINDS[task.kind].loss(task, logits, target, self.focal_gamma)
            exams[task.name] = (loss.detach(), self._where(prediction, batch, task.name))
            parts[task.name] = loss.mean()
            total = total + self._weighted(number, task.name, parts[task.name])
        # An exact zero that is connected to the others' logits: gradients exist and are 0 where nothing is to learn.
        idle = [rows.values for name, rows in prediction.logits.items() if name not in parts]
        total = total + sum(values.float().sum() * 0 for values in idle)
        shared = prediction.routing.get("shared")
        if shared is not None and shared.joint is not None:
            information = conditional_mutual_information(shared.joint, **self.cmi_form)
            parts["cmi"] = information
            if self.cmi_weight:
                total = total - self.cmi_weight * information
        gates = [routing.combine for routing in prediction.routing.values() if routing.dispatch is None]
        if self.balance_weight and gates:
            parts["balance"] = torch.stack([load_balance(combine) for combine in gates]).mean()
            total = total + self.balance_weight * parts["balance"]
        for name, penalty in prediction.penalties.items():
            parts[name] = penalty
            total = total + penalty
        return Losses(total, parts, exams)

    def _where(self, prediction: Prediction, batch: Batch, task: str) -> Tensor:
        index = batch.targets[task].index
        return index[torch.isin(index, prediction.logits[task].index)]

    def _weighted(self, number: int, task: str, loss: Tensor) -> Tensor:
        if self.scales is None:
            return self.weights[task] * loss
        square = self.scales[number] ** 2
        return 0.5 / square * loss + torch.log1p(square)
