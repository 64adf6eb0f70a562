"""Files without a table: which of the trained studies describes them, and which files are one picture."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path

from m4oe.data.readers import dicom
from m4oe.data.readers.facts import MODALITIES, Facts
from m4oe.data.table import SIDES
from m4oe.errors import UserError, unknown
from m4oe.study import Input, Study

PICTURE = r"\.(nii\.gz|nii|png|tiff?|npy|npz|jpe?g|bmp|pgm)$"
CHANNEL = r"_\d{4}$"  # nnU-Net: the channel ends a file's name
UNKNOWN = "unknown"  # the modality of a scan of which nothing says it

Paths = tuple[str, ...]


def pictures_of(study: Study) -> dict[str, Input]:
    """The inputs that are pictures."""
    return {name: source for name, source in study.inputs.items() if source.kind != "table"}


def words_of(text: str) -> set[str]:
    return {word for word in re.split(r"[^a-z0-9]+", text.lower()) if word}


def fits(words: Set[str], name: str, source: Input) -> bool:
    """Whether all words of the input's name, or else all values of its `where`, are among the `words` of a file."""
    told = [str(value) for value in source.where.values()]
    return words_of(name) <= words or (bool(told) and all(words_of(value) <= words for value in told))


def of_one_side(study: Study) -> bool:
    """Whether an exam shows one side, which its table tells, rather than inputs of both."""
    return any(one.laterality and one.laterality.lower() not in SIDES for one in pictures_of(study).values())


def describing(trained: Sequence[Study], given: Iterable[str]) -> Study:
    """The study whose inputs are `given`: names, or name@modality where studies use one name for several.

    Where several trained studies mean the same pictures and differ in their tasks, it has no task: whose labels are
    wanted is not known. Raises UserError for a name that no study has, and for one that may mean several modalities.
    """
    names = list(given)
    having = [_narrowed(study, names) for study in trained if all(_has(study, name) for name in names)]
    if not having:
        strange = next((name for name in names if not any(_has(study, name) for study in trained)), names[0])
        raise unknown("input", strange, dict.fromkeys(key for study in trained for key in _keys(study, trained)))
    inputs = [name.partition("@")[0] for name in names]
    meanings = {tuple((study.inputs[name].kind, study.inputs[name].modality) for name in inputs) for study in having}
    if len(meanings) > 1:
        known = dict.fromkeys(key for study in having for key in _keys(study, having))
        raise UserError(f"which modality is it? Give one of {'=FILE, '.join(known)}=FILE, or a study of these exams")
    alike = all(study.tasks == having[0].tasks for study in having)
    return having[0] if alike else having[0].model_copy(update={"tasks": {}})


def _has(study: Study, given: str) -> bool:
    name, _, modality = given.partition("@")
    source = pictures_of(study).get(name)
    return source is not None and (not modality or source.modality == modality or not isinstance(source.modality, str))


def _narrowed(study: Study, given: Iterable[str]) -> Study:
    """`study`, its inputs of the modalities that are said."""
    said = dict(text.split("@", 1) for text in given if "@" in text)
    if not said:
        return study
    inputs = {
        name: source.model_copy(update={"modality": said.get(name, source.modality)})
        for name, source in study.inputs.items()
    }
    return study.model_copy(update={"inputs": inputs})


def _keys(study: Study, trained: Sequence[Study]) -> list[str]:
    """Names by which the picture inputs of `study` can be given, unmistakable among `trained`."""
    keys = []
    for name, source in pictures_of(study).items():
        others = {str(other.inputs[name].modality) for other in trained if name in other.inputs}
        keys.append(f"{name}@{source.modality}" if len(others) > 1 and isinstance(source.modality, str) else name)
    return keys


def sole_keys(trained: Sequence[Study]) -> list[str] | None:
    """The names, each once, by which a picture can be given; None unless every study has a single picture input."""
    if any(len(pictures_of(study)) != 1 for study in trained):
        return None
    return list(dict.fromkeys(key for study in trained for key in _keys(study, trained)))


def study_of_scan(
    exam: str, paths: Paths, folder: Path, trained: Sequence[Study], keys: Sequence[str], *, any_modality: bool
) -> Study:
    """The study that describes a scan of `folder`: that of its modality, which its name or the folder's mentions.

    any_modality: where these mention none, its kind is enough, and no label set is presumed.
    Raises UserError where nothing says what it is.
    """
    key = key_of(exam, folder, keys)
    study = None if key is None else describing(trained, [key])
    if study is not None and not (any_modality and _modality_is_open(study)):
        return study
    kinds = {source.kind: study for study in trained[::-1] for source in pictures_of(study).values()}
    kind = _kind_of(exam, paths, folder, kinds) if any_modality else None
    if kind is None:
        raise UserError(
            f"{folder}: the run was trained on {', '.join(keys)}, and neither the name {exam!r} nor the folder's says "
            f"which it is; write it into the folder's name, give a study of these exams, or a file as {keys[0]}=FILE"
        )
    return _of_unknown_modality(kinds[kind], kind)


