"""Pictures to the network's grid and back, with numbers worked by hand."""

from __future__ import annotations

import itertools
from typing import get_args

import numpy as np
import pytest
import torch

from m4oe.data.augmentation import RANGES
from m4oe.data.readers import Picture
from m4oe.data.transforms import Augmentation, Fit, fit, normalise, sample_augmentation
from m4oe.study import InputKind

KINDS = tuple(kind for kind in get_args(InputKind) if kind != "table")


def picture(values: object, **facts: object) -> Picture:
    return Picture(np.asarray(values, np.float32), **facts)


def uniform(low: float, high: float, shape: tuple[int, ...] = (1, 100, 100)) -> np.ndarray:
    """Every percentile of it is known: the p-th is low + p (high - low) / 100."""
    values = np.linspace(low, high, int(np.prod(shape)), dtype=np.float32)
    return np.random.default_rng(0).permutation(values).reshape(shape)


# ---- normalise


def test_ct_is_hounsfield_units_over_a_thousand():
    values = normalise(picture([[[-3000, -1000, 0, 40, 500, 3000]]]), "ct").values
    np.testing.assert_allclose(values, [[[-1, -1, 0, 0.04, 0.5, 1]]], atol=1e-6)


def test_ct_without_a_unit_is_scaled_by_its_own_range():
    values = normalise(picture(uniform(0, 255), full_scale=255.0), "ct").values
    assert values.min() == -2 and values.max() == 2


def test_a_photo_is_a_share_of_its_full_scale():
    values = normalise(picture([[[0, 51, 255]]] * 3, full_scale=255.0, colour=True), "photo").values
    np.testing.assert_allclose(values[0, 0], [-1, -0.6, 1], atol=1e-6)
    sixteen = normalise(picture([[[0, 13107, 65535]]] * 3, full_scale=65535.0, colour=True), "photo").values
    np.testing.assert_allclose(sixteen[0, 0], [-1, -0.6, 1], atol=1e-6)
    shares = normalise(picture([[[0, 0.2, 0.9]]] * 3, colour=True), "photo").values
    np.testing.assert_allclose(shares[0, 0], [-1, -0.6, 0.8], atol=1e-6)


@pytest.mark.parametrize("kind", ["xray", "ultrasound", "oct", "other"])
def test_percentiles_go_to_minus_2_and_2(kind):
    """Of 0 ... 1000 the 0.5th is 5 and the 99.5th is 995: 500 is the middle, and 252.5 a quarter of the way."""
    values = picture(uniform(0, 1000))
    values.values[0, 0, :4] = 5, 252.5, 500, 995
    scaled = normalise(values, kind).values
    np.testing.assert_allclose(scaled[0, 0, :4], [-2, -1, 0, 2], atol=0.01)
    assert scaled.min() == -2 and scaled.max() == 2


def test_the_background_of_a_mammogram_has_no_say():
    """Background 0 over half, two thirds or nine tenths of the film: the same breast gives the same values."""
    breast = uniform(1000, 3000, (1, 40, 40))
    films = [np.concatenate([breast, np.zeros((1, rows, 40), np.float32)], axis=1) for rows in (40, 80, 360)]
    scaled = [normalise(picture(film), "mammogram").values for film in films]
    for film in scaled:
        np.testing.assert_allclose(film[:, :40], scaled[0][:, :40], atol=1e-6)
        assert (film[:, 40:] == -2).all()
    # 0.5th and 99.5th percentile of the breast are 1010 and 2990; 2000 is in the middle.
    np.testing.assert_allclose(scaled[0][:, :40], np.clip((breast - 2000) / 990 * 2, -2, 2), atol=0.01)


