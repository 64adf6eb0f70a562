"""The numbers behind a report's figures, worked by hand."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from m4oe.data.readers import read_picture
from m4oe.report import accounts, outcomes
from m4oe.report.figures import Line, chart, shade
from m4oe.report.outcomes import outcome
from m4oe.report.pictures import LONGEST, _outlined, _slice, outline_hue, rgb, size_of, thumbnail, window
from m4oe.report.svg import Plane, tag, ticks
from m4oe.report.words import estimate, number, percent, signed
from m4oe.schema import TaskSpec

ORDINAL = TaskSpec(name="density", kind="ordinal", classes=("A", "B", "C"), prior=(), weights=())


def rows(task: str, exam: str, values: dict[str, tuple[float | None, float | None]], split: str = "test") -> list[dict]:
    about = {
        "study": "s",
        "exam": exam,
        "patient": f"p{exam}",
        "split": split,
        "fold": "0",
        "inputs": "a",
        "task": task,
    }
    return [{**about, "class": name, "target": y, "probability": p} for name, (y, p) in values.items()]


def test_predictions_come_back_in_the_order_of_the_classes():
    table = pd.DataFrame(
        [
            *rows("density", "1", {"C": (0, 0.5), "A": (1, 0.2), "B": (0, 0.3)}),
            *rows("density", "2", {"A": (None, 0.1), "B": (None, 0.8), "C": (None, 0.1)}),
            *rows("density", "3", {"A": (1, 1.0), "B": (0, 0.0), "C": (0, 0.0)}, split="train"),
        ]
    )
    found = outcome(table, ORDINAL, "test")
    assert found.probability.tolist() == [[0.2, 0.3, 0.5], [0.1, 0.8, 0.1]]
    assert found.truth.tolist() == [0, -1]
    assert found.decision.tolist() == [1, 1]  # the median: half of the first exam's probability is reached at B
    assert found.labelled.tolist() == [True, False]
    assert outcomes.confusion(found).tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert [part.tolist() for part in outcomes.sure_and_right(found)] == [[0.3], [0.0]]  # sure of B, not of C
    above = outcomes.contests(found)
    assert above["above A"][1].tolist() == pytest.approx([0.8]) and above["above B"][1].tolist() == pytest.approx([0.5])


def test_survival_reads_time_and_event():
    task = TaskSpec(name="risk", kind="survival", classes=("1", "2"), horizons=(1, 2), prior=(), weights=())
    values = {"1": (0, 0.1), "2": (None, 0.4), "time": (1.5, None), "event": (0, None)}
    found = outcome(pd.DataFrame(rows("risk", "1", values)), task)
    assert (found.time.tolist(), found.event.tolist()) == ([1.5], [0]) and found.probability.tolist() == [[0.1, 0.4]]


def test_kaplan_meier_by_hand():
    """Times 1 event, 2 censored, 3 event, 3 event: S = 3/4, then at 3 two are at risk and both fail: 0."""
    times, incidence = outcomes.kaplan_meier(np.array([3.0, 1.0, 2.0, 3.0]), np.array([1.0, 1.0, 0.0, 1.0]))
    assert times.tolist() == [0, 1, 2, 3] and incidence.tolist() == pytest.approx([0, 0.25, 0.25, 1])


def contribution(exam: str, values: dict[str, float], measure: str) -> list[dict]:
    about = {"study": "s", "exam": exam, "task": "t", "class": "c", "measure": measure}
    modality = {"cc": "ffdm", "mlo": "ffdm", "age": "clinical"}
    return [{**about, "input": name, "modality": modality[name], "value": value} for name, value in values.items()]


def test_mean_weight_sums_a_modality_and_averages_over_exams_that_have_it():
    table = pd.DataFrame(
        contribution("1", {"cc": 1.0, "mlo": -2.0, "age": 0.5}, "shapley") + contribution("2", {"cc": -4.0}, "shapley")
    )
    assert accounts.mean_weight(table, "shapley", "modality").loc["t"].to_dict() == {"clinical": 0.5, "ffdm": 3.5}
    assert accounts.mean_weight(table, "shapley", "input").loc["t"].to_dict() == {"age": 0.5, "cc": 2.5, "mlo": 2.0}


def test_measures_disagree_on_another_top_input_or_on_its_sign():
    shapley, evidence = {"1": {"cc": 2.0, "mlo": 1.0}}, {"1": {"cc": 1.0, "mlo": -0.5}}
    shapley |= {"2": {"cc": 2.0, "mlo": 1.0}, "3": {"cc": 2.0}}
    evidence |= {"2": {"cc": 1.0, "mlo": -1.5}, "3": {"cc": -2.0}}
    table = [row for exam, values in shapley.items() for row in contribution(exam, values, "shapley")]
    table += [row for exam, values in evidence.items() for row in contribution(exam, values, "evidence")]
    found = accounts.disagreements(pd.DataFrame(table)).reset_index().set_index("exam")
    assert found["other"].to_dict() == {"1": False, "2": True, "3": False}
    assert found["opposed"].to_dict() == {"1": False, "2": False, "3": True}


def routing(experts: list[list[float]], tokens: float) -> dict:
    """One modality, a row of P(expert) for each task."""
    tasks = [f"t{n}" for n in range(len(experts))]
    return {
        "modalities": ["m"], "tasks": tasks, "num_experts": len(experts[0]), "effective_tokens": tokens,
        "P_modality_given_task": [[1.0]] * len(tasks), "P_expert_given_modality_task": [experts],
    }  # fmt: skip


def test_effective_experts_by_hand():
    assert accounts.effective_experts(routing([[0.5, 0.5, 0, 0], [0.25] * 4], 0.1)) == pytest.approx({"t0": 2, "t1": 4})


@pytest.mark.parametrize(
    ("experts", "tokens", "alarms"),
    [
        ([0.25] * 4, 0.94, 0),
        ([0.25] * 4, 0.96, 1),
        ([1.0, 0, 0, 0], 0.5, 1),
        ([1.0] + [0] * 31, 0.99, 2),
        ([1.0], 0.5, 0),
    ],
)
def test_alarms(experts, tokens, alarms):
    assert len(accounts.alarms(routing([experts], tokens))) == alarms


def test_numbers_as_people_read_them():
    assert (number(-0.5), number(None), number(float("nan")), number(1234.5, 1)) == ("−0.50", "–", "–", "1,234.5")
    assert (signed(0.311), signed(-0.3), signed(0.001)) == ("+0.31", "−0.30", "0.00")
    assert [percent(part, 1000).replace("\xa0", " ") for part in (0, 3, 500, 997, 1000)] == [
        "0 %", "< 1 %", "50 %", "> 99 %", "100 %",
    ]  # fmt: skip
    assert estimate({"value": 0.9, "low": None, "high": None}, "auroc") == "0.90"


@pytest.mark.parametrize(("low", "high", "expected"), [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (1, 24, [5, 10, 15, 20])])
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_a_plane_puts_corners_into_corners():
    plane = Plane((0, 2), (0, 1), width=120, height=100, left=10, right=10, top=10, bottom=10)
    assert (plane.x(0), plane.x(2), plane.y(0), plane.y(1)) == (10, 110, 90, 10)
    assert plane.path([0, 2], [0, 1], stepped=True) == "M10.0 90.0H110.0V10.0"


def test_elements_escape_what_they_hold():
    assert tag("text", "<b>", aria_label='"&') == '<text aria-label="&#34;&amp;">&lt;b&gt;</text>'


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    long = chart("t", [Line("", range(5000), range(5000))], ("x", "y")).svg
    assert long.count("L") < 201 and len(long) < 9000


def test_a_chart_without_numbers_is_an_empty_chart():
    assert "<svg" in chart("t", [Line("", [1.0], [float("nan")])], ("x", "y")).svg


def test_text_on_a_shade_can_be_read():
    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    for share in np.linspace(0, 1, 101):
        dark, light = sorted(luminance(colour) for colour in shade(share))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, share


def test_pictures_keep_their_proportion():
    assert size_of((200, 100), None) == (LONGEST // 2, LONGEST)
    assert size_of((100, 100), (1.0, 0.5)) == (LONGEST // 2, LONGEST)


def test_a_window_uses_all_greys_and_keeps_colour():
    grey = window(np.linspace(-1000, 3000, 400, dtype=np.float32).reshape(1, 20, 20))
    assert (grey.min(), grey.max()) == (0, 255) and (np.diff(grey.ravel().astype(int)) >= 0).all()
    colour = window(np.full((3, 2, 2), 0.5, np.float32) * np.array([0, 1, 2], np.float32)[:, None, None])
    assert colour[0, 0].tolist() == [0, 128, 255]
    assert window(np.full((1, 4, 4), 7.0)).max() == 0


def test_an_outline_is_the_border_of_the_mask():
    mask = np.zeros((5, 5), np.uint8)
    mask[1:4, 1:4] = 1
    drawn = _outlined(np.zeros((5, 5, 3), np.uint8), mask).any(2)
    assert drawn.sum() == 8 and not drawn[2, 2] and not drawn[0].any()


def test_a_class_is_outlined_in_the_colour_of_its_name_whatever_else_is_there():
    mask = np.zeros((6, 6), np.int32)
    mask[1:5, 1:3] = 3
    alone = _outlined(np.zeros((6, 6, 3), np.uint8), mask.copy())
    mask[1:5, 4] = 1
    both = _outlined(np.zeros((6, 6, 3), np.uint8), mask)
    assert tuple(alone[1, 1]) == tuple(both[1, 1]) == rgb(outline_hue(2)) and tuple(both[1, 4]) == rgb(outline_hue(0))


def test_a_card_shows_the_patient_s_front_above_and_right_side_on_the_left(tmp_path: Path):
    """What is bright, and outlined, lies in front, on the right: RAS+ counts from the left and from the back."""
    values = np.random.default_rng(0).uniform(0, 1, (20, 20, 3)).astype(np.float32)
    values[11:18, 11:18] += 9
    for name, array in (("scan", values), ("mask", (values > 5).astype(np.uint8))):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4) * (1, 1, 2, 1)), tmp_path / f"{name}.nii.gz")
    task = TaskSpec(name="t", kind="segmentation", classes=("no", "yes"), values=(0, 1), prior=(), weights=())
    uri = thumbnail(read_picture((str(tmp_path / "scan.nii.gz"),), "mr"), (task, tmp_path / "mask.nii.gz"))
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")).astype(int)
    outline, half = (shown == rgb(outline_hue(0))).all(2), LONGEST // 2
    assert shown[:half, :half].mean() > 2 * shown[half:, half:].mean()
    assert outline.sum() == outline[:half, :half].sum() > 100


def test_a_volume_shows_its_middle_or_the_slice_with_most_of_the_mask():
    volume, mask = np.zeros((1, 5, 4, 4)), np.zeros((5, 4, 4), np.int64)
    volume[0] += np.arange(5)[:, None, None]
    mask[1, 0, 0], mask[3, :2] = 1, 1
    assert _slice(volume, None)[0].max() == 2 and _slice(volume, mask)[0].max() == 3
    assert _slice(volume, np.zeros((4, 4), np.int64))[1] is None, "a mask of another shape is not drawn"
