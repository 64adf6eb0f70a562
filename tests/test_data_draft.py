"""Drafts: what is guessed of a table or a folder, and that it loads, splits and fits as it is."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from cohorts import write_pictures
from m4oe.data.draft import draft_study
from m4oe.data.draft_pairs import patients_of
from m4oe.data.fingerprint import fit_schema
from m4oe.data.guess import kind_of, safe_name
from m4oe.data.splits import split_exams
from m4oe.data.table import load_cohort
from m4oe.errors import UserError
from m4oe.study import load_study


def drafted(path, folder):
    """The draft of `path`, written to `folder` as `m4oe init` does, and the study that it is."""
    draft = draft_study(path, folder / "study.yaml")
    (folder / "study.yaml").write_text(draft.study_yaml, encoding="utf-8")
    study = load_study(folder / "study.yaml")
    if draft.table_csv is not None:
        study.table_path.write_text(draft.table_csv, encoding="utf-8")
    return draft, study


def trains(study):
    """Its schema: the study loads, splits and fits."""
    cohorts = [load_cohort(study)]
    return fit_schema(cohorts, split_exams(cohorts), 0, (32, 32), (8, 16, 16))


@pytest.fixture
def table(tmp_path):
    """40 exams of 20 patients: two views, a mask, labels of each kind, and columns that are none."""
    rng = np.random.default_rng(0)
    write_pictures(tmp_path, [f"{view}/{n}.png" for view in ("cc", "mlo") for n in range(40)])
    rows = []
    for n in range(40):
        mask = np.zeros((8, 6), np.uint8)
        mask[: n % 7] = 255
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{n}.png")
        labels = [*rng.integers(0, 2, 3).astype(str), "ABCD"[n % 4], "xyz"[n % 3], "MB"[n % 2]]
        follow_up = [f"{rng.uniform(1, 9):.2f}", str(n % 2)]
        rest = [str(40 + n), "FM"[n % 2], f"S{n % 3}", f"free text {n}", "same"]
        rows.append(
            [f"E{n}", f"P{n // 2}", f"cc/{n}.png", f"mlo/{n}.png", f"masks/{n}.png", *labels, *follow_up, *rest]
        )
    header = "exam_id,patient_id,ffdm_cc,ffdm_mlo,cc_mask,mass,calc,distortion,density,shape,grade"
    header += ",years,event,age,sex,site,note,same"
    text = "\n".join([header, *(",".join(row) for row in rows)])
    (tmp_path / "exams.csv").write_text(text + "\n", encoding="utf-8")
    return tmp_path / "exams.csv"


def test_a_table_is_understood(table):
    draft, study = drafted(table, table.parent)
    assert study.exam == "exam_id" and study.patient == "patient_id" and study.missing_files == "error"
    assert list(study.inputs) == ["ffdm_cc", "ffdm_mlo", "clinical"]
    assert {(i.modality, i.kind) for i in study.inputs.values()} == {("ffdm", "mammogram"), ("clinical", "table")}
    assert study.inputs["clinical"].columns == ["age", "sex"]
    kinds = {name: task.kind for name, task in study.tasks.items()}
    assert kinds == {
        "cc_mask": "segmentation",
        "risk": "survival",
        "findings": "multilabel",
        "density": "ordinal",
        "shape": "multiclass",
        "grade": "binary",
    }
    assert study.tasks["cc_mask"].on == "ffdm_cc" and study.tasks["cc_mask"].class_values == (0, 255)
    assert study.tasks["density"].class_names == ("A", "B", "C", "D")
    assert study.tasks["grade"].class_names == ("B", "M")
    assert study.tasks["findings"].columns == ["mass", "calc", "distortion"]
    assert draft.table_csv is None and "groups: [site]" in draft.study_yaml
    notes = "\n".join(draft.notes)
    assert "'note' is left out" in notes and "'same' is left out" in notes and "patient" in notes
    assert len(trains(study).tasks) == 6


def test_a_draft_may_be_written_elsewhere(table, tmp_path):
    (tmp_path / "studies").mkdir()
    _, study = drafted(table, tmp_path / "studies")
    assert study.table == "../exams.csv" and trains(study)


def test_a_table_without_pictures_or_labels(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(UserError, match="no column holds paths of pictures"):
        draft_study(tmp_path / "t.csv")
    write_pictures(tmp_path, ["a.png"])
    (tmp_path / "t.csv").write_text("a,b\na.png,2\n", encoding="utf-8")
    with pytest.raises(UserError, match="nothing to predict"):
        draft_study(tmp_path / "t.csv")
    with pytest.raises(UserError, match="no such table or folder"):
        draft_study(tmp_path / "none")


def write_volumes(folder, names, labels=None):
    rng = np.random.default_rng(0)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        values = rng.integers(0, labels, (6, 7, 8)).astype(np.uint8) if labels else rng.normal(size=(6, 7, 8))
        nib.save(nib.Nifti1Image(values, np.eye(4)), folder / name)


@pytest.fixture
def nnunet(tmp_path):
    folder = tmp_path / "Dataset007_Brain"
    write_volumes(folder, [f"imagesTr/case{n}_000{c}.nii.gz" for n in range(8) for c in range(2)])
    write_volumes(folder, [f"labelsTr/case{n}.nii.gz" for n in range(8)], labels=4)
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    facts = {"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": labels, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


def test_an_nnunet_folder(nnunet):
    _, study = drafted(nnunet, nnunet)
    assert study.inputs["image"].paths == ("image_0", "image_1") and study.inputs["image"].kind == "mr"
    task = study.tasks["dataset007_brain"]
    assert task.class_names == ("background", "class_1", "class_2", "enhancing")
    assert task.regions == {"whole": ["class_1", "class_2", "enhancing"], "core": ["class_2", "enhancing"]}
    schema = trains(study)
    assert schema.streams[0].form == "volume" and schema.streams[0].channels == 2


def test_a_study_of_a_folder_may_lie_elsewhere(nnunet, tmp_path):
    (tmp_path / "studies").mkdir()
    _, study = drafted(nnunet, tmp_path / "studies")
    assert study.table_path.parent == tmp_path / "studies" and trains(study)


def test_a_decathlon_datalist(tmp_path):
    write_volumes(tmp_path, [f"imagesTr/liver_{n}.nii.gz" for n in range(8)])
    write_volumes(tmp_path, [f"labelsTr/liver_{n}.nii.gz" for n in range(8)], labels=2)
    pairs = [{"image": f"./imagesTr/liver_{n}.nii.gz", "label": f"./labelsTr/liver_{n}.nii.gz"} for n in range(8)]
    facts = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver"}, "training": pairs}
    (tmp_path / "dataset.json").write_text(json.dumps(facts), encoding="utf-8")
    for path in (tmp_path, tmp_path / "dataset.json"):
        _, study = drafted(path, tmp_path)
        assert study.inputs["image"].kind == "ct" and study.tasks[study.name].class_names == ("background", "liver")
        assert len(load_cohort(study)) == 8 and trains(study)


def test_files_of_one_name_in_folders_of_patients_are_cases_of_their_own(tmp_path):
    write_volumes(tmp_path, [f"sub-{n}/anat/t1.nii.gz" for n in range(8)])
    write_volumes(tmp_path, [f"sub-{n}/anat/mask.nii.gz" for n in range(8)], labels=2)
    pairs = [{"image": f"sub-{n}/anat/t1.nii.gz", "label": f"sub-{n}/anat/mask.nii.gz"} for n in range(8)]
    facts = {"modality": "MR", "labels": ["background", "tumour"], "training": pairs}
    (tmp_path / "list.json").write_text(json.dumps(facts), encoding="utf-8")
    _, study = drafted(tmp_path / "list.json", tmp_path)
    assert load_cohort(study).exams.tolist() == [f"sub-{n}_anat_t1" for n in range(8)]
    assert study.inputs["image"].kind == "mr" and study.tasks[study.name].class_names == ("background", "tumour")
    assert trains(study)


def test_the_first_version_of_nnunet_lists_cases_without_their_channels(tmp_path):
    names = [f"imagesTr/la_{n}_000{c}.nii.gz" for n in range(8) for c in range(2)]
    write_volumes(tmp_path, [*names, "imagesTr/la_1_extra.nii.gz"])
    write_volumes(tmp_path, [f"labelsTr/la_{n}.nii.gz" for n in range(8)], labels=2)
    pairs = [{"image": f"./imagesTr/la_{n}.nii.gz", "label": f"./labelsTr/la_{n}.nii.gz"} for n in range(8)]
    facts = {"modality": {"0": "T1", "1": "T2"}, "labels": {"0": "background", "1": "la"}, "training": pairs}
    (tmp_path / "dataset.json").write_text(json.dumps(facts), encoding="utf-8")
    _, study = drafted(tmp_path, tmp_path)
    assert load_cohort(study).exams.tolist() == [f"la_{n}" for n in range(8)]
    assert study.inputs["image"].paths == ("image_0", "image_1") and trains(study).streams[0].channels == 2


@pytest.mark.parametrize("entry", [{"ct": "a.nii.gz", "label": 1}, {"image": [], "label": 1}, 7])
def test_an_entry_without_an_image_is_named(tmp_path, entry):
    (tmp_path / "list.json").write_text(json.dumps({"training": [entry]}), encoding="utf-8")
    with pytest.raises(UserError, match="of the datalist is without 'image'"):
        draft_study(tmp_path / "list.json")


def test_a_datalist_of_classes(tmp_path):
    write_pictures(tmp_path, [f"{n}.png" for n in range(8)])
    facts = {"training": [{"image": f"{n}.png", "label": n % 2} for n in range(8)]}
    (tmp_path / "list.json").write_text(json.dumps(facts), encoding="utf-8")
    _, study = drafted(tmp_path / "list.json", tmp_path)
    assert study.tasks["label"].kind == "binary" and trains(study)


@pytest.mark.parametrize("text", ["{", "[1, 2]", '{"training": []}'])
def test_a_datalist_that_is_none(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="datalist"):
        draft_study(tmp_path)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("images/mdb001.png", "mammogram"),
        ("Left-Fundus", "photo"),
        ("oct_volume", "oct"),
        ("T1", "mr"),
        ("flair", "mr"),
        ("CT", "ct"),
        ("chest_xray", "xray"),
        ("doctor", "other"),
        ("accept", "other"),
    ],
)
def test_kinds_by_name(text, kind):
    assert kind_of(text) == kind


def test_safe_names():
    assert safe_name("Left Fundus (1)") == "left_fundus_1" and safe_name("éé") == "unnamed"


def test_mias(real_data, tmp_path):
    _, study = drafted(real_data("mias_mammo") / "patients.csv", tmp_path)
    assert list(study.inputs) == ["left", "right"] and study.inputs["right"].laterality == "right"
    assert {name: task.kind for name, task in study.tasks.items()} == {
        "density": "ordinal",
        "abnormal": "binary",
        "malignant": "binary",
        "severity": "binary",
    }
    assert study.tasks["density"].class_names == ("F", "G", "D") and study.patient == "patient_id"
    assert {stream.modality for stream in trains(study).streams} == {"mammogram"}


def test_odir(real_data, tmp_path):
    _, study = drafted(real_data("odir_fundus_pairs") / "patients.csv", tmp_path)
    assert study.missing_files == "absent" and list(study.inputs) == ["left", "right", "clinical"]
    assert study.inputs["clinical"].columns == ["Patient Age", "Patient Sex"]
    assert list(study.tasks) == ["findings"] and len(study.tasks["findings"].columns) == 8
    found = load_cohort(study)
    assert not found.present("left").all() and (found.present("left") | found.present("right")).all()
    assert trains(study).stream("left").modality == "fundus"


@pytest.mark.parametrize(("name", "patients"), [("hippocampus_mr", 91), ("acdc_cardiac_mr", 8)])
def test_folders_of_pairs(real_data, tmp_path, name, patients):
    _, study = drafted(real_data(name), tmp_path)
    found = load_cohort(study)
    assert len(set(found.patients)) == patients and study.inputs["image"].kind == "mr"
    assert trains(study).stream("image").form == "volume"


# Where pictures and masks may lie, as names of two cases, and what the cases are then called.
LAYOUTS = {
    "nnU-Net": ("imagesTr/a_01_0000.nii.gz", "labelsTr/a_01.nii.gz", "a_01"),
    "Decathlon without its datalist": ("imagesTr/liver_1.nii.gz", "labelsTr/liver_1.nii.gz", "liver_1"),
    "two plain folders": ("images/p1.nii.gz", "labels/p1.nii.gz", "p1"),
    "other names": ("Scans/p1.nii.gz", "Segmentations/p1_seg.nii.gz", "p1"),
    "words at both ends": ("images/p1_image.nii.gz", "masks/p1_label.nii.gz", "p1"),
    "words in front": ("vol/volume-1.nii", "vol/segmentation-1.nii", "1"),
    "pairs in one folder": ("p1.nii.gz", "p1_mask.nii.gz", "p1"),
    "pairs with two words": ("p1_img.nii.gz", "p1_gt.nii.gz", "p1"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_of_images_and_labels(tmp_path, layout):
    image, mask, case = LAYOUTS[layout]
    folder = tmp_path / "vessels" / (image.split("/")[0] if layout == "words in front" else "")
    for number in "1246":
        write_volumes(tmp_path / "vessels", [image.replace("1", number)])
        write_volumes(tmp_path / "vessels", [mask.replace("1", number)], labels=3)
    _, study = drafted(folder, folder)
    cohort = load_cohort(study)
    assert cohort.exams.tolist() == [case.replace("1", number) for number in "1246"]
    for exam, paths, path in zip(cohort.exams, cohort.paths["image"], cohort.labels[study.name]):
        assert exam.removeprefix("a_0") in paths[0] and exam in path
    assert study.tasks[study.name].class_names == ("background", f"{study.name}_1", f"{study.name}_2")
    assert trains(study)


def test_an_image_without_a_mask_stays_and_other_files_do_not(tmp_path):
    write_volumes(tmp_path, [f"images/{n}.nii.gz" for n in range(4)])
    write_volumes(tmp_path, [f"labels/{n}.nii.gz" for n in range(3)], labels=2)
    (tmp_path / "images" / "._0.nii.gz").write_bytes(b"")
    (tmp_path / "images" / "notes.txt").write_text("")
    _, study = drafted(tmp_path, tmp_path)
    labels = load_cohort(study).labels[study.name]
    assert len(labels) == 4 and labels[3] is None
    (tmp_path / "loose").mkdir()
    write_volumes(tmp_path / "loose", ["1.nii.gz", "2.nii.gz"])
    with pytest.raises(UserError, match=r"no pictures in 'imagesTr' .* no pairs such as a.nii.gz and a_mask.nii.gz"):
        draft_study(tmp_path / "loose")


@pytest.mark.parametrize(
    ("names", "patients"),
    [
        (
            ["patient001_frame01", "patient001_frame12", "patient002_frame01"],
            ["patient001", "patient001", "patient002"],
        ),
        (["hippocampus_001", "hippocampus_002"], None),
        ([f"Train20_{n:03}" for n in range(40)], None),  # a number in the name of the data set
        (["s1-0", "s1-1", "s2-0", "s3-0"], ["s1", "s1", "s2", "s3"]),
        (["a", "b"], None),
        (["7_1", "8_1"], None),
    ],
)
def test_patients_are_what_names_of_several_cases_begin_with(names, patients):
    assert patients_of(names) == patients


def test_the_guess_of_patients_is_told(tmp_path):
    names = [f"patient{n:03}_frame{f:02}" for n in range(6) for f in (1, 9)]
    write_volumes(tmp_path, [f"imagesTr/{name}.nii.gz" for name in names])
    write_volumes(tmp_path, [f"labelsTr/{name}.nii.gz" for name in names], labels=2)
    draft, study = drafted(tmp_path, tmp_path)
    assert len(set(load_cohort(study).patients)) == 6
    assert any("patient000 of patient000_frame01" in note for note in draft.notes)


def test_nnunets_ignored_value_is_no_class(nnunet):
    facts = json.loads((nnunet / "dataset.json").read_text())
    (nnunet / "dataset.json").write_text(json.dumps(facts | {"labels": {"background": 0, "a": 1, "b": 2, "ignore": 3}}))
    _, study = drafted(nnunet, nnunet)
    task = study.tasks["dataset007_brain"]
    assert task.class_names == ("background", "a", "b") and task.ignore == 3 and trains(study).tasks[0].ignore == 3


def test_a_listed_dataset_of_nnunet(tmp_path):
    write_volumes(tmp_path, [f"raw/{n}_{c}.nii.gz" for n in range(4) for c in "xy"])
    write_volumes(tmp_path, [f"raw/{n}_s.nii.gz" for n in range(4)], labels=2)
    listed = {str(n): {"images": [f"raw/{n}_{c}.nii.gz" for c in "xy"], "label": f"raw/{n}_s.nii.gz"} for n in range(4)}
    facts = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "organ": 1}, "dataset": listed}
    (tmp_path / "dataset.json").write_text(json.dumps(facts), encoding="utf-8")
    _, study = drafted(tmp_path, tmp_path)
    assert study.inputs["image"].paths == ("image_0", "image_1") and trains(study).streams[0].channels == 2


def test_ct_and_mr_in_one_folder_are_two_inputs(tmp_path):
    names = [f"{kind}_{n}" for kind in ("ct", "mr") for n in range(4)]
    write_volumes(tmp_path, [f"imagesTr/{name}.nii.gz" for name in names])
    write_volumes(tmp_path, [f"labelsTr/{name}.nii.gz" for name in names], labels=2)
    _, study = drafted(tmp_path, tmp_path)
    cohort = load_cohort(study)
    assert [study.inputs[name].kind for name in ("ct", "mr")] == ["ct", "mr"]
    assert cohort.present("ct").tolist() == [True] * 4 + [False] * 4 == (~cohort.present("mr")).tolist()
    assert [task.on for task in study.tasks.values()] == ["ct", "mr"]
    assert len({task.class_names for task in study.tasks.values()}) == 1 and trains(study)
