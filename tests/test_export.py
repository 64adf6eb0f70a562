"""Export to nnU-Net: the layout, numbers and places that its second version reads, on the folds that we have."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import yaml

from m4oe.data.splits import split_exams
from m4oe.data.table import load_cohort
from m4oe.errors import UserError
from m4oe.runs import export_nnunet
from m4oe.study import load_study
from small_volumes import block, study_of, volume, write_volume

REGIONS = {"classes": {0: "nothing", 4: "rim", 9: "core"}, "regions": {"whole": ["rim", "core"]}, "ignore": 255}


def study(folder: Path, count: int = 10, name: str = "s", **facts: object) -> Path:
    """study.yaml of `count` volumes of 6 x 20 x 16, each a patient, with a block of class 1 (or values of `facts`)."""
    value = list(facts["classes"])[1] if isinstance(facts.get("classes"), dict) else 1
    cases = {f"p{n}": (volume(n), block(index=value)) for n in range(count)}
    return saved(study_of(folder, cases, name, **facts).study)


def saved(made, **changes: object) -> Path:
    content = made.model_dump(mode="json", exclude_unset=True, exclude={"folder"}) | changes
    path = made.folder / "study.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def changed(path: Path, **changes: object) -> Path:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes, sort_keys=False))
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def facts_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "dataset.json").read_text())


def test_the_layout(tmp_path):
    path = study(tmp_path)
    (one,) = export_nnunet([path], tmp_path / "out")
    splits = split_exams([load_cohort(load_study(path))]).set_index("exam")["split"]
    parts = {split: {exam for exam in splits.index if splits[exam] == split} for split in splits.unique()}
    learning = parts["train"] | parts["validation"]
    assert one.folder == tmp_path / "out" / "Dataset501_s"
    assert (one.training, one.test, one.folds, one.without_mask) == (len(learning), len(parts["test"]), 1, 0)
    assert names(one.folder) == {
        "cases.csv", "dataset.json", "splits_final.json", "imagesTr", "labelsTr", "imagesTs", "labelsTs"
    }  # fmt: skip
    assert names(one.folder / "imagesTr") == {f"{exam}_0000.nii.gz" for exam in learning}
    assert names(one.folder / "labelsTr") == {f"{exam}.nii.gz" for exam in learning}
    assert names(one.folder / "imagesTs") == {f"{exam}_0000.nii.gz" for exam in parts["test"]}
    assert facts_of(one.folder) == {
        "channel_names": {"0": "mr"},
        "labels": {"background": 0, "organ": 1},
        "numTraining": len(learning),
        "file_ending": ".nii.gz",
        "name": "s",
    }
    assert json.loads((one.folder / "splits_final.json").read_text()) == [
        {"train": sorted(parts["train"]), "val": sorted(parts["validation"])}
    ]
    assert parts["validation"] and parts["test"]
    assert pd.read_csv(one.folder / "cases.csv").columns.tolist() == ["case", "exam", "split", "fold"]


def test_values_and_places_are_those_of_the_files(tmp_path):
    """Turned and scaled as files may be: the array comes back as it was stored, where it was, number by number."""
    path = study(tmp_path, 8)
    turned = np.array([[0, -2.0, 0, 30], [-1.5, 0, 0.0, -4], [0, 0, 3, 7], [0, 0, 0, 1]])
    whole = np.random.default_rng(0).integers(-1000, 1000, (6, 20, 16))
    write_volume(tmp_path / "s" / "p0.nii.gz", whole.astype(np.float64), affine=turned)
    write_volume(tmp_path / "s" / "p0_mask.nii.gz", block(), affine=turned)
    (one,) = export_nnunet([path], tmp_path / "out")
    for case in (f"p{n}" for n in range(8)):
        (image,), (label,) = (
            list(one.folder.glob(pattern)) for pattern in (f"images*/{case}_0000.nii.gz", f"labels*/{case}.nii.gz")
        )
        for written, read in ((image, f"{case}.nii.gz"), (label, f"{case}_mask.nii.gz")):
            ours, theirs = nibabel.load(written), nibabel.load(tmp_path / "s" / read)
            assert np.array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj, np.float32))
            assert (
                np.allclose(ours.affine, theirs.affine, atol=1e-6)
                and ours.header.get_zooms() == theirs.header.get_zooms()
            )
    kinds = {case: nibabel.load(next(one.folder.glob(f"images*/{case}_*"))).get_data_dtype() for case in ("p0", "p1")}
    assert kinds == {"p0": np.int16, "p1": np.float32}  # whole numbers need two bytes


def test_labels_are_consecutive_and_regions_come_first(tmp_path):
    path = study(tmp_path, 6, **REGIONS)
    mask = block(index=4)
    mask[2, 5:7, 4:9], mask[5] = 9, 255
    write_volume(tmp_path / "s" / "p0_mask.nii.gz", mask)
    (one,) = export_nnunet([path], tmp_path / "out")
    facts = facts_of(one.folder)
    assert list(facts["labels"].items()) == [
        ("background", 0),
        ("whole", [1, 2]),
        ("rim", 1),
        ("core", 2),
        ("ignore", 3),
    ]
    # nnU-Net draws regions in order: all of `whole` becomes core, then its rim is drawn over it, then the core.
    assert facts["regions_class_order"] == [2, 1, 2]
    (written,) = one.folder.glob("labels*/p0.nii.gz")
    expected = np.zeros(256, np.uint8)
    expected[[4, 9, 255]] = 1, 2, 3
    assert np.array_equal(np.asarray(nibabel.load(written).dataobj), np.swapaxes(expected[mask], 0, 2))


def test_channels_are_files_of_their_own(tmp_path):
    path = study(tmp_path, 6)
    content = yaml.safe_load(path.read_text())
    table = pd.read_csv(tmp_path / "s" / "table.csv")
    table["second"] = [
        write_volume(tmp_path / "s" / f"{case}_t2.nii.gz", volume(n + 50)) for n, case in enumerate(table.case)
    ]
    table.to_csv(tmp_path / "s" / "table.csv", index=False)
    content["inputs"]["image"]["column"] = ["image", "second"]
    (one,) = export_nnunet([changed(path, inputs=content["inputs"])], tmp_path / "out")
    assert facts_of(one.folder)["channel_names"] == {"0": "image", "1": "second"}
    assert len(names(one.folder / "imagesTr")) == 2 * one.training
    (second,) = one.folder.glob("images*/p3_0001.nii.gz")
    assert np.array_equal(np.asarray(nibabel.load(second).dataobj), np.swapaxes(volume(53), 0, 2))


def test_folds_are_ours(tmp_path):
    path = changed(study(tmp_path, 9), split={"folds": 3})
    (one,) = export_nnunet([path], tmp_path / "out")
    splits = split_exams([load_cohort(load_study(path))])
    written = json.loads((one.folder / "splits_final.json").read_text())
    assert len(written) == one.folds == 3 and (one.training, one.test) == (9, 0)
    for fold, parts in enumerate(written):
        mine = splits[splits["fold"] == fold].set_index("exam")["split"]
        assert {part: set(cases) for part, cases in parts.items()} == {
            part: set(mine.index[mine == split]) for part, split in (("train", "train"), ("val", "validation"))
        }
        tested = names(one.folder / f"imagesTs_fold_{fold}")
        assert tested == {f"{exam}_0000.nii.gz" for exam in mine.index[mine == "test"]} and tested
    assert not (one.folder / "imagesTs").exists()


def test_a_run_gives_its_own_splits(tmp_path):
    path = study(tmp_path, 6)
    run = tmp_path / "run"
    (run / "studies").mkdir(parents=True)
    content = yaml.safe_load(path.read_text()) | {"root": str(path.parent), "table": str(path.parent / "table.csv")}
    (run / "studies" / "s.yaml").write_text(yaml.safe_dump(content))
    splits = pd.DataFrame({"study": "s", "exam": [f"p{n}" for n in range(6)], "patient": "", "fold": 0})
    splits.assign(split=["test", "test", "train", "train", "train", "validation"]).to_csv(
        run / "splits.csv", index=False
    )
    (one,) = export_nnunet([run], tmp_path / "out")
    assert names(one.folder / "imagesTs") == {"p0_0000.nii.gz", "p1_0000.nii.gz"}
    assert json.loads((one.folder / "splits_final.json").read_text()) == [{"train": ["p2", "p3", "p4"], "val": ["p5"]}]


def test_exams_without_masks_are_counted(tmp_path):
    path = study(tmp_path, 10)
    table = pd.read_csv(tmp_path / "s" / "table.csv")
    splits = split_exams([load_cohort(load_study(path))]).set_index("exam")["split"]
    lacking = [next(exam for exam in splits.index if splits[exam] == part) for part in ("train", "test")]
    table.loc[table["case"].isin(lacking), "mask"] = None
    table["part"] = [splits[case] for case in table["case"]]
    table.to_csv(tmp_path / "s" / "table.csv", index=False)
    (one,) = export_nnunet([changed(path, split={"column": "part"})], tmp_path / "out")
    assert one.without_mask == 1 and one.training + one.test == 9
    assert (
        not list(one.folder.glob(f"*/{lacking[0]}*"))
        and lacking[0] not in (one.folder / "splits_final.json").read_text()
    )
    assert [path.parent.name for path in one.folder.glob(f"*/{lacking[1]}*")] == ["imagesTs"]


def test_each_study_and_each_label_set_is_a_data_set(tmp_path):
    first, second = study(tmp_path, 6, "ct-1", kind="ct"), study(tmp_path, 6, "b")
    task = yaml.safe_load(second.read_text())["tasks"]["b_organs"]
    exported = export_nnunet([first, changed(second, tasks={"one": task, "two": task})], tmp_path / "out")
    assert [one.folder.name for one in exported] == ["Dataset501_ct_1", "Dataset502_b_one", "Dataset503_b_two"]
    assert [facts_of(one.folder)["channel_names"]["0"] for one in exported] == ["CT", "mr", "mr"]


def test_names_of_cases_are_names_of_files(tmp_path):
    path = study(tmp_path, 6)
    table = pd.read_csv(tmp_path / "s" / "table.csv").replace({"case": {"p0": "a/b c"}})
    table.to_csv(tmp_path / "s" / "table.csv", index=False)
    (one,) = export_nnunet([path], tmp_path / "out")
    cases = pd.read_csv(one.folder / "cases.csv").set_index("exam")["case"]
    assert cases["p1"] == "p1" and cases["a/b c"].startswith("a_b_c-")
    assert list(one.folder.glob(f"images*/{cases['a/b c']}_0000.nii.gz"))


def test_nothing_of_a_header_s_text_goes_out(tmp_path):
    path = study(tmp_path, 6)
    for n in range(6):
        image = nibabel.load(tmp_path / "s" / f"p{n}.nii.gz")
        image = nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
        image.header["descrip"], image.header["db_name"] = b"DOE^JANE", b"DOE^JANE"
        nibabel.save(image, tmp_path / "s" / f"p{n}.nii.gz")
    (one,) = export_nnunet([path], tmp_path / "out")
    written = [nibabel.load(found) for found in one.folder.glob("*/*.nii.gz")]
    assert len(written) == 12 and not any(b"DOE" in image.header.binaryblock for image in written)


# What cannot be exported.


def test_studies_without_volumes_or_masks_are_refused(breast, retina, tmp_path):
    with pytest.raises(UserError, match="no task is a segmentation, and nnU-Net learns masks alone"):
        export_nnunet([breast], tmp_path / "out")
    with pytest.raises(UserError, match=r"\.png: a picture of two dimensions; the export to nnU-Net is for volumes"):
        export_nnunet([retina], tmp_path / "out")
    assert not (tmp_path / "out").exists() or not names(tmp_path / "out")


def test_a_bad_file_leaves_nothing_behind_and_what_is_there_stays(tmp_path):
    path = study(tmp_path, 6)
    write_volume(tmp_path / "s" / "p5_mask.nii.gz", block(index=7))
    with pytest.raises(UserError, match=r"p5_mask\.nii\.gz"):
        export_nnunet([path], tmp_path / "out")
    assert not names(tmp_path / "out")
    write_volume(tmp_path / "s" / "p5_mask.nii.gz", block())
    export_nnunet([path], tmp_path / "out")
    with pytest.raises(UserError, match="Dataset501_s is there already; remove it"):
        export_nnunet([path], tmp_path / "out")
    with pytest.raises(UserError, match="no studies/ in it"):
        export_nnunet([tmp_path / "s"], tmp_path / "other")


def test_masks_nowhere(tmp_path):
    path = study(tmp_path, 6)
    pd.read_csv(tmp_path / "s" / "table.csv").assign(mask=None).to_csv(tmp_path / "s" / "table.csv", index=False)
    with pytest.raises(UserError, match="no exam to learn 's_organs' from has a mask"):
        export_nnunet([path], tmp_path / "out")


def test_phantom_volumes(tmp_path):
    """Three data sets, files turned in seven ways; the values 0, 63, 126, 189, 252 of one become 0 to 4."""
    from m4oe.data.phantoms import write_abdomen

    studies = write_abdomen(tmp_path / "abdomen", patients=3, size=48)
    exported = export_nnunet(studies, tmp_path / "out")
    assert [facts_of(one.folder)["channel_names"]["0"] for one in exported] == ["CT", "mr", "ce_mr"]
    mr = exported[1].folder
    assert list(facts_of(mr)["labels"].values()) == [0, 1, 2, 3, 4]
    for label in mr.glob("labels*/*.nii.gz"):
        theirs = np.asarray(nibabel.load(tmp_path / "abdomen" / "mr" / "masks" / label.name).dataobj)
        assert np.array_equal(np.asarray(nibabel.load(label).dataobj) * 63, theirs)
    assert all((one.training, one.test) == (2, 1) for one in exported)


def test_real_volumes(real_data, tmp_path):
    """A heart's cine MR, four-dimensional affines and all, read back by our own reader of nnU-Net's folders."""
    from m4oe.data.draft import write_draft

    source = real_data("acdc_cardiac_mr")
    write_draft(source, tmp_path / "study.yaml")
    (one,) = export_nnunet([tmp_path / "study.yaml"], tmp_path / "out")
    for label in one.folder.glob("labels*/*.nii.gz"):
        ours, theirs = nibabel.load(label), nibabel.load(source / "labelsTr" / label.name)
        assert np.array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))
        image = nibabel.load(
            one.folder / label.parent.name.replace("labels", "images") / label.name.replace(".nii", "_0000.nii")
        )
        raw = nibabel.load(source / "imagesTr" / label.name)
        assert np.array_equal(np.asarray(image.dataobj), np.asarray(raw.dataobj, np.float32).reshape(image.shape))
        assert np.allclose(image.affine, raw.affine, atol=1e-5) and image.shape == ours.shape
    write_draft(one.folder, tmp_path / "again.yaml")
    again = load_cohort(load_study(tmp_path / "again.yaml"))
    assert len(again) == one.training and load_study(tmp_path / "again.yaml").tasks
