"""Slices as samples: which are drawn, and what a view does to them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from m4oe.data.dataset import collate
from m4oe.data.volumes.slices import Balance, SliceDataset, with_neighbours
from m4oe.data.volumes.views import View, centred, sample_view
from m4oe.errors import UserError
from small_volumes import block, cache_of, planned, rows_of, study_of, volume

SIZE = (16, 16)


def dataset(folder, cohorts, *, size=SIZE, plan=None, **facts):
    schema = planned(cohorts, size, **(plan or {}))
    return SliceDataset(cohorts, rows_of(cohorts), schema, cache_of(folder, schema), **facts)


@pytest.fixture
def cohort(tmp_path):
    """Three exams of six slices, an organ on two of each; the last exam has a tumour on one more slice."""
    masks = [block(), block(), block()]
    masks[2][5, 12:16, 10:14] = 2
    cases = {f"c{n}": (volume(n), mask) for n, mask in enumerate(masks)}
    return study_of(tmp_path, cases, classes=["background", "organ", "tumour"])


def test_validation_is_every_labelled_slice_in_order(cohort, tmp_path):
    data = dataset(tmp_path, [cohort])
    assert len(data) == 18
    assert [data[number].exam for number in range(18)] == ["c0"] * 6 + ["c1"] * 6 + ["c2"] * 6
    cache, stream = data.cache, data.schema.streams[0]
    pictures = cache.pictures(cohort, 1, stream)
    for number in range(6):
        # 20 x 16 pixels of 1 mm at 1.25 mm are 16 x 13: three columns of the view lie outside
        sample = data[6 + number]
        picture, mask = sample.inputs["image"], sample.targets["s_organs"]
        assert picture.shape == (1, 16, 16) and mask.shape == (16, 16) and mask.dtype == torch.int64
        outside = (mask == -100).all(0)
        assert outside.sum() == 3
        torch.testing.assert_close(picture[0, :, ~outside], torch.tensor(pictures[number, 0]).float())
        assert (picture[0, :, outside] == cache.floor(cohort, 1, stream)).all()


def test_a_batch_is_an_ordinary_batch(cohort, tmp_path):
    data = dataset(tmp_path, [cohort], draws=8, augment=1.0, plan={"context": 1})
    batch = collate([data[number] for number in range(8)])
    assert batch.inputs["image"].values.shape == (8, *data.schema.shape(data.schema.streams[0])) == (8, 3, 16, 16)
    assert batch.inputs["image"].values.dtype == torch.float32 and batch.inputs["image"].values.isfinite().all()
    assert batch.targets["s_organs"].values.shape == (8, 16, 16)
    assert set(batch.exams) <= {"s/c0", "s/c1", "s/c2"}


def test_neighbours_are_channels_and_edges_repeat():
    stack = np.arange(4, dtype=np.float16).reshape(4, 1, 1, 1) + np.array([0, 10], np.float16).reshape(1, 2, 1, 1)
    assert with_neighbours(stack, 0, 1).ravel().tolist() == [0, 10, 0, 10, 1, 11]
    assert with_neighbours(stack, 2, 1).ravel().tolist() == [1, 11, 2, 12, 3, 13]
    assert with_neighbours(stack, 3, 2).ravel().tolist() == [1, 11, 2, 12, 3, 13, 3, 13, 3, 13]
    assert with_neighbours(stack, 1, 0).dtype == np.float32


def test_a_draw_depends_on_seed_epoch_and_number_alone(cohort, tmp_path):
    data = dataset(tmp_path, [cohort], draws=6, augment=1.0, seed=4)
    backwards = [data[number] for number in (5, 4, 3, 2, 1, 0)][::-1]
    again = [dataset(tmp_path, [cohort], draws=9, augment=1.0, seed=4)[number] for number in range(6)]
    for one, two in zip(backwards, again):
        assert torch.equal(one.inputs["image"], two.inputs["image"]) and one.exam == two.exam
        assert torch.equal(one.targets["s_organs"], two.targets["s_organs"])
    data.set_epoch(1)
    assert not any(torch.equal(data[n].inputs["image"], backwards[n].inputs["image"]) for n in range(6))
    other = dataset(tmp_path, [cohort], draws=6, augment=1.0, seed=5)
    assert not any(torch.equal(other[n].inputs["image"], backwards[n].inputs["image"]) for n in range(6))


def test_workers_see_the_epoch(cohort, tmp_path):
    data = dataset(tmp_path, [cohort], draws=4, augment=1.0)
    loader = torch.utils.data.DataLoader(data, batch_size=4, num_workers=1, collate_fn=collate, persistent_workers=True)
    for epoch in (0, 3):
        data.set_epoch(epoch)
        (batch,) = loader
        assert torch.equal(batch.inputs["image"].values, torch.stack([data[n].inputs["image"] for n in range(4)]))


def balance_counts(data, draws):
    balance, rng = Balance(data._stacks), np.random.default_rng(0)
    return [balance.draw(rng) for _ in range(draws)]


def test_a_third_of_draws_is_of_a_class_chosen_at_random(cohort, tmp_path):
    drawn = balance_counts(dataset(tmp_path, [cohort]), 3000)
    sought = Counter(found[1] for *_, found in drawn if found)
    # a third is forced, half of it to either class; free draws are of 18 slices alike
    assert sought[1] == pytest.approx(500, abs=75) and sought[2] == pytest.approx(500, abs=75)
    for stack, slice_, found in drawn:
        assert found is None or stack.counts["s_organs"][slice_, found[1]] > 0
    tumour = sum(stack.cohort.exams[stack.place] == "c2" and slice_ == 5 for stack, slice_, _ in drawn)
    assert tumour == pytest.approx(500 + 2000 / 18, abs=80)


def test_studies_count_alike(tmp_path):
    many = study_of(tmp_path, {f"c{n}": (volume(n), block()) for n in range(9)}, "many")
    few = study_of(tmp_path, {"c0": (volume(0), block())}, "few")
    drawn = Counter(stack.cohort.study.name for stack, *_ in balance_counts(dataset(tmp_path, [many, few]), 2000))
    assert drawn["few"] == pytest.approx(1000, abs=70)


def test_a_forced_class_is_in_the_view(tmp_path):
    """A slice four times the view, with one small organ in a corner: free views would mostly miss it."""
    mask = np.zeros((2, 64, 64), np.uint8)
    mask[1, 60:63, 2:5] = 1
    cohort = study_of(tmp_path, {"c0": (volume(0, (2, 64, 64)), mask)})
    data = dataset(tmp_path, [cohort], plan={"spacing": (1.0, 1.0)}, draws=300)
    has = sum(bool((data[n].targets["s_organs"] == 1).any()) for n in range(300))
    forced = sum(
        found is not None for *_, found in (data._balance.draw(np.random.default_rng([0, 0, n])) for n in range(300))
    )
    assert 80 < forced <= has
    for number in range(300):
        _, _, found = data._balance.draw(np.random.default_rng([0, 0, number]))
        sample = data[number]
        assert (sample.targets["s_organs"] >= 0).all(), "a large slice fills the view"
        assert found is None or (sample.targets["s_organs"] == 1).any()


def test_an_organ_that_no_mask_shows_is_refused(tmp_path):
    cohort = study_of(tmp_path, {f"c{n}": (volume(n), np.zeros((6, 20, 16), np.uint8)) for n in range(2)})
    with pytest.raises(UserError, match=r"table\.csv, column 'mask': all 2 masks of task 's_organs' are empty"):
        dataset(tmp_path, [cohort], draws=4)
    assert len(dataset(tmp_path, [cohort])) == 12, "of a validation exam, an empty mask is a fact"


def test_an_exam_without_a_mask_is_left_out(cohort, tmp_path):
    cohort.labels["s_organs"][1] = None
    assert {dataset(tmp_path, [cohort])[n].exam for n in range(12)} == {"c0", "c2"}


def test_the_view_of_the_middle_moves_nothing():
    values, masks = torch.randn(2, 7, 10), torch.randint(0, 3, (1, 7, 10))
    for size in ((7, 10), (5, 5), (8, 12), (4, 13)):
        picture, labels = centred((7, 10), size).apply(values, masks, size, -9.0)
        inside = labels[0] >= 0
        assert inside.sum() == min(7, size[0]) * min(10, size[1]) and (picture[:, ~inside] == -9).all()
        cut = [(n - m) // 2 if n > m else 0 for n, m in zip((7, 10), size)]
        rows, columns = (slice(start + (n - m) % 2 * (n > m), None) for start, n, m in zip(cut, (7, 10), size))
        expected = values[:, rows, columns][:, : size[0], : size[1]].reshape(2, -1)
        torch.testing.assert_close(picture[:, inside], expected)


def test_a_turn_moves_picture_and_mask_together_and_counter_clockwise():
    values = torch.zeros(1, 9, 9)
    values[0, 4, 7] = 1.0  # to the right of the middle
    picture, labels = View((4.0, 4.0), angle=90.0).apply(values, values.long(), (9, 9), 0.0)
    assert labels[0].nonzero().tolist() == [[1, 4]], "with the first row on top, above it"
    assert picture[0, 1, 4] == pytest.approx(1.0, abs=1e-4)


def test_scale_enlarges():
    values = torch.zeros(1, 16, 16)
    values[0, 6:10, 6:10] = 1.0
    _, labels = View((7.5, 7.5), scale=2.0).apply(values, values.long(), (16, 16), 0.0)
    assert labels[0].sum() == 64 and (labels[0, 4:12, 4:12] == 1).all()


def test_flips_and_centres():
    values = torch.arange(12.0).view(1, 3, 4)
    picture, _ = View((1.0, 1.5), flips=(True, False)).apply(values, values.long(), (3, 4), 0.0)
    assert torch.equal(picture, values.flip(1))
    picture, labels = View((0.0, 0.5)).apply(values, values.long(), (3, 4), -1.0)
    assert picture[0].tolist() == [[-1] * 4, [-1, 0, 1, 2], [-1, 4, 5, 6]]
    assert labels[0].tolist() == [[-100] * 4, [-100, 0, 1, 2], [-100, 4, 5, 6]]


@pytest.mark.parametrize(
    ("kind", "rows", "columns"), [("ct", 0, 0), ("mr", 0, 0), ("mammogram", 1, 0), ("pathology", 1, 1)]
)
def test_sides_of_a_body_are_never_swapped(kind, rows, columns):
    views = [sample_view(np.random.default_rng(n), (20, 20), (16, 16), kind) for n in range(40)]
    assert any(view.flips[0] for view in views) == rows and any(view.flips[1] for view in views) == columns
    assert max(abs(view.angle) for view in views) <= 20 and all(0.8 <= view.scale <= 1.25 for view in views)
    assert any(view.blur for view in views) and any(view.angle == 0 for view in views)


def test_without_augmentation_a_view_is_a_cut():
    values, masks = torch.randn(1, 20, 24), torch.randint(0, 2, (1, 20, 24))
    for seed in range(20):
        view = sample_view(np.random.default_rng(seed), (20, 24), (16, 16), "mr", 0.0)
        picture, _ = view.apply(values, masks, (16, 16), 0.0)
        patches = values[0].unfold(0, 16, 1).unfold(1, 16, 1).reshape(-1, 16, 16)
        assert (patches == picture).all((1, 2)).sum() == 1


def test_a_view_is_the_same_twice_and_other_arguments_draw_alike():
    one, two = (np.random.default_rng(3) for _ in range(2))
    sample_view(one, (20, 20), (16, 16), "mr"), sample_view(two, (90, 20), (8, 8), "pathology", 0.0, (3, 4))
    assert one.random() == two.random()
    view = sample_view(np.random.default_rng(3), (20, 20), (16, 16), "mr")
    values, masks = torch.randn(1, 20, 20), torch.randint(0, 2, (1, 20, 20))
    assert torch.equal(view.apply(values, masks, SIZE, 0.0)[0], view.apply(values, masks, SIZE, 0.0)[0])
