"""A table to batches: what is absent has no row, and the same (seed, epoch, exam) gives the same tensors."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from m4oe.batch import Batch
from m4oe.data.dataset import ExamDataset, collate, exam_sample
from m4oe.data.table import Cohort, load_cohort
from m4oe.errors import UserError
from m4oe.schema import Schema, Stream, TaskSpec, Variable
from m4oe.study import load_study

STUDY = """
name: s
table: exams.csv
exam: exam
patient: patient
inputs:
  view:    {column: view, modality: film, kind: mammogram, laterality: side}
  scan:    {column: scan, modality: {column: sequence}, kind: mr}
  history: {columns: [age, sex], modality: clinical, kind: table}
tasks:
  cancer:   {kind: binary, column: cancer}
  grade:    {kind: ordinal, column: grade, classes: [A, B, C]}
  findings: {kind: multilabel, columns: [mass, calc]}
  risk:     {kind: survival, time: years, event: event, horizons: [1, 2]}
  lesion:   {kind: segmentation, column: mask, on: view, classes: [back, lesion]}
"""
TABLE = """exam,patient,view,side,mask,scan,sequence,age,sex,cancer,grade,mass,calc,years,event
a,p1,a.png,L,a_mask.png,a.nii.gz,t1,61,F,1,B,1,,2.5,1
b,p1,b.png,R,b_mask.png,,,,,0,,,,,
c,p2,,,,c.nii.gz,t2,50,,,C,0,1,1.5,0
"""
AGE, SEX = Variable(column="age", mean=50.0, sd=10.0), Variable(column="sex", categories=("F", "M"))
SCAN = {"input": "scan", "kind": "mr", "form": "volume", "channels": 1, "size": (4, 16, 16)}
SCHEMA = Schema(
    streams=(
        Stream(
            name="view", input="view", modality="film", kind="mammogram", form="image", channels=1, size=(32, 32),
            laterality="told",
        ),
        Stream(name="scan@t1", modality="t1", **SCAN),
        Stream(name="scan@t2", modality="t2", **SCAN),
        Stream(
            name="history", input="history", modality="clinical", kind="table", form="vector", channels=4,
            variables=(AGE, SEX),
        ),
    ),
    tasks=(
        TaskSpec(name="cancer", kind="binary", classes=("0", "1"), prior=(0.5,), weights=(1, 1)),
        TaskSpec(name="grade", kind="ordinal", classes=("A", "B", "C"), prior=(0.3, 0.3, 0.4), weights=(1, 1, 1)),
        TaskSpec(name="findings", kind="multilabel", classes=("mass", "calc"), prior=(0.5, 0.5), weights=(1, 1)),
        TaskSpec(name="risk", kind="survival", classes=("1", "2"), horizons=(1, 2), prior=(0.1, 0.2), weights=(1, 1)),
        TaskSpec(
            name="lesion", kind="segmentation", classes=("back", "lesion"), on="view", prior=(0.9, 0.1), weights=(1, 1)
        ),
    ),
)  # fmt: skip


def breast(bright: bool) -> np.ndarray:
    """(40, 30) a left breast: tissue at the left edge, with a lesion; its mask is where it is 200."""
    pixels = np.zeros((40, 30), np.uint8)
    pixels[5:35, :20] = np.random.default_rng(bright).integers(60, 120, (30, 20))
    pixels[10:18, 8:14] = 200
    return pixels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, mirrored in (("a", False), ("b", True)):
        pixels = breast(False)[:, ::-1] if mirrored else breast(False)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        Image.fromarray((pixels == 200).astype(np.uint8) * 255).save(tmp_path / f"{name}_mask.png")
    for name in ("a", "c"):
        scan = np.random.default_rng(1).random((12, 10, 6)).astype(np.float32)
        nib.save(nib.Nifti1Image(scan, np.diag([1, 1, 2.0, 1])), tmp_path / f"{name}.nii.gz")
    (tmp_path / "exams.csv").write_text(TABLE)
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path


def cohort_in(folder: Path) -> Cohort:
    return load_cohort(load_study(folder / "study.yaml"))


def rows(*exams: str) -> pd.DataFrame:
    return pd.DataFrame({"study": "s", "exam": list(exams or "abc")})


def dataset(folder: Path, *exams: str, **options: object) -> ExamDataset:
    return ExamDataset([cohort_in(folder)], rows(*exams), SCHEMA, **options)


def bits(values: torch.Tensor) -> bytes:
    return values.numpy().tobytes()


def same(a: Batch, b: Batch) -> bool:
    """Bit for bit."""
    parts = [(a.inputs, b.inputs), (a.targets, b.targets)]
    return a.exams == b.exams and all(
        x.keys() == y.keys()
        and all(bits(x[k].values) == bits(y[k].values) and torch.equal(x[k].index, y[k].index) for k in x)
        for x, y in parts
    )


def test_what_is_absent_has_no_row(folder):
    batch = collate(list(dataset(folder)))
    index = {name: rows.index.tolist() for name, rows in {**batch.inputs, **batch.targets}.items()}
    assert index == {
        "view": [0, 1], "scan@t1": [0], "scan@t2": [2], "history": [0, 2],
        "cancer": [0, 1], "grade": [0, 2], "findings": [0, 2], "risk": [0, 2], "lesion": [0, 1],
    }  # fmt: skip
    assert batch.exams == ("s/a", "s/b", "s/c")


def test_labels_have_the_form_that_the_losses_take(folder):
    targets = collate(list(dataset(folder))).targets
    assert targets["cancer"].values.tolist() == [1, 0] and targets["cancer"].values.dtype == torch.int64
    assert targets["grade"].values.tolist() == [1, 2] and targets["grade"].values.dtype == torch.int64
    assert targets["risk"].values.tolist() == [[2.5, 1], [1.5, 0]] and targets["risk"].values.dtype == torch.float32
    assert targets["findings"].values[0, 0] == 1 and targets["findings"].values[0].isnan().tolist() == [False, True]
    assert targets["lesion"].values.shape == (2, 32, 32) and targets["lesion"].values.dtype == torch.int64


def test_plain_variables_are_encoded(folder):
    """Exam a: age 61 is 1.1 sd above 50, sex F; exam c: age 50, sex missing."""
    history = collate(list(dataset(folder))).inputs["history"].values
    torch.testing.assert_close(history, torch.tensor([[1.1, 1, 1, 0], [0, 1, 0, 0]]))


def test_a_right_breast_looks_like_a_left_one(folder):
    batch = collate(list(dataset(folder)))
    assert torch.equal(batch.inputs["view"].values[0], batch.inputs["view"].values[1])
    assert torch.equal(batch.targets["lesion"].values[0], batch.targets["lesion"].values[1])


def test_a_mask_finds_the_way_back_to_the_file_of_a_right_breast(folder):
    sample = dataset(folder, "b")[0]
    scores = torch.stack([(sample.targets["lesion"] == k).float() for k in (0, 1)])
    back = sample.fits["view"].invert(scores).argmax(0).numpy()
    truth = np.asarray(Image.open(folder / "b_mask.png")) == 255
    assert sample.geometry["view"].shape == truth.shape == back.shape
    assert sample.geometry["view"].source == str(folder / "b.png")
    assert 2 * (back & truth).sum() / (back.sum() + truth.sum()) > 0.85


def test_a_mask_moves_with_its_picture(folder):
    """The lesion is the brightest thing in the picture, before and after."""
    for epoch in range(5):
        data = dataset(folder, "a", augment=2.0)
        data.set_epoch(epoch)
        sample = data[0]
        values, mask = sample.inputs["view"][0], sample.targets["lesion"]
        assert values[mask == 1].mean() > values[mask == 0].mean() + 1
        bright = values > values[mask == 1].median() - 0.4
        assert (bright & (mask == 1)).sum() > 0.6 * bright.sum()


def test_split_and_fold_come_from_the_rows(folder):
    frame = rows("b").assign(split="test", fold=3)
    sample = ExamDataset([cohort_in(folder)], frame, SCHEMA)[0]
    assert (sample.study, sample.exam, sample.patient, sample.split, sample.fold) == ("s", "b", "p1", "test", 3)


# ---- law 3: the same (seed, epoch, exam) gives the same augmentation


def batches(data: ExamDataset, epoch: int, **options: object) -> Batch:
    data.set_epoch(epoch)
    return next(iter(DataLoader(data, batch_size=len(data), collate_fn=collate, **options)))


def test_the_same_seed_epoch_and_exam_give_the_same_tensors_whatever_the_workers(folder):
    """Workers that persist see the epoch change, too."""
    alone = [batches(dataset(folder, augment=1.0, seed=4), epoch) for epoch in (0, 1)]
    data = dataset(folder, augment=1.0, seed=4)
    loader = DataLoader(data, batch_size=2, collate_fn=list, num_workers=2, persistent_workers=True)
    for epoch in (0, 1):
        data.set_epoch(epoch)
        assert same(collate([sample for part in loader for sample in part]), alone[epoch])
    assert not same(*alone)


def test_the_same_exam_is_the_same_in_any_order_and_company(folder):
    in_order = list(dataset(folder, "a", "b", "c", augment=1.0))
    reverse = list(dataset(folder, "c", "b", "a", augment=1.0))[::-1]
    assert same(collate(in_order), collate(reverse))
    assert same(collate(in_order[1:2]), collate(list(dataset(folder, "b", augment=1.0))))


def test_seed_epoch_exam_and_input_each_change_it(folder):
    data = dataset(folder, augment=1.0)
    a, b, _ = data
    assert not torch.equal(a.inputs["view"], b.inputs["view"])  # the same picture, without augmentation
    data.set_epoch(1)
    assert not torch.equal(a.inputs["view"], data[0].inputs["view"])
    assert not torch.equal(a.inputs["view"], dataset(folder, augment=1.0, seed=1)[0].inputs["view"])
    stream = SCHEMA.stream("view")
    other = stream.model_copy(update={"input": "other_view"})
    assert data._augmentation(data.rows.iloc[0], stream) != data._augmentation(data.rows.iloc[0], other)


def test_without_augmentation_epochs_are_equal(folder):
    assert same(batches(dataset(folder, seed=0), 0), batches(dataset(folder, seed=1), 7))


# ---- cache


@pytest.mark.parametrize(("limit", "decoded_again"), [(1 << 20, False), (0, True)])
def test_what_is_kept_is_not_decoded_again_and_is_the_same(folder, monkeypatch, limit, decoded_again):
    data = dataset(folder, augment=1.0, cache_bytes=limit)
    first = batches(data, 0)
    calls = []
    monkeypatch.setattr("m4oe.data.dataset.read_picture", lambda *args: calls.append(args))
    if decoded_again:
        with pytest.raises(AttributeError):
            data[0]
    else:
        assert same(batches(data, 0), first)
    assert bool(calls) == decoded_again


def test_the_cache_keeps_to_its_bytes(folder):
    """A picture is 32 x 32 x 4 = 4096 bytes, a mask 2048, a volume 4096: two things of 10 000 fit, then a mask."""
    data = dataset(folder, cache_bytes=10_000)
    list(data)
    assert 0 < data._cache.used <= 10_000


# ---- what is wrong


def change_table(folder: Path, old: str, new: str) -> None:
    text = (folder / "exams.csv").read_text()
    assert old in text
    (folder / "exams.csv").write_text(text.replace(old, new))


def test_a_bad_picture_names_row_input_and_exam(folder):
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:60])
    with pytest.raises(UserError, match=r"exams\.csv, row 3, input 'view' of exam 'b': .*b\.png: damaged"):
        dataset(folder, "b")[0]


def test_a_mask_of_another_shape_names_both(folder):
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(folder / "a_mask.png")
    with pytest.raises(
        UserError, match=r"row 2, task 'lesion'.*a_mask\.png is 30 x 40, and its picture .*a\.png 40 x 30"
    ):
        dataset(folder, "a")[0]


def test_what_a_mask_ignores_is_no_class(folder):
    """255 alone beside 0 would be the lesion, were it not what counts for nothing."""
    study = folder / "study.yaml"
    study.write_text(study.read_text().replace("[back, lesion]", "[back, lesion], ignore: 255"))
    ignored = dataset(folder, "a")[0].targets["lesion"]
    assert set(ignored.unique().tolist()) == {-100, 0}


def test_a_mask_that_lies_elsewhere_is_refused_or_moved(folder):
    study = folder / "study.yaml"
    study.write_text(study.read_text().replace("column: mask, on: view", "column: mask, on: scan"))
    table = (folder / "exams.csv").read_text()
    (folder / "exams.csv").write_text(table.replace("a_mask.png", "mask.nii.gz"))
    mask = np.zeros((12, 10, 6), np.uint8)
    mask[:, :, 0] = 1
    above = np.diag([1, 1, 2.0, 1])
    above[2, 3] = 4  # two slices of 2 mm further up than its array says
    nib.save(nib.Nifti1Image(mask, above), folder / "mask.nii.gz")
    stream = SCHEMA.stream("scan@t1").model_copy(update={"size": (6, 10, 12)})
    lies_on_scan = Schema(streams=(stream,), tasks=(SCHEMA.task("lesion").model_copy(update={"on": "scan"}),))

    def target() -> torch.Tensor:
        return ExamDataset([cohort_in(folder)], rows("a"), lies_on_scan)[0].targets["lesion"]

    with pytest.raises(UserError, match=r"row 2, task 'lesion'.*'fix: resample' \(the nearest label in space\)"):
        target()
    study.write_text(study.read_text().replace("[back, lesion]", "[back, lesion], fix: resample"))
    assert (target() == 1).sum((1, 2)).tolist() == [0, 0, 120, 0, 0, 0]


def test_an_unnamed_mask_value_names_row_and_value(folder):
    Image.fromarray(np.full((40, 30), 3, np.uint8)).save(folder / "a_mask.png")
    with pytest.raises(UserError, match=r"row 2, task 'lesion' of exam 'a': .*value 3.*known: 0, 1"):
        dataset(folder, "a")[0]


def test_an_image_among_volumes_is_refused(folder):
    change_table(folder, "c.nii.gz", "a.png")
    with pytest.raises(UserError, match=r"row 4, input 'scan'.*image of 1 channel, where 'scan@t2' is volume of 1"):
        dataset(folder, "c")[0]


def test_an_unknown_side_is_refused(folder):
    change_table(folder, "a.png,L", "a.png,")
    with pytest.raises(UserError, match="row 2, input 'view' of exam 'a': column 'side' is empty"):
        dataset(folder, "a")[0]


def test_an_exam_of_no_table_is_refused(folder):
    with pytest.raises(UserError, match="exam 'z' of study 's' is in no table"):
        dataset(folder, "z")


# ---- without a table


def test_an_exam_from_python_equals_that_of_the_table(folder):
    given = {
        "view": folder / "b.png", "scan@t1": str(folder / "a.nii.gz"), "history": {"age": 61.0, "sex": "F"},
    }  # fmt: skip
    sample = exam_sample(given, SCHEMA, sides={"view": "right"})
    a, b, _ = dataset(folder)
    assert torch.equal(sample.inputs["view"], b.inputs["view"])
    assert torch.equal(sample.inputs["scan@t1"], a.inputs["scan@t1"])
    assert torch.equal(sample.inputs["history"], a.inputs["history"])
    assert sample.fits["view"] == b.fits["view"] and sample.geometry["scan@t1"].shape == (6, 10, 12)


def test_an_exam_from_python_may_be_arrays_and_lists(folder):
    sample = exam_sample({"view": breast(False)}, SCHEMA, {"view": "left"})
    assert torch.equal(sample.inputs["view"], dataset(folder, "a")[0].inputs["view"])
    listed = exam_sample({"view": [str(folder / "a.png")]}, SCHEMA, {"view": "left"})
    assert torch.equal(sample.inputs["view"], listed.inputs["view"])


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"veiw": "a.png"}, "unknown input 'veiw': did you mean 'view'"),
        ({"scan": "a.nii"}, "several modalities; name one: scan@t1, scan@t2"),
        ({"history": {"agee": 3}}, "did you mean 'age'"),
        ({"history": 61}, "is a mapping of age, sex"),
        ({"view": np.eye(8)}, "input 'view': which side is it"),
        ({"scan@t1": "nowhere.nii"}, "nowhere.nii: no such file"),
        ({}, "one input at least"),
    ],
)
def test_a_bad_exam_from_python_has_one_message(given, reason):
    with pytest.raises(UserError, match=reason):
        exam_sample(given, SCHEMA)
