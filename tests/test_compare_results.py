"""Scores, tests, words and files of a comparison, on fabricated predictions."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from fabricated_comparison import SPECS, write_entries
from m4oe.compare.entries import Entry, total_cost
from m4oe.compare.reading import mark, reading
from m4oe.compare.results import COLUMNS, latex, write_results
from m4oe.compare.scores import content_of
from m4oe.compare.variants import VARIANTS
from m4oe.errors import UserError
from m4oe.evaluate import paired_difference, read_table
from m4oe.runs.tables import write_csv
from m4oe.schema import Schema
from m4oe.tasks.metrics import range_of

RESAMPLES = 1000


COMPETITION = {
    "left": {
        "binary": {
            "joint": {"value": 0.6, "low": 0.5, "high": 0.7, "n": 120},
            "alone": {"value": 0.9, "low": 0.8, "high": 1.0, "n": 120},
            "difference": {"value": -0.3, "low": -0.4, "high": -0.2, "n": 120},
        }
    },
    "right": {
        "binary": {
            "joint": {"value": 0.7, "low": None, "high": None, "n": 8},
            "alone": {"value": 0.8, "low": None, "high": None, "n": 8},
            "difference": {"value": -0.1, "low": None, "high": None, "n": 8},
        }
    },
}


@pytest.fixture(scope="module")
def entries(tmp_path_factory) -> list[Entry]:
    return write_entries(tmp_path_factory.mktemp("entries"))


@pytest.fixture(scope="module")
def content(entries) -> dict:
    found = content_of(entries, SPECS, "m4oe", RESAMPLES)
    return found | {"reading": reading(found), "competition": COMPETITION}


def area(folder: Path) -> float:
    table = read_table(folder / "predictions.csv")
    rows = table[table["task"] == "binary"]
    return roc_auc_score(rows["target"].astype(float), rows["probability"].astype(float))


def test_a_value_is_the_mean_over_seeds_of_scikit_learns(entries, content):
    for entry in entries[:3]:
        one = content["variants"][entry.name]["scores"]["binary"]["auroc"]
        areas = [area(folder) for folder in entry.seeds.values()]
        assert one["seeds"] == pytest.approx(areas) and one["value"] == pytest.approx(np.mean(areas))
        assert one["low"] < one["value"] < one["high"] and one["n"] == 120


def test_of_one_seed_the_interval_is_that_of_the_paired_bootstrap(entries):
    """Within a tenth of its width: Student's t has equal halves, the bootstrap's percentiles have not."""
    one = [Entry(entry.name, entry.variant, {0: entry.seeds[0]}) for entry in entries[:3]]
    found = content_of(one, SPECS, "m4oe", RESAMPLES)["variants"]["plain"]["differences"]["binary"]
    tables = [read_table(entry.seeds[0] / "predictions.csv") for entry in (one[2], one[0])]
    schema = Schema(streams=(), tasks=tuple(SPECS))
    twin = paired_difference("auroc", *tables, schema, "binary", resamples=RESAMPLES, seed=0)
    assert found["value"] == pytest.approx(twin.value)
    width = twin.high - twin.low
    assert [found["low"], found["high"]] == pytest.approx([twin.low, twin.high], abs=width / 10)


def test_differences_are_told_from_chance_by_holm_and_by_delong(content):
    """Plain is worse at the binary task and the same at the other; a twin is the same at both."""
    plain, twin = (content["variants"][name]["differences"] for name in ("plain", "twin"))
    assert plain["binary"]["value"] < -0.2 and plain["binary"]["high"] < 0
    assert plain["binary"]["p_holm"] == pytest.approx(4 * plain["binary"]["p"]) and plain["binary"]["p_holm"] < 0.01
    assert plain["binary"]["p_delong"] < 1e-6 and plain["ordinal"]["p_delong"] is None
    assert twin["binary"]["value"] == 0 and twin["binary"]["p_holm"] == 1 and twin["binary"]["p_delong"] == 1
    assert content["variants"]["m4oe"]["differences"] == {}


def test_an_interval_stays_within_what_the_metric_can_be(entries):
    """The area of trainings that disagree reaches beyond 1, and ends there."""
    assert range_of("auroc") == (0, 1) and range_of("quadratic_kappa") == (-1, 1) and range_of("hd95")[1] == np.inf
    found = content_of(entries[:3], SPECS, "m4oe", RESAMPLES)["variants"]
    for row in found.values():
        for estimates in row["scores"].values():
            for metric, one in estimates.items():
                lowest, highest = range_of(metric)
                assert one["low"] is None or lowest <= one["low"] <= one["value"] <= one["high"] <= highest


def test_best_is_marked_where_it_holds_and_ties_as_ties(entries, content):
    assert sorted(content["best"]["binary"]) == ["m4oe", "twin"]
    assert sorted(content["best"]["ordinal"]) == ["m4oe", "plain", "twin"]
    assert mark(content, "m4oe", "binary") == "tied" and mark(content, "plain", "binary") == ""
    alone = content_of([entries[0], entries[2]], SPECS, "m4oe", RESAMPLES)
    assert alone["best"]["binary"] == ["m4oe"] and mark(alone, "m4oe", "binary") == "best"


def test_it_is_read_out_in_plain_words(entries, content):
    assert content["reading"] == [
        "M4oE is best or tied for best on 2 of 2 tasks.",
        "Tied for best, not told apart from the highest score or from others: binary and ordinal.",
        "M4oE is better than Plain on binary.",
        "Broken_one failed: seed_0: RuntimeError: out of memory & <all> 100 %.",
    ]
    other = content_of(entries[:3], SPECS, "plain", RESAMPLES)
    words = reading(other)
    assert words[0] == "Plain is best or tied for best on 1 of 2 tasks."
    assert words[2] == "Significantly below the highest score on binary, that of M4oE."
    assert words[3].startswith("Plain is worse than M4oE on binary (AUROC −0.")
    assert words[-1].startswith("It is significantly better than none of the others (4 comparisons")


@pytest.fixture(scope="module")
def paired(entries) -> dict:
    """M4oE beside plain, which lacks what it knows of the binary task; the reference is the twin."""
    ours = replace(entries[0], variant=replace(entries[0].variant, pair="plain"))
    found = content_of([ours, *entries[1:]], SPECS, "twin", RESAMPLES)
    return found | {"reading": reading(found), "competition": {}}


def test_a_pair_is_compared_beside_the_reference(paired, content, tmp_path):
    """The same difference as to a reference, with the other sign, and Holm over the two tasks of the pair alone."""
    assert content["pairs"] == {} and list(paired["pairs"]) == ["m4oe"]
    pair, other = paired["pairs"]["m4oe"], content["variants"]["plain"]["differences"]
    assert {task: one["value"] for task, one in pair.items()} == {task: -one["value"] for task, one in other.items()}
    assert pair["binary"]["p"] == other["binary"]["p"] and pair["binary"]["p_holm"] == 2 * pair["binary"]["p"]
    assert "Of M4oE and Plain, the first is better on binary." in paired["reading"]
    write_results(paired, tmp_path)
    assert "Two variants that differ in one thing" in (tmp_path / "comparison.html").read_text()
    table = pd.read_csv(tmp_path / "table.csv").set_index(["variant", "task", "metric"])
    assert table.loc[("m4oe", "binary", "auroc"), "pair"] == "plain" and table["pair"].notna().sum() == 2


def test_a_pair_that_is_the_same_and_one_whose_other_failed(entries):
    same = replace(entries[1], variant=replace(entries[1].variant, pair="m4oe"))
    lost = replace(entries[2], variant=replace(entries[2].variant, pair="broken"))
    found = content_of([entries[0], same, lost, entries[3]], SPECS, "m4oe", RESAMPLES)
    assert list(found["pairs"]) == ["twin"]
    assert "Twin and M4oE are told apart on none of 2 tasks." in reading(found)


def test_every_pair_is_a_variant_with_one_override_less_or_more():
    pairs = [(row, VARIANTS[row.pair]) for row in VARIANTS.values() if row.pair]
    assert len(pairs) == 2
    assert all(len({*one.overrides} ^ {*other.overrides}) == 1 for one, other in pairs)


def test_a_reference_without_scores_is_told_and_nothing_is_compared(entries):
    found = content_of(entries, SPECS, "broken", 100)
    assert reading(found)[0] == "Broken_one has no scores, so nothing is compared to it."
    assert all(row["differences"] == {} for row in found["variants"].values())


def test_one_seed_and_few_exams_are_cautions(entries, tmp_path):
    few = []
    for entry in entries[:2]:
        table = read_table(entry.seeds[0] / "predictions.csv")
        folder = tmp_path / entry.name
        folder.mkdir()
        write_csv(table[table["exam"].isin([f"e{n}" for n in range(9)])], folder / "predictions.csv")
        few.append(Entry(entry.name, entry.variant, {0: folder}))
    found = content_of(few, SPECS, "m4oe", 100)
    assert found["variants"]["twin"]["differences"]["binary"]["p"] is None
    words = " ".join(reading(found))
    assert "one seed" in words and "Binary has 9 labelled test exams" in words


def test_other_exams_are_not_compared(entries, tmp_path):
    table = read_table(entries[1].seeds[0] / "predictions.csv")
    write_csv(table[table["exam"] != "e7"], tmp_path / "predictions.csv")
    odd = Entry("odd", entries[1].variant, {0: tmp_path})
    with pytest.raises(UserError, match="odd: exam 'e7' of study 's' is labelled for task 'binary' in one variant"):
        content_of([entries[0], odd], SPECS, "m4oe", 100)


def test_costs_of_a_variants_models_add_up_and_are_means_over_seeds():
    """Two models a seed: 10 + 30 and 20 + 40 parameters; memory 5 and 7, 9 and 1; seconds of one are not known."""
    seeds = [
        [{"parameters": 10, "peak_memory": 5, "seconds_an_epoch": 1.0}, {"parameters": 30, "peak_memory": 7}],
        [
            {"parameters": 20, "peak_memory": 9, "seconds_an_epoch": 1.0},
            {"parameters": 40, "peak_memory": 1, "seconds_an_epoch": 2.0},
        ],
    ]
    assert total_cost(seeds) == {"parameters": 50, "peak_memory": 8, "seconds_an_epoch": 3.0}


# ---- files


class Page(HTMLParser):
    """Tags that are opened and closed, and what a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.fetched += [
            value for name, value in attrs if name in ("src", "href") and not value.startswith(("#", "data:"))
        ]
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def written(content, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("written")
    write_results(content, out)
    return out


def test_the_page_stands_alone_and_holds_what_was_found(written, content):
    text = (written / "comparison.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == [] and page.fetched == [] and "<script" not in text
    assert "M4oE is best or tied for best on 2 of 2 tasks." in text
    assert "out of memory &amp; &lt;all&gt;" in text
    assert text.count('class="tied"') == 5 and text.count("<svg") == 2
    low, high = (content["variants"]["plain"]["scores"]["binary"]["auroc"][key] for key in ("low", "high"))
    assert f"{low:.3f}–{high:.3f}" in text and "3,072" in text and "12,000" in text


def test_what_training_together_costs_an_encoder_is_told_where_it_is_sure(content, tmp_path, written):
    text = (written / "comparison.html").read_text()
    assert "Do inputs compete for training?" in text
    assert (
        "the encoder of left knows less of binary than trained for it alone" in text and "encoder of right" not in text
    )
    assert "0.60 with all, 0.90 alone: −0.30 (−0.40 to −0.20)" in text
    write_results(content | {"competition": {"right": COMPETITION["right"]}}, tmp_path)
    assert "No encoder surely knows less" in (tmp_path / "comparison.html").read_text()
    write_results(content | {"competition": {}}, tmp_path)
    assert "compete" not in (tmp_path / "comparison.html").read_text()


def test_the_csv_has_a_row_for_each_variant_task_and_metric(written, content):
    table = pd.read_csv(written / "table.csv")
    assert list(table.columns) == list(COLUMNS)
    scores = [scores for row in content["variants"].values() for one in row["scores"].values() for scores in one]
    assert len(table) == len(scores) + 1  # one that failed
    row = table[(table["variant"] == "plain") & (table["task"] == "binary") & (table["metric"] == "auroc")].iloc[0]
    one = content["variants"]["plain"]
    assert row["value"] == pytest.approx(one["scores"]["binary"]["auroc"]["value"]) and row["seeds"] == 3
    assert row["p_holm"] == pytest.approx(one["differences"]["binary"]["p_holm"])
    assert table[table["variant"] == "broken"]["failed"].item().startswith("seed_0")


def test_the_json_is_what_was_returned(written, content):
    assert json.loads((written / "comparison.json").read_text()) == json.loads(json.dumps(content))


def test_the_latex_table_is_as_wide_in_every_row_and_escapes_what_latex_reads(content):
    text = latex(content)
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert [len(re.findall(r"(?<!\\)&", line)) for line in lines] == [4] * 5
    assert text.startswith("% \\usepackage{booktabs}\n\\begin{tabular}{lccrr}\n\\toprule\n")
    assert text.endswith("\\bottomrule\n\\end{tabular}\n")
    assert lines[4] == r"Broken\_one & failed & failed & -- & -- \\"
    one = content["variants"]["m4oe"]["scores"]["binary"]["auroc"]
    shown = f"\\underline{{{one['value']:.3f}}} [{one['low']:.3f}, {one['high']:.3f}]"
    assert lines[1].startswith(f"M4oE & {shown} & ") and lines[1].endswith(r" & 12,000 & 1.2 \\")
    assert text.isascii()
