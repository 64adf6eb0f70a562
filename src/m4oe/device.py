"""Where a network computes: the device, the precision that is fast on it, and a description for environment.json."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
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
# Of glibc's mallopt (malloc.h): large pieces from the heap too, which grows 64 MiB at a time and is never trimmed.
_KEEPING = {"M_MMAP_MAX": (-4, 0), "M_TOP_PAD": (-2, 2**26), "M_TRIM_THRESHOLD": (-1, -1)}
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


def precision_for(
    device: torch.device, wish: Precision, *, large_products: bool = False
) -> Literal["32", "bf16-mixed"]:
    """Lightning's name of the precision for `wish`: bfloat16 under "auto" only where the device computes it fast.

    On a CPU, "auto" is bfloat16 only for a network of large matrix products (`large_products`): for small ones the
    change of format costs more than it brings. Raises UserError for the wish "bf16" on a device without it.
    """
    if wish == "32":
        return "32"
    fast = has_fast_bf16(device)
    if wish == "bf16" and not fast:
        raise UserError(f"precision 'bf16' is not fast on this device ({device.type}); use 'auto' or '32'")
    worthwhile = wish == "bf16" or large_products or device.type != "cpu"
    return "bf16-mixed" if fast and worthwhile else "32"


def has_fast_bf16(device: torch.device) -> bool:
    """Whether `device` has instructions for bfloat16 products: others emulate them, more slowly than float32.

    Compute capability 8 is the first of Nvidia's with such units; of CPUs, those with AVX512-BF16 or AMX.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return device.type == "cpu" and torch.backends.mkldnn.is_available() and any(probe() for probe in _cpu_probes())


def _cpu_probes() -> list[Callable[[], bool]]:
    """Torch's own questions to the processor; private names, so one that a release lacks counts as no."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return [getattr(torch.cpu, name) for name in names if hasattr(torch.cpu, name)]


def peak_memory(device: torch.device) -> int | None:
    """Bytes that this process has held at most: on an Nvidia GPU of its memory, elsewhere of main memory; None where
    the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def keep_memory() -> bool:
    """From now on this process keeps what its tensors free, for the next ones; False where the C library is not glibc.

    By itself glibc hands pieces of over 32 MiB back to the system, and has them anew page by page, which takes a tenth
    of a segmenter's step on a CPU. For a process of our own, since it cannot be undone.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    return all(mallopt(*option) for option in _KEEPING.values())


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
