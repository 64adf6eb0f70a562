"""Swin-UNet: attention held to a twin without padding, the paper's parameter counts, any size, permutations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from m4oe.errors import UserError
from m4oe.moe import Experts
from m4oe.nets import biased_attention
from m4oe.nets.stems import MeanSquares, PatchEnd, Spread, as_picture, linear
from m4oe.nets.swin_block import RATIO, DenseFeedForward, SwinBlock, Tiling, WindowAttention, tile
from m4oe.nets.swin_unet import Expand, Merge, SwinSpec, SwinUNet

PAPER = SwinSpec(width=96, depths=(2, 2, 2, 2), heads=(3, 6, 12, 24), window=7)
SMALL = {stem: SwinSpec(width=16, depths=(2, 2, 1), heads=(2, 4, 4), window=4, stem=stem) for stem in ("patch", "conv")}


@pytest.fixture(params=SMALL, scope="module")
def network(request) -> SwinUNet:
    torch.manual_seed(0)
    return SwinUNet(SMALL[request.param], [1, 3], DenseFeedForward, DenseFeedForward).eval()


def written_out(features: torch.Tensor | Spread, count: int) -> torch.Tensor:
    """Features of pixels (B, h, w, a, b, F)."""
    return linear(features, torch.eye(count), torch.zeros(count))


def windows_and_ends(length: int, tiling: Tiling) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each token of an axis: its window, and whether the shift brought it round the end."""
    place = torch.arange(length) - tiling.shift
    whole = tiling.side * tiling.count
    return (place % whole) // tiling.side, place < 0


def attention_twin(layer: WindowAttention, x: torch.Tensor, shifted: bool) -> torch.Tensor:
    """Every token against every token of the grid, those it may not see hidden: no window is cut, nothing is padded."""
    _, h, w, width = x.shape
    sees = torch.ones(h * w, h * w, dtype=torch.bool)
    y, z = (axis.flatten() for axis in torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))
    for length, place in ((h, y), (w, z)):
        for fact in windows_and_ends(length, tile(length, layer.window, shifted)):
            sees &= fact[place][:, None] == fact[place][None]
    side = 2 * layer.window - 1
    dy, dx = y[:, None] - y[None] + layer.window - 1, z[:, None] - z[None] + layer.window - 1
    row = (dy.clamp(0, side - 1) * side + dx.clamp(0, side - 1)).flatten()  # clamped where it is hidden anyway
    bias = layer.bias_table[row].view(h * w, h * w, layer.heads).permute(2, 0, 1)
    q, k, v = layer.qkv(x.flatten(1, 2)).chunk(3, -1)
    heads = [part.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for part in (q, k, v)]
    scores = heads[0] @ heads[1].mT / (width / layer.heads) ** 0.5 + bias
    answer = scores.masked_fill(~sees, float("-inf")).softmax(-1) @ heads[2]
    return layer.out(answer.transpose(1, 2).flatten(2)).view(x.shape)


def test_windows_are_of_equal_side_and_need_little_padding():
    assert tile(56, 7, True) == (7, 8, 3)  # as published: eight windows of seven, moved by half of one
    assert tile(7, 7, True) == (7, 1, 0)  # one window is not moved
    assert tile(16, 6, True) == (6, 3, 3)  # two of padding
    assert tile(8, 6, False) == (4, 2, 0)  # two of four, where two of six would need four of padding
    assert tile(3, 6, True) == (3, 1, 0)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("grid", [(8, 8), (4, 4), (3, 2), (7, 13), (1, 9), (12, 5)])
def test_attention_equals_its_twin_without_padding(grid, shifted):
    torch.manual_seed(1)
    layer = WindowAttention(8, 2, 4)
    nn.init.normal_(layer.bias_table)
    x = torch.randn(2, *grid, 8, requires_grad=True)
    y, twin = layer(x, shifted), attention_twin(layer, x, shifted)
    assert torch.allclose(y, twin, atol=1e-5)
    weight = torch.randn_like(y)
    for mine, theirs in zip(*(torch.autograd.grad((z * weight).sum(), [x, *layer.parameters()]) for z in (y, twin))):
        assert torch.allclose(mine, theirs, atol=1e-4)


