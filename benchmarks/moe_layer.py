"""MToE at the paper's size against naive loops: time, peak memory, and share of what the machine can do.

    python benchmarks/moe_layer.py            prints a Markdown table; Linux; takes minutes and about 8 GB of memory

Three variants of the same function with the same weights: *ours*; *loop over experts*, ours but for one small module
an expert (as the released code runs them); *naive twin*, loops over exams, tasks and experts (tests/twins.py, the
specification that the tests hold ours to). Every pass of a variant runs in a process of its own, in turn, which tells
its time and its largest resident set; times are medians of the repeats. The twin, which takes minutes, runs once.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import twins
from m4oe.batch import Batch, Routing, Rows, Tokens
from m4oe.config import load_config
from m4oe.moe import MSoE, MToE
from m4oe.nets.build import build_model
from m4oe.schema import Schema, Stream, TaskSpec
from m4oe.train.objective import Objective

BATCH, TOKENS, MODALITIES, WIDTH, HIDDEN, EXPERTS, TASKS = 8, 788, 4, 768, 3072, 128, 3
THREADS = 2

Step = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("VARIANT", "PASS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    if options.one:
        print(*_time_and_memory(*options.one))
    else:
        layer_table(options.repeats)
        step_table(options.repeats)


def layer_table(repeats: int) -> None:
    """Print the table of the layer alone."""
    products, reads = product_peak(), read_peak()
    print(f"On {THREADS} threads, products reach {products / 1e9:.0f} GFLOP/s and reads {reads / 1e9:.1f} GB/s.\n")
    print("| pass | variant | seconds | time / ours | peak memory, GB | share of product peak | share of read peak |")
    print("|---|---|---|---|---|---|---|")
    for name in PASSES:
        flops, moved = work(name)
        found = alone(name, repeats)
        for variant, (time, memory) in found.items():
            cells = f"{time:.2f} | {time / found['ours'][0]:.1f} | {memory:.1f}"
            print(f"| {name} | {variant} | {cells} | {flops / time / products:.0%} | {moved / time / reads:.0%} |")


def step_table(repeats: int) -> None:
    """Print the table of a full training step of the default network, four pictures and variables, against the same
    network whose mixtures are naive loops."""
    steps = {"ours": training_step(naive=False), "naive twin": training_step(naive=True)}
    seconds = interleaved(steps, repeats)
    print("\n| training step, 16 exams | seconds | time / ours |\n|---|---|---|")
    for name, time in seconds.items():
        print(f"| {name} | {time:.2f} | {time / seconds['ours']:.1f} |")


def training_step(naive: bool) -> Step:
    torch.manual_seed(0)
    network, batch = build_model(load_config().model, SCREENING), screening_batch()
    if naive:
        network.shared = NaiveMToE(network.shared)
        for path in network.specific:
            path.mixtures = torch.nn.ModuleList(NaiveMSoE(mixture) for mixture in path.mixtures)
    objective, optimiser = Objective(SCREENING.tasks), torch.optim.AdamW(network.parameters())

    def run() -> None:
        optimiser.zero_grad()
        objective(network(batch), batch).total.backward()
        optimiser.step()

    return run


class NaiveMSoE(torch.nn.Module):
    def __init__(self, layer: MSoE) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, present: Tensor) -> tuple[Tensor, Routing]:
        y = twins.msoe(self.layer, x, present)
        return y, Routing(None, y)


class NaiveMToE(torch.nn.Module):
    def __init__(self, layer: MToE) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, tokens: Tokens, num_modalities: int) -> tuple[Tensor, Routing]:
        y = twins.mtoe(self.layer, tokens)
        return y, Routing(None, y)


def _picture(name: str, modality: str) -> Stream:
    return Stream(name=name, input=name, modality=modality, kind="mammogram", form="image", channels=1, size=(64, 64))


SCREENING = Schema(
    streams=(
        *(_picture(f"ffdm_{view}", "ffdm") for view in ("cc", "mlo")),
        *(_picture(f"syn_{view}", "synthetic2d") for view in ("cc", "mlo")),
        Stream(name="age", input="age", modality="clinical", kind="table", form="vector", channels=2),
    ),
    tasks=tuple(TaskSpec(name=name, kind="binary", classes=("0", "1"), prior=(0.5,), weights=(1, 1)) for name in "abc"),
)


def screening_batch(size: int = 16) -> Batch:
    everyone = torch.arange(size)
    inputs = {s.name: Rows(torch.randn(size, s.channels, *s.size), everyone) for s in SCREENING.streams}
    return Batch(("exam",) * size, inputs, {task.name: Rows(everyone % 2, everyone) for task in SCREENING.tasks})


def fresh() -> tuple[MToE, Tokens]:
    torch.manual_seed(0)
    modality = torch.arange(TOKENS) * MODALITIES // TOKENS
    x = torch.randn(BATCH, TOKENS, WIDTH, requires_grad=True)
    return MToE(WIDTH, EXPERTS, TASKS, HIDDEN), Tokens(x, modality, modality, torch.ones(BATCH, TOKENS).bool())


@cache
def stacked() -> tuple[MToE, Tokens]:
    return fresh()


@cache
def looped() -> tuple[MToE, Tokens]:
    """The same layer with its experts as separate modules, which both loops share."""
    layer, tokens = fresh()
    layer.experts = twins.ExpertsInALoop(layer.experts)
    return layer, tokens


VARIANTS = {
    "ours": (stacked, lambda layer, tokens: layer(tokens, MODALITIES)[0]),
    "loop over experts": (looped, lambda layer, tokens: layer(tokens, MODALITIES)[0]),
    "naive twin": (looped, lambda layer, tokens: twins.mtoe(layer, tokens, layer.experts.experts)),
}
PASSES = ("forward", "forward + backward")
TWIN = "naive twin"


def step(variant: str, name: str) -> Step:
    """One pass of a variant, with its weights made ready."""
    build, forward = VARIANTS[variant]
    layer, tokens = build()
    return partial(_forward if name == "forward" else _forward_backward, forward, layer, tokens)


def _forward(forward: Callable[[MToE, Tokens], Tensor], layer: MToE, tokens: Tokens) -> None:
    with torch.no_grad():
        forward(layer, tokens)


def _forward_backward(forward: Callable[[MToE, Tokens], Tensor], layer: MToE, tokens: Tokens) -> None:
    forward(layer, tokens).square().mean().backward()
    layer.zero_grad(set_to_none=True)
    tokens.x.grad = None


def work(name: str) -> tuple[float, float]:
    """Floating-point operations of a pass (products only) and bytes of expert weights that it must move at least."""
    slots = EXPERTS * TASKS
    routing = 3 * 2 * BATCH * TOKENS * slots * WIDTH  # logits, dispatch, combine
    experts = 2 * 2 * BATCH * slots * WIDTH * HIDDEN
    weights = 4 * 2 * EXPERTS * WIDTH * HIDDEN
    passes = 1 if name == "forward" else 3  # backward: each product twice more; weights read again, gradients written
    return passes * (routing + experts), passes * weights


def interleaved(steps: Mapping[str, Step], repeats: int) -> dict[str, float]:
    """Median seconds of each step, all run in turn `repeats` times after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats + 1):
        for name, run in steps.items():
            times[name].append(timed(run))
    return {name: median(values[1:]) for name, values in times.items()}


