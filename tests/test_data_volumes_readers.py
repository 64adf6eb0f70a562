"""What volumes need of the readers: masks with their place, spacing only where it is known, scaling without copies."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from m4oe.data.readers import read_labels, read_mask, read_picture
from m4oe.errors import UserError
from small_volumes import volume, write_volume


def saved(path, values, affine, unit="mm"):
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, path)
    return str(path)


@pytest.mark.parametrize(
    ("affine", "unit", "spacing"),
    [
        (np.eye(4), "unknown", None),  # what a converter writes that knows of no spacing
        (np.eye(4), "mm", (1.0, 1.0, 1.0)),
        (np.diag([1.0, 1.0, 2.0, 1.0]), "unknown", (2.0, 1.0, 1.0)),
        (np.diag([-1.0, -1.0, 1.0, 1.0]), "unknown", (1.0, 1.0, 1.0)),
    ],
)
def test_spacing_is_unknown_where_a_file_tells_nothing(tmp_path, affine, unit, spacing):
    path = saved(tmp_path / "v.nii.gz", volume(0, (4, 5, 6)), affine, unit)
    assert read_picture((path,), "mr").spacing == spacing


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize(("slope", "inter"), [(1.0, 0.0), (0.3, -1024.0), (2.0, 0.0)])
@pytest.mark.parametrize("channels", [1, 3])
def test_stored_numbers_are_scaled_as_nibabel_scales_them(tmp_path, dtype, slope, inter, channels):
    stored = np.random.default_rng(0).integers(0, 200, (6, 5, 4, channels)).astype(dtype)
    image = nib.Nifti1Image(stored.squeeze(), np.diag([1.0, -2.0, 3.0, 1.0]))
    nib.save(image, tmp_path / "v.nii")
    if (slope, inter) != (1.0, 0.0):
        content = bytearray((tmp_path / "v.nii").read_bytes())
        content[112:120] = np.array([slope, inter], "<f4").tobytes()
        (tmp_path / "v.nii").write_bytes(content)
    read = read_picture((str(tmp_path / "v.nii"),), "mr").values
    expected = nib.load(tmp_path / "v.nii").get_fdata().reshape(6, 5, 4, channels).transpose(3, 2, 1, 0)[:, :, ::-1]
    assert read.dtype == np.float32 and (read == expected.astype(np.float32)).all()
    assert read.flags.c_contiguous


def test_a_mask_has_a_place_and_an_ignored_value(tmp_path):
    numbers = np.array([0, 3, 7, 255], np.uint8)[np.random.default_rng(0).integers(0, 4, (4, 5, 6))]
    labels = read_labels(write_volume(tmp_path / "m.nii.gz", numbers), [7, 0, 3], 255)
    assert labels.values.dtype == np.int16 and labels.shape == (4, 5, 6) and labels.spacing == (3.0, 1.0, 1.0)
    expected = np.select([numbers == 7, numbers == 0, numbers == 3], [0, 1, 2], -100)
    assert (labels.values[0] == expected).all()
    again = read_mask(str(tmp_path / "m.nii.gz"), [7, 0, 3], 255)
    assert again.dtype == np.int64 and (again == expected).all()
    with pytest.raises(UserError, match="the mask holds the value 255, which the task's 'classes' do not name"):
        read_labels(str(tmp_path / "m.nii.gz"), [7, 0, 3])


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32])
def test_numbers_of_a_mask_may_be_negative_and_large(tmp_path, dtype):
    numbers = np.array([-5, 0, 70_000])[np.random.default_rng(0).integers(0, 3, (3, 4, 5))].astype(dtype)
    np.save(tmp_path / "m.npy", numbers)
    found = read_labels(str(tmp_path / "m.npy"), [0, 70_000, -5]).values[0]
    assert (np.array([0, 70_000, -5])[found] == numbers).all()


def test_two_values_are_understood_as_none_and_all(tmp_path):
    np.save(tmp_path / "m.npy", np.array([[0, 255], [100, 0]], np.uint8))
    assert read_labels(str(tmp_path / "m.npy"), [0, 1], 100).values[0].tolist() == [[0, 1], [-100, 0]]