@pytest.mark.parametrize("windows_with_a_bias", [1, 4])
@pytest.mark.parametrize("at_once", [1, 6, 192])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 0.03)])
def test_each_way_of_attention_says_the_same(windows_with_a_bias, at_once, dtype, rounding, monkeypatch):
    """Whole, by the library, and a few windows at a time: of 3 x 4 windows with 2 heads, 1, 3 or all."""
    monkeypatch.setattr(biased_attention, "AT_ONCE", at_once)
    torch.manual_seed(1)
    qkv, bias = torch.randn(3, 4, 5, 3 * 8).to(dtype), torch.randn(windows_with_a_bias, 2, 5, 5).to(dtype)
    bias[..., 1, 2:4] = float("-inf")
    whole = biased_attention.BiasedAttention.apply(qkv, bias)
    assert whole.dtype == dtype
    for way in biased_attention.in_the_cache, biased_attention.fused:
        torch.testing.assert_close(way(qkv, bias), whole, rtol=0, atol=rounding)


def test_merge_takes_four_neighbours_and_pads_an_odd_grid():
    merge = Merge(1)
    merge.norm, merge.reduce = nn.Identity(), nn.Identity()
    # Columns before rows: upper left, lower left, upper right, lower right.
    x = torch.tensor([[1.0, 2, 3], [4, 5, 6]]).view(1, 2, 3, 1)
    assert merge(x).view(2, 4).tolist() == [[1, 4, 2, 5], [3, 6, 0, 0]]


def test_expand_spreads_a_token_over_its_square():
    expand = Expand(4, 1)
    expand.spread, expand.norm = nn.Identity(), nn.Identity()
    x = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]]).view(1, 1, 2, 4)
    assert expand(x).view(2, 4).tolist() == [[1, 2, 5, 6], [3, 4, 7, 8]]


