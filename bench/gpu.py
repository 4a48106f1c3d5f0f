"""The loop over time on an NVIDIA GPU, beside torch's own layers (cuDNN) and its loop with and without CUDA graphs.

Input and state are equally wide, and the input needs no gradient. Before they are timed forward runs compare their
outputs, training steps the gradients of all parameters. The clock on the wall counts, between two moments at which the
device has nothing left to do.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

import tinyrnn as tr
from bench import scan
from bench.record import OURS, Benchmark, Factory, Goal, Result, Run, at_least, at_most

Size = tuple[int, int, int]  # T, B, H
Case = tuple[str, Size, str, bool]  # a cell of CELLS, its size, one of PRECISIONS, whether it is a training step
WIDTHS = (64, 128, 256, 512, 768, 1024, 1536, 2048)
SIZES: list[Size] = [(1024, rows, width) for width in WIDTHS for rows in (1, 16, 128)]
QUICK: list[Size] = [(256, 16, 768), (256, 1, 256), (256, 128, 1024)]
CELLS = {"lstm": 1, "gru-after": 1, "peephole": 1, "mut1": 2}
"""Rows of the scan suite's table, and how many products of a step, one behind the other, read what all units made."""
PRECISIONS = {"float32": ("fp32",), "tf32": ("tf32",), "bf16": ("bf16", "fp16")}
"""Ours, and what torch's layers run in beside it; its loop runs in the first."""
SAME = {"float32": 1e-4, "tf32": 1e-2, "bf16": 5e-2}
"""How far results may be apart. In 512 steps torch's loop in fp16 (whose mantissa is tf32's) and bf16 is up to 2e-3 and
1.4e-2 from float32, gradients more than outputs."""
STORED = {"float32": 4, "tf32": 4, "bf16": 2}  # bytes of a weight in the loop
LOOP, GRAPH, LSTM = "torch loop", "loop, graph", "our LSTM"
LIMITS = {False: 4.0e-3, True: 11e-3}  # forward, training step: bf16 at HEADLINE
HEADLINE = (1024, 16, 768)
HOPPER = "sm_90"


# -- what is measured --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Needs:
    """What a time step can not do without.

    flops      operations of all its products
    weights    bytes of those products' weights that are inside the loop
    passes     loops over time: 2 in a training step; each reads the weights
    exchanges  times that blocks of threads need each other's results
    """

    precision: str
    flops: float
    weights: int
    passes: int
    exchanges: int


@dataclass(frozen=True, kw_only=True)
class Step(Benchmark):
    """A benchmark with the needs of one of our time steps, which its figures are for."""

    needs: Needs


def benchmarks() -> list[Benchmark]:
    """Every record of this suite."""
    return _table(SIZES)


def quick() -> list[Benchmark]:
    """The records of a first impression: fewer sizes, shorter sequences."""
    return _table(QUICK)


def _table(sizes: Sequence[Size]) -> list[Benchmark]:
    cases = [
        (name, size, precision, train)
        for name in CELLS for precision in PRECISIONS for size in sizes for train in (False, True)
    ]  # fmt: skip
    beside = [_beside_lstm(*case) for case in cases if not scan.ROWS[case[0]].native]
    return [*(_beside_torch(*case) for case in cases), *beside]


def _beside_torch(name: str, size: Size, precision: str, train: bool, device: str = "cuda") -> Benchmark:
    case, row = (name, size, precision, train), scan.ROWS[name]

    def own() -> Run:
        from bench import gpu_peers

        if device == "cuda":
            gpu_peers.give_back()
        return gpu_peers.ours(row.cell, size, precision, train, device)

    def native(kind: str) -> Run:
        from bench import gpu_peers

        return gpu_peers.native(row.native, _parameters(name, size), size, kind, train, device)

    def loop(graph: bool) -> Run:
        from bench import gpu_peers

        kind = PRECISIONS[precision][0]
        return gpu_peers.loop(row.equations, _parameters(name, size), size, kind, train, device, graph)

    natives = PRECISIONS[precision] if row.native else ()
    against = {f"nn.{row.native} {kind}": partial(native, kind) for kind in natives}
    against |= {LOOP: partial(loop, False), GRAPH: partial(loop, True)}
    return _step(case, name, own, against, _goals(*case), SAME[precision], device)


def _beside_lstm(name: str, size: Size, precision: str, train: bool) -> Benchmark:
    """A cell and the LSTM of its size, both ours: what they compute is not the same."""

    def own() -> Run:
        from bench import gpu_peers

        gpu_peers.give_back()
        return gpu_peers.ours(scan.ROWS[name].cell, size, precision, train)

    def lstm() -> Run:
        from bench import gpu_peers

        return gpu_peers.ours(scan.ROWS["lstm"].cell, size, precision, train)

    case = name, size, precision, train
    return _step(case, f"{name}-cost", own, {LSTM: lstm}, [at_least(1 / 1.2, LSTM)], None)


