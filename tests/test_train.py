"""Training: phases, the losses of a fixed run, what is left out at random, what stops it.

Law 3 (augmentation whatever the workers) is in test_data_dataset.py, laws 4 and 5 are in test_nets_classifier.py.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from m4oe.batch import Batch
from m4oe.errors import UserError
from m4oe.settings import Phase
from m4oe.train.module import Schedule, drop_inputs, refuse_non_finite
from m4oe.train.objective import Losses
from m4oe.train.phases import freeze, load_previous
from small_runs import edited, log_of, trained
from tiny import full_batch, subset, without

GOLDEN = Path(__file__).parent / "assets" / "losses" / "breast_tiny.txt"

# ---- phases


def phases(folder: Path, *phases: dict) -> Path:
    (folder / "config.yaml").write_text(yaml.safe_dump({"phases": list(phases)}))
    return folder / "config.yaml"


def parts_of(run: Path, phase: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights of the experts, and all others, at the end of `phase`."""
    weights = load_file(run / "checkpoints" / f"{phase}.safetensors")
    experts = {name: value for name, value in weights.items() if ".experts." in name}
    assert len(experts) >= 4
    return experts, {name: value for name, value in weights.items() if name not in experts}


def test_law_6_phase_2_starts_from_exactly_the_experts_of_phase_1(retina, tmp_path):
    """Experts frozen in phase 2 are bit for bit those that phase 1 ended with, and all the rest has moved on."""
    second = {"name": "second", "freeze": ["*.experts.*"], "fresh": ["fusions.*"]}
    config = phases(tmp_path, {"name": "first"}, second)
    run = trained([retina], tmp_path / "run", "train.max_epochs=1", config=config)
    assert [(line["phase"], line["epoch"]) for line in log_of(run)] == [("first", 0), ("second", 0)]
    (before, others), (after, changed) = parts_of(run, "first"), parts_of(run, "second")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert sum(not torch.equal(others[name], changed[name]) for name in others) > len(others) / 2


def small_network() -> torch.nn.Module:
    return torch.nn.ModuleDict({"experts": torch.nn.Linear(2, 3), "heads": torch.nn.Linear(3, 1)})


def test_what_is_fresh_is_as_built_and_the_rest_as_loaded():
    one, two = small_network(), small_network()
    built = two["heads"].weight.detach().clone()
    load_previous(two, one.state_dict(), Phase(fresh=("heads.*",)))
    assert torch.equal(two["experts"].weight, one["experts"].weight) and torch.equal(two["heads"].weight, built)


def test_a_parameter_that_does_not_fit_and_is_not_fresh_is_named():
    one, two = small_network(), small_network()
    two["heads"] = torch.nn.Linear(3, 2)
    with pytest.raises(UserError, match=r"'grow' cannot take 'heads\.(weight|bias)'.*under 'fresh'"):
        load_previous(two, one.state_dict(), Phase(name="grow"))
    load_previous(two, one.state_dict(), Phase(name="grow", fresh=("heads.*",)))


def test_a_freeze_pattern_that_is_idle_is_refused(retina, tmp_path):
    network = small_network()
    freeze(network, Phase(freeze=("experts.*",)))
    assert [name for name, p in network.named_parameters() if p.requires_grad] == ["heads.weight", "heads.bias"]
    config = phases(tmp_path, {"freeze": ["exprets.*"]})
    with pytest.raises(UserError, match=r"'exprets\.\*' freezes no parameter"):
        trained([retina], tmp_path / "run", config=config)


def test_a_fresh_pattern_that_is_idle_is_refused():
    with pytest.raises(UserError, match=r"'haeds\.\*' makes no parameter fresh"):
        load_previous(small_network(), small_network().state_dict(), Phase(fresh=("haeds.*",)))


# ---- the losses of a fixed run


