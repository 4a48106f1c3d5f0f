"""The GPU's benchmarks without a GPU: list and goals, the floor, that contenders compute the same, the command."""

import argparse
import dataclasses
import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hostcuda import stand_in
from nvrtc import compile_with_nvrtc

ROOT = Path(__file__).resolve().parent.parent
if not (ROOT / "bench").is_dir():
    pytest.skip("bench/ does not stand beside tests/ here", allow_module_level=True)

SIZE = (5, 3, 4)
CELLS = ("lstm", "gru-after", "peephole", "mut1")
H200 = {
    "MultiProcessorCount": 132, "ClockRate": 1_980_000, "MaxRegistersPerBlock": 65536,
    "MaxSharedMemoryPerBlockOptin": 232_448, "L2CacheSize": 62_914_560, "MemoryClockRate": 3_201_000,
    "GlobalMemoryBusWidth": 6144,
}  # fmt: skip

each_cell = pytest.mark.parametrize("cell", CELLS)
either_mode = pytest.mark.parametrize("train", [False, True], ids=["forward", "train"])


@pytest.fixture(autouse=True)
def bench_can_be_imported(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])


@pytest.fixture
def h200():
    from bench import gpu

    return gpu.Device.of("90", H200, exchange=1.2e-6)


# -- the list and the goals --------------------------------------------------------------------------------------------


def test_every_cell_precision_and_size_is_there_once():
    from bench import gpu, micro, scan

    names = [b.name for b in gpu.benchmarks()]
    assert len(names) == 2 * 3 * 24 * (len(CELLS) + 2)  # two cells are also measured beside the LSTM
    every = [*names, *(b.name for suite in (micro, scan) for b in suite.benchmarks())]
    assert len(set(every)) == len(every)
    for cell in CELLS:
        for precision in ("float32", "tf32", "bf16"):
            found = [n for n in names if n.startswith((f"{cell}-forward-{precision}-", f"{cell}-train-{precision}-"))]
            sizes = {tuple(map(int, n.rsplit("-", 1)[1].split("x"))) for n in found}
            widths = (64, 128, 256, 512, 768, 1024, 1536, 2048)
            assert sizes == {(1024, rows, width) for rows in (1, 16, 128) for width in widths}
    quick = {b.name.rsplit("-", 1)[1] for b in gpu.quick()}
    assert len(quick) == 3
    assert "256x16x768" in quick
    assert all(size.startswith("256x") for size in quick)


def test_contenders():
    from bench import gpu

    peers = {b.name: set(b.peers) for b in gpu.benchmarks()}
    loops = {"torch loop", "loop, graph"}
    assert peers["lstm-train-float32-1024x1x64"] == {"nn.LSTM fp32"} | loops
    assert peers["lstm-train-tf32-1024x1x64"] == {"nn.LSTM tf32"} | loops
    assert peers["gru-after-forward-bf16-1024x1x64"] == {"nn.GRU bf16", "nn.GRU fp16"} | loops
    assert peers["mut1-forward-bf16-1024x1x64"] == loops
    assert peers["mut1-cost-forward-bf16-1024x1x64"] == {"our LSTM"}


def goals_of(benchmarks):
    """name -> {(kind, against): value}"""
    return {b.name: {(g.kind, *g.against): g.value for g in b.goals} for b in benchmarks}


def test_goals():
    from bench import gpu

    goals = goals_of(gpu.benchmarks())
    for mode, limit in (("forward", 4.0e-3), ("train", 11e-3)):
        assert goals[f"lstm-{mode}-bf16-1024x16x768"] == {
            ("limit",): pytest.approx(limit / 1024),  # a time step
            ("ratio", "nn.LSTM fp16"): pytest.approx(1 / 1.3),
        }
        for width in (64, 128, 256, 512, 768, 1024, 1536, 2048):
            for rows in (1, 16, 128):
                size, small = f"1024x{rows}x{width}", width <= 1024
                for name, against in (
                    (f"lstm-{mode}-float32-{size}", ["nn.LSTM fp32"]),
                    (f"gru-after-{mode}-float32-{size}", ["nn.GRU fp32"]),
                    (f"gru-after-{mode}-bf16-{size}", ["nn.GRU bf16", "nn.GRU fp16"]),
                ):
                    assert goals[name] == ({("ratio", *against): 1.0} if small else {})
                for cell in ("peephole", "mut1"):
                    assert goals[f"{cell}-cost-{mode}-bf16-{size}"] == {("ratio", "our LSTM"): pytest.approx(1 / 1.2)}
                    headline = {("ratio", "torch loop"): 30} if (rows, width) == (16, 768) else {}
                    assert goals[f"{cell}-{mode}-tf32-{size}"] == headline


