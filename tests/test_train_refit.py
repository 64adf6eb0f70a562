"""Fitting again on validation exams: who learns what, for how long, who judges, and how it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from m4oe.artifact import load_artifact
from m4oe.compare.workers import cost_of
from m4oe.config import load_config
from m4oe.errors import UserError
from m4oe.predict import predictor_of
from m4oe.runs import train_run
from m4oe.runs.facts import run_cohorts
from m4oe.runs.tables import predicted, rows_of
from m4oe.train.diary import Diary
from m4oe.train.module import Training
from m4oe.train.refit import kept_epochs, lasting
from small_runs import LITTLE, edited, log_of, trained

REFIT = ("train.refit=true", "train.batch_size=16")


def learned_from(patch: pytest.MonkeyPatch) -> list[set[str]]:
    """Exams that each epoch learns from, of all trainings from here on."""
    epochs: list[set[str]] = []
    begin, step = Diary.on_train_epoch_start, Training.training_step

    def begun(self, trainer, training):
        epochs.append(set())
        begin(self, trainer, training)

    def stepped(self, batch, number):
        epochs[-1].update(exam.partition("/")[2] for exam in batch.exams)
        return step(self, batch, number)

    patch.setattr(Diary, "on_train_epoch_start", begun)
    patch.setattr(Training, "training_step", stepped)
    return epochs


@pytest.fixture(scope="module")
def refitted(breast, tmp_path_factory) -> tuple[Path, Sequence[set[str]]]:
    """A run of two epochs that was fitted again, and the exams of each epoch."""
    run = tmp_path_factory.mktemp("refit") / "run"
    with pytest.MonkeyPatch.context() as patch:
        epochs = learned_from(patch)
        trained([breast], run, *REFIT, "train.keep=last")
    return run, epochs


def exams_of(run: Path, *parts: str) -> set[str]:
    splits = pd.read_csv(run / "splits.csv", dtype=str)
    return set(splits.loc[splits["split"].isin(parts), "exam"])


def same(one: Path, two: Path) -> bool:
    a, b = load_file(one), load_file(two)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---- who learns what, for how long


def test_the_second_training_learns_from_validation_exams_too_and_never_from_test(refitted):
    run, epochs = refitted
    first, both = exams_of(run, "train"), exams_of(run, "train", "validation")
    assert len(first) < len(both) < len(exams_of(run, "train", "validation", "test"))
    assert list(epochs) == [first, first, both, both]


def test_its_log_tells_of_no_validation(refitted):
    run, _ = refitted
    lines = log_of(run / "refit")
    assert [line["epoch"] for line in lines] == [0, 1] == [line["epoch"] for line in log_of(run)]
    assert all(line["validation"] == {} for line in lines) and all(line["validation"] for line in log_of(run))


def test_it_lasts_as_long_as_the_first_has_kept(breast, tmp_path, monkeypatch):
    """The second of three epochs is the best: two epochs once more."""
    usual = Training.log

    def told(self, name, value, **how):
        usual(self, name, [0.1, 0.9, 0.5][self.current_epoch] if name == "score" else value, **how)

    monkeypatch.setattr(Training, "log", told)
    run = trained([breast], tmp_path / "run", *REFIT, "train.max_epochs=3")
    assert kept_epochs(run, "best") == 2 and kept_epochs(run, "last") == 3
    assert (len(log_of(run)), len(log_of(run / "refit"))) == (3, 2)


def test_no_clock_and_no_patience_end_it():
    config = load_config(overrides=["train.max_minutes=3", "train.patience=2", "train.seed=4"])
    again = lasting(config, 7).train
    assert (again.max_epochs, again.max_minutes, again.patience, again.keep, again.seed) == (7, None, None, "last", 4)


def test_a_comparison_counts_the_epochs_of_both_trainings(refitted):
    run, _ = refitted
    lines = [len((folder / "log.jsonl").read_text().splitlines()) for folder in (run, run / "refit")]
    assert cost_of(run)["epochs"] == sum(lines) and all(lines)


# ---- who judges, who is saved


def test_the_saved_model_is_the_second_and_says_what_is_said_of_test(refitted):
    run, _ = refitted
    assert same(run / "model" / "model.safetensors", run / "refit" / "checkpoints" / "train.safetensors")
    assert not same(run / "model" / "model.safetensors", run / "checkpoints" / "train.safetensors")
    assert said(run, "test") == pytest.approx(said_by(run, "test"), abs=1e-6)


def test_what_is_said_of_validation_is_that_of_a_run_that_was_not_fitted_again(breast, refitted, tmp_path):
    """So are the scores of the model card, and what is withheld: the second model has seen those exams."""
    run, _ = refitted
    plain = trained([breast], tmp_path / "run", "train.batch_size=16", "train.keep=last")
    assert same(plain / "model" / "model.safetensors", run / "checkpoints" / "train.safetensors")
    assert not (plain / "refit").exists()
    np.testing.assert_array_equal(said(run, "validation"), said(plain, "validation"))
    assert np.abs(said(run, "validation") - said_by(run, "validation")).max() > 1e-3
    ours, theirs = load_artifact(run), load_artifact(plain)
    assert ours.refitted and not theirs.refitted
    assert "scores are of a first training" in (run / "model" / "README.md").read_text()
    assert "scores are of the validation split" in (plain / "model" / "README.md").read_text()
    assert ours.scores == theirs.scores and ours.withheld == theirs.withheld and ours.schema == theirs.schema


def said(run: Path, split: str) -> np.ndarray:
    """Probabilities that predictions.csv holds."""
    table = pd.read_csv(run / "predictions.csv").dropna(subset="probability")
    return table.loc[table["split"] == split, "probability"].to_numpy()


def said_by(run: Path, split: str) -> np.ndarray:
    """Those of the saved model."""
    artifact, splits = load_artifact(run), pd.read_csv(run / "splits.csv", dtype={"exam": str})
    exams = rows_of(run_cohorts(run), splits, split, artifact.schema)
    found = predicted(predictor_of(artifact, torch.device("cpu")), exams, 16).predictions["probability"]
    return pd.to_numeric(found).dropna().to_numpy()


# ---- the same command again


@pytest.mark.parametrize("epoch", [0, 1])
def test_an_interrupted_second_training_goes_on_to_the_same_end(breast, refitted, tmp_path, monkeypatch, epoch):
    usual = Diary.on_train_epoch_start

    def interrupted(self, trainer, training):
        usual(self, trainer, training)
        if self.path.parent.name == "refit" and trainer.current_epoch == epoch:
            raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(Diary, "on_train_epoch_start", interrupted)
        with pytest.raises(RuntimeError, match="power cut"):
            trained([breast], tmp_path / "run", *REFIT, "train.keep=last")
    assert not (tmp_path / "run" / "model").exists()
    with monkeypatch.context() as patch:
        epochs = learned_from(patch)
        run = trained([breast], tmp_path / "run", *REFIT, "train.keep=last")
    assert epochs == [exams_of(run, "train", "validation")] * (2 - epoch)
    whole, _ = refitted
    np.testing.assert_allclose(said(run, "test"), said(whole, "test"), atol=1e-4)
    np.testing.assert_allclose(said(run, "validation"), said(whole, "validation"), atol=1e-4)


def test_a_kept_epoch_that_is_lost_is_told(breast, tmp_path):
    run = trained([breast], tmp_path / "run", "train.max_epochs=1")
    (run / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(UserError, match=r"best\.ckpt: damaged .*delete .*checkpoints to train again"):
        kept_epochs(run, "best")


# ---- what cannot be fitted again


def test_without_validation_exams_there_is_nothing_to_fit_again(breast, tmp_path):
    study = edited(breast, tmp_path / "study.yaml", split={"fractions": [0.8, 0, 0.2]})
    with pytest.raises(UserError, match=r"train\.refit: the split has no validation exams"):
        trained([study], tmp_path / "run", *REFIT)


@pytest.mark.parametrize("override", ["model.kind=segmenter", "phases=[{name: one}, {name: two}]"])
def test_segmenters_and_several_phases_are_refused(breast, tmp_path, override):
    config = load_config(overrides=[*LITTLE, *REFIT, override])
    with pytest.raises(UserError, match=r"train\.refit is for classifiers trained in one phase"):
        train_run([breast], config, tmp_path / "run", torch.device("cpu"))
    assert not (tmp_path / "run").exists()
