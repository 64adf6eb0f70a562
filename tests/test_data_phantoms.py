"""The generated cohorts: ordinary files, a true truth, and no way round looking at the pictures."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from m4oe.data.phantoms import (
    Truth,
    breast,
    eye,
    mammogram,
    oracle_scores,
    read_truth,
    tissue,
    write_breast,
    write_retina,
)
from m4oe.data.readers import read_mask, read_picture
from m4oe.data.table import load_cohort
from m4oe.errors import UserError
from m4oe.study import load_study

PICTURES = ["ffdm_cc", "ffdm_mlo", "syn_cc", "syn_mlo"]
WRITERS = {"breast": write_breast, "retina": write_retina}
SMALL = {"breast": 32, "retina": 48}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 exams of a seed that development did not use."""
    return write_breast(tmp_path_factory.mktemp("breast"), exams=400, seed=71, size=64).parent


@pytest.fixture(scope="module")
def table(cohort: Path) -> pd.DataFrame:
    return pd.read_csv(cohort / "images.csv", dtype={"exam_id": str})


@pytest.fixture(scope="module")
def truth(cohort: Path) -> Truth:
    return read_truth(cohort)


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_retina(tmp_path_factory.mktemp("retina"), exams=40, seed=71).parent


def _digest(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("kind", WRITERS)
def test_equal_arguments_write_equal_bytes_and_seeds_differ(kind: str, tmp_path: Path) -> None:
    write = WRITERS[kind]
    folders = [tmp_path / name for name in "abc"]
    for folder, seed in zip(folders, (5, 5, 6)):
        write(folder, exams=4, seed=seed, size=SMALL[kind])
    first, again, other = map(_digest, folders)
    assert len(first) > 8
    assert first == again
    assert first["truth.csv"] != other["truth.csv"]


@pytest.mark.parametrize("kind", WRITERS)
def test_the_study_is_an_ordinary_study(kind: str, tmp_path: Path) -> None:
    study = load_study(WRITERS[kind](tmp_path, exams=12, seed=3, size=SMALL[kind]))
    loaded = load_cohort(study)
    assert len(loaded.exams) == 12
    paths = [path for column in loaded.paths.values() for cell in column if cell for path in cell]
    assert len(paths) > 12
    assert all(Path(path).is_file() for path in paths)
    assert set(loaded.labels) == set(study.tasks)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("wrong", [{"exams": 1}, {"size": 8}, {"missing_inputs": 1.0}, {"missing_labels": -0.1}])
def test_impossible_cohorts_are_refused(kind: str, wrong: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"a {kind} cohort needs"):
        WRITERS[kind](tmp_path / "none", **wrong)
    assert not (tmp_path / "none").exists()


def test_a_real_cohort_has_no_truth(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only generated cohorts"):
        read_truth(tmp_path)


def test_pictures_are_read_as_written(cohort: Path, table: pd.DataFrame) -> None:
    full, synthetic = (cohort / table[name].dropna().iloc[0] for name in ("ffdm_cc", "syn_mlo"))
    assert read_picture((str(full),), "mammogram").values.shape == (1, 64, 51)
    assert np.asarray(Image.open(full)).dtype == np.uint16
    assert np.asarray(Image.open(synthetic)).dtype == np.uint8


def test_the_chest_wall_lies_on_the_side_that_laterality_says(cohort: Path, table: pd.DataFrame) -> None:
    for _, row in table.dropna(subset=["ffdm_cc"]).head(20).iterrows():
        pixels = np.asarray(Image.open(cohort / row["ffdm_cc"]), float)
        left, right = pixels[:, :8].sum(), pixels[:, -8:].sum()
        assert (left > right) == (row["side"] == "L")


def test_things_are_missing_at_the_asked_rates_and_for_no_reason(table: pd.DataFrame, truth: Truth) -> None:
    missing = table[[*PICTURES, "age"]].isna()
    assert 0.1 < missing.to_numpy().mean() < 0.2
    assert not missing.all(axis=1).any()
    assert 0.05 < table[["density", "birads", "malignancy", "event"]].isna().to_numpy().mean() < 0.15
    target = _targets(truth, "malignancy", table).astype(int)
    assert max(abs(np.corrcoef(missing[name], target)[0, 1]) for name in missing) < 0.15


def test_patients_have_one_or_two_breasts_of_one_age(cohort: Path, table: pd.DataFrame) -> None:
    patients = table.groupby("patient_id")
    assert 1.2 < patients.size().mean() < 1.4
    assert patients.size().max() == 2
    assert (patients["age"].nunique() <= 1).all()
    assert (patients["side"].nunique() == patients.size()).all()


def test_one_input_carries_each_malignancy_and_it_changes(table: pd.DataFrame, truth: Truth) -> None:
    rows = truth.exams[truth.exams["task"] == "malignancy"].set_index("exam").loc[table["exam_id"]]
    positive = rows["target"].astype(str).str.fullmatch(r"1(\.0)?")
    assert 0.35 < positive.mean() < 0.5
    assert (rows["carriers"] != "").equals(positive)
    assert rows.loc[positive, "carriers"].value_counts(normalize=True).loc[PICTURES].min() > 0.15
    there = [bool(name) and pd.notna(row[name]) for name, (_, row) in zip(rows["carriers"], table.iterrows())]
    assert rows["carrier_present"].tolist() == there
    assert 0 < np.mean(np.array(there)[positive]) < 1


def test_labels_shown_are_the_true_ones(table: pd.DataFrame, truth: Truth) -> None:
    for task in ("density", "malignancy"):
        shown = table[task].notna()
        cells = table.loc[shown, task]
        cells = cells if task == "density" else cells.astype(int).astype(str)
        assert cells.tolist() == _targets(truth, task, table)[shown].tolist()


def _targets(truth: Truth, task: str, table: pd.DataFrame) -> np.ndarray:
    return truth.exams[truth.exams["task"] == task].set_index("exam")["target"].loc[table["exam_id"]].to_numpy()


@pytest.mark.parametrize("birads, depths", [(0, {None}), (1, {"near", "far"}), (2, {"near"})])
def test_only_the_pair_decides_birads(birads: int, depths: set[str | None]) -> None:
    """Near and near: suspicious. Near and far: benign. No sign: negative."""
    facts = {"birads": birads, "depth": "near", "share": 0.5, "shown_share": 0.5, "pattern": 0, "shown_pattern": 0}
    looks = [breast._look({**facts, "carrier": ""}, name, 1.0) for name in PICTURES]
    assert {look.calcification for look in looks[:2]} == depths
    assert {look.calcification for look in looks[2:]} == {None}


def test_oracle_says_what_can_be_known(table: pd.DataFrame, truth: Truth) -> None:
    """Nothing seen in the m of 4 pictures that are there: p (4 - m) / 4 / (p (4 - m) / 4 + 1 - p), p = 0.45."""
    scores = oracle_scores(truth, table)
    found = scores[scores["task"] == "malignancy"].set_index("exam")["score"].loc[table["exam_id"]].to_numpy()
    there = truth.exams[truth.exams["task"] == "malignancy"].set_index("exam")["carrier_present"].loc[table["exam_id"]]
    known = there.to_numpy(bool)
    assert (found[known] == 1).all()
    present = table[PICTURES].notna().sum(axis=1).to_numpy()
    assert found[~known & (present == 4)] == pytest.approx(0)
    assert found[~known & (present == 3)] == pytest.approx(0.1125 / (0.1125 + 0.55))
    assert set(oracle_scores(truth, table.head(3))["exam"]) == set(table["exam_id"].head(3))
    sums = scores[scores["task"].isin(["density", "birads"])].groupby(["exam", "task"])["score"].sum()
    assert sums.to_numpy() == pytest.approx(1)


def test_oracle_caps_are_where_they_should_be(table: pd.DataFrame, truth: Truth) -> None:
    scores = oracle_scores(truth, table)
    target = _targets(truth, "malignancy", table).astype(int)
    found = scores[scores["task"] == "malignancy"].set_index("exam")["score"].loc[table["exam_id"]]
    assert 0.92 < roc_auc_score(target, found) < 0.99
    risk = scores[scores["task"] == "risk"].set_index("exam")["score"].loc[table["exam_id"]].to_numpy()
    known = table["years"].notna().to_numpy()
    assert 0.76 < _concordance(table["years"][known], table["event"][known], risk[known]) < 0.9
    assert 0.3 < table["event"].mean() < 0.65


def _concordance(years: pd.Series, event: pd.Series, score: np.ndarray) -> float:
    """Harrell's C by its definition."""
    right, pairs = 0.0, 0
    years, event = years.to_numpy(), event.to_numpy()
    for i in np.flatnonzero(event):
        later = years > years[i]
        right += (score[i] > score[later]).sum() + 0.5 * (score[i] == score[later]).sum()
        pairs += later.sum()
    return right / pairs


def test_population_truth_names_who_carries_what(truth: Truth) -> None:
    carries = truth.population["carries"]
    assert set(carries) == {"density", "birads", "malignancy", "risk"}
    assert carries["density"]["modalities"] == ["ffdm"]
    assert carries["malignancy"]["inputs"] == PICTURES
    assert "clinical" in carries["risk"]["modalities"]
    assert truth.population["synergy"] == {"task": "birads", "inputs": ["ffdm_cc", "ffdm_mlo"]}
    assert truth.population["noise"] is None


def test_a_noise_modality_leaves_the_rest_as_it_was(tmp_path: Path) -> None:
    for name, noise in (("without", False), ("with", True)):
        write_breast(tmp_path / name, exams=4, seed=9, size=32, missing_inputs=0, noise_modality=noise)
    before, after = _digest(tmp_path / "without"), _digest(tmp_path / "with")
    pictures = {name: digest for name, digest in before.items() if name.endswith(".png")}
    assert len(pictures) == 16
    assert pictures.items() <= after.items()
    assert sum(name.endswith("noise.png") for name in after) == 4
    assert load_study(tmp_path / "with" / "study.yaml").inputs["noise"].modality == "noise"
    assert read_truth(tmp_path / "with").population["noise"] == "noise"


def test_the_pattern_that_makes_risk_can_be_read_from_synthetic_pictures() -> None:
    """One number, how rough the breast is for its brightness, tells a third of it."""
    rng = np.random.default_rng(5)
    facts = pd.DataFrame({"pattern": rng.random(200), "rough": 0.0})
    for row, pattern in facts["pattern"].items():
        look = mammogram.Look("cc" if rng.random() < 0.5 else "mlo", True, rng.uniform(0.06, 0.8), pattern, False, None)
        picture = mammogram.draw(rng, mammogram.draw_shape(rng), look, 64, 51)
        inside = gaussian_filter((picture > 0.05).astype(float), 3) > 0.95
        fine = picture - gaussian_filter(picture, 1.5)
        facts.loc[row, "rough"] = np.median(np.abs(fine[inside])) / picture[inside].mean()
    assert facts.corr().loc["pattern", "rough"] ** 2 > 1 / 3


@pytest.mark.parametrize("clarity", [-0.1, 1.1])
def test_clarity_is_a_share(clarity: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="clarity is from 0 to 1"):
        write_breast(tmp_path / "none", clarity=clarity)
    assert not (tmp_path / "none").exists()


def test_full_clarity_is_the_cohort_as_it_was_and_less_changes_pictures_alone(tmp_path: Path) -> None:
    for name, options in (("plain", {}), ("full", {"clarity": 1.0}), ("dim", {"clarity": 0.4})):
        write_breast(tmp_path / name, exams=6, seed=9, size=32, missing_inputs=0, noise_modality=True, **options)
    plain, full, dim = (_digest(tmp_path / name) for name in ("plain", "full", "dim"))
    assert plain == full
    changed = {name for name in plain if plain[name] != dim[name]}
    assert changed == {name for name in plain if name.endswith(".png")}


def test_without_clarity_a_malignant_mass_is_a_round_one() -> None:
    y, x = tissue.grid(64, 51)
    shape = mammogram.Shape(1.3, 0.85, 0.0)

    def flatness(malignant: bool, clarity: float) -> np.ndarray:
        """Peaks of masses of one weight: low where the weight is spread over spicules."""
        look = mammogram.Look("cc", False, 0.3, 0.5, malignant, None, clarity)
        draws = (mammogram._masses(np.random.default_rng(k), y, x, shape, look).max() for k in range(60))
        return np.array(list(draws))

    benign, hidden, clear = flatness(False, 1), flatness(True, 0), flatness(True, 1)
    assert abs(hidden.mean() - benign.mean()) < 0.25 * abs(clear.mean() - benign.mean())


def test_without_clarity_density_and_pattern_are_not_seen() -> None:
    facts = {"depth": "near", "birads": 2, "carrier": "", "shown_share": 0.7, "shown_pattern": 0.9}
    looks = {breast._look({**facts, "share": s, "pattern": p}, "ffdm_cc", 0.0) for s, p in ((0.1, 0.2), (0.8, 0.9))}
    assert len(looks) == 1


@pytest.mark.parametrize("feature", ["histogram", "mean", "bytes"])
def test_cheap_features_do_not_tell_malignancy(feature: str, cohort: Path, table: pd.DataFrame, truth: Truth) -> None:
    target = _targets(truth, "malignancy", table).astype(int)
    features = np.stack([_cheap(cohort, row, feature) for _, row in table.iterrows()])
    _, group = np.unique(table["patient_id"], return_inverse=True)
    found = np.zeros(len(table))
    for fold in range(4):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        model.fit(features[group % 4 != fold], target[group % 4 != fold])
        found[group % 4 == fold] = model.predict_proba(features[group % 4 == fold])[:, 1]
    assert roc_auc_score(target, found) <= 0.65


def _cheap(folder: Path, row: pd.Series, feature: str) -> np.ndarray:
    """Of each picture: whether it is there, and its histogram, mean or file size."""
    columns: list[float] = []
    for name in PICTURES:
        there = pd.notna(row[name])
        pixels = (
            np.asarray(Image.open(folder / row[name]), float) / (255 if name[0] == "s" else 4095) if there else None
        )
        if feature == "histogram":
            columns += [*(np.histogram(pixels, 32, (0, 1))[0] if there else np.zeros(32))]
        elif feature == "mean":
            columns.append(pixels.mean() if there else 0)
        else:
            columns.append((folder / row[name]).stat().st_size if there else 0)
        columns.append(float(there))
    return np.array(columns, float)


def test_a_mass_weighs_the_same_whatever_its_shape() -> None:
    y, x = tissue.grid(64, 64)
    star = tissue.spiculated_mass(y, x, (0.0, 1.0), 0.3, np.arange(7) * 2 * np.pi / 7)
    disc = tissue.round_mass(y, x, (0.0, 1.0), 0.15, 1.1, 0.3)
    assert star.sum() == pytest.approx(1, abs=1e-3)
    assert disc.sum() == pytest.approx(1, abs=1e-3)


def test_optic_masks_hold_a_cup_inside_a_rim(eyes: Path) -> None:
    table = pd.read_csv(eyes / "eyes.csv")
    assert table.loc[table["fundus"].isna(), "mask"].isna().all()
    for name in table["mask"].dropna():
        pixels = np.asarray(Image.open(eyes / name))
        assert set(np.unique(pixels)) == {0, 128, 255}
        mask = read_mask(str(eyes / name), [255, 128, 0])
        rows, columns = np.nonzero(mask == 2)
        disc_rows, disc_columns = np.nonzero(mask > 0)
        assert disc_rows.min() < rows.min() <= rows.max() < disc_rows.max()
        assert disc_columns.min() < columns.min() <= columns.max() < disc_columns.max()


def test_oct_volumes_keep_their_axes_and_spacing(eyes: Path) -> None:
    name = pd.read_csv(eyes / "eyes.csv")["oct"].dropna().iloc[0]
    picture = read_picture((str(eyes / name),), "oct")
    assert picture.values.shape == (1, *eye.VOLUME)
    assert picture.spacing == pytest.approx(eye.MILLIMETRES)


def test_glaucoma_needs_both_inputs(eyes: Path) -> None:
    truth = read_truth(eyes)
    rows = truth.exams[truth.exams["task"] == "glaucoma"].set_index("exam")
    expected = pd.cut(rows["latent"], [0, 0.8, 1.2, 2], right=False, labels=["normal", "early", "progressive"])
    assert expected.astype(str).tolist() == rows["target"].tolist()
    table = pd.read_csv(eyes / "eyes.csv").set_index("exam_id").loc[rows.index]
    assert rows["carrier_present"].tolist() == table[["fundus", "oct"]].notna().all(axis=1).tolist()
    score = truth.oracle.pivot(index="exam", columns="class", values="score").loc[rows.index]
    sure = score.max(axis=1) == 1
    assert sure[rows["carrier_present"]].all()
    assert score.sum(axis=1).to_numpy() == pytest.approx(1)


def test_a_thin_fibre_layer_makes_a_thinner_retina() -> None:
    thick, thin = (eye.draw_oct(np.random.default_rng(4), eye.Eye(0.4, fibre, True)) for fibre in (1.0, 0.3))
    assert (thick > 0.3).sum() > 1.03 * (thin > 0.3).sum()