def timed(run: Step) -> float:
    start = perf_counter()
    run()
    return perf_counter() - start


def product_peak(size: int = 2048) -> float:
    """Best FLOP/s of a large float32 matrix product."""
    a, b, out = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
    return 2 * size**3 / min(timed(lambda: torch.mm(a, b, out=out)) for _ in range(8))


def read_peak(size: int = 2**27) -> float:
    """Best bytes/s of a read of half a gigabyte (a sum)."""
    a = torch.ones(size)
    return 4 * size / min(timed(a.sum) for _ in range(8))


def alone(name: str, repeats: int) -> dict[str, tuple[float, float]]:
    """{variant: (median seconds, GB)} of a pass, each in processes of its own, in turn."""
    runs: dict[str, list[list[float]]] = {variant: [] for variant in VARIANTS}
    for number in range(repeats):
        for variant in VARIANTS:
            if number == 0 or variant != TWIN:
                runs[variant].append([float(text) for text in _output("--one", variant, name).split()])
    return {variant: (median(r[0] for r in found), max(r[1] for r in found)) for variant, found in runs.items()}


def _time_and_memory(variant: str, name: str) -> tuple[float, float]:
    """Seconds of a pass and GB resident at most, building the layer and a first pass left out (Linux only)."""
    run = step(variant, name)
    if variant != TWIN:
        run()
    Path("/proc/self/clear_refs").write_text("5")  # forget the high-water mark reached while building
    seconds = timed(run)
    status = Path("/proc/self/status").read_text()
    return seconds, int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9


def _output(*arguments: str) -> str:
    return subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