def test_goals_that_are_times_hold_for_hopper_and_1024_steps():
    from bench import gpu

    timed = [b for b in gpu.benchmarks() if any(g.kind == "limit" for g in b.goals)]
    assert {g.isa for b in timed for g in b.goals if g.kind == "limit"} == {"sm_90"}
    assert len(timed) == 2
    assert not [b.name for b in gpu.quick() if any(g.kind == "limit" for g in b.goals)]


# -- the floor ---------------------------------------------------------------------------------------------------------


def test_needs_of_a_step():
    from bench import gpu

    forward = gpu.needs("lstm", (1024, 16, 768), "bf16", False)
    assert forward.flops == 2 * 16 * 768 * 4 * 768 * 2  # of the input and of the state
    assert forward.weights == 768 * 4 * 768 * 2
    assert (forward.passes, forward.exchanges) == (1, 1)
    train = gpu.needs("lstm", (1024, 16, 768), "float32", True)
    assert train.flops == 2 * 16 * 768 * 4 * 768 * 5
    assert train.weights == 768 * 4 * 768 * 4
    assert (train.passes, train.exchanges) == (2, 2)
    assert gpu.needs("mut1", SIZE, "tf32", True).exchanges == 4  # r * h is made of all units of h, h' of all of r * h
    assert gpu.needs("mut1", SIZE, "tf32", False).flops == 2 * 3 * 4 * 2 * 4 * 2
    assert gpu.needs("gru-after", SIZE, "tf32", False).weights == 4 * 3 * 4 * 4


def test_rates_of_a_device(h200):
    from bench import gpu

    assert h200.arch == "sm_90"
    assert h200.peak("float32") == pytest.approx(66.9e12, rel=1e-3)  # as the data sheet has it
    assert h200.peak("bf16") == 2 * h200.peak("tf32") == 16 * h200.peak("float32")
    assert h200.memory == pytest.approx(4.9e12, rel=0.01)
    assert h200.chip == 132 * (65536 * 4 + 232_448)
    assert gpu.Device.of("75", H200, exchange=1e-6).peak("bf16") is None


def test_floor(h200):
    from bench import gpu

    def parts(*case):
        return gpu.floor(gpu.needs(*case), h200)

    small = parts("lstm", (1024, 16, 768), "bf16", False)  # 151 MFLOP, 4.7 MB that stay on the chip
    assert small == {"exchange": 1.2e-6, "weights": 0.0, "operations": pytest.approx(0.141e-6, rel=1e-2)}
    assert max(parts("lstm", (1024, 16, 768), "bf16", True).values()) == 2.4e-6
    wide = parts("lstm", (1024, 1, 2048), "float32", False)  # 67 MB, more than the chip and the cache hold
    assert wide["weights"] == pytest.approx(67.1e6 / 4.917e12, rel=1e-3)
    assert parts("lstm", (1024, 1, 2048), "float32", True)["weights"] == 2 * wide["weights"]
    assert parts("lstm", (1024, 1, 2048), "bf16", False)["weights"] == 0.0
    little = dataclasses.replace(h200, chip=2**20)
    assert little.reading(4_718_592) == pytest.approx(4_718_592 / (5120 * 1.98e9))  # from the cache
    many = parts("lstm", (1024, 128, 1024), "float32", False)
    assert max(many, key=many.get) == "operations"
    unknown = gpu.floor(gpu.needs("lstm", SIZE, "bf16", False), dataclasses.replace(h200, arch="sm_75"))
    assert set(unknown) == {"exchange", "weights"}


