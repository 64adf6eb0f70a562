"""Drawn mammograms as DICOM files, with the tags that releases keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from m4oe.data.phantoms import mammogram

SIZE = (40, 32)
SHARES = {"A": 0.06, "B": 0.25, "C": 0.5, "D": 0.8}
BITS = 12
OBLIQUE = ("MLO", "ML", "LM", "LMO", "AT")
ROOT = "1.2.826.0.1.3680043.8.498"


def write_mammogram(
    path: Path,
    number: int,
    *,
    side: str,
    view: str,
    patient: str = "",
    exam: int | None = None,
    density: str = "B",
    suspicious: bool = False,
    synthetic: bool = False,
    inverted: bool = False,
    packed: bool = False,
) -> None:
    """Writes one picture; `number` seeds what is drawn and makes its ids, `exam` that of its study; by default
    each picture has its own. inverted: stored as MONOCHROME1 · packed: as
    JPEG 2000, without loss."""
    rng = np.random.default_rng([7, number])
    look = mammogram.Look("mlo" if view in OBLIQUE else "cc", synthetic, SHARES[density], 0.5, suspicious, None)
    drawn = mammogram.draw(rng, mammogram.draw_shape(rng), look, *SIZE)
    pixels = np.round(drawn * (2**BITS - 1)).astype(np.uint16)
    pixels = pixels[:, ::-1] if side == "R" else pixels
    pixels = 2**BITS - 1 - pixels if inverted else pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = _dataset(pixels, number, side, view, patient, inverted, synthetic)
    dataset.StudyInstanceUID = f"{ROOT}.{number + 1 if exam is None else exam + 1}.2"
    if packed:
        dataset.compress("1.2.840.10008.1.2.4.90", pixels.copy(), generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)


def _dataset(
    pixels: np.ndarray, number: int, side: str, view: str, patient: str, inverted: bool, synthetic: bool
) -> Any:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, DigitalMammographyXRayImageStorageForPresentation, ExplicitVRLittleEndian

    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = UID(f"{ROOT}.{number + 1}.1")
    made.SeriesInstanceUID = UID(f"{ROOT}.{number + 1}.3")
    made.Modality, made.PresentationIntentType = "MG", "FOR PRESENTATION"
    made.PatientID, made.PatientSex = patient, "F"
    made.ImageLaterality, made.ViewPosition = side, view
    made.ImageType = ["DERIVED", "PRIMARY", "", "GENERATED_2D"] if synthetic else ["ORIGINAL", "PRIMARY"]
    made.PixelSpacing = made.ImagerPixelSpacing = [2.5, 2.5]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME1" if inverted else "MONOCHROME2"
    made.Rows, made.Columns = pixels.shape
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, BITS, BITS - 1, 0
    made.PixelData = np.ascontiguousarray(pixels).astype("<u2").tobytes()
    return made
