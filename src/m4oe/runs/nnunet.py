"""Studies of volumes as nnU-Net reads them, with our folds, so that it can be trained on the very same exams.

The layout is that of nnU-Net's second version: a folder DatasetNNN_NAME for each label set, to lie in nnUNet_raw.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy import ndarray

from m4oe.artifact import write_text
from m4oe.data.readers import Picture, read_labels, read_picture
from m4oe.data.splits import split_exams
from m4oe.data.table import Cohort, load_cohort
from m4oe.data.volumes.grids import labels_on
from m4oe.errors import UserError
from m4oe.evaluate import read_table
from m4oe.masks.files import file_name, nifti_like
from m4oe.runs.facts import run_cohorts
from m4oe.runs.tables import write_csv
from m4oe.study import Input, Task, load_study

FIRST = 501  # number of the first data set: nnU-Net's own end far below
ENDING = ".nii.gz"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Exported:
    """A data set that was written: cases to learn from and to be tested on, folds, and the exams that were left out of
    training since they have no mask."""

    folder: Path
    training: int
    test: int
    folds: int
    without_mask: int


@dataclass(frozen=True)
class Source:
    """A segmentation task of a study; `cases` has a row for each exam with the picture that it lies on, and fold."""

    cohort: Cohort
    name: str
    cases: pd.DataFrame

    @property
    def task(self) -> Task:
        return self.cohort.study.tasks[self.name]

    @property
    def input(self) -> Input:
        return self.cohort.study.inputs[str(self.task.on)]

    @property
    def folds(self) -> list[int]:
        return sorted(self.cases["fold"].unique())

    @property
    def parts(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The cases of imagesTr, which have masks, and those of imagesTs: none, where each fold tests others."""
        once = self.cases.drop_duplicates("exam")
        in_test = (once["split"] == "test") & (len(self.folds) == 1)
        return once[~in_test & once["labelled"]], once[in_test]


def export_nnunet(sources: Sequence[Path], out: Path, progress: Progress | None = None) -> list[Exported]:
    """Writes a data set for each segmentation task of a run, or of studies, into `out`: whole, or not at all.

    Without folds, training and validation are fold 0 of splits_final.json, and the test split lies in imagesTs. With
    k folds all exams lie in imagesTr, and those that fold i tests in imagesTs_fold_i besides.
    Raises UserError for studies without segmentation, for pictures that are no volumes, and for what stands there.
    """
    found = list(_sources(sources))
    targets = [out / f"Dataset{FIRST + number}_{_plain(source, found)}" for number, source in enumerate(found)]
    for target in targets:
        if target.exists():
            raise UserError(f"{target} is there already; remove it, or export into another folder with -o")
    number, total = count(1), sum(len(part) for source in found for part in source.parts)
    tell = (lambda: None) if progress is None else (lambda: progress(next(number), total))
    return [_export(source, target, tell) for source, target in zip(found, targets)]


def _sources(paths: Sequence[Path]) -> Iterator[Source]:
    if len(paths) == 1 and paths[0].is_dir():
        cohorts, splits = run_cohorts(paths[0]), read_table(paths[0] / "splits.csv").astype({"fold": int})
    else:
        cohorts = [load_cohort(load_study(path)) for path in paths]
        splits = split_exams(cohorts)
    tasks = [(cohort, name) for cohort in cohorts for name, task in cohort.study.tasks.items() if task.on is not None]
    if not tasks:
        raise UserError(f"{cohorts[0].study.table_path}: no task is a segmentation, and nnU-Net learns masks alone")
    for cohort, name in tasks:
        yield Source(cohort, name, _cases(cohort, name, splits))


def _cases(cohort: Cohort, name: str, splits: pd.DataFrame) -> pd.DataFrame:
    """case, exam, split, fold, place (in the cohort) and labelled of the exams that have the picture."""
    places = np.flatnonzero(cohort.present(str(cohort.study.tasks[name].on)))
    facts = pd.DataFrame({"exam": cohort.exams[places], "place": places})
    facts["case"] = [file_name(exam) for exam in facts["exam"]]
    facts["labelled"] = [cohort.labels[name][place] is not None for place in places]
    mine = splits.loc[splits["study"] == cohort.study.name, ["exam", "split", "fold"]]
    return mine.merge(facts, on="exam")


def _plain(source: Source, all_sources: Sequence[Source]) -> str:
    """The name of the study, and of the task where the study has several."""
    study = source.cohort.study.name
    several = sum(other.cohort is source.cohort for other in all_sources) > 1
    return re.sub(r"[^A-Za-z0-9]", "_", f"{study}_{source.name}" if several else study)


