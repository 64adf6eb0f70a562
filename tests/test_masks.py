"""Masks as files: law 7 for every orientation that an array can have, colour tables, and the largest component."""

from __future__ import annotations

import gzip
import itertools
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from m4oe.data.readers import read_labels, read_mask, read_picture
from m4oe.masks import Mask, MaskFolder, label_set, largest_components, write_mask
from m4oe.masks.colours import KNOWN, colour_of, write_colours

ORIENTATIONS = [
    "".join(pair[flip] for pair, flip in zip(axes, flips))
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for flips in itertools.product((0, 1), repeat=3)
]
CLASSES = {0: "no", 7: "fluid"}
SPACE = ("sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d",
         "qoffset_x", "qoffset_y", "qoffset_z", "xyzt_units")  # fmt: skip


def turn(degrees: float) -> np.ndarray:
    """Oblique in two planes."""
    angle = np.deg2rad(degrees)
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def scan(orientation: str, oblique: bool = False, version: int = 1) -> nibabel.Nifti1Image:
    """Noise with a bright block in one corner, in an array that lies in the patient as told."""
    array = np.random.default_rng(0).uniform(0, 50, (7, 6, 5)).astype(np.float32)
    array[1:5, 2:4, 3:5] += 100
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = (turn(20) if oblique else np.eye(3)) @ np.diag([0.5, 0.7, 2.5]), (3, -8, 11)
    image = (nibabel.Nifti1Image, nibabel.Nifti2Image)[version - 1](array, affine)
    start, end = (nibabel.orientations.axcodes2ornt(codes) for codes in ("RAS", orientation))
    return image.as_reoriented(nibabel.orientations.ornt_transform(start, end))


def written_for(source: nibabel.Nifti1Image, folder: Path, name: str = "scan.nii.gz") -> nibabel.Nifti1Image:
    """The mask file of what is bright in `source`."""
    nibabel.save(source, folder / "scan.nii.gz")
    if name != "scan.nii.gz":
        shutil.move(folder / "scan.nii.gz", folder / name)
    picture = read_picture((str(folder / name),), "mr")
    labels = (picture.values[0] > 75).astype(np.uint8)
    path = write_mask(Mask("s", "e", "fluid", labels, picture.geometry, CLASSES), folder / "masks")
    assert path.name == "e__fluid.nii.gz" and [one.name for one in path.parent.iterdir()] == [path.name]
    assert np.array_equal(read_mask(str(path), (0, 7)), labels)
    return nibabel.load(path)


def assert_lies_alike(written: nibabel.Nifti1Image, source: nibabel.Nifti1Image) -> None:
    assert type(written) is type(source) and written.shape == source.shape[:3]
    for field in SPACE:
        assert np.array_equal(written.header[field], source.header[field]), field
    assert np.array_equal(written.header["pixdim"][:4], source.header["pixdim"][:4])
    assert np.array_equal(*(image.affine.astype(np.float32) for image in (written, source)))
    assert written.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(written.dataobj), 7 * (source.get_fdata().reshape(written.shape) > 75))


def test_there_are_48_orientations():
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("oblique", [False, True], ids=["straight", "oblique"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_law_7_a_mask_lies_where_its_input_does(orientation, oblique, tmp_path):
    source = scan(orientation, oblique)
    source.set_qform(source.affine, code=2)
    source.set_sform(source.affine, code=4)
    source.header.set_xyzt_units("mm", "sec")
    written = written_for(source, tmp_path)
    assert_lies_alike(written, source)
    assert oblique or nibabel.aff2axcodes(written.affine) == tuple(orientation)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("sform", "qform"), [(0, 1), (1, 0), (3, 1), (0, 0)])
def test_codes_units_and_version_are_those_of_the_input(version, sform, qform, tmp_path):
    source = scan("LAS", oblique=True, version=version)
    source.set_sform(source.affine, code=sform)
    source.set_qform(source.affine, code=qform)
    source.header.set_xyzt_units("meter" if sform == 3 else "unknown")
    nibabel.save(source, tmp_path / "again.nii")  # what a file says in the end: no code, no affine
    assert_lies_alike(written_for(nibabel.load(tmp_path / "again.nii"), tmp_path), nibabel.load(tmp_path / "again.nii"))


def test_nothing_of_values_or_people_is_taken_over(tmp_path):
    source = scan("RAS")
    source.header["db_name"], source.header["descrip"] = b"Doe^Jane", b"Doe^Jane"
    source.header["data_type"], source.header["cal_max"] = b"Doe^Jane", 300
    source.header.set_intent("z score", name="Doe^Jane")
    source.set_data_dtype(np.int16)  # stored with a slope
    source.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"Doe^Jane"))
    written = written_for(source, tmp_path)
    assert_lies_alike(written, source)
    assert written.header["cal_max"] == 0 and not written.header.extensions
    assert written.header.get_intent() == ("none", (), "")
    assert b"Doe" not in gzip.decompress((tmp_path / "masks" / "e__fluid.nii.gz").read_bytes())


