"""The twin of GAMMA: three task folders that share their eyes, spreadsheets, slices numbered without zeros."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from m4oe.data.phantoms import eye
from m4oe.data.sources.twins.spreadsheets import write_sheet

TRAINING, TESTING = 20, 3
PIXELS = 48
GRADES = ("non", "early", "mid_advanced")


def write_gamma(folder: Path) -> None:
    """Writes Glaucoma_grading, Fovea_localization and Disc_Cup_Segmentation."""
    grades, foveae = [], []
    for number in range(1, TRAINING + 1):
        grade = number % 3
        cup = _write_eye(folder / "Glaucoma_grading" / "training", number, grade)
        masks = folder / "Disc_Cup_Segmentation" / "training" / "Disc_Cup_Mask"
        masks.mkdir(parents=True, exist_ok=True)
        Image.fromarray(cup).save(masks / f"{number:04d}.png")
        grades.append((number, *(int(place == grade) for place in range(3))))
        foveae.append((number, 20.5 + number / 4, 24.25))
    for number in range(101, 101 + TESTING):
        _write_eye(folder / "Glaucoma_grading" / "testing", number, 0)
    (folder / "Fovea_localization" / "training").mkdir(parents=True)
    table = folder / "Glaucoma_grading" / "training" / "glaucoma_grading_training_GT.xlsx"
    write_sheet(table, [("data", *GRADES), *grades])
    table = folder / "Fovea_localization" / "training" / "fovea_localization_training_GT.xlsx"
    write_sheet(table, [("data", "Fovea_X", "Fovea_Y"), *foveae])


def _write_eye(part: Path, number: int, grade: int) -> np.ndarray:
    """Writes photograph and slices of one eye; returns its mask (H, W) uint8."""
    rng = np.random.default_rng([19, number])
    shown = eye.Eye(cup=0.35 + 0.2 * grade, fibre=1 - 0.3 * grade, right=number % 2 == 0)
    photograph, mask = eye.draw_fundus(rng, shown, PIXELS)
    name = f"{number:04d}"
    slices = part / "multi-modality_images" / name / name
    slices.mkdir(parents=True)
    _save(photograph, slices.parent / f"{name}.jpg")
    for place, plane in enumerate(eye.draw_oct(rng, shown)):
        _save(plane, slices / f"{place}_image.jpg")
    return mask


def _save(picture: np.ndarray, path: Path) -> None:
    Image.fromarray(np.round(255 * picture).astype(np.uint8)).save(path, quality=95)
