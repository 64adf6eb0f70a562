"""Networks in the place of the Swin-UNet: the laws of a segmenter for every row, decoders, SAM-Med2D's weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from m4oe.batch import Batch
from m4oe.config import load_config
from m4oe.errors import UserError
from m4oe.nets.baselines.pixelwise import framed
from m4oe.nets.baselines.residual import Residual, ResidualEncoder
from m4oe.nets.baselines.sam import SamMed2D, SamSpec, load_sam, sam_name
from m4oe.nets.baselines.segmentation import OURS, SEGMENTERS, SliceShape
from m4oe.nets.build import build_model, start
from m4oe.nets.segmenter import Segmenter
from m4oe.schema import Schema
from m4oe.settings import Phase
from m4oe.train.objective import Objective
from tiny import subset
from tiny_slices import COMPRISES, SCHEMA, SIZE, slices_batch, slices_model

SMALL = SamSpec(size=32, patch=8, width=16, depth=2, heads=2, window=3, whole=(1,), out=16)
LIGHT = [name for name, row in SEGMENTERS.items() if row.load is None]


def model_of(name: str, **more: object):
    labels = "heads" if name == "separate_decoders" else "unified"
    return slices_model(**{"network": name, "experts": "none", "labels": labels, **more})


def built(name: str, schema: Schema = SCHEMA, **more: object) -> Segmenter:
    torch.manual_seed(0)
    if name == "sam_med2d":
        torch.manual_seed(0)
        return _small_sam()
    return build_model(model_of(name, **more), schema).eval()


def _small_sam() -> Segmenter:
    ours = build_model(slices_model(experts="none"), SCHEMA)
    network = SamMed2D([1, 2], SMALL)
    for parameter in network.encoder.parameters():  # as if loaded: SAM's own start is all but 0
        torch.nn.init.normal_(parameter, std=0.1)
    return Segmenter(network, ours.streams, ours.outputs, [1 / 6] * 6).eval()


@pytest.fixture(params=SEGMENTERS, scope="module")
def network(request) -> Segmenter:
    return built(request.param)


def loss_of(network: Segmenter, batch: Batch) -> Tensor:
    return Objective(SCHEMA.tasks)(network(batch), batch).total


def test_the_rows():
    assert list(SEGMENTERS) == ["unet", "swin_unetr", "stu_net", "med3d", "separate_decoders", "sam_med2d"]
    assert all(row.title and row.paper and row.differs for row in SEGMENTERS.values())


def test_the_page_has_the_rows(repository):
    page = (repository / "docs" / "segmentation.md").read_text(encoding="utf-8")
    for name, row in SEGMENTERS.items():
        assert f"| `{name}` | {row.title} | {row.paper} | {row.differs} |" in page


def test_each_task_has_the_exams_that_have_its_picture(network):
    prediction = network(slices_batch(7))
    found = {task: (tuple(rows.values.shape), rows.index.tolist()) for task, rows in prediction.logits.items()}
    expected = {"abdomen": [0, 3, 6], "kidneys": [1, 4], "liver": [2, 5]}
    assert found == {task: ((len(of), len(COMPRISES[task]), *SIZE), of) for task, of in expected.items()}
    assert prediction.routing == {}


def test_a_task_without_its_picture_has_no_rows(network):
    alone = subset(slices_batch(), torch.tensor([0]))
    logits = network(alone, ["abdomen", "liver"]).logits
    assert logits["abdomen"].values.shape == (1, 3, *SIZE) and logits["liver"].values.shape == (0, 4, *SIZE)


def test_an_exam_does_not_see_its_neighbours(network):
    batch = slices_batch()
    whole = network(batch)
    for exam in range(3):
        for task, rows in network(subset(batch, torch.tensor([exam]))).logits.items():
            mine = whole.logits[task].values[whole.logits[task].index == exam].softmax(1)
            assert rows.values.shape == mine.shape
            assert not len(mine) or (rows.values.softmax(1) - mine).abs().max() < 1e-5


def test_every_parameter_that_may_learn_gets_a_gradient(network):
    network.train()
    network.zero_grad()
    loss_of(network, slices_batch()).backward()
    learning = {name: p for name, p in network.named_parameters() if p.requires_grad}
    assert len(learning) > 20
    # Before an instance normalisation a bias cannot matter; MONAI's U-Net has some, whose gradient is rounding.
    assert not [name for name, p in learning.items() if p.grad is None or not p.grad.abs().sum()]
    assert all(torch.isfinite(p.grad).all() for p in learning.values())
    network.eval()


@pytest.mark.parametrize("name", [name for name in SEGMENTERS if name != "med3d"])  # which sees 3 x 3 places here
def test_a_pixel_of_the_picture_is_a_pixel_of_the_mask(name):
    """Moving a square moves what changes in the logits: features are neither turned nor shifted."""
    network, batch = built(name), slices_batch(3)
    ct = batch.inputs["ct"]
    for row, column in ((4, 15), (18, 3)):
        there = ct.values.clone()
        there[:, :, row - 2 : row + 3, column - 2 : column + 3] += 8.0
        apart = [network(Batch(batch.exams, {"ct": type(ct)(x, ct.index)}), ["abdomen"]) for x in (ct.values, there)]
        change = (apart[1].logits["abdomen"].values - apart[0].logits["abdomen"].values)[0].abs().sum(0)
        change = change - change.median()
        rows, columns = torch.meshgrid(*(torch.arange(side).float() for side in SIZE), indexing="ij")
        heavy = change * (change > change.quantile(0.9))
        centre = [(heavy * place).sum() / heavy.sum() for place in (rows, columns)]
        assert abs(centre[0] - row) < 6 and abs(centre[1] - column) < 6


@pytest.mark.parametrize("name", LIGHT)
def test_it_learns_two_slices(name):
    torch.manual_seed(0)
    network, batch = built(name, labels="heads").train(), slices_batch(3)
    batch.targets["abdomen"].values[:] = (batch.inputs["ct"].values[:, 0] > 0).long()
    batch = subset(batch, torch.tensor([0]))
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        optimiser.zero_grad()
        losses.append(loss_of(network, batch))
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.7 * losses[0]


def test_sizes_grow_with_the_width():
    """STU-Net: one block a stage up to width 128, two at 256; and the small one of 14 million parameters in three
    dimensions has about a third of that in two, with kernels of 9 instead of 27."""
    counts = {}
    with torch.device("meta"):
        for width in (64, 128, 256):
            network = SEGMENTERS["stu_net"].make(SliceShape((1,), width, ()))
            counts[width] = sum(p.numel() for p in network.parameters())
            assert len(network.network.encoder.stages[0]) == max(1, width // 128)
    assert 14.6e6 / 3.5 < counts[64] < 14.6e6 / 2.5
    assert 3.8 < counts[128] / counts[64] < 4.2 and counts[256] / counts[128] > 6


def test_sam_med2d_has_its_published_size():
    """271 million parameters (Cheng 2023, table of models), of which SAM's prompt encoder and mask decoder, 4.06
    million, are not taken over."""
    with torch.device("meta"):
        network = SEGMENTERS["sam_med2d"].make(SliceShape((1,), 64, ()))
    encoder = sum(p.numel() for p in network.encoder.parameters())
    assert round((encoder + 4.06e6) / 1e6) == 271
    frozen = {
        name.split(".")[2] for name, p in network.encoder.named_parameters() if not p.requires_grad and "layers" in name
    }
    assert "mlp" in frozen and "attn" in frozen
    assert all(p.requires_grad for name, p in network.named_parameters() if ".adapter." in name)


def test_a_residual_block_by_hand():
    """Convolutions of zeros leave the path around: max(x, 0.01 x)."""
    block = Residual(1, 1)
    for parameter in block.path.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.tensor([-2.0, 3.0]).expand(1, 1, 2, 2)
    assert torch.allclose(block(x), torch.tensor([-0.02, 3.0]).expand(1, 1, 2, 2))


def test_an_encoder_halves_at_each_stage():
    maps = ResidualEncoder(2, [4, 8, 16], 2)(torch.randn(1, 2, 16, 8))
    assert [tuple(one.shape[1:]) for one in maps] == [(4, 16, 8), (8, 8, 4), (16, 4, 2)]


def test_frames_are_multiples_and_no_less_than_two():
    assert framed(torch.ones(1, 1, 24, 65), 16).shape == (1, 1, 32, 80)
    assert framed(torch.ones(1, 1, 5, 32), 16).shape == (1, 1, 32, 32)
    assert framed(torch.ones(1, 1, 5, 32), 16).sum() == 5 * 32


def test_a_decoder_learns_from_its_own_task_alone():
    network = built("separate_decoders")
    loss_of(network, subset(slices_batch(), torch.tensor([1]))).backward()  # kidneys
    touched = [any(p.grad is not None for p in decoder.parameters()) for decoder in network.network.decoders]
    assert touched == [False, True, False]
    assert all(p.grad is not None for p in network.network.encoder.parameters())


# What the config says.


def test_a_network_without_experts_is_trained_in_one_phase():
    config = load_config(None, ["model.segmenter.network=unet"]).for_tasks(["segmentation"])
    assert config.model.segmenter.experts == "none" and [phase.name for phase in config.phases] == ["train"]
    again = config.for_tasks(["segmentation"])
    assert again == config
    ours = load_config().for_tasks(["segmentation"])
    assert ours.model.segmenter.experts == "both" and len(ours.phases) == 2
    apart = load_config(None, ["model.segmenter.network=separate_decoders"]).for_tasks(["segmentation"])
    assert apart.model.segmenter.labels == "heads"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("network", "u_net", "unknown model.segmenter.network 'u_net': did you mean 'unet'"),
        ("experts", "both", "unet has no experts; write none, or network=swin_unet"),
    ],
)
def test_what_does_not_go_together_is_told(key, value, said):
    with pytest.raises(UserError, match=said):
        build_model(model_of("unet", **{key: value}), SCHEMA)


def test_masked_images_and_shared_outputs_are_refused():
    with pytest.raises(UserError, match="masked images need swin_unet"):
        build_model(model_of("unet"), SCHEMA, Phase(name="pretrain", objective="masked_images"))
    with pytest.raises(UserError, match=r"separate_decoders needs model\.segmenter\.labels=heads"):
        build_model(model_of("separate_decoders", labels="unified"), SCHEMA)


def test_a_network_that_starts_untrained_takes_no_weights():
    network = built("unet")
    assert start(network, model_of("unet")) is None
    with pytest.raises(UserError, match="unet starts untrained; leave 'start' away"):
        start(network, model_of("unet", start="weights.pth"))
    assert OURS not in SEGMENTERS


# SAM-Med2D's weights.


def checkpoint(spec: SamSpec = SMALL) -> dict[str, Tensor]:
    """A file as published, by the names of its project, of a small network; its values tell the places apart."""
    g, head = torch.Generator().manual_seed(1), spec.width // spec.heads
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, spec.size // spec.patch, spec.size // spec.patch, spec.width),
        "patch_embed.proj.weight": (spec.width, 3, spec.patch, spec.patch),
        "patch_embed.proj.bias": (spec.width,),
        "neck.0.weight": (spec.out, spec.width, 1, 1),
        "neck.2.weight": (spec.out, spec.out, 3, 3),
    } | {f"neck.{n}.{kind}": (spec.out,) for n in (1, 3) for kind in ("weight", "bias")}
    for n in range(spec.depth):
        side = spec.size // spec.patch if n in spec.whole else spec.window
        block = {f"norm{m}.{kind}": (spec.width,) for m in (1, 2) for kind in ("weight", "bias")}
        block |= {f"attn.rel_pos_{way}": (2 * side - 1, head) for way in "hw"}
        block |= {"attn.qkv.weight": (3 * spec.width, spec.width), "attn.qkv.bias": (3 * spec.width,)}
        block |= {"attn.proj.weight": (spec.width, spec.width), "attn.proj.bias": (spec.width,)}
        block |= {"mlp.lin1.weight": (4 * spec.width, spec.width), "mlp.lin1.bias": (4 * spec.width,)}
        block |= {"mlp.lin2.weight": (spec.width, 4 * spec.width), "mlp.lin2.bias": (spec.width,)}
        block |= {"Adapter.channel.0.weight": (spec.width // 4, spec.width)}
        block |= {"Adapter.channel.2.weight": (spec.width, spec.width // 4)}
        block |= {"Adapter.spatial.0.weight": (spec.width, spec.width, 3, 3)}
        block |= {"Adapter.spatial.2.weight": (spec.width, spec.width, 4, 4)}
        block |= {"Adapter.norm.weight": (spec.width,), "Adapter.norm.bias": (spec.width,)}
        shapes |= {f"blocks.{n}.{name}": shape for name, shape in block.items()}
    state = {f"image_encoder.{name}": torch.randn(shape, generator=g) for name, shape in shapes.items()}
    return state | {"prompt_encoder.no_mask_embed.weight": torch.zeros(1, spec.out)}


def test_all_of_the_published_encoder_is_taken_over():
    network, state = SamMed2D([1], SMALL), checkpoint()
    report = load_sam(network, state)
    own = network.encoder.state_dict()
    assert len(report.loaded) == len(own) == len(state) - 1
    assert report.left_over == ("prompt_encoder.no_mask_embed.weight",)
    assert report.fresh and not any(name.startswith("encoder.") for name in report.fresh)
    for name, value in state.items():
        if name.startswith("image_encoder."):
            assert torch.equal(own[sam_name(name)], value), name
    assert sam_name("image_encoder.blocks.11.Adapter.norm.bias") == "layers.11.mlp.adapter.norm.bias"


def test_a_block_is_attention_then_perceptron_beside_adapter():
    """The published block in plain words: x + attention(norm1 x), then x + perceptron(norm2 x) + adapter(norm2 x)."""
    network = SamMed2D([1], SMALL).eval()
    load_sam(network, {name: 0.1 * value for name, value in checkpoint().items()})
    layer, x = network.encoder.layers[1], torch.randn(2, 4, 4, SMALL.width)
    y = x + layer.attn(layer.layer_norm1(x))[0]
    inner = layer.layer_norm2(y)
    perceptron = layer.mlp.mlp.lin2(torch.nn.functional.gelu(layer.mlp.mlp.lin1(inner)))
    adapter = layer.mlp.adapter
    pictures = inner.permute(0, 3, 1, 2)
    weighed = pictures * adapter.channel(pictures.mean((2, 3)))[:, :, None, None]
    told = adapter.norm((pictures + adapter.spatial(weighed)).permute(0, 2, 3, 1))
    assert torch.allclose(layer(x), y + perceptron + told, atol=1e-5)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_checkpoint_on_disk(tmp_path: Path, monkeypatch, suffix):
    path = tmp_path / f"sam{suffix}"
    if suffix == ".pth":
        torch.save({"model": checkpoint(), "epoch": 3}, path)
    else:
        from safetensors.torch import save_file

        save_file(checkpoint(), path)
    network = built("sam_med2d")
    start(network, model_of("sam_med2d", start=str(path)))
    assert torch.equal(network.network.encoder.neck.conv2.weight, checkpoint()["image_encoder.neck.2.weight"])


def test_without_its_weights_it_says_which_file_and_what_is_in_it(tmp_path: Path):
    network = built("sam_med2d")
    with pytest.raises(UserError, match=r"sam-med2d_b\.pth .* 'image_encoder\.\*' .* model\.segmenter\.start=PATH"):
        start(network, model_of("sam_med2d"))
    with pytest.raises(UserError, match="no such file"):
        start(network, model_of("sam_med2d", start=str(tmp_path / "none.pth")))
    wrong = checkpoint(SamSpec(**{**SMALL.__dict__, "width": 32}))
    with pytest.raises(UserError, match=r"pos_embed \(1, 4, 4, 16\) finds \(1, 4, 4, 32\)"):
        load_sam(network.network, wrong)
    plain = {name: value for name, value in checkpoint().items() if ".Adapter." not in name}
    with pytest.raises(UserError, match=r"adapter\.channel\.0\.weight .* finds nothing"):
        load_sam(network.network, plain)


def test_streams_of_other_channel_counts_share_a_network():
    """One channel goes in as three equal ones into SAM; two, as their mean."""
    network = SamMed2D([1, 2], SMALL)
    x = torch.randn(1, 2, 4, 4)
    assert torch.allclose(network.fronts([x[:, :1]]), x[:, :1].expand(-1, 3, -1, -1))
    assert torch.allclose(network.fronts([x]), x.mean(1, keepdim=True).expand(-1, 3, -1, -1))
