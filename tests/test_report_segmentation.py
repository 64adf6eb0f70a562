"""The report of a segmenter: which cases and slices it shows, what is drawn on them, and the page of a small run."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch import nn

from m4oe.batch import Prediction, Routing
from m4oe.config import load_config
from m4oe.data.readers import picture_of
from m4oe.predict.slicewise import Slicewise
from m4oe.report import write_report
from m4oe.report.examples import cases_of, telling_slice
from m4oe.report.folder import RunFolder
from m4oe.report.gates import FAINT, STRONG, gate_map, layer_words, telling_layers
from m4oe.report.overlays import DIMMED, FILL, overlaid
from m4oe.report.plans import plan_section
from m4oe.report.svg import HUES
from m4oe.report.words import estimate, name_metrics
from m4oe.runs import train_run
from m4oe.schema import Plan, Preparation, Stream, TaskSpec
from m4oe.train.resume import absolute_study
from small_volumes import block, study_of, volume
from test_report_browser import FRAME, LOOK, browse
from test_report_page import Page

TASK = TaskSpec(name="organs", kind="segmentation", classes=("background", "liver"), on="scan", prior=(), weights=())
SECTIONS = ("data", "plan", "metrics", "figures", "cases", "gate", "learning", "method")
SMALL = (
    "model.segmenter.size=[16, 16]", "model.segmenter.width=8", "model.segmenter.patch=4",
    "model.segmenter.depths=[1, 1]", "model.segmenter.heads=[1, 2]", "model.segmenter.window=4",
    "train.max_epochs=2", "train.slices_per_epoch=4", "train.precision='32'",
)  # fmt: skip


def folder_of(dice: dict[str, float], split: str = "test") -> RunFolder:
    """A run with nothing but cases of one class."""
    facts = {"study": "s", "split": split, "fold": "0", "task": "organs", "class": "liver", "outcome": "scored"}
    rows = [{"exam": exam, "patient": f"P{exam}", "dice": value, **facts} for exam, value in dice.items()]
    rows.append({"exam": "train", "patient": "x", "dice": 1.0, **facts, "split": "train"})
    return RunFolder(Path(), (), {}, {}, {}, None, None, pd.DataFrame(rows), None, None, None)


@pytest.mark.parametrize(
    ("dice", "shown"),
    [
        ({"a": 0.5, "b": 0.9, "c": 0.7}, {"b": "Best", "c": "Median", "a": "Worst"}),
        ({"a": 0.4, "b": 0.3, "c": 0.2, "d": 0.1}, {"a": "Best", "c": "Median", "d": "Worst"}),  # the lower middle one
        ({"a": 0.4, "b": 0.3}, {"a": "Best", "b": "Worst"}),
        ({"a": 0.4, "b": math.nan}, {"a": "The only case"}),
        ({"a": math.nan}, {}),
    ],
)
def test_best_median_and_worst_are_chosen_by_mean_dice(dice, shown):
    cases = cases_of(folder_of(dice), TASK)
    assert [(case.exam, case.rank) for case in cases] == list(shown.items())
    assert [case.dice for case in cases] == [dice[exam] for exam in shown]


def test_a_case_s_dice_is_the_mean_of_its_structures():
    run = folder_of({"a": 0.9, "b": 0.8})
    more = run.cases[run.cases["exam"] == "a"].assign(**{"class": "tumour", "dice": 0.1})
    run.cases.loc[len(run.cases)] = more.iloc[0]
    assert [(case.exam, case.dice, len(case.rows)) for case in cases_of(run, TASK)] == [("b", 0.8, 1), ("a", 0.5, 2)]


def test_the_slice_is_that_of_most_truth_or_of_most_errors():
    truth, said = np.zeros((4, 2, 2), int), np.zeros((4, 2, 2), int)
    truth[1] = said[1] = [[1, 1], [2, 0]]  # the most truth, and all right
    truth[2, 0], said[3, 0] = [1, 0], [1, 1]  # 1 and 2 pixels wrong
    truth[0] = -100  # counts for nothing
    assert telling_slice(truth, said, 4, errors=False) == (1, "where the truth is largest")
    assert telling_slice(truth, said, 4, errors=True) == (3, "where most pixels are wrong")
    assert telling_slice(truth, truth, 4, errors=True) == (1, "where the truth is largest")  # there is no error
    assert telling_slice(None, said, 4, errors=True) == (1, "where the prediction is largest")
    assert telling_slice(None, None, 4, errors=False) == (2, "in the middle")


def test_what_was_invented_is_shown_where_there_is_no_truth():
    truth, said = np.zeros((4, 2, 2), int), np.zeros((4, 2, 2), int)
    truth[1], said[1], said[3, 0] = -100, 1, [1, 0]
    assert telling_slice(truth, said, 4, errors=False) == (3, "where the prediction is largest")
    assert telling_slice(truth, np.zeros_like(said), 4, errors=False) == (2, "in the middle")


def test_classes_are_outlined_and_filled_and_what_counts_for_nothing_is_dimmed():
    mask = np.zeros((5, 6), int)
    mask[1:4, 1:4], mask[:, 5] = 1, -100
    shown = overlaid(np.full((5, 6, 3), 100, np.uint8), mask, np.array([(0, 0, 0), (200, 0, 0)], np.float32))
    assert shown[0, 0].tolist() == [100, 100, 100] and shown[1, 1].tolist() == [200, 0, 0]
    assert shown[2, 2].tolist() == [round(100 * (1 - FILL) + 200 * FILL), *[round(100 * (1 - FILL))] * 2]
    assert shown[0, 5].tolist() == [round(100 * DIMMED)] * 3


def test_layers_of_a_few_depths():
    encoder, decoder = ["encoder.0.0", "encoder.0.1", "encoder.1.0"], ["decoder.1.0", "decoder.0.0", "decoder.0.1"]
    assert telling_layers([*encoder, *decoder]) == ["encoder.0.0", "encoder.1.0", "decoder.0.1"]
    assert telling_layers(encoder) == ["encoder.0.0", "encoder.1.0"]
    assert telling_layers(decoder) == ["decoder.1.0", "decoder.0.1"]
    assert telling_layers(encoder[:1]) == encoder[:1]
    assert layer_words("decoder.0.1") == "Decoder 1.2"


def test_a_gate_map_has_the_hue_of_the_strongest_expert_fuller_as_it_leads():
    shares = np.array([[[1.0, 0.0], [0.5, 0.5], [0.25, 0.75]]])  # leads of 1, 0 and 1/2
    shown = gate_map(np.zeros((1, 3, 3), np.uint8), shares)
    for place, (expert, lead) in enumerate([(0, 1.0), (0, 0.0), (1, 0.5)]):
        opacity = FAINT + (STRONG - FAINT) * lead
        hue = [int(HUES[expert][at : at + 2], 16) for at in (1, 3, 5)]
        assert shown[0, place] == pytest.approx(np.array(hue) * opacity, abs=0.6)


class Numbered(nn.Module):
    """Routes each token by its number on a grid of `side` pixels; the layer "encoder.1.0" by the slice as a whole."""

    def grid(self, layer: str, size: tuple[int, int]) -> tuple[int, int]:
        side = 4 * 2 ** int(layer.split(".")[1])
        return -(-size[0] // side), -(-size[1] // side)

    def forward(self, batch, tasks) -> Prediction:
        (rows,) = batch.inputs.values()
        count = math.prod(self.grid("encoder.0.0", rows.values.shape[2:]))
        tokens = torch.stack([torch.arange(count), count - torch.arange(count)], -1)[None] / count
        whole = Routing(None, torch.tensor([[[0.25, 0.75]]]))
        return Prediction({}, routing={"encoder.0.0": Routing(None, tokens), "encoder.1.0": whole})


@pytest.mark.parametrize("shape", [(6, 10), (20, 30), (37, 22)])
@pytest.mark.parametrize("size", [(16, 16), (18, 14)])
def test_a_pixel_has_the_share_of_the_token_in_which_it_lies(shape, size):
    """A naive twin: pixel by pixel through scaling, margins and tokens."""
    stream = Stream(name="scan", input="scan", modality="ct", kind="ct", form="slices", channels=1, size=size)
    slicewise = Slicewise(Numbered(), Plan(size=size, streams={"scan": Preparation()}), torch.device("cpu"))
    picture = picture_of(np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32), "ct")
    shares = slicewise.experts(picture, 1, stream)
    scale = max(shape[0] / size[0], shape[1] / size[1])
    inner = [round(length / scale) for length in shape]
    framed = [max(length, full) for length, full in zip(inner, size)]
    columns = -(-framed[1] // 4)
    count = -(-framed[0] // 4) * columns
    expected = np.zeros(shape)
    for row, column in np.ndindex(shape):
        places = [
            int((place + 0.5) * length / full) + (outer - length) // 2
            for place, length, full, outer in zip((row, column), inner, shape, framed)
        ]
        expected[row, column] = (places[0] // 4 * columns + places[1] // 4) / count
    assert shares["encoder.0.0"].shape == (*shape, 2)
    assert shares["encoder.0.0"][..., 0] == pytest.approx(expected, abs=1e-6)
    assert (shares["encoder.1.0"] == [0.25, 0.75]).all() and shares["encoder.1.0"].shape == (*shape, 2)


def test_metrics_are_called_by_their_names_and_counts_have_no_interval():
    reason = "its validation auroc 0.51 does not beat chance; balanced accuracy and c index as little"
    shown = "its validation AUROC 0.51 does not beat chance; Balanced accuracy and C-index as little"
    assert name_metrics(reason) == shown
    assert estimate({"value": 3.0, "low": 1.0, "high": 5.0}, "missed") == "3"


def study(folder: Path, name: str, kind: str, tumour: bool = False, **facts: object) -> Path:
    mask = block() + tumour * block(slices=slice(3, 4))
    cohort = study_of(folder, {f"{name}{n}": (volume(n), mask) for n in range(10)}, name, kind=kind, **facts)
    content = yaml.safe_load(absolute_study(cohort.study)) | {"split": {"fractions": [0.5, 0.2, 0.3]}}
    (folder / name / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / name / "study.yaml"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Trained for a moment: two modalities, two label sets, both phases."""
    folder = tmp_path_factory.mktemp("segmenter")
    phases = [{"name": "specialise", "routing": "modality"}, {"name": "gate", "max_epochs": 1}]
    studies = [
        study(folder, "a", "mr"),
        study(folder, "b", "ct", True, classes={0: "background", 1: "hepar<b>", 2: "tumour"}),
    ]
    config = load_config(None, [*SMALL, f"phases={json.dumps(phases)}"])
    train_run(studies, config, folder / "run", torch.device("cpu"))
    return folder / "run"


