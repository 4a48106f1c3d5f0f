"""Stacks of recurrent layers, against PyTorch's, a NumPy loop over one row at a time, and finite differences."""

import functools
import itertools
import warnings

import numpy as np
import pytest
from cell_table import every_cell, make

import tinyrnn as tr
from tinyrnn.cells import GRU, LSTM, Elman
from tinyrnn.nn import RNN

T, B, I, H = 6, 4, 3, 5  # noqa: E741
LENGTHS = [3, 6, 0, 5]

ragged_or_not = pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "ragged"])
same = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-12)


def normal(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape)


def stack(make=GRU, num_layers=1, *, hidden=H, inputs=I, seed=0, **options):
    """A float64 stack of cells `make(width, hidden)`."""
    rng = np.random.default_rng(seed)
    return RNN(lambda n: make(n, hidden, dtype="float64", rng=rng), num_layers, input_size=inputs, **options)


# -- PyTorch -----------------------------------------------------------------------------------------------------------

# One row a kind: our cell, and our names of its gates in PyTorch's order.
KINDS = {
    "RNN": (Elman, [""]),
    "LSTM": (LSTM, list("ifgo")),
    "GRU": (functools.partial(GRU, reset="after", flipped=True), list("rzn")),
}


@pytest.fixture(scope="module")
def torch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torch", reason="compares with PyTorch: pip install 'tinyrnn[oracle]'")


def in_pytorchs_order(arrays, gates, layers, directions):
    """Our parameters, or their gradients, by PyTorch's names: of its two biases the second is only b_hn."""
    found = {}
    for layer, back in itertools.product(range(layers), range(directions)):
        at, suffix = f"cells.{layer}.{back}.", f"_l{layer}" + "_reverse" * back
        for stem, theirs in (("W_x", "weight_ih"), ("W_h", "weight_hh"), ("b_", "bias_ih")):
            names = [(at + stem + gate).rstrip("_") for gate in gates]
            found[theirs + suffix] = np.concatenate([arrays[name].T for name in names])
        second = np.zeros_like(found["bias_ih" + suffix])
        if at + "b_hn" in arrays:
            second[-len(arrays[at + "b_hn"]) :] = arrays[at + "b_hn"]
        found["bias_hh" + suffix] = second
    return found


