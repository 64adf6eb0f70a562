"""Stored pixels of a DICOM file, one frame at a time, after checks that cost nothing. Axes: H rows · W columns."""

from __future__ import annotations

import zlib
from math import ceil
from pathlib import Path
from typing import Any

from numpy import ndarray

from m4oe.data.readers import decoder
from m4oe.data.readers.picture import check_size
from m4oe.errors import UserError

MOST_INFLATED = 2**30
MOST_META = 2**16
META_START = 144  # what the length of the file's own header counts from (PS3.10 7.1)
KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
DEFLATED = "1.2.840.10008.1.2.1.99"
RLE = "1.2.840.10008.1.2.5"
NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", DEFLATED)
JPEG_2000_START = b"\xff\x4f\xff\x51"
END = b"\xff\xd9"


class Frames:
    """The frames of a data set: len() of them, each (H, W) as stored or (H, W, 3) RGB, unpacked when asked for.

    Raises UserError where pixels are missing, cut short, too many, in a form that is not read, or need a
    decoder that is not installed.
    """

    def __init__(self, dataset: Any, path: Path) -> None:
        self.dataset, self.path = dataset, path
        self.syntax = str(dataset.file_meta.TransferSyntaxUID)
        self.count = count(dataset)
        self.packed: list[bytes] = []
        _check_size(dataset, self.count, path)
        self._check_syntax()
        if self.syntax in NATIVE:
            _check_bytes(dataset, self.count, path)
        else:
            self.packed = self._split()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> ndarray:
        if self.syntax in decoder.DECODERS:
            return self._unpacked(self.packed[index])
        from pydicom.pixels import get_decoder

        pixels: ndarray = get_decoder(self.syntax).as_array(self.dataset, index=index)[0]
        return pixels

    def words(self, index: int) -> ndarray:
        """Frame (H, W) with the bits above those stored; of packed pixels, which have none, as it is."""
        from pydicom.pixels import get_decoder

        if self.syntax not in NATIVE:
            return self[index]
        pixels: ndarray = get_decoder(self.syntax).as_array(self.dataset, index=index, correct_unused_bits=False)[0]
        return pixels

    def _check_syntax(self) -> None:
        if self.syntax not in (*NATIVE, RLE, *decoder.DECODERS):
            name = self.dataset.file_meta.TransferSyntaxUID.name
            known = repr(name) if name[:1].isalpha() else "an unknown transfer syntax"
            raise UserError(f"{self.path}: its pixels are packed as {known}, for which there is no decoder")
        if self.syntax not in NATIVE and "PixelData" not in self.dataset:
            raise UserError(f"{self.path}: its pixels are numbers with a point in a packed file; damaged")

    def _split(self) -> list[bytes]:
        from pydicom.encaps import generate_frames

        table = self.dataset.get("ExtendedOffsetTable"), self.dataset.get("ExtendedOffsetTableLengths")
        frames = list(
            generate_frames(
                self.dataset.PixelData, number_of_frames=self.count, extended_offsets=table if all(table) else None
            )
        )
        if len(frames) < self.count:
            raise UserError(f"{self.path}: holds {len(frames)} of {self.count} frames; copy the file again")
        return frames

    def _unpacked(self, frame: bytes) -> ndarray:
        from pydicom.pixels.utils import as_pixel_options

        dataset = self.dataset
        _check_stream(frame, (dataset.Rows, dataset.Columns), self.path)
        options = {**as_pixel_options(dataset), "number_of_frames": 1}
        options.pop("extended_offsets", None)
        try:
            pixels: ndarray = decoder.unpack(frame, self.syntax, options)
        except decoder.Failed as failure:
            name = dataset.file_meta.TransferSyntaxUID.name
            raise UserError(f"{self.path}: its pixels, packed as {name!r}, {failure}") from None
        return pixels


def count(dataset: Any) -> int:
    """The number of frames, 1 where the file does not say."""
    return int(dataset.get("NumberOfFrames") or 1)


