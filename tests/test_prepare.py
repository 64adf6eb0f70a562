"""`prepare` from release to studies: what check and training say of them, and what stopping, sharing and damage do."""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from m4oe import cli
from m4oe.data.check import check_studies
from m4oe.data.sources import SOURCES, pictures, preparation, prepare
from m4oe.data.sources.pictures import Folders, Job, cut, look
from m4oe.data.sources.twins import write_twin
from m4oe.errors import UserError
from m4oe.runs import evaluate_run
from m4oe.study import load_study
from small_runs import log_of, trained

NAMES = tuple(SOURCES)
STUDIES = {"amos22": ("amos22-ct", "amos22-mr")}
UNDISTURBED = "gamma"  # the twin on which runs are stopped and shared: 25 chunks, some of which convert
SMALL_SEGMENTER = (
    "model.segmenter.size=[16, 16]",
    "model.segmenter.width=12",
    "model.segmenter.depths=[1, 1]",
    "model.segmenter.heads=[1, 2]",
    "model.segmenter.window=4",
    "train.slices_per_epoch=16",
)
WHOLE_EPOCH = ("train.batch_size=128",)  # a step is an epoch
FEW_SLICES = (*SMALL_SEGMENTER, "train.slices_per_epoch=4", "train.batch_size=4")
STEPS = {name: FEW_SLICES if name in ("flare22", "amos22", "atlas23") else WHOLE_EPOCH for name in NAMES}