@pytest.mark.oracle
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "both-ways"])
@pytest.mark.parametrize("lengths", [None, [3, 6, 1, 5]], ids=["whole", "ragged"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["time-first", "batch-first"])
def test_outputs_states_and_gradients_equal_pytorch(torch, kind, layers, bidirectional, lengths, batch_first):
    make, gates = KINDS[kind]
    rnn = stack(make, layers, bidirectional=bidirectional, batch_first=batch_first)
    twin = getattr(torch.nn, kind)(
        I, H, layers, dtype=torch.float64, bidirectional=bidirectional, batch_first=batch_first
    )
    order = functools.partial(in_pytorchs_order, gates=gates, layers=layers, directions=1 + bidirectional)
    with torch.no_grad():
        for name, values in order(rnn.state_dict()).items():
            getattr(twin, name).copy_(torch.from_numpy(values))

    xs = normal(B, T, I) if batch_first else normal(T, B, I)
    count, names = layers * (1 + bidirectional), rnn.cells[0][0].states
    state = [normal(count, B, H, seed=2 + k) for k in range(len(names))]

    ours = [tr.tensor(a, requires_grad=True) for a in (xs, *state)]
    ys, finals = rnn(ours[0], [tuple(s[k] for s in ours[1:]) for k in range(count)], lengths=lengths)
    finals = [tr.stack([f[k] for f in finals]) for k in range(len(names))]

    theirs = [torch.tensor(a, requires_grad=True) for a in (xs, *state)]
    sent = theirs[0]
    if lengths is not None:
        pack = torch.nn.utils.rnn.pack_padded_sequence
        sent = pack(sent, torch.tensor(lengths), batch_first=batch_first, enforce_sorted=False)
    out, last = twin(sent, tuple(theirs[1:]) if kind == "LSTM" else theirs[1])
    if lengths is not None:
        out, _ = torch.nn.utils.rnn.pad_packed_sequence(out, batch_first=batch_first, total_length=T)
    last = last if kind == "LSTM" else (last,)

    same(ys.data, out.detach().numpy())
    weighed = [normal(*a.shape, seed=9 + k) for k, a in enumerate([ys, *finals])]
    sum((a * w).sum() for a, w in zip([ys, *finals], weighed, strict=True)).backward()
    sum((a * torch.from_numpy(w)).sum() for a, w in zip([out, *last], weighed, strict=True)).backward()
    for a, b in zip(finals, last, strict=True):
        same(a.data, b.detach().numpy())
    for a, b in zip(ours, theirs, strict=True):
        same(a.grad.data, b.grad.numpy())
    gradients = order({name: p.grad.data for name, p in rnn.named_parameters()})
    for name, p in twin.named_parameters():
        if "bias_hh" in name:  # PyTorch's second biases of the other gates are none of ours
            cut = -H if kind == "GRU" else p.numel()
            same(gradients[name][cut:], p.grad.numpy()[cut:], err_msg=name)
        else:
            same(gradients[name], p.grad.numpy(), err_msg=name)


# -- NumPy -------------------------------------------------------------------------------------------------------------


def elman_over(p, at, xs, h):
    """xs (n, I) through h' = tanh(x W_x + h W_h + b): all h', and the last."""
    ys = []
    for x in xs:
        h = np.tanh(x @ p[at + "W_x"] + h @ p[at + "W_h"] + p[at + "b"])
        ys.append(h)
    return np.array(ys).reshape(len(xs), len(h)), h


def by_hand(rnn, xs, state, lengths):
    """One row at a time over its own steps: (ys, last outputs, final states)."""
    p, ends = rnn.state_dict(), [len(xs)] * xs.shape[1] if lengths is None else lengths
    ys, last = np.zeros((*xs.shape[:2], rnn.output_size)), np.zeros((xs.shape[1], rnn.output_size))
    finals, ways = [s.copy() for s in state], 1 + rnn.bidirectional
    for b, n in enumerate(ends):
        row = xs[:n, b]
        for layer in range(rnn.num_layers):
            given, k = row, layer * ways
            row, finals[k][b] = elman_over(p, f"cells.{layer}.0.", given, state[k][b])
            end = row[-1:]
            if ways == 2:
                back, finals[k + 1][b] = elman_over(p, f"cells.{layer}.1.", given[::-1], state[k + 1][b])
                pair = [(row, back[::-1]), (end, back[-1:])]
                row, end = (a + b if rnn.merge == "sum" else np.concatenate([a, b], 1) for a, b in pair)
            if rnn.residual:
                row = row + given
                halves = ways == 2 and rnn.merge == "concat"
                end = end + (np.concatenate([given[-1:, :H], given[:1, H:]], 1) if halves else given[-1:])
        if n:
            ys[:n, b], last[b] = row, end[0]
    return ys, last, finals


SHAPES = [
    {"bidirectional": bidirectional, "merge": merge, "residual": residual}
    for bidirectional, merge, residual in itertools.product([False, True], ["concat", "sum"], [False, True])
]


@pytest.mark.parametrize("options", SHAPES, ids=lambda o: "-".join(str(v) for v in o.values()))
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("steps", [T, 1, 0])
@pytest.mark.parametrize("lengths", ["whole", "ragged"])
def test_merge_residual_and_last_outputs_equal_a_loop_by_hand(options, layers, steps, lengths):
    width = 2 * H if options["bidirectional"] and options["merge"] == "concat" else H
    rnn = stack(Elman, layers, inputs=width, **options)
    assert rnn.output_size == width
    xs, ends = normal(steps, B, width), None if lengths == "whole" else np.minimum(LENGTHS, steps)
    state = [normal(B, H, seed=10 + k) for layer in rnn.cells for k in range(len(layer))]
    expected, last, states = by_hand(rnn, xs, state, ends)
    ys, found = rnn(xs, state, lengths=ends)
    same(ys.data, expected)
    for (s,), e in zip(found, states, strict=True):
        same(s.data, e)
    got, again = rnn(xs, state, lengths=ends, return_sequences=False)
    same(got.data, last)
    for (s,), (e,) in zip(again, found, strict=True):
        np.testing.assert_array_equal(s.data, e.data)

    turned, xs = stack(Elman, layers, inputs=width, batch_first=True, **options), xs.transpose(1, 0, 2)
    flipped, _ = turned(xs, state, lengths=ends)
    np.testing.assert_array_equal(flipped.data, ys.data.transpose(1, 0, 2))
    np.testing.assert_array_equal(turned(xs, state, lengths=ends, return_sequences=False)[0].data, got.data)


@pytest.mark.parametrize("residual", [False, True])
def test_what_stands_behind_a_row_is_not_read(residual):
    rnn = stack(LSTM, 2, inputs=2 * H, bidirectional=True, residual=residual)
    xs = normal(T, B, 2 * H)
    for b, n in enumerate(LENGTHS):
        xs[n:, b] = np.nan
    given = tr.tensor(xs, requires_grad=True)
    for sequences in (True, False):
        ys, state = rnn(given, lengths=LENGTHS, return_sequences=sequences)
        assert np.isfinite(ys.data).all()
        assert all(np.isfinite(s.data).all() for states in state for s in states)
        gradient = tr.grad(ys.sum(), given).data
        for b, n in enumerate(LENGTHS):
            assert not gradient[n:, b].any()
            assert n == 0 or gradient[:n, b].any()
            alone, _ = rnn(xs[:n, b : b + 1], return_sequences=sequences)
            same(ys.data[:n, b : b + 1] if sequences else ys.data[b : b + 1], alone.data)


# -- gradients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sequences", [True, False], ids=["sequences", "last"])
@pytest.mark.parametrize("merge", ["concat", "sum"])
@ragged_or_not
def test_gradients_equal_finite_differences(sequences, merge, lengths):
    width = 4 if merge == "concat" else 2
    rnn = stack(LSTM, 2, hidden=2, inputs=width, bidirectional=True, residual=True, merge=merge)

    class Everything(tr.Module):
        def __init__(self):
            super().__init__()
            self.rnn = rnn

        def forward(self, xs):
            ys, state = self.rnn(xs, lengths=lengths and [1, 3, 0], return_sequences=sequences)
            return (ys, *(s for states in state for s in states))

    tr.gradcheck(Everything(), normal(3, 3, width), order=2, directions=2)


# -- from any cell -----------------------------------------------------------------------------------------------------


class Counting(tr.Cell):
    """States of two widths, the output the narrow one, and an argument of its own."""

    states = ("y", "wide")

    def __init__(self, input_size, hidden_size, *, scale=1.0, dtype="float32", rng=None):
        super().__init__(input_size, hidden_size, dtype=dtype, rng=rng)
        self.scale = scale
        self.W = self.param((input_size, 2 * hidden_size))
        self.V = self.param((2 * hidden_size, hidden_size))

    @property
    def state_sizes(self):
        return (self.hidden_size, 2 * self.hidden_size)

    def step(self, x, y, wide):
        wide = 0.5 * wide + tr.tanh(x @ self.W)
        return self.scale * tr.tanh(wide @ self.V) - y, wide


@ragged_or_not
def test_a_stack_of_a_users_cell_is_its_cells_one_above_the_other(lengths):
    cell = Counting(I, H, scale=2.0, dtype="float64", rng=0)
    rnn = RNN(cell, 2, bidirectional=True)
    assert rnn.cells[0][0] is cell
    assert [[(type(c), c.input_size, c.scale) for c in layer] for layer in rnn.cells] == [
        [(Counting, I, 2.0)] * 2,
        [(Counting, 2 * H, 2.0)] * 2,
    ]
    assert len({id(p) for p in rnn.parameters()}) == 8
    state = [(normal(B, H, seed=k), normal(B, 2 * H, seed=k)) for k in range(4)]
    _, finals = rnn(normal(T, B, I), state, lengths=lengths)
    assert [[s.shape for s in states] for states in finals] == [[(B, H), (B, 2 * H)]] * 4
    op_by_op_is_the_same(rnn, state, lengths)


def op_by_op_is_the_same(rnn, state, lengths):
    """Whether the stack gives what its cells give one by one, run op by op."""
    below, expected = tr.tensor(normal(T, B, I)), []
    for layer, cells in enumerate(rnn.cells):
        given = [None] * 2 if state is None else state[2 * layer : 2 * layer + 2]
        runs = [tr.unroll(c, below, given[d], lengths=lengths, reverse=d == 1) for d, c in enumerate(cells)]
        below = runs[0][0] + runs[1][0] if rnn.merge == "sum" else tr.concat([ys for ys, _ in runs], axis=2)
        expected += [final for _, final in runs]
    ys, finals = rnn(normal(T, B, I), state, lengths=lengths)
    same(ys.data, below.data)
    for got, want in zip(finals, expected, strict=True):
        for a, b in zip(got, want, strict=True):
            same(a.data, b.data)


@every_cell
def test_a_stack_of_every_cell_is_its_cells_one_above_the_other(name):
    op_by_op_is_the_same(RNN(make(name), 2, bidirectional=True, merge="sum"), None, LENGTHS)


WRAPPED = {
    "zoneout": lambda: tr.cells.Zoneout(make("LSTM"), {"h": 0.1, "c": 0.5}),
    "recurrent-dropout": lambda: tr.cells.RecurrentDropout(make("GRU"), 0.5),
    "learned": lambda: tr.cells.LearnedState(make("LSTM-projected"), init=tr.init.normal),
    "both": lambda: tr.cells.LearnedState(tr.cells.Zoneout(make("GRU"), 0.3)),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_stack_of_wrapped_cells(name):
    rnn = RNN(WRAPPED[name](), 2, bidirectional=True)
    assert {type(cell) for layer in rnn.cells for cell in layer} == {type(rnn.cells[0][0])}
    rnn.eval()
    op_by_op_is_the_same(rnn, None, LENGTHS)
    one, other = (rnn.train()(normal(T, B, I))[0].data for _ in range(2))
    assert (one == other).all() == (name == "learned")


def test_a_function_gives_each_layer_its_cell():
    asked = []

    def make(width):
        asked.append(width)
        return GRU(width, (7, 4)[len(asked) > 2], rng=len(asked))

    rnn = RNN(make, 2, input_size=I, bidirectional=True)
    assert asked == [I, I, 14, 14]
    assert (rnn.input_size, rnn.output_size) == (I, 8)
    ys, state = rnn(normal(T, B, I))
    assert ys.shape == (T, B, 8)
    assert ys.dtype == np.float32
    assert [s.shape[1] for (s,) in state] == [7, 7, 4, 4]


def test_layers_may_be_given_as_they_are():
    layers = [[GRU(I, 4, rng=0), GRU(I, 3, rng=1)], [LSTM(7, H, rng=2), Elman(7, 2, rng=3)]]
    rnn = RNN(layers, dropout=0.5)
    assert (rnn.num_layers, rnn.bidirectional, rnn.input_size, rnn.output_size) == (2, True, I, H + 2)
    assert all(a is b for ours, given in zip(rnn.cells, layers, strict=True) for a, b in zip(ours, given, strict=True))
    again = RNN(**rnn.arguments())
    again.eval()
    np.testing.assert_array_equal(again(normal(T, B, I))[0].data, rnn.eval()(normal(T, B, I))[0].data)
    assert [len(states) for states in rnn(normal(T, B, I))[1]] == [1, 1, 2, 1]


def test_parameters_have_the_names_of_layer_and_direction():
    rnn = stack(GRU, 2, bidirectional=True)
    shapes = {name: p.shape for name, p in rnn.named_parameters()}
    assert next(iter(shapes)) == "cells.0.0.W_xr"
    assert shapes["cells.0.1.W_xz"] == (I, H)
    assert shapes["cells.1.0.W_xn"] == (2 * H, H)
    assert len(shapes) == 4 * 9


def test_the_seed_decides_all_parameters_and_masks():
    def run(rng, seed):
        rnn = RNN(GRU(I, H, rng=seed), 3, dropout=0.5, rng=rng)
        return rnn.state_dict(), rnn(normal(T, B, I))[0].data

    for rng in (None, 7):
        (weights, ys), (again, zs) = run(rng, 3), run(rng, 3)
        assert all((weights[name] == again[name]).all() for name in weights)
        np.testing.assert_array_equal(ys, zs)
    one, other = run(7, 3)[0], run(8, 3)[0]
    assert (one["cells.0.0.W_xr"] == other["cells.0.0.W_xr"]).all()
    assert (one["cells.1.0.W_xr"] != other["cells.1.0.W_xr"]).all()


def test_probes_see_every_layer():
    rnn = stack(GRU, 2)
    with tr.probes() as seen:
        ys, _ = rnn(normal(T, B, I))
    assert len(seen["z"]) == 2 * T
    same(ys.data, rnn(normal(T, B, I))[0].data)


# -- segments ----------------------------------------------------------------------------------------------------------


@ragged_or_not
def test_segments_give_what_the_whole_gives(lengths):
    rnn, xs = stack(LSTM, 2), normal(T, B, I)
    ys, final = rnn(xs, lengths=lengths)
    parts, state = [], None
    for t in range(0, T, 2):
        ends = None if lengths is None else np.clip(np.array(lengths) - t, 0, 2)
        part, state = rnn(xs[t : t + 2], state, lengths=ends)
        parts.append(part.data)
    same(np.concatenate(parts), ys.data)
    for got, want in zip(state, final, strict=True):
        for a, b in zip(got, want, strict=True):
            same(a.data, b.data)


def test_a_detached_state_passes_values_and_no_gradient():
    rnn = stack(LSTM, 2)
    first, second = (tr.tensor(normal(2, B, I, seed=k), requires_grad=True) for k in (1, 2))
    _, state = rnn(first)
    cut = tr.nn.detach(state)
    assert [type(cut), *map(type, cut)] == [list, tuple, tuple]
    kept, _ = rnn(second, state)
    ys, _ = rnn(second, cut)
    np.testing.assert_array_equal(kept.data, ys.data)
    ys.sum().backward()
    assert first.grad is None
    kept.sum().backward()
    assert first.grad is not None
    assert tr.nn.detach(None) is None
    with pytest.raises(TypeError, match="state must be a Tensor or a list or tuple of Tensors, got ndarray"):
        tr.nn.detach([(np.zeros((2, 3)),)])


def test_states_may_be_arrays_bare_tensors_or_none():
    rnn, xs, h = stack(GRU, 2), normal(T, B, I), normal(B, H)
    expected, _ = rnn(xs, [(tr.tensor(h),), (tr.tensor(np.zeros((B, H))),)])
    for state in ([h, None], ((h,), None), [tr.tensor(h), (np.zeros((B, H)),)]):
        np.testing.assert_array_equal(rnn(xs, state)[0].data, expected.data)


# -- dropout -----------------------------------------------------------------------------------------------------------


class Sum(tr.Cell):
    """h' = h + x: what has come in so far."""

    def step(self, x, h):
        return h + x


class Same(tr.Cell):
    """h' = x."""

    def step(self, x, h):
        return x + 0.0 * h


def test_dropout_acts_between_layers_and_nowhere_else():
    ones = np.ones((50, 40, 30))
    for layers in (1, 2, 3):
        rnn = RNN(Same(30, 30, rng=0), layers, dropout=0.25)
        ys, _ = rnn(ones)
        kept = 0.75 ** (layers - 1)
        same(np.unique(ys.data), [0, 1 / kept][layers == 1 :], atol=1e-6)
        # Five standard deviations of the share of 60,000 elements that are kept.
        assert abs((ys.data > 0).mean() - kept) <= 5 * (kept * (1 - kept) / ys.size) ** 0.5
        assert (rnn.eval()(ones)[0].data == 1).all()
    assert (RNN(Same(30, 30, rng=0), 3, dropout=0.0)(ones)[0].data == 1).all()


def test_dropout_draws_for_each_step_row_and_feature():
    ys = RNN(Same(30, 30, rng=0), 2, dropout=0.5)(np.ones((50, 40, 30)))[0].data > 0
    for axis in range(3):
        share = ys.mean(axis=axis)  # all alike along an axis would be 0 or 1
        assert 0 < share.min() < share.max() < 1
        again = np.diff(ys.astype(int), axis=axis) == 0
        assert abs(again.mean() - 0.5) < 0.01


def test_dropout_never_touches_what_runs_in_time():
    """Layers that add up what comes in: a state that dropout met would not be the sum of what was read."""
    rnn, xs = RNN(Sum(4, 4, dtype="float64", rng=0), 2, dropout=0.5), 1 + abs(normal(20, 3, 4))
    ys, ((below,), (above,)) = rnn(xs)
    same(below.data, xs.sum(0))
    np.testing.assert_array_equal(above.data, ys.data[-1])
    read = np.diff(ys.data, axis=0, prepend=0)  # what the upper layer was given, step by step
    rising = np.cumsum(xs, axis=0)
    dropped = abs(read) < 1e-9
    same(read[~dropped], 2 * rising[~dropped], atol=1e-9)
    assert 0.3 < dropped.mean() < 0.7


def test_the_residual_sum_is_not_dropped():
    ys = RNN(Same(30, 30, rng=0), 2, dropout=0.5, residual=True)(np.ones((50, 40, 30)))[0].data
    assert set(np.unique(ys)) == {2.0, 6.0}  # 2 from below, and 0 or 2 · 2 through the layer


def test_gradients_pass_the_same_mask():
    xs = tr.tensor(np.ones((20, 3, 4)), requires_grad=True, dtype="float32")
    ys, _ = RNN(Same(4, 4, rng=0), 2, dropout=0.5)(xs)
    ys.sum().backward()
    np.testing.assert_array_equal(xs.grad.data, ys.data)


# -- bad input ---------------------------------------------------------------------------------------------------------

CELL = GRU(I, H, rng=0)


def one_by_one(*cells):
    """A function that gives these cells, whatever width it is asked for."""
    left = iter(cells)
    return lambda width: next(left)


CONSTRUCTIONS = [
    (lambda: RNN(GRU), TypeError, r"cell must be a tr\.Cell or a function .*GRU.*; make one of the class first"),
    (lambda: RNN("lstm"), TypeError, r"cell must be a tr\.Cell or a function .* got 'lstm'"),
    (lambda: RNN(lambda n: GRU(n, H)), TypeError, "input_size must be given where cell is a function"),
    (lambda: RNN(lambda n: n, input_size=3), TypeError, r"cell must give a tr\.Cell for an input_size, got int"),
    (lambda: RNN(lambda n: GRU(4, H), input_size=3), ValueError, r"input_size 3 .* layer 0, got GRU\(4, 5"),
    (lambda: RNN([CELL]), TypeError, "cell must be a list of layers, each a list of cells, one a direction"),
    (lambda: RNN([]), ValueError, r"cell must hold layers of 1 cell, or 2 each, one a direction, got \[\]"),
    (lambda: RNN([[CELL], [GRU(H, H)] * 2]), ValueError, r"cell must hold layers of 1 cell, .* got \[1, 2\]"),
    (lambda: RNN([[CELL]], bidirectional=True), ValueError, r"cell must hold layers of 2 cells, one a .* got \[1\]"),
    (lambda: RNN([[CELL], [GRU(H, H)]], 3), ValueError, "num_layers must be 2, the layers in cell, got 3"),
    (lambda: RNN([[CELL], [CELL]]), ValueError, r"input_size 5 .* layer 1, got GRU\(3, 5"),
    (lambda: RNN([[CELL]], input_size=4), ValueError, "input_size must be 3, that of the cell, or None, got 4"),
    (lambda: RNN(CELL, input_size=4), ValueError, "input_size must be 3, that of the cell, or None, got 4"),
    (lambda: RNN(CELL, input_size=0), ValueError, "input_size must be a positive int, got 0"),
    (lambda: RNN(CELL, 0), ValueError, "num_layers must be a positive int, got 0"),
    (lambda: RNN(CELL, 1.5), TypeError, "num_layers must be a positive int, got 1.5"),
    (lambda: RNN(CELL, dropout=1.0), ValueError, r"dropout must be in \[0, 1\), got 1"),
    (lambda: RNN(CELL, merge="mul"), ValueError, 'merge must be "concat" or "sum", got \'mul\''),
    (lambda: RNN(CELL, rng="seed"), TypeError, r"rng must be a numpy\.random\.Generator"),
    (lambda: RNN(CELL, residual=True), ValueError, "residual .* layer 0 makes 5 features of 3"),
    (
        lambda: RNN(GRU(H, H, rng=0), 2, residual=True, bidirectional=True),
        ValueError,
        "residual .* layer 0 makes 10 features of 5",
    ),
    (
        lambda: RNN(one_by_one(GRU(I, 4), GRU(I, 5)), input_size=I, bidirectional=True, merge="sum"),
        ValueError,
        'merge="sum" needs directions of one width, got 4 and 5 in layer 0',
    ),
    (
        lambda: RNN(one_by_one(CELL, GRU(H, H, dtype="float64")), 2, input_size=I),
        ValueError,
        r"dtype float32 for layer 1, got GRU\(5, 5.* of float64",
    ),
]


@pytest.mark.parametrize(("make", "error", "message"), CONSTRUCTIONS)
def test_construction_refuses(make, error, message):
    with pytest.raises(error, match=message):
        make()


ZEROS = np.zeros((T, B, I), np.float32)
STATE = np.zeros((B, H), np.float32)
CALLS = [
    ({"xs": [[[1.0]]]}, TypeError, r"xs must be a Tensor or an array \(time, batch, features\), got list"),
    ({"xs": (ZEROS, ZEROS)}, TypeError, "xs must be a Tensor or an array .* got tuple"),
    ({"xs": ZEROS[0]}, ValueError, r"xs must be \(time, batch, features\) with 3 features, got shape \(4, 3\)"),
    ({"xs": ZEROS[:, :, :2]}, ValueError, r"xs must be .* with 3 features, got shape \(6, 4, 2\)"),
    ({"xs": tr.tensor(ZEROS, dtype="float64")}, TypeError, "xs must be float32 like the RNN, got float64"),
    ({"xs": np.full((T, B, I), "a")}, TypeError, "xs must be an array of numbers, got <U1"),
    ({"lengths": [1, 2, 3]}, ValueError, r"lengths must be of shape \(4,\)"),
    ({"lengths": [1, 2, 3, 7]}, ValueError, r"lengths must lie in 0\.\.6, the steps of xs, got 7 for row 3"),
    ({"lengths": [1, 2, -3, 6]}, ValueError, r"lengths must lie in 0\.\.6, the steps of xs, got -3 for row 2"),
    ({"lengths": [1.0, 2, 3, 6]}, TypeError, "lengths must be ints, got float64"),
    ({"state": STATE}, TypeError, "state must be a list of 2, one tuple of tensors a layer and direction, got ndarray"),
    ({"state": [(STATE, STATE)]}, ValueError, "state must be a list of 2, .* got 1"),
    ({"state": [None, (STATE,)]}, ValueError, r"state\[1\] must be 2 tensors, h, c, got 1"),
    ({"state": [None, 3]}, TypeError, r"state\[1\] must be a tuple of tensors, h, c, or None"),
    (
        {"state": [None, (STATE, STATE[:3])]},
        ValueError,
        r"state\[1\], 'c', must be of shape \(4, 5\), got \(3, 5\)",
    ),
    (
        {"state": [(tr.tensor(STATE, dtype="float64"), STATE), None]},
        TypeError,
        r"state\[0\], 'h', must be float32 like the RNN, got float64",
    ),
]


@pytest.mark.parametrize(("arguments", "error", "message"), CALLS)
def test_a_call_refuses_and_draws_nothing(arguments, error, message):
    rng = np.random.default_rng(0)
    rnn = RNN(lambda n: LSTM(n, H, rng=rng), 2, input_size=I, dropout=0.5)
    before = rng.bit_generator.state
    with pytest.raises(error, match=message):
        rnn(**({"xs": ZEROS} | arguments))
    assert rng.bit_generator.state == before


def test_batch_first_errors_speak_of_that_order():
    with pytest.raises(
        ValueError, match=r"xs must be \(batch, time, features\) with 3 features, got shape \(6, 4, 2\)"
    ):
        RNN(CELL, batch_first=True)(ZEROS[:, :, :2])


@pytest.mark.parametrize("sequences", [True, False])
def test_an_empty_batch_gives_empty_outputs(sequences):
    ys, state = stack(GRU, 2, bidirectional=True)(np.zeros((T, 0, I)), return_sequences=sequences)
    assert ys.shape == ((T, 0, 2 * H) if sequences else (0, 2 * H))
    assert [s.shape for (s,) in state] == [(0, H)] * 4


def test_repr_shows_what_it_is():
    text = repr(RNN(CELL, 2, bidirectional=True, dropout=0.5, merge="sum"))
    assert text.startswith("RNN(3, 5, num_layers=2, bidirectional=True, merge='sum', dropout=0.5)")
    assert "cells.1.1: GRU(5, 5" in text
