"""What importing costs: the mixture brings no framework, and the command line answers at once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HELP = "import sys; sys.argv = ['m4oe', '--help']; from m4oe.cli import main; main()"
HEAVY = ("torch", "numpy", "pandas", "scipy", "sklearn", "pydantic", "monai", "lightning", "transformers", "matplotlib")
ANSWERS_IN = 0.4  # seconds, on a machine that starts a bare interpreter in QUICK_START
QUICK_START = 0.05


def modules_after(statement: str) -> set[str]:
    """Top-level modules in memory after `statement` has run in a new interpreter."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def seconds(code: str) -> float:
    before = os.times()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import m4oe", HEAVY),
        ("import m4oe.cli", HEAVY),
        ("import m4oe.study, m4oe.schema, m4oe.config", ("torch", "numpy", "pandas", "monai", "lightning")),
        ("import m4oe.moe", ("lightning", "monai", "transformers", "pydantic", "pandas", "sklearn")),
        ("import m4oe.predict", ("lightning", "matplotlib")),
    ],
)
def test_an_import_brings_no_more_than_it_needs(statement, absent):
    assert modules_after(statement) & set(absent) == set()


def test_the_probe_sees_what_is_imported():
    assert {"torch", "numpy"} <= modules_after("import torch")


def test_help_answers_at_once():
    """Processor time, best of five: a busy machine makes it wait, which is not ours. A slow one gets its share more."""
    bare, answer = (min(seconds(code) for _ in range(5)) for code in ("pass", HELP))
    assert answer < ANSWERS_IN * max(1.0, bare / QUICK_START)
