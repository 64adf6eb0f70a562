"""NIfTI, and the turn of any oriented array to RAS+. Axes: C channels · i, j, k a file's own array."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from m4oe.data.readers.picture import Form, Orientation, Picture, check_size
from m4oe.errors import UserError

MM = {"meter": 1000.0, "micron": 0.001}
MOST_CHANNELS = 8
BEST_PACKING = 1032  # what deflate reaches at most


def oriented(values: ndarray, affine: ndarray, source: str) -> Picture:
    """The picture of `values` (C, i, j, k) whose `affine` leads from (i, j, k) to RAS+ mm, turned to (C, D, H, W).

    A volume of one slice becomes an image: its axis is dropped.
    Raises UserError for an affine that does not span space.
    """
    import nibabel as nib

    turn = nib.orientations.io_orientation(affine)
    if not np.isfinite(affine).all() or not np.isfinite(turn).all():
        raise UserError(f"{source}: its orientation matrix is not usable; save it again with a valid affine")
    turned = nib.orientations.apply_orientation(np.moveaxis(values, 0, -1), turn).transpose(3, 2, 1, 0)  # a view
    placed = (affine @ nib.orientations.inv_ornt_aff(turn, values.shape[1:]))[:, [2, 1, 0, 3]]
    spacing = tuple(float(length) for length in np.linalg.norm(placed[:3, :3], axis=0))
    axes, flipped = tuple(2 - int(axis) for axis in turn[:, 0]), tuple(bool(way < 0) for way in turn[:, 1])
    orientation = Orientation(turned.shape[1:], axes, flipped)
    flat = [axis for axis, length in enumerate(orientation.grid) if length == 1]
    if len(flat) == 1:
        turned = turned.squeeze(flat[0] + 1)
        spacing = tuple(mm for axis, mm in enumerate(spacing) if axis != flat[0])
    return Picture(turned, spacing, placed, source, orientation=orientation)


def read(path: Path) -> Picture:
    """The picture in a NIfTI file; a fourth axis is channels, as in the Medical Segmentation Decathlon.

    Spacing is unknown where the header states neither a way to space nor a pixel size other than 1, and where that
    way is the identity without a unit, which is what converters write that know of none.
    Raises UserError for what is not scalar, has other than two to four axes, or a fourth as long as a time series.
    """
    with _opened(path) as image:
        shape = _spatial(image.shape, path)
        if image.get_data_dtype().fields or image.get_data_dtype().kind == "c":
            raise UserError(f"{path}: its pixels are colours or complex numbers; save it with one number for a pixel")
        _check_bytes(image, path)
        values = _values(image.dataobj).reshape(*shape, -1, order="F")
        header = image.header
        affine = np.diag([*[MM.get(header.get_xyzt_units()[0], 1.0)] * 3, 1.0]) @ image.affine
        stated = header["sform_code"] or header["qform_code"] or any(mm != 1 for mm in header.get_zooms()[:3])
        stated = stated and not (header.get_xyzt_units()[0] == "unknown" and np.array_equal(image.affine, np.eye(4)))
    picture = oriented(np.moveaxis(values, -1, 0), affine, str(path))
    full_scale = 255.0 if values.dtype == np.uint8 else None  # bytes have no unit: HU, for one, goes below 0
    return replace(picture, spacing=picture.spacing if stated else None, full_scale=full_scale)


def _check_bytes(image: Any, path: Path) -> None:
    """Raises UserError for a header that promises more bytes than the file can hold, before memory is asked for."""
    promised, size = prod(image.shape) * image.get_data_dtype().itemsize, path.stat().st_size
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if promised > size * (BEST_PACKING if packed else 1):
        raise UserError(f"{path}: cut short: promises {promised:,} bytes of pixels and has {size:,}; copy it again")


def _values(stored: Any) -> ndarray:
    """What a file holds: its own numbers, or float32 where they are to be scaled: slice by slice, to be lean.

    The arithmetic is nibabel's, in float64.
    """
    from nibabel.volumeutils import apply_read_scaling

    raw = np.asarray(stored.get_unscaled())
    if (stored.slope, stored.inter) == (1, 0):
        return raw
    scaled = np.empty(raw.shape, np.float32, order="F")
    for place in range(raw.shape[-1]):
        scaled[..., place] = apply_read_scaling(raw[..., place], np.float64(stored.slope), np.float64(stored.inter))
    return scaled


def form(path: Path) -> Form:
    """From the header."""
    with _opened(path) as image:
        shape = _spatial(image.shape, path)
        channels = image.shape[3] if len(image.shape) == 4 else 1
    return Form(2 if shape.count(1) == 1 else 3, channels)


def read_mask(path: Path) -> Picture:
    """The mask in a NIfTI file, its numbers as stored. Raises UserError for one of several channels."""
    picture = read(path)
    if len(picture.values) > 1:
        raise UserError(f"{path}: a mask of {len(picture.values)} channels; save one with a number for each class")
    return picture


def _spatial(shape: tuple[int, ...], path: Path) -> tuple[int, ...]:
    if not 2 <= len(shape) <= 4:
        raise UserError(f"{path}: has {len(shape)} axes; a picture has two or three, and a fourth for channels")
    if len(shape) == 4 and shape[3] > MOST_CHANNELS:
        raise UserError(f"{path}: a series of {shape[3]} volumes; save the one to be read as a file of its own")
    check_size(shape, path)
    return (*shape, 1)[:3] if len(shape) < 4 else shape[:3]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file as nibabel's image, packed or not whatever its name says. Its pixels can be read inside only."""
    import nibabel as nib

    nib.imageglobals.logger.setLevel(logging.CRITICAL)  # it tells the terminal of each oddity of a header
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        with gzip.open(file) if packed else file as stream:
            start = stream.read(4)
            stream.seek(0)
            second = 540 in (int.from_bytes(start, "little"), int.from_bytes(start, "big"))
            yield (nib.Nifti2Image if second else nib.Nifti1Image).from_stream(stream)
