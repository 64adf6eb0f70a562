"""device.py: what is asked for is given or refused, never quietly replaced."""

from __future__ import annotations

import getpass
import json
import platform
import subprocess
import sys

import pytest
import torch

from m4oe import device
from m4oe.errors import UserError

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


def have(monkeypatch, *names):
    monkeypatch.setattr(device, "_PRESENT", {name: lambda name=name: name in names for name in device._PRESENT})


def have_capability(monkeypatch, major):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (major, 0))


def have_cpu(monkeypatch, fast):
    monkeypatch.setattr(device, "_cpu_probes", lambda: [lambda: False, lambda: fast])
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)


@pytest.mark.parametrize(
    ("present", "asked", "given"),
    [
        (("cpu",), "auto", CPU),
        (("cpu", "mps"), "auto", MPS),
        (("cpu", "cuda"), "auto", CUDA),
        (("cpu", "cuda"), "cpu", CPU),
        (("cpu", "cuda"), "cuda", CUDA),
    ],
)
def test_auto_is_the_fastest_present_and_a_name_is_itself(monkeypatch, present, asked, given):
    have(monkeypatch, *present)
    assert device.resolve_device(asked) == given


def test_an_absent_device_is_refused_with_what_there_is(monkeypatch):
    have(monkeypatch, "cpu", "mps")
    with pytest.raises(UserError, match=r"'cuda' is not available here; use 'auto', or one of: mps, cpu"):
        device.resolve_device("cuda")


def test_a_misspelt_device_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"unknown device 'cudda': did you mean 'cuda'\? known: auto, cpu, cuda, mps"):
        device.resolve_device("cudda")


@pytest.mark.parametrize(
    ("where", "capability", "wish", "precision"),
    [
        (CPU, None, "auto", "32"),
        (CPU, None, "32", "32"),
        (MPS, None, "auto", "32"),
        (CUDA, 7, "auto", "32"),  # a V100 or T4 emulates bfloat16
        (CUDA, 8, "auto", "bf16-mixed"),
        (CUDA, 9, "bf16", "bf16-mixed"),
        (CUDA, 9, "32", "32"),
    ],
)
def test_bfloat16_only_where_it_is_fast(monkeypatch, where, capability, wish, precision):
    have_capability(monkeypatch, capability)
    have_cpu(monkeypatch, fast=True)
    assert device.precision_for(where, wish) == precision


@pytest.mark.parametrize(("where", "capability"), [(CPU, None), (MPS, None), (CUDA, 7)])
def test_bfloat16_by_name_is_refused_where_it_is_slow(monkeypatch, where, capability):
    have_capability(monkeypatch, capability)
    have_cpu(monkeypatch, fast=False)
    with pytest.raises(UserError, match="use 'auto' or '32'"):
        device.precision_for(where, "bf16")


@pytest.mark.parametrize(
    ("fast", "wish", "large_products", "precision"),
    [
        (True, "auto", True, "bf16-mixed"),
        (True, "auto", False, "32"),  # small products: what has always been computed stays as it is
        (True, "bf16", False, "bf16-mixed"),
        (True, "32", True, "32"),
        (False, "auto", True, "32"),
    ],
)
def test_a_cpu_takes_bfloat16_where_it_is_fast_and_worthwhile(monkeypatch, fast, wish, large_products, precision):
    have_cpu(monkeypatch, fast)
    assert device.precision_for(CPU, wish, large_products=large_products) == precision


def test_a_cpu_without_the_library_of_fast_products_has_no_fast_bfloat16(monkeypatch):
    have_cpu(monkeypatch, fast=True)
    assert device.has_fast_bf16(CPU)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not device.has_fast_bf16(CPU)


def test_this_cpu_answers_and_a_release_without_the_question_says_no(monkeypatch):
    assert isinstance(device.has_fast_bf16(CPU), bool)
    assert len(device._cpu_probes()) == 2
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name)
    assert not device.has_fast_bf16(CPU)


def test_the_description_is_json_and_names_no_host_and_no_person():
    text = json.dumps(device.describe())
    assert torch.__version__ in text and platform.python_version() in text
    assert f'"{platform.node()}"' not in text
    assert f'"{getpass.getuser()}"' not in text


@pytest.mark.gpu
def test_a_real_accelerator_computes_in_what_it_was_given():
    where = device.resolve_device("cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=device.precision_for(where, "auto") == "bf16-mixed"):
        product = torch.eye(8, device=where) @ torch.eye(8, device=where)
    assert product.is_cuda
    assert torch.equal(product.float().cpu(), torch.eye(8))


FAULTS = """
import resource, sys, torch
from m4oe.device import keep_memory

def work(times):
    for _ in range(times):
        torch.ones(2**24)

assert "keep" not in sys.argv or keep_memory()
work(20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work(5)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_that_is_kept_is_not_fetched_anew():
    """Five times 64 MiB are 81,920 pages of 4 KiB, or 160 of 2 MiB."""

    def faults(*how):
        return int(subprocess.run([sys.executable, "-c", FAULTS, *how], check=True, capture_output=True).stdout)

    assert faults("keep") < faults() / 10


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(device.ctypes, "CDLL", lambda name: pytest.fail("asked a library"))
    assert not device.keep_memory()