def _export(source: Source, target: Path, tell: Callable[[], None]) -> Exported:
    beside = target.with_name(f".{target.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        exported = _write(source, beside, tell)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    beside.rename(target)
    return Exported(target, *exported)


def _write(source: Source, folder: Path, tell: Callable[[], None]) -> tuple[int, int, int, int]:
    cases, folds, (training, test), channels = source.cases, source.folds, source.parts, 0
    for part, rows in (("Tr", training), ("Ts", test)):
        for row in rows.itertuples():
            channels = _write_case(source, int(row.place), row.case, folder, part)
            tell()
    if not len(training):
        raise UserError(f"{source.cohort.study.table_path}: no exam to learn {source.name!r} from has a mask")
    for fold in folds if len(folds) > 1 else ():
        _link(folder, f"imagesTs_fold_{fold}", cases[(cases["fold"] == fold) & (cases["split"] == "test")]["case"])
    _write_json(_facts(source, channels, len(training)), folder / "dataset.json")
    _write_json([_fold(cases[cases["fold"] == fold]) for fold in folds], folder / "splits_final.json")
    write_csv(cases[["case", "exam", "split", "fold"]], folder / "cases.csv")
    return len(training), len(test), len(folds), cases["exam"].nunique() - len(training) - len(test)


def _fold(cases: pd.DataFrame) -> dict[str, list[str]]:
    mine = cases[cases["labelled"]]
    parts = {"train": "train", "val": "validation"}
    return {part: sorted(mine.loc[mine["split"] == split, "case"]) for part, split in parts.items()}


def _write_case(source: Source, place: int, case: str, folder: Path, part: str) -> int:
    """Writes one exam's channels, and its mask if it has one; how many channels it has."""
    picture = read_picture(source.cohort.paths[str(source.task.on)][place], source.input.kind)
    if picture.values.ndim == 3 and picture.orientation is None:
        raise UserError(f"{picture.source}: a picture of two dimensions; the export to nnU-Net is for volumes")
    for number, values in enumerate(picture.values):
        _save(_compact(values), picture, folder / f"images{part}" / f"{case}_{number:04d}{ENDING}")
    path = source.cohort.labels[source.name][place]
    if path is not None:
        _save(_labels(path, picture, source.task), picture, folder / f"labels{part}" / f"{case}{ENDING}")
    return len(picture.values)


def _labels(path: str, picture: Picture, task: Task) -> ndarray:
    """Class indices on the picture's grid, and behind the last what counts for nothing."""
    mask = read_labels(path, task.class_values, task.ignore)
    labels = labels_on(picture.geometry, mask, task.fix)
    count = len(task.class_names)
    return np.where(labels < 0, count, labels).astype(np.uint8 if count < 256 else np.uint16)


def _compact(values: ndarray) -> ndarray:
    """The same numbers in two bytes each, where they are whole and small, as those of CT are."""
    small = np.clip(values, -(2**15), 2**15 - 1).astype(np.int16)
    return small if np.array_equal(small, values) else values


def _save(values: ndarray, picture: Picture, path: Path) -> None:
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nifti_like(values, picture.geometry), path)


def _link(folder: Path, name: str, cases: Sequence[str]) -> None:
    """A folder with the images of `cases` once more, by hard links where the disk has them."""
    (folder / name).mkdir()
    for case in cases:
        for path in (folder / "imagesTr").glob(f"{case}_[0-9][0-9][0-9][0-9]{ENDING}"):
            try:
                os.link(path, folder / name / path.name)
            except OSError:
                shutil.copyfile(path, folder / name / path.name)


def _facts(source: Source, channels: int, training: int) -> dict[str, Any]:
    """The content of dataset.json."""
    return {
        "channel_names": {str(number): name for number, name in enumerate(_channel_names(source.input, channels))},
        **_label_facts(source.task),
        "numTraining": training,
        "file_ending": ENDING,
        "name": source.cohort.study.name,
    }


def _channel_names(source: Input, channels: int) -> list[str]:
    """nnU-Net scales by the name of a channel: "CT" by the intensities of the data set, others by each volume's own."""
    if source.kind == "ct":
        return ["CT"] * channels
    if len(source.paths) == channels > 1:
        return list(source.paths)
    name = source.modality if isinstance(source.modality, str) else source.kind
    return [name] if channels == 1 else [f"{name}_{number}" for number in range(channels)]


def _label_facts(task: Task) -> dict[str, Any]:
    """Labels, numbered without gaps; where the task has regions, those come first, the widest before all: each is
    drawn over the one before, and classes over regions."""
    names = task.class_names
    index = {name: number for number, name in enumerate(names)}
    regions = {name: sorted(index[member] for member in members) for name, members in task.regions.items()}
    regions = dict(sorted(regions.items(), key=lambda one: -len(one[1])))
    labels: dict[str, Any] = {"background": 0, **regions, **{name: index[name] for name in names[1:]}}
    if task.ignore is not None:
        labels["ignore"] = len(names)
    if not regions:
        return {"labels": labels}
    return {
        "labels": labels,
        "regions_class_order": [*(members[-1] for members in regions.values()), *range(1, len(names))],
    }


def _write_json(content: object, path: Path) -> None:
    write_text(path, json.dumps(content, indent=1))
