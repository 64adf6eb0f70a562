"""What a report says of a fabricated run, and how it behaves when files are absent, damaged or hostile."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
import yaml

from fabricated_run import PICTURES, write_run
from m4oe.errors import UserError
from m4oe.report import write_report

VOID = {"meta", "link", "img", "br", "hr", "input"}
HOSTILE = "<script>alert(1)</script>"
SECTIONS = ("data", "metrics", "figures", "contributions", "analyses", "cards", "experts", "learning", "method")


class Page(HTMLParser):
    """A page as read by a strict reader: every element that opens must close, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.wrong, self.attributes, self.headings, self.scripts, self.words = [], [], [], [], 0, []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.scripts += tag == "script"
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    run = write_run(tmp_path_factory.mktemp("report"), first_exam=HOSTILE)
    write_report(run)
    return run


@pytest.fixture(scope="module")
def html(run) -> str:
    return (run / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


@pytest.fixture
def copy(run, tmp_path) -> Path:
    """The run alone, to take things from."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def report_of(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


def test_it_is_well_formed(page):
    assert (page.open, page.wrong) == ([], [])


def test_every_section_is_there_and_none_is_missing(page, html):
    assert [value for tag, name, value in page.attributes if tag == "section" and name == "id"] == list(SECTIONS)
    assert 'class="missing"' not in html


def test_headings_go_down_one_level_at_a_time(page):
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(below - above <= 1 for above, below in zip(page.headings, page.headings[1:]))


def test_it_needs_no_network_and_no_script(page, html):
    links = [value for _, name, value in page.attributes if name in ("src", "href")]
    assert len(links) > 10 and all(value.startswith(("#", "data:")) for value in links)
    assert page.scripts == 0 and "@import" not in html and "url(" not in html and "http" not in html


def test_it_is_small(run):
    assert (run / "report.html").stat().st_size < 2e6


def test_nothing_is_left_beside(run):
    assert not [path.name for path in run.iterdir() if path.name.endswith(".part")]


@pytest.mark.parametrize(
    "sentence",
    [
        "Malignancy: AUROC 0.91 (0.85–0.96) on 50 exams of 27 patients in the test split.",
        "Risk: C-index 0.52 (0.41–0.63) on 50 exams of 26 patients in the test split. The interval includes 0.5",
        "Lesion: Dice 0.74 (0.69–0.80) on 50 exams of 29 patients in the test split.",
        "HD956.4 (4.1–9.3) mm",
        "test5030",  # exams and patients of the split
        "Integrated Brier score0.121 (0.090–0.150)",
        "site=north0.91 (0.85–0.96)",
        "Risk is withheld: its validation C-index 0.51 (0.40 to 0.62) does not beat chance",
        "Routing (not importance): P(modality | task)",
        "Seed 11.",
        "1 missed, 1 invented",
        "not a medical device",
    ],
)
def test_it_says(page, sentence):
    assert sentence in page.text


def test_a_doubt_stands_only_where_the_interval_includes_chance(page):
    assert page.text.count("The interval includes") == 1


def test_what_comes_from_the_user_is_escaped(page, html):
    assert HOSTILE not in html
    assert f"Exam {HOSTILE}" in page.text, "the hostile exam has few inputs and should have got a card"


def test_names_of_tasks_inputs_and_classes_are_escaped(copy):
    evil = "<img src=x onerror=alert(1)>"
    for name in ("predictions.csv", "contributions.csv", "metrics.json", "routing.json"):
        text = (copy / name).read_text().replace("synthetic", evil).replace("malignant", evil).replace("ffdm", evil)
        (copy / name).write_text(text)
    config = json.loads((copy / "model/config.json").read_text())
    config["schema"]["tasks"][0]["classes"][1] = evil
    (copy / "model/config.json").write_text(json.dumps(config))
    page = report_of(copy)
    assert not [row for row in page.attributes if row[1] == "onerror"]
    assert page.text.count(evil) > 5


def test_pictures_and_outlines_are_on_the_cards(page, html):
    pictures = [value for tag, name, value in page.attributes if tag == "img" and name == "src"]
    assert len(pictures) >= 6 and all(value.startswith("data:image/png;base64,") for value in pictures)
    texts = [value for tag, name, value in page.attributes if tag == "img" and name == "alt"]
    assert len(texts) == len(pictures) and any("with the predicted outline" in text for text in texts)
    assert "not in this exam" in page.text and "could not be read" not in page.text


def test_six_cards_for_six_different_exams(page, html):
    cards = re.findall(r'id="card-\d".*?</small>(.*?)</h3>', html, re.DOTALL)
    assert len(cards) == 6 == len(set(cards))
    for reason in ("Right and sure", "Wrong and sure", "Undecided", "Inputs missing", "Measures disagree", "Hard to"):
        assert f"{reason}" in page.text


def test_every_drawing_has_a_name(page):
    named = [value for tag, name, value in page.attributes if tag == "svg" and name == "aria-label"]
    hidden = [value for tag, name, value in page.attributes if tag == "svg" and name == "aria-hidden"]
    drawings = [value for tag, name, value in page.attributes if tag == "svg" and name == "height"]
    assert len(drawings) == len(named) + len(hidden) and len(named) > 15 and all(named)


def test_no_alarm_where_routing_is_healthy(page):
    assert "Collapse" not in page.text and "not looking" not in page.text


def test_an_alarm_where_routing_has_collapsed(tmp_path):
    text = report_of(write_run(tmp_path, collapsed=True)).text
    assert "Collapse: density uses 1.0 of 16 experts" in text
    assert "Routing is not looking: experts read 98 % of the tokens" in text


def test_nothing_is_withheld_where_all_is_learned(tmp_path):
    assert "withheld" not in report_of(write_run(tmp_path, withheld=False)).text.lower()


ABSENT = {
    "splits.csv": "Patient cards",
    "predictions.csv": "No predictions.csv: 'm4oe evaluate' makes it.",
    "cases.csv": "No cases.csv: 'm4oe evaluate' makes it.",
    "metrics.json": "No metrics.json for this split: 'm4oe evaluate' makes it.",
    "contributions.csv": "Which modality mattered",
    "routing.json": "No routing.json: 'm4oe evaluate' makes it",
    "log.jsonl": "No log.jsonl: 'm4oe train' makes it.",
    "model": "Malignancy: AUROC 0.91",  # the studies tell what the tasks are
    "config.yaml": "Method and limits",
    "studies": "Malignancy: AUROC 0.91",
    "masks": "Hard to outline",
}


@pytest.mark.parametrize("name", ABSENT)
def test_what_is_absent_is_named_and_the_rest_is_shown(copy, name):
    path = copy / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = report_of(copy)
    assert ABSENT[name] in page.text and (page.open, page.wrong) == ([], [])


def test_a_patient_in_two_splits_is_told(copy, page):
    assert "All exams of a patient are in one split." in page.text
    table = (copy / "splits.csv").read_text()
    assert table.count(",P000,test,") == 2
    (copy / "splits.csv").write_text(table.replace(",P000,test,", ",P000,train,", 1))
    text = report_of(copy).text
    assert "1 patient with exams in more than one split" in text and "All exams of a patient" not in text


def test_every_task_may_be_withheld_so_that_no_contribution_is_told(copy):
    header = (copy / "contributions.csv").read_text().splitlines()[0]
    (copy / "contributions.csv").write_text(header + "\n")
    page = report_of(copy)
    assert "Malignancy" in page.text and (page.open, page.wrong) == ([], [])


def test_a_run_that_was_only_begun(copy):
    for name in ("predictions.csv", "cases.csv", "metrics.json", "contributions.csv", "routing.json", "masks", "model"):
        shutil.rmtree(copy / name) if (copy / name).is_dir() else (copy / name).unlink()
    text = report_of(copy).text
    assert "24 epochs in 1.0 minutes" in text and "Malignancy: not scored" in text


def test_a_model_that_was_trained_again_says_so(copy, page):
    told = "trained anew, for as many, with the validation exams among those it learned from"
    assert told not in page.text
    config = copy / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "refitted": True}))
    assert told in report_of(copy).text


def test_a_folder_of_predictions_alone(copy):
    for path in copy.iterdir():
        if path.name != "predictions.csv":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert "tasks are unknown" in report_of(copy).text


@pytest.mark.parametrize("kind", ["segmentation", "survival", "multilabel"])
def test_a_run_of_one_kind_of_task(copy, kind):
    """Without a task that calls one class, cards are chosen by what there is."""
    config = json.loads((copy / "model/config.json").read_text())
    config["schema"]["tasks"] = [task for task in config["schema"]["tasks"] if task["kind"] == kind]
    (copy / "model/config.json").write_text(json.dumps(config))
    name = config["schema"]["tasks"][0]["name"]
    for table in ("predictions.csv", "cases.csv"):
        lines = (copy / table).read_text().splitlines()
        (copy / table).write_text("\n".join([lines[0], *(line for line in lines if f",{name}," in line)]) + "\n")
    page = report_of(copy)
    assert "Undecided" not in page.text and page.text.count("Exam ") >= 3
    assert [1 for tag, _, _ in page.attributes if tag == "img"] and (page.open, page.wrong) == ([], [])


def test_a_study_that_moved_away_costs_the_pictures_only(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    study = copy / "studies" / "screening.yaml"
    study.write_text(study.read_text().replace(str(run.parent), str(tmp_path / "gone")))
    page = report_of(copy)
    assert "The table of study screening could not be read" in page.text and "Exam E" in page.text
    assert not [1 for tag, _, _ in page.attributes if tag == "img"]


def test_a_picture_that_the_table_has_lost_costs_itself_only(copy):
    study = copy / "studies" / "screening.yaml"
    content = yaml.safe_load(study.read_text())
    table = pd.read_csv(content["table"], dtype=str)
    table.assign(**{PICTURES[1]: ""}).to_csv(copy / "shorter.csv", index=False)
    study.write_text(yaml.safe_dump(content | {"table": str(copy / "shorter.csv")}))
    page = report_of(copy)
    assert "not there any more" in page.text and f"{PICTURES[0]} of exam" in str(page.attributes)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("predictions.csv", "study,exam\na,b\n", "has no column 'patient'"),
        ("metrics.json", "{", "metrics.json: damaged"),
        ("routing.json", "[]", "routing.json: damaged"),
        ("contributions.csv", "", "contributions.csv: damaged"),
        ("model/config.json", '{"schema": {"streams": 3}}', "config.json: damaged"),
    ],
)
def test_a_damaged_file_is_one_clear_message_and_leaves_the_old_report(copy, name, content, complaint):
    (copy / "report.html").write_text("the old one")
    (copy / name).write_text(content)
    with pytest.raises(UserError, match=re.escape(complaint)):
        write_report(copy)
    assert (copy / "report.html").read_text() == "the old one"


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(UserError, match="holds no m4oe run"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="no such run folder"):
        write_report(tmp_path / "nowhere")


def test_folds_without_pooled_tables_are_read_together(run, tmp_path):
    whole = tmp_path / "cv"
    for fold in ("fold_0", "fold_1"):
        shutil.copytree(run, whole / fold)
    page = report_of(whole)
    assert "48 epochs" in page.text and (page.open, page.wrong) == ([], [])


def test_a_finding_without_named_classes_is_called_by_its_task(copy):
    """A binary task whose study gives no names has the classes 0 and 1 in every file of the run."""
    config = json.loads((copy / "model/config.json").read_text())
    config["schema"]["tasks"][0]["classes"] = ["0", "1"]
    (copy / "model/config.json").write_text(json.dumps(config))
    for name in ("predictions.csv", "contributions.csv"):
        (copy / name).write_text((copy / name).read_text().replace("malignancy,malignant,", "malignancy,1,"))
    page = report_of(copy)
    assert "Said malignancy, true malignancy" in page.text and "Said not malignancy, true not" in page.text
    assert "towards malignancy" in page.text and "Guessing scores the prevalence: malignancy" in page.text
    assert "towards 1" not in page.text and "true 1" not in page.text and "true 0" not in page.text


def test_a_reason_for_withholding_calls_metrics_by_their_names(copy):
    routing = json.loads((copy / "routing.json").read_text())
    routing["withheld"] = {"risk": "its validation c index 0.51 does not surely beat chance"}
    (copy / "routing.json").write_text(json.dumps(routing))
    assert "its validation C-index 0.51 does not surely beat chance" in report_of(copy).text
