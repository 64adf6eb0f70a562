"""The "gating" layer of M4oE (MICCAI 2024) as its code was released: kept for comparison, never used by the package.

Its softmax runs over *channels*, not experts: every expert is multiplied by the same weights, which therefore come out
of the sum. See test_released_gate.py. Written from the equation; axes as in m4oe.batch.
"""

from __future__ import annotations

from torch import Tensor, nn

from m4oe.moe import Experts


class ReleasedChannelGateFFN(nn.Module):
    """y = softmax_over_channels(gate(x)) * sum_e f_e(x), as released: x (B, N, D) -> y (B, N, D)."""

    def __init__(self, width: int, num_experts: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, width)
        self.experts = Experts(num_experts, width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, 1).expand(len(self.experts.weight_in), -1, -1)
        answers = self.experts(rows).unflatten(1, x.shape[:2])
        return sum(self.gate(x).softmax(-1) * answer for answer in answers)
