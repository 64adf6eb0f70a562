"""Guesses about folders of pictures and masks: nnU-Net raw folders, MONAI and Decathlon datalists, or bare pairs."""

from __future__ import annotations

import csv
import glob
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from m4oe.data.draft_pairs import ENDING, Case, paired, patients_of, stem_of
from m4oe.data.guess import Guess, kind_of, mask_values, safe_name
from m4oe.errors import UserError

MASKS_READ = 8
IGNORE = "ignore"  # what nnU-Net calls pixels that count for nothing


def guess_folder(path: Path) -> tuple[Guess, str]:
    """The guess about a folder or a datalist, and the text of the table that its study needs."""
    folder = path if path.is_dir() else path.parent
    facts = _facts(path / "dataset.json" if path.is_dir() else path)
    cases = _listed(folder, facts) if _entries(facts) else paired(folder)
    if not cases:
        raise UserError(
            f"{path}: no pictures in 'imagesTr' (or 'images') with masks in 'labelsTr' (or 'labels', 'masks'), no "
            "pairs such as a.nii.gz and a_mask.nii.gz, and no datalist with 'training'"
        )
    guess = Guess(safe_name(folder.resolve().name), f"{safe_name(folder.resolve().name)}.csv")
    guess.add("head", "exam", "case", "the name of the file")
    _add_patients(guess, cases)
    _add_images(guess, cases, facts, folder)
    _add_targets(guess, cases, facts, folder)
    guess.tail["split"] = {"seed": 0, "fractions": [0.7, 0.15, 0.15]}
    return guess, _table(cases)


def _add_patients(guess: Guess, cases: list[Case]) -> None:
    names = [case["case"] for case in cases]
    patients = patients_of(names)
    for case, patient in zip(cases, patients or names):
        case["patient"] = patient
    if patients is None:
        guess.add("head", "patient", "patient", "each case is taken for a patient; correct the table if it is not")
        return
    name, patient = next(pair for pair in zip(names, patients) if patients.count(pair[1]) > 1)
    why = f"what names of cases have in common, such as {patient} of {name}; correct the table if it is not the patient"
    guess.add("head", "patient", "patient", why)


def _facts(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); a datalist is JSON with a list 'training'") from None
    if not isinstance(facts, dict):
        raise UserError(f"{path}: a datalist is a mapping with a list 'training'")
    return facts


def _entries(facts: Mapping[str, Any]) -> list[Any]:
    """What a datalist lists: `training` of Decathlon and MONAI, or `dataset` of nnU-Net, {case: images and label}."""
    if isinstance(facts.get("training"), list):
        return list(facts["training"])
    listed = facts.get("dataset")
    return list(listed.values()) if isinstance(listed, dict) else []


def _listed(folder: Path, facts: Mapping[str, Any]) -> list[Case]:
    """Cases of a datalist: `image` is a path or a list of them (channels), `label` a path or a class.

    Raises UserError for an entry without an image.
    """
    listed = [_images(folder, entry, number) for number, entry in enumerate(_entries(facts), 1)]
    names, cases = _called([images[0] for images in listed]), []
    for entry, name, images in zip(_entries(facts), names, listed):
        files = [file for image in images for file in _files_of(folder, image)]
        columns = ["image"] if len(files) == 1 else [f"image_{number}" for number in range(len(files))]
        case = {"case": name, **dict(zip(columns, files))}
        label = entry.get("label") if isinstance(entry, dict) else None
        if label is not None:
            masked = re.search(ENDING, str(label)) is not None
            case["mask" if masked else "label"] = _relative(folder, str(label)) if masked else str(label)
        cases.append(case)
    return cases


def _images(folder: Path, entry: Any, number: int) -> list[str]:
    """The pictures of an entry of a datalist, the `number`th, as they are listed."""
    image = entry.get("image", entry.get("images")) if isinstance(entry, dict) else entry
    images = image if isinstance(image, list) else [image]
    if not images or not all(isinstance(text, str) and text for text in images):
        raise UserError(
            f"{folder}: entry {number} of the datalist is without 'image', the path of a picture or a list "
            "of the paths of its channels"
        )
    return [_relative(folder, text) for text in images]


def _files_of(folder: Path, image: str) -> list[str]:
    """The files of a listed picture: itself, or channels that nnU-Net's first version lists by the name of the case."""
    path, stem = folder / image, stem_of(image)
    if path.exists():
        return [image]
    files = sorted(path.parent.glob(f"{glob.escape(stem)}_[0-9][0-9][0-9][0-9]{path.name.removeprefix(stem)}"))
    return [Path(image).with_name(file.name).as_posix() for file in files] or [image]


