"""Slices and frames to volumes: every direction comes out as RAS+, and what is no volume says why."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom.uid import EnhancedCTImageStorage

from dicoms import item, save, slice_tags
from m4oe.data.readers import form_of, placing, read_picture
from m4oe.data.readers.series import series_in
from m4oe.errors import UserError

# A body with one value for each place: (i right to left, j anterior to posterior, k inferior to superior) in LPS mm.
SHAPE, SPACING, ORIGIN = (4, 3, 5), np.array([2.0, 3.0, 5.0]), np.array([-7.0, -11.0, 13.0])
BODY = np.arange(60, dtype="u2").reshape(SHAPE) * 7


def read(path: Path, kind: str = "ct"):
    return read_picture((str(path),), kind)


def value_at(picture, lps: np.ndarray) -> float:
    """The value that a picture says is at a place of the patient, in LPS mm."""
    ras = lps * [-1, -1, 1]
    index = np.linalg.solve(picture.affine, [*ras, 1])[:3]
    assert np.allclose(index, np.rint(index), atol=1e-6)
    return picture.values[0][tuple(round(number) for number in index)]


def cut(folder: Path, axes: tuple[int, int, int], flips: tuple[int, int, int]) -> Path:
    """The body as a series whose columns, rows and slices run along the body's `axes`, some of them backwards."""
    directions = [np.eye(3)[axis] * (-1 if flip else 1) for axis, flip in zip(axes, flips)]
    stored = np.flip(BODY.transpose(axes), [n for n, flip in enumerate(flips) if flip])
    start = ORIGIN + sum(SPACING[a] * (SHAPE[a] - 1) * np.eye(3)[a] for a, flip in zip(axes, flips) if flip)
    order = np.random.default_rng(0).permutation(stored.shape[2])
    for name, k in enumerate(order):
        position = start + k * SPACING[axes[2]] * directions[2]
        tags = slice_tags(
            position.tolist(),
            ImageOrientationPatient=[*directions[0], *directions[1]],
            PixelSpacing=[SPACING[axes[1]], SPACING[axes[0]]],
            InstanceNumber=int(name),
        )
        save(folder / f"{name}.dcm", np.ascontiguousarray(stored[:, :, k].T), **tags)
    return folder


CUTS = list(itertools.product(itertools.permutations(range(3)), itertools.product((0, 1), repeat=3)))


@pytest.mark.parametrize("axes", sorted({axes for axes, _ in CUTS}), ids=str)
def test_every_direction_comes_out_as_ras(tmp_path, axes):
    """Six orders of axes, each flipped along every axis: the same picture, every value at its place in the patient."""
    pictures = [read(cut(tmp_path / str(n), axes, flips)) for n, flips in enumerate(f for a, f in CUTS if a == axes)]
    expected = BODY.transpose(2, 1, 0)[:, ::-1, ::-1]  # D up, H from posterior to anterior, W from left to right
    for picture in pictures:
        np.testing.assert_array_equal(picture.values[0], expected)
        assert picture.spacing == pytest.approx((5, 3, 2))
        assert nib.aff2axcodes(picture.affine[:, [2, 1, 0, 3]]) == ("R", "A", "S")
        for place in [(0, 0, 0), (3, 0, 0), (0, 2, 0), (0, 0, 4), (1, 2, 3)]:
            assert value_at(picture, ORIGIN + SPACING * place) == BODY[place]
    assert len(pictures) == 8


def test_an_oblique_series_keeps_its_places(tmp_path):
    turn = np.array(nib.eulerangles.euler2mat(0.2, 0.3, 0.1))
    for k in range(5):
        position = ORIGIN + turn @ (SPACING * [0, 0, k])
        tags = slice_tags(position.tolist(), ImageOrientationPatient=[*turn[:, 0], *turn[:, 1]], PixelSpacing=[3, 2])
        save(tmp_path / f"{(k * 3) % 5}.dcm", np.ascontiguousarray(BODY[:, :, k].T), **tags)
    picture = read(tmp_path)
    for place in [(0, 0, 0), (3, 2, 4), (1, 2, 3)]:
        assert value_at(picture, ORIGIN + turn @ (SPACING * place)) == BODY[place]
    assert picture.spacing == pytest.approx((5, 3, 2))


def series(folder: Path, positions: list, **tags: object) -> Path:
    for number, position in enumerate(positions):
        save(folder / f"{number}.dcm", BODY[:, :, number % 5] + number, **slice_tags(position, **tags))
    return folder


def test_the_distance_between_slices_is_that_of_their_positions(tmp_path):
    picture = read(series(tmp_path, [0, 1.25, 2.5], SliceThickness=5, SpacingBetweenSlices=3))
    assert picture.spacing == pytest.approx((1.25, 3, 2))


def test_each_slice_has_its_own_rescale(tmp_path):
    for n in range(3):
        save(tmp_path / f"{n}.dcm", BODY[:, :, 0], **slice_tags(n, RescaleSlope=n + 1, RescaleIntercept=n))
    expected = BODY[:, :, 0].astype(float)[::-1, ::-1]
    np.testing.assert_array_equal(read(tmp_path, "mr").values[0], [expected * (n + 1) + n for n in range(3)])


