"""The command: its verbs and flags, its exit codes, and one line on stderr for whatever a user may have got wrong."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import typer
import yaml
from PIL import Image

from m4oe import cli
from m4oe.train.resume import absolute_study
from small_runs import LITTLE, trained
from small_segmenters import NETWORK, TRAINING
from small_volumes import block, study_of, volume, write_volume

VERBS = {
    "demo": ["--device", "--out", "--quiet", "-o", "cohort"],
    "init": ["--out", "--quiet", "-o", "source"],
    "check": ["--json", "studies"],
    "prepare": ["--json", "--part", "--quiet", "out", "raw", "source"],
    "train": ["--config", "--device", "--out", "--quiet", "-c", "-o", "studies"],
    "evaluate": ["--device", "--json", "--out", "-o", "run", "studies"],
    "predict": ["--device", "--input", "--json", "--out", "--quiet", "-i", "-o", "run"],
    "report": ["--quiet", "run"],
    "compare": ["--config", "--device", "--out", "--quiet", "-c", "-o", "sources"],
    "export": ["--out", "--quiet", "-o", "sources"],
    "info": ["--config", "--json", "-c", "source"],
}


@dataclass(frozen=True)
class Said:
    """What a command came to: its exit code, stdout and stderr."""

    code: int
    out: str
    err: str


@pytest.fixture
def kept(monkeypatch) -> list[bool]:
    """An entry for each time that memory would have been kept, which this process could not undo."""
    times: list[bool] = []
    monkeypatch.setattr("m4oe.device.keep_memory", lambda: times.append(True))
    return times


@pytest.fixture
def m4oe(kept, monkeypatch, capsys) -> Callable[..., Said]:
    """m4oe("check", path): the real command, in this process; an exception other than its exit is a failure."""

    def run(*words: object) -> Said:
        monkeypatch.setattr("sys.argv", ["m4oe", *map(str, words)])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as exit:
            code = int(exit.code or 0)
        return Said(code, *capsys.readouterr())

    return run


# ---- verbs, flags, exit codes


def test_verbs_and_flags_are_frozen():
    """Knobs live in files: a flag is added here on purpose, or not at all."""
    commands = typer.main.get_command(cli.app).commands
    assert {
        name: sorted(flag for parameter in command.params for flag in parameter.opts if parameter.name != "help")
        for name, command in commands.items()
    } == VERBS


def test_every_verb_has_a_line_of_help(m4oe):
    assert all(f"  {verb} " in m4oe("--help").out for verb in VERBS)
    assert all(m4oe(verb, "--help").code == 0 for verb in VERBS)


def test_a_word_that_is_no_verb_or_flag_is_a_users_mistake(m4oe):
    assert m4oe("trian").code == m4oe("check").code == m4oe("report", "x", "--jsno").code == 2


def test_check_train_evaluate_info_end_with_0(m4oe, retina, tmp_path):
    run = tmp_path / "run"
    assert m4oe("check", retina).code == 0
    assert json.loads(m4oe("check", retina, "--json").out)
    done = m4oe("train", retina, *LITTLE, "train.max_epochs=1", "-o", run)
    assert done.code == 0 and f"next: m4oe report {run}" in done.out and done.err == ""
    assert m4oe("train", retina, *LITTLE, "train.max_epochs=1", "-o", run, "--quiet") == Said(0, "", "")
    assert json.loads(m4oe("evaluate", run, "--json").out) == json.loads((run / "metrics.json").read_text())
    assert "optic" in m4oe("evaluate", run).out
    facts = json.loads(m4oe("info", run, "--json").out)
    assert 0 < facts["active for one exam"] <= facts["parameters"] and facts["FLOPs for one exam"] > 0


def test_predict_ends_with_1_when_some_exams_failed(m4oe, retina, retina_run, tmp_path):
    folder = shutil.copytree(retina.parent, tmp_path / "study")
    table = pd.read_csv(folder / "eyes.csv").dropna(subset=["fundus"]).head(3)
    table.to_csv(folder / "eyes.csv", index=False)
    assert m4oe("predict", retina_run, "-i", folder / "study.yaml", "-o", tmp_path / "good").code == 0
    (folder / table["fundus"].iloc[0]).write_bytes(b"torn")
    said = m4oe("predict", retina_run, "-i", folder / "study.yaml", "-o", tmp_path / "out", "--json")
    bad = f"phantom-retina/{table['exam_id'].iloc[0]}"
    assert said.code == 1 and said.err.startswith(f"failed: {bad}: ") and said.err.count("\n") == 1
    told = json.loads(said.out)
    assert told["exams"] == 2 and told["failed"].keys() == {bad}


def test_predict_ends_with_2_when_every_exam_failed(m4oe, retina, retina_run, tmp_path):
    """Each is named, and so is that nothing was done; what was there before is there still."""
    folder = shutil.copytree(retina.parent, tmp_path / "study")
    table = pd.read_csv(folder / "eyes.csv").dropna(subset=["fundus"]).head(2)
    table.to_csv(folder / "eyes.csv", index=False)
    assert m4oe("predict", retina_run, "-i", folder / "study.yaml", "-o", tmp_path / "out").code == 0
    before = (tmp_path / "out" / "predictions.csv").read_bytes()
    for name in table["fundus"]:
        (folder / name).write_bytes(b"torn")
    said = m4oe("predict", retina_run, "-i", folder / "study.yaml", "-o", tmp_path / "out")
    assert said.code == 2 and said.out == ""
    assert [line.split(":")[0] for line in said.err.splitlines()] == ["failed", "failed", "error"]
    assert "nothing came of any exam" in said.err and (tmp_path / "out" / "predictions.csv").read_bytes() == before
    assert m4oe("evaluate", retina_run, folder / "study.yaml", "-o", tmp_path / "metrics").code == 2
    assert not (tmp_path / "metrics" / "metrics.json").exists()


def test_evaluate_ends_with_1_when_some_exams_failed(m4oe, retina, retina_run, tmp_path):
    folder = shutil.copytree(retina.parent, tmp_path / "study")
    table = pd.read_csv(folder / "eyes.csv").dropna(subset=["fundus"]).head(3)
    table.to_csv(folder / "eyes.csv", index=False)
    assert m4oe("evaluate", retina_run, folder / "study.yaml", "-o", tmp_path / "good").code == 0
    (folder / table["fundus"].iloc[0]).write_bytes(b"torn")
    said = m4oe("evaluate", retina_run, folder / "study.yaml", "-o", tmp_path / "out")
    bad = f"phantom-retina/{table['exam_id'].iloc[0]}"
    assert said.code == 1 and said.err.startswith(f"failed: {bad}: ") and said.err.count("\n") == 1
    assert "note: 1 of 3 exams failed, and are in none of these numbers" in said.out


def test_evaluate_refuses_masks_of_other_classes_than_those_of_the_model(m4oe, retina, retina_run, tmp_path):
    """A classifier's masks have the classes that were trained; before anything is predicted."""
    content = yaml.safe_load(retina.read_text())
    classes = content["tasks"]["optic"]["classes"]
    content |= {"root": str(retina.parent), "table": str(retina.parent / content["table"])}
    content["tasks"]["optic"] |= {"classes": {value: f"the {name}" for value, name in classes.items()}, "regions": {}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    said = m4oe("evaluate", retina_run, tmp_path / "study.yaml", "-o", tmp_path / "out")
    assert said.code == 2 and "task 'optic' has the classes the" in said.err
    assert not (tmp_path / "out" / "masks").exists()


def test_an_interruption_says_how_to_go_on(m4oe, retina, monkeypatch):
    def stopped(paths):
        raise KeyboardInterrupt

    monkeypatch.setattr("m4oe.data.check.check_studies", stopped)
    said = m4oe("check", retina)
    assert said.code == 130 and "the same command goes on" in said.err


def test_training_alone_keeps_memory(m4oe, kept, retina, tmp_path, monkeypatch):
    m4oe("check", retina)
    assert not kept
    monkeypatch.setattr("m4oe.runs.train_run", lambda *words, **how: sys.exit(0))
    m4oe("train", retina, "-o", tmp_path / "run", "--device", "cpu")
    assert kept == [True]


# ---- bad input


@dataclass(frozen=True)
class Place:
    """A copy of a small retina-like study that a case may spoil, and a folder for what comes out."""

    folder: Path

    @property
    def study(self) -> Path:
        return self.folder / "study.yaml"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def facts(self, **facts: object) -> None:
        self.study.write_text(yaml.safe_dump({**yaml.safe_load(self.study.read_text()), **facts}))

    def task(self, **facts: object) -> None:
        tasks = yaml.safe_load(self.study.read_text())["tasks"]
        self.facts(tasks={**tasks, "glaucoma": {**tasks["glaucoma"], **facts}})

    def table(self, change: Callable[[pd.DataFrame], object]) -> None:
        table = pd.read_csv(self.folder / "eyes.csv", dtype=object)
        changed = change(table)
        (table if changed is None else changed).to_csv(self.folder / "eyes.csv", index=False)

    def file(self, column: str) -> Path:
        return self.folder / pd.read_csv(self.folder / "eyes.csv")[column].iloc[0]


def _cell(column: str, row: int, value: object) -> Callable[[Place], None]:
    def spoil(place: Place) -> None:
        place.table(lambda table: table.__setitem__(column, table[column].where(table.index != row, value)))

    return spoil


def _twice(**facts: object) -> Callable[[Place], None]:
    """The table's first row again, with other cells."""
    return lambda place: place.table(lambda t: pd.concat([t, t.head(1).assign(**facts)], ignore_index=True))


def _conflict(place: Place) -> None:
    """The first exam's pictures in a row each, and its label another in the second."""

    def parted(table: pd.DataFrame) -> pd.DataFrame:
        first = table.head(1)
        other = next(label for label in table["glaucoma"] if label != first["glaucoma"].item())
        rows = [first.assign(oct=None), table.iloc[1:], first.assign(fundus=None, mask=None, glaucoma=other)]
        return pd.concat(rows, ignore_index=True)

    place.table(parted)
    place.table(lambda table: table.assign(view=["fundus"] * (len(table) - 1) + ["oct"]))
    inputs = yaml.safe_load(place.study.read_text())["inputs"]
    place.facts(inputs={name: {**source, "where": {"view": name}} for name, source in inputs.items()})


def _unknown_column(place: Place) -> None:
    place.task(column="glaucomma")


def _two_splits(place: Place) -> None:
    place.table(lambda t: t.assign(split=["train", "test", *["train", "test", "validation"] * 20][: len(t)]))
    place.table(lambda t: t.assign(patient_id=["p1", "p1", *t["patient_id"][2:]]))
    place.facts(split={"column": "split"})


def _empty_class(place: Place) -> None:
    place.task(classes=["normal", "early", "progressive", "late"])


def _mask_of_wrong_shape(place: Place) -> None:
    Image.fromarray(np.zeros((7, 9), np.uint8)).save(place.file("mask"))


def _unnamed_mask_value(place: Place) -> None:
    pixels = np.asarray(Image.open(place.file("mask"))).copy()
    pixels[0, 0] = 77
    Image.fromarray(pixels).save(place.file("mask"))


def _missing(place: Place) -> None:
    place.file("fundus").unlink()


def _truncated(place: Place) -> None:
    path = place.file("fundus")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _not_an_image(place: Place) -> None:
    place.file("fundus").write_text("this is a text")


def _nan_pixels(place: Place) -> None:
    source = nibabel.load(place.file("oct"))
    values = source.get_fdata().astype(np.float32)
    values[0, 0, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(values, source.affine), place.file("oct"))


def _constant(place: Place) -> None:
    Image.fromarray(np.full((96, 96, 3), 9, np.uint8)).save(place.file("fundus"))


def _one_exam(place: Place) -> None:
    place.table(lambda table: table.head(1))


def _damaged(name: str) -> Callable[[Place], None]:
    def spoil(place: Place) -> None:
        path = place.out / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])

    return spoil


