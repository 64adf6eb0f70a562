"""Mammograms: every bit kept, side and view in a stated order, the breast found, masks back on the whole picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pydicom.uid import (
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalMammographyXRayImageStorageForProcessing,
)

from cohorts import study
from dicoms import item, save
from m4oe.data.check import check_studies
from m4oe.data.dataset import ExamDataset
from m4oe.data.intake import cohorts_from
from m4oe.data.readers import mammogram as mammogram_reader
from m4oe.data.readers import read_mask, read_picture
from m4oe.data.readers.dicom import facts_of
from m4oe.data.readers.mammogram import MODIFIER_CODES, VIEW_CODES, breast_box
from m4oe.data.table import load_cohort
from m4oe.data.transforms import OUTSIDE, fit
from m4oe.errors import UserError
from m4oe.schema import Schema, Stream, TaskSpec

RNG = np.random.default_rng(0)


def breast(rows: int = 200, columns: int = 160, top: int = 30, bottom: int = 170, reach: int = 90) -> np.ndarray:
    """16 bits: a bright half disc on the left of a dark, slightly noisy background, and a label in the corner."""
    y, x = np.mgrid[:rows, :columns]
    middle, radius = (top + bottom) / 2, (bottom - top) / 2
    inside = ((y - middle) / radius) ** 2 + (x / reach) ** 2 <= 1
    pixels = np.where(inside, 20_000 + 100 * y + x, RNG.integers(0, 200, (rows, columns)))
    pixels[5:15, columns - 20 : columns - 5] = 65_535
    return pixels.astype("u2")


def mammogram(path: Path, pixels: np.ndarray | None = None, **tags: object) -> Path:
    return save(path, breast() if pixels is None else pixels, **{"Modality": "MG", **tags})


def read(path: Path, kind: str = "mammogram"):
    return read_picture((str(path),), kind)


def test_sixteen_bits_are_kept_and_inverted_where_told(tmp_path):
    pixels = breast()
    plain = read(mammogram(tmp_path / "a.dcm", pixels))
    np.testing.assert_array_equal(plain.values[0], pixels)
    inverse = read(mammogram(tmp_path / "b.dcm", 65_535 - pixels, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(inverse.values[0], pixels)
    assert plain.focus == inverse.focus and len(np.unique(plain.values)) > 10_000


# ---- side and view


REGION = [item(AnatomicRegionModifierSequence=[item(CodeValue="G-A100")])]
FRAME = [item(FrameAnatomySequence=[item(FrameLaterality="R")])]
# Each source alone, in the order in which they are believed.
SIDES = {
    "ImageLaterality": {"ImageLaterality": "R"},
    "FrameLaterality": {"SharedFunctionalGroupsSequence": FRAME},
    "Laterality": {"Laterality": "R"},
    "AnatomicRegionSequence": {"AnatomicRegionSequence": REGION},
    "ViewPosition": {"ViewPosition": "RMLO"},
    "SeriesDescription": {"SeriesDescription": "R CC for SMITH"},
    "ProtocolName": {"ProtocolName": "right mammogram"},
}
VIEWS = {
    "ViewPosition": {"ViewPosition": "MLO"},
    "ViewCodeSequence": {"ViewCodeSequence": [item(CodeValue="399368009")]},
    "SeriesDescription": {"SeriesDescription": "routine LMLO"},
    "ProtocolName": {"ProtocolName": "MLO"},
}


def opposite(tags: dict) -> dict:
    """The same source, saying left or CC."""
    swaps = {"R": "L", "RMLO": "LMLO", "R CC for SMITH": "L CC", "right mammogram": "left", "MLO": "CC"}
    swaps |= {"routine LMLO": "routine LCC"}
    codes = {"G-A100": "G-A101", "399368009": "399162004"}

    def swapped(value):
        if isinstance(value, str):
            return codes.get(value, swaps.get(value, value))
        if isinstance(value, list):
            return [item(**{element.keyword: swapped(_plain(element)) for element in one}) for one in value]
        return value

    return {name: swapped(value) for name, value in tags.items()}


def _plain(element):
    return list(element.value) if element.VR == "SQ" else str(element.value)


@pytest.mark.parametrize("name", SIDES)
def test_each_source_alone_tells_the_side(tmp_path, name):
    assert facts_of(mammogram(tmp_path / "a.dcm", **SIDES[name])).view.side == "right"
    assert facts_of(mammogram(tmp_path / "b.dcm", **opposite(SIDES[name]))).view.side == "left"


@pytest.mark.parametrize("name", VIEWS)
def test_each_source_alone_tells_the_view(tmp_path, name):
    assert facts_of(mammogram(tmp_path / "a.dcm", **VIEWS[name])).view.view == "MLO"
    assert facts_of(mammogram(tmp_path / "b.dcm", **opposite(VIEWS[name]))).view.view == "CC"


def _pairs(sources: dict) -> list[tuple[str, str]]:
    names = list(sources)
    return [(a, b) for n, a in enumerate(names) for b in names[n + 1 :] if a != b]


@pytest.mark.parametrize(("first", "second"), _pairs(SIDES))
def test_an_earlier_source_is_believed_and_the_other_is_noted(tmp_path, first, second):
    view = facts_of(mammogram(tmp_path / "a.dcm", **SIDES[first], **opposite(SIDES[second]))).view
    assert view.side == "right" and f"{first} says right and {second} left; right is taken" in view.notes


@pytest.mark.parametrize(("first", "second"), _pairs(VIEWS))
def test_an_earlier_view_is_believed_and_the_other_is_noted(tmp_path, first, second):
    view = facts_of(mammogram(tmp_path / "a.dcm", **VIEWS[first], **opposite(VIEWS[second]))).view
    assert view.view == "MLO" and f"{first} says MLO and {second} CC; MLO is taken" in view.notes


@pytest.mark.parametrize(
    "tags", [{}, {"Laterality": "B"}, {"SeriesDescription": "left and right"}, {"SeriesDescription": "LMLO RMLO"}]
)
def test_no_side_is_made_up(tmp_path, tags):
    view = facts_of(mammogram(tmp_path / "a.dcm", **tags)).view
    assert view.side is None and view.notes == ()


WORDS = {
    "LCCID": ("left", "CC", "implant displaced"),
    "R MLO S": ("right", "MLO", "spot compression"),
    "CCM": (None, "CC", "magnification"),
    "XCCL": (None, "XCCL", None),
    "LMO": (None, "LMO", None),
    "ML": (None, "ML", None),
}


@pytest.mark.parametrize("word", WORDS)
def test_words_of_a_view(tmp_path, word):
    side, view, modifier = WORDS[word]
    found = facts_of(mammogram(tmp_path / "a.dcm", ViewPosition=word)).view
    assert (found.side, found.view, found.modifiers) == (side, view, (modifier,) if modifier else ())


def test_modifiers_stand_beside_the_view_or_within_its_code(tmp_path):
    spot, large = item(CodeValue="R-102D7"), item(CodeValue="399163009")
    tags = {
        "ViewCodeSequence": [item(CodeValue="R-10242", ViewModifierCodeSequence=[spot])],
        "ViewModifierCodeSequence": [large],
    }
    picture = read(mammogram(tmp_path / "a.dcm", **tags))
    assert picture.facts.view.modifiers == ("magnification", "spot compression")
    assert set(picture.notes) == {"a view with magnification", "a view with spot compression"}


def test_codes_are_those_of_the_standard():
    """pydicom carries the standard's context groups 4014 and 4015."""
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    for table, group in ((VIEW_CODES, codes.cid4014), (MODIFIER_CODES, codes.cid4015)):
        known = [getattr(group, name) for name in group.dir()]
        for code in table:
            scheme = "SCT" if code.isdigit() else "SRT"
            assert Code(code, scheme, "") in known, code
    assert len(VIEW_CODES) == 20


