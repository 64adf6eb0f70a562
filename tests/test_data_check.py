"""What a check must find: one planted fault each, in a study that is sound without it."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from cohorts import PICTURE, study, write_pictures
from m4oe.data.check import check_studies
from m4oe.data.draft import draft_study
from m4oe.data.findings import MOST_ALIKE, Findings, Problem
from m4oe.study import load_study
from small_volumes import block, study_of, volume, write_volume

PATIENTS = 24
MASK = {"kind": "segmentation", "column": "mask", "on": "cc", "classes": {0: "background", 255: "mass"}}
FACTS = {"exam": "exam", "patient": "patient", "tasks": {"y": {"kind": "binary", "column": "y"}, "mass": MASK}}


@pytest.fixture
def folder(tmp_path):
    write_pictures(tmp_path, [f"{n}.png" for n in range(PATIENTS)])
    for n in range(PATIENTS):
        Image.fromarray(np.full((8, 6), 255 * (n % 2), np.uint8)).save(tmp_path / f"m{n}.png")
    return tmp_path


def table(**cells):
    """Rows of exams; cells={"path": {3: "x.png"}} says what stands in row 3 instead."""
    rows = []
    for n in range(PATIENTS):
        row = {
            "exam": f"E{n}",
            "patient": f"P{n}",
            "path": f"{n}.png",
            "y": str(n % 2),
            "mask": f"m{n}.png",
            "split": "",
        }
        rows.append(row | {column: changed[n] for column, changed in cells.items() if n in changed})
    return "\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]) + "\n"


def found(folder, text, **facts):
    return check_studies([study(folder, text, **{**FACTS, **facts})])


def errors(findings):
    return [problem for problem in findings.problems if problem.severity == "error"]


def test_a_sound_study_has_no_problems(folder):
    findings = found(folder, table())
    assert findings.problems == [] and not findings.spoils_training
    tables = {title: rows for title, _, rows in findings.tables}
    assert tables["s: pictures"] == [["cc", "24", "0", "1 x 8 x 6 (24)", "0 to 255"]]
    assert tables["s: labels of 24 exams"] == [
        ["y", "0", "12", "0"],
        ["y", "1", "12", "0"],
        ["mass", "mask", "24", "0"],
    ]
    assert tables["s: combinations of inputs"] == [["cc", "24", "24", "24"]]
    assert [row[2:] for row in tables["split"]] == [["train", "17", "17"], ["validation", "4", "4"], ["test", "3", "3"]]


def test_missing_labels_are_counted_for_each_combination_of_inputs(folder):
    inputs = {"cc": PICTURE, "age": {"columns": ["split"], "modality": "clinical", "kind": "table"}}
    text = table(path={0: "", 1: ""}, split={0: "60", 1: "61", 2: "62"}, y={0: "", 2: "", 3: ""})
    tables = {title: (header, rows) for title, header, rows in found(folder, text, inputs=inputs).tables}
    header, rows = tables["s: combinations of inputs"]
    assert header == ["inputs present", "exams", "with y", "with mass"]
    assert rows == [["cc", "21", "20", "21"], ["age", "2", "1", "0"], ["cc + age", "1", "0", "1"]]


def one(folder, text, **facts):
    [problem] = errors(found(folder, text, **facts))
    return problem


def test_missing_files_are_all_found(folder):
    findings = found(folder, table(path={3: "x.png", 5: "z.png"}, mask={7: "w.png"}))
    assert [(p.row, p.column) for p in errors(findings)] == [(5, "path"), (7, "path"), (9, "mask")]
    allowed = found(folder, table(path={3: "x.png"}), missing_files="absent")
    assert [(p.severity, p.row) for p in allowed.problems if "x.png" in p.message] == [("warning", 5)]


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n\x00\x00"])
def test_a_file_that_is_truncated_or_not_an_image(folder, content):
    (folder / "3.png").write_bytes(content)
    problem = one(folder, table())
    assert (problem.row, problem.column) == (5, "path") and "3.png" in problem.message


@pytest.mark.parametrize("pixels", [np.full((8, 6), np.nan), np.full((8, 6), 7.0), np.where(np.eye(8, 6), np.inf, 0)])
def test_a_picture_of_one_value_or_of_none(folder, pixels):
    np.save(folder / "bad.npy", pixels.astype(np.float32))
    problem = one(folder, table(path={3: "bad.npy"}))
    assert (problem.row, problem.column) == (5, "path") and "bad.npy" in problem.message


def test_a_mask_of_the_wrong_shape(folder):
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(folder / "m3.png")
    problem = one(folder, table())
    assert (problem.row, problem.column) == (5, "mask") and "6 x 8" in problem.message and "8 x 6" in problem.message


def test_a_mask_with_an_unnamed_value(folder):
    Image.fromarray(np.full((8, 6), 100, np.uint8)).save(folder / "m3.png")
    problem = one(folder, table())
    assert (problem.row, problem.column) == (5, "mask") and "100" in problem.message


def test_an_identical_picture_under_another_patient(folder):
    """Pixels count, not files: the copy is a BMP. In different splits it is an error, in one split a warning."""
    Image.open(folder / "0.png").save(folder / "copy.bmp")
    for split, severity in (("test", "error"), ("train", "warning")):
        splits = (
            dict.fromkeys(range(18), "train")
            | dict.fromkeys(range(18, 21), "val")
            | dict.fromkeys(range(21, 24), "test")
        )
        text = table(path={22: "copy.bmp"}, split=splits | {22: split})
        [problem] = found(folder, text, split={"column": "split"}).problems
        assert problem.severity == severity and (problem.row, problem.column) == (24, "path")
        assert "'s/P22'" in problem.message and "'s/P0'" in problem.message and "row 2" in problem.message


def test_an_identical_picture_under_the_same_patient_is_none_of_our_business(folder):
    assert found(folder, table(path={1: "0.png"}, patient={1: "P0"})).problems == []


def test_an_empty_class(folder):
    tasks = {"y": {"kind": "ordinal", "column": "y", "classes": [0, 1, 2]}}
    problem = one(folder, table(), tasks=tasks)
    assert problem.column == "y" and "no exam is '2'" in problem.message


def test_a_rare_class_is_a_warning(folder):
    findings = found(folder, table(y=dict.fromkeys(range(2, 24), "0")))
    assert [p.severity for p in findings.problems] == ["warning"] and "'1' occurs in 1 patients" in findings.problems[
        0
    ].message


def test_a_patient_in_two_splits(folder):
    splits = {n: ("train", "val", "test")[n % 3] for n in range(PATIENTS)}
    problem = one(folder, table(split=splits, patient={1: "P0"}), split={"column": "split"})
    assert "'P0'" in problem.message and "row 3" in problem.message and "row 2" in problem.message


def test_a_one_exam_study(folder):
    text = "".join(table().splitlines(keepends=True)[:2])
    findings = found(folder, text)
    assert any("1 patient," in problem.message for problem in errors(findings))


def test_a_table_that_cannot_be_read_ends_only_its_own_study(folder):
    (folder / "b").mkdir()
    write_pictures(folder / "b", ["0.png"])
    bad = study(folder / "b", "path,y\n0.png,7\n", name="bad")
    findings = check_studies([bad, study(folder, table(), **FACTS)])
    assert ["'7'" in problem.message for problem in errors(findings)] == [True]
    assert "s: pictures" in [title for title, _, _ in findings.tables]


def test_progress_counts_pictures(folder):
    calls = []
    check_studies([study(folder, table(), **FACTS)], progress=lambda done, all_: calls.append((done, all_)))
    assert calls == [(n, PATIENTS) for n in range(1, PATIENTS + 1)]


def test_findings_as_json():
    findings = Findings()
    findings.report([Problem("warning", "t.csv", f"no {n}", n, "path") for n in range(MOST_ALIKE + 5)])
    findings.tables.append(("labels", ["task"], [["y"]]))
    content = findings.to_json()
    assert len(content["problems"]) == MOST_ALIKE + 1 and "5 more like this" in content["problems"][-1]["message"]
    assert content["problems"][0] == {
        "severity": "warning",
        "file": "t.csv",
        "message": "no 0",
        "row": 0,
        "column": "path",
    }
    assert (
        content["tables"] == [{"title": "labels", "header": ["task"], "rows": [["y"]]}]
        and not content["spoils_training"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mias_mammo", "odir_fundus_pairs"])
def test_real_studies_are_sound(real_data, tmp_path, name):
    draft = draft_study(real_data(name) / "patients.csv", tmp_path / "study.yaml")
    (tmp_path / "study.yaml").write_text(draft.study_yaml, encoding="utf-8")
    findings = check_studies([load_study(tmp_path / "study.yaml")])
    assert errors(findings) == []


def test_grids_and_classes_of_volumes(tmp_path):
    mask = block()
    mask[5, 0, :4] = 9
    cases = {f"c{n}": (volume(n), mask) for n in range(4)}
    cohort = study_of(tmp_path, cases, classes=["background", "organ", "never"], ignore=9)
    image = nib.load(tmp_path / "s" / "c3.nii.gz")
    nib.save(image.as_reoriented([[0, -1], [1, -1], [2, 1]]), tmp_path / "s" / "c3.nii.gz")
    findings = check_studies([cohort.study])
    tables = {title: rows for title, _, rows in findings.tables}
    assert tables["s: grids"] == [["image", "3 x 1 x 1", "0", "RAS (3), LPS (1)"]]
    pixels = 6 * 20 * 16 - 4
    assert tables["s: masks of 's_organs'"] == [
        ["background", str(4 * (pixels - 50)), f"{100 * (1 - 50 / pixels):.3g} %", "4"],
        ["organ", "200", f"{100 * 50 / pixels:.3g} %", "4"],
        ["never", "0", "0 %", "0"],
        ["(ignored)", "16", "", "4"],
    ]
    assert not errors(findings) and any("'never' occurs in 0 patients" in p.message for p in findings.problems)


def test_classes_that_only_spelling_tells_apart_are_said_to_be_one(tmp_path):
    cases = {f"c{n}": (volume(n), block()) for n in range(3)}
    one = study_of(tmp_path, cases, "a", classes=["background", "Liver"])
    other = study_of(tmp_path, cases, "b", classes=["background", "hepar"], synonyms={"hepar": "liver"})
    said = [str(p) for p in check_studies([one.study, other.study]).problems if "one class" in p.message]
    message = "'Liver' (study 'a') and 'liver' (study 'b') are one class, 'liver', where label sets are unified"
    assert said == [f"{one.study.table_path}: {message}; if they are not, rename one"]
    assert not [p for p in check_studies([one.study]).problems if "one class" in p.message]


def test_masks_elsewhere_are_found_or_fixed(tmp_path):
    cohort = study_of(tmp_path, {f"c{n}": (volume(n), block()) for n in range(3)})
    write_volume(tmp_path / "s" / "c1_mask.nii.gz", block((6, 10, 8)), (3.0, 2.0, 2.0))
    (problem,) = errors(check_studies([cohort.study]))
    assert (problem.row, problem.column) == (3, "mask") and "'fix: resample'" in problem.message
    assert "8 x 10 x 6 with the affine [[2.0" in problem.message and "16 x 20 x 6 with" in problem.message
    task = cohort.study.tasks["s_organs"].model_copy(update={"fix": "resample"})
    findings = check_studies([cohort.study.model_copy(update={"tasks": {"s_organs": task}})])
    assert not errors(findings)
    assert any("1 masks of task 's_organs' lie elsewhere" in problem.message for problem in findings.problems)


def test_masks_empty_everywhere_and_odd_channels(tmp_path):
    empty, four = np.zeros((6, 20, 16), np.uint8), np.stack([volume(n) for n in range(4)], -1)
    cohort = study_of(tmp_path, {"c0": (four, empty), "c1": (volume(1), empty), "c2": (four + 1, empty)})
    messages = [(problem.row, problem.message) for problem in errors(check_studies([cohort.study]))]
    assert any(row is None and "all 3 masks of task 's_organs' are empty" in text for row, text in messages)
    assert any(row == 3 and "1 channels, where most pictures of 'image' have 4" in text for row, text in messages)
