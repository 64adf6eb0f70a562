"""One DICOM file to a picture. What is not read is an error that names it. Axes as in picture.py.

No text of a file is in any message: what a header says is repeated only where it is a word of a closed list, and what
libraries say of it, who may quote it, never.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from m4oe.data.readers import frames, intensity, pixels
from m4oe.data.readers.facts import Facts, facts_in
from m4oe.data.readers.intensity import GREY
from m4oe.data.readers.picture import Form, Picture
from m4oe.errors import UserError

COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
PALETTE = "PALETTE COLOR"
UNREAD = ("YBR_PARTIAL_420", "YBR_PARTIAL_422", "XYB", "HSV", "ARGB", "CMYK")
SUFFIXES = (".dcm", ".dicom", ".ima")
NO_PICTURE = {
    "SEG": "a segmentation", "RTDOSE": "a dose", "SR": "a report", "RTSTRUCT": "contours", "RTPLAN": "a plan",
    "RTRECORD": "a record of treatment", "PR": "a way of presenting", "KO": "a list of pictures", "DOC": "a document",
    "REG": "a registration", "ECG": "curves", "AU": "sound", "HD": "curves", "M3D": "a model to print",
    "FID": "a list of points", "RWV": "a list of units", "PLAN": "a plan",
}  # fmt: skip


def read(path: Path) -> Picture:
    """The picture of one file: in its physical unit, MONOCHROME1 inverted, colour as RGB; no window, no overlay.

    (C, H, W) of one frame, (C, D, H, W) of several. Raises UserError for objects that are no picture, for pixels that
    cannot be unpacked, and for frames that make no volume.
    """
    with unquoted(path):
        dataset = header(path, with_pixels=True)
        several = _several(dataset)
        picture = _colour(dataset, path, several) if _is_colour(dataset) else _grey(dataset, path, several)
        return replace(picture, facts=facts_in(dataset))


def form(path: Path) -> Form:
    """From the header."""
    with unquoted(path):
        dataset = header(path)
        axes = 3 if _several(dataset) and not frames.is_slide(dataset) else 2
        return Form(axes, 3, colour=True) if _is_colour(dataset) else Form(axes)


def facts_of(path: str | Path, salt: str | None = None) -> Facts:
    """What the header of a file says that may be told; its pixels are not read. With a `salt`, the patient's id hashed.

    Raises UserError for a file that is missing, damaged, or no DICOM picture.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with unquoted(path):
        return facts_in(header(path), salt)


@contextmanager
def unquoted(path: Path) -> Iterator[None]:
    """Within it, whatever goes wrong with `path` is a UserError that quotes nothing; pydicom is silent from then on."""
    from pydicom.config import logger

    logger.setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
    try:
        yield
    except UserError:
        raise
    except (MemoryError, RecursionError):
        raise UserError(f"{path}: asks for more memory than a picture needs; damaged") from None
    except Exception as error:  # of damaged bytes any kind, with any text
        raise UserError(f"{path}: damaged, or not DICOM as it seems ({type(error).__name__})") from None


def is_dicom(path: Path) -> bool:
    """By its mark; old files have none, but a name that says so."""
    with path.open("rb") as file:
        start = file.read(132)
    return start[128:] == b"DICM" or (path.suffix.lower() in SUFFIXES and b"\0" in start)


def header(path: Path, *, with_pixels: bool = False) -> Any:
    """The file's data set, which is of a picture. Raises UserError where it is not, or is not DICOM."""
    from pydicom import dcmread

    pixels.check_inflation(path)
    dataset = dcmread(path, force=True, stop_before_pixels=not with_pixels)
    _state_syntax(dataset)
    modality = str(dataset.get("Modality", ""))
    if modality in NO_PICTURE:
        raise UserError(f"{path}: is {NO_PICTURE[modality]} (DICOM {modality}), not a picture")
    if "DirectoryRecordSequence" in dataset:
        raise UserError(f"{path}: is an index of other files (DICOMDIR), not a picture")
    if "Rows" not in dataset or "Columns" not in dataset:
        raise UserError(f"{path}: is no DICOM picture: it has no rows of pixels")
    _check_colours(str(dataset.get("PhotometricInterpretation") or ""), path)
    return dataset


def spacing(dataset: Any) -> tuple[float, float] | None:
    """Millimetres between rows and between columns, in the patient where known, else on the detector."""
    for key in ("PixelSpacing", "ImagerPixelSpacing"):
        stated = dataset.get(key)
        if stated and len(stated) == 2 and all(mm > 0 and np.isfinite(mm) for mm in map(float, stated)):
            return float(stated[0]), float(stated[1])
    return None


def _check_colours(form: str, path: Path) -> None:
    if not form:
        raise UserError(f"{path}: does not say how its numbers are shown (PhotometricInterpretation); too old a file")
    if form not in (*GREY, *COLOUR, PALETTE):
        named = f"of the form {form}" if form in UNREAD else "of an unknown form"
        raise UserError(f"{path}: colours {named} are not read; save it as RGB or grey")


def _state_syntax(dataset: Any) -> None:
    """A file without a header does not say how it is written: it can only be the way in which it could be read."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _several(dataset: Any) -> bool:
    return pixels.count(dataset) > 1


def _is_colour(dataset: Any) -> bool:
    return dataset.PhotometricInterpretation not in GREY


def _grey(dataset: Any, path: Path, several: bool) -> Picture:
    _check_bits(dataset, path)
    if several and frames.is_slide(dataset):
        raise UserError(f"{path}: a slide in grey, which is not read; save it as a picture")
    if several or "PerFrameFunctionalGroupsSequence" in dataset:
        return frames.read_grey(dataset, path)
    found = pixels.Frames(dataset, path)
    values = intensity.grey(found[0], dataset, path, lambda: found.words(0))
    return Picture(values[None], spacing(dataset), source=str(path), window=intensity.window(dataset, path))


def _check_bits(dataset: Any, path: Path) -> None:
    stored, high = dataset.get("BitsStored"), dataset.get("HighBit")
    native = str(dataset.file_meta.TransferSyntaxUID) in pixels.NATIVE
    if native and stored and high is not None and int(high) != int(stored) - 1:
        raise UserError(f"{path}: its {int(stored)} bits do not end with the lowest one, which is not read")


def _colour(dataset: Any, path: Path, several: bool) -> Picture:
    if dataset.PhotometricInterpretation == PALETTE:
        return _palette(dataset, path, several)
    full_scale = 2.0 ** int(dataset.BitsStored) - 1
    if several:
        return replace(frames.read_colour(dataset, path), full_scale=full_scale)
    values = pixels.Frames(dataset, path)[0].transpose(2, 0, 1)
    return Picture(values, spacing(dataset), source=str(path), full_scale=full_scale, colour=True)


def _palette(dataset: Any, path: Path, several: bool) -> Picture:
    """Indices looked up in the file's own palette (C.7.9)."""
    from pydicom.pixels import apply_color_lut

    found = pixels.Frames(dataset, path)
    planes = [apply_color_lut(found[index], dataset)[..., :3].transpose(2, 0, 1) for index in range(len(found))]
    bits = int(dataset.RedPaletteColorLookupTableDescriptor[2])
    values = np.stack(planes, axis=1) if several else planes[0]
    space = None if several else spacing(dataset)
    return Picture(values, space, source=str(path), full_scale=2.0**bits - 1, colour=True)
