"""The benchmarks: that goals are judged as they say, that contenders compute the same, that the command runs.

No test here asserts on a time.
"""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_runs import reviews

import tinyrnn as tr

ROOT = Path(__file__).resolve().parent.parent
if not (ROOT / "bench").is_dir():
    pytest.skip("bench/ does not stand beside tests/ here", allow_module_level=True)

AVX2 = {"isa": "avx2", "processor": "a test", "pinned to": "no core"}
SIZE = (5, 3, 4, 4)
ROWS = ("lstm", "gru-after", "gru-before", "peephole", "layer-norm", "mut1", "random18")


@pytest.fixture(autouse=True)
def bench_can_be_imported(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])


def made_up(ours, peers, **options):
    """The result of a benchmark whose contenders return a figure instead of being timed."""
    from bench.record import Benchmark
    from bench.timing import QUICK, compare

    factories = {name: (lambda f=f: lambda: f) for name, f in peers.items()}
    return compare(Benchmark("one", "some", lambda: lambda: ours, factories, measure="value", **options), QUICK)


# -- the harness -------------------------------------------------------------------------------------------------------


def test_figures_are_of_one_unit_and_ratios_peer_by_ours():
    result = made_up(2.0, {"a": 6.0, "b": 3.0}, work=4)
    assert result.figures["tinyrnn"].median == 0.5
    assert result.ratios["a"].median == 3.0
    assert result.ratios["b"].median == 1.5


def test_goals():
    from bench.record import at_least, at_most, share_of_peak

    result = made_up(2.0, {"a": 6.0, "b": 3.0}, flops=10.0)

    def met(goal):
        return result.verdict(goal, "avx2", peak=8.0)[0]

    assert met(at_least(3.0, "a")) is True
    assert met(at_least(3.1, "a")) is False
    assert met(at_least(1.5)) is True  # of the best of all peers
    assert met(at_least(1.6)) is False
    assert met(at_least(1.0, "a", "missing")) is None
    assert met(at_most(2.0)) is True
    assert met(at_most(1.9)) is False
    assert met(at_most(1.9, isa="avx512")) is None
    assert met(share_of_peak(0.6)) is True  # 5 of 8
    assert met(share_of_peak(0.7)) is False


def test_spread_is_median_and_quartiles():
    from bench.record import Spread

    assert vars(Spread.of([5.0, 1.0, 2.0, 4.0, 3.0])) == {"median": 3.0, "low": 2.0, "high": 4.0}
    assert vars(Spread.of([7.0])) == {"median": 7.0, "low": 7.0, "high": 7.0}


@pytest.mark.parametrize("measure", ["time", "first"])
def test_contenders_take_turns(measure):
    from bench.record import Benchmark
    from bench.timing import Budget, compare

    seen = []

    def contender(name):
        def factory():
            return lambda: seen.append(name)

        return factory

    peers = {"b": contender("b"), "c": contender("c")}
    budget = Budget(slice=1e-9, most=3, least=3, seconds=0)
    result = compare(Benchmark("turns", "some", contender("a"), peers, measure=measure), budget)
    assert result.slices == 3
    assert set(result.figures) == {"tinyrnn", "b", "c"}
    turns = "abcbcacab"  # each round begins with another one; a short slice is preceded by a run that is not measured
    assert "".join(seen).endswith(turns if measure == "first" else "".join(name + name for name in turns))


def test_a_peer_that_is_missing_or_wrong_is_left_out():
    from bench.record import Benchmark
    from bench.timing import QUICK, compare

    def missing():
        import a_library_that_nobody_has  # noqa: F401

    def made(value):
        return lambda: lambda: np.asarray(value)

    peers = {"missing": missing, "right": made([1.0, 2.0]), "off": made([1.0, 2.5]), "shape": made([1.0])}
    result = compare(Benchmark("one", "some", made([1.0, 2.001]), peers, same=1e-2), QUICK)
    assert set(result.ratios) == {"right"}
    assert result.skipped["missing"] == "a_library_that_nobody_has is not installed"
    assert "2.2e-01 off" in result.skipped["off"]
    assert "shape (1,)" in result.skipped["shape"]


def test_more_cores_than_there_are():
    from bench.record import Benchmark
    from bench.timing import QUICK, NotEnoughCoresError, compare

    with pytest.raises(NotEnoughCoresError, match="one needs 1000 cores"):
        compare(Benchmark("one", "some", lambda: lambda: None, {}, threads=1000), QUICK)


