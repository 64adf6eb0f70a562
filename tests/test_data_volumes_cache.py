"""Prepared volumes on disk: written once, read by slices, never stale."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

import m4oe.data.volumes.cache as room
from cohorts import cohort as study_cohort
from m4oe.data.dataset import collate
from m4oe.data.draft import write_draft
from m4oe.data.readers import read_picture
from m4oe.data.table import load_cohort
from m4oe.data.volumes.prepare import prepare
from m4oe.data.volumes.slices import SliceDataset
from m4oe.errors import UserError
from m4oe.study import load_study
from small_volumes import block, cache_of, planned, rows_of, study_of, volume, write_volume

TASK = "s_organs"


@pytest.fixture
def cohort(tmp_path):
    return study_of(tmp_path, {f"c{n}": (volume(n), block()) for n in range(3)})


@pytest.fixture
def decoded(monkeypatch):
    """Names of files as they are decoded."""
    read = []
    for name in ("read_picture", "read_labels"):
        whole = getattr(room, name)
        monkeypatch.setattr(room, name, lambda source, *a, whole=whole: (read.append(source), whole(source, *a))[1])
    return read


def test_pictures_and_masks_are_those_of_the_files(cohort, tmp_path):
    schema = planned([cohort])
    cache, stream, task = cache_of(tmp_path, schema), schema.streams[0], schema.task(TASK)
    pictures, masks = cache.pictures(cohort, 1, stream), cache.masks(cohort, 1, task)
    prepared = prepare(read_picture(cohort.paths["image"][1], "mr"), schema.plan.streams["image"], (16, 16))
    assert isinstance(pictures, np.memmap) and pictures.dtype == np.float16 and pictures.shape == (6, 1, 16, 13)
    np.testing.assert_allclose(pictures, prepared.slices[:].numpy(), atol=2e-3)
    assert isinstance(masks, np.memmap) and masks.dtype == np.int16 and masks.shape == (6, 16, 13)
    assert np.flatnonzero((masks == 1).any((1, 2))).tolist() == [2, 3]
    counts = cache.counts(cohort, 1, task)
    assert (counts == [[(slice_ == k).sum() for k in range(2)] for slice_ in masks]).all()
    low, mean = prepared.slices.low.item(), prepared.slices.offset.item()
    assert cache.floor(cohort, 1, stream) == pytest.approx((low - mean) / prepared.slices.scale.item(), abs=1e-4)
    assert cache.floor(cohort, 1, stream) < pictures.min()


def test_an_epoch_decodes_nothing(cohort, tmp_path, decoded):
    schema, rows = planned([cohort]), rows_of([cohort])
    data = SliceDataset([cohort], rows, schema, cache_of(tmp_path, schema), draws=12, augment=1.0)
    assert len(decoded) == 6, "three pictures and three masks, once"
    for epoch in range(2):
        data.set_epoch(epoch)
        [data[number] for number in range(12)]
    assert len(decoded) == 6
    again = SliceDataset([cohort], rows, schema, cache_of(tmp_path, schema))  # another run, with the same folder
    [again[number] for number in range(len(again))]
    assert len(decoded) == 6


def test_a_changed_file_and_a_changed_plan_are_prepared_anew(cohort, tmp_path, decoded):
    schema = planned([cohort])
    stream, task, path = schema.streams[0], schema.task(TASK), cohort.paths["image"][0][0]
    before = np.array(cache_of(tmp_path, schema).pictures(cohort, 0, stream))
    cache_of(tmp_path, schema).masks(cohort, 0, task)
    assert len(decoded) == 2
    write_volume(tmp_path / "s" / "c0.nii.gz", 100 - volume(0))
    os.utime(path, ns=(1, 1))
    after = cache_of(tmp_path, schema).pictures(cohort, 0, stream)
    assert len(decoded) == 3 and (before != after).any()
    finer = schema.plan.model_copy(
        update={"streams": {"image": schema.plan.streams["image"].model_copy(update={"spacing": (1.0, 1.0)})}}
    )
    changed = cache_of(tmp_path, schema.model_copy(update={"plan": finer}))
    assert changed.pictures(cohort, 0, stream).shape == (6, 1, 20, 16)
    assert changed.masks(cohort, 0, task).shape == (6, 20, 16) and len(decoded) == 5


def test_what_was_left_half_written_is_not_taken(cohort, tmp_path, monkeypatch):
    schema = planned([cohort])

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(room.Way, "labels_there", stopped)
        patch.setattr(room.Way, "there", stopped)
        with pytest.raises(KeyboardInterrupt):
            cache_of(tmp_path, schema).pictures(cohort, 0, schema.streams[0])
    assert not list((tmp_path / "cache").glob("*.npy"))
    assert cache_of(tmp_path, schema).pictures(cohort, 0, schema.streams[0]).shape[0] == 6
    assert not list((tmp_path / "cache").glob(".*.part"))


def test_a_full_disk_is_told_and_leaves_nothing(cohort, tmp_path, monkeypatch):
    """Some file systems say so only when a file is to be on the disk, which is before it has its name."""
    schema = planned([cohort])

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        there = (
            r"row 2, input 'image' of exam 'c0': .*cache: cannot be written to \(No space left on device\); make room"
        )
        with pytest.raises(UserError, match=there):
            cache_of(tmp_path, schema).pictures(cohort, 0, schema.streams[0])
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".json"]
    assert cache_of(tmp_path, schema).masks(cohort, 0, schema.task(TASK)).shape[0] == 6


def test_an_ignored_value_counts_for_nothing(tmp_path):
    mask = block()
    mask[4] = 255
    cohort = study_of(tmp_path, {f"c{n}": (volume(n), mask) for n in range(2)}, ignore=255)
    schema = planned([cohort])
    cache = cache_of(tmp_path, schema)
    assert (cache.masks(cohort, 0, schema.task(TASK))[4] == -100).all()
    assert schema.task(TASK).ignore == 255
    data = SliceDataset([cohort], rows_of([cohort]), schema, cache)
    assert len(data) == 2 * 5, "a slice on which nothing counts is none to learn from"


def test_a_mask_elsewhere_is_refused_where_it_stands_or_fixed(cohort, tmp_path):
    schema = planned([cohort])
    write_volume(tmp_path / "s" / "c1_mask.nii.gz", block((6, 10, 8), slice(2, 4)), (3.0, 2.0, 2.0))
    with pytest.raises(UserError, match=r"table\.csv, row 3, task 's_organs' of exam 'c1': the mask .*fix: resample"):
        cache_of(tmp_path, schema).masks(cohort, 1, schema.task(TASK))
    fixed = study_of(tmp_path / "two", {f"c{n}": (volume(n), block()) for n in range(3)}, fix="resample")
    shutil.copy(tmp_path / "s" / "c1_mask.nii.gz", tmp_path / "two" / "s")
    masks = cache_of(tmp_path, schema).masks(fixed, 1, schema.task(TASK))
    assert np.flatnonzero((masks == 1).any((1, 2))).tolist() == [2, 3]


def test_channels_are_as_many_as_the_stream_has(tmp_path):
    """Decathlon's four-dimensional files are channels; one volume among them is not."""
    four = np.stack([volume(n) for n in range(4)], -1)
    cohort = study_of(tmp_path, {f"c{n}": (four if n < 2 else volume(n), block()) for n in range(3)})
    schema = planned([cohort])
    cache, stream = cache_of(tmp_path, schema), schema.streams[0]
    assert stream.channels == 4 and cache.pictures(cohort, 0, stream).shape == (6, 4, 16, 13)
    with pytest.raises(UserError, match=r"row 4, input 'image' .*c2\.nii\.gz: 1 channels, where 'image' has 4"):
        cache.pictures(cohort, 2, stream)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda values: np.where(values > 50, np.nan, values), "NaN or infinite"),
        (lambda values: np.full_like(values, 7), "a constant image"),
    ],
)
def test_a_picture_that_cannot_be_learned_from_is_named(cohort, tmp_path, spoil, said):
    schema = planned([cohort])
    write_volume(tmp_path / "s" / "c2.nii.gz", spoil(volume(2)))
    with pytest.raises(UserError, match=rf"table\.csv, row 4, input 'image' of exam 'c2': .*c2\.nii\.gz: .*{said}"):
        SliceDataset([cohort], rows_of([cohort]), schema, cache_of(tmp_path, schema))


