"""What `predict` is given -> cohorts: a study, a table, a folder of files, or files by name.

Inputs are those of the studies that the model was trained on; labels are read where they are there, never needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from m4oe.data.table import SIDES, Cohort, load_cohort
from m4oe.errors import UserError, unknown
from m4oe.study import Input, Study, load_study

TABLES = (".csv", ".parquet")
STUDIES = (".yaml", ".yml")


def cohorts_from(sources: Sequence[str], trained: Sequence[Study]) -> list[Cohort]:
    """The exams in `sources`, described as in the studies `trained`.

    A .yaml is a study of its own; a .csv or .parquet has the columns of the trained study's table; a folder holds the
    files of one exam, or a folder for each exam, told apart by their names; input=file, repeated, is one exam.
    Raises UserError for a source that is none of these, and for a file that fits no input or two.
    """
    if not trained:
        raise UserError("the run holds no studies/: it cannot tell which column or file is which input")
    if all("=" in source for source in sources):
        pairs = [source.partition("=") for source in sources]
        return [_cohort_of_files(trained[0], {"exam": {name: path for name, _, path in pairs}})]
    return [_cohort_of(Path(source), trained) for source in sources]


def _cohort_of(source: Path, trained: Sequence[Study]) -> Cohort:
    if not source.exists():
        raise UserError(f"{source}: no such file or folder; give a table, a study, a folder, or input=file")
    if source.is_dir():
        return _cohort_of_files(trained[0], _exams_in(source, trained[0]))
    if source.suffix in STUDIES:
        return load_cohort(load_study(source), need_labels=False)
    if source.suffix not in TABLES:
        raise UserError(f"{source}: a single file is given with the name of its input: {_first(trained[0])}={source}")
    folder = source.resolve().parent
    study = trained[0].model_copy(update={"table": source.name, "root": ".", "folder": folder})
    return load_cohort(study, need_labels=False)


def _first(study: Study) -> str:
    return next(name for name, source in study.inputs.items() if source.kind != "table")


def _exams_in(folder: Path, study: Study) -> dict[str, dict[str, str]]:
    """{exam: {input: file}} of a folder: its subfolders are exams, or it is one itself."""
    folders = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    own = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    if folders and own:
        raise UserError(f"{folder}: holds both files and folders; give a folder of files, or one of exams' folders")
    exams = {path.name: _matched(path, study) for path in folders or [folder]}
    if not any(exams.values()):
        raise UserError(f"{folder}: no file in it is named like an input: {', '.join(_pictures(study))}")
    return exams


def _matched(folder: Path, study: Study) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        names = [name for name, source in _pictures(study).items() if _fits(path.name, name, source)]
        if len(names) > 1:
            raise UserError(f"{path}: the name fits several inputs ({', '.join(names)}); name files after their input")
        if names and names[0] in found:
            raise UserError(f"{path} and {found[names[0]]}: two files for the input {names[0]!r} of one exam")
        found |= {name: str(path.resolve()) for name in names}
    return found


def _fits(file: str, name: str, source: Input) -> bool:
    """Whether all words of the input's name, or else all values of its `where`, are words of the file's name."""
    words = _words(file)
    told = [str(value) for value in source.where.values()]
    return _words(name) <= words or (bool(told) and all(_words(value) <= words for value in told))


def _words(text: str) -> set[str]:
    return {word for word in re.split(r"[^a-z0-9]+", text.lower()) if word}


def _pictures(study: Study) -> Mapping[str, Input]:
    return {name: source for name, source in study.inputs.items() if source.kind != "table"}


def _cohort_of_files(study: Study, exams: Mapping[str, Mapping[str, str]]) -> Cohort:
    """A cohort without a table: an exam for each name."""
    pictures = _pictures(study)
    for given in exams.values():
        for name, path in given.items():
            _check(pictures, name, path)
    names = np.array([exam for exam, given in exams.items() if given], dtype=object)
    paths = {name: _column(exams, names, name) for name in pictures}
    tables = {name: source for name, source in study.inputs.items() if source.kind == "table"}
    modalities = {name: _where(paths[name], lambda path, s=source: s.modality) for name, source in pictures.items()}
    return Cohort(
        study=study.model_copy(update={"table": "files"}),
        exams=names,
        patients=names,
        rows=np.arange(len(names)) + 1,
        paths=paths,
        modalities=modalities | {name: np.full(len(names), None, dtype=object) for name in tables},
        variables={name: pd.DataFrame("", range(len(names)), source.columns) for name, source in tables.items()},
        labels={},
        groups={},
        sides={name: _where(paths[name], lambda path, s=source: _side(s, path)) for name, source in pictures.items()},
    )


def _side(source: Input, path: tuple[str, ...]) -> str | None:
    """Which side a picture shows, by the study or by a word of the file's name. Raises UserError where neither says:
    a picture mirrored by guess would be a silently wrong one."""
    if source.laterality is None:
        return None
    said = {SIDES[word] for word in (_words(Path(path[0]).name) | {source.laterality.lower()}) & SIDES.keys()}
    if len(said) != 1:
        raise UserError(f"{path[0]}: left or right? Write the side into the file's name, or give a table with it")
    return said.pop()


def _check(pictures: Mapping[str, Input], name: str, path: str) -> None:
    if name not in pictures:
        raise unknown("input", name, pictures)
    if len(pictures[name].paths) > 1 or not isinstance(pictures[name].modality, str):
        raise UserError(f"input {name!r} has several channels or modalities; give a table or a study for it")
    if not Path(path).exists():
        raise UserError(f"{path}: no such file (input {name!r})")


def _column(exams: Mapping[str, Mapping[str, str]], names: np.ndarray, name: str) -> np.ndarray:
    column = np.empty(len(names), dtype=object)
    for place, exam in enumerate(names):
        path = exams[exam].get(name)
        column[place] = None if path is None else (str(Path(path).resolve()),)
    return column


def _where(paths: np.ndarray, fact: Callable[[tuple[str, ...]], object]) -> np.ndarray:
    """(N,) `fact` of the paths of each exam's picture, None where there is none."""
    facts = np.full(len(paths), None, dtype=object)
    for place in np.flatnonzero(np.not_equal(paths, None)):
        facts[place] = fact(paths[place])
    return facts
