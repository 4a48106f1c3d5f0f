"""`tr.flow.trace`: values and gradients of every step, against the same step run row by row on the tape, where each
value and each step's own copy of the parameters is asked for its gradient by itself."""

import copy

import numpy as np
import pytest
from cell_table import CELLS
from hypothesis import given
from hypothesis import strategies as st
from scan_cases import WIDTHS, cell_of

import tinyrnn as tr
from tinyrnn import flow
from tinyrnn.search import RandomCell, descriptions

T, B = 4, 3
RAGGED = [2, 4, 0]


def weighted(cell, steps=T, rows=B, seed=5):
    """A loss that reads every output and every final state, each element by its own weight."""
    rng = np.random.default_rng(seed)
    ys_weights = rng.normal(size=(steps, rows, cell.state_sizes[0]))
    weights = [rng.normal(size=(rows, n)) for n in cell.state_sizes]

    def loss_fn(ys, finals):
        loss = (ys * ys_weights.astype(cell.dtype)).sum()
        for s, w in zip(finals, weights, strict=True):
            loss = loss + (s * w.astype(cell.dtype)).sum()
        return loss

    return loss_fn


def case(cell, widths=None, steps=T, rows=B, seed=1):
    rng = np.random.default_rng(seed)
    xs = [rng.normal(size=(steps, rows, n)).astype(cell.dtype) for n in widths or (cell.input_size,)]
    return xs, [np.tanh(rng.normal(size=(rows, n))).astype(cell.dtype) for n in cell.state_sizes]


def one_by_one(cell, xs, state, loss_fn, lengths=None, reverse=False):
    """What `trace` gives, as plain arrays by name, from a loop over rows and steps."""
    steps, rows = xs[0].shape[:2]
    ends = [steps] * rows if lengths is None else lengths
    cells = [copy.deepcopy(cell) for _ in range(steps)]
    inputs = [tr.tensor(x, requires_grad=True) for x in xs]
    firsts = [tr.tensor(s, requires_grad=True) for s in state]
    nodes, ys, finals = {}, [], []
    for b in range(rows):
        here, shown = [s[b : b + 1] for s in firsts], {}
        for t in range(ends[b])[::-1] if reverse else range(ends[b]):
            before = [x[t, b : b + 1] for x in inputs] + here
            with tr.probes() as seen:
                got = cells[t].step(*before)
            got = got if isinstance(got, tuple) else (got,)
            here = [s + 0.0 if any(s is u for u in before) else s for s in got]  # passed on: a value of its own
            shown[t] = here[0]
            nodes |= {("states", name, t, b): s for name, s in zip(cell.states, here, strict=True)}
            for name, values in seen.items():
                for k, v in enumerate(v for v in values if v.shape[:1] == (1,)):
                    nodes["probes", f"{name}_{k + 1}" if k else name, t, b] = v
        zero = tr.tensor(np.zeros((1, cell.state_sizes[0])), dtype=cell.dtype)
        ys.append(tr.stack([shown.get(t, zero) for t in range(steps)]))
        finals.append(here)
    loss = loss_fn(tr.concat(ys, 1), tuple(tr.concat(list(s)) for s in zip(*finals, strict=True)))
    names = [name for name, _ in cell.named_parameters()]
    params = [p for c in cells for p in c.parameters()]
    leaves = [*nodes.values(), *inputs, *firsts, *params]
    grads = [
        np.zeros(t.shape) if g is None else g.data
        for t, g in zip(leaves, tr.grad(loss, leaves, allow_unused=True), strict=True)
    ]
    found = {"inputs": grads[len(nodes) : len(nodes) + len(xs)], "values": {}, "gradients": {}}
    found["first"] = grads[len(nodes) + len(xs) : len(leaves) - len(params)]
    parts = grads[len(leaves) - len(params) :]
    found["parts"] = {name: np.array(parts[k :: len(names)]) for k, name in enumerate(names)}
    for ((kind, name, t, b), node), g in zip(nodes.items(), grads, strict=False):
        for key, row in (("values", node.data), ("gradients", g)):
            whole = found[key].setdefault((kind, name), np.zeros((steps, rows, *(row.shape[1:] or (1,)))))
            whole[t, b] = row[0]
    return found


def assert_close(found, expected, tolerance):
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * max(1.0, np.abs(expected).max(initial=0)))