def _called(images: Sequence[str]) -> list[str]:
    """Names of cases: of their first files; where some are called alike, of all with the folders before them."""
    names = [stem_of(image) for image in images]
    if len(set(names)) == len(names):
        return names
    folders = [
        [part for part in Path(image).parent.parts if part not in (Path(image).anchor, "..")] for image in images
    ]
    return ["_".join([*before, name]) for before, name in zip(folders, names)]


def _relative(folder: Path, text: str) -> str:
    path = Path(text)
    return (
        path.relative_to(folder).as_posix() if path.is_absolute() and path.is_relative_to(folder) else path.as_posix()
    )


def _add_images(guess: Guess, cases: list[Case], facts: Mapping[str, Any], folder: Path) -> None:
    """One input; or one for each kind of picture, where the names of cases tell kinds apart."""
    columns = sorted(
        {key for case in cases for key in case if key.startswith("image")}, key=lambda key: (len(key), key)
    )
    column: Any = columns[0] if len(columns) == 1 else columns
    kinds = [kind_of(case["case"]) for case in cases]
    if len(set(kinds)) > 1 and "other" not in kinds:
        for case, kind in zip(cases, kinds):
            case["modality"] = kind
        for kind in dict.fromkeys(kinds):
            entry = {"column": column, "where": {"modality": kind}, "modality": kind, "kind": kind}
            guess.add("inputs", kind, entry, f"{kinds.count(kind)} cases, by their names")
        return
    channels = [str(name) for name in _by_number(facts.get("channel_names") or facts.get("modality")).values()]
    kind = kind_of(*channels, folder.resolve().name, *(cases[0][column] for column in columns if column in cases[0]))
    said = f"channels {', '.join(channels)}" if channels else f"by its name {folder.resolve().name!r}"
    why = f"{said}: {kind}" if kind != "other" else f"{said}: write its kind, such as ct or mr, and its modality"
    guess.add("inputs", "image", {"column": column, "modality": kind, "kind": kind}, why)


def _add_targets(guess: Guess, cases: list[Case], facts: Mapping[str, Any], folder: Path) -> None:
    masks = [folder / case["mask"] for case in cases if "mask" in case]
    if masks:
        declared = _by_number(facts.get("labels"))
        entry = _classes(declared) if declared else _seen_classes(masks, guess.name)
        why = "classes of dataset.json" if declared else "values of the first masks; name them"
        for name in guess.inputs:
            task = {"kind": "segmentation", "column": "mask", "on": name, **entry}
            guess.add("tasks", guess.name if len(guess.inputs) == 1 else f"{guess.name}_{name}", task, why)
    labels = sorted({case["label"] for case in cases if "label" in case})
    if len(labels) > 1:
        entry = {"kind": "binary" if len(labels) == 2 else "multiclass", "column": "label", "classes": labels}
        guess.add("tasks", "label", entry, f"{len(labels)} different labels in the datalist")


def _by_number(names: Any) -> dict[str, Any]:
    """A mapping of a dataset.json as it is; a list of names, or a single one, by their numbers."""
    if isinstance(names, dict):
        return names
    return {str(number): name for number, name in enumerate([names] if isinstance(names, str) else names or [])}


def _classes(labels: Mapping[str, Any]) -> dict[str, Any]:
    """Classes, regions and the ignored value of a dataset.json, which has {name: value}, {name: [values]} or
    {"value": name}."""
    if all(str(key).isdigit() for key in labels):
        return {"classes": {int(value): str(labels[value]) for value in sorted(labels, key=int)}}
    values = {name: value if isinstance(value, list) else [value] for name, value in labels.items()}
    ignored = values.pop(IGNORE, [])
    single = {int(members[0]): str(name) for name, members in values.items() if len(members) == 1}
    every = sorted({int(value) for members in values.values() for value in members})
    classes = {value: single.get(value, f"class_{value}") for value in every}
    regions = {name: [classes[int(value)] for value in members] for name, members in values.items() if len(members) > 1}
    return {"classes": classes, **({"regions": regions} if regions else {}), **_ignoring(ignored)}


def _ignoring(values: list[Any]) -> dict[str, int]:
    return {"ignore": int(values[0])} if values else {}


def _seen_classes(masks: list[Path], name: str) -> dict[str, Any]:
    """Classes by the values of some masks; their names are the data set's own, so that no other study shares them."""
    values = sorted({value for path in masks[:MASKS_READ] for value in mask_values(path) or []} | {0})
    return {"classes": {value: "background" if value == 0 else f"{name}_{value}" for value in values}}


def _table(cases: list[Case]) -> str:
    columns = list(dict.fromkeys(key for case in cases for key in case))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(cases)
    return text.getvalue()
