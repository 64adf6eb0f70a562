"""Precision of parts that autocast does not know: routing in full, kernels of our own as products are."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Without autocast, on the device of `x`."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def lowered(*parts: Tensor) -> tuple[Tensor, ...]:
    """In the precision that autocast gives to products: of float32 the lower one, where it is on."""
    device = parts[0].device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return parts
    dtype = torch.get_autocast_dtype(device)
    return tuple(part if part.dtype == torch.float64 else part.to(dtype) for part in parts)