# ---- what should be known


def test_intent_is_told_by_tag_else_by_class(tmp_path):
    told = {
        "PresentationIntentType": "FOR PROCESSING",
        "SOPClassUID": DigitalMammographyXRayImageStorageForPresentation,
    }
    assert facts_of(mammogram(tmp_path / "a.dcm", **told)).intent == "processing"
    by_class = {"SOPClassUID": DigitalMammographyXRayImageStorageForProcessing}
    assert facts_of(mammogram(tmp_path / "b.dcm", **by_class)).intent == "processing"
    assert facts_of(mammogram(tmp_path / "c.dcm")).intent is None
    assert any("FOR PROCESSING: raw" in note for note in read(tmp_path / "a.dcm").notes)


NOTES = {
    "an implant": ({"BreastImplantPresent": "YES"}, "a breast with an implant"),
    "a displaced implant": ({"ViewPosition": "MLOID"}, "a breast with an implant"),
    "a wrong modality": ({"Modality": "CR"}, "its Modality says CR, where one of a mammogram is MG"),
    "no modality": ({"Modality": ""}, "its Modality is missing or unknown, where one of a mammogram is MG"),
    "burnt-in text": ({"BurnedInAnnotation": "YES"}, "it says that text is burnt into its pixels"),
}


@pytest.mark.parametrize("name", NOTES)
def test_what_should_be_known_is_noted(tmp_path, name):
    tags, note = NOTES[name]
    assert any(note in found for found in read(mammogram(tmp_path / "a.dcm", **tags)).notes)
    assert read(mammogram(tmp_path / "b.dcm")).notes == ()


