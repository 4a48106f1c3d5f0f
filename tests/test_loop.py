"""The loop over time: rows of different lengths, cells of one's own, and what it says about wrong arguments."""

import numpy as np
import pytest
from cell_table import LENGTHS, B, H, I, T, either_way, every_cell, initial, make, ragged_or_not, sequence

import tinyrnn as tr
from tinyrnn.cells import LSTM, Elman

# -- batches of rows of different lengths ------------------------------------------------------------------------------


@every_cell
@either_way
def test_a_row_runs_as_if_alone(name, reverse):
    """Values and gradients of each row, also those of its initial state, are those of the row without the others."""
    cell = make(name)
    xs, state = sequence(), initial(cell)
    weight = np.random.default_rng(3).normal(size=(T, B, cell.state_sizes[0]))

    def run(xs, state, weight, lengths):
        cell.zero_grad()
        leaves = [tr.tensor(a, requires_grad=True) for a in (xs, *state)]
        ys, final = tr.unroll(cell, leaves[0], tuple(leaves[1:]), lengths=lengths, reverse=reverse)
        loss = (ys * weight).sum()
        for s in final:
            loss = loss + (s * s).sum()
        loss.backward()
        grads = [np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.data for leaf in leaves]
        return [ys.data, *(s.data for s in final)], grads, cell

    values, grads, _ = run(xs, state, weight, LENGTHS)
    summed = {n: p.grad.data.copy() for n, p in cell.named_parameters()}
    total = {n: np.zeros(p.shape) for n, p in cell.named_parameters()}
    for b, end in enumerate(LENGTHS):
        rows = slice(b, b + 1)
        if end == 0:
            assert not values[0][:, b].any()
            for k, s in enumerate(state):
                np.testing.assert_array_equal(values[1 + k][b], s[b])
                np.testing.assert_allclose(grads[1 + k][b], 2 * s[b], rtol=1e-15)
            continue
        alone, own, _ = run(xs[:end, rows], [s[rows] for s in state], weight[:end, rows], None)
        np.testing.assert_allclose(values[0][:end, rows], alone[0], rtol=0, atol=1e-14)
        assert not values[0][end:, b].any()
        assert not grads[0][end:, b].any()
        np.testing.assert_allclose(grads[0][:end, rows], own[0], rtol=0, atol=1e-13)
        for k in range(len(state)):
            np.testing.assert_allclose(values[1 + k][rows], alone[1 + k], rtol=0, atol=1e-14)
            np.testing.assert_allclose(grads[1 + k][rows], own[1 + k], rtol=0, atol=1e-13)
        for n, p in cell.named_parameters():
            total[n] += p.grad.data
    for n in total:
        np.testing.assert_allclose(summed[n], total[n], rtol=0, atol=1e-12, err_msg=n)


@either_way
def test_padding_is_never_read(reverse):
    cell = make("LSTM")
    xs = sequence()
    clean, _ = tr.unroll(cell, xs, lengths=LENGTHS, reverse=reverse)
    for b, end in enumerate(LENGTHS):
        xs[end:, b] = np.nan
    x = tr.tensor(xs, requires_grad=True)
    ys, final = tr.unroll(cell, x, lengths=LENGTHS, reverse=reverse)
    np.testing.assert_array_equal(ys.data, clean.data)
    (ys.sum() + final[1].sum()).backward()
    assert np.isfinite(x.grad.data).all()
    assert all(np.isfinite(p.grad.data).all() for p in cell.parameters())


@pytest.mark.parametrize("lengths", [np.full(B, T, np.int32), [T] * B, (T,) * B])
def test_full_lengths_are_no_lengths(lengths):
    cell, xs = make("GRU"), sequence()
    np.testing.assert_array_equal(tr.unroll(cell, xs, lengths=lengths)[0].data, tr.unroll(cell, xs)[0].data)