def test_a_plan_without_the_stream_is_refused(cohort, tmp_path):
    schema = planned([cohort])
    plan = schema.plan.model_copy(update={"streams": {}})
    with pytest.raises(UserError, match=r"plan\.json says nothing of input 'image' of modality 'mr'"):
        cache_of(tmp_path, schema.model_copy(update={"plan": plan})).pictures(cohort, 0, schema.streams[0])


def test_a_single_slice_is_a_stack_of_one(tmp_path):
    cohort = study_of(tmp_path, {f"c{n}": (volume(n, (1, 20, 16)), block((1, 20, 16), slice(0, 1))) for n in range(2)})
    schema = planned([cohort])
    data = SliceDataset([cohort], rows_of([cohort]), schema, cache_of(tmp_path, schema))
    assert len(data) == 2 and data[0].inputs["image"].shape == (1, 16, 16)
    assert torch.equal(data[0].targets[TASK].unique(), torch.tensor([-100, 0, 1]))


def test_an_input_of_several_modalities_has_a_plan_for_each(tmp_path):
    cohort = study_of(tmp_path, {f"c{n}": (volume(n, high=10.0 ** (n + 1)), block()) for n in range(4)})
    cohort.modalities["image"][:] = ["t1", "t2", "t1", "t2"]
    schema = planned([cohort])
    assert [stream.name for stream in schema.streams] == ["image@t1", "image@t2"] == list(schema.plan.streams)
    finer = schema.plan.streams["image@t2"].model_copy(update={"spacing": (1.0, 1.0)})
    plan = schema.plan.model_copy(update={"streams": {**schema.plan.streams, "image@t2": finer}})
    schema = schema.model_copy(update={"plan": plan})
    data = SliceDataset([cohort], rows_of([cohort]), schema, cache_of(tmp_path, schema))
    assert [set(data[number].inputs) for number in (0, 6)] == [{"image@t1"}, {"image@t2"}]
    assert data.cache.masks(cohort, 0, schema.task(TASK)).shape == (6, 16, 13)
    assert data.cache.masks(cohort, 1, schema.task(TASK)).shape == (6, 20, 16)


