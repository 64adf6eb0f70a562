"""A trained segmenter applied: its own splits, a folder of scans, another label set, a modality that it never saw."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import m4oe
from m4oe import cli
from m4oe.artifact import load_artifact
from m4oe.data.table import load_cohort
from m4oe.errors import UserError
from m4oe.moe.forms import REORDER, LaidOut
from m4oe.nets.build import build_model
from m4oe.predict import VolumePredictor
from m4oe.runs import evaluate_run, predict_run
from m4oe.runs.tables import all_rows
from m4oe.settings import Phase
from m4oe.study import load_study
from small_runs import trained

CPU = torch.device("cpu")
SMALL = (
    "model.segmenter.size=[16, 16]",
    "model.segmenter.width=12",
    "model.segmenter.depths=[1, 1]",
    "model.segmenter.heads=[1, 2]",
    "model.segmenter.window=4",
    "train.max_epochs=1",
    "train.slices_per_epoch=16",
)
LABELS = {"ct": {0: "background", 10: "liver", 20: "spleen"}, "mr": {0: "background", 1: "liver", 2: "kidney"}}


def write_scan(path: Path, seed: int, orientation: str = "LPS") -> np.ndarray:
    """Two bright blocks in noise; gives their mask in classes 0, 1, 2, as an array in RAS+."""
    rng = np.random.default_rng(seed)
    classes = np.zeros((20, 18, 6), np.uint8)
    x, y = rng.integers(1, 8, 2)
    classes[x : x + 5, y : y + 6, 1:5], classes[x + 6 : x + 11, y : y + 4, 2:6] = 1, 2
    values = rng.normal(0, 20, classes.shape) + 100 * classes
    image = nibabel.Nifti1Image(values.astype(np.int16), np.diag([1.0, 1.0, 3.0, 1]))
    turn = nibabel.orientations.ornt_transform(*map(nibabel.orientations.axcodes2ornt, ("RAS", orientation)))
    nibabel.save(image.as_reoriented(turn), path)
    return classes


def write_study(folder: Path, modality: str, name: str | None = None, exams: int = 10) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    values, rows = np.asarray(list(LABELS[modality]), np.uint8), []
    for number in range(exams):
        classes = write_scan(folder / f"scan_{number}.nii.gz", seed=number)
        mask = nibabel.load(folder / f"scan_{number}.nii.gz")
        stored = values[classes][::-1, ::-1]
        nibabel.save(nibabel.Nifti1Image(stored, mask.affine), folder / f"mask_{number}.nii.gz")
        rows.append({"exam": f"e{number}", "scan": f"scan_{number}.nii.gz", "mask": f"mask_{number}.nii.gz"})
    pd.DataFrame(rows).to_csv(folder / "scans.csv", index=False)
    content = {
        "name": name or f"{modality}_site",
        "table": "scans.csv",
        "exam": "exam",
        "inputs": {"scan": {"column": "scan", "modality": modality, "kind": modality}},
        "tasks": {
            f"{modality}_organs": {
                "kind": "segmentation",
                "column": "mask",
                "on": "scan",
                "classes": dict(LABELS[modality]),
            }
        },
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "study.yaml"


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("studies")
    return [write_study(folder / modality, modality) for modality in ("ct", "mr")]


@pytest.fixture(scope="module")
def run(studies: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(studies, tmp_path_factory.mktemp("runs") / "run", *SMALL)


def values_of(path: Path) -> set[int]:
    return set(np.unique(np.asarray(nibabel.load(path).dataobj)).tolist())


def test_a_run_holds_masks_in_each_study_s_own_numbering_and_their_metrics(studies, run):
    cases = pd.read_csv(run / "cases.csv")
    test = cases[cases["split"] == "test"]
    names = {f"{row.study}__{row.exam}__{row.task}.nii.gz" for row in test.itertuples()}
    masks = {path.name for path in (run / "masks").glob("*.nii.gz")}
    assert masks == names and len(names) >= 2
    for name in masks:
        modality, exam = name[:2], name.split("__")[1]
        assert values_of(run / "masks" / name) <= set(LABELS[modality])
        source = nibabel.load(studies[modality == "mr"].parent / f"scan_{exam[1:]}.nii.gz")
        assert np.array_equal(nibabel.load(run / "masks" / name).affine, source.affine)
    assert {"ct_site__ct_organs.ctbl", "mr_site__mr_organs.itksnap.txt", "labels.json"} <= {
        path.name for path in (run / "masks").iterdir()
    }
    metrics = json.loads((run / "metrics.json").read_text())
    for modality, organs in (("ct", ("liver", "spleen")), ("mr", ("liver", "kidney"))):
        task = f"{modality}_organs"
        assert {"dice", "iou"} <= metrics["test"][task].keys()
        assert metrics["by_study"]["test"][f"{modality}_site"].keys() == {task}
        for organ in organs:
            assert task in metrics["by_class"]["test"][organ]
    assert set(metrics["by_class"]["test"]["liver"]) == {"ct_organs", "mr_organs"}
    gate = json.loads((run / "routing.json").read_text())["gate"]
    load = np.array(gate["load"])
    assert load.shape == (len(gate["layers"]), 2, 2) and load.sum(-1) == pytest.approx(np.ones(load.shape[:2]))


def test_evaluate_on_another_study_and_its_masks(studies, run, tmp_path):
    other = write_study(tmp_path / "new", "ct", "new_site", exams=3)
    found = evaluate_run(run, [other], tmp_path / "out", CPU)
    assert found.metrics["test"]["ct_organs"]["dice"]["n"] == 3 and not found.failed and not found.notes
    assert set(found.metrics["by_study"]["test"]) == {"new_site"}


def renamed(study: Path, name: str, classes: dict[int, str], **facts: object) -> Path:
    """`study`, its one task called `name`, with other classes and `facts`."""
    content = yaml.safe_load(study.read_text())
    (task,) = content["tasks"].values()
    content["tasks"] = {name: {**task, "classes": classes, **facts}}
    study.write_text(yaml.safe_dump(content, sort_keys=False))
    return study


def test_a_study_of_its_own_numbering_is_evaluated_where_its_classes_are_known(run, tmp_path):
    """By a task's name, by a synonym; the spleen under its own name, too."""
    other = write_study(tmp_path / "new", "ct", "new_site", exams=3)
    renamed(other, "abdomen", {0: "background", 20: "spleen", 10: "hepar"}, synonyms={"hepar": "liver"})
    found = evaluate_run(run, [other], tmp_path / "out", CPU)
    assert found.metrics["test"].keys() == {"abdomen"} and found.metrics["test"]["abdomen"]["dice"]["n"] == 3
    assert found.metrics["by_class"]["test"].keys() == {"spleen", "hepar"}
    assert found.metrics == json.loads((tmp_path / "out" / "metrics.json").read_text())


