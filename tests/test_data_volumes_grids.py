"""Masks on the grids of their pictures, and the two fixes for those that lie elsewhere."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest

from m4oe.data.readers import read_labels, read_picture
from m4oe.data.volumes.grids import complaint, fits, labels_on
from m4oe.errors import UserError
from small_volumes import SPACING, volume, write_volume

SHAPE = (5, 7, 6)
CLASSES = range(6)


def labels(shape=SHAPE, seed=1):
    return np.random.default_rng(seed).integers(0, 6, shape).astype(np.uint8)


def pair(folder, mask, spacing=SPACING, affine=None, picture_shape=SHAPE):
    picture = read_picture((write_volume(folder / "picture.nii.gz", volume(0, picture_shape)),), "mr")
    return picture.geometry, read_labels(
        write_volume(folder / "mask.nii.gz", mask, spacing, affine=affine), list(CLASSES)
    )


def placed(offset=(5.0, 6.0, 7.0), spacing=SPACING):
    affine = np.diag([*spacing[::-1], 1.0])
    affine[:3, 3] = offset
    return affine


def test_a_mask_on_its_picture_is_taken_as_it_is(tmp_path):
    geometry, mask = pair(tmp_path, labels())
    assert fits(geometry, mask) and (labels_on(geometry, mask) == labels()).all()


def test_half_a_pixel_of_the_smallest_side_is_forgiven(tmp_path):
    assert fits(*pair(tmp_path, labels(), affine=placed((5.45, 6, 7))))
    assert not fits(*pair(tmp_path, labels(), affine=placed((5.55, 6, 7))))


@pytest.mark.parametrize("axes", itertools.permutations(range(3)))
@pytest.mark.parametrize("flips", itertools.product((1, -1), repeat=3))
def test_a_mask_stored_in_another_order_lies_where_it_lies(tmp_path, axes, flips):
    geometry, _ = pair(tmp_path, labels())
    plain = nib.load(tmp_path / "mask.nii.gz")
    nib.save(plain.as_reoriented(np.stack([axes, flips], 1)), tmp_path / "turned.nii.gz")
    mask = read_labels(str(tmp_path / "turned.nii.gz"), list(CLASSES))
    assert (labels_on(geometry, mask) == labels()).all()
    again = read_picture((str(tmp_path / "turned.nii.gz"),), "mr").geometry
    stored = np.asarray(nib.load(tmp_path / "turned.nii.gz").dataobj)
    assert (again.orientation.from_file(stored) == labels()).all()
    own = nib.load(tmp_path / "turned.nii.gz")
    shape, affine = " x ".join(map(str, own.shape)), (np.round(own.affine[:3], 3) + 0.0).tolist()
    assert f"turned.nii.gz is {shape} with the affine {affine}, and" in complaint(geometry, mask)


def test_a_mask_elsewhere_is_refused_with_both_shapes_and_affines(tmp_path):
    with pytest.raises(UserError) as told:
        labels_on(*pair(tmp_path, labels(), affine=placed((50, 6, 7))))
    message = str(told.value)
    assert "mask.nii.gz is 6 x 7 x 5 with the affine [[1.0, 0.0, 0.0, 50.0], [0.0, 1.0, 0.0, 6.0]" in message
    assert "picture.nii.gz 6 x 7 x 5 with the affine [[1.0, 0.0, 0.0, 5.0], [0.0, 1.0, 0.0, 6.0]" in message
    assert "'fix: resample'" in message and "'fix: copy_affine'" in message


def test_copy_affine_is_offered_only_where_shapes_agree(tmp_path):
    with pytest.raises(UserError) as told:
        labels_on(*pair(tmp_path, labels((4, 7, 6))))
    assert "'fix: resample'" in str(told.value) and "'fix: copy_affine'" not in str(told.value)
    with pytest.raises(UserError, match="'fix: copy_affine' needs one shape"):
        labels_on(*pair(tmp_path, labels((4, 7, 6))), "copy_affine")


def test_copy_affine_takes_the_array_as_it_is_stored(tmp_path):
    """The converter lost the affine: the identity, with two axes against ours."""
    geometry, _ = pair(tmp_path, labels())
    lost = np.diag([-1.0, -1.0, 1.0, 1.0])
    _, mask = pair(tmp_path, labels(), affine=lost)
    assert (mask.values[0] == labels()[:, ::-1, ::-1]).all(), "as its own affine says"
    assert (labels_on(geometry, mask, "copy_affine") == labels()).all()


def test_resampling_takes_the_nearest_label(tmp_path):
    """A mask of half the resolution: each of its pixels covers eight, the first of which begins half a pixel before."""
    coarse = labels((3, 4, 3))
    spacing = tuple(2 * mm for mm in SPACING)
    geometry, mask = pair(tmp_path, coarse, affine=placed(np.add((5, 6, 7), np.divide(SPACING[::-1], 2)), spacing))
    found = labels_on(geometry, mask, "resample")
    expected = coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2)[:5, :7, :6]
    assert found.dtype == np.int16 and (found == expected).all()


def test_what_a_mask_does_not_cover_is_background(tmp_path):
    """A mask cut to two slices and four rows around an organ, as a naive loop in millimetres places it."""
    geometry, mask = pair(tmp_path, np.full((2, 4, 6), 3, np.uint8), affine=placed((5, 8, 10)))
    found = labels_on(geometry, mask, "resample")
    for d, h, w in np.ndindex(SHAPE):
        inside = d in (1, 2) and 2 <= h < 6  # 10 mm is one slice of 3 mm beyond 7, 8 mm two rows beyond 6
        assert found[d, h, w] == (3 if inside else 0), (d, h, w)


def test_a_picture_of_one_slice_has_a_mask_of_one(tmp_path):
    one = labels((1, 7, 6))
    geometry, mask = pair(tmp_path, one, picture_shape=(1, 7, 6))
    assert geometry.shape == (7, 6) and (labels_on(geometry, mask) == one[0]).all()
    geometry, mask = pair(tmp_path, labels(), picture_shape=(1, 7, 6))
    assert (labels_on(geometry, mask, "resample") == labels()[0]).all()
    flat = read_labels(str(_saved(tmp_path, one[0])), list(CLASSES))
    assert (labels_on(geometry, flat) == one[0]).all(), "an array without a place, of the same shape"


def test_files_without_a_place_cannot_be_resampled(tmp_path):
    geometry, _ = pair(tmp_path, labels())
    flat = read_labels(str(_saved(tmp_path, labels((4, 7, 6)))), list(CLASSES))
    with pytest.raises(UserError, match="do not tell how they lie"):
        labels_on(geometry, flat, "resample")


def _saved(folder, array):
    np.save(folder / "mask.npy", array)
    return folder / "mask.npy"
