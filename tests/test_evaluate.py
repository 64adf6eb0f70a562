"""metrics.json from tables: hand-worked and scikit-learn's values, intervals over patients, and bad tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy import ndarray
from pandas import DataFrame
from sklearn import metrics as sk

from m4oe.errors import UserError
from m4oe.evaluate import evaluate, paired_difference, read_table, write_metrics
from m4oe.evaluate.bootstrap import resample_weights
from m4oe.schema import Schema
from m4oe.tasks import KINDS
from task_examples import TASKS

SCHEMA = Schema(streams=(), tasks=tuple(TASKS.values()))
BINARY = Schema(streams=(), tasks=(TASKS["binary"],))
FEW = {"resamples": 50, "stratum_resamples": 20}


def table(kind: str, target: ndarray, probability: ndarray, **about: object) -> DataFrame:
    """predictions.csv of exams e0, e1, ... of patients p0, p1, ...; `about` gives other columns, one value an exam."""
    task, form = TASKS[kind], KINDS[kind].rows
    names, exams = form.names(task), np.arange(len(target))
    facts = {"study": "s", "exam": [f"e{i}" for i in exams], "patient": [f"p{i}" for i in exams], "split": "test"}
    frame = DataFrame({**facts, "fold": 0, "inputs": "a", **about}, index=exams).loc[np.repeat(exams, len(names))]
    return frame.assign(
        task=kind,
        **{"class": np.tile(names, len(exams))},
        target=form.to_targets(task, target).ravel(),
        probability=form.to_probabilities(task, probability).ravel(),
    ).reset_index(drop=True)


def binary(exams: int = 60, seed: int = 0, signal: float = 1.0, **about: object) -> DataFrame:
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 2, exams)
    score = 1 / (1 + np.exp(-(signal * target + rng.normal(size=exams))))
    return table("binary", target, np.stack([1 - score, score], 1), **about)


def every_kind(exams: int = 40) -> tuple[DataFrame, DataFrame]:
    """Predictions and cases of one task of each kind; a fifth of the labels are missing."""
    rng, frames = np.random.default_rng(0), []
    about = {"patient": [f"p{i // 2}" for i in range(exams)], "inputs": np.array(["a", "a+b"])[np.arange(exams) % 2]}
    for kind in KINDS.keys() - {"segmentation"}:
        classes = len(TASKS[kind].classes)
        target = {
            "survival": np.stack([rng.uniform(0, 8, exams), rng.integers(0, 2, exams)], 1),
            "multilabel": rng.integers(0, 2, (exams, classes)).astype(float),
        }.get(kind, rng.integers(0, classes, exams).astype(float))
        target[rng.uniform(size=exams) < 0.2] = np.nan
        risk = rng.dirichlet(np.ones(classes), exams)
        frames.append(table(kind, target, np.sort(risk, 1) if kind == "survival" else risk, **about))
    return pd.concat(frames, ignore_index=True), cases([(0.5, 0.9), (1.0, 0.7)] * (exams // 2))


def cases(dice: list[tuple[float, float]]) -> DataFrame:
    """cases.csv of exams with the given Dice of rim and cup (NaN: both empty); the disc is always found."""
    rows = [
        {"study": "s", "exam": f"e{i}", "patient": f"p{i}", "split": "test", "fold": 0, "task": "segmentation"}
        | {"class": name, "dice": value, "iou": value / 2, "hd95": 3.0 if value > 0 else np.nan, "nsd": value**2}
        | {"outcome": "empty" if np.isnan(value) else "scored" if value else "missed"}
        for i, pair in enumerate(dice)
        for name, value in zip(("rim", "cup", "disc"), (*pair, 1.0), strict=True)
    ]
    return DataFrame(rows)


def test_values_are_those_of_scikit_learn_and_n_counts_labels() -> None:
    predictions = binary(60)
    predictions.loc[:9, "target"] = np.nan
    metrics = evaluate(predictions, None, SCHEMA, **FEW)["test"]
    assert set(metrics) == {"binary"}
    known = predictions[10:]
    auroc = metrics["binary"]["auroc"]
    assert auroc["value"] == pytest.approx(sk.roc_auc_score(known["target"], known["probability"]))
    assert auroc["n"] == 50 and auroc["low"] < auroc["value"] < auroc["high"]


def test_every_kind_gets_its_metrics_and_the_file_is_plain_json(tmp_path: Path) -> None:
    predictions, scored = every_kind()
    groups = DataFrame({"study": "s", "exam": [f"e{i}" for i in range(30)], "site": ["x", "y", None] * 10})
    metrics = evaluate(predictions, scored, SCHEMA, groups=groups, **FEW)
    assert set(metrics) == {"test", "by_inputs", "by_class", "by_study", "by_group"}
    assert set(metrics["test"]) == set(TASKS)
    for kind in TASKS:
        assert KINDS[kind].primary_metric in metrics["test"][kind]
    assert set(metrics["by_inputs"]["test"]) == {"a", "a+b"} and set(metrics["by_study"]["test"]) == {"s"}
    assert set(metrics["by_group"]["test"]) == {"site=x", "site=y"}
    assert set(metrics["by_class"]["test"]["C"]) == {"ordinal"}
    assert metrics["by_class"]["test"]["disc"]["segmentation"]["dice"]["value"] == 1
    assert set(metrics["by_class"]["test"]["5"]["survival"]) == {"auroc", "brier"}
    assert set(metrics["by_inputs"]["test"]["a"]) == set(TASKS)
    write_metrics(metrics, tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]


def test_the_file_read_back_gives_the_same(tmp_path: Path) -> None:
    predictions, scored = every_kind()
    predictions["exam"] = predictions["exam"].replace({"e1": "NA", "e2": "007"})
    predictions.to_csv(tmp_path / "predictions.csv", index=False)
    scored.to_csv(tmp_path / "cases.csv", index=False)
    back = [read_table(tmp_path / name) for name in ("predictions.csv", "cases.csv")]
    assert set(back[0]["exam"]) >= {"NA", "007"}
    assert evaluate(*back, SCHEMA, **FEW) == evaluate(predictions, scored, SCHEMA, **FEW)


def test_the_order_of_rows_changes_nothing() -> None:
    predictions, scored = every_kind()
    shuffled = [frame.sample(frac=1, random_state=3) for frame in (predictions, scored)]
    assert evaluate(*shuffled, SCHEMA, **FEW) == evaluate(predictions, scored, SCHEMA, **FEW)


def test_repeated_exams_of_a_patient_do_not_narrow_the_interval() -> None:
    """Each exam four times: as one patient's, the interval is that of the exam once; as four patients', about half."""
    once, four = binary(80), pd.concat([binary(80)] * 4, ignore_index=True)
    four["exam"] = [f"x{i}" for i in range(320)]
    apart = four.assign(patient=four["exam"])
    width = [
        (lambda found: found["high"] - found["low"])(evaluate(frame, None, BINARY, **FEW)["test"]["binary"]["auroc"])
        for frame in (once, four, apart)
    ]
    assert width[1] == pytest.approx(width[0], rel=1e-9)
    assert width[2] < 0.75 * width[0]


def test_patients_of_two_studies_are_two_patients() -> None:
    frame = binary(40)
    both = pd.concat([frame, frame.assign(study="t")], ignore_index=True)
    found = evaluate(both, None, BINARY, **FEW)
    assert found["test"]["binary"]["auroc"]["n"] == 80
    assert set(found["by_study"]["test"]) == {"s", "t"}
    joined = both.assign(study="s", exam=both["study"] + both["exam"])
    narrow, wide = (e["test"]["binary"]["auroc"] for e in (found, evaluate(joined, None, BINARY, **FEW)))
    assert narrow["high"] - narrow["low"] < wide["high"] - wide["low"]


def test_resampling_draws_whole_patients() -> None:
    patients = np.array(["a", "b", "a", "c"], dtype=object)
    drawn = np.concatenate(list(resample_weights(patients, 500, 0)))
    assert drawn.shape == (500, 4)
    assert (drawn[:, 0] == drawn[:, 2]).all() and (drawn[:, [0, 1, 3]].sum(1) == 3).all()
    assert drawn[:, 0].mean() == pytest.approx(1, abs=0.1)


def test_few_exams_get_a_value_without_an_interval() -> None:
    few = evaluate(binary(9), None, BINARY, **FEW)["test"]["binary"]["accuracy"]
    one = evaluate(binary(20, patient="p"), None, BINARY, **FEW)["test"]["binary"]["accuracy"]
    assert few["n"] == 9 and few["low"] is None and few["high"] is None and 0 <= few["value"] <= 1
    assert one["n"] == 20 and one["low"] is None
    assert evaluate(binary(10), None, BINARY, **FEW)["test"]["binary"]["accuracy"]["low"] is not None


def test_test_exams_of_all_folds_are_pooled() -> None:
    frame = binary(40)
    folds = frame.assign(fold=np.arange(40) % 4)
    assert evaluate(folds, None, BINARY, **FEW)["test"] == evaluate(frame, None, BINARY, **FEW)["test"]
    trained = pd.concat([frame.assign(split="train", fold=fold) for fold in range(3)])
    metrics = evaluate(trained, None, BINARY, **FEW)
    assert set(metrics) == {"train", "by_inputs", "by_class", "by_study", "by_group"}
    assert metrics["train"]["binary"]["auroc"]["n"] == 40


def test_one_class_only_omits_what_is_undefined() -> None:
    frame = binary(20).assign(target=1.0)
    metrics = evaluate(frame, None, BINARY, **FEW)["test"]["binary"]
    assert "auroc" not in metrics and "specificity" not in metrics and metrics["accuracy"]["n"] == 20


def test_masks_by_hand() -> None:
    """Rim 1, 0 (missed), excluded: 1/2. Cup 0.5, 0.7, 0.9: 0.7. Disc 1. Mean of the three structures 2.2 / 3."""
    metrics = evaluate(binary(3), cases([(1.0, 0.5), (0.0, 0.7), (np.nan, 0.9)]), SCHEMA, **FEW)
    found = metrics["test"]["segmentation"]
    assert found["dice"]["value"] == pytest.approx(2.2 / 3) and found["hd95"]["value"] == 3 and found["dice"]["n"] == 3
    # NSD is the square here: rim 1/2, cup (.25 + .49 + .81) / 3, disc 1.
    assert found["nsd"]["value"] == pytest.approx((0.5 + 1.55 / 3 + 1) / 3)
    assert [found[word]["value"] for word in ("missed", "invented", "empty")] == [1, 0, 1]
    assert metrics["by_class"]["test"]["rim"]["segmentation"]["dice"]["value"] == 0.5


def test_censoring_is_that_of_the_training_split() -> None:
    """The same labels with training rows that censor otherwise give other weights; an explicit table says the same."""
    rng = np.random.default_rng(0)
    target, risk = np.stack([rng.uniform(0, 8, 50), rng.integers(0, 2, 50)], 1), np.sort(rng.uniform(size=(50, 3)), 1)
    test = table("survival", target, risk)
    earlier = np.stack([rng.uniform(4, 9, 50), np.zeros(50)], 1)
    train = table("survival", earlier, risk, split="train")
    training = DataFrame({"task": "survival", "time": earlier[:, 0], "event": earlier[:, 1]})
    own, beside, given = (
        evaluate(frame, None, SCHEMA, training=labels, **FEW)["test"]["survival"]
        for frame, labels in ((test, None), (pd.concat([test, train]), None), (test, training))
    )
    assert beside == given
    assert own["integrated_brier"]["value"] != given["integrated_brier"]["value"] and own["c_index"] == given["c_index"]


def test_paired_difference_uses_the_same_patients() -> None:
    """Of a table with itself it is exactly 0; of a better one positive, and narrower than both intervals together."""
    weak, strong = binary(150, signal=0.5), binary(150, signal=2.0)
    assert paired_difference("auroc", weak, weak, BINARY, "binary", resamples=50) == (0, 0, 0)
    found = paired_difference("auroc", strong, weak, BINARY, "binary", resamples=200)
    values = [evaluate(f, None, BINARY, resamples=200)["test"]["binary"]["auroc"] for f in (strong, weak)]
    assert found.value == pytest.approx(values[0]["value"] - values[1]["value"])
    assert 0 < found.low < found.value < found.high
    assert found.high - found.low < sum(v["high"] - v["low"] for v in values)
    masks = [cases([(1.0, 0.5)] * 12), cases([(0.8, 0.5)] * 12)]
    assert paired_difference("dice", *masks, SCHEMA, "segmentation", resamples=20) == pytest.approx([0.2 / 3] * 3)


def test_paired_difference_by_fold_ranks_no_model_against_another() -> None:
    """A fold whose model says half of every probability ranks its exams as before; pooled, it loses."""
    whole = binary(150, signal=1.0)
    whole["fold"] = np.arange(len(whole)) % 2
    halved = whole.assign(probability=whole["probability"].astype(float) * np.where(whole["fold"] == 1, 0.5, 1.0))
    by_fold = paired_difference("auroc", whole, halved, BINARY, "binary", by_fold=True, resamples=50)
    assert by_fold == pytest.approx((0, 0, 0))
    assert paired_difference("auroc", whole, halved, BINARY, "binary", resamples=50).value > 0.01


MISTAKES = {
    "a column": (lambda t: t.drop(columns="target"), "no column 'target'"),
    "an unknown task": (lambda t: t.assign(task="binari"), "did you mean 'binary'"),
    "an unknown class": (lambda t: t.assign(**{"class": "benin"}), "unknown class of task 'binary' 'benin'"),
    "an exam twice": (lambda t: pd.concat([t, t[:1]]), "exam 'e0', fold '0': 2 rows for class 'malignant'"),
    "text for a number": (
        lambda t: t.astype({"target": object}).replace({"target": {1.0: "yes"}}),
        "'yes' is no number",
    ),
    "a target of 2": (lambda t: t.replace({"target": {1.0: 2.0}}), "neither 0, 1 nor empty"),
    "no probability": (lambda t: t.assign(probability=np.nan), "missing or not in 0 ... 1"),
    "a percentage": (lambda t: t.assign(probability=100 * t["probability"]), "missing or not in 0 ... 1"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_bad_table_is_answered_with_its_mistake(mistake: str) -> None:
    spoil, answer = MISTAKES[mistake]
    with pytest.raises(UserError) as caught:
        evaluate(spoil(binary(20)), None, SCHEMA, **FEW)
    assert answer in str(caught.value)


def test_a_class_without_a_row_is_answered() -> None:
    predictions, scored = every_kind()
    without = predictions[~((predictions["class"] == "B") & (predictions["exam"] == "e3"))]
    with pytest.raises(UserError, match="exam 'e3', fold '0': 0 rows for class 'B'"):
        evaluate(without, None, SCHEMA, **FEW)
    with pytest.raises(UserError, match="unknown outcome"):
        evaluate(predictions, scored.assign(outcome="lost"), SCHEMA, **FEW)
    with pytest.raises(UserError, match="no column 'event'"):
        evaluate(predictions, None, SCHEMA, training=DataFrame({"task": ["survival"], "time": [1.0]}), **FEW)
    with pytest.raises(UserError, match="groups has no column 'exam'"):
        evaluate(predictions, None, SCHEMA, groups=DataFrame({"study": ["s"]}), **FEW)


@pytest.mark.parametrize("content", [b"", b"study,exam\ns,e\ns,e,1\n", b"\xff\xfe\x00\x81"])
def test_a_damaged_file_is_answered(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "predictions.csv"
    with pytest.raises(UserError, match="no such file"):
        read_table(file)
    file.write_bytes(content)
    with pytest.raises(UserError, match="not readable as a table"):
        read_table(file)


def test_bad_comparisons_are_answered() -> None:
    frame = binary(20)
    for a, b, metric, task, answer in (
        (frame, frame[:-1], "auroc", "binary", "compare the same exams"),
        (frame, frame, "aurok", "binary", "did you mean 'auroc'"),
        (frame, frame, "auroc", "density", "no labelled test exams of task 'density'"),
        (frame.assign(target=1), frame.assign(target=1), "auroc", "binary", "undefined on these 20 exams"),
    ):
        with pytest.raises(UserError, match=answer):
            paired_difference(metric, a, b, SCHEMA, task, resamples=5)


@pytest.mark.slow
def test_intervals_cover_the_truth() -> None:
    """200 samples of 60 patients with 1 to 3 exams: the 95 % interval holds the population's AUROC about that often.

    Two normals one standard deviation apart: AUROC = Phi(1 / sqrt 2) = 0.760.
    """
    hits = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        patient = np.repeat(np.arange(60), rng.integers(1, 4, 60))
        ill, own = rng.integers(0, 2, 60), rng.normal(size=60)
        score = 1 / (1 + np.exp(-(ill + np.sqrt(0.7) * own)[patient] - np.sqrt(0.3) * rng.normal(size=len(patient))))
        frame = table("binary", ill[patient], np.stack([1 - score, score], 1), patient=patient.astype(str))
        found = evaluate(frame, None, BINARY, resamples=300, stratum_resamples=1)["test"]["binary"]["auroc"]
        hits += found["low"] <= 0.7602 <= found["high"]
    assert 0.89 <= hits / 200 <= 0.99


@pytest.mark.slow
def test_a_thousand_resamples_of_six_tasks_of_a_thousand_exams_are_quick() -> None:
    from time import process_time

    predictions, scored = every_kind(1000)
    start = process_time()
    evaluate(predictions, scored, SCHEMA)
    assert process_time() - start < 20
