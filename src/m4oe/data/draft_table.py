"""Guesses about the columns of a table: pictures, masks, labels, variables, ids. U: distinct texts of a column."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np

from m4oe.data.columns import Cells, Table, number, read_table
from m4oe.data.guess import Guess, kind_of, mask_values, safe_name
from m4oe.data.splits import DECLARED

SUFFIXES = r"\.(png|jpe?g|tiff?|bmp|npy|npz|nii|nii\.gz|dcm|dicom|ima)$"
MOST_CLASSES = 10
SAMPLE = 200
SIDES = {"l": "left", "left": "left", "r": "right", "right": "right", "os": "left", "od": "right"}
VIEWS = ("cc", "mlo", "ml", "lm", "ap", "pa", "lateral")
EMPTY_WORDS = {"image", "img", "images", "path", "file", "filename", "filepath", "picture", "name", "fn"}
MASK = r"mask|seg|annot|contour"
PATIENT = r"patient|subject|person|(^|[\W_])pid($|[\W_])"
ID = rf"{PATIENT}|(^|[\W_])(id|uid|case|exam|study|accession|key|mrn)($|[\W_])"
VARIABLE = r"(^|[\W_])(age|sex|gender|bmi|weight|height|race|ethnicity|smok\w*|menopaus\w*)([\W_](years|at\w*))?$"
GROUP = r"site|cent(er|re)|hospital|scanner|vendor|manufacturer|institution"
TIME, EVENT = r"(^|[\W_])(years?|time|follow_?up\w*)($|[\W_])", r"event|status|death|died|progress|recur"
NEGATIVE = {"no", "n", "false", "0", "normal", "negative", "neg", "benign", "b", "absent", "control", "healthy", "none"}
SCALES = (
    ("F", "G", "D"),
    ("I", "II", "III", "IV", "V"),
    ("low", "medium", "high"),
    ("low", "intermediate", "high"),
    ("none", "mild", "moderate", "severe"),
    ("normal", "mild", "moderate", "severe"),
    ("small", "medium", "large"),
)


@dataclass(frozen=True)
class Column:
    """A column and its distinct texts (U,), the empty one left out."""

    name: str
    cells: Cells
    values: list[str]
    filled: int

    def says(self, pattern: str) -> bool:
        return re.search(pattern, self.name, re.IGNORECASE) is not None

    @property
    def tokens(self) -> list[str]:
        return [token for token in re.split(r"[\W_]+", self.name.lower()) if token]

    @property
    def side(self) -> str | None:
        return next((SIDES[token] for token in self.tokens if token in SIDES), None)

    @property
    def flags(self) -> bool:
        return set(self.values) == {"0", "1"}


def guess_table(path: Path) -> Guess:
    """The guess about the table `path`."""
    table = read_table(path)
    columns = [_column(table, name) for name in table.columns]
    guess = Guess(safe_name(path.parent.resolve().name or path.stem), path.name)
    rest = _pictures(guess, table, columns)
    rest = _identity(guess, table, _facts(guess, rest))
    _tasks(guess, _survival(guess, _worth(guess, rest)))
    return guess


def _column(table: Table, name: str) -> Column:
    cells = table.cells(name)
    return Column(name, cells, [text for text in cells.texts if text], int(table.filled(name).sum()))


def _pictures(guess: Guess, table: Table, columns: Sequence[Column]) -> list[Column]:
    """Adds inputs and masks; the columns that are neither come back."""
    paths = [column for column in columns if _looks_like_paths(column)]
    root = _root(table.path.parent, paths)
    found = {column.name: _existing(root, column) for column in paths}
    paths = [column for column in paths if found[column.name]]
    if root != table.path.parent and paths:
        guess.add("head", "root", root.name, "the files are in this folder")
    lost = sum(not (root / text).exists() for column in paths for text in column.values)
    if lost:
        guess.add("head", "missing_files", "absent", f"{lost} files that the table names are not there")
    masks = [column for column in paths if _is_mask(column, [root / text for text in found[column.name]])]
    pictures = [column for column in paths if column not in masks]
    for column in pictures:
        _add_input(guess, column, [*found[column.name][:1], table.path.parent.resolve().name])
    for column in masks if pictures else []:
        _add_mask(guess, column, pictures, [root / text for text in found[column.name]])
    return [column for column in columns if column not in paths]


def _looks_like_paths(column: Column) -> bool:
    sample = column.values[:SAMPLE]
    return (
        bool(sample) and sum(re.search(SUFFIXES, text, re.IGNORECASE) is not None for text in sample) > len(sample) / 2
    )


def _root(folder: Path, columns: Sequence[Column]) -> Path:
    """The table's folder or one right below it, whichever has most of the files."""
    folders = [folder, *sorted(child for child in folder.iterdir() if child.is_dir())]
    return max(folders, key=lambda root: sum(len(_existing(root, column)) for column in columns))


