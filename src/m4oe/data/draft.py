"""A draft of a study for a table or a folder, with the reasons for every guess. Behind `m4oe init`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from m4oe.data.draft_folder import guess_folder
from m4oe.data.draft_table import guess_table
from m4oe.data.guess import Guess, render
from m4oe.errors import UserError


@dataclass(frozen=True)
class Draft:
    """A commented study, the table to be written beside it where there was none, and what was guessed and why."""

    study_yaml: str
    table_csv: str | None
    notes: list[str]


def draft_study(path: Path | str, out: Path | None = None) -> Draft:
    """The draft of a study for `path`: a CSV or Parquet table, an nnU-Net raw folder (or imagesTr beside labelsTr),
    or a MONAI/Decathlon datalist (a JSON file, or a folder with dataset.json).

    `out` is the study file that the draft will become; by default it lies beside the table, or in the folder. A table
    that comes with the draft is to be written beside it, under the name that the study gives it.
    Raises UserError where no picture or nothing to predict is found.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such table or folder")
    if path.is_dir() or path.suffix.lower() == ".json":
        guess, table = guess_folder(path)
    else:
        guess, table = guess_table(path), None
    if not guess.inputs:
        raise UserError(
            f"{path}: no column holds paths of pictures that exist, from the table's folder or one below it"
        )
    if not guess.tasks:
        raise UserError(
            f"{path}: nothing to predict: no column with few values, and no masks; {'; '.join(guess.notes)}"
        )
    if out is not None:
        _move(guess, path if path.is_dir() else path.parent, out.parent, table is None)
    return Draft(render(guess), table, guess.notes)


def write_draft(path: Path, out: Path) -> list[str]:
    """Writes the draft of a study for `path` as `out`, its table beside it where there is none yet; returns the notes.

    Raises UserError where `out`, or a table that would stand beside it, is there already.
    """
    draft = draft_study(path, out)
    files = {out: draft.study_yaml}
    if draft.table_csv is not None:
        files[out.parent / yaml.safe_load(draft.study_yaml)["table"]] = draft.table_csv
    for file in files:
        if file.exists():
            raise UserError(f"{file}: exists already; give another study file with -o")
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return draft.notes


def _move(guess: Guess, home: Path, to: Path, with_table: bool) -> None:
    """Makes the paths of a guess about `home` start at the folder `to`."""
    if home.resolve() != to.resolve():
        away = Path(os.path.relpath(home.resolve(), to.resolve()))
        guess.head["root"] = (away / guess.head.get("root", ".")).as_posix()
        guess.table = (away / guess.table).as_posix() if with_table else guess.table