@either_way
def test_nothing_to_run(reverse):
    cell = make("LSTM")
    state = tuple(tr.tensor(s) for s in initial(cell))
    ys, final = tr.unroll(cell, np.zeros((0, B, I)), state, reverse=reverse)
    assert ys.shape == (0, B, H)
    for s, e in zip(final, state, strict=True):
        np.testing.assert_array_equal(s.data, e.data)
    assert tr.unroll(cell, np.zeros((0, B, I)), lengths=[0] * B)[0].shape == (0, B, H)

    ys, final = tr.unroll(cell, np.zeros((T, 0, I)), reverse=reverse)
    assert ys.shape == (T, 0, H)
    assert [s.shape for s in final] == [(0, H), (0, H)]
    assert tr.unroll(cell, np.zeros((T, 0, I)), lengths=[])[0].shape == (T, 0, H)

    ys, final = tr.unroll(cell, sequence(), state, lengths=[0] * B, reverse=reverse)
    assert not ys.data.any()
    assert ys.shape == (T, B, H)
    for s, e in zip(final, state, strict=True):
        np.testing.assert_array_equal(s.data, e.data)


def test_one_step_and_one_row():
    cell = make("GRU")
    assert tr.unroll(cell, sequence(1, (1, 1, I)))[0].shape == (1, 1, H)
    assert tr.unroll(cell, sequence(1, (3, 1, I)), lengths=[2])[0].shape == (3, 1, H)


def test_truncated_backpropagation_in_segments_equals_one_run():
    cell, xs = make("LSTM"), sequence()
    whole, final = tr.unroll(cell, xs)
    first, state = tr.unroll(cell, xs[:4])
    second, state = tr.unroll(cell, xs[4:], tuple(s.detach() for s in state))
    np.testing.assert_array_equal(whole.data, np.concatenate([first.data, second.data]))
    np.testing.assert_array_equal(final[1].data, state[1].data)


def test_no_grad_records_nothing():
    cell = make("LSTM")
    with tr.no_grad():
        ys, _ = tr.unroll(cell, sequence(), lengths=LENGTHS)
    assert not ys.requires_grad
    assert ys.is_leaf


# -- cells of one's own ------------------------------------------------------------------------------------------------


class Masked(tr.Cell):
    """Two time inputs, states of different widths, and an output that is the first of them."""

    states = ("h", "m")

    def __init__(self, input_size, hidden_size, **options):
        super().__init__(input_size, hidden_size, **options)
        self.W = self.param((input_size, hidden_size))
        self.V = self.param((hidden_size, 2))

    @property
    def state_sizes(self):
        return (self.hidden_size, 2)

    def step(self, x, mask, h, m):
        h = mask * tr.tanh(x @ self.W) + (1 - mask) * h
        return h, 0.5 * m + h @ self.V


@ragged_or_not
@either_way
def test_several_time_inputs_and_states_of_different_widths(lengths, reverse):
    cell = Masked(I, H, dtype="float64", rng=0)
    xs, mask = sequence(), (sequence(4, (T, B, 1)) > 0).astype(float)
    ys, (h, m) = tr.unroll(cell, (tr.tensor(xs), mask), lengths=lengths, reverse=reverse)
    assert (ys.shape, h.shape, m.shape) == ((T, B, H), (B, H), (B, 2))
    expected = np.zeros((T, B, H))
    for b in range(B):
        end = T if lengths is None else lengths[b]
        row, memory = np.zeros(H), np.zeros(2)
        for t in range(end)[::-1] if reverse else range(end):
            row = np.tanh(xs[t, b] @ cell.W.data) if mask[t, b] else row
            memory = 0.5 * memory + row @ cell.V.data
            expected[t, b] = row
        np.testing.assert_allclose(m.data[b], memory, atol=1e-14)
    np.testing.assert_allclose(ys.data, expected, atol=1e-14)

    def fn(xs, mask):
        ys, final = tr.unroll(cell, (xs, mask), lengths=lengths, reverse=reverse)
        return ys.sum() + (final[1] * final[1]).sum()

    assert tr.gradcheck(fn, (xs, mask), directions=3).ok


def cell_with_step(step, states=("h",)):
    kind = type("Odd", (tr.Cell,), {"states": states, "step": lambda self, x, *state: step(x, *state)})
    return kind(I, H, dtype="float64")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda x, h: None, r"Odd\.step must return the new states h \(4, 5\) float64, got NoneType"),
        (lambda x, h: (h, h), r"got \(4, 5\) float64, \(4, 5\) float64"),
        (lambda x, h: (), "got nothing"),
        (lambda x, h: h[:, :2], r"got \(4, 2\) float64"),
        (lambda x, h: h.astype("float32"), r"got \(4, 5\) float32"),
        (lambda x, h: h.data, "got ndarray"),
    ],
)
def test_a_step_that_returns_something_else_is_told(step, message):
    with pytest.raises(ValueError, match=message):
        tr.unroll(cell_with_step(step), sequence())


