"""Every way of packing pixels gives the same picture, and every way of failing one message."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_windowing
from pydicom.uid import MPEG2MPML, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from dicoms import COMPRESSED, LOSSLESS, dataset, item, save, write
from m4oe.data.readers import decoder, facts, form_of, pixels, read_picture
from m4oe.data.readers.window import Window
from m4oe.errors import UserError

PACKAGED = Path(pydicom.__file__).parent / "data" / "test_files"
RNG = np.random.default_rng(0)


def read(path: Path, kind: str = "other"):
    return read_picture((str(path),), kind)


def smooth(rows: int, columns: int, low: int, high: int) -> np.ndarray:
    """A ramp with noise that reaches both ends."""
    ramp = np.add.outer(np.linspace(0, 1, rows), np.linspace(0, 1, columns)) / 2
    ramp[1:-1, 1:-1] += RNG.normal(0, 0.01, (rows - 2, columns - 2))
    return np.rint(low + ramp.clip(0, 1) * (high - low))


DEPTHS = {  # (type, bits stored, signed)
    "8 bits": ("u1", 8), "10 bits": ("u2", 10), "12 bits": ("u2", 12), "16 bits": ("u2", 16),
    "12 bits signed": ("i2", 12), "16 bits signed": ("i2", 16),
}  # fmt: skip


@pytest.mark.parametrize("depth", DEPTHS)
def test_one_picture_in_every_syntax(tmp_path, depth):
    kind, bits = DEPTHS[depth]
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if kind[0] == "i" else (0, 2**bits - 1)
    stored = smooth(65, 70, low, high).astype(kind)
    for name, syntax in LOSSLESS.items():
        picture = read(save(tmp_path / f"{name}.dcm", stored, syntax, BitsStored=bits))
        np.testing.assert_array_equal(picture.values[0], stored, err_msg=name)
        assert form_of((picture.source,), "other") == ("image", 1) and not picture.facts.lossy
    assert len(LOSSLESS) == 7


@pytest.mark.parametrize("name", sorted({*LOSSLESS} - {"big endian"}))
def test_colour_in_every_syntax(tmp_path, name):
    stored = np.stack([smooth(64, 70, 0, 255), smooth(64, 70, 0, 99), smooth(64, 70, 100, 255)], -1).astype("u1")
    picture = read(save(tmp_path / "a.dcm", stored, LOSSLESS[name]), "photo")
    np.testing.assert_array_equal(picture.values, stored.transpose(2, 0, 1))
    assert picture.colour and picture.full_scale == 255


@pytest.mark.parametrize("name", LOSSLESS)
def test_frames_in_every_syntax(tmp_path, name):
    stored = np.stack([smooth(64, 66, n, 2000 + n) for n in range(3)]).astype("u2")
    path = save(tmp_path / "a.dcm", stored, LOSSLESS[name], NumberOfFrames=3)
    picture = read(path)
    np.testing.assert_array_equal(picture.values[0], stored)
    assert form_of((str(path),), "other") == ("volume", 1)
    assert picture.spacing is None and picture.affine is None


# The same picture as different packages wrote it; the mean difference that compression and coarser colour allow.
TWINS = {
    "JPEG 2000": ("MR_small.dcm", "MR_small_jp2klossless.dcm", 0),
    "JPEG-LS": ("MR_small.dcm", "MR_small_jpeg_ls_lossless.dcm", 0),
    "RLE": ("MR_small.dcm", "MR_small_RLE.dcm", 0),
    "implicit": ("MR_small.dcm", "MR_small_implicit.dcm", 0),
    "big endian": ("MR_small.dcm", "MR_small_bigendian.dcm", 0),
    "undefined lengths": ("MR_small.dcm", "MR_small_expb.dcm", 0),
    "excess bytes": ("MR_small.dcm", "MR_small_padded.dcm", 0),
    "JPEG lossless RGB": ("SC_rgb_rle.dcm", "SC_rgb_jpeg_gdcm.dcm", 0),
    "JPEG 2000 RGB": ("SC_rgb_rle.dcm", "SC_rgb_gdcm_KY.dcm", 0),
    "YBR 4:2:2, uncompressed": ("SC_rgb_rle.dcm", "SC_ybr_full_422_uncompressed.dcm", 3),
    "JPEG, RGB": ("SC_rgb_rle.dcm", "SC_rgb_dcmtk_+eb+cr.dcm", 3),
    "JPEG, YBR": ("SC_rgb_rle.dcm", "SC_rgb_dcmtk_+eb+cy+n1.dcm", 3),
    "JPEG, YBR 4:2:2": ("SC_rgb_rle.dcm", "SC_rgb_dcmtk_+eb+cy+s2.dcm", 3),
    "JPEG, YBR 4:4:4": ("SC_rgb_rle.dcm", "SC_rgb_dcmtk_+eb+cy+s4.dcm", 3),
    "JPEG, by gdcm": ("SC_rgb_rle.dcm", "SC_rgb_jpeg_lossy_gdcm.dcm", 3),
    "JPEG-LS, near lossless": ("SC_rgb_jls_lossy_line.dcm", "SC_rgb_jls_lossy_sample.dcm", 0),
    "JPEG 12 bits": ("JPGExtended.dcm", "JPEG-lossy.dcm", 0),
    "big endian RGB": ("SC_rgb_small_odd.dcm", "SC_rgb_small_odd_big_endian.dcm", 0),
}


@pytest.mark.parametrize("name", TWINS)
def test_the_same_picture_packed_by_others(name):
    first, second, most = TWINS[name]
    one, other = read(PACKAGED / first), read(PACKAGED / second)
    assert other.shape == one.shape and np.abs(other.values - one.values).mean() <= most


def test_real_twins(real_data):
    """NM: JPEG lossless, JPEG 2000 and 12-bit JPEG of one picture; CR: JPEG-LS and JPEG 2000; CT: RLE, JPEG 2000."""
    samples, odd = real_data("dicom_samples"), real_data("odd_files")
    lossless = read(samples / "pydicomdata__JPEG-LL.dcm").values
    np.testing.assert_array_equal(lossless, read(samples / "dicom-test-files__NM1_J2KR.dcm").values)
    blurred = read(samples / "pydicom__JPGExtended.dcm").values
    assert np.corrcoef(lossless.ravel(), blurred.ravel())[0, 1] > 0.98 and abs(blurred.mean() - lossless.mean()) < 1
    near, wavelet = (
        read(samples / name).values for name in ("dicom-test-files__RG3_JLSN.dcm", "pydicomdata__RG3_J2KI.dcm")
    )
    assert np.abs(near - wavelet).mean() < 2 and np.corrcoef(near.ravel(), wavelet.ravel())[0, 1] > 0.999
    exact, lossy = (
        read(odd / name).values for name in ("fo-dicom__D_CLUNIE_CT1_RLE_FRAGS.dcm", "fo-dicom__CT1_J2KI.dcm")
    )
    # Padding at -2000 is blurred by compression: without a floor at -1024 HU the means would be 428 HU apart.
    assert abs(exact.mean() - lossy.mean()) < 1 and exact.min() == lossy.min() == -1024
    tiles = [read(samples / "highdicom__sm_image.dcm"), read(odd / "highdicom__sm_image_jpegls_nobot.dcm")]
    np.testing.assert_array_equal(tiles[0].values, tiles[1].values)
    assert tiles[0].shape == (50, 50)


# ---- what numbers mean


def test_a_palette_is_looked_up_and_full_scale_is_of_its_bits(tmp_path):
    stored = np.arange(12, dtype="u1").reshape(3, 4)
    tables = {}
    for colour, factor in (("Red", 3), ("Green", 5), ("Blue", 7)):
        tables[f"{colour}PaletteColorLookupTableDescriptor"] = [12, 0, 8]
        tables[f"{colour}PaletteColorLookupTableData"] = bytes(n * factor for n in range(12))
    path = save(tmp_path / "a.dcm", stored, PhotometricInterpretation="PALETTE COLOR", **tables)
    picture = read(path, "photo")
    np.testing.assert_array_equal(picture.values, np.stack([stored * f for f in (3.0, 5.0, 7.0)]))
    assert picture.full_scale == 255 and form_of((str(path),), "photo") == ("image", 3)


def test_a_modality_table_is_looked_up(tmp_path):
    stored = np.arange(6, dtype="u2").reshape(2, 3)
    table = item(LUTDescriptor=[6, 0, 16], ModalityLUTType="US", LUTData=[0, 10, 20, 100, 200, 1000])
    table["LUTData"].VR = "US"
    table["LUTDescriptor"].VR = "US"
    path = save(tmp_path / "a.dcm", stored, ModalityLUTSequence=[table])
    np.testing.assert_array_equal(read(path).values[0], [[0, 10, 20], [100, 200, 1000]])


CT = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024}


def test_nothing_in_ct_is_below_air(tmp_path):
    stored = np.array([[0, 1024, -976], [2000, 0, -2000]], "i2")
    values = read(save(tmp_path / "a", stored, **CT)).values[0]
    np.testing.assert_array_equal(values, [[-1024, 0, -1024], [976, -1024, -1024]])
    other = read(save(tmp_path / "b", stored, **CT, RescaleType="US")).values[0]
    assert other.min() == -3024


RESCALES = [((2, -1024), {}), ((0.1, 3.5), {}), ((1, -7), {"RescaleSlope": None}), ((3, 0), {"RescaleIntercept": None})]


@pytest.mark.parametrize(("told", "left_out"), RESCALES, ids=str)
def test_a_rescale_is_applied_and_what_is_not_told_of_it_changes_nothing(tmp_path, told, left_out):
    stored = smooth(20, 20, 0, 4000).astype("u2")
    tags = {"RescaleSlope": told[0], "RescaleIntercept": told[1], **left_out}
    values = read(save(tmp_path / "a.dcm", stored, **tags)).values[0]
    np.testing.assert_array_equal(values, (stored * float(told[0]) + told[1]).astype(np.float32))


PADDINGS = {
    "in range": ("u2", 12, 4000, 4000),
    "of the other sign": ("i2", 16, -2000, 63536),
    "above the stored bits": ("u2", 12, 63536, 63536),
}


@pytest.mark.parametrize("name", PADDINGS)
@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_as_dark_as_the_darkest(tmp_path, name, interpretation):
    kind, bits, padded, said = PADDINGS[name]
    stored = np.arange(100, 120).reshape(4, 5).astype(kind)
    stored[0, :2] = np.array(padded).astype(kind)
    made = dataset(stored, BitsStored=bits, PhotometricInterpretation=interpretation)
    made.add_new("PixelPaddingValue", "US" if said > 0 else "SS", said)
    values = read(write(tmp_path / "a.dcm", made)).values[0]
    inside = values.ravel()[2:]
    assert (values[0, :2] == inside.min()).all() and np.ptp(inside) == 17


def test_a_range_of_padding(tmp_path):
    stored = np.arange(12, dtype="u2").reshape(3, 4)
    values = read(save(tmp_path / "a.dcm", stored, PixelPaddingValue=9, PixelPaddingRangeLimit=11)).values[0]
    np.testing.assert_array_equal(values.ravel()[:10], [*range(9), 0])
    assert values.max() == 8


# ---- the window


WINDOWS = {
    "linear": {}, "linear exact": {"VOILUTFunction": "LINEAR_EXACT"}, "sigmoid": {"VOILUTFunction": "SIGMOID"},
}  # fmt: skip


@pytest.mark.parametrize("name", WINDOWS)
def test_a_window_is_recorded_and_not_applied(tmp_path, name):
    stored = np.arange(60, dtype="u2").reshape(6, 10)
    tags = {**CT, "WindowCenter": [-1000, 40], "WindowWidth": [30, 400], **WINDOWS[name]}
    picture = read(save(tmp_path / "a.dcm", stored, BitsStored=8, **tags))
    np.testing.assert_array_equal(picture.values[0], stored - 1024.0)
    assert (picture.window.center, picture.window.width) == (-1000, 30)
    # pydicom's range of output is that of the rescaled 8 bits: -1024 ... -769.
    expected = (apply_windowing(stored - 1024.0, pydicom.dcmread(picture.source)) + 1024) / 255
    np.testing.assert_allclose(picture.window.apply(picture.values[0]), expected, atol=1e-6)


def test_an_inverted_window_shows_what_the_file_would_show(tmp_path):
    stored = np.arange(60, dtype="u2").reshape(6, 10)
    for function in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        tags = {"WindowCenter": 20, "WindowWidth": 30, "BitsStored": 8, "VOILUTFunction": function}
        plain = read(save(tmp_path / "a.dcm", stored, **tags))
        inverse = read(save(tmp_path / "b.dcm", stored, PhotometricInterpretation="MONOCHROME1", **tags))
        shown = 1 - plain.window.apply(plain.values)
        np.testing.assert_allclose(inverse.window.apply(inverse.values), shown, atol=1e-6)


def test_a_table_of_values_is_a_window_too(tmp_path):
    table = item(LUTDescriptor=[4, 2, 8], LUTData=[0, 51, 102, 255])
    table["LUTData"].VR = "US"
    table["LUTDescriptor"].VR = "US"
    stored = np.arange(8, dtype="u1").reshape(2, 4)
    picture = read(save(tmp_path / "a.dcm", stored, VOILUTSequence=[table]))
    expected = np.array([[0, 0, 0, 51], [102, 255, 255, 255]]) / 255
    np.testing.assert_allclose(picture.window.apply(picture.values[0]), expected, atol=1e-6)
    inverse = read(save(tmp_path / "b.dcm", stored, VOILUTSequence=[table], PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_allclose(inverse.window.apply(inverse.values[0]), 1 - expected, atol=1e-6)


def test_a_width_of_one_is_a_threshold():
    np.testing.assert_array_equal(Window(2.0, 1.0).apply(np.array([1.0, 1.5, 2.0])), [0, 0, 1])


@pytest.mark.parametrize("tags", [{"WindowCenter": 5}, {"WindowCenter": 5, "WindowWidth": 0}, {}])
def test_a_window_that_says_nothing_is_none(tmp_path, tags):
    assert read(save(tmp_path / "a.dcm", np.arange(6, dtype="u1").reshape(2, 3), **tags)).window is None


def test_an_overlay_is_not_in_the_picture(tmp_path):
    """In planes of its own (60xx), or in a bit above those stored."""
    stored = smooth(8, 8, 0, 4095).astype("u2")
    made = dataset(stored | 1 << 13, BitsStored=12)
    made.add_new(0x60000010, "US", 8)
    made.add_new(0x60000011, "US", 8)
    made.add_new(0x60000100, "US", 1)
    made.add_new(0x60000102, "US", 0)
    made.add_new(0x60003000, "OW", b"\xff" * 8)
    np.testing.assert_array_equal(read(write(tmp_path / "a.dcm", made)).values[0], stored)


# ---- decoders


def test_a_missing_decoder_is_named(tmp_path, monkeypatch):
    path = save(tmp_path / "a.dcm", smooth(64, 64, 0, 200).astype("u1"), JPEGLSLossless)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hidden"))
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "jpeg_ls.py").write_text("raise ImportError('not here')")
    monkeypatch.setattr(decoder, "_of_thread", threading.local())
    with pytest.raises(UserError, match="need the decoder pyjpegls, which is not installed: pip install pyjpegls"):
        read(path)


def test_every_decoder_is_asked_for_a_syntax_that_pydicom_knows():
    from pydicom.pixels import get_decoder

    for uid, (plugin, _) in decoder.DECODERS.items():
        assert plugin in get_decoder(uid).available_plugins, uid
    assert len(decoder.DECODERS) == 11


def test_an_unknown_syntax_is_an_error_that_does_not_repeat_it(tmp_path):
    made = dataset(smooth(8, 8, 0, 99).astype("u1"))
    write(tmp_path / "a.dcm", made, LOSSLESS["explicit"])
    data = (tmp_path / "a.dcm").read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.77777.1.2.1\0")
    (tmp_path / "a.dcm").write_bytes(data)
    with pytest.raises(UserError, match="packed as an unknown transfer syntax, for which there is no decoder"):
        read(tmp_path / "a.dcm")


def test_a_film_is_refused_by_the_name_of_its_syntax(tmp_path):
    made = dataset(smooth(8, 8, 0, 99).astype("u1"))
    made.PixelData = pydicom.encaps.encapsulate([b"film"])
    made["PixelData"].is_undefined_length = True
    made.file_meta.TransferSyntaxUID = MPEG2MPML
    made.save_as(tmp_path / "b.dcm")
    with pytest.raises(UserError, match="packed as 'MPEG2 Main Profile / Main Level', for which there is no decoder"):
        read(tmp_path / "b.dcm")


STUCK = "import time\ndef _decode(*_): time.sleep(60)\n"
CRASHED = "import os\ndef _decode(*_): os.abort()\n"
GREEDY = "def _decode(*_): return bytearray(2**44)\n"


def decoder_that(monkeypatch, tmp_path, what: str) -> None:
    """The decoding process with another way of decoding."""
    text = (
        Path(decoder.__file__)
        .read_text()
        .replace('\nif __name__ == "__main__":', f'\n{what}\nif __name__ == "__main__":')
    )
    (tmp_path / "decoder.py").write_text(text)
    monkeypatch.setattr(decoder, "__file__", str(tmp_path / "decoder.py"))
    monkeypatch.setattr(decoder, "_of_thread", threading.local())


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (STUCK, "took longer than 1 seconds; damaged"),
        (CRASHED, "crashed their decoder"),
        (GREEDY, "more memory than a picture"),
    ],
    ids=["hangs", "crashes", "takes all memory"],
)
def test_a_decoder_that_fails_is_one_message(tmp_path, monkeypatch, what, reason):
    decoder_that(monkeypatch, tmp_path, what)
    monkeypatch.setattr(decoder, "SECONDS", 1)
    path, start = save(tmp_path / "a.dcm", smooth(64, 64, 0, 200).astype("u1"), JPEG2000Lossless), time.monotonic()
    with pytest.raises(UserError, match=reason):
        read(path)
    assert time.monotonic() - start < 20


def test_after_a_crash_the_next_file_is_read(tmp_path, monkeypatch):
    path = save(tmp_path / "a.dcm", smooth(64, 64, 0, 200).astype("u1"), JPEG2000Lossless)
    expected = read(path).values
    decoder._process().child.kill()
    np.testing.assert_array_equal(read(path).values, expected)


def test_threads_and_forks_have_a_decoder_each(tmp_path):
    path = save(tmp_path / "a.dcm", smooth(64, 64, 0, 200).astype("u1"), JPEG2000Lossless)
    expected, found = read(path).values, []
    threads = [threading.Thread(target=lambda: found.extend(read(path).values for _ in range(5))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 10 and all(np.array_equal(values, expected) for values in found)
    code = (
        "import os, sys, numpy as np; from m4oe.data.readers import read_picture\n"
        "first = read_picture((sys.argv[1],), 'other').values\n"
        "if os.fork() == 0:\n"
        "    os._exit(not np.array_equal(read_picture((sys.argv[1],), 'other').values, first))\n"
        "sys.exit(os.wait()[1])"
    )
    if hasattr(os, "fork"):
        assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 0


# ---- bombs


def test_a_header_that_promises_too_much_is_refused_before_memory_is_asked_for(tmp_path):
    import tracemalloc

    made = {
        "plain": save(tmp_path / "plain.dcm", np.arange(64, dtype="u2").reshape(8, 8), Rows=60000, Columns=60000),
        "frames": save(tmp_path / "frames.dcm", np.arange(64, dtype="u2").reshape(8, 8), NumberOfFrames=2**30),
    }
    for name, syntax in (("JPEG-LS", JPEGLSLossless), ("JPEG 2000", JPEG2000Lossless), ("RLE", RLELossless)):
        packed = dataset(smooth(64, 64, 0, 200).astype("u1"))
        packed.compress(syntax)
        packed.Rows = packed.Columns = 60000
        made[name] = tmp_path / f"{name}.dcm"
        packed.save_as(made[name])
    for name, path in made.items():
        tracemalloc.start()
        with pytest.raises(
            UserError, match=r"promises .* pixels; above 1,000,000,000 a picture must be made smaller"
        ) as caught:
            read(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20e6 and str(path) in str(caught.value), name


def test_compressed_pixels_of_another_size_than_the_header_says(tmp_path):
    """Decoders allocate by the stream's own header: it must be that of the file."""
    for syntax in COMPRESSED[1:]:
        made = dataset(smooth(64, 64, 0, 200).astype("u1"))
        made.compress(syntax)
        made.Rows = 128
        made.save_as(tmp_path / "a.dcm")
        with pytest.raises(UserError, match="its header says 128 x 64 pixels, and the compressed ones 64 x 64"):
            read(tmp_path / "a.dcm")


