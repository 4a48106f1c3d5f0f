"""The compiled loop against the step-by-step one: values, final states, gradients of any order, for any cell."""

import functools
import gc
import platform
import shutil
import subprocess
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from cell_table import make
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_cases import (
    RAGGED,
    TOLERANCE,
    WIDTHS,
    any_length,
    assert_equal,
    assert_same_bits,
    case,
    cell_of,
    check,
    either_way,
    mixed,
    run,
    some_cells,
)
from scan_cells import H, I, OddCell

import tinyrnn as tr
from tinyrnn._core import kernels
from tinyrnn.cells import GRU, LSTM, MUT1
from tinyrnn.plan import plan_of
from tinyrnn.plan.explain import explanation_of
from tinyrnn.search import KINDS, RandomCell, descriptions, random_description

# -- scan equals unroll ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WIDTHS)
@any_length
@either_way
def test_scan_equals_unroll_to_second_order(name, lengths, reverse):
    cell = cell_of(name)
    check(cell, case(cell, WIDTHS[name], lengths=lengths, reverse=reverse), order=2)


@pytest.mark.parametrize("name", WIDTHS)
@any_length
def test_scan_equals_unroll_in_single_precision(name, lengths):
    cell = cell_of(name, "float32")
    check(cell, case(cell, WIDTHS[name], lengths=lengths, reverse=lengths is not None))


@some_cells
@either_way
@pytest.mark.parametrize(
    ("steps", "rows", "lengths"),
    [(1, 1, None), (1, 3, None), (5, 1, None), (5, 1, [2]), (4, 3, [0, 0, 0]), (4, 3, [0, 1, 0]), (1, 3, [1, 0, 1]),
     (7, 3, [7, 7, 6]), (0, 3, None), (4, 0, None), (0, 0, None), (4, 0, [])],
)  # fmt: skip
def test_few_steps_and_few_rows(name, reverse, steps, rows, lengths):
    cell = cell_of(name)
    check(cell, case(cell, WIDTHS[name], steps, rows, lengths, reverse), order=2 if steps and rows else 1)


@pytest.mark.parametrize("name", WIDTHS)
@any_length
def test_many_rows(name, lengths):
    """More than the loop takes at a time."""
    cell = cell_of(name)
    lengths = lengths and np.random.default_rng(0).integers(0, 4, 150).tolist()
    check(cell, case(cell, WIDTHS[name], 3, 150, lengths, seed=2), order=2)


def random_case(description, unit, input_size, dtype, lengths, reverse, seed):
    cell = RandomCell(description, input_size, unit, dtype=dtype, rng=seed)
    steps = 6 if lengths is None else max([1, *lengths])
    rows = 3 if lengths is None else len(lengths)
    return cell, case(cell, (input_size,) * description.inputs, steps, rows, lengths, reverse, seed)


random_cases = st.builds(
    random_case,
    descriptions(),
    unit=st.integers(1, 5),
    input_size=st.integers(1, 4),
    dtype=st.sampled_from(sorted(TOLERANCE, reverse=True)),
    lengths=st.none() | st.lists(st.integers(0, 6), min_size=1, max_size=5),
    reverse=st.booleans(),
    seed=st.integers(0, 2**16),
)


def check_random(cell, task):
    check(cell, task, order=2 if cell.dtype == "float64" else 1)


@settings(max_examples=100, derandomize=True)
@given(random_cases)
def test_scan_equals_unroll_for_random_cells(made):
    check_random(*made)


@pytest.mark.slow
@settings(max_examples=3000)
@given(random_cases)
def test_scan_equals_unroll_for_many_random_cells(made):
    check_random(*made)


