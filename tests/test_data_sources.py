"""Releases as they are read: which picture goes where, and what its labels are. The twins' traps, worked by hand."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from m4oe.data.readers import read_mask, read_picture
from m4oe.data.sources import SOURCES, amos22, flare22, volumes
from m4oe.data.sources.layout import find, find_all, read_columns
from m4oe.data.sources.spreadsheet import read_sheet
from m4oe.data.sources.stacks import stack
from m4oe.data.sources.twins import TWINS, write_twin
from m4oe.data.sources.twins.spreadsheets import write_sheet
from m4oe.errors import UserError
from m4oe.study import Task, one_spelling, parse_study

NAMES = ("embed", "rsna", "vindr", "gamma", "flare22", "amos22", "atlas23")
VIEWS = {"ffdm_cc": "CC", "ffdm_mlo": "MLO", "syn_cc": "CC", "syn_mlo": "MLO"}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """raw("embed"): the folder of that twin, written once; no test changes it."""
    root = tmp_path_factory.mktemp("releases")

    def folder(name: str) -> Path:
        return root / name if (root / name).is_dir() else write_twin(name, root / name)

    return folder


@pytest.fixture(scope="module")
def table(raw):
    """table("embed"): the one table of that release, by exam; no test changes it."""
    read = {}

    def of(name: str) -> pd.DataFrame:
        if name not in read:
            (study,) = SOURCES[name].read(raw(name)).studies
            read[name] = study.table.set_index(study.facts["exam"])
        return read[name]

    return of


# ---- all of them


def test_there_are_seven_each_with_its_twin():
    assert tuple(SOURCES) == tuple(TWINS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_release_becomes_studies_whose_files_exist(raw, name):
    release = SOURCES[name].read(raw(name))
    for study in release.studies:
        parse_study({**study.facts, "table": "t.csv"}, Path("study.yaml"))
        files = [cell for column in (*study.pictures, *study.masks) for cell in study.table[column] if cell]
        assert len(files) >= 10 and all((raw(name) / cell).exists() for cell in files)
        exams = study.table[study.facts["exam"]]
        assert not exams.duplicated().any() and study.table.map(lambda cell: isinstance(cell, str)).all(axis=None)


@pytest.mark.parametrize("name", NAMES)
def test_every_published_number_is_counted(raw, name):
    assert set(SOURCES[name].published) <= set(SOURCES[name].read(raw(name)).counts)


@pytest.mark.parametrize("name", ["vindr", "gamma", "amos22"])
def test_a_twin_is_the_same_each_time(raw, name, tmp_path):
    assert _bytes(write_twin(name, tmp_path / name)) == _bytes(raw(name))


def _bytes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("name", NAMES)
def test_another_folder_is_refused_with_what_was_expected_and_found(name, tmp_path):
    (tmp_path / "holiday").mkdir()
    (tmp_path / "beach.jpg").write_bytes(b"")
    with pytest.raises(UserError) as refused:
        SOURCES[name].read(tmp_path)
    said = str(refused.value)
    assert str(tmp_path) in said and "expected" in said and "beach.jpg, holiday" in said and "\n" not in said


TABLES = {
    "embed": ("tables/EMBED_OpenData_metadata.csv", "tables/EMBED_OpenData_clinical.csv"),
    "rsna": ("train.csv", "test.csv"),
    "vindr": ("breast-level_annotations.csv",),
    "gamma": (
        "Glaucoma_grading/training/glaucoma_grading_training_GT.xlsx",
        "Fovea_localization/training/fovea_localization_training_GT.xlsx",
    ),
    "amos22": ("amos22/dataset.json",),
}


@pytest.mark.parametrize(("name", "table"), [(name, table) for name, tables in TABLES.items() for table in tables])
def test_a_damaged_table_is_read_or_refused(raw, name, table, tmp_path):
    """Bytes cut off, changed, taken out and put in: a release or one line, never a traceback."""
    path = _copied(raw(name), tmp_path / name, table)
    good, rng = path.read_bytes(), np.random.default_rng(29)
    outcomes = []
    for number in range(15):
        path.write_bytes(_mutated(good, rng, number % 5))
        try:
            SOURCES[name].read(tmp_path / name)
            outcomes.append("read")
        except UserError as error:
            assert "\n" not in str(error)
            outcomes.append("refused")
    assert len(outcomes) == 15 and (name == "amos22" or "refused" in outcomes)


def _copied(source: Path, to: Path, table: str) -> Path:
    """A folder of links to the release in which `table` alone is a file of its own."""
    for file in source.rglob("*"):
        if not file.is_dir():
            place = to / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(file)
    content = (to / table).read_bytes()
    (to / table).unlink()
    (to / table).write_bytes(content)
    return to / table


def _mutated(good: bytes, rng: np.random.Generator, how: int) -> bytes:
    content, (first, second) = bytearray(good), sorted(rng.integers(0, len(good), 2))
    if how == 0:
        return bytes(content[:second])
    if how == 1:
        for place in rng.integers(0, len(good), 5):
            content[place] = rng.integers(0, 256)
    elif how == 2:
        del content[first : min(second, first + 200)]
    else:
        content[first:first] = rng.bytes(20) if how == 3 else rng.choice([b'"', b"\n", b",", b",,\n", b"\0", b"1e5"])
    return bytes(content)


def test_sources_bring_no_torch():
    code = "import m4oe.data.sources.twins, m4oe.data.sources, sys; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


# ---- EMBED: TRAPS of the twin

EMBED = {  # exam: density, birads, group, years, cancer
    "1001_L": ("C", "4", "suspicious", "0.0520", "1"),  # 19 days to the procedure
    "1001_R": ("C", "1", "negative", "3.0007", "0"),  # 1096 days to the last exam
    "1002_L": ("C", "6", "suspicious", "", ""),  # cancer known: not at risk
    "1002_R": ("C", "2", "benign", "", ""),  # the last exam: no follow-up
    "1003_L": ("B", "4", "suspicious", "0.9993", "0"),  # B, S, N: the most suspicious; 365 days
    "1003_R": ("B", "", "", "0.9993", "0"),  # A, N: incomplete, hence open
    "1004_L": ("B", "", "", "", ""),  # density is the exam's, BI-RADS the breast's: no row says it
    "1004_R": ("B", "5", "suspicious", "", ""),  # A, M: suspicious whatever becomes of A
    "1006_L": ("D", "3", "benign", "", ""),  # a finding of both sides
    "1006_R": ("D", "3", "benign", "", ""),
    "1007_L": ("A", "1", "negative", "", ""),  # tissueden 1.0; no side: either
    "1007_R": ("A", "1", "negative", "", ""),
    "1008_L": ("B", "1", "negative", "0.4956", "0"),  # 181 days
    "1008_R": ("B", "1", "negative", "0.5229", "1"),  # 191 days to a cancer that stands with the next exam
    "1009_L": ("B", "4", "suspicious", "", ""),  # the finding is left,
    "1009_R": ("B", "", "", "0.0274", "1"),  # the specimen right: 10 days
    "1010_L": ("", "", "", "0.9993", "0"),  # no clinical row: no labels, but a date
    "1011_L": ("", "1", "negative", "", ""),  # rows disagree on density
    "1012_L": ("B", "4", "suspicious", "1.9986", "0"),  # a benign specimen; 730 days
    "1012_R": ("B", "", "", "1.9986", "0"),  # X is no assessment
    "1014_L": ("D", "4", "suspicious", "", ""),  # a cancer of unknown side
}


@pytest.mark.parametrize("exam", EMBED)
def test_embed_labels_of_a_breast(table, exam):
    assert tuple(table("embed").loc[exam, ["density", "birads", "birads_group", "years", "cancer"]]) == EMBED[exam]


@pytest.mark.parametrize("name", ["embed", "rsna", "vindr"])
def test_every_picture_shows_the_side_and_view_of_its_column(raw, table, name):
    seen = 0
    for exam, row in table(name).iterrows():
        for column in VIEWS.keys() & set(row.index):
            if row[column]:
                tags = pydicom.dcmread(raw(name) / row[column], stop_before_pixels=True)
                assert (tags.ImageLaterality, tags.ViewPosition) == (row["side"], VIEWS[column])
                assert ("GENERATED_2D" in tags.ImageType) == column.startswith("syn")
                assert str(exam).endswith(f"_{row['side']}")
                seen += 1
    assert seen > 90


def test_embed_leaves_out_men_special_views_and_other_types(raw, table):
    assert not {"1005_L", "1005_R"} & set(table("embed").index)
    assert table("embed").loc["1006_L", "ffdm_cc"] and not table("embed").loc["1006_L", "ffdm_mlo"]
    left_out = SOURCES["embed"].read(raw("embed")).left_out
    assert {what.split()[2]: count for what, count in left_out.items()} == {
        "special": 1,
        "exams": 4,
        "another": 1,
        "views": 1,
        "of": 1,
    }


def test_embed_takes_the_later_of_a_repeated_view(raw, table):
    rows = read_columns(
        find(raw("embed"), ["EMBED_OpenData_metadata.csv"], "table"),
        {
            "accession": ["acc_anon"],
            "path": ["anon_dicom_path"],
            "time": ["AcquisitionTime"],
            "type": ["FinalImageType"],
        },
    )
    later = rows[(rows["accession"] == "1007") & (rows["time"] == "101500")]["path"].item()
    assert later.endswith(table("embed").loc["1007_L", "ffdm_cc"].removeprefix("images/"))


def test_embed_findings_in_another_order_give_the_same_labels(raw, table, tmp_path):
    shuffled = tmp_path / "embed"
    (shuffled / "tables").mkdir(parents=True)
    (shuffled / "images").symlink_to(raw("embed") / "images")
    for name in ("metadata", "clinical"):
        rows = pd.read_csv(raw("embed") / "tables" / f"EMBED_OpenData_{name}.csv", dtype=str)
        rows.sample(frac=1, random_state=5).to_csv(
            shuffled / "tables" / f"EMBED_OpenData_{name}_reduced.csv", index=False
        )
    (study,) = SOURCES["embed"].read(shuffled).studies
    pd.testing.assert_frame_equal(study.table.set_index("exam"), table("embed"))


def test_embed_without_a_column_says_which(raw, tmp_path):
    (tmp_path / "tables").mkdir()
    for name in ("metadata", "clinical"):
        rows = pd.read_csv(raw("embed") / "tables" / f"EMBED_OpenData_{name}.csv", dtype=str)
        rows.drop(columns="tissueden", errors="ignore").to_csv(tmp_path / "tables" / f"EMBED_OpenData_{name}.csv")
    with pytest.raises(
        UserError, match=r"EMBED_OpenData_clinical\.csv: no column 'tissueden'; its columns are .*asses"
    ):
        SOURCES["embed"].read(tmp_path)


# ---- RSNA, VinDr


def test_rsna_keeps_follow_up_as_a_class_and_unlabelled_breasts(raw, table):
    rows, found = pd.read_csv(raw("rsna") / "train.csv", dtype=str, keep_default_na=False), table("rsna")
    for (patient, side), images in rows.groupby(["patient_id", "laterality"]):
        breast, first = found.loc[f"{patient}_{side}"], images.iloc[0]
        assert (breast["BIRADS"], breast["density"]) == (first["BIRADS"].removesuffix(".0"), first["density"])
        assert (breast["cancer"], breast["site"], breast["part"]) == (first["cancer"], first["site_id"], "train")
    assert set(found["BIRADS"]) == {"0", "1", "2", ""} and set(found["cancer"]) == {"0", "1", ""}
    assert (found.loc[found["site"] == "2", ["BIRADS", "density"]] == "").all().all()
    unlabelled = found[found["part"] == "test"]
    assert len(unlabelled) == 2 and (unlabelled[["cancer", "BIRADS", "density"]] == "").all().all()
    assert (unlabelled["ffdm_cc"] != "").all()


def test_rsna_leaves_out_other_views_and_repeats(raw, table):
    assert SOURCES["rsna"].read(raw("rsna")).left_out == {
        "images of views other than CC and MLO": 1,
        "repeated images of a view, of which the last is taken": 1,
    }
    assert table("rsna").loc["10001_R", "ffdm_mlo"].endswith("/1014.dcm")  # 1013 was repeated
    assert table("rsna").loc["10002_L", "ffdm_cc"] == "" != table("rsna").loc["10002_L", "ffdm_mlo"]


def test_rsna_without_test_images_is_read(raw, tmp_path):
    for name in ("train.csv", "test.csv", "train_images"):
        (tmp_path / name).symlink_to(raw("rsna") / name)
    (study,) = SOURCES["rsna"].read(tmp_path).studies
    assert set(study.table["part"]) == {"train"}


def test_vindr_labels_are_of_the_breast_and_the_split_is_official(table):
    for number in range(25):
        left, right = (table("vindr").loc[f"{number:032x}_{side}"] for side in "LR")
        assert (left["birads"], right["birads"]) == (str(1 + number % 5), str(1 + number % 2))
        assert left["density"] == right["density"] == "ABCD"[number // 5 % 4]
        assert left["split"] == right["split"] == ("test" if number >= 20 else "train")
        assert left["patient"] == right["patient"]


# ---- GAMMA


def test_gamma_grades_masks_and_foveae_are_of_the_eye(raw, table):
    eye = table("gamma").loc["training_0004"]
    assert (eye["glaucoma"], eye["fovea_x"], eye["fovea_y"]) == ("early", "21.5", "24.25")  # 4 % 3 is 1: early
    assert eye["mask"].endswith("Disc_Cup_Mask/0004.png") and eye["fundus"].endswith("0004/0004.jpg")
    mask = read_mask(str(raw("gamma") / eye["mask"]), (255, 128, 0))
    picture = read_picture((str(raw("gamma") / eye["fundus"]),), "photo")
    assert mask.shape == picture.shape and set(np.unique(mask)) == {0, 1, 2}


def test_gamma_keeps_unlabelled_eyes(table):
    eyes = table("gamma")
    assert (eyes.loc[eyes["part"] == "testing", ["glaucoma", "mask", "fovea_x"]] == "").all().all()
    assert eyes["part"].value_counts().to_dict() == {"training": 20, "testing": 3}


def test_gamma_without_masks_and_foveae_says_so(raw, tmp_path):
    (tmp_path / "Glaucoma_grading").symlink_to(raw("gamma") / "Glaucoma_grading")
    release = SOURCES["gamma"].read(tmp_path)
    assert len(release.notes) == 2 and (release.studies[0].table[["mask", "fovea_x"]] == "").all().all()


def test_gamma_refuses_an_eye_of_two_grades(raw, tmp_path):
    pictures = tmp_path / "training" / "multi-modality_images"
    pictures.parent.mkdir()
    pictures.symlink_to(raw("gamma") / "Glaucoma_grading" / "training" / "multi-modality_images")
    table = tmp_path / "training" / "glaucoma_grading_training_GT.csv"
    table.write_text("data,non,early,mid_advanced\n1,1,0,0\n2,1,1,0\n")
    with pytest.raises(UserError, match=r"_GT\.csv, row 3: exactly one of non, early and mid_advanced should be 1"):
        SOURCES["gamma"].read(tmp_path)


def test_slices_are_stacked_by_number(raw, table, tmp_path):
    """16 slices: as text, 10_image would come before 2_image."""
    slices = raw("gamma") / table("gamma").loc["training_0001", "oct"]
    stack(slices, "oct", tmp_path / "oct" / "volume.npz")
    volume = read_picture((str(tmp_path / "oct" / "volume.npz"),), "oct")
    assert volume.shape == (16, 48, 48)
    for number in range(16):
        plane = read_picture((str(slices / f"{number}_image.jpg"),), "oct").values[0]
        assert np.array_equal(volume.values[0, number], plane)


def test_a_lost_slice_is_refused(raw, table, tmp_path):
    slices = raw("gamma") / table("gamma").loc["training_0001", "oct"]
    for number in (*range(5), *range(6, 16)):
        (tmp_path / f"{number}_image.jpg").symlink_to(slices / f"{number}_image.jpg")
    with pytest.raises(UserError, match="slices 0 to 15 are not numbered one after another"):
        stack(tmp_path, "oct", tmp_path / "volume.npz")
    assert not (tmp_path / "volume.npz").exists()


# ---- volumes


def test_flare22_tells_tuning_from_testing(table):
    cases = table("flare22")
    assert cases.loc["validation_0001", "scan"] == "Tuning/images/FLARETs_0001_0000.nii.gz"
    assert cases.loc["test_0001", "scan"] == "Testing/FLARETs_0001_0000.nii.gz"
    assert cases.loc["train_0007", "mask"].endswith("labels/FLARE22_Tr_0007.nii.gz")
    assert cases["part"].value_counts().to_dict() == {"train": 12, "validation": 4, "test": 4}
    assert (cases.loc[cases["part"] == "test", "mask"] == "").all()


def test_the_official_validation_is_the_test_where_the_test_has_no_masks(table):
    cases = table("flare22")
    assert set(zip(cases["part"], cases["split"])) == {("train", "train"), ("validation", "test"), ("test", "test")}


def test_the_official_parts_are_the_split_where_the_test_has_masks(raw, tmp_path):
    source = raw("flare22")
    for name in ("Training", "Tuning"):
        (tmp_path / name).symlink_to(source / name)
    (tmp_path / "Testing").symlink_to(source / "Tuning")
    (study,) = SOURCES["flare22"].read(tmp_path).studies
    assert (study.table["split"] == study.table["part"]).all() and set(study.table["part"]) == {
        "train",
        "validation",
        "test",
    }


def test_amos22_parts_ct_from_mr_by_number(raw):
    ct, mr = SOURCES["amos22"].read(raw("amos22")).studies
    assert set(ct.table["case"]) == {f"amos_{n:04d}" for n in (*range(1, 11), 499, 20, 21, 22, 30, 31)}
    assert set(mr.table["case"]) == {f"amos_{n:04d}" for n in (*range(507, 515), 530, 531, 532, 540, 541)}
    assert [study.facts["inputs"]["scan"]["modality"] for study in (ct, mr)] == ["ct", "mr"]
    assert ct.facts["tasks"] == mr.facts["tasks"]


def test_amos22_warns_of_other_numbers_of_organs(raw, tmp_path):
    assert not any("dataset.json" in note for note in SOURCES["amos22"].read(raw("amos22")).notes)
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / name).symlink_to(raw("amos22") / "amos22" / name)
    (tmp_path / "dataset.json").write_text('{"labels": {"0": "background", "1": "liver"}}')
    assert any("numbers the organs otherwise" in note for note in SOURCES["amos22"].read(tmp_path).notes)


def test_every_organ_of_flare22_is_one_of_amos22_by_name():
    facts = volumes.facts("a", "ct", "t", amos22.CLASSES, amos22.SYNONYMS)
    task = Task.model_validate(facts["tasks"]["t"])
    theirs = {name for organ in task.class_names for name in task.comprises(organ)}
    assert (
        {one_spelling(name) for name in flare22.CLASSES} <= theirs
        and len(task.class_names) == 16
        and len(flare22.CLASSES) == 14
    )


def test_atlas23_pairs_images_with_masks_of_their_number(table):
    cases = table("atlas23")
    assert cases.loc["train_im7", "mask"].endswith("labelsTr/lb7.nii.gz") and len(cases) == 12


@pytest.mark.parametrize("name", ["flare22", "atlas23"])
def test_masks_hold_every_class_and_lie_on_their_scans(raw, table, name):
    (study,) = SOURCES[name].read(raw(name)).studies
    row = table(name).iloc[0]
    mask = read_mask(str(raw(name) / row["mask"]), study.masks["mask"])
    assert np.array_equal(np.unique(mask), np.arange(len(study.masks["mask"])))
    assert read_picture((str(raw(name) / row["scan"]),), study.pictures["scan"]).shape == mask.shape


# ---- finding files, reading tables


def test_every_study_and_task_is_on_the_page(raw, repository):
    page = (repository / "docs" / "sources.md").read_text(encoding="utf-8")
    for name in NAMES:
        for study in SOURCES[name].read(raw(name)).studies:
            named = {f"{study.name}.yaml", *study.facts["tasks"], *study.facts["inputs"]}
            assert {word for word in named if f"`{word}`" not in page} == set()


def test_a_row_with_more_cells_than_the_header_is_refused(raw, tmp_path):
    """Taken as it is, it would move every cell by one."""
    path = _copied(raw("rsna"), tmp_path / "rsna", "test.csv")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *(f"{line},0" for line in lines[1:])]))
    with pytest.raises(UserError, match=r"test\.csv: row 2 has 10 cells, and the header has 9"):
        SOURCES["rsna"].read(tmp_path / "rsna")


def test_embed_cohorts_may_lie_in_the_folder_itself(raw, table, tmp_path):
    (tmp_path / "tables").symlink_to(raw("embed") / "tables")
    for cohort in ("cohort_1", "cohort_2"):
        (tmp_path / cohort).symlink_to(raw("embed") / "images" / cohort)
    (study,) = SOURCES["embed"].read(tmp_path).studies
    assert (study.table["ffdm_cc"].str.split("/").str[0].isin(["", "cohort_1", "cohort_2"])).all()


def test_the_least_deep_of_several_is_found(tmp_path):
    for folder in ("b/c/tables", "z", "a"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "Train.CSV").write_text("x")
    assert find(tmp_path, ["train.csv"], "table") == tmp_path / "a" / "Train.CSV"
    assert len(find_all(tmp_path, ["train.csv"])) == 3


def test_cells_are_text_without_point_zero(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b,c\n 1.0 ,NA,x\n-2.50,,y\n")
    read = read_columns(path, {"first": ["A", "a"], "second": ["b"]}, ["d"])
    assert read.to_dict("list") == {"first": ["1", "-2.50"], "second": ["NA", ""], "d": ["", ""]}
    assert list(read.index) == [2, 3]


def test_a_spreadsheet_is_read_as_it_was_written(tmp_path):
    write_sheet(tmp_path / "t.xlsx", [("data", "a & b"), (1, "<x>"), (2.5, "y")])
    read = read_sheet(tmp_path / "t.xlsx")
    assert read.arrow.to_pydict() == {"data": ["1", "2.5"], "a & b": ["<x>", "y"]} and read.lines.tolist() == [2, 3]


def test_a_damaged_spreadsheet_is_refused(tmp_path):
    (tmp_path / "t.xlsx").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(UserError, match="not readable as a spreadsheet; save it as CSV"):
        read_sheet(tmp_path / "t.xlsx")
