"""The compiled loop against the step-by-step one: values, final states, gradients of any order, for any cell."""

import ctypes
import functools
import gc
import platform
import shutil
import subprocess
import tracemalloc
import weakref
from collections import Counter
from dataclasses import replace

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
from tinyrnn._core.tape import TraceError, wrap
from tinyrnn.cells import GRU, LSTM, MUT1, Elman, LayerNormLSTM
from tinyrnn.plan import checkpoint, plan_of
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


# -- parameters, attributes, cells in cells ----------------------------------------------------------------------------


def by_assignment(p):
    p.data = -p.data


def in_place(p):
    p.data[...] *= -1.0


def by_a_view(p):
    p.detach().data[0] += 1.0


def by_numpy(p):
    np.asarray(p)[0] = 3.0


def by_an_optimiser(p):
    p.grad = tr.tensor(np.ones(p.shape), dtype=p.dtype)
    tr.optim.SGD([p], lr=0.5).step()


@pytest.mark.parametrize("change", [by_assignment, in_place, by_a_view, by_numpy, by_an_optimiser])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "Elman", "LSTM-layer-norm"])
def test_merged_parameters_follow_their_changes(change, name):
    """Without gradients they are merged and packed once for the same values; also where the array was held before and
    is still. Elman's are not merged, one of GRU's is not.
    """
    cell = {
        "LSTM": lambda: LSTM(3, 5, peephole="diagonal", dtype="float64", rng=0),
        "GRU": lambda: GRU(3, 5, dtype="float64", rng=0),
        "Elman": lambda: Elman(3, 5, dtype="float64", rng=0),
        "LSTM-layer-norm": lambda: LayerNormLSTM(3, 5, dtype="float64", rng=0),
    }[name]()
    xs = np.random.default_rng(1).normal(size=(4, 2, 3))
    parameters = cell.parameters()
    with tr.no_grad():
        for held in (None, parameters[0].data, None):
            for _ in range(2):
                for p in parameters:
                    tr.scan(cell, xs)
                    change(p)
                    np.testing.assert_allclose(tr.scan(cell, xs)[0], tr.unroll(cell, xs)[0], rtol=1e-12, atol=1e-13)
                if held is not None:
                    held *= 0.5
                    np.testing.assert_allclose(tr.scan(cell, xs)[0], tr.unroll(cell, xs)[0], rtol=1e-12, atol=1e-13)


def test_merged_parameters_are_made_once():
    cell, xs = LSTM(3, 5, rng=0), np.zeros((4, 2, 3), "float32")
    with tr.no_grad():
        tr.scan(cell, xs)
        plan, _ = plan_of(cell, (3,), 2)
        before = plan._known
        tr.scan(cell, xs)
        assert before is not None
        assert plan._known is before
    (tr.scan(cell, xs)[0].sum()).backward()
    assert plan._known is before, "what gradients flow through is made anew"


def test_weights_are_packed_once_for_the_same_values():
    """What a run would pack is broken after the first one, unseen by the tape: as only a test may."""
    cell = Elman(3, 5, rng=0)
    xs = np.random.default_rng(1).normal(size=(4, 2, 3)).astype("float32")
    with tr.no_grad():
        before = tr.scan(cell, xs)[0].numpy()
        whole = cell.W_h._array.copy()
        memory = (ctypes.c_char * cell.W_h._array.nbytes).from_address(cell.W_h._array.ctypes.data)
        memory[:] = bytes(len(memory))
        np.testing.assert_array_equal(tr.scan(cell, xs)[0], before)
        memory[:] = whole.tobytes()
        cell.W_h.data = whole
        np.testing.assert_array_equal(tr.scan(cell, xs)[0], before)
        cell.W_h.data = 2 * whole
        assert np.abs(tr.scan(cell, xs)[0].numpy() - before).max() > 0.01


def test_parameters_may_change_between_calls():
    cell = make("GRU")
    task = case(cell)
    check(cell, task)
    optimiser = tr.optim.Adam(cell.parameters(), lr=0.1)
    for _ in range(2):
        ys, _ = tr.scan(cell, task.xs[0])
        cell.zero_grad()
        (ys * ys).sum().backward()
        optimiser.step()
        check(cell, task)
    cell.load_state_dict({n: 0.5 * p for n, p in cell.state_dict().items()})
    check(cell, task)


