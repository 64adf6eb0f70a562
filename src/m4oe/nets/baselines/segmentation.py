"""Networks of others in the place of the Swin-UNet within a Segmenter: the same slices, label sets, head and loss.

`width` scales each: at 64 the smallest size that its authors give, or nearly so, at 128 their usual one. All start
untrained but SAM-Med2D. All see slices (neighbours as channels, where the plan has them), also those made for volumes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from m4oe.errors import UserError, unknown
from m4oe.nets.baselines.pixelwise import Pixelwise, SeparateSegmenter, SharedEncoder
from m4oe.nets.baselines.residual import DilatedResNet, ResidualUNet
from m4oe.nets.baselines.sam import WEIGHTS, SamMed2D, load_sam
from m4oe.nets.segmenter import Segmenter, SliceStream
from m4oe.nets.swin_weights import Report, read_dense

OURS = "swin_unet"


@dataclass(frozen=True)
class SliceShape:
    """What a network must know: channels of the pictures, the width that scales it, and the tasks in order."""

    channels: tuple[int, ...]
    width: int
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class SegmentationBaseline:
    """A row of SEGMENTERS.

    title, paper, differs: for tables and docs · make: the network · load: how it takes weights of others, where it
    does; `weights` then says which, and it does not start without · kind: the segmenter around it.
    """

    title: str
    paper: str
    differs: str
    make: Callable[[SliceShape], nn.Module]
    load: Callable[..., Report] | None = None
    weights: str = ""
    kind: type[Segmenter] = Segmenter

    def build(
        self,
        width: int,
        streams: Sequence[SliceStream],
        outputs: Mapping[str, Sequence[Sequence[int]]],
        prior: Sequence[float],
    ) -> Segmenter:
        """The segmenter; arguments as of Segmenter."""
        channels = tuple(sorted({stream.channels for stream in streams}))
        return self.kind(self.make(SliceShape(channels, width, tuple(outputs))), streams, outputs, prior)


def _unet(shape: SliceShape) -> nn.Module:
    from monai.networks.nets import UNet

    counts, features = _counts(shape.width, 5), max(8, shape.width // 4)

    def make(channels: int) -> nn.Module:
        return UNet(2, channels, features, counts, (2, 2, 2, 2), num_res_units=2)

    return Pixelwise(make, shape.channels, features, 16)


def _swin_unetr(shape: SliceShape) -> nn.Module:
    from monai.networks.nets import SwinUNETR

    features = 12 * max(1, round(shape.width / 32))

    def make(channels: int) -> nn.Module:
        return SwinUNETR(channels, features, feature_size=features, spatial_dims=2)

    return Pixelwise(make, shape.channels, features, 32)


def _stu_net(shape: SliceShape) -> nn.Module:
    counts = _stu_counts(shape.width)
    return Pixelwise(lambda channels: ResidualUNet(channels, counts, _depth(shape)), shape.channels, counts[0], 32)


def _med3d(shape: SliceShape) -> nn.Module:
    features = max(16, shape.width // 2)
    depth = 1 if shape.width <= 64 else 2
    return Pixelwise(lambda channels: DilatedResNet(channels, 64, depth, features), shape.channels, features, 8)


def _separate_decoders(shape: SliceShape) -> nn.Module:
    return SharedEncoder(shape.channels, _stu_counts(shape.width), _depth(shape), shape.tasks)


def _sam_med2d(shape: SliceShape) -> nn.Module:
    return SamMed2D(shape.channels)


def _counts(width: int, stages: int) -> list[int]:
    """Feature maps of each resolution: a quarter of the width at the finest, doubled at each halving."""
    return [max(8, width // 4) << stage for stage in range(stages)]


def _stu_counts(width: int) -> list[int]:
    counts = _counts(width, 5)
    return [*counts, counts[-1]]


def _depth(shape: SliceShape) -> int:
    """Blocks of a stage: they grow with the width, 1, 1, 2, 3 at widths 64, 128, 256, 384 (STU-Net S, B, L, H)."""
    return max(1, shape.width // 128)


SEGMENTERS: Mapping[str, SegmentationBaseline] = {
    "unet": SegmentationBaseline(
        "U-Net (MONAI)",
        "Ronneberger 2015; Kerfoot 2018",
        "MONAI's residual units; its last layer gives features, of which one linear map for all label sets makes "
        "logits; no deep supervision",
        _unet,
    ),
    "swin_unetr": SegmentationBaseline(
        "SwinUNETR (MONAI)",
        "Hatamizadeh 2022",
        "two dimensions; from scratch, without its self-supervised weights; features of 24 instead of 48 at width 64",
        _swin_unetr,
    ),
    "stu_net": SegmentationBaseline(
        "STU-Net-style scalable U-Net",
        "Huang 2023",
        "two dimensions; from scratch, without its weights of TotalSegmentator; no deep supervision; our plan and "
        "training instead of nnU-Net's",
        _stu_net,
    ),
    "med3d": SegmentationBaseline(
        "MED3D-style ResNet",
        "Chen 2019",
        "slices instead of volumes; from scratch, its weights being of three dimensions; normalised by picture instead "
        "of by batch; ResNet-10 up to width 64, above it ResNet-18",
        _med3d,
    ),
    "separate_decoders": SegmentationBaseline(
        "Shared encoder, a decoder for each label set",
        "Chen 2019 (the several heads of Med3D); residual blocks as in stu_net",
        "needs labels=heads: a decoder knows the classes of its own label set alone",
        _separate_decoders,
        kind=SeparateSegmenter,
    ),
    "sam_med2d": SegmentationBaseline(
        "SAM-Med2D, encoder with adapters",
        "Cheng 2023",
        "a small convolutional decoder learns the classes, in the place of prompts and mask decoder; slices are "
        "brought to 256 x 256; the transformer is frozen, adapters learn on, as published",
        _sam_med2d,
        load=load_sam,
        weights=WEIGHTS,
    ),
}


def baseline_of(name: str) -> SegmentationBaseline:
    """The row. Raises UserError for a name that is none."""
    if name not in SEGMENTERS:
        raise unknown("model.segmenter.network", name, [OURS, *SEGMENTERS])
    return SEGMENTERS[name]


def start_baseline(name: str, network: Segmenter, start: str | None) -> Report | None:
    """Loads what `start` names into a network that takes weights of others; None where it takes none.

    Raises UserError where weights are named and cannot be taken, or are needed and not named.
    """
    row = baseline_of(name)
    if row.load is None:
        if start is not None:
            raise UserError(f"model.segmenter.start: {name} starts untrained; leave 'start' away")
        return None
    if start is None:
        raise UserError(f"model.segmenter.network={name} does not start untrained: needed is {row.weights}")
    state: Mapping[str, Tensor] = read_dense(start)
    return row.load(network.network, state)