def test_images_are_stacks_of_one(tmp_path):
    """A photo of 40 x 20 pixels in three colours, with a mask of 0 and 255."""
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        mask = np.zeros((40, 20), np.uint8)
        mask[10:20, 5:15] = 255
        Image.fromarray(mask).save(tmp_path / f"{number}_mask.png")
    rows = "\n".join(f"{number}.png,{number}_mask.png" for number in range(3))
    photo = {"column": "image", "modality": "fundus", "kind": "photo"}
    disc = {"kind": "segmentation", "column": "mask", "on": "photo", "classes": ["background", "disc"]}
    cohort = study_cohort(tmp_path, f"image,mask\n{rows}\n", inputs={"photo": photo}, tasks={"disc": disc})
    schema = planned([cohort], (16, 16))
    assert (schema.streams[0].form, schema.streams[0].channels) == ("slices", 3)
    data = SliceDataset([cohort], rows_of([cohort]), schema, cache_of(tmp_path, schema))
    sample = data[0]
    assert len(data) == 3 and sample.inputs["photo"].shape == (3, 16, 16)
    assert (sample.targets["disc"] >= 0).sum() == 16 * 8 and (sample.targets["disc"] == 1).sum() == 4 * 4


def test_nothing_stays_open(cohort, tmp_path):
    """Maps of files are closed after each access, so that memory does not grow with the data."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system does not list what is mapped")
    schema = planned([cohort])
    data = SliceDataset([cohort], rows_of([cohort]), schema, cache_of(tmp_path, schema), draws=9, augment=1.0)
    kept = [data[number] for number in range(9)]
    assert len(kept) == 9 and str(tmp_path / "cache") not in maps.read_text()
    opened = data.cache.pictures(cohort, 0, schema.streams[0])
    assert str(tmp_path / "cache") in maps.read_text() and len(opened) == 6


@pytest.mark.parametrize("slope", [1.0, 0.5])
def test_a_volume_is_prepared_within_little_more_than_itself(tmp_path, slope):
    """Bytes for each pixel of an int16 volume: 2 as stored and 4 as float32, but for one slice of each further step."""
    shape, schema_spacing = (40, 160, 160), (1.0, 1.0, 1.0)
    values = np.random.default_rng(0).integers(-1000, 1000, shape, dtype=np.int16)
    mask = (values > 900).astype(np.uint8)
    cohort = study_of(tmp_path, {"c0": (values, mask)}, kind="ct", spacing=schema_spacing)
    image = nib.load(tmp_path / "s" / "c0.nii.gz")
    image.header.set_slope_inter(slope, 0)
    nib.save(nib.Nifti1Image(values.swapaxes(0, 2), None, image.header), tmp_path / "s" / "c0.nii.gz")
    schema = planned([cohort], (96, 96))
    cache = cache_of(tmp_path, schema)
    tracemalloc.start()
    cache.pictures(cohort, 0, schema.streams[0])
    picture = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    cache.masks(cohort, 0, schema.task(TASK))
    of_mask = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert picture < 8 * values.size and of_mask < 8 * values.size


@pytest.mark.slow
def test_a_ct_of_600_slices_is_prepared_within_two_gigabytes(tmp_path):
    code = """