def test_attributes_may_be_replaced():
    cell = Elman(I, H, dtype="float64", rng=0)
    task = case(cell)
    check(cell, task)
    cell.activation = tr.relu
    assert (tr.scan(cell, task.xs[0])[0].data == 0).any()
    check(cell, task)
    cell.W_x = tr.Parameter(0.1 * np.ones((I, H)))
    check(cell, task)
    cell.W_h = cell.W_h  # the same again
    plan, _ = plan_of(cell, (I,))
    cell.W_h = cell.W_h
    assert plan_of(cell, (I,))[0] is plan


def test_what_stands_in_lists_and_sub_modules_may_be_replaced():
    def step(p, x, h):
        return tr.tanh(p.linear[0](x) * p.scales["x"] + p.layers[1](h) + h @ p.W[0] * p.numbers[0])

    cell = OddCell(step, {}, ("h",), (H,), dtype="float64")
    rng = np.random.default_rng(0)
    cell.linear = (tr.nn.Linear(I, H, dtype="float64", rng=rng),)
    cell.layers = [None, tr.nn.Linear(H, H, bias=False, dtype="float64", rng=rng)]
    cell.W, cell.numbers, cell.scales = [cell.param((H, H))], [0.5], {"x": 2.0}
    task = case(cell)
    check(cell, task)
    for change in (
        lambda: cell.W.__setitem__(0, tr.Parameter(np.eye(H))),
        lambda: cell.layers.__setitem__(1, tr.nn.Linear(H, H, dtype="float64", rng=rng)),
        lambda: cell.numbers.__setitem__(0, -1.0),
        lambda: cell.scales.update(x=tr.Parameter(np.ones(H))),
        lambda: setattr(cell.linear[0], "b", tr.Parameter(np.ones(H))),
    ):
        change()
        check(cell, task)


def test_constants_of_one_element_are_read_at_every_call():
    def step(p, x, h):
        return tr.tanh(x[:, :1] * p.k + h * p.g) * p.s

    cell = OddCell(step, {"g": (), "s": (1,)}, ("h",), (H,), dtype="float64")
    cell.k = tr.tensor(0.5, dtype="float64")
    cell.s.requires_grad = False
    task = case(cell)
    check(cell, task)
    cell.k.data, cell.g.data, cell.s.data = np.array(-2.0), np.array(0.3), np.array([0.9])
    check(cell, task)
    cell.s.requires_grad, cell.g.requires_grad = True, False
    check(cell, task)


def test_cells_may_share_parameters():
    one, other = make("LSTM"), make("LSTM", seed=1)
    other.W_xi = other.W_xo = one.W_xi
    other.b_f = one.b_g
    xs = case(one).xs[0]

    def grads(loop):
        ys, _ = loop(one, xs)
        zs, _ = loop(other, xs, reverse=True)
        both = list({id(p): p for p in (*one.parameters(), *other.parameters())}.values())
        return [g.data for g in tr.grad((ys * zs).sum(), both)]

    assert_equal([grads(tr.scan)], [grads(tr.unroll)], "float64")


def test_a_learned_initial_state():
    class Learned(Elman):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.start = self.param(self.hidden_size)

        def initial_state(self, batch):
            return (tr.broadcast_to(self.start, (batch, self.hidden_size)),)

    cell = Learned(I, H, dtype="float64", rng=0)
    xs = case(cell).xs[0]
    for options in ({}, {"reverse": True}, {"lengths": RAGGED}):
        found = []
        for loop in (tr.unroll, tr.scan):
            ys, (h,) = loop(cell, xs, **options)
            found.append([[ys.data, h.data], [g.data for g in tr.grad((ys * ys).sum() + h.sum(), cell.parameters())]])
        assert_equal(*found, "float64")


def test_scans_one_on_another():
    """A bidirectional layer, a layer above it, and a decoder that starts from its final state."""
    rng = np.random.default_rng(0)
    there, back = GRU(I, H, dtype="float64", rng=rng), GRU(I, H, dtype="float64", rng=rng)
    above, decoder = LSTM(2 * H, H, dtype="float64", rng=rng), LSTM(H, H, dtype="float64", rng=rng)
    parameters = [p for cell in (there, back, above, decoder) for p in cell.parameters()]
    x = tr.tensor(rng.normal(size=(6, 4, I)), requires_grad=True)

    def grads(loop):
        both = [loop(there, x, lengths=RAGGED)[0], loop(back, x, lengths=RAGGED, reverse=True)[0]]
        ys, state = loop(above, tr.concat(both, 2), lengths=RAGGED)
        zs, _ = loop(decoder, ys[::2], state)
        loss = (zs * zs).sum()
        first = tr.grad(loss, [x, *parameters], create_graph=True)
        second = tr.grad((first[0] * first[0]).sum(), [x, *parameters], allow_unused=True)
        return [[zs.data], [g.data for g in first], [g.data for g in second if g is not None]]

    assert_equal(grads(tr.scan), grads(tr.unroll), "float64")


