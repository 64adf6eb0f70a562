"""Comparisons from studies and from runs: what is trained, what validation chooses, what fails, what is refused."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml

from m4oe import cli
from m4oe.compare import VARIANTS, Comparison, compare_runs, compare_studies, comparing, load_comparison, workers
from m4oe.compare.trainings import Training, candidates, choose
from m4oe.compare.variants import DEFAULT, GROUPS, chosen_variants
from m4oe.config import load_config
from m4oe.errors import UserError
from m4oe.evaluate import read_table
from m4oe.nets.baselines import BASELINES
from m4oe.study import load_study
from small_runs import LITTLE, edited, trained

LITTLE_OF_IT = Comparison(variants=("m4oe",), seeds=(0,), resamples=200, overrides=(*LITTLE, "train.max_epochs=1"))


def little(**facts: object) -> Comparison:
    return LITTLE_OF_IT.model_copy(update=facts)


@pytest.fixture
def here(monkeypatch) -> list[Training]:
    """Trainings run in this process, in their order; those that were run are listed."""
    ran: list[Training] = []

    def run(orders, jobs, done):
        failed = {}
        for training, order in orders.items():
            ran.append(training)
            try:
                workers.train_order(order)
            except UserError as error:
                failed[training] = str(error)
            done(training, failed.get(training, ""))
        return failed

    monkeypatch.setattr(comparing, "run_orders", run)
    return ran


@pytest.fixture(scope="session")
def one_task(breast, tmp_path_factory) -> Path:
    """The breast study with one task and two inputs, of which one is absent now and then."""
    study = load_study(breast)
    content = yaml.safe_load(breast.read_text())
    task = next(name for name, task in study.tasks.items() if task.kind == "ordinal")
    inputs = {name: content["inputs"][name] for name in list(content["inputs"])[:2]}
    facts = {"tasks": {task: content["tasks"][task]}, "inputs": inputs}
    return edited(breast, tmp_path_factory.mktemp("one_task") / "study.yaml", **facts)


# ---- variants and what they come to


def test_every_variant_is_a_config_and_every_group_has_some():
    assert len(VARIANTS) >= 45 and set(BASELINES) <= set(VARIANTS)
    for variant in VARIANTS.values():
        Comparison().config_of(variant.overrides)
    groups = {variant.group for variant in VARIANTS.values()}
    assert groups | {"own"} == set(GROUPS)
    assert len({variant.title for variant in VARIANTS.values()}) == len(VARIANTS)


def test_variants_change_the_config_one_from_another():
    """No row is a copy of another under a new name."""
    dumped = {}
    for name, variant in VARIANTS.items():
        dumped.setdefault((Comparison().config_of(variant.overrides).model_dump_json(), variant.apart), []).append(name)
    assert [names for names in dumped.values() if len(names) > 1] == []


def test_names_groups_and_own_variants_in_the_order_of_the_table():
    assert list(chosen_variants(["late_mean", "m4oe"], {}, "classifier")) == ["m4oe", "late_mean"]
    default = chosen_variants([], {}, "classifier")
    assert {variant.group for variant in default.values()} == set(DEFAULT["classifier"]) and len(default) == 18
    own = chosen_variants(["m4oe"], {"wide": ["model.width=32"]}, "classifier")
    assert list(own) == ["m4oe", "wide"] and own["wide"].overrides == ("model.width=32",)


BAD = {
    "unknown variant": ({"variants": ("m4o",)}, "unknown variant 'm4o': did you mean 'm4oe'"),
    "taken name": ({"own": {"m4oe": ()}}, "own: 'm4oe' is taken"),
    "name that is no folder": ({"own": {"../x": ()}}, "own: '../x' is taken, or is no plain name"),
    "unknown reference": ({"reference": "evif"}, "unknown reference 'evif'"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_asked_wrongly_is_refused_before_anything_is_written(name, one_task, tmp_path):
    facts, message = BAD[name]
    with pytest.raises(UserError, match=message):
        compare_studies([one_task], little(**facts), tmp_path / "out", "cpu")
    assert not (tmp_path / "out").exists()


# ---- the file of a comparison


def test_a_file_with_words_over_it(tmp_path):
    (tmp_path / "config.yaml").write_text("model: {width: 32}\ntrain: {max_epochs: 3}\n")
    file = tmp_path / "comparison.yaml"
    file.write_text("variants: [m4oe, mmoe]\nconfig: config.yaml\n")
    asked = load_comparison(file, ["seeds=[4]", "train.max_epochs=5", "variants=baseline"])
    config = asked.config_of(["train.seed=7"])
    assert asked.seeds == (4,) and asked.variants == ("baseline",)
    assert (config.model.width, config.train.max_epochs, config.train.seed) == (32, 5, 7)


def test_a_config_may_stand_in_the_file_itself(tmp_path):
    file = tmp_path / "comparison.yaml"
    own = {"model": {"width": 32, "image_size": [32, 32]}, "train": {"task_weights": {"risk": 0.5}}}
    file.write_text(yaml.safe_dump({"config": own, "learning_rates": 0.01}))
    asked = load_comparison(file)
    config = asked.config_of([])
    assert config.model.image_size == (32, 32) and config.train.task_weights == {"risk": 0.5}
    assert asked.learning_rates == (0.01,)


@pytest.mark.parametrize(
    "content, words, message",
    [
        ("variant: [m4oe]", [], "comparison.yaml: unknown key 'variant': did you mean 'variants'"),
        ("[m4oe]", [], "comparison.yaml: a comparison is a mapping"),
        ("a: [", [], "comparison.yaml: not readable as YAML"),
        ("seeds: [0, 0]", [], "names one twice"),
        ("seeds: []", [], "seeds"),
        ("config: {train: {max_epoch: 3}}", [], "did you mean 'train.max_epochs'"),
        ("", ["seed=[0]"], "did you mean"),
        ("", ["seeds=[0"], "not readable as a value"),
        ("config: nowhere.yaml", [], "nowhere.yaml: no such config file"),
    ],
)  # fmt: skip
def test_a_bad_file_is_one_clear_message(content, words, message, tmp_path):
    file = tmp_path / "comparison.yaml"
    file.write_text(content)
    with pytest.raises(UserError) as error:
        load_comparison(file, words)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_every_key_of_a_comparison_is_on_its_page(repository):
    page = (repository / "docs" / "compare.md").read_text(encoding="utf-8")
    assert {key for key in Comparison.model_fields if f"| `{key}` |" not in page} == set()


def test_nothing_to_compare(tmp_path):
    with pytest.raises(UserError, match="compare needs study files"):
        compare_studies([], LITTLE_OF_IT, tmp_path / "out", "cpu")


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match="no such comparison file"):
        load_comparison(tmp_path / "nowhere.yaml")


# ---- candidates, and the choice on validation


def test_candidates_of_models_apart(retina):
    """Two tasks of two inputs, of which the mask lies on one: three models of one input, at each of two rates."""
    study = load_study(retina)
    asked = little(learning_rates=(0.1, 0.01))
    both = candidates("x", VARIANTS["single_task_single_input"], asked, [study])
    masks = [name for name, task in study.tasks.items() if task.kind == "segmentation"]
    assert len(both) == 2 * sum(1 if name in masks else len(study.inputs) for name in study.tasks)
    assert {each.input for each in both if each.task in masks} == {study.tasks[masks[0]].on}
    assert len(candidates("x", VARIANTS["single_task"], asked, [study])) == 2 * len(study.tasks)
    assert [each.rate for each in candidates("x", VARIANTS["m4oe"], asked, [study])] == [0.1, 0.01]


def test_a_model_for_one_task_has_no_weights_of_tasks_among_each_other():
    config = {"train": {"task_weights": {"a": 0.3, "b": 0.1}}, "model": {"fusion": {"head_start": {"a": 0}}}}
    asked = Comparison(config=config)
    alone, whole = (Training("m4oe", 0, task=task).config(asked, VARIANTS["m4oe"], "classifier") for task in ("a", ""))
    assert alone.train.task_weights == {} == alone.model.fusion.head_start
    assert whole.train.task_weights == {"a": 0.3, "b": 0.1} and whole.model.fusion.head_start == {"a": 0}


def test_the_best_on_validation_goes_on_and_test_is_not_looked_at(tmp_path):
    slow, fast = Training("x", 0, rate=0.01), Training("x", 0, rate=0.1)
    for training, validation, test in ((slow, 0.7, 0.1), (fast, 0.6, 0.9)):
        folder = tmp_path / training.place
        (folder / "model").mkdir(parents=True)
        tasks = {"tasks": [{"name": "a", "kind": "binary"}, {"name": "b", "kind": "binary"}]}
        (folder / "model" / "config.json").write_text(json.dumps({"schema": tasks}))
        scores = {"validation": {"a": {"auroc": {"value": validation}}}, "test": {"a": {"auroc": {"value": test}}}}
        (folder / "metrics.json").write_text(json.dumps(scores))
    assert choose([fast, slow], tmp_path) == {("x", ""): slow}
    assert choose([fast], tmp_path) == {("x", ""): fast}


# ---- from studies


def test_rates_seeds_and_a_variant_that_fails(one_task, tmp_path, here):
    """Both rates with the first seed, the better one with the second; the broken variant stops nothing."""
    asked = little(
        seeds=(0, 1), learning_rates=(0.01, 0.0001), own={"broken": ("model.encoder.image=nowhere:nothing",)}
    )
    content = compare_studies([one_task], asked, tmp_path / "out", "cpu")
    ours = [each for each in here if each.variant == "m4oe"]
    assert [(each.seed, each.rate) for each in ours[:2]] == [(0, 0.01), (0, 0.0001)]
    assert len(ours) == 3 and ours[2].seed == 1
    row = content["variants"]["m4oe"]
    assert row["chosen"] == {"": {"input": "", "learning_rate": ours[2].rate}} and row["seeds"] == [0, 1]
    assert row["cost"]["parameters"] > 1000 and row["cost"]["epochs"] == 1 and row["cost"]["seconds_an_epoch"] > 0
    broken = content["variants"]["broken"]
    assert "nowhere" in broken["failed"] and broken["scores"] == {}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "runs", "studies", "splits.csv", "comparison.json", "table.csv", "table.tex", "comparison.html",
    }  # fmt: skip
    here.clear()
    again = compare_studies([one_task], asked, tmp_path / "out", "cpu")
    assert {each.variant for each in here} == {"broken"}, "finished trainings are kept, failed ones tried again"
    assert again == content


def test_every_training_has_the_splits_of_the_study_whatever_its_tasks_and_inputs(one_task, tmp_path, here):
    asked = little(variants=("m4oe", "single_task_single_input"), seeds=(0,))
    out = tmp_path / "out"
    content = compare_studies([one_task], asked, out, "cpu")
    shared = read_table(out / "splits.csv").set_index(["study", "exam"])["split"]
    runs = [path.parent for path in out.glob("runs/**/environment.json")]
    assert len(runs) == 3
    for run in runs:
        own = read_table(run / "splits.csv").set_index(["study", "exam"])["split"]
        assert (shared.loc[own.index] == own).all()
    study = load_study(one_task)
    task = next(iter(study.tasks))
    chosen = content["variants"]["single_task_single_input"]["chosen"][task]["input"]
    assert chosen in study.inputs
    assert content["competition"].keys() == study.inputs.keys()
    for probes in content["competition"].values():
        gap = probes[task]["joint"]["value"] - probes[task]["alone"]["value"]
        assert probes[task]["difference"]["value"] == pytest.approx(gap)
    tables = [out / "runs" / "m4oe" / "seed_0", out / "runs" / "single_task_single_input" / "seed_0"]
    ours, joined = (of_test(folder / "predictions.csv") for folder in tables)
    assert list(ours.index) == list(joined.index) and (ours["target"] == joined["target"]).all()
    alone = of_test(out / "runs" / "single_task_single_input" / "seed_0" / task / chosen / "predictions.csv")
    assert (joined.loc[alone.index, "probability"] == alone["probability"]).all()
    filled = joined.drop(alone.index)
    assert len(filled) and (filled["inputs"] == "").all()
    prior = json.loads((tables[1] / task / chosen / "model" / "config.json").read_text())["schema"]["tasks"][0]["prior"]
    for name, group in filled.groupby("class"):
        rank = study.tasks[task].class_names.index(name)
        assert group["probability"].astype(float).to_numpy() == pytest.approx(prior[rank], abs=1e-5)


def of_test(path: Path) -> pd.DataFrame:
    table = read_table(path)
    return table[table["split"] == "test"].sort_values(["exam", "class"]).set_index(["exam", "class"])


def test_every_exam_of_every_fold_counts(one_task, tmp_path, here):
    study = edited(one_task, tmp_path / "folds.yaml", split={"folds": 2}, root=yaml_of(one_task)["root"])
    content = compare_studies([study], little(variants=("single_task",)), tmp_path / "out", "cpu")
    exams = next(iter(content["tasks"].values()))["exams"]
    labelled = read_table(tmp_path / "out" / "runs" / "single_task" / "seed_0" / "predictions.csv")
    assert exams == labelled.loc[labelled["target"] != "", "exam"].nunique() > 30
    assert content["variants"]["single_task"]["failed"] == ""


def yaml_of(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


@pytest.fixture(scope="module")
def compared(one_task, tmp_path_factory) -> Path:
    """A comparison by the command, in processes of their own, with a variant that fails."""
    out = tmp_path_factory.mktemp("compared") / "out"
    words = ["variants=m4oe", "seeds=[0]", "resamples=200", "jobs=2", *LITTLE, "train.max_epochs=1"]
    own = "own={broken: ['model.encoder.image=nowhere:nothing']}"
    said, code, err = io.StringIO(), 0, io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(err):
        patch.setattr("sys.argv", ["m4oe", "compare", str(one_task), "-o", str(out), *words, own])
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
    assert code == 1 and "M4oE is best or tied for best on 1 of 1 task" in said.getvalue(), err.getvalue()
    assert err.getvalue().startswith("failed: broken: broken/seed_0: model.encoder")
    assert err.getvalue().count("\n") == 1
    return out


@pytest.mark.slow
def test_trainings_in_processes_are_measured(compared):
    cost = json.loads((compared / "runs" / "m4oe" / "seed_0" / "cost.json").read_text())
    assert 2**27 < cost["peak_memory"] < 2**33
    row = json.loads((compared / "comparison.json").read_text())["variants"]["m4oe"]
    assert row["cost"] == cost and row["seeds"] == [0]


@pytest.mark.slow
def test_another_config_in_the_same_folder_is_refused(compared, one_task):
    asked = little(overrides=(*LITTLE, "train.max_epochs=2"))
    with pytest.raises(UserError, match=r"holds another run, which differs in: train.max_epochs \(1 there, 2 now\)"):
        compare_studies([one_task], asked, compared, "cpu")


@pytest.mark.slow
def test_other_splits_in_the_same_folder_are_refused(compared, one_task, tmp_path):
    study = edited(one_task, tmp_path / "study.yaml", split={"seed": 5}, root=yaml_of(one_task)["root"])
    with pytest.raises(UserError, match="holds a comparison on other splits"):
        compare_studies([study], LITTLE_OF_IT, compared, "cpu")


def test_a_folder_of_something_else_is_refused(one_task, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not empty and holds no comparison"):
        compare_studies([one_task], LITTLE_OF_IT, tmp_path, "cpu")


def test_a_process_that_ends_without_a_word_is_a_failure(monkeypatch, tmp_path):
    class Dead:
        exitcode = -9

        def __init__(self, target, args):
            self.pipe = args[1]

        def start(self): ...

        def join(self): ...

    order = workers.Order((), load_config(), tmp_path / "splits.csv", tmp_path / "run", "cpu")
    monkeypatch.setattr(workers._PROCESSES, "Process", Dead)
    failed = workers.run_orders({Training("x", 0): order}, 1, lambda training, reason: None)
    assert failed == {Training("x", 0): "the process ended by itself (exit code -9); was there enough memory?"}


@pytest.mark.slow
def test_killed_at_any_point_it_goes_on(one_task, tmp_path):
    """kill -9 while the second of three trains: no training is left behind, the first is kept, the rest is done."""
    out, words = tmp_path / "out", ["variants=m4oe", "seeds=[0,1,2]", "jobs=1", *LITTLE, "train.max_epochs=6"]
    command = [sys.executable, "-c", "from m4oe.cli import main; main()", "compare", str(one_task), "-o", str(out)]
    command += words
    process = subprocess.Popen(command, start_new_session=True)
    second = out / "runs" / "m4oe" / "seed_1" / "checkpoints" / "last.ckpt"
    try:
        wait_for(second.is_file)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    wait_for(lambda: not members(process.pid))
    kept = (out / "runs" / "m4oe" / "seed_0" / "metrics.json").stat().st_mtime_ns
    assert subprocess.run(command, timeout=900).returncode == 0
    assert (out / "runs" / "m4oe" / "seed_0" / "metrics.json").stat().st_mtime_ns == kept
    assert json.loads((out / "comparison.json").read_text())["variants"]["m4oe"]["seeds"] == [0, 1, 2]


def wait_for(happened, seconds: float = 900) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


def members(session: int) -> list[str]:
    listed = subprocess.run(["ps", "-s", str(session), "-o", "pid="], capture_output=True, text=True)
    return listed.stdout.split()


# ---- from runs


@pytest.fixture(scope="module")
def runs(one_task, tmp_path_factory) -> Path:
    """Two seeds of one config, and another config."""
    folder = tmp_path_factory.mktemp("runs")
    once = "train.max_epochs=1"
    for name, own in {"a": (), "a2": ("train.seed=1",), "b": ("train.cmi_weight=0",)}.items():
        trained([one_task], folder / name, once, *own)
    return folder


def test_runs_that_differ_in_their_seed_are_one_row(runs, tmp_path):
    content = compare_runs([runs / "a", runs / "a2", runs / "b"], Comparison(resamples=200), tmp_path / "out")
    assert {name: row["seeds"] for name, row in content["variants"].items()} == {"a": [0, 1], "b": [0]}
    assert content["reference"] == "a" and (tmp_path / "out" / "comparison.html").is_file()
    assert content["variants"]["b"]["cost"]["parameters"] > 1000


def copied(run: Path, to: Path, change) -> Path:
    shutil.copytree(run, to)
    table = read_table(to / "splits.csv")
    change(table).to_csv(to / "splits.csv", index=False)
    return to


def moved(table: pd.DataFrame) -> pd.DataFrame:
    table.loc[table["exam"] == sorted(table["exam"])[3], "split"] = "nowhere"
    return table


def test_runs_on_other_splits_are_refused_by_their_first_difference(runs, tmp_path):
    other = copied(runs / "b", tmp_path / "other", moved)
    exam = sorted(read_table(runs / "a" / "splits.csv")["exam"])[3]
    with pytest.raises(UserError, match=f"different splits: exam '{exam}' of study .* is nowhere in .*other"):
        compare_runs([runs / "a", other][::-1], Comparison(), tmp_path / "out")
    shorter = copied(runs / "b", tmp_path / "shorter", lambda table: table[table["exam"] != exam])
    with pytest.raises(UserError, match=f"exam '{exam}' .* in none in .*shorter"):
        compare_runs([shorter, runs / "a"], Comparison(), tmp_path / "out")


def test_what_is_no_pair_of_runs_is_refused(runs, tmp_path):
    for given, message in (
        ([runs / "a"], "two runs at least"),
        ([runs / "a", tmp_path], "holds no finished run"),
        ([runs / "a", shutil.copytree(runs / "a", tmp_path / "twin")], "is the same config and seed as"),
    ):
        with pytest.raises(UserError, match=message):
            compare_runs(given, Comparison(), tmp_path / "out")


def test_two_folders_of_one_name_are_told_apart(runs, tmp_path):
    again = shutil.copytree(runs / "b", tmp_path / "x" / "a")
    content = compare_runs([runs / "a", again], Comparison(resamples=100), tmp_path / "out")
    assert list(content["variants"]) == [f"{runs.name}/a", "x/a"]


def test_places_of_trainings_are_distinct_and_readable():
    first = Training("x", 0)
    each = [first, replace(first, seed=1), replace(first, task="t"), replace(first, task="t", input="i", rate=0.01)]
    assert [str(one) for one in each] == ["x/seed_0", "x/seed_1", "x/seed_0/t", "x/seed_0/t/i/lr_0.01"]
