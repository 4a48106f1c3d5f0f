"""tr.scan with device="cuda" equals the CPU: every cell, every direction, and what is built on it.

Runs on a GPU (`pytest -m gpu`), and on any machine with a C++ compiler on the stand-in of tests/hostcuda:
`TINYRNN_TEST_CUDA=host pytest tests/test_device_scan.py`.
"""

import contextlib
import copy
import dataclasses
import os

import numpy as np
import pytest
from cell_table import CELLS, LENGTHS, B, H, I, T, make, sequence

import tinyrnn as tr
from tinyrnn import train
from tinyrnn.backend.cuda import loop
from tinyrnn.backend.cuda.loop import choose
from tinyrnn.search import RandomCell, random_description

HOST = os.environ.get("TINYRNN_TEST_CUDA") == "host"
pytestmark = [pytest.mark.device] if HOST else [pytest.mark.gpu, pytest.mark.device]


def values_of(cell, xs, *, order=1, run=tr.scan, **options):
    """Outputs, final states and gradients (of gradients) on the cell's device, as NumPy arrays."""
    x = tr.tensor(xs, dtype=str(cell.dtype), device=cell.device, requires_grad=True)
    ys, finals = run(cell, x, **options)
    loss = (ys * ys).sum() + sum((s * s * s).sum() for s in finals)
    leaves = [x, *cell.parameters()]
    found = [ys, *finals]
    for _ in range(order):
        gradients = tr.grad(loss, leaves, create_graph=order > 1, allow_unused=True)
        found += [g for g in gradients if g is not None]
        loss = sum((g * g).sum() for g in gradients if g is not None)
    assert {t.device for t in found} == {cell.device}
    return [t.numpy() for t in found]


def assert_near(found, expected, tolerance):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * (1 + np.abs(b).max(initial=0)))


def both(cell, xs, tolerance, **options):
    expected = values_of(cell, xs, **options)
    found = values_of(copy.deepcopy(cell).to("cuda"), xs, **options)
    assert_near(found, expected, tolerance)
    return found


@pytest.mark.parametrize("name", CELLS)
def test_cells_whole_and_ragged(name):
    cell = make(name)
    both(cell, sequence(), 1e-12)
    both(cell, sequence(), 1e-12, lengths=LENGTHS, reverse=True)


@pytest.mark.parametrize("seed", range(6))
def test_random_cells(seed):
    rng = np.random.default_rng(seed)
    cell = RandomCell(random_description(rng), I, H, dtype="float64", rng=rng)
    both(cell, sequence(), 1e-11, lengths=LENGTHS)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "LayerNormLSTM"])
def test_second_order(name):
    both(make(name), sequence(), 1e-11, order=2)


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_scan_is_unroll_on_the_device(name):
    cell = make(name).to("cuda")
    scanned, unrolled = (values_of(cell, sequence(), lengths=LENGTHS, run=run) for run in (tr.scan, tr.unroll))
    assert_near(scanned, unrolled, 1e-12)


@pytest.mark.parametrize(("rows", "steps"), [(1, 1), (1, 9), (37, 3), (0, 3)])
def test_sizes(rows, steps):
    cell = tr.cells.LSTM(I, 21, dtype="float64", rng=0)
    both(cell, np.random.default_rng(0).normal(size=(steps, rows, I)), 1e-12)


def test_no_steps():
    cell = tr.cells.LSTM(I, H, rng=0).to("cuda")
    ys, finals = tr.scan(cell, np.zeros((0, B, I), np.float32))
    assert (ys.shape, ys.device, finals[0].device) == ((0, B, H), "cuda", "cuda")


def test_without_gradients_nothing_else_is_computed():
    cell = make("LSTM")
    with tr.no_grad():
        found = [t.numpy() for t in (lambda ys, s: [ys, *s])(*tr.scan(copy.deepcopy(cell).to("cuda"), sequence()))]
        expected = [t.numpy() for t in (lambda ys, s: [ys, *s])(*tr.scan(cell, sequence()))]
    assert_near(found, expected, 1e-13)


def test_long_sequences_and_checkpoints_have_the_same_bits():
    cell = tr.cells.GRU(2, 3, rng=0).to("cuda")
    xs = np.random.default_rng(0).normal(size=(300, 64, 2)).astype("float32")
    kept, again = values_of(cell, xs), values_of(cell, xs, checkpoint_every=128)
    assert all(np.array_equal(a, b) for a, b in zip(kept, again, strict=True))


def test_the_same_bits_every_time():
    cell = tr.cells.LayerNormLSTM(I, 19, rng=0).to("cuda")
    once, twice = (values_of(cell, sequence(shape=(4, 18, I))) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(once, twice, strict=True))


@contextlib.contextmanager
def taking(precision):
    before = tr.get_precision()
    tr.set_precision(precision)
    try:
        yield
    finally:
        tr.set_precision(before)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "LayerNormLSTM"])