# -- one plan ----------------------------------------------------------------------------------------------------------


def test_one_plan_serves_any_length_and_batch():
    cell = make("LSTM")
    plan, params = plan_of(cell, (3,))
    for steps, rows in ((1, 1), (5, 2), (3, 7)):
        check(cell, case(cell, steps=steps, rows=rows))
    assert plan_of(cell, (3,))[0] is plan
    assert {id(p) for p in params} == {id(p) for p in cell.parameters()}


def test_further_inputs_of_another_width_make_another_plan():
    cell = cell_of("masked")
    narrow = case(cell, (I, 1))
    wide = replace(narrow, xs=[narrow.xs[0], np.repeat(narrow.xs[1], H, axis=2)])
    check(cell, narrow)
    check(cell, wide)
    assert_equal(run(tr.scan, cell, wide, order=0), run(tr.scan, cell, narrow, order=0), "float64")


def test_a_plan_goes_with_its_cell():
    cell = cell_of("blocks")
    check(cell, case(cell))
    gone = [weakref.ref(cell), weakref.ref(cell.W), weakref.ref(plan_of(cell, (I,))[0])]
    del cell
    gc.collect()
    assert [r() for r in gone] == [None] * 3


# -- arrays of any layout ----------------------------------------------------------------------------------------------