def test_where_nothing_can_be_scored_evaluation_says_why(run, tmp_path):
    other = write_study(tmp_path / "new", "ct", "new_site", exams=1)
    renamed(other, "head", {0: "background", 10: "thalamus", 20: "pons"})
    with pytest.raises(UserError, match=r"study\.yaml: nothing to score.*ct_organs \(background, liver, spleen\)"):
        evaluate_run(run, [other], tmp_path / "out", CPU)
    assert not (tmp_path / "out" / "metrics.json").exists()


def torn(study: Path, *exams: int) -> None:
    for number in exams:
        (study.parent / f"scan_{number}.nii.gz").write_bytes(b"torn")


def test_one_torn_exam_does_not_hide_that_the_others_cannot_be_scored(run, tmp_path):
    """Nor does what an earlier call found stay beside tables that are new."""
    other = write_study(tmp_path / "new", "ct", "new_site", exams=2)
    evaluate_run(run, [other], tmp_path / "out", CPU)
    renamed(other, "head", {0: "background", 10: "thalamus", 20: "pons"})
    torn(other, 1)
    found = evaluate_run(run, [other], tmp_path / "out", CPU)
    assert found.failed.keys() == {"new_site/e1"} and not found.splits
    assert "of 1 exams that could be predicted none has a label that the model knows" in found.unscored
    assert not (tmp_path / "out" / "metrics.json").exists() and not len(pd.read_csv(tmp_path / "out" / "cases.csv"))
    torn(other, 0)
    assert evaluate_run(run, [other], tmp_path / "out", CPU).unscored == "", "every exam's own reason is the cause"


def test_a_known_task_without_a_mask_is_told_as_that(run, tmp_path):
    other = write_study(tmp_path / "new", "ct", "new_site", exams=1)
    table = pd.read_csv(other.parent / "scans.csv").assign(mask="")
    table.to_csv(other.parent / "scans.csv", index=False)
    with pytest.raises(UserError, match="none has a mask of ct_organs; is the column of masks empty"):
        evaluate_run(run, [other], tmp_path / "out", CPU)