def test_channels_a_single_slice_and_a_name_that_lies(tmp_path):
    four = scan("LPS")
    two = nibabel.Nifti1Image(np.stack([four.get_fdata(dtype=np.float32)] * 2, -1), four.affine)
    nibabel.save(two, tmp_path / "two.nii.gz")
    picture = read_picture((str(tmp_path / "two.nii.gz"),), "mr")
    labels = (picture.values[0] > 75).astype(np.uint8)
    path = write_mask(Mask("s", "e", "fluid", labels, picture.geometry, CLASSES), tmp_path / "masks")
    assert np.array_equal(np.asarray(nibabel.load(path).dataobj), 7 * (four.get_fdata() > 75))
    flat = nibabel.Nifti1Image(scan("RAS").get_fdata(dtype=np.float32)[:, :, 3], scan("RAS").affine)
    assert flat.shape == (7, 6)
    path.unlink()
    assert_lies_alike(written_for(flat, tmp_path), flat)
    path.unlink()
    assert_lies_alike(written_for(scan("SRA"), tmp_path, name="no_suffix"), scan("SRA"))


def test_a_volume_that_is_not_nifti_becomes_nifti_in_ras(tmp_path):
    """An array (D, H, W) has no place in space: W, H, D are written as x, y, z."""
    array = np.random.default_rng(0).uniform(0, 50, (3, 4, 5)).astype(np.float32)
    np.save(tmp_path / "scan.npy", array)
    picture = read_picture((str(tmp_path / "scan.npy"),), "mr")
    labels = (array > 25).astype(np.uint8)
    path = write_mask(Mask("s", "e", "fluid", labels, picture.geometry, CLASSES), tmp_path / "masks")
    assert np.array_equal(np.asarray(nibabel.load(path).dataobj), 7 * labels.transpose(2, 1, 0))
    assert np.array_equal(read_labels(str(path), (0, 7)).values[0], labels)


def test_values_above_255_are_kept(tmp_path):
    nibabel.save(scan("RAS"), tmp_path / "scan.nii.gz")
    picture = read_picture((str(tmp_path / "scan.nii.gz"),), "mr")
    labels = (picture.values[0] > 75).astype(np.uint8)
    path = write_mask(Mask("s", "e", "t", labels, picture.geometry, {0: "no", 1000: "yes"}), tmp_path)
    assert nibabel.load(path).get_data_dtype() == np.uint16
    assert np.unique(nibabel.load(path).dataobj).tolist() == [0, 1000]


# ---- what the numbers mean

DISC = {255: "background", 128: "rim", 0: "optic cup"}


def test_colour_tables_by_hand(tmp_path):
    write_colours({"optic": DISC}, tmp_path)
    cup, rim = colour_of("optic cup"), colour_of("rim")
    assert (tmp_path / "optic.ctbl").read_text().splitlines() == [
        "# Color table file optic.ctbl",
        "# 3 values",
        f"0 optic_cup {cup[0]} {cup[1]} {cup[2]} 255",
        f"128 rim {rim[0]} {rim[1]} {rim[2]} 255",
        "255 background 0 0 0 0",
    ]
    facts = json.loads((tmp_path / "labels.json").read_text())
    assert facts["optic"][0] == {"value": 0, "name": "optic cup", "colour": "#{:02x}{:02x}{:02x}".format(*cup)}


