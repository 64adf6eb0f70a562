"""The segmenter at the paper's size against its naive twin: time, peak memory, share of what the machine can do.

    python benchmarks/segmenter.py [--repeats 5]      prints Markdown tables; Linux; takes minutes and about 20 GB

Preset `paper` with three experts in both halves and heads of 14, 3 and 16 classes, 224 px, batches of 8 slices of
three modalities. Ours, in bfloat16 where the processor is fast at it, with hard routing, a top-1 gate and the dense
gate; the twin (tests/twin_segmenter.py) in float32 with all experts in a list. A training step is forward, loss,
backward and AdamW; ours with its own loss, the fused AdamW it trains by and the memory that `m4oe train` keeps
(m4oe.device.keep_memory), the twin with a loss of the library's parts and torch's defaults; a second twin keeps memory,
too. Each variant has a process of its own, and they take turns. Times are medians, by the clock and of the processor,
which counts all threads and is the steadier where others use the machine; memory is the largest resident set of one
more process, weights included.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import accumulate
from math import prod
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from m4oe.batch import Batch, Prediction, Rows
from m4oe.config import load_config
from m4oe.device import has_fast_bf16, keep_memory
from m4oe.moe.forms import lay_out
from m4oe.moe.perceptron import FUSED
from m4oe.nets.build import build_model
from m4oe.schema import Schema, Stream, TaskSpec
from m4oe.settings import Phase
from m4oe.train.objective import Objective
from twin_segmenter import NaiveSegmenter
from twins import segmentation_loss

CLASSES = {"ct": 14, "contrast_mr": 3, "mr": 16}
SLICES = {"ct": 3, "contrast_mr": 3, "mr": 2}
SIZE = (224, 224)
THREADS = 2
WARM = 4  # rounds in which products are planned, of a gate anew for each number of tokens that it gives an expert
BF16 = has_fast_bf16(torch.device("cpu"))

Step = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--serve", nargs=2, metavar=("VARIANT", "PASS"), help=argparse.SUPPRESS)
    parser.add_argument("--memory", nargs=2, metavar=("VARIANT", "PASS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    if options.serve:
        serve(started(*options.serve))
        return
    if options.memory:
        print(_memory(started(*options.memory)))
        return
    cost_table(options.repeats)
    for name in PASSES:
        profile_table(name)


def cost_table(repeats: int) -> None:
    """Print time, memory and share of peak of each variant and pass."""
    peaks = {dtype: product_peak(dtype) for dtype in {torch.float32, PRECISION}}
    told = ", ".join(f"{str(dtype).removeprefix('torch.')} {peak / 1e9:.0f}" for dtype, peak in peaks.items())
    parameters = sum(parameter.numel() for parameter in VARIANTS["dense gate"]().parameters())
    print(f"{parameters / 1e6:.1f} M parameters. On {THREADS} threads, products reach, in GFLOP/s: {told}.\n")
    columns = "seconds | twin's / this | processor seconds | twin's / this | memory, GB | GFLOP | share of peak"
    print(f"| pass | variant | {columns} |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, steps in PASSES.items():
        seconds = interleaved(name, repeats)
        for variant, (clock, processor) in seconds.items():
            memory = float(_output("--memory", variant, name))
            flops = _flops(steps(VARIANTS[variant]()))
            share = flops / clock / peaks[torch.float32 if variant in TWINS else PRECISION]
            faster = [theirs / ours for theirs, ours in zip(seconds[TWIN], (clock, processor))]
            cells = f"{clock:.2f} | {faster[0]:.1f} | {processor:.2f} | {faster[1]:.1f} | {memory:.1f}"
            print(f"| {name} | {variant} | {cells} | {flops / 1e9:.0f} | {share:.0%} |", flush=True)


def segmenter(routing: str, **gate: object) -> nn.Module:
    """Of the same weights whatever the routing, but for the gates'."""
    torch.manual_seed(0)
    given = [f"model.segmenter.gate.{key}={value}" for key, value in gate.items()]
    config = load_config(overrides=["model.preset=paper", *given]).for_tasks({"segmentation"})
    return build_model(config.model, SCHEMA, Phase(routing=routing))


