"""Starting from dense weights: the same features as transformers' own Swin, and every expert a copy."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from m4oe.errors import UserError
from m4oe.moe import ExpertFFN, Experts, GateRouter, ModalityRouter
from m4oe.nets.build import build_model, start
from m4oe.nets.swin_block import RATIO, DenseFeedForward
from m4oe.nets.swin_unet import SwinSpec, SwinUNet
from m4oe.nets.swin_weights import load_dense, read_dense
from m4oe.settings import Phase
from tiny_slices import SCHEMA, slices_batch, slices_model

# Like swin-tiny, small: four stages, of which the third has more blocks than ours.
SPEC = SwinSpec(width=8, depths=(2, 2, 2, 2), heads=(1, 2, 4, 4), window=3)
SIZE = 96  # grids of 24, 12, 6 and 3


def hard(width: int, shared: bool = True) -> ExpertFFN:
    always = Experts(1, width, RATIO * width) if shared else None
    return ExpertFFN(ModalityRouter([0, 1, 2]), Experts(3, width, RATIO * width), always)


def gated(width: int) -> ExpertFFN:
    return ExpertFFN(GateRouter(width, 2), Experts(2, width, RATIO * width))


def swin(depths=(2, 2, 4, 2)):
    from transformers import SwinConfig, SwinModel

    torch.manual_seed(0)
    options = {"embed_dim": SPEC.width, "num_heads": list(SPEC.heads), "window_size": SPEC.window}
    model = SwinModel(SwinConfig(image_size=SIZE, depths=list(depths), **options), add_pooling_layer=False).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))  # biases and norms are not what they start as
    return model


PUBLISHED = {
    "attention.q_proj": "attention.self.query",
    "attention.k_proj": "attention.self.key",
    "attention.v_proj": "attention.self.value",
    "attention.relative_position_bias.": "attention.self.",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def published(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """With the names of the files on the hub, whatever this version of transformers calls things."""
    renamed = {}
    for name, value in state.items():
        for new, old in PUBLISHED.items():
            name = name.replace(new, old)
        renamed[f"swin.{name}"] = value
    return renamed


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return published(swin().state_dict())


def test_the_published_names_are_those_of_the_hub(state):
    assert "swin.encoder.layers.0.blocks.0.attention.self.query.weight" in state
    assert "swin.encoder.layers.2.blocks.3.intermediate.dense.bias" in state
    assert "swin.encoder.layers.0.blocks.1.attention.self.relative_position_bias_table" in state


@pytest.mark.parametrize("names", [published, dict], ids=["as published", "as in this version"])
def test_features_equal_those_of_transformers(names):
    model = swin(SPEC.depths)
    network = SwinUNet(SPEC, [3], DenseFeedForward, DenseFeedForward).eval()
    report = load_dense(network, names(model.state_dict()))
    assert not report.left_over
    assert all(name.startswith(("decode", "end")) for name in report.fresh)
    x = torch.randn(2, 3, SIZE, SIZE)
    stages, _ = network.encode(network.embed([x])[0], torch.zeros(2).long())
    theirs = model(x, output_hidden_states=True)
    assert torch.allclose(stages[-1].flatten(1, 2), theirs.last_hidden_state, atol=1e-4)
    # Theirs are of what enters a stage, ours of what leaves it: merged, they are the same.
    for merge, mine, entering in zip(network.merges, stages, theirs.hidden_states[1:]):
        assert torch.allclose(merge(mine).flatten(1, 2), entering, atol=1e-4)


def test_blocks_that_we_have_not_are_left_over(state):
    report = load_dense(SwinUNet(SPEC, [3], DenseFeedForward, DenseFeedForward), state)
    assert {name.split(".blocks.")[0] for name in report.left_over} == {"swin.encoder.layers.2"}
    assert {name.split(".")[5] for name in report.left_over} == {"2", "3"}
    assert len(report.left_over) == 2 * 17  # seventeen tensors a block


@pytest.mark.parametrize("ffn", [hard, gated])
def test_every_expert_starts_as_a_copy(state, ffn):
    dense = SwinUNet(SPEC, [1], DenseFeedForward, DenseFeedForward).eval()
    upcycled = SwinUNet(SPEC, [1], ffn, DenseFeedForward).eval()
    load_dense(dense, state)
    load_dense(upcycled, state)
    experts = upcycled.encoder[2][1].ffn.experts
    published_weight = state["swin.encoder.layers.2.blocks.1.intermediate.dense.weight"]
    assert all(torch.equal(own.T, published_weight) for own in experts.weight_in)
    x, modality = torch.randn(3, 1, 50, 37), torch.arange(3)
    mine, theirs = (net.encode(net.embed([x])[0], modality)[0][-1] for net in (upcycled, dense))
    assert torch.allclose(mine, theirs, atol=1e-4)  # whoever is asked, the answer is the dense network's


@pytest.mark.parametrize("channels", [1, 5])
def test_equal_channels_are_seen_as_three_equal_ones_were(state, channels):
    network = SwinUNet(SPEC, [3, channels], DenseFeedForward, DenseFeedForward)
    load_dense(network, state)
    x = torch.randn(1, 1, 12, 12)
    three, other = (network.embed([x.repeat(1, count, 1, 1)])[0] for count in (3, channels))
    assert torch.allclose(three, other, atol=1e-5)


def test_what_does_not_fit_is_an_error_unless_declared_fresh(state):
    wide = SwinUNet(SwinSpec(8, SPEC.depths, SPEC.heads, window=4), [3], DenseFeedForward, DenseFeedForward)
    with pytest.raises(UserError, match=r"encoder\.0\.0\.attention\.bias_table \(49, 1\): \(25, 1\)"):
        load_dense(wide, state)
    report = load_dense(wide, state, fresh=["*.bias_table"])
    assert "encoder.0.0.attention.bias_table" in report.fresh and "encoder.0.0.norm1.weight" in report.loaded
    deep = SwinUNet(SwinSpec(8, (3, 2, 2, 2), SPEC.heads, 3), [3], DenseFeedForward, DenseFeedForward)
    with pytest.raises(UserError, match=r"encoder\.0\.2\.norm1\.weight \(8,\): nothing; .* and 10 more"):
        load_dense(deep, state)


@pytest.mark.parametrize("form", ["safetensors", "torch", "wrapped", "folder"])
def test_weights_are_read_from_files(tmp_path, state, form):
    path = tmp_path / {"safetensors": "w.safetensors", "folder": "model.safetensors"}.get(form, "w.pt")
    held = {name: value.contiguous() for name, value in state.items()}
    if path.suffix == ".safetensors":
        save_file(held, path)
    else:
        torch.save({"model": held} if form == "wrapped" else held, path)
    read = read_dense(str(tmp_path if form == "folder" else path))
    assert read.keys() == state.keys() and all(torch.equal(read[name], state[name]) for name in state)


def test_weights_that_cannot_be_had(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"no weights")
    for name, message in {
        str(tmp_path / "none"): "no such file",
        str(tmp_path / "w.pt"): "not readable as weights",
        "hf:nobody/never-downloaded": "cannot be had. Offline: download",
    }.items():
        with pytest.raises(UserError, match=message):
            read_dense(name)


def test_a_segmenter_starts_from_what_masked_images_taught_another(tmp_path):
    """From a dense network of ours, pretrained without labels: its whole Swin-UNet is taken, its head is not."""
    pretrain = Phase(name="pretrain", objective="masked_images")
    torch.manual_seed(1)
    teacher = build_model(slices_model(experts="none"), SCHEMA, pretrain)
    save_file({name: value.contiguous() for name, value in teacher.state_dict().items()}, tmp_path / "w.safetensors")
    model = slices_model(start=str(tmp_path / "w.safetensors"), shared_expert=True)
    pupil = build_model(model, SCHEMA, Phase(routing="modality")).eval()
    report = start(pupil, model)
    assert all(".shared." in name for name in report.fresh) and len(report.fresh) == 6 * 4
    assert {name.split(".")[0] for name in report.left_over} == {"head", "masked"}
    batch = slices_batch()
    pictures = pupil.pictures(batch)
    mine, theirs = (net.network(pictures.values, pictures.modality)[0] for net in (pupil, teacher.eval()))
    assert not pupil.network.decoder[0][1].ffn.shared.weight_out.any()  # silent, or the answer would be another
    assert torch.allclose(mine, theirs, atol=1e-4)


def test_a_model_without_a_start_starts_as_it_is():
    network = build_model(slices_model(), SCHEMA)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert start(network, slices_model()) is None
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
