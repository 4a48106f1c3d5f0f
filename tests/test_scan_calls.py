"""Calls of `scan` around its plans: parameters that change, plans that are shared, arrays of any layout, errors."""

import ctypes
import gc
import tracemalloc
import weakref
from dataclasses import replace

import numpy as np
import pytest
from cell_table import make
from scan_cases import (
    RAGGED,
    WIDTHS,
    any_length,
    assert_equal,
    assert_same_bits,
    case,
    cell_of,
    check,
    mixed,
    run,
)
from scan_cells import H, I, OddCell

import tinyrnn as tr
from tinyrnn._core.tape import TraceError, wrap
from tinyrnn.cells import GRU, LSTM, Elman, LayerNormLSTM
from tinyrnn.plan import plan_of

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


@pytest.mark.parametrize("Cell", [LSTM, LayerNormLSTM])
def test_merged_parameters_are_made_once(Cell):
    """Also where numbers of the step's own have a part in them: layer norm's weights less their rows' means."""
    cell, xs = Cell(3, 5, rng=0), np.zeros((4, 2, 3), "float32")
    with tr.no_grad():
        tr.scan(cell, xs)
        plan, _ = plan_of(cell, (3,), 2)
        before = plan._known
        tr.scan(cell, xs)
        assert before is not None
        assert plan._known is before
        x = 0  # the slot of the input
        assert all(x in inputs for _, inputs, *_ in plan._ahead.actions), "what else is made at every call"
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


def test_recording_computes_nothing_for_each_row():
    """The rows of a step are counted in a million while it is recorded: what repeats parameters has no values then."""

    def step(p, x, h):
        wide = tr.layer_norm(tr.broadcast_to(p.b, h.shape))
        return tr.tanh(h + wide * tr.broadcast_to(p.b, (h.shape[0], H)))

    cell = OddCell(step, {"b": (H,)}, ("h",), (H,), dtype="float64", rng=0)
    tracemalloc.start()
    plan_of(cell, (I,), 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000
    check(cell, case(cell))


# -- arrays of any layout ----------------------------------------------------------------------------------------------


LAYOUTS = {
    "Fortran": np.asfortranarray,
    "backwards": lambda a: a[::-1, ::-1, ::-1] if a.ndim == 3 else a[::-1, ::-1],
    "every other": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "one value repeated": lambda a: np.broadcast_to(a[:1], a.shape),
    "one column repeated": lambda a: np.broadcast_to(a[..., :1], a.shape),
}


def one_column(p, x, h):
    return tr.tanh(0.5 * h + x) + tr.sigmoid(x)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["LSTM", "the_input_inside", "three_inputs", "one column"])
def test_arrays_of_any_layout(layout, name):
    one = name == "one column"
    cell = OddCell(one_column, {}, ("h",), (1,), 1, dtype="float64") if one else cell_of(name)
    widths, view = (1,) if one else WIDTHS[name], LAYOUTS[layout]
    for steps in (4, 5):  # the two buffers of a state take turns
        task = case(cell, widths, steps)
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
    assert ("test_scan_calls.py:" in text) == (what not in ("another shape", "another dtype", "a tensor kept"))
    assert ("tr.unroll" in text) == (what not in ("another shape", "another dtype", "two dtypes"))
    assert not hasattr(cell, "seen")
