"""A folder of DICOM mammograms as an archive hands it out -> exams, told apart by their headers.

Nothing of a header comes out: exams have the names of the user's own folders and files, and what is compared (patient,
study) is hashed with a salt that is thrown away.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from m4oe.data.described import PICTURE, Paths, fits, of_one_side, pictures_of, words_of
from m4oe.data.readers import dicom
from m4oe.errors import UserError
from m4oe.study import Study

if TYPE_CHECKING:
    from m4oe.data.readers.facts import Facts

ENDING = r"\.(dcm|dicom|ima)$"
OF_A_PART = {"spot compression", "magnification"}


@dataclass(frozen=True)
class Shot:
    """One file: `parts` of its path below the folder, what its header says, and the input that it is."""

    path: Path
    parts: tuple[str, ...]
    facts: Facts
    input: str

    @property
    def raw(self) -> bool:
        return self.facts.intent == "processing"


def raw_exams(folder: Path, study: Study) -> dict[str, dict[str, Paths]]:
    """{exam: {input: file}} of a folder with DICOM mammograms, however deep they lie; none where the study has other
    pictures, too, or the folder holds pictures of other formats.

    The files of a subfolder, or of a folder without subfolders, are one exam, unless their headers name several
    patients or studies; subfolders of one study are one exam. Where an exam of `study` is one breast and both are
    there, it becomes EXAM_left and EXAM_right. Spot and magnification views, tomosyntheses and what fits no input are
    left out. Of a view that is there twice, the one FOR PRESENTATION is taken, else the last by name.
    Raises UserError where that would be a guess, and for a file that fits two inputs.
    """
    if any(source.kind != "mammogram" for source in pictures_of(study).values()):
        return {}
    shots = _shots(folder, study)
    groups = list(_groups(shots))
    found: dict[str, dict[str, Paths]] = {}
    for group in groups:
        others = [shot.parts for other in groups if other is not group for shot in other]
        exams = _inputs(_name(folder, group, others), group, study)
        if twice := found.keys() & exams.keys():
            raise UserError(f"{folder}: two exams would be called {min(twice)!r}; rename a folder or file in it")
        found |= exams
    return found


def _shots(folder: Path, study: Study) -> list[Shot]:
    """All DICOM mammograms below `folder` that are an input; none where it holds pictures of another format. Reports
    and the like are passed over."""
    salt, shots = secrets.token_hex(16), []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if any(part.startswith(".") for part in parts) or not path.is_file():
            continue
        if not dicom.is_dicom(path):
            if re.search(PICTURE, path.name, re.IGNORECASE):
                return []
            continue
        try:
            facts = dicom.facts_of(path, salt)
        except UserError:
            continue
        if name := _fitting(path, facts, study):
            shots.append(Shot(path, parts, facts, name))
    return shots


def _groups(shots: Iterable[Shot]) -> Iterator[list[Shot]]:
    """The shots of each exam. Studies are looked at unless every file has its own, as some anonymisers write them."""
    homes: dict[str, str] = {}
    places: dict[Hashable, list[Shot]] = {}
    for shot in shots:
        own = shot.parts[0] if len(shot.parts) > 1 else ""
        home = homes.setdefault(shot.facts.study, own) if shot.facts.study else own
        places.setdefault((home, shot.facts.patient), []).append(shot)
    for group in places.values():
        studies: dict[Hashable, list[Shot]] = {}
        for shot in group:
            studies.setdefault(shot.facts.study, []).append(shot)
        yield from studies.values() if len(studies) < len(group) else [group]


def _name(folder: Path, group: list[Shot], others: list[tuple[str, ...]]) -> str:
    """The shortest start of the first file's path that no other exam shares; of an exam in several subfolders, the
    folder's own name."""
    first = group[0].parts
    within_one = len(first) > 1 and all(shot.parts[0] == first[0] for shot in group)
    for depth in range(int(within_one), len(first) + 1):
        if not any(other[:depth] == first[:depth] for other in others):
            return re.sub(ENDING, "", "_".join(first[:depth]), flags=re.IGNORECASE) or folder.resolve().name
    raise AssertionError("paths of files differ")


def _inputs(name: str, group: list[Shot], study: Study) -> dict[str, dict[str, Paths]]:
    """{exam: {input: file}} of one patient's files."""
    parted = of_one_side(study) and {"left", "right"} <= {shot.facts.view.side for shot in group}
    chosen: dict[tuple[str, str], Shot] = {}
    for shot in group:
        exam = f"{name}_{shot.facts.view.side}" if parted and shot.facts.view.side else name
        earlier = chosen.get((exam, shot.input))
        chosen[exam, shot.input] = shot if earlier is None else _preferred(earlier, shot)
    found: dict[str, dict[str, Paths]] = {}
    for (exam, given), shot in chosen.items():
        found.setdefault(exam, {})[given] = (str(shot.path.resolve()),)
    return found


def _fitting(path: Path, facts: Facts, study: Study) -> str | None:
    """The input that a file is, by the words of its name and its header."""
    if OF_A_PART & set(facts.view.modifiers):
        return None
    words = words_of(path.name) | facts.words
    names = [name for name, source in pictures_of(study).items() if fits(words, name, source)]
    if len(names) > 1:
        raise UserError(f"{path}: fits several inputs ({', '.join(names)}); give a table")
    return names[0] if names else None


def _preferred(earlier: Shot, later: Shot) -> Shot:
    if earlier.raw != later.raw:
        return later if earlier.raw else earlier
    if later.facts.study is None or later.facts.study != earlier.facts.study:
        raise UserError(
            f"{earlier.path} and {later.path}: two files for the input {later.input!r} of one exam, and their headers "
            "do not say that they are of one study; put each exam into a folder of its own"
        )
    return later
