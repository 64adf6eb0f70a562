"""A folder with one DICOM series: slices to a volume; several series are told apart. Axes as in picture.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from m4oe.data.readers import dicom, intensity, pixels, placing
from m4oe.data.readers.facts import KNOWN, facts_in, term
from m4oe.data.readers.picture import Form, Picture, check_size
from m4oe.errors import UserError

SAME = {
    "Rows": "slices of several sizes",
    "Columns": "slices of several sizes",
    "PhotometricInterpretation": "grey and inverted slices",
}


@dataclass(frozen=True)
class Series:
    """The files of one series, in the order of their names, and what it is: its number, modality and size."""

    files: tuple[Path, ...]
    number: int | None
    modality: str | None
    shape: tuple[int, int]

    def __str__(self) -> str:
        name = f"series {self.number}" if self.number is not None else "a series without a number"
        slices = f"{len(self.files)} slice{'s' if len(self.files) != 1 else ''}"
        return f"{name} ({self.modality or 'unknown modality'}, {slices} of {self.shape[0]} x {self.shape[1]})"


def read(folder: Path) -> Picture:
    """The volume (1, D, H, W) of the slices in `folder`, in the order of their positions, turned to RAS+.

    Raises UserError for a folder without DICOM files or with others, several series (naming each), slices of
    different forms, and all that placing.placed refuses.
    """
    with dicom.unquoted(folder):
        files = listed(folder)
        if len(files) == 1:
            return dicom.read(files[0])
        slices = [dicom.header(path, with_pixels=True) for path in files]
        if len(found := _told_apart(files, slices)) > 1:
            raise UserError(
                f"{folder}: holds several series: {'; '.join(map(str, found))}; keep one series in a folder"
            )
        _agree(slices, folder)
        order, affine = placing.placed(slices, str(folder))
        window, facts = intensity.window(slices[order[0]], files[order[0]]), facts_in(slices[0])
        planes = np.empty((len(files), slices[0].Rows, slices[0].Columns), np.float32)
        for place, index in enumerate(order):
            planes[place] = _plane(slices[index], files[index])
            del slices[index].PixelData
        return replace(placing.volume(planes, affine, str(folder)), window=window, facts=facts)


def form(folder: Path) -> Form:
    """From how many files there are."""
    files = listed(folder)
    return dicom.form(files[0]) if len(files) == 1 else Form(3)


def series_in(folder: Path) -> tuple[Series, ...]:
    """The series in `folder`, told apart by their headers. Raises UserError as `read` does for files that are none."""
    with dicom.unquoted(folder):
        files = listed(folder)
        return _told_apart(files, [dicom.header(path) for path in files])


def listed(folder: Path) -> list[Path]:
    """The files of a series, hidden ones and an index (DICOMDIR) left out. Raises UserError where there are none."""
    files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.name != "DICOMDIR")
    if not files:
        raise UserError(f"{folder}: an empty folder; it should hold the slices of one DICOM series")
    if inner := [path for path in files if path.is_dir()]:
        raise UserError(f"{folder}: holds a folder ({inner[0].name}); name the folder of one DICOM series")
    if foreign := [path for path in files if not dicom.is_dicom(path)]:
        raise UserError(f"{foreign[0]}: is not DICOM; a folder that is named as a picture holds one DICOM series alone")
    return files


def _told_apart(files: Sequence[Path], slices: Sequence[Any]) -> tuple[Series, ...]:
    groups: dict[str, list[int]] = {}
    for index, one in enumerate(slices):
        groups.setdefault(str(one.get("SeriesInstanceUID", "")), []).append(index)
    return tuple(_series([files[index] for index in group], slices[group[0]]) for group in groups.values())


def _series(files: Sequence[Path], first: Any) -> Series:
    number = first.get("SeriesNumber")
    shape = int(first.Rows), int(first.Columns)
    return Series(tuple(files), None if number is None else int(number), term(first, "Modality", KNOWN), shape)


def _agree(slices: Sequence[Any], folder: Path) -> None:
    if slices[0].PhotometricInterpretation not in intensity.GREY:
        raise UserError(f"{folder}: a DICOM series in colour, which is not read; name its files one by one")
    if any(pixels.count(one) > 1 for one in slices):
        raise UserError(f"{folder}: a DICOM series of files with several frames; name the file of one volume")
    for key, trouble in SAME.items():
        if any(one[key].value != slices[0][key].value for one in slices):
            raise UserError(f"{folder}: holds {trouble} ({key} differs); keep one series in a folder")
    check_size((len(slices), slices[0].Rows, slices[0].Columns), folder)


def _plane(tags: Any, path: Path) -> Any:
    found = pixels.Frames(tags, path)
    return intensity.grey(found[0], tags, path, lambda: found.words(0))
