"""A folder of raw DICOM mammograms, with nothing said about it: each breast gets its own pictures, by their headers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from cohorts import study
from dicoms import save
from m4oe import cli
from m4oe.data.intake import cohorts_from
from m4oe.data.sources import preparation, prepare
from m4oe.data.sources.twins import write_twin
from m4oe.errors import UserError
from small_runs import trained

BREASTS = {
    name: {"column": name, "kind": "mammogram", "modality": "ffdm", "laterality": "side"}
    for name in ("ffdm_cc", "ffdm_mlo")
}
LABEL = {"y": {"kind": "binary", "column": "y"}}
VIEWS = [(side, view) for side in "LR" for view in ("CC", "MLO")]
PIXELS = np.random.default_rng(5).integers(0, 4096, (40, 30)).astype("u2")
SECRETS = ("zanzibar", "quentin", "19420229", "1.2.840.424242", "424242")


def shoot(path: Path, side: str, view: str, patient: str = "p", exam: str = "1.2.3", **tags: object) -> Path:
    about = {"Modality": "MG", "ImageLaterality": side, "ViewPosition": view, "PatientID": patient}
    return save(path, PIXELS, **about, StudyInstanceUID=exam, **tags)


def exam_of(folder: Path, **about: str) -> None:
    for number, (side, view) in enumerate(VIEWS):
        shoot(folder / f"IM{number}", side, view, **about)


def found_in(folder: Path, tmp_path: Path, names: tuple[str, ...] = tuple(BREASTS)) -> dict[str, dict[str, str]]:
    """{exam: {input: path below the folder}}"""
    inputs = {name: {**BREASTS["ffdm_cc"], "column": name} for name in names}
    (cohort,) = cohorts_from([str(folder)], [study(tmp_path, "exam,side,y\n", exam="exam", inputs=inputs, tasks=LABEL)])
    for name in names:
        for exam, paths, side in zip(cohort.exams, cohort.paths[name], cohort.sides[name]):
            assert paths is None or side == str(exam).rpartition("_")[2]
    return {
        exam: {n: str(Path(p[place][0]).relative_to(folder)) for n, p in cohort.paths.items() if p[place] is not None}
        for place, exam in enumerate(cohort.exams)
    }


def breasts(*places: str) -> list[str]:
    return sorted(f"{place}_{side}" for place in places for side in ("left", "right"))


# ---- which files are one exam


def test_series_folders_of_a_study_are_one_exam(tmp_path):
    """STUDY/SERIES/IMAGE: a folder for each view."""
    for number, (side, view) in enumerate(VIEWS):
        shoot(tmp_path / "raw" / f"series{number}" / "IM0", side, view)
    assert found_in(tmp_path / "raw", tmp_path) == {
        "raw_left": {"ffdm_cc": "series0/IM0", "ffdm_mlo": "series1/IM0"},
        "raw_right": {"ffdm_cc": "series2/IM0", "ffdm_mlo": "series3/IM0"},
    }


def test_patients_are_told_apart_in_one_flat_folder_and_named_by_their_first_file(tmp_path):
    for patient in ("a", "b"):
        for number, (side, view) in enumerate(VIEWS):
            shoot(tmp_path / "raw" / f"{number}{patient}.dcm", side, view, patient=patient, exam=f"1.2.{ord(patient)}")
    found = found_in(tmp_path / "raw", tmp_path)
    assert sorted(found) == breasts("0a", "0b")
    assert found["0b_right"] == {"ffdm_cc": "2b.dcm", "ffdm_mlo": "3b.dcm"}


def test_two_studies_of_a_patient_are_two_exams_wherever_they_lie(tmp_path):
    for folder in ("nested/P/S1", "nested/P/S2", "nested/Q/S1"):
        exam_of(tmp_path / folder, patient=folder[7], exam=f"1.2.{ord(folder[7])}.{folder[-1]}")
    assert sorted(found_in(tmp_path / "nested", tmp_path)) == breasts("P_S1", "P_S2", "Q")
    for number, name in enumerate(("nested/P/S1", "nested/P/S2")):
        for file in (tmp_path / name).iterdir():
            (tmp_path / "flat").mkdir(exist_ok=True)
            shutil.copy(file, tmp_path / "flat" / f"{file.name}_{number}")
    assert sorted(found_in(tmp_path / "flat", tmp_path)) == breasts("IM0_0", "IM0_1")


def test_an_anonymiser_that_gives_each_file_a_study_parts_no_exam(tmp_path):
    for folder in ("P", "Q"):
        for number, (side, view) in enumerate(VIEWS):
            shoot(tmp_path / "raw" / folder / f"IM{number}", side, view, "", f"1.2.{ord(folder)}{number}")
    assert sorted(found_in(tmp_path / "raw", tmp_path)) == breasts("P", "Q")


def test_people_of_one_patient_id_in_folders_of_their_own_are_not_mixed(tmp_path):
    """ANONYMOUS, everywhere."""
    for folder, view in (("P", "CC"), ("Q", "MLO")):
        for side in "LR":
            shoot(tmp_path / "raw" / folder / side, side, view, "ANONYMOUS", f"1.2.{ord(folder)}")
    assert {exam: len(inputs) for exam, inputs in found_in(tmp_path / "raw", tmp_path).items()} == dict.fromkeys(
        breasts("P", "Q"), 1
    )


def test_of_a_repeated_view_the_last_is_taken_and_presentation_goes_before_processing(tmp_path):
    folder = tmp_path / "raw"
    exam_of(folder)
    shoot(folder / "IM9", "L", "CC")
    shoot(folder / "IN1", "L", "MLO", PresentationIntentType="FOR PROCESSING")
    assert found_in(folder, tmp_path)["raw_left"] == {"ffdm_cc": "IM9", "ffdm_mlo": "IM1"}


def test_a_view_that_is_there_twice_for_no_known_reason_is_refused(tmp_path):
    for number in range(2):
        shoot(tmp_path / "raw" / f"IM{number}", "L", "CC", "", f"1.2.{number}")
    with pytest.raises(UserError, match=r"IM0 and .*IM1: two files for the input 'ffdm_cc' .* a folder of its own"):
        found_in(tmp_path / "raw", tmp_path)


def test_two_exams_of_one_name_are_refused(tmp_path):
    exam_of(tmp_path / "raw" / "A")
    shoot(tmp_path / "raw" / "A_left" / "IM0", "L", "CC", patient="q", exam="1.2.4")
    with pytest.raises(UserError, match="two exams would be called 'A_left'; rename"):
        found_in(tmp_path / "raw", tmp_path)


def test_spot_views_tomosyntheses_and_what_is_no_mammogram_are_left_out(tmp_path):
    folder = tmp_path / "raw"
    exam_of(folder)
    shoot(folder / "IM5", "L", "CCS")
    shoot(folder / "IM6", "L", "CC", SOPClassUID="1.2.840.10008.5.1.4.1.1.13.1.3")
    shoot(folder / "IM7", "L", "CC", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.50").write_bytes(b"\0" * 128 + b"DICMtorn")
    save(folder / "IM8", PIXELS, Modality="US")
    (folder / "DICOMDIR").write_bytes(b"")
    assert found_in(folder, tmp_path)["raw_left"] == {"ffdm_cc": "IM0", "ffdm_mlo": "IM1"}


def test_a_study_of_one_view_finds_it_in_a_folder_of_all(tmp_path):
    exam_of(tmp_path / "raw")
    found = found_in(tmp_path / "raw", tmp_path, names=("ffdm_mlo",))
    assert found == {"raw_left": {"ffdm_mlo": "IM1"}, "raw_right": {"ffdm_mlo": "IM3"}}


# ---- the whole way


@pytest.fixture(scope="module")
def rsna(tmp_path_factory) -> tuple[Path, Path, Path]:
    """The twin's release, its study, and a run on it."""
    root = tmp_path_factory.mktemp("rsna")
    raw = write_twin("rsna", root / "release")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "_processes", lambda: 1)
        prepare("rsna", raw, root / "prepared")
    return raw, root / "prepared", trained([root / "prepared" / "rsna.yaml"], root / "run", "train.max_epochs=1")