@pytest.fixture(scope="module", autouse=True)
def one_process():
    """In this interpreter one process at a time reads: each costs its start. The run that is killed uses them all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "_processes", lambda: 1)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """place("embed"): (raw, out), a twin and what prepare made of it, both of which no test changes."""
    root, done = tmp_path_factory.mktemp("prepared"), {}

    def of(name: str) -> tuple[Path, Path]:
        if name not in done:
            raw, out = write_twin(name, root / name), root / f"{name}-out"
            done[name] = prepare(name, raw, out)
            assert len(done[name].problems) == 0 and done[name].waiting == 0
        return root / name, root / f"{name}-out"

    return of


def studies(name: str, out: Path) -> list[Path]:
    return [out / f"{study}.yaml" for study in STUDIES.get(name, (name,))]


def contents(out: Path) -> dict[str, bytes]:
    """All that prepare wrote, by name, with its own place taken out."""
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): path.read_bytes().replace(str(out).encode(), b"OUT") for path in files}


def results(raw: Path, out: Path) -> dict[str, bytes]:
    """Without the place of the release, and without records, whose names depend on when its files were written."""
    written = {name: content for name, content in contents(out).items() if not name.startswith(".prepare/")}
    return {name: content.replace(str(raw).encode(), b"RAW") for name, content in written.items()}


# ---- what comes out


@pytest.mark.parametrize("name", NAMES)
def test_a_prepared_twin_passes_the_check(place, name):
    _, out = place(name)
    findings = check_studies([load_study(path) for path in studies(name, out)])
    assert [str(problem) for problem in findings.problems if problem.severity == "error"] == []
    assert {path.name for path in out.glob("*.yaml")} == {path.name for path in studies(name, out)}
    assert pd.read_csv(out / "problems.csv").columns.tolist() == ["study", "row", "column", "path", "reason"]


def test_all_seven_are_tried():
    assert len(NAMES) == len(STEPS) == 7


@pytest.mark.parametrize("name", [pytest.param("embed", marks=pytest.mark.slow), *sorted({*NAMES} - {"embed"})])
def test_a_prepared_twin_trains_two_steps_and_is_evaluated(place, name, tmp_path):
    """After prepare and check, which the test above makes."""
    _, out = place(name)
    run = trained(studies(name, out), tmp_path / "run", "train.max_epochs=2", *STEPS[name])
    lines = log_of(run)  # an epoch is a step; a segmenter has several phases, the last of which is longer
    assert min(Counter(line["phase"] for line in lines).values()) == 2
    assert all(np.isfinite(line["train"]["loss"]) for line in lines)
    metrics = (run / "metrics.json").read_text()
    found = evaluate_run(run, [], tmp_path / "again", torch.device("cpu")).metrics
    assert found == json.loads(metrics) == json.loads((tmp_path / "again" / "metrics.json").read_text())
    tasks = {task for path in studies(name, out) for task in load_study(path).tasks}
    assert set(found["test"]) == tasks and all(found["test"][task] for task in tasks)


def test_breasts_of_two_releases_share_density_in_one_run(place, tmp_path):
    """The same inputs, modality and classes, so that one head learns from all."""
    paths = [place(name)[1] / f"{name}.yaml" for name in ("rsna", "vindr")]
    run = trained(paths, tmp_path / "run", "train.max_epochs=1")
    assert {"density", "cancer"} <= set(json.loads((run / "metrics.json").read_text())["test"])


@pytest.mark.slow
def test_prepared_volumes_train_one_segmenter(place, tmp_path):
    """CT, MR and contrast-enhanced MR with three label sets, as published: one model, a score for each task."""
    paths = [path for name in ("flare22", "amos22", "atlas23") for path in studies(name, place(name)[1])]
    run = trained(paths, tmp_path / "run", "train.max_epochs=1", *SMALL_SEGMENTER)
    tasks = {"flare_organs", "amos_organs", "atlas_liver"}
    assert set(json.loads((run / "metrics.json").read_text())["test"]) == tasks and len(paths) == 4


def test_nothing_is_written_into_the_release(tmp_path):
    raw = write_twin("gamma", tmp_path / "raw")
    before = {path: path.stat().st_mtime_ns for path in raw.rglob("*")}
    prepare("gamma", raw, tmp_path / "out")
    assert len(before) > 400 and {path: path.stat().st_mtime_ns for path in raw.rglob("*")} == before


def test_pictures_stay_where_they_are_and_volumes_are_converted(place):
    raw, out = place("gamma")
    study = yaml.safe_load((out / "gamma.yaml").read_text())
    table = pd.read_csv(out / "gamma.csv")
    assert study["root"] == str(raw) and table["fundus"].str.startswith("Glaucoma_grading/").all()
    assert sorted(table["oct"]) == sorted(map(str, (out / "oct").glob("*.npz"))) and len(table) == 23


def test_counts_stand_beside_those_published(place):
    _, out = place("rsna")
    counts = json.loads((out / "prepared.json").read_text())["counts"]
    assert counts["training patients"] == {"found": 24, "published": 11913}
    assert sum(counts[f"training images of cancer {n}"]["found"] for n in (0, 1)) == 97
    published = {what: count["published"] for what, count in counts.items()}
    of = {label: sum(n for what, n in published.items() if f"of {label} " in what) for label in ("cancer", "site")}
    assert of == {"cancer": 54706, "site": 54706}


def test_published_classes_add_up():
    """What was published of VinDr and RSNA fits together; a slip of a digit would not."""
    vindr, gamma = SOURCES["vindr"].published, SOURCES["gamma"].published
    for label in ("part", "BI-RADS", "density"):
        assert sum(n for what, n in vindr.items() if what.startswith(f"breasts of {label}")) == 10_000
    assert sum(n for what, n in gamma.items() if what.startswith("grade")) == gamma["training pairs"]


# ---- stopped, shared, changed


def test_a_run_that_was_killed_goes_on_and_ends_the_same(place, tmp_path):
    raw, whole = place(UNDISTURBED)
    out = tmp_path / "out"
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom m4oe.data.sources import prepare\n"
        "stop = lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done > 5 else None\n"
        "if __name__ == '__main__':\n    prepare(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), progress=stop)\n"
    )
    script = tmp_path / "stopped.py"
    script.write_text(code)
    words = [sys.executable, str(script), UNDISTURBED, str(raw), str(out)]
    assert subprocess.run(words, stderr=subprocess.DEVNULL, timeout=120).returncode == -signal.SIGKILL
    recorded = {path: path.stat().st_mtime_ns for path in (out / ".prepare").glob("*.json")}
    assert recorded and not (out / "gamma.yaml").exists()
    prepare(UNDISTURBED, raw, out)
    assert contents(out) == contents(whole)
    assert all(path.stat().st_mtime_ns == when for path, when in recorded.items())  # nothing was done twice


def test_parts_in_any_order_make_the_whole(place, tmp_path):
    raw, whole = place(UNDISTURBED)
    waiting = []
    for part in ("3/3", "1/3", "2/3"):
        assert not list(tmp_path.glob("*.yaml"))
        prepared = prepare(UNDISTURBED, raw, tmp_path, part=part)
        waiting.append(prepared.waiting)
    assert waiting[0] > waiting[1] > waiting[2] == 0 and len(prepared.studies) == 1
    assert contents(tmp_path) == contents(whole)


def test_what_is_done_stays_done_where_folders_move(place, tmp_path):
    """As on another machine, which may see them under other names."""
    raw, whole = place("flare22")
    shutil.copytree(whole, tmp_path / "moved")
    shutil.copytree(raw, tmp_path / "elsewhere")
    records = {path: path.stat().st_mtime_ns for path in (tmp_path / "moved" / ".prepare").iterdir()}
    asked = []
    prepare("flare22", tmp_path / "elsewhere", tmp_path / "moved", progress=lambda *at: asked.append(at))
    assert asked == [(asked[0][1], asked[0][1])] and asked[0][0] > 30
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "moved" / ".prepare").iterdir()} == records


def test_a_bad_file_is_listed_and_the_rest_is_done(place, tmp_path):
    raw = write_twin("flare22", tmp_path / "raw")
    scan = raw / "Training/FLARE22_LabeledCase50/images/FLARE22_Tr_0003_0000.nii.gz"
    mask = raw / "Tuning/labels/FLARETs_0002.nii.gz"
    good = scan.read_bytes(), mask.read_bytes()
    scan.write_bytes(good[0][:200])
    mask.write_bytes(b"")
    prepared = prepare("flare22", raw, tmp_path / "out")
    rows = {row.path: (row.study, row.row, row.column) for row in prepared.problems.itertuples()}
    table = pd.read_csv(tmp_path / "out" / "flare22.csv", keep_default_na=False)
    assert rows == {
        str(scan.relative_to(raw)): ("flare22", 4, "scan"),
        str(mask.relative_to(raw)): ("flare22", 15, "mask"),
    }
    assert table.loc[2, "case"] == "train_0003" and table.loc[2, "scan"] == table.loc[13, "mask"] == ""
    assert (table["scan"] == "").sum() == 1
    findings = check_studies([load_study(prepared.studies[0])])
    assert not findings.spoils_training
    # Mended, it is looked at again, and all is as if it had never been bad.
    scan.write_bytes(good[0])
    mask.write_bytes(good[1])
    assert len(prepare("flare22", raw, tmp_path / "out").problems) == 0
    source, whole = place("flare22")
    assert results(raw, tmp_path / "out") == results(source, whole)


def made(folder: Path) -> Folders:
    folders = Folders(folder / "raw", folder / "out")
    folders.work.mkdir(parents=True)
    return folders


def test_a_file_that_kills_its_process_is_found_out(tmp_path, monkeypatch):
    def deadly(job: Job, folders: Folders) -> None:
        if job.path.endswith("7"):
            os.kill(os.getpid(), signal.SIGKILL)
        if job.path.endswith("3"):
            raise UserError(f"{folders.raw / job.path}: damaged")

    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(pictures, "_use", deadly)
    monkeypatch.setattr(pictures, "_pool", lambda processes: ProcessPoolExecutor(processes, fork))
    folders = made(tmp_path)
    chunks = cut([Job(f"picture {number}", "photo") for number in range(100)], folders.raw)
    seen: list[tuple[int, int]] = []
    look(chunks[1:], folders, 2, lambda done, total: seen.append((done, total)))
    found = chunks[1].problems(folders)
    assert [chunk.jobs[0].path for chunk in chunks] == ["picture 0", "picture 64"]
    assert found == {
        **{f"picture {n}": "damaged" for n in (73, 83, 93)},
        **{f"picture {n}": pictures.KILLED for n in (67, 77, 87, 97)},
    }
    assert seen[0] == (0, 36) and seen[-1] == (36, 36)


def test_a_file_that_may_not_be_read_is_listed_and_a_full_disk_is_not_its_fault(tmp_path, monkeypatch):
    def use(job: Job, folders: Folders) -> None:
        raise OSError(*{"locked": (13, "Permission denied"), "late": (28, "No space left on device")}[job.path])

    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(pictures, "_use", use)
    monkeypatch.setattr(pictures, "_pool", lambda processes: ProcessPoolExecutor(processes, fork))
    folders = made(tmp_path)
    locked, late = cut([Job("locked", "photo")], tmp_path), cut([Job("late", "photo")], tmp_path)
    look(locked, folders, 1)
    assert locked[0].problems(folders) == {"locked": "Permission denied"}
    with pytest.raises(OSError, match="No space left"):
        look(late, folders, 1)
    assert not late[0].record(folders).exists()


def test_a_file_that_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "SECONDS", 1)
    monkeypatch.setattr(pictures, "_use", lambda job, folders: signal.pause())
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(pictures, "_pool", lambda processes: ProcessPoolExecutor(processes, fork))
    folders = made(tmp_path)
    chunks = cut([Job("picture", "ct")], folders.raw)
    look(chunks, folders, 1)
    assert chunks[0].problems(folders) == {"picture": pictures.KILLED}


def test_records_depend_on_the_files_and_on_what_is_done(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"1")
    first = cut([Job("a", "ct")], tmp_path)[0].name
    assert first == cut([Job("a", "ct")], tmp_path)[0].name
    assert first != cut([Job("a", "mr")], tmp_path)[0].name
    path.write_bytes(b"12")
    assert first != cut([Job("a", "ct")], tmp_path)[0].name


def test_a_changed_slice_or_a_lost_volume_is_done_again(tmp_path):
    """Of 20 slices one is repaired in place; then the volume is deleted. Each time it comes out right."""
    raw, out = write_twin("gamma", tmp_path / "raw"), tmp_path / "out"
    slices = raw / "Glaucoma_grading" / "training" / "multi-modality_images" / "0001" / "0001"
    volume = out / "oct" / "Glaucoma_grading_training_multi-modality_images_0001_0001.npz"
    good = (slices / "3_image.jpg").read_bytes()
    (slices / "3_image.jpg").write_bytes(good[:80])
    assert [row.column for row in prepare("gamma", raw, out).problems.itertuples()] == ["oct"]
    assert not volume.exists()
    assert pd.read_csv(out / "gamma.csv")["oct"].isna().tolist() == [True] + [False] * 22
    (slices / "3_image.jpg").write_bytes(good)
    assert len(prepare("gamma", raw, out).problems) == 0 and volume.exists()
    content = volume.read_bytes()
    volume.unlink()
    prepare("gamma", raw, out)
    assert volume.read_bytes() == content


def test_volumes_are_recorded_more_often_than_images():
    jobs = (
        [Job(f"{n}", "photo") for n in range(65)] + [Job("m", values=(0, 1))] + [Job(f"v{n}", "mr") for n in range(4)]
    )
    chunks = cut([*jobs, Job("s", "oct", target="s.npz")], Path("nowhere"))
    assert [[job.path for job in chunk.jobs] for chunk in chunks] == [
        ["s"],
        ["m", "v0", "v1", "v2"],
        ["v3"],
        [str(n) for n in range(64)],
        ["64"],
    ]


def test_few_chunks_wait_however_many_there_are(tmp_path, monkeypatch):
    """Memory does not grow with the release: what is under way is bounded."""
    waiting: list[int] = []
    real = pictures.wait
    monkeypatch.setattr(pictures, "wait", lambda futures, **how: waiting.append(len(futures)) or real(futures, **how))
    monkeypatch.setattr(pictures, "_use", lambda job, folders: None)
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(pictures, "_pool", lambda processes: ProcessPoolExecutor(processes, fork))
    look(cut([Job(f"{number}", "photo") for number in range(3000)], tmp_path), made(tmp_path), 2)
    assert max(waiting) == 8 and len(waiting) > 8


# ---- users' mistakes


def test_mistakes_are_told_before_anything_is_written(place, tmp_path):
    raw, _ = place("atlas23")
    for words, message in {
        ("atlas32", raw, tmp_path / "out"): "unknown source 'atlas32': did you mean 'atlas23'",
        ("atlas23", tmp_path / "nowhere", tmp_path / "out"): "nowhere: no such folder",
        ("atlas23", raw, raw): "lies in the release itself",
        ("atlas23", raw, raw / "deep" / "er"): "lies in the release itself",
    }.items():
        with pytest.raises(UserError, match=message):
            prepare(*words)
    for part in ("0/2", "3/2", "1", "a/b", "1/0", "-1/2"):
        with pytest.raises(UserError, match="write i/n"):
            prepare("atlas23", raw, tmp_path / "out", part=part)
    assert not (tmp_path / "out").exists() and not (raw / "deep").exists()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"file: cannot be written to \(Not a directory\)"):
        prepare("atlas23", raw, tmp_path / "file")


def test_a_release_of_which_nothing_is_left_is_refused(tmp_path):
    raw = write_twin("atlas23", tmp_path / "raw")
    rows = "patient_id,image_id,laterality,view,site_id\n1,2,L,AT,1\n"
    (raw / "train.csv").write_text(rows)
    (raw / "train_images").mkdir()
    with pytest.raises(UserError, match=r"nothing of 'rsna' is left; left out are .*other than CC and MLO': 1"):
        prepare("rsna", raw, tmp_path / "out")


def test_another_source_is_not_mixed_in(place):
    raw, _ = place("atlas23")
    with pytest.raises(UserError, match="holds 'gamma' already; name another folder for 'atlas23'"):
        prepare("atlas23", raw, place("gamma")[1])


# ---- the command


@pytest.fixture
def m4oe(monkeypatch, capsys):
    """m4oe("prepare", ...): exit code, stdout, stderr of the real command in this process."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["m4oe", *map(str, words)])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as exit:
            code = int(exit.code or 0)
        return (code, *capsys.readouterr())

    return run


