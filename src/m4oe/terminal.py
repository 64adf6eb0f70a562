"""What a person sees in a terminal: tables, progress, and how a command ends. Rich is imported where it draws."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from m4oe.errors import UserError

if TYPE_CHECKING:
    from m4oe.data.check import Findings
    from m4oe.data.sources import Prepared

MOST_PROBLEMS = 20  # shown one by one


def has_progress(quiet: bool) -> bool:
    return not quiet and sys.stderr.isatty()


@contextmanager
def progress_bar(title: str, shown: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr with an estimate of the time left, as progress(done, all); None where it is not shown."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    if not shown:
        yield None
        return
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def teller(quiet: bool) -> Any:
    return (lambda text: None) if quiet else say


def say(text: str) -> None:
    print(text, flush=True)


def print_json(content: object) -> None:
    print(json.dumps(content, indent=1))


def print_metrics(metrics: dict[str, Any], split: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("task", "metric", "value", "95 % interval", "n", title=f"{split} split", title_justify="left")
    for task, values in metrics.get(split, {}).items():
        for number, (name, m) in enumerate(values.items()):
            interval = f"{m['low']:.3f} to {m['high']:.3f}" if m.get("low") is not None else ""
            table.add_row("" if number else task, name, f"{m['value']:.3f}", interval, str(m["n"]))
    Console().print(table)


def end_with(failed: Mapping[str, str], *, done: bool, why: str = "") -> None:
    """Names the exams that failed and ends with 1 where others are done, with 2 where none is: `why`, if told."""
    for exam, reason in failed.items():
        print(f"failed: {exam}: {reason}", file=sys.stderr)
    if failed and not done:
        raise UserError(why or "nothing came of any exam; the reasons stand above")
    if failed:
        raise typer.Exit(1)


def end_with_problems(lines: Sequence[str], file: Path) -> None:
    """Shows the first of the problems that `file` holds, and ends with 1 where there are any."""
    for line in lines[:MOST_PROBLEMS]:
        print(f"failed: {line}", file=sys.stderr)
    if len(lines) > MOST_PROBLEMS:
        print(f"and {len(lines) - MOST_PROBLEMS} more: {file}", file=sys.stderr)
    if lines:
        raise typer.Exit(1)


def end_comparison(content: dict[str, Any], out: Path, quiet: bool) -> None:
    for sentence in content["reading"] if not quiet else ():
        say(f"- {sentence}")
    teller(quiet)(f"comparison: {out / 'comparison.html'}")
    failed = {name: row["failed"] for name, row in content["variants"].items() if row["failed"]}
    for name, reason in failed.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    if failed:
        raise typer.Exit(1)


def print_prepared(prepared: Prepared) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "found", "published", title="the release", title_justify="left")
    for what, found, published in prepared.counts:
        table.add_row(what, f"{found:,}", "" if published is None else f"{published:,}")
    Console().print(table)
    for what, count in prepared.left_out.items():
        say(f"left out: {count:,} {what}")
    for note in prepared.notes:
        say(f"note: {note}")
    for difference in prepared.differing:
        say(f"warning: {difference}")
    if prepared.waiting:
        say(f"{prepared.waiting:,} pictures wait for other parts; the last part to end writes the studies")
    for path in prepared.studies:
        say(f"next: m4oe check {path}")


def print_findings(findings: Findings) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for title, header, rows in findings.tables:
        table = Table(*header, title=title, title_justify="left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for problem in findings.problems:
        console.print(f"{problem.severity}: {problem}", markup=False, highlight=False, soft_wrap=True)
    console.print("nothing stands in the way of training" if not findings.spoils_training else "fix the errors above")
