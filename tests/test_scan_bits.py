"""The compiled loop gives the same bits for any number of threads, any batch around a row, and every time."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scan_cases import (
    RAGGED,
    SOME,
    TOLERANCE,
    WIDTHS,
    any_length,
    assert_rows_are_their_own,
    assert_same_bits,
    case,
    cell_of,
    either_dtype,
    either_way,
    run,
    some_cells,
)
from scan_cells import OddCell

import tinyrnn as tr
from tinyrnn._core import kernels
from tinyrnn._core.tape import abstract
from tinyrnn.autograd import recording
from tinyrnn.backend import threads
from tinyrnn.cells import GRU, LSTM, MUT1
from tinyrnn.plan import plan_of
from tinyrnn.plan.step import Script
from tinyrnn.search import RandomCell, random_description


@pytest.fixture
def any_work_is_worth_a_thread(monkeypatch):
    monkeypatch.setattr(threads, "WORTH", 1.0)
    yield
    tr.set_num_threads(None)


def random_cells(count):
    for seed in range(count):
        rng = np.random.default_rng(seed)
        description = random_description(rng, ops=(8, 20))
        yield RandomCell(description, 3, [1, 3, 5, 9][seed % 4], dtype=["float64", "float32"][seed % 2], rng=rng)


@pytest.mark.usefixtures("any_work_is_worth_a_thread")
@any_length
@either_way
def test_bits_do_not_depend_on_the_threads(lengths, reverse):
    lengths = lengths and [*lengths, 5, 6, 2]
    odd = [(cell_of(name, dtype), WIDTHS[name]) for name in SOME for dtype in TOLERANCE]
    for cell, widths in [*odd, *((cell, None) for cell in random_cells(8))]:
        task = case(cell, widths, rows=7, lengths=lengths, reverse=reverse)
        found = {}
        for n in (1, 2, 3):
            tr.set_num_threads(n)
            assert threads.count_shards(7, 42, 1e3) == n
            found[n] = [a for part in run(tr.scan, cell, task, order=2) for a in part]
        assert_same_bits(found[2], found[1])
        assert_same_bits(found[3], found[1])


@either_dtype
def test_bits_of_large_products_do_not_depend_on_the_threads(dtype):
    cell = GRU(96, 160, dtype=dtype, rng=0)
    task = case(cell, steps=20, rows=24, lengths=[*range(1, 21), 20, 0, 3, 7])
    found = {}
    try:
        for n in (1, 2, 3):
            tr.set_num_threads(n)
            found[n] = [a for part in run(tr.scan, cell, task) for a in part]
    finally:
        tr.set_num_threads(None)
    assert_same_bits(found[2], found[1])
    assert_same_bits(found[3], found[1])


@either_dtype
def test_passes_over_memory_do_not_depend_on_the_threads(dtype):
    """Elementwise ops, reductions, gathering rows, clearing, sums of squares and optimisers' steps, of sizes that are
    no multiple of a piece."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(3001, 203)).astype(dtype)
    index = rng.integers(0, 3001, 2777)
    found = {}
    try:
        for n in (1, 2, 3):
            tr.set_num_threads(n)
            param = tr.tensor(table, requires_grad=True)
            taken = tr.ops.take(param, index)
            (taken * taken).sum().backward()
            norm = tr.clip_grad_norm([param], np.inf)
            gradient = param.grad.numpy().copy()
            for make in (tr.optim.SGD, tr.optim.RMSprop, tr.optim.AdamW):
                make([param], lr=0.1).step()
            made = [tr.tanh(taken), tr.ops.fma(taken, taken, taken), taken.sum(0), tr.ops.max(taken, 0)]
            found[n] = [taken.numpy(), gradient, np.array(norm), param.numpy().copy(), *(t.numpy() for t in made)]
    finally:
        tr.set_num_threads(None)
    assert_same_bits(found[2], found[1])
    assert_same_bits(found[3], found[1])
    expected = np.zeros_like(table)
    np.add.at(expected, index, 2 * table[index])
    assert_same_bits([found[1][0]], [table[index]])
    np.testing.assert_allclose(found[1][1], expected, rtol=1e-5)
    assert found[1][2] == pytest.approx(np.linalg.norm(expected.astype(float)), rel=1e-6)


