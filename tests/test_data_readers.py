"""Files to pictures: exact values, known directions, and one clear message for everything else."""

from __future__ import annotations

import gzip
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from m4oe.data.readers import form_of, picture_of, read_mask, read_picture
from m4oe.errors import UserError

RAMP = np.arange(35, dtype=np.uint16).reshape(5, 7) * 1800  # 0 ... 61200: not a multiple of 256, so 8 bits lose it
RGB = np.arange(5 * 7 * 3).reshape(5, 7, 3) * 600
GREY8 = np.arange(35, dtype=np.uint8).reshape(5, 7) * 7
VOLUME = np.arange(2 * 3 * 5, dtype=np.float32).reshape(2, 3, 5)  # i right, j anterior, k superior


def read(path: Path, kind: str = "other"):
    return read_picture((str(path),), kind)


# ---- raster files


def png_of_16_bit_colour(path: Path, colour_type: int, pixels: np.ndarray) -> Path:
    """Pillow writes none, so by hand: one unfiltered row after the other."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def tiff_of_16_bits(
    path: Path, pixels: np.ndarray, *, order: str = "<", packed: bool = False, white_is_zero=False
) -> Path:
    """A TIFF of one strip: entries of 12 bytes, then bits for each channel, then pixels."""
    height, width, channels = pixels.shape
    data = pixels.astype(order + "u2").tobytes()
    data = zlib.compress(data) if packed else data
    bits = 8 + 2 + 9 * 12 + 4
    photometric = 2 if channels == 3 else 0 if white_is_zero else 1
    entries = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, channels, bits if channels > 2 else 16),
        (259, 3, 1, 8 if packed else 1), (262, 3, 1, photometric), (273, 4, 1, bits + 2 * channels),
        (277, 3, 1, channels), (278, 3, 1, height), (279, 4, 1, len(data)),
    ]  # fmt: skip
    body = b"".join(
        struct.pack(f"{order}HHI", tag, form, count)
        + struct.pack(f"{order}{'H' if form == 3 and count == 1 else 'I'}", value).ljust(4, b"\0")
        for tag, form, count, value in entries
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    path.write_bytes(head + body + bytes(4) + struct.pack(f"{order}{channels}H", *[16] * channels) + data)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_of_grey_keep_every_value(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(RAMP).save(path)
    picture = read(path, "mammogram")
    np.testing.assert_array_equal(picture.values, RAMP[None].astype(np.float32))
    assert picture.values.dtype == np.float32 and picture.full_scale == 65535 and picture.spacing is None


@pytest.mark.parametrize(
    "write",
    [
        lambda path: png_of_16_bit_colour(path, 2, RGB),
        lambda path: png_of_16_bit_colour(path, 6, np.dstack([RGB, np.full((5, 7), 9)])),
        lambda path: tiff_of_16_bits(path, RGB),
        lambda path: tiff_of_16_bits(path, RGB, order=">"),
        lambda path: tiff_of_16_bits(path, RGB, packed=True),
    ],
    ids=["png", "png with alpha", "tiff", "tiff big-endian", "tiff packed"],
)
def test_16_bits_of_colour_keep_every_value(tmp_path, write):
    picture = read(write(tmp_path / "a"), "photo")
    np.testing.assert_array_equal(picture.values, RGB.transpose(2, 0, 1).astype(np.float32))
    assert picture.full_scale == 65535


def test_an_alpha_channel_is_dropped_and_not_looked_through(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png", "photo").values, pixels[..., :3].transpose(2, 0, 1))
    Image.fromarray(pixels[..., :2], "LA").save(tmp_path / "b.png")
    np.testing.assert_array_equal(read(tmp_path / "b.png", "xray").values, pixels[None, ..., 0])


def test_a_palette_is_colours_and_one_bit_is_black_and_white(tmp_path):
    palette = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read(tmp_path / "p.png").values[:, 0, 1], [40, 50, 60])
    Image.fromarray(np.eye(3, dtype=bool)).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read(tmp_path / "b.png").values[0], np.eye(3) * 255)


def test_pages_of_a_tiff_are_slices(tmp_path):
    pages = [Image.fromarray(RAMP + page) for page in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    picture = read(tmp_path / "a.tif", "oct")
    np.testing.assert_array_equal(picture.values[0], np.stack([RAMP, RAMP + 1, RAMP + 2]))
    assert form_of((str(tmp_path / "a.tif"),), "oct") == ("volume", 1)


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # the first row is at the right: turn clockwise to show
    Image.fromarray(GREY8).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read(tmp_path / "a.png").values[0], np.rot90(GREY8, -1))


def test_the_limit_of_pillow_is_as_it_was(tmp_path):
    """Also when many threads read at once."""
    before = Image.MAX_IMAGE_PIXELS
    Image.fromarray(GREY8).save(tmp_path / "a.png")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: read(tmp_path / "a.png"), range(200)))
    assert before == Image.MAX_IMAGE_PIXELS is not None


def test_a_picture_above_the_limit_of_pillow_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    pages = [Image.fromarray(RAMP + page) for page in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert read(tmp_path / "a.tif").shape == (3, 5, 7)
    png_of_16_bit_colour(tmp_path / "a.png", 2, RGB)
    assert read(tmp_path / "a.png", "photo").shape == (5, 7)


def test_a_picture_above_a_gigapixel_is_refused_unread(tmp_path):
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0)
    body = b"\0\0\0\rIHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + b"\0\0\0\0IDAT5\xaf\x06\x1e"
    (tmp_path / "big.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    with pytest.raises(UserError, match=r"1,600,000,000 pixels"):
        read(tmp_path / "big.png")


# ---- channels by kind

GREY_KINDS = ("mammogram", "xray", "ct", "mr", "ultrasound", "oct")


def test_colour_kinds_have_three_channels_and_grey_kinds_one(tmp_path):
    colour = np.zeros((4, 4, 3), np.uint8)
    colour[1] = (200, 100, 50)
    Image.fromarray(colour).save(tmp_path / "c.png")
    Image.fromarray(GREY8).save(tmp_path / "g.png")
    shapes = {(name, kind): read(tmp_path / name, kind).values for name in ("c.png", "g.png") for kind in KINDS}
    assert {len(shapes[name, kind]) for name in ("c.png", "g.png") for kind in ("photo", "pathology")} == {3}
    assert {len(shapes[name, kind]) for name in ("c.png", "g.png") for kind in GREY_KINDS} == {1}
    assert (len(shapes["c.png", "other"]), len(shapes["g.png", "other"])) == (3, 1)
    assert shapes["c.png", "xray"][0, 1, 0] == pytest.approx(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    for name, kind in shapes:
        assert form_of((str(tmp_path / name),), kind) == ("image", len(shapes[name, kind]))


KINDS = (*GREY_KINDS, "photo", "pathology", "other")


def test_grey_that_was_saved_as_colour_is_exact(tmp_path):
    Image.fromarray(np.dstack([GREY8] * 3)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png", "xray").values, GREY8[None])


def test_several_files_are_channels(tmp_path):
    np.save(tmp_path / "a.npy", VOLUME)
    np.save(tmp_path / "b.npy", VOLUME + 1)
    paths = (str(tmp_path / "a.npy"), str(tmp_path / "b.npy"))
    np.testing.assert_array_equal(read_picture(paths, "mr").values, np.stack([VOLUME, VOLUME + 1]))
    assert form_of(paths, "mr") == ("volume", 2)
    np.save(tmp_path / "b.npy", VOLUME[:1])
    with pytest.raises(UserError, match=r"b\.npy is 1 x 3 x 5 and .*a\.npy 2 x 3 x 5"):
        read_picture(paths, "mr")


# ---- arrays


def test_an_array_is_an_image_a_colour_image_or_a_volume():
    assert picture_of(np.eye(4), "other").values.shape == (1, 4, 4)
    assert picture_of(RGB, "other").values.shape == (3, 5, 7)
    assert picture_of(VOLUME, "other").values.shape == (1, 2, 3, 5)
    assert picture_of(GREY8, "photo").full_scale == 255 and picture_of(np.eye(4), "photo").full_scale is None


def test_npz_holds_one_array(tmp_path):
    np.savez(tmp_path / "a.npz", scan=VOLUME)
    np.testing.assert_array_equal(read(tmp_path / "a.npz").values[0], VOLUME)
    np.savez(tmp_path / "b.npz", a=VOLUME, b=VOLUME)
    with pytest.raises(UserError, match="holds 2 arrays"):
        read(tmp_path / "b.npz")


# ---- NIfTI

RAS = np.diag([2.0, 3.0, 4.0, 1.0])


def save_nifti(path: Path, values: np.ndarray, affine: np.ndarray = RAS) -> Path:
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def test_slices_rows_and_columns_run_to_superior_anterior_and_right(tmp_path):
    picture = read(save_nifti(tmp_path / "a.nii.gz", VOLUME), "mr")
    np.testing.assert_array_equal(picture.values[0], VOLUME.transpose(2, 1, 0))
    assert picture.spacing == (4.0, 3.0, 2.0)
    # Voxel (d 1, h 2, w 1) is 1 * 4 mm superior, 2 * 3 mm anterior, 1 * 2 mm right.
    np.testing.assert_allclose(picture.affine @ [1, 2, 1, 1], [2, 6, 4, 1])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("flips", [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)])
def test_however_a_file_is_stored_the_picture_is_the_same(tmp_path, order, flips):
    """The same body stored along other axes: same values, same affine, and labels find the way back."""
    stored = nib.Nifti1Image(VOLUME, RAS).as_reoriented(
        np.array([[axis, -1 if flip else 1] for axis, flip in zip(order, flips)], float)
    )
    nib.save(stored, tmp_path / "a.nii")
    picture, plain = read(tmp_path / "a.nii"), read(save_nifti(tmp_path / "b.nii", VOLUME))
    np.testing.assert_array_equal(picture.values, plain.values)
    np.testing.assert_allclose(picture.affine, plain.affine)
    assert picture.spacing == pytest.approx(plain.spacing)
    np.testing.assert_array_equal(picture.geometry.to_file(picture.values[0]), np.asarray(stored.dataobj))


def test_a_volume_of_one_slice_is_an_image(tmp_path):
    path = save_nifti(tmp_path / "a.nii.gz", VOLUME[:, :, :1])
    picture = read(path)
    np.testing.assert_array_equal(picture.values[0], VOLUME[:, :, 0].T)
    assert picture.spacing == (3.0, 2.0) and form_of((str(path),), "mr") == ("image", 1)
    np.testing.assert_array_equal(picture.geometry.to_file(picture.values[0]), VOLUME[:, :, :1])


def test_a_fourth_axis_is_channels_and_a_long_one_a_series(tmp_path):
    four = np.stack([VOLUME, VOLUME + 1, VOLUME + 2], axis=-1)
    path = save_nifti(tmp_path / "a.nii.gz", four)
    np.testing.assert_array_equal(read(path, "mr").values[1], (VOLUME + 1).transpose(2, 1, 0))
    assert form_of((str(path),), "mr") == ("volume", 3)
    with pytest.raises(UserError, match="a constant image, every pixel is 0"):
        read(save_nifti(tmp_path / "c.nii.gz", four * [1, 0, 1]), "mr")
    with pytest.raises(UserError, match="series of 30 volumes"):
        read(save_nifti(tmp_path / "b.nii.gz", np.zeros((2, 2, 2, 30), np.float32)))


def test_the_name_of_a_nifti_does_not_matter(tmp_path):
    packed = save_nifti(tmp_path / "a.nii.gz", VOLUME).read_bytes()
    (tmp_path / "packed.nii").write_bytes(packed)
    (tmp_path / "plain.img").write_bytes(gzip.decompress(packed))
    for name in ("packed.nii", "plain.img"):
        np.testing.assert_array_equal(read(tmp_path / name).values, read(tmp_path / "a.nii.gz").values)


def test_channels_that_lie_elsewhere_are_refused(tmp_path):
    moved = RAS.copy()
    moved[0, 3] = 5
    paths = (save_nifti(tmp_path / "a.nii", VOLUME), save_nifti(tmp_path / "b.nii", VOLUME, moved))
    with pytest.raises(UserError, match="lie differently in space"):
        read_picture(tuple(map(str, paths)), "mr")


# ---- DICOM


def save_dicom(path: Path, pixels: np.ndarray, **tags: object) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    defaults = {
        "SOPClassUID": CTImageStorage, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID, "Modality": "CT",
        "Rows": pixels.shape[0], "Columns": pixels.shape[1], "SamplesPerPixel": 1, "BitsAllocated": 16,
        "BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0, "PhotometricInterpretation": "MONOCHROME2",
        "PixelData": pixels.astype("<u2").tobytes(),
    }  # fmt: skip
    for name, value in {**defaults, **tags}.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_ct_is_in_hounsfield_units(tmp_path):
    path = save_dicom(tmp_path / "a", GREY8, RescaleSlope=2, RescaleIntercept=-1024, PixelSpacing=[0.5, 0.25])
    picture = read(path, "ct")
    np.testing.assert_array_equal(picture.values[0], GREY8 * 2.0 - 1024)
    assert picture.spacing == (0.5, 0.25)


def test_monochrome1_is_inverted_about_its_bits(tmp_path):
    path = save_dicom(tmp_path / "a", GREY8, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(read(path, "xray").values[0], 4095 - GREY8.astype(float))


def test_padding_is_dark(tmp_path):
    pixels = GREY8.astype(np.uint16) + 100
    pixels[0, :3] = 4000
    for interpretation in ("MONOCHROME1", "MONOCHROME2"):
        path = save_dicom(
            tmp_path / interpretation, pixels, PixelPaddingValue=4000, PhotometricInterpretation=interpretation
        )
        values = read(path, "mammogram").values[0]
        assert (values[0, :3] == values.min()).all() and values.max() < 4000


def test_bits_above_those_stored_are_an_overlay_and_dropped(tmp_path):
    path = save_dicom(tmp_path / "a", GREY8.astype(np.uint16) | 1 << 12)
    np.testing.assert_array_equal(read(path, "xray").values[0], GREY8)


def slice_tags(position: float, **tags: object) -> dict[str, object]:
    return {
        "ImagePositionPatient": [-10.0, -20.0, position], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [3.0, 2.0], "SeriesInstanceUID": "1.2.3", **tags,
    }  # fmt: skip


def save_series(folder: Path, positions: list[float], **tags: object) -> Path:
    """Slice n holds GREY8 + n; names say nothing of the order."""
    folder.mkdir(exist_ok=True)
    for number, position in enumerate(positions):
        save_dicom(folder / f"{(number * 7) % 11}.dcm", GREY8 + number, **slice_tags(position, **tags))
    return folder


def test_a_series_is_sorted_by_position_and_turned_to_ras(tmp_path):
    """Rows of an axial slice run to posterior and columns to the left: both are turned."""
    picture = read(save_series(tmp_path / "s", [0.0, 5.0, 10.0]), "ct")
    expected = np.stack([GREY8 + n for n in range(3)])[:, ::-1, ::-1]
    np.testing.assert_array_equal(picture.values[0], expected)
    assert picture.spacing == pytest.approx((5.0, 3.0, 2.0))
    # The first row and column of the lowest slice: 10 mm right, 20 mm anterior of the origin.
    np.testing.assert_allclose(picture.affine @ [0, 4, 6, 1], [10, 20, 0, 1])


def test_a_series_equals_the_same_volume_as_nifti(tmp_path):
    series = read(save_series(tmp_path / "s", [3.0, 8.0, 13.0]), "ct")
    image = nib.Nifti1Image(series.geometry.to_file(series.values[0]), np.diag([-2.0, -3.0, 5.0, 1.0]))
    image.affine[:3, 3] = [10, 20, 3]
    nib.save(image, tmp_path / "a.nii")
    nifti = read(tmp_path / "a.nii", "ct")
    np.testing.assert_array_equal(nifti.values, series.values)
    np.testing.assert_allclose(nifti.affine, series.affine)


BAD_SERIES = {
    "gap": ([0.0, 5.0, 15.0], {}, "uneven gaps"),
    "same place": ([0.0, 5.0, 5.0], {}, "several slices at one position"),
    "no position": ([0.0, 5.0], {"ImagePositionPatient": None}, "ImagePositionPatient"),
    "colour": ([0.0, 5.0], {"PhotometricInterpretation": "PALETTE COLOR"}, "in colour"),
}


@pytest.mark.parametrize("name", BAD_SERIES)
def test_a_series_that_is_no_volume_says_why(tmp_path, name):
    positions, tags, reason = BAD_SERIES[name]
    with pytest.raises(UserError, match=reason):
        read(save_series(tmp_path / "s", positions, **tags))


def test_mixed_tilted_and_foreign_folders_say_why(tmp_path):
    mixed = save_series(tmp_path / "mixed", [0.0, 5.0])
    save_dicom(mixed / "z.dcm", GREY8, **slice_tags(10.0, SeriesInstanceUID="9.9"))
    with pytest.raises(UserError, match="several series"):
        read(mixed)
    tilted = tmp_path / "tilted"
    tilted.mkdir()
    for n in range(3):
        save_dicom(tilted / f"{n}.dcm", GREY8, **slice_tags(0, ImagePositionPatient=[0, n * 1.0, n * 5.0]))
    with pytest.raises(UserError, match="tilted gantry"):
        read(tilted)
    (mixed / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match=r"notes\.txt: is not DICOM"):
        read(mixed)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"NumberOfFrames": 2}, "cut short: 70 of 140 bytes"),
        ({"Modality": "SEG"}, "a segmentation"),
        ({"HighBit": 15}, "12 bits do not end with the lowest one"),
        ({"PresentationLUTShape": "INVERSE"}, "inverse presentation"),
        ({"PhotometricInterpretation": "ARGB"}, "ARGB"),
    ],
)
def test_a_dicom_file_that_is_not_read_yet_says_why(tmp_path, tags, reason):
    with pytest.raises(UserError, match=reason):
        read(save_dicom(tmp_path / "a.dcm", GREY8, **tags))


# ---- bad files


def truncated(path: Path, content: bytes) -> None:
    path.write_bytes(content[: len(content) // 2])


def bad_files(folder: Path) -> dict[str, str]:
    """{what to read: what the message says}"""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    for name in ("a.png", "a.jpg", "a.tif"):
        Image.fromarray(noise).save(folder / f"whole_{name}")
        truncated(folder / name, (folder / f"whole_{name}").read_bytes())
    for name in ("a.nii", "a.nii.gz"):
        truncated(folder / name, save_nifti(folder / f"whole_{name}", noise[None].astype(np.float32)).read_bytes())
    np.save(folder / "whole.npy", noise)
    truncated(folder / "a.npy", (folder / "whole.npy").read_bytes())
    truncated(folder / "a.dcm", save_dicom(folder / "whole.dcm", noise).read_bytes())
    (folder / "empty.png").touch()
    (folder / "folder.png").mkdir()
    (folder / "text.png").write_text("II, this is no picture at all\n" * 20)
    (folder / "text.dcm").write_text("neither is this\n" * 20)
    np.save(folder / "nan.npy", np.where(noise > 200, np.nan, noise))
    np.save(folder / "inf.npy", np.where(noise > 200, np.inf, noise))
    np.save(folder / "four.npy", np.zeros((2, 5, 5, 5)))
    np.save(folder / "complex.npy", noise * 1j)
    np.save(folder / "objects.npy", np.array([[{}, 1], [2, 3]], object), allow_pickle=True)
    np.save(folder / "none.npy", np.zeros((0, 5)))
    Image.new("L", (9, 9), 7).save(folder / "constant.png")
    (folder / "packed.dcm.gz").write_bytes(gzip.compress((folder / "whole.dcm").read_bytes()))
    frames = [Image.fromarray(noise), Image.fromarray(255 - noise)]
    frames[0].save(folder / "moving.png", save_all=True, append_images=frames[1:])
    pages = [Image.fromarray(noise), Image.fromarray(noise[:32])]
    pages[0].save(folder / "uneven.tif", save_all=True, append_images=pages[1:])
    tiff_of_16_bits(folder / "white.tif", RAMP[..., None], white_is_zero=True)
    png_of_16_bit_colour(folder / "grey_alpha.png", 4, RGB[..., :2])
    damaged = dict.fromkeys(("a.png", "a.jpg", "a.tif", "a.nii", "a.nii.gz", "a.npy", "a.dcm"), "damaged|cut short")
    return damaged | {
        "missing.png": "no such file", "empty.png": "an empty file", "folder.png": "an empty folder",
        "text.png": "damaged, or not PNG", "text.dcm": "not a picture", "nan.npy": "pixels are NaN or infinite",
        "inf.npy": "pixels are NaN or infinite", "constant.png": "constant image, every pixel is 7",
        "four.npy": r"shape \(2, 5, 5, 5\)", "complex.npy": "complex", "objects.npy": "damaged, or not NumPy",
        "none.npy": r"shape \(0, 5\)", "packed.dcm.gz": "not NIfTI; unpack it", "moving.png": "animation of 2",
        "uneven.tif": "pages differ in size", "white.tif": "white as 0", "grey_alpha.png": "16 bits in the form",
    }  # fmt: skip


def test_every_bad_file_has_one_message_that_names_it(tmp_path, capfd):
    files = bad_files(tmp_path)
    for name, reason in files.items():
        with pytest.raises(UserError, match=reason) as caught:
            read(tmp_path / name, "xray")
        assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)
    assert len(files) == 24
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("folder", "fewest"), [("dicom_samples", 30), ("odd_files", 5)])
def test_real_files_give_a_picture_or_a_message(real_data, capfd, recwarn, folder, fewest):
    files, read_well = sorted(path for path in real_data(folder).iterdir()), 0
    for path in files:
        try:
            picture = read(path)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            continue
        read_well += 1
        assert np.isfinite(picture.values).all() and min(picture.shape) >= 3
        assert form_of((str(path),), "other") == (("image", "volume")[picture.values.ndim - 3], len(picture.values))
    assert len(files) >= 29 and read_well >= fewest
    assert capfd.readouterr() == ("", "") and not recwarn.list


# ---- masks


def save_mask(path: Path, pixels: list[list[int]]) -> str:
    Image.fromarray(np.array(pixels, np.uint8)).save(path)
    return str(path)


def test_a_mask_is_places_in_the_order_of_the_classes(tmp_path):
    path = save_mask(tmp_path / "m.png", [[255, 128], [0, 255]])
    mask = read_mask(path, (255, 128, 0))
    np.testing.assert_array_equal(mask, [[0, 1], [2, 0]])
    assert mask.dtype == np.int64


def test_a_mask_of_0_and_255_is_understood(tmp_path):
    path = save_mask(tmp_path / "m.png", [[255, 0], [0, 255]])
    np.testing.assert_array_equal(read_mask(path, (0, 1)), [[1, 0], [0, 1]])
    np.testing.assert_array_equal(read_mask(path, (1, 0)), [[0, 1], [1, 0]])
    with pytest.raises(UserError, match="value 255"):
        read_mask(path, (0, 1, 2))


def test_an_unnamed_value_is_named(tmp_path):
    path = save_mask(tmp_path / "m.png", [[0, 1], [7, 9]])
    with pytest.raises(UserError, match=r"m\.png: the mask holds the value 7 and 1 more.*known: 0, 1"):
        read_mask(path, (0, 1))


def test_masks_of_a_palette_one_bit_equal_colours_and_floats(tmp_path):
    indexed = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    indexed.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    indexed.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_mask(str(tmp_path / "p.png"), (0, 1, 2)), [[0, 1], [2, 1]])
    Image.fromarray(np.eye(2, dtype=bool)).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_mask(str(tmp_path / "b.png"), (0, 1)), np.eye(2))
    Image.fromarray(np.dstack([np.eye(2, dtype=np.uint8)] * 3)).save(tmp_path / "c.png")
    np.testing.assert_array_equal(read_mask(str(tmp_path / "c.png"), (0, 1)), np.eye(2))
    np.save(tmp_path / "f.npy", np.eye(2))
    np.testing.assert_array_equal(read_mask(str(tmp_path / "f.npy"), (0, 1)), np.eye(2))
    np.save(tmp_path / "h.npy", np.eye(2) / 2)
    with pytest.raises(UserError, match=r"holds 0\.5"):
        read_mask(str(tmp_path / "h.npy"), (0, 1))


def test_a_nifti_mask_is_turned_as_its_picture_is(tmp_path):
    labels = (VOLUME > 10).astype(np.uint8)
    flipped = np.diag([-2.0, 3.0, -4.0, 1.0])
    mask = read_mask(str(save_nifti(tmp_path / "m.nii.gz", labels, flipped)), (0, 1))
    picture = read(save_nifti(tmp_path / "p.nii.gz", VOLUME, flipped))
    np.testing.assert_array_equal(mask, picture.values[0] > 10)


def test_masks_in_colour_or_dicom_are_refused(tmp_path):
    Image.fromarray(RGB.astype(np.uint8)).save(tmp_path / "c.png")
    with pytest.raises(UserError, match="a mask in colours"):
        read_mask(str(tmp_path / "c.png"), (0, 1))
    with pytest.raises(UserError, match="masks in DICOM"):
        read_mask(str(save_dicom(tmp_path / "m.dcm", GREY8)), (0, 1))