def _nothing(place: Place) -> None: ...


def _unfinished(place: Place) -> None:
    _damaged("checkpoints/last.ckpt")(place)
    for name in ("metrics.json", "checkpoints/train.safetensors"):
        (place.out / name).unlink()


def _another_study(place: Place) -> None:
    place.task(classes=["early", "normal", "progressive"])


def _nonempty(place: Place) -> None:
    shutil.rmtree(place.out)
    place.out.mkdir()
    (place.out / "thesis.txt").write_text("years of work")


TRAIN = ("train", "{study}", *LITTLE, "train.max_epochs=1", "-o", "{new}")
AGAIN = ("train", "{study}", *LITTLE, "train.max_epochs=1", "-o", "{out}")
PREDICT = ("predict", "{out}", "-i", "{study}", "-o", "{new}")
BAD: dict[str, tuple[Callable[[Place], None], tuple[str, ...], list[str]]] = {
    "unknown column": (_unknown_column, TRAIN, ["eyes.csv", "glaucomma", "did you mean 'glaucoma'"]),
    "duplicate exam": (_twice(), TRAIN, ["eyes.csv", "rows 2 and ", "'exam_id'"]),
    "conflicting labels": (_conflict, TRAIN, ["eyes.csv", "rows 2 and ", "'glaucoma'"]),
    "patient in two splits": (_two_splits, TRAIN, ["eyes.csv", "row 3", "'split'", "'p1'", "row 2"]),
    "empty class": (_empty_class, TRAIN, ["eyes.csv", "glaucoma", "'late'"]),
    "mask of the wrong shape": (_mask_of_wrong_shape, TRAIN, ["eyes.csv", "row 2", "mask", "7 x 9"]),
    "unnamed mask value": (_unnamed_mask_value, TRAIN, ["masks/", "77"]),
    "file missing": (_missing, TRAIN, ["eyes.csv", "row 2", "fundus"]),
    "file truncated": (_truncated, TRAIN, ["fundus/", "truncated"]),
    "not an image": (_not_an_image, TRAIN, ["fundus/", "not a picture"]),
    "label outside its classes": (_cell("glaucoma", 0, "severe"), TRAIN, ["eyes.csv", "row 2", "'glaucoma'", "severe"]),
    "NaN pixels": (_nan_pixels, TRAIN, ["oct/", "NaN"]),
    "constant image": (_constant, TRAIN, ["eyes.csv", "row 2", "fundus", "constant"]),
    "one-exam study": (_one_exam, TRAIN, ["eyes.csv", "1 patient", "add patients"]),
    "run folder of another study": (_another_study, AGAIN, ["holds another run", "study phantom-retina", "-o"]),
    "damaged checkpoint": (_unfinished, AGAIN, ["last.ckpt", "damaged", "delete it"]),
    "damaged weights": (_damaged("model/model.safetensors"), PREDICT, ["model.safetensors", "damaged", "train again"]),
    "damaged model": (_damaged("model/config.json"), PREDICT, ["config.json", "damaged", "train again"]),
    "damaged environment": (_damaged("environment.json"), AGAIN, ["environment.json", "damaged"]),
    "damaged predictions": (_damaged("metrics.json"), ("report", "{out}"), ["metrics.json", "damaged"]),
    "unknown config key": (_nothing, (*TRAIN, "model.shared.num_expert=4"), ["'model.shared.num_experts'"]),
    "folder that is not empty": (_nonempty, AGAIN, ["not empty", "give another with -o"]),
    "predict into a run": (_nothing, ("predict", "{out}", "-i", "{study}", "-o", "{out}"), ["is a run", "-o"]),
    "no such study": (_nothing, ("train", "nowhere.yaml", "-o", "{new}"), ["nowhere.yaml"]),
    "no such run": (_nothing, ("report", "nowhere"), ["nowhere", "m4oe train"]),
    "no such device": (_nothing, (*AGAIN, "--device", "tpu"), ["tpu"]),
    "init of nothing": (_nothing, ("init", "nowhere.csv", "-o", "{new}"), ["nowhere.csv"]),
    "demo of nothing": (_nothing, ("demo", "brest", "-o", "{new}"), ["did you mean 'breast'"]),
}  # fmt: skip
ALSO_CHECKED = [
    "unknown column", "duplicate exam", "conflicting labels", "patient in two splits", "empty class",
    "mask of the wrong shape", "unnamed mask value", "file missing", "file truncated", "not an image",
    "label outside its classes", "NaN pixels", "constant image", "one-exam study",
]  # fmt: skip


