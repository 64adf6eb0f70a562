"""Guesses about folders of pictures and masks: nnU-Net raw folders, MONAI and Decathlon datalists, or bare pairs."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m4oe.data.guess import Guess, kind_of, mask_values, safe_name
from m4oe.errors import UserError

ENDING = r"(\.nii\.gz|\.nii|\.png|\.tiff?|\.npy|\.npz|\.jpe?g|\.mha|\.nrrd)$"
VISIT = r"[-_](frame|time|visit|session|ses|tp|scan|ed|es)[-_]?\d*$"
CHANNEL = r"_(\d{4})$"
MASKS_READ = 8

Case = dict[str, str]  # case, image (or image_0, image_1, ...), mask, and what a datalist says besides


def guess_folder(path: Path) -> tuple[Guess, str]:
    """The guess about a folder or a datalist, and the text of the table that its study needs."""
    folder = path if path.is_dir() else path.parent
    facts = _facts(path / "dataset.json" if path.is_dir() else path)
    cases = _listed(folder, facts) if isinstance(facts.get("training"), list) else _paired(folder)
    if not cases:
        raise UserError(f"{path}: no pictures in 'imagesTr' with masks in 'labelsTr', and no datalist with 'training'")
    guess = Guess(safe_name(folder.resolve().name), f"{safe_name(folder.resolve().name)}.csv")
    guess.add("head", "exam", "case", "the name of the file")
    for case in cases:
        case["patient"] = re.sub(VISIT, "", case["case"], flags=re.IGNORECASE)
    several = len({case["patient"] for case in cases}) < len(cases)
    why = "the case without its time point" if several else "a patient has one case"
    guess.add("head", "patient", "patient", why)
    _add_image(guess, cases, facts, folder)
    _add_targets(guess, cases, facts, folder)
    guess.tail["split"] = {"seed": 0, "fractions": [0.7, 0.15, 0.15]}
    return guess, _table(cases)


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


def _listed(folder: Path, facts: Mapping[str, Any]) -> list[Case]:
    """Cases of a datalist: `image` is a path or a list of them (channels), `label` a path or a class."""
    cases = []
    for entry in facts["training"]:
        image = entry.get("image", "") if isinstance(entry, dict) else str(entry)
        images = image if isinstance(image, list) else [image]
        names = ["image"] if len(images) == 1 else [f"image_{number}" for number in range(len(images))]
        case = {"case": _stem(images[0]), **{name: _relative(folder, text) for name, text in zip(names, images)}}
        label = entry.get("label") if isinstance(entry, dict) else None
        if label is not None:
            masked = re.search(ENDING, str(label)) is not None
            case["mask" if masked else "label"] = _relative(folder, str(label)) if masked else str(label)
        cases.append(case)
    return cases


def _relative(folder: Path, text: str) -> str:
    path = Path(text)
    return (
        path.relative_to(folder).as_posix() if path.is_absolute() and path.is_relative_to(folder) else path.as_posix()
    )


def _stem(text: str) -> str:
    return re.sub(ENDING, "", Path(text).name)


def _paired(folder: Path) -> list[Case]:
    """Cases of imagesTr and labelsTr; names of pictures may end in a channel, _0000, _0001, ..."""
    images, masks = folder / "imagesTr", folder / "labelsTr"
    if not images.is_dir():
        return []
    files = sorted(file for file in images.iterdir() if re.search(ENDING, file.name) and not file.name.startswith("."))
    channelled = all(re.search(CHANNEL, _stem(file.name)) for file in files)
    cases: dict[str, Case] = {}
    for file in files:
        stem = _stem(file.name)
        name, channel = (stem[:-5], int(stem[-4:])) if channelled else (stem, 0)
        case = cases.setdefault(name, {"case": name})
        case[f"image_{channel}" if channelled else "image"] = file.relative_to(folder).as_posix()
    for file in sorted(masks.iterdir()) if masks.is_dir() else []:
        if _stem(file.name) in cases:
            cases[_stem(file.name)]["mask"] = file.relative_to(folder).as_posix()
    return list(cases.values())


def _add_image(guess: Guess, cases: list[Case], facts: Mapping[str, Any], folder: Path) -> None:
    columns = sorted(
        {key for case in cases for key in case if key.startswith("image")}, key=lambda key: (len(key), key)
    )
    channels = [str(name) for name in dict(facts.get("channel_names") or facts.get("modality") or {}).values()]
    kind = kind_of(*channels, folder.resolve().name, *(cases[0][column] for column in columns if column in cases[0]))
    entry = {"column": columns[0] if len(columns) == 1 else columns, "modality": kind, "kind": kind}
    said = f"channels {', '.join(channels)}" if channels else f"by its name {folder.resolve().name!r}"
    guess.add("inputs", "image", entry, f"{said}: {kind}" if kind != "other" else f"{said}: correct its kind")


def _add_targets(guess: Guess, cases: list[Case], facts: Mapping[str, Any], folder: Path) -> None:
    masks = [folder / case["mask"] for case in cases if "mask" in case]
    if masks:
        declared = facts.get("labels") or {}
        classes, regions = _classes(declared) if declared else _seen_classes(masks)
        entry: dict[str, Any] = {"kind": "segmentation", "column": "mask", "on": "image", "classes": classes}
        entry |= {"regions": regions} if regions else {}
        guess.add(
            "tasks", guess.name, entry, "classes of dataset.json" if declared else "values of the first masks; name them"
        )
    labels = sorted({case["label"] for case in cases if "label" in case})
    if len(labels) > 1:
        entry = {"kind": "binary" if len(labels) == 2 else "multiclass", "column": "label", "classes": labels}
        guess.add("tasks", "label", entry, f"{len(labels)} different labels in the datalist")


def _classes(labels: Mapping[str, Any]) -> tuple[dict[int, str], dict[str, list[str]]]:
    """Classes and regions of a dataset.json, which has {name: value}, {name: [values]} or {"value": name}."""
    if all(str(key).isdigit() for key in labels):
        return {int(value): str(name) for value, name in sorted(labels.items(), key=lambda item: int(item[0]))}, {}
    values = {name: value if isinstance(value, list) else [value] for name, value in labels.items()}
    single = {int(members[0]): str(name) for name, members in values.items() if len(members) == 1}
    every = sorted({int(value) for members in values.values() for value in members})
    classes = {value: single.get(value, f"class_{value}") for value in every}
    regions = {name: [classes[int(value)] for value in members] for name, members in values.items() if len(members) > 1}
    return classes, regions


def _seen_classes(masks: list[Path]) -> tuple[dict[int, str], dict[str, list[str]]]:
    values = sorted({value for path in masks[:MASKS_READ] for value in mask_values(path) or []} | {0})
    return {value: "background" if value == 0 else f"class_{value}" for value in values}, {}


def _table(cases: list[Case]) -> str:
    columns = list(dict.fromkeys(key for case in cases for key in case))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(cases)
    return text.getvalue()