import resource, sys
from pathlib import Path
from m4oe.data.readers import read_labels, read_picture
from m4oe.data.volumes.cache import _write_mask, _write_picture
from m4oe.data.volumes.prepare import prepare
from m4oe.schema import Preparation
folder = Path(sys.argv[1])
picture = read_picture((str(folder / "ct.nii.gz"),), "ct")
window = Preparation(spacing=(2.0, 2.0), low=-200.0, high=300.0, mean=0.0, sd=100.0)
prepared = prepare(picture, window, (192, 192))
_write_picture(folder / "cache" / "picture.npy", prepared, picture.geometry)
way = prepared.way
del picture, prepared
_write_mask(folder / "cache" / "mask.npy", read_labels(str(folder / "mask.nii.gz"), [0, 1]).values[0], way, 2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""
    pixels = np.random.default_rng(0).integers(-1000, 1000, (512, 512), dtype=np.int16)
    values = np.broadcast_to(pixels, (600, 512, 512))
    write_volume(tmp_path / "ct.nii.gz", values, (1.0, 0.8, 0.8))
    write_volume(tmp_path / "mask.nii.gz", (values > 500).astype(np.uint8), (1.0, 0.8, 0.8))
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 2.0, "GiB, the libraries included"


def test_real_volumes_of_two_studies_train_together(real_data, tmp_path):
    """Parts of a brain of 50 mm, and hearts of unknown spacing: one stream, slices scaled to fit."""
    cohorts = []
    for name in ("hippocampus_mr", "acdc_cardiac_mr"):
        write_draft(real_data(name), tmp_path / name / "study.yaml")
        cohort = load_cohort(load_study(tmp_path / name / "study.yaml"))
        cohorts.append(cohort.take(np.arange(6)))
    assert len(set(cohorts[0].patients)) == 6 and len(set(cohorts[1].patients)) == 3
    schema = planned(cohorts, (96, 96), context=1)
    preparation = schema.plan.streams["image"]
    assert preparation.slice_axis == 0 and preparation.spacing is None
    data = SliceDataset(cohorts, rows_of(cohorts), schema, cache_of(tmp_path, schema), draws=24, augment=1.0)
    batch = collate([data[number] for number in range(24)])
    assert batch.inputs["image"].values.shape == (24, 3, 96, 96) and set(batch.targets) == {
        t.name for t in schema.tasks
    }
    hearts, brains = (data.cache.pictures(cohort, 0, schema.streams[0]).shape for cohort in cohorts[::-1])
    assert max(hearts[2:]) == max(brains[2:]) == 96 and hearts[0] == 10
    alone = planned(cohorts[:1], (96, 96)).plan.streams["image"]
    assert alone.spacing is not None and 0.4 < alone.spacing[0] < 0.6, "50 mm on 96 pixels"
