"""Masks as files: PNG for pictures, NIfTI for volumes, each as its input lies; beside them what their numbers mean."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from m4oe.data.readers import Geometry
from m4oe.masks.colours import write_colours
from m4oe.masks.labels import Mask

# A geometry's affine takes (d, h, w); a NIfTI array stands as (w, h, d).
_REVERSED = np.eye(4)[[2, 1, 0, 3]]


class MaskFolder:
    """A folder of masks and of the colour tables that say what their numbers mean.

    of_study: names begin with the study, where several studies may hold exams of one name.
    """

    def __init__(self, folder: Path, *, of_study: bool = False) -> None:
        self.folder, self.of_study = folder, of_study
        self._label_sets: dict[str, Mapping[int, str]] = {}

    def write(self, mask: Mask) -> Path:
        """Writes one mask, and the tables anew where its label set is the first of its name."""
        path = write_mask(mask, self.folder, of_study=self.of_study)
        name = f"{file_name(mask.study)}__{mask.task}" if self.of_study else mask.task
        if name not in self._label_sets:
            self._label_sets[name] = mask.classes
            write_colours(self._label_sets, self.folder)
        return path


def write_mask(mask: Mask, folder: Path, *, of_study: bool = False) -> Path:
    """Writes EXAM__TASK.png, or .nii.gz as the input lies, holding the values of `mask.classes`, and gives its path.

    A mask of a NIfTI input has its shape, its orientation matrices with their codes, its units and its version (1 or
    2); of any other volume it is NIfTI in RAS+ order. of_study: STUDY__EXAM__TASK. A mask that tells its input is
    called EXAM__INPUT__TASK.
    """
    values = np.asarray(list(mask.classes))
    labels = values.astype(np.uint8 if values.max() <= 255 else np.uint16)[mask.labels]
    folder.mkdir(parents=True, exist_ok=True)
    stem = mask_name(mask.study if of_study else None, mask.exam, mask.task, mask.input)
    if labels.ndim == 2 and mask.geometry.orientation is None:
        return _write_image(labels, folder / f"{stem}.png")
    return _write_volume(labels, mask, folder, stem)


def mask_name(study: str | None, exam: str, task: str, input: str | None = None) -> str:
    """The name of a mask's file, without its suffix."""
    return "__".join([*([file_name(study)] if study else []), file_name(exam), *([input] if input else []), task])


def file_name(exam: str) -> str:
    """An exam's id as part of a file name: other characters than letters, digits, '.', '-' and '_' are replaced, and
    a hash keeps such names apart."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", exam)
    return safe if safe == exam else f"{safe}-{hashlib.sha256(exam.encode()).hexdigest()[:8]}"


def _write_image(labels: ndarray, path: Path) -> Path:
    from PIL import Image

    beside = path.with_name(f".{path.name}.part")
    Image.fromarray(labels).save(beside, format="PNG")
    return beside.replace(path)


def _write_volume(labels: ndarray, mask: Mask, folder: Path, stem: str) -> Path:
    import nibabel

    beside, path = folder / f".{stem}.part.nii.gz", folder / f"{stem}.nii.gz"
    nibabel.save(nifti_like(labels, mask.geometry), beside)
    return beside.replace(path)


def nifti_like(values: ndarray, geometry: Geometry) -> Any:
    """The NIfTI image of `values` (*geometry.shape) that lies as the file of `geometry` does, in its own order of
    storage if that is NIfTI, else in RAS+ order. It has nothing of what the file says of people."""
    header = _nifti_header(Path(geometry.source))
    return _placed(values, geometry) if header is None else _as_input(values, geometry, header)


def _as_input(values: ndarray, geometry: Geometry, header: Any) -> Any:
    """An image with all that `header` says of space, and nothing of what it says of values, or of people."""
    import nibabel

    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    array = geometry.to_file(values).reshape(header.get_data_shape()[:3])
    header.set_data_dtype(values.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    header.set_intent("none")
    for text in ("descrip", "aux_file", "db_name", "data_type"):
        if text in header:
            header[text] = b""
    header.extensions.clear()
    return kind(array, None, header)


def _placed(values: ndarray, geometry: Geometry) -> Any:
    """The image of values whose file is not NIfTI."""
    import nibabel

    whole = values.reshape(geometry.orientation.grid) if geometry.orientation is not None else values
    affine = _REVERSED if geometry.affine is None else geometry.affine
    image = nibabel.Nifti1Image(whole.transpose(2, 1, 0), affine @ _REVERSED)
    image.header.set_xyzt_units("mm")
    return image


def _nifti_header(path: Path) -> Any:
    """The header of a NIfTI file, packed or not whatever its name says; None for any other file."""
    import nibabel

    if not path.is_file():
        return None
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if packed else path.open("rb") as stream:
        start = stream.read(352)
        stream.seek(0)
        if start[4:8] == b"n+2\0":
            return nibabel.Nifti2Image.header_class.from_fileobj(stream)
        return nibabel.Nifti1Image.header_class.from_fileobj(stream) if start[344:348] == b"n+1\0" else None
