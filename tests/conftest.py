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

from small_runs import trained

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


@pytest.fixture(scope="session")
def breast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """study.yaml of a small breast cohort, that no test changes."""
    from m4oe.data.phantoms import write_breast

    return write_breast(tmp_path_factory.mktemp("breast"), exams=60, seed=3, size=32)


@pytest.fixture(scope="session")
def retina(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """study.yaml of a small retina cohort, with masks, that no test changes."""
    from m4oe.data.phantoms import write_retina

    return write_retina(tmp_path_factory.mktemp("retina"), exams=24, seed=3, size=32)


@pytest.fixture(scope="session")
def breast_run(breast: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on that cohort, that no test changes."""
    return trained([breast], tmp_path_factory.mktemp("runs") / "breast")


@pytest.fixture(scope="session")
def retina_run(retina: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on that cohort, that no test changes."""
    return trained([retina], tmp_path_factory.mktemp("runs") / "retina")
