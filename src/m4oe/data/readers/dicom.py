"""One DICOM file: a single picture. What is not read yet is an error that names it.

Sections are of DICOM PS3.3. Axes: C channels · H rows · W columns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from m4oe.data.readers.picture import Form, Picture
from m4oe.errors import UserError

COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT")
SUFFIXES = (".dcm", ".dicom", ".ima")
GREY = ("MONOCHROME1", "MONOCHROME2")
# Objects whose numbers are no picture: segmentations, doses.
NO_PICTURE = {"SEG": "a segmentation", "RTDOSE": "a dose", "SR": "a report", "RTSTRUCT": "contours"}


def read(path: Path) -> Picture:
    """The picture (C, H, W) of one file: rescaled to its unit, MONOCHROME1 inverted, colour as RGB; no window.

    Raises UserError for several frames, enhanced objects, and objects that are no picture.
    """
    dataset = load(path)
    colour = dataset.PhotometricInterpretation not in GREY
    values = _colour(dataset, path) if colour else grey(dataset, path)[None]
    full_scale = 2.0 ** (dataset.BitsStored if dataset.PhotometricInterpretation in COLOUR else 16) - 1
    return Picture(values, spacing(dataset), source=str(path), full_scale=full_scale if colour else None, colour=colour)


def form(path: Path) -> Form:
    """From the header."""
    grey_only = load(path, pixels=False).PhotometricInterpretation in GREY
    return Form(2) if grey_only else Form(2, 3, colour=True)


def is_dicom(path: Path) -> bool:
    """By its mark; old files have none, but a name that says so."""
    with path.open("rb") as file:
        start = file.read(132)
    return start[128:] == b"DICM" or (path.suffix.lower() in SUFFIXES and b"\0" in start)


def load(path: Path, *, pixels: bool = True) -> Any:
    """The file's data set, which is of one picture. Raises UserError where it is not, or is not DICOM."""
    from pydicom import dcmread

    dataset = dcmread(path, force=True, stop_before_pixels=not pixels)
    _state_syntax(dataset)
    modality = str(dataset.get("Modality", ""))
    if modality in NO_PICTURE:
        raise UserError(f"{path}: is {NO_PICTURE[modality]} (DICOM {modality}), not a picture")
    if "Rows" not in dataset or "PhotometricInterpretation" not in dataset:
        raise UserError(f"{path}: is no DICOM picture: it has no rows of pixels")
    if int(dataset.get("NumberOfFrames") or 1) > 1 or "PerFrameFunctionalGroupsSequence" in dataset:
        raise UserError(f"{path}: a DICOM file of several frames, which is not read yet; export the frames one by one")
    if dataset.PhotometricInterpretation not in (*GREY, *COLOUR, "PALETTE COLOR"):
        raise UserError(f"{path}: colours of the form {dataset.PhotometricInterpretation!r} are not read")
    return dataset


def _hush_gdcm() -> None:
    """gdcm writes to the terminal by itself, past Python's warnings."""
    import gdcm

    gdcm.Trace.WarningOff()
    gdcm.Trace.ErrorOff()


def _state_syntax(dataset: Any) -> None:
    """A file without a header does not say how it is written: it can only be the way in which it could be read."""
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, _ = dataset.original_encoding
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian


def _stored(dataset: Any, path: Path) -> ndarray:
    from pydicom.pixels import pixel_array

    _hush_gdcm()
    try:
        return pixel_array(dataset)
    except (RuntimeError, NotImplementedError):  # what pydicom says when each of its decoders has given up
        syntax = dataset.file_meta.TransferSyntaxUID.name
        raise UserError(
            f"{path}: its pixels, packed as {syntax!r}, cannot be unpacked; damaged, or not read yet"
        ) from None


def _colour(dataset: Any, path: Path) -> ndarray:
    """(3, H, W) float32 RGB, from luminance and chrominance or through the palette where it is stored so."""
    from pydicom.pixels import apply_color_lut

    stored = _stored(dataset, path)
    rgb = apply_color_lut(stored, dataset) if dataset.PhotometricInterpretation == "PALETTE COLOR" else stored
    return rgb.astype(np.float32).transpose(2, 0, 1)


def grey(dataset: Any, path: Path) -> ndarray:
    """(H, W) float32 after the modality transform (C.11.1), dark to bright; padding (C.7.5.1.1.2) takes the minimum."""
    from pydicom.pixels import apply_modality_lut

    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    if not inverted and dataset.get("PresentationLUTShape") == "INVERSE":
        raise UserError(f"{path}: MONOCHROME2 with an inverse presentation: which side is bright is not clear")
    stored, (low, high) = _stored(dataset, path), _range(dataset)
    padding = _padding(dataset, stored, path)
    values = apply_modality_lut(stored, dataset).astype(np.float32)
    ends = apply_modality_lut(np.array([low, high], stored.dtype), dataset).astype(np.float32)
    values = ends.sum() - values if inverted else values
    return np.where(padding, values[~padding].min(initial=values.max()), values).astype(np.float32)


def _range(dataset: Any) -> tuple[int, int]:
    """The numbers that the stored bits can hold."""
    bits = int(dataset.BitsStored)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0, 2**bits - 1)


def _padding(dataset: Any, stored: ndarray, path: Path) -> ndarray:
    """(H, W) bool: pixels that stand outside of what was imaged."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    first, last = sorted((value, dataset.get("PixelPaddingRangeLimit", value)))
    low, high = _range(dataset)
    if first < low or last > high:
        raise UserError(
            f"{path}: its padding ({first} to {last}) is beyond its {dataset.BitsStored} bits; not read yet"
        )
    return (stored >= first) & (stored <= last)


def spacing(dataset: Any) -> tuple[float, float] | None:
    """Millimetres between rows and between columns, in the patient where known, else on the detector."""
    stated = dataset.get("PixelSpacing") or dataset.get("ImagerPixelSpacing")
    if not stated or len(stated) != 2 or min(stated) <= 0:
        return None
    return float(stated[0]), float(stated[1])
