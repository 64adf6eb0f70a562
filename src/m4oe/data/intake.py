"""What `predict` is given -> cohorts: a study, a table, a folder of files, or files by name.

Inputs are those of the studies that the model was trained on; labels are read where they are there, never needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from m4oe.data.columns import read_table
from m4oe.data.described import (
    Paths,
    describing,
    fits,
    header_facts,
    of_one_side,
    pictures_of,
    scans_in,
    sole_keys,
    study_of_scan,
    words_of,
)
from m4oe.data.raw_mammograms import raw_exams
from m4oe.data.table import SIDES, Cohort, load_cohort
from m4oe.errors import UserError, unknown
from m4oe.study import Input, Study, load_study

TABLES = (".csv", ".parquet")
STUDIES = (".yaml", ".yml")


def cohorts_from(sources: Sequence[str], trained: Sequence[Study], *, any_modality: bool = False) -> list[Cohort]:
    """The exams in `sources`, described as in the studies `trained`.

    A .yaml is a study of its own; a .csv or .parquet has the columns of a trained study's table; a folder holds the
    files of one exam, or a folder for each exam, told apart by their names, DICOM mammograms by their headers too, or,
    where studies have one picture input, a picture for each exam; input=file, repeated, is one exam
    (input@modality=file where studies use one name for several modalities). any_modality: the model takes a picture of
    which nothing but its kind is known, so that in a folder of scans it need not be told.
    Raises UserError for a source that is none of these, and for a file that fits no input or two.
    """
    if not trained:
        raise UserError("the run holds no studies/: it cannot tell which column or file is which input")
    if all("=" in source for source in sources):
        return [_cohort_of_pairs(sources, trained)]
    cohorts = [cohort for source in sources for cohort in _cohorts_of(Path(source), trained, any_modality)]
    names = [cohort.study.name for cohort in cohorts]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"several of {', '.join(sources)} are described by study {twice!r}; give them one by one")
    return cohorts


def _cohort_of_pairs(sources: Sequence[str], trained: Sequence[Study]) -> Cohort:
    given = {name: path for name, _, path in (source.partition("=") for source in sources)}
    exam = {name.partition("@")[0]: (str(Path(path).absolute()),) for name, path in given.items()}
    return _cohort_of_files(describing(trained, given), {"exam": exam})


def _cohorts_of(source: Path, trained: Sequence[Study], any_modality: bool) -> list[Cohort]:
    if not source.exists():
        raise UserError(f"{source}: no such file or folder; give a table, a study, a folder, or input=file")
    if source.is_dir():
        return _cohorts_in(source, trained, any_modality)
    if source.suffix in STUDIES:
        return [load_cohort(load_study(source), need_labels=False)]
    if source.suffix not in TABLES:
        raise UserError(f"{source}: a single file is given with the name of its input: {_first(trained[0])}={source}")
    study = _study_of_table(source, trained)
    return [
        load_cohort(
            study.model_copy(update={"table": source.name, "root": ".", "folder": source.resolve().parent}),
            need_labels=False,
        )
    ]


def _study_of_table(source: Path, trained: Sequence[Study]) -> Study:
    """The trained study whose inputs have columns in the table. Raises UserError where several do, and differ."""
    header = set(read_table(source).header) if len(trained) > 1 else set()
    having = [study for study in trained if all({*one.paths, *one.columns} <= header for one in study.inputs.values())]
    if len(having) > 1 and len({str((study.inputs, study.tasks)) for study in having}) > 1:
        raise UserError(
            f"{source}: its columns are those of several studies ({', '.join(study.name for study in having)}); write "
            "a study for it, which says what its pictures are"
        )
    return (having or list(trained))[0]


def _first(study: Study) -> str:
    return next(name for name, source in study.inputs.items() if source.kind != "table")


def _cohorts_in(folder: Path, trained: Sequence[Study], any_modality: bool) -> list[Cohort]:
    """Of a folder; where studies have a single picture input each, its files are sorted by their modality."""
    keys = sole_keys(trained)
    if (keys is None or len(keys) == 1) and (raw := raw_exams(folder, trained[0])):
        return [_cohort_of_files(trained[0], raw)]
    if keys is None:
        return [_cohort_of_files(trained[0], _exams_in(folder, trained[0]))]
    sorted_: dict[str, tuple[Study, dict[str, dict[str, Paths]]]] = {}
    for exam, paths in scans_in(folder).items():
        study = study_of_scan(exam, paths, folder, trained, keys, any_modality=any_modality)
        ((name, source),) = pictures_of(study).items()
        sorted_.setdefault(f"{study.name} {source.modality}", (study, {}))[1][exam] = {name: paths}
    return [_cohort_of_files(study, exams) for study, exams in sorted_.values()]


def _exams_in(folder: Path, study: Study) -> dict[str, dict[str, Paths]]:
    """{exam: {input: file}} of a folder: its subfolders are exams, or it is one itself."""
    folders = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    own = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    if folders and own:
        raise UserError(f"{folder}: holds both files and folders; give a folder of files, or one of exams' folders")
    exams: dict[str, dict[str, Paths]] = {}
    for path in folders or [folder]:
        exams |= _matched(path, study)
    if not any(exams.values()):
        raise UserError(f"{folder}: no file in it is named like an input: {', '.join(pictures_of(study))}")
    return exams


def _matched(folder: Path, study: Study) -> dict[str, dict[str, Paths]]:
    """{exam: {input: file}}: the folder is one exam; FOLDER_left and FOLDER_right where it holds the DICOM mammograms
    of both sides, and an exam of the study is of one side, which its table tells."""
    facts = {path: header_facts(path) for path in sorted(folder.iterdir()) if not path.name.startswith(".")}
    parted = of_one_side(study) and {"left", "right"} <= {told.view.side for told in facts.values() if told is not None}
    found: dict[str, dict[str, Paths]] = {folder.name: {}}
    for path, told in facts.items():
        words = words_of(path.name) | (told.words if told is not None else set())
        names = [name for name, source in pictures_of(study).items() if fits(words, name, source)]
        exam = f"{folder.name}_{told.view.side}" if parted and told and told.view.side else folder.name
        given = found.setdefault(exam, {})
        if len(names) > 1:
            raise UserError(f"{path}: the name fits several inputs ({', '.join(names)}); name files after their input")
        if names and names[0] in given:
            raise UserError(f"{path} and {given[names[0]][0]}: two files for the input {names[0]!r} of one exam")
        given |= {name: (str(path.resolve()),) for name in names}
    return found


def _cohort_of_files(study: Study, exams: Mapping[str, Mapping[str, Paths]]) -> Cohort:
    """A cohort without a table: an exam for each name."""
    pictures = pictures_of(study)
    for given in exams.values():
        for name, paths in given.items():
            _check(pictures, name, paths)
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
    """Which side a picture shows, by the study or by a word of the file's name, else by its header. Raises UserError
    where none says: a picture mirrored by guess would be a silently wrong one."""
    if source.laterality is None:
        return None
    said = {SIDES[word] for word in (words_of(Path(path[0]).name) | {source.laterality.lower()}) & SIDES.keys()}
    if not said and (facts := header_facts(Path(path[0]))) is not None and facts.view.side is not None:
        return facts.view.side
    if len(said) != 1:
        raise UserError(f"{path[0]}: left or right? Write the side into the file's name, or give a table with it")
    return said.pop()


def _check(pictures: Mapping[str, Input], name: str, paths: Paths) -> None:
    if name not in pictures:
        raise unknown("input", name, pictures)
    if not isinstance(pictures[name].modality, str):
        raise UserError(f"input {name!r} has several modalities; give {name}@MODALITY=FILE, a table or a study for it")
    if missing := next((path for path in paths if not Path(path).exists()), None):
        raise UserError(f"{missing}: no such file (input {name!r})")
    channels = len(pictures[name].paths)
    if len(paths) not in (1, channels):
        raise UserError(
            f"{paths[0]}: {len(paths)} of the {channels} channels of input {name!r}; name files CASE_0000, CASE_0001, "
            "..., or give a table or a study for it"
        )


def _column(exams: Mapping[str, Mapping[str, Paths]], names: np.ndarray, name: str) -> np.ndarray:
    column = np.empty(len(names), dtype=object)
    for place, exam in enumerate(names):
        column[place] = exams[exam].get(name)
    return column


def _where(paths: np.ndarray, fact: Callable[[tuple[str, ...]], object]) -> np.ndarray:
    """(N,) `fact` of the paths of each exam's picture, None where there is none."""
    facts = np.full(len(paths), None, dtype=object)
    for place in np.flatnonzero(np.not_equal(paths, None)):
        facts[place] = fact(paths[place])
    return facts