LAYOUTS = {
    "Fortran": np.asfortranarray,
    "backwards": lambda a: a[::-1, ::-1, ::-1] if a.ndim == 3 else a[::-1, ::-1],
    "every other": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "one value repeated": lambda a: np.broadcast_to(a[:1], a.shape),
    "one column repeated": lambda a: np.broadcast_to(a[..., :1], a.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["LSTM", "the_input_inside", "three_inputs"])
def test_arrays_of_any_layout(layout, name):
    cell, view = cell_of(name), LAYOUTS[layout]
    for steps in (4, 5):  # the two buffers of a state take turns
        task = case(cell, WIDTHS[name], steps)
        odd = [[view(a) for a in arrays] for arrays in (task.xs, task.state)]
        plain = replace(task, xs=[a.copy() for a in odd[0]], state=[a.copy() for a in odd[1]])
        expected = run(tr.unroll, cell, plain)
        xs, state = (tuple(map(wrap, arrays)) for arrays in odd)
        ys, final = tr.scan(cell, xs, state)
        assert_equal([[y.data for y in (ys, *final)]], expected[:1], "float64")
        grads = tr.grad(mixed([ys, *final], task.weights), cell.parameters()) if cell.parameters() else []
        assert_equal([[g.data for g in grads]], [expected[1][len(xs) + len(state) :]], "float64")


def test_padding_is_never_read():
    cell = make("LSTM")
    clean = case(cell, lengths=RAGGED)
    dirty = replace(clean, xs=[clean.xs[0].copy()])
    for b, end in enumerate(RAGGED):
        dirty.xs[0][end:, b] = np.nan
    for found, expected in zip(run(tr.scan, cell, dirty), run(tr.scan, cell, clean), strict=True):
        assert_same_bits(found, expected)


def test_arguments_and_results_are_left_alone():
    cell = make("LSTM")
    task = case(cell)
    before = [a.copy() for a in (*task.xs, *task.state)]
    ys, final = tr.scan(cell, task.xs[0], task.state)
    assert_same_bits([*task.xs, *task.state], before)
    again, _ = tr.scan(cell, 0 * task.xs[0], task.state)
    assert not any(np.shares_memory(a.data, b) for a in (ys, again, *final) for b in before)
    assert not np.shares_memory(ys.data, again.data)
    with pytest.raises(ValueError, match="read-only"):
        ys.data[...] = 0


@pytest.mark.parametrize("cell", [LSTM(I, H, peephole="diagonal", rng=0), GRU(I, H, rng=0), LSTM(I, H, rng=0)])
@pytest.mark.parametrize("steps", [0, 1, 6])
@any_length
def test_what_is_written_into_results_changes_no_later_run(cell, steps, lengths):
    """Nothing that is held from run to run, states of zeros and numbers of the step among it, is given away."""
    xs = np.random.default_rng(0).normal(size=(steps, 4, I)).astype("float32")
    lengths = None if lengths is None else np.minimum([3, steps, 0, 1], steps)

    def results():
        ys, final = tr.scan(cell, xs, lengths=lengths)
        return [t.data for t in (ys, *final)]

    for context in (tr.no_grad(), tr.enable_grad()):
        with context:
            found = results()
            expected = [a.copy() for a in found]
            for a in found:
                assert a.flags.c_contiguous
                ctypes.memset(a.ctypes.data, 0xFF, a.nbytes)  # NaN, though the array may be read-only
            again = results()
        assert_same_bits(again, expected)
        assert not any(np.shares_memory(a, b) for a in again for b in found)


# -- long sequences ----------------------------------------------------------------------------------------------------


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


# -- what can not be compiled ------------------------------------------------------------------------------------------


def leak(p, x, h):
    p.seen = h
    return h


REFUSED = {
    "a branch on values": (
        lambda p, x, h: h if float(h.sum(axis=1)[0]) > 0 else 2.0 * h,
        "rows of the batch would depend",
    ),
    "values as an array": (lambda p, x, h: tr.tensor(np.tanh(h.data)), r"'h' of shape \(B, 6\) has no value yet"),
    "a row of the batch": (lambda p, x, h: h - h[:1], "the rows of the batch would depend on one another"),
    "a mean over the batch": (lambda p, x, h: h - h.mean(axis=0), r"sum of \(B, 6\) gives \(6,\)"),
    "rows in the columns": (lambda p, x, h: tr.tanh(h.T).T, r"transpose of \(B, 6\) gives \(6, B\)"),
    "another shape": (lambda p, x, h: h[:, :3], r"must return the new states \(h \(B, 6\) float64\), got \(\(B, 3\)"),
    "another dtype": (lambda p, x, h: h.astype("float32"), r"got \(\(B, 6\) float32\)"),
    "two dtypes": (lambda p, x, h: h + tr.tensor(np.ones(6, "float32")), "one dtype"),
    "a tensor kept": (leak, r"keeps a tensor of the step in self\.seen"),
    "a value cut off": (lambda p, x, h: tr.tanh(h).detach() + h, "tr.stop_gradient"),
    "an array of all rows": (lambda p, x, h: h + np.ones(h.shape), r"an array of shape \(B, 6\).*make it of one row"),
    "a fixed batch": (
        lambda p, x, h: h + np.ones((4, 6)),
        "what has a fixed batch must come as a time input or a state",
    ),
    "random numbers": (lambda p, x, h: tr.dropout(h, 0.5, p.rng), "draw the mask outside"),
    "a product of values": (lambda p, x, h: (h[:, None, :] @ h[:, :, None]).reshape(-1, 1) * h, "matmul of shapes"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_can_not_be_compiled_is_told_with_the_line(what):
    step, message = REFUSED[what]
    cell = OddCell(step, {}, ("h",), (H,), dtype="float64")
    with pytest.raises((ValueError, TypeError, TraceError), match=message) as caught:
        tr.scan(cell, np.ones((3, 4, I)))
    text = str(caught.value)
    assert text.startswith("OddCell.step")
    assert ("test_scan.py:" in text) == (what not in ("another shape", "another dtype", "a tensor kept"))
    assert ("tr.unroll" in text) == (what not in ("another shape", "another dtype", "two dtypes"))
    assert not hasattr(cell, "seen")


# -- what no result shows ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    shutil.which("objdump") is None or platform.machine() not in ("x86_64", "AMD64"),
    reason="reads the instructions of x86-64 with objdump",
)
def test_what_is_fetched_ahead_is_in_the_object():
    """GCC took the function that does nothing but prefetch for pure, and left out its calls: only time was lost."""
    found = subprocess.run(["objdump", "-d", kernels.__file__], capture_output=True, text=True, check=True).stdout
    assert found.count("prefetcht1") >= 2 * len(kernels.isas())  # of each instruction set, for both dtypes
