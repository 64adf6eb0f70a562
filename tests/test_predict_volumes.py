"""Predicting volumes slice by slice, with a network whose answer is known: a pixel of value k is of class k."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch import nn

from m4oe.artifact import Artifact
from m4oe.batch import Batch, Prediction, Routing, Rows
from m4oe.config import Config, load_config
from m4oe.data.augmentation import RANGES
from m4oe.data.dataset import ExamDataset
from m4oe.data.readers import picture_of, read_picture
from m4oe.data.table import Cohort, load_cohort
from m4oe.data.volumes.prepare import prepare
from m4oe.data.volumes.slices import with_neighbours as of_training
from m4oe.errors import UserError
from m4oe.masks import Mask, MaskFolder, label_set, true_mask, write_mask
from m4oe.moe import ModalityRouter
from m4oe.nets.build import build_model
from m4oe.nets.segmenter import UNIFIED
from m4oe.predict import VolumePredictor
from m4oe.predict.goals import Goal, _by_name, goals_for, meant_by, stream_for
from m4oe.predict.slicewise import Slicewise, mirrored, with_neighbours
from m4oe.schema import Plan, Preparation, Schema, Stream, TaskSpec
from m4oe.study import load_study

SIZE = (12, 10)
AS_STORED = {"low": 0.0, "high": 9.0, "mean": 0.0, "sd": 1.0}  # values as the file has them
UNIFIED_CLASSES = ("background", "liver", "spleen", "left_kidney", "right_kidney")
ORGANS = {"ct_organs": ("liver", "spleen"), "mr_organs": ("liver", "left_kidney", "right_kidney")}
OUTPUTS = {"ct_organs": 3, "mr_organs": 4, UNIFIED: 5}


class Reader(nn.Module):
    """Logits that are highest for class k where the pixel of one `channel` has the value k."""

    def __init__(self, outputs: dict[str, int], channel: int = 0) -> None:
        super().__init__()
        self.outputs, self.channel, self.seen = outputs, channel, []

    def forward(self, batch: Batch, tasks: Sequence[str]) -> Prediction:
        ((stream, rows),) = batch.inputs.items()
        self.seen.append((stream, tuple(rows.values.shape), tuple(tasks)))
        x = rows.values[:, self.channel, None].float()
        logits = {task: Rows(self.logits(x, self.outputs[task]), rows.index) for task in tasks}
        combine = torch.tensor([0.75, 0.25]).expand(len(x), 6, 2)
        return Prediction(logits, routing={"encoder.0.0": Routing(None, combine)})

    def logits(self, x: torch.Tensor, classes: int) -> torch.Tensor:
        return -8 * (x - torch.arange(classes).view(-1, 1, 1)) ** 2


class Lopsided(Reader):
    """Answers by the place in the slice: class 1 in its first column, whatever the picture shows."""

    def logits(self, x: torch.Tensor, classes: int) -> torch.Tensor:
        one = torch.zeros(len(x), classes, *x.shape[2:])
        one[:, 1, :, 0] = 3
        return one


class Sided(Reader):
    """Says by the place in the slice which of two kidneys it is: class 1 left of the middle, class 2 right of it."""

    def logits(self, x: torch.Tensor, classes: int) -> torch.Tensor:
        left = torch.arange(x.shape[-1]) < x.shape[-1] // 2
        kidney, which = x[:, 0] > 0, torch.where(left, 1, 2).expand(x.shape[2:])
        return 8.0 * nn.functional.one_hot(kidney * which, classes).movedim(-1, 1)


def a_task(name: str, classes: Sequence[str], on: str = "scan", **facts: object) -> TaskSpec:
    share = 1 / (1 + len(classes))
    named = ("background", *classes)
    return TaskSpec(
        name=name, kind="segmentation", classes=named, on=on, values=tuple(range(len(named))),
        prior=(share,) * len(named), weights=(1.0,) * len(named), comprises=tuple((one,) for one in named), **facts,
    )  # fmt: skip


def a_schema(
    context: int = 0, axis: int = 0, size: tuple[int, int] = SIZE, kind: str | None = None, **preparation: object
) -> Schema:
    """Streams of CT and MR on one input, a task of each; `kind`: of both."""
    streams = tuple(
        Stream(
            name=f"scan@{modality}", input="scan", modality=modality, kind=kind or modality, form="slices", channels=1
        )
        for modality in ("ct", "mr")
    )
    way = Preparation(slice_axis=axis, **{**AS_STORED, **preparation})
    plan = Plan(size=size, context=context, streams={stream.name: way for stream in streams})
    return Schema(streams=streams, tasks=tuple(a_task(*item) for item in ORGANS.items()), plan=plan)


def predictor(schema: Schema, network: nn.Module | None = None, **settings: object) -> VolumePredictor:
    model = Config().for_tasks({"segmentation"}).model
    model = model.model_copy(update={"segmenter": model.segmenter.model_copy(update=settings)})
    return VolumePredictor(Artifact(network or Reader(OUTPUTS), model, schema))


def coded(shape: Sequence[int], classes: int, seed: int = 0) -> np.ndarray:
    """A volume of class numbers, in blocks."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, classes, [-(-length // 2) for length in shape])
    return np.kron(small, np.ones([2] * len(shape)))[tuple(map(slice, shape))].astype(np.float32)