@pytest.fixture(scope="module")
def place_of_run(retina, tmp_path_factory) -> Path:
    """A study with a finished run in `out`, to be copied."""
    folder = tmp_path_factory.mktemp("bad") / "place"
    shutil.copytree(retina.parent, folder)
    place = Place(folder)
    # Complete exams alone: row 2 of the table is then whatever a case spoils.
    place.table(lambda table: table.dropna())
    trained([place.study], place.out, "train.max_epochs=1")
    return folder


@pytest.fixture
def place(place_of_run, tmp_path) -> Place:
    return Place(Path(shutil.copytree(place_of_run, tmp_path / "place")))


def test_every_kind_of_bad_input_has_its_case():
    assert len(BAD) == 28 and len(ALSO_CHECKED) == 14 and set(ALSO_CHECKED) <= set(BAD)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def words(place: Place, command: tuple[str, ...]) -> list[str]:
    names = {"study": place.study, "out": place.out, "new": place.folder / "new"}
    return [names.get(word.strip("{}"), word) if word.startswith("{") else word for word in command]


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_line_and_exit_code_2(name, place, m4oe):
    """The line names what is told in the table; what was written before is there as before."""
    spoil, command, tells = BAD[name]
    spoil(place)
    before = contents(place.folder)
    said = m4oe(*words(place, command))
    assert said.code == 2, said
    assert said.err.startswith("error: ") and said.err.count("\n") == 1 and "Traceback" not in said.err
    assert [word for word in tells if word not in said.err] == [], said.err
    after = contents(place.folder)
    assert all(after.get(path) == content for path, content in before.items())
    assert not [path for path in after if path.name.endswith(".part")]


