"""The picture encoder of SAM-Med2D (Cheng 2023), with its adapters, and a small decoder that needs no prompts.

Weights are not ours to ship: they are read from a file that the user names. Axes: B pictures · D width · h, w tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from m4oe.batch import Routing
from m4oe.errors import UserError
from m4oe.nets.baselines.pixelwise import Fronts, as_features
from m4oe.nets.swin_weights import Report

WEIGHTS = (
    "the published checkpoint of SAM-Med2D (sam-med2d_b.pth of its project page, downloaded by you; of torch, or "
    "saved anew as .safetensors), which holds 'image_encoder.*' of a ViT-B for 256 x 256 pixels with an adapter in "
    "each block; write model.segmenter.start=PATH_OF_THE_FILE"
)
PREFIX = "image_encoder."
# Names in the published file within `image_encoder.`, and those of the same in transformers' SamVisionEncoder, where
# the adapter stands beside the perceptron.
_NAMES = (
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"blocks\.(\d+)\.norm([12])\.", r"layers.\1.layer_norm\2."),
    (r"blocks\.(\d+)\.mlp\.", r"layers.\1.mlp.mlp."),
    (r"blocks\.(\d+)\.Adapter\.", r"layers.\1.mlp.adapter."),
    (r"blocks\.(\d+)\.attn\.", r"layers.\1.attn."),
    (r"neck\.0\.", "neck.conv1."),
    (r"neck\.1\.", "neck.layer_norm1."),
    (r"neck\.2\.", "neck.conv2."),
    (r"neck\.3\.", "neck.layer_norm2."),
)


@dataclass(frozen=True)
class SamSpec:
    """Plain numbers of the encoder, by default those of the published one. whole: blocks that attend to the whole
    picture, where others attend within windows."""

    size: int = 256
    patch: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    window: int = 14
    whole: tuple[int, ...] = (2, 5, 8, 11)
    out: int = 256


class Adapter(nn.Module):
    """Channels weighed by the picture as a whole, then convolutions at half the resolution; (B, h, w, D) both."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = width // 4
        self.channel = nn.Sequential(
            nn.Linear(width, inner, bias=False), nn.ReLU(), nn.Linear(inner, width, bias=False), nn.Sigmoid()
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(width, width, 3, 2, 1, bias=False),
            nn.ReLU(),
            nn.ConvTranspose2d(width, width, 4, 2, 1, bias=False),
            nn.ReLU(),
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        weighed = x * self.channel(x.mean((1, 2), keepdim=True))
        local = self.spatial(weighed.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.norm(x + local)


class Adapted(nn.Module):
    """A block's perceptron with the adapter beside it."""

    def __init__(self, mlp: nn.Module, width: int) -> None:
        super().__init__()
        self.mlp, self.adapter = mlp, Adapter(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x) + self.adapter(x)


class SamMed2D(nn.Module):
    """Features of every pixel by SAM-Med2D's encoder, whose transformer stays as it is: adapters and decoder learn."""

    def __init__(self, channels: Sequence[int], spec: SamSpec = SamSpec()) -> None:
        super().__init__()
        self.size, self.features = spec.size, spec.out // 8
        self.fronts, self.encoder = Fronts(channels, 3), _encoder(spec)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(spec.out, spec.out // 4, 2, 2),
            nn.GroupNorm(1, spec.out // 4),
            nn.GELU(),
            nn.ConvTranspose2d(spec.out // 4, self.features, 2, 2),
            nn.GELU(),
        )

    def forward(self, pictures: Sequence[Tensor], modality: Tensor) -> tuple[Tensor, dict[str, Routing]]:
        """Pictures are brought to the size for which the encoder was trained, features back to theirs."""
        x = self.fronts(pictures)
        small = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        features = self.decoder(self.encoder(small).last_hidden_state)
        return as_features(F.interpolate(features, x.shape[-2:], mode="bilinear"), x.shape[-2:]), {}


def _encoder(spec: SamSpec) -> nn.Module:
    from transformers import SamVisionConfig
    from transformers.models.sam.modeling_sam import SamVisionEncoder

    encoder = SamVisionEncoder(
        SamVisionConfig(
            hidden_size=spec.width,
            output_channels=spec.out,
            num_hidden_layers=spec.depth,
            num_attention_heads=spec.heads,
            image_size=spec.size,
            patch_size=spec.patch,
            window_size=spec.window,
            global_attn_indexes=list(spec.whole),
            mlp_dim=4 * spec.width,
        )
    ).requires_grad_(False)
    for layer in encoder.layers:
        layer.mlp = Adapted(layer.mlp, spec.width)
    return encoder


def load_sam(network: SamMed2D, state: Mapping[str, Tensor]) -> Report:
    """Loads the encoder's weights in place, adapters included; prompt encoder and mask decoder are left over.

    Raises UserError where `state` is another model's: nothing of the encoder may be missing or of another shape.
    """
    given = {sam_name(name): name for name in state if name.startswith(PREFIX)}
    own = network.encoder.state_dict()
    for name, value in own.items():
        found = state.get(given.get(name, ""))
        if found is None or found.shape != value.shape:
            has = "nothing" if found is None else f"{tuple(found.shape)}"
            raise UserError(
                f"model.segmenter.start: the weights do not fit SAM-Med2D: {name} {tuple(value.shape)} finds {has}; "
                f"needed is {WEIGHTS}"
            )
    network.encoder.load_state_dict({name: state[given[name]] for name in own})
    used = {given[name] for name in own}
    fresh = [name for name, _ in network.named_parameters() if not name.startswith("encoder.")]
    loaded = [f"encoder.{name}" for name in own]
    return Report(tuple(loaded), tuple(name for name in state if name not in used), tuple(fresh))


def sam_name(name: str) -> str:
    """The name within our encoder of a parameter `name` of the published file."""
    name = name.removeprefix(PREFIX)
    for pattern, ours in _NAMES:
        if re.match(pattern, name):
            return re.sub(f"^{pattern}", ours, name)
    return name