def test_share_of_floor(h200, monkeypatch):
    from rich.console import Console

    from bench import gpu
    from bench.record import OURS, Result, Spread

    monkeypatch.setattr(gpu, "this_device", lambda: h200)
    benchmark = next(b for b in gpu.benchmarks() if b.name == "lstm-forward-bf16-1024x16x768")
    result = Result(benchmark, {OURS: Spread.of([3.0e-6])}, {}, {}, 1, 1.0)
    about = gpu.note([result])
    share = {"floor": 1.2e-6, "of": "exchange", "share": pytest.approx(0.4)}
    assert about == {"share of floor": {benchmark.name: share}}
    assert result.verdict(benchmark.goals[0], "sm_90", None) == (True, 3.0e-6)
    assert result.verdict(benchmark.goals[0], "sm_80", None)[0] is None
    out = io.StringIO()
    gpu.show(Console(file=out, width=120), about)
    assert "share of floor" in out.getvalue()
    for words in (benchmark.name, "1.20 µs", "exchange", "40%"):
        assert words in out.getvalue()


def test_the_exchange_runs_on_the_stand_in():
    from bench import gpu

    with stand_in() as cupy:
        kernel = cupy.RawModule(code=gpu.EXCHANGE, enable_cooperative_groups=True).get_function("exchange")
        flags = cupy.zeros(4, np.uint32)
        kernel((4,), (64,), (flags, np.int32(10)))
        assert flags.get().tolist() == [10] * 4
        assert gpu.exchange_time(blocks=4, turns=10, threads=32) > 0


@pytest.mark.nvrtc
@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="needs cupy: pip install 'tinyrnn[nvrtc]'")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_the_exchange_compiles(arch):
    from bench import gpu

    assert compile_with_nvrtc(gpu.EXCHANGE, arch, "exchange.cu").startswith(b"\x7fELF")


# -- contenders --------------------------------------------------------------------------------------------------------


def test_the_run_that_warms_up_is_waited_for():
    from bench.record import Benchmark
    from bench.timing import Budget, compare

    seen = []
    a, b = (lambda name=name: lambda: seen.append(name) for name in "ab")
    benchmark = Benchmark("both", "", a, {"b": b}, synchronise=lambda: seen.append("wait"))
    compare(benchmark, Budget(slice=0, most=1, least=1, seconds=0))
    assert seen[-8:] == ["a", "wait", "a", "wait", "b", "wait", "b", "wait"]


def on_cpu(cell, train):
    """The benchmark of a tiny case with everything on the CPU, where torch has no graphs."""
    from bench import gpu

    benchmark = gpu._beside_torch(cell, SIZE, "float32", train, device="cpu")
    return dataclasses.replace(benchmark, peers={k: f for k, f in benchmark.peers.items() if k != gpu.GRAPH})


@pytest.mark.oracle
@each_cell
@either_mode
def test_contenders_compute_the_same(cell, train):
    from bench import scan

    benchmark = on_cpu(cell, train)
    ours = np.asarray(benchmark.ours()())
    assert ours.shape == ((sum(p.size for p in scan.ROWS[cell].cell(4, 4, rng=0).parameters()),) if train else SIZE)
    for name, peer in benchmark.peers.items():
        np.testing.assert_allclose(np.asarray(peer()()), ours, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.oracle
def test_a_tiny_case_is_measured():
    from bench.timing import Budget, compare

    result = compare(on_cpu("lstm", True), Budget(slice=1e-4, most=1, least=1, seconds=0))
    assert set(result.ratios) == {"nn.LSTM fp32", "torch loop"}
    assert not result.skipped


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["tf32", "bf16", "fp16"])
@either_mode
def test_torch_in_other_precisions(kind, train):
    import torch

    from bench import gpu, gpu_peers, scan

    torch_settings = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.rnn.fp32_precision
    parameters, ours = gpu._parameters("lstm", SIZE), np.asarray(on_cpu("lstm", train).ours()())
    allowed = gpu.SAME["tf32" if kind == "tf32" else "bf16"]
    found = [
        gpu_peers.loop(scan.ROWS["lstm"].equations, parameters, SIZE, kind, train, device="cpu"),
        gpu_peers.native("LSTM", parameters, SIZE, kind, train, device="cpu"),
    ]
    for run in found:
        theirs = np.asarray(run())
        assert np.sqrt(np.mean((theirs - ours) ** 2) / np.mean(ours**2)) < allowed
    assert torch_settings == (torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.rnn.fp32_precision)