@pytest.mark.parametrize("name", ALSO_CHECKED)
def test_check_finds_bad_input_before_training(name, place, m4oe):
    spoil, _, tells = BAD[name]
    spoil(place)
    said = m4oe("check", place.study)
    assert said.code == 2
    told = said.out + said.err
    assert [word for word in tells if word not in told] == [], told


def test_check_finds_nothing_where_nothing_is_wrong(place, m4oe):
    said = m4oe("check", place.study)
    assert said.code == 0 and "nothing stands in the way of training" in said.out


def test_an_input_file_that_cannot_be_read_spoils_that_exam_alone(place, m4oe):
    """Training refuses what prediction isolates."""
    _truncated(place)
    said = m4oe(*words(place, PREDICT))
    assert said.code == 1 and said.err.count("failed: ") == said.err.count("\n") == 1


# ---- bad input of a segmenter


def _moved_mask(folder: Path) -> None:
    image = nibabel.load(folder / "v1_mask.nii.gz")
    affine = image.affine.copy()
    affine[0, 3] += 8
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), affine), folder / "v1_mask.nii.gz")


def _another_channel(folder: Path) -> None:
    write_volume(folder / "v1.nii.gz", np.stack([volume(1), volume(2)], -1))


def _channels_that_are_not_there(folder: Path) -> None:
    study = yaml.safe_load((folder / "study.yaml").read_text())
    study["inputs"]["image"]["column"] = ["image", "second"]
    (folder / "study.yaml").write_text(yaml.safe_dump(study))


