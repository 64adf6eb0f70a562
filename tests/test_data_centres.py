"""Centres left out: each is tested by a model that has seen nothing of it, nor of its patients."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from cohorts import cohort, study
from m4oe.config import load_config
from m4oe.data.phantoms import write_breast
from m4oe.data.splits import split_exams
from m4oe.errors import UserError
from m4oe.runs import train_run
from small_runs import LITTLE, edited

AGE = {"age": {"columns": ["age"], "modality": "clinical", "kind": "table"}}
SPLIT = {"split": {"leave_out": "site"}, "groups": ["site"]}


def at_sites(folder: Path, exams: list[tuple[str, str]], labels: list[str] | None = None, name: str = "s", **facts):
    """A cohort of exams given as (patient, site), with labels 0 and 1 in turn."""
    folder.mkdir(exist_ok=True)
    labels = labels or [str(n % 2) for n in range(len(exams))]
    rows = "".join(f"{name}{n},{p},{n},{label},{site}\n" for n, ((p, site), label) in enumerate(zip(exams, labels)))
    facts = {"name": name, "exam": "exam", "patient": "patient", "inputs": AGE, **SPLIT, **facts}
    return cohort(folder, f"exam,patient,age,y,site\n{rows}", **facts)


def refused(*cohorts, **options) -> str:
    with pytest.raises(UserError) as error:
        split_exams(cohorts, **options)
    return str(error.value)


def test_every_centre_is_tested_once_by_a_fold_of_its_own(tmp_path):
    """40 patients in south, north and west, by turns: 13 or 14 each. 15 % of the other 26 or 27 is 4."""
    found = at_sites(tmp_path, [(f"p{n}", ("south", "north", "west")[n % 3]) for n in range(40)])
    frame = split_exams([found])
    frame["site"] = frame["exam"].map(dict(zip(found.exams, found.groups["site"])))
    for fold, site in enumerate(["north", "south", "west"]):
        mine = frame[frame["fold"] == fold]
        assert set(mine.loc[mine["split"] == "test", "site"]) == {site}
        assert site not in set(mine.loc[mine["split"] != "test", "site"])
        assert (mine["split"] == "validation").sum() == 4 and len(mine) == 40
    assert sorted(frame.loc[frame["split"] == "test", "exam"]) == sorted(found.exams)


def test_a_patient_of_two_centres_never_trains_the_model_that_tests_them(tmp_path):
    """Patient p0 is seen at a and at b: in a's fold its exam at a is tested, that at b is in no split; and the other
    way round in b's. In c's fold both may train."""
    exams = [("p0", "a"), ("p0", "b"), *((f"p{n}", "abc"[n % 3]) for n in range(1, 31))]
    frame = split_exams([at_sites(tmp_path, exams)])
    both = frame[frame["patient"] == "p0"].groupby("fold").apply(lambda f: dict(zip(f["exam"], f["split"])))
    assert both[0] == {"s0": "test"} and both[1] == {"s1": "test"}
    assert set(both[2]) == {"s0", "s1"} and len(set(both[2].values())) == 1 and "test" not in both[2].values()
    assert (frame.groupby(["patient", "fold"])["split"].nunique() == 1).all()


@pytest.mark.parametrize("shared", [False, True])
def test_studies_leave_the_same_centre_out_together(tmp_path, shared):
    """Study t has sites b and c alone. A patient id that both have is one patient if so told."""
    first = at_sites(tmp_path / "s", [(f"p{n}", "ab"[n % 2]) for n in range(20)])
    second = at_sites(tmp_path / "t", [(f"p{n}", "bc"[n % 2]) for n in range(20)], name="t")
    frame = split_exams([first, second], shared_patients=shared)
    tested = frame[frame["split"] == "test"].groupby("fold")["study"].agg(set)
    assert tested.tolist() == [{"s"}, {"s", "t"}, {"t"}]
    whole = ["patient", "fold"] if shared else ["study", "patient", "fold"]
    assert (frame.groupby(whole)["split"].nunique() == 1).all()
    assert (len(frame) < 3 * 40) == shared  # what a tested patient has elsewhere is left out of the fold


def test_bad_centres(tmp_path):
    two = [(f"p{n}", "ab"[n % 2]) for n in range(12)]
    assert "'groups'; write groups: [site]" in _unread(tmp_path, groups=[])
    assert "give one of" in _unread(tmp_path, split={"leave_out": "site", "folds": 3})
    with pytest.raises(UserError, match=r"table\.csv.*'centre'"):
        at_sites(tmp_path, two, split={"leave_out": "centre"}, groups=["centre"])
    message = refused(at_sites(tmp_path, [*two, ("p99", "")]))
    assert "row 14, column 'site': empty" in message
    message = refused(at_sites(tmp_path, [(f"p{n}", "a") for n in range(12)]))
    assert "column 'site': every exam is of 'a'" in message
    message = refused(at_sites(tmp_path, two, labels=["1" if n % 2 else "" for n in range(12)]))
    assert "only exams of 'b' have a label of task 'y'" in message and "remove the task" in message
    other = at_sites(tmp_path / "u", two, name="u", split={"seed": 1})
    assert "study 'u' leaves out nothing" in refused(at_sites(tmp_path, two), other)


def _unread(folder: Path, **facts) -> str:
    with pytest.raises(UserError) as error:
        study(folder, "path,y,site\n", **{**SPLIT, **facts})
    return str(error.value)


def test_a_centre_without_labels_of_a_task_is_only_not_scored(tmp_path):
    exams = [(f"p{n}", "abc"[n % 3]) for n in range(30)]
    frame = split_exams([at_sites(tmp_path, exams, labels=["" if n % 3 == 0 else str(n % 2) for n in range(30)])])
    assert frame["fold"].nunique() == 3


@pytest.mark.slow
def test_a_run_has_a_fold_for_each_centre_and_scores_by_centre(tmp_path):
    """Trained, pooled and scored as folds are; by_group holds each centre, scored by the model that never saw it."""
    path = write_breast(tmp_path / "data", exams=36, seed=1, size=32)
    content = yaml.safe_load(path.read_text())
    table = pd.read_csv(path.parent / content["table"])
    sites = {patient: "ab"[n % 2] for n, patient in enumerate(dict.fromkeys(table[content["patient"]]))}
    table.assign(site=table[content["patient"]].map(sites)).to_csv(path.parent / content["table"], index=False)
    chosen = edited(path, tmp_path / "left.yaml", split={"leave_out": "site"}, groups=["site"])
    config = load_config(None, [*LITTLE, "train.max_epochs=1"])
    train_run([chosen], config, tmp_path / "run", torch.device("cpu"))
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    found = predictions.groupby("fold")["patient"].agg(lambda patients: {sites[p] for p in patients})
    assert found.tolist() == [{"a"}, {"b"}]
    by_group = json.loads((tmp_path / "run" / "metrics.json").read_text())["by_group"]["test"]
    assert set(by_group) == {"site=a", "site=b"}
