"""Encoders: every row of the table, other people's networks, and what a rare finding needs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from m4oe.errors import UserError
from m4oe.nets.blocks import Attention, ConvStem
from m4oe.nets.encoders import ENCODERS, OFFLINE, EncoderSpec, Histogram, make_encoder

SPECS = {
    "vit": EncoderSpec(3, (32, 48), 32, (16, 16), depth=1, histogram=8),
    "vit3d": EncoderSpec(1, (8, 32, 32), 32, (4, 8, 8), depth=1),
    "variables": EncoderSpec(5, (), 32),
    "densenet": EncoderSpec(3, (32, 48), 32),
    "hf_convnext": EncoderSpec(3, (32, 48), 32),
}


def own_encoder(spec: EncoderSpec) -> nn.Module:
    """What a user would write: pkg.mod:function."""
    return nn.Conv2d(spec.channels, 20, 8, stride=8)


def test_every_row_of_the_table_has_a_spec():
    assert set(SPECS) == set(ENCODERS)


@pytest.mark.parametrize("name", SPECS)
def test_an_encoder_gives_the_tokens_and_the_grid_that_it_promises(name):
    spec = SPECS[name]
    encoder = make_encoder(name, spec)
    tokens = encoder(torch.randn(3, spec.channels, *spec.size))
    assert tokens.shape == (3, encoder.tokens, 32)
    assert encoder.grid == {"vit3d": (2, 4, 4), "variables": ()}.get(name, (2, 3))


def test_an_unknown_encoder_is_answered_with_the_known_ones():
    with pytest.raises(UserError, match="did you mean 'vit'"):
        make_encoder("vti", SPECS["vit"])


def test_a_users_own_function_is_an_encoder():
    encoder = make_encoder("test_nets_encoders:own_encoder", SPECS["vit"])
    assert encoder.grid == (4, 6) and encoder(torch.randn(2, 3, 32, 48)).shape == (2, 24, 32)
    with pytest.raises(UserError, match="cannot be imported"):
        make_encoder("test_nets_encoders:absent", SPECS["vit"])


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory):
    """A small checkpoint as `save_pretrained` writes it."""
    from transformers import ViTConfig, ViTModel

    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8, num_channels=3)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("channels", [1, 3])
def test_a_pretrained_folder_gives_its_weights_also_to_grey_pictures(vit_folder, channels):
    from transformers import ViTModel

    spec = EncoderSpec(channels, (32, 32), 24, (8, 8), pretrained=True)
    encoder = make_encoder(f"hf:{vit_folder}", spec).eval()
    x = torch.randn(2, channels, 32, 32)
    tokens = encoder(x)
    assert encoder.tokens == 17 and encoder.grid == (4, 4) and tokens.shape == (2, 17, 24)
    reference = ViTModel.from_pretrained(vit_folder).eval()
    colour = x.expand(-1, 3, -1, -1)
    assert torch.allclose(tokens, encoder.project(reference(colour).last_hidden_state), atol=1e-5)


def test_weights_that_cannot_be_had_are_a_clear_error_with_the_offline_options(tmp_path):
    spec = EncoderSpec(1, (32, 32), 32, (8, 8), pretrained=True)
    with pytest.raises(UserError, match=r"pretrained=false.*model.encoder.image=vit"):
        make_encoder(f"hf:{tmp_path / 'absent'}", spec)


def test_a_config_that_cannot_be_had_is_a_clear_error(tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        make_encoder(f"hf:{tmp_path / 'absent'}", EncoderSpec(1, (32, 32), 32))


def test_a_known_name_is_built_without_a_network():
    encoder = make_encoder("hf:facebook/convnext-tiny-224", EncoderSpec(1, (64, 64), 16))
    assert encoder.grid == (2, 2) and encoder(torch.randn(1, 1, 64, 64)).shape == (1, 4, 16)
    assert "google/vit-base-patch16-224-in21k" in OFFLINE


def test_a_size_that_an_encoder_does_not_take_is_a_clear_error():
    """Swin's windows of 7 do not fit the coarsest grid of so small a picture."""
    with pytest.raises(UserError, match=r"64 x 64.*image_size"):
        make_encoder("hf:microsoft/swin-tiny-patch4-window7-224", EncoderSpec(1, (64, 64), 16))


def test_a_histogram_by_hand():
    """Three bins at -2.5, 0 and 2.5. Pixels -2.5, 0, 1.25 and 9: the third counts half for 0 and half for 2.5."""
    histogram = Histogram(1, 3, 3)
    histogram.project = nn.Identity()
    shares = histogram(torch.tensor([[[[-2.5, 0.0], [1.25, 9.0]]]])) ** 2
    assert torch.allclose(shares, torch.tensor([[0.25, 0.375, 0.375]]), atol=1e-6)


@pytest.mark.parametrize(
    ("patch", "size", "grid"),
    [((8, 8), (64, 64), (8, 8)), ((16, 16), (64, 64), (4, 4)), ((4, 8, 8), (8, 16, 16), (2, 2, 2))],
)
def test_a_stem_keeps_its_promise_of_patches(patch, size, grid):
    assert ConvStem(1, 32, patch)(torch.randn(2, 1, *size)).shape == (2, 32, *grid)


def test_a_patch_is_a_power_of_two():
    with pytest.raises(ValueError, match="power of two"):
        ConvStem(1, 32, (12, 12))


def test_a_strong_response_survives_the_stem_wherever_it_is():
    """The maximum at the end: moving a bright dot by a pixel moves the largest token response little."""
    torch.manual_seed(0)
    stem = ConvStem(1, 16, (16, 16)).eval()
    peaks = []
    for column in range(28, 36):
        x = torch.zeros(1, 1, 64, 64)
        x[0, 0, 32, column] = 10
        peaks.append(stem(x).amax((2, 3)))
    assert torch.stack(peaks).std(0).max() < 0.5 * torch.stack(peaks).mean()


def test_attention_does_not_read_absent_tokens():
    torch.manual_seed(0)
    attention = Attention(16, 2).eval()
    x, present = torch.randn(2, 5, 16), torch.tensor([[True, True, False, True, False], [False] * 5])
    poisoned = torch.where(present.unsqueeze(-1), x, float("nan"))
    assert torch.equal(attention(x, present), attention(poisoned, present))
    alone = attention(x[:1, present[0]])
    assert torch.allclose(attention(x, present)[0, present[0]], alone[0], atol=1e-6)
    assert not attention(x, present)[1].any()
