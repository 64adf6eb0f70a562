"""Where experts pay in a segmenter: placements, phases and starts on the abdomen phantom, several seeds, one table.

    python benchmarks/segmentation_ablations.py -o OUT --seeds 0 1 2 --jobs 2

For each seed a cohort of three studies is generated (CT, MR, contrast MR; label sets that overlap) and every variant is
trained on it from the same seed, for the same number of slices. "specialise alone" has no gate; a "random" gate starts
from any blend of experts, others at the expert of each picture's modality; "upcycled" trains a dense network for half
of the slices that others specialise with, and copies its feed-forward networks to every expert. Printed: test Dice of
each study, its mean over studies, seconds, and over seeds the mean and standard deviation. The same command goes on
where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch

from m4oe.artifact import count_parameters, load_artifact
from m4oe.config import load_config
from m4oe.data.phantoms import write_abdomen
from m4oe.runs import train_run

GATE_EPOCHS = 4


def phases(*, gate: bool, epochs: int) -> list[dict[str, object]]:
    """Specialise, then gate; or the same number of epochs of the first alone."""
    if not gate:
        return [{"name": "specialise", "routing": "modality", "max_epochs": epochs}]
    return [
        {"name": "specialise", "routing": "modality", "max_epochs": epochs - GATE_EPOCHS},
        {"name": "gate", "routing": "gate", "max_epochs": GATE_EPOCHS, "learning_rate": 3e-4},
    ]


# name: (where experts are, how gates start if there are any, upcycled from a dense network)
VARIANTS: dict[str, tuple[str, str | None, bool]] = {
    "no experts": ("none", None, False),
    "experts in the encoder": ("encoder", "modality", False),
    "experts in the decoder": ("decoder", "modality", False),
    "experts in both": ("both", "modality", False),
    "both, specialise alone": ("both", None, False),
    "both, upcycled": ("both", "modality", True),
    "both, random gate": ("both", "random", False),
}


def trained(variant: str, seed: int, epochs: int, studies: Sequence[Path], out: Path, overrides: list[str]) -> Path:
    """The run of one variant; of an upcycled one the second half."""
    experts, gate, upcycled = VARIANTS[variant]
    settings = [f"train.seed={seed}", "train.keep=last", *overrides]
    if upcycled:
        dense = out / "dense"
        half = (epochs - GATE_EPOCHS) // 2
        alone = [f"train.max_epochs={half}", "model.segmenter.experts=none"]
        train_run(studies, load_config(None, [*settings, *alone]), dense, torch.device("cpu"))
        settings.append(f"model.segmenter.start={dense}")
        epochs -= half
    if gate is not None:
        settings.append(f"model.segmenter.gate.start={gate}")
    plan = phases(gate=gate is not None, epochs=epochs)
    if experts == "none":
        plan = [{"name": "train", "max_epochs": epochs}]
    config = load_config(None, [*settings, f"model.segmenter.experts={experts}", f"phases={json.dumps(plan)}"])
    train_run(studies, config, out / "run", torch.device("cpu"))
    return out / "run"


def judged(job: tuple[str, int, int, Path, list[str]]) -> dict[str, object]:
    """One variant and seed: Dice by study, seconds of training, parameters."""
    torch.set_num_threads(1)
    variant, seed, epochs, out, overrides = job
    studies = sorted((out / f"seed_{seed}" / "studies").rglob("study.yaml"))
    folder = out / f"seed_{seed}" / variant.replace(" ", "_").replace(",", "")
    run = trained(variant, seed, epochs, studies, folder, overrides)
    metrics = json.loads((run / "metrics.json").read_text())["test"]
    dice = {task: scores["dice"]["value"] for task, scores in metrics.items()}
    logs = [path for path in (folder / "dense" / "log.jsonl", run / "log.jsonl") if path.is_file()]
    seconds = sum(json.loads(line)["seconds"] for path in logs for line in path.read_text().splitlines())
    return {
        "variant": variant,
        "seed": seed,
        **dice,
        "mean": sum(dice.values()) / len(dice),
        "seconds": seconds,
        "parameters": count_parameters(load_artifact(run).network) / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--patients", type=int, default=12, help="of each study")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("overrides", nargs="*", help="of the config, e.g. train.slices_per_epoch=300")
    args = parser.parse_intermixed_args()
    for seed in args.seeds:
        folder = args.out / f"seed_{seed}" / "studies"
        if not folder.is_dir():
            write_abdomen(folder, patients=args.patients, seed=seed)
    jobs = [(variant, seed, args.epochs, args.out, args.overrides) for seed in args.seeds for variant in VARIANTS]
    found = []
    with get_context("spawn").Pool(args.jobs) as pool:
        for row in pool.imap(judged, jobs):
            found.append(row)
            print(f"{row['variant']}, seed {row['seed']}: mean Dice {row['mean']:.3f}", flush=True)
    rows = pd.DataFrame(found)
    print(rows.round(3).to_string(index=False))
    numbers = rows.drop(columns="seed").groupby("variant", sort=False)
    print(numbers.agg(["mean", "std"]).round(3).to_string())


if __name__ == "__main__":
    main()
