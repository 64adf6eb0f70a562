"""python -m m4oe.data.sources.twins SOURCE FOLDER: writes a fake release, for a first try of `m4oe prepare`."""

from __future__ import annotations

import sys

from m4oe.data.sources.twins import TWINS, write_twin
from m4oe.errors import UserError

if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: python -m m4oe.data.sources.twins SOURCE FOLDER; sources: {', '.join(TWINS)}")
    try:
        write_twin(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