ON_THE_STAND_IN = """
import dataclasses, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import tinyrnn as tr
from bench import gpu, gpu_peers, scan
from bench.timing import Budget, compare

try:
    if not hasattr(tr, "set_precision"):
        raise ValueError("tr.set_precision is missing")
    tr.tensor([0.0], device="cuda")
except ValueError as error:
    sys.exit(f"SKIP this version has no loop on the GPU: {error}")
size = (3, 2, 4)
for precision in gpu.PRECISIONS:
    for cell in gpu.CELLS:
        for train in (False, True):
            whole = gpu._beside_torch(cell, size, precision, train)
            alone = dataclasses.replace(whole, goals=[], peers={
                "cpu": lambda: gpu_peers.ours(scan.ROWS[cell].cell, size, "float32", train, device="cpu")
            })
            result = compare(alone, Budget(slice=1e-4, most=1, least=1, seconds=0))
            assert not result.skipped, (alone.name, result.skipped)
    assert tr.get_precision() == "float32"
print("fine")
"""


@pytest.mark.oracle
def test_ours_on_the_stand_in():
    """Every cell and precision of ours beside the CPU's scan, in a process whose `cupy` is the stand-in."""
    with stand_in():  # skips without a compiler
        pass
    done = python("-c", ON_THE_STAND_IN, str(ROOT / "tests/hostcuda"))
    if done.stderr.startswith("SKIP "):
        pytest.skip(done.stderr[5:].strip())
    assert done.stdout.strip() == "fine", done.stderr


# -- the command -------------------------------------------------------------------------------------------------------


def python(*words, **environment):
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, text=True, capture_output=True, env=os.environ | environment, timeout=300
    )


@pytest.mark.parametrize("words", [[], ["--quick", "lstm-train"]], ids=["all", "some"])
def test_without_a_device_it_says_what_is_missing(words):
    done = python("-m", "bench", "gpu", *words, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert "gpu can not run here: " in done.stderr
    assert "torch" in done.stderr
    assert "Traceback" not in done.stderr


def test_everything_that_is_missing_is_named(monkeypatch):
    from bench import gpu

    def nothing(*args, **options):
        raise ImportError("device 'cuda' needs CuPy")

    monkeypatch.setattr(gpu.tr, "tensor", nothing)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert gpu.lacking() == "device 'cuda' needs CuPy; torch is not installed"


@pytest.mark.oracle
def test_what_it_prints_and_writes(tmp_path, h200, monkeypatch, capsys):
    """The command behind its check for a device, with a benchmark on the CPU and one that is too large."""
    import bench.__main__ as command
    from bench import gpu

    def too_large():
        raise MemoryError("2 bytes wanted")

    monkeypatch.setattr(gpu, "this_device", lambda: h200)
    monkeypatch.setattr(gpu, "machine", lambda: {"isa": h200.arch, "GPU": "none"})
    monkeypatch.setenv("COLUMNS", "200")
    one = on_cpu("lstm", False)
    asked = argparse.Namespace(quick=True, json=tmp_path / "out.json", plot=None)
    assert command._run([one, dataclasses.replace(one, name="large", ours=too_large)], asked, gpu) == 0
    said = capsys.readouterr().out
    assert "Skipped: large needs more memory than there is (2 bytes wanted)" in said
    for words in ("nn.LSTM fp32", "time step", "share of floor", "exchange"):
        assert words in said
    shares = json.loads((tmp_path / "out.json").read_text())["machine"]["share of floor"]
    assert shares[one.name]["floor"] == h200.exchange


def test_list_and_help():
    assert "gpu" in python("-m", "bench", "--help").stdout
    listed = python("-m", "bench", "gpu", "lstm-train-bf16", "--list").stdout.splitlines()
    assert len(listed) == 24
    assert "lstm-train-bf16-1024x16x768" in listed
    assert python("-m", "bench", "gpu", "lstm-train-bf16", "--quick", "--list").stdout.splitlines() == [
        f"lstm-train-bf16-256x{size}" for size in ("16x768", "1x256", "128x1024")
    ]
