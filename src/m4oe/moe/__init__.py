"""The mathematics of the mixture: routers, experts, layers and losses. Needs torch and `m4oe.batch`, nothing else.

`MSoE` and `MToE` are ready-made blocks for a backbone of your own; axes are named as in `m4oe.batch`.
"""

from m4oe.moe.discriminant import Discriminant
from m4oe.moe.experts import Experts
from m4oe.moe.ffn import ExpertFFN
from m4oe.moe.layer import MoE, MSoE, MToE, all_present
from m4oe.moe.routers import GateRouter, ModalityRouter, SoftRouter, TaskRouter

__all__ = [
    "Discriminant",
    "ExpertFFN",
    "Experts",
    "GateRouter",
    "MSoE",
    "MToE",
    "MoE",
    "ModalityRouter",
    "SoftRouter",
    "TaskRouter",
    "all_present",
]
