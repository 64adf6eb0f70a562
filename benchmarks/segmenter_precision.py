"""Does bfloat16 cost a segmenter anything? Test Dice of a trained run in float32 and as it predicts here.

    python benchmarks/segmenter_precision.py RUN

The machine must compute bfloat16 fast (m4oe.device.has_fast_bf16), or both are the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import torch

from m4oe.artifact import load_artifact
from m4oe.device import has_fast_bf16
from m4oe.evaluate import read_table
from m4oe.predict import VolumePredictor
from m4oe.runs import run_cohorts
from m4oe.runs.tables import rows_of

CPU = torch.device("cpu")


def dice_of(run: Path, *, bf16: bool) -> pd.Series:
    """Mean test Dice of each task, over classes and exams."""
    artifact = load_artifact(run)
    splits = read_table(run / "splits.csv").astype({"fold": int})
    dataset = rows_of(run_cohorts(run), splits, "test", artifact.schema)
    with patch("m4oe.predict.slicewise.has_fast_bf16", lambda device: bf16):
        cases = pd.concat([part.cases for part in VolumePredictor(artifact, CPU).stream(dataset)])
    return cases.astype({"dice": float}).groupby("task")["dice"].mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    table = pd.DataFrame({"float32": dice_of(run, bf16=False), "here": dice_of(run, bf16=has_fast_bf16(CPU))})
    table["points"] = 100 * (table["here"] - table["float32"])
    print(table.round(4).to_string())


if __name__ == "__main__":
    main()
