"""The study file: what it means, and one clear message for each way to get it wrong."""

from __future__ import annotations

import pytest

from m4oe.errors import UserError
from m4oe.study import is_plain_name, load_study, one_spelling

STUDY = """
name: screening
table: images.csv
root: images/
exam: exam_id
patient: patient_id
inputs:
  ffdm_cc: {column: path, where: {type: FFDM, view: CC}, modality: ffdm, kind: mammogram, laterality: side}
  scan: {column: [t1, t2], modality: {column: sequence}, kind: mr}
  history: {columns: [age, sex], modality: clinical, kind: table}
tasks:
  density: {kind: ordinal, column: density, classes: [A, B, C, D]}
  subtype: {kind: multiclass, column: type, classes: {duct: ductal, lob: lobular, oth: other}}
  risk: {kind: survival, time: years, event: cancer, horizons: [1, 2.5]}
  findings: {kind: multilabel, columns: [mass, calcification]}
  optic: {kind: segmentation, column: mask, on: scan,
          classes: {255: background, 128: rim, 0: cup}, regions: {disc: [rim, cup]}}
split: {seed: 3, folds: 5}
groups: [site]
"""


def written(folder, text):
    (folder / "study.yaml").write_text(text, encoding="utf-8")
    return load_study(folder / "study.yaml")


def test_a_study_says_all_of_this(tmp_path):
    study = written(tmp_path, STUDY)
    assert study.table_path == tmp_path / "images.csv" and study.root_folder == tmp_path / "images"
    assert study.inputs["ffdm_cc"].paths == ("path",) and study.inputs["ffdm_cc"].where == {
        "type": "FFDM",
        "view": "CC",
    }
    assert study.inputs["scan"].paths == ("t1", "t2") and study.inputs["scan"].modality.column == "sequence"
    assert study.inputs["history"].paths == ()
    assert study.missing_files == "error" and study.split.folds == 5 and study.split.seed == 3


def test_classes_are_in_the_order_of_the_file(tmp_path):
    tasks = written(tmp_path, STUDY).tasks
    assert tasks["optic"].class_names == ("background", "rim", "cup") and tasks["optic"].class_values == (255, 128, 0)
    assert tasks["subtype"].class_names == ("ductal", "lobular", "other")
    assert tasks["subtype"].class_values == ("duct", "lob", "oth")
    assert tasks["density"].class_values == ("A", "B", "C", "D")
    assert tasks["findings"].class_names == ("mass", "calcification") and tasks["risk"].class_names == ()


def test_words_that_yaml_takes_for_truth_stay_words(tmp_path):
    """YAML 1.1 reads `on` as true, also where it is a key, and `no`, `y`, `off` as truth values."""
    text = STUDY.replace("classes: [A, B, C, D]", "classes: [No, Yes, off, y]").replace("view: CC", "view: N")
    study = written(tmp_path, text)
    assert study.tasks["optic"].on == "scan"
    assert study.tasks["density"].class_names == ("No", "Yes", "off", "y")
    assert study.inputs["ffdm_cc"].where["view"] == "N"


def test_a_list_of_mask_classes_counts_from_zero(tmp_path):
    study = written(tmp_path, STUDY.replace("{255: background, 128: rim, 0: cup}", "[background, rim, cup]"))
    assert study.tasks["optic"].class_values == (0, 1, 2)


def test_default_split_is_by_fractions(tmp_path):
    study = written(tmp_path, STUDY.replace("split: {seed: 3, folds: 5}\n", ""))
    assert study.split.fractions == (0.7, 0.15, 0.15)


