"""The retina cohort: a colour fundus photograph and an OCT volume; glaucoma's grade, the optic disc and its cup.

An exam is one eye. The photograph shows the cup, the volume the nerve fibre layer, and the grade depends on both.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from m4oe.data.phantoms import eye, tissue
from m4oe.data.phantoms.cohort import check_rates, people, present_inputs
from m4oe.data.phantoms.truth import Truth, scores, write_truth

GRADES = ("normal", "early", "progressive")
EARLY, PROGRESSIVE = 0.8, 1.2  # of the sum of the two losses, each uniform in 0..1, from which an eye has that grade
INPUTS = ("fundus", "oct")


def write_retina(
    folder: Path | str,
    *,
    exams: int = 200,
    seed: int = 0,
    size: int = 96,
    missing_inputs: float = 0.1,
    missing_labels: float = 0.1,
) -> Path:
    """Writes a retina cohort (PNG, NIfTI, masks, eyes.csv, study.yaml, truth beside them); returns study.yaml's path.

    size: pixels of a side of the photograph; the volume has eye.VOLUME voxels · missing_inputs, missing_labels:
    rates in 0..1, exclusive (an exam keeps at least one input; there is no mask without a photograph).
    Equal arguments write equal bytes. Raises UserError as write_breast does.
    """
    check_rates("retina", exams, size, missing_inputs, missing_labels)
    folder = Path(folder)
    for name in ("fundus", "oct", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, 0])
    facts = _facts(rng, exams)
    present = present_inputs(rng, exams, INPUTS, missing_inputs)
    table = _table(rng, facts, present, missing_labels)
    for row in range(exams):
        _write_exam(folder, np.random.default_rng([seed, row + 1]), facts.iloc[row], table.iloc[row], size)
    table.to_csv(folder / "eyes.csv", index=False)
    write_truth(folder, _truth(facts, present))
    path = folder / "study.yaml"
    path.write_text(_HEADING + yaml.safe_dump(STUDY, sort_keys=False, default_flow_style=None, width=120), "utf-8")
    return path


def _facts(rng: np.random.Generator, exams: int) -> pd.DataFrame:
    facts = people(rng, exams).assign(cup_loss=rng.random(exams), fibre_loss=rng.random(exams))
    return facts.assign(grade=np.digitize(facts["cup_loss"] + facts["fibre_loss"], [EARLY, PROGRESSIVE]))


def _table(rng: np.random.Generator, facts: pd.DataFrame, present: pd.DataFrame, missing: float) -> pd.DataFrame:
    table = facts[["exam", "patient", "side"]].rename(columns={"exam": "exam_id", "patient": "patient_id"})
    table["fundus"] = ("fundus/" + facts["exam"] + ".png").where(present["fundus"])
    table["oct"] = ("oct/" + facts["exam"] + ".nii.gz").where(present["oct"])
    graded, outlined = rng.random((2, len(facts))) >= missing
    table["glaucoma"] = facts["grade"].map(dict(enumerate(GRADES))).where(graded)
    table["mask"] = ("masks/" + facts["exam"] + ".png").where(outlined & present["fundus"])
    return table


def _write_exam(folder: Path, rng: np.random.Generator, facts: pd.Series, row: pd.Series, size: int) -> None:
    shown = eye.Eye(0.25 + 0.58 * facts["cup_loss"], 1 - 0.75 * facts["fibre_loss"], facts["side"] == "R")
    photograph, mask = eye.draw_fundus(rng, shown, size)
    volume = eye.draw_oct(rng, shown)
    if pd.notna(row["fundus"]):
        tissue.write_png(folder / row["fundus"], photograph, 256)
    if pd.notna(row["mask"]):
        tissue.write_png(folder / row["mask"], mask / 255, 256)
    if pd.notna(row["oct"]):
        tissue.write_nifti(folder / row["oct"], volume, eye.MILLIMETRES)


def _truth(facts: pd.DataFrame, present: pd.DataFrame) -> Truth:
    both = present.all(axis=1)
    grade = pd.DataFrame(
        {"exam": facts["exam"], "task": "glaucoma", "target": facts["grade"].map(dict(enumerate(GRADES)))}
    )
    grade = grade.assign(carriers="fundus+oct", carrier_present=both, latent=facts["cup_loss"] + facts["fibre_loss"])
    optic = pd.DataFrame({"exam": facts["exam"], "task": "optic", "target": "", "carriers": "fundus"})
    optic = optic.assign(carrier_present=present["fundus"], latent=0.25 + 0.58 * facts["cup_loss"])
    carries = {
        "glaucoma": {"modalities": ["fundus", "oct"], "inputs": ["fundus", "oct"]},
        "optic": {"modalities": ["fundus"], "inputs": ["fundus"]},
    }
    known = np.where(present["fundus"], facts["cup_loss"], facts["fibre_loss"])
    below = [np.clip(bound - known, 0, 1) for bound in (EARLY, PROGRESSIVE)]
    alone = np.stack([below[0], below[1] - below[0], 1 - below[1]], axis=1)
    probability = np.where(both.to_numpy()[:, None], np.eye(3)[facts["grade"]], alone)
    population = {"carries": carries, "synergy": None, "noise": None}
    oracle = scores(facts["exam"], "glaucoma", probability, GRADES)
    return Truth(pd.concat([grade, optic], ignore_index=True), oracle, population)


_HEADING = "# A generated retina cohort: ordinary files and an ordinary study. Its truth lies beside it in truth.csv.\n"
STUDY = {
    "name": "phantom-retina",
    "table": "eyes.csv",
    "exam": "exam_id",
    "patient": "patient_id",
    "inputs": {
        "fundus": {"column": "fundus", "modality": "fundus", "kind": "photo"},
        "oct": {"column": "oct", "modality": "oct", "kind": "oct"},
    },
    "tasks": {
        "glaucoma": {"column": "glaucoma", "kind": "ordinal", "classes": list(GRADES)},
        "optic": {
            "column": "mask",
            "kind": "segmentation",
            "on": "fundus",
            "classes": {eye.BACKGROUND: "background", eye.RIM: "rim", eye.CUP: "cup"},
            "regions": {"disc": ["rim", "cup"]},
        },
    },
    "split": {"seed": 0, "fractions": [0.7, 0.15, 0.15]},
}
