"""Masks: from a network's scores to labels on the input's own grid, to files that viewers read, and to their scores."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from m4oe.data.readers import Geometry, read_mask
from m4oe.data.samples import Sample
from m4oe.data.table import Cohort
from m4oe.schema import TaskSpec


@dataclass(frozen=True, eq=False)
class Mask:
    """labels (H, W) or (D, H, W) uint8: class indices of `task`, on the grid of the picture of `geometry`."""

    study: str
    exam: str
    task: str
    labels: np.ndarray
    geometry: Geometry


def mask_of(scores: np.ndarray, sample: Sample, stream: str, task: TaskSpec) -> Mask:
    """The mask of one exam from class scores (C, *size) on the network's grid."""
    original = sample.fits[stream].invert(torch.from_numpy(scores))
    labels = original.argmax(0).to(torch.uint8).numpy()
    return Mask(sample.study, sample.exam, task.name, labels, sample.geometry[stream])


def true_mask(cohort: Cohort, mask: Mask) -> np.ndarray | None:
    """The exam's own mask in the same class indices, None where it has none. Raises UserError if it cannot be read."""
    if mask.task not in cohort.labels:
        return None
    path = cohort.labels[mask.task][int(np.flatnonzero(cohort.exams == mask.exam)[0])]
    return None if path is None else read_mask(path, cohort.study.tasks[mask.task].class_values)


def write_mask(mask: Mask, folder: Path, task: TaskSpec, *, of_study: bool = False) -> Path:
    """Writes EXAM__TASK.png, or .nii.gz with the input's affine, holding the study's own mask values.

    of_study: STUDY__EXAM__TASK, where several studies may hold exams of one name.
    """
    values = np.asarray([int(value) for value in task.values] or range(len(task.classes)))
    kind = np.uint8 if values.max() <= 255 else np.uint16
    labels = mask.geometry.to_file(values.astype(kind)[mask.labels])
    folder.mkdir(parents=True, exist_ok=True)
    stem = mask_name(mask.study if of_study else None, mask.exam, mask.task)
    return (
        _write_image(labels, folder / f"{stem}.png") if labels.ndim == 2 else _write_volume(labels, mask, folder, stem)
    )


def mask_name(study: str | None, exam: str, task: str) -> str:
    """The name of a mask's file, without its suffix."""
    return "__".join([*([file_name(study)] if study else []), file_name(exam), task])


def file_name(exam: str) -> str:
    """An exam's id as part of a file name: other characters than letters, digits, '.', '-' and '_' are replaced, and
    a hash keeps such names apart."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", exam)
    return safe if safe == exam else f"{safe}-{hashlib.sha256(exam.encode()).hexdigest()[:8]}"


def _write_image(labels: np.ndarray, path: Path) -> Path:
    from PIL import Image

    beside = path.with_name(f".{path.name}.part")
    Image.fromarray(labels).save(beside, format="PNG")
    return beside.replace(path)


def _write_volume(labels: np.ndarray, mask: Mask, folder: Path, stem: str) -> Path:
    import nibabel

    beside, path = folder / f".{stem}.part.nii.gz", folder / f"{stem}.nii.gz"
    source = Path(mask.geometry.source)
    if source.name.endswith((".nii", ".nii.gz")):
        header = nibabel.load(source).header.copy()
        header.set_data_dtype(labels.dtype)
        header.set_slope_inter(1, 0)
        image = nibabel.Nifti1Image(labels, None, header)
    else:
        affine = mask.geometry.affine if mask.geometry.affine is not None else np.eye(4)
        image = nibabel.Nifti1Image(labels.transpose(2, 1, 0), affine @ _REVERSED)
    nibabel.save(image, beside)
    return beside.replace(path)


# A geometry's affine takes (d, h, w); a NIfTI array stands as (w, h, d).
_REVERSED = np.eye(4)[[2, 1, 0, 3]]