def check(cell, xs, state, loss_fn, lengths=None, reverse=False, tolerance=1e-12):
    kwargs = {"lengths": lengths, "reverse": reverse}
    expected = one_by_one(cell, xs, state, loss_fn, **kwargs)
    found = flow.trace(cell, tuple(xs), loss_fn, tuple(state), parts=True, **kwargs)
    signals = {("states", name): s for name, s in found.states.items()}
    signals |= {("probes", name): s for name, s in found.probes.items()}
    if lengths is None or max(lengths):
        assert {key for key in signals if key[0] == "states" or key in expected["values"]} == set(expected["values"])
    for key, values in expected["values"].items():
        assert_close(signals[key].values, values, tolerance)
        assert_close(signals[key].gradients, expected["gradients"][key], tolerance)
        flat = expected["gradients"][key].reshape(*values.shape[:2], -1)
        assert_close(signals[key].norms, np.linalg.norm(flat, axis=-1), tolerance)
    for signal, x, g in zip(found.inputs, xs, expected["inputs"], strict=True):
        assert_close(signal.values, x, 0)
        assert_close(signal.gradients, g, tolerance)
    for signal, s, g in zip(found.first.values(), state, expected["first"], strict=True):
        assert_close(signal.values, s, 0)
        assert_close(signal.gradients, g, tolerance)
        assert_close(signal.norms, np.linalg.norm(g, axis=-1), tolerance)
    assert set(found.parameters) == set(expected["parts"])
    briefly = flow.trace(cell, tuple(xs), loss_fn, tuple(state), **kwargs)
    for name, parts in expected["parts"].items():
        norms = np.linalg.norm(parts.reshape(len(parts), -1), axis=-1)
        assert_close(found.parameters[name].parts, parts, tolerance)
        assert_close(found.parameters[name].norms, norms, tolerance)
        assert_close(briefly.parameters[name].norms, norms, tolerance * 100)
        assert briefly.parameters[name].parts is None


@pytest.mark.parametrize("name", WIDTHS)
def test_every_value_has_the_gradient_of_the_tape(name):
    cell = cell_of(name)
    xs, state = case(cell, WIDTHS[name])
    check(cell, xs, state, weighted(cell))
    check(cell, xs, state, weighted(cell), RAGGED, reverse=True)


@given(descriptions(), st.sampled_from([None, RAGGED]), st.booleans())
def test_random_cells(made, lengths, reverse):
    cell = RandomCell(made, 3, 2, dtype="float64", rng=0)
    xs, state = case(cell, [3] * made.inputs)
    check(cell, xs, state, weighted(cell), lengths, reverse)


@pytest.mark.parametrize("lengths", [[0, 0, 0], [1, 0, 0], [2, 2, 2]])
def test_rows_of_no_steps(lengths):
    cell = cell_of("LSTM-diagonal")
    xs, state = case(cell)
    check(cell, xs, state, weighted(cell), lengths)
    check(cell, xs, state, weighted(cell), lengths, reverse=True)


@pytest.mark.parametrize("name", ["LSTM", "GRU-after", "Odyssey-FGR"])
def test_single_precision(name):
    cell = cell_of(name, "float32")
    xs, state = case(cell)
    check(cell, xs, state, weighted(cell), RAGGED, tolerance=1e-5)


@pytest.mark.parametrize("lengths", [None, [9, 0, 4, 9, 1]], ids=["whole", "ragged"])
@pytest.mark.parametrize("name", ["LSTM", "LSTM-diagonal", "GRU", "LayerNormLSTM", "parameters_of_parameters"])
def test_the_parts_of_a_gradient_sum_to_it(name, lengths):
    """The gradient is that of an ordinary backward pass."""
    cell = cell_of(name)
    xs, state = case(cell, WIDTHS[name], 9, 5)
    loss_fn = weighted(cell, 9, 5)
    found = flow.trace(cell, tuple(xs), loss_fn, tuple(state), lengths=lengths, parts=True)
    loss = loss_fn(*tr.scan(cell, tuple(xs), tuple(state), lengths=lengths))
    loss.backward()
    assert found.loss == pytest.approx(loss.item(), rel=1e-14)
    for name, p in cell.named_parameters():
        assert_close(found.parameters[name].parts.sum(0), p.grad.data, 1e-12)


