"""NumPy files and arrays. An array (H, W) is an image, (D, H, W) a volume, (H, W, 3) a colour image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy import ndarray

from m4oe.data.readers.picture import Picture
from m4oe.errors import UserError

FULL_SCALE = {"uint8": 255.0, "uint16": 65535.0}


def read(path: Path) -> Picture:
    """The picture in a .npy or .npz file. Raises UserError for a .npz of several arrays, and as `of_array`."""
    return of_array(load(path), str(path))


def load(path: Path) -> ndarray:
    """The only array in a .npy or .npz file."""
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, ndarray):
        return loaded
    with loaded:
        if len(loaded.files) != 1:
            raise UserError(f"{path}: holds {len(loaded.files)} arrays; save the picture alone")
        return loaded[loaded.files[0]]


def form(path: Path) -> tuple[int, int]:
    """Number of spatial axes and of channels; of a .npy from its header."""
    packed = path.read_bytes()[:2] == b"PK"
    shape = load(path).shape if packed else np.load(path, mmap_mode="r", allow_pickle=False).shape
    return _form(shape, str(path))


def of_array(array: ndarray, source: str = "array") -> Picture:
    """The picture of an array. Raises UserError for one that is not of real numbers, or of an unclear shape."""
    if array.dtype.kind not in "buif":
        raise UserError(f"{source}: holds {array.dtype}, and a picture is of real numbers")
    axes, channels = _form(array.shape, source)
    values = array if array.ndim == axes else np.moveaxis(array, -1, 0)
    full_scale = 1.0 if array.dtype == bool else FULL_SCALE.get(array.dtype.name)
    values = values.reshape(channels, *values.shape[-axes:]).astype(np.float32)
    return Picture(values, source=source, full_scale=full_scale, colour=channels == 3)


def _form(shape: tuple[int, ...], source: str) -> tuple[int, int]:
    if len(shape) == 3 and shape[-1] == 3:
        return 2, 3
    if len(shape) not in (2, 3) or min(shape) == 0 or shape[-1] in (2, 4):
        raise UserError(
            f"{source}: an array of shape {shape}; a picture is (H, W), (H, W, 3) or (D, H, W), and channels are "
            "files of their own"
        )
    return len(shape), 1
