"""Routers: who reads what. Each is a module that returns a `Routing` and keeps nothing of it.

Routing runs in float32 whatever the precision around it (in float64 for float64 input). Absent tokens are replaced
by zeros before anything is computed from them, so that their content, NaN included, cannot pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from m4oe.batch import Routing, Tokens
from m4oe.moe.precision import full_precision

# Below this norm a token counts as zero; it bounds the gradient of the normalisation at a token that is zero.
_NORM_FLOOR = 1e-6


def clear_absent(x: Tensor, present: Tensor) -> Tensor:
    """(B, N, ...) `x` with zeros where `present` (B, N) is False, in value and in gradient."""
    return torch.where(present.view(*present.shape, *(1,) * (x.dim() - 2)), x, 0.0)


def masked_softmax(logits: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Softmax over the places where `mask` (broadcastable bool) is True; exactly 0 elsewhere, also if none is."""
    lowest = torch.finfo(logits.dtype).min
    return logits.masked_fill(~mask, lowest).softmax(dim).masked_fill(~mask, 0.0)


class SoftRouter(nn.Module):
    """Soft routing: every slot reads a blend of tokens, every token a blend of slots (Soft MoE, Puigcerver 2023).

    Parameters: `phi` (D, E, S), one direction a slot; `scale`, learnable. Logits are scale times a cosine, hence
    within [-scale, scale]; from a scale of 1 dispatch would start, and tends to stay, all but uniform.
    """

    def __init__(self, width: int, num_experts: int, slots: int = 1, scale: float = 8.0) -> None:
        super().__init__()
        self.phi = nn.Parameter(torch.randn(width, num_experts, slots) / width**0.5)
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    def forward(self, x: Tensor, present: Tensor) -> Routing:
        """x (B, N, D), present (B, N) bool -> Routing; combine sums to 1 over all slots of a present token."""
        with full_precision(x):
            logits = _cosine_logits(clear_absent(x, present), self.phi, self.scale)
            combine = logits.flatten(2).softmax(-1).view_as(logits)
            return Routing(_dispatch(logits, present), clear_absent(combine, present))


class TaskRouter(nn.Module):
    """Soft routing with a slot for each (expert, task): slot index == task index (MToE of M4oE, ICLR 2025).

    Parameters: `phi` (D, E, T); `task_embedding` (T, D), which the layer adds to what slots have read; `scale`.
    With `embed_in_routing` the embedding also moves the directions, phi[:, e, t] + task_embedding[t].
    """

    def __init__(
        self, width: int, num_experts: int, num_tasks: int, scale: float = 8.0, embed_in_routing: bool = False
    ) -> None:
        super().__init__()
        self.embed_in_routing = embed_in_routing
        self.phi = nn.Parameter(torch.randn(width, num_experts, num_tasks) / width**0.5)
        self.task_embedding = nn.Parameter(0.02 * torch.randn(num_tasks, width))
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    def forward(self, tokens: Tokens, num_modalities: int) -> Routing:
        """Routing with joint (B, M, E, T); combine sums to 1 over the experts of one task.

        The published layer normalises combine over experts and tasks together, which scales every task's stream
        down by its share of the token; see tests/papers/.
        """
        with full_precision(tokens.x):
            phi = self.phi + self.task_embedding.mT.unsqueeze(1) if self.embed_in_routing else self.phi
            logits = _cosine_logits(clear_absent(tokens.x, tokens.present), phi, self.scale)
            combine = clear_absent(logits.softmax(2), tokens.present)
            joint = _joint(logits, tokens.present, tokens.modality, num_modalities)
            return Routing(_dispatch(logits, tokens.present), combine, joint)


class ModalityRouter(nn.Module):
    """Hard routing: an exam's modality names the one expert that reads all its tokens (phase 1 of M4oE, MICCAI 2024).

    `expert_of[m]` is the expert of modality m; several modalities may share one. No parameters, nothing in the state.
    """

    def __init__(self, expert_of: Sequence[int]) -> None:
        super().__init__()
        self.num_experts = max(expert_of) + 1
        self.expert_of: Tensor
        self.register_buffer("expert_of", torch.tensor(tuple(expert_of)), persistent=False)

    def forward(self, modality: Tensor) -> Routing:
        """modality (B,) int64 -> Routing with combine (B, 1, E), one-hot."""
        return Routing(None, F.one_hot(self.expert_of[modality], self.num_experts).unsqueeze(1).float())


