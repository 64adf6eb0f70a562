"""Whether what is stated happens as often, and what a temperature mends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from m4oe.report.analyses.drawings import figures
from m4oe.report.analyses.pieces import listed, spoken, table
from m4oe.report.figures import Figure, Line, chart
from m4oe.report.words import number, plain, title

MOST_CURVES = 4
Task = Mapping[str, Any]


def calibration(content: Mapping[str, Any]) -> Markup:
    """See analyses.calibration."""
    tasks, judged = content["tasks"], JUDGED[content["refitted"]]
    scores = [row for name, task in tasks.items() for row in _rows(name, task)]
    head = ["Task", "Calibration error", "if all were true", "RMS, debiased", "Log loss"]
    note = (
        "Calibration error: mean gap of stated probability and observed frequency. A model of which every statement is "
        "true has one too, by chance: its mean and 95 % limit stand beside it. RMS, debiased: that chance taken off. A "
        "temperature divides every logit, and is fitted on the validation split; it changes no ranking."
    ) + REFITTED * content["refitted"]
    parts = [
        listed(_told(name, task, judged) for name, task in tasks.items()),
        table("Calibration of each task", head, scores, note),
        figures(figure for name, task in tasks.items() for figure in _curves(name, task)),
    ]
    by_inputs = [row for name, task in tasks.items() for row in _inputs(name, task)]
    if by_inputs:
        parts.append(table("Calibration by inputs", _BY_INPUTS, by_inputs, _SURPLUS))
    return Markup("").join(parts)


JUDGED = {False: "", True: "the network before was "}
REFITTED = (
    " This model was trained again, on validation exams as well, and the temperature was fitted to answers of the "
    "network before it: whether it fits this one, test exams alone tell."
)
_BY_INPUTS = [
    "Inputs present",
    "Task",
    "Exams",
    "Calibration error",
    "if all were true",
    "Stated less observed",
    "after",
]
_SURPLUS = "Stated less observed: above 0 the model says too much, below 0 too little. After: with the temperature."


def is_off(scores: Mapping[str, Any]) -> bool:
    """Whether a calibration error is more than chance makes of true statements."""
    error = scores.get("calibration_error")
    return bool(error) and error["value"] > scores["if_true"]["high"]


def _told(name: str, task: Task, judged: str) -> Markup:
    before, after = task["states"]["before"], task["states"].get("after")
    error, usual = spoken(before["calibration_error"], 3), number(before["if_true"]["high"], 3)
    if not is_off(before):
        words = f"what is stated holds, as far as these exams tell: calibration error {error}, by chance up to {usual}."
    else:
        words = f"what is stated does not hold: calibration error {error}, where chance makes {usual} at most."
    return Markup("<strong>{}:</strong> {} {}").format(title(name), words, _mended(task, after, judged))


def _mended(task: Task, after: Mapping[str, Any] | None, judged: str) -> str:
    """judged: of which network the lean is told."""
    if after is None:
        return f"Too few validation exams ({task['n_validation']}) to fit a temperature."
    heat, loss = task["temperature"], task["gain"]["log_loss"]
    lean = "too sure" if heat > 1 else "too shy"
    words = f"Temperature {number(heat)} ({judged}{lean} in validation) makes the error {number(_error(after), 3)}"
    low, high = (loss["low"], loss["high"]) if loss else (None, None)
    if low is not None and low > 0:
        return f"{words} and is better by log loss ({spoken(loss, 3)})."
    if high is not None and high < 0:
        return f"{words}, but is worse by log loss ({spoken(loss, 3)}): leave it as it is."
    return f"{words}; by log loss no better and no worse."


def _error(scores: Mapping[str, Any]) -> float | None:
    return (scores["calibration_error"] or {}).get("value")


def _rows(name: str, task: Task) -> Iterator[list[str]]:
    for state, scores in task["states"].items():
        heat = f", temperature {number(task['temperature'])}" if state == "after" else ""
        usual = f"{number(scores['if_true']['mean'], 3)}, up to {number(scores['if_true']['high'], 3)}"
        error, loss = spoken(scores["calibration_error"], 3), spoken(scores["log_loss"], 3)
        yield [title(name) + heat, error, usual, number(scores["rms"], 3), loss]


def _curves(name: str, task: Task) -> Iterator[Figure]:
    lines = []
    for state, scores in task["states"].items():
        for hue, (what, points) in enumerate(list(scores["curves"].items())[:MOST_CURVES]):
            xs, ys, low, high = ([point[key] for point in points] for key in ("stated", "observed", "low", "high"))
            later = state == "after"
            shown = f"{plain(what)} {'after' if later else 'before'}".strip()
            bars = {} if later else {"low": low, "high": high}
            lines.append(Line(shown, xs, ys, dots=not later, dashed=later, hue=hue, **bars))
    axes, words = ("stated", "observed"), "On the diagonal, what is said happens as often as it is said."
    left_out = len(task["states"]["before"]["curves"]) - MOST_CURVES
    words += f" {left_out} more are not drawn." if left_out > 0 else ""
    if lines:
        yield chart(title(name), lines, axes, x_range=(0.0, 1.0), y_range=(0.0, 1.0), diagonal=True, caption=words)


def _inputs(name: str, task: Task) -> Iterator[list[str]]:
    for inputs, states in task["by_inputs"].items():
        before, after = states["before"], states.get("after", {})
        if before.get("calibration_error"):
            usual = f"up to {number(before['if_true']['high'], 3)}"
            numbers = [spoken(before["calibration_error"], 3), usual, spoken(before["surplus"], 3)]
            together = " + ".join(map(plain, inputs.split("+")))
            yield [together, title(name), str(before["n"]), *numbers, spoken(after.get("surplus"), 3)]
