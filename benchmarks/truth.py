"""Are explanations true? Phantoms with known carriers, from easy to unlearnable, and forms of the information term.

    python benchmarks/truth.py --seeds 701 702 703 704 705 -o OUT --jobs 2

For each seed and condition a breast cohort with a noise modality is written, trained on with the shipped defaults and
judged on its test split. Two questions of each measure (Shapley, evidence, occlusion, routing): does it find the one
input that carries the finding *in this exam* (malignancy, carrier present), and does its mean tell the inputs that
carry a *task* from those that do not? Further: whether noise stays below every carrier, how much is routed through it,
how far modalities have experts of their own, I(M; E | T), where the planted synergy pair comes among all pairs by
partial information decomposition, and what it costs or brings in AUROC. All as means over seeds with 95 % intervals
(Student's t).

Conditions: `clarity` scales every sign that pictures show, down to 0, where there is nothing to learn; `cmi` is the
information term of the loss: its weight, and its forms (docs/config.md, train.cmi).

A run that is there is not made again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student

from breast import TASKS
from m4oe.config import load_config
from m4oe.data.phantoms import write_breast
from m4oe.runs import train_run
from truth_figures import MEASURES, figures


@dataclass(frozen=True)
class Condition:
    """One column of the table: a cohort and a config."""

    family: str
    name: str
    cohort: Mapping[str, Any] = field(default_factory=dict)
    config: tuple[str, ...] = ()


def _cmi(name: str, weight: float, *form: str) -> Condition:
    return Condition("cmi", name, config=(f"train.cmi_weight={weight}", *(f"train.cmi.{part}" for part in form)))


CONDITIONS = (
    Condition("shipped", "as shipped"),
    *(Condition("clarity", f"clarity {clarity}", {"clarity": clarity}) for clarity in (1.0, 0.6, 0.3, 0.0)),
    _cmi("weight 0", 0),
    _cmi("weight .05", 0.05),
    _cmi("weight .2", 0.2),
    _cmi("weight .05, P(t) free", 0.05, "uniform_tasks=false"),
    _cmi("weight .2, capped at .3", 0.2, "cap=0.3"),
    _cmi("weight .05, per exam", 0.05, "over=exam"),
    _cmi("weight .05, by presence", 0.05, "over=presence"),
    _cmi("weight .05, modalities even", 0.05, "uniform_modalities=true"),
    _cmi("weight .2, modalities even", 0.2, "uniform_modalities=true"),
)


def judged(condition: Condition, seed: int, out: Path, overrides: list[str]) -> dict[str, Any]:
    """All figures of one training."""
    torch.set_num_threads(1)
    folder = out / f"seed_{seed}" / condition.name.replace(" ", "_").replace(",", "")
    study = out / f"seed_{seed}" / f"study_{condition.cohort.get('clarity', 1.0)}" / "study.yaml"
    if not study.is_file():
        write_breast(study.parent, seed=seed, noise_modality=True, **condition.cohort)
    config = load_config(None, [f"train.seed={seed}", *condition.config, *overrides])
    run = folder / "run"
    train_run([study], config, run, torch.device("cpu"))  # of a finished run only refuses another config
    if (folder / "truth.json").is_file():
        return json.loads((folder / "truth.json").read_text())
    found = figures(run, study, synergy=condition.family != "cmi")
    (folder / "truth.json").write_text(json.dumps(found, indent=1))
    return found


def interval(values: Iterable[float | None], lowest: float = -inf, highest: float = inf) -> str:
    """Mean (95 % interval by Student's t over seeds, within what the figure can be)."""
    known = np.array([value for value in values if value is not None], float)
    if len(known) < 2:
        return f"{known.mean():.3f}" if len(known) else "-"
    low, high = limits(known)
    return f"{known.mean():.3f} ({max(low, lowest):.3f} to {min(high, highest):.3f})"


def limits(values: Sequence[float]) -> tuple[float, float]:
    """Of the 95 % interval of a mean over two seeds or more."""
    known = np.asarray(values, float)
    half = student.ppf(0.975, len(known) - 1) * known.std(ddof=1) / len(known) ** 0.5
    return float(known.mean() - half), float(known.mean() + half)


def by_condition(results: list[dict[str, Any]]) -> dict[str, dict[int, dict[str, Any]]]:
    """{condition: {seed: its figures}}."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for result in results:
        found.setdefault(result["condition"], {})[result["seed"]] = result["figures"]
    return found


def show(results: list[dict[str, Any]]) -> str:
    """Three tables: what is found, what noise gets, what it costs."""
    by_name = by_condition(results)
    lines = ["## The carrier of an exam's finding, and of a task: AUROC of each measure", ""]
    lines += _table(
        [*(f"exam: {m}" for m in MEASURES), *(f"task: {m}" for m in MEASURES)],
        by_name,
        [*(lambda f, m=m: f["in_exams"][m] for m in MEASURES), *(lambda f, m=m: f["in_tasks"][m] for m in MEASURES)],
    )
    lines += ["", "## Noise, and the planted synergy", ""]
    lines += _table(
        ["noise below every carrier, share of tasks", "P(noise given malignancy)", "largest P(noise given task)",
         "I(M; E given T), nats", "rank of the planted pair"],
        by_name,
        [lambda f: np.mean(list(f["noise_below"].values())), lambda f: f["noise_routed"]["malignancy"], most_noise,
         lambda f: f["information"], lambda f: f["synergy_rank"]],
        [(0, 1), (0, 1), (0, 1), (0, inf), (1, inf)],
    )  # fmt: skip
    lines += ["", "## What is learned: AUROC, C-index of risk (oracle)", ""]
    lines += _table(list(TASKS), by_name, [lambda f, t=t: f["model"][t] for t in TASKS])
    changes = changed(by_name)
    if changes:
        lines += ["", f"## What the information term changes, against {PLAIN}, by seed", ""]
        lines += [f"| condition | {' | '.join(CHANGES)} |", "|---" * (len(CHANGES) + 1) + "|"]
        lines += [f"| {name} | {' | '.join(map(interval, row.values()))} |" for name, row in changes.items()]
    return "\n".join(lines)


def most_noise(figures: Mapping[str, Any]) -> float:
    return max(figures["noise_routed"].values())


PLAIN = "weight 0"
CHANGES: Mapping[str, Callable[[Mapping[str, Any]], float]] = {
    "mean score of the four tasks": lambda f: float(np.mean([f["model"][task] for task in TASKS])),
    "worst task's score": lambda f: min(f["model"][task] for task in TASKS),
    "I(M; E given T)": lambda f: f["information"],
    "largest P(noise given task)": most_noise,
}


def changed(by_name: Mapping[str, Mapping[int, Any]]) -> dict[str, dict[str, list[float]]]:
    """{condition: {figure: its difference to a training without the term, of each seed that both have}}."""
    plain = by_name.get(PLAIN, {})
    family = {condition.name for condition in CONDITIONS if condition.family == "cmi"} - {PLAIN}
    return {
        name: {figure: [of(one) - of(plain[seed]) for seed, one in found.items() if seed in plain]
               for figure, of in CHANGES.items()}
        for name, found in by_name.items() if name in family and plain
    }  # fmt: skip


def _table(
    heads: list[str],
    by_name: dict[str, dict[int, dict]],
    columns: list[Callable[[dict], Any]],
    ranges: Sequence[tuple[float, float]] | None = None,
) -> list[str]:
    """ranges: what each column's figure can be; areas and shares without."""
    within = ranges or [(0, 1)] * len(columns)
    rows = [
        f"| {name} ({len(found)} seeds) | "
        f"{' | '.join(interval(map(of, found.values()), *limit) for of, limit in zip(columns, within))} |"
        for name, found in by_name.items()
    ]
    return [f"| condition | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|", *rows]


def _judged(job: tuple[Condition, int, Path, list[str]]) -> dict[str, Any]:
    condition, seed, _, overrides = job
    return {"condition": condition.name, "seed": seed, "overrides": overrides, "figures": judged(*job)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[701, 702, 703, 704, 705])
    parser.add_argument("--only", choices=("shipped", "clarity", "cmi"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("overrides", nargs="*", help="of the config, e.g. train.max_epochs=20")
    given = parser.parse_args()
    chosen = [condition for condition in CONDITIONS if given.only in (None, condition.family)]
    jobs = [(condition, seed, given.out, given.overrides) for seed in given.seeds for condition in chosen]
    results = []
    with get_context("spawn").Pool(given.jobs) as pool:
        for result in pool.imap(_judged, jobs):
            results.append(result)
            print(f"{result['condition']}, seed {result['seed']}", flush=True)
    (given.out / "truth.json").write_text(json.dumps(results, indent=1))
    text = show(results)
    (given.out / "truth.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