class Released(nn.Module):
    """Three experts and the released gate of D x D, which tests/papers/ shows to be none."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.experts, self.gate = Experts(3, width, RATIO * width), nn.Linear(width, width)


# PAPERS 2.5: parameters in millions, with heads of 14, 3 and 16 classes.
@pytest.mark.parametrize(
    ("encoder", "decoder", "millions"),
    [
        (DenseFeedForward, DenseFeedForward, 27.2),
        (Released, DenseFeedForward, 53.8),
        (DenseFeedForward, Released, 33.8),
        (Released, Released, 60.4),
    ],
)
def test_published_parameter_counts(encoder, decoder, millions):
    with torch.device("meta"):
        network = SwinUNet(PAPER, [1], encoder, decoder)
    count = sum(parameter.numel() for parameter in network.parameters()) + (14 + 3 + 16) * network.features
    assert round(count / 1e6, 1) == millions


@pytest.mark.parametrize("size", [(32, 32), (31, 45), (4, 50), (9, 9)])
def test_any_size_gives_features_of_every_pixel(network, size):
    x = torch.randn(2, 1, *size)
    features, routing = network([x], torch.zeros(2).long())
    picture = as_picture(written_out(features, network.features), size)
    assert picture.shape == (2, network.features, *size) and torch.isfinite(picture).all()
    assert routing == {}


def test_pictures_of_several_channel_counts_go_through_together(network):
    one, three = torch.randn(2, 1, 20, 24), torch.randn(1, 3, 20, 24)
    together, _ = network([one, three], torch.zeros(3).long())
    for picture, part in zip((one, three), together.split([2, 1])):
        apart, _ = network([picture], torch.zeros(len(picture)).long())
        mine, theirs = (written_out(features, network.features) for features in (part, apart))
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_law_1_a_picture_does_not_see_its_neighbours(network):
    x, order = torch.randn(4, 1, 20, 24), torch.tensor([2, 0, 3])
    whole, _ = network([x], torch.zeros(4).long())
    some, _ = network([x[order]], torch.zeros(3).long())
    mine, theirs = (written_out(features, network.features) for features in (whole[order], some))
    assert (mine - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("patch", [2, 4, 8])
def test_stems_meet_their_ends_whatever_the_patch(patch):
    for stem in SMALL:
        spec = SwinSpec(width=8, depths=(1, 1), heads=(1, 1), window=3, patch=patch, stem=stem)
        network = SwinUNet(spec, [1], DenseFeedForward, DenseFeedForward)
        features, _ = network([torch.randn(1, 1, 19, 26)], torch.zeros(1).long())
        assert as_picture(written_out(features, network.features), (19, 26)).shape == (1, network.features, 19, 26)
        assert network.grid("encoder.0", (19, 26)) == (-(-19 // patch), -(-26 // patch))
        assert network.grid("decoder.1", (19, 26)) == (-(-19 // (2 * patch)), -(-26 // (2 * patch)))


def test_a_convolution_stem_wants_a_power_of_two():
    with pytest.raises(UserError, match="patch is 6"):
        SwinUNet(SwinSpec(8, (1,), (1,), 3, patch=6, stem="conv"), [1], DenseFeedForward, DenseFeedForward)


def test_stochastic_depth_leaves_whole_updates_out_and_keeps_their_mean():
    torch.manual_seed(0)
    block = SwinBlock(4, 1, 3, False, 0.25, DenseFeedForward)
    update = torch.ones(4000, 2, 2, 4)
    kept = block._added(torch.ones_like(update), update) - 1
    assert {round(value, 4) for value in kept.flatten().tolist()} == {0.0, 1.3333}
    assert abs(kept.mean() - 1) < 0.03
    assert torch.equal(block.eval()._added(update, update), 2 * update)


def test_drop_path_grows_with_depth():
    assert SwinSpec(8, (2, 3), (1, 1), 3, drop_path=0.4).drop_paths(1) == pytest.approx([0.2, 0.3, 0.4])


def test_bf16_is_near_float32(network):
    x, modality = torch.randn(2, 1, 32, 32), torch.zeros(2).long()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast = written_out(network([x], modality)[0], network.features)
    exact = written_out(network([x], modality)[0], network.features)
    assert (fast.float() - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_a_linear_map_of_spread_features_is_that_of_normalised_ones():
    torch.manual_seed(0)
    end, x = PatchEnd(6, 2).double(), torch.randn(3, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    nn.init.normal_(end.norm.weight), nn.init.normal_(end.norm.bias)
    weight, bias = torch.randn(4, 6, dtype=torch.float64, requires_grad=True), torch.randn(4, dtype=torch.float64)
    ours = end(x, []).linear(weight, bias)
    theirs = nn.functional.linear(end.norm(end.spread(x).unflatten(3, (2, 2, 6))), weight, bias)
    assert torch.allclose(ours, theirs, atol=1e-12)
    direction, variables = torch.randn_like(ours), [x, weight, *end.parameters()]
    for mine, twin in zip(*(torch.autograd.grad((y * direction).sum(), variables) for y in (ours, theirs))):
        assert twin.abs().max() > 0 and torch.allclose(mine, twin, atol=1e-11)
    first, last = end(x, []).split([1, 2])
    assert torch.equal(last.x, x[1:]) and torch.equal(end(x, [])[:1].x, first.x)


def test_mean_squares_by_hand_and_by_differences():
    # Features (1 - 1, 2 + 3) and (1, -1) of the token (1, 1): mean squares 25 / 2 and 1
    weight = torch.tensor([[1.0, -1], [2, 3], [1, 0], [0, -1]], dtype=torch.float64, requires_grad=True)
    assert MeanSquares.apply(torch.ones(1, 2, dtype=torch.float64), weight, 2).tolist() == [pytest.approx([12.5, 1])]
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *given: MeanSquares.apply(*given, 2), (x, weight))


def test_mean_squares_of_many_rows_are_made_by_parts():
    torch.manual_seed(0)
    x = torch.randn(2, 1100, 3, dtype=torch.float64, requires_grad=True)  # 2200 rows, 1024 at once
    weight = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    ours, whole = MeanSquares.apply(x, weight, 4), (x @ weight.T).unflatten(-1, (2, 4)).square().mean(-1)
    torch.testing.assert_close(ours, whole, rtol=0, atol=1e-12)
    direction = torch.randn_like(ours)
    for mine, twin in zip(*(torch.autograd.grad((y * direction).sum(), [x, weight]) for y in (ours, whole))):
        torch.testing.assert_close(mine, twin, rtol=0, atol=1e-10)


def test_mean_squares_of_no_rows():
    assert MeanSquares.apply(torch.ones(0, 2), torch.ones(4, 2), 2).shape == (0, 2)