@pytest.mark.parametrize(("others", "judged"), [(0.0, True), (0.5, False), (None, True)])
def test_cores_that_others_used(monkeypatch, others, judged):
    """A ratio on several cores counts only where they were ours; a system that does not say is believed."""
    from bench import timing
    from bench.record import Benchmark, at_least

    def busy(n):
        return None if others is None else time.process_time() + others * n * time.perf_counter()

    monkeypatch.setattr(timing, "busy_seconds", busy)
    monkeypatch.setattr(timing, "cores", lambda: 2)
    peers = {"peer": lambda: lambda: sum(range(30_000))}
    run = Benchmark("one", "some", lambda: lambda: sum(range(3_000)), peers, threads=2, clock="wall")
    result = timing.compare(run, timing.QUICK)
    met, why = result.verdict(at_least(1e-3, "peer"), "avx2", None)
    assert (met is True) if judged else (met, why) == (None, "others used the cores")
    assert result.held == pytest.approx(1.0 - (others or 0.0), abs=0.02)


def test_seconds_that_cores_worked(monkeypatch):
    from bench import environment

    assert environment.busy_seconds(1) is None  # of no cores
    if not Path("/proc/stat").exists():
        monkeypatch.setattr(environment, "_allowed", [0])
        assert environment.busy_seconds(1) is None
        return
    allowed = sorted(os.sched_getaffinity(0))
    monkeypatch.setattr(environment, "_allowed", allowed)
    before, own = environment.busy_seconds(len(allowed)), time.process_time()
    while time.process_time() < own + 0.3:
        pass
    assert environment.busy_seconds(len(allowed)) - before >= 0.2  # it counts in hundredths


def test_what_is_not_met_is_said(tmp_path):
    from rich.console import Console

    from bench import report
    from bench.record import at_least, at_most

    result = made_up(2.0, {"a": 6.0}, goals=[at_least(9), at_least(2), at_most(1.0, isa="avx512")], flops=1.0)
    out = io.StringIO()
    console = Console(file=out, width=200)
    report.show_machine(console, AVX2)
    report.show_table(console, [result], AVX2)
    report.show_summary(console, [result], AVX2)
    for words in ("≥ 9x: NOT MET (3x)", "≥ 2x: met (3x)", "≤ 1: not judged (avx512 only)", "1 met, 1 not met, 1 not"):
        assert words in out.getvalue()
    report.write_json(tmp_path / "out.json", [result], AVX2)
    read = json.loads((tmp_path / "out.json").read_text())
    assert [goal["met"] for goal in read["results"][0]["goals"]] == [False, True, None]
    assert read["results"][0]["ratios"]["a"]["median"] == 3.0


# -- what it runs ------------------------------------------------------------------------------------------------------


def test_every_micro_benchmark_runs_and_agrees():
    from bench import micro
    from bench.timing import Budget, compare

    for benchmark in micro.benchmarks():
        result = compare(benchmark, Budget(slice=1e-4, most=1, least=1, seconds=0))
        assert not [why for why in result.skipped.values() if "not installed" not in why], result.skipped


def test_names_are_different_and_every_suite_is_complete():
    from bench import micro, scan

    names = [b.name for suite in (micro, scan) for b in suite.benchmarks()]
    assert len(set(names)) == len(names)
    assert set(scan.ROWS) == set(ROWS)
    assert sum(name.startswith(ROWS) for name in names) == 7 * 6 * 2


def test_random18_has_18_ops():
    from bench.cells import Random18

    x, h, c = (tr.tensor(np.ones((1, 2)), requires_grad=True, dtype="float32") for _ in range(3))
    tape = tr.Tape(Random18(2, 2).step(x, h, c), everything=True)
    assert sum(node.op is not None for node in tape.nodes) == 18


def test_random18_has_true_gradients():
    from bench.cells import Random18

    cell = Random18(3, 3, dtype="float64", rng=0)
    xs = tr.tensor(np.random.default_rng(1).normal(size=(3, 2, 3)), requires_grad=True)
    assert tr.gradcheck(lambda xs, *_: tr.unroll(cell, xs)[0], [xs, *cell.parameters()])


def ours(name, runner=None):
    """(packed parameters, xs, the outputs' gradient, outputs, packed gradients) of a cell of the scan suite."""
    from bench import scan

    row = scan.ROWS[name]
    cell = row.cell(*SIZE[2:], rng=0)
    xs, g = scan.values(SIZE)
    ys, _ = (runner or tr.unroll)(cell, xs)
    ys.backward(g)
    grads = {k: p.grad.data for k, p in cell.named_parameters()}
    return row, cell.state_dict(), xs, g, ys.data, row.equations.pack(grads)


