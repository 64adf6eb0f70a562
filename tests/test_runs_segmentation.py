"""Segmentation runs, from studies on disk to masks: phases, files, other studies."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from m4oe.artifact import load_artifact
from m4oe.config import load_config
from m4oe.errors import UserError
from m4oe.moe import GateRouter
from m4oe.runs import describe_model, evaluate_run, predict_run, train_run
from m4oe.runs.training import _check_flips
from m4oe.study import load_study
from m4oe.train.resume import absolute_study
from small_segmenters import CPU, NETWORK, PHASES, TRAINING, study, train
from small_volumes import block, study_of, volume


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("studies")
    return [
        study(folder, "a", "mr"),
        study(folder, "b", "ct", classes={0: "background", 7: "hepar"}, synonyms={"hepar": "organ"}),
    ]


@pytest.fixture(scope="module")
def run(studies, tmp_path_factory) -> Path:
    # The second study's masks hold 1, which it calls 7: they are written anew.
    for path in studies[1].parent.glob("*_mask.nii.gz"):
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj) * 7, image.affine), path)
    return train(studies, tmp_path_factory.mktemp("run") / "run", PHASES)


def test_a_run_holds_what_its_page_says(run):
    for name in ("plan.json", "metrics.json", "cases.csv", "routing.json", "model/model.safetensors", "splits.csv"):
        assert (run / name).is_file(), name
    phases = [json.loads(line)["phase"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert phases == ["pretrain", "specialise", "gate"]
    assert load_artifact(run).schema.unified == ("background", "organ")


def test_the_loss_of_an_epoch_is_the_sum_of_its_tasks(run):
    *_, last = (json.loads(line) for line in (run / "log.jsonl").read_text().splitlines())
    for side in ("train", "validation"):
        assert last[side]["loss"] == pytest.approx(last[side]["a_organs"] + last[side]["b_organs"])


def test_every_test_exam_has_a_mask_on_its_own_grid_in_its_own_numbers(run, studies):
    splits = pd.read_csv(run / "splits.csv")
    tested = splits[splits["split"] == "test"]
    masks = sorted((run / "masks").glob("*.nii.gz"))
    assert len(masks) == len(tested) >= 2
    for row in tested.itertuples():
        mask = nib.load(run / "masks" / f"{row.study}__{row.exam}__{row.study}_organs.nii.gz")
        image = nib.load(studies[0].parents[1] / row.study / f"{row.exam}.nii.gz")
        assert mask.shape == image.shape and np.array_equal(mask.affine, image.affine)
        assert set(np.unique(mask.dataobj)) <= {0, 7 if row.study == "b" else 1}


def test_gates_are_told_by_layer_modality_and_expert(run):
    gate = json.loads((run / "routing.json").read_text())["gate"]
    load = np.array(gate["load"])
    assert load.shape == (len(gate["layers"]), 2, 2) and len(gate["layers"]) == 3
    assert load.sum(2) == pytest.approx(1)


def test_the_same_command_finds_all_done(run, studies):
    told: list[str] = []
    config = load_config(None, [*NETWORK, *TRAINING, f"phases={json.dumps(PHASES)}"])
    train_run(studies, config, run, CPU, tell=told.append)
    assert told == [f"{run}: trained already"]


def test_a_run_without_a_gate_keeps_its_routing_and_refuses_an_unknown_modality(studies, tmp_path):
    out = train(studies[:1], tmp_path / "run", PHASES[1:2])
    assert load_artifact(out).phase.routing == "modality"
    other = study(tmp_path / "other", "p", "mr")
    content = yaml.safe_load(other.read_text())
    content["inputs"]["image"]["modality"] = "dixon"
    other.write_text(yaml.safe_dump(content))
    outcome = predict_run(out, [str(other)], tmp_path / "predicted", CPU)
    assert len(outcome.failed) == 6 and "does not know modality 'dixon'" in next(iter(outcome.failed.values()))


def test_minutes_that_are_spent_end_an_epoch_in_its_middle(studies, tmp_path):
    hour_long = "train.slices_per_epoch=100000"
    out = train(studies[:1], tmp_path / "run", PHASES[1:2], hour_long, "train.max_minutes=0.01")
    (line,) = (json.loads(text) for text in (out / "log.jsonl").read_text().splitlines())
    assert line["seconds"] < 30 and "a_organs_score" in line["validation"] and (out / "metrics.json").is_file()


def test_other_studies_are_evaluated(run, studies, tmp_path):
    metrics = evaluate_run(run, [studies[0]], tmp_path / "elsewhere", CPU).metrics
    assert metrics["test"]["a_organs"]["dice"]["n"] == 6


def test_a_folder_of_scans_is_segmented(run, studies, tmp_path):
    scans = tmp_path / "ct"
    scans.mkdir()
    for case in ("b0", "b1"):
        (scans / f"{case}.nii.gz").write_bytes((studies[1].parent / f"{case}.nii.gz").read_bytes())
    outcome = predict_run(run, [str(scans)], tmp_path / "out", CPU)
    assert outcome.exams == 2 and not outcome.failed
    assert len(list((tmp_path / "out" / "masks").glob("*.nii.gz"))) == 2


def test_experts_start_as_copies_of_a_dense_run(run, studies, tmp_path):
    dense = train(studies, tmp_path / "dense", [{"name": "train"}], "model.segmenter.experts=none")
    assert not [name for name, _ in load_artifact(dense).network.named_parameters() if ".gate." in name]
    phases = [{"name": "specialise", "routing": "modality", "learning_rate": 1e-12}]
    out = train(studies, tmp_path / "run", phases, f"model.segmenter.start={dense}")
    told = json.loads((out / "start.json").read_text())
    assert len(told["loaded"]) > 20 and not told["left_over"]
    new, old = (load_artifact(folder).network for folder in (out, dense))
    weight, source = (net.get_parameter("network.encoder.0.0.ffn.experts.weight_in") for net in (new, old))
    assert len(weight) == 2 and torch.allclose(weight, source.expand_as(weight), atol=1e-6)
    assert torch.allclose(new.head.weight, old.head.weight, atol=1e-6)  # a head of the same classes


def test_a_head_of_other_classes_is_left_over(run, studies, tmp_path):
    dense = train(studies[:1], tmp_path / "dense", [{"name": "train"}], "model.segmenter.experts=none")
    out = train(studies, tmp_path / "run", PHASES[1:2], f"model.segmenter.start={dense}")
    assert json.loads((out / "start.json").read_text())["left_over"] == ["head.bias", "head.weight"]


@pytest.mark.parametrize("start", ["modality", "random"])
def test_a_gate_phase_starts_with_the_experts_of_the_modalities_or_anywhere(run, studies, tmp_path, start):
    phases = [PHASES[1], {"name": "gate", "learning_rate": 1e-12}]
    out = train(studies, tmp_path / "run", phases, f"model.segmenter.gate.start={start}")
    gates = [layer.gate for layer in load_artifact(out).network.modules() if isinstance(layer, GateRouter)]
    assert len(gates) == 3
    for gate in gates:
        assert (gate["token"].weight.abs().max() < 1e-6) == (start == "modality")


def test_the_size_of_a_segmenter_is_told(run):
    facts = describe_model([run], load_config())
    assert facts["of them in experts"] > 0 and facts["FLOPs for one exam"] > 0


def test_flips_that_no_picture_allows_are_refused(studies, tmp_path):
    """Where some pictures allow them, it is said which do not."""
    with pytest.raises(UserError, match=r"model\.segmenter\.flips: pictures of kind ct, mr are not mirrored"):
        train(studies, tmp_path / "run", PHASES[1:2], "model.segmenter.flips=true")
    config = load_config(None, ["model.segmenter.flips=true"]).for_tasks({"segmentation"})
    told: list[str] = []
    slides = study(tmp_path, "slides", "pathology", cases=1)
    _check_flips(config, [load_study(path) for path in (studies[0], slides)], told.append)
    (line,) = told
    assert line.startswith("model.segmenter.flips: pictures of kind mr are not mirrored")


def test_pictures_of_which_nothing_is_learned_are_told(tmp_path):
    """The expert of a modality that no training exam has stays as it was built; with a gate as without."""
    path = study(tmp_path, "a", "mr")
    splits = ("train", "train", "train", "val", "test")
    rows = [f"a{n},a{n}.nii.gz,a{n}_mask.nii.gz,{split}" for n, split in enumerate(splits)]
    text = "\n".join(["case,image,mask,split,sequence", *(f"{row},t1" for row in rows[:-1]), f"{rows[-1]},T1", ""])
    (path.parent / "table.csv").write_text(text)
    content = yaml.safe_load(path.read_text())
    content["inputs"]["image"]["modality"] = {"column": "sequence"}
    path.write_text(yaml.safe_dump(content | {"split": {"column": "split"}}))
    told: list[str] = []
    config = load_config(None, [*NETWORK, *TRAINING, f"phases={json.dumps(PHASES[1:2])}"])
    train_run([path], config, tmp_path / "run", CPU, tell=told.append)
    (line,) = [line for line in told if "nothing is learned" in line]
    assert line.startswith("no training exam has input 'image' of modality 'T1' with a mask")


def test_masks_that_are_empty_everywhere_are_refused_before_training(tmp_path):
    pairs = {f"e{case}": (volume(case), block() * 0) for case in range(6)}
    cohort = study_of(tmp_path, pairs, "e")
    path = tmp_path / "e" / "study.yaml"
    path.write_text(absolute_study(cohort.study))
    with pytest.raises(UserError, match="e_organs"):
        train([path], tmp_path / "run", PHASES[1:2])