def test_finite_differences():
    """A small change of the cell state behind step 2 changes the loss as the trace says."""
    cell = cell_of("LSTM")
    (xs,), state = case(cell)
    loss_fn = weighted(cell)
    found = flow.trace(cell, xs, loss_fn, state)
    ys, between = tr.scan(cell, xs[:3], state)
    i, f, o, g = (found.probes[k].values[2] for k in "ifog")
    c, direction = between[1].data, np.random.default_rng(0).normal(size=(B, 5))
    np.testing.assert_allclose(f * found.states["c"].values[1] + i * g, c, rtol=1e-13)

    def loss(step):
        moved = c + step * direction
        later, finals = tr.scan(cell, xs[3:], (o * np.tanh(moved), moved))
        return loss_fn(tr.concat([ys[:2], tr.tensor(o * np.tanh(moved))[None], later]), finals).item()

    slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
    assert slope == pytest.approx((found.states["c"].gradients[2] * direction).sum(), rel=1e-8)
    np.testing.assert_array_equal(found.states["c"].gradients, found.probes["c"].gradients)


def test_a_wide_batch_takes_the_other_way_to_norms():
    """Norms come from products of rows where these are fewer, of columns where not; both from cancelling rows."""
    for rows in (3, 40):
        cell = tr.cells.LSTM(12, 16, rng=0)
        (xs,), state = case(cell, None, 5, rows)
        xs[:, 1], state[0][1], state[1][1] = xs[:, 0], state[0][0], state[1][0]
        sign = np.array([1, -1, *[1e-6] * (rows - 2)], "float32")[:, None]

        def loss_fn(ys, finals, sign=sign):
            return (ys * sign).sum()

        norms = flow.trace(cell, xs, loss_fn, state).parameters
        parts = flow.trace(cell, xs, loss_fn, state, parts=True).parameters
        exact = tr.cells.LSTM(12, 16, dtype="float64", rng=0)
        exact.load_state_dict({name: value.astype("float64") for name, value in cell.state_dict().items()})
        wide = flow.trace(exact, xs.astype("float64"), loss_fn, [s.astype("float64") for s in state], parts=True)
        for name in norms:
            np.testing.assert_allclose(norms[name].norms, parts[name].norms, rtol=1e-3)
            np.testing.assert_allclose(wide.parameters[name].norms, parts[name].norms, rtol=0.5)


def test_norms_far_outside_the_range_of_squares():
    """A gradient of 1e-30 has a norm in float32 too."""
    cell = tr.cells.GRU(3, 8, rng=0)
    (xs,), state = case(cell)
    found = {s: flow.trace(cell, xs, lambda ys, _, s=s: (ys * s).sum(), state) for s in (1e-30, 1.0, 1e25)}
    for scale in (1e-30, 1e25):
        for signal, like in ((found[scale].states["h"], found[1.0].states["h"]),):
            np.testing.assert_allclose(signal.norms / np.float64(np.float32(scale)), like.norms, rtol=1e-5)
        for name, like in found[1.0].parameters.items():
            norms = found[scale].parameters[name].norms
            np.testing.assert_allclose(norms / np.float64(np.float32(scale)), like.norms, rtol=1e-4)


def test_a_learned_first_state_gets_its_share_before_any_step():
    cell = tr.cells.LearnedState(cell_of("GRU"), init=0.3)
    (xs,), _ = case(cell)
    loss_fn = weighted(cell)
    found = flow.trace(cell, xs, loss_fn, parts=True)
    loss_fn(*tr.scan(cell, xs)).backward()
    for name, p in cell.named_parameters():
        parts = found.parameters[name].parts.sum(0)
        if name == "h_0":
            assert not parts.any()
            parts = found.first["h"].gradients.sum(0)
        assert_close(parts, p.grad.data, 1e-12)


def test_masks_that_a_cell_draws_are_those_of_one_run():
    inner = cell_of("LSTM")
    cell = tr.cells.Zoneout(inner, {"c": 0.5}, rng=3)
    (xs,), state = case(cell)
    (mask,) = tr.cells.Zoneout(inner, {"c": 0.5}, rng=3).draws(T, B)
    found = flow.trace(cell, xs, weighted(cell), state)
    before = np.concatenate([state[1][None], found.states["c"].values[:-1]])
    kept = mask.data == 1
    np.testing.assert_array_equal(found.states["c"].values[kept], before[kept])
    assert len(found.inputs) == 1
    assert (found.states["c"].values != before)[~kept].all()


def test_what_fails_draws_nothing():
    class Branching(tr.Cell):
        def step(self, x, h):
            return h if h[0, 0] > 0 else -h

    cell = tr.cells.RecurrentDropout(Branching(3, 5, rng=0), 0.5)
    before = cell.rng.bit_generator.state
    for measure in (lambda x: flow.trace(cell, x, first_output), lambda x: flow.jacobian(cell, x)):
        with pytest.raises(tr._core.tape.TraceError):
            measure(np.zeros((2, 1, 3)))
        assert cell.rng.bit_generator.state == before