def test_check_reports_notes_and_a_table_that_contradicts_the_file(tmp_path):
    lines = ["exam,patient,path,side,y"]
    for n in range(24):
        side = "R" if n % 2 else "L"
        tags = {"ImageLaterality": "L" if n == 5 else side, "BurnedInAnnotation": "YES" if n < 3 else "NO"}
        mammogram(tmp_path / f"{n}.dcm", breast(), ViewPosition="CC", **tags)
        lines.append(f"E{n},P{n},{n}.dcm,{side},{n % 3 % 2}")
    inputs = {"cc": {"column": "path", "kind": "mammogram", "modality": "ffdm", "laterality": "side"}}
    tasks = {"y": {"kind": "binary", "column": "y"}}
    findings = check_studies(
        [study(tmp_path, "\n".join(lines) + "\n", exam="exam", patient="patient", inputs=inputs, tasks=tasks)]
    )
    said = [str(problem) for problem in findings.problems]
    burnt = [message for message in said if "burnt into its pixels" in message]
    assert len(burnt) == 1 and "row 2, column 'path'" in burnt[0] and "(and 2 more of 'cc')" in burnt[0]
    (contrary,) = [message for message in said if "the table says right and the file left" in message]
    assert "row 7" in contrary


# ---- a side and a view that only the header tells


BREASTS = {
    name: {"column": name, "kind": "mammogram", "modality": name[:4], "laterality": "side"}
    for name in ("ffdm_cc", "ffdm_mlo", "synthetic2d_cc", "synthetic2d_mlo")
}
LABEL = {"y": {"kind": "binary", "column": "y"}}


def export(folder: Path) -> Path:
    """As a scanner writes it: names that say nothing."""
    number = 0
    for side in "LR":
        for view in ("CC", "MLO"):
            for kinds in (["ORIGINAL", "PRIMARY"], ["DERIVED", "PRIMARY", "TOMOSYNTHESIS", "GENERATED_2D"]):
                mammogram(folder / f"IM{number:04}", ImageLaterality=side, ViewPosition=view, ImageType=kinds)
                number += 1
    return folder


