"""Words and numbers as the reader of a report sees them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

MINUS, MISSING, SPACE = "\N{MINUS SIGN}", "\N{EN DASH}", "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Measure:
    """A metric for people: its name, decimals, what guessing scores (None: depends), what it means; `counts`: a number
    of things, which has no interval."""

    name: str
    meaning: str
    decimals: int = 2
    chance: float | None = None
    unit: str = ""
    counts: bool = False


MEASURES: Mapping[str, Measure] = {
    "auroc": Measure("AUROC", "chance that an exam with the finding ranks above one without; 0.5 is guessing", 2, 0.5),
    "auprc": Measure("AUPRC", "mean precision over all recalls; guessing scores the prevalence"),
    "accuracy": Measure("Accuracy", "share of exams of which the true class is called"),
    "balanced_accuracy": Measure("Balanced accuracy", "accuracy of each true class, averaged"),
    "macro_f1": Measure("Macro F1", "harmonic mean of precision and recall, averaged over classes"),
    "sensitivity": Measure("Sensitivity", "share of true findings that are called, at a probability above 0.5"),
    "specificity": Measure("Specificity", "share of exams without the finding that are not called"),
    "quadratic_kappa": Measure("Quadratic kappa", "agreement beyond chance; errors count by squared distance", 2, 0.0),
    "calibration_error": Measure("Calibration error", "mean gap of stated probability and observed frequency", 3),
    "c_index": Measure("C-index", "chance that the earlier event had the higher risk; 0.5 is guessing", 2, 0.5),
    "brier": Measure("Brier score", "mean squared error of the probability; lower is better", 3),
    "integrated_brier": Measure("Integrated Brier score", "Brier score averaged over the horizons; lower is better", 3),
    "dice": Measure("Dice", "overlap of predicted and true mask, 0 to 1"),
    "iou": Measure("IoU", "shared area over united area, 0 to 1"),
    "hd95": Measure("HD95", "95th percentile of the distance between both outlines; lower is better", 1, unit=" mm"),
    "nsd": Measure("NSD", "share of both outlines that lies within 1 mm of the other, 0 to 1"),
    "missed": Measure("Missed", "structures that are there and of which nothing is marked", 0, counts=True),
    "invented": Measure("Invented", "structures that are marked and are not there", 0, counts=True),
    "empty": Measure("Empty", "structures in neither mask, which no mean includes", 0, counts=True),
}  # fmt: skip


def measure(name: str) -> Measure:
    return MEASURES.get(name) or Measure(name.replace("_", " "), "")


def number(value: object, decimals: int = 2) -> str:
    """A number with a true minus sign; an en dash where there is none."""
    if not isinstance(value, int | float) or not isfinite(value):
        return MISSING
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def signed(value: float, decimals: int = 2) -> str:
    """A number that shows its direction: +0.31, −0.12."""
    shown = round(value, decimals)
    return f"+{shown:.{decimals}f}" if shown > 0 else number(shown or 0.0, decimals)


def percent(part: float, whole: float) -> str:
    """A share in whole percent; never 0 % of something, never 100 % of less than all."""
    if not whole:
        return MISSING
    share = 100 * part / whole
    if 0 < share < 1:
        return f"<{SPACE}1{SPACE}%"
    return f">{SPACE}99{SPACE}%" if 99 < share < 100 else f"{share:.0f}{SPACE}%"


def estimate(entry: Mapping[str, Any], name: str) -> str:
    """A metric with its interval: 0.95 (0.92 to 0.97)."""
    shown = measure(name)
    value, low, high = (number(entry.get(key), shown.decimals) for key in ("value", "low", "high"))
    if shown.counts:
        return value
    return value + (f" ({low}\N{EN DASH}{high})" if MISSING not in (low, high) else "") + shown.unit


def span(entry: Mapping[str, Any], name: str) -> tuple[str, str]:
    """A metric and its interval apart, as a narrow cell shows them: 0.95 and 0.92–0.97; no interval is empty."""
    value, _, rest = estimate(entry, name).partition(" (")
    return value, rest.replace(")", "")


def plural(count: int, word: str) -> str:
    return f"{count:,} {word}" + ("" if count == 1 else "s")


def title(name: str) -> str:
    """A task's name at the start of a line: the user's word, first letter raised, underscores as spaces."""
    spaced = plain(name)
    return spaced[:1].upper() + spaced[1:]


def plain(name: str) -> str:
    """A user's word with its underscores as spaces."""
    return name.replace("_", " ")


def name_metrics(sentence: str) -> str:
    """A sentence with its metrics called as people call them: AUROC, C-index, Dice."""
    keys = sorted((key for key, shown in MEASURES.items() if not shown.counts), key=len, reverse=True)
    pattern = rf"\b({'|'.join(key.replace('_', '[ _]') for key in keys)})\b"
    return re.sub(pattern, lambda found: MEASURES[found[0].replace(" ", "_")].name, sentence)