@pytest.fixture
def copy(run, tmp_path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("cache", "checkpoints")))


def report_of(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


def pictures(page: Page) -> list[str]:
    return [value for tag, name, value in page.attributes if tag == "img" and name == "alt"]


def test_the_page_of_a_segmenter(copy):
    page = report_of(copy)
    html = (copy / "report.html").read_text()
    assert (page.open, page.wrong, page.scripts) == ([], [], 0) and 'class="missing"' not in html
    assert [value for tag, name, value in page.attributes if tag == "section" and name == "id"] == list(SECTIONS)
    assert all(below - above <= 1 for above, below in zip(page.headings, page.headings[1:]))
    links = [value for _, name, value in page.attributes if name in ("src", "href")]
    assert all(value.startswith(("#", "data:")) for value in links) and "http" not in html
    assert "hepar<b>" in page.text and "hepar<b>" not in html
    for said in (
        "segmenter, preset tiny, width 8",
        "slices of 16 × 16 pixels",
        "not importance",
        "specialise",
        "Median",
    ):
        assert said in page.text, said
    for of_exams in ("Shapley</dt>", "Patient cards", "Which modality mattered", "withheld"):
        assert of_exams not in html


def test_three_cases_of_each_task_and_a_slice_of_each_modality_are_drawn(copy):
    drawn = pictures(report_of(copy))
    for what in ("Image", "Truth", "Prediction"):
        assert sum(text.startswith(f"{what} of exam") for text in drawn) == 6, what
    for modality in ("mr", "ct"):
        layers = [text for text in drawn if text.endswith(f"which expert serves which pixel, {modality}")]
        assert [text.split(":")[0] for text in layers] == ["Encoder 1.1", "Encoder 2.1", "Decoder 1.1"]
    assert len(drawn) == 18 + 2 * 4


def test_every_class_and_all_of_them_are_scored(copy):
    """a has one structure, whose scores are all there is to say; b has two and a row of both."""
    metrics = json.loads((copy / "metrics.json").read_text())
    report_of(copy)
    rows = re.findall(r"<tr[^>]*>(<th scope=.row.>.*?)</tr>", (copy / "report.html").read_text())
    rows = [text for row in rows if " n " in (text := Page(row).text)]
    by_class, whole = metrics["by_class"]["test"], metrics["test"]["b_organs"]
    expected = {"organ": by_class["organ"]["a_organs"], "hepar<b>": by_class["hepar<b>"]["b_organs"]}
    expected |= {"tumour": by_class["tumour"]["b_organs"], "all structures": whole}
    for name, scores in expected.items():
        (row,) = [row for row in rows if row.startswith(f"{name}{scores['dice']['value']:.2f}")]
        counts = "".join(f"{scores[word]['value']:.0f}" for word in ("missed", "invented", "empty"))
        assert row.endswith(counts), (row, counts)


def test_without_masks_or_pictures_or_weights_the_rest_is_shown(copy):
    (copy / "model" / "model.safetensors").write_bytes(b"damaged")
    shutil.rmtree(copy / "masks")
    page = report_of(copy)
    assert "No maps: " in page.text and not any(text.startswith("Prediction") for text in pictures(page))
    assert sum(text.startswith("Truth") for text in pictures(page)) == 6
    shutil.rmtree(copy / "studies")
    page = report_of(copy)
    assert "Not drawn: " in page.text and not pictures(page) and (page.open, page.wrong) == ([], [])


def test_an_exam_that_its_table_has_lost_is_named_and_not_drawn(copy):
    file = copy / "studies" / "a.yaml"
    content = yaml.safe_load(file.read_text())
    table = pd.read_csv(content["table"], dtype=str)
    splits = pd.read_csv(copy / "splits.csv", dtype=str)
    tested = splits.loc[(splits["study"] == "a") & (splits["split"] == "test"), "exam"]
    table[~table["case"].isin(tested)].to_csv(copy / "shorter.csv", index=False)
    file.write_text(yaml.safe_dump(content | {"table": str(copy / "shorter.csv")}))
    page = report_of(copy)
    assert "Not drawn: " in page.text and "has no 'image' any more" in page.text
    assert sum(text.startswith("Truth") for text in pictures(page)) == 3


@pytest.mark.parametrize("name", ["cases.csv", "routing.json", "plan.json", "metrics.json", "log.jsonl", "model"])
def test_what_is_absent_is_named_and_the_page_stands(copy, name):
    shutil.rmtree(copy / name) if (copy / name).is_dir() else (copy / name).unlink()
    page = report_of(copy)
    assert (page.open, page.wrong) == ([], [])
    assert {"plan.json": "16 × 16", "model": "No maps: the run has no model"}.get(name, f"No {name}") in page.text


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"scaled_because": "only 1 of 3 files say how large a pixel is"}, "size: only 1 of 3 files say"),
        ({"scaled_because": "slices differ 3.3-fold in extent"}, "size: slices differ 3.3-fold in extent"),
        ({}, "each slice is scaled to that size"),
    ],
)
def test_why_slices_are_scaled_is_what_the_plan_has_found(found, said):
    plan = Plan(size=(96, 96), streams={"scan": Preparation()}, found={"scan": found})
    (row,) = plan_section(replace(folder_of({}), plan=plan)).content["rows"]
    assert said in row["pixel"] and ("files" in row["pixel"]) == ("files" in said)


