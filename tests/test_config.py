"""Configs: defaults, presets, overrides, and what a typo is answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from m4oe.config import PRESETS, config_keys, dump_config, load_config
from m4oe.errors import UserError


def test_the_paper_preset_is_the_papers():
    model = load_config(overrides=["model.preset=paper"]).model
    assert (model.shared.num_experts, model.specific.num_experts) == (128, 32)
    assert model.encoder.image == "hf:google/vit-base-patch16-224-in21k" and model.image_size == (224, 224)
    assert set(PRESETS) == {"tiny", "base", "paper"}


def test_an_override_wins_over_the_file_and_the_file_over_the_preset(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("model: {preset: base, width: 128, shared: {num_experts: 4}}\n")
    model = load_config(path, ["model.shared.hidden=99"]).model
    assert (model.width, model.shared.num_experts, model.shared.hidden) == (128, 4, 99)
    assert model.encoder.depth == PRESETS["base"]["model"]["encoder"]["depth"]


def test_a_resolved_config_reads_as_itself(tmp_path):
    config = load_config(overrides=["model.preset=base", "train.seed=7"])
    (tmp_path / "c.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "c.yaml") == config


TYPOS = {
    "model.share.num_experts=3": r"no 'model\.share\.num_experts'.*did you mean 'model\.shared\.num_experts'",
    "train.max_epochs=many": r"train\.max_epochs = 'many'",
    "train.seed=-1": r"train\.seed = -1.*greater than or equal to 0",
    "train.seed": r"path=value",
    "model.preset=huge": r"unknown preset 'huge'.*base, paper, tiny",
    "model.width=66": r"width 66 is no multiple of encoder\.heads",
    "model.image_size=[60, 64]": r"image_size \[60, 64\] is no multiple of encoder\.patch",
    "model.image_size=[0, 64]": r"model\.image_size\.0 = 0.*greater than or equal to 1",
    "model.segmenter.size=[96, 0]": r"model\.segmenter\.size\.1 = 0.*greater than or equal to 1",
    "model.segmenter.spacing=[-1, 1]": r"model\.segmenter\.spacing\.0 = -1.*greater than 0",
    "phases=[{name: gate/slow}]": r"phases\.0\.name = 'gate/slow'",
    "model.encoder.share=all": r"model\.encoder\.share = 'all'",
}


@pytest.mark.parametrize("text", TYPOS)
def test_a_typo_is_answered_with_path_value_and_nearest_name(text):
    with pytest.raises(UserError, match=TYPOS[text]):
        load_config(overrides=[text])


def test_an_unknown_key_in_a_file_is_answered_with_the_nearest(tmp_path):
    (tmp_path / "c.yaml").write_text("train: {max_epoch: 3}\n")
    with pytest.raises(UserError, match=r"c\.yaml: unknown key 'train\.max_epoch': did you mean 'max_epochs'"):
        load_config(tmp_path / "c.yaml")


@pytest.mark.parametrize("content", ["[1, 2]", "a: [", "model: 3"])
def test_a_file_that_is_no_config_is_one_message(tmp_path, content):
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(UserError, match=r"c\.yaml"):
        load_config(tmp_path / "c.yaml")


def test_keys_are_dotted_and_many():
    keys = config_keys()
    assert len(keys) > 40 and len(set(keys)) == len(keys) and "model.shared.num_experts" in keys


def test_a_copy_keeps_its_changes_for_a_segmenter():
    config = load_config(overrides=["train.seed=3"])
    changed = config.model_copy(update={"train": config.train.model_copy(update={"max_epochs": 7})})
    told = changed.for_tasks({"segmentation"})
    assert (told.train.seed, told.train.max_epochs, told.model.kind) == (3, 7, "segmenter")
    assert [phase.name for phase in told.phases] == ["specialise", "gate"]


def test_phases_of_one_name_are_refused(tmp_path):
    """Else the second would be taken for the first, which is finished."""
    (tmp_path / "c.yaml").write_text("phases: [{routing: modality}, {routing: modality, learning_rate: 1.0e-4}]\n")
    with pytest.raises(UserError, match=r"c\.yaml: phases: 2 are called 'train'; give each a 'name' of its own"):
        load_config(tmp_path / "c.yaml")
    with pytest.raises(UserError, match="2 are called 'b'"):
        load_config(overrides=["phases=[{name: a}, {name: b}, {name: b}]"])


def test_a_segmenter_of_the_paper_s_preset_decays_weights_as_the_paper_does():
    """SGD of learning rate .05, momentum .9 and decay 1e-4 (PAPERS 2.4): a step's pull is .05 x 1e-4, and momentum sums
    it to 1 / (1 - .9) = 10 times that. AdamW pulls by learning rate times decay."""
    config = load_config(overrides=["model.preset=paper"])
    train = config.for_tasks({"segmentation"}).train
    assert train.learning_rate * train.weight_decay == pytest.approx(0.05 * 1e-4 / (1 - 0.9))
    assert config.for_tasks({"binary"}).train.weight_decay == 5e-5  # the classifier's, of the other paper


def test_the_defaults_of_a_segmenter_are_those_of_its_page():
    page = (Path(__file__).resolve().parents[1] / "docs" / "config.md").read_text(encoding="utf-8")
    rows = page.partition("### model.segmenter\n")[2].partition("###")[0]
    segmenter = load_config().model.segmenter
    for name in ("width", "patch", "window", "depths", "heads", "context", "size"):
        value = getattr(segmenter, name)
        told = str(list(value)) if isinstance(value, tuple) else str(value)
        line = next(line for line in rows.splitlines() if line.startswith(f"| `{name}` |"))
        assert line.endswith(f"| {told} |"), line
