"""Where a network computes: the device, the precision that is fast on it, and a description for environment.json."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Literal

import torch

from m4oe.errors import UserError, unknown

Precision = Literal["auto", "32", "bf16"]

_PRESENT: Mapping[str, Callable[[], bool]] = {  # in the order in which "auto" prefers them
    "cuda": torch.cuda.is_available,
    "mps": torch.backends.mps.is_available,
    "cpu": lambda: True,
}
_LIBRARIES = ("m4oe", "torch", "numpy", "pandas", "monai", "transformers", "lightning", "scikit-learn")


def resolve_device(name: str) -> torch.device:
    """The device called `name`: cpu, cuda or mps; auto is the fastest that this machine has.

    Raises UserError for an unknown name, and for a device that is not there: never a silent step down to the CPU.
    """
    present = [device for device, is_available in _PRESENT.items() if is_available()]
    if name == "auto":
        return torch.device(present[0])
    if name not in _PRESENT:
        raise unknown("device", name, ["auto", *_PRESENT])
    if name not in present:
        raise UserError(f"device {name!r} is not available here; use 'auto', or one of: {', '.join(present)}")
    return torch.device(name)


def precision_for(device: torch.device, wish: Precision) -> Literal["32", "bf16-mixed"]:
    """Lightning's name of the precision for `wish`: bfloat16 under "auto" only where the device computes it fast.

    Raises UserError for the wish "bf16" on a device without it.
    """
    if wish == "32":
        return "32"
    if _has_fast_bf16(device):
        return "bf16-mixed"
    if wish == "bf16":
        raise UserError(f"precision 'bf16' is not fast on this device ({device.type}); use 'auto' or '32'")
    return "32"


def _has_fast_bf16(device: torch.device) -> bool:
    """Compute capability 8 is the first with bfloat16 matrix units; older cards emulate it, as CPUs mostly do."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8


def describe() -> dict[str, object]:
    """The machine and the versions, for a run's environment.json: nothing that names a host or a person."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "accelerators": _accelerators(),
        "versions": {name: version(name) for name in _LIBRARIES},
    }


def _accelerators() -> list[str]:
    if torch.backends.mps.is_available():
        return ["Apple GPU"]
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
