"""Analyses of a run's predictions: calibration, conformal sets and missing inputs, on models whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from m4oe.analyses.calibration import calibration_of
from m4oe.analyses.conformal import conformal_of
from m4oe.analyses.missing_inputs import ENOUGH, missing_inputs_of
from m4oe.schema import TaskSpec
from task_examples import TASKS
from test_evaluate_calibration import KNOWN, overconfident, true_to_its_word

SIZE = 400
NO_LABELS = pd.DataFrame(columns=["task", "time", "event"])


@dataclass
class Stub:
    """What the analyses ask of a Subject, with predictions of our own."""

    folder: Path
    tasks: tuple[TaskSpec, ...]
    inputs: tuple[str, ...] = ("cc", "mlo")
    training_labels: pd.DataFrame = field(default_factory=NO_LABELS.copy)
    refitted: bool = False

    @property
    def artifact(self):
        streams = tuple(SimpleNamespace(name=name, input=name) for name in self.inputs)
        return SimpleNamespace(schema=SimpleNamespace(tasks=self.tasks, streams=streams), refitted=self.refitted)


def rows_of(task: TaskSpec, target, probability, split: str, inputs: list[str]) -> pd.DataFrame:
    from m4oe.tasks import KINDS

    form, frames = KINDS[task.kind].rows, []
    targets, shown = form.to_targets(task, target), form.to_probabilities(task, probability)
    for k, name in enumerate(form.names(task)):
        exams = [f"{split}{n}" for n in range(len(target))]
        about = {"study": "s", "exam": exams, "patient": exams, "split": split, "fold": 0, "inputs": inputs}
        said = {"task": task.name, "class": name, "target": targets[:, k], "probability": shown[:, k]}
        frames.append(pd.DataFrame({**about, **said}))
    return pd.concat(frames, ignore_index=True)


def told(folder: Path, kind: str, temperature: float, size: int = SIZE) -> Stub:
    """Predictions of a model whose logits are `temperature` times too large; half of the exams lack mlo."""
    frames = []
    for seed, split in enumerate(("validation", "test")):
        target, probability = true_to_its_word(kind, size, seed)
        inputs = ["cc+mlo" if n % 2 else "cc" for n in range(size)]
        frames.append(rows_of(TASKS[kind], target, overconfident(kind, probability, temperature), split, inputs))
    pd.concat(frames).to_csv(folder / "predictions.csv", index=False)
    return Stub(folder, (TASKS[kind],))


@pytest.mark.parametrize("kind", KNOWN)
def test_an_overconfident_model_is_found_out_and_mended(tmp_path, kind):
    found = calibration_of(told(tmp_path, kind, 3.0))["tasks"][kind]
    before, after = found["states"]["before"], found["states"]["after"]
    assert 2.2 < found["temperature"] < 4 and not found["at_limit"]
    assert before["calibration_error"]["value"] > before["if_true"]["high"]
    assert after["calibration_error"]["value"] < after["if_true"]["high"] + 0.01
    assert found["gain"]["log_loss"]["low"] > 0 and found["gain"]["calibration_error"]["value"] > 0
    assert set(found["by_inputs"]) == {"cc", "cc+mlo"} and found["by_inputs"]["cc"]["before"]["n"] > SIZE // 2 - 10
    assert after["rms"] < before["rms"] and set(after["curves"]) == set(before["curves"])


def test_too_few_validation_exams_fit_no_temperature(tmp_path):
    stub = told(tmp_path, "binary", 2.0)
    table = pd.read_csv(tmp_path / "predictions.csv")
    few = table[(table["split"] == "test") | (table["exam"].isin([f"validation{n}" for n in range(9)]))]
    few.to_csv(tmp_path / "predictions.csv", index=False)
    found = calibration_of(stub)["tasks"]["binary"]
    assert found["temperature"] is None and found["gain"] is None and set(found["states"]) == {"before"}
    asked = conformal_of(stub)["tasks"]["binary"][""]
    assert asked["n_validation"] == 9 and asked["abstention"]["curve"] == []
    assert asked["promises"][0]["enough"] and asked["promises"][1] == {"promised": 0.95, "enough": False, "fewest": 19}


def test_a_run_without_predictions_says_nothing(tmp_path):
    stub = Stub(tmp_path, (TASKS["binary"],))
    assert calibration_of(stub) is None and conformal_of(stub) is None


@pytest.mark.parametrize("kind", ["binary", "multiclass", "ordinal", "multilabel"])
def test_sets_keep_their_promise_though_the_model_does_not(tmp_path, kind):
    """And answering the surest exams alone errs less than answering all."""
    found = conformal_of(told(tmp_path, kind, 3.0))["tasks"][kind]
    assert set(found) == (set(TASKS[kind].classes) if kind == "multilabel" else {""})
    for asked in found.values():
        assert all(promise["kept"] for promise in asked["promises"]) and not asked["repeated"]
        wide = [promise["size"]["value"] for promise in asked["promises"]]
        assert 1 <= wide[0] <= wide[1] <= asked["classes"]
        assert all("own" in level and level["own"]["kept"] for level in asked["promises"][0]["by_inputs"].values())
        curve = asked["abstention"]["curve"]
        assert curve[0]["answered"]["value"] == 1.0 and curve[-1]["answered"]["value"] < 0.35
        assert curve[-1]["wrong"]["value"] < curve[0]["wrong"]["value"] and asked["abstention"]["area"]["high"] < 0.5


@pytest.mark.parametrize("refitted", [False, True])
def test_analyses_say_whether_validation_was_answered_by_another_network(tmp_path, refitted):
    stub = told(tmp_path, "binary", 3.0)
    stub.refitted = refitted
    assert conformal_of(stub)["refitted"] is calibration_of(stub)["refitted"] is refitted


def test_survival_has_no_sets_and_says_nothing_of_them(tmp_path):
    assert conformal_of(told(tmp_path, "survival", 1.0)) is None


@dataclass
class Played(Stub):
    """A model of three inputs of which `carrier` alone says anything of the label; `noise` is wrong to listen to.

    Every third exam lacks `noise`, and every fifth `extra`.
    """

    def __post_init__(self) -> None:
        rng, self.n = np.random.default_rng(0), 240
        self.target = (rng.random(self.n) < 0.4).astype(float)
        sign = 2 * self.target - 1
        self.parts = {
            "carrier": 1.5 * sign + rng.normal(0, 1, self.n),
            "noise": rng.normal(0, 1.5, self.n),
            "extra": 0 * sign,
        }
        self.asked: list[tuple[str, ...]] = []

    def has(self, n: int) -> set[str]:
        return {"carrier"} | ({"noise"} if n % 3 else set()) | ({"extra"} if n % 5 else set())

    def encoded(self, split):
        assert split == "test"
        samples = [
            SimpleNamespace(study="s", exam=f"test{n}", inputs=dict.fromkeys(self.has(n))) for n in range(self.n)
        ]
        return [SimpleNamespace(samples=samples[:100]), SimpleNamespace(samples=samples[100:])]

    def predictions(self, split, inputs):
        self.asked.append(tuple(inputs))
        exams = [n for n in range(self.n) if self.has(n) & set(inputs)]
        given = [self.has(n) & set(inputs) for n in exams]
        p = expit([sum(self.parts[name][n] for name in names) for n, names in zip(exams, given)])
        table = rows_of(
            self.tasks[0], self.target[exams], np.stack([1 - p, p], 1), "test", ["+".join(g) for g in given]
        )
        return table.assign(exam=[f"test{n}" for n in exams], patient=[f"test{n}" for n in exams])


def test_what_each_input_is_worth(tmp_path):
    model = Played(tmp_path, (TASKS["binary"],), ("carrier", "noise", "extra"))
    found = missing_inputs_of(model)
    left = {name: tasks["binary"]["cost"] for name, tasks in found["left_out"].items()}
    assert left["carrier"]["low"] > 0.2 and left["noise"]["high"] < 0 and left["extra"]["value"] == 0
    both = sum(bool(n % 3 and n % 5) for n in range(240))
    assert found["together"] == ["carrier", "noise", "extra"] and both >= ENOUGH
    assert left["noise"]["n"] == 160 and left["extra"]["n"] == 192
    scores = {tuple(row["inputs"]): row["tasks"]["binary"] for row in found["subsets"]}
    assert len(scores) == 7 and {row["score"]["n"] for row in scores.values()} == {both}
    assert scores[tuple(found["together"])]["cost"]["value"] == 0
    assert scores["carrier",]["cost"]["high"] < 0 < scores["noise",]["cost"]["low"]
    assert scores["extra",]["score"]["value"] == 0.5  # it says the same of everyone
    assert len(model.asked) == len(set(model.asked)) == 7  # each subset is predicted once


def test_cost_is_paired_and_worked_out_by_hand(tmp_path):
    """AUROC with all inputs less AUROC with the subset, on the very exams that have them all."""
    from sklearn.metrics import roc_auc_score

    model = Played(tmp_path, (TASKS["binary"],), ("carrier", "noise", "extra"))
    row = next(row for row in missing_inputs_of(model)["subsets"] if row["inputs"] == ["noise", "extra"])
    rows = [n for n in range(240) if n % 3 and n % 5]
    score = roc_auc_score(model.target[rows], model.parts["noise"][rows])
    whole = roc_auc_score(model.target[rows], (model.parts["noise"] + model.parts["carrier"])[rows])
    assert row["tasks"]["binary"]["score"]["value"] == pytest.approx(score)
    assert row["tasks"]["binary"]["cost"]["value"] == pytest.approx(whole - score)


def test_many_inputs_are_not_tried_in_every_subset():
    from m4oe.analyses.missing_inputs import _subsets

    assert len(_subsets(tuple("abcdef"))) == 2**6 - 2
    many = _subsets(tuple("abcdefghij"))
    assert len(set(many)) == len(many) < 60 and {len(some) for some in many} >= {1, 9}
    assert {(name,) for name in "abcdefghij"} <= set(many) and sum(len(some) == 9 for some in many) == 10


def test_one_input_leaves_nothing_to_leave_out(tmp_path):
    assert missing_inputs_of(Stub(tmp_path, (TASKS["binary"],), ("cc",))) is None
