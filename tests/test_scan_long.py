"""Long sequences: truncated backpropagation, checkpoints, memory."""

import functools
import tracemalloc

import numpy as np
import pytest
from scan_cases import (
    RAGGED,
    WIDTHS,
    any_length,
    assert_equal,
    assert_same_bits,
    case,
    cell_of,
    either_way,
    run,
    some_cells,
)
from scan_cells import OddCell

import tinyrnn as tr
from tinyrnn.cells import GRU, LSTM
from tinyrnn.plan import checkpoint


@some_cells
@pytest.mark.parametrize("segments", [(3, 3), (1, 4, 1)])
def test_truncated_backpropagation_equals_that_of_unroll(name, segments):
    cell = cell_of(name)
    task = case(cell, WIDTHS[name])

    def train(loop):
        state, outputs, at = tuple(tr.tensor(s) for s in task.state), [], 0
        cell.zero_grad()
        for n in segments:
            xs = tuple(x[at : at + n] for x in task.xs)
            ys, state = loop(cell, xs, tuple(s.detach() for s in state))
            (ys * task.weights[0][at : at + n]).sum().backward()
            outputs.append(ys.data)
            at += n
        return [[*outputs, *(s.data for s in state)], [p.grad.data for p in cell.parameters()]]

    assert_equal(train(tr.scan), train(tr.unroll), "float64")


@some_cells
@any_length
@either_way
@pytest.mark.parametrize("every", [1, 2, 4, 5, 6, 50])
@pytest.mark.parametrize("rows", [1, 8, 12])
def test_checkpoints_change_no_bits(name, lengths, reverse, every, rows, monkeypatch):
    monkeypatch.setattr(checkpoint, "BLOCK", rows)
    cell = cell_of(name)
    task = case(cell, WIDTHS[name], lengths=lengths, reverse=reverse)
    plain, found = run(tr.scan, cell, task), run(functools.partial(tr.scan, checkpoint_every=every), cell, task)
    assert_same_bits(found[0], plain[0])
    assert_same_bits(found[1], plain[1])
    assert_equal(found, run(tr.unroll, cell, task), "float64")


@pytest.mark.parametrize("rows", [1, 8])
def test_checkpoints_of_a_step_without_parameters(rows, monkeypatch):
    monkeypatch.setattr(checkpoint, "BLOCK", rows)
    cell = OddCell(lambda p, x, h: tr.tanh(0.5 * h + x[:, :2]), {}, ("h",), (2,), dtype="float64")
    task = case(cell)
    plain, found = run(tr.scan, cell, task), run(functools.partial(tr.scan, checkpoint_every=2), cell, task)
    for a, b in zip(found, plain, strict=True):
        assert_same_bits(a, b)


@either_way
def test_checkpoints_keep_second_derivatives(reverse, monkeypatch):
    monkeypatch.setattr(checkpoint, "BLOCK", 8)
    cell = cell_of("GRU")
    task = case(cell, WIDTHS["GRU"], lengths=RAGGED, reverse=reverse)
    found = run(functools.partial(tr.scan, checkpoint_every=4), cell, task, order=2)
    assert_equal(found, run(tr.unroll, cell, task, order=2), "float64")


def test_checkpoints_save_memory():
    cell = LSTM(4, 16, rng=0)
    xs = np.random.default_rng(0).normal(size=(20_000, 4, 4)).astype("float32")

    def most(**options):
        tracemalloc.start()
        _, (h, _) = tr.scan(cell, xs, **options)
        h.sum().backward()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        cell.zero_grad()
        return peak

    most(), most(checkpoint_every=100)
    assert most(checkpoint_every=100) < 0.4 * most()


def test_a_hundred_thousand_steps_train():
    cell = LSTM(8, 64, rng=0)
    xs = np.random.default_rng(0).normal(size=(100_000, 1, 8)).astype("float32")
    optimiser = tr.optim.SGD(cell.parameters(), lr=1.0)
    losses = []
    for _ in range(2):
        ys, _ = tr.scan(cell, xs)
        loss = (ys * ys).mean()
        cell.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]


@pytest.mark.parametrize("training", [False, True])
def test_memory_grows_as_the_sequence(training):
    cell = GRU(4, 8, rng=0)

    def most(steps):
        xs = np.zeros((steps, 2, 4), "float32")
        tracemalloc.start()
        with tr.enable_grad() if training else tr.no_grad():
            ys, _ = tr.scan(cell, xs)
            if training:
                (ys * ys).sum().backward()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        cell.zero_grad()
        return peak

    most(10)
    assert most(8000) < 5 * most(2000)  # not 4: memory comes in pieces
