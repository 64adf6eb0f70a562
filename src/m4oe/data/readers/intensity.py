"""Stored numbers of grey DICOM pixels to physical ones, dark to bright. Axes: H rows · W columns.

`tags` are those of a file or of one of its frames; sections are of DICOM PS3.3.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from m4oe.data.readers.window import Window, window_of
from m4oe.errors import UserError

GREY = ("MONOCHROME1", "MONOCHROME2")
LOWEST_HU = -1024.0


def grey(stored: ndarray, tags: Any, path: Path, words: Callable[[], ndarray]) -> ndarray:
    """(H, W) float32 after the modality transform (C.11.1), MONOCHROME1 inverted; no window.

    Padding (C.7.5.1.1.2) takes the least value of the picture. In CT nothing is below -1024 HU: lossy compression
    blurs padding, which then can only be told by that. `words`: the pixels with the bits above those stored.
    """
    values, about = _physical(stored, tags), total(tags, path)
    if _in_hounsfield(tags):
        np.maximum(values, LOWEST_HU, out=values)
    if about is not None:
        np.subtract(about, values, out=values)
    padding = _padding(stored, tags, path, words)
    if padding is not None and padding.any() and not padding.all():
        values[padding] = values[~padding].min()
    return values


def total(tags: Any, path: Path) -> float | None:
    """The sum of the least and the largest value that the stored bits can hold, about which MONOCHROME1 is inverted;
    None where it is not. Raises UserError where it is not clear which side is bright."""
    inverted = tags.PhotometricInterpretation == "MONOCHROME1"
    if not inverted and tags.get("PresentationLUTShape") == "INVERSE":
        raise UserError(f"{path}: MONOCHROME2 with an inverse presentation: which side is bright is not clear")
    if not inverted:
        return None
    if "BitsStored" not in tags:
        raise UserError(f"{path}: MONOCHROME1 of numbers with a point: what is bright is not clear")
    return float(_physical(np.array(_range(tags), np.int64), tags).sum())


def window(tags: Any, path: Path) -> Window | None:
    """The window in the unit of `grey`."""
    found, about = window_of(tags), total(tags, path)
    return found if found is None or about is None else found.inverted(about)


def _physical(stored: ndarray, tags: Any) -> ndarray:
    """float32 of its own; a slope or an intercept that is not told is 1 or 0."""
    from pydicom.pixels import apply_modality_lut

    if tags.get("ModalityLUTSequence"):
        return np.array(apply_modality_lut(stored, tags), np.float32)
    slope, intercept = (_number(tags, key, without) for key, without in (("RescaleSlope", 1), ("RescaleIntercept", 0)))
    # 16 bits times a whole number are exact in float32; else the rounding is left to the end.
    whole = slope.is_integer() and intercept.is_integer() and stored.dtype.itemsize <= 2
    scaled = np.multiply(stored, slope, dtype=np.float32 if whole else np.float64)
    scaled += intercept
    return scaled.astype(np.float32, copy=False)


def _number(tags: Any, keyword: str, without: float) -> float:
    value = tags.get(keyword)
    return float(without if value is None or value == "" else value)


def _in_hounsfield(tags: Any) -> bool:
    return tags.get("Modality") == "CT" and str(tags.get("RescaleType") or "HU") == "HU"


def _range(tags: Any) -> tuple[int, int]:
    """The numbers that the stored bits can hold."""
    bits = int(tags.BitsStored)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if tags.PixelRepresentation else (0, 2**bits - 1)


def _padding(stored: ndarray, tags: Any, path: Path, words: Callable[[], ndarray]) -> ndarray | None:
    """(H, W) bool: pixels that stand outside of what was imaged; None where the file tells of none."""
    value = tags.get("PixelPaddingValue")
    if value is None or value == "" or "BitsStored" not in tags:
        return None
    limit = tags.get("PixelPaddingRangeLimit")
    first, last = sorted(_signed(int(end), tags) for end in (value, value if limit in (None, "") else limit))
    low, high = _range(tags)
    if low <= first and last <= high:
        return (stored >= first) & (stored <= last)
    whole = words()
    return (whole >= first) & (whole <= last)


def _signed(value: int, tags: Any) -> int:
    """A padding value as the pixels have it: scanners write -2000 as 63536, by the type of the tag."""
    top = 2 ** int(tags.BitsAllocated)
    return value - top if tags.PixelRepresentation and value >= top // 2 else value