@pytest.mark.oracle
@pytest.mark.parametrize("name", ROWS)
def test_torch_peers_compute_the_same(name):
    torch = pytest.importorskip("torch")
    from bench import torch_peers

    row, parameters, xs, g, ys, grads = ours(name)
    loop = torch_peers.Loop(row.equations, SIZE[3], row.equations.pack(parameters))
    np.testing.assert_allclose(torch_peers.forward(loop, xs)().numpy(), ys, rtol=1e-5, atol=1e-6)
    torch_peers.training_step(loop, xs, g)()
    for k, p in loop.p.items():
        np.testing.assert_allclose(p.grad.numpy(), grads[k], rtol=1e-4, atol=1e-5, err_msg=k)
    if row.native:
        native = torch_peers.Native(row.native, parameters)
        np.testing.assert_allclose(torch_peers.forward(native, xs)().numpy(), ys, rtol=1e-5, atol=1e-6)
    if name == "lstm":
        plain = torch_peers.OpForOp(parameters)
        np.testing.assert_allclose(torch_peers.training_step(plain, xs, g)().detach().numpy(), ys, rtol=1e-5, atol=1e-6)
        assert torch_peers.kept(torch_peers.Native("LSTM", parameters), xs) >= ys.size
    assert torch.get_num_threads() == 1


@pytest.mark.oracle
def test_torch_trains_the_same_classifier():
    """Loss and gradients of the job's model without dropout."""
    torch = pytest.importorskip("torch")
    from bench import job, torch_peers
    from tinyrnn import train

    options = train.SentimentOptions(hidden=6, embed=5, batch=8, dropout=0.0, word_dropout=0.0)
    task = train.sentiment_task(options, reviews(40))
    theirs = torch_peers.Classifier(task.model)
    batch = task.train(0)[0]
    ids, lengths, targets = (torch.from_numpy(a) for a in (batch.inputs.astype(np.int64), batch.lengths, batch.targets))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(theirs(ids, lengths), targets)
    loss.backward()
    ours = task.measure(task.model, batch, None).loss
    ours.backward()
    assert ours.item() == pytest.approx(loss.item(), rel=1e-5)
    for name in ("embedding", "readout"):
        got = getattr(theirs, name).weight.grad.numpy()
        want = getattr(task.model, name).W.grad.numpy()
        np.testing.assert_allclose(got if name == "embedding" else got.T, want, rtol=1e-4, atol=1e-6)
    runs = job.ours(task), job.in_torch(task)
    assert float(runs[0]()) == pytest.approx(float(runs[1]()), rel=1e-5)
    assert torch.get_num_threads() == 1


@pytest.fixture(scope="module")
def jax():
    """Imported before a test looks at global state: the import draws from NumPy's global generator."""
    return pytest.importorskip("jax")


@pytest.mark.parametrize("name", ROWS)
def test_jax_peers_compute_the_same(name, jax):
    from bench import jax_peers

    row, parameters, xs, g, ys, grads = ours(name)
    packed = row.equations.pack(parameters)
    for run in (
        jax_peers.forward(row.equations, SIZE[3], packed, xs),
        jax_peers.training_step(row.equations, SIZE[3], packed, xs, g),
    ):
        np.testing.assert_allclose(np.asarray(run()), ys, rtol=1e-5, atol=1e-6)
    for k, theirs in jax_peers.gradients(row.equations, SIZE[3], packed, xs, g).items():
        np.testing.assert_allclose(theirs, grads[k], rtol=1e-4, atol=1e-5, err_msg=k)


# -- the command -------------------------------------------------------------------------------------------------------


def bench(*words, **environment):
    return subprocess.run(
        [sys.executable, "-m", "bench", *words], cwd=ROOT, text=True, capture_output=True,
        env=os.environ | environment, timeout=300,
    )  # fmt: skip


def test_the_command(tmp_path):
    path = tmp_path / "out.json"
    done = bench("micro", "--quick", "ew-exp", "--json", str(path), OPENBLAS_CORETYPE="Haswell")
    assert done.returncode == 0, done.stderr
    assert "tinyrnn is faster" in done.stdout
    read = json.loads(path.read_text())
    assert [r["name"] for r in read["results"]] == ["ew-exp"]
    assert read["machine"]["isa"] in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing-of-that-name"], "no benchmark of micro has a name that holds nothing-of-that-name"),
        (["--json", "no/such/folder/x.json"], "there is no folder no/such/folder"),
    ],
)
def test_wrong_command_lines(words, said):
    done = bench(*words)
    assert done.returncode == 2
    assert said in done.stderr


def test_list_and_help():
    assert "scan" in bench("--help").stdout
    assert "lstm-train-100x1x32x32" in bench("scan", "--list").stdout.splitlines()