BAD = {
    "a gap": ({"positions": [0, 5, 10, 20]}, r"uneven gaps between slices \(5 to 10 mm\); one is missing"),
    "a copy": ({"positions": [0, 5, 5, 10]}, r"several slices at one position \(1 repeat"),
    "no positions": ({"positions": [0, 5], "ImagePositionPatient": None}, "a slice without a valid ImagePosition"),
    "no spacing": ({"positions": [0, 5], "PixelSpacing": [0, 0]}, "have no size; damaged geometry"),
    "skew": ({"positions": [0, 5], "ImageOrientationPatient": [1, 0, 0, 0.5, 1, 0]}, "not at right angles"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_series_that_is_no_volume_says_why(tmp_path, name):
    tags, reason = BAD[name]
    with pytest.raises(UserError, match=reason):
        read(series(tmp_path, **tags))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "slices of several directions"),
        ({"PixelSpacing": [3.0, 2.1]}, "slices of several spacings"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "grey and inverted slices"),
    ],
)
def test_one_slice_that_differs_is_found(tmp_path, change, reason):
    series(tmp_path, [0, 5, 10])
    save(tmp_path / "z.dcm", BODY[:, :, 0], **slice_tags(15, **change))
    with pytest.raises(UserError, match=reason):
        read(tmp_path)


def test_a_slice_of_another_size_is_found(tmp_path):
    series(tmp_path, [0, 5, 10])
    save(tmp_path / "z.dcm", np.arange(40, dtype="u2").reshape(5, 8), **slice_tags(15))
    with pytest.raises(UserError, match="slices of several sizes"):
        read(tmp_path)


def test_a_tilted_gantry_is_refused_by_name_with_its_angle(tmp_path):
    """5 mm up and 1.82 mm aside for each slice: 20 degrees."""
    series(tmp_path, [[0, 1.82 * n, 5.0 * n] for n in range(4)])
    with pytest.raises(UserError, match=r"a tilted gantry, 20\.0 degrees"):
        read(tmp_path)


def test_several_series_in_a_folder_are_told_apart(tmp_path):
    """By their uids, which are not repeated; numbers, modality and size tell the user which is which."""
    series(tmp_path, [0, 5, 10], Modality="CT", SeriesNumber=2)
    save(tmp_path / "scout.dcm", BODY[:, :, 0], **slice_tags(0, SeriesInstanceUID="9.9", Modality="CT", SeriesNumber=1))
    save(tmp_path / "other.dcm", BODY[0], **slice_tags(0, SeriesInstanceUID="8.8", Modality="JOHN"))
    found = series_in(tmp_path)
    assert [(one.number, one.modality, len(one.files)) for one in found] == [
        (2, "CT", 3),
        (None, None, 1),
        (1, "CT", 1),
    ]
    named = "series 2 (CT, 3 slices of 4 x 3); a series without a number (unknown modality, 1 slice of 3 x 5); series 1"
    with pytest.raises(UserError) as caught:
        read(tmp_path)
    assert named in str(caught.value) and "9.9" not in str(caught.value)


# ---- several frames in one file


def enhanced(positions: list, shared_tags: bool = True, **per_frame: list) -> dict[str, object]:
    """Functional groups as enhanced CT and MR have them."""
    plane = {
        "PlaneOrientationSequence": [item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        "PixelMeasuresSequence": [item(PixelSpacing=[3.0, 2.0], SliceThickness=9.0)],
    }
    frames = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=[-10, -20, z])],
            **{name: values[n] for name, values in per_frame.items()},
            **({} if shared_tags else plane),
        )
        for n, z in enumerate(positions)
    ]
    return {
        "SOPClassUID": EnhancedCTImageStorage, "NumberOfFrames": len(positions),
        "SharedFunctionalGroupsSequence": [item(**(plane if shared_tags else {}))],
        "PerFrameFunctionalGroupsSequence": frames,
    }  # fmt: skip


@pytest.mark.parametrize("shared", [True, False])
def test_an_enhanced_file_equals_the_series_of_its_frames(tmp_path, shared):
    stack = np.stack([BODY[:, :, n] + 40 * n for n in range(4)])
    positions = [10.0, 0.0, 15.0, 5.0]
    rescale = [[item(RescaleSlope=n + 1, RescaleIntercept=-n, RescaleType="HU")] for n in range(4)]
    tags = enhanced(positions, shared, PixelValueTransformationSequence=rescale)
    one = read(save(tmp_path / "one.dcm", stack, Modality="CT", **tags))
    for n, position in enumerate(positions):
        scaled = {"RescaleSlope": n + 1, "RescaleIntercept": -n}
        save(tmp_path / "many" / f"{n}.dcm", stack[n], **slice_tags(position, Modality="CT", **scaled))
    many = read(tmp_path / "many")
    np.testing.assert_array_equal(one.values, many.values)
    np.testing.assert_allclose(one.affine, many.affine)
    assert one.spacing == many.spacing == pytest.approx((5, 3, 2))
    assert form_of((str(tmp_path / "one.dcm"),), "ct") == ("volume", 1)


