"""`tr.flow.jacobian` and `tr.flow.sensitivity`: against gradients of `tr.unroll` taken one element at a time, closed
forms of linear cells, and finite differences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scan_cases import WIDTHS, cell_of

import tinyrnn as tr
from tinyrnn import flow
from tinyrnn.search import RandomCell, descriptions

T, B = 4, 3
RAGGED = [2, 4, 0]


class Linear(tr.Cell):
    """h' = h W + x V: d h_t / d h_k = (Wᵀ)^(t-k)."""

    def __init__(self, W, V, **options):
        super().__init__(len(V), len(W), **options)
        self.W, self.V = self.param(W.shape, W), self.param(V.shape, V)

    def step(self, x, h):
        return h @ self.W + x @ self.V


def case(cell, widths=None, steps=T, rows=B, seed=1):
    rng = np.random.default_rng(seed)
    xs = tuple(rng.normal(size=(steps, rows, n)).astype(cell.dtype) for n in widths or (cell.input_size,))
    return xs, tuple(np.tanh(rng.normal(size=(rows, n))).astype(cell.dtype) for n in cell.state_sizes)


def element_by_element(outputs, leaves):
    """d outputs / d leaves, all (B, width), row by row: (B, n, m)."""
    found = []
    for y in outputs:
        for k in range(y.shape[1]):
            grads = [None] * len(leaves)
            if y.requires_grad:
                column = y[:, k].sum()
                grads = tr.grad(column, leaves, retain_graph=True, allow_unused=True)
            row = [np.zeros(x.shape) if g is None else g.data for x, g in zip(leaves, grads, strict=True)]
            found.append(np.concatenate(row, 1))
    return np.stack(found, 1)


def check_jacobian(cell, xs, state, lengths, first, last):
    """Against the tape of unroll: the whole product, and every step by itself."""
    found = flow.jacobian(cell, xs, first, last, state, lengths=lengths)
    assert list(found.slices) == list(cell.states)
    ends = np.full(len(state[0]), len(xs[0])) if lengths is None else np.array(lengths)

    def states_at(t, leaves, start=0):
        cut, going = tuple(x[start:t] for x in xs), np.clip(ends - start, 0, t - start)
        return tr.unroll(cell, cut, leaves, lengths=going)[1]

    before = [tr.tensor(s.data, requires_grad=True) for s in states_at(first, state)]
    whole = element_by_element([s + 0.0 for s in states_at(last, before, first)], before)
    np.testing.assert_allclose(found.whole, whole, rtol=0, atol=1e-12)
    for k, t in enumerate(range(first, last)):
        here = [tr.tensor(s.data, requires_grad=True) for s in states_at(t, state)]
        one = element_by_element([s + 0.0 for s in states_at(t + 1, here, t)], here)
        np.testing.assert_allclose(found.steps[k], one, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.norms[k], np.linalg.norm(one, 2, (1, 2)), rtol=1e-10, atol=1e-14)
        some = flow.jacobian(cell, xs, first, t + 1, state, lengths=lengths)
        norms = np.linalg.norm(some.whole, 2, (1, 2))
        np.testing.assert_allclose(found.product_norms[k], norms, rtol=1e-10, atol=1e-14)


def check_sensitivity(cell, xs, state, lengths, step):
    found = flow.sensitivity(cell, xs, state, step=step, lengths=lengths)
    x = tr.tensor(xs[0], requires_grad=True)
    ys, _ = tr.unroll(cell, (x, *xs[1:]), state, lengths=lengths)
    assert found.jacobians.shape == (*ys.shape, x.shape[2])
    for t in range(len(xs[0])):
        expected = np.zeros(found.jacobians.shape[1:])
        for k in range(ys.shape[2]):
            if ys.requires_grad:
                (g,) = tr.grad(ys[t, :, k].sum(), [x], retain_graph=True, allow_unused=True)
                expected[:, k] = 0 if g is None else g.data[step]
        np.testing.assert_allclose(found.jacobians[t], expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.norms[t], np.linalg.norm(expected, 2, (1, 2)), rtol=1e-9, atol=1e-14)


def test_rows_of_no_steps():
    cell = cell_of("LSTM")
    xs, state = case(cell)
    check_jacobian(cell, xs, state, [0, 0, 0], 0, T)
    check_sensitivity(cell, xs, state, [0, 0, 0], 0)
    check_sensitivity(cell, xs, state, [0, 1, 1], 0)
    check_sensitivity(cell, xs, state, None, T - 1)


@pytest.mark.parametrize("name", WIDTHS)
def test_against_the_tape(name):
    cell = cell_of(name)
    xs, state = case(cell, WIDTHS[name])
    check_jacobian(cell, xs, state, None, 1, 3)
    check_jacobian(cell, xs, state, RAGGED, 0, 4)
    check_sensitivity(cell, xs, state, None, 0)
    check_sensitivity(cell, xs, state, RAGGED, 1)


@given(descriptions(), st.sampled_from([None, RAGGED]), st.integers(0, T - 1))
def test_random_cells(made, lengths, step):
    cell = RandomCell(made, 3, 2, dtype="float64", rng=0)
    xs, state = case(cell, [3] * made.inputs)
    check_jacobian(cell, xs, state, lengths, step, T)
    check_sensitivity(cell, xs, state, lengths, step)