def save(array: np.ndarray, path: Path, orientation: str = "RAS", spacing: Sequence[float] = (2, 2, 2)) -> Path:
    """`array` in RAS+ (x, y, z), stored as told."""
    image = nibabel.Nifti1Image(array, np.diag([*spacing, 1.0]))
    start, end = (nibabel.orientations.axcodes2ornt(codes) for codes in ("RAS", orientation))
    nibabel.save(image.as_reoriented(nibabel.orientations.ornt_transform(start, end)), path)
    return path


def a_cohort(
    folder: Path, name: str, rows: Sequence[dict[str, str]], tasks: dict[str, object], modality: str = "ct",
    kind: str | None = None,
) -> Cohort:  # fmt: skip
    """A study on files in `folder`; tasks {name: classes}."""
    pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)
    content = {
        "name": name,
        "table": f"{name}.csv",
        "exam": "exam",
        "inputs": {"scan": {"column": "scan", "modality": modality, "kind": kind or modality}},
        "tasks": {
            task: {"kind": "segmentation", "column": "mask", "on": "scan", "classes": classes}
            for task, classes in tasks.items()
        },
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return load_cohort(load_study(folder / f"{name}.yaml"), need_labels=False)


def dataset(schema: Schema, *cohorts: Cohort) -> ExamDataset:
    frames = [pd.DataFrame({"study": cohort.study.name, "exam": cohort.exams}) for cohort in cohorts]
    return ExamDataset(cohorts, pd.concat(frames, ignore_index=True).assign(split="test", fold=0), schema)


CT_CLASSES = {0: "background", 10: "liver", 20: "spleen"}


# ---- slices, and the way back


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR", "SAL"])
def test_what_the_network_says_stands_where_the_picture_showed_it(axis, orientation, tmp_path):
    """Without a change of size the mask is the picture itself, in the file's own array and in the study's values."""
    array = coded((10, 12, 7), 3)
    save(array, tmp_path / "a.nii.gz", orientation)
    schema = a_schema(axis=axis, spacing=None, size=((12, 10), (7, 10), (7, 12))[axis])
    cohort = a_cohort(tmp_path, "site", [{"exam": "a", "scan": "a.nii.gz"}], {"ct_organs": CT_CLASSES})
    (part,) = predictor(schema).stream(dataset(schema, cohort), batch_size=3)
    (mask,) = part.masks
    assert not part.failed and mask.labels.dtype == np.uint8
    written = nibabel.load(write_mask(mask, tmp_path / "masks"))
    assert np.array_equal(np.asarray(written.dataobj), 10 * nibabel.load(tmp_path / "a.nii.gz").get_fdata())


def test_scores_return_to_the_grid_of_the_picture():
    """Twice as fine a grid, and a slice that is narrower than the plan's: large parts come back as they were."""
    array = np.zeros((4, 32, 16), np.float32)
    array[:, 8:20, 4:10], array[1:3, 24:30, 8:14] = 1, 2
    found = predictor(a_schema(spacing=None, size=(16, 16))).predict({"scan@ct": array})
    labels = found.masks[UNIFIED]
    assert labels.shape == array.shape
    for k in (1, 2):
        assert 2 * ((labels == k) & (array == k)).sum() / ((labels == k).sum() + (array == k).sum()) > 0.9


def test_an_image_is_a_stack_of_one():
    array = coded(SIZE, 3)
    labels = predictor(a_schema(spacing=None)).predict({"scan@ct": array}).masks[UNIFIED]
    assert np.array_equal(labels, array)


def test_small_slices_are_framed_as_in_training():
    """The frame is the floor, half of it before; 5 rows in 12 have 3 above them."""
    network = Reader(OUTPUTS)
    frames = []
    network.register_forward_pre_hook(lambda module, given: frames.append(given[0].inputs["scan@ct"].values))
    array = 1 + coded((2, 5, 10), 2)
    labels = predictor(a_schema(spacing=(1.0, 1.0)), network).predict({"scan@ct": array}).masks[UNIFIED]
    assert frames[0].shape == (2, 1, 12, 10) and np.array_equal(frames[0][:, 0, 3:8], array)
    assert (frames[0][:, 0, :3] == 1).all() and (frames[0][:, 0, 8:] == 1).all()
    assert np.array_equal(labels, array)


def test_the_size_of_batches_changes_nothing_and_large_slices_come_fewer():
    array, schema = coded((11, 12, 10), 3), a_schema(spacing=None)
    one, all_ = (
        Slicewise(Reader({"ct_organs": 3}), schema.plan, torch.device("cpu"), size).segment(
            picture_of(array, "ct"), schema.streams[0], goals_for_ct(schema)
        )
        for size in (1, 32)
    )
    assert np.array_equal(one.labels["ct_organs"], all_.labels["ct_organs"])
    network = Reader(OUTPUTS)
    few = a_schema(spacing=(0.5, 0.5), size=(6, 5))
    picture = replace(picture_of(array, "ct"), spacing=(3.0, 1.0, 1.0))
    Slicewise(network, few.plan, torch.device("cpu"), 32).segment(picture, few.streams[0], unified_goal(few))
    assert {shape[1:] for _, shape, _ in network.seen} == {(1, 24, 20)}  # 16 times the plan's pixels
    assert [shape[0] for _, shape, _ in network.seen] == [2, 2, 2, 2, 2, 1]


def goals_for_ct(schema: Schema):
    return predictor(schema, labels="heads")._goals_without_study(schema.streams[0])[:1]


def unified_goal(schema: Schema):
    return predictor(schema)._goals_without_study(schema.streams[0])[-1:]


@pytest.mark.parametrize("context", [0, 1, 2])
def test_neighbours_are_those_of_training(context):
    array = np.random.default_rng(0).normal(size=(1, 5, 12, 10)).astype(np.float32)
    picture = replace(picture_of(array[0], "ct"), values=np.concatenate([array, array + 9]))
    slices = prepare(picture, Preparation(**AS_STORED), SIZE).slices
    found = with_neighbours(slices, range(1, 5), context)
    stack = np.stack([slices[number].numpy() for number in range(5)])
    assert found.shape == (4, 2 * (2 * context + 1), 12, 10)
    for number, one in zip(range(1, 5), found, strict=True):
        assert np.array_equal(one, of_training(stack, number, context))


def test_context_reaches_the_network():
    """A network that reads the channel of the slice before gives each slice the mask of the one before."""
    array = coded((6, 12, 10), 3)
    network = Reader(OUTPUTS, channel=0)
    labels = predictor(a_schema(context=1, spacing=None), network).predict({"scan@ct": array}).masks[UNIFIED]
    assert np.array_equal(labels, array[[0, 0, 1, 2, 3, 4]])


def test_flips_are_the_mean_over_mirrored_slices():
    """Class 1 in the first column alone, by any way of looking: with flips half of them say so in first and last one,
    which is e^3 / (4 + e^3) = .83 times one half, below the half of the others plus 1 / 5. Of tissue on a slide, which
    has no sides."""
    schema, network = a_schema(spacing=None, kind="pathology"), Lopsided(OUTPUTS)
    picture, (stream, _) = picture_of(coded((2, 12, 10), 3), "ct"), schema.streams
    alone, both = (
        Slicewise(network, schema.plan, torch.device("cpu"), flips=flips).segment(picture, stream, unified_goal(schema))
        for flips in (False, True)
    )
    labels = alone.labels[UNIFIED]
    assert (labels[:, :, 0] == 1).all() and not labels[:, :, 1:].any()
    labels = both.labels[UNIFIED]
    assert len(network.seen) == 1 + 4
    assert (labels[:, :, [0, -1]] == 1).all() and not labels[:, :, 1:-1].any()
    assert both.gate["encoder.0.0"] == pytest.approx(alone.gate["encoder.0.0"])  # of the slices as they are alone


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_flips_leave_left_organs_left(modality):
    """A network that is right of every side: over mirrored slices it would say left as often as right."""
    array = np.zeros((2, 12, 10), np.float32)
    array[:, 4:8, 1:4], array[:, 4:8, 6:9] = 1, 1
    expected = array + (array * (np.arange(10) > 4))
    schema, network = a_schema(spacing=None), Sided(OUTPUTS)
    found = predictor(schema, network, flips=True).predict({f"scan@{modality}": array}).masks[UNIFIED]
    assert np.array_equal(found, expected) and len(network.seen) == 1


def test_pictures_are_mirrored_as_in_training():
    """A breast has no up and down, tissue on a slide no sides either; anything else is looked at as it is."""
    looks = {kind: mirrored(kind) for kind in RANGES}
    assert looks.pop("mammogram") == [(), (2,)]
    assert looks.pop("pathology") == [(), (2,), (3,), (2, 3)]
    assert len(looks) == 7 and all(look == [()] for look in looks.values())


def test_the_largest_component_of_a_class_stays():
    array = np.zeros((4, 12, 10), np.float32)
    array[:, :4, :4], array[0, 8:10, 8:10], array[3, 8:, 2:4] = 1, 1, 2
    given = predictor(a_schema(spacing=None), largest_component=("liver", "no organ")).predict({"scan@ct": array})
    expected = array.copy()
    expected[0, 8:10, 8:10] = 0
    assert np.array_equal(given.masks[UNIFIED], expected)


def test_classes_whose_largest_part_stays_are_meant_by_any_name(tmp_path):
    """Of the model's task, of the unified set, and of a study that calls the liver hepar and has all kidneys in one."""
    schema, rows = a_schema(spacing=None), two_exams(tmp_path)[0]
    new = a_cohort(tmp_path, "new", rows, {"mine": {0: "background", 1: "kidneys", 2: "hepar"}}).study
    names = {"hepar": "LIVER", "kidneys": ["Left kidney", "right-kidney"]}
    new = new.model_copy(update={"tasks": {"mine": new.tasks["mine"].model_copy(update={"synonyms": names})}})
    (found,) = goals_for(schema, "unified", schema.streams[0], "scan", new)
    assert meant_by(["Liver", "left_kidney"], found, schema) == [2]
    assert meant_by(["Kidneys"], found, schema) == [1]
    organs = Goal("mr_organs", {0: "background", 1: "liver", 2: "left_kidney", 3: "right_kidney"}, "mr_organs")
    whole = Goal(UNIFIED, dict(enumerate(UNIFIED_CLASSES)), UNIFIED)
    for goal in (organs, whole):
        assert [goal.classes[number] for number in meant_by(["Left Kidney", "background"], goal, schema)] == [
            "left_kidney"
        ]


# ---- which stream, which label set


def test_a_study_gets_its_own_tasks_in_its_own_numbering(tmp_path):
    """Two tasks on one input: of the study's own, the values that it writes."""
    schema = a_schema(spacing=None)
    save(coded((10, 12, 3), 3), tmp_path / "a.nii.gz")
    rows = [{"exam": "a", "scan": "a.nii.gz"}]
    for labels in ("heads", "unified"):
        cohort = a_cohort(tmp_path, "site", rows, {"ct_organs": {0: "background", 200: "liver", 7: "spleen"}})
        network = Reader({"ct_organs": 3})
        (part,) = predictor(schema, network, labels=labels).stream(dataset(schema, cohort))
        assert dict(part.masks[0].classes) == {0: "background", 200: "liver", 7: "spleen"}
        assert network.seen[0][2] == ("ct_organs",)


def test_a_new_label_set_is_found_by_name():
    """Unified: background 0, liver 1, spleen 2, kidneys 3 and 4. The study knows kidneys as one class, and a stone."""
    study = load_study_of(
        {"nephro": {0: "background", 5: "kidneys", 6: "stone"}}, {"kidneys": ["left_kidney", "right_kidney"]}
    )
    schema = a_schema()
    (goal,) = goals_for(schema, "unified", schema.streams[0], "scan", study)
    assert (goal.task, goal.logits) == ("nephro", UNIFIED)
    assert goal.members == ((0, 1, 2), (3, 4), ()) and dict(goal.classes) == {0: "background", 5: "kidneys", 6: "stone"}
    shares = torch.tensor([0.1, 0.2, 0.1, 0.25, 0.35]).log().view(1, 5, 1, 1)
    assert goal.of(shares).softmax(1).flatten().tolist() == pytest.approx([0.4, 0.6, 0])


def load_study_of(tasks: dict[str, dict[int, str]], synonyms: dict[str, list[str]] | None = None):
    from m4oe.study import parse_study

    content = {
        "name": "site",
        "table": "t.csv",
        "inputs": {"scan": {"column": "scan", "modality": "ct", "kind": "ct"}},
        "tasks": {
            name: {"kind": "segmentation", "column": "m", "on": "scan", "classes": classes, "synonyms": synonyms or {}}
            for name, classes in tasks.items()
        },
    }
    return parse_study(content, Path("study.yaml"))


def test_without_a_label_set_that_is_understood_the_unified_one_is_predicted():
    schema, strange = a_schema(), load_study_of({"brain": {0: "background", 1: "thalamus"}})
    for study in (strange, strange.model_copy(update={"tasks": {}})):
        (goal,) = goals_for(schema, "unified", schema.streams[0], "scan", study)
        assert goal.task == UNIFIED and dict(goal.classes) == dict(enumerate(UNIFIED_CLASSES))
    with pytest.raises(
        UserError, match=r"study 'site' has no task of this model on input 'scan'.*ct_organs, mr_organs"
    ):
        goals_for(schema, "heads", schema.streams[0], "scan", strange)


def test_a_stream_is_found_by_input_modality_and_kind():
    schema = a_schema()
    assert stream_for(schema, "scan", "mr", "mr", any_modality=False).name == "scan@mr"
    assert stream_for(schema, "other", "mr", "mr", any_modality=False).name == "scan@mr"
    assert stream_for(schema, "scan", "cemr", "mr", any_modality=True).name == "scan@mr"
    with pytest.raises(
        UserError, match=r"does not know modality 'cemr' of kind 'mr'.*known: ct \(kind ct\), mr \(kind"
    ):
        stream_for(schema, "scan", "cemr", "mr", any_modality=False)
    with pytest.raises(UserError, match="no picture of kind 'ultrasound'"):
        stream_for(schema, "scan", "us", "ultrasound", any_modality=True)


def test_an_unknown_modality_goes_through_the_gate_and_not_through_hard_routing(tmp_path):
    schema = a_schema(spacing=None)
    save(coded((10, 12, 3), 2), tmp_path / "a.nii.gz")
    rows = [{"exam": "a", "scan": "a.nii.gz"}]
    cohort = a_cohort(tmp_path, "site", rows, {"ct_organs": CT_CLASSES}, modality="dual_energy", kind="ct")
    (part,) = predictor(schema).stream(dataset(schema, cohort))
    assert len(part.masks) == 1 and not part.failed
    assert part.notes == ("modality 'dual_energy' was never trained: its pictures were prepared as those of 'ct' are",)
    network = Reader({"ct_organs": 3})
    network.router = ModalityRouter([0, 1])
    (part,) = predictor(schema, network).stream(dataset(schema, cohort))
    (reason,) = part.failed.values()
    assert not part.masks and "row 2, input 'scan'" in reason and "does not know modality 'dual_energy'" in reason


# ---- what comes out


def two_exams(folder: Path) -> tuple[list[dict[str, str]], np.ndarray]:
    """Exams a and b, with masks: of a the picture itself, of b its liver alone."""
    array = coded((10, 12, 5), 3)
    for exam, mask in (("a", array), ("b", np.where(array == 1, 1, 0))):
        save(array, folder / f"{exam}.nii.gz")
        save(10 * mask.astype(np.float32), folder / f"{exam}_mask.nii.gz", "LPS")
    return [{"exam": exam, "scan": f"{exam}.nii.gz", "mask": f"{exam}_mask.nii.gz"} for exam in "ab"], array


def test_cases_are_scored_on_the_grid_of_the_picture(tmp_path):
    rows, _ = two_exams(tmp_path)
    schema = a_schema(spacing=None)
    cohort = a_cohort(tmp_path, "site", rows, {"ct_organs": CT_CLASSES})
    a, b = predictor(schema).stream(dataset(schema, cohort))
    assert (
        a.cases["dice"].tolist() == [1, 1] and a.cases["hd95"].tolist() == [0, 0] and a.cases["nsd"].tolist() == [1, 1]
    )
    assert a.cases[["study", "exam", "split", "fold", "task"]].iloc[0].tolist() == ["site", "a", "test", 0, "ct_organs"]
    assert b.cases[["class", "outcome"]].to_numpy().tolist() == [["liver", "scored"], ["spleen", "invented"]]


def test_what_a_gate_did_is_summed_by_modality(tmp_path):
    """Five slices of six tokens at .75 and .25, under MR, and under a modality that was never seen."""
    rows, _ = two_exams(tmp_path)
    schema, classes = a_schema(spacing=None), {"mr_organs": ["background", *ORGANS["mr_organs"]]}
    for modality in ("mr", "dixon"):
        cohort = a_cohort(tmp_path, "site", rows[:1], classes, modality, "mr")
        (part,) = predictor(schema).stream(dataset(schema, cohort), batch_size=2)
        assert part.gate.keys() == {modality} and part.gate[modality].keys() == {"encoder.0.0"}
        assert part.gate[modality]["encoder.0.0"] == pytest.approx([22.5, 7.5])


def test_a_bad_exam_is_named_and_the_others_go_on(tmp_path):
    rows, _ = two_exams(tmp_path)
    (tmp_path / "torn.nii.gz").write_bytes(b"torn")
    save(np.full((10, 12, 5), np.nan, np.float32), tmp_path / "nan.nii.gz")
    save(np.zeros((10, 12, 4), np.float32), tmp_path / "short.nii.gz")
    rows += [{"exam": "torn", "scan": "torn.nii.gz", "mask": ""}, {"exam": "nan", "scan": "nan.nii.gz", "mask": ""}]
    rows += [{"exam": "lost", "scan": "a.nii.gz", "mask": "short.nii.gz"}]
    schema = a_schema(spacing=None)
    cohort = a_cohort(tmp_path, "site", rows, {"ct_organs": CT_CLASSES})
    parts = list(predictor(schema).stream(dataset(schema, cohort)))
    failed = {exam: reason for part in parts for exam, reason in part.failed.items()}
    assert failed.keys() == {"site/torn", "site/nan", "site/lost"}
    assert "site.csv, row 4, input 'scan'" in failed["site/torn"] and "NaN" in failed["site/nan"]
    assert "row 6, task 'ct_organs'" in failed["site/lost"] and "copy_affine" not in failed["site/lost"]
    # A mask that cannot be compared does not take the predicted one away.
    assert [mask.exam for part in parts for mask in part.masks] == ["a", "b", "lost"]


def test_another_number_of_channels_is_refused():
    with pytest.raises(UserError, match="3 channels, where 'scan@ct' has 1"):
        schema = a_schema(spacing=None)
        colour = replace(picture_of(coded((4, 12, 10), 3), "ct"), values=np.zeros((3, 4, 12, 10), np.float32))
        Slicewise(Reader(OUTPUTS), schema.plan, torch.device("cpu")).segment(
            colour, schema.streams[0], unified_goal(schema)
        )


def test_classes_in_another_order_are_the_same_classes(tmp_path):
    """The study writes spleen before liver: as class indices they follow the model, as values the study."""
    rows, array = two_exams(tmp_path)
    schema = a_schema(spacing=None)
    cohort = a_cohort(tmp_path, "site", rows[:1], {"ct_organs": {0: "background", 20: "spleen", 10: "liver"}})
    (part,) = predictor(schema).stream(dataset(schema, cohort))
    assert dict(part.masks[0].classes) == {0: "background", 10: "liver", 20: "spleen"}
    assert part.cases[["class", "dice"]].to_numpy().tolist() == [["liver", 1], ["spleen", 1]]
    written = nibabel.load(write_mask(part.masks[0], tmp_path / "masks"))
    assert np.array_equal(np.asarray(written.dataobj), 10 * array)


def test_a_label_set_of_its_own_is_scored_where_its_classes_are_known(tmp_path):
    """Of site's classes the model knows the liver: exam a is right of it, its own stone is no class that was missed."""
    rows, _ = two_exams(tmp_path)
    schema = a_schema(spacing=None)
    cohort = a_cohort(tmp_path, "site", rows[:1], {"hepatic": {0: "background", 10: "liver", 20: "stone"}})
    (part,) = predictor(schema).stream(dataset(schema, cohort))
    assert part.cases[["task", "class", "dice"]].to_numpy().tolist() == [["hepatic", "liver", 1]]
    scored = predictor(schema).scored(dataset(schema, cohort))
    assert [(task.name, task.classes) for task in scored] == [("hepatic", ("background", "liver"))]
    assert part.notes == ("task 'hepatic': the model does not know stone: in no mask, and not scored",)


def test_a_class_of_which_the_model_knows_a_part_is_drawn_told_and_not_scored(tmp_path):
    """Site's abdomen is liver, pancreas and stomach in one; the model knows the liver, and draws it."""
    rows, array = two_exams(tmp_path)
    schema = a_schema(spacing=None)
    cohort = a_cohort(tmp_path, "site", rows[:1], {"visceral": {0: "background", 10: "abdomen", 20: "spleen"}})
    task = cohort.study.tasks["visceral"].model_copy(update={"synonyms": {"abdomen": ["liver", "Pancreas", "stomach"]}})
    cohort = replace(cohort, study=cohort.study.model_copy(update={"tasks": {"visceral": task}}))
    (part,) = predictor(schema).stream(dataset(schema, cohort))
    assert np.array_equal(part.masks[0].labels, array.T)  # depth first
    assert part.cases[["class", "dice"]].to_numpy().tolist() == [["spleen", 1]]
    assert [task.classes for task in predictor(schema).scored(dataset(schema, cohort))] == [("background", "spleen")]
    (note,) = part.notes
    assert "of abdomen the model does not know pancreas, stomach: masks show the rest" in note


@pytest.mark.parametrize(
    ("known", "lacking"),
    [
        ({"background": ("background",), "left_kidney": ("left_kidney",)}, {"kidneys": ("right_kidney",)}),
        ({"background": ("background",), "kidneys": ("kidneys",)}, {}),
        ({"background": ("background",), "Kidneys": ("left_kidney",)}, {}),
        ({"background": ("background",), "both": ("left_kidney", "right_kidney")}, {}),
    ],
)
def test_what_is_missing_of_a_class_goes_by_parts_and_not_where_a_class_has_its_name(known, lacking):
    (task,) = load_study_of(
        {"nephro": {0: "background", 5: "kidneys"}}, {"kidneys": ["left_kidney", "right_kidney"]}
    ).tasks.values()
    goal = _by_name("nephro", task, UNIFIED, known)
    assert dict(goal.lacking) == lacking and goal.unscored == tuple(lacking) and not goal.unknown


HALVES = [
    ({0: "background", 20: "spleen"}, {}, [["spleen", 1]]),
    ({0: "background", 20: "milt"}, {"milt": "spleen"}, [["milt", 1]]),
    ({0: "background", 20: "Spleen", 10: "Liver"}, {}, [["liver", 1], ["spleen", 1]]),
    ({0: "background", 10: "stone", 20: "spleen"}, {}, [["spleen", 1]]),
    ({0: "background", 10: "stone", 20: "pons"}, {}, []),
]


@pytest.mark.parametrize("labels", ["heads", "unified"])
@pytest.mark.parametrize(("classes", "synonyms", "scores"), HALVES)
def test_a_task_of_a_trained_name_is_scored_by_the_names_of_its_classes(labels, classes, synonyms, scores, tmp_path):
    """The model knows liver and spleen under this name, and is right of every pixel, whatever of it a study has."""
    array = coded((10, 12, 5), 3)
    save(array, tmp_path / "a.nii.gz")
    save(np.isin(10 * array, list(classes)) * 10 * array, tmp_path / "a_mask.nii.gz")
    rows, schema = [{"exam": "a", "scan": "a.nii.gz", "mask": "a_mask.nii.gz"}], a_schema(spacing=None)
    cohort = a_cohort(tmp_path, "site", rows, {"ct_organs": classes})
    task = cohort.study.tasks["ct_organs"].model_copy(update={"synonyms": synonyms})
    cohort = replace(cohort, study=cohort.study.model_copy(update={"tasks": {"ct_organs": task}}))
    one_head = schema.model_copy(update={"tasks": schema.tasks[:1]})
    (part,) = predictor(one_head, Reader({"ct_organs": 3, UNIFIED: 3}), labels=labels).stream(dataset(schema, cohort))
    assert not part.failed and part.cases[["class", "dice"]].to_numpy().tolist() == scores
    assert any("does not understand task 'ct_organs'" in note for note in part.notes) == (not scores)


def test_the_true_mask_takes_its_classes_by_name(tmp_path):
    """Of the mask's liver, spleen and stone the study has two, in another order; what counts for nothing stays so. A
    class that the mask lacks has no place in it."""
    array = coded((10, 12, 5), 3)
    array[:2] = 5
    save(array, tmp_path / "a.nii.gz")
    cohort = a_cohort(
        tmp_path, "site", [{"exam": "a", "scan": "a.nii.gz", "mask": "a.nii.gz"}],
        {"organs": {0: "background", 2: "Stone", 1: "milt"}},
    )  # fmt: skip
    task = cohort.study.tasks["organs"].model_copy(update={"synonyms": {"milt": "spleen"}, "ignore": 5})
    cohort = replace(cohort, study=cohort.study.model_copy(update={"tasks": {"organs": task}}))
    geometry = read_picture((str(tmp_path / "a.nii.gz"),), "ct").geometry
    said = Mask("site", "a", "organs", np.empty(0), geometry, label_set(("background", "liver", "spleen", "stone")))
    truth = true_mask(cohort, said).transpose(2, 1, 0)
    assert np.array_equal(truth, np.array([0, 2, 3, 0, 0, -100])[array.astype(int)])
    with pytest.raises(UserError, match="class 'Stone', and the predicted one has background, spleen"):
        true_mask(cohort, replace(said, classes=label_set(("background", "spleen"))))


def test_a_task_that_fails_takes_nothing_from_the_others(tmp_path):
    """Whichever comes first: two label sets on one picture, the mask of one or the other lies elsewhere."""
    rows, _ = two_exams(tmp_path)
    save(np.zeros((10, 12, 4), np.float32), tmp_path / "short.nii.gz")
    schema, names = a_schema(spacing=None), ("ct_organs", "again")
    cohort = a_cohort(tmp_path, "site", rows[:1], dict.fromkeys(names, CT_CLASSES))
    short = np.array([str(tmp_path / "short.nii.gz")], object)
    for lost, kept in (names, names[::-1]):
        bad = replace(cohort, labels={**cohort.labels, lost: short})
        (part,) = predictor(schema, Reader(OUTPUTS)).stream(dataset(schema, bad))
        assert part.failed.keys() == {"site/a"} and f"task {lost!r}" in part.failed["site/a"]
        assert part.cases[["task", "dice"]].to_numpy().tolist() == [[kept, 1], [kept, 1]]


def with_two_pictures(one: Cohort, **facts: object) -> Cohort:
    """`one`, whose exams have their picture once more, as the input "before"."""
    source = one.study.inputs["scan"]
    study = one.study.model_copy(update={"inputs": {"before": source, "scan": source}, **facts})
    return replace(one, study=study, paths={**one.paths, "before": one.paths["scan"]},
                   modalities={**one.modalities, "before": one.modalities["scan"]})  # fmt: skip


def test_pictures_of_one_exam_do_not_take_each_other_s_masks_away(tmp_path):
    """Two pictures that fall to the unified label set: in Python and in files, both masks are there."""
    liver, spleen = coded((2, 12, 10), 2), 2 * coded((2, 12, 10), 2)
    schema = a_schema(spacing=None)
    masks = predictor(schema, Reader(OUTPUTS)).predict({"scan@ct": liver, "scan@mr": spleen}).masks
    assert masks.keys() == {f"scan@{of}__{task}" for of in ("ct", "mr") for task in OUTPUTS}
    assert np.array_equal(masks["scan@ct__unified"], liver) and np.array_equal(masks["scan@mr__unified"], spleen)
    rows, _ = two_exams(tmp_path)
    both = with_two_pictures(a_cohort(tmp_path, "site", rows, {"ct_organs": CT_CLASSES}), tasks={})
    folder = MaskFolder(tmp_path / "masks")
    for part in predictor(schema).stream(dataset(schema, both)):
        for mask in part.masks:
            folder.write(mask)
    names = {path.name for path in folder.folder.glob("*.nii.gz")}
    assert names == {f"{exam}__{of}__unified.nii.gz" for exam in "ab" for of in ("before", "scan")}


def test_pictures_without_a_task_are_left_alone(tmp_path):
    """An exam of two pictures, of which the study has masks on one."""
    rows, _ = two_exams(tmp_path)
    both = with_two_pictures(a_cohort(tmp_path, "site", rows, {"ct_organs": CT_CLASSES}))
    schema = a_schema(spacing=None)
    parts = list(predictor(schema).stream(dataset(schema, both)))
    assert [mask.exam for part in parts for mask in part.masks] == ["a", "b"]


# ---- memory

MEMORY = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, {tests!r})
from test_predict_volumes import OUTPUTS, Reader, a_schema, of_the_paper, predictor
from m4oe.nets.build import build_model
from m4oe.nets.segmenter import UNIFIED

