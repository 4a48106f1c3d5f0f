"""`tr.flow.paths`: every term against finite differences of its factor, their sum against gradients of the tape."""

import numpy as np
import pytest
from cell_table import CELLS, make
from hypothesis import given
from hypothesis import strategies as st
from scan_cases import WIDTHS, cell_of

import tinyrnn as tr
from tinyrnn import flow
from tinyrnn.search import RandomCell, descriptions

T, B = 4, 3
RAGGED = [2, 4, 0]
STEP = 1e-5
LSTM = ["f", "c * df/dc", "g * di/dc", "i * dg/dc"]
GRU = ["(1 - z)", "h * d(1 - z)/dh", "n * dz/dh", "z * dn/dh"]
FLIPPED = ["z", "h * dz/dh", "n * d(1 - z)/dh", "(1 - z) * dn/dh"]
# What the terms of the package's cells are called: the path through the state itself first.
LABELS = {
    "LSTM": LSTM, "LSTM-diagonal": LSTM, "LSTM-full": LSTM, "LSTM-coupled": LSTM, "LSTM-projected": LSTM,
    "LSTM-blocks": LSTM, "LayerNormLSTM": LSTM, "GRU": GRU, "GRU-after": GRU, "GRU-flipped": FLIPPED,
    "GRU-after-flipped": FLIPPED, "LayerNormGRU": GRU, "Additive": ["1", "dg/ds"],
    "MGU": ["(1 - f)", "h * d(1 - f)/dh", "n * df/dh", "f * dn/dh"],
    "SelectiveRead": ["1", "g * di/ds", "i * dg/ds"], "LectureLSTM": [t.replace("c", "s") for t in LSTM],
    "Odyssey-vanilla": ["f", "z * di/dc", "i * dz/dc", "c * df/dc"], "Odyssey-NFG": ["1", "z * di/dc", "i * dz/dc"],
    "MUT1": ["(1 - z)", "z * dh̃/dh"],
}  # fmt: skip
NONE = ["Elman", "IRNN", "IndRNN", "SelectiveWrite"]


def case(cell, widths=None, steps=T, rows=B, seed=1):
    rng = np.random.default_rng(seed)
    xs = tuple(rng.normal(size=(steps, rows, n)).astype(cell.dtype) for n in widths or (cell.input_size,))
    return xs, tuple(np.tanh(rng.normal(size=(rows, n))).astype(cell.dtype) for n in cell.state_sizes)


def total_derivatives(cell, xs, state, number):
    """d c_{t+1} / d c_t on the tape of a loop, where h_t = o * tanh(c_t) follows c_t: (T, B, n, n)."""
    states, found = [tr.tensor(s, requires_grad=True) for s in state], []
    for t in range(len(xs[0])):
        before = states
        got = cell.step(*(tr.tensor(x[t]) for x in xs), *before)
        got = got if isinstance(got, tuple) else (got,)
        states = [s + 0.0 if any(s is u for u in before) else s for s in got]
        c, rows = states[number], []
        for k in range(c.shape[1]):
            g = None
            if c.requires_grad:
                (g,) = tr.grad(c[:, k].sum(), [before[number]], retain_graph=True, allow_unused=True)
            rows.append(np.zeros(c.shape) if g is None else g.data)
        found.append(np.stack(rows, 1))
    return np.stack(found)


def check_sum(cell, xs, state, of=None):
    """What `paths` finds, checked; None where it says that there is no sum of products."""
    try:
        found = flow.paths(cell, xs, state, of=of)
    except ValueError as error:
        if "sum of products" not in str(error):
            raise
        return None
    summed = sum(found.terms.values(), np.zeros(found.jacobian.shape))
    np.testing.assert_allclose(summed, found.jacobian, rtol=0, atol=1e-12)
    expected = total_derivatives(cell, xs, state, cell.states.index(found.state))
    np.testing.assert_allclose(found.jacobian, expected, rtol=0, atol=1e-12)
    ragged = flow.paths(cell, xs, state, of=of, lengths=RAGGED, from_step=1)
    for whole, part in zip(
        (*found.terms.values(), found.jacobian), (*ragged.terms.values(), ragged.jacobian), strict=True
    ):
        for b, end in enumerate(RAGGED):
            np.testing.assert_allclose(part[: max(end - 1, 0), b], whole[1:end, b], rtol=0, atol=1e-14)
            assert not part[max(end - 1, 0) :, b].any()
    return found


