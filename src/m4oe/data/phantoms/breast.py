"""The breast cohort: two modalities in two views, plain variables, four tasks, and a truth that no table shows.

An exam is one breast. In the population full-field pictures carry density; all four pictures, one in each exam, carry
malignancy; a pair of pictures decides BI-RADS only together; age, density and parenchymal pattern make the risk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from m4oe.data.phantoms import mammogram, tissue
from m4oe.data.phantoms.cohort import check_rates, people, present_inputs
from m4oe.data.phantoms.truth import Truth, scores, write_truth
from m4oe.errors import UserError

Facts = dict[str, Any]
PICTURES = ("ffdm_cc", "ffdm_mlo", "syn_cc", "syn_mlo")
ORDER = {name: k for k, name in enumerate((*PICTURES, "noise"), start=1)}
SYNERGY = ("ffdm_cc", "ffdm_mlo")
MODALITY = {"ffdm": "ffdm", "syn": "synthetic2d", "noise": "noise"}
LEVELS = {"ffdm": 4096, "syn": 256, "noise": 4096}
SHARES = np.array([0.06, 0.25, 0.5, 0.8])  # of the breast that is fibroglandular, in the middle of class A, B, C, D
PREVALENCE = 0.45
CARRIES = {
    "density": ("ffdm_cc", "ffdm_mlo"),
    "birads": SYNERGY,
    "malignancy": PICTURES,
    "risk": ("ffdm_cc", "ffdm_mlo", "syn_cc", "syn_mlo", "history"),
}
CLASSES = {"density": ("A", "B", "C", "D"), "birads": ("1", "2", "4"), "malignancy": ("0", "1")}


def write_breast(
    folder: Path | str,
    *,
    exams: int = 800,
    seed: int = 0,
    size: int = 64,
    missing_inputs: float = 0.15,
    missing_labels: float = 0.1,
    noise_modality: bool = False,
    clarity: float = 1.0,
) -> Path:
    """Writes a breast cohort (pictures, images.csv, study.yaml, truth beside them); returns the path of study.yaml.

    size: height of the pictures in pixels, their width is 0.8 of it · missing_inputs, missing_labels: rates in
    0..1, exclusive, independent of everything else (an exam keeps at least one input) · noise_modality: adds an
    input `noise` that looks like the others and carries nothing · clarity: how much pictures show of what they carry,
    0..1; at 0 they show nothing, and what the truth says of them is out of reach. Equal arguments write equal bytes.

    Raises UserError for fewer than 2 exams, fewer than 32 pixels, or a rate or clarity outside 0..1.
    """
    check_rates("breast", exams, size, missing_inputs, missing_labels)
    if not 0 <= clarity <= 1:
        raise UserError(f"breast: clarity is from 0 to 1, not {clarity}")
    folder = Path(folder)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    pictures = (*PICTURES, "noise") if noise_modality else PICTURES
    rng = np.random.default_rng([seed, 0])
    facts = _facts(rng, exams)
    present = present_inputs(rng, exams, (*pictures, "history"), missing_inputs)
    table = _table(rng, facts, present, missing_labels)
    for row, (fact, there) in enumerate(zip(facts.to_dict("records"), present.to_dict("records"))):
        _write_exam(folder, (seed, row + 1), fact, [name for name in pictures if there[name]], size, clarity)
    table.to_csv(folder / "images.csv", index=False)
    write_truth(folder, _truth(facts, present, noise_modality))
    path = folder / "study.yaml"
    path.write_text(_HEADING + yaml.safe_dump(_study(pictures), sort_keys=False, default_flow_style=None, width=120))
    return path


def _facts(rng: np.random.Generator, exams: int) -> pd.DataFrame:
    """What is so in each exam, before anything is missing."""
    cohort = people(rng, exams)
    density, shown = rng.integers(0, 4, exams), rng.integers(0, 4, exams)
    malignant = rng.random(exams) < PREVALENCE
    facts = cohort.assign(
        family_history=_same_for_patient(rng, cohort["patient"]),
        density=density,
        share=SHARES[density] + rng.uniform(-0.03, 0.03, exams),
        shown_share=SHARES[shown] + rng.uniform(-0.03, 0.03, exams),
        pattern=rng.random(exams),
        shown_pattern=rng.random(exams),
        malignancy=malignant.astype(int),
        carrier=np.where(malignant, rng.choice(PICTURES, exams), ""),
        birads=rng.choice(3, exams, p=[0.3, 0.35, 0.35]),
        depth=rng.choice(["near", "far"], exams),
    )
    return _with_risk(rng, facts)


def _same_for_patient(rng: np.random.Generator, patients: pd.Series) -> np.ndarray:
    _, owner = np.unique(patients, return_inverse=True)
    return np.where(rng.random(len(patients))[owner] < 0.2, "yes", "no")


def _with_risk(rng: np.random.Generator, facts: pd.DataFrame) -> pd.DataFrame:
    """Adds terms of the log hazard (by who carries them) and a right-censored Weibull time in years.

    Pictures of either family weigh the same: standard deviations of 1.2, beside 1.8 of age and family.
    """
    facts["risk_history"] = 1.8 * (facts["age"] - 58) / 9 + 0.8 * ((facts["family_history"] == "yes") - 0.2)
    facts["risk_ffdm"] = 1.1 * (facts["density"] - 1.5)
    facts["risk_syn"] = 4.0 * (facts["pattern"] - 0.5)
    hazard = np.exp(facts[["risk_history", "risk_ffdm", "risk_syn"]].sum(axis=1))
    time = 8 * (rng.exponential(size=len(facts)) / hazard) ** (1 / 1.3)
    followed = rng.uniform(2.5, 6.5, len(facts))
    return facts.assign(
        years=np.minimum(time, followed).clip(lower=0.01).round(2), event=(time <= followed).astype(int)
    )


def _table(rng: np.random.Generator, facts: pd.DataFrame, present: pd.DataFrame, missing: float) -> pd.DataFrame:
    """The table that a user would have: paths, variables and labels, with empty cells."""
    table = facts[["exam", "patient", "side", "site"]].rename(columns={"exam": "exam_id", "patient": "patient_id"})
    for name in present.columns.drop("history"):
        table[name] = ("pictures/" + facts["exam"] + f"_{name}.png").where(present[name])
    for name in ("age", "family_history"):
        table[name] = facts[name].astype(object).where(present["history"])
    for task, columns in [*((task, (task,)) for task in CLASSES), ("risk", ("years", "event"))]:
        shown = rng.random(len(facts)) >= missing
        for column in columns:
            values = facts[column].map(dict(enumerate(CLASSES[task]))) if task in CLASSES else facts[column]
            table[column] = values.astype(object).where(shown)
    return table


def _write_exam(folder: Path, key: tuple[int, int], facts: Facts, names: list[str], size: int, clarity: float) -> None:
    """Pictures have generators of their own, so that what is missing changes nothing in what is there."""
    shape = mammogram.draw_shape(np.random.default_rng(key))
    for name in names:
        rng = np.random.default_rng([*key, ORDER[name]])
        look = _look_of_nothing(rng, clarity) if name == "noise" else _look(facts, name, clarity)
        picture = mammogram.draw(rng, shape, look, size, round(0.8 * size))
        path = folder / "pictures" / f"{facts['exam']}_{name}.png"
        tissue.write_png(path, picture[:, ::-1] if facts["side"] == "R" else picture, LEVELS[name.split("_")[0]])


def _look(facts: Facts, name: str, clarity: float) -> mammogram.Look:
    """What picture `name` of an exam shows: where it carries nothing, something as likely but unrelated."""
    family, view = name.split("_")
    full = family == "ffdm"
    depth = None
    if full and facts["birads"]:
        apart = facts["birads"] == 1 and view == "mlo"
        depth = {"near": "far", "far": "near"}[facts["depth"]] if apart else facts["depth"]
    return mammogram.Look(
        view=view,
        synthetic=not full,
        share=_towards(SHARES.mean(), facts["share"] if full else facts["shown_share"], clarity),
        pattern=_towards(0.5, facts["shown_pattern"] if full else facts["pattern"], clarity),
        malignant=facts["carrier"] == name,
        calcification=depth,
        clarity=clarity,
    )


def _towards(middle: float, value: float, clarity: float) -> float:
    """`value`, of which pictures show the share `clarity` of its distance from the middle; exactly itself at 1."""
    return value if clarity == 1 else middle + clarity * (value - middle)


def _look_of_nothing(rng: np.random.Generator, clarity: float) -> mammogram.Look:
    """A picture like the others whose content is unrelated to the exam it is filed under."""
    depth = rng.choice(["", "near", "far"], p=[0.3, 0.35, 0.35])
    share, pattern = SHARES[rng.integers(4)] + rng.uniform(-0.03, 0.03), rng.random()
    share, pattern = _towards(SHARES.mean(), share, clarity), _towards(0.5, pattern, clarity)
    return mammogram.Look("cc", False, share, pattern, rng.random() < PREVALENCE / 4, depth or None, clarity)


def _truth(facts: pd.DataFrame, present: pd.DataFrame, noise: bool) -> Truth:
    rows = pd.concat([_rows_of(task, facts, present) for task in CARRIES], ignore_index=True)
    carries = {
        task: {"modalities": sorted({_modality(name) for name in names}), "inputs": list(names)}
        for task, names in CARRIES.items()
    }
    synergy = {"task": "birads", "inputs": list(SYNERGY)}
    population = {"carries": carries, "synergy": synergy, "noise": "noise" if noise else None}
    return Truth(rows, _oracle(facts, present), population)


def _modality(name: str) -> str:
    return MODALITY.get(name.split("_")[0], "clinical")


def _rows_of(task: str, facts: pd.DataFrame, present: pd.DataFrame) -> pd.DataFrame:
    """Rows of Truth.exams: the target of one task in each exam, and who carries it."""
    risk = facts[["risk_history", "risk_ffdm", "risk_syn"]].sum(axis=1)
    rows = pd.DataFrame({"exam": facts["exam"], "task": task})
    rows["target"] = risk if task == "risk" else facts[task].map(dict(enumerate(CLASSES[task])))
    rows["carriers"] = facts["carrier"] if task == "malignancy" else "+".join(CARRIES[task])
    rows["carrier_present"] = _shown(task, facts, present)
    rows["latent"] = risk if task == "risk" else facts[{"density": "share"}.get(task, task)]
    return rows


def _shown(task: str, facts: pd.DataFrame, present: pd.DataFrame) -> pd.Series:
    """Whether what is there suffices to know the target of `task`."""
    full = present[["ffdm_cc", "ffdm_mlo"]]
    if task == "density":
        return full.any(axis=1)
    if task == "birads":
        return full.all(axis=1) | (full.any(axis=1) & (facts["birads"] == 0))
    if task == "risk":
        return full.any(axis=1) & present[["syn_cc", "syn_mlo"]].any(axis=1) & present["history"]
    return pd.Series([bool(name) and bool(present.at[row, name]) for row, name in facts["carrier"].items()])


def _oracle(facts: pd.DataFrame, present: pd.DataFrame) -> pd.DataFrame:
    """Bayes' answer for each task from what the present inputs show."""
    full, synthetic = present[["ffdm_cc", "ffdm_mlo"]], present[["syn_cc", "syn_mlo"]].any(axis=1)
    any_full, both = full.any(axis=1).to_numpy(), full.all(axis=1).to_numpy()
    density = np.where(any_full[:, None], np.eye(4)[facts["density"]], 0.25)
    sign = np.where((facts["birads"] > 0).to_numpy()[:, None], [0, 0.5, 0.5], [1.0, 0, 0])
    birads = np.where(both[:, None], np.eye(3)[facts["birads"]], np.where(any_full[:, None], sign, [0.3, 0.35, 0.35]))
    unseen = PREVALENCE * (1 - present[list(PICTURES)].mean(axis=1))
    malignancy = np.where(_shown("malignancy", facts, present), 1, unseen / (unseen + 1 - PREVALENCE))
    risk = facts["risk_history"].where(present["history"], 0) + facts["risk_ffdm"].where(any_full, 0)
    risk = risk + facts["risk_syn"].where(synthetic, 0)
    return pd.concat(
        [
            scores(facts["exam"], "density", density, CLASSES["density"]),
            scores(facts["exam"], "birads", birads, CLASSES["birads"]),
            scores(facts["exam"], "malignancy", malignancy[:, None], ("1",)),
            scores(facts["exam"], "risk", risk.to_numpy()[:, None], ("",)),
        ],
        ignore_index=True,
    )


_HEADING = "# A generated breast cohort: ordinary files and an ordinary study. Its truth lies beside it in truth.csv.\n"


def _study(pictures: tuple[str, ...]) -> dict[str, object]:
    inputs: dict[str, object] = {
        name: {
            "column": name,
            "modality": MODALITY[name.split("_")[0]],
            "kind": "mammogram",
            "laterality": "side",
        }
        for name in pictures
    }
    inputs["history"] = {"columns": ["age", "family_history"], "modality": "clinical", "kind": "table"}
    return {
        "name": "phantom-breast",
        "table": "images.csv",
        "exam": "exam_id",
        "patient": "patient_id",
        "inputs": inputs,
        "tasks": {
            "density": {"column": "density", "kind": "ordinal", "classes": list(CLASSES["density"])},
            "birads": {"column": "birads", "kind": "ordinal", "classes": [int(name) for name in CLASSES["birads"]]},
            "malignancy": {"column": "malignancy", "kind": "binary"},
            "risk": {"kind": "survival", "time": "years", "event": "event", "horizons": [1, 2, 3, 4, 5]},
        },
        "split": {"seed": 0, "fractions": [0.7, 0.15, 0.15]},
        "groups": ["site"],
    }
