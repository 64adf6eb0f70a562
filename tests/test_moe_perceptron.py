"""One expert's kernel: equal to the plain composition, forward and gradient, in each precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from m4oe.moe import perceptron as module
from m4oe.moe.perceptron import affine, perceptron

R, D, HIDDEN = 6, 3, 5
ROUNDING = 2**-8  # of bfloat16


def parts(dtype: torch.dtype) -> list[Tensor]:
    """x, weight_in, bias_in, weight_out, bias_out."""
    torch.manual_seed(0)
    shapes = (R, D), (D, HIDDEN), (HIDDEN,), (HIDDEN, D), (D,)
    return [torch.randn(*shape).to(dtype).requires_grad_() for shape in shapes]


def written_out(x: Tensor, weight_in: Tensor, bias_in: Tensor, weight_out: Tensor, bias_out: Tensor) -> Tensor:
    return F.gelu(x @ weight_in + bias_in) @ weight_out + bias_out


def test_it_is_the_plain_composition_with_its_gradients() -> None:
    given = parts(torch.float64)
    ours, twin = perceptron(*given), written_out(*given)
    torch.testing.assert_close(ours, twin, rtol=0, atol=1e-12)
    direction = torch.randn_like(ours)
    for mine, theirs in zip(*(torch.autograd.grad((y * direction).sum(), given) for y in (ours, twin)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_without_gradients_it_says_the_same() -> None:
    given = parts(torch.float32)
    with torch.no_grad():
        plain = perceptron(*given)
    torch.testing.assert_close(plain, perceptron(*given).detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("fused", [True, False])
def test_under_autocast_it_is_that_of_bfloat16(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fused:
        monkeypatch.setattr(module, "FUSED", None)
    given = parts(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = perceptron(*given)
        with torch.no_grad():
            plain = perceptron(*given)
    assert y.dtype == plain.dtype == torch.bfloat16
    exact = written_out(*given)
    gradients = torch.autograd.grad(y.float().sum(), given)
    assert all(gradient.dtype == torch.float32 for gradient in gradients)
    for found, true in (y, exact), (plain, exact), *zip(gradients, torch.autograd.grad(exact.sum(), given)):
        assert (found - true).abs().max() < 8 * ROUNDING * true.abs().max()


@pytest.mark.parametrize("gelu", [True, False])
def test_the_fused_kernel_is_the_composition(gelu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if module.FUSED is None:
        pytest.skip("this build of torch has no fused linear kernel")
    x, weight, bias, *_ = (part.detach() for part in parts(torch.bfloat16))
    fused = affine(x, weight, bias, gelu=gelu)
    monkeypatch.setattr(module, "FUSED", None)
    plain = affine(x, weight, bias, gelu=gelu)
    assert (fused - plain).abs().max() <= 4 * ROUNDING * plain.abs().max()