def peak():  # of this process alone: what getrusage says includes the process that started it
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024

model = {model}
model.predict({{"scan@ct": torch.arange(192 * 192).view(192, 192).float()}})
before = peak()
labels = model.predict({{"scan@ct": {file!r}}}).masks[UNIFIED]
assert labels.dtype == "uint8"
print(peak() - before, *labels.shape)
"""
READER = "predictor(a_schema(spacing=None, size=(96, 96), high=1e4), Reader({**OUTPUTS, UNIFIED: 16}))"


def of_the_paper() -> VolumePredictor:
    """The paper's network, untrained, of 16 classes in all."""
    way = Preparation(slice_axis=0, **{**AS_STORED, "high": 1e4})
    streams = tuple(
        Stream(name=f"scan@{modality}", input="scan", modality=modality, kind="ct", form="slices", channels=1)
        for modality in ("ct", "low_dose_ct", "contrast_ct")
    )
    plan = Plan(size=(224, 224), context=0, streams={stream.name: way for stream in streams})
    tasks = (a_task("organs", [f"organ_{k}" for k in range(14)]), a_task("vessels", ["organ_0", "vessel"]))
    schema = Schema(streams=streams, tasks=tasks, plan=plan)
    model = (
        load_config(None, ["model.preset=paper", "model.segmenter.labels=unified"]).for_tasks({"segmentation"}).model
    )
    return VolumePredictor(Artifact(build_model(model, schema).eval(), model, schema))


