"""Damaged files by a seeded fuzzer: each is a picture or one message, in bounded time and memory; never a crash."""

from __future__ import annotations

import gzip
import io
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image

from dicoms import LOSSLESS, item, save, slice_tags
from m4oe.data.readers import form_of, read_picture
from m4oe.data.readers.picture import MOST_PIXELS
from m4oe.errors import UserError

MUTATIONS = 2000
SECONDS = 20.0  # for one file on a busy machine; a good one takes 0.01
MOST_MEMORY = 1.5 * 2**30
HEAD = 700  # bytes in which most of what a header says stands
NAMES = ("MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_bigendian.dcm",
         "SC_rgb_jpeg_gdcm.dcm", "SC_rgb_dcmtk_+eb+cy+s2.dcm", "JPGExtended.dcm", "SC_rgb_rle_2frame.dcm",
         "SC_ybr_full_422_uncompressed.dcm", "image_dfl.dcm", "CT_small.dcm", "JPEGLSNearLossless_16.dcm",
         "UN_sequence.dcm", "rtdose_rle_1frame.dcm", "SC_rgb_small_odd.dcm", "liver_1frame.dcm")  # fmt: skip


def seeds(folder: Path) -> list[Path]:
    """Sound files of every format and transfer syntax, made here or packaged with pydicom and nibabel."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 4096, (64, 64), dtype=np.uint16)
    made = [save(folder / f"{name}.dcm", grey, syntax, BitsStored=12) for name, syntax in LOSSLESS.items()]
    groups = [item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, z])]) for z in range(3)]
    plane = {"PlaneOrientationSequence": [item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
             "PixelMeasuresSequence": [item(PixelSpacing=[1.0, 1.0])]}  # fmt: skip
    stack = rng.integers(0, 4096, (3, 16, 16), dtype=np.uint16)
    shared = [item(**plane)]
    made.append(
        save(folder / "enhanced.dcm", stack, NumberOfFrames=3, SharedFunctionalGroupsSequence=shared,
             PerFrameFunctionalGroupsSequence=groups)
    )  # fmt: skip
    window = {
        "WindowCenter": 40,
        "WindowWidth": 400,
        "PixelPaddingValue": 0,
        "PhotometricInterpretation": "MONOCHROME1",
    }
    made.append(save(folder / "slice.dcm", grey, **slice_tags(0), **window))
    for name in ("a.png", "a.jpg", "a.tif", "a.bmp", "a.pgm"):
        Image.fromarray((grey[:32, :32] // 16).astype(np.uint8)).save(folder / name)
        made.append(folder / name)
    np.save(folder / "a.npy", grey[:20])
    np.savez_compressed(folder / "a.npz", grey[:20])
    for name in ("b.nii", "b.nii.gz"):
        nib.save(nib.Nifti1Image(stack.astype(np.int16), np.diag([1.0, 2.0, 3.0, 1.0])), folder / name)
    nib.save(nib.Nifti2Image(stack.astype(np.float32), np.eye(4)), folder / "c.nii")
    made += [folder / name for name in ("a.npy", "a.npz", "b.nii", "b.nii.gz", "c.nii")]
    packaged = Path(pydicom.__file__).parent / "data" / "test_files"
    slices = Path(nib.__file__).parent / "nicom" / "tests" / "data"
    made += [packaged / name for name in NAMES] + [slices / "decimal_rescale.dcm", slices / "csa_slice_norm.dcm"]
    made += [Path(nib.__file__).parent / "tests" / "data" / "anatomical.nii"]
    return [path for path in made if path.is_file()]


def place(rng: np.random.Generator, length: int) -> int:
    """Anywhere, but more often in the header."""
    return int(rng.integers(0, min(length, HEAD) if rng.random() < 0.7 else length))


def flipped(data: bytearray, rng: np.random.Generator) -> bytearray:
    for _ in range(int(rng.integers(1, 8))):
        data[place(rng, len(data))] ^= 1 << int(rng.integers(0, 8))
    return data


def overwritten(data: bytearray, rng: np.random.Generator) -> bytearray:
    start, count = place(rng, len(data)), int(rng.integers(1, 9))
    filler = [bytes(count), b"\xff" * count, rng.bytes(count)][int(rng.integers(0, 3))]
    data[start : start + count] = filler
    return data


def truncated(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data[: int(rng.integers(1, len(data)))]


def cut(data: bytearray, rng: np.random.Generator) -> bytearray:
    start = place(rng, len(data))
    del data[start : start + int(rng.integers(1, 64))]
    return data


def inserted(data: bytearray, rng: np.random.Generator) -> bytearray:
    start = place(rng, len(data))
    data[start:start] = rng.bytes(int(rng.integers(1, 64)))
    return data


def repeated(data: bytearray, rng: np.random.Generator) -> bytearray:
    start, count = place(rng, len(data)), int(rng.integers(1, 256))
    data[start:start] = data[start : start + count]
    return data


def enlarged(data: bytearray, rng: np.random.Generator) -> bytearray:
    """A number of the header made large: lengths, counts, rows."""
    start = place(rng, len(data)) & ~1
    data[start : start + 2] = int(rng.integers(2**12, 2**16)).to_bytes(2, "little" if rng.random() < 0.8 else "big")
    return data


WAYS: tuple[Callable[[bytearray, np.random.Generator], bytearray], ...] = (
    flipped, overwritten, truncated, cut, inserted, repeated, enlarged,
)  # fmt: skip


def outcome(path: Path) -> str:
    """ "picture" or "message"; fails for anything else."""
    start = time.monotonic()
    try:
        form = form_of((str(path),), "other")
        picture = read_picture((str(path),), "other")
    except UserError as error:
        said = str(error)
        assert str(path) in said and "\n" not in said and len(said) < 600, said
        return "message"
    finally:
        assert time.monotonic() - start < SECONDS, path
    assert np.isfinite(picture.values).all() and 0 < picture.values.size <= MOST_PIXELS
    assert form == (("image", "volume")[picture.values.ndim - 3], len(picture.values))
    return "picture"


def peak_memory() -> float:
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def fuzzed(folder: Path, numbers: range) -> Counter[str]:
    sound = [(path.name, path.read_bytes()) for path in seeds(folder)]
    outcomes: Counter[str] = Counter()
    before = peak_memory()
    for number in numbers:
        rng = np.random.default_rng(number)
        name, data = sound[number % len(sound)]
        changed = bytearray(data)
        for _ in range(int(rng.integers(1, 3))):
            changed = WAYS[int(rng.integers(0, len(WAYS)))](changed, rng) or bytearray(b"\0")
        path = folder / f"mutated_{number}_{name}"
        path.write_bytes(changed)
        outcomes[outcome(path)] += 1
        path.unlink()
    assert peak_memory() - before < MOST_MEMORY
    return outcomes


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.npy", "a.npz", "a.png"])
def test_a_header_that_promises_too_much_is_refused_before_memory_is_asked_for(tmp_path, name):
    """60,000 x 60,000 pixels; of DICOM in test_data_dicom_pixels.py."""
    import tracemalloc

    bomb(tmp_path / name)
    tracemalloc.start()
    with pytest.raises(UserError, match=r"promises .*|damaged"):
        read_picture((str(tmp_path / name),), "other")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def bomb(path: Path) -> None:
    side = 60_000
    if path.suffix == ".png":
        chunk = b"IHDR" + side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
        data = len(chunk[4:]).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    elif path.suffix in (".npy", ".npz"):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (side, side)})
        path.write_bytes(header.getvalue() + bytes(100))
        if path.suffix == ".npz":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("a.npy", header.getvalue() + bytes(100))
    else:
        header = nib.Nifti2Header()
        header.set_data_shape((side, side, 1))
        data = header.binaryblock + bytes(4 + 1000)
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def test_a_file_that_cannot_hold_what_it_promises(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((300, 300, 300), np.float32), np.eye(4)), tmp_path / "a.nii")
    data = (tmp_path / "a.nii").read_bytes()[:5000]
    for name, content in (("short.nii", data), ("short.nii.gz", gzip.compress(data))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="cut short: promises 108,000,000 bytes of pixels"):
            read_picture((str(tmp_path / name),), "other")


def test_the_seeds_are_sound(tmp_path):
    found = seeds(tmp_path)
    assert len(found) >= 35
    read = sum(outcome(path) == "picture" for path in found)
    assert read >= len(found) - 5  # the others are a dose, a segmentation, a sequence, and a picture of one value


def test_two_thousand_damaged_files(tmp_path, capfd, caplog):
    outcomes = fuzzed(tmp_path, range(MUTATIONS))
    assert outcomes.total() == MUTATIONS and min(outcomes["picture"], outcomes["message"]) > MUTATIONS / 10
    assert capfd.readouterr() == ("", "") and caplog.text == ""


# What comes out of each real file that is no picture; every other one is one. The counts are of the folders.
NO_PICTURE = {
    "dicom_samples": {
        "highdicom__seg_image_ct_binary.dcm": "a segmentation", "pydicom__liver_1frame.dcm": "a segmentation",
        "pydicomdata__liver_deflate.dcm": "a segmentation", "pydicom__rtdose.dcm": "a dose",
        "nibabel__decimal_rescale.dcm": "a constant image",
    },
    "odd_files": {
        "DICOMSamples__CT_Implicit_Little_Headless_Retired.dcm": "too old a file", "fo-dicom__GH1146.dcm": "cut short",
        "fo-dicom__GH177_D_CLUNIE_CT1_IVRLE_BigEndian_undefined_length.dcm": "damaged",
        "fo-dicom__GH220.dcm": "no rows of pixels", "fo-dicom__GH487.dcm": "no rows of pixels",
        "nibabel__analyze.hdr": "not a picture", "nibabel__minc1_1_scale.mnc": "not a picture",
        "nibabel__nifti1.hdr": "not a picture", "nibabel__phantom_truncated.PAR": "not a picture",
        "nibabel__siemens_dwi_0.dcm.gz": "unpack it", "pydicom__ExplVR_LitEndNoMeta.dcm": "a plan",
        "pydicom__UN_sequence.dcm": "no rows of pixels", "pydicom__empty_charset_LEI.dcm": "no rows of pixels",
        "pydicom__no_meta_group_length.dcm": "no rows of pixels",
        "pydicom__reportsi_with_empty_number_tags.dcm": "a report", "pydicom__rtstruct.dcm": "contours",
        "pydicom__test-SR.dcm": "a report",
        "pydicomdata__emri_small_jpeg_2k_lossless_too_short.dcm": "no rows of pixels",
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "pictures"), [("dicom_samples", 35), ("odd_files", 9)])
def test_every_real_file_is_a_picture_or_the_message_that_it_should_be(real_data, name, pictures):
    files = [path for path in sorted(real_data(name).iterdir()) if path.suffix not in (".md", ".csv")]
    for path in files:
        if path.name not in NO_PICTURE[name]:
            assert outcome(path) == "picture", path
            continue
        with pytest.raises(UserError, match=NO_PICTURE[name][path.name]):
            read_picture((str(path),), "other")
    assert len(files) == pictures + len(NO_PICTURE[name])