def test_itk_snap_reads_its_table_as_numbers_and_a_quoted_name(tmp_path):
    """IDX R G B opacity visible mesh "LABEL", 0 being the clear label; lines that begin with # are remarks."""
    write_colours({"abdomen": {0: "background", 3: "left kidney", 5: 'a "big" one'}}, tmp_path)
    lines = (tmp_path / "abdomen.itksnap.txt").read_text().splitlines()
    rows = [line.split(maxsplit=7) for line in lines if not line.startswith("#")]
    assert [row[7] for row in rows] == ['"background"', '"left kidney"', '"a big one"']
    numbers = [tuple(map(int, row[:7])) for row in rows]
    assert numbers[0] == (0, 0, 0, 0, 0, 0, 0) and numbers[1] == (3, *KNOWN["left kidney"], 1, 1, 1)
    write_colours({"other": {4: "background", 5: "x"}}, tmp_path)
    lines = (tmp_path / "other.itksnap.txt").read_text().splitlines()
    assert next(line for line in lines if not line.startswith("#")).endswith('"Clear Label"')


def test_one_colour_for_one_name():
    assert colour_of("Left_Kidney") == colour_of("left kidney") == KNOWN["left kidney"]
    names = ["cup", "rim", "tooth 11", "tooth 12", "lesion", "hippocampus", *KNOWN]
    assert len({colour_of(name) for name in names}) >= len(names) - 4  # spellings of one organ share theirs
    assert all(0 <= part <= 255 for name in names for part in colour_of(name)) and max(colour_of("cup")) > 100


def test_a_folder_of_masks_has_its_tables_once(tmp_path):
    labels = np.array([[0, 1], [2, 1]], np.uint8)
    Image.fromarray(labels * 50).save(tmp_path / "a.png")
    geometry = read_picture((str(tmp_path / "a.png"),), "other").geometry
    folder = MaskFolder(tmp_path / "masks", of_study=True)
    for study, classes in (("one", DISC), ("two", label_set(("background", "rim", "optic cup")))):
        path = folder.write(Mask(study, "e/1", "optic", labels, geometry, classes))
        assert path.name.startswith(f"{study}__e_1-") and path.name.endswith("__optic.png")
        assert np.array_equal(read_mask(str(path), list(classes)), labels)
    names = {path.name for path in (tmp_path / "masks").iterdir() if path.suffix != ".png"}
    tables = {f"{study}__optic{ending}" for study in ("one", "two") for ending in (".ctbl", ".itksnap.txt")}
    assert names == {"labels.json", *tables}
    facts = json.loads((tmp_path / "masks" / "labels.json").read_text())
    assert (
        facts["one__optic"][1]["colour"]
        == facts["two__optic"][1]["colour"]
        == "#{:02x}{:02x}{:02x}".format(*colour_of("rim"))
    )


# ---- the largest component


def test_the_largest_component_by_hand():
    """Class 1 in parts of 3 (an L), 1, and one that touches by a corner alone; class 2 in two parts stays as it is."""
    labels = np.array([[1, 1, 0, 1], [1, 0, 2, 0], [0, 1, 0, 2]], np.uint8)
    largest_components(labels, [1, 5])
    assert labels.tolist() == [[1, 1, 0, 0], [1, 0, 2, 0], [0, 0, 0, 2]]


def test_the_largest_component_is_one_of_the_volume_not_of_its_slices():
    """A rod through all slices outweighs a larger spot in one of them."""
    labels = np.zeros((9, 6, 6), np.uint8)
    labels[:, 0, 0] = 2
    labels[4, 3:5, 2:6] = 2
    labels[0, 5, 5] = 1
    largest_components(labels, [2])
    assert labels[:, 0, 0].tolist() == [2] * 9 and (labels == 2).sum() == 9 and labels[0, 5, 5] == 1
