"""How hard the breast phantom is: cheap features, the oracle, and a small network with one input and with all.

    python benchmarks/phantom_difficulty.py --seeds 11 12 13

prints, for each seed, what logistic regressions on cheap features reach, what an oracle that reads the truth reaches,
and what a late fusion of small convolutional networks reaches from each single input and from all of them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from m4oe.data.phantoms import Truth, oracle_scores, read_truth, write_breast

PICTURES = ("ffdm_cc", "ffdm_mlo", "syn_cc", "syn_mlo")
CLASSES = {"density": ["A", "B", "C", "D"], "birads": ["1", "2", "4"], "malignancy": ["0", "1"]}


def load(folder: Path) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The table, and pictures {input: (N, H, W)} of 0..1, mirrored to one side, NaN where there is none."""
    table = pd.read_csv(folder / "images.csv", dtype={"exam_id": str, "birads": "Int64", "malignancy": "Int64"})
    return table, {name: np.stack([_picture(folder, row, name) for _, row in table.iterrows()]) for name in PICTURES}


def _picture(folder: Path, row: pd.Series, name: str, height: int = 64) -> np.ndarray:
    if pd.isna(row[name]):
        return np.full((height, round(0.8 * height)), np.nan, np.float32)
    pixels = np.asarray(Image.open(folder / row[name]), np.float32)
    return (pixels[:, ::-1] if row["side"] == "R" else pixels) / (255 if name.startswith("syn") else 4095)


def labels(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Class index of each exam, {task: (N,)}, -1 where the label is missing."""
    return {
        task: table[task].astype("string").map({name: k for k, name in enumerate(names)}).fillna(-1).to_numpy(int)
        for task, names in CLASSES.items()
    }


def cheap_features(pictures: dict[str, np.ndarray], bins: int) -> np.ndarray:
    """Of each picture an intensity histogram (bins > 0) or the mean, and whether it is there."""
    columns = []
    for values in pictures.values():
        there = ~np.isnan(values[:, 0, 0])
        flat = np.where(there[:, None], values.reshape(len(values), -1), 0)
        if bins:
            edges = np.linspace(0, 1, bins + 1)
            columns.append(np.stack([np.histogram(row, edges)[0] for row in flat]) / flat.shape[1] * there[:, None])
        else:
            columns.append(flat.mean(axis=1, keepdims=True))
        columns.append(there[:, None])
    return np.concatenate(columns, axis=1).astype(float)


def macro_auroc(target: np.ndarray, probability: np.ndarray) -> float:
    """One-vs-rest AUROC, mean over classes; `probability` (N, C)."""
    return float(np.mean([roc_auc_score(target == k, probability[:, k]) for k in np.unique(target)]))


def regression_auroc(features: np.ndarray, target: np.ndarray, train: np.ndarray, test: np.ndarray) -> float:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    model.fit(features[train & (target >= 0)], target[train & (target >= 0)])
    known = test & (target >= 0)
    return macro_auroc(target[known], model.predict_proba(features[known]))


def concordance(time: np.ndarray, event: np.ndarray, score: np.ndarray) -> float:
    """Harrell's C: of the pairs whose order is known, the share in which the higher score failed first."""
    before = (time[:, None] < time[None, :]) & (event[:, None] == 1)
    right = (score[:, None] > score[None, :]) + 0.5 * (score[:, None] == score[None, :])
    return float(right[before].mean())


def oracle_line(truth: Truth, table: pd.DataFrame, target: dict[str, np.ndarray], test: np.ndarray) -> dict[str, float]:
    scores = oracle_scores(truth, table)
    result = {}
    for task, names in CLASSES.items():
        wide = scores[scores["task"] == task].pivot(index="exam", columns="class", values="score")
        wide = wide.reindex(table["exam_id"])
        wide = wide.assign(**{"0": 1 - wide["1"]}) if task == "malignancy" else wide
        known = test & (target[task] >= 0)
        result[task] = macro_auroc(target[task][known], wide[names].to_numpy()[known])
    risk = scores[scores["task"] == "risk"].set_index("exam")["score"].reindex(table["exam_id"]).to_numpy()
    known = test & table["years"].notna().to_numpy()
    years, event = table["years"].to_numpy(), table["event"].to_numpy()
    result["risk"] = concordance(years[known], event[known], risk[known])
    return result


class LateFusion(nn.Module):
    """A small convolutional network with instance normalisation for each family of pictures; logits are summed."""

    def __init__(self, classes: int, width: int = 14) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({family: _encoder(width) for family in ("ffdm", "syn")})
        self.heads = nn.ModuleDict({family: nn.Linear(6 * width, classes) for family in ("ffdm", "syn")})

    def forward(self, pictures: dict[str, Tensor], there: dict[str, Tensor]) -> Tensor:
        parts = []
        for name, x in pictures.items():
            family = name.split("_")[0]
            y = self.encoders[family](x)
            pooled = torch.cat([y.amax(dim=(2, 3)), y.mean(dim=(2, 3))], dim=1)
            parts.append(self.heads[family](pooled) * there[name][:, None])
        return torch.stack(parts).sum(dim=0)


def _encoder(width: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, width, 5, stride=2, padding=2), nn.GroupNorm(width, width), nn.ReLU()),
        *(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.GroupNorm(2 * width, 2 * width), nn.ReLU()),
        *(nn.Conv2d(2 * width, 3 * width, 3, stride=2, padding=1), nn.ReLU()),
    )