def test_under_json_what_is_not_a_metric_goes_to_stderr(run, tmp_path, monkeypatch, capsys):
    other = write_study(tmp_path / "new", "ct", "new_site", exams=1)
    renamed(other, "abdomen", {0: "background", 10: "liver", 20: "stone"})
    monkeypatch.setattr("sys.argv", ["m4oe", "evaluate", str(run), str(other), "-o", str(tmp_path / "out"), "--json"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    told = capsys.readouterr()
    assert not end.value.code and json.loads(told.out) == json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert told.err == "note: task 'abdomen': the model does not know stone: in no mask, and not scored\n"


def test_the_command_tells_the_cause_where_nothing_is_scored(run, tmp_path, monkeypatch, capsys):
    other = write_study(tmp_path / "new", "ct", "new_site", exams=2)
    renamed(other, "head", {0: "background", 10: "thalamus", 20: "pons"})
    torn(other, 0)
    monkeypatch.setattr("sys.argv", ["m4oe", "evaluate", str(run), str(other), "-o", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as end:
        cli.main()
    failed, error = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and failed.startswith("failed: new_site/e0: ")
    assert error.startswith("error: ") and "ct_organs (background, liver, spleen)" in error


def test_an_exam_that_failed_in_part_is_told_as_that(run, tmp_path):
    """Two label sets on one scan, one of whose masks is torn: the other one is measured."""
    other = write_study(tmp_path / "new", "ct", "new_site", exams=2)
    content = yaml.safe_load(other.read_text())
    content["tasks"] = {"again": {**content["tasks"]["ct_organs"], "column": "second"}, **content["tasks"]}
    other.write_text(yaml.safe_dump(content, sort_keys=False))
    table = pd.read_csv(other.parent / "scans.csv")
    table.assign(second=["torn.nii.gz", table["mask"][1]]).to_csv(other.parent / "scans.csv", index=False)
    (other.parent / "torn.nii.gz").write_bytes(b"torn")
    found = evaluate_run(run, [other], tmp_path / "out", CPU)
    assert found.failed.keys() == {"new_site/e0"}
    assert {name: task["dice"]["n"] for name, task in found.metrics["test"].items()} == {"ct_organs": 2, "again": 1}
    assert found.notes == [
        "1 of 2 exams failed, 1 of them in part: what failed is in none of these numbers, their other masks are"
    ]


def test_two_label_sets_of_one_name_are_not_scored_as_one(run, tmp_path):
    """Which is told before hours are spent: nothing is predicted."""
    names = ("one", "two")
    one, two = (write_study(tmp_path / name, "ct", name, exams=1) for name in names)
    renamed(one, "abdomen", {0: "background", 10: "liver", 20: "spleen"})
    renamed(two, "abdomen", {0: "background", 10: "liver", 20: "kidney"})
    with pytest.raises(UserError, match="task 'abdomen' has other classes in one of the studies"):
        evaluate_run(run, [one, two], tmp_path / "out", CPU)
    assert not (tmp_path / "out" / "masks").exists()


def test_exams_that_fail_are_told_beside_the_metrics_of_the_others(run, tmp_path):
    """A picture of NaN, a mask on another grid: of three exams one is measured."""
    other = write_study(tmp_path / "new", "ct", "new_site", exams=3)
    scan = nibabel.load(other.parent / "scan_0.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.full(scan.shape, np.nan, np.float32), scan.affine), scan.get_filename())
    mask = nibabel.load(other.parent / "mask_1.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.asarray(mask.dataobj)[:-2], mask.affine), mask.get_filename())
    found = evaluate_run(run, [other], tmp_path / "out", CPU)
    assert found.failed.keys() == {"new_site/e0", "new_site/e1"}
    assert found.metrics["test"]["ct_organs"]["dice"]["n"] == 1
    assert found.notes == ["2 of 3 exams failed, and are in none of these numbers"]


def test_a_folder_of_scans_is_segmented(run, tmp_path):
    (tmp_path / "ct_in").mkdir()
    for number in range(2):
        write_scan(tmp_path / "ct_in" / f"case_{number}_0000.nii.gz", seed=number, orientation="PIR")
    (tmp_path / "ct_in" / "torn_0000.nii.gz").write_bytes(b"torn")
    outcome = predict_run(run, [str(tmp_path / "ct_in")], tmp_path / "out", CPU)
    assert outcome.failed.keys() == {"ct_site/torn"} and outcome.exams == 2
    for number in range(2):
        source = nibabel.load(tmp_path / "ct_in" / f"case_{number}_0000.nii.gz")
        written = nibabel.load(tmp_path / "out" / "masks" / f"case_{number}__ct_organs.nii.gz")
        assert written.shape == source.shape and np.array_equal(written.affine, source.affine)
        assert values_of(tmp_path / "out" / "masks" / f"case_{number}__ct_organs.nii.gz") <= set(LABELS["ct"])


def test_a_label_set_of_its_own_and_a_modality_that_was_never_seen(run, tmp_path):
    """By name: liver of a third study without masks, whose modality goes through the gate prepared as MR."""
    write_study(tmp_path / "third", "mr", "third", exams=1)
    table = tmp_path / "third" / "scans.csv"
    pd.read_csv(table).drop(columns="mask").to_csv(table, index=False)
    study = yaml.safe_load((tmp_path / "third" / "study.yaml").read_text())
    study["inputs"]["scan"]["modality"] = "contrast_mr"
    study["tasks"] = {"hepar": {**study["tasks"]["mr_organs"], "classes": {0: "background", 99: "liver"}}}
    (tmp_path / "third" / "study.yaml").write_text(yaml.safe_dump(study))
    outcome = predict_run(run, [str(tmp_path / "third" / "study.yaml")], tmp_path / "out", CPU)
    assert not outcome.failed
    assert values_of(tmp_path / "out" / "masks" / "e0__hepar.nii.gz") <= {0, 99}
    # Which preparation was borrowed is told, and what the gate made of it kept, behind the modalities that it knows.
    assert ["'contrast_mr' was never trained" in note and "those of 'mr'" in note for note in outcome.notes] == [True]
    routing = json.loads((tmp_path / "out" / "routing.json").read_text())
    assert routing["modalities"] == ["ct", "mr", "contrast_mr"]
    load = np.array(routing["gate"]["load"]).sum(2)
    assert load == pytest.approx(np.tile([0, 0, 1], (len(routing["gate"]["layers"]), 1)))


def test_a_folder_of_scans_of_no_known_modality_gets_the_whole_label_set(studies, run, tmp_path):
    """Of a run whose studies are all of one kind: neither folder nor files need to say more."""
    (tmp_path / "run" / "studies").mkdir(parents=True)
    (tmp_path / "run" / "model").symlink_to(run / "model")
    for modality in ("t1", "t2"):
        text = studies[1].read_text().replace("modality: mr", f"modality: {modality}").replace("mr_site", modality)
        (tmp_path / "run" / "studies" / f"{modality}.yaml").write_text(text)
    (tmp_path / "scans").mkdir()
    write_scan(tmp_path / "scans" / "p1.nii.gz", seed=1)
    outcome = predict_run(tmp_path / "run", [str(tmp_path / "scans")], tmp_path / "out", CPU)
    assert not outcome.failed and len(outcome.notes) == 1
    assert [path.name for path in (tmp_path / "out" / "masks").glob("*.nii.gz")] == ["p1__unified.nii.gz"]


def test_python_gives_the_mask_that_the_command_writes(studies, run, tmp_path):
    scan = studies[0].parent / "scan_3.nii.gz"
    predict_run(run, [f"scan@ct={scan}"], tmp_path / "out", CPU)
    answer = m4oe.load(run).predict({"scan@ct": scan})
    written = nibabel.as_closest_canonical(nibabel.load(tmp_path / "out" / "masks" / "exam__ct_organs.nii.gz"))
    assert answer.masks.keys() == {"ct_organs", "mr_organs", "unified"}
    found = np.asarray(list(LABELS["ct"]))[answer.masks["ct_organs"]]
    assert np.array_equal(found.transpose(2, 1, 0), np.asarray(written.dataobj))


def test_hard_routing_refuses_a_modality_that_it_does_not_know(run, tmp_path):
    """And gives the same as ever for one that it knows."""
    artifact = load_artifact(run)
    hard = build_model(artifact.model, artifact.schema, Phase(routing="modality"))
    hard.load_state_dict(artifact.network.state_dict(), strict=False)
    model = VolumePredictor(replace(artifact, network=hard))
    failed = {}
    for modality in ("mr", "contrast_mr"):
        study = write_study(tmp_path / modality, "mr", modality, exams=1)
        study.write_text(study.read_text().replace("modality: mr", f"modality: {modality}"))
        parts = list(model.stream(all_rows([load_cohort(load_study(study))], artifact.schema, "")))
        failed |= {exam: reason for part in parts for exam, reason in part.failed.items()}
        assert [len(part.masks) for part in parts] == [modality == "mr"]
    assert failed.keys() == {"contrast_mr/e0"}
    assert "by modality: such was never trained; known: ct (kind ct), mr (kind mr)" in failed["contrast_mr/e0"]


@pytest.mark.parametrize("fast", [True, False])
def test_weights_are_laid_out_where_a_cpu_is_fast_at_bfloat16(run, fast, monkeypatch):
    monkeypatch.setattr("m4oe.predict.volumes.has_fast_bf16", lambda device: fast)
    layers = VolumePredictor(load_artifact(run)).network.modules()
    laid_out = [layer.form is not None for layer in layers if isinstance(layer, LaidOut)]
    assert laid_out and all(said == (fast and REORDER is not None) for said in laid_out)