@pytest.mark.parametrize("name", WIDTHS)
def test_terms_sum_to_the_derivative_of_the_tape(name):
    """For every cell and every state whose update is a sum of products."""
    cell = cell_of(name)
    xs, state = case(cell, WIDTHS[name])
    for of in (None, *cell.states):
        found = check_sum(cell, xs, state, of)
        assert of is not None or name not in LABELS or list(found.terms) == LABELS[name]


@given(descriptions(), st.data())
def test_random_cells(made, data):
    cell = RandomCell(made, 3, 2, dtype="float64", rng=0)
    xs, state = case(cell, [3] * made.inputs)
    of = data.draw(st.sampled_from([None, *cell.states]))
    check_sum(cell, xs, state, of)


def values_of(cell, x, *state):
    with tr.probes() as seen:
        cell.step(tr.tensor(x), *(tr.tensor(s) for s in state))
    return {name: values[0].data for name, values in seen.items()}


@pytest.mark.parametrize("name", ["LSTM", "LSTM-diagonal", "LSTM-full", "LSTM-coupled", "GRU", "GRU-after", "MGU"])
def test_each_term_by_finite_differences(name):
    """Each factor as a function of the state one step before; the other factors as they are."""
    cell = make(name)
    (xs,), state = case(cell)
    found = flow.paths(cell, xs, state)
    run = flow.trace(cell, xs, lambda ys, finals: ys.sum(), state)
    n, t = 5, 2
    before = {name: s.values[t - 1] for name, s in run.states.items()}
    if found.state == "c":
        o = run.probes["o"].values[t - 1]
        reads = cell.p_o.data if cell.peephole == "diagonal" else 0.0
        logit = np.log(o / (1 - o)) - reads * before["c"]

        def states(c):
            return np.tanh(c) / (1 + np.exp(-logit - reads * c)), c
    else:

        def states(h):
            return (h,)

    np.testing.assert_allclose(states(before[found.state])[0], before["h"], rtol=1e-12)
    here = values_of(cell, xs[t], *states(before[found.state])) | {found.state: before[found.state]}
    values = {k: here[k] for k in here if k in "ifgznhc"} | {f"(1 - {k})": 1 - here[k] for k in "zf" if k in here}
    values["h"] = before["h"]
    for k in range(n):
        moved = [values_of(cell, xs[t], *states(before[found.state] + s * np.eye(n)[k])) for s in (STEP, -STEP)]
        slope = {name: (moved[0][name] - moved[1][name]) / (2 * STEP) for name in here if name in moved[0]}
        slope |= {f"(1 - {name})": -d for name, d in slope.items()}
        for label, term in found.terms.items():
            others, _, own = label.rpartition(" * ")
            if own.startswith("d"):
                expected = values[others] * slope[own[1:].rpartition("/")[0]]
            else:
                expected = values[own] * np.eye(n)[k]
            np.testing.assert_allclose(term[t, :, :, k], expected, rtol=0, atol=1e-9, err_msg=label)
    assert len(found.terms) == 4


@pytest.mark.parametrize("name", ["GRU", "MGU", "Additive", "MUT2-projected"])
def test_for_one_state_it_is_the_jacobian(name):
    cell = make(name)
    (xs,), state = case(cell)
    found = flow.paths(cell, xs, state, from_step=1, to_step=3)
    steps = flow.jacobian(cell, xs, 1, 3, state)
    np.testing.assert_allclose(found.jacobian, steps.steps, rtol=0, atol=1e-13)
    np.testing.assert_allclose(found.jacobian_norms, steps.norms, rtol=1e-12)
    for label, term in found.terms.items():
        np.testing.assert_allclose(found.norms[label], np.linalg.norm(term, 2, (2, 3)), rtol=1e-10)
    assert (found.from_step, found.to_step) == (1, 3)