def test_experts_are_named_after_modalities_where_they_were_told_them(copy):
    assert "expert 1 (mr)" in report_of(copy).text
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["phases"] = [{"name": "train", "routing": "gate"}]
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    text = report_of(copy).text
    assert "expert 1 (" not in text and "expert 2" in text and "In brackets" not in text


def test_hard_routing_has_no_maps(copy):
    config = json.loads((copy / "model" / "config.json").read_text())
    config["phase"]["routing"] = "modality"
    (copy / "model" / "config.json").write_text(json.dumps(config))
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model" / "model.safetensors")
    kept = {name: value for name, value in weights.items() if ".gate." not in name}
    assert len(kept) < len(weights)
    save_file(kept, copy / "model" / "model.safetensors")
    page = report_of(copy)
    assert "goes whole to the expert of its modality" in page.text and len(pictures(page)) == 18


def test_what_growing_changed_is_told(copy):
    changes = {"a_organs": {"difference": -0.02, "low": -0.03, "high": -0.01}, "b_organs": {"undefined": "no exams"}}
    (copy / "growth.json").write_text(json.dumps(changes))
    text = report_of(copy).text
    assert "A organs−0.020 (−0.030 to −0.010)worse than before" in text and "B organsno exams" in text


def test_in_a_browser_nothing_runs_over_the_edge(copy):
    drawn, widths = len(pictures(report_of(copy))), {"desk": 1200, "small desk": 800, "phone": 390}
    frames = "".join(FRAME.format(name=name, width=width) for name, width in widths.items())
    (copy / "look.html").write_text(LOOK.replace("FRAMES", frames))
    done = browse(copy.parent, "--window-size=1400,2000", "--dump-dom", url=(copy / "look.html").as_uri())
    seen = json.loads(re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)[1])
    for name, width in widths.items():
        assert seen[name]["wide"] == [] and seen[name]["scroll"] <= width and seen[name]["small"] == 0, name
        assert seen[name]["decoded"] == drawn and seen[name]["sections"] == len(SECTIONS)


def test_one_expert_has_no_maps(tmp_path):
    out, config = tmp_path / "run", load_config(None, [*SMALL, "phases=[{name: train}]"])
    train_run([study(tmp_path, "a", "mr")], config, out, torch.device("cpu"))
    page = report_of(out)
    assert "One expert serves all" in page.text and len(pictures(page)) == 9
