"""Splits: patients kept whole, labels in proportion, the same whatever the order of rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohorts import cohort, labelled
from m4oe.data.splits import split_exams
from m4oe.data.stratify import seats, stratify
from m4oe.errors import UserError
from m4oe.study import Split

AGE = {"age": {"columns": ["age"], "modality": "clinical", "kind": "table"}}


def exams_of(folder, patients, labels=None, name="s", **facts):
    """A cohort with an exam for each entry of `patients`, and labels 0 and 1 in turn."""
    labels = labels or [str(number % 2) for number in range(len(patients))]
    rows = "".join(f"{name}{n},{patient},1,{label}\n" for n, (patient, label) in enumerate(zip(patients, labels)))
    facts = {"name": name, "exam": "exam", "patient": "patient", "inputs": AGE, **facts}
    return cohort(folder, f"exam,patient,age,y\n{rows}", **facts)


def split_of(frame):
    return dict(zip(zip(frame["study"], frame["exam"], frame["fold"]), frame["split"]))


def test_seats_by_hand():
    assert seats(100, (0.7, 0.15, 0.15), whole=True) == [70, 15, 15]
    assert seats(10, (0.7, 0.15, 0.15), whole=True) == [7, 2, 1]  # 7, 1.5, 1.5: the first remainder wins
    assert seats(3, (0.7, 0.15, 0.15), whole=True) == [1, 1, 1]
    assert seats(3, (0.7, 0.15, 0.15)) == [1, 1, 1]  # three positives reach all three parts
    assert seats(2, (0.7, 0.15, 0.15)) == pytest.approx([1.4, 0.3, 0.3])
    assert seats(5, (0.8, 0.2, 0.0), whole=True) == [4, 1, 0]


def test_a_rare_label_reaches_every_part():
    """Ten patients, of whom 0, 1 and 2 have label 1; all have label 0."""
    pairs = np.array([[p, k] for p in range(10) for k in ([0, 1] if p < 3 else [0])])
    part = stratify(pairs, (0.7, 0.15, 0.15), np.full(10, -1))
    assert sorted(part[:3]) == [0, 1, 2] and np.bincount(part).tolist() == [7, 2, 1]


def test_what_is_fixed_stays():
    pairs = np.array([[p, 0] for p in range(10)])
    fixed = np.array([2, 2, *[-1] * 8])
    part = stratify(pairs, (0.5, 0.25, 0.25), fixed)
    assert part[:2].tolist() == [2, 2] and np.bincount(part).tolist() == [5, 3, 2]


def test_fractions_and_labels_in_proportion(tmp_path):
    """100 patients, 20 positive: 70, 15, 15 patients with 14, 3, 3 positives."""
    frame = split_exams([labelled(tmp_path, ["1"] * 20 + ["0"] * 80)])
    assert frame.columns.tolist() == ["study", "exam", "patient", "split", "fold"] and set(frame["fold"]) == {0}
    assert frame["split"].value_counts().to_dict() == {"train": 70, "validation": 15, "test": 15}
    positive = frame[[int(exam[1:]) < 20 for exam in frame["exam"]]]
    assert positive["split"].value_counts().to_dict() == {"train": 14, "validation": 3, "test": 3}


@pytest.mark.parametrize("split", [{"fractions": [0.6, 0.2, 0.2]}, {"folds": 3}])
@settings(max_examples=20)
@given(seed=st.integers(0, 5), order=st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(tmp_path_factory, split, seed, order):
    rows = [(f"P{n % 13}", str(n % 2)) for n in range(30)]
    found = exams_of(tmp_path_factory.mktemp("s"), *zip(*rows), split={"seed": seed, **split})
    places = np.array(order.sample(range(30), 30))
    assert split_of(split_exams([found])) == split_of(split_exams([found.take(places)]))


def test_the_seed_draws_another_split(tmp_path):
    drawn = [split_of(split_exams([labelled(tmp_path, ["0", "1"] * 20, split={"seed": s})])) for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("split", [{"fractions": [0.5, 0.25, 0.25]}, {"folds": 4}])
def test_law_a_patient_is_in_one_split_across_all_studies(tmp_path, shared, split):
    """Two studies of the same 40 patients, each with one to three exams."""
    cohorts = []
    for number, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        patients = [f"P{p}" for p in range(40) for _ in range(1 + (p + number) % 3)]
        cohorts.append(exams_of(tmp_path / name, patients, name=name, split={"seed": number, **split}))
    frame = split_exams(cohorts, shared_patients=shared)
    whole = ["patient", "fold"] if shared else ["study", "patient", "fold"]
    assert (frame.groupby(whole)["split"].nunique() == 1).all()
    across = frame.groupby(["patient", "fold"])["split"].nunique()
    assert shared or (across > 1).any()  # otherwise the law would hold for want of a chance to break it
    assert set(frame["split"]) == {"train", "validation", "test"}


def test_folds_test_everyone_once(tmp_path):
    found = labelled(tmp_path, ["0", "1", "1"] * 20, split={"folds": 5})
    frame = split_exams([found])
    tested = frame[frame["split"] == "test"]
    assert sorted(tested["exam"]) == sorted(found.exams) and len(frame) == 5 * 60
    sizes = frame.groupby(["fold", "split"]).size().unstack()
    assert (sizes["test"] == 12).all() and (sizes["validation"] == 7).all() and (sizes["train"] == 41).all()
    positive = dict(zip(found.exams, found.labels["y"]))
    shares = tested.assign(y=tested["exam"].map(positive)).groupby("fold")["y"].sum()
    assert shares.between(7, 9).all()


@settings(max_examples=20)
@given(positives=st.integers(3, 17), seed=st.integers(0, 3))
def test_every_part_has_both_classes_where_counts_allow(tmp_path_factory, positives, seed):
    labels = ["1"] * positives + ["0"] * (20 - positives)
    found = labelled(tmp_path_factory.mktemp("s"), labels, split={"seed": seed})
    frame = split_exams([found]).assign(y=found.labels["y"])
    assert (frame.groupby("split")["y"].nunique() == 2).all()


def declared(folder, splits, **facts):
    rows = "".join(f"E{n},{patient},1,{n % 2},{split}\n" for n, (patient, split) in enumerate(splits))
    facts = {"exam": "exam", "patient": "patient", "inputs": AGE, "split": {"column": "split"}, **facts}
    return cohort(folder, f"exam,patient,age,y,split\n{rows}", **facts)


def test_a_column_says_the_split(tmp_path):
    found = declared(tmp_path, [("a", "train"), ("b", "Training"), ("c", "VAL"), ("d", "valid"), ("e", "test")])
    assert split_exams([found])["split"].tolist() == ["train", "train", "validation", "validation", "test"]


def test_a_column_without_validation_lends_it_from_training(tmp_path):
    frame = split_exams([declared(tmp_path, [(f"p{n}", "test" if n < 10 else "train") for n in range(50)])])
    assert frame["split"].value_counts().to_dict() == {"train": 34, "validation": 6, "test": 10}
    assert (frame["split"][:10] == "test").all()


def test_a_declared_split_is_followed_by_studies_that_share_its_patients(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    free = exams_of(tmp_path / "a", [f"p{n}" for n in range(12)], name="free", split={"fractions": [0.5, 0.25, 0.25]})
    fixed = declared(tmp_path / "b", [(f"p{n}", ("train", "val", "test")[n % 3]) for n in range(6)], name="fixed")
    frame = split_exams([free, fixed], shared_patients=True).set_index(["study", "patient"])["split"]
    assert all(frame["free", f"p{n}"] == frame["fixed", f"p{n}"] for n in range(6))


def refused(*cohorts, **options):
    with pytest.raises(UserError) as error:
        split_exams(cohorts, **options)
    return str(error.value)


def test_a_patient_in_two_declared_splits(tmp_path):
    found = declared(tmp_path, [("a", "train"), ("b", "val"), ("c", "test"), ("a", "test")])
    message = refused(found)
    assert "row 5, column 'split'" in message and "'a'" in message and "row 2" in message
    assert "'test'" in message and "'train'" in message


def test_a_declared_split_that_is_none(tmp_path):
    assert "row 3, column 'split': 'dev' is no split" in refused(declared(tmp_path, [("a", "train"), ("b", "dev")]))
    assert "row 2, column 'split': '' is no split" in refused(declared(tmp_path, [("a", ""), ("b", "test")]))


@pytest.mark.parametrize(
    ("count", "split", "said"), [(1, {}, "1 patient,"), (2, {}, "2 patients,"), (4, {"folds": 5}, "5 parts")]
)
def test_too_few_patients(tmp_path, count, split, said):
    message = refused(labelled(tmp_path, ["0"] * count, split=split or {"fractions": [0.7, 0.15, 0.15]}))
    assert said in message and "add patients" in message


def test_studies_that_cannot_train_together(tmp_path):
    one = labelled(tmp_path, ["0", "1"] * 5)
    assert "two studies are called 's'" in refused(one, one)
    folded = one.study.model_copy(update={"name": "t", "split": Split(folds=2)})
    assert "same number of 'folds'" in refused(one, replace(one, study=folded))
