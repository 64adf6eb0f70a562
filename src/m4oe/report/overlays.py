"""The section of single cases of a segmenter: picture, truth and prediction side by side, in the colours of classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from m4oe.errors import UserError
from m4oe.masks.colours import colour_of
from m4oe.report.examples import Case, View, cases_of, view_of
from m4oe.report.folder import RunFolder
from m4oe.report.pictures import photo_uri, size_of, window
from m4oe.report.population import Population
from m4oe.report.sections import Section
from m4oe.report.words import MISSING, number, title
from m4oe.schema import TaskSpec

LONGEST = 320
FILL = 0.35  # opacity of a class within its outline
DIMMED = 0.35  # light that is left where nothing counts


@dataclass(frozen=True)
class Shown:
    """A case on the page: `shots` are (name, data URI); `scores` (class, Dice or None, as written, what was odd)."""

    case: Case
    dice: str
    scores: tuple[tuple[str, float | None, str, str], ...]
    shots: tuple[tuple[str, str], ...]
    note: str


def cases_section(run: RunFolder, population: Population, see: Callable[[View], None]) -> Section:
    """Best, median and worst case of each task; `see` is given each slice while its picture is in memory."""
    heading = "Best, median and worst cases"
    if run.cases is None:
        return Section("cases", heading, missing="No cases.csv: 'm4oe evaluate' makes it.")
    blocks = [
        {"task": title(task.name), "legend": legend(task), "cases": shown}
        for task in run.tasks
        if (shown := [_shown(run, case, population, see) for case in cases_of(run, task)])
    ]
    missing = "" if blocks else "No exam of this split has a true mask."
    return Section("cases", heading, blocks, missing)


def legend(task: TaskSpec) -> list[tuple[str, str]]:
    """(class, colour) of the foreground."""
    return [(name, "#{:02x}{:02x}{:02x}".format(*colour_of(name))) for name in task.classes[1:]]


def _shown(run: RunFolder, case: Case, population: Population, see: Callable[[View], None]) -> Shown:
    scores = tuple(_scores(case))
    try:
        if case.study not in population.cohorts:
            raise UserError(f"the table of study {case.study} is not there")
        view = view_of(run, case, population.cohorts[case.study])
        see(view)
        shots, note = tuple(draw(view, case.task)), _where(view)
    except (UserError, OSError) as error:
        shots, note = (), f"Not drawn: {error}"
    return Shown(case, number(case.dice), scores, shots, note)


def _scores(case: Case) -> Iterator[tuple[str, float | None, str, str]]:
    for row in case.rows.to_dict("records"):
        known = row["dice"] == row["dice"]
        odd = row["outcome"] if row["outcome"] != "scored" else ""
        yield row["class"], row["dice"] if known else None, number(row["dice"]) if known else MISSING, odd


def _where(view: View) -> str:
    if view.way.slices == 1:
        return ""
    return f"Slice {view.number + 1} of {view.way.slices}, {view.why}."


def draw(view: View, task: TaskSpec) -> Iterator[tuple[str, str]]:
    """(name, data URI) of the picture, of the truth and of the prediction on it, as far as these are known."""
    grey = shown_pixels(view)
    yield "Image", photo_uri(grey)
    colours = np.array([(0, 0, 0), *(colour_of(name) for name in task.classes[1:])], np.float32)
    for name, stack in (("Truth", view.truth), ("Prediction", view.prediction)):
        if stack is not None:
            yield name, photo_uri(overlaid(grey, enlarged(view.plane(stack), grey.shape), colours))


def shown_pixels(view: View) -> ndarray:
    """(h, w, 3) of 0 to 255, in true proportion; grey within the plan's window where that is in units."""
    from PIL import Image

    ends, told = (view.preparation.low, view.preparation.high), view.picture.full_scale is None
    grey = window(view.pixels, ends if told and None not in ends else None)  # type: ignore[arg-type]
    size = size_of(grey.shape[:2], view.spacing, LONGEST)
    return np.asarray(Image.fromarray(grey).convert("RGB").resize(size, Image.Resampling.LANCZOS))


def enlarged(mask: ndarray, shape: tuple[int, ...]) -> ndarray:
    """Labels (H, W) as (h, w) int32, of `shape`'s first two, each that of the nearest pixel."""
    from PIL import Image

    plane = Image.fromarray(np.ascontiguousarray(mask, np.int32))
    return np.asarray(plane.resize((shape[1], shape[0]), Image.Resampling.NEAREST))


def overlaid(pixels: ndarray, mask: ndarray, colours: ndarray) -> ndarray:
    """pixels (h, w, 3) with the classes of mask (h, w) filled faintly and outlined; dark where it is below 0."""
    inside, counted = mask > 0, mask >= 0
    shown = pixels * np.where(counted, 1.0, DIMMED)[..., None]
    around = np.pad(mask, 1, mode="edge")
    edge = np.zeros_like(inside)
    for other in (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]):
        edge |= inside & (other != mask)
    opacity = np.where(edge, 1.0, FILL * inside)[..., None]
    return (shown * (1 - opacity) + colours[np.maximum(mask, 0)] * opacity).round().astype(np.uint8)