# What is wrong: a piece of the study, what stands there instead, and what the message must say.
MISTAKES = {
    "unknown key": ("patient: patient_id", "patients: patient_id", ["'patients'", "did you mean 'patient'"]),
    "unknown key of a task": ("on: scan", "onn: scan", ["tasks.optic.onn", "did you mean 'on'"]),
    "unknown kind of input": ("kind: mr", "kind: mri", ["inputs.scan.kind", "'mri'", "'mr'"]),
    "unknown kind of task": ("kind: ordinal", "kind: ordered", ["tasks.density.kind", "'ordered'"]),
    "missing key": ("table: images.csv\n", "", ["table"]),
    "key twice": ("exam: exam_id", "exam: exam_id\nexam: id", ["line 6", "'exam'", "twice"]),
    "not YAML": ("exam: exam_id", "exam: {exam_id", ["not readable as YAML", "line"]),
    "one class": ("classes: [A, B, C, D]", "classes: [A]", ["tasks.density", "two 'classes'"]),
    "class twice but for its spelling": (
        "128: rim, 0: cup}, regions: {disc: [rim, cup]}",
        "128: optic_Cup, 0: optic-cup}",
        ["tasks.optic", "one class twice, 'optic_Cup' and 'optic-cup'", "rename one"],
    ),
    "class twice": ("classes: [A, B, C, D]", "classes: [A, B, B]", ["names a class twice"]),
    "no horizons": (", horizons: [1, 2.5]", "", ["tasks.risk", "'horizons'"]),
    "horizons in disorder": ("[1, 2.5]", "[2, 1]", ["'horizons'", "increasing"]),
    "key of another kind": ("horizons: [1, 2.5]", "horizons: [1], column: y", ["survival", "'column'"]),
    "mask on nothing": ("on: scan", "on: scam", ["'optic'", "'scam'"]),
    "mask on variables": ("on: scan", "on: history", ["'optic'", "'history'"]),
    "region of no class": ("disc: [rim, cup]", "disc: [rim, cap]", ["'disc'", "'cap'"]),
    "region of nothing": ("disc: [rim, cup]", "disc: []", ["'disc'", "names no class"]),
    "region with the name of a class": ("disc: [rim, cup]", "cup: [rim, cup]", ["'cup'", "name of a class", "rename"]),
    "mask value below 0": ("128: rim", "-1: rim", ["tasks.optic", "-1", "whole numbers from 0 to 65535"]),
    "mask value of more than two bytes": ("128: rim", "65536: rim", ["65536", "whole numbers from 0 to 65535"]),
    "mask value that is not whole": ("128: rim", "1.5: rim", ["1.5", "whole numbers from 0 to 65535"]),
    "mask value in words": ("128: rim", "edge: rim", ["'edge'", "whole numbers from 0 to 65535"]),
    "two ways to split": (
        "folds: 5",
        "folds: 5, column: split",
        ["one of 'fractions', 'column', 'folds' and 'leave_out'"],
    ),
    "fractions that do not sum to 1": ("folds: 5", "fractions: [0.7, 0.2, 0.2]", ["sum to 1"]),
    "one fold": ("folds: 5", "folds: 1", ["split.folds"]),
    "table input with a path": ("columns: [age, sex]", "column: age", ["inputs.history", "'columns"]),
    "picture without a path": ("column: path, where", "where", ["inputs.ffdm_cc", "'column'"]),
    "name with a dot": ("  scan:", "  scan.a:", ["'scan.a'"]),
    "modality with an at": ("modality: ffdm", "modality: ffdm@2", ["'ffdm@2'"]),
    "name of the study": ("name: screening", "name: my study", ["name", "my study"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_clear_message(tmp_path, mistake):
    old, new, said = MISTAKES[mistake]
    assert STUDY.count(old) == 1
    with pytest.raises(UserError) as error:
        written(tmp_path, STUDY.replace(old, new))
    message = str(error.value)
    assert str(tmp_path / "study.yaml") in message and "\n" not in message
    assert not [words for words in said if words not in message], message


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    with pytest.raises(UserError, match="a study is a mapping"):
        written(tmp_path, text)


def test_a_study_that_is_not_there_or_not_text(tmp_path):
    with pytest.raises(UserError, match="no such study file; 'm4oe init TABLE' writes one"):
        load_study(tmp_path / "none.yaml")
    (tmp_path / "study.yaml").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(UserError, match="not readable as YAML"):
        load_study(tmp_path / "study.yaml")


def test_one_spelling_of_a_class():
    same = ["left_kidney", "Left kidney", "LEFT-KIDNEY", " left  kidney "]
    assert {one_spelling(name) for name in same} == {"left_kidney"}
    assert one_spelling("kidney left") == "kidney_left" and one_spelling("leftkidney") == "leftkidney"
    assert one_spelling("-") == "-"  # nothing but a joint is a name all the same


def test_what_classes_are_across_studies_is_in_one_spelling(tmp_path):
    classes = "{255: background, 128: rim, 0: cup}, regions: {disc: [rim, cup]}"
    new = "{0: none, 1: Hepar, 2: Both Kidneys, 3: Spleen}, synonyms: {Hepar: Liver, Both Kidneys: [L-kidney, r ren]}"
    assert STUDY.count(classes) == 1
    optic = written(tmp_path, STUDY.replace(classes, new)).tasks["optic"]
    assert [optic.comprises(name) for name in optic.class_names[1:]] == [
        ("liver",), ("l_kidney", "r_ren"), ("spleen",)
    ]  # fmt: skip
    assert optic.called("Both Kidneys") == ("L-kidney", "r ren") and optic.class_names[1] == "Hepar"


def test_plain_names():
    assert is_plain_name("ffdm_cc-2") and not any(
        is_plain_name(name) for name in ("", "a b", "a.b", "a@b", "a/b", "a,b")
    )