def key_of(exam: str, folder: Path, keys: Sequence[str]) -> str | None:
    """Which of `keys` an exam in `folder` is, by the modality that its name, or the folder's, mentions; None where that
    is none or several."""
    if len(keys) == 1:
        return keys[0]
    return _mentioned(exam, folder, {key: words_of(key.partition("@")[2] or key) for key in keys})


def _mentioned(exam: str, folder: Path, things: Mapping[str, Set[str]]) -> str | None:
    for words in (words_of(exam), words_of(folder.resolve().name)):
        found = [thing for thing, needed in things.items() if needed <= words]
        if len(found) == 1:
            return found[0]
    return None


def _modality_is_open(study: Study) -> bool:
    return any(not isinstance(source.modality, str) for source in pictures_of(study).values())


def _kind_of(exam: str, paths: Paths, folder: Path, kinds: Iterable[str]) -> str | None:
    """Which of `kinds` a scan is: the only one, else as its header says, else as its name or the folder's mentions."""
    names = list(kinds)
    if len(names) == 1:
        return names[0]
    said = _modality_in(Path(paths[0]))
    if told := [name for name in names if said in MODALITIES.get(name, ())]:
        return told[0] if len(told) == 1 else None
    return _mentioned(exam, folder, {name: {name} for name in names})


def _modality_in(path: Path) -> str | None:
    """What the header of a DICOM file, or of the first of a series, says; None of any other file."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    told = next(filter(None, map(header_facts, files)), None)
    return None if told is None else told.modality


def header_facts(path: Path) -> Facts | None:
    """What the header of a DICOM file says; None of any other file, and of one that cannot be read, which is told
    when its pixels are."""
    if not path.is_file() or not dicom.is_dicom(path):
        return None
    try:
        return dicom.facts_of(path)
    except UserError:
        return None


def _of_unknown_modality(study: Study, kind: str) -> Study:
    inputs = {name: source.model_copy(update={"modality": UNKNOWN}) for name, source in pictures_of(study).items()}
    return study.model_copy(update={"name": f"{UNKNOWN}_{kind}", "inputs": inputs, "tasks": {}})


def scans_in(folder: Path) -> dict[str, Paths]:
    """{exam: files of its channels} of a folder with one picture for each exam.

    An exam is a file, or a subfolder that holds one picture; files NAME_0000, NAME_0001, ... are channels of NAME; a
    folder of DICOM slices is one picture. Raises UserError for a folder without pictures, and for one with both.
    """
    visible = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    folders = [path for path in visible if path.is_dir()]
    if series := _series(folder, visible):
        return {folder.resolve().name: series}
    found = _by_name([path for path in visible if path.is_file() and re.search(PICTURE, path.name, re.IGNORECASE)])
    if folders and found:
        raise UserError(f"{folder}: holds both files and folders; give a folder of files, or one of exams' folders")
    for path in folders:
        inner = scans_in(path)
        if len(inner) > 1:
            raise UserError(f"{path}: holds {len(inner)} pictures, where an exam has one; give this folder by itself")
        found[path.name] = next(iter(inner.values()))
    if not found:
        raise UserError(
            f"{folder}: no pictures in it; known by their names are NIfTI, PNG, TIFF, NumPy, JPEG and BMP files"
        )
    return found


def _series(folder: Path, visible: Sequence[Path]) -> Paths | None:
    """The folder itself, if it holds DICOM files alone."""
    files = [path for path in visible if path.is_file() and path.name != "DICOMDIR"]
    return (str(folder.resolve()),) if files and all(map(dicom.is_dicom, files)) else None


def _by_name(files: Sequence[Path]) -> dict[str, Paths]:
    stems = [re.sub(PICTURE, "", file.name, flags=re.IGNORECASE) for file in files]
    # Each case has the first channel: files called ct_1673, ct_2410 are cases, not channels.
    channelled = all(re.search(CHANNEL, stem) and re.sub(CHANNEL, "_0000", stem) in stems for stem in stems)
    found: dict[str, list[str]] = {}
    for stem, file in zip(stems, files):
        paths = found.setdefault(re.sub(CHANNEL, "", stem) if channelled else stem, [])
        if paths and not channelled:
            raise UserError(f"{paths[0]} and {file}: two files of one name; an exam has one picture")
        paths.append(str(file.resolve()))
    return {exam: tuple(paths) for exam, paths in found.items()}
