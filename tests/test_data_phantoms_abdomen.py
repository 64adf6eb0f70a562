"""The abdomen cohort: three ordinary studies of volumes, one anatomy, and no way round knowing where organs lie."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy import ndarray
from scipy.ndimage import binary_dilation

from m4oe.data.check import check_studies
from m4oe.data.phantoms import anatomy, scanner, write_abdomen
from m4oe.data.phantoms.abdomen import ANNOTATIONS, ORIENTATIONS
from m4oe.data.readers import Picture, read_mask, read_picture
from m4oe.data.table import Cohort, load_cohort
from m4oe.errors import UserError
from m4oe.study import Study, Task, load_study

MODALITIES = ("ct", "mr", "ce_mr")
PATIENTS = 6


@dataclass(frozen=True)
class Case:
    """A volume (D, H, W) as read, its mask by class name, and the two files."""

    picture: Picture
    masks: dict[str, ndarray]
    files: tuple[Path, Path]

    @property
    def values(self) -> ndarray:
        return self.picture.values[0]

    def middle(self, name: str) -> ndarray:
        """Of a class: mm to the head, the front and the right, from the first voxel."""
        return np.argwhere(self.masks[name]).mean(axis=0) * self.picture.spacing

    def millilitres(self, name: str) -> float:
        return float(self.masks[name].sum() * np.prod(self.picture.spacing) / 1000)


def _task(study: Study) -> Task:
    (task,) = study.tasks.values()
    return task


def _cases(cohort: Cohort) -> list[Case]:
    ((name, task),) = cohort.study.tasks.items()
    found = []
    for (image,), mask in zip(cohort.paths["image"], cohort.labels[name]):
        picture, indices = read_picture((image,), cohort.study.inputs["image"].kind), read_mask(mask, task.class_values)
        masks = {name: indices == index for index, name in enumerate(task.class_names)}
        found.append(Case(picture, masks, (Path(image), Path(mask))))
    return found


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Study]:
    """Of a seed that development did not look at."""
    paths = write_abdomen(tmp_path_factory.mktemp("abdomen"), patients=PATIENTS, seed=72)
    return dict(zip(MODALITIES, map(load_study, paths), strict=True))


@pytest.fixture(scope="module")
def cases(studies: dict[str, Study]) -> dict[str, list[Case]]:
    return {modality: _cases(load_cohort(study)) for modality, study in studies.items()}


def _digest(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_equal_arguments_write_equal_bytes_and_seeds_differ(tmp_path: Path) -> None:
    for name, seed in zip("abc", (5, 5, 6)):
        write_abdomen(tmp_path / name, patients=2, seed=seed, size=48)
    first, again, other = (_digest(tmp_path / name) for name in "abc")
    assert len(first) == 3 * (2 + 2 * 2)
    assert first == again
    assert not {digest for name, digest in first.items() if name.endswith(".gz")} & set(other.values())


def test_more_patients_change_nothing_in_the_first_ones(tmp_path: Path) -> None:
    for name, patients in (("few", 2), ("more", 3)):
        write_abdomen(tmp_path / name, patients=patients, size=48)
    few, more = ({k: v for k, v in _digest(tmp_path / name).items() if k.endswith(".gz")} for name in ("few", "more"))
    assert (len(few), len(more)) == (12, 18)
    assert few.items() <= more.items()


@pytest.mark.parametrize("wrong", [{"patients": 1}, {"patients": 3001}, {"size": 47}])
def test_what_cannot_be_a_cohort_is_refused(wrong: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
        write_abdomen(tmp_path, **wrong)
    assert not list(tmp_path.iterdir())


def test_the_studies_are_ordinary_studies(studies: dict[str, Study]) -> None:
    findings = check_studies(list(studies.values()))
    assert not findings.spoils_training
    assert {problem.message.split(" patients")[0] for problem in findings.problems} == {str(PATIENTS)}
    facts = [(study.inputs["image"].modality, study.inputs["image"].kind, *study.tasks) for study in studies.values()]
    assert facts == [("ct", "ct", "ct_organs"), ("mr", "mr", "mr_organs"), ("ce_mr", "mr", "ce_lesion")]


def test_a_patient_is_in_one_study(studies: dict[str, Study]) -> None:
    patients = [load_cohort(study).patients for study in studies.values()]
    assert [len(set(own)) for own in patients] == [PATIENTS] * 3
    assert len(set(np.concatenate(patients))) == 3 * PATIENTS


def test_label_sets_overlap_and_differ_in_names_numbers_and_coverage(studies: dict[str, Study]) -> None:
    meant = {
        modality: {other for name in _task(study).class_names[1:] for other in _task(study).comprises(name)}
        for modality, study in studies.items()
    }
    assert meant["ct"] & meant["mr"] == {"liver", "spleen", "left_kidney", "right_kidney", "stomach"}
    assert meant["ct"] - meant["mr"] == {"aorta", "spine"}
    assert meant["ct"] & meant["ce_mr"] == {"liver"}
    assert meant["ce_mr"] - meant["ct"] == {"tumour"}
    assert "hepar" in _task(studies["mr"]).class_names
    numbers = [dict(zip(_task(study).class_names, _task(study).class_values)) for study in studies.values()]
    assert [number["spleen"] for number in numbers[:2]] == [3, 189]


def test_mask_values_of_organs() -> None:
    """Codes: 0, then liver, right and left kidney, spleen, stomach, aorta, spine, tumour."""
    assert ANNOTATIONS["ct"].values().tolist() == [0, 1, 2, 4, 3, 6, 5, 7, 0]
    assert ANNOTATIONS["mr"].values().tolist() == [0, 63, 126, 126, 189, 252, 0, 0, 0]
    assert ANNOTATIONS["ce_mr"].values().tolist() == [0, 1, 0, 0, 0, 0, 0, 0, 2]


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_class_occurs_in_every_patient(modality: str, cases: dict[str, list[Case]]) -> None:
    for case in cases[modality]:
        counts = {name: int(mask.sum()) for name, mask in case.masks.items()}
        assert min(counts.values()) >= 20, counts


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_mask_lies_on_its_image(modality: str, cases: dict[str, list[Case]]) -> None:
    assert len(cases[modality]) == PATIENTS
    for case in cases[modality]:
        image, mask = (nib.load(file) for file in case.files)
        assert image.shape == mask.shape
        assert np.array_equal(image.affine, mask.affine)
        assert image.header["qform_code"] == image.header["sform_code"] == 1
        assert np.allclose(image.get_qform(), image.get_sform(), atol=1e-3)
        assert (image.get_data_dtype(), mask.get_data_dtype()) == (np.int16, np.uint8)


@pytest.mark.parametrize("modality", MODALITIES)
def test_files_differ_in_orientation_spacing_and_extent(modality: str, cases: dict[str, list[Case]]) -> None:
    affines = [nib.load(case.files[0]).affine for case in cases[modality]]
    assert {"".join(nib.aff2axcodes(affine)) for affine in affines} == set(ORIENTATIONS[modality])
    spacings = np.array([case.picture.spacing for case in cases[modality]])
    assert spacings[:, 0] == pytest.approx({"ct": 5, "mr": 6, "ce_mr": 4.5}[modality], abs=1e-4)
    assert spacings[:, 1] == pytest.approx(spacings[:, 2], abs=1e-4)
    assert len(set(spacings[:, 2].round(3))) == PATIENTS
    assert len({case.picture.shape for case in cases[modality]}) > 1
    oblique = [np.count_nonzero(np.abs(affine[:3, :3]) > 1e-4) > 3 for affine in affines]
    assert all(oblique) == any(oblique) == (modality != "ct")


def test_organs_lie_where_they_belong_whatever_the_orientation_of_the_file(cases: dict[str, list[Case]]) -> None:
    """All cases of one modality as read: axes to the head, the front and the right."""
    for case in cases["ct"]:
        at = {name: case.middle(name) for name in case.masks}
        assert at["left_kidney"][2] + 60 < at["right_kidney"][2]
        assert at["spleen"][2] + 20 < at["spine"][2] < at["liver"][2] - 20
        assert at["spine"][1] < at["aorta"][1] < at["stomach"][1]
        assert max(at["left_kidney"][0], at["right_kidney"][0]) < min(at["liver"][0], at["spleen"][0])
    for case in cases["mr"]:
        assert case.middle("spleen")[2] < case.middle("kidneys")[2] < case.middle("hepar")[2]
        assert case.middle("kidneys")[0] < case.middle("hepar")[0]


def test_organs_are_of_one_size_in_all_modalities(cases: dict[str, list[Case]]) -> None:
    """As far as they are within the slices: medians of the patients differ by less than a third."""
    livers = [("ct", ("liver",)), ("mr", ("hepar",)), ("ce_mr", ("liver",))]
    kidneys = [("ct", ("left_kidney", "right_kidney")), ("mr", ("kidneys",))]
    for organ in (livers, kidneys):
        sizes = [
            np.median([sum(map(case.millilitres, names)) for case in cases[modality]]) for modality, names in organ
        ]
        assert max(sizes) < 4 / 3 * min(sizes), sizes


def test_tumours_are_inside_the_liver_and_brighter(cases: dict[str, list[Case]]) -> None:
    for case in cases["ce_mr"]:
        tumour, liver = case.masks["tumour"], case.masks["liver"]
        shell = binary_dilation(tumour) & ~tumour
        assert liver[shell].mean() > 0.6
        assert case.values[tumour].mean() > 1.15 * case.values[liver].mean()


def test_ct_is_in_hounsfield_units(cases: dict[str, list[Case]]) -> None:
    for case in cases["ct"]:
        assert case.values[:, :3, :3].mean() == pytest.approx(-1000, abs=10)
        assert 40 < np.median(case.values[case.masks["liver"]]) < 95
        assert case.values[case.masks["spine"]].mean() > 120


@pytest.mark.parametrize("modality", ["mr", "ce_mr"])
def test_mr_has_no_unit_and_no_negative_value(modality: str, cases: dict[str, list[Case]]) -> None:
    bright = [np.percentile(case.values, 99) for case in cases[modality]]
    assert max(bright) > 3 * min(bright)
    for case in cases[modality]:
        assert case.values.min() >= 0
        assert case.values[:, :3, :3].mean() > 0.01 * np.percentile(case.values, 99)


def test_modalities_turn_contrast_round(cases: dict[str, list[Case]]) -> None:
    def brighter(modality: str, name: str, other: str) -> set[bool]:
        return {
            bool(np.median(case.values[case.masks[name]]) > np.median(case.values[case.masks[other]]))
            for case in cases[modality]
        }

    assert brighter("ct", "liver", "stomach") == {True}
    assert brighter("mr", "hepar", "stomach") == {False}
    assert brighter("ct", "liver", "background") == {True}
    assert brighter("mr", "hepar", "spleen") == {False}


@pytest.mark.parametrize("modality", MODALITIES)
def test_no_window_of_intensities_finds_an_organ(modality: str, cases: dict[str, list[Case]]) -> None:
    """Even a window chosen anew for each patient, by the truth."""
    for name in [name for name in cases[modality][0].masks if name != "background"]:
        dice = [_dice_of_best_window(case.values, case.masks[name]) for case in cases[modality]]
        assert np.mean(dice) < 0.6, name


def _dice_of_best_window(values: ndarray, mask: ndarray, steps: int = 100) -> float:
    """Of all windows between two of `steps` quantiles: below[i] voxels, own[i] of the mask, are under quantile i."""
    place = np.searchsorted(np.unique(np.quantile(values, np.linspace(0, 1, steps))), values, side="right")
    below, own = (np.cumsum(np.bincount(chosen, minlength=steps + 1)) for chosen in (place.ravel(), place[mask]))
    inside, hits = below[None] - below[:, None], own[None] - own[:, None]
    return float((2 * hits / (inside.clip(0) + own[-1])).max())


def test_the_best_window_finds_what_intensity_alone_defines() -> None:
    values = np.random.default_rng(0).random((8, 8, 8))
    assert _dice_of_best_window(values, (values > 0.3) & (values < 0.6)) > 0.95


def test_smooth_fields_are_standard_and_smooth_over_their_length() -> None:
    """A field of correlation length 10 voxels: neighbours are nearly equal, voxels 40 apart are unrelated."""
    fields = anatomy.smooth_fields(np.random.default_rng(3), (400, 81, 4, 4), np.array([10, 10, 10]))[:, :, 0, 0]
    assert fields.shape == (400, 81)
    assert fields.mean() == pytest.approx(0, abs=0.05)
    assert fields.std(axis=0) == pytest.approx(np.ones(81), abs=0.15)
    assert np.corrcoef(fields[:, 40], fields[:, 41])[0, 1] > 0.95
    assert abs(np.corrcoef(fields[:, 20], fields[:, 60])[0, 1]) < 0.15


def test_a_vessel_narrows_from_the_hilum_to_its_end() -> None:
    """50 mm to the head, radius 5 to 2: depth at the hilum, half way, at the end, 3 mm beside the middle, 10 mm beyond;
    a second vessel to the front matters only on its side."""
    steps = np.array([[0, 0, 0], [0, 0, 25], [0, 0, 50], [3, 0, 25], [0, 0, 60], [0, 25, 0]])
    at = (anatomy.HILUM + steps).T.reshape(3, 6, 1, 1).astype(np.float32)
    depth = anatomy._branches(at, np.array([[0, 0, 50.0], [0, 50.0, 0]]), np.array([5.0, 4.0]))
    assert depth.ravel() == pytest.approx([5, 3.5, 2, 0.5, -8, 2.8], abs=1e-2)


def test_a_tissue_without_an_organ_takes_its_voxels_from_the_organ_below() -> None:
    """Depths on a line of four voxels: liver in the first three, gallbladder from the third, fat everywhere."""
    line = {"fat": [9, 9, 9, 9], "liver": [9, 9, 9, -9], "fluid": [-9, -9, 9, 9]}
    layers = [
        anatomy.Layer(name, np.array(depth, np.float32).reshape(4, 1, 1), "liver" if name == "liver" else None)
        for name, depth in line.items()
    ]
    picture, organs = scanner._painted(np.random.default_rng(0), layers, scanner.SCANNERS["ct"])
    assert organs.ravel().tolist() == [1, 1, 0, 0]
    assert picture.ravel() == pytest.approx([68, 68, 12, 12], abs=25)