@functools.cache
def cells_with(kind, count):
    """Descriptions in which a kind of op occurs."""
    drawn = (random_description(np.random.default_rng(seed), inputs=1 + seed % 2) for seed in range(100_000))
    having = (d for d in drawn if any(node.op == kind for node in d.nodes))
    return [next(having) for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_op_of_a_random_cell(kind):
    for k, description in enumerate(cells_with(kind, 3)):
        check_random(*random_case(description, 1 + k, 3, "float64", [None, RAGGED, None][k], k == 2, k))


@pytest.mark.parametrize("name", ["LSTM", "GRU-after", "layer_norm_lstm", "projected_with_softmax", "every_function"])
def test_finite_differences_agree_to_second_order(name):
    cell = cell_of(name)
    task = case(cell, WIDTHS[name], steps=3, rows=2, lengths=[3, 2])

    def fn(*leaves):
        n = len(task.xs)
        ys, final = tr.scan(cell, leaves[:n], leaves[n:], lengths=task.lengths)
        return (ys, *final)

    class Wrapped(tr.Module):
        def __init__(self):
            super().__init__()
            self.cell = cell

        def forward(self, *leaves):
            return fn(*leaves)

    tr.gradcheck(Wrapped(), (*task.xs, *task.state), order=2, directions=2, rtol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_finite_differences_agree_for_random_cells(seed):
    rng = np.random.default_rng(seed)
    cell = RandomCell(random_description(rng, ops=(6, 20), kinks=False), 3, 2, dtype="float64", rng=rng)
    task = case(cell, steps=3, rows=2, seed=seed)
    tr.gradcheck(lambda x, *state: tr.scan(cell, x, state)[0], (*task.xs, *task.state), order=2, directions=2)


# -- what the loss reads, and what it is differentiated by -------------------------------------------------------------

LOSSES = {
    "the outputs": lambda r, w: (r[0] * w[0]).sum(),
    "one output": lambda r, w: (r[0][2] * w[0][2]).sum(),
    "the final states": lambda r, w: mixed(r[1:], w[1:]),
    "the first final state": lambda r, w: (r[1] * w[1]).sum(),
    "the last final state": lambda r, w: (r[-1] * w[-1]).sum(),
    "the outputs twice": lambda r, w: (r[0] * w[0]).sum() + (tr.square(r[0][1:]) * r[0][:-1]).sum(),
    "outputs by a final state": lambda r, w: (r[0] * r[1] * w[0]).sum(),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["LSTM", "GRU", "output_that_no_one_reads", "masked", "a_delay_line"])
@any_length
def test_any_part_of_the_results_can_be_in_the_loss(loss, name, lengths):
    cell = cell_of(name)
    check(cell, case(cell, WIDTHS[name], lengths=lengths, reverse=name == "GRU"), LOSSES[loss], order=2)


@any_length
def test_gradients_of_final_states_are_what_the_reverse_begins_with(lengths):
    """So nothing arrives at its steps where the loss reads final states alone."""
    cell = cell_of("LSTM")
    task = case(cell, lengths=lengths)
    _, (h, c) = tr.scan(cell, task.xs[0], lengths=lengths)
    (h.sum() + c.sum()).backward()
    ((arrived, *_),) = plan_of(cell, (cell.input_size,))[0].body.reverses
    assert not any(arrived)


@pytest.mark.parametrize("name", ["LSTM", "masked", "the_input_inside", "two_cells_in_one"])
@any_length
def test_gradients_by_one_leaf_alone_are_those_of_all(name, lengths):
    """Of inputs, initial states and parameters, one at a time needs a gradient; the others are frozen or arrays."""
    cell = cell_of(name)
    task = case(cell, WIDTHS[name], lengths=lengths)
    together = run(tr.scan, cell, task)[1]
    for p in cell.parameters():
        p.requires_grad = False
    n, m = len(task.xs), len(task.state)
    for k, expected in enumerate(together):
        leaves = [tr.tensor(a) for a in (*task.xs, *task.state)] + cell.parameters()
        leaves[k].requires_grad = True
        ys, final = tr.scan(cell, tuple(leaves[:n]), tuple(leaves[n : n + m]), lengths=lengths)
        found = tr.grad(mixed([ys, *final], task.weights), leaves[k])
        leaves[k].requires_grad = False
        np.testing.assert_allclose(found.data, expected, rtol=0, atol=1e-12)


def test_a_state_that_does_not_reach_the_loss_has_no_gradient():
    cell = cell_of("output_that_no_one_reads")
    task = case(cell)
    state = [tr.tensor(s, requires_grad=True) for s in task.state]
    ys, _ = tr.scan(cell, task.xs[0], state)
    found = tr.grad(ys.sum(), [*state, cell.U], allow_unused=True)
    assert not any(g is not None and g.data.any() for g in found)


def products_behind(tensors):
    """How many products of each kind the tape behind these tensors holds."""
    return Counter(t.op.name for t in tr.Tape(tensors).nodes if t.op is not None)["matmul"]


def test_inputs_that_need_no_gradient_get_none():
    """Neither the product outside the loop that would make it, nor the sequence that the loop would write."""
    cell, task = make("LSTM"), case(make("LSTM"))
    counts = {}
    for wanted in (False, True):
        x = tr.tensor(task.xs[0], requires_grad=wanted)
        ys, _ = tr.scan(cell, x)
        leaves = [x, *cell.parameters()] if wanted else cell.parameters()
        counts[wanted] = products_behind(tr.grad((ys * ys).sum(), leaves, create_graph=True))
    assert counts[True] == counts[False] + 1

    cell = OddCell(lambda p, x, h: tr.tanh(x * (h @ p.W)), {"W": (I, I)}, ("h",), (I,), dtype="float64")
    task = case(cell)
    for wanted in (False, True):
        ys, _ = tr.scan(cell, tr.tensor(task.xs[0], requires_grad=wanted))
        ys.sum().backward()
    first, second = plan_of(cell, (I,))[0].body.reverses.values()
    shapes = [[t.shape[1] for t in reverse.plan.step.emits] for reverse in (first, second)]
    assert sum(shapes[1]) == sum(shapes[0]) + I


def test_frozen_parameters_get_no_gradient_and_cost_none():
    cell = make("LSTM")
    task = case(cell)
    cell.W_hf.requires_grad = cell.b_o.requires_grad = False
    expected = run(tr.unroll, cell, task, order=0)
    ys, final = tr.scan(cell, task.xs[0], task.state)
    assert_equal([[y.data for y in (ys, *final)]], expected, "float64")
    mixed([ys, *final], task.weights).backward()
    assert cell.W_hf.grad is None
    assert cell.b_o.grad is None
    by_scan = {n: p.grad.data for n, p in cell.named_parameters() if p.requires_grad}
    cell.zero_grad()
    ys, final = tr.unroll(cell, task.xs[0], task.state)
    mixed([ys, *final], task.weights).backward()
    for n, g in by_scan.items():
        np.testing.assert_allclose(g, dict(cell.named_parameters())[n].grad.data, rtol=0, atol=1e-12)

    for p in cell.parameters():
        p.requires_grad = False
    ys, _ = tr.scan(cell, task.xs[0])
    assert ys.is_leaf
    cell.b_o.requires_grad = True  # after a plan was made
    check(cell, task)


def test_without_gradients_nothing_is_kept():
    cell = LSTM(4, 16, rng=0)
    xs = np.random.default_rng(0).normal(size=(2000, 2, 4)).astype("float32")

    def measure(grad):
        with tr.enable_grad() if grad else tr.no_grad():
            tr.scan(cell, xs)
            gc.collect()
            tracemalloc.start()
            results = tr.scan(cell, xs)
            held = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
        return held, results

    recorded, _ = measure(True)
    held, (ys, (h, c)) = measure(False)
    assert ys.is_leaf
    assert h.is_leaf
    assert c.is_leaf
    assert held < ys.size * 4 * 1.1 + 10_000 < recorded


def test_a_step_of_a_thousand_ops():
    class Deep(tr.Cell):
        def __init__(self):
            super().__init__(3, 3, dtype="float64", rng=0)
            self.w = self.param(3)

        def step(self, x, h):
            for _ in range(300):
                h = x - (self.w + tr.tanh(0.5 * h))
            return h

    cell, xs = Deep(), tr.tensor(np.random.default_rng(0).normal(size=(2, 2, 3)), requires_grad=True)
    found = [
        [ys, tr.grad((ys * ys).sum(), [xs, cell.w])] for ys in (loop(cell, xs)[0] for loop in (tr.scan, tr.unroll))
    ]
    for ours, theirs in zip(*[[ys, *grads] for ys, grads in found], strict=True):
        np.testing.assert_allclose(ours.data, theirs.data, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "join", [lambda a, b: 0.5 * a - 0.5 * b, lambda a, b: (a + b) * 0.5, lambda a, b: a + b], ids=["-", "*", "+"]
)
def test_a_step_whose_values_are_read_again_and_again(join):
    """Its plan takes time in proportion to its ops, not to the ways through them."""

    def step(p, x, h):
        a, b = h @ p.U, x @ p.W
        for _ in range(60):
            a, b = b, join(a, b)
        b = b / 1e12  # Fibonacci's numbers grow
        return b * tr.sigmoid(b)

    cell = OddCell(step, {"U": (H, H), "W": (I, H)}, ("h",), (H,), dtype="float64")
    check(cell, case(cell))


def test_long_sums_round_the_same_with_and_without_gradients():
    """A product of several blocks of columns that adds itself to a value must do so whatever is kept."""

    class Both(tr.Cell):
        def __init__(self):
            super().__init__(1500, 1500, dtype="float32", rng=0)
            self.W = self.param((1500, 1500))

        def step(self, x, h):
            return tr.tanh(tr.sigmoid(h * x) + h @ self.W)  # the reverse reads the sigmoid, so training keeps it

    cell, xs = Both(), np.random.default_rng(0).normal(size=(3, 2, 1500)).astype("float32")
    with tr.no_grad():
        quiet = tr.scan(cell, xs)[0].data
    assert_same_bits([tr.scan(cell, xs)[0].data], [quiet])


@pytest.mark.parametrize("size", [1, 5, 37, 300])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_squares_are_added_up_without_being_stored(size, dtype):
    """To the bits of two ops, as `unroll` has them: there is no product, so all else is the same."""

    class Shrinking(tr.Cell):
        def step(self, x, h):
            return tr.tanh(x + h) / (1 + tr.sum(tr.square(h), axis=1, keepdims=True))

    cell = Shrinking(size, size, dtype=dtype)
    assert any("sum of squares" in line for line in explanation_of(cell).forward.instructions)
    xs = np.random.default_rng(0).normal(size=(4, 3, size)).astype(dtype)
    with tr.no_grad():
        assert_same_bits([tr.scan(cell, xs)[0].data], [tr.unroll(cell, xs)[0].data])
    check(cell, case(cell))


@pytest.mark.parametrize(("size", "dtype"), [(1100, "float32"), (531, "float64")])
def test_a_bias_is_added_once_to_a_product_of_several_blocks(size, dtype):
    cell = tr.cells.GRU(7, size, dtype=dtype, rng=0)
    tr.init.apply(cell, {"b_*": tr.init.uniform})
    xs = np.random.default_rng(0).normal(size=(2, 9, 7)).astype(dtype)
    with tr.no_grad():
        found, expected = tr.scan(cell, xs)[0].data, tr.unroll(cell, xs)[0].data
    np.testing.assert_allclose(found, expected, atol=TOLERANCE[dtype])


def test_the_largest_of_what_is_computed_again_is_found_again():
    """A maximum's gradient goes where it was: what it is of must not be computed again with another rounding."""

    def step(p, x, a, b):
        top = tr.layer_norm(b + p.b).max(axis=1, keepdims=True)
        return tr.broadcast_to(top, b.shape) @ p.W, b

    cell = OddCell(step, {"b": (9,), "W": (9, 3)}, ("a", "b"), (3, 9), dtype="float64", rng=0)
    cell.b.data[...] = np.linspace(-1, 1, 9)
    for seed in range(5):
        check(cell, case(cell, rows=20, seed=seed))


def test_sums_over_many_steps_lose_no_digits():
    """The gradient of what meets a state element by element is added up in the loop: 16 terms at a time."""
    x = np.full((8_000, 1, I), np.linspace(0.6, 0.7, I))  # alike, so that roundings do not cancel

    def gradients(dtype):
        cell = OddCell(lambda p, x, h: x + p.a * h, {"a": (I,)}, ("h",), (I,), dtype=dtype)
        cell.a.data[...] = 0.25
        tr.scan(cell, x.astype(dtype))[0].sum().backward()
        return cell.a.grad

    np.testing.assert_allclose(gradients("float32"), gradients("float64"), rtol=1e-6)


@pytest.mark.parametrize("name", WIDTHS)
def test_values_have_the_same_bits_with_and_without_gradients(name):
    cell = cell_of(name, "float32")
    task = case(cell, WIDTHS[name], lengths=RAGGED)
    with tr.no_grad():
        ys, final = tr.scan(cell, tuple(task.xs), task.state, lengths=task.lengths)
    assert_same_bits(run(tr.scan, cell, task, order=0)[0], [ys.data, *(f.data for f in final)])


@some_cells
def test_a_kept_graph_can_be_used_again(name):
    """Gradients, then gradients of gradients to third order, then the same gradients again."""
    cell = cell_of(name)
    task = case(cell, WIDTHS[name], steps=4)
    check(cell, task, order=3)
    ys, final = tr.scan(cell, tuple(task.xs), task.state)
    loss = mixed([ys, *final], task.weights)
    leaves = cell.parameters()
    first = tr.grad(loss, leaves, retain_graph=True)
    graph = tr.grad(loss, leaves, create_graph=True)
    tr.grad(functools.reduce(tr.add, ((g * g).sum() for g in graph)), leaves, retain_graph=True)
    last = tr.grad(loss, leaves)
    for found in (graph, last):
        assert_same_bits([g.data for g in found], [g.data for g in first])


def test_keeps_no_more_than_the_reverse_reads():
    """In training, what a step of an LSTM keeps: gates, candidate, tanh of the cell state and the states."""
    cell = LSTM(4, 16, rng=0)
    xs = np.random.default_rng(0).normal(size=(2000, 2, 4)).astype("float32")
    tr.scan(cell, xs)
    gc.collect()
    tracemalloc.start()
    results = tr.scan(cell, xs)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert results[0].requires_grad
    assert held / (2000 * 2 * 16 * 4) <= 12


@pytest.mark.parametrize("name", ["LSTM", "GRU", "LSTM(peephole)", "MUT1"])
def test_a_graph_that_goes_is_written_over(name):
    """Gradients take the place of the kept values; where the graph stays they have memory of their own, the same bits,
    and where it went it can not be used again.
    """
    cells = {
        "LSTM": LSTM(4, 16, rng=0), "GRU": GRU(4, 16, rng=0), "MUT1": MUT1(4, 16, rng=0),
        "LSTM(peephole)": LSTM(4, 16, peephole="diagonal", rng=0),
    }  # fmt: skip
    cell, xs = cells[name], np.random.default_rng(0).normal(size=(2000, 2, 4)).astype("float32")
    seed = np.ones((2000, 2, 16), "float32")
    taken, found = {}, {}
    for stays in (True, False, True):
        cell.zero_grad()
        ys, _ = tr.scan(cell, xs)
        gc.collect()
        tracemalloc.start()
        ys.backward(seed, retain_graph=stays)
        taken[stays] = tracemalloc.get_traced_memory()[1] / (2000 * 2 * 16 * 4)
        tracemalloc.stop()
        found[stays] = [p.grad.numpy().copy() for p in cell.parameters()]
    assert_same_bits(found[True], found[False])
    assert taken[False] < taken[True] - 1.9
    ys, _ = tr.scan(cell, xs)
    ys.backward(seed)
    with pytest.raises(RuntimeError, match="freed"):
        ys.backward(seed)


def test_what_others_hold_is_not_written_over():
    """Outputs and final states, of cells whose outputs are kept for the reverse, too."""
    for name in WIDTHS:
        cell = cell_of(name)
        task = case(cell, WIDTHS[name])
        ys, final = tr.scan(cell, tuple(task.xs), task.state)
        before = [np.array(t) for t in (ys, *final)]
        loss = mixed([ys, *final], task.weights)
        if loss.requires_grad:
            loss.backward()
        assert_same_bits([t.numpy() for t in (ys, *final)], before)


# -- what no result shows ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    shutil.which("objdump") is None or platform.machine() not in ("x86_64", "AMD64"),
    reason="reads the instructions of x86-64 with objdump",
)
def test_what_is_fetched_ahead_is_in_the_object():
    """GCC took the function that does nothing but prefetch for pure, and left out its calls: only time was lost."""
    found = subprocess.run(["objdump", "-d", kernels.__file__], capture_output=True, text=True, check=True).stdout
    assert found.count("prefetcht1") >= 2 * len(kernels.isas())  # of each instruction set, for both dtypes
