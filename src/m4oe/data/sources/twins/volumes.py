"""The twins of FLARE22, AMOS22 and ATLAS23: small NIfTI volumes with ellipsoids for organs."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np

from m4oe.data.sources import amos22, atlas23, flare22

SHAPE = (28, 24, 10)  # i, j, k
SPACING = (2.0, 2.0, 5.0)


def write_flare22(folder: Path) -> None:
    """Writes Training/FLARE22_LabeledCase50, some unlabelled cases, Tuning and Testing."""
    organs = len(flare22.CLASSES)
    labelled = folder / "Training" / "FLARE22_LabeledCase50"
    for number in range(1, 13):
        _write(
            labelled, "images", f"FLARE22_Tr_{number:04d}_0000", "labels", f"FLARE22_Tr_{number:04d}", organs, number
        )
    for number in range(1, 5):
        _write(
            folder / "Tuning",
            "images",
            f"FLARETs_{number:04d}_0000",
            "labels",
            f"FLARETs_{number:04d}",
            organs,
            50 + number,
        )
        _write(folder / "Testing", ".", f"FLARETs_{number:04d}_0000", None, "", organs, 90 + number)
    _write(folder / "Training", "FLARE22_UnlabeledCase1-1000", "Case_00001_0000", None, "", organs, 99)


def write_amos22(folder: Path) -> None:
    """Writes amos22/imagesTr, imagesVa and imagesTs with CT and MR in each, and dataset.json as it was released."""
    root, organs = folder / "amos22", len(amos22.CLASSES)
    parts = {
        "Tr": (*range(1, 11), *range(507, 515), 499),
        "Va": (*range(20, 23), *range(530, 533)),
        "Ts": (30, 31, 540, 541),
    }
    for part, numbers in parts.items():
        for number in numbers:
            masks = None if part == "Ts" else f"labels{part}"
            name = f"amos_{number:04d}"
            _write(root, f"images{part}", name, masks, name, organs, number, mr=number >= 500)
    (root / "imagesTr" / "._amos_0001.nii.gz").write_bytes(b"left by macOS")
    labels = {str(value): name.replace("aorta", "arota") for value, name in enumerate(amos22.CLASSES)}
    (root / "dataset.json").write_text(json.dumps({"name": "AMOS", "labels": labels}, indent=4))


def write_atlas23(folder: Path) -> None:
    """Writes atlas-train-dataset-1.0.1/train with imagesTr/im0 and labelsTr/lb0."""
    root = folder / "atlas-train-dataset-1.0.1" / "train"
    for number in range(12):
        _write(root, "imagesTr", f"im{number}", "labelsTr", f"lb{number}", len(atlas23.CLASSES), 700 + number, mr=True)
    labels = {str(value): name for value, name in enumerate(atlas23.CLASSES)}
    (root / "dataset.json").write_text(json.dumps({"name": "ATLAS", "labels": labels}, indent=4))


def _write(
    root: Path, images: str, image: str, masks: str | None, mask: str, classes: int, seed: int, *, mr: bool = False
) -> None:
    """Writes a volume, and its mask if `masks` names a folder: an ellipsoid for each class but the background."""
    rng = np.random.default_rng([23, seed])
    labels = _organs(rng, classes)
    body = _inside(np.array(SHAPE) / 2, np.array(SHAPE) / 2.1)
    bright = np.where(labels > 0, 60 + 12 * labels, np.where(body, 10, -1000)) + rng.normal(0, 8, SHAPE)
    values = np.clip((bright + 1000) / 4, 0, None) if mr else bright
    _save(root / images / f"{image}.nii.gz", np.round(values).astype(np.int16))
    if masks is not None:
        _save(root / masks / f"{mask}.nii.gz", labels.astype(np.uint8))


def _organs(rng: np.random.Generator, classes: int) -> np.ndarray:
    """(i, j, k) labels; organs lie on a grid of their own, each somewhat elsewhere in each patient."""
    across = int(np.ceil(np.sqrt((classes - 1) / 2)))
    labels = np.zeros(SHAPE, int)
    for organ in range(1, classes):
        row, column, layer = (organ - 1) // 2 // across, (organ - 1) // 2 % across, (organ - 1) % 2
        cell = np.array([row + 0.5, column + 0.5, 0]) / across * SHAPE + (0, 0, SHAPE[2] * (0.28 + 0.44 * layer))
        labels[_inside(cell + rng.uniform(-0.5, 0.5, 3), np.array([3.2, 2.8, 2.0]) * rng.uniform(0.9, 1.1, 3))] = organ
    return labels


def _inside(centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    return (((grid - centre) / radii) ** 2).sum(-1) <= 1


def _save(path: Path, values: np.ndarray) -> None:
    """The same bytes for the same volume (gzip would store the time)."""
    import nibabel as nib

    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(values, np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0]))
    image.header.set_xyzt_units("mm")
    path.write_bytes(gzip.compress(image.to_bytes(), 1, mtime=0))
