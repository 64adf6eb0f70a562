"""How fast does `m4oe prepare` look at pictures, and does its memory stay where it is?

    python benchmarks/prepare.py --pictures 24 --files 10000 -o OUT

By transfer syntax: images/s and MB/s (of unpacked pixels) of our reader against plain single-process pydicom decoding
of the same files, on drawn 16-bit mammograms. By processes: images/s of the whole of it, records included. Memory:
the highest resident size of the parent and of its largest process, for a tenth of the files and for all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from scipy.ndimage import gaussian_filter

from m4oe.data.readers import read_picture
from m4oe.data.sources.pictures import Folders, Job, cut, look
from m4oe.data.sources.twins.mammograms import write_mammogram

SYNTAXES = {
    "uncompressed": ExplicitVRLittleEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "RLE": RLELossless,
    "JPEG-LS lossless": JPEGLSLossless,
    "JPEG 2000 lossless": JPEG2000Lossless,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=24, help="for each transfer syntax")
    parser.add_argument("--size", type=int, nargs=2, default=(2294, 1914), help="rows and columns")
    parser.add_argument("--files", type=int, default=10_000, help="small files, for memory")
    parser.add_argument("-o", "--out", type=Path, required=True)
    words = parser.parse_args()
    shutil.rmtree(words.out, ignore_errors=True)
    words.out.mkdir(parents=True)
    paths = {name: written(words.out / name, uid, words.pictures, words.size) for name, uid in SYNTAXES.items()}
    result = {
        "by_syntax": [by_syntax(name, files, words.size) for name, files in paths.items()],
        "by_processes": [by_processes(paths["uncompressed"], words.out, count) for count in processes()],
        "memory": memory(words.out, words.files),
    }
    (words.out / "prepare.json").write_text(json.dumps(result, indent=1))
    for rows in result.values():
        print(*rows[0], sep="\t")
        for row in rows:
            print(*(f"{value:.3g}" if isinstance(value, float) else value for value in row.values()), sep="\t")
        print()


def written(folder: Path, syntax: str, count: int, size: tuple[int, int]) -> list[Path]:
    """`count` pictures of noise on tissue-like ground, 12 bits in 16, packed as `syntax`."""
    folder.mkdir()
    write_mammogram(folder / "0.dcm", 0, side="L", view="CC")
    pattern, paths = pydicom.dcmread(folder / "0.dcm"), []
    for number in range(count):
        rng = np.random.default_rng(number)
        ground = gaussian_filter(rng.standard_normal(size, np.float32), 12)
        pixels = 2000 + 600 * ground / ground.std() + rng.normal(0, 12, size)
        paths.append(folder / f"{number}.dcm")
        packed(pattern, np.clip(pixels, 0, 4095).astype("<u2"), syntax).save_as(paths[-1], enforce_file_format=True)
    return paths


def packed(pattern: Dataset, pixels: np.ndarray, syntax: str) -> Dataset:
    dataset = pydicom.dataset.Dataset(pattern)
    dataset.file_meta = pydicom.dataset.FileMetaDataset(pattern.file_meta)
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelData = pixels.tobytes()
    if syntax in (ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        dataset.file_meta.TransferSyntaxUID = syntax
    else:
        dataset.compress(syntax, pixels, generate_instance_uid=False)
    return dataset


def by_syntax(name: str, paths: list[Path], size: tuple[int, int]) -> dict[str, object]:
    """Single process, each reader twice in turn; the better of the two."""
    ways: dict[str, Callable[[Path], object]] = {
        "ours": lambda path: read_picture((str(path),), "mammogram"),
        "pydicom": lambda path: pydicom.dcmread(path).pixel_array,
    }
    for way in ways.values():
        way(paths[0])
    best = dict.fromkeys(ways, np.inf)
    for _ in range(2):
        for which, way in ways.items():
            start = time.perf_counter()
            for path in paths:
                way(path)
            best[which] = min(best[which], time.perf_counter() - start)
    megabytes = len(paths) * 2 * size[0] * size[1] / 1e6
    speeds = {f"{which} images/s": len(paths) / seconds for which, seconds in best.items()}
    return {"syntax": name, **speeds, "ours MB/s": megabytes / best["ours"], "ratio": best["pydicom"] / best["ours"]}


def processes() -> list[int]:
    cores = len(os.sched_getaffinity(0))
    return sorted({1, *(count for count in (2, 4, 8, 16, 32) if count <= cores), cores})


def by_processes(paths: list[Path], out: Path, count: int) -> dict[str, object]:
    """Wall time with `count` processes, their start included; each file is listed several times."""
    jobs = [Job(str(path.relative_to(out)), "mammogram") for path in paths] * 8
    folders = Folders(out, out / f"processes-{count}")
    folders.work.mkdir(parents=True)
    start = time.perf_counter()
    look(cut(jobs, folders.raw), folders, count)
    seconds = time.perf_counter() - start
    return {"processes": count, "pictures": len(jobs), "seconds": seconds, "images/s": len(jobs) / seconds}


def memory(out: Path, files: int) -> list[dict[str, object]]:
    (out / "small").mkdir()
    write_mammogram(out / "small" / "0.dcm", 0, side="L", view="CC")
    content = (out / "small" / "0.dcm").read_bytes()
    for number in range(1, files):
        (out / "small" / f"{number}.dcm").write_bytes(content)
    return [_memory(out, count) for count in (files // 10, files)]


def _memory(out: Path, files: int) -> dict[str, object]:
    folders = Folders(out / "small", out / f"small-{files}")
    folders.work.mkdir(parents=True)
    jobs = [Job(f"{number}.dcm", "mammogram") for number in range(files)]
    ended, highest = threading.Event(), {"parent": 0.0, "process": 0.0}
    watch = threading.Thread(target=_watch, args=(ended, highest))
    watch.start()
    look(cut(jobs, folders.raw), folders, len(os.sched_getaffinity(0)))
    ended.set()
    watch.join()
    return {"files": files, "parent MB": highest["parent"], "largest process MB": highest["process"]}


def _watch(ended: threading.Event, highest: dict[str, float]) -> None:
    """Resident sizes, ten times a second (Linux)."""
    me = os.getpid()
    while not ended.wait(0.1):
        family = {me}
        for _ in range(3):
            family |= {pid for pid, parent in _parents().items() if parent in family}
        highest["parent"] = max(highest["parent"], _megabytes(me))
        highest["process"] = max([highest["process"], *(_megabytes(pid) for pid in family - {me})])


def _parents() -> dict[int, int]:
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            found[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
    return found


def _megabytes(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6
    except (OSError, ValueError):
        return 0.0


if __name__ == "__main__":
    main()
