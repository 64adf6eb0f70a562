"""What comes out of each file in a folder, as a Markdown table: a picture with its size, range and spacing, or the
message that a user gets.

    python benchmarks/dicom_table.py FOLDER [FOLDER ...]

Tables and READMEs beside the files are passed over. Pictures are read as kind `other`, which keeps what a file has.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from pathlib import Path

import pydicom

from m4oe.data.readers import Picture, read_picture
from m4oe.data.readers.dicom import is_dicom
from m4oe.errors import UserError

NOT_A_PICTURE = (".md", ".csv", ".yaml", ".json")


def main() -> None:
    for folder in map(Path, sys.argv[1:] or ["."]):
        write_table(folder)


def write_table(folder: Path) -> None:
    """Prints the table of one folder, and how many of its files came to what."""
    outcomes: Counter[str] = Counter()
    print(f"### {folder.name}\n\n| file | transfer syntax | pixels | what came out |\n|---|---|---|---|")
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix not in NOT_A_PICTURE:
            kind, told = outcome(path)
            outcomes[kind] += 1
            print(f"| {path.name} | {' | '.join(stored(path))} | {told} |")
    print(f"\n{outcomes.total()} files: {', '.join(f'{count} {kind}' for kind, count in outcomes.items())}.\n")


def outcome(path: Path) -> tuple[str, str]:
    """A picture or a message, and in words what it is."""
    try:
        return "pictures", described(read_picture((str(path),), "other"))
    except UserError as error:
        return "messages", str(error).replace(str(path), "").lstrip(": ").replace("|", "\\|")


def described(picture: Picture) -> str:
    form = "image" if len(picture.shape) == 2 else "volume"
    channels = f", {len(picture.values)} channels" if len(picture.values) > 1 else ""
    spacing = f", {' x '.join(f'{step:.3g}' for step in picture.spacing)} mm" if picture.spacing else ""
    low, high = picture.values.min(), picture.values.max()
    return f"**{form}** {' x '.join(map(str, picture.shape))}{channels}, {low:g} to {high:g}{spacing}"


def stored(path: Path) -> tuple[str, str]:
    """Transfer syntax and form of the pixels as the header says, by pydicom; empty where it says nothing."""
    if not is_dicom(path):
        return "no DICOM file", ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            syntax = header.file_meta.get("TransferSyntaxUID")
            signed = "signed " if header.get("PixelRepresentation") == 1 else ""
            bits = f"{signed}{header.BitsStored} bits, {header.PhotometricInterpretation}" if "Rows" in header else ""
        except Exception as error:  # of a broken header pydicom raises whatever it met
            return f"({type(error).__name__})", ""
    return (syntax.name if syntax else "(none)"), bits


if __name__ == "__main__":
    main()
