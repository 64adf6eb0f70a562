"""Time and peak memory of loading and validating a table of 500,000 exams, and of splitting them.

    python benchmarks/table.py [ROWS]

Each exam has four pictures, two plain variables and four labels; no picture is opened, but every file is looked for.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from m4oe.data.splits import split_exams
from m4oe.data.table import load_cohort
from m4oe.study import parse_study

VIEWS = ("ffdm_cc", "ffdm_mlo", "syn_cc", "syn_mlo")
FILES = 2000  # a folder holds these; exams share them, so that the disk is spared


def write_cohort(folder: Path, rows: int) -> Path:
    """A table of `rows` exams, and the files that it names."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(FILES):
        (folder / "images" / f"{number:06d}.png").touch()
    columns: dict[str, object] = {
        "exam": [f"E{number:07d}" for number in range(rows)],
        "patient": [f"P{number // 2:07d}" for number in range(rows)],
    }
    for view in VIEWS:
        cells = np.array([f"images/{number:06d}.png" for number in range(FILES)])[rng.integers(0, FILES, rows)]
        columns[view] = np.where(rng.random(rows) < 0.1, "", cells)
    columns |= {"age": rng.integers(30, 90, rows), "sex": rng.choice(["F", "M", ""], rows)}
    columns |= {"density": rng.choice(list("ABCD"), rows), "malignant": rng.choice(["0", "1", ""], rows)}
    columns |= {"years": rng.uniform(0.1, 10, rows).round(2), "cancer": rng.integers(0, 2, rows)}
    pd.DataFrame(columns).to_csv(folder / "exams.csv", index=False)
    return folder / "exams.csv"


def study_of(table: Path) -> dict[str, object]:
    pictures = {view: {"column": view, "modality": view.split("_")[0], "kind": "mammogram"} for view in VIEWS}
    return {
        "name": "large",
        "table": table.name,
        "exam": "exam",
        "patient": "patient",
        "inputs": {**pictures, "history": {"columns": ["age", "sex"], "modality": "clinical", "kind": "table"}},
        "tasks": {
            "density": {"kind": "ordinal", "column": "density", "classes": ["A", "B", "C", "D"]},
            "malignancy": {"kind": "binary", "column": "malignant"},
            "risk": {"kind": "survival", "time": "years", "event": "cancer", "horizons": [1, 2, 5]},
        },
    }


def peak() -> float:
    """Peak resident memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def figures(rows: int, folder: Path) -> dict[str, float]:
    """Seconds of loading and of splitting `rows` exams written to `folder`, and the peak memory after loading, MB."""
    child = os.fork()  # so that the peak is the loading's, not the writing's
    if child == 0:
        write_cohort(folder, rows)
        os._exit(0)
    os.waitpid(child, 0)
    table = folder / "exams.csv"
    start = time.perf_counter()
    cohort = load_cohort(parse_study(study_of(table), table))
    loaded, memory = time.perf_counter(), peak()
    split_exams([cohort])
    return {"exams": len(cohort), "load": loaded - start, "peak": memory, "split": time.perf_counter() - loaded}


def main(rows: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        found = figures(rows, Path(name))
    print("{exams:,} exams: loaded in {load:.1f} s, peak {peak:.0f} MB; split in {split:.1f} s".format(**found))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500_000)