Streams = dict[str, Tensor]


def network_auroc(
    pictures: dict[str, np.ndarray], target: np.ndarray, train: np.ndarray, test: np.ndarray, *, seconds: float
) -> float:
    """Test AUROC of a late fusion of `pictures`, trained for `seconds` of processor time."""
    torch.manual_seed(0)
    there = {name: torch.from_numpy(~np.isnan(x[:, 0, 0])).float() for name, x in pictures.items()}
    values = {name: _standardised(torch.from_numpy(np.nan_to_num(x))[:, None]) for name, x in pictures.items()}
    train, test = (torch.from_numpy(np.flatnonzero(part & (target >= 0))) for part in (train, test))
    model = _trained(LateFusion(int(target.max()) + 1), values, there, torch.from_numpy(target), train, seconds)
    with torch.inference_mode():
        logits = model(_rows(values, test), _rows(there, test))
    return macro_auroc(target[test], logits.softmax(dim=1).numpy())


def _trained(
    model: LateFusion, values: Streams, there: Streams, target: Tensor, rows: Tensor, seconds: float
) -> LateFusion:
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.05)
    start = time.process_time()
    while (spent := (time.process_time() - start) / seconds) < 1:
        optimiser.param_groups[0]["lr"] = 4e-3 * min(1, 10 * spent + 0.1) * (1 - spent) ** 0.5
        for batch in rows[torch.randperm(len(rows))].split(32):
            shown = {name: _augmented(x[batch]) for name, x in values.items()}
            loss = F.cross_entropy(model(shown, _rows(there, batch)), target[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model


def _rows(streams: Streams, rows: Tensor) -> Streams:
    return {name: x[rows] for name, x in streams.items()}


def _standardised(x: Tensor) -> Tensor:
    return (x - x.mean(dim=(1, 2, 3), keepdim=True)) / (x.std(dim=(1, 2, 3), keepdim=True) + 1e-3)


def _augmented(x: Tensor) -> Tensor:
    shifted = x.roll(torch.randint(-3, 4, (2,)).tolist(), (2, 3))
    return shifted.flip(2) if torch.rand(()) < 0.5 else shifted


def study_of(seed: int, exams: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = write_breast(Path(name), exams=exams, seed=seed).parent
        table, pictures = load(folder)
        truth = read_truth(folder)
    train_rows, test_rows = next(
        GroupShuffleSplit(1, test_size=0.3, random_state=seed).split(table, groups=table["patient_id"])
    )
    train, test = (np.isin(np.arange(len(table)), rows) for rows in (train_rows, test_rows))
    target = labels(table)
    print(f"seed {seed}: {train.sum()} training exams, {test.sum()} test exams", flush=True)
    for what, bins in (("histograms", 32), ("means", 0)):
        features = cheap_features(pictures, bins)
        found = {task: regression_auroc(features, target[task], train, test) for task in CLASSES}
        print(f"  logistic regression on {what:<12}" + _columns(found), flush=True)
    print(f"  {'oracle':<35}" + _columns(oracle_line(truth, table, target, test)), flush=True)
    if seconds:
        for task in ("malignancy", "density"):
            _print_networks(task, pictures, target[task], train, test, seconds)


def _print_networks(
    task: str, pictures: dict[str, np.ndarray], target: np.ndarray, train: np.ndarray, test: np.ndarray, seconds: float
) -> None:
    alone = {
        name: network_auroc({name: values}, target, train, test, seconds=seconds / 4)
        for name, values in pictures.items()
    }
    together = network_auroc(pictures, target, train, test, seconds=seconds)
    gap = together - max(alone.values())
    print(f"  network, {task}: all inputs {together:.3f}, gap {gap:+.3f}; alone:{_columns(alone)}", flush=True)


def _columns(values: dict[str, float]) -> str:
    return "".join(f"  {name} {value:.3f}" for name, value in values.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--exams", type=int, default=800)
    parser.add_argument(
        "--seconds", type=float, default=30, help="processor time to train the network on all inputs; 0: none"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for seed in arguments.seeds:
        study_of(seed, arguments.exams, arguments.seconds)


if __name__ == "__main__":
    main()
