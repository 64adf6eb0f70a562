"""Files to pictures and masks. What a file is follows from its first bytes, never from its name.

Axes: C channels · D, H, W slices, rows, columns.
"""

from __future__ import annotations

import gzip
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy import ndarray

from m4oe.data.readers import arrays, dicom, nifti, raster, series
from m4oe.data.readers.indices import class_indices
from m4oe.data.readers.mammogram import breast_box
from m4oe.data.readers.picture import Form, Geometry, Orientation, Picture
from m4oe.errors import UserError

__all__ = ["Geometry", "Orientation", "Picture", "form_of", "picture_of", "read_labels", "read_mask", "read_picture"]

COLOUR_KINDS = ("photo", "pathology")
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow


@dataclass(frozen=True)
class Format:
    """How files of one format are read: the picture, its form without pixels, and a mask with its numbers."""

    name: str
    read: Callable[[Path], Picture]
    form: Callable[[Path], Form]
    mask: Callable[[Path], Picture] | None = None


RASTER = Format("PNG, JPEG, TIFF, BMP or PGM", raster.read, raster.form, raster.read_mask)
NIFTI = Format("NIfTI", nifti.read, nifti.form, nifti.read_mask)
NUMPY = Format("NumPy", arrays.read, arrays.form, arrays.read_mask)
DICOM = Format("DICOM", dicom.read, dicom.form)
SERIES = Format("a folder with one DICOM series", series.read, series.form)
FORMATS = (RASTER, NIFTI, NUMPY, DICOM, SERIES)


def read_picture(paths: Sequence[str], kind: str) -> Picture:
    """The picture in `paths`, which are channels of one; values float32 in physical units or at full bit depth.

    Pictures of kind photo and pathology have the three channels of RGB each, grey ones three times the same; kind
    other keeps what the file has; all other kinds have one channel, to which colour is brought by its luminance.
    Raises UserError for a file that is missing, damaged or no picture, that holds NaN, infinity or a single value,
    and for channels that differ in shape or place.
    """
    channels = [_as_kind(_checked(_in_channels(_decode(path), kind)), kind) for path in paths]
    return channels[0] if len(channels) == 1 else _stacked(channels)


def picture_of(array: ndarray, kind: str, source: str = "array") -> Picture:
    """The picture of an array (H, W), (H, W, 3) or (D, H, W); all else as in read_picture."""
    return _checked(_in_channels(arrays.of_array(np.asarray(array), source), kind))


def read_mask(path: str, values: Sequence[int], ignore: int | None = None) -> ndarray:
    """Class indices (H, W) or (D, H, W) int64 of a mask, and -100 where it holds `ignore`; see read_labels."""
    return read_labels(path, values, ignore).values[0].astype(np.int64)


def read_labels(path: str, values: Sequence[int], ignore: int | None = None) -> Picture:
    """A mask with its place in space: values (1, H, W) or (1, D, H, W) int16, class indices.

    Indices are the places of its pixels' values in `values`; -100 where they are `ignore`. A mask of 0 and 255 alone is
    understood where `values` are 0 and 1. Of a palette the indices count.
    Raises UserError for a value that is not among `values`, naming it, and for a file that is no mask.
    """
    picture: Picture = _guarded(path, "mask")
    jpeg = not Path(path).is_dir() and _bytes(Path(path), 2) == b"\xff\xd8"
    indices = class_indices(picture.values[0], path, values, ignore, "; JPEG blurs values, save masks as PNG" * jpeg)
    return replace(picture, values=indices[None])


def form_of(paths: Sequence[str], kind: str) -> tuple[Literal["image", "volume"], int]:
    """Whether read_picture will give an image or a volume, and of how many channels, mostly from headers alone.

    Raises UserError for a file that is missing, damaged or no picture.
    """
    forms: list[Form] = [_guarded(path, "form") for path in paths]
    channels = sum(_channels(found, kind) for found in forms)
    return ("image" if forms[0].axes == 2 else "volume"), channels


def _channels(form: Form, kind: str) -> int:
    if kind in COLOUR_KINDS:
        return 3 if form.colour else 3 * form.channels
    return 1 if form.colour and kind != "other" else form.channels


def _decode(path: str) -> Picture:
    picture: Picture = _guarded(path, "read")
    return replace(picture, values=np.ascontiguousarray(picture.values, np.float32))