def peak_of(shape: Sequence[int], folder: Path, model: str = READER) -> int:
    """MiB that predicting 16 classes on an int16 CT of `shape` (x, y, z) takes over the loaded model."""
    image = np.zeros(shape, np.int16)
    image[8:-8, 8:-8] = (np.arange(shape[2]) % 16).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(image, np.diag([0.8, 0.8, 1.5, 1])), folder / "ct.nii.gz")
    code = MEMORY.format(tests=str(Path(__file__).parent), file=str(folder / "ct.nii.gz"), model=model)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    taken, *found = map(int, done.stdout.split())
    assert found == list(reversed(shape))
    return taken


needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc: peak memory is not known")


@needs_proc
def test_memory_is_a_few_bytes_a_pixel_whatever_the_classes(tmp_path):
    """192 x 192 x 192 pixels, 6.75 Mi: as floats of 16 classes 432 MiB; 4 bytes as read, 2 as stored, 1 as mask: 47."""
    assert peak_of((192, 192, 192), tmp_path) < 250


@needs_proc
@pytest.mark.slow
def test_memory_of_a_large_ct_of_16_classes_is_below_3_gb(tmp_path):
    """512 x 512 x 600."""
    assert peak_of((512, 512, 600), tmp_path) < 3000


@needs_proc
@pytest.mark.slow
def test_the_papers_network_segments_a_large_ct_of_16_classes_within_3_gb(tmp_path):
    """Three batches of the 600 slices of 512 x 512, and what the others would add: 7 bytes a pixel, as above."""
    assert peak_of((512, 512, 96), tmp_path, "of_the_paper()") + 504 * 512 * 512 * 7 / 2**20 < 3000