def test_the_command_tells_counts_and_what_comes_next(m4oe, place):
    raw, out = place("atlas23")
    code, told, err = m4oe("prepare", "atlas23", raw, out)
    assert (code, err) == (0, "") and f"next: m4oe check {out / 'atlas23.yaml'}" in told
    assert "warning: MR train cases: 12 found, 60 published; a part is missing" in told
    assert "note: only the official training has masks" in told
    assert m4oe("prepare", "atlas23", raw, out, "--quiet") == (0, "", "")
    assert json.loads(m4oe("prepare", "atlas23", raw, out, "--json")[1])["counts"]["MR train masks"]["found"] == 12


def test_the_command_ends_with_1_for_bad_files_and_2_for_mistakes(m4oe, tmp_path):
    raw = write_twin("atlas23", tmp_path / "raw")
    (bad := next(raw.rglob("im4.nii.gz"))).write_bytes(b"torn")
    code, told, err = m4oe("prepare", "atlas23", raw, tmp_path / "out")
    assert (
        code == 1 and err.startswith(f"failed: {bad.relative_to(raw)}: ") and err.count("\n") == 1 and "next:" in told
    )
    code, told, err = m4oe("prepare", "atlas23", raw, tmp_path / "out", "--part", "5/4")
    assert (code, told) == (2, "") and err == "error: part '5/4': write i/n, as 1/4, 2/4, 3/4 and 4/4 for four parts\n"


