"""NumPy files and arrays. An array (H, W) is an image, (D, H, W) a volume, (H, W, 3) a colour image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray
from numpy.lib import format

from m4oe.data.readers.picture import Form, Picture, check_size
from m4oe.errors import UserError

FULL_SCALE = {"uint8": 255.0, "uint16": 65535.0}


def read(path: Path) -> Picture:
    """The picture in a .npy or .npz file. Raises UserError for a .npz of several arrays, and as `of_array`."""
    return of_array(load(path), str(path))


def read_mask(path: Path) -> Picture:
    """A mask in a .npy or .npz file, its numbers as stored."""
    return Picture(load(path)[None], source=str(path))


def load(path: Path) -> ndarray:
    """The only array in a .npy or .npz file."""
    loaded = _opened(path)
    if isinstance(loaded, ndarray):
        return np.array(loaded)
    with loaded:
        return np.asarray(loaded[loaded.files[0]])


def form(path: Path) -> Form:
    """From the header; of a .npz from its array."""
    loaded = _opened(path)
    return _form(loaded.shape if isinstance(loaded, ndarray) else load(path).shape, str(path))


def _opened(path: Path) -> Any:
    """The array of a .npy, not yet read, or the archive of one array, of a size that a picture may have."""
    loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(loaded, ndarray):
        check_size(loaded.shape, path)
        return loaded
    if len(loaded.files) != 1:
        loaded.close()
        raise UserError(f"{path}: holds {len(loaded.files)} arrays; save the picture alone")
    with loaded.zip.open(loaded.zip.namelist()[0]) as member:
        read_header = {1: format.read_array_header_1_0, 2: format.read_array_header_2_0}
        check_size(read_header[format.read_magic(member)[0]](member)[0], path)
    return loaded


def of_array(array: ndarray, source: str = "array") -> Picture:
    """The picture of an array. Raises UserError for one that is not of real numbers, or of an unclear shape."""
    if array.dtype.kind not in "buif":
        raise UserError(f"{source}: holds {array.dtype}, and a picture is of real numbers")
    form = _form(array.shape, source)
    values = np.moveaxis(array, -1, 0) if form.colour else array[None]
    full_scale = 1.0 if array.dtype == bool else FULL_SCALE.get(array.dtype.name)
    return Picture(values.astype(np.float32), source=source, full_scale=full_scale, colour=form.colour)


def _form(shape: tuple[int, ...], source: str) -> Form:
    if len(shape) == 3 and shape[-1] == 3:
        return Form(2, 3, colour=True)
    if len(shape) not in (2, 3) or min(shape) == 0 or shape[2:] in ((2,), (4,)):
        raise UserError(
            f"{source}: an array of shape {shape}; a picture is (H, W), (H, W, 3) or (D, H, W), and channels are "
            "files of their own"
        )
    return Form(len(shape))
