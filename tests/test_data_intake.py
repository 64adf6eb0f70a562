"""What `predict` is given: folders of scans, channels, several trained studies, tables that fit two of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest

from dicoms import save as save_dicom
from m4oe.data.intake import cohorts_from
from m4oe.data.table import Cohort
from m4oe.errors import UserError
from m4oe.study import Study, parse_study

ORGANS = {"organs": {0: "background", 1: "liver"}}


def a_study(
    name: str,
    modality: object = "ct",
    input: str = "image",
    column: str | list[str] = "image",
    tasks: dict[str, dict[int, str]] = ORGANS,
    kind: str = "ct",
) -> Study:
    specs = {
        task: {"kind": "segmentation", "column": "mask", "on": input, "classes": classes}
        for task, classes in tasks.items()
    }
    inputs = {input: {"column": column, "modality": modality, "kind": kind}}
    return parse_study({"name": name, "table": "t.csv", "inputs": inputs, "tasks": specs}, Path("study.yaml"))


CT, MR = a_study("ct_site"), a_study("mr_site", "mr", kind="mr", tasks={"brain": {0: "background", 1: "thalamus"}})


def files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4)), folder / name)
    return folder


def exams(cohorts: Sequence[Cohort], input: str = "image") -> dict[str, tuple[str, ...]]:
    """{study/exam: names of its files}."""
    return {
        f"{cohort.study.name}/{exam}": tuple(Path(path).name for path in paths)
        for cohort in cohorts
        for exam, paths in zip(cohort.exams, cohort.paths[input], strict=True)
    }


def test_a_folder_of_scans_has_an_exam_for_each_file(tmp_path):
    folder = files(tmp_path, "case_1.nii.gz", "case_2.nii", ".hidden.nii.gz")
    (folder / "dataset.json").write_text("{}")
    cohorts = cohorts_from([str(folder)], [CT])
    assert exams(cohorts) == {"ct_site/case_1": ("case_1.nii.gz",), "ct_site/case_2": ("case_2.nii",)}
    assert cohorts[0].modalities["image"].tolist() == ["ct", "ct"] and cohorts[0].study.tasks == CT.tasks


def test_channels_of_nnunet_are_one_exam(tmp_path):
    folder = files(tmp_path, *(f"case_{case}_000{channel}.nii.gz" for case in (7, 8) for channel in (0, 1)))
    two = a_study("two", column=["first", "second"])
    assert exams(cohorts_from([str(folder)], [two])) == {
        f"two/case_{case}": (f"case_{case}_0000.nii.gz", f"case_{case}_0001.nii.gz") for case in (7, 8)
    }
    three = a_study("three", column=["a", "b", "c"])
    with pytest.raises(UserError, match=r"2 of the 3 channels of input 'image'; name files CASE_0000"):
        cohorts_from([str(folder)], [three])


def test_a_number_that_ends_some_names_only_is_no_channel(tmp_path):
    folder = files(tmp_path, "case_0000.nii.gz", "other.nii.gz")
    assert exams(cohorts_from([str(folder)], [CT])).keys() == {"ct_site/case_0000", "ct_site/other"}


def test_folders_are_exams_and_a_folder_of_many_is_none(tmp_path):
    folder = files(tmp_path, "anna/scan_0000.nii.gz", "berta/t1.nii.gz")
    assert exams(cohorts_from([str(folder)], [CT])).keys() == {"ct_site/anna", "ct_site/berta"}
    files(tmp_path, "berta/t2.nii.gz")
    with pytest.raises(UserError, match=r"berta: holds 2 pictures, where an exam has one; give this folder by itself"):
        cohorts_from([str(folder)], [CT])
    with pytest.raises(UserError, match=r"two files of one name"):
        cohorts_from([str(files(tmp_path / "twice", "a.nii.gz", "a.nii"))], [CT])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no pictures in it; known by their names are NIfTI"):
        cohorts_from([str(tmp_path / "empty")], [CT])


def test_of_several_modalities_the_name_says_which(tmp_path):
    folder = files(tmp_path / "mixed", "p1_ct.nii.gz", "p2-MR.nii.gz")
    assert exams(cohorts_from([str(folder)], [CT, MR])).keys() == {"ct_site/p1_ct", "mr_site/p2-MR"}
    folder = files(tmp_path / "new_mr", "p1.nii.gz")
    (cohort,) = cohorts_from([str(folder)], [CT, MR])
    assert cohort.study.name == "mr_site" and list(cohort.study.tasks) == ["brain"]
    folder = files(tmp_path / "scans", "p1.nii.gz")
    with pytest.raises(UserError, match=r"trained on image@ct, image@mr, and neither the name 'p1' nor the folder's"):
        cohorts_from([str(folder)], [CT, MR])


def test_files_are_given_by_input_and_modality(tmp_path):
    file = files(tmp_path, "p1.nii.gz") / "p1.nii.gz"
    (cohort,) = cohorts_from([f"image@mr={file}"], [CT, MR])
    assert cohort.study.name == "mr_site" and cohort.modalities["image"].tolist() == ["mr"]
    with pytest.raises(UserError, match=r"which modality is it\? Give one of image@ct=FILE, image@mr=FILE"):
        cohorts_from([f"image={file}"], [CT, MR])
    with pytest.raises(UserError, match=r"unknown input 'image@pet': did you mean 'image@"):
        cohorts_from([f"image@pet={file}"], [CT, MR])
    by_row = a_study("mixed", {"column": "which"})
    (cohort,) = cohorts_from([f"image@mr={file}"], [by_row])
    assert cohort.modalities["image"].tolist() == ["mr"]
    with pytest.raises(UserError, match=r"give image@MODALITY=FILE"):
        cohorts_from([f"image={file}"], [by_row])


def test_of_studies_alike_but_for_their_tasks_no_label_set_is_presumed(tmp_path):
    folder = files(tmp_path, "p1.nii.gz")
    other = a_study("other_site", tasks={"vessels": {0: "background", 1: "aorta"}})
    (cohort,) = cohorts_from([str(folder)], [CT, other])
    assert cohort.study.tasks == {}
    (cohort,) = cohorts_from([str(folder)], [CT, a_study("third")])
    assert cohort.study.tasks == CT.tasks


def test_a_table_is_of_the_study_whose_columns_it_has(tmp_path):
    files(tmp_path, "p1.nii.gz")
    (tmp_path / "t.csv").write_text("scan\np1.nii.gz\n")
    scans = a_study("scans", "mr", input="scan", column="scan", kind="mr")
    (cohort,) = cohorts_from([str(tmp_path / "t.csv")], [CT, scans])
    assert cohort.study.name == "scans"
    (tmp_path / "u.csv").write_text("image\np1.nii.gz\n")
    with pytest.raises(UserError, match=r"u\.csv: its columns are those of several studies \(ct_site, mr_site\)"):
        cohorts_from([str(tmp_path / "u.csv")], [CT, MR])


def test_two_sources_of_one_study_are_refused(tmp_path):
    one, two = (files(tmp_path / name, "p.nii.gz") for name in ("one", "two"))
    with pytest.raises(UserError, match=r"described by study 'ct_site'; give them one by one"):
        cohorts_from([str(one), str(two)], [CT])


# ---- a model that takes a picture of any modality

T1, T2 = (a_study(f"{name}_site", name, kind="mr") for name in ("t1", "t2"))


def test_where_modalities_are_of_one_kind_a_scan_needs_no_name(tmp_path):
    """A gate looks at the picture: no modality is presumed, and no label set. A name that tells one is heeded still."""
    folder = files(tmp_path / "scans", "p1.nii.gz", "p2_t2.nii.gz")
    known, unknown = sorted(cohorts_from([str(folder)], [T1, T2], any_modality=True), key=lambda one: one.study.name)
    assert exams([known, unknown]).keys() == {"t2_site/p2_t2", "unknown_mr/p1"}
    assert unknown.modalities["image"].tolist() == ["unknown"] and unknown.study.inputs["image"].kind == "mr"
    assert unknown.study.tasks == {} and known.study.tasks == T2.tasks
    with pytest.raises(UserError, match="trained on image@t1, image@t2, and neither the name 'p1' nor the folder's"):
        cohorts_from([str(folder)], [T1, T2])


def test_a_modality_that_differs_from_row_to_row_is_unknown_in_a_folder(tmp_path):
    folder = files(tmp_path / "scans", "p1.nii.gz")
    by_row = a_study("mixed", {"column": "which"}, kind="mr")
    (cohort,) = cohorts_from([str(folder)], [by_row], any_modality=True)
    assert exams([cohort]).keys() == {"unknown_mr/p1"}
    with pytest.raises(UserError, match="give image@MODALITY=FILE"):
        cohorts_from([str(folder)], [by_row])


def test_of_several_kinds_the_header_or_a_name_says_which(tmp_path):
    """Of DICOM the header, else the word mr in the folder's name; where neither does, how to say it is said."""
    trained = [CT, T1, T2]
    series = tmp_path / "series" / "anna"
    save_dicom(series / "1.dcm", np.zeros((4, 4), np.uint16), Modality="MR")
    (cohort,) = cohorts_from([str(series.parent)], trained, any_modality=True)
    assert exams([cohort]).keys() == {"unknown_mr/anna"}
    folder = files(tmp_path / "mr_scans", "p1.nii.gz")
    assert exams(cohorts_from([str(folder)], trained, any_modality=True)).keys() == {"unknown_mr/p1"}
    folder = files(tmp_path / "scans", "p1.nii.gz")
    with pytest.raises(UserError, match="trained on image@ct, image@t1, image@t2, and neither the name 'p1'"):
        cohorts_from([str(folder)], trained, any_modality=True)