def test_mr_is_standardised_within_its_foreground():
    values = np.concatenate([np.zeros((1, 60, 40), np.float32), 500 + 50 * uniform(-1, 1, (1, 40, 40))], axis=1)
    scaled = normalise(picture(values), "mr").values
    assert scaled[:, 60:].mean() == pytest.approx(0, abs=1e-4) and scaled[:, 60:].std() == pytest.approx(1, abs=1e-4)
    assert (scaled[:, :60] == -5).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_map_is_increasing_and_affine_between_its_ends(kind):
    """The shape of the histogram stays: equal steps stay equal steps."""
    values = picture(uniform(0, 800), full_scale=None)
    scaled = normalise(values, kind).values
    order = np.argsort(values.values.ravel())
    steps = np.diff(scaled.ravel()[order].astype(float))
    inner = steps[len(steps) // 4 : len(steps) // 2]
    assert (steps >= 0).all() and inner.min() > 0
    np.testing.assert_allclose(inner, inner.mean(), rtol=0.05)
    assert scaled.dtype == np.float32 and np.abs(scaled).max() <= 5


@pytest.mark.parametrize("kind", KINDS)
def test_units_do_not_matter_but_where_they_are_known(kind):
    values = uniform(0, 800)
    same = np.allclose(
        normalise(picture(values), kind).values, normalise(picture(3 * values + 7), kind).values, atol=1e-3
    )
    assert same == (kind not in ("ct", "photo"))


def test_colours_share_a_map_and_stacked_channels_do_not():
    values = np.concatenate([uniform(0, 100), uniform(0, 10), uniform(0, 1)])
    stacked = normalise(picture(values), "other").values
    assert [channel.max() for channel in stacked] == [2, 2, 2]
    together = normalise(picture(values, colour=True), "pathology").values
    assert together[0].max() == 2 and together[2].max() < -1.9


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_two_values_stays_finite_and_keeps_both(kind):
    """One pixel, half of all, or all but one: percentiles, foreground or background are of a single value."""
    for bright in (1, 1250, 2499):
        values = np.zeros((1, 50, 50), np.float32)
        values.reshape(-1)[:bright] = 100
        scaled = normalise(picture(values), kind).values
        assert np.isfinite(scaled).all() and scaled.max() > scaled.min()


# ---- fit


def test_aspect_ratio_is_kept_and_padding_is_even():
    """100 x 50 to 64 x 64: half the columns are the picture's, from column 16 to 47."""
    way = fit((100, 50), (64, 64))
    assert way.inner == (64, 32)
    fitted = way.apply(torch.linspace(1, 2, 5000).reshape(1, 100, 50))
    assert fitted.shape == (1, 64, 64)
    assert (fitted[:, :, :16] == 1).all() and (fitted[:, :, 48:] == 1).all() and (fitted[:, 1:, 16:48] > 1).all()


def test_what_shrinks_is_averaged():
    """Columns 0 1 1 0, four to a pixel of the result, are grey from afar; those nearest its centre would give 1."""
    stripes = torch.tensor([0.0, 1.0, 1.0, 0.0]).repeat(16).expand(1, 64, 64)
    shrunk = fit((64, 64), (16, 16)).apply(stripes)
    assert torch.allclose(shrunk[0, :, 2:-2], torch.tensor(0.5), atol=0.1)
    cube = (torch.arange(16)[:, None, None] + torch.arange(64)[:, None] + torch.arange(64)) % 2
    shrunk = fit((16, 64, 64), (16, 16, 16)).apply(cube[None].float())
    assert torch.allclose(shrunk, torch.tensor(0.5), atol=1e-6)


def test_slices_fill_the_depth_and_planes_keep_their_aspect():
    way = fit((10, 200, 100), (16, 64, 64))
    assert way.inner == (16, 64, 32)
    assert way.apply(torch.rand(2, 10, 200, 100)).shape == (2, 16, 64, 64)


def test_a_mask_keeps_its_classes_and_is_minus_100_outside():
    mask = torch.tensor([[0, 2], [1, 2]]).repeat_interleave(20, 0).repeat_interleave(10, 1)
    fitted = fit((40, 20), (8, 8)).apply_mask(mask)
    row = [-100, -100, 0, 0, 2, 2, -100, -100]
    assert fitted.tolist() == [row] * 4 + [[-100, -100, 1, 1, 2, 2, -100, -100]] * 4
    assert fitted.dtype == torch.int64


ODD_SHAPES = [
    (31, 17),
    (17, 31),
    (64, 64),
    (65, 63),
    (201, 99),
    (97, 300),
    (5, 9),
    (7, 31, 17),
    (3, 97, 64),
    (40, 33, 65),
]


@pytest.mark.parametrize("shape", ODD_SHAPES, ids=str)
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_mask_comes_back_to_within_a_pixel_of_the_coarser_grid(shape, mirrored):
    """A box goes to the network's grid and back: edges move by less than one pixel of whichever grid is coarser."""
    size = (64, 64) if len(shape) == 2 else (16, 64, 64)
    way = fit(shape, size, mirrored=mirrored)
    low = [round(0.21 * n) for n in shape]
    high = [max(a + 1, round(0.72 * n)) for a, n in zip(low, shape)]
    mask = torch.zeros(shape, dtype=torch.int64)
    mask[tuple(slice(a, b) for a, b in zip(low, high))] = 1
    fitted = way.apply_mask(mask)
    scores = torch.stack([(fitted == 0).float(), (fitted == 1).float()])
    back = way.invert(scores)
    assert back.shape == (2, *shape)
    found = back.argmax(0).nonzero()
    coarser = [max(1.0, n / inner) for n, inner in zip(shape, way.inner)]
    for axis, step in enumerate(coarser):
        assert abs(int(found[:, axis].min()) - low[axis]) <= step
        assert abs(int(found[:, axis].max()) + 1 - high[axis]) <= step


def test_a_mirrored_picture_is_turned_and_turned_back():
    left = torch.rand(1, 40, 30)
    plain, mirrored = fit((40, 30), (64, 64)), fit((40, 30), (64, 64), mirrored=True)
    assert torch.equal(mirrored.apply(left.flip(-1)), plain.apply(left))
    mask = (left[0] > 0.5).long()
    assert torch.equal(mirrored.apply_mask(mask.flip(-1)), plain.apply_mask(mask))
    scores = torch.rand(2, 64, 64)
    assert torch.equal(mirrored.invert(scores), plain.invert(scores).flip(-1))


def test_a_picture_of_the_networks_own_size_is_untouched():
    values, way = torch.rand(3, 32, 48), fit((32, 48), (32, 48))
    assert way == Fit((32, 48), (32, 48), (32, 48)) and torch.equal(way.apply(values), values)
    assert torch.equal(way.invert(values), values)


# ---- augmentation

BLOB = torch.zeros(1, 65, 65)
BLOB[0, 30:35, 45:50] = 1.0  # centre at row 32, column 47: 15 columns right of the middle


def centre(values: torch.Tensor) -> list[float]:
    """Centre of mass of the last axes' picture, in pixels."""
    weights = values[0] - values.min()
    return [
        float((weights.sum([a for a in range(weights.ndim) if a != axis]) * torch.arange(n)).sum() / weights.sum())
        for axis, n in enumerate(weights.shape)
    ]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (Augmentation(), (32, 47)),
        (Augmentation(angle=90), (17, 32)),  # counter-clockwise: from the right to the top
        (Augmentation(angle=30), (32 - 7.5, 32 + 15 * np.cos(np.pi / 6))),
        (Augmentation(scale=1.5), (32, 32 + 22.5)),
        (Augmentation(shift=(0, 0.2, -0.1)), (32 + 13, 47 - 6)),  # by whole pixels where nothing turns
        (Augmentation(flips=(False, True)), (32, 17)),
        (Augmentation(angle=90, shift=(0, 0.1, 0)), (17 + 6.5, 32)),
    ],
)
def test_pixels_go_where_the_numbers_say(change, place):
    assert centre(change.apply(BLOB)) == pytest.approx(place, abs=0.1)
    mask = change.apply_mask(BLOB[0].long())
    inside = torch.where(mask == 1, 1.0, 0.0)[None]
    assert centre(inside) == pytest.approx(place, abs=0.5)
    assert set(mask.unique().tolist()) <= {-100, 0, 1}


