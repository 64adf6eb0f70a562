"""Prepared volumes on disk: written once, read by slices, never stale."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import torch

import m4oe.data.volumes.cache as room
from m4oe.data.readers import read_picture
from m4oe.data.volumes.prepare import prepare
from m4oe.data.volumes.slices import SliceDataset
from m4oe.errors import UserError
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
    write_volume(tmp_path / "s" / "c1_mask.nii.gz", block((6, 10, 8), slice(2, 4)), (3.0, 2.0, 2.0))
    schema = planned([cohort])
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
