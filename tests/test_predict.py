"""Predicting: from a study, a table, a folder, files and Python; bad exams; masks on the input's own grid."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

import m4oe
from m4oe.data.readers import read_mask, read_picture
from m4oe.errors import UserError
from m4oe.masks import Mask, write_mask
from m4oe.runs import evaluate_run, predict_run
from small_runs import edited, trained

CPU = torch.device("cpu")


def of_test(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "predictions.csv").query("split == 'test'")


def predicted(run: Path, sources: list[str], out: Path) -> pd.DataFrame:
    outcome = predict_run(run, sources, out, CPU)
    assert outcome.failed == {}
    return pd.read_csv(out / "predictions.csv")


def picture(retina: Path, column: str, row: int = 0) -> Path:
    table = pd.read_csv(retina.parent / "eyes.csv").dropna(subset=["fundus", "oct"])
    return retina.parent / table[column].iloc[row]


# ---- from a study, a table, folders and files


def test_a_study_is_predicted_as_it_was_in_training(retina, retina_run, tmp_path):
    """Whatever batch an exam is in, and whether or not it was there before the model was saved."""
    keys = ["exam", "task", "class"]
    before = of_test(retina_run).set_index(keys)
    after = predicted(retina_run, [str(retina)], tmp_path / "out").set_index(keys)
    assert len(before) and set(before.index) <= set(after.index)
    wanted = before["probability"].dropna()
    assert after.loc[wanted.index, "probability"].to_numpy() == pytest.approx(wanted.to_numpy(), abs=1e-5)


def test_a_table_needs_no_labels(retina, retina_run, tmp_path):
    table = pd.read_csv(retina.parent / "eyes.csv")[["exam_id", "fundus", "oct"]].head(5)
    table.to_csv(retina.parent / "new.csv", index=False)
    found = predicted(retina_run, [str(retina.parent / "new.csv")], tmp_path / "out")
    assert set(found["exam"]) == set(table["exam_id"]) and found["target"].isna().all()
    assert found["probability"].between(0, 1).all()


def test_a_folder_of_exams(retina, retina_run, tmp_path):
    for row, exam in enumerate(("anna", "berta")):
        (tmp_path / "in" / exam).mkdir(parents=True)
        shutil.copy(picture(retina, "fundus", row), tmp_path / "in" / exam / "fundus.png")
    shutil.copy(picture(retina, "oct"), tmp_path / "in" / "anna" / "my_oct.nii.gz")
    found = predicted(retina_run, [str(tmp_path / "in")], tmp_path / "out")
    assert dict(zip(found["exam"], found["inputs"])) == {"anna": "fundus+oct", "berta": "fundus"}
    assert {path.name for path in (tmp_path / "out" / "masks").glob("*.png")} == {"anna__optic.png", "berta__optic.png"}
    one = predicted(retina_run, [str(tmp_path / "in" / "anna")], tmp_path / "one")
    together = found.query("exam == 'anna'")["probability"].to_numpy()
    assert one["probability"].to_numpy() == pytest.approx(together, abs=1e-6)


def test_files_by_the_names_of_inputs(retina, retina_run, tmp_path):
    pairs = [f"{name}={picture(retina, name)}" for name in ("fundus", "oct")]
    found = predicted(retina_run, pairs, tmp_path / "out")
    assert found["inputs"].unique().tolist() == ["fundus+oct"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("nowhere.csv", "nowhere.csv: no such file or folder"),
        ("fundsu={file}", "unknown input 'fundsu': did you mean 'fundus'"),
        ("fundus=nowhere.png", r"nowhere\.png: no such file \(input 'fundus'\)"),
        ("{file}", "a single file is given with the name of its input: fundus="),
        ("{empty}", "no file in it is named like an input: fundus, oct"),
    ],
)
def test_a_source_that_is_none_is_refused(source, reason, retina, retina_run, tmp_path):
    (tmp_path / "empty").mkdir()
    source = source.format(file=picture(retina, "fundus"), empty=tmp_path / "empty")
    with pytest.raises(UserError, match=reason):
        predict_run(retina_run, [source], tmp_path / "out", CPU)


def test_a_bad_exam_is_named_and_the_others_go_on(retina, retina_run, tmp_path):
    table = pd.read_csv(retina.parent / "eyes.csv").dropna(subset=["fundus"]).head(4)
    folder = shutil.copytree(retina.parent, tmp_path / "study")
    bad = table["exam_id"].iloc[1]
    (folder / table["fundus"].iloc[1]).write_bytes(b"torn")
    table.to_csv(folder / "eyes.csv", index=False)
    outcome = predict_run(retina_run, [str(folder / "study.yaml")], tmp_path / "out", CPU)
    assert list(outcome.failed) == [f"phantom-retina/{bad}"] and outcome.exams == 3
    assert "eyes.csv, row 3, input 'fundus'" in next(iter(outcome.failed.values()))
    assert set(pd.read_csv(tmp_path / "out" / "predictions.csv")["exam"]) == set(table["exam_id"]) - {bad}


def test_a_run_is_never_overwritten_by_predictions(retina, retina_run, tmp_path):
    other = shutil.copytree(retina_run, tmp_path / "other")
    for out in (retina_run, other):
        content = (out / "predictions.csv").read_bytes()
        with pytest.raises(UserError, match="is a run; give another folder with -o"):
            predict_run(retina_run, [str(retina)], out, CPU)
        assert (out / "predictions.csv").read_bytes() == content


# ---- evaluate


def test_evaluate_makes_the_same_metrics_anew(retina_run, tmp_path):
    import json

    run = shutil.copytree(retina_run, tmp_path / "run")
    before = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").unlink()
    assert evaluate_run(run, [], None, CPU).metrics == before == json.loads((run / "metrics.json").read_text())


def test_evaluate_on_another_study_predicts_all_of_it(retina, retina_run, tmp_path):
    other = edited(retina, tmp_path / "other.yaml", name="other")
    metrics = evaluate_run(retina_run, [other], tmp_path / "out", CPU).metrics
    assert metrics["test"]["glaucoma"]["accuracy"]["n"] > 15 and metrics["by_study"]["test"].keys() == {"other"}
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"predictions.csv", "cases.csv", "masks"}
    with pytest.raises(UserError, match="is a run; give another folder with -o"):
        evaluate_run(retina_run, [other], retina_run, CPU)


# ---- Python


def test_python_predicts_as_the_command_does_without_lightning(retina, retina_run, tmp_path):
    pairs = {name: str(picture(retina, name)) for name in ("fundus", "oct")}
    code = (
        f"import m4oe, sys\nanswer = m4oe.load({str(retina_run)!r}).predict({pairs!r})\n"
        "print(answer.probabilities['glaucoma']['early'])\n"
        "assert not {'lightning', 'torchvision', 'matplotlib'} & {name.split('.')[0] for name in sys.modules}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = predicted(retina_run, [f"{name}={path}" for name, path in pairs.items()], tmp_path / "out")
    wanted = found.query("task == 'glaucoma' and `class` == 'early'")["probability"].item()
    assert float(done.stdout) == pytest.approx(wanted, abs=1e-6)


def test_an_array_is_the_file_it_came_from(retina, retina_run):
    model, path = m4oe.load(retina_run), picture(retina, "fundus")
    by_path, by_array = model.predict({"fundus": path}), model.predict({"fundus": np.asarray(Image.open(path))})
    assert by_path.probabilities["glaucoma"] == pytest.approx(by_array.probabilities["glaucoma"], abs=1e-6)
    assert np.array_equal(by_path.masks["optic"], by_array.masks["optic"])
    assert by_path.masks["optic"].shape == Image.open(path).size[::-1]
    assert sum(by_path.probabilities["glaucoma"].values()) == pytest.approx(1, abs=1e-5)


def test_variables_alone_are_an_exam(breast_run):
    model = m4oe.load(breast_run)
    young, old = (model.predict({"history": {"age": age}}).probabilities for age in (30, 80))
    assert young.keys() == {"density", "birads", "malignancy", "risk"} and young != old
    assert list(old["risk"].values()) == sorted(old["risk"].values())  # risk grows with the horizon


def test_contributions_are_of_the_tasks_that_are_not_withheld(breast_run):
    from dataclasses import replace

    model = m4oe.load(breast_run)
    model.artifact = replace(model.artifact, withheld={"risk": "a reason"})
    answer = model.predict({"history": {"age": 50}})
    assert answer.withheld == {"risk": "a reason"} and set(answer.contributions) == {"density", "birads", "malignancy"}
    assert {"shapley", "evidence", "routing"} == answer.contributions["malignancy"]["1"].keys()


def breast_picture(breast: Path, side: str) -> np.ndarray:
    table = pd.read_csv(breast.parent / "images.csv").dropna(subset=["ffdm_cc"])
    return np.asarray(Image.open(breast.parent / table.loc[table["side"] == side, "ffdm_cc"].iloc[0]))


def test_a_right_breast_is_mirrored_and_its_side_must_be_told(breast, breast_run):
    model, left = m4oe.load(breast_run), breast_picture(breast, "L")
    one = model.predict({"ffdm_cc": left}, sides={"ffdm_cc": "left"}).probabilities
    two = model.predict({"ffdm_cc": np.ascontiguousarray(left[:, ::-1])}, sides={"ffdm_cc": "right"}).probabilities
    three = model.predict({"ffdm_cc": left}, sides={"ffdm_cc": "right"}).probabilities
    for task in one:
        assert one[task] == pytest.approx(two[task], abs=1e-6)
    assert one != three
    for sides in (None, {}, {"ffdm_cc": "up"}):
        with pytest.raises(UserError, match="input 'ffdm_cc': which side is it"):
            model.predict({"ffdm_cc": left}, sides=sides)
    with pytest.raises(UserError, match="unknown input in sides 'ffdm_c': did you mean 'ffdm_cc'"):
        model.predict({"ffdm_cc": left}, sides={"ffdm_c": "left"})


def test_a_file_tells_its_side_by_its_name(breast, breast_run, tmp_path):
    pixels = breast_picture(breast, "R")
    for name in ("a_right.png", "a.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    found = predicted(breast_run, [f"ffdm_cc={tmp_path / 'a_right.png'}"], tmp_path / "out")
    wanted = m4oe.load(breast_run).predict({"ffdm_cc": pixels}, sides={"ffdm_cc": "right"}).probabilities
    assert found.query("task == 'malignancy'")["probability"].item() == pytest.approx(
        wanted["malignancy"]["1"], abs=1e-5
    )
    with pytest.raises(UserError, match=r"a\.png: left or right\?"):
        predict_run(breast_run, [f"ffdm_cc={tmp_path / 'a.png'}"], tmp_path / "none", CPU)


# ---- law 7: masks on the input's own grid

ORIENTATIONS = ("RAS", "LPS", "LAS", "PIR", "ASL", "SRA")


def volume(orientation: str) -> nibabel.Nifti1Image:
    """Noise with a bright block in one corner, in an array that lies in the patient as told, on an oblique grid."""
    array = np.random.default_rng(0).uniform(0, 50, (12, 10, 6)).astype(np.float32)
    array[1:5, 2:4, 3:6] += 100
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
    image = nibabel.Nifti1Image(array, turn @ np.diag([0.5, 0.7, 2.5, 1.0]) + np.outer([3, -8, 11, 0], [0, 0, 0, 1]))
    start, end = (nibabel.orientations.axcodes2ornt(codes) for codes in ("RAS", orientation))
    return image.as_reoriented(nibabel.orientations.ornt_transform(start, end))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_law_7_a_volume_mask_lies_where_its_input_does(orientation, tmp_path):
    source = volume(orientation)
    nibabel.save(source, tmp_path / "scan.nii.gz")
    picture = read_picture((str(tmp_path / "scan.nii.gz"),), "mr")
    labels = (picture.values[0] > 75).astype(np.uint8)
    path = write_mask(Mask("s", "e", "fluid", labels, picture.geometry, {0: "no", 7: "fluid"}), tmp_path / "masks")
    written = nibabel.load(path)
    assert path.name == "e__fluid.nii.gz" and nibabel.aff2axcodes(written.affine) == tuple(orientation)
    assert written.shape == source.shape
    np.testing.assert_allclose(written.affine, source.affine, atol=1e-5)
    np.testing.assert_allclose(written.header.get_zooms(), source.header.get_zooms(), rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(written.dataobj), 7 * (source.get_fdata() > 75))
    assert np.array_equal(read_mask(str(path), (0, 7)), labels)


@pytest.fixture(scope="module")
def volume_run(tmp_path_factory) -> Path:
    """A run on volumes of six orientations with masks on them."""
    folder = tmp_path_factory.mktemp("volumes")
    rows = []
    for number in range(12):
        image = volume(ORIENTATIONS[number % 6])
        nibabel.save(image, folder / f"scan_{number}.nii.gz")
        mask = nibabel.Nifti1Image((image.get_fdata() > 75).astype(np.uint8) * 7, image.affine)
        nibabel.save(mask, folder / f"mask_{number}.nii.gz")
        rows.append({"exam": f"e{number}", "scan": f"scan_{number}.nii.gz", "mask": f"mask_{number}.nii.gz"})
    pd.DataFrame(rows).to_csv(folder / "scans.csv", index=False)
    content = {
        "name": "volumes",
        "table": "scans.csv",
        "exam": "exam",
        "inputs": {"scan": {"column": "scan", "modality": "t1", "kind": "mr"}},
        "tasks": {"fluid": {"kind": "segmentation", "column": "mask", "on": "scan", "classes": {0: "no", 7: "fluid"}}},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    return trained([folder / "study.yaml"], folder / "run", "train.max_epochs=1", "model.kind=classifier")


def test_law_7_predicted_volume_masks_have_shape_spacing_and_orientation_of_their_input(volume_run, tmp_path):
    folder = volume_run.parent
    outcome = predict_run(volume_run, [str(folder / "study.yaml")], tmp_path / "out", CPU)
    assert outcome.exams == 12 and not outcome.failed
    for number in range(12):
        source = nibabel.load(folder / f"scan_{number}.nii.gz")
        written = nibabel.load(tmp_path / "out" / "masks" / f"e{number}__fluid.nii.gz")
        assert written.shape == source.shape and set(np.unique(written.dataobj)) <= {0, 7}
        np.testing.assert_allclose(written.affine, source.affine, atol=1e-5)
    # The same picture, turned: the same mask, turned.
    masks = [nibabel.load(tmp_path / "out" / "masks" / f"e{number}__fluid.nii.gz") for number in range(6)]
    upright = [np.asarray(nibabel.as_closest_canonical(mask).dataobj) for mask in masks]
    assert all((mask == upright[0]).mean() > 0.99 for mask in upright)


def test_law_7_a_picture_mask_has_the_shape_of_its_picture(retina, retina_run, tmp_path):
    predicted(retina_run, [str(retina)], tmp_path / "out")
    table = pd.read_csv(retina.parent / "eyes.csv").dropna(subset=["fundus"])
    for exam, path in zip(table["exam_id"], table["fundus"]):
        mask = Image.open(tmp_path / "out" / "masks" / f"{exam}__optic.png")
        assert mask.size == Image.open(retina.parent / path).size and set(np.unique(mask)) <= {0, 128, 255}


def test_a_mask_of_an_image_that_is_not_square_returns_to_it(retina_run, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 255, (40, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert m4oe.load(retina_run).predict({"fundus": tmp_path / "wide.png"}).masks["optic"].shape == (40, 90)