def test_a_tuple_of_one_state_is_as_good_as_the_state_bare():
    xs = sequence(1, (T, B, I))
    bare = tr.unroll(cell_with_step(lambda x, h: h + 1.0), xs)[0]
    np.testing.assert_array_equal(tr.unroll(cell_with_step(lambda x, h: (h + 1.0,)), xs)[0].data, bare.data)


# -- wrong arguments ---------------------------------------------------------------------------------------------------

XS = sequence()
STATE = np.zeros((B, H))


@pytest.mark.parametrize(
    ("xs", "options", "error", "message"),
    [
        (XS[0], {}, ValueError, r"xs must be \(time, batch, features\), got shape \(4, 3\)"),
        (XS[..., :2], {}, ValueError, r"xs must be \(time, batch, 3\), the input_size of this LSTM.*\(6, 4, 2\)"),
        (tr.tensor(XS, dtype="float32"), {}, TypeError, "xs must be float64 like the LSTM, got float32"),
        (XS.astype(complex), {}, TypeError, "xs must be an array of numbers, got complex128"),
        (list(XS), {}, TypeError, "xs must be a Tensor or an array or a tuple of these, got list"),
        ((), {}, ValueError, "xs must hold one or more time inputs"),
        ((XS, XS[:2]), {}, ValueError, r"xs\[1\] must have the time and batch of xs\[0\], \(6, 4\), got \(2, 4\)"),
        ((XS, XS), {}, TypeError, r"as many time inputs as LSTM.step\(x.*before its 2 states, got 2"),
        (XS, {"state": STATE}, ValueError, "state must be 2 tensors, h, c, got 1"),
        (XS, {"state": 5}, TypeError, "state must be a Tensor, a tuple of Tensors or None, got int"),
        (XS, {"state": (STATE, STATE[:2])}, ValueError, r"state, 'c', must be of shape \(4, 5\), got \(2, 5\)"),
        (XS, {"state": (STATE, None)}, TypeError, "state, 'c', must be a Tensor or an array, got NoneType"),
        (XS, {"state": (STATE, tr.tensor(STATE, dtype="float32"))}, TypeError, "'c', must be float64 like the LSTM"),
        (XS, {"lengths": [1, 2]}, ValueError, r"lengths must be of shape \(4,\), one for each row.*got \(2,\)"),
        (XS, {"lengths": 3}, ValueError, r"lengths must be of shape \(4,\)"),
        (XS, {"lengths": [1, 2, 7, 0]}, ValueError, r"lengths must lie in 0\.\.6, the steps of xs, got 7 for row 2"),
        (XS, {"lengths": [1, -2, 3, 0]}, ValueError, r"got -2 for row 1"),
        (XS, {"lengths": [1.0, 2.0, 3.0, 0.0]}, TypeError, "lengths must be ints, got float64"),
    ],
)
def test_unroll_names_the_wrong_argument_before_any_step(xs, options, error, message):
    cell = make("LSTM")
    steps = []
    whole = cell.step
    object.__setattr__(cell, "step", lambda x, h, c: steps.append(1) or whole(x, h, c))
    with pytest.raises(error, match=message):
        tr.unroll(cell, xs, **options)
    assert not steps


@pytest.mark.parametrize("wrong", [LSTM, "LSTM", None])
def test_unroll_needs_a_cell(wrong):
    with pytest.raises(TypeError, match=r"cell must be a tr\.Cell, got"):
        tr.unroll(wrong, XS)


def test_initial_state_is_checked_too():
    class Odd(Elman):
        def initial_state(self, batch):
            return (tr.tensor(np.zeros((batch, 1)), dtype=self.dtype),)

    with pytest.raises(ValueError, match=r"Odd\.initial_state\(4\), 'h', must be of shape \(4, 5\), got \(4, 1\)"):
        tr.unroll(Odd(I, H), XS)