def _step(
    case: Case, title: str, own: Factory, against: Mapping[str, Factory], goals: list[Goal], same: float | None,
    device: str = "cuda",
) -> Step:  # fmt: skip
    _, size, precision, train = case
    return Step(
        f"{title}-{'train' if train else 'forward'}-{precision}-{'x'.join(map(str, size))}",
        f"{title}, {precision}, on the GPU: forward, and training step; T, B, H", own, against, goals,
        work=size[0], unit="time step", same=same, clock="wall", synchronise=partial(wait, device), needs=needs(*case),
    )  # fmt: skip


def _goals(name: str, size: Size, precision: str, train: bool) -> list[Goal]:
    """What the cell should reach beside torch."""
    native, (steps, _, width) = scan.ROWS[name].native, size
    headline = size[1:] == HEADLINE[1:]
    if not native:
        return [at_least(30, LOOP)] * headline
    goals = []
    if (precision == "float32" or native == "GRU") and width <= 1024:
        goals.append(at_least(1.0, *(f"nn.{native} {kind}" for kind in PRECISIONS[precision])))
    if headline and native == "LSTM" and precision == "bf16":
        goals += [at_most(LIMITS[train] / steps, HOPPER)] * (size == HEADLINE)
        goals.append(at_least(1 / 1.3, "nn.LSTM fp16"))
    return goals


def needs(name: str, size: Size, precision: str, train: bool) -> Needs:
    """A training step also has the gradient of the state, and of both weights."""
    _, rows, width = size
    of_input, of_state = (2 * rows * width * columns * width for columns in scan.ROWS[name].products)
    flops = 2 * of_input + 3 * of_state if train else of_input + of_state
    weights, passes = scan.ROWS[name].products[1] * width * width * STORED[precision], 1 + train
    return Needs(precision, flops, weights, passes, passes * CELLS[name])


def _parameters(name: str, size: Size) -> dict[str, Any]:
    parameters: dict[str, Any] = scan.ROWS[name].cell(size[2], size[2], rng=0).state_dict()
    return parameters


def wait(device: str = "cuda") -> None:
    """Until what is queued on the device is done."""
    if device == "cuda":
        importlib.import_module("cupy").cuda.Device().synchronize()


# -- the floor ---------------------------------------------------------------------------------------------------------

FLOPS = {"sm_80": (128, 1024, 2048), "sm_90": (256, 2048, 4096)}
"""Operations of a product a clock and multiprocessor, in the order of PRECISIONS: A100's and H100's data sheets."""
CACHE_READ = 5120  # bytes a clock that the second-level cache gives all multiprocessors: A100's white paper

EXCHANGE = r"""
#ifdef TR_HOST_SHIM
#define PAUSE tr_shim_pause()
#else
#define PAUSE
#endif

/* Every block raises its flag and waits for all others', `turns` times. flags: one a block, 0 at first. */
extern "C" __global__ void exchange(unsigned int *flags, int turns) {
    for (unsigned int turn = 1; turn <= (unsigned int)turns; turn++) {
        __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence();
            atomicExch(&flags[blockIdx.x], turn);
        }
        for (unsigned int b = threadIdx.x; b < gridDim.x; b += blockDim.x)
            while (*(volatile unsigned int *)&flags[b] < turn) PAUSE;
        __threadfence();
        __syncthreads();
    }
}
"""


@dataclass(frozen=True)
class Device:
    """What a floor counts with. arch: "sm_90"; clock in Hz, memory in bytes a second, exchange in seconds.

    chip, cache  bytes of registers and shared memory of all multiprocessors, and of the second-level cache
    """

    arch: str
    processors: int
    clock: float
    chip: int
    cache: int
    memory: float
    exchange: float

    @classmethod
    def of(cls, capability: str, attributes: Mapping[str, int], exchange: float) -> Device:
        """From CUDA's attributes, in which clocks are kHz, registers 4 bytes and memory has two transfers a clock."""
        n = attributes["MultiProcessorCount"]
        return cls(
            f"sm_{capability}", n, attributes["ClockRate"] * 1e3,
            n * (4 * attributes["MaxRegistersPerBlock"] + attributes["MaxSharedMemoryPerBlockOptin"]),
            attributes["L2CacheSize"],
            2 * attributes["MemoryClockRate"] * 1e3 * attributes["GlobalMemoryBusWidth"] / 8, exchange,
        )  # fmt: skip

    def peak(self, precision: str) -> float | None:
        """Operations a second; None for a device whose rates are not known here."""
        rates = dict(zip(PRECISIONS, FLOPS.get(self.arch, ()), strict=False))
        return self.processors * self.clock * rates[precision] if rates else None

    def reading(self, nbytes: int) -> float:
        """Seconds to read weights once from where they fit: none if they can stay on the chip."""
        if nbytes <= self.chip:
            return 0.0
        return nbytes / (CACHE_READ * self.clock if nbytes <= self.cache else self.memory)