def test_finite_differences():
    cell = cell_of("LSTM-full")
    (xs,), state = case(cell)
    found = flow.jacobian(cell, xs, state=state).whole
    felt = flow.sensitivity(cell, xs, state).jacobians
    for k in range(10):
        unit = np.eye(10)[k] * 1e-5
        up, down = (tr.scan(cell, xs, (state[0] + s * unit[:5], state[1] + s * unit[5:]))[1] for s in (1, -1))
        slope = np.concatenate([a.data - b.data for a, b in zip(up, down, strict=True)], 1) / 2e-5
        np.testing.assert_allclose(found[:, :, k], slope, atol=1e-9)
    for k in range(3):
        moved = [xs.copy(), xs.copy()]
        moved[0][0, :, k] += 1e-5
        moved[1][0, :, k] -= 1e-5
        up, down = (tr.scan(cell, x, state)[0].data for x in moved)
        np.testing.assert_allclose(felt[..., k], (up - down) / 2e-5, atol=1e-9)


def test_powers_of_a_matrix():
    rng = np.random.default_rng(0)
    W, V = rng.normal(size=(6, 6)) / 3, rng.normal(size=(2, 6))
    cell = Linear(W, V, dtype="float64")
    xs = rng.normal(size=(9, 2, 2))
    found = flow.jacobian(cell, xs, 2, 7)
    np.testing.assert_allclose(found.whole[0], np.linalg.matrix_power(W.T, 5), rtol=1e-12, atol=1e-15)
    felt = flow.sensitivity(cell, xs, step=2)
    for t in range(9):
        expected = np.linalg.matrix_power(W.T, t - 2) @ V.T if t >= 2 else np.zeros((6, 2))
        np.testing.assert_allclose(felt.jacobians[t, 1], expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("scale", [3.0, 1 / 3])
def test_a_thousand_steps_beyond_the_range_of_floats(scale):
    """3^1000 is no float64; its logarithm is."""
    Q = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    cell = Linear(scale * Q, np.ones((1, 8)), dtype="float64")
    found = flow.jacobian(cell, np.zeros((1000, 2, 1)))
    np.testing.assert_allclose(found.norms, scale, rtol=1e-12)
    steps = np.arange(1, 1001)
    np.testing.assert_allclose(found.log10_product_norms, np.repeat(steps[:, None] * np.log10(scale), 2, 1), rtol=1e-11)
    np.testing.assert_allclose(found.product_norms[600], scale**601, rtol=1e-10)
    assert found.product_norms[-1, 0] == (np.inf if scale > 1 else 0.0)
    assert np.isinf(found.whole).any() if scale > 1 else not found.whole.any()
    one = flow.jacobian(cell, np.zeros((1000, 2, 1)), 300, 301)
    np.testing.assert_allclose(one.whole[0], scale * Q.T, rtol=1e-12)


def test_a_state_that_forgets_all_has_a_product_of_zero():
    cell = Linear(np.zeros((3, 3)), np.ones((1, 3)), dtype="float64")
    found = flow.jacobian(cell, np.zeros((4, 1, 1)))
    assert not found.product_norms.any()
    assert (found.log10_product_norms == -np.inf).all()


def test_single_precision_and_many_directions():
    """More directions than are run at once; rows do not mix."""
    cell, exact = (tr.cells.GRU(40, 48, dtype=d, rng=0) for d in ("float32", "float64"))
    exact.load_state_dict({name: v.astype("float64") for name, v in cell.state_dict().items()})
    (xs,), state = case(cell, None, 300, 3)
    lengths = [300, 120, 0]
    found = flow.sensitivity(cell, xs, state, lengths=lengths)
    assert found.jacobians.dtype == np.float32
    expected = flow.sensitivity(exact, xs.astype("float64"), [s.astype("float64") for s in state], lengths=lengths)
    np.testing.assert_allclose(found.jacobians, expected.jacobians, atol=1e-5)
    assert not found.jacobians[120:, 1].any()
    alone = flow.sensitivity(exact, xs[:, :1].astype("float64"), [s[:1].astype("float64") for s in state])
    np.testing.assert_allclose(alone.jacobians[:, 0], expected.jacobians[:, 0], rtol=0, atol=1e-14)


def test_what_padding_holds_is_not_read():
    cell = cell_of("LSTM")
    (xs,), state = case(cell)
    spoilt = xs.copy()
    spoilt[2:, 0] = spoilt[:, 2] = np.nan
    for measure in (flow.jacobian, flow.sensitivity):
        found, expected = (measure(cell, x, state=state, lengths=RAGGED) for x in (spoilt, xs))
        np.testing.assert_array_equal(found.norms, expected.norms)
        assert np.isfinite(found.norms).all()


def test_a_norm_of_what_is_not_finite_says_so():
    cell = Linear(np.array([[np.inf]]), np.ones((1, 1)), dtype="float64")
    found = flow.jacobian(cell, np.ones((3, 1, 1)))
    assert found.norms[0, 0] == np.inf
    assert np.isnan(found.product_norms[-1, 0]) or found.product_norms[-1, 0] == np.inf
    found = flow.trace(cell, np.ones((3, 1, 1)), lambda ys, finals: ys.sum())
    assert not np.isfinite(found.states["h"].norms).all()
