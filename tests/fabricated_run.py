"""A small run folder with every kind of task, written as ordinary files: what a report is tested on.

Truth and predictions are drawn from one generator; nothing was trained. 60 patients, two exams each for the first 20.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from PIL import Image

INPUTS = {"cc": "ffdm", "mlo": "ffdm", "synthetic": "2ds", "history": "clinical"}
PICTURES = ("cc", "mlo", "synthetic")
HORIZONS = (1, 2, 3)
EXPERTS = 16
TASKS = {
    "malignancy": {"kind": "binary", "column": "malignant", "classes": ["benign", "malignant"]},
    "density": {"kind": "ordinal", "column": "density", "classes": ["A", "B", "C", "D"]},
    "findings": {"kind": "multilabel", "columns": ["mass", "calcification"]},
    "risk": {"kind": "survival", "time": "years", "event": "cancer", "horizons": list(HORIZONS)},
    "lesion": {"kind": "segmentation", "column": "mask", "on": "cc", "classes": ["background", "lesion"]},
}
GRADIENTS = {
    "split": "train",
    "pairs": [
        {
            "tasks": ["malignancy", "density"],
            "layers": {
                "shared.experts": {
                    "cosine": {"value": -0.2, "low": -0.3, "high": -0.1, "n": 12}, "conflict": 0.75, "accord": 0.25,
                }
            },
        }
    ],
}  # fmt: skip
SPECS = {
    "malignancy": {"classes": ["benign", "malignant"], "prior": [0.3], "weights": [0.6, 1.4]},
    "density": {"classes": ["A", "B", "C", "D"], "prior": [0.1, 0.4, 0.4, 0.1], "weights": [1.0] * 4},
    "findings": {"classes": ["mass", "calcification"], "prior": [0.3, 0.3], "weights": [1.0, 1.0]},
    "risk": {"classes": ["1", "2", "3"], "prior": [0.1, 0.2, 0.3], "weights": [0.7, 1.3], "horizons": list(HORIZONS)},
    "lesion": {"classes": ["background", "lesion"], "values": [0, 1], "prior": [1, 0], "weights": [1, 1], "on": "cc"},
}  # fmt: skip
SCORES = {
    "malignancy": {"auroc": (0.912, 0.853, 0.961), "auprc": (0.81, 0.7, 0.9), "calibration_error": (0.041, 0.02, 0.08)},
    "density": {"auroc": (0.951, 0.921, 0.973), "accuracy": (0.78, 0.70, 0.86), "quadratic_kappa": (0.83, 0.74, 0.90)},
    "findings": {"auroc": (0.874, 0.80, 0.93)},
    "risk": {"c_index": (0.520, 0.41, 0.63), "integrated_brier": (0.121, 0.09, 0.15)},
    "lesion": {"dice": (0.744, 0.69, 0.80), "hd95": (6.42, 4.1, 9.3)},
}  # fmt: skip


def write_run(folder: Path, *, first_exam: str = "E000", collapsed: bool = False, withheld: bool = True) -> Path:
    """The run folder, beside the study it came from. `first_exam` names an exam of the test split."""
    rng = np.random.default_rng(7)
    run, exams = folder / "run", _exams(rng, first_exam)
    (run / "model").mkdir(parents=True)
    (run / "studies").mkdir()
    _write_study(folder / "study", exams, rng)
    _write_study_file(run / "studies" / "screening.yaml", folder / "study")
    (run / "config.yaml").write_text(yaml.safe_dump({"model": {"preset": "tiny"}, "train": {"seed": 11}}))
    facts = {
        "format": 1,
        "m4oe": "0.1.0",
        "model": {"preset": "tiny", "width": 64},
        "schema": _schema(),
        "withheld": {},
    }
    (run / "model" / "config.json").write_text(json.dumps(facts))
    exams[["study", "exam", "patient", "split", "fold"]].to_csv(run / "splits.csv", index=False)
    predictions = pd.DataFrame(_predictions(exams, rng))
    predictions.to_csv(run / "predictions.csv", index=False)
    _cases(exams, rng).to_csv(run / "cases.csv", index=False)
    _masks(run / "masks", exams)
    (run / "metrics.json").write_text(json.dumps(_metrics(exams)))
    _contributions(exams, rng, {"risk"} if withheld else set()).to_csv(run / "contributions.csv", index=False)
    (run / "routing.json").write_text(json.dumps(_routing(rng, collapsed, withheld)))
    (run / "analyses").mkdir()
    (run / "analyses" / "gradients.json").write_text(json.dumps(GRADIENTS))
    (run / "log.jsonl").write_text("\n".join(json.dumps(line) for line in _log(rng)) + "\n")
    return run


def _exams(rng: np.random.Generator, first_exam: str) -> pd.DataFrame:
    patients = [f"P{n:03}" for n in (*range(60), *range(20))]
    split = np.array(["test"] * 30 + ["validation"] * 10 + ["train"] * 20)
    exams = pd.DataFrame({"study": "screening", "exam": [f"E{n:03}" for n in range(80)], "patient": patients})
    exams["split"], exams["fold"] = [split[int(patient[1:])] for patient in patients], 0
    exams.loc[0, "exam"] = first_exam
    has = rng.random((80, 4)) < [0.95, 0.85, 0.7, 0.9]
    has[:, 0] |= ~has.any(1)
    exams["inputs"] = ["+".join(name for name, there in zip(INPUTS, row) if there) for row in has]
    exams["malignant"] = (rng.random(80) < 0.3).astype(float)
    exams["density"] = rng.choice(4, 80, p=[0.1, 0.4, 0.35, 0.15]).astype(float)
    for name in ("mass", "calcification"):
        exams[name] = np.where(rng.random(80) < 0.1, np.nan, rng.random(80) < 0.3)
    exams["years"] = rng.exponential(4, 80).clip(0.1, 6).round(2)
    exams["cancer"] = (rng.random(80) < 0.5).astype(float)
    exams.loc[rng.random(80) < 0.15, ["malignant"]] = np.nan
    exams.loc[rng.random(80) < 0.4, ["years", "cancer"]] = np.nan
    return exams


def _write_study(folder: Path, exams: pd.DataFrame, rng: np.random.Generator) -> None:
    """Pictures that are told apart by eye: a bright half disc with a spot."""
    (folder / "pictures").mkdir(parents=True)
    table = exams[["exam", "patient", "mass", "calcification", "years", "cancer"]].copy()
    table["malignant"] = exams["malignant"].map({0.0: "benign", 1.0: "malignant"})
    table["density"] = [["A", "B", "C", "D"][int(value)] for value in exams["density"]]
    table["age"] = rng.integers(40, 75, len(exams)).astype(float)
    table["mask"] = ["pictures/mask.png" if n % 3 else "" for n in range(len(exams))]
    Image.fromarray(lesion()).save(folder / "pictures" / "mask.png")
    for name in INPUTS:
        there = [name in inputs.split("+") for inputs in exams["inputs"]]
        if name == "history":
            table["age"] = table["age"].where(there)
            continue
        table[name] = [f"pictures/{n}_{name}.png" if has else "" for n, has in enumerate(there)]
        for n in np.flatnonzero(there):
            Image.fromarray(_picture(rng)).save(folder / "pictures" / f"{n}_{name}.png")
    table.to_csv(folder / "table.csv", index=False)


def _picture(rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[0:96, 0:72]
    breast = np.sqrt((y - 48) ** 2 + (x * 1.1) ** 2) < 46
    spot = np.exp(-((y - 40) ** 2 + (x - 25) ** 2) / 40)
    return (breast * (90 + 100 * spot + 25 * rng.random((96, 72)))).astype(np.uint8)


def _write_study_file(path: Path, folder: Path) -> None:
    inputs = {name: {"column": name, "modality": INPUTS[name], "kind": "mammogram"} for name in PICTURES}
    inputs["history"] = {"columns": ["age"], "modality": "clinical", "kind": "table"}
    content = {
        "name": "screening",
        "table": str(folder / "table.csv"),
        "root": str(folder),
        "exam": "exam",
        "patient": "patient",
    }
    path.write_text(yaml.safe_dump({**content, "inputs": inputs, "tasks": TASKS}, sort_keys=False))


def _schema() -> dict:
    shape = {"form": "image", "channels": 1, "size": [64, 64], "kind": "mammogram"}
    streams = [{"name": name, "input": name, "modality": INPUTS[name], **shape} for name in PICTURES]
    history = {
        "name": "history",
        "input": "history",
        "modality": "clinical",
        "kind": "table",
        "form": "vector",
        "channels": 1,
    }
    return {
        "streams": [*streams, history],
        "tasks": [{"name": n, "kind": TASKS[n]["kind"], **spec} for n, spec in SPECS.items()],
    }


def _predictions(exams: pd.DataFrame, rng: np.random.Generator):
    for _, exam in exams.iterrows():
        about = {key: exam[key] for key in ("study", "exam", "patient", "split", "fold", "inputs")}

        def row(task, name, target, probability, about=about):
            target = None if target is None or target != target else float(target)
            return {**about, "task": task, "class": name, "target": target, "probability": probability}

        lean = rng.normal(1.6 * (2 * np.nan_to_num(exam["malignant"]) - 1), 1.2)
        yield row("malignancy", "malignant", exam["malignant"], 1 / (1 + np.exp(-lean)))
        shares = np.exp(-((np.arange(4) - exam["density"] - rng.normal(0, 0.5)) ** 2))
        for k, (name, share) in enumerate(zip("ABCD", shares / shares.sum())):
            yield row("density", name, exam["density"] == k, share)
        for name in ("mass", "calcification"):
            yield row("findings", name, exam[name], 1 / (1 + np.exp(-rng.normal(2 * np.nan_to_num(exam[name]) - 1, 1))))
        yield from _risk(row, exam, rng)


def _risk(row, exam: pd.Series, rng: np.random.Generator):
    risks = np.cumsum(rng.random(3) * 0.25)
    for horizon, risk in zip(HORIZONS, risks):
        known = exam["cancer"] == 1 or exam["years"] >= horizon
        yield row("risk", str(horizon), exam["cancer"] == 1 and exam["years"] <= horizon if known else None, risk)
    yield row("risk", "time", exam["years"], None)
    yield row("risk", "event", exam["cancer"], None)


def _cases(exams: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    rows = exams[(exams["split"] == "test") & exams["inputs"].str.startswith("cc")]
    cases = rows[["study", "exam", "patient", "split", "fold"]].assign(task="lesion", **{"class": "lesion"})
    dice = rng.beta(6, 2, len(cases)).round(3)
    outcome = np.array(["scored"] * len(cases), dtype=object)
    outcome[-2:], dice[-2:] = ("missed", "invented"), 0
    scores = {"iou": (dice / (2 - dice)).round(3), "hd95": (12 * (1 - dice)).round(2), "nsd": (dice**2).round(3)}
    return cases.assign(dice=dice, **scores, outcome=outcome)


def lesion() -> np.ndarray:
    y, x = np.mgrid[0:96, 0:72]
    return ((y - 40) ** 2 + (x - 25) ** 2 < 90).astype(np.uint8)


def _masks(folder: Path, exams: pd.DataFrame) -> None:
    folder.mkdir()
    for exam in exams.loc[exams["split"] == "test", "exam"]:
        if "/" not in exam:
            Image.fromarray(lesion()).save(folder / f"{exam}__lesion.png")


def _metrics(exams: pd.DataFrame) -> dict:
    n = int((exams["split"] == "test").sum())
    scores = {
        task: {name: {"value": v, "low": low, "high": high, "n": n} for name, (v, low, high) in rows.items()}
        for task, rows in SCORES.items()
    }
    common = exams.loc[exams["split"] == "test", "inputs"].value_counts().index[:3]
    by_inputs = {level: {task: scores[task] for task in ("malignancy", "density")} for level in common}
    by_class = {name: {"density": {"auroc": {"value": 0.9, "low": 0.8, "high": 0.95, "n": n}}} for name in "ABCD"}
    by_group = {"site=north": {"malignancy": scores["malignancy"]}, "site=south": {"density": scores["density"]}}
    return {
        "test": scores,
        "by_inputs": {"test": by_inputs},
        "by_class": {"test": by_class},
        "by_group": {"test": by_group},
    }


def _contributions(exams: pd.DataFrame, rng: np.random.Generator, withheld: set[str]) -> pd.DataFrame:
    """Malignancy is carried by cc; evidence follows Shapley, but in every fifth exam turns its sign."""
    asked = {
        "malignancy": ["malignant"],
        "density": ["D"],
        "findings": ["mass", "calcification"],
        "risk": ["3"],
        "lesion": ["foreground"],
    }
    carried = {"cc": 2.0, "mlo": 0.8, "synthetic": 0.5, "history": 0.1}
    rows = []
    for n, (_, exam) in enumerate(exams[exams["split"] == "test"].iterrows()):
        for task, names in asked.items():
            for name in names if task not in withheld else ():
                for key in exam["inputs"].split("+"):
                    about = {
                        "study": exam["study"],
                        "exam": exam["exam"],
                        "task": task,
                        "class": name,
                        "input": key,
                        "modality": INPUTS[key],
                    }
                    value = rng.normal(0, carried[key])
                    rows.append({**about, "measure": "shapley", "value": value})
                    rows.append(
                        {
                            **about,
                            "measure": "evidence",
                            "value": value * (-1 if n % 5 == 0 else 1) + rng.normal(0, 0.05),
                        }
                    )
                    rows.append({**about, "measure": "routing", "value": 1 / 3})
    return pd.DataFrame(rows)


def _routing(rng: np.random.Generator, collapsed: bool, withheld: bool) -> dict:
    modalities, tasks = list(dict.fromkeys(INPUTS.values())), list(TASKS)
    even = rng.dirichlet(np.full(EXPERTS, 0.7), (len(modalities), len(tasks)))
    one = np.zeros_like(even)
    one[..., 3] = 1
    return {
        "modalities": modalities, "tasks": tasks, "num_experts": EXPERTS,
        "P_modality_given_task": rng.dirichlet([4, 3, 2], len(tasks)).tolist(),
        "P_expert_given_modality_task": (one if collapsed else even).tolist(),
        "effective_tokens": 0.983 if collapsed else 0.41,
        "withheld": {"risk": "its validation C-index 0.51 (0.40 to 0.62) does not beat chance"} if withheld else {},
        "agreement": {"malignancy": 0.87, "density": 0.91, "findings": 0.66, "lesion": 0.72},
    }  # fmt: skip


def _log(rng: np.random.Generator):
    for epoch in range(24):
        left = np.exp(-epoch / 7)
        train = {"loss": 0.6 + 2 * left, "malignancy": 0.2 + 0.5 * left, "cmi": 0.3 * (1 - left)}
        validation = {"loss": 0.9 + 1.7 * left + rng.normal(0, 0.03)}
        validation |= {f"{task}_score": 0.9 - 0.4 * left + rng.normal(0, 0.02) for task in TASKS}
        yield {
            "phase": "train",
            "epoch": epoch,
            "seconds": 2.5,
            "train": train,
            "validation": validation,
            "learning_rate": 1e-3,
        }
