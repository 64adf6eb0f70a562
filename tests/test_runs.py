"""A training from studies to a run folder: what it leaves, what it refuses, how it goes on, phases, folds, studies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from m4oe.errors import UserError
from m4oe.runs import evaluate_run
from m4oe.train.diary import Diary
from m4oe.train.loading import Shuffled
from m4oe.train.resume import _digest
from m4oe.train.validation import Seen
from small_runs import edited, log_of, trained

KEPT = ("best", "last")
FILES = {
    "config.yaml", "studies/phantom-retina.yaml", "environment.json", "splits.csv", "log.jsonl",
    "checkpoints/last.ckpt", "model/config.json", "model/model.safetensors", "model/README.md", "predictions.csv",
    "cases.csv", "metrics.json", "contributions.csv", "routing.json",
}  # fmt: skip
COLUMNS = {
    "splits.csv": "study, exam, patient, split, fold",
    "predictions.csv": "study, exam, patient, split, fold, inputs, task, class, target, probability",
    "cases.csv": "study, exam, patient, split, fold, task, class, dice, iou, hd95, nsd, outcome",
    "contributions.csv": "study, exam, task, class, input, modality, measure, value",
}
GOLDEN = Path(__file__).parent / "assets" / "losses" / "breast_tiny.txt"


def files_of(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


# ---- what a run folder holds


def test_a_run_folder_holds_every_file_with_its_columns(retina_run):
    there = set(files_of(retina_run))
    assert there >= FILES
    assert not [name for name in there if name.endswith(".part")]
    for name, columns in COLUMNS.items():
        table = pd.read_csv(retina_run / name)
        assert ", ".join(table.columns) == columns, name
        assert len(table) or name == "contributions.csv"  # all withheld on so few exams


def test_a_run_folder_is_as_the_architecture_page_says(repository):
    """The columns above are those of the page, so that one cannot change without the other."""
    page = (repository / "docs" / "architecture.md").read_text(encoding="utf-8")
    for name, columns in list(COLUMNS.items())[1:]:
        assert f"- `{name}`: `{columns}`" in page


def test_the_log_has_a_line_an_epoch(retina_run):
    lines = log_of(retina_run)
    assert [(line["phase"], line["epoch"]) for line in lines] == [("train", 0), ("train", 1)]
    for line in lines:
        assert line.keys() == {"phase", "epoch", "seconds", "train", "validation", "learning_rate"}
        assert line["train"].keys() == {"loss", "glaucoma", "optic", "cmi"}
        assert {"loss", "glaucoma", "optic", "optic_score"} <= line["validation"].keys()


def test_metrics_and_routing_are_of_the_stated_shape(retina_run):
    metrics = json.loads((retina_run / "metrics.json").read_text())
    assert {"validation", "test", "by_inputs", "by_class", "by_study", "by_group"} >= metrics.keys() >= {"test"}
    assert metrics["test"]["optic"]["dice"].keys() == {"value", "low", "high", "n"}
    routing = json.loads((retina_run / "routing.json").read_text())
    assert routing["modalities"] == ["fundus", "oct"] and routing["tasks"] == ["glaucoma", "optic"]
    assert np.sum(routing["P_modality_given_task"], 1) == pytest.approx([1, 1])
    assert np.shape(routing["P_expert_given_modality_task"]) == (2, 2, routing["num_experts"])


def test_every_test_exam_with_a_fundus_picture_has_a_mask(retina_run):
    table = pd.read_csv(retina_run / "predictions.csv")
    having = table[(table["split"] == "test") & table["inputs"].str.contains("fundus")]["exam"].unique()
    assert len(having) >= 2
    assert {path.name for path in (retina_run / "masks").glob("*.png")} == {f"{exam}__optic.png" for exam in having}


def test_law_2_a_patient_is_in_one_split(breast_run):
    splits = pd.read_csv(breast_run / "splits.csv")
    assert splits["patient"].nunique() < len(splits) == splits["exam"].nunique()
    assert (splits.groupby("patient")["split"].nunique() == 1).all()


def test_predictions_hold_each_exam_of_validation_and_test_once(breast_run):
    splits, table = pd.read_csv(breast_run / "splits.csv"), pd.read_csv(breast_run / "predictions.csv")
    assert set(table["exam"]) == set(splits.loc[splits["split"] != "train", "exam"])
    assert not table.duplicated(["exam", "task", "class"]).any()
    shown = table[table["task"].isin(["density", "birads"])].groupby(["exam", "task"])["probability"].sum()
    assert shown.to_numpy() == pytest.approx(1, abs=1e-5)


def test_tasks_that_do_not_surely_beat_chance_are_withheld_with_a_reason(breast_run):
    from m4oe.runs import withheld_tasks
    from m4oe.schema import Schema

    facts = json.loads((breast_run / "model" / "config.json").read_text())
    assert facts["withheld"] == json.loads((breast_run / "routing.json").read_text())["withheld"]
    explained = set(pd.read_csv(breast_run / "contributions.csv")["task"])
    tasks = {"density", "birads", "malignancy", "risk"}
    assert facts["withheld"] and explained == tasks - facts["withheld"].keys()

    schema = Schema.model_validate(facts["schema"])
    sure, unsure = ({"auroc": {"value": 0.8, "low": low, "high": 0.9, "n": 40}} for low in (0.6, 0.4))
    kept = withheld_tasks({"malignancy": sure}, schema)
    assert "malignancy" not in kept and "too few labelled validation exams" in kept["risk"]
    reason = withheld_tasks({"malignancy": unsure}, schema)["malignancy"]
    assert reason == "its validation auroc 0.80 (0.40 to 0.90) does not surely beat chance (0.50)"


# ---- the same command again


def test_the_same_command_on_a_finished_run_does_nothing(retina, retina_run, tmp_path):
    run = shutil.copytree(retina_run, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.suffix in (".safetensors", ".ckpt")}
    content = files_of(run)
    trained([retina], run)
    assert files_of(run) == content
    assert before and all(path.stat().st_mtime_ns == at for path, at in before.items())


def test_a_run_of_before_a_key_existed_is_the_same_run_where_the_key_has_its_default(retina, retina_run, tmp_path):
    run = shutil.copytree(retina_run, tmp_path / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    del config["train"]["refit"]
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    facts = json.loads((run / "environment.json").read_text())
    facts["identity"]["config"] = _digest((run / "config.yaml").read_bytes())
    (run / "environment.json").write_text(json.dumps(facts))
    trained([retina], run)
    (run / "config.yaml").write_text((run / "config.yaml").read_text() + "# somebody has been here\n")
    with pytest.raises(UserError, match="holds another run, which differs in: config;"):
        trained([retina], run)
    with pytest.raises(UserError, match=r"differs in: train\.refit \(False there, True now\)"):
        trained([retina], run, "train.refit=true")


@pytest.mark.parametrize("moment", ["on_train_epoch_start", "on_train_epoch_end"])
def test_an_interrupted_run_goes_on_to_the_same_end(retina, tmp_path, monkeypatch, moment):
    """Of several batches an epoch, whose order is part of that end, as is what dropout drops."""
    how = "train.max_epochs=3", "train.batch_size=4", "model.encoder.depth=1", "model.encoder.dropout=0.5"
    whole = trained([retina], tmp_path / "whole", *how)
    usual = getattr(Diary, moment)

    def interrupted(self, trainer, training):
        usual(self, trainer, training)
        if trainer.current_epoch == (2 if moment == "on_train_epoch_start" else 1):
            raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(Diary, moment, interrupted)
        with pytest.raises(RuntimeError, match="power cut"):
            trained([retina], tmp_path / "cut", *how)
    assert [line["epoch"] for line in log_of(tmp_path / "cut")] == [0, 1]
    cut = trained([retina], tmp_path / "cut", *how)
    assert [line["epoch"] for line in log_of(cut)] == [0, 1, 2]
    losses = [[line["train"]["loss"] for line in log_of(run)] for run in (whole, cut)]
    # Not bit for bit: sums over memory that lies elsewhere may round differently.
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    probabilities = [pd.read_csv(run / "predictions.csv")["probability"] for run in (whole, cut)]
    np.testing.assert_allclose(*probabilities, atol=1e-4)


def test_the_last_checkpoint_is_of_the_last_epoch_however_it_scored(retina, tmp_path, monkeypatch):
    """An epoch that is worse than the best one is not done again, either."""
    monkeypatch.setattr(Seen, "scores", lambda self: {"glaucoma": next(falling)})
    falling = iter([0.9, 0.5, 0.4])
    run = trained([retina], tmp_path / "run", "train.max_epochs=3")
    epochs = {name: torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["epoch"] for name in KEPT}
    assert epochs == {"last": 2, "best": 0}
    assert {path.stem for path in (run / "checkpoints").glob("*.ckpt")} == set(KEPT)


def test_an_order_is_that_of_its_seed_and_epoch_however_often_it_is_asked_for():
    order = Shuffled(50, seed=3, epoch=2)
    assert list(order) == list(order) and sorted(order) == list(range(50)) and len(order) == 50
    others = (Shuffled(50, 3, 1), Shuffled(50, 4, 2))
    assert all(list(other) != list(order) for other in others)


def test_another_config_or_study_on_the_folder_is_refused_by_name(retina, breast, retina_run):
    with pytest.raises(UserError, match=r"holds another run.*train\.seed \(0 there, 5 now\); give another folder"):
        trained([retina], retina_run, "train.seed=5")
    with pytest.raises(UserError, match="differs in: study phantom-breast, study phantom-retina"):
        trained([breast], retina_run)


def test_a_damaged_checkpoint_is_named(retina, tmp_path):
    run = tmp_path / "run"
    trained([retina], run)
    for name in ("metrics.json", "checkpoints/train.safetensors"):
        (run / name).unlink()
    last = run / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:500])
    with pytest.raises(UserError, match=r"last\.ckpt: damaged .*; delete it to start the phase 'train' again"):
        trained([retina], run)
    last.unlink()
    assert (trained([retina], run) / "metrics.json").is_file()


def test_damaged_weights_of_a_finished_phase_are_named(retina, retina_run, tmp_path):
    run = shutil.copytree(retina_run, tmp_path / "run")
    (run / "metrics.json").unlink()
    (run / "checkpoints" / "train.safetensors").write_bytes(b"x" * 40)
    with pytest.raises(UserError, match=r"train\.safetensors: damaged"):
        trained([retina], run)


# ---- folds and several studies


def test_folds_have_a_run_each_and_pooled_metrics(retina, tmp_path):
    run = trained([edited(retina, tmp_path / "s.yaml", split={"folds": 2})], tmp_path / "run", "train.max_epochs=1")
    splits = pd.read_csv(run / "splits.csv")
    pooled = pd.read_csv(run / "predictions.csv")
    assert set(pooled["exam"]) == set(splits["exam"]) and (pooled["split"] == "test").all()
    for fold in (0, 1):
        own = pd.read_csv(run / f"fold_{fold}" / "predictions.csv")
        tested = splits[(splits["fold"] == fold) & (splits["split"] == "test")]["exam"]
        assert set(own.loc[own["split"] == "test", "exam"]) == set(tested)
        assert (run / f"fold_{fold}" / "model" / "model.safetensors").is_file()
    metrics = json.loads((run / "metrics.json").read_text())
    labelled = pooled[(pooled["task"] == "glaucoma") & pooled["target"].notna()]["exam"].nunique()
    assert metrics["test"]["glaucoma"]["accuracy"]["n"] == labelled > 15


def test_folds_are_evaluated_where_all_are_trained_and_written_where_asked(tmp_path):
    (tmp_path / "fold_0").mkdir()
    with pytest.raises(UserError, match="not all folds are trained; the same 'm4oe train' goes on with them"):
        evaluate_run(tmp_path, [], None, torch.device("cpu"))
    (tmp_path / "metrics.json").write_text('{"test": {}}')
    assert evaluate_run(tmp_path, [], tmp_path / "out", torch.device("cpu")).splits == ["test"]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == {"test": {}}


def test_studies_train_together_and_their_masks_do_not_meet(retina, tmp_path):
    from m4oe.report.folder import read_run

    paths = [edited(retina, tmp_path / f"{name}.yaml", name=name) for name in ("here", "there")]
    run = trained(paths, tmp_path / "run", "train.max_epochs=1")
    splits = pd.read_csv(run / "splits.csv")
    assert set(splits["study"]) == {"here", "there"} and splits.groupby("study")["exam"].nunique().to_list() == [24, 24]
    # Ids of patients are those of each study: the same id may be in two splits.
    assert (splits.groupby(["study", "patient"])["split"].nunique() == 1).all()
    masks = {path.name for path in (run / "masks").glob("*.png")}
    cases = pd.read_csv(run / "predictions.csv")
    cases = cases[(cases["split"] == "test") & cases["inputs"].str.contains("fundus")]
    pairs = set(zip(cases["study"], cases["exam"]))
    assert {study for study, _ in pairs} == {"here", "there"}
    assert masks == {f"{study}__{exam}__optic.png" for study, exam in pairs}
    folder = read_run(run)
    found = {folder.mask(study, exam, "optic") for study, exam in pairs}
    assert found == {run / "masks" / name for name in masks}


def test_a_mask_is_found_under_the_name_it_was_written(retina_run, tmp_path):
    from m4oe.masks import mask_name
    from m4oe.report.folder import read_run

    run = shutil.copytree(retina_run, tmp_path / "run")
    odd = "exam 7/left"
    (run / "masks" / f"{mask_name(None, odd, 'optic')}.png").touch()
    assert read_run(run).mask("phantom-retina", odd, "optic").parent == run / "masks"
    assert read_run(run).mask("phantom-retina", "../model/config", "optic") is None