def _existing(root: Path, column: Column) -> list[str]:
    return [text for text in column.values[:SAMPLE] if (root / text).exists()]


def _is_mask(column: Column, paths: Sequence[Path]) -> bool:
    """By its name or by its pixels: few whole numbers in each of three pictures."""
    most = 32 if column.says(MASK) else 6
    counts = [mask_values(path) for path in paths[:3]]
    return all(values is not None and len(values) <= most for values in counts)


def _add_input(guess: Guess, column: Column, clues: Sequence[str]) -> None:
    kind = kind_of(column.name, *clues)
    view = [token for token in column.tokens if token in VIEWS]
    words = [token for token in column.tokens if token not in {*EMPTY_WORDS, *VIEWS, *SIDES} and not token.isdigit()]
    name = (
        safe_name("_".join([*([column.side] if column.side else words), *view])) if column.side or view or words else ""
    )
    name = name if name and name not in guess.inputs else safe_name(column.name)
    entry = {"column": column.name, "modality": safe_name("_".join(words) or kind), "kind": kind}
    if kind == "mammogram" and column.side:
        entry["laterality"] = column.side
    reason = "its name says nothing of its kind" if kind == "other" else f"its name or its files' speak of {kind}"
    guess.add("inputs", name, entry, f"column {column.name!r} holds files that exist; {reason}")


def _add_mask(guess: Guess, column: Column, pictures: Sequence[Column], paths: Sequence[Path]) -> None:
    values = sorted({value for path in paths[:8] for value in mask_values(path) or []})
    shared = [len({*column.tokens} & {*picture.tokens}) for picture in pictures]
    inputs = {entry["column"]: name for name, entry in guess.inputs.items() if "column" in entry}
    on = inputs[pictures[int(np.argmax(shared))].name]
    classes = {value: "background" if value == 0 else f"class_{value}" for value in values}
    entry = {"kind": "segmentation", "column": column.name, "on": on, "classes": classes}
    guess.add("tasks", _task_name(guess, column.name), entry, "pictures of few values are masks; name the classes")


def _identity(guess: Guess, table: Table, columns: Sequence[Column]) -> list[Column]:
    """Adds exam and patient: an id that never repeats is the exam's, one that does is the patient's."""
    rows = len(table.lines)
    ids = [column for column in columns if column.says(ID) and column.filled == rows and len(column.values) > rows / 20]
    unique = [column for column in ids if len(column.values) == rows]
    repeated = [column for column in ids if len(column.values) < rows]
    if unique:
        guess.add("head", "exam", unique[0].name, "an id that never repeats")
    patient = next((column for column in [*repeated, *ids] if column.says(PATIENT)), (repeated or unique or [None])[0])
    if patient is not None:
        often = (
            "repeats: a patient has several exams" if patient in repeated else "never repeats: a patient has one exam"
        )
        guess.add("head", "patient", patient.name, f"an id that {often}")
    else:
        guess.notes.append("patient: no column looks like a patient's id, so every row is taken for a patient")
    return [column for column in columns if column not in ids]


def _facts(guess: Guess, columns: Sequence[Column]) -> list[Column]:
    """Adds plain variables, groups and a declared split."""
    variables = [column for column in columns if column.says(VARIABLE) and len(column.values) > 1]
    groups = [column for column in columns if column.says(GROUP) and 1 < len(column.values) <= 50]
    splits = [column for column in columns if column.values and {text.lower() for text in column.values} <= {*DECLARED}]
    if variables:
        entry = {"columns": [column.name for column in variables], "modality": "clinical", "kind": "table"}
        guess.add("inputs", "clinical", entry, "plain variables by their names; remove it to learn from pictures alone")
    if splits:
        guess.add("tail", "split", {"column": splits[0].name}, "its values name splits")
    else:
        guess.tail["split"] = {"seed": 0, "fractions": [0.7, 0.15, 0.15]}
    if groups:
        names = ", ".join(column.name for column in groups)
        guess.hints.append(f"groups: [{names}]  to report metrics for each of these separately")
    taken = [*variables, *groups, *splits[:1]]
    return [column for column in columns if column not in taken]