class GateRouter(nn.Module):
    """A gating network: softmax over *experts*, of each token or of each exam (phase 2 of M4oE).

    It sees the picture, not its modality (the released gate is a softmax over channels: tests/papers/). All gates read
    the exam's mean token, which tells what kind of picture this is; a gate per token reads the token as well. `top_k`
    experts are kept, all by default, and share a weight of 1; `noise` is the standard deviation of what is added to
    logits in training. `limit`, which may be set at any time, closes all experts but the first ones: the same bits as
    a gate that never had the others. Parameters: `gate.sample.*`, `gate.token.weight`.
    """

    def __init__(
        self,
        width: int,
        num_experts: int,
        per: Literal["token", "sample"] = "token",
        top_k: int | None = None,
        noise: float = 0.0,
        limit: int | None = None,
    ) -> None:
        super().__init__()
        self.per, self.top_k, self.noise, self.limit = per, top_k, noise, limit
        parts = {"sample": nn.Linear(width, num_experts)}
        if per == "token":
            parts["token"] = nn.Linear(width, num_experts, bias=False)
        for part in parts.values():
            nn.init.normal_(part.weight, std=0.02)
        nn.init.zeros_(parts["sample"].bias)
        self.gate = nn.ModuleDict(parts)

    def forward(self, x: Tensor) -> Routing:
        """x (B, N, D) -> Routing with combine (B, N, K), or (B, 1, K) per sample; K experts are open, sums are 1."""
        with full_precision(x):
            sample, token = self._of("sample"), self._of("token").weight[: self.limit] if self.per == "token" else None
            logits = GateLogits.apply(x, sample.weight[: self.limit], sample.bias[: self.limit], token)
            if self.training and self.noise:
                logits = logits + self.noise * torch.randn_like(logits)
            return Routing(None, _strongest(logits.softmax(-1), self.top_k))

    @torch.no_grad()
    def start_from(self, weight: Tensor, bias: Tensor) -> None:
        """Starts as a linear classifier of exams' mean tokens: weight (E, D), bias (E,), for all tokens alike."""
        self._of("sample").weight.copy_(weight)
        self._of("sample").bias.copy_(bias)
        if self.per == "token":
            self._of("token").weight.zero_()

    def _of(self, part: str) -> nn.Linear:
        linear = self.gate[part]
        assert isinstance(linear, nn.Linear)
        return linear


class GateLogits(torch.autograd.Function):
    """Logits (B, N or 1, K) of tokens x (B, N, D), in float32 or better: of_sample (K, D) reads their mean, to which
    `bias` (K,) is added, of_token (K, D), if any, each of them.

    With a gradient by hand, since of its parts each would be as large as all tokens in that precision.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, of_sample: Tensor, bias: Tensor, of_token: Tensor | None) -> Tensor:
        seen = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = seen.mean(1, keepdim=True)
        ctx.save_for_backward(x, mean, of_sample, of_token)
        logits = F.linear(mean, of_sample, bias)
        return logits if of_token is None else logits + F.linear(seen, of_token)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, of_sample, of_token = ctx.saved_tensors
        with full_precision(x):
            of_mean = gradient.sum(1, keepdim=True)
            towards, token = of_mean @ of_sample / x.shape[1], None
            if of_token is not None:
                towards = torch.baddbmm(towards, gradient, of_token.expand(len(x), -1, -1))
                token = gradient.flatten(0, 1).T @ x.to(mean.dtype).flatten(0, 1)
            sample = of_mean.flatten(0, 1).T @ mean.flatten(0, 1)
        return towards.to(x.dtype).expand_as(x), sample, of_mean.sum((0, 1)), token


def _strongest(p: Tensor, count: int | None) -> Tensor:
    """The `count` largest of the last axis, scaled to sum to 1, and exact zeros.

    The sum is a constant to the gradient: a single expert, whose weight is always 1, is still learned to be chosen.
    """
    if count is None or count >= p.shape[-1]:
        return p
    values, places = p.topk(count, dim=-1)
    return torch.zeros_like(p).scatter(-1, places, values / values.sum(-1, keepdim=True).detach())


def _cosine_logits(x: Tensor, phi: Tensor, scale: Tensor) -> Tensor:
    """x (B, N, D), phi (D, E, S) -> (B, N, E, S) scale times the cosine, in float32 or better."""
    precision = torch.promote_types(x.dtype, torch.float32)
    directions = scale.to(precision) * F.normalize(phi.flatten(1).to(precision), dim=0, eps=_NORM_FLOOR)
    return (F.normalize(x.to(precision), dim=-1, eps=_NORM_FLOOR) @ directions).unflatten(-1, phi.shape[1:])


def _dispatch(logits: Tensor, present: Tensor) -> Tensor:
    return masked_softmax(logits, present[:, :, None, None], dim=1)


def _joint(logits: Tensor, present: Tensor, modality: Tensor, num_modalities: int) -> Tensor:
    """P(modality, expert, task) of each exam, (B, M, E, T), from logits (B, N, E, T).

    One softmax over everything, after each token's logits are lowered by the log of how many present tokens its
    modality has: flat logits then mean uniform present modalities, however many tokens each brings.
    """
    member = F.one_hot(modality, num_modalities).to(logits.dtype)
    count = present.to(logits.dtype) @ member
    balanced = logits - count.clamp_min(1).log()[:, modality, None, None]
    mask = present[:, :, None, None].expand_as(logits)
    share = masked_softmax(balanced.flatten(1), mask.flatten(1), dim=1).view_as(logits)
    return torch.einsum("bnet,nm->bmet", share, member)