def test_a_rectangle_turns_without_skew():
    """On 40 x 80 pixels, a quarter turn takes 15 columns to the right into 15 rows up."""
    wide = torch.zeros(1, 40, 80)
    wide[0, 18:23, 52:58] = 1  # centre at row 20, column 54.5; the middle is at 19.5, 39.5
    assert centre(Augmentation(angle=90).apply(wide)) == pytest.approx((19.5 - 15, 39.5 + 0.5), abs=0.1)


def test_volumes_turn_in_their_planes():
    volume = torch.zeros(1, 9, 65, 65)
    volume[0, 4] = BLOB[0]
    assert centre(Augmentation(angle=90).apply(volume)) == pytest.approx((4, 17, 32), abs=0.1)
    assert centre(Augmentation(shift=(2 / 9, 0, 0)).apply(volume)) == pytest.approx((6, 32, 47), abs=0.1)


def test_what_comes_in_from_outside_is_dark():
    values = torch.rand(1, 32, 32) + 3
    moved = Augmentation(shift=(0, 0.25, 0)).apply(values)
    assert torch.allclose(moved[0, :8], values.min(), atol=1e-5)
    assert (Augmentation(shift=(0, 0.25, 0)).apply_mask(torch.ones(32, 32).long())[:8] == -100).all()


