"""Sets that hold the true class as often as promised, and abstaining when unsure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from markupsafe import Markup

from m4oe.report.analyses.drawings import figures
from m4oe.report.analyses.pieces import listed, paragraph, spoken, table
from m4oe.report.figures import Figure, Line, chart
from m4oe.report.words import number, percent, plain, plural, title

Asked = Mapping[str, Any]


class Claim(NamedTuple):
    """How the coverage of sets is spoken of: what it should be, what is said where it is and where it is not, and what
    too few exams are too few for."""

    aim: str
    kept: str
    broken: str
    needs: str


PROMISED = Claim("promised", "as promised", "less than promised", "a promise")
MEASURED = Claim("aimed at", "no less than aimed at, as far as these exams tell", "less than aimed at", "a threshold")
NO_PROMISE = (
    "No promise: this model was trained again, on validation exams as well, and the thresholds were chosen on answers "
    "of the network before it. What sets hold is measured on test exams; nothing assures it of others."
)


def conformal(content: Mapping[str, Any]) -> Markup:
    """See analyses.conformal."""
    claim = MEASURED if content["refitted"] else PROMISED
    asked = [
        (_name(task, label), entry) for task, labels in content["tasks"].items() for label, entry in labels.items()
    ]
    rows = [row for name, entry in asked for row in _rows(name, entry, claim)]
    head = ["Task", title(claim.aim), "Held", "Classes in a set", "Sets of one class"]
    parts = [paragraph(NO_PROMISE, "alarm")] if content["refitted"] else []
    parts += [
        listed(_told(name, entry, claim) for name, entry in asked),
        table("Sets of classes", head, rows, _note(asked, claim)),
    ]
    if drawn := list(_figures(content["tasks"])):
        parts += [figures(drawn)]
    if by_inputs := [row for name, entry in asked for row in _by_inputs(name, entry, claim)]:
        head = ["Inputs present", "Task", f"Held, of 90 % {claim.aim}", "Classes in a set", "Held, own threshold"]
        parts.append(table("Sets by inputs", head, by_inputs))
    return Markup("").join(parts)


def _note(asked: list[tuple[str, Asked]], claim: Claim) -> str:
    words = "Thresholds come from the validation split. "
    if claim is PROMISED:
        words += "The promise is of exams drawn alike; validation exams that also chose the epoch make it a little "
        words += "less sure than it sounds. "
    words += "Intervals of what is held are binomial."
    if any(entry["repeated"] for _, entry in asked):
        words += " Some patients have several exams, for which they are too narrow."
    return words


def _name(task: str, label: str) -> str:
    return f"{title(task)}, {plain(label)}" if label else title(task)


def _told(name: str, entry: Asked, claim: Claim) -> Markup:
    promise = entry["promises"][0]
    if not promise["enough"]:
        words = f"{plural(entry['n_validation'], 'validation exam')}, and {claim.needs} needs {promise['fewest']}."
        return Markup("<strong>{}:</strong> {}").format(name, words)
    held = claim.kept if promise["kept"] else f"{claim.broken}, beyond chance"
    single = percent(promise["single"]["value"], 1.0)
    words = (
        f"sets made to hold the true class in 90 % of exams hold it in {_share(promise['coverage'])}, {held}; "
        f"{single} of them name a single class."
    )
    return Markup("<strong>{}:</strong> {} {}").format(name, words, _abstaining(entry["abstention"]))


def _abstaining(abstention: Mapping[str, Any]) -> str:
    half = next((point for point in abstention["curve"] if point["aimed"] == 0.5), None)
    if half is None or half["wrong"] is None or half["answered"] is None:
        return ""
    whole = abstention["curve"][0]["wrong"]
    share = percent(half["answered"]["value"], 1.0)
    return f"Answering the surest {share} alone errs in {_share(half['wrong'])}, answering all in {_share(whole)}."


def _share(entry: Mapping[str, Any] | None) -> str:
    if not entry:
        return "an unknown share"
    value, low, high = (None if entry[key] is None else 100 * entry[key] for key in ("value", "low", "high"))
    ends = "" if low is None else f" ({number(low, 0)} to {number(high, 0)})"
    return f"{number(value, 0)} %{ends}"


def _rows(name: str, entry: Asked, claim: Claim) -> Iterator[list[str]]:
    for promise in entry["promises"]:
        promised = f"{100 * promise['promised']:.0f} %"
        if not promise["enough"]:
            yield [name, promised, f"too few validation exams: {entry['n_validation']}", "", ""]
            continue
        held = _share(promise["coverage"]) + ("" if promise["kept"] else f", {claim.broken}")
        yield [name, promised, held, spoken(promise["size"]), _share(promise["single"])]


def _figures(tasks: Mapping[str, Any]) -> Iterator[Figure]:
    for task, labels in tasks.items():
        lines = []
        for hue, (label, entry) in enumerate(labels.items()):
            points = [p for p in entry["abstention"]["curve"] if p["wrong"] and p["answered"]]
            xs, ys = ([point[key]["value"] for point in points] for key in ("answered", "wrong"))
            ends = [(p["wrong"]["low"], p["wrong"]["high"]) for p in points]
            bars = {} if any(None in pair for pair in ends) else dict(zip(("low", "high"), zip(*ends)))
            lines.append(Line(plain(label), xs, ys, dots=True, hue=hue, **bars))
        if any(line.xs for line in lines):
            words = "From left to right more exams are answered, the surest first. Bars: 95 % intervals."
            axes = ("share of exams answered", "share of answers wrong")
            yield chart(f"{title(task)}: abstaining", lines, axes, x_range=(0.0, 1.0), caption=words)


def _by_inputs(name: str, entry: Asked, claim: Claim) -> Iterator[list[str]]:
    for inputs, level in entry["promises"][0].get("by_inputs", {}).items():
        together, own = " + ".join(map(plain, inputs.split("+"))), level.get("own")
        held = _share(level["coverage"]) + ("" if level["kept"] else f", {claim.broken}")
        yield [together, name, held, spoken(level["size"]), _share(own["coverage"]) if own else "too few exams"]
