"""Which picture of a folder has which mask, by names alone: two folders side by side, or pairs within one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ENDING = r"(\.nii\.gz|\.nii|\.png|\.tiff?|\.npy|\.npz|\.jpe?g|\.mha|\.nrrd)$"
CHANNEL = r"_(\d{4})$"
IMAGE_FOLDERS = r"(images?|imgs?|volumes?|scans?)([-_]?(tr|train|training))?"
LABEL_FOLDERS = r"(labels?|masks?|segs?|segmentations?|annotations?|gt|ground[-_]?truth)([-_]?(tr|train|training))?"
IMAGE_WORDS = r"images?|img|volume|vol|scan"
LABEL_WORDS = r"labels?|seg|segmentation|masks?|gt|groundtruth|annotation|manual"
MOST_OF_A_PATIENT = 0.2  # share of the cases; more than that begin alike for another reason

Case = dict[str, str]  # case, image (or image_0, image_1, ...), mask, and what a datalist says besides


def stem_of(text: str) -> str:
    """A file's name without what says its format."""
    return re.sub(ENDING, "", Path(text).name, flags=re.IGNORECASE)


def paired(folder: Path) -> list[Case]:
    """Cases of `folder`, paths relative to it: pictures of imagesTr (images, scans, ...) with masks of labelsTr
    (labels, masks, ...); else pictures beside masks that are called the same but for a word such as _mask.

    Names of pictures may end in a channel, _0000, _0001, ...; a picture without a mask is a case without one.
    """
    images, masks = _subfolder(folder, IMAGE_FOLDERS), _subfolder(folder, LABEL_FOLDERS)
    if images is not None:
        return _matched(_files(images), _files(masks) if masks is not None else [], folder)
    files = _files(folder)
    marked = [file for file in files if _word(LABEL_WORDS).search(stem_of(file.name))]
    cases = _matched([file for file in files if file not in marked], marked, folder)
    return cases if any("mask" in case for case in cases) else []


def _subfolder(folder: Path, names: str) -> Path | None:
    """The folder of training pictures, or of their masks: the longest name, so that imagesTr comes before images."""
    found = [sub for sub in folder.iterdir() if sub.is_dir() and re.fullmatch(names, sub.name, re.IGNORECASE)]
    return max(found, key=lambda sub: (len(sub.name), sub.name), default=None)


def _files(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.is_file() and re.search(ENDING, file.name, re.IGNORECASE) and not file.name.startswith(".")
    )


def _matched(images: Sequence[Path], masks: Sequence[Path], folder: Path) -> list[Case]:
    stems = [stem_of(image.name) for image in images]
    channelled = _end_in_channels(stems)
    names = _names([re.sub(CHANNEL, "", stem) if channelled else stem for stem in stems], IMAGE_WORDS)
    cases: dict[str, Case] = {}
    for image, stem, name in zip(images, stems, names):
        case = cases.setdefault(name, {"case": name})
        case[f"image_{int(stem[-4:])}" if channelled else "image"] = image.relative_to(folder).as_posix()
    for mask, name in zip(masks, _names([stem_of(mask.name) for mask in masks], LABEL_WORDS)):
        for key in (stem_of(mask.name), name):
            if key in cases:
                cases[key]["mask"] = mask.relative_to(folder).as_posix()
                break
    return list(cases.values())


def _end_in_channels(stems: Sequence[str]) -> bool:
    """Whether all end in a number of four digits, and each case has the first channel: ct_1673 alone is a case."""
    known = set(stems)
    ending = [re.search(CHANNEL, stem) for stem in stems]
    return bool(stems) and all(match and match.string[: match.start()] + "_0000" in known for match in ending)


def _names(stems: Sequence[str], words: str) -> list[str]:
    """`stems` without the words that say what a file is, where they still differ then."""
    bare = [_word(words).sub("", stem).strip("-_. ") or stem for stem in stems]
    before, after = Counter(stems), Counter(bare)
    return [short if after[short] == before[stem] else stem for stem, short in zip(stems, bare)]


def _word(words: str) -> re.Pattern[str]:
    return re.compile(rf"(?:(?<=[-_. ])|^)(?:{words})(?=[-_. ]|$)", re.IGNORECASE)


def patients_of(names: Sequence[str]) -> list[str] | None:
    """The patient of each case, where several cases begin alike: patient001 of patient001_frame01. None where none do.

    What they have in common must hold a digit, or it is the name of the data set.
    """
    heads = [re.sub(r"[-_][^-_]*$", "", name) for name in names]
    heads = [head if re.search(r"\d", head) else name for head, name in zip(heads, names)]
    largest = max(Counter(heads).values(), default=1)
    return heads if 1 < largest <= max(2, MOST_OF_A_PATIENT * len(names)) else None
