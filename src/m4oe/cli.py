"""The command: its verbs. No logic; everything heavy is imported inside the verbs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from m4oe.errors import UserError
from m4oe.terminal import (
    end_comparison,
    end_with,
    end_with_problems,
    has_progress,
    print_findings,
    print_json,
    print_metrics,
    print_prepared,
    progress_bar,
    say,
    teller,
)

app = typer.Typer(
    help="Multi-modal, multi-task medical imaging with mixtures of experts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Out = Annotated[Path, typer.Option("-o", "--out", help="Where the result goes.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors alone.")]
ConfigFile = Annotated[Path | None, typer.Option("-c", "--config", help="Model and training, as YAML.")]


@app.command()
def demo(
    cohort: Annotated[str, typer.Argument(help="breast, retina or segmentation.")] = "breast",
    out: Out = Path("m4oe-demo"),
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """See all of it in two minutes: a phantom cohort, written as files, trained on, questioned, reported."""
    from m4oe.demo import run_demo

    report = run_demo(cohort, out, device, progress=has_progress(quiet), tell=teller(quiet))
    teller(quiet)(f"report: {report}")


@app.command()
def init(
    source: Annotated[Path, typer.Argument(help="A table, an nnU-Net raw folder, or a Decathlon datalist.")],
    out: Out = Path("study.yaml"),
    quiet: Quiet = False,
) -> None:
    """Look at a table or folder and write a commented study, saying what was guessed and why."""
    from m4oe.data.draft import write_draft

    tell = teller(quiet)
    for note in write_draft(source, out):
        tell(f"- {note}")
    tell(f"wrote {out}; read it, correct it, then: m4oe check {out}")


@app.command()
def check(studies: Annotated[list[Path], typer.Argument(help="Study files.")], as_json: Json = False) -> None:
    """Read every file of the studies and tell what would spoil training (exit code 2) or is worth knowing."""
    from m4oe.data.check import check_studies
    from m4oe.study import load_study

    findings = check_studies([load_study(path) for path in studies])
    print_json(findings.to_json()) if as_json else print_findings(findings)
    if findings.spoils_training:
        raise typer.Exit(2)


@app.command()
def prepare(
    source: Annotated[str, typer.Argument(help="embed, rsna, vindr, gamma, flare22, amos22 or atlas23.")],
    raw: Annotated[Path, typer.Argument(help="The release as it was downloaded, unpacked.")],
    out: Annotated[Path, typer.Argument(help="A folder for the studies; pictures stay where they are.")],
    part: Annotated[
        str | None, typer.Option("--part", help="i/n: one of n parts, each on a machine of its own.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn a published data set, in the layout of its release, into ordinary studies. Resumes; see docs/sources.md."""
    from m4oe.data.sources import prepare as prepare_source

    with progress_bar("reading pictures", has_progress(quiet)) as progress:
        prepared = prepare_source(source, raw, out, part=part, progress=progress)
    if as_json:
        print_json(prepared.to_json())
    elif not quiet:
        print_prepared(prepared)
    end_with_problems(prepared.problem_lines, out / "problems.csv")


