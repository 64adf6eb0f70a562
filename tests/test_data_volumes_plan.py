"""What a plan takes from the training exams, and what it leaves to each volume."""

from __future__ import annotations

import json

import numpy as np
import pytest

from m4oe.data.fingerprint import fit_schema
from m4oe.data.volumes.measure import Measured
from m4oe.data.volumes.plan import fitting_spacing, make_plan, read_plan, slice_axis, why_scaled, write_plan
from m4oe.errors import UserError
from small_volumes import block, planned, rows_of, study_of, volume, write_volume


def seen(shape, spacing=None, **facts):
    return Measured(shape, spacing, True, np.empty(0, np.float32), {}, **facts)


@pytest.mark.parametrize(
    ("shape", "spacing", "axis"),
    [
        ((30, 256, 256), (5.0, 1.0, 1.0), 0),
        ((256, 30, 256), (1.0, 5.0, 1.0), 1),
        ((256, 256, 300), (0.8, 0.8, 1.5), 2),  # coarsest, though it has the most slices
        ((256, 256, 12), (1.0, 1.0, 1.0), 0),  # known and even: axial
        ((10, 216, 256), None, 0),
        ((216, 10, 256), None, 1),
        ((35, 50, 36), None, 0),  # no axis has clearly fewest: axial
        ((100, 100, 90), (1.0, 1.0, 1.2), 0),
        ((64, 64), (1.0, 1.0), 0),
    ],
)
def test_slices_lie_across_the_coarsest_axis(shape, spacing, axis):
    assert slice_axis([seen(shape, spacing)] * 3) == axis


def test_the_typical_volume_decides_on_the_axis():
    assert slice_axis([seen((9, 90, 90), (5, 1, 1))] * 3 + [seen((90, 9, 90), (1, 5, 1))]) == 0


@pytest.mark.parametrize(
    ("shapes", "spacings", "expected"),
    [
        # 50 rows of 1 mm on 96 are 0.5208 mm, 35 columns need less
        ([(40, 50, 35)] * 3, [(1.0, 1.0, 1.0)] * 3, 0.5208),
        ([(40, 512, 512)] * 3, [(5.0, 0.75, 0.75)] * 3, 4.0),  # 384 mm
        ([(40, 512, 512)] * 3, [(5.0, 0.6, 0.6), (5.0, 0.75, 0.75), (5.0, 0.9, 0.9)], 4.0),  # the median of extents
        ([(40, 50, 35), (40, 250, 250)], [(1.0, 1.0, 1.0)] * 2, None),  # a part of a brain, and a chest
        ([(40, 50, 35)] * 3, [None, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)], None),
        ([(96, 48)] * 2, [(2.0, 2.0)] * 2, 2.0),
    ],
)
def test_the_typical_slice_fits_the_size(shapes, spacings, expected):
    found = fitting_spacing([seen(*pair) for pair in zip(shapes, spacings)], 0, (96, 96))
    assert found == (None if expected is None else (expected, expected))


def test_why_slices_are_scaled_is_told_apart():
    """Of three files one tells its spacing; 50 mm beside 250 mm: the tenth percentile is 70 mm, the ninetieth 230."""
    brain, chest, unknown = seen((40, 50, 35), (1, 1, 1)), seen((40, 250, 250), (1, 1, 1)), seen((40, 50, 35))
    assert why_scaled([brain, unknown, unknown], 0, (96, 96)) == "only 1 of 3 files say how large a pixel is"
    said = "files say how large a pixel is, but slices differ 3.3-fold in extent"
    assert why_scaled([brain, chest], 0, (96, 96)) == said
    assert why_scaled([brain, brain], 0, (96, 96)) is None


def test_a_plan_says_why_its_slices_are_scaled(tmp_path):
    cases = {f"c{n}": (volume(n, shape), block(shape)) for n, shape in enumerate([(6, 20, 16), (6, 90, 90)])}
    schema = planned([study_of(tmp_path, cases)])
    assert schema.plan.streams["image"].spacing is None
    assert "differ 3.1-fold in extent" in schema.plan.found["image"]["scaled_because"]
    wanted = planned([study_of(tmp_path, cases)], spacing=(1.0, 1.0)).plan
    assert wanted.streams["image"].spacing == (1.0, 1.0) and "scaled_because" not in wanted.found["image"]


def test_size_is_of_rows_and_columns():
    assert fitting_spacing([seen((9, 40, 80), (1, 1, 1))], 0, (20, 80)) == (2.0, 2.0)


@pytest.fixture
def ct(tmp_path):
    """Organ of 0 ... 99 HU in air, in a's case; in b, which is not for training, of 1000 HU."""
    cases = {}
    for number, case in enumerate("aab"):
        picture = np.full((6, 20, 16), -1000.0, np.float32)
        picture[2:4, 5:10, 4:9] = np.linspace(0, 99, 50).reshape(2, 5, 5) if case == "a" else 1000
        picture[0, 0, 0] = 500
        cases[f"{case}{number}"] = (picture, block())
    return study_of(tmp_path, cases, kind="ct")