def test_a_folder_of_raw_dicom_is_two_breasts_of_all_inputs(tmp_path):
    trained = study(tmp_path, "exam,side,y\n", exam="exam", inputs=BREASTS, tasks=LABEL)
    (cohort,) = cohorts_from([str(export(tmp_path / "patient"))], [trained])
    assert sorted(cohort.exams) == ["patient_left", "patient_right"]
    for name in BREASTS:
        for exam, paths, side in zip(cohort.exams, cohort.paths[name], cohort.sides[name]):
            told = facts_of(paths[0])
            assert side == told.view.side == exam.rpartition("_")[2]
            assert name == f"{'synthetic2d' if told.synthetic else 'ffdm'}_{told.view.view.lower()}"


def test_an_exam_of_both_sides_is_not_parted(tmp_path):
    names = [f"{side}_{view}" for side in ("left", "right") for view in ("cc", "mlo")]
    shared = {"kind": "mammogram", "modality": "ffdm"}
    inputs = {name: {"column": name, "laterality": name.partition("_")[0], **shared} for name in names}
    trained = study(tmp_path, "exam,y\n", exam="exam", inputs=inputs, tasks=LABEL)
    for n, (side, view) in enumerate((side, view) for side in "LR" for view in ("CC", "MLO")):
        mammogram(tmp_path / "patient" / f"IM{n}", ImageLaterality=side, ViewPosition=view)
    (cohort,) = cohorts_from([str(tmp_path / "patient")], [trained])
    assert list(cohort.exams) == ["patient"] and all(paths[0] is not None for paths in cohort.paths.values())
    assert cohort.sides["right_cc"][0] == "right" and cohort.sides["left_mlo"][0] == "left"


def test_an_empty_cell_is_filled_by_the_header_and_the_breast_is_mirrored(tmp_path):
    stream = Stream(name="cc", input="cc", modality="ffdm", kind="mammogram", form="image", channels=1, size=(64, 64),
                    laterality="told")  # fmt: skip
    task = TaskSpec(name="y", kind="binary", classes=("0", "1"), prior=(0.5,), weights=(1, 1))
    inputs = {"cc": {"column": "path", "kind": "mammogram", "modality": "ffdm", "laterality": "side"}}
    pixels = breast()
    mammogram(tmp_path / "r.dcm", np.fliplr(pixels), ImageLaterality="R")
    mammogram(tmp_path / "l.dcm", pixels, ImageLaterality="L")
    mammogram(tmp_path / "n.dcm")
    rows = "exam,path,side,y\na,r.dcm,,1\nb,l.dcm,L,0\nc,n.dcm,,0\n"
    cohort = load_cohort(study(tmp_path, rows, exam="exam", inputs=inputs, tasks=LABEL))
    table = pd.DataFrame({"study": "s", "exam": list("abc")})
    samples = ExamDataset([cohort], table, Schema(streams=(stream,), tasks=(task,)))
    right, left = (samples[n].inputs["cc"] for n in range(2))
    assert (right - left).abs().mean() < 0.02 < 0.1 < (right.flip(-1) - left).abs().mean()  # a pixel's rounding apart
    with pytest.raises(UserError, match="column 'side' is empty; write left or right"):
        samples[2]


# ---- the breast


def test_the_box_holds_the_breast_and_little_else():
    (top, bottom), (left, right) = breast_box(breast())
    assert 20 <= top <= 30 and 170 <= bottom <= 180 and left == 0 and 90 <= right <= 100


@pytest.mark.parametrize("turn", [np.fliplr, np.flipud, np.rot90, lambda a: np.kron(a, np.ones((6, 6), a.dtype))])
def test_the_box_turns_with_the_picture(turn):
    marked = np.zeros((200, 160), bool)
    (top, bottom), (left, right) = breast_box(breast())
    marked[top:bottom, left:right] = True
    expected = [np.flatnonzero(turn(marked).any(1 - axis)) for axis in (0, 1)]
    found = breast_box(turn(breast()))
    tolerance = 0.03 * max(turn(marked).shape)
    for (start, stop), places in zip(found, expected):
        assert abs(start - places[0]) <= tolerance and abs(stop - 1 - places[-1]) <= tolerance