def _worth(guess: Guess, columns: Sequence[Column]) -> list[Column]:
    """Columns that could be labels; why the others could not becomes a note."""
    kept: list[Column] = []
    for column in columns:
        twin = next((other for other in kept if _same(other, column)), None)
        pictured = [entry["column"] for entry in guess.inputs.values() if "column" in entry]
        if len(column.values) < 2:
            guess.notes.append(f"column {column.name!r} is left out: it holds one value")
        elif any(column.name.lower().startswith(str(name).lower()) for name in pictured):
            guess.notes.append(f"column {column.name!r} is left out: it describes a picture")
        elif twin is not None:
            guess.notes.append(f"column {column.name!r} is left out: it is the same as {twin.name!r}")
        else:
            kept.append(column)
    return [column for column in kept if not _one_sided(guess, column, columns)]


def _same(a: Column, b: Column) -> bool:
    return len(a.values) == len(b.values) and bool((a.cells.texts[a.cells.codes] == b.cells.texts[b.cells.codes]).all())


def _one_sided(guess: Guess, column: Column, columns: Sequence[Column]) -> bool:
    """Whether a column speaks of one side, and the one of the other side says something else."""
    stem = _without_side(column)
    others = [other for other in columns if other.side not in (None, column.side) and _without_side(other) == stem]
    if column.side is None or not others or _same(column, others[0]):
        return False
    guess.notes.append(f"column {column.name!r} is left out: it speaks of one side, and an exam has both")
    return True


def _without_side(column: Column) -> str:
    return "_".join(token for token in column.tokens if token not in SIDES)


def _survival(guess: Guess, columns: Sequence[Column]) -> list[Column]:
    times = [column for column in columns if column.says(TIME) and all(number(text) > 0 for text in column.values)]
    events = [column for column in columns if column.says(EVENT) and column.flags]
    if not times or not events or len(times[0].values) <= MOST_CLASSES:
        return list(columns)
    longest = float(np.quantile([number(text) for text in times[0].values], 0.8))
    horizons = [horizon for horizon in (1, 2, 3, 5, 10) if horizon <= longest] or [round(longest, 2)]
    entry = {"kind": "survival", "time": times[0].name, "event": events[0].name, "horizons": horizons}
    guess.add("tasks", "risk", entry, "a time beside an event; times must be in years")
    return [column for column in columns if column not in (times[0], events[0])]


def _tasks(guess: Guess, columns: Sequence[Column]) -> None:
    """Adds tasks: three or more neighbouring columns of 0 and 1 are labels of one, others a task each."""
    for flags, run in groupby(columns, key=lambda column: column.flags):
        group = list(run)
        if flags and len(group) >= 3:
            entry = {"kind": "multilabel", "columns": [column.name for column in group]}
            why = f"{len(group)} neighbouring columns of 0 and 1"
            guess.add("tasks", _task_name(guess, "findings"), entry, why)
        else:
            for column in group:
                _add_task(guess, column)


def _add_task(guess: Guess, column: Column) -> None:
    if len(column.values) > MOST_CLASSES or len(column.values) > column.filled / 2:
        guess.notes.append(f"column {column.name!r} is left out: {len(column.values)} different values are no classes")
        return
    name = _task_name(guess, _without_side(column) if column.side else column.name)
    if len(column.values) == 2:
        ordered = sorted(column.values, key=lambda text: (text.lower() not in NEGATIVE, text))
        entry = {"kind": "binary", "column": column.name} | ({} if column.flags else {"classes": ordered})
        guess.add(
            "tasks", name, entry, "two values" if column.flags else f"two values; {ordered[1]!r} is the positive one"
        )
        return
    order = _order(column.values)
    kind, why = ("ordinal", "few values with an order") if order else ("multiclass", "few values without an order")
    guess.add("tasks", name, {"kind": kind, "column": column.name, "classes": order or sorted(column.values)}, why)


def _order(values: Sequence[str]) -> list[str] | None:
    """`values` from lowest to highest, if they are numbers, grades (A, B, C or T1, T2, T3) or of a known scale."""
    if not any(np.isnan(number(text)) for text in values):
        return sorted(values, key=number)
    for scale in SCALES:
        if {text.lower() for text in values} <= {step.lower() for step in scale}:
            return sorted(values, key=lambda text: [step.lower() for step in scale].index(text.lower()))
    stems = {text[:-1] for text in values}
    ends = sorted(text[-1] for text in values)
    if len(stems) == 1 and ends[0] in "Aa01" and all(ord(b) - ord(a) == 1 for a, b in pairwise(ends)):
        return sorted(values)
    return None


def _task_name(guess: Guess, name: str) -> str:
    name = safe_name(name)
    return name if name not in guess.tasks else f"{name}_{len(guess.tasks)}"
