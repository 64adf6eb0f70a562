"""What is asked of a routing: the information term of the loss, and statistics. All in nats, in float32 or better.

`joint` is P(modality, expert, task), (..., M, E, T), as `TaskRouter` gives it for each exam or averaged over exams.
Where a condition has probability 0 (an absent modality, an exam without tokens) a conditional is 0.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def conditional_mutual_information(
    joint: Tensor,
    *,
    over: Literal["batch", "exam", "presence"] = "batch",
    uniform_tasks: bool = True,
    uniform_modalities: bool = False,
    cap: float | None = None,
) -> Tensor:
    """I(M; E | T) = H(E|T) - H(E|M,T) of joint (B, M, E, T), a scalar in 0 ... log min(M, E), to be maximised.

    over: what P(m, e, t) is the mean of: the batch (M4oE, ICLR 2025), each exam, or the exams that have the same
    modalities; the term is then the mean over exams. `uniform_tasks` weighs every task 1/T, so that only P(m, e | t)
    counts and the term cannot be served by starving a task; `uniform_modalities` likewise holds P(m | t) even over
    what is present: experts are asked to part by modality, and nothing is won by routing through one that tells
    nothing. Above `cap` the term is flat: it gives no gradient.
    """
    pools, share = _pooled(_precise(joint), over)
    task = pools.sum((1, 2))
    given_task = _over(pools, task[:, None, None])
    if uniform_modalities:
        modality = given_task.sum(2, keepdim=True)
        here = (modality > 0).to(modality.dtype)
        given_task = _over(given_task, modality) * _over(here, here.sum(1, keepdim=True))
    information = (
        entropy(given_task.sum(1), dim=1) + entropy(given_task.sum(2), dim=1) - entropy(given_task.flatten(1, 2), dim=1)
    )
    weight = torch.full_like(task, 1 / task.shape[-1]) if uniform_tasks else _over(task, task.sum(1, keepdim=True))
    total = (share * (weight * information).sum(1)).sum()
    return total if cap is None else total.clamp_max(cap)


def _pooled(joint: Tensor, over: str) -> tuple[Tensor, Tensor]:
    """Sums of joint (B, M, E, T) over the exams that are looked at together, (G, M, E, T), and their shares (G,)."""
    pool = torch.zeros(len(joint), dtype=torch.int64, device=joint.device)
    if over == "exam":
        pool = torch.arange(len(joint), device=joint.device)
    if over == "presence":
        pool = (joint.detach().sum((2, 3)) > 0).unique(dim=0, return_inverse=True)[1]
    count = torch.bincount(pool)
    return joint.new_zeros(len(count), *joint.shape[1:]).index_add(0, pool, joint), count.to(joint.dtype) / len(joint)


def load_balance(combine: Tensor) -> Tensor:
    """How unevenly a gate uses its experts: E sum_e P(e)^2 of combine (B, N, E) averaged over tokens, a scalar.

    1 where all are used evenly, however decided each token is; E where one takes everything. To be minimised.
    """
    load = _precise(combine).flatten(0, -2).mean(0)
    return len(load) * load.square().sum()


def entropy(p: Tensor, dim: int) -> Tensor:
    """-sum p log p along `dim`, with 0 log 0 = 0 and no gradient there (where p is 0, something is absent)."""
    return -(p * torch.where(p > 0, p, 1.0).log()).sum(dim)


def modality_given_task(joint: Tensor) -> Tensor:
    """P(m | t), (..., T, M). How tokens are routed, not what decided: never call it importance."""
    modality = _precise(joint).sum(-2)
    return _over(modality, modality.sum(-2, keepdim=True)).mT


def expert_given_modality_task(joint: Tensor) -> Tensor:
    """P(e | m, t), (..., M, T, E)."""
    joint = _precise(joint)
    return _over(joint, joint.sum(-2, keepdim=True)).mT


def expert_load(joint: Tensor) -> Tensor:
    """P(e | t), (..., T, E): the share of a task's routing that each expert takes."""
    expert = _precise(joint).sum(-3)
    return _over(expert, expert.sum(-2, keepdim=True)).mT


def effective_experts(joint: Tensor) -> Tensor:
    """Share of the experts that a task uses, (..., T) in [1/E, 1]: exp H(E|t) / E. Near 1/E, routing has collapsed."""
    load = expert_load(joint)
    return entropy(load, dim=-1).exp() / load.shape[-1]


def effective_tokens(dispatch: Tensor, present: Tensor) -> Tensor:
    """Share of the present tokens that a slot reads, a scalar in (0, 1]: exp(entropy of dispatch) / present tokens.

    dispatch (B, N, E, S), present (B, N); averaged over slots and over exams with at least two tokens (NaN if there
    is none). Near 1 every slot reads the mean of all tokens: routing has not learned to look.
    """
    count = present.sum(1)
    share = entropy(_precise(dispatch), dim=1).exp().mean((1, 2)) / count.clamp_min(1)
    return share[count > 1].mean()


def _precise(p: Tensor) -> Tensor:
    return p.to(torch.promote_types(p.dtype, torch.float32))


def _over(p: Tensor, total: Tensor) -> Tensor:
    """p / total, and 0 where total is 0."""
    return p / torch.where(total > 0, total, 1.0)