@either_dtype
@pytest.mark.parametrize("sizes", [(128, 128), (5, 64, 130), (0, 4), (1,), (3,) * 9])
def test_products_that_have_a_side_in_common(dtype, sizes):
    """They have the bits of each by itself, for every number of threads; NumPy confirms them."""
    rng = np.random.default_rng(0)
    try:
        for inner, columns in ((1600, 256), (777, 97), (1025, 513), (0, 5), (10, 6)):
            right = rng.normal(size=(inner, columns)).astype(dtype)
            lefts = [rng.normal(size=(inner, n)).astype(dtype).T for n in sizes]
            lefts[0] = rng.normal(size=(2 * sizes[0], inner)).astype(dtype)[::2]
            tr.set_num_threads(1)
            alone = [kernels.matmul(left, right) for left in lefts]
            for n in (1, 2, 3):
                tr.set_num_threads(n)
                assert_same_bits(kernels.products(lefts, right), alone)
            for found, left in zip(alone, lefts, strict=True):
                expected = left.astype(float) @ right.astype(float)
                size = np.abs(expected).max(initial=1.0)
                np.testing.assert_allclose(found / size, expected / size, atol=4 * TOLERANCE[dtype])
    finally:
        tr.set_num_threads(None)


def test_gradients_of_weights_from_one_sequence_are_made_together():
    """Those behind the input and behind the state, in the reverse of an LSTM that multiplies both in the loop."""
    cell = cell_of("LSTM", "float32")
    run(tr.scan, cell, case(cell, rows=9))
    plan, _ = plan_of(cell, (cell.input_size,), 9)
    (reverse,) = plan.body.reverses.values()
    joined = [inputs for op, inputs, *_ in reverse.plan._behind.actions if op is None]
    assert [len(products) for products in joined] == [2]


def test_products_that_are_made_together_wait_for_what_either_reads():
    with recording():
        x, w, u, v = (abstract((4, n), np.dtype("float64")) for n in (3, 5, 6, 2))
        products = [w.T @ v, x.T @ v]
        _, rest = Script([x, w, u, v]).part([t * 2.0 for t in products]).cut(range(1))
        names = [op and op.name for op, *_ in rest.actions]
        assert (names.count(None), names.count("mul")) == (1, 2), "and what reads them waits"
        first, rest = Script([x, w, u, v]).part([w.T @ v, u.T @ v]).cut(range(1))
        assert not rest.actions
        assert {*rest.results} <= {*first.results}, "both are known to be made"


@any_length
@either_way
def test_bits_of_a_row_do_not_depend_on_its_batch(lengths, reverse):
    lengths = lengths and [*lengths, 5, 6, 2, 6, 4, 4, 1]
    known = [(cell_of(name, dtype), WIDTHS[name]) for name in WIDTHS for dtype in TOLERANCE]
    for cell, widths in [*known, *((cell, None) for cell in random_cells(40))]:
        task = case(cell, widths, rows=11, lengths=lengths, reverse=reverse)
        assert_rows_are_their_own(cell, task, [[0], [10], [5, 7], [0, 1, 2, 3], [4, 5, 6, 7, 8, 9, 10], [9, 2, 6]])


@either_dtype
def test_bits_of_a_row_do_not_depend_on_its_batch_when_large(dtype):
    cell = LSTM(70, 300, dtype=dtype, rng=0)
    assert_rows_are_their_own(cell, case(cell, steps=4, rows=20), [[0], [19], list(range(13))])


