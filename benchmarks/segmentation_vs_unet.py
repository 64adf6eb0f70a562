"""One joint M4oE against MONAI U-Nets trained one for each data set, with the same total wall-clock on one machine.

    python benchmarks/segmentation_vs_unet.py DATA -o OUT --minutes 10 --seed 0

DATA holds hippocampus_mr, acdc_cardiac_mr and liver_vessel_ct: three studies, two modalities, three label sets. Both
sides see the same exams, split by patient, prepared by the same plan, drawn and augmented by the same code, with the
same loss, optimiser, schedule and precision; each U-Net has a third of the minutes that the joint model has. Nothing
is chosen on the test split: the last epoch is kept. Printed: Dice of each class on the original grid, and its mean.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from m4oe.artifact import Artifact
from m4oe.batch import Batch, Prediction, Rows
from m4oe.config import Config, load_config
from m4oe.data.splits import split_exams
from m4oe.data.table import load_cohort
from m4oe.predict import VolumePredictor
from m4oe.runs import train_run
from m4oe.runs.facts import schema_of
from m4oe.runs.tables import rows_of
from m4oe.schema import Schema
from m4oe.study import load_study
from m4oe.train.fitting import fit_phase
from m4oe.train.loading import Fold

DEVICE = torch.device("cpu")
UNSEEN = 255
CLASSES = {
    "hippocampus": ("anterior", "posterior"),
    "acdc": ("right_ventricle", "myocardium", "left_ventricle"),
    "liver": ("liver", "vessel"),
}


def hippocampus(data: Path, out: Path, seed: int) -> Path:
    """91 MR volumes, a patient each: 60 to learn from, 6 to watch, 25 to test."""
    names = sorted(path.name for path in (data / "hippocampus_mr" / "imagesTr").glob("*.nii.gz"))
    parts = np.repeat(["train", "validation", "test"], [60, 6, len(names) - 66])
    return _plain(data / "hippocampus_mr", out, names, names, parts, seed, CLASSES["hippocampus"])


def acdc(data: Path, out: Path, seed: int) -> Path:
    """8 patients with two cine-MR volumes each: 4 to learn from, 1 to watch, 3 to test. Spacing is lost."""
    names = sorted(path.name for path in (data / "acdc_cardiac_mr" / "imagesTr").glob("*.nii.gz"))
    patients = [name.split("_")[0] for name in names]
    parts = np.repeat(["train", "validation", "test"], [4, 1, len(set(patients)) - 5])
    return _plain(data / "acdc_cardiac_mr", out, names, patients, parts, seed, CLASSES["acdc"])


def liver(data: Path, out: Path, seed: int) -> Path:
    """20 stacks of CT slices of three series, of which one slice each is labelled: a series to each part."""
    folder = out / "liver"
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    rows = []
    for path in sorted((data / "liver_vessel_ct" / "images").glob("*.nii.gz")):
        image, name = nibabel.load(path), path.name.removesuffix(".nii.gz")
        mask = np.full(image.shape, UNSEEN, np.uint8)
        mask[:, :, image.shape[2] // 2] = Image.open(data / "liver_vessel_ct" / "labels" / f"{name}.png")
        nibabel.save(nibabel.Nifti1Image(mask, image.affine), folder / "labels" / path.name)
        rows.append({"exam": name, "patient": name[:17], "image": str(path), "mask": f"labels/{path.name}"})
    table = pd.DataFrame(rows)
    # The largest series teaches, the smallest is watched.
    order = table["patient"].value_counts().index
    table["split"] = table["patient"].map(dict(zip(order, ["train", "test", "validation"])))
    facts = {"classes": ["background", *CLASSES["liver"]], "ignore": UNSEEN}
    return _study(folder, table, "ct", facts)


SETS: dict[str, Callable[[Path, Path, int], Path]] = {"hippocampus": hippocampus, "acdc": acdc, "liver": liver}


def _plain(
    source: Path,
    out: Path,
    names: list[str],
    patients: list[str],
    parts: np.ndarray,
    seed: int,
    classes: tuple[str, ...],
) -> Path:
    known = sorted(set(patients))
    split = dict(zip(np.random.default_rng(seed).permutation(known), parts))
    table = pd.DataFrame(
        {
            "exam": [name.removesuffix(".nii.gz") for name in names],
            "patient": patients,
            "image": [str(source / "imagesTr" / name) for name in names],
            "mask": [str(source / "labelsTr" / name) for name in names],
            "split": [split[patient] for patient in patients],
        }
    )
    return _study(out / source.name.split("_")[0], table, "mr", {"classes": ["background", *classes]})


def _study(folder: Path, table: pd.DataFrame, modality: str, facts: dict[str, object]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "images.csv", index=False)
    content = {
        "name": folder.name,
        "table": "images.csv",
        "exam": "exam",
        "patient": "patient",
        "inputs": {"image": {"column": "image", "modality": modality, "kind": modality}},
        "tasks": {folder.name: {"kind": "segmentation", "column": "mask", "on": "image", **facts}},
        "split": {"column": "split"},
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


class UNets(nn.Module):
    """A MONAI U-Net behind the interface of a segmenter: one data set, one label set."""

    def __init__(self, schema: Schema, residual_units: int) -> None:
        super().__init__()
        from monai.networks.nets import UNet

        (self.stream,), (self.task,) = schema.streams, schema.tasks
        self.network = UNet(
            spatial_dims=2,
            in_channels=schema.shape(self.stream)[0],
            out_channels=len(self.task.classes),
            channels=(16, 32, 64, 128, 256),
            strides=(2, 2, 2, 2),
            num_res_units=residual_units,
        )

    def forward(self, batch: Batch, tasks: object = None) -> Prediction:
        rows = batch.inputs[self.stream.name]
        return Prediction({self.task.name: Rows(self._logits(rows.values), rows.index)})

    def _logits(self, x: Tensor) -> Tensor:
        """Any size: padded to a multiple of 16 and cut again."""
        h, w = x.shape[-2:]
        padded = nn.functional.pad(x, (0, -w % 16, 0, -h % 16))
        return self.network(padded)[..., :h, :w]


def unet_dice(study: Path, config: Config, minutes: float, units: int, out: Path) -> tuple[dict[str, float], float]:
    """Test Dice by class of a U-Net of this study alone, and the seconds of its training."""
    cohorts = [load_cohort(load_study(study))]
    splits = split_exams(cohorts)
    out.mkdir(parents=True, exist_ok=True)
    config = config.for_tasks({"segmentation"})
    schema = schema_of(cohorts, splits, 0, config.model, out / "plan.json")
    torch.manual_seed(config.train.seed)
    phase = config.phases[0].model_copy(update={"max_minutes": minutes, "max_epochs": 10_000})
    started = time.monotonic()
    network = fit_phase(UNets(schema, units), phase, Fold(cohorts, schema, splits, out / "cache"), config, out, DEVICE)
    seconds = time.monotonic() - started
    predictor = VolumePredictor(Artifact(network.eval(), config.model, schema), DEVICE)
    parts = predictor.stream(rows_of(cohorts, splits, "test", schema))
    return by_class(pd.concat([part.cases for part in parts])), seconds


def by_class(cases: pd.DataFrame) -> dict[str, float]:
    cases = cases[cases["split"] == "test"].assign(dice=lambda rows: pd.to_numeric(rows["dice"], errors="coerce"))
    return cases.groupby("class", sort=False)["dice"].mean().to_dict()


def joint_dice(studies: list[Path], config: Config, minutes: float, out: Path) -> tuple[dict[str, float], float]:
    """Test Dice by class of one model of all studies, and the seconds of its training."""
    train_run(studies, ended_by_the_clock(config.for_tasks({"segmentation"}), minutes), out, DEVICE)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return by_class(pd.read_csv(out / "cases.csv")), sum(line["seconds"] for line in log)


def ended_by_the_clock(config: Config, minutes: float) -> Config:
    """`config` with so many epochs that the minutes end each phase, which keeps its share of them."""
    train, many = config.train, 100
    phases = [p.model_copy(update={"max_epochs": many * (p.max_epochs or train.max_epochs)}) for p in config.phases]
    train = train.model_copy(update={"max_minutes": minutes, "max_epochs": many * train.max_epochs})
    return config.model_copy(update={"train": train, "phases": tuple(phases)})


def table_of(sides: dict[str, dict[str, float]]) -> pd.DataFrame:
    """Dice by class, the mean of each data set's classes, and the mean of these."""
    table = pd.DataFrame(sides)
    means = {f"mean of {name}": table.loc[list(classes)].mean() for name, classes in CLASSES.items()}
    return pd.concat([table, pd.DataFrame(means).T, pd.DataFrame({"mean": pd.DataFrame(means).mean(axis=1)}).T])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10.0, help="of the joint model; each U-Net has a third")
    parser.add_argument("--seed", type=int, default=0, help="of the splits and of training")
    parser.add_argument("--only", choices=["joint", "unets"])
    parser.add_argument("--residual-units", type=int, default=0, help="of the U-Nets' blocks; 0: plain, the fastest")
    parser.add_argument("overrides", nargs="*", help="of the config of both, e.g. train.batch_size=32")
    args = parser.parse_intermixed_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    studies = [make(args.data.resolve(), args.out / "studies", args.seed) for make in SETS.values()]
    config = load_config(None, [f"train.seed={args.seed}", "train.keep=last", *args.overrides])
    sides: dict[str, dict[str, float]] = {}
    if args.only != "unets":
        sides["M4oE, one joint model"], seconds = joint_dice(studies, config, args.minutes, args.out / "joint")
        print(f"joint model: {seconds:.0f} s")
    if args.only != "joint":
        sides["MONAI U-Nets, one a set"] = {}
        for study in studies:
            out = args.out / "unets" / study.parent.name
            dice, seconds = unet_dice(study, config, args.minutes / len(studies), args.residual_units, out)
            sides["MONAI U-Nets, one a set"] |= dice
            print(f"U-Net {study.parent.name}: {seconds:.0f} s")
    print(table_of(sides).round(3).to_string())


if __name__ == "__main__":
    main()