def floor(needs: Needs, device: Device) -> dict[str, float]:
    """Seconds that each need of a time step takes at the least. The largest is the floor: all might overlap."""
    parts = {"exchange": needs.exchanges * device.exchange, "weights": needs.passes * device.reading(needs.weights)}
    peak = device.peak(needs.precision)
    return parts if peak is None else parts | {"operations": needs.flops / peak}


def exchange_time(blocks: int, turns: int = 20_000, threads: int = 256) -> float:
    """Seconds in which all blocks of a grid, one a multiprocessor, tell each other of one step."""
    cupy = importlib.import_module("cupy")
    module = cupy.RawModule(code=EXCHANGE, options=("-std=c++17",), enable_cooperative_groups=True)
    kernel, taken = module.get_function("exchange"), []
    for _ in range(5):
        flags, begin, end = cupy.zeros(blocks, np.uint32), cupy.cuda.Event(), cupy.cuda.Event()
        begin.record()
        kernel((blocks,), (threads,), (flags, np.int32(turns)))
        end.record()
        end.synchronize()
        taken.append(cupy.cuda.get_elapsed_time(begin, end) * 1e-3 / turns)
    return min(taken)


@cache
def this_device() -> Device:
    device = importlib.import_module("cupy").cuda.Device()
    attributes = device.attributes
    return Device.of(device.compute_capability, attributes, exchange_time(attributes["MultiProcessorCount"]))


# -- what the command asks of a suite that needs a device --------------------------------------------------------------


def lacking() -> str:
    """What is missing here to run the suite, in words; "" if nothing is."""
    found = []
    try:
        tr.tensor([0.0], device="cuda")
    except (ImportError, RuntimeError, ValueError) as error:
        found.append(str(error))
    else:
        if not hasattr(tr, "set_precision"):
            found.append("this version of tinyrnn has no tr.set_precision")
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        found.append("torch is not installed")
    else:
        if not torch.cuda.is_available():
            found.append(f"torch {torch.__version__} finds no GPU (it must be a build for CUDA)")
    return "; ".join(found)


def machine() -> dict[str, Any]:
    """What to print of the device and its libraries; goals that are times are judged under the right "isa" only."""
    cupy, torch, device = importlib.import_module("cupy"), importlib.import_module("torch"), this_device()
    peaks = {p: device.peak(p) for p in PRECISIONS}
    known = ", ".join(f"{p} {v / 1e12:.0f} TFLOP/s" for p, v in peaks.items() if v) or f"not known for {device.arch}"
    return {
        "isa": device.arch,
        "GPU": f"{torch.cuda.get_device_name()}, {device.arch}, {device.processors} multiprocessors",
        "peaks": known,
        "room": f"{device.chip / 2**20:.0f} MiB on the chip, cache {device.cache / 2**20:.0f} MiB",
        "exchange": f"{device.exchange * 1e6:.2f} µs between all blocks",
        "cupy": cupy.__version__,
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}",
    }


def note(results: Sequence[Result]) -> dict[str, Any]:
    """By the benchmark's name: the least seconds of a time step, what takes them, and their share of ours."""
    shares = {}
    for result in results:
        if isinstance(b := result.benchmark, Step):
            parts = floor(b.needs, this_device())
            limit, least = max(parts.items(), key=lambda part: part[1])
            shares[b.name] = {"floor": least, "of": limit, "share": least / result.figures[OURS].median}
    return {"share of floor": shares}


def show(console: Any, about: Mapping[str, Any]) -> None:
    """The table of the shares."""
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(title="share of floor: the least time of a step / ours", title_justify="left", box=SIMPLE)
    for name in ("benchmark", "floor", "of", "share of floor"):
        table.add_column(name, justify="left" if name in ("benchmark", "of") else "right", no_wrap=True)
    for name, row in about["share of floor"].items():
        table.add_row(name, f"{row['floor'] * 1e6:.2f} µs", row["of"], f"{row['share']:.0%}")
    console.print(table)
