"""Pictures as slices and the way back. Axes: S slices · C channels · D, H, W as read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from m4oe.data.readers import Picture
from m4oe.data.volumes.prepare import foreground_statistics, prepare, sampled, way_of
from m4oe.errors import UserError
from m4oe.schema import Preparation

HU = Preparation(spacing=(2.0, 2.0), low=-100.0, high=300.0, mean=50.0, sd=100.0)


def picture(shape, spacing=None, seed=0, **facts):
    values = np.random.default_rng(seed).uniform(-1000, 1000, shape).astype(np.float32)
    return Picture(values, spacing, **facts)


def test_hounsfield_units_are_clipped_and_scaled_as_the_plan_says():
    values = np.array([[[-1000.0, -100.0], [50.0, 1000.0]]], np.float32)
    prepared = prepare(Picture(values, (2.0, 2.0)), HU, (8, 8))
    # (-100 - 50) / 100 = -1.5 twice, the mean to 0, (300 - 50) / 100 = 2.5
    assert prepared.slices[0].tolist() == [[[-1.5, -1.5], [0.0, 2.5]]]
    assert prepared.slices.floor == -1.5


def test_bytes_are_never_taken_for_hounsfield_units():
    values = np.arange(256, dtype=np.float32).reshape(1, 16, 16)
    own = prepare(Picture(values, (2.0, 2.0), full_scale=255.0), HU, (8, 8)).slices[0]
    again = prepare(Picture(values, (2.0, 2.0), full_scale=255.0), Preparation(spacing=(2.0, 2.0)), (8, 8)).slices[0]
    assert torch.equal(own, again)
    inside = values[values > 0.1 * 255]
    assert own.max() == pytest.approx((255 - inside.mean()) / inside.std(), rel=0.02)


def test_ends_may_be_told_without_a_mean():
    values = np.linspace(0, 1000, 400, dtype=np.float32).reshape(1, 20, 20)
    prepared = prepare(Picture(values, full_scale=65535.0), Preparation(low=300.0, high=600.0), (20, 20)).slices[0]
    assert (prepared == prepared.min()).sum() == (values <= 300).sum()
    assert (prepared == prepared.max()).sum() == (values >= 600).sum()


def test_a_volume_beyond_the_window_is_all_one_end():
    values = np.linspace(500, 900, 16, dtype=np.float32).reshape(1, 4, 4)
    assert (prepare(Picture(values, (2.0, 2.0)), HU, (4, 4)).slices[0] == 2.5).all()
    assert (prepare(Picture(-values, (2.0, 2.0)), HU, (4, 4)).slices[0] == -1.5).all()


def test_mr_is_z_scored_within_its_own_foreground():
    values = np.zeros((1, 4, 20, 20), np.float32)
    values[:, :, 5:15, 5:15] = np.random.default_rng(0).normal(500, 50, (1, 4, 10, 10))
    prepared = prepare(Picture(values), Preparation(), (20, 20)).slices[:]
    inside = prepared[:, :, 5:15, 5:15]
    assert float(inside.mean()) == pytest.approx(0, abs=1e-3) and float(inside.std()) == pytest.approx(1, abs=1e-2)
    for factor in (2.0, 1e9, 1e-9):  # diffusion in m^2/s is of 1e-9
        scaled = prepare(Picture(np.float32(factor) * values), Preparation(), (20, 20)).slices[:]
        torch.testing.assert_close(scaled, prepared)


@pytest.mark.parametrize("mm", [900.0, 0.002])
def test_a_spacing_that_is_not_in_mm_is_refused(mm):
    """Metres would be prepared as one pixel, micrometres as more than memory holds."""
    prepare(picture((1, 4, 8, 8), (mm, 2.0, 2.0)), HU, (8, 8))  # slices may lie as far apart as they want
    prepare(picture((1, 8, 8), (mm, mm)), Preparation(), (8, 8))  # scaled to fit, whatever its unit
    with pytest.raises(UserError, match=rf"a\.nii: says that a pixel is {mm:.3g} mm large, .* prepared at 2 mm"):
        prepare(picture((1, 4, 8, 8), (2.0, mm, mm), source="a.nii"), HU, (8, 8))


def test_channels_have_statistics_of_their_own_and_colours_have_not():
    values = np.stack([np.full((3, 8, 8), 1.0), np.full((3, 8, 8), 1.0)]).astype(np.float32)
    values[0, 1:], values[1, 1:] = 100.0, 10_000.0
    values[:, 0, 0, 0] += 5
    apart = prepare(Picture(values), Preparation(), (8, 8)).slices[:]
    torch.testing.assert_close(apart[:, 0], apart[:, 1], atol=0.2, rtol=0.1)
    colour = np.stack([np.full((8, 8), shade, np.float32) for shade in (0.0, 100.0, 200.0)])
    together = prepare(Picture(colour, full_scale=255.0, colour=True), Preparation(), (8, 8)).slices[0]
    assert together[0, 0, 0] < together[1, 0, 0] < together[2, 0, 0]


@pytest.mark.parametrize(("axis", "inner"), [(0, (10, 24)), (1, (6, 24)), (2, (6, 10))])
def test_slices_are_stacked_along_the_axis_of_the_plan(axis, inner):
    # (4, 10, 12) pixels of (3, 2, 4) mm are (12, 20, 48) mm: at 2 mm a pixel 6, 10 and 24
    read = picture((1, 4, 10, 12), (3.0, 2.0, 4.0))
    prepared = prepare(read, HU.model_copy(update={"slice_axis": axis}), (99, 99))
    assert prepared.slices.shape == ((4, 10, 12)[axis], 1, *inner) and prepared.way.slices == (4, 10, 12)[axis]
    assert prepared.way.plane == tuple(n for i, n in enumerate((4, 10, 12)) if i != axis)
    third = np.take(read.values[0], 2, axis).clip(-100, 300)
    expected = F.interpolate((torch.from_numpy(third)[None, None] - 50) / 100, inner, mode="bilinear", antialias=True)
    torch.testing.assert_close(prepared.slices[2], expected[0])
    assert torch.equal(prepared.slices[[0, 2]], torch.stack([prepared.slices[0], prepared.slices[2]]))
    assert torch.equal(prepared.slices[1:3][1], prepared.slices[2])


@pytest.mark.parametrize(
    ("shape", "spacing", "inner"),
    [
        ((35, 50), None, (67, 96)),  # enlarged: 96 / 50 = 1.92 times; 35 -> 67.2
        ((300, 150), None, (96, 48)),
        ((40, 40), (1.0, 2.0), (48, 96)),  # 40 by 80 mm
        ((7, 40, 40), None, (96, 96)),
    ],
)
def test_without_a_common_spacing_slices_fill_the_size(shape, spacing, inner):
    assert way_of(shape, spacing, Preparation(), (96, 96)).inner == inner
    if spacing is None:
        assert way_of(shape, spacing, HU, (96, 96)).inner == inner, "an unknown spacing cannot be resampled"


@pytest.mark.parametrize("shape", [(9, 7), (5, 9, 7)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_what_is_written_through_the_way_lands_on_the_pictures_grid(shape, axis):
    way = way_of(shape, None, Preparation(slice_axis=axis), (16, 16))
    labels = np.zeros(shape, np.uint8)
    stack = way.stack(labels)
    assert stack.shape == (way.slices, *way.plane)
    for number in range(way.slices):
        stack[number] = number + 1
    assert (labels == (1 if len(shape) == 2 else np.moveaxis(np.indices(shape)[axis], 0, 0) + 1)).all()


def test_scores_come_back_where_they_were():
    """A bright square, enlarged and brought back, is the square."""
    values = np.zeros((1, 3, 12, 10), np.float32)
    values[0, 1, 3:8, 2:7] = 1.0
    prepared = prepare(Picture(values), Preparation(), (48, 48))
    assert prepared.slices.shape == (3, 1, 48, 40)
    back = prepared.way.back(prepared.slices[1:2])[0, 0]
    square = back > (back.min() + back.max()) / 2
    assert (square.numpy() == (values[0, 1] > 0)).all()


def test_labels_keep_their_values_and_places():
    way = way_of((2, 4, 4), None, Preparation(), (8, 8))
    labels = np.random.default_rng(0).integers(-100, 5, (2, 4, 4)).astype(np.int16)
    twice = way.labels_there(labels)
    assert twice.dtype == np.int16 and (twice == labels.repeat(2, 1).repeat(2, 2)).all()


def test_statistics_of_a_large_volume_are_taken_from_a_part_of_it():
    large = np.random.default_rng(0).normal(100, 10, (60, 300, 300)).astype(np.float32)
    assert len(sampled(large)) < 2_000_000 and len(sampled(large[:2])) == 2 * 300 * 300
    mean, sd = foreground_statistics(large)
    assert mean == pytest.approx(100, abs=2) and sd == pytest.approx(10, abs=1)
