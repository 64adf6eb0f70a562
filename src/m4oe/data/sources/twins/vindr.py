"""The twin of VinDr-Mammo: four views of each study, labels that differ between its breasts, an official split."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from m4oe.data.sources.twins.mammograms import SIZE, write_mammogram

STUDIES = 25


def write_vindr(folder: Path) -> None:
    """Writes breast-level_annotations.csv and images/STUDY/IMAGE.dicom."""
    rows = [row for number in range(STUDIES) for row in _study(folder, number)]
    pd.DataFrame(rows).to_csv(folder / "breast-level_annotations.csv", index=False)


def _study(folder: Path, number: int) -> Iterator[dict[str, object]]:
    """BI-RADS of the left breast runs through 1 to 5; the right one is 1, or 2 in every second study."""
    study, density = f"{number:032x}", "ABCD"[number // 5 % 4]
    rng = np.random.default_rng([17, number])
    for place, (side, view) in enumerate(product("LR", ("CC", "MLO"))):
        image = rng.bytes(16).hex()
        birads = 1 + number % 5 if side == "L" else 1 + number % 2
        write_mammogram(
            folder / "images" / study / f"{image}.dicom",
            5000 + 10 * number + place,
            side=side,
            view=view,
            density=density,
            suspicious=birads > 3,
        )
        yield {
            "study_id": study,
            "series_id": f"{number:031x}f",
            "image_id": image,
            "laterality": side,
            "view_position": view,
            "height": SIZE[0],
            "width": SIZE[1],
            "breast_birads": f"BI-RADS {birads}",
            "breast_density": f"DENSITY {density}",
            "split": "test" if number >= 20 else "training",
        }