@pytest.mark.parametrize("tags", [{"Rows": 63}, {"Columns": 63}, {"BitsAllocated": 8, "BitsStored": 8}])
def test_more_pixels_than_the_header_says(tmp_path, tags):
    """With fewer columns than there are, all rows would be sheared."""
    with pytest.raises(UserError, match=r"holds 8,192 bytes of pixels where its header says [0-9,]+; damaged"):
        read(save(tmp_path / "a.dcm", smooth(64, 64, 0, 4000).astype("u2"), **tags))


def test_a_deflated_file_that_grows_without_end(tmp_path, monkeypatch):
    path = save(tmp_path / "a.dcm", np.arange(2**16, dtype="u2").reshape(256, 256), LOSSLESS["deflated"])
    assert read(path).shape == (256, 256)
    monkeypatch.setattr(pixels, "MOST_INFLATED", 50_000)
    with pytest.raises(UserError, match="unpacks to more than 50,000 bytes"):
        read(path)


@pytest.mark.parametrize("syntax", COMPRESSED, ids=["RLE", "JPEG-LS", "JPEG 2000"])
def test_compressed_pixels_that_are_cut_short(tmp_path, syntax):
    made = dataset(smooth(64, 64, 0, 4000).astype("u2"), BitsStored=12)
    made.compress(syntax)
    frame = pydicom.encaps.get_frame(made.PixelData, 0, number_of_frames=1)
    for share in (0.2, 0.6, 0.95):
        made.PixelData = pydicom.encaps.encapsulate([frame[: int(share * len(frame))]])
        made.save_as(tmp_path / "a.dcm")
        with pytest.raises(UserError, match=r"cut short|damaged"):
            read(tmp_path / "a.dcm")


def test_jpeg_is_marked_as_lossy_by_its_syntax():
    assert read(PACKAGED / "SC_rgb_jpeg_dcmtk.dcm").facts.lossy
    assert str(JPEGBaseline8Bit).endswith(facts.LOSSY[0])
