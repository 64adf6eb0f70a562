"""What each task uses, by hand; a run analysed as a whole; and the parts of the report."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from m4oe.analyses import ANALYSES, analyse_run, subject_of
from m4oe.analyses.estimates import mean, ratio
from m4oe.analyses.utilisation import sizes_of, utilisation_of
from m4oe.report import write_report
from m4oe.report.analyses import SECTIONS, analyses_section
from m4oe.report.folder import read_run
from planted import planted

CPU = torch.device("cpu")
COLUMNS = ["study", "exam", "task", "class", "input", "modality", "measure", "value"]


def contributions(exams=12):
    """Every exam: Shapley 3 and 1 of the first modality's inputs, -1 of the second; routing .2, .3, .5."""
    rows = []
    for exam in range(exams):
        head = ("s", f"test{exam}", "y", "yes")
        shapley = {("first", "first"): 3, ("other", "first"): 1, ("second", "second"): -1}
        rows += [(*head, *key, "shapley", value) for key, value in shapley.items()]
        rows += [(*head, "", name, "routing", p) for name, p in (("first", 0.2), ("second", 0.3), ("third", 0.5))]
    return pd.DataFrame(rows, columns=COLUMNS)


@pytest.fixture
def subject(tmp_path):
    contributions().to_csv(tmp_path / "contributions.csv", index=False)
    values, labels = {"test": np.ones((12, 3))}, {"test": np.arange(12) % 2}
    return planted(values, labels, lambda values: values[:, 0], tmp_path)


def test_shares_by_hand(subject):
    """Sizes 4, 1 and 0 of 5."""
    found = utilisation_of(subject)["tasks"]["y"]
    shares = {name: entry["shapley"]["value"] for name, entry in found["modalities"].items()}
    assert shares == pytest.approx({"first": 0.8, "second": 0.2, "third": 0.0})
    assert found["modalities"]["third"]["spread"]["routing"] == {"p10": 0.5, "median": 0.5, "p90": 0.5}
    assert found["modalities"]["first"]["shapley"]["n"] == 12


def test_routing_misleads_where_it_gives_much_more_than_answers_take(subject):
    """.5 against 0 of the third; .3 against .2 of the second is not more than .1 above."""
    assert utilisation_of(subject)["tasks"]["y"]["misleads"] == ["third"]


def test_examples_are_the_exams_that_rest_most_on_a_modality(subject):
    examples = utilisation_of(subject)["tasks"]["y"]["examples"]
    assert {(one["modality"], round(one["share"], 6)) for one in examples} == {("first", 0.8), ("second", 0.2)}


def test_sizes_are_means_over_scores():
    table = pd.DataFrame(
        [("s", "a", "t", c, "i", "m", "shapley", v) for c, v in (("x", 1), ("y", -3))], columns=COLUMNS
    )
    assert sizes_of(table, "shapley", ("m", "n")).to_numpy().tolist() == [[2.0, 0.0]]


def test_a_run_without_contributions_has_nothing_to_say(tmp_path):
    assert utilisation_of(planted({}, {}, lambda values: values[:, 0], tmp_path)) is None


def test_estimates_by_hand():
    few = mean(np.array([1.0, np.nan, 3.0]), np.array(["a", "b", "c"]))
    assert few == {"value": 2.0, "low": None, "high": None, "n": 2}
    many = ratio(np.arange(20.0), np.full(20, 2.0), np.arange(20).astype(str))
    assert many["value"] == 4.75 and 3.3 < many["low"] < 4.75 < many["high"] < 6.2
    assert mean(np.array([np.nan]), np.array(["a"])) is None


# ---- a run


@pytest.fixture(scope="module")
def analysed(breast_run, tmp_path_factory):
    run = tmp_path_factory.mktemp("analysed") / "run"
    shutil.copytree(breast_run, run)
    return run, analyse_run(run, CPU)


def test_a_run_is_analysed_into_one_file_each(analysed):
    run, found = analysed
    files = {file.stem: json.loads(file.read_text()) for file in (run / "analyses").glob("*.json")}
    assert files == json.loads(json.dumps(found))
    assert {"routing", "gradients", "competition"} <= files.keys() <= ANALYSES.keys()


def test_routing_and_gradients_tell_of_every_task(analysed):
    _, found = analysed
    tasks = {task.name for task in subject_of(analysed[0], CPU).tasks}
    assert found["routing"]["experts"].keys() == tasks
    assert {name for pair in found["gradients"]["pairs"] for name in pair["tasks"]} == tasks


def test_what_subjects_predict_is_what_the_run_has_predicted(analysed):
    run, _ = analysed
    own = pd.read_csv(run / "predictions.csv", dtype={"exam": str})
    again = subject_of(run, CPU).predictions("test")
    keys = ["study", "exam", "task", "class"]
    both = own.merge(again, on=keys, suffixes=("", "_again")).dropna(subset="probability")
    assert len(both) == (own["split"].eq("test") & own["probability"].notna()).sum()
    assert both["probability"].to_numpy() == pytest.approx(both["probability_again"].to_numpy(float), abs=1e-5)


def test_an_input_left_out_is_as_if_exams_did_not_have_it(analysed):
    subject = subject_of(analysed[0], CPU)
    table = subject.predictions("test", [subject.inputs[0]])
    assert set(table["inputs"]) == {subject.inputs[0]}
    assert 0 < table["exam"].nunique() < subject.predictions("test")["exam"].nunique() + 1


def test_a_segmenter_is_not_analysed(tmp_path, monkeypatch):
    from m4oe import analyses

    artifact = type("A", (), {"schema": type("S", (), {"plan": object()})()})()
    monkeypatch.setattr(analyses, "load_artifact", lambda folder: artifact)
    assert analyse_run(tmp_path, CPU) == {} and not list(tmp_path.iterdir())


# ---- the report


def test_every_analysis_has_its_part_of_the_report():
    assert SECTIONS.keys() >= ANALYSES.keys()


def test_the_report_says_what_was_found(analysed):
    run, found = analysed
    page = write_report(run).read_text(encoding="utf-8")
    part = page[page.index('<section id="analyses"') :]
    for name in found:
        assert SECTIONS[name][0] in part
    assert "cannot be read" not in part and not re.search(r"\bnan\b|\bNone\b", part[: part.index("</section>")])


def test_where_routing_misleads_the_report_says_so_first(subject):
    words = str(SECTIONS["utilisation"][1](utilisation_of(subject)))
    assert words.startswith('<p class="alarm">Routing sends 50')
    assert "do not read routing as importance" in words
    assert words.index("do not read") < words.index("rests most on first")


def test_a_damaged_analysis_is_left_out_with_a_line(analysed, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(analysed[0], run)
    (run / "analyses" / "routing.json").write_text('{"changes": 3}')
    (run / "analyses" / "gradients.json").write_text("{")
    content = str(analyses_section(read_run(run)).content)
    assert content.count("cannot be read") == 2 and "gradients.json cannot be read" in content
    shutil.rmtree(run / "analyses")
    assert "m4oe evaluate" in analyses_section(read_run(run)).missing