def check_inflation(path: Path) -> None:
    """Raises UserError for a deflated file that unpacks to more than MOST_INFLATED bytes, which pydicom would do."""
    from pydicom.filereader import read_file_meta_info

    with path.open("rb") as file:
        if DEFLATED.encode() not in file.read(MOST_META) or read_file_meta_info(path).TransferSyntaxUID != DEFLATED:
            return
        file.seek(META_START + int(read_file_meta_info(path).FileMetaInformationGroupLength))
        inflate, left = zlib.decompressobj(-zlib.MAX_WBITS), MOST_INFLATED
        data = file.read(2**16)
        while data and left > 0:
            left -= len(inflate.decompress(data, 2**24))
            data = inflate.unconsumed_tail or file.read(2**16)
    if left <= 0:
        raise UserError(f"{path}: unpacks to more than {MOST_INFLATED:,} bytes; damaged")


def _check_size(dataset: Any, frames: int, path: Path) -> None:
    rows, columns, samples = int(dataset.Rows), int(dataset.Columns), int(dataset.get("SamplesPerPixel", 1))
    if min(rows, columns, frames) < 1 or samples not in (1, 3):
        raise UserError(f"{path}: {frames} frames of {rows} x {columns} pixels of {samples} numbers; damaged")
    check_size((rows, columns, frames, samples), path)
    if not any(keyword in dataset for keyword in KEYWORDS):
        raise UserError(f"{path}: its pixels are missing; copy the file again, or take it out")


def _check_bytes(dataset: Any, frames: int, path: Path) -> None:
    """Whether the pixels that the header promises are there, and no others."""
    keyword = next(keyword for keyword in KEYWORDS if keyword in dataset)
    numbers = dataset.Rows * dataset.Columns * frames * dataset.get("SamplesPerPixel", 1)
    if dataset.PhotometricInterpretation == "YBR_FULL_422":
        numbers = numbers * 2 / 3
    bits = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}.get(keyword) or dataset.BitsAllocated
    promised, stored = ceil(numbers * bits / 8), dataset[keyword].value or b""
    if len(stored) < promised:
        raise UserError(f"{path}: cut short: {len(stored):,} of {promised:,} bytes of its pixels; copy the file again")
    if len(set(stored[promised:])) > 1:  # filling is of one value; more than that is pixels, and rows may be sheared
        raise UserError(f"{path}: holds {len(stored):,} bytes of pixels where its header says {promised:,}; damaged")


def _check_stream(frame: bytes, shape: tuple[int, int], path: Path) -> None:
    """Whether a compressed frame is of the header's size, and has its end: decoders allocate by what it says itself."""
    stated = _stated_size(frame)
    if stated is None:
        raise UserError(f"{path}: its compressed pixels have no valid start; damaged")
    if stated != tuple(map(int, shape)):
        raise UserError(
            f"{path}: its header says {shape[0]} x {shape[1]} pixels, and the compressed ones "
            f"{stated[0]} x {stated[1]}; damaged"
        )
    if END not in frame[-16:]:
        raise UserError(f"{path}: cut short: its compressed pixels have no end; copy the file again")


def _stated_size(frame: bytes) -> tuple[int, int] | None:
    """Rows and columns by a stream itself (ISO 10918-1 B.2.2, 14495-1 C.2.2, 15444-1 A.5.1); None where it is none."""
    start = frame.find(JPEG_2000_START, 0, 4096)
    if start >= 0 and len(frame) >= start + 24:
        size = [int.from_bytes(frame[start + at : start + at + 4], "big") for at in (8, 12, 16, 20)]
        return size[1] - size[3], size[0] - size[2]
    at = 2 if frame[:2] == b"\xff\xd8" else len(frame)
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        if marker == 0xFF:  # filling
            at += 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return int.from_bytes(frame[at + 5 : at + 7], "big"), int.from_bytes(frame[at + 7 : at + 9], "big")
        else:
            at += 2 + length
    return None