def test_blocks_wait_for_all_or_for_their_cluster(name, monkeypatch):
    """Both, where the device has clusters."""
    machine = loop.this_machine()
    monkeypatch.setattr(loop, "CLUSTERS", (4,))
    for most in {0, machine.cluster}:
        chosen = []
        monkeypatch.setattr(loop, "this_machine", lambda most=most: dataclasses.replace(machine, cluster=most))
        monkeypatch.setattr(loop, "_step_time", lambda text: not text.tiling.cluster)
        monkeypatch.setattr(loop, "choose", lambda *given, found=chosen: found.append(choose(*given)) or found[-1])
        cell = getattr(tr.cells, name)(I, 40, dtype="float64", rng=0)
        both(cell, sequence(shape=(T, 18, I)), 1e-12)
        both(cell, sequence(), 1e-12, lengths=LENGTHS, reverse=True)
        with taking("bf16"):
            both(getattr(tr.cells, name)(I, 40, rng=0), sequence(shape=(T, 18, I)), 3e-2)
        assert {text.tiling.cluster for text in chosen} == {most > 0}


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 2e-6), ("tf32", 2e-3), ("bf16", 2e-2)])
@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_precisions(name, precision, tolerance):
    cell = getattr(tr.cells, name)(I, 24, rng=0)
    with taking(precision):
        assert tr.get_precision() == precision
        found = both(cell, sequence(shape=(T, 5, I)), tolerance)
    if precision != "float32":
        exact = values_of(cell, sequence(shape=(T, 5, I)))
        assert any(not np.array_equal(a, b) for a, b in zip(found, exact, strict=True))


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_products_outside_the_loop_follow(precision):
    a, b = (np.random.default_rng(k).normal(size=(40, 40)).astype("float32") for k in range(2))
    with taking(precision):
        found = (tr.tensor(a, device="cuda") @ b).numpy()
        double = (tr.tensor(a.astype(float), device="cuda") @ b.astype(float)).numpy()
    exact = a.astype(float) @ b.astype(float)
    np.testing.assert_allclose(double, exact, rtol=0, atol=1e-12)
    error = np.abs(found - exact).max()
    assert 1e-4 < error < 0.05
    assert np.abs((tr.tensor(a, device="cuda") @ b).numpy() - exact).max() < 1e-5


def test_draws_are_those_of_the_cpu():
    near = tr.cells.RecurrentDropout(tr.cells.Zoneout(tr.cells.LSTM(I, H, dtype="float64", rng=0), 0.3), 0.3, rng=1)
    far = copy.deepcopy(near).to("cuda")
    for _ in range(2):
        assert_near(values_of(far, sequence()), values_of(near, sequence()), 1e-12)


def test_stacks_in_two_directions():
    xs = np.random.default_rng(0).normal(size=(T, B, I))
    found = []
    for device in ("cpu", "cuda"):
        model = tr.nn.Acceptor(tr.nn.RNN(tr.cells.LSTM(I, H, dtype="float64", rng=0), 2, bidirectional=True), 3, rng=1)
        model.to(device)
        loss = tr.cross_entropy(model(xs, LENGTHS), [0, 1, 2, 0])
        loss.backward()
        found.append([loss.numpy(), *(p.grad.numpy() for p in model.parameters())])
    assert_near(found[1], found[0], 1e-12)


def test_flow_measures_cells_of_the_device():
    near = tr.cells.LSTM(I, H, dtype="float64", rng=0)
    far = copy.deepcopy(near).to("cuda")
    xs = tr.tensor(sequence(), device="cuda")
    there = tr.flow.trace(far, xs, lambda ys, state: (ys[-1] ** 2).sum())
    here = tr.flow.trace(near, sequence(), lambda ys, state: (ys[-1] ** 2).sum())
    assert np.array_equal(there.states["c"].norms, here.states["c"].norms)
    assert np.array_equal(tr.flow.jacobian(far, xs).whole, tr.flow.jacobian(near, sequence()).whole)


def test_training_on_the_device(tmp_path):
    losses = {}
    for device in ("cpu", "cuda"):
        (kind,) = (k for k in train.KINDS.values() if k.name == "copy")
        options = kind.options(hidden=6, batch=4, epochs=1, device=device)
        task = kind.build(options)
        few = [*task.train(0)][:4]
        task = dataclasses.replace(task, train=lambda epoch, few=few: few, valid=task.valid[:1], test=task.test[:1])
        trainer = train.Trainer(task, tmp_path / device)
        trainer.fit()
        assert {p.device for p in task.model.parameters()} == {device}
        losses[device] = [record["train"]["loss"] for record in trainer.progress.history if "train" in record]
    assert losses["cpu"]
    assert losses["cpu"] == pytest.approx(losses["cuda"], rel=1e-5)
