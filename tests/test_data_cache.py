"""What is decoded once and kept on disk: the same bits, by all that decides them, and never from a damaged file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from dicoms import save
from m4oe.config import load_config
from m4oe.data.cache import Cache
from m4oe.data.dataset import collate
from m4oe.data.splits import split_exams
from m4oe.data.table import load_cohort
from m4oe.errors import UserError
from m4oe.runs.facts import schema_of
from m4oe.study import load_study
from m4oe.train.loading import Fold, Loaders
from small_runs import LITTLE, edited, log_of, trained
from test_data_dataset import SCHEMA, cohort_in, dataset, folder, rows, same  # noqa: F401  (a fixture)


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """The files that are decoded from now on."""
    from m4oe.data import dataset as room
    from m4oe.data import samples

    decoded: list[str] = []
    read_picture, read_labels = room.read_picture, samples.read_labels
    monkeypatch.setattr(room, "read_picture", lambda paths, kind: decoded.extend(paths) or read_picture(paths, kind))
    monkeypatch.setattr(samples, "read_labels", lambda path, *more: decoded.append(path) or read_labels(path, *more))
    return decoded


def kept(place: Path, cache: Path, *exams: str):
    return dataset(place, *exams, cache_bytes=0, cache_folder=cache)


def test_a_second_epoch_and_a_second_run_decode_nothing_and_are_the_same(folder, tmp_path, reads):  # noqa: F811
    """Two mammograms, their masks and two volumes; a right breast among them, and both images and volumes."""
    cache = tmp_path / "cache"
    plain = list(dataset(folder, cache_bytes=0))
    assert len(reads) == 6
    data = kept(folder, cache)
    for samples in (list(data), list(data), list(kept(folder, cache))):
        assert same(collate(samples), collate(plain))
        for found, sample in zip(samples, plain):
            assert found.fits == sample.fits
            assert repr(found.geometry) == repr(sample.geometry)  # its affine is an array
    assert len(reads) == 12 and len(list(cache.iterdir())) == 6
    assert not [path for path in cache.iterdir() if path.suffix != ".npz"]


def test_the_focus_of_a_mammogram_comes_back(tmp_path):
    from m4oe.data.readers import read_picture
    from m4oe.data.samples import fitted
    from test_data_dicom_mammograms import breast

    save(tmp_path / "a.dcm", breast(), Modality="MG", ImageLaterality="R")
    made = fitted(read_picture((str(tmp_path / "a.dcm"),), "mammogram"), SCHEMA.stream("view"), mirrored=True)
    assert made.fit.focus is not None
    first, again = (
        Cache(0, tmp_path / "cache").get("a", lambda: made, lambda: ["a"]),
        Cache(0, tmp_path / "cache").get("a", lambda: None, lambda: ["a"]),
    )
    assert first is made and again.fit == made.fit and torch.equal(again.values, made.values)
    assert repr(again.geometry) == repr(made.geometry)


def test_what_memory_holds_is_not_written(folder, tmp_path, reads):  # noqa: F811
    data = dataset(folder, cache_bytes=1 << 20, cache_folder=tmp_path / "cache")
    list(data), list(data)
    assert len(reads) == 6 and not (tmp_path / "cache").exists()


OF_THE_MASK = {
    "values of the mask": "{0: back, 255: lesion}",
    "ignored value": "[back, lesion], ignore: 255",
    "way to fix": "[back, lesion], fix: resample",
}
CHANGES = ("size of the grid", "side in the table", "time of the file", *OF_THE_MASK)


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_is_made_anew(folder, tmp_path, reads, change):  # noqa: F811
    cache = tmp_path / "cache"
    kept(folder, cache, "a")[0]
    reads.clear()
    schema, expected = SCHEMA, {"a.png", "a_mask.png"}
    if change == "size of the grid":
        streams = [s.model_copy(update={"size": (16, 16)}) if s.name == "view" else s for s in SCHEMA.streams]
        schema = SCHEMA.model_copy(update={"streams": tuple(streams)})
    elif change == "side in the table":
        (folder / "exams.csv").write_text((folder / "exams.csv").read_text().replace("a.png,L", "a.png,R"))
    elif change == "time of the file":
        os.utime(folder / "a.png", ns=(5, 5))
    else:
        expected = {"a_mask.png"}
        study = (folder / "study.yaml").read_text()
        (folder / "study.yaml").write_text(study.replace("[back, lesion]", OF_THE_MASK[change]))
    from m4oe.data.dataset import ExamDataset

    changed = ExamDataset([cohort_in(folder)], rows("a"), schema, cache_bytes=0, cache_folder=cache)
    plain = ExamDataset([cohort_in(folder)], rows("a"), schema, cache_bytes=0)
    found = changed[0]
    assert {Path(path).name for path in reads} == expected
    assert same(collate([found]), collate([plain[0]]))


DAMAGE = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "a bit": lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
    "something else": lambda content: b"torn" * 100,
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_file_is_made_anew(folder, tmp_path, reads, how):  # noqa: F811
    cache = tmp_path / "cache"
    plain = kept(folder, cache)
    first = collate(list(plain))
    files = sorted(cache.iterdir())
    contents = [path.read_bytes() for path in files]
    for path, content in zip(files, contents):
        path.write_bytes(DAMAGE[how](content))
    reads.clear()
    assert same(collate(list(kept(folder, cache))), first) and len(reads) == 6
    assert same(collate(list(kept(folder, cache))), first) and len(reads) == 6


def test_a_folder_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"cache: cannot be written to .*train\.cache_gb"):
        Cache(0, tmp_path / "cache").get("a", lambda: torch.ones(2), lambda: ["a"])


# ---- in a run


def test_training_with_little_memory_decodes_once_and_is_the_same(breast, tmp_path):
    runs = [trained([breast], tmp_path / str(gb), f"train.cache_gb={gb}") for gb in (0, 2)]
    losses = [[(line["train"], line["validation"]["loss"]) for line in log_of(run)] for run in runs]
    assert losses[0] == losses[1]
    assert len(list((runs[0] / "cache").glob("*.npz"))) > 100 and not (runs[1] / "cache").exists()


def test_loaders_of_a_resumed_run_decode_nothing(breast, tmp_path, reads):
    study = edited(breast, tmp_path / "study.yaml")
    config = load_config(None, [*LITTLE, "train.cache_gb=0"])
    cohorts = [load_cohort(load_study(study))]
    splits = split_exams(cohorts)
    schema = schema_of(cohorts, splits, 0, config.model, tmp_path / "plan.json", None)
    counts = []
    for _ in range(2):
        loaders = Loaders(Fold(cohorts, schema, splits, tmp_path / "cache"), config, torch.device("cpu"))
        for loader in (loaders.train_dataloader(), loaders.val_dataloader()):
            assert sum(len(batch.exams) for batch in loader) > 5
        counts.append(len(reads))
    assert counts[0] > 100 and counts[1] == counts[0]
