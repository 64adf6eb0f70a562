"""A schema fitted to the training split: every number worked by hand, and nothing learned from other splits."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cohorts import PICTURE, cohort, labelled, write_pictures
from m4oe.data.fingerprint import fit_schema
from m4oe.data.prevalence import balanced, cumulative_risk
from m4oe.data.variables import encode_variables, fit_variable
from m4oe.errors import UserError
from m4oe.schema import Stream, Variable

SIZES = ((32, 24), (4, 16, 16))
AGE = {"columns": ["age"], "modality": "clinical", "kind": "table"}


def split_frame(cohorts, splits):
    """All exams, in order, with these splits."""
    frames = [pd.DataFrame({"study": c.study.name, "exam": c.exams, "patient": c.patients}) for c in cohorts]
    return pd.concat(frames, ignore_index=True).assign(split=splits, fold=0)


def fitted(*cohorts, splits=None):
    splits = splits or ["train"] * sum(map(len, cohorts))
    return fit_schema(cohorts, split_frame(cohorts, splits), 0, *SIZES)


def of_table(folder, header, rows, **facts):
    return cohort(folder, "\n".join([header, *rows]) + "\n", inputs={"age": AGE}, **facts)


def test_only_training_exams_count(tmp_path):
    """Training ages 50, 70, 50, 70: mean 60, sd 10; of four labels one is positive. Others are far off."""
    rows = ["50,0", "70,1", "50,0", "70,0", "1000,1", "1000,1"]
    found = of_table(tmp_path, "age,y", rows)
    schema = fitted(found, splits=["train"] * 4 + ["validation", "test"])
    assert schema.streams[0].variables == (Variable(column="age", mean=60.0, sd=10.0),)
    assert schema.streams[0].form == "vector" and schema.streams[0].channels == 2
    assert schema.task("y").prior == pytest.approx((0.25,)) and schema.task("y").classes == ("0", "1")
    changed = of_table(tmp_path, "age,y", [*rows[:4], "1,0", "2,0"])
    assert fitted(changed, splits=["train"] * 4 + ["validation", "test"]) == schema


def test_only_this_fold_counts(tmp_path):
    found = of_table(tmp_path, "age,y", ["50,0", "70,1", "90,1"])
    frame = pd.concat(
        [
            split_frame([found], ["test", "train", "train"]),
            split_frame([found], ["train", "train", "test"]).assign(fold=1),
        ]
    )
    assert fit_schema([found], frame, 0, *SIZES).streams[0].variables[0].mean == 80
    assert fit_schema([found], frame, 1, *SIZES).streams[0].variables[0].mean == 60


def test_weights_by_hand():
    """Shares 0.9 and 0.1: 1/sqrt is 1.054 and 3.162, a mean of 2.108, so 0.5 and 1.5. A class without exams gets 1."""
    assert balanced(np.array([0.9, 0.1])) == pytest.approx((0.5, 1.5))
    assert balanced(np.array([0.9, 0.1, 0.0])) == pytest.approx((0.5, 1.5, 1.0))
    assert balanced(np.array([0.5, 0.5])) == pytest.approx((1, 1))
    extreme = balanced(np.array([1 - 1e-6, 1e-6]))
    assert np.mean(extreme) == pytest.approx(1) and min(extreme) > 0.15


def test_priors_of_every_kind(tmp_path):
    tasks = {
        "density": {"kind": "ordinal", "column": "d", "classes": ["A", "B", "C"]},
        "type": {"kind": "multiclass", "column": "d", "classes": {"A": "fat", "B": "dense", "C": "both", "D": "rare"}},
        "findings": {"kind": "multilabel", "columns": ["m", "c"]},
        "risk": {"kind": "survival", "time": "t", "event": "e", "horizons": [1, 2.5]},
    }
    rows = ["1,A,1,0,0.5,1", "1,A,0,0,1.5,0", "1,B,,0,2,1", "1,C,0,1,4,0"]
    schema = fitted(of_table(tmp_path, "age,d,m,c,t,e", rows, tasks=tasks))
    assert schema.task("density").prior == pytest.approx((0.5, 0.25, 0.25))
    assert schema.task("type").prior == pytest.approx((0.5, 0.25, 0.25, 0.001))  # finite logits
    assert schema.task("type").classes == ("fat", "dense", "both", "rare") and schema.task("type").values == tuple(
        "ABCD"
    )
    assert schema.task("findings").prior == pytest.approx((1 / 3, 1 / 4))
    assert schema.task("findings").classes == ("m", "c") and len(schema.task("findings").weights) == 2
    risk = schema.task("risk")
    assert risk.classes == ("1", "2.5") and risk.horizons == (1.0, 2.5) and risk.weights == (1.0, 1.0)
    # At risk 4 at 0.5: survival 3/4. At 2 two are left: 3/4 x 1/2.
    assert risk.prior == pytest.approx((0.25, 1 - 3 / 8))


def test_cumulative_risk_without_censoring_is_a_share():
    labels = np.array([[1.0, 1], [2, 1], [3, 1], [4, 1]], np.float32)
    assert cumulative_risk(labels, (0.5, 1, 3.5)) == pytest.approx([0, 0.25, 0.75])


def test_a_segmentation_counts_pixels(tmp_path):
    """Of 2 x 16 pixels, 4 are 128 and 8 are 255: shares of 255, 128, 0 are 8/32, 4/32, 20/32."""
    write_pictures(tmp_path, ["a.png", "b.png"], (4, 4))
    for name, pixels in {"m.png": [255] * 8 + [0] * 8, "n.png": [128] * 4 + [0] * 12}.items():
        Image.fromarray(np.array(pixels, np.uint8).reshape(4, 4)).save(tmp_path / name)
    task = {"kind": "segmentation", "column": "mask", "on": "cc", "classes": {255: "out", 128: "rim", 0: "cup"}}
    task["regions"] = {"disc": ["rim", "cup"]}
    found = cohort(tmp_path, "path,mask\na.png,m.png\nb.png,n.png\n", tasks={"optic": task})
    optic = fitted(found).task("optic")
    assert optic.prior == pytest.approx((0.25, 0.125, 0.625)) and optic.values == (255, 128, 0)
    assert optic.on == "cc" and optic.regions == {"disc": ("rim", "cup")} and np.mean(optic.weights) == pytest.approx(1)


def test_streams_are_named_and_sized(tmp_path):
    write_pictures(tmp_path, ["a.png", "b.png"])
    np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(3, 5, 6)).astype(np.float32))
    inputs = {
        "cc": PICTURE,
        "scan": {"column": "scan", "modality": {"column": "sequence"}, "kind": "mr"},
        "photo": {"column": "path", "modality": "fundus", "kind": "photo"},
    }
    table = "path,scan,sequence,y\na.png,v.npy,t2,0\nb.png,v.npy,t1,1\n,v.npy,t2,\n"
    schema = fitted(cohort(tmp_path, table, inputs=inputs))
    assert [(s.name, s.input, s.modality, s.form, s.channels, s.size) for s in schema.streams] == [
        ("cc", "cc", "ffdm", "image", 1, (32, 24)),
        ("scan@t1", "scan", "t1", "volume", 1, (4, 16, 16)),
        ("scan@t2", "scan", "t2", "volume", 1, (4, 16, 16)),
        ("photo", "photo", "fundus", "image", 3, (32, 24)),
    ]
    assert schema.modalities == ("ffdm", "t1", "t2", "fundus")


def two(tmp_path, first, second):
    cohorts = []
    for name, facts in (("a", first), ("b", second)):
        (tmp_path / name).mkdir()
        write_pictures(tmp_path / name, ["x.png"])
        cohorts.append(cohort(tmp_path / name, "path,age,y,z\nx.png,50,0,A\nx.png,70,1,B\n", **{"name": name, **facts}))
    return cohorts


def test_studies_merge_by_name(tmp_path):
    z = {"kind": "ordinal", "column": "z", "classes": ["A", "B"]}
    y = {"kind": "binary", "column": "y"}
    other = {"cc": {**PICTURE, "modality": "dbt"}, "mlo": PICTURE, "age": AGE}
    schema = fitted(*two(tmp_path, {"tasks": {"y": y}}, {"tasks": {"z": z, "y": y}, "inputs": other}))
    assert [stream.name for stream in schema.streams] == ["cc@ffdm", "cc@dbt", "mlo", "age"]
    assert [task.name for task in schema.tasks] == ["y", "z"] and schema.modalities == ("ffdm", "dbt", "clinical")


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"tasks": {"y": {"kind": "multiclass", "column": "y", "classes": [0, 1]}}}, "task 'y'"),
        ({"tasks": {"y": {"kind": "binary", "column": "y", "classes": {0: "no", 1: "yes"}}}}, "task 'y'"),
        ({"inputs": {"cc": {**PICTURE, "kind": "xray"}}}, "input 'cc'"),
    ],
)
def test_studies_that_disagree(tmp_path, facts, said):
    with pytest.raises(UserError, match=rf"{said} is not the same in studies 'a' .* and 'b'"):
        fitted(*two(tmp_path, {}, facts))


def test_a_task_without_training_labels(tmp_path):
    found = labelled(tmp_path, ["", "", "1", "0"])
    with pytest.raises(UserError, match=r"task 'y' has no label in the 2 training exams"):
        fitted(found, splits=["train", "train", "validation", "test"])
    tasks = {"f": {"kind": "multilabel", "columns": ["m", "c"]}}
    with pytest.raises(UserError, match=r"task 'f' has no label 'c' in the 2 training exams"):
        fitted(of_table(tmp_path, "age,m,c", ["1,0,", "2,1,"], tasks=tasks))


def stream_of(*variables):
    width = sum(variable.width for variable in variables)
    return Stream(name="v", input="v", modality="c", kind="table", form="vector", channels=width, variables=variables)


def test_variables_become_numbers():
    stream = stream_of(Variable(column="age", mean=60, sd=10), Variable(column="sex", categories=("F", "M")))
    for age, sex, expected in [
        ("75", "M", [1.5, 1, 0, 1]),
        ("60", "F", [0, 1, 1, 0]),  # the mean is not the same as missing
        ("", "", [0, 0, 0, 0]),
        ("75", "X", [1.5, 1, 0, 0]),  # not met in training
    ]:
        vector = encode_variables(stream, {"age": age, "sex": sex})
        assert vector.dtype == np.float32 and vector.tolist() == expected


def test_a_number_that_is_none():
    with pytest.raises(UserError, match=r"column 'age': 'old' is not a number"):
        encode_variables(stream_of(Variable(column="age")), {"age": "old"})


def test_numbers_and_categories_are_told_apart():
    assert fit_variable("v", np.array(["1", "", "3"], object)) == Variable(column="v", mean=2, sd=1)
    assert fit_variable("v", np.array(["b", "", "1"], object)).categories == ("1", "b")
    assert fit_variable("v", np.array(["5", "5"], object)).sd == 1  # a constant does not divide by zero
    assert fit_variable("v", np.array(["", ""], object)) == Variable(column="v")
    with pytest.raises(UserError, match=r"column 'v': 'NA' is not a number"):
        fit_variable("v", np.array([*map(str, range(20)), "NA"], object))
