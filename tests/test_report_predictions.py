"""Parts of the report on missing inputs, calibration and conformal sets: what they say of numbers made by hand."""

from __future__ import annotations

import pytest

from m4oe.report.analyses.calibration import calibration
from m4oe.report.analyses.conformal import conformal
from m4oe.report.analyses.missing_inputs import missing_inputs, verdict


def number(value, low=None, high=None, n=100):
    return {"value": value, "low": low, "high": high, "n": n}


def left_out(cost):
    return {"malignancy": {"metric": "auroc", "with": number(0.9), "without": number(0.8), "cost": cost}}


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.01, 0.2, "needed"),
        (-0.2, -0.01, "harmful"),
        (-0.01, 0.03, "free"),
        (-0.01, 0.2, "unclear"),
        (None, None, "unclear"),
    ],
)
def test_only_an_interval_that_is_surely_small_is_no_cost(low, high, word):
    assert verdict(number(0.0, low, high)) == word


def test_what_can_be_left_out_stands_in_words():
    entries = {
        "ffdm_cc": left_out(number(0.08, 0.05, 0.12)), "synthetic": left_out(number(0.0, -0.01, 0.02)),
        "noise": left_out(number(-0.04, -0.06, -0.02)), "history": left_out(number(0.03, -0.02, 0.08)),
    }  # fmt: skip
    subset = {
        "inputs": ["ffdm_cc"],
        "tasks": {"malignancy": {"metric": "auroc", "score": number(0.7), "cost": number(0.1)}},
    }
    content = {
        "inputs": list(entries), "together": list(entries), "left_out": entries, "not_scored": ["lesion"],
        "subsets": [{**subset, "inputs": list(entries)}, subset],
    }  # fmt: skip
    page = str(missing_inputs(content))
    assert "<strong>Malignancy:</strong> leaving out ffdm cc costs 0.08 AUROC (0.05 to 0.12)." in page
    assert "leaving out noise gains 0.04 AUROC (0.02 to 0.06)." in page
    assert "can be left out at no measurable cost: synthetic (at most 0.02 lost)." in page
    assert "do not tell what it costs to leave out history 0.03" in page
    assert "Not scored here: lesion" in page and "Every subset of inputs" in page


def scores(error, high):
    curve = [{"stated": 0.2, "observed": 0.4, "low": 0.3, "high": 0.5, "n": 50}]
    return {
        "calibration_error": number(error, error - 0.02, error + 0.02), "if_true": {"mean": high / 2, "high": high},
        "rms": error, "log_loss": number(0.5), "curves": {"": curve},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        ((0.01, 0.03), "is better by log loss"),
        ((-0.03, -0.01), "leave it as it is"),
        ((-0.01, 0.01), "no better and no worse"),
    ],
)
def test_an_error_beyond_chance_is_told_and_so_is_what_a_temperature_does(gain, said):
    task = {
        "kind": "binary", "n_validation": 50, "temperature": 1.8, "at_limit": False, "by_inputs": {},
        "states": {"before": scores(0.2, 0.06), "after": scores(0.05, 0.06)},
        "gain": {"log_loss": number(0.0, *gain), "calibration_error": None},
    }  # fmt: skip
    page = str(calibration({"refitted": False, "tasks": {"risk": task}}))
    assert (
        "what is stated does not hold: calibration error 0.200 (0.180 to 0.220), where chance makes 0.060 at most"
        in page
    )
    assert "Temperature 1.80 (too sure in validation) makes the error 0.050" in page and said in page
    assert "<svg" in page and "risk" in page.lower() and "network before" not in page
    unfitted = {**task, "temperature": None, "gain": None, "states": {"before": scores(0.05, 0.06)}}
    again = str(calibration({"refitted": True, "tasks": {"risk": task}}))
    assert "Temperature 1.80 (the network before was too sure in validation)" in again and said in again
    assert "fitted to answers of the network before it" in again
    page = str(calibration({"refitted": False, "tasks": {"risk": unfitted}}))
    assert "holds, as far as these exams tell" in page and "Too few validation exams (50)" in page


def sets_entry(kept):
    """A question with sets of 80 % coverage at 90 %, and too few exams for 95 %."""
    promise = {
        "promised": 0.9, "enough": True, "coverage": number(0.8, 0.7, 0.88), "least": 0.84, "kept": kept,
        "size": number(1.5), "single": number(0.6), "by_inputs": {},
    }  # fmt: skip
    few = {"promised": 0.95, "enough": False, "fewest": 19}
    curve = [
        {"aimed": aimed, "limit": 0.5, "answered": number(aimed), "wrong": number(0.2 * aimed, 0.0, 0.3)}
        for aimed in (1.0, 0.5)
    ]
    return {
        "classes": 2, "n_validation": 12, "repeated": True, "promises": [promise, few],
        "abstention": {"area": number(0.1), "curve": curve},
    }  # fmt: skip


def told_of_sets(kept, refitted):
    entry = sets_entry(kept)
    few = {**entry, "promises": entry["promises"][1:] * 2}
    return str(conformal({"refitted": refitted, "tasks": {"findings": {"mass": entry}, "grade": {"": few}}}))


def test_a_broken_promise_is_said_to_be_broken():
    page = told_of_sets(kept=False, refitted=False)
    assert "Findings, mass:" in page and "hold it in 80 % (70 to 88), less than promised, beyond chance" in page
    assert "errs in 10 % (0 to 30), answering all in 20 %" in page
    assert "12 validation exams, and a promise needs 19." in page and "too narrow" in page


@pytest.mark.parametrize(
    ("kept", "said"),
    [(True, "no less than aimed at, as far as these exams tell"), (False, "less than aimed at, beyond chance")],
)
def test_of_a_model_trained_again_nothing_is_promised(kept, said):
    """Its thresholds are another network's: coverage is measured, and the word promise is but denied."""
    page = told_of_sets(kept, refitted=True)
    assert page.startswith('<p class="alarm">No promise: this model was trained again, on validation exams as well')
    assert f"hold it in 80 % (70 to 88), {said}" in page and "a threshold needs 19" in page
    assert page.replace("No promise:", "").lower().count("promise") == 0
    assert "as promised" in told_of_sets(kept=True, refitted=False)
