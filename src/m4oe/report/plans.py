"""What a segmenter's plan says, in words, and what growing a model changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from m4oe.report.folder import RunFolder
from m4oe.report.sections import Section
from m4oe.report.words import number, percent, plain, plural, signed, title
from m4oe.schema import Plan, Preparation, Stream

AXES = ("first axis (axial, where files say how they lie)", "second axis (coronal)", "third axis (sagittal)")
UNITS = {"ct": " HU"}


def plan_section(run: RunFolder) -> Section:
    """plan.json in sentences: sizes, spacing, window, and what was measured."""
    heading = "How pictures become slices"
    plan = run.plan or (run.schema.plan if run.schema is not None else None)
    if plan is None:
        return Section("plan", heading, missing="No plan.json: 'm4oe train' makes it.")
    known = {stream.name: stream for stream in run.streams}
    rows = [_row(name, how, plan, known.get(name), run) for name, how in plan.streams.items()]
    neighbours = f", each with {plural(plan.context, 'neighbour')} on either side as channels" if plan.context else ""
    words = f"The network learns from slices of {_by(plan.size)} pixels{neighbours}."
    return Section("plan", heading, {"words": words, "rows": rows})


def _row(name: str, how: Preparation, plan: Plan, stream: Stream | None, run: RunFolder) -> dict[str, Any]:
    found = plan.found.get(name, {})
    return {
        "modality": plain(name if stream is None else stream.modality),
        "input": "" if stream is None else plain(stream.input),
        "slices": f"along the {AXES[how.slice_axis]}",
        "pixel": _pixel(how, plan.size, found.get("scaled_because")),
        "values": _values(how, "" if stream is None else UNITS.get(stream.kind, "")),
        "measured": "; ".join(_measured(found)),
        "foreground": "; ".join(_foreground(found.get("share_of_pixels"), run)),
    }


def _pixel(how: Preparation, size: Sequence[int], why: object) -> str:
    """why: what the plan has found; a plan written by hand, or long ago, may not say."""
    if how.spacing is None:
        return "each slice is scaled to that size" + (f": {why}" if why else "")
    extent = [mm * pixels for mm, pixels in zip(how.spacing, size)]
    return f"{_by(how.spacing, 2)} mm, so that a slice spans {_by(extent, 0)} mm"


def _values(how: Preparation, unit: str) -> str:
    ends = [("above", how.low), ("below", how.high)]
    kept = " and ".join(f"{side} {number(float(end), 0)}{unit}" for side, end in ends if end is not None)
    clipped = f"kept {kept}; then " if kept else ""
    if how.mean is None or how.sd is None:
        return f"{clipped}less the mean of the volume's own foreground, in its standard deviations"
    return f"{clipped}less {number(how.mean, 0)}{unit}, in units of {number(how.sd, 0)}{unit}"


def _measured(found: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(count := found.get("pictures_measured"), int):
        yield plural(count, "training picture")
    if shape := found.get("median_shape"):
        yield f"in the median {_by(shape)} pixels"
    if spacing := found.get("median_spacing_mm"):
        yield f"of {_by(spacing, 1)} mm"


def _foreground(shares: Any, run: RunFolder) -> Iterator[str]:
    tasks = {task.name: task for task in run.tasks}
    for name, parts in (shares or {}).items():
        if name in tasks and len(parts) == len(tasks[name].classes):
            pairs = zip(tasks[name].classes[1:], parts[1:])
            yield f"{title(name)}: " + ", ".join(f"{label} {percent(share, 1)}" for label, share in pairs)


def _by(lengths: Sequence[float], decimals: int = 0) -> str:
    return " × ".join(number(float(length), decimals) for length in lengths)


def growth_section(run: RunFolder) -> Section | None:
    """What growing did to each old task; None of a model that was not grown."""
    if run.growth is None:
        return None
    rows = []
    for task, change in run.growth.items():
        if "undefined" in change:
            rows.append((title(task), "", change["undefined"]))
        else:
            low, high = (signed(float(change[end]), 3) for end in ("low", "high"))
            rows.append((title(task), f"{signed(float(change['difference']), 3)} ({low} to {high})", _verdict(change)))
    return Section("growth", "What growing changed", rows)


def _verdict(change: Mapping[str, float]) -> str:
    if change["low"] <= 0 <= change["high"]:
        return "no change, as far as these exams tell"
    return "better than before" if change["low"] > 0 else "worse than before"