@pytest.mark.parametrize(
    ("make_cell", "size", "dtype"),
    [(LSTM, 1024, "float32"), (MUT1, 1100, "float32"), (MUT1, 600, "float64"), (GRU, 1024, "float64")],
)
def test_bits_of_a_row_do_not_depend_on_its_batch_when_products_sum_in_blocks(make_cell, size, dtype):
    """Few rows have their inputs multiplied before the loop, many in it, from a copy if they lie pages apart."""
    cell = make_cell(size, size, dtype=dtype, rng=0)
    assert_rows_are_their_own(cell, case(cell, steps=3, rows=11), [[0], [10], list(range(7)), list(range(2, 11))])


@either_dtype
@pytest.mark.parametrize(
    "preactivation",
    [
        lambda p, x, h: p.b * (x @ p.W) + h @ p.U,
        lambda p, x, h: 0.5 * (x @ p.W) + h @ p.U,
        lambda p, x, h: x @ p.W + h @ p.U - x,
        lambda p, x, h: x @ p.W + x + h @ p.U,
        lambda p, x, h: x @ p.W + h @ p.U - x @ p.V,
        lambda p, x, h: tr.sigmoid(x @ p.W) * h + (h * x) @ p.U + p.b,
    ],
    ids=["scaled", "halved", "less", "more", "two", "gated"],
)
def test_bits_of_sums_do_not_depend_on_who_makes_their_products(preactivation, dtype):
    """Large products sum in blocks of 4 KB: where one adds itself to a value decides how that is rounded."""
    n = {"float64": 515, "float32": 1030}[dtype]
    shapes = {"b": (n,), "W": (n, n), "V": (n, n), "U": (n, n)}
    cell = OddCell(lambda p, x, h: tr.tanh(preactivation(p, x, h)), shapes, "h", (n,), n, dtype=dtype, rng=0)
    assert_rows_are_their_own(cell, case(cell, steps=3, rows=9), [[0], list(range(7)), list(range(1, 9))])


@some_cells
def test_bits_are_the_same_from_run_to_run(name):
    cell = cell_of(name, "float32")
    task = case(cell, WIDTHS[name], lengths=RAGGED)
    first = run(tr.scan, cell, task, order=2)
    again = run(tr.scan, cell_of(name, "float32"), task, order=2)
    for a, b in zip(again, first, strict=True):
        assert_same_bits(a, b)


def test_scans_in_several_threads_at_once(any_work_is_worth_a_thread):
    """Plans are made and run in eight threads, two or three to a cell; one of them at a time finds the others' help."""
    tr.set_num_threads(3)
    names = ["layer_norm_lstm", "blocks", "peepholes"]
    tasks = {name: case(cell_of(name), WIDTHS[name], steps=20, lengths=RAGGED) for name in names}
    expected = {name: run(tr.scan, cell_of(name), tasks[name], order=2) for name in names}
    for _ in range(3):
        cells = {name: cell_of(name) for name in names}
        with ThreadPoolExecutor(8) as pool:
            jobs = [(name, pool.submit(run, tr.scan, cells[name], tasks[name], order=2)) for name in names * 4]
            for name, job in jobs:
                for found, right in zip(job.result(), expected[name], strict=True):
                    assert_same_bits(found, right)


FORKS = """
import os
import numpy as np
import tinyrnn as tr
from tinyrnn._core import kernels
from tinyrnn.backend import threads

threads.WORTH = 1.0
tr.set_num_threads(2)
cell = tr.cells.LSTM(3, 5, rng=0)
xs = np.ones((20, 4, 3), "float32")
expected = tr.scan(cell, xs)[0].numpy()
child = os.fork()
found = tr.scan(cell, xs)[0].numpy()
assert (found == expected).all()
assert len(os.listdir("/proc/self/task")) == 2
assert child == 0 or os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="this system does not list a process's threads")
def test_a_forked_child_has_threads_of_its_own():
    """Those that wait for work stay with the parent. In a process of its own: other libraries warn of forks."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORKS], check=True, timeout=120, env=environment)