def test_help_names_every_source(m4oe):
    told = " ".join(m4oe("prepare", "--help")[1].split())
    assert all(name in told for name in NAMES)


def test_twins_are_written_from_the_command_line(tmp_path, monkeypatch):
    def run(*words: object) -> None:
        monkeypatch.setattr("sys.argv", ["twins", *map(str, words)])
        runpy.run_module("m4oe.data.sources.twins", run_name="__main__")

    run("atlas23", tmp_path / "raw")
    assert next((tmp_path / "raw").rglob("im0.nii.gz")).is_file()
    with pytest.raises(SystemExit, match=r"usage: .*embed, rsna"):
        run("atlas23")
    with pytest.raises(SystemExit, match="error: unknown source 'atlas'"):
        run("atlas", tmp_path)


def test_a_stack_is_lossless(place):
    raw, out = place("gamma")
    name = "Glaucoma_grading_training_multi-modality_images_0002_0002.npz"
    with np.load(out / "oct" / name) as packed:
        volume = packed["volume"]
    slices = raw / "Glaucoma_grading" / "training" / "multi-modality_images" / "0002" / "0002"
    planes = [np.asarray(Image.open(slices / f"{number}_image.jpg")) for number in range(16)]
    assert volume.dtype == np.uint8 and np.array_equal(volume, planes)
