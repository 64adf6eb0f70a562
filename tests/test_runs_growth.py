"""Growing a run: it inherits the network, what it was stays as it is, and what growing did is told."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from m4oe.artifact import load_artifact
from m4oe.config import load_config
from m4oe.errors import UserError
from m4oe.predict import predictor_of
from m4oe.runs import describe_model, predict_run, run_cohorts
from m4oe.runs.inheritance import inherited
from m4oe.runs.tables import predicted, rows_of
from small_segmenters import CPU, PHASES, clear_study, grow, growing, train

LEARNING = ("train.learning_rate=0.02", "train.max_epochs=2", "train.slices_per_epoch=48")
# Old runs that no default of a config leads to: its phases, and what it says of the network.
OLD = {
    "gate": (PHASES[1:], ()),
    "hard routing, heads, patches": (
        PHASES[1:2],
        ("model.segmenter.labels=heads", "model.segmenter.stem=patch"),
    ),
    "one expert a picture, one always on, neighbours": (
        PHASES[1:],
        (
            "model.segmenter.gate.top_k=1",
            "model.segmenter.gate.per=sample",
            "model.segmenter.shared_expert=true",
            "model.segmenter.context=1",
        ),
    ),
}


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("studies")
    return [clear_study(folder, "a", "mr"), clear_study(folder, "b", "ct")]


@pytest.fixture(scope="module")
def new(tmp_path_factory) -> Path:
    """A study of a new modality, with a new class."""
    return clear_study(tmp_path_factory.mktemp("new"), "c", "xray", classes=["background", "lesion"])


@pytest.fixture(scope="module", params=OLD)
def pair(request, studies, new, tmp_path_factory) -> tuple[Path, Path]:
    """(a run, the run that is grown from it)"""
    phases, network = OLD[request.param]
    folder = tmp_path_factory.mktemp("pair")
    run = train(studies, folder / "run", phases, *LEARNING, *network)
    return run, grow(new, folder / "grown", run, "train.learning_rate=0.05", *LEARNING[1:])


@pytest.fixture(scope="module")
def run(studies, tmp_path_factory) -> Path:
    """An old run to write configs for."""
    return train(studies, tmp_path_factory.mktemp("run") / "run", PHASES[1:])


def masks_of(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(nib.load(path).dataobj) for path in sorted(folder.glob("*.nii.gz"))}


# ---- what it was


def test_a_grown_model_that_is_closed_gives_the_very_masks_that_it_gave_before(pair, tmp_path):
    run, out = pair
    old, grown = load_artifact(run), load_artifact(out)
    assert grown.schema.modalities == ("mr", "ct", "xray")
    grown.network.restrict(experts=2, outputs=len(old.network.head.bias))
    closed = predictor_of(replace(old, network=grown.network), CPU)
    exams = rows_of(run_cohorts(run), pd.read_csv(run / "splits.csv"), "test", old.schema)
    predicted(closed, exams, 32, tmp_path / "masks")
    before, now = masks_of(run / "masks"), masks_of(tmp_path / "masks")
    assert before.keys() == now.keys() and len(before) == 6
    assert all(np.array_equal(now[name], mask) for name, mask in before.items())
    assert all(set(np.unique(mask)) == {0, 1} for mask in before.values())


def test_what_growing_did_to_the_old_is_the_difference_of_two_evaluations(pair, studies, tmp_path):
    """Dice 2 |A and B| / (|A| + |B|) of each old test exam, by its mask of the grown run and of the old; their mean
    difference. Hard routing with a head for each task leaves nothing by which the new could change the old."""
    run, out = pair
    changed = []
    predict_run(out, [str(path) for path in studies], tmp_path / "now", CPU)
    before, now = masks_of(run / "masks"), masks_of(tmp_path / "now" / "masks")
    told = json.loads((out / "growth.json").read_text())
    assert told.keys() == {"a_organs", "b_organs"}
    for name, path in zip("ab", studies):
        mine = [mask for mask in before if mask.startswith(f"{name}__")]
        truth = {m: np.asarray(nib.load(path.parent / f"{m.split('__')[1]}_mask.nii.gz").dataobj) for m in mine}
        changes = [dice(now[mask], truth[mask]) - dice(before[mask], truth[mask]) for mask in mine]
        assert len(changes) == 3 and told[f"{name}_organs"]["difference"] == pytest.approx(np.mean(changes), abs=1e-6)
        low, high = (told[f"{name}_organs"][end] for end in ("low", "high"))
        assert min(changes) - 1e-6 <= low <= high <= max(changes) + 1e-6
        changed += changes
    assert any(changed) == (load_artifact(run).phase.routing == "gate")


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a * b).sum() / (a.sum() + b.sum())


# ---- what it inherits


def test_settings_that_nobody_wrote_are_those_of_the_old_run(pair):
    run, out = pair
    old, grown = load_artifact(run), load_artifact(out)
    told, then = grown.model.segmenter, old.model.segmenter
    assert told == then.model_copy(update={"expert_of": {"mr": 0, "ct": 1}})
    assert grown.phase.routing == old.phase.routing
    assert grown.schema.plan.size == old.schema.plan.size == (16, 16)
    assert grown.schema.streams[:2] == old.schema.streams


CONTRADICTIONS = {
    "model.segmenter.gate.top_k=1": r"config: model\.segmenter\.gate\.top_k is 1, but None in .*run",
    "model.segmenter.labels=heads": r"model\.segmenter\.labels is heads, but unified in",
    "model.segmenter.size=[32, 32]": r"model\.segmenter\.size is \[32, 32\], but \[16, 16\] in",
    "model.segmenter.width=16": r"model\.segmenter\.width is 16, but 8 in .*leave it out",
    "model.segmenter.start=hf:x": r"model\.segmenter\.start is hf:x, but None in",
    "model.segmenter.expert_of={mr: 1}": r"model\.segmenter\.expert_of\.mr is 1, but 0 in",
    "model.preset=base": r"model\.preset is base, but tiny in",
    "model.kind=classifier": r"model\.kind is classifier, but segmenter in",
}


@pytest.mark.parametrize("text", CONTRADICTIONS)
def test_a_setting_that_contradicts_the_old_run_is_refused(run, text):
    with pytest.raises(UserError, match=CONTRADICTIONS[text]):
        inherited(growing(run, text))


def test_routing_that_contradicts_the_old_run_is_refused(run):
    with pytest.raises(UserError, match=r"routing of 'grow' is modality, but gate in .*run"):
        inherited(growing(run, routing="modality"))
    assert inherited(growing(run, routing="gate")).phases[0].routing == "gate"


def test_a_setting_that_agrees_and_one_that_is_of_the_new_may_be_written(run):
    agreeing = ("model.segmenter.size=[16, 16]", "model.segmenter.expert_of={mr: 0}")
    anew = ("model.segmenter.spacing=[2, 2]", "model.segmenter.flips=true", "model.segmenter.expert_of={xray: 0}")
    assert inherited(growing(run, *agreeing)) == inherited(growing(run))
    told = inherited(growing(run, *anew)).model.segmenter
    assert (told.spacing, told.flips, told.expert_of) == ((2, 2), True, {"mr": 0, "ct": 1, "xray": 0})


def test_the_whole_config_of_a_grown_run_may_be_written(pair):
    _, out = pair
    assert inherited(load_config(out / "config.yaml")).for_tasks({"segmentation"}) == load_config(out / "config.yaml")


def test_the_size_of_a_grown_model_is_told_with_what_it_grows(run, new):
    assert describe_model([new], growing(run))["streams"] == "image@mr, image@ct, image"


def test_a_plan_that_treats_old_pictures_otherwise_is_refused(run, new, tmp_path):
    plan = json.loads((run / "plan.json").read_text())
    (tmp_path / "grown").mkdir()
    (tmp_path / "grown" / "plan.json").write_text(json.dumps(plan | {"size": [32, 32]}))
    with pytest.raises(UserError, match=r"plan\.json: size is \[32, 32\], but \[16, 16\] in .*run"):
        grow(new, tmp_path / "grown", run)


# ---- what cannot be grown


def test_a_fold_is_not_grown(run, new, tmp_path):
    """It has no studies of its own, on which to measure what growing does: told before training, not after."""
    fold = tmp_path / "run" / "fold_0"
    shutil.copytree(run, fold, ignore=shutil.ignore_patterns("studies", "cache"))
    with pytest.raises(UserError, match=r"fold_0: no studies/ in it: not a run, or not the top folder of one"):
        grow(new, tmp_path / "grown", fold)
    assert not (tmp_path / "grown").exists()


def test_a_classifier_is_not_grown(retina, retina_run, tmp_path):
    with pytest.raises(UserError, match="holds a classifier, and only a segmenter can be grown"):
        grow(retina, tmp_path / "grown", retina_run)
    assert not (tmp_path / "grown").exists()


def test_a_segmenter_does_not_grow_by_a_diagnosis(run, breast, tmp_path):
    with pytest.raises(UserError, match="task 'density' is of kind ordinal, and the model is a segmenter"):
        grow(breast, tmp_path / "grown", run)