@pytest.fixture(scope="module")
def golden_run(breast, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("golden") / "run"
    return trained([breast], out, "train.max_epochs=10", "train.augment=0", "train.learning_rate=0.001")


def test_the_losses_of_a_fixed_run_are_those_of_the_record(golden_run, request):
    """Ten epochs' training losses; machines differ in the last digits. After a change that is meant to move them:
    delete tests/assets/losses/breast_tiny.txt, run this test twice, and say in the commit why they moved."""
    losses = [line["train"]["loss"] for line in log_of(golden_run)]
    if not GOLDEN.is_file():
        GOLDEN.parent.mkdir(parents=True, exist_ok=True)
        GOLDEN.write_text("".join(f"{loss:.6f}\n" for loss in losses))
        pytest.fail(f"wrote a new record: {GOLDEN}; run again")
    assert len(losses) == 10 and losses[-1] < losses[0]
    np.testing.assert_allclose(losses, np.loadtxt(GOLDEN), rtol=1e-3)


def test_the_learning_rate_warms_up_and_decays(golden_run):
    rates = [line["learning_rate"] for line in log_of(golden_run)]
    assert rates[1] == max(rates) and rates[1:] == sorted(rates[1:], reverse=True) and rates[-1] < 0.1 * max(rates)


def test_the_schedule_by_hand():
    schedule = Schedule(10, None, 0.2)
    assert [round(schedule.factor(epoch), 4) for epoch in (1, 2, 6, 10)] == [0.5, 1.0, 0.5, 0.0]


# ---- minutes


def test_minutes_end_training_cleanly_with_the_learning_rate_decayed(retina, tmp_path):
    run = trained([retina], tmp_path / "run", "train.max_epochs=900", "train.max_minutes=0.1")
    lines = log_of(run)
    assert 2 <= len(lines) < 900
    assert sum(line["seconds"] for line in lines) < 12
    assert lines[-1]["learning_rate"] < 0.3 * max(line["learning_rate"] for line in lines)
    assert (run / "metrics.json").is_file()


def test_minutes_that_an_interrupted_training_spent_stay_spent(retina_run):
    content = torch.load(retina_run / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["phase"] == "train" and 0 < content["elapsed"] < 60


# ---- what is left out at random


def kept(batch: Batch, chance: float = 0.5, seed: int = 0, epoch: int = 0) -> dict[str, set[str]]:
    """{exam: inputs that stay}."""
    left = drop_inputs(batch, chance, seed, epoch)
    return {
        exam: {n for n, rows in left.inputs.items() if place in rows.index} for place, exam in enumerate(batch.exams)
    }


def test_inputs_are_left_out_by_seed_epoch_and_exam_alone():
    batch = full_batch(6)
    whole = kept(batch)
    assert whole == kept(batch) != kept(batch, seed=1) != kept(batch, epoch=1)
    reverse = kept(subset(batch, torch.tensor([5, 4, 3, 2, 1, 0])))
    assert reverse == whole
    assert kept(subset(batch, torch.tensor([4]))) == {"s/4": whole["s/4"]}
    # An input that others have changes nothing for those that lack it.
    fewer = kept(without(batch, "photo"))
    assert all(fewer[exam] == whole[exam] - {"photo"} for exam in whole if whole[exam] - {"photo"})


def test_the_last_input_is_never_left_out():
    batch = full_batch(40)
    assert all(len(inputs) == 1 for inputs in kept(batch, 0.999999).values())
    alone = Batch(batch.exams, {"cc": batch.inputs["cc"]}, batch.targets)
    assert all(inputs == {"cc"} for inputs in kept(alone, 0.9).values())


def test_inputs_are_left_out_as_often_as_told():
    batch = full_batch(200)
    shares = [len(drop_inputs(batch, 0.2, 0, epoch).inputs["cc"].index) / 200 for epoch in range(10)]
    assert np.mean(shares) == pytest.approx(0.8, abs=0.03)


def test_what_stays_keeps_its_values():
    batch = full_batch(6)
    left = drop_inputs(batch, 0.5, 0, 0)
    for name, rows in left.inputs.items():
        for value, exam in zip(rows.values, rows.index.tolist()):
            place = batch.inputs[name].index.tolist().index(exam)
            assert torch.equal(value, batch.inputs[name].values[place])
    assert left.targets is batch.targets and drop_inputs(batch, 0.0, 0, 0) is batch


# ---- a loss that is not finite


def losses(value: float) -> Losses:
    per_exam = torch.tensor([1.0, value])
    return Losses(
        per_exam.sum(), {}, {"risk": (torch.ones(2), torch.arange(2)), "type": (per_exam, torch.tensor([0, 3]))}
    )


def test_a_loss_that_is_not_finite_names_exam_task_and_input():
    batch = full_batch(6)
    refuse_non_finite(losses(2.0), batch)
    with pytest.raises(
        UserError, match=r"task 'type' is not finite for exam 's/3', inputs .*lower train.learning_rate"
    ):
        refuse_non_finite(losses(math.inf), batch)
    mlo = batch.inputs["mlo"]
    mlo.values[3, 0, 0, 0] = math.nan
    with pytest.raises(UserError, match=r"for exam 's/3', input 'mlo': it holds values that are not finite"):
        refuse_non_finite(losses(math.nan), batch)


def test_a_training_stops_at_a_loss_that_is_not_finite(breast, tmp_path, monkeypatch):
    from m4oe.tasks import KINDS

    usual = KINDS["survival"].loss

    def broken(task, logits, target, focal_gamma=0.0):
        return usual(task, logits, target, focal_gamma) * math.nan

    monkeypatch.setitem(KINDS, "survival", type(KINDS["survival"])(**{**vars(KINDS["survival"]), "loss": broken}))
    with pytest.raises(UserError, match=r"the loss of task 'risk' is not finite for exam 'phantom-breast/\w+'"):
        trained([breast], tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_an_error_in_a_worker_is_told_in_its_own_words(retina, tmp_path):
    """torch writes a worker's traceback into the message of the exception that it raises."""
    folder = shutil.copytree(retina.parent, tmp_path / "study")
    for path in folder.glob("fundus/*"):
        path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(UserError) as caught:
        trained([folder / "study.yaml"], tmp_path / "run", "train.workers=1")
    assert "\n" not in str(caught.value) and "eyes.csv, row" in str(caught.value)


# ---- what the task weights and patience may say


def test_task_weights_of_no_task_are_refused(retina, tmp_path):
    with pytest.raises(UserError, match=r"train\.task_weights names 'glaucom', which is no task"):
        trained([retina], tmp_path / "run", "train.task_weights={glaucom: 2.0}")


def test_patience_without_validation_exams_waits_for_nothing(retina, tmp_path):
    study = edited(retina, tmp_path / "study.yaml", split={"fractions": [0.8, 0.0, 0.2]})
    run = trained([study], tmp_path / "run", "train.patience=1")
    assert [line["epoch"] for line in log_of(run)] == [0, 1] and (run / "metrics.json").is_file()


def test_trackers_write_their_own(retina, tmp_path):
    pytest.importorskip("tensorboard")
    run = trained([retina], tmp_path / "run", "train.max_epochs=1", "train.trackers=[tensorboard]")
    assert list((run / "tensorboard").rglob("events*"))
