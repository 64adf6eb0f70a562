"""DICOM files made by hand: any pixels, any tags, any transfer syntax that an encoder at hand writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

# Those that lose nothing and can be written here; the others are among the files that come with pydicom.
LOSSLESS = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "RLE": RLELossless,
    "JPEG-LS": JPEGLSLossless,
    "JPEG 2000": JPEG2000Lossless,
}
COMPRESSED = (RLELossless, JPEGLSLossless, JPEG2000Lossless)


def dataset(pixels: np.ndarray, **tags: Any) -> FileDataset:
    """A data set of `pixels` (H, W) or (H, W, 3), with NumberOfFrames (F, H, W) or (F, H, W, 3), and other `tags`."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    colour = pixels.shape[-1] == 3 and pixels.ndim == (4 if "NumberOfFrames" in tags else 3)
    rows, columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    bits = 8 * pixels.dtype.itemsize
    defaults = {
        "SOPClassUID": CTImageStorage, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID, "Modality": "OT",
        "Rows": rows, "Columns": columns, "SamplesPerPixel": 3 if colour else 1, "BitsAllocated": bits,
        "BitsStored": bits, "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "PixelData": pixels.astype(pixels.dtype.newbyteorder("<")).tobytes(),
    }  # fmt: skip
    if colour:
        defaults["PlanarConfiguration"] = 0
    for name, value in {**defaults, **tags}.items():
        setattr(found, name, value)
    found.HighBit = tags.get("HighBit", found.BitsStored - 1)
    return found


def save(path: Path, pixels: np.ndarray, syntax: Any = ExplicitVRLittleEndian, **tags: Any) -> Path:
    """The file `path` of `dataset(pixels, **tags)`, packed by `syntax`."""
    return write(path, dataset(pixels, **tags), syntax)


def write(path: Path, made: FileDataset, syntax: Any = ExplicitVRLittleEndian) -> Path:
    if syntax in COMPRESSED:
        made.compress(syntax, generate_instance_uid=False)
    elif syntax == ExplicitVRBigEndian:
        stored = np.frombuffer(made.PixelData, f"<u{made.BitsAllocated // 8}")
        made.PixelData = stored.astype(stored.dtype.newbyteorder(">")).tobytes()
        made["PixelData"].VR = "OB" if made.BitsAllocated == 8 else "OW"
        made = FileDataset("", made, file_meta=made.file_meta, preamble=b"\0" * 128, is_little_endian=False)
    made.file_meta.TransferSyntaxUID = syntax
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(
        path,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
        enforce_file_format=syntax != ExplicitVRBigEndian,
    )
    return path


def item(**tags: Any) -> Dataset:
    """One item of a sequence; a tag that is a list of items is a sequence of its own."""
    made = Dataset()
    for name, value in tags.items():
        nested = isinstance(value, list) and value and isinstance(value[0], Dataset)
        setattr(made, name, Sequence(value) if nested else value)
    return made


def slice_tags(position: Any, **tags: Any) -> dict[str, Any]:
    """The tags of an axial slice at `position` mm, or with the whole ImagePositionPatient."""
    place = [-10.0, -20.0, position] if isinstance(position, int | float) else list(position)
    return {
        "ImagePositionPatient": place, "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [3.0, 2.0],
        "SeriesInstanceUID": "1.2.3", **tags,
    }  # fmt: skip