def test_intensities_by_hand():
    values = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])  # mean 1.5
    assert Augmentation(contrast=2.0, brightness=0.5).apply(values).flatten().tolist() == [-1, 1, 3, 5]
    # Gamma 2 between 0 and 3: 3 (v / 3) ** 2.
    assert Augmentation(gamma=2.0).apply(values).flatten().tolist() == pytest.approx([0, 1 / 3, 4 / 3, 3])
    tinted = Augmentation(tint=(0.1, 0.0, -0.1)).apply(values.expand(3, 2, 2))
    assert (tinted - values).mean((1, 2)).tolist() == pytest.approx([0.1, 0, -0.1])
    noisy = Augmentation(noise=0.5, noise_seed=3).apply(torch.zeros(1, 100, 100))
    assert float(noisy.std()) == pytest.approx(0.5, rel=0.05)
    assert torch.equal(noisy, Augmentation(noise=0.5, noise_seed=3).apply(torch.zeros(1, 100, 100)))


def sampled(kind: str, strength: float = 1.0, seed: int = 0) -> Augmentation:
    return sample_augmentation(np.random.default_rng(seed), kind, strength)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_ranges_and_keeps_to_them(kind):
    ranges = RANGES[kind]
    for seed in range(50):
        change = sampled(kind, seed=seed)
        assert abs(change.angle) <= ranges.angle and max(map(abs, change.shift)) <= ranges.shift
        assert 1 / (1 + ranges.scale) <= change.scale <= 1 + ranges.scale
        assert 1 / (1 + ranges.contrast) <= change.contrast <= 1 + ranges.contrast
        assert abs(change.brightness) <= ranges.brightness and 0 <= change.noise <= ranges.noise
        assert all(allowed or not flip for flip, allowed in zip(change.flips, ranges.flips))


def test_left_and_right_are_swapped_in_tissue_alone():
    assert [kind for kind, ranges in RANGES.items() if ranges.flips[1]] == ["pathology"]


def test_most_pictures_stay_sharp():
    turned = [sampled("mammogram", seed=seed).angle != 0 for seed in range(300)]
    assert 0.2 < np.mean(turned) < 0.4
    values = torch.rand(1, 32, 32)
    moved = Augmentation(shift=(0, 0.0625, -0.0625)).apply(values)
    assert torch.equal(moved[:, 2:, :-2], values[:, :-2, 2:])


@pytest.mark.parametrize("kind", KINDS)
def test_strength_0_changes_nothing_and_strength_scales(kind):
    values = torch.rand(1, 16, 16)
    assert torch.equal(sampled(kind, strength=0).apply(values), values)
    one, half = sampled(kind), sampled(kind, strength=0.5)
    assert half.angle == pytest.approx(one.angle / 2) and half.noise == pytest.approx(one.noise / 2)
    assert not torch.equal(one.apply(values), values)


def test_kinds_draw_alike_from_a_generator():
    left = {kind: np.random.default_rng(5) for kind in KINDS}
    for kind, strength in itertools.product(KINDS, (0.0, 1.0)):
        sample_augmentation(left[kind], kind, strength)
    assert len({generator.random() for generator in left.values()}) == 1
