"""The mathematics of the mixture: routers, experts, layers and losses. Needs torch and `m4oe.batch`, nothing else.

`MSoE` and `MToE` are ready-made blocks for a backbone of your own; axes are named as in `m4oe.batch`.
"""

from m4oe.moe.experts import Experts
from m4oe.moe.layer import MoE, MSoE, MToE, all_present
from m4oe.moe.routers import SoftRouter, TaskRouter

__all__ = ["Experts", "MSoE", "MToE", "MoE", "SoftRouter", "TaskRouter", "all_present"]
