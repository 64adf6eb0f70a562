"""The twin of RSNA 2022: one site without BI-RADS and density, follow-up as a class, unusual and repeated views, and
some pictures inverted, some packed as JPEG 2000, as there."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from m4oe.data.sources.twins.mammograms import write_mammogram

PATIENTS = 24
VIEWS = tuple(product("LR", ("CC", "MLO")))
OLD_TABLE = ("site_id", "patient_id", "image_id", "laterality", "view", "age", "implant", "machine_id")


def write_rsna(folder: Path) -> None:
    """Writes train.csv, test.csv, and train_images/PATIENT/IMAGE.dcm."""
    train = [row for patient in range(PATIENTS) for row in _patient(folder, patient)]
    pd.DataFrame(train).to_csv(folder / "train.csv", index=False)
    test = pd.DataFrame(list(_patient(folder, PATIENTS, "test")))
    test[list(OLD_TABLE)].assign(prediction_id=test["patient_id"].astype(str) + "_L").to_csv(
        folder / "test.csv", index=False
    )


def _patient(folder: Path, patient: int, part: str = "train") -> Iterator[dict[str, object]]:
    rng = np.random.default_rng([13, patient])
    site, density, age = 1 + patient % 3 // 2, str(rng.choice(list("ABCD"))), int(rng.integers(40, 80))
    birads = {side: int(rng.integers(0, 3)) for side in "LR"}
    cancer = {side: int(birads[side] == 0 and rng.random() < 0.7) for side in "LR"}
    for place, (side, view) in enumerate(_views(patient)):
        number = 1000 + 10 * patient + place
        path = folder / f"{part}_images" / str(10000 + patient) / f"{number}.dcm"
        suspicious, inverted, packed = bool(cancer[side]), patient % 2 == 1, patient == 3
        write_mammogram(
            path,
            number,
            side=side,
            view=view,
            patient=str(10000 + patient),
            exam=patient,
            density=density,
            suspicious=suspicious,
            inverted=inverted,
            packed=packed,
        )
        yield {
            "site_id": site,
            "patient_id": 10000 + patient,
            "image_id": number,
            "laterality": side,
            "view": view,
            "age": float(age),
            "cancer": cancer[side],
            "biopsy": cancer[side],
            "invasive": cancer[side],
            "BIRADS": float(birads[side]) if site == 1 else "",
            "implant": 0,
            "density": density if site == 1 else "",
            "machine_id": 49,
            "difficult_negative_case": False,
        }


def _views(patient: int) -> list[tuple[str, str]]:
    """Patient 0 has a view that is neither CC nor MLO, 1 a repeated one, 2 lacks one; the others have all four."""
    views = list(VIEWS)
    if patient == 0:
        views.append(("L", "AT"))
    if patient == 1:
        views.append(("R", "MLO"))
    return views[1:] if patient == 2 else views
