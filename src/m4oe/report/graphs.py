"""What stands in the sections of figures: each task's predictions against truth, and how training went."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy import ndarray

from m4oe.evaluate.calibration import reliability
from m4oe.report import outcomes as of
from m4oe.report.figures import Figure, Line, chart, shade, strips
from m4oe.report.folder import RunFolder
from m4oe.report.outcomes import EXCLUSIVE, Outcome
from m4oe.report.sections import Section
from m4oe.report.words import percent, plural, title

UNIT = (0.0, 1.0)
FEWEST = 10  # labelled exams below which a curve says nothing
_AGAIN = (
    " This told for how many epochs to train. The model was then trained anew, for as many, with the validation exams "
    "among those it learned from: nothing was left to draw a curve of."
)


@dataclass(frozen=True)
class Block:
    """The figures of a task; `few` says why there are none."""

    task: str
    n: str
    figures: tuple[Figure, ...] = ()
    confusion: dict[str, Any] | None = None
    few: str = ""


def figures_section(run: RunFolder, outcomes: Sequence[Outcome]) -> Section:
    """ROC, precision and recall, calibration and confusion, survival, Dice: a block for each task."""
    blocks = [_block(outcome) for outcome in outcomes] + list(_outlines(run))
    kinds = {task.kind for task in run.tasks}
    needed = {"predictions.csv": not run.segmenter, "cases.csv": "segmentation" in kinds}
    there = {"predictions.csv": run.predictions, "cases.csv": run.cases}
    absent = [name for name, table in there.items() if needed[name] and table is None]
    missing = f"No {' and no '.join(absent)}: 'm4oe evaluate' makes it." if absent else ""
    return Section("figures", "Predictions against truth", blocks, missing)


def _block(outcome: Outcome) -> Block:
    known = outcome.of(outcome.labelled)
    name, n = title(outcome.task.name), plural(len(known), "labelled exam")
    if len(known) < FEWEST:
        return Block(name, n, few=f"Fewer than {FEWEST} labelled exams: too few for curves.")
    if outcome.task.kind == "survival":
        return Block(name, n, (_survival(known),))
    confusion = _confusion_table(known) if outcome.task.kind in EXCLUSIVE else None
    return Block(name, n, (*_curves(known), _calibration(known)), confusion)


def _curves(outcome: Outcome) -> Iterator[Figure]:
    questions = of.contests(outcome)
    roc = {name: of.roc(truth, score) for name, (truth, score) in questions.items()}
    recall = {name: of.precision_recall(truth, score) for name, (truth, score) in questions.items()}
    if not any(curve is not None for curve in roc.values()):
        return
    caption = "The diagonal is guessing."
    yield chart(
        "ROC",
        _lines(roc, True),
        ("1 − specificity", "sensitivity"),
        x_range=UNIT,
        y_range=UNIT,
        diagonal=True,
        caption=caption,
    )
    shares = ", ".join(f"{name} {percent(float(truth.sum()), len(truth))}" for name, (truth, _) in questions.items())
    caption = f"Guessing scores the prevalence: {shares}."
    yield chart(
        "Precision and recall",
        _lines(recall, False),
        ("recall", "precision"),
        x_range=UNIT,
        y_range=UNIT,
        caption=caption,
    )


def _lines(curves: Mapping[str, tuple[ndarray, ndarray] | None], stepped: bool) -> list[Line]:
    return [Line(name, *curve, hue=hue) for hue, (name, curve) in enumerate(curves.items()) if curve is not None]


def _calibration(outcome: Outcome) -> Figure:
    bins = reliability(*of.sure_and_right(outcome))
    drawn = Line("", bins["stated"], bins["observed"], dots=True, low=bins["low"], high=bins["high"])
    what = {"binary": "stated probability", "multilabel": "stated probability, labels pooled"}
    x_label = what.get(outcome.task.kind, "stated probability of the called class")
    y_label = "observed frequency" if outcome.task.kind in what else "share called right"
    caption = "On the diagonal, what is said happens as often as it is said. Bars: 95 % intervals of the frequency."
    return chart("Calibration", [drawn], (x_label, y_label), x_range=UNIT, y_range=UNIT, diagonal=True, caption=caption)


def _confusion_table(outcome: Outcome) -> dict[str, Any]:
    table = of.confusion(outcome)
    rows = []
    for name, counts in zip(outcome.task.classes, table):
        total = int(counts.sum())
        cells = [(int(n), percent(int(n), total), *shade(n / total if total else 0.0)) for n in counts]
        rows.append((name, cells, total))
    return {"classes": outcome.task.classes, "rows": rows}


def _survival(outcome: Outcome) -> Figure:
    """Observed incidence of the thirds by predicted risk, and the mean risk that was predicted for them."""
    horizons = [0.0, *outcome.task.horizons]
    lines = []
    for hue, (name, rows) in enumerate(
        zip(("lowest third", "middle third", "highest third"), of.thirds(outcome.probability[:, -1]))
    ):
        times, incidence = of.kaplan_meier(outcome.time[rows], outcome.event[rows])
        seen = times <= horizons[-1]
        end = (min(horizons[-1], float(times[-1])), incidence[seen][-1])
        lines.append(Line(name, [*times[seen], end[0]], [*incidence[seen], end[1]], stepped=True, hue=hue))
        predicted = [0.0, *outcome.probability[rows].mean(0)]
        lines.append(Line("", horizons, predicted, dashed=True, dots=True, hue=hue))
    top = max(0.05, *(float(np.max(line.ys)) for line in lines))
    caption = "Thirds by predicted risk. Steps: observed (Kaplan-Meier). Dashes: mean risk predicted, ideally the same."
    return chart(
        "Risk over time",
        lines,
        ("years", "share with event"),
        x_range=(0.0, horizons[-1]),
        y_range=(0.0, min(1.0, 1.1 * top)),
        caption=caption,
    )


def _outlines(run: RunFolder) -> Iterator[Block]:
    if run.cases is None:
        return
    shown = run.cases[run.cases["split"] == run.split]
    for task, rows in shown.groupby("task", sort=False):
        scored = rows[rows["outcome"] != "empty"]
        groups = {name: part["dice"].tolist() for name, part in scored.groupby("class", sort=False)}
        counted = [f"{name}: {_odd(part)}" for name, part in rows.groupby("class", sort=False) if _odd(part)]
        caption = "A dot is an exam; bar and mark are the middle half and the median. " + "; ".join(counted)
        exams = plural(len(rows.drop_duplicates(["study", "exam"])), "labelled exam")
        yield Block(title(str(task)), exams, (strips("Overlap with the true mask", groups, "Dice", caption),))


def _odd(rows: Any) -> str:
    counts = rows["outcome"].value_counts()
    return ", ".join(f"{counts[name]} {name}" for name in ("missed", "invented", "empty") if name in counts)


def learning_section(run: RunFolder) -> Section:
    """Loss, validation score of each task, mutual information and balance over epochs, phase after phase."""
    heading = "How training went"
    if not run.log:
        return Section("learning", heading, missing="No log.jsonl: 'm4oe train' makes it.")
    folds = {line["fold"]: [entry for entry in run.log if entry["fold"] == line["fold"]] for line in run.log}
    tasks = [task.name for task in run.tasks]
    score = "Dice of slices" if run.segmenter else "score"
    panels = [
        ("Loss", "loss", [("train", "loss", "training"), ("validation", "loss", "validation")]),
        ("Validation score", score, [("validation", f"{name}_score", title(name)) for name in tasks]),
        ("Mutual information I(M; E | T)", "nats", [("train", "cmi", "")]),
        ("Balance of the gate", "1 is even use of experts", [("train", "balance", "")]),
    ]
    drawn = [figure for name, axis, keys in panels if (figure := _history(name, axis, keys, folds)) is not None]
    seconds = sum(float(line.get("seconds", 0)) for line in run.log)
    phases = list(dict.fromkeys(str(line.get("phase", "train")) for line in run.log))
    trained = f"{'phases' if len(phases) > 1 else 'phase'} {', '.join(phases)}"
    words = f"{plural(len(run.log), 'epoch')} in {seconds / 60:.1f} minutes, {trained}.{_AGAIN * run.refitted}"
    return Section("learning", heading, {"figures": drawn, "words": words})


def _history(
    name: str, axis: str, keys: Sequence[tuple[str, str, str]], folds: Mapping[str, list[Any]]
) -> Figure | None:
    lines = []
    for hue, (side, key, label) in enumerate(keys):
        for place, entries in enumerate(folds.values()):
            points = [
                (n + 1, value) for n, entry in enumerate(entries) if (value := entry.get(side, {}).get(key)) is not None
            ]
            if points:
                xs, ys = zip(*points)
                lines.append(Line(label if place == 0 else "", xs, ys, hue=hue))
    last = max(len(entries) for entries in folds.values())
    if not lines:
        return None
    marks = _phases(next(iter(folds.values())))
    return chart(name, lines, ("epoch", axis), x_range=(1.0, max(2.0, float(last))), marks=marks)


def _phases(entries: Sequence[Mapping[str, Any]]) -> list[tuple[float, str]]:
    """(epoch at which it begins, name) of each phase; none of a training in one phase."""
    names = [str(entry.get("phase", "train")) for entry in entries]
    starts = [place for place, name in enumerate(names) if place == 0 or name != names[place - 1]]
    return [(max(1.0, place + 0.5), names[place]) for place in starts] if len(starts) > 1 else []
