"""DICOM files of several frames: enhanced volumes, tiles of a slide, and plain stacks. Axes as in picture.py.

Sections are of DICOM PS3.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from m4oe.data.readers import intensity, placing
from m4oe.data.readers.picture import MOST_PIXELS, Picture
from m4oe.data.readers.pixels import Frames
from m4oe.errors import UserError

# What intensity.py looks up, and enhanced files say once for all frames.
SHARED_TAGS = (
    "Modality", "PhotometricInterpretation", "PresentationLUTShape", "BitsAllocated", "BitsStored",
    "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept",
    "RescaleType", "WindowCenter", "WindowWidth", "VOILUTFunction",
)  # fmt: skip


def is_slide(dataset: Any) -> bool:
    """Whether the frames are tiles of one large picture (C.8.12.4)."""
    return dataset.get("Modality") == "SM" and "TotalPixelMatrixRows" in dataset


def read_grey(dataset: Any, path: Path) -> Picture:
    """The volume (1, D, H, W) of grey frames: placed and turned to RAS+ where the file says where they lie, else in
    the order of the file, without spacing. Raises UserError as placing.placed does."""
    frames, tags = Frames(dataset, path), list(_tags(dataset))
    planes = np.empty((len(frames), dataset.Rows, dataset.Columns), np.float32)
    for index in range(len(frames)):
        planes[index] = intensity.grey(frames[index], tags[index], path, lambda index=index: frames.words(index))
    window = intensity.window(tags[0], path)
    if not any(any(key in one for one in tags) for key in placing.GEOMETRY[:2]):
        return Picture(planes[None], source=str(path), window=window)
    order, affine = placing.placed(tags, str(path))
    return replace(placing.volume(planes[order], affine, str(path)), window=window)


def read_colour(dataset: Any, path: Path) -> Picture:
    """(3, D, H, W) of the frames in their order, or (3, H, W) of the tiles of a slide."""
    frames = Frames(dataset, path)
    if is_slide(dataset):
        return Picture(_slide(frames, dataset, path), source=str(path), colour=True)
    planes = np.empty((3, len(frames), dataset.Rows, dataset.Columns), np.float32)
    for index in range(len(frames)):
        planes[:, index] = frames[index].transpose(2, 0, 1)
    return Picture(planes, source=str(path), colour=True)


def _tags(dataset: Any) -> Iterator[Any]:
    """What holds for each frame: the file's own tags, those of all frames, and its own (C.7.6.16), later ones first."""
    from pydicom import Dataset

    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    shared = list(dataset.get("SharedFunctionalGroupsSequence") or ())
    for index in range(int(dataset.get("NumberOfFrames") or 1)):
        tags = Dataset()
        tags.update({key: dataset[key] for key in SHARED_TAGS if key in dataset})
        for group in (*shared, *per_frame[index : index + 1]):
            for element in group:
                if element.VR == "SQ" and len(element.value):
                    tags.update(element.value[0])
        yield tags


def _slide(frames: Frames, dataset: Any, path: Path) -> ndarray:
    """(3, H, W): every tile at its place; white where there is none."""
    height, width = int(dataset.TotalPixelMatrixRows), int(dataset.TotalPixelMatrixColumns)
    if height * width * 3 > MOST_PIXELS or min(height, width) < 1:
        raise UserError(f"{path}: a slide of {height} x {width} pixels; save a smaller level of it as a picture")
    whole = np.full((3, height, width), 2.0 ** int(dataset.BitsStored) - 1, np.float32)
    corners = _corners(frames, dataset)
    if len(set(corners)) < len(corners):
        raise UserError(f"{path}: a slide of several focal planes or stains; save the one to be read")
    for index, (top, left) in enumerate(corners):
        tile = frames[index].transpose(2, 0, 1)[:, : height - top, : width - left]
        whole[:, top : top + tile.shape[1], left : left + tile.shape[2]] = tile
    return whole


def _corners(frames: Frames, dataset: Any) -> Sequence[tuple[int, int]]:
    """First row and column of each tile, from 0: stated (C.8.12.6.1), or row by row (C.7.6.17.3)."""
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    stated = [group.get("PlanePositionSlideSequence") for group in per_frame]
    if len(stated) == len(frames) and all(stated):
        places = [found[0] for found in stated]
        return [(int(p.RowPositionInTotalImagePixelMatrix) - 1, int(p.ColumnPositionInTotalImagePixelMatrix) - 1)
                for p in places]  # fmt: skip
    across = -(-int(dataset.TotalPixelMatrixColumns) // int(dataset.Columns))
    return [
        (index // across * int(dataset.Rows), index % across * int(dataset.Columns)) for index in range(len(frames))
    ]
