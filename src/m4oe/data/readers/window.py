"""The window in which a file asks to be shown (DICOM PS3.3 C.11.2). Recorded; applied only when asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy import ndarray

Function = Literal["linear", "linear_exact", "sigmoid"]
FUNCTIONS: dict[str, Function] = {"LINEAR": "linear", "LINEAR_EXACT": "linear_exact", "SIGMOID": "sigmoid"}


@dataclass(frozen=True)
class Window:
    """Values to what is seen, 0 dark to 1 bright: the first of the file's windows, in the unit of its picture.

    center, width, function: a window (C.11.2.1.2) · entries: of a VOI LUT (C.11.2.1.1) instead, scaled to 0 ... 1,
    for whole values from `first` on.
    """

    center: float = 0.0
    width: float = 1.0
    function: Function = "linear"
    first: int = 0
    entries: tuple[float, ...] = ()

    def apply(self, values: ndarray) -> ndarray:
        """`values` of any shape as seen, float32 from 0 to 1."""
        return _SHAPES[self.function](self, values) if not self.entries else self._looked_up(values)

    def inverted(self, total: float) -> Window:
        """The window of `total` - values: what was bright is dark."""
        if self.entries:
            first = int(total) - (self.first + len(self.entries) - 1)
            return replace(self, first=first, entries=tuple(1 - entry for entry in reversed(self.entries)))
        return replace(self, center=total - self.center + (1 if self.function == "linear" else 0))

    def _looked_up(self, values: ndarray) -> ndarray:
        place = np.rint(values - self.first).clip(0, len(self.entries) - 1).astype(np.intp)
        return np.asarray(self.entries, np.float32)[place]


def _linear(window: Window, values: ndarray) -> ndarray:
    """C.11.2.1.2.1; a width of 1 is a threshold."""
    if window.width <= 1:
        return (values > window.center - 0.5).astype(np.float32)
    return ((values - (window.center - 0.5)) / (window.width - 1) + 0.5).clip(0, 1).astype(np.float32)


def _linear_exact(window: Window, values: ndarray) -> ndarray:
    return ((values - window.center) / window.width + 0.5).clip(0, 1).astype(np.float32)


def _sigmoid(window: Window, values: ndarray) -> ndarray:
    from scipy.special import expit

    return np.asarray(expit(4 * (values - window.center) / window.width), np.float32)


_SHAPES = {"linear": _linear, "linear_exact": _linear_exact, "sigmoid": _sigmoid}


def window_of(tags: Any) -> Window | None:
    """The first window of a data set, or of one frame's tags; None where there is none, or none that is valid.

    A VOI LUT goes before a window, as its values are more exactly what was meant.
    """
    if tags.get("VOILUTSequence"):
        return _table(tags.VOILUTSequence[0])
    center, width = _first(tags.get("WindowCenter")), _first(tags.get("WindowWidth"))
    function = FUNCTIONS.get(str(tags.get("VOILUTFunction") or "LINEAR"))
    if center is None or width is None or function is None or width < (1 if function == "linear" else 1e-6):
        return None
    return Window(center, width, function)


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    number = float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)
    return number if np.isfinite(number) else None


def _table(item: Any) -> Window | None:
    length, first, bits = (int(number) for number in item.LUTDescriptor)
    length, data = length or 2**16, item.LUTData
    narrow = bits <= 8 and len(data) == length
    entries = np.frombuffer(data, "u1" if narrow else "<u2") if isinstance(data, bytes) else np.asarray(data)
    if len(entries) < length or not 1 <= bits <= 16:
        return None
    return Window(first=first, entries=tuple((entries[:length] / (2**bits - 1)).clip(0, 1).tolist()))
