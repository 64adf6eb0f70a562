"""The page: sections in order, through one template, into one file that needs nothing else."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from m4oe import __version__
from m4oe.artifact import write_text
from m4oe.report.analyses import analyses_section
from m4oe.report.cards import make_cards
from m4oe.report.explanations import contributions_section, experts_section
from m4oe.report.folder import RunFolder, read_run
from m4oe.report.gates import GateMaps, gate_section
from m4oe.report.graphs import figures_section, learning_section
from m4oe.report.outcomes import Outcome, outcome
from m4oe.report.overlays import cases_section
from m4oe.report.plans import growth_section, plan_section
from m4oe.report.population import Population, read_population
from m4oe.report.sections import Section, data_section, identity, metrics_section, summaries
from m4oe.report.words import MEASURES


def write_report(run: Path) -> Path:
    """Writes `report.html` into the run folder, whole or not at all, and returns its path.

    It reads the run's files and, for the patient cards, the pictures that its studies name. What is absent is named
    on the page with the command that makes it. Raises UserError for a folder that is no run, or a damaged file.
    """
    path = Path(run) / "report.html"
    write_text(path, render(read_run(Path(run))))
    return path


def render(run: RunFolder) -> str:
    """The page as HTML."""
    population = read_population(run)
    predicted = [task for task in run.tasks if task.kind != "segmentation"]
    outcomes = [] if run.predictions is None else [outcome(run.predictions, task, run.split) for task in predicted]
    outcomes = [known for known in outcomes if len(known)]
    sections = [
        data_section(run, population),
        *(_of_slices(run, population) if run.segmenter else _of_exams(run, population, outcomes)),
        learning_section(run),
        Section("method", "Method and limits", _method(run)),
    ]
    return _template().render(
        names=", ".join(value for name, value in identity(run)[:1]), facts=identity(run), run=run, sections=sections,
        summaries=summaries(run, outcomes), date=datetime.date.today().isoformat(), version=_version(run),
        style=Markup((Path(__file__).parent / "report.css").read_text(encoding="utf-8")),
    )  # fmt: skip


def _of_exams(run: RunFolder, population: Population, outcomes: Sequence[Outcome]) -> list[Section]:
    """What a classifier is asked: its answers, and what they rest on."""
    missing = "" if run.predictions is not None else "No predictions.csv: 'm4oe evaluate' makes it."
    return [
        metrics_section(run),
        figures_section(run, outcomes),
        contributions_section(run),
        analyses_section(run),
        Section("cards", "Patient cards", make_cards(run, population, outcomes), missing),
        experts_section(run),
    ]


def _of_slices(run: RunFolder, population: Population) -> list[Section]:
    """What a segmenter is asked: its masks, and how it made them."""
    maps = GateMaps(run)
    cases = cases_section(run, population, maps.see)
    parts = [plan_section(run), metrics_section(run), figures_section(run, ()), cases, gate_section(run, maps)]
    return [*parts, *filter(None, [growth_section(run)])]


def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html")


def _version(run: RunFolder) -> str:
    made = run.facts.get("m4oe", __version__)
    return str(made) if made == __version__ else f"{made} (report by {__version__})"


def _method(run: RunFolder) -> dict[str, Any]:
    """Seeds, splits, and the meaning of the measures on this page."""
    used = {name for task in (run.metrics or {}).get(run.split or "", {}).values() for name in task}
    train = run.config.get("train", {})
    return {
        "seed": train.get("seed"),
        "split_seeds": [(study.name, study.split.seed) for study in run.studies if study.split.column is None],
        "folds": next((study.split.folds for study in run.studies if study.split.folds), None),
        "measures": [measure for name, measure in MEASURES.items() if name in used],
    }