def test_frozen_parameters_are_left_out():
    cell = cell_of("LSTM")
    (xs,), _ = case(cell)
    assert "W_xi" in flow.trace(cell, xs, weighted(cell)).parameters
    cell.W_xi.requires_grad = False
    assert "W_xi" not in flow.trace(cell, xs, weighted(cell)).parameters


def test_nothing_else_is_touched():
    cell = cell_of("LSTM")
    xs = tr.tensor(case(cell)[0][0], requires_grad=True)
    head = tr.nn.Linear(5, 1, dtype="float64", rng=0)

    def loss_fn(ys, finals):
        return head(ys).mean()

    with tr.probes() as seen, tr.no_grad():
        found = flow.trace(cell, xs, loss_fn)
    assert not seen
    assert all(p.grad is None for p in [*cell.parameters(), *head.parameters(), xs])
    assert found.loss == loss_fn(*tr.scan(cell, xs)).item()
    before = found.states["h"].gradients.copy()
    cell.W_xi = tr.Parameter(cell.W_xi.data * 2)  # the plan is made anew
    assert not np.array_equal(flow.trace(cell, xs, loss_fn).states["h"].gradients, before)


class Curious(tr.Cell):
    """Probes what there is to probe: inputs, states, twice one name, other shapes, what no one reads, a parameter."""

    states = ("h", "kept", "again")

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.W, self.u = self.param((self.input_size, self.hidden_size)), self.param((2, 3))

    def step(self, x, h, kept, again):
        x, kept = tr.probe("x", x), tr.probe("kept", kept)
        scale = tr.probe("scale", tr.sigmoid(self.u))
        wide = tr.probe("a", tr.reshape(h, (-1, 2, 3)) * scale)
        column = tr.probe("a", tr.tanh(wide.sum(axis=(1, 2)) + again[:, 0]))
        tr.probe("unread", tr.exp(h) * x[:, :1])
        new = tr.probe("b", tr.probe("a", tr.tanh(x @ self.W + h * column[:, None] + kept)))
        return new, kept, new


def test_whatever_is_probed():
    cell = Curious(3, 6, dtype="float64", rng=0)
    xs, state = case(cell)
    check(cell, xs, state, weighted(cell))
    check(cell, xs, state, weighted(cell), RAGGED, reverse=True)
    found = flow.trace(cell, xs[0], weighted(cell), state).probes
    assert set(found) == {"x", "kept", "a", "a_2", "a_3", "b", "unread"}
    assert found["a"].gradients.shape == (T, B, 2, 3)
    assert found["a_2"].norms.shape == (T, B)
    assert not found["unread"].gradients.any()


def first_output(ys, finals):
    return ys[0].sum()


def test_a_step_that_no_plan_can_hold():
    class Branching(tr.Cell):
        def step(self, x, h):
            return h if h[0, 0] > 0 else -h

    with pytest.raises(tr._core.tape.TraceError, match=r"Branching\.step"):
        flow.trace(Branching(3, 5), np.zeros((2, 1, 3)), first_output)


def test_every_row_of_the_table_has_probes_or_none():
    """Gates of the package's cells are seen under their names."""
    seen = {name: set(flow.trace(c := cell_of(name), case(c)[0][0], weighted(c)).probes) for name in ("LSTM", "GRU")}
    assert seen == {"LSTM": set("ifogc"), "GRU": set("rzn")}
    assert set(CELLS) <= set(WIDTHS)


def test_records_are_shown_by_their_shapes():
    cell = cell_of("LSTM")
    (xs,), _ = case(cell)
    shown = repr(flow.trace(cell, xs, first_output, parts=True))
    assert shown.startswith("Trace(loss=")
    assert "'W_xi': Contribution(norms=array(4,), parts=array(4, 3, 5))" in shown
    assert "'f': Signal(4, 3, 5)" in shown
    assert repr(flow.sensitivity(cell, xs)) == "Sensitivity(step=0, jacobians=array(4, 3, 5, 3))"
    assert repr(flow.paths(cell, xs, of="c")) == (
        "Paths(state='c', from_step=0, to_step=4, update=\"c' = f * c + i * g\", factors={}, "
        "terms={'f': array(4, 3, 5, 5), 'c * df/dc': array(4, 3, 5, 5), 'g * di/dc': array(4, 3, 5, 5), "
        "'i * dg/dc': array(4, 3, 5, 5)}, jacobian=array(4, 3, 5, 5))"
    )
