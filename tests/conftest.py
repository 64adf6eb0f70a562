"""What all tests share: quiet libraries, no network, and the way to the real data."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: pytest-xdist keeps the other cores busy
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from hypothesis import settings

settings.register_profile("steady", deadline=None, derandomize=True)  # a shared machine is slow at times, never random
settings.load_profile("steady")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder of this checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """real_data("mias_mammo"): that folder of the real data, or a skip that says where it was looked for."""

    def folder(name: str) -> Path:
        path = Path(os.environ.get("M4OE_TEST_DATA", REPOSITORY.parent / "shared" / "data")) / name
        if not path.is_dir():
            pytest.skip(f"no real data at {path}; set M4OE_TEST_DATA to the folder that holds {name}")
        return path

    return folder
