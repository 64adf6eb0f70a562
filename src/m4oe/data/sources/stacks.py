"""A folder with one picture for each slice, written as one volume: the only conversion that releases need."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from m4oe.data.readers import read_picture
from m4oe.data.sources.layout import number_in
from m4oe.data.sources.whole import write_whole
from m4oe.errors import UserError

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


def stack(folder: Path, kind: str, target: Path) -> None:
    """Writes the slices of `folder`, in the order of the first number in their names, as a .npz (D, H, W).

    8 and 16 bits are kept. Raises UserError for no slices, unequal ones, and numbers that repeat or skip.
    """
    files = sorted((file for file in folder.iterdir() if _is_slice(file)), key=lambda file: number_in(file.stem))
    numbers = [number_in(file.stem) for file in files]
    if not files:
        raise UserError(f"{folder}: no slices: expected 0_image.jpg, 1_image.jpg, ...")
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise UserError(f"{folder}: slices {numbers[0]} to {numbers[-1]} are not numbered one after another; some lack")
    slices = [_slice(file, kind) for file in files]
    if len({(one.shape, one.dtype) for one in slices}) > 1:
        raise UserError(f"{folder}: its slices differ in size or depth")
    target.parent.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()
    np.savez_compressed(packed, volume=np.stack(slices))
    write_whole(target, packed.getvalue())


def _is_slice(file: Path) -> bool:
    return file.suffix.lower() in ENDINGS and not file.name.startswith(".")


def _slice(file: Path, kind: str) -> np.ndarray:
    """(H, W) at the depth of the file: its integers where it has them."""
    picture = read_picture((str(file),), kind)
    depth = {255.0: np.uint8, 65535.0: np.uint16}.get(picture.full_scale or 0.0, np.float32)
    return np.rint(picture.values[0]).astype(depth) if depth is not np.float32 else picture.values[0]