class Mixed(tr.Cell):
    """Minus signs, numbers, three factors, a sum in a product, the state twice, blocks, and nothing probed."""

    states = ("c", "m")

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.W, self.U = self.param((self.input_size, 6)), self.param((6, 6))

    def step(self, x, c, m):
        a, b = tr.sigmoid(x @ self.W), tr.tanh(c @ self.U)
        kept = a * (0.5 * c - b * m) - c * c * 0.1 - tr.stop_gradient(b) * m + 0.3
        gate = tr.sigmoid(c.reshape(-1, 2, 3)).sum(axis=2, keepdims=True)
        return kept, (gate * m.reshape(-1, 2, 3) + 1.0).reshape(-1, 6)


def test_a_cell_of_ones_own():
    cell = Mixed(3, 6, dtype="float64", rng=0)
    xs, state = case(cell)
    found = check_sum(cell, xs, state)
    assert list(found.terms) == [
        "sigmoid(x @ W) * 0.5", "-c * 0.1", "-c * 0.1 (2)", "-sigmoid(x @ W) * m * dv1/dc"
    ]  # fmt: skip
    assert found.update == "c' = sigmoid(x @ W) * 0.5 * c - sigmoid(x @ W) * v1 * m - c * c * 0.1 - v1 * m + 0.3"
    assert found.factors == {"v1": "tanh(c @ U)"}
    blocks = check_sum(cell, xs, state, "m")
    assert blocks.state == "m"
    assert [*blocks.terms] == ["v2"]
    assert blocks.factors == {"v2": "sum(sigmoid(reshape(c, (B, 2, 3))), axis=2, keepdims)"}


class Deep(tr.Cell):
    """More ops than Python may call functions within functions."""

    def step(self, x, h):
        for _ in range(1500):
            h = h + 0.001 * tr.tanh(x)
        for _ in range(1500):
            x = tr.sigmoid(x)
        return h * x


def test_a_step_of_any_length():
    cell = Deep(5, 5, dtype="float64")
    (xs,), state = case(cell, steps=2)
    found = flow.paths(cell, xs, state)
    ((label, term),) = found.terms.items()
    assert label == [*found.factors][-1]
    np.testing.assert_allclose(term, found.jacobian, rtol=1e-14)
    np.testing.assert_allclose(found.jacobian, flow.jacobian(cell, xs, state=state).steps, rtol=1e-12)


def test_zoneout_is_multiplied_out():
    cell = tr.cells.Zoneout(make("LSTM"), {"h": 0.2, "c": 0.4}).eval()
    xs, state = case(cell)
    found = check_sum(cell, xs, state, "c")
    assert list(found.terms) == ["0.4", "0.6 * f"]  # h' reads the c' before it was mixed


def test_single_precision():
    cell = make("LSTM", "float32")
    (xs,), state = case(cell)
    found = flow.paths(cell, xs, state)
    assert found.jacobian.dtype == np.float32
    np.testing.assert_allclose(sum(found.terms.values()), found.jacobian, atol=1e-6)
    f = flow.trace(cell, xs, lambda ys, finals: ys.sum(), state).probes["f"].values
    np.testing.assert_allclose(np.einsum("tbkk->tbk", found.terms["f"]), f, rtol=1e-6)


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_sum_of_products_is_said(name):
    cell = make(name)
    (xs,), _ = case(cell)
    with pytest.raises(ValueError, match=rf"no state of the {CELLS[name][0].__name__} is updated by a sum .*: .' = "):
        flow.paths(cell, xs)
    with pytest.raises(ValueError, match=r"the update of '.' of the .* is no sum of products, so it has no terms"):
        flow.paths(cell, xs, of=cell.states[0])