def twin() -> nn.Module:
    return Twin(segmenter("gate"))


class Twin(nn.Module):
    """The naive twin, with logits given to each task as the segmenter does."""

    def __init__(self, segmenter: nn.Module) -> None:
        super().__init__()
        self.network = NaiveSegmenter(segmenter)

    def forward(self, batch: Batch) -> Prediction:
        logits = self.network(torch.cat([batch.inputs[name].values for name in CLASSES]))
        by_stream = logits.split(list(SLICES.values()))
        ends = list(accumulate(CLASSES.values()))
        parts = zip(CLASSES, by_stream, [0, *ends], ends)
        return Prediction({n: Rows(rows[:, a:b], batch.inputs[n].index) for n, rows, a, b in parts})


def inference(network: nn.Module) -> Step:
    network.eval()
    if not isinstance(network, Twin):
        lay_out(network)
    batch = a_batch()

    def run() -> Prediction:
        with torch.no_grad(), _autocast(network):
            return network(batch)

    return run


def training(network: nn.Module) -> Step:
    network.train()
    naive = isinstance(network, Twin)
    batch, objective = a_batch(), Objective(SCHEMA.tasks, balance_weight=0.01)
    optimiser = torch.optim.AdamW(network.parameters(), fused=None if naive else True)

    def run() -> Tensor:
        optimiser.zero_grad()
        with _autocast(network):
            prediction = network(batch)
            loss = naive_loss(prediction, batch) if naive else objective(prediction, batch).total
        loss.backward()
        optimiser.step()
        return loss.detach()

    return run


def naive_loss(prediction: Prediction, batch: Batch) -> Tensor:
    return sum(
        segmentation_loss(task, prediction.logits[task.name].values, batch.targets[task.name].values).mean()
        for task in SCHEMA.tasks
    )


PRECISION = torch.bfloat16 if BF16 else torch.float32
TWIN, KEEPING_TWIN = TWINS = ("naive twin", "naive twin, memory kept")
VARIANTS: Mapping[str, Callable[[], nn.Module]] = {
    "hard routing": partial(segmenter, "modality"),
    "top-1 gate": partial(segmenter, "gate", top_k=1),
    "dense gate": partial(segmenter, "gate"),
    TWIN: twin,
    KEEPING_TWIN: twin,
}
PASSES: Mapping[str, Callable[[nn.Module], Step]] = {"inference": inference, "training step": training}


def _autocast(network: nn.Module) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=BF16 and not isinstance(network, Twin))


def _stream(name: str) -> Stream:
    return Stream(name=name, input=name, modality=name, kind="mr", form="slices", channels=1, size=SIZE)


def _task(name: str, count: int) -> TaskSpec:
    classes = tuple(f"{name} {number}" for number in range(count))
    share = 1 / count
    return TaskSpec(
        name=name, kind="segmentation", on=name, classes=classes, prior=(share,) * count, weights=(1.0,) * count
    )


SCHEMA = Schema(
    streams=tuple(_stream(name) for name in CLASSES),
    tasks=tuple(_task(name, count) for name, count in CLASSES.items()),
)


def a_batch() -> Batch:
    """Noise, with masks of noise, of all three modalities."""
    torch.manual_seed(1)
    places = dict(zip(SLICES, torch.arange(sum(SLICES.values())).split(list(SLICES.values()))))
    inputs = {name: Rows(torch.randn(len(index), 1, *SIZE), index) for name, index in places.items()}
    targets = {name: Rows(torch.randint(CLASSES[name], (len(i), *SIZE)), i) for name, i in places.items()}
    return Batch(tuple(f"exam/{number}" for number in range(8)), inputs, targets)


