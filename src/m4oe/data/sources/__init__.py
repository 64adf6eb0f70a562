"""Published data sets in the layouts of their releases, and how each becomes ordinary studies. No torch.

docs/sources.md says of each what is expected, how labels are defined, and what is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from m4oe.data.sources.amos22 import AMOS22
from m4oe.data.sources.atlas23 import ATLAS23
from m4oe.data.sources.embed import EMBED
from m4oe.data.sources.flare22 import FLARE22
from m4oe.data.sources.gamma import GAMMA
from m4oe.data.sources.pictures import Progress
from m4oe.data.sources.preparation import Prepared, prepare_source
from m4oe.data.sources.release import Release, Source, StudyTable
from m4oe.data.sources.rsna import RSNA
from m4oe.data.sources.vindr import VINDR
from m4oe.errors import unknown

__all__ = ["SOURCES", "Prepared", "Release", "Source", "StudyTable", "prepare"]

SOURCES: Mapping[str, Source] = {
    "embed": EMBED,
    "rsna": RSNA,
    "vindr": VINDR,
    "gamma": GAMMA,
    "flare22": FLARE22,
    "amos22": AMOS22,
    "atlas23": ATLAS23,
}


def prepare(
    source: str, raw: Path, out: Path, *, part: str | None = None, progress: Progress | None = None
) -> Prepared:
    """Turns the release of `source` in the folder `raw` into studies in `out`; see prepare_source.

    Raises UserError for a source that is not known.
    """
    if source not in SOURCES:
        raise unknown("source", source, SOURCES)
    return prepare_source(source, SOURCES[source], raw, out, part=part, progress=progress)