@app.command()
def train(
    studies: Annotated[list[str], typer.Argument(help="Study files, then overrides such as train.max_epochs=20.")],
    out: Out = Path("run"),
    config: ConfigFile = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Train on the studies; predictions, metrics and contributions of the test split are part of it. Resumes."""
    from m4oe.config import load_config
    from m4oe.device import keep_memory, resolve_device
    from m4oe.runs import train_run

    paths, overrides = _parted(studies)
    chosen, place = load_config(config, overrides), resolve_device(device)
    if place.type == "cpu":
        keep_memory()
    train_run(paths, chosen, out, place, progress=has_progress(quiet), tell=teller(quiet))
    if not quiet:
        print_metrics(json.loads((out / "metrics.json").read_text()), "test")
        say(f"next: m4oe report {out}")


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A trained run.")],
    studies: Annotated[list[Path] | None, typer.Argument(help="Other studies; default: the run's own.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Where the result goes; default: RUN.")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Metrics with 95 % intervals over patients: of the run's own splits, or of other studies as a whole."""
    from m4oe.analyses import analyse_run
    from m4oe.device import resolve_device
    from m4oe.runs import evaluate_run

    found = evaluate_run(run, studies or [], out, resolve_device(device))
    if not studies:
        analyse_run(run, resolve_device(device), out, tell=teller(as_json))
    if as_json:
        print_json(found.metrics)
    for split in found.splits if not as_json else ():
        print_metrics(found.metrics, split)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr if as_json else sys.stdout)
    end_with(found.failed, done=bool(found.splits), why=found.unscored)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="A trained run.")],
    source: Annotated[list[str], typer.Option("-i", "--input", help="Table, study, folder, or input=file (repeat).")],
    out: Out = Path("predictions"),
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Probabilities with contributions, and masks on the input's own grid. A bad exam is named and skipped."""
    from m4oe.device import resolve_device
    from m4oe.runs import predict_run

    result = predict_run(run, source, out, resolve_device(device))
    if as_json:
        facts = {"exams": result.exams, "failed": result.failed, "notes": result.notes, "withheld": result.withheld}
        print_json({**facts, "out": str(out)})
    tell = teller(quiet or as_json)
    if result.written is not None:
        tell(f"{result.exams} exams predicted; {result.written}")
    for note in result.notes:
        tell(f"note: {note}")
    end_with(result.failed, done=result.written is not None)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run.")], quiet: Quiet = False) -> None:
    """Write report.html, one self-contained page, into the run."""
    from m4oe.report import write_report

    teller(quiet)(f"report: {write_report(run)}")


@app.command()
def compare(
    sources: Annotated[list[str], typer.Argument(help="Study files, or runs; then key=value, as in seeds=[0,1].")],
    out: Out = Path("comparison"),
    config: Annotated[Path | None, typer.Option("-c", "--config", help="The comparison, as YAML.")] = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Baselines and ablations on the same splits, or finished runs beside each other: tables with tests. Resumes."""
    from m4oe.compare import compare_runs, compare_studies, load_comparison
    from m4oe.device import resolve_device

    paths, words = _parted(sources)
    comparison, chosen = load_comparison(config, words), str(resolve_device(device))
    if runs := [path for path in paths if path.is_dir()]:
        if others := [path for path in paths if path not in runs]:
            raise UserError(f"{others[0]}: compare takes study files or run folders, not both")
        content = compare_runs(runs, comparison, out)
    else:
        content = compare_studies(paths, comparison, out, chosen, tell=teller(quiet))
    end_comparison(content, out, quiet)


@app.command()
def export(
    sources: Annotated[list[Path], typer.Argument(help="A run, or study files.")],
    out: Out = Path("nnUNet_raw"),
    quiet: Quiet = False,
) -> None:
    """Write volumes, masks and folds as nnU-Net reads them, so that it can be trained on the same exams."""
    from m4oe.runs import export_nnunet

    with progress_bar("writing cases", has_progress(quiet)) as progress:
        exported = export_nnunet(sources, out, progress)
    for one in exported:
        left_out = f"; {one.without_mask} without a mask left out" if one.without_mask else ""
        teller(quiet)(f"{one.folder}: {one.training} cases to learn from, {one.test} to be tested on{left_out}")
    teller(quiet)("next: docs/segmentation.md tells where splits_final.json belongs before nnUNetv2_train")


@app.command()
def info(
    source: Annotated[
        list[str], typer.Argument(help="A run, or study files with overrides such as model.preset=base.")
    ],
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Size and cost of a model: parameters, those that work on one exam, FLOPs of one exam."""
    from m4oe.config import load_config
    from m4oe.runs import describe_model

    paths, overrides = _parted(source)
    facts = describe_model(paths, load_config(config, overrides))
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        say(f"{name:<28}{value:,}" if isinstance(value, int | float) else f"{name:<28}{value}")


def main() -> None:
    """The `m4oe` command: 0 when all was done, 1 when some exams failed, 2 for a user's mistake."""
    # Threads that spin while they wait slow training twentyfold on a machine whose cores are shared; set before torch.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as end:  # typer's way to end, an interruption included
        if end.code == 130:
            print("stopped; the same command goes on from its last record", file=sys.stderr)
        raise


def _parted(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Paths, and overrides of the form path=value."""
    overrides = [word for word in words if "=" in word and not Path(word).exists()]
    return [Path(word) for word in words if word not in overrides], overrides
