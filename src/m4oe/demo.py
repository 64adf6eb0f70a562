"""The demo: the path that users' data walk, on a phantom cohort, from files to a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from m4oe.config import load_config
from m4oe.data.check import check_studies
from m4oe.data.phantoms import write_abdomen, write_breast, write_retina
from m4oe.device import resolve_device
from m4oe.errors import UserError, unknown
from m4oe.report import write_report
from m4oe.runs import train_run
from m4oe.study import load_study

COHORTS: Mapping[str, tuple[Callable[..., object], tuple[str, ...]]] = {
    "breast": (write_breast, ("train.max_epochs=12", "train.max_minutes=1.1")),
    "retina": (write_retina, ("train.max_epochs=20", "train.max_minutes=1.1", "model.image_size=[96, 96]")),
    "segmentation": (write_abdomen, ("train.max_minutes=1.2",)),
}


def run_demo(cohort: str, out: Path, device: str, *, progress: bool, tell: Callable[[str], None]) -> Path:
    """Writes a cohort into `out`/study, trains on it in `out`/run, and reports; returns the path of the report."""
    if cohort not in COHORTS:
        raise unknown("demo", cohort, COHORTS)
    write, overrides = COHORTS[cohort]
    folder = out / "study"
    if not list(folder.rglob("study.yaml")):
        tell(f"writing a phantom {cohort} cohort: {folder}")
        write(folder, seed=0)
    studies = sorted(folder.rglob("study.yaml"))
    if check_studies([load_study(path) for path in studies]).spoils_training:
        raise UserError(f"{folder}: damaged; delete {out} and start again")
    tell(f"checked {', '.join(map(str, studies))}: nothing stands in the way of training")
    train_run(studies, load_config(None, overrides), out / "run", resolve_device(device), progress=progress, tell=tell)
    return write_report(out / "run")