def test_the_window_of_a_frame_is_recorded(tmp_path):
    windows = [[item(WindowCenter=40, WindowWidth=400)] for _ in range(3)]
    path = save(tmp_path / "a.dcm", BODY[:3], **enhanced([0.0, 5.0, 10.0], FrameVOILUTSequence=windows))
    assert (read(path).window.center, read(path).window.width) == (40, 400)


def test_frames_of_several_times_are_refused(tmp_path):
    with pytest.raises(UserError, match="copies, times or echoes"):
        read(save(tmp_path / "a.dcm", BODY, **enhanced([0.0, 5.0, 0.0, 5.0])))


def test_an_enhanced_file_of_one_frame_is_an_image(tmp_path):
    path = save(tmp_path / "a.dcm", BODY[:1], **enhanced([0.0]))
    assert read(path).shape == (3, 5) and form_of((str(path),), "ct") == ("image", 1)
    np.testing.assert_array_equal(read(path).geometry.to_file(read(path).values[0])[..., 0], BODY[0].T)


def test_frames_of_a_film_are_slices_without_a_place(tmp_path):
    stack = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
    path = save(tmp_path / "a.dcm", stack, NumberOfFrames=4, Modality="US")
    picture = read(path, "other")
    np.testing.assert_array_equal(picture.values, stack.transpose(3, 0, 1, 2))
    assert picture.spacing is None and form_of((str(path),), "other") == ("volume", 3)
    assert form_of((str(path),), "ultrasound") == ("volume", 1) and read(path, "ultrasound").values.shape == (
        1,
        4,
        6,
        5,
    )


def slide(path: Path, whole: np.ndarray, places: list[tuple[int, int]] | None) -> Path:
    """Tiles of 4 x 5 of a picture; with `places` (row, column from 1) only these, else all of them in a row."""
    corners = places or [(r, c) for r in range(1, whole.shape[0] + 1, 4) for c in range(1, whole.shape[1] + 1, 5)]
    wide = np.pad(whole, ((0, 4), (0, 5), (0, 0)))
    tiles = np.stack([wide[r - 1 : r + 3, c - 1 : c + 4] for r, c in corners])
    tags = {"Modality": "SM", "TotalPixelMatrixRows": whole.shape[0], "TotalPixelMatrixColumns": whole.shape[1]}
    if places:
        tags["PerFrameFunctionalGroupsSequence"] = [
            item(
                PlanePositionSlideSequence=[
                    item(RowPositionInTotalImagePixelMatrix=r, ColumnPositionInTotalImagePixelMatrix=c)
                ]
            )
            for r, c in places
        ]
    return save(path, tiles, NumberOfFrames=len(tiles), **tags)


def test_tiles_of_a_slide_are_one_picture(tmp_path):
    whole = np.random.default_rng(0).integers(0, 256, (10, 13, 3), dtype=np.uint8)
    path = slide(tmp_path / "full.dcm", whole, None)
    np.testing.assert_array_equal(read(path, "pathology").values, whole.transpose(2, 0, 1))
    assert form_of((str(path),), "pathology") == ("image", 3)
    sparse = read(slide(tmp_path / "sparse.dcm", whole, [(1, 6), (5, 1)]), "pathology").values
    expected = np.full_like(whole, 255)
    expected[:4, 5:10], expected[4:8, :5] = whole[:4, 5:10], whole[4:8, :5]
    np.testing.assert_array_equal(sparse, expected.transpose(2, 0, 1))
    with pytest.raises(UserError, match="several focal planes"):
        read(slide(tmp_path / "twice.dcm", whole, [(1, 1), (1, 1)]), "pathology")


def test_real_frames(real_data):
    samples = real_data("dicom_samples")
    assert read(samples / "pydicomdata__emri_small.dcm", "mr").values.shape == (1, 10, 64, 64)
    assert read(samples / "pydicom__examples_ybr_color.dcm", "ultrasound").values.shape == (1, 30, 240, 320)


def test_a_series_is_read_lean(tmp_path):
    """Not more than the volume itself and its compressed or plain pixels, twice."""
    import tracemalloc

    rng = np.random.default_rng(0)
    for n in range(24):
        save(tmp_path / f"{n}.dcm", rng.integers(0, 4000, (128, 128), dtype=np.uint16), **slice_tags(n))
    read(tmp_path)  # libraries and caches
    tracemalloc.start()
    picture = read(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * picture.values.nbytes


def test_slices_that_are_nearly_even_are_one_volume():
    """Positions are rounded by scanners: 0.625 mm as 0.62 and 0.63."""
    depths = np.array([0, 0.62, 1.25, 1.87, 2.5])
    assert placing._step(depths, "") == pytest.approx(0.625, abs=0.01)
