"""A segmentation run that was interrupted goes on to the very end that it would have had, or is refused by name."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from m4oe.errors import UserError
from m4oe.train.diary import Diary
from m4oe.train.validation import Seen
from small_runs import log_of
from small_segmenters import PHASES, grow, study, train

TWO_PHASES = (PHASES[1], {"name": "gate", "max_epochs": 2})
TWO_EPOCHS = "train.max_epochs=2"


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("studies")
    return [study(folder, "a", "mr"), study(folder, "b", "ct")]


@pytest.fixture(scope="module")
def new(tmp_path_factory) -> Path:
    return study(tmp_path_factory.mktemp("new"), "c", "xray")


@pytest.fixture(scope="module")
def whole(studies, tmp_path_factory) -> Path:
    """A run that nothing interrupted."""
    return train(studies, tmp_path_factory.mktemp("whole") / "run", TWO_PHASES)


def interrupted(phase: str, training: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """`training`, in whose phase the power fails in the second epoch."""
    usual = Diary.on_train_epoch_end

    def cut(self, trainer, module):
        if module.phase == phase and trainer.current_epoch == 1:
            raise RuntimeError("power cut")
        usual(self, trainer, module)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(Diary, "on_train_epoch_end", cut)
        training()


def assert_same(one: Path, other: Path) -> None:
    """The same weights bit for bit, hence the same predictions."""
    weights, others = (load_file(run / "model" / "model.safetensors") for run in (one, other))
    assert weights.keys() == others.keys() and len(weights) > 20
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    for name in ("cases.csv", "routing.json", "metrics.json"):
        assert (one / name).read_text() == (other / name).read_text(), name
    assert [line["epoch"] for line in log_of(one)] == [line["epoch"] for line in log_of(other)]


# ---- the same end


def test_a_run_that_is_interrupted_in_its_gate_phase_goes_on_to_the_same_end(studies, whole, tmp_path, monkeypatch):
    interrupted("gate", lambda: train(studies, tmp_path / "cut", TWO_PHASES), monkeypatch)
    assert [line["phase"] for line in log_of(tmp_path / "cut")] == ["specialise", "gate"]
    assert_same(train(studies, tmp_path / "cut", TWO_PHASES), whole)


def test_a_growth_that_is_interrupted_goes_on_to_the_same_end(whole, new, tmp_path, monkeypatch):
    interrupted("grow", lambda: grow(new, tmp_path / "cut", whole, TWO_EPOCHS), monkeypatch)
    assert [line["phase"] for line in log_of(tmp_path / "cut")] == ["grow"]
    runs = [grow(new, tmp_path / name, whole, TWO_EPOCHS) for name in ("cut", "uncut")]
    assert_same(*runs)
    assert len({(run / "growth.json").read_text() for run in runs}) == 1


def test_a_run_that_was_moved_keeps_the_best_epoch_of_before(studies, tmp_path, monkeypatch):
    scores = iter((0.9, 0.5, 0.1))  # the second is lost with the power
    monkeypatch.setattr(Seen, "scores", lambda self: {"a_organs": next(scores)})
    one = (PHASES[1] | {"max_epochs": 2},)
    interrupted("specialise", lambda: train(studies, tmp_path / "run", one), monkeypatch)
    moved = (tmp_path / "run").rename(tmp_path / "elsewhere")
    train(studies, moved, one)
    best = torch.load(moved / "checkpoints" / "best.ckpt", weights_only=True)
    assert [line["epoch"] for line in log_of(moved)] == [0, 1] and best["epoch"] == 0
    kept = load_file(moved / "checkpoints" / "specialise.safetensors")
    assert all(torch.equal(best["state_dict"][f"network.{name}"], value) for name, value in kept.items())


def test_a_damaged_best_epoch_is_named(studies, whole, tmp_path):
    """Stopped between its last epoch and what is kept of it."""
    run = shutil.copytree(whole, tmp_path / "run")
    for name in ("metrics.json", "checkpoints/gate.safetensors"):
        (run / name).unlink()
    (run / "checkpoints" / "best.ckpt").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"best\.ckpt: damaged .*phase 'gate': delete .*checkpoints to train again"):
        train(studies, run, TWO_PHASES)


# ---- another beginning


def test_a_run_does_not_go_on_where_exams_changed_their_split(tmp_path, monkeypatch):
    """Patients are drawn in balance: what comes or goes moves others, and those of test would be learned from."""
    path = study(tmp_path, "a", "mr", cases=12)
    path.write_text(path.read_text() + "missing_files: absent\n")
    one = (PHASES[1] | {"max_epochs": 2},)
    interrupted("specialise", lambda: train([path], tmp_path / "run", one), monkeypatch)
    before = (tmp_path / "run" / "splits.csv").read_text()
    gone = path.parent / "a3.nii.gz"
    gone.rename(tmp_path / "away.nii.gz")
    with pytest.raises(UserError, match=r"splits\.csv: the exams of this run are others now.*missing_files: absent"):
        train([path], tmp_path / "run", one)
    assert (tmp_path / "run" / "splits.csv").read_text() == before
    (tmp_path / "away.nii.gz").rename(gone)
    assert (train([path], tmp_path / "run", one) / "metrics.json").is_file()


def test_a_run_does_not_go_on_with_a_plan_that_was_edited(studies, tmp_path, monkeypatch):
    interrupted("gate", lambda: train(studies, tmp_path / "run", TWO_PHASES), monkeypatch)
    path = tmp_path / "run" / "plan.json"
    plan = json.loads(path.read_text())
    path.write_text(json.dumps(plan | {"context": 1}))
    with pytest.raises(UserError, match=r"run: holds another run, which differs in: plan\.json; give another folder"):
        train(studies, tmp_path / "run", TWO_PHASES)
    path.unlink()  # made again, it is the same
    assert (train(studies, tmp_path / "run", TWO_PHASES) / "metrics.json").is_file()


def test_a_plan_where_none_is_read_is_refused(studies, whole, tmp_path):
    """Not left lying there, while the training goes by another."""
    place = tmp_path / "run" / "fold_0" / "plan.json"
    place.parent.mkdir(parents=True)
    shutil.copy(whole / "plan.json", place)
    there = f"reads no plan there: it is read from {tmp_path / 'run' / 'plan.json'}; move it"
    with pytest.raises(UserError, match=re.escape(there)):
        train(studies, tmp_path / "run", PHASES[1:2])
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["fold_0"]


def test_a_plan_that_was_edited_and_copied_into_a_new_folder_is_used(studies, whole, tmp_path):
    plan = json.loads((whole / "plan.json").read_text())
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "plan.json").write_text(json.dumps(plan | {"size": [24, 16]}))
    run = train(studies, tmp_path / "run", PHASES[1:2])
    assert json.loads((run / "model" / "config.json").read_text())["schema"]["plan"]["size"] == [24, 16]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="the folder is not empty and holds no m4oe run"):
        train(studies, tmp_path / "other", PHASES[1:2])


def altered(run: Path) -> None:
    """`run` as if it had been trained again: its weights are others."""
    path = run / "model" / "model.safetensors"
    weights = load_file(path)
    save_file({name: value + 1 for name, value in weights.items()}, path, metadata={"format": "pt"})


def test_a_growth_does_not_go_on_from_other_weights(whole, new, tmp_path, monkeypatch):
    old = shutil.copytree(whole, tmp_path / "old")
    interrupted("grow", lambda: grow(new, tmp_path / "run", old, TWO_EPOCHS), monkeypatch)
    altered(old)
    with pytest.raises(UserError, match=r"run: holds another run, which differs in: weights of grow\.from; give"):
        grow(new, tmp_path / "run", old, TWO_EPOCHS)


def test_a_run_does_not_go_on_from_other_weights_to_start_with(studies, whole, tmp_path, monkeypatch):
    old = shutil.copytree(whole, tmp_path / "old")
    start = f"model.segmenter.start={old}", "model.segmenter.experts=both"
    one = [PHASES[1] | {"fresh": ["*.experts.*"], "max_epochs": 2}]
    interrupted("specialise", lambda: train(studies, tmp_path / "run", one, *start), monkeypatch)
    altered(old)
    with pytest.raises(UserError, match=r"differs in: weights of model\.segmenter\.start; give another folder"):
        train(studies, tmp_path / "run", one, *start)


def test_a_run_of_before_beginnings_were_noted_goes_on(studies, whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    facts = json.loads((run / "environment.json").read_text())
    assert facts.pop("files").keys() == {"plan.json"}
    (run / "environment.json").write_text(json.dumps(facts))
    (run / "metrics.json").unlink()
    train(studies, run, TWO_PHASES)
    assert json.loads((run / "environment.json").read_text())["files"].keys() == {"plan.json"}
