"""Naive twins of the layers of m4oe.moe: loops over exams, tasks and experts that only ever see present tokens.

They are the layers' specification, and what benchmarks/moe_layer.py measures against. An expert here is a function
(D,) -> (D,); all of a layer's parameters are read from the layer itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m4oe.batch import Tokens
from m4oe.moe import ExpertFFN, Experts, GateRouter, ModalityRouter, MSoE, MToE
from m4oe.schema import TaskSpec
from m4oe.tasks.segmentation import IGNORED, SMOOTH

Expert = Callable[[Tensor], Tensor]


def experts_one_by_one(experts: Experts) -> list[Expert]:
    """Each expert of the stack as a function of its own; gradients flow to the stack."""
    parameters = zip(*(p.unbind(0) for p in (experts.weight_in, experts.bias_in, experts.weight_out, experts.bias_out)))
    return [
        lambda x, w1=w1, b1=b1, w2=w2, b2=b2: F.gelu(x @ w1 + b1) @ w2 + b2  # type: ignore[misc]
        for w1, b1, w2, b2 in parameters
    ]


def experts_as_modules(experts: Experts) -> nn.ModuleList:
    """Each expert of the stack as an nn.Sequential with a copy of its weights, as one would first write it."""
    width, hidden = experts.weight_in.shape[1:]
    modules = nn.ModuleList(
        nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)) for _ in experts.weight_in
    )
    with torch.no_grad():
        for e, (first, _, second) in enumerate(modules):
            first.weight.copy_(experts.weight_in[e].T), first.bias.copy_(experts.bias_in[e])
            second.weight.copy_(experts.weight_out[e].T), second.bias.copy_(experts.bias_out[e])
    return modules


def msoe(layer: MSoE, x: Tensor, present: Tensor) -> Tensor:
    """(B, N, D): what `layer` gives, slot by slot."""
    experts = experts_one_by_one(layer.moe.experts)
    slots_per_expert = layer.moe.router.phi.shape[2]
    directions = layer.moe.router.phi.flatten(1).unbind(1)
    y = torch.zeros_like(x)
    for exam in range(len(x)):
        z = layer.norm(x[exam][present[exam]])
        if len(z) == 0:
            continue
        logits = [cosines(z, direction, layer.moe.router.scale) for direction in directions]
        answers = [experts[k // slots_per_expert](softmax(logits[k]) @ z) for k in range(len(directions))]
        y[exam, present[exam]] = blend(logits, answers)
    return y


def mtoe(layer: MToE, tokens: Tokens, experts: Sequence[Expert] | None = None) -> Tensor:
    """(B, T, N, D): what `layer` gives, task by task and expert by expert."""
    experts = experts or experts_one_by_one(layer.experts)
    tau = layer.router.task_embedding
    directions = [task.unbind(1) for task in task_directions(layer).unbind(2)]
    y = tokens.x.new_zeros(len(tokens.x), len(tau), *tokens.x.shape[1:])
    for exam, here in enumerate(tokens.present):
        z = layer.norm(tokens.x[exam][here])
        if len(z) == 0:
            continue
        for task in range(len(tau)):
            logits = [cosines(z, direction, layer.router.scale) for direction in directions[task]]
            answers = [expert(softmax(logit) @ z + tau[task]) for expert, logit in zip(experts, logits)]
            y[exam, task, here] = blend(logits, answers)
    return y


def joint(layer: MToE, tokens: Tokens, num_modalities: int) -> Tensor:
    """(B, M, E, T): P(modality, expert, task), one exponential at a time."""
    directions = [task.unbind(1) for task in task_directions(layer).unbind(2)]
    num_tasks, num_experts = len(directions), len(directions[0])
    exams = []
    for exam, here in enumerate(tokens.present):
        cells = {}
        for m in range(num_modalities):
            z = layer.norm(tokens.x[exam][here & (tokens.modality == m)])
            for e in range(num_experts):
                for t in range(num_tasks):
                    weights = cosines(z, directions[t][e], layer.router.scale).exp()
                    cells[m, e, t] = weights.sum() / max(len(z), 1)  # a token counts one part in its modality's tokens
        total = sum(cells.values()) if here.any() else 1.0
        exams.append(torch.stack([cell / total for cell in cells.values()]).view(num_modalities, num_experts, -1))
    return torch.stack(exams)


def expert_ffn(layer: ExpertFFN, x: Tensor, modality: Tensor) -> Tensor:
    """(B, N, D): what `layer` gives, token by token, every expert always run."""
    experts, y = experts_one_by_one(layer.experts), []
    for exam, own in zip(x, modality.tolist(), strict=True):
        for token in exam:
            weights = gate_weights(layer.router, token, exam, own)
            total = sum(weights[e] * expert(token) for e, expert in enumerate(experts))
            shared = [expert(token) for expert in experts_one_by_one(layer.shared)] if layer.shared else []
            y.append(total + sum(shared))
    return torch.stack(y).view_as(x)


def gate_weights(router: ModalityRouter | GateRouter, token: Tensor, exam: Tensor, modality: int) -> Tensor:
    """(E,): the weight of each expert for one token (D,) of an exam (N, D)."""
    if isinstance(router, ModalityRouter):
        return torch.arange(router.num_experts) == router.expert_of[modality]
    logits = router.gate["sample"](exam.mean(0))
    p = softmax(logits if router.per == "sample" else logits + router.gate["token"](token))
    if router.top_k is None:
        return p
    floor = p.sort(descending=True).values[router.top_k - 1]
    kept = torch.where(p >= floor, p, 0.0)
    return kept / kept.sum().detach()


def task_directions(layer: MToE) -> Tensor:
    """(D, E, T): phi, moved by the task embedding where the layer says so."""
    phi, tau = layer.router.phi, layer.router.task_embedding
    if not layer.router.embed_in_routing:
        return phi
    return torch.stack([phi[:, :, t] + tau[t][:, None] for t in range(len(tau))], 2)


def cosines(z: Tensor, direction: Tensor, scale: Tensor) -> Tensor:
    """Logits of tokens z (N, D) for one slot: (N,)."""
    return scale * (z @ direction) / (z.norm(dim=1) * direction.norm())


def softmax(logits: Tensor) -> Tensor:
    weights = logits.exp()
    return weights / weights.sum(0)


def blend(logits: Sequence[Tensor], answers: Sequence[Tensor]) -> Tensor:
    """(N, D): each token's mixture of the slots' answers."""
    return softmax(torch.stack(list(logits))).T @ torch.stack(list(answers))


class ExpertsInALoop(nn.Module):
    """Stands in for `Experts` in a layer that is otherwise ours: one small module after the other."""

    def __init__(self, experts: Experts) -> None:
        super().__init__()
        self.experts = experts_as_modules(experts)

    def on_slots(self, slots: Tensor) -> Tensor:
        return torch.stack([expert(slots[:, e]) for e, expert in enumerate(self.experts)], 1)


def segmentation_loss(task: TaskSpec, logits: Tensor, target: Tensor) -> Tensor:
    """(P,) cross-entropy and Dice loss of logits (P, C, *size), target (P, *size), from the library's parts."""
    counted, weights = target != IGNORED, torch.tensor(task.weights, dtype=logits.dtype)
    pixels = F.cross_entropy(logits, target, weight=weights, ignore_index=IGNORED, reduction="none")
    truth = F.one_hot(target.where(counted, 0), logits.shape[1]).movedim(-1, 1) * counted[:, None]
    share = logits.softmax(1) * counted[:, None]
    both, either = (x[:, 1:].flatten(2).sum(2) for x in (share * truth, share + truth))
    dice_loss = (1 - (2 * both + SMOOTH) / (either + SMOOTH)).mean(1)
    return pixels.flatten(1).sum(1) / counted.flatten(1).sum(1).clamp_min(1) + dice_loss