def _empty_masks(folder: Path) -> None:
    for path in folder.glob("*_mask.nii.gz"):
        write_volume(path, 0 * block())


TRAIN_VOLUMES = ("train", "{study}", *NETWORK, *TRAINING, "-o", "{new}")
BAD_VOLUMES: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "mask of another affine": (_moved_mask, ["table.csv, row 3", "'v_organs'", "v1_mask.nii.gz", "copy_affine"]),
    "picture of another channel": (_another_channel, ["table.csv, row 3", "'image'", "2 channels", "has 1"]),
    "channel without a column": (_channels_that_are_not_there, ["table.csv", "'second'"]),
    "masks that are empty everywhere": (_empty_masks, ["table.csv", "'v_organs'", "empty"]),
}


@pytest.fixture
def volumes(tmp_path) -> Path:
    """The folder of a small study of volumes, that a case may spoil."""
    cohort = study_of(tmp_path, {f"v{case}": (volume(case), block()) for case in range(6)}, "v")
    (tmp_path / "v" / "study.yaml").write_text(absolute_study(cohort.study))
    return tmp_path / "v"


@pytest.mark.parametrize("name", BAD_VOLUMES)
def test_bad_volumes_are_one_clear_line_and_exit_code_2(name, volumes, m4oe):
    spoil, tells = BAD_VOLUMES[name]
    spoil(volumes)
    said = m4oe(*words(Place(volumes), TRAIN_VOLUMES))
    assert said.code == 2, said
    assert said.err.startswith("error: ") and said.err.count("\n") == 1 and "Traceback" not in said.err
    assert [word for word in tells if word not in said.err] == [], said.err


def test_a_modality_that_hard_routing_does_not_know_ends_with_2(volumes, m4oe):
    """Every exam is named with the reason, and what is known; a scan that is known goes on."""
    place = Place(volumes)
    hard = 'phases=[{"name": "specialise", "routing": "modality"}]'
    assert m4oe("train", place.study, *NETWORK, *TRAINING, hard, "-o", place.out).code == 0
    assert m4oe(*words(place, PREDICT)).code == 0
    study = yaml.safe_load(place.study.read_text())
    study["inputs"]["image"]["modality"] = "dixon"
    place.study.write_text(yaml.safe_dump(study))
    said = m4oe(*words(place, PREDICT))
    assert said.code == 2 and said.err.count("does not know modality 'dixon'") == 6
    assert "row 2, input 'image' of exam 'v0'" in said.err and "known: mr (kind mr)" in said.err
    assert said.err.splitlines()[-1] == "error: nothing came of any exam; the reasons stand above"
