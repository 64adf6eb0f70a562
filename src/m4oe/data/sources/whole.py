"""Files that are there as a whole or not at all, whenever the process that writes them is stopped."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file aside and then renames it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(content)
    aside.replace(path)


def sweep(folder: Path) -> None:
    """Removes what processes that were stopped left aside in `folder`."""
    for path in folder.glob(".*.*.[0-9]*"):
        path.unlink(missing_ok=True)