def _guarded(path: str, action: str) -> Any:
    """What the path's format answers to `action`; UserError for all that goes wrong on the way.

    Decoders meet damaged bytes with any exception that there is, so all of them are caught, here only.
    """
    found = _format_of(Path(path))
    act = getattr(found, action)
    if act is None:
        raise UserError(f"{path}: masks in DICOM are not read yet; save the mask as PNG, TIFF, NIfTI or NumPy")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return act(Path(path))
    except UserError:
        raise
    except (MemoryError, RecursionError):
        raise UserError(f"{path}: asks for more memory than a picture needs; damaged") from None
    except Exception as error:
        said = str(error).strip().splitlines()
        reason = said[0][:200] if said else type(error).__name__
        raise UserError(f"{path}: damaged, or not {found.name} as it seems ({reason})") from None


def _format_of(path: Path) -> Format:
    """The format by content. Raises UserError for what is not there, empty, or of no known format."""
    if path.is_dir():
        return SERIES
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    start = _bytes(path, 352)
    if not start:
        raise UserError(f"{path}: an empty file")
    if start[:2] == b"\x1f\x8b":
        start = _unpacked(path)
        if start[344:348] != b"n+1\0" and start[4:8] != b"n+2\0":
            raise UserError(f"{path}: packed (.gz), and not NIfTI; unpack it")
    if start[344:348] == b"n+1\0" or start[4:8] == b"n+2\0":
        return NIFTI
    if dicom.is_dicom(path):
        return DICOM
    if start[:6] == b"\x93NUMPY" or start[:4] == b"PK\x03\x04":
        return NUMPY
    if start.startswith((b"\x89PNG", b"\xff\xd8", b"II", b"MM", b"BM", b"P2", b"P3", b"P5", b"P6", b"P1", b"P4")):
        return RASTER
    raise UserError(f"{path}: not a picture; known are {', '.join(known.name for known in FORMATS)}")


def _bytes(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)


def _unpacked(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read(352)
    except (OSError, EOFError, zlib.error):
        raise UserError(f"{path}: a damaged .gz file; copy it again") from None


def _as_kind(picture: Picture, kind: str) -> Picture:
    """A DICOM picture with what is to be known of it as one of `kind`; of a mammogram, where the breast is."""
    if picture.facts is None:
        return picture
    focus = breast_box(picture.values[0]) if kind == "mammogram" and picture.values.ndim == 3 else None
    return replace(picture, focus=focus, notes=picture.facts.notes(kind))


def _in_channels(picture: Picture, kind: str) -> Picture:
    """The picture with the channels of its kind."""
    values = picture.values
    if kind in COLOUR_KINDS:
        rgb = values if picture.colour else np.repeat(values, 3, axis=0)
        return replace(picture, values=rgb, colour=True)
    if kind == "other" or not picture.colour:
        return picture
    if (values == values[:1]).all():
        return replace(picture, values=values[:1], colour=False)
    return replace(picture, values=np.tensordot(LUMINANCE, values, 1)[None], colour=False)


def _checked(picture: Picture) -> Picture:
    """`picture` if it can be learned from. A single value is nearly always a failed conversion."""
    if picture.values.size == 0:
        raise UserError(f"{picture.source}: has no pixels")
    if not np.isfinite(picture.values).all():
        count = int((~np.isfinite(picture.values)).sum())
        raise UserError(f"{picture.source}: {count} pixels are NaN or infinite; repair the picture, or take it out")
    for channel in [picture.values] if picture.colour else picture.values:
        if channel.min() == channel.max():
            raise UserError(f"{picture.source}: a constant image, every pixel is {channel.flat[0]:g}")
    return picture


def _stacked(channels: Sequence[Picture]) -> Picture:
    first = channels[0]
    for other in channels[1:]:
        if other.shape != first.shape:
            raise UserError(
                f"{other.source} is {_by(other.shape)} and {first.source} {_by(first.shape)}; channels of one picture "
                "have one shape"
            )
        if first.affine is not None and other.affine is not None and not _same_place(first, other):
            raise UserError(f"{other.source} and {first.source} lie differently in space; register them first")
    scales = {channel.full_scale for channel in channels}
    return replace(
        first,
        values=np.concatenate([channel.values for channel in channels]),
        full_scale=scales.pop() if len(scales) == 1 else None,
        focus=None,
        notes=tuple(dict.fromkeys(note for channel in channels for note in channel.notes)),
    )


def _same_place(a: Picture, b: Picture) -> bool:
    """Corners within half a pixel."""
    corners = np.array([[0, 0, 0, 1], [*(n - 1 for n in np.resize(a.shape, 3)), 1]], float)
    apart = np.abs(corners @ (a.affine - b.affine).T).max()
    return bool(apart <= 0.5 * np.linalg.norm(a.affine[:3, :3], axis=0).min())


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