def exported(release: Path, to: Path, *, flat: bool) -> dict[str, str]:
    """The training images as an archive hands them out, with names planted; {folder or first file: patient}."""
    patients = {}
    for number, source in enumerate(sorted(release.glob("train_images/*/*.dcm"))):
        made, patient = pydicom.dcmread(source), source.parent.name
        made.PatientName, made.PatientID, made.PatientBirthDate = "ZANZIBAR^QUENTIN", f"ZANZIBAR{patient}", "19420229"
        made.SeriesDescription, made.AccessionNumber = "QUENTIN", "424242"
        made.StudyInstanceUID = f"1.2.840.424242.{patient}"
        series = f"S{number % 7}" if number % 2 else "S"
        path = to / f"IM{number:04}" if flat else to / f"case{int(patient) % 100}" / "study" / series / f"IM{number:04}"
        path.parent.mkdir(parents=True, exist_ok=True)
        made.save_as(path)
        if patient not in patients.values():
            patients[path.name if flat else path.relative_to(to).parts[0]] = patient
    return patients


@pytest.mark.parametrize("flat", [True, False])
def test_raw_folders_are_predicted_as_the_prepared_release(rsna, tmp_path, capsys, monkeypatch, flat):
    """Every breast, from the same files: hence the right inputs, the right side mirrored."""
    release, prepared, run = rsna
    patients = exported(release, tmp_path / "raw", flat=flat)
    said = predict(run, tmp_path / "raw", tmp_path / "of_raw", capsys, monkeypatch)
    predict(run, prepared / "rsna.yaml", tmp_path / "of_study", capsys, monkeypatch)
    of_raw, of_study = (pd.read_csv(tmp_path / name / "predictions.csv") for name in ("of_raw", "of_study"))
    place, side = of_raw["exam"].str.rsplit("_", n=1).str[0], of_raw["exam"].str.rsplit("_", n=1).str[1]
    of_raw["exam"] = place.map(patients) + "_" + side.map({"left": "L", "right": "R"})
    key = ["exam", "task", "class"]
    both = of_raw.merge(of_study[of_study["exam"].isin(of_raw["exam"])], on=key, suffixes=("", "_of_study"))
    assert of_raw["exam"].nunique() == 48 and len(both) == len(of_raw) == 48 * (1 + 4 + 3)
    assert (both["inputs"] == both["inputs_of_study"]).all() and both["inputs"].nunique() == 2
    np.testing.assert_allclose(both["probability"], both["probability_of_study"], atol=1e-5)
    written = "".join(path.read_text() for path in (tmp_path / "of_raw").rglob("*") if path.is_file()).lower()
    names = " ".join(str(path) for path in (tmp_path / "of_raw").rglob("*"))
    assert len(written) > 1000 and not any(secret in text for secret in SECRETS for text in (written, said, names))


def predict(run: Path, source: Path, out: Path, capsys, monkeypatch) -> str:
    """`m4oe predict RUN -i SOURCE -o OUT`, and all that it says."""
    monkeypatch.setattr("sys.argv", ["m4oe", "predict", str(run), "-i", str(source), "-o", str(out)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
        raise SystemExit(0)
    assert not ended.value.code
    return "".join(capsys.readouterr()).lower()
