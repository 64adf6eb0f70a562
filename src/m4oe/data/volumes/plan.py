"""The plan of a run: how volumes become slices, from its training exams alone; plan.json, readable and editable."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import ValidationError

from m4oe.data.cache import aside
from m4oe.data.fingerprint import training_cohorts
from m4oe.data.table import Cohort
from m4oe.data.volumes.measure import Measured, measure
from m4oe.errors import UserError, from_validation
from m4oe.schema import Plan, Preparation, Schema, Stream

LOW, HIGH = 0.5, 99.5
CLEARLY = 1.5  # times coarser, or fewer: what makes an axis the one of slices
KNOWN = 0.9  # share of pictures that must tell their spacing for it to be used
ALIKE = 2.0  # times larger: how far slices may differ in extent for one spacing to serve all


def make_plan(
    cohorts: Sequence[Cohort],
    splits: pd.DataFrame,
    fold: int,
    schema: Schema,
    *,
    size: tuple[int, int],
    spacing: tuple[float, float] | None = None,
    context: int = 0,
) -> Plan:
    """The plan for the streams of form "slices" of `schema`, from the training exams of `fold` alone.

    size: (H, W) of a training slice · spacing: mm between its rows and columns, where the user wants one · context:
    neighbouring slices on either side. Raises UserError for a picture or mask that cannot be read.
    """
    training = training_cohorts(cohorts, splits, fold)
    streams, found = {}, {}
    for stream in schema.streams:
        if stream.form == "slices":
            pictures = measure(training, stream) or measure(cohorts, stream)
            streams[stream.name] = how = _preparation(pictures, stream, size, spacing)
            why = {} if how.spacing else {"scaled_because": why_scaled(pictures, how.slice_axis, size)}
            found[stream.name] = _found(pictures) | why
    return Plan(size=size, context=context, streams=streams, found=found)


def read_plan(path: Path) -> Plan:
    """The plan in plan.json. Raises UserError for what is no plan and for numbers without sense, naming the key."""
    try:
        plan = Plan.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); delete it, and it is made again") from None
    except ValidationError as error:
        raise from_validation(error, str(path)) from None
    for name, preparation in plan.streams.items():
        if complaint := _senseless(preparation):
            raise UserError(f"{path}: streams.{name}: {complaint}")
    return plan


def _senseless(preparation: Preparation) -> str | None:
    if (preparation.mean is None) != (preparation.sd is None):
        return "'mean' and 'sd' go together: give both, or null for each volume's own"
    if preparation.sd is not None and preparation.sd <= 0:
        return f"'sd' is {preparation.sd:g}; it is above 0"
    if None not in (preparation.low, preparation.high) and preparation.low >= preparation.high:
        return f"'low' is {preparation.low:g} and 'high' {preparation.high:g}; low is below high"
    if preparation.spacing is not None and min(preparation.spacing) <= 0:
        return f"'spacing' is {list(preparation.spacing)}; it is in mm, above 0"
    return None


def write_plan(plan: Plan, path: Path) -> None:
    """Writes `plan` as JSON to be read and edited by people; written aside first, then renamed."""
    with aside(path) as beside:
        beside.write_text(json.dumps(plan.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")


def _preparation(
    pictures: Sequence[Measured], stream: Stream, size: tuple[int, int], spacing: tuple[float, float] | None
) -> Preparation:
    axis = slice_axis(pictures)
    window = _window(pictures) if stream.kind == "ct" else {}
    return Preparation(slice_axis=axis, spacing=spacing or fitting_spacing(pictures, axis, size), **window)


def slice_axis(pictures: Sequence[Measured]) -> int:
    """Of (D, H, W) the axis of clearly the largest median spacing; with spacing unknown, of clearly the fewest slices;
    else D."""
    volumes = [picture for picture in pictures if len(picture.shape) == 3]
    if not volumes:
        return 0
    spacings = [picture.spacing for picture in volumes if picture.spacing is not None]
    known = 2 * len(spacings) >= len(volumes)
    coarse = np.median(spacings, axis=0) if known else 1 / np.median([picture.shape for picture in volumes], axis=0)
    first, second = np.argsort(-coarse)[:2]
    return int(first) if coarse[first] >= CLEARLY * coarse[second] else 0


def fitting_spacing(pictures: Sequence[Measured], axis: int, size: tuple[int, int]) -> tuple[float, float] | None:
    """The mm at which the typical slice fits `size` (H, W), rows and columns alike.

    None where no spacing serves all, and each is scaled to fit; `why_scaled` says why.
    """
    if why_scaled(pictures, axis, size) is not None:
        return None
    unit = float(f"{np.median(_units(pictures, axis, size)):.4g}")
    return unit, unit


def why_scaled(pictures: Sequence[Measured], axis: int, size: tuple[int, int]) -> str | None:
    """Why no spacing serves all slices: few pictures tell theirs, or extents differ too much; None where one does."""
    units = _units(pictures, axis, size)
    if len(units) < KNOWN * len(pictures):
        return f"only {len(units)} of {len(pictures)} files say how large a pixel is"
    small, large = np.percentile(units, (10, 90))
    if large <= ALIKE * small:
        return None
    return f"files say how large a pixel is, but slices differ {large / small:.1f}-fold in extent"


def _units(pictures: Sequence[Measured], axis: int, size: tuple[int, int]) -> list[float]:
    """The mm at which the slices of each picture fit `size`, of those that tell their spacing."""
    known = [picture for picture in pictures if picture.spacing is not None]
    return [max(length / full for length, full in zip(_extent(picture, axis), size)) for picture in known]


def _extent(picture: Measured, axis: int) -> tuple[float, ...]:
    """mm from the first row to the last, and from the first column to the last; pixels where spacing is unknown."""
    spacing = picture.spacing or (1.0,) * len(picture.shape)
    lengths = [length * mm for length, mm in zip(picture.shape, spacing)]
    return tuple(lengths if len(lengths) == 2 else np.delete(lengths, axis))


def _window(pictures: Sequence[Measured]) -> dict[str, float]:
    """Ends, mean and deviation of annotated foreground in HU; none where no picture is in HU."""
    physical = [picture.foreground for picture in pictures if picture.physical]
    values = np.concatenate(physical) if physical else np.empty(0)
    if len(values) == 0:
        return {}
    low, high = np.percentile(values, (LOW, HIGH))
    inside = values.clip(low, high)
    window = {"low": low, "high": high, "mean": inside.mean(), "sd": max(inside.std(), 1.0)}
    return {key: round(float(value), 2) for key, value in window.items()}


def _found(pictures: Sequence[Measured]) -> dict[str, object]:
    """What was measured, for people."""
    spacings = [picture.spacing for picture in pictures if picture.spacing is not None]
    values = np.concatenate([picture.foreground for picture in pictures]) if pictures else np.empty(0)
    return {
        "pictures_measured": len(pictures),
        "median_shape": np.median(_in_space([p.shape for p in pictures]), axis=0).tolist(),
        "median_spacing_mm": np.round(np.median(_in_space(spacings), axis=0), 4).tolist() if spacings else None,
        "foreground_percentiles": {
            str(share): round(float(np.percentile(values, share)), 3) for share in (LOW, 50, HIGH) if len(values)
        },
        "share_of_pixels": _shares(pictures),
    }


def _in_space(lengths: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    """Those of as many axes as most have."""
    axes = [len(of_one) for of_one in lengths]
    return [of_one for of_one in lengths if len(of_one) == max(axes, key=axes.count)]


def _shares(pictures: Sequence[Measured]) -> dict[str, list[float]]:
    """Of each task, the share of pixels of each class, in the order of classes."""
    counts: dict[str, np.ndarray] = {}
    for picture in pictures:
        for task, of_one in picture.counts.items():
            counts[task] = counts.get(task, 0) + of_one
    return {task: np.round(count / max(count.sum(), 1), 5).tolist() for task, count in counts.items()}