@pytest.mark.parametrize("shape", [(256, 200), (257, 200), (1000, 800), (2294, 1914), (800, 1000)])
def test_a_box_found_on_few_pixels_is_that_found_on_all(shape, monkeypatch):
    """To within the distance of the pixels that are looked at: of 256 rows all, of 257 every second."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    inside = ((rows - shape[0] / 2) / (0.4 * shape[0])) ** 2 + (columns / (0.7 * shape[1])) ** 2 < 1
    values = (np.where(inside, 2000.0, 100.0) + RNG.normal(0, 20, shape)).astype(np.float32)
    looked_at, otsu = [], mammogram_reader._otsu
    monkeypatch.setattr(mammogram_reader, "_otsu", lambda few: looked_at.append(few.shape) or otsu(few))
    found = np.array(breast_box(values))
    monkeypatch.setattr(mammogram_reader, "COARSE", max(shape))
    everything = np.array(breast_box(values))
    few, all_ = looked_at
    assert all_ == shape and 128 <= max(few) <= 256
    assert np.abs(found - everything).max() <= (0 if max(shape) <= 256 else -(-max(shape) // 256))


def test_where_nothing_stands_out_the_box_is_the_picture():
    noise = RNG.integers(0, 65_535, (50, 40))
    specks = np.zeros((200, 200))
    specks[::40, ::40] = 1
    for values in (noise, specks):
        assert breast_box(values) == tuple((0, length) for length in values.shape)


def test_only_a_dicom_mammogram_is_cropped(tmp_path):
    path = mammogram(tmp_path / "a.dcm")
    assert read(path).focus is not None and read(path).shape == (200, 160)
    assert read(path, "xray").focus is None
    np.save(tmp_path / "a.npy", breast())
    assert read(tmp_path / "a.npy").focus is None


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_mask_comes_back_to_the_whole_picture(mirrored):
    """The network sees the focus alone; a mask of the whole picture goes there and comes back, place by place."""
    shape, focus = (200, 160), ((30, 170), (0, 90))
    way = fit(shape, (140, 90), mirrored=mirrored, focus=focus)
    mask = torch.zeros(shape, dtype=torch.long)
    mask[60:100, 20:70] = 1
    seen = way.apply_mask(mask)
    assert seen.shape == (140, 90) and (seen != OUTSIDE).all()
    expected = mask[30:170, :90]
    assert torch.equal(seen, expected.flip(-1) if mirrored else expected)
    back = way.invert(torch.nn.functional.one_hot(seen, 2).permute(2, 0, 1).float()).argmax(0)
    assert torch.equal(back, mask)


def test_the_focus_fills_the_grid_and_keeps_its_proportion():
    focus = ((10, 110), (0, 50))
    way = fit((400, 300), (64, 64), focus=focus)
    assert way.inner == (64, 32)
    values = torch.rand(1, 400, 300)
    assert torch.equal(way.apply(values), fit((100, 50), (64, 64)).apply(values[:, 10:110, :50]))


def test_a_mask_file_of_a_mammogram_has_its_whole_shape(tmp_path):
    np.save(tmp_path / "m.npy", (breast() > 15_000).astype("u1"))
    assert read_mask(str(tmp_path / "m.npy"), (0, 1)).shape == read(mammogram(tmp_path / "a.dcm")).geometry.shape


def test_a_real_film(real_data):
    """A digitised film: the air is not black, the frame is white, a name is blacked out, and the Modality is wrong."""
    picture = read(real_data("dicom_samples") / "dicom-test-files__MG1_J2KI.dcm")
    assert picture.facts.view.view == "MLO" and "its Modality says RG" in picture.notes[0]
    (top, bottom), (left, right) = picture.focus
    assert left == 0 and 2000 < right < 2300 and top < 100 and bottom > 4500


def test_a_real_header(real_data):
    picture = read(real_data("dicom_samples") / "DICOMSamples__MG_Explicit_Little.dcm")
    assert (picture.facts.intent, picture.facts.view.side, picture.facts.view.view) == ("presentation", "right", "CC")