def interleaved(name: str, repeats: int) -> dict[str, tuple[float, ...]]:
    """Median seconds of a step of the pass by the clock and of the processor, of each variant: all take turns `repeats`
    times after WARM rounds that do not count."""
    times: dict[str, list[tuple[float, ...]]] = {variant: [] for variant in VARIANTS}
    with ExitStack() as open_processes:
        servers = {variant: open_processes.enter_context(_server(variant, name)) for variant in VARIANTS}
        for _ in range(WARM + repeats):
            for variant, server in servers.items():
                times[variant].append(_asked(server))
    return {variant: tuple(map(median, zip(*values[WARM:]))) for variant, values in times.items()}


def _server(variant: str, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--serve", variant, name]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _asked(server: subprocess.Popen[str]) -> tuple[float, ...]:
    """Seconds of one step of another process. Raises SystemExit where it has ended."""
    assert server.stdin is not None and server.stdout is not None
    if server.poll() is not None:
        raise SystemExit("a process that measures has ended; was there enough memory?")
    server.stdin.write("\n")
    server.stdin.flush()
    return tuple(map(float, server.stdout.readline().split()))


def serve(run: Step) -> None:
    """A step for each line of input; prints its seconds."""
    for _ in sys.stdin:
        print(*timed(run), flush=True)


def started(variant: str, name: str) -> Step:
    """A pass of a variant, in a process that keeps memory where `m4oe train` would, and where a twin is to."""
    if variant == KEEPING_TWIN or (variant != TWIN and name == "training step"):
        keep_memory()
    return PASSES[name](VARIANTS[variant]())


def timed(run: Step) -> tuple[float, float]:
    clock, processor = perf_counter(), process_time()
    run()
    return perf_counter() - clock, process_time() - processor


def product_peak(dtype: torch.dtype, size: int = 2048) -> float:
    """Best FLOP/s of a large matrix product."""
    a, b = torch.randn(2, size, size).to(dtype)
    out = torch.empty_like(a)
    return 2 * size**3 / min(timed(lambda: torch.mm(a, b, out=out))[0] for _ in range(10))


def _flops(run: Step) -> int:
    """Floating-point operations of the products of a step, those of the fused kernel included."""
    fused = {} if FUSED is None else {FUSED: _flops_of_linear}
    with FlopCounterMode(display=False, custom_mapping=fused) as counter:
        run()
    return counter.get_total_flops()


def _flops_of_linear(x: Sequence[int], weight: Sequence[int], *rest: object, **how: object) -> int:
    return 2 * prod(x) * weight[0]


def _memory(run: Step) -> float:
    """GB resident at most in the second of two steps (Linux only)."""
    run()
    Path("/proc/self/clear_refs").write_text("5")  # forget the high-water mark reached while building
    run()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9


KINDS: Mapping[str, tuple[str, ...]] = {
    "matrix products, with GELU where fused": ("mm", "addmm", "bmm", "baddbmm", "convolution", "mkldnn"),
    "attention": ("scaled_dot_product", "softmax"),
    "LayerNorm": ("layer_norm",),
    "GELU": ("gelu",),
    "layout and precision (copies)": ("copy_", "cat", "index", "fill_", "clone", "gather", "scatter"),
    "optimiser": ("adam", "lerp", "addcdiv", "sqrt"),
    "sums and other elementwise": ("",),
}


def profile_table(name: str) -> None:
    """Print where the time of a pass with hard routing goes, by kind of operation."""
    run = started("hard routing", name)
    run()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        run()
    spent = dict.fromkeys(KINDS, 0.0)
    for event in found.key_averages():
        spent[_kind(event.key)] += event.self_cpu_time_total
    print(f"\n| {name}, hard routing | share of time |\n|---|---|")
    for kind, time in spent.items():
        print(f"| {kind} | {time / sum(spent.values()):.0%} |")


def _kind(operation: str) -> str:
    bare = operation.lower().removeprefix("aten::").lstrip("_")
    return next(
        kind for kind, parts in KINDS.items() if any(bare.startswith(part) or f"_{part}" in bare for part in parts)
    )


def _output(*arguments: str) -> str:
    return subprocess.run([sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