def plan_of(cohort, exams, **facts):
    rows = rows_of([cohort])
    rows.loc[~rows["exam"].isin(exams), "split"] = "test"
    schema = fit_schema([cohort], rows, 0, (16, 16), (8, 8, 8), volumes_as_slices=True)
    return make_plan([cohort], rows, 0, schema, size=(16, 16), **facts)


def test_a_ct_window_is_that_of_annotated_foreground_of_training_exams(ct):
    window = plan_of(ct, ["a0", "a1"]).streams["image"]
    values = np.tile(np.linspace(0, 99, 50), 2)
    low, high = np.percentile(values, (0.5, 99.5))
    assert (window.low, window.high) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))
    assert window.mean == pytest.approx(values.mean(), abs=0.1) and window.sd == pytest.approx(values.std(), rel=0.02)
    assert window.spacing == (20 / 16, 20 / 16) and window.slice_axis == 0
    assert plan_of(ct, ["a0", "a1", "b2"]).streams["image"].high > 900


def test_a_ct_of_bytes_has_no_window(tmp_path):
    bytes_ = volume(0, high=255).astype(np.uint8)
    cohort = study_of(tmp_path, {f"c{n}": (bytes_, block()) for n in range(3)}, kind="ct")
    assert planned([cohort]).plan.streams["image"].model_dump(exclude={"spacing", "slice_axis"}) == dict.fromkeys(
        ("low", "high", "mean", "sd")
    )


def test_a_wanted_spacing_wins(ct):
    plan = plan_of(ct, ["a0"], spacing=(3.0, 4.0), context=2)
    assert plan.streams["image"].spacing == (3.0, 4.0) and plan.context == 2


def test_found_is_for_people(ct):
    found = plan_of(ct, ["a0", "a1"]).found["image"]
    assert found["median_spacing_mm"] == [3.0, 1.0, 1.0] and found["median_shape"] == [6, 20, 16]
    share = 50 / (6 * 20 * 16)
    assert found["share_of_pixels"] == {
        "s_organs": [pytest.approx(1 - share, abs=1e-4), pytest.approx(share, abs=1e-4)]
    }
    assert found["pictures_measured"] == 2


def test_a_plan_is_read_as_it_was_written_and_as_it_was_edited(ct, tmp_path):
    plan, path = plan_of(ct, ["a0"]), tmp_path / "run" / "plan.json"
    write_plan(plan, path)
    assert read_plan(path) == plan and path.read_text().count("\n") > 20
    content = json.loads(path.read_text())
    content["streams"]["image"]["low"] = -200
    path.write_text(json.dumps(content))
    assert read_plan(path).streams["image"].low == -200
    content["streams"]["image"]["slice_axis"] = 3
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"plan\.json: streams\.image\.slice_axis = 3"):
        read_plan(path)
    for keys, said in (
        ({"sd": 0.0}, "'sd' is 0"),
        ({"low": 400}, "low is below high"),
        ({"spacing": [1, -1]}, "above 0"),
        ({"mean": None}, "go together"),
    ):
        content["streams"]["image"] = plan.streams["image"].model_dump() | keys
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match=rf"plan\.json: streams\.image: .*{said}"):
            read_plan(path)
    path.write_text(json.dumps(plan.model_dump() | {"size": [0, 32]}))
    with pytest.raises(UserError, match=r"plan\.json: size\.0 = 0"):
        read_plan(path)
    path.write_text("{")
    with pytest.raises(UserError, match="delete it, and it is made again"):
        read_plan(path)


def test_streams_are_slices_of_the_plans_size(ct):
    stream = planned([ct], size=(24, 32)).streams[0]
    assert (stream.form, stream.size, stream.channels) == ("slices", (24, 32), 1)


def test_mistakes_are_named_where_they_stand(ct, tmp_path):
    write_volume(tmp_path / "s" / "a0_mask.nii.gz", block() * 3)
    with pytest.raises(UserError, match=r"table\.csv, row 2, task 's_organs' of exam 'a0': .*the value 3, which"):
        planned([ct])
    write_volume(tmp_path / "s" / "a0_mask.nii.gz", block((6, 10, 8)), (3.0, 2.0, 2.0))
    with pytest.raises(UserError, match=r"table\.csv, row 2, task 's_organs' of exam 'a0': the mask .*'fix: resample'"):
        planned([ct])
    write_volume(tmp_path / "s" / "a0.nii.gz", np.full((6, 20, 16), np.nan, np.float32))
    write_volume(tmp_path / "s" / "a0_mask.nii.gz", block())
    with pytest.raises(UserError, match=r"table\.csv, row 2, input 'image' of exam 'a0': .*NaN"):
        planned([ct])


def test_priors_leave_out_what_is_ignored(tmp_path):
    mask = block()
    mask[3:] = 255  # half of the volume; 25 pixels of the organ are left in 960
    cohort = study_of(tmp_path, {f"c{n}": (volume(n), mask) for n in range(2)}, ignore=255)
    assert planned([cohort]).tasks[0].prior == (pytest.approx(1 - 25 / 960), pytest.approx(25 / 960))
