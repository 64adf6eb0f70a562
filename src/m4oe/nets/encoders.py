"""Encoders: one input's values -> tokens. Ours, any Hugging Face vision model, or the user's own function.

Every encoder has `tokens` (how many it gives), `grid` (layout of the last ones, () for none) and maps
(P, C, *size) or (P, V) to (P, tokens, D). Axes as in batch.py.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from m4oe.errors import UserError, unknown
from m4oe.nets.blocks import ConvStem, TransformerBlock


@dataclass(frozen=True)
class EncoderSpec:
    """Plain numbers from which an encoder is built. size: pixels, () for plain variables."""

    channels: int
    size: tuple[int, ...]
    width: int
    patch: tuple[int, ...] = ()
    depth: int = 2
    heads: int = 4
    histogram: int = 0
    dropout: float = 0.0
    pretrained: bool = False


class ConvViT(nn.Module):
    """A vision transformer on a convolution stem, for pictures and volumes; learns from scratch on a laptop."""

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.grid = tuple(side // patch for side, patch in zip(spec.size, spec.patch))
        self.stem = ConvStem(spec.channels, spec.width, spec.patch)
        self.histogram = Histogram(spec.channels, spec.histogram, spec.width) if spec.histogram else None
        self.tokens = torch.Size(self.grid).numel() + (self.histogram is not None)
        self.position = nn.Parameter(torch.randn(1, self.tokens, spec.width) * 0.02)
        blocks = [TransformerBlock(spec.width, spec.heads, spec.dropout) for _ in range(spec.depth)]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        if self.histogram is not None:
            tokens = torch.cat([self.histogram(x).unsqueeze(1), tokens], 1)
        return self.blocks(tokens + self.position)


class Histogram(nn.Module):
    """The intensity distribution of a picture as one token: what instance normalisation removes.

    Shares of pixels near each of `bins` centres between -2.5 and 2.5 (pictures are normalised), a pixel counting for
    its two nearest; their square roots, so that rare intensities are seen, are projected to width D.
    """

    def __init__(self, channels: int, bins: int, width: int) -> None:
        super().__init__()
        self.bins = bins
        self.project = nn.Linear(channels * bins, width)

    def forward(self, x: Tensor) -> Tensor:
        """(P, C, *size) -> (P, D)."""
        place = (x.detach().flatten(2).clamp(-2.5, 2.5) + 2.5) * ((self.bins - 1) / 5)
        below = place.floor().clamp_max(self.bins - 2)
        share = (place - below) / place.shape[-1]
        counts = x.new_zeros(*x.shape[:2], self.bins)
        counts.scatter_add_(2, below.long(), 1 / place.shape[-1] - share).scatter_add_(2, below.long() + 1, share)
        return self.project(counts.clamp_min(0).sqrt().flatten(1))


class Variables(nn.Module):
    """Plain variables (P, V), each with its own presence number, as one token."""

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.tokens, self.grid = 1, ()
        self.mlp = nn.Sequential(
            nn.Linear(spec.channels, spec.width), nn.GELU(), nn.Linear(spec.width, spec.width), nn.LayerNorm(spec.width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x).unsqueeze(1)


class Wrapped(nn.Module):
    """Somebody else's network: its tokens, projected to width D; a picture of one channel is repeated if need be."""

    def __init__(self, module: nn.Module, spec: EncoderSpec, channels: int) -> None:
        super().__init__()
        self.module, self.repeat = module, channels if spec.channels == 1 else 1
        if spec.channels not in (1, channels):
            raise UserError(f"the encoder takes {channels} channels, but an input has {spec.channels}")
        tokens, self.grid = self._tried(spec)
        self.tokens, found = tokens.shape[1:]
        self.project = nn.Identity() if found == spec.width else nn.Linear(found, spec.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self._tokens(x)[0])

    @torch.no_grad()
    def _tried(self, spec: EncoderSpec) -> tuple[Tensor, tuple[int, ...]]:
        """Its tokens of an empty picture. Raises UserError where it does not take pictures of this size."""
        try:
            return self._tokens(torch.zeros(1, spec.channels, *spec.size))
        except (RuntimeError, ValueError) as error:
            size = " x ".join(map(str, spec.size))
            raise UserError(f"the encoder does not take pictures of {size}: {error}; change model.image_size") from None

    def _tokens(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """(P, n, D') and the grid of its last tokens."""
        y = self.module(x.repeat(1, self.repeat, *[1] * (x.ndim - 2)) if self.repeat > 1 else x)
        y = getattr(y, "last_hidden_state", y)
        if y.ndim == x.ndim:
            return y.flatten(2).transpose(1, 2), tuple(y.shape[2:])
        return y, _grid(y.shape[1], tuple(x.shape[2:]))


def _grid(tokens: int, size: Sequence[int]) -> tuple[int, ...]:
    """The finest grid of square patches that `tokens` can hold, after tokens of another kind such as CLS."""
    grids = [tuple(side // patch for side in size) for patch in range(2, min(size) + 1)]
    return next((grid for grid in grids if torch.Size(grid).numel() <= tokens < 2 * torch.Size(grid).numel()), ())


# What is needed to build these without a network and without weights: transformers' own defaults and what differs.
OFFLINE: Mapping[str, tuple[str, dict[str, Any]]] = {
    "google/vit-base-patch16-224-in21k": ("vit", {}),
    "google/vit-base-patch16-224": ("vit", {}),
    "facebook/dinov2-base": ("dinov2", {"image_size": 518, "patch_size": 14}),
    "facebook/convnext-tiny-224": ("convnext", {}),
    "microsoft/swin-tiny-patch4-window7-224": ("swin", {}),
}


def hugging_face(name: str, spec: EncoderSpec) -> nn.Module:
    """A `transformers` vision encoder by name or folder, with its pretrained weights or fresh from its config.

    Raises UserError, with the offline options, where the weights or the config cannot be had.
    """
    from transformers import AutoModel

    if spec.pretrained:
        try:
            model = AutoModel.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise UserError(
                f"model.encoder: weights of {name!r} cannot be had ({type(error).__name__}). Offline: download the "
                "model elsewhere and give its folder, hf:FOLDER; or set model.encoder.pretrained=false to train it "
                "from scratch; or use our own encoder, model.encoder.image=vit"
            ) from None
    else:
        model = AutoModel.from_config(_hub_config(name, spec))
    return Wrapped(_Named(model), spec, model.config.num_channels)


def _hub_config(name: str, spec: EncoderSpec) -> Any:
    from transformers import AutoConfig

    numbers = {"num_channels": spec.channels, "image_size": spec.size[-1]}
    if name in OFFLINE:
        kind, options = OFFLINE[name]
        return AutoConfig.for_model(kind, **{**options, **numbers})
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError):
        raise UserError(
            f"model.encoder: the config of {name!r} cannot be had. Offline: give a folder that holds its "
            f"config.json, hf:FOLDER, or one of {', '.join('hf:' + known for known in OFFLINE)}"
        ) from None
    config.update(numbers)
    return config


class _Named(nn.Module):
    """Calls a `transformers` model the way its forward wants: pixel values by name, positions to fit the picture."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        import inspect

        self.model = model
        self.options = {"interpolate_pos_encoding": True}
        if "interpolate_pos_encoding" not in inspect.signature(model.forward).parameters:
            self.options = {}

    def forward(self, x: Tensor) -> Tensor:
        return self.model(pixel_values=x, **self.options).last_hidden_state


STAGES = (2, 2, 2)  # layers between halvings, of the networks below: a token is 16 x 16 pixels


def densenet(spec: EncoderSpec) -> nn.Module:
    """MONAI's DenseNet (Huang 2017) for pictures or volumes, small, untrained; all but its classifier."""
    from monai.networks.nets import DenseNet

    sizes = {"init_features": spec.width // 2, "growth_rate": spec.width // 4, "block_config": STAGES}
    return Wrapped(DenseNet(len(spec.size), spec.channels, 1, **sizes).features, spec, spec.channels)


def convnext(spec: EncoderSpec) -> nn.Module:
    """Hugging Face's ConvNeXt (Liu 2022), small, from its config, untrained."""
    from transformers import ConvNextConfig, ConvNextModel

    sizes = {"hidden_sizes": [spec.width >> 2, spec.width >> 1, spec.width], "depths": STAGES}
    # From its usual scale of 1e-6, blocks need more steps than a small study has to come alive.
    how = {"patch_size": 4, "num_stages": len(STAGES), "layer_scale_init_value": 0.1}
    model = ConvNextModel(ConvNextConfig(num_channels=spec.channels, **sizes, **how))
    model.layernorm = nn.Identity()  # it reads the mean of all tokens, which we do not
    return Wrapped(_Named(model), spec, spec.channels)


ENCODERS: Mapping[str, Callable[[EncoderSpec], nn.Module]] = {
    "vit": ConvViT,
    "vit3d": ConvViT,
    "variables": Variables,
    "densenet": densenet,
    "hf_convnext": convnext,
}


def make_encoder(name: str, spec: EncoderSpec) -> nn.Module:
    """The encoder called `name`: a row of ENCODERS, `hf:NAME`, or `pkg.mod:function` (given the spec)."""
    if name.startswith("hf:"):
        return hugging_face(name.removeprefix("hf:"), spec)
    if name in ENCODERS:
        return ENCODERS[name](spec)
    if ":" not in name:
        raise unknown("encoder", name, [*ENCODERS, "hf:NAME", "pkg.mod:function"])
    return Wrapped(_imported(name)(spec), spec, spec.channels)


def _imported(name: str) -> Callable[[EncoderSpec], nn.Module]:
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UserError(f"model.encoder: {name!r} cannot be imported: {error}") from None
