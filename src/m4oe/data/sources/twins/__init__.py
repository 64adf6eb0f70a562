"""Layout twins: tiny fake releases in the layouts of the real ones, generated, so that everything runs without access.

Their pictures are drawn, their people are invented; names of files, tables, columns and tags are those of the release.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from m4oe.data.sources.twins.embed import write_embed
from m4oe.data.sources.twins.gamma import write_gamma
from m4oe.data.sources.twins.rsna import write_rsna
from m4oe.data.sources.twins.vindr import write_vindr
from m4oe.data.sources.twins.volumes import write_amos22, write_atlas23, write_flare22
from m4oe.errors import unknown

__all__ = ["TWINS", "write_twin"]

TWINS: Mapping[str, Callable[[Path], None]] = {
    "embed": write_embed,
    "rsna": write_rsna,
    "vindr": write_vindr,
    "gamma": write_gamma,
    "flare22": write_flare22,
    "amos22": write_amos22,
    "atlas23": write_atlas23,
}


def write_twin(source: str, folder: Path | str) -> Path:
    """Writes the twin of `source` into `folder`, the same bytes each time, and returns the folder.

    Raises UserError for a source that is not known.
    """
    if source not in TWINS:
        raise unknown("source", source, TWINS)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    TWINS[source](folder)
    return folder
