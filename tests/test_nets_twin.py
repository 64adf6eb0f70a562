"""The segmenter equals its naive twin, forward and backward, and in bfloat16 marks the same pixels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from m4oe.batch import Batch, Rows
from m4oe.moe import ExpertFFN, Experts, GateRouter
from m4oe.nets.segmenter import Segmenter, SliceStream
from m4oe.nets.swin_unet import SwinSpec, SwinUNet
from twin_segmenter import NaiveSegmenter

SIDE, CLASSES = 32, 4  # 8 x 8 tokens in windows of 4, shifted in every second block; then 4 x 4 in one window


def an_ffn(width: int) -> nn.Module:
    return ExpertFFN(GateRouter(width, 3), Experts(3, width, 2 * width))


@pytest.fixture
def pair() -> tuple[Segmenter, NaiveSegmenter]:
    torch.manual_seed(0)
    network = SwinUNet(SwinSpec(16, (2, 2), (2, 4), window=4), [1], an_ffn, an_ffn)
    classes = [[number] for number in range(CLASSES)]
    segmenter = Segmenter(network, [SliceStream("mr", 0, 1, ("organs",))], {"organs": classes}, [0.25] * CLASSES)
    with torch.no_grad():
        for parameter in segmenter.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return segmenter, NaiveSegmenter(segmenter)


def pictures(count: int = 3) -> Tensor:
    return torch.randn(count, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def logits(segmenter: Segmenter, x: Tensor) -> Tensor:
    rows = Rows(x, torch.arange(len(x)))
    return segmenter(Batch(("exam",) * len(x), {"mr": rows})).logits["organs"].values


@pytest.mark.parametrize("learning", [True, False], ids=["learning", "predicting"])
def test_segmenter_equals_its_twin(pair, learning: bool) -> None:
    ours, theirs = pair
    with torch.set_grad_enabled(learning):
        torch.testing.assert_close(logits(ours, pictures()), theirs(pictures()), rtol=0, atol=2e-5)


def test_gradients_equal_the_twins(pair) -> None:
    ours, theirs = (part.double() for part in pair)
    x = pictures().double()
    direction = torch.randn(3, CLASSES, SIDE, SIDE, dtype=torch.float64)
    (logits(ours, x) * direction).sum().backward()
    (theirs(x) * direction).sum().backward()
    for number, block in enumerate(ours.network.encoder[0]):
        twin = theirs.encoder[0][number]
        pairs = [
            (block.attention.bias_table.grad, twin.bias_table.grad),
            (block.attention.qkv.weight.grad, twin.qkv.weight.grad),
            *((part.weight.grad, twin.gate[name].weight.grad) for name, part in block.ffn.router.gate.items()),
            (block.ffn.experts.weight_in.grad, torch.stack([expert[0].weight.grad.T for expert in twin.experts])),
        ]
        for a, b in pairs:
            assert b.abs().max() > 0
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_what_predicting_has_cached_serves_training() -> None:
    network = SwinUNet(SwinSpec(8, (2, 1), (1, 1), window=3), [1], an_ffn, an_ffn)
    x, modality = torch.randn(1, 1, 52, 44), torch.zeros(1, dtype=torch.int64)
    with torch.inference_mode():
        network([x], modality)
    network([x], modality)[0].x.square().sum().backward()
    assert network.encoder[0][0].attention.bias_table.grad.abs().max() > 0


def test_bfloat16_marks_the_same_pixels(pair) -> None:
    ours, _ = pair
    x = pictures(8)
    with torch.no_grad():
        full = logits(ours, x)
        with torch.autocast("cpu", torch.bfloat16):
            half = logits(ours, x)
    assert half.dtype == torch.bfloat16
    assert (half.argmax(1) == full.argmax(1)).float().mean() > 0.97
