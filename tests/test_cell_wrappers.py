"""Zoneout, recurrent dropout and learned states around any cell, against NumPy with the masks that were drawn."""

from functools import partial

import numpy as np
import pytest
from cell_table import CELLS, LENGTHS, NUMPY, B, H, I, T, every_cell, initial, make, ragged_or_not, sequence

import tinyrnn as tr
from tinyrnn.cells import GRU, LSTM, Elman, LearnedState, RecurrentDropout, Zoneout


class Leaky(tr.Cell):
    """A user's own cell, which knows nothing of wrappers, with two time inputs."""

    def __init__(self, input_size, hidden_size, **options):
        super().__init__(input_size, hidden_size, **options)
        self.W, self.V = self.param((input_size, hidden_size)), self.param((hidden_size, hidden_size))

    def step(self, x, gain, h):
        return 0.5 * h + gain * tr.tanh(x @ self.W + h @ self.V)


def fixed(kind, *args, steps=T, rows=B, **options):
    """The wrapper, drawing the same masks at every run, and the masks."""
    masks = kind(*args, **options).draws(steps, rows)

    class Same(kind):
        def draws(self, steps, batch):
            assert (steps, batch) == masks[0].shape[:2]
            return masks

    return Same(*args, **options), [m.data for m in masks]


def by_hand(name, cell, xs, state, lengths, change):
    """The equations over time, each row by itself. change(step, t, b, states): the new states."""
    values, step = cell.state_dict(), CELLS[name][2]
    ys, final = np.zeros((*xs.shape[:2], cell.state_sizes[0])), [s.copy() for s in state]
    for b, end in enumerate([len(xs)] * xs.shape[1] if lengths is None else lengths):
        row = [s[b] for s in state]
        for t in range(end):
            row = change(partial(step, NUMPY, values, xs[t, b]), t, b, row)
            ys[t, b] = row[0]
        for s, value in zip(final, row, strict=True):
            s[b] = value
    return ys, final


def same(found, expected, atol=1e-13):
    (ys, final), (others, ended) = found, expected
    for a, b in zip((ys, *final), (others, *ended), strict=True):
        np.testing.assert_allclose(a.data, b, rtol=0, atol=atol)


class Run(tr.Module):
    def __init__(self, cell, lengths):
        super().__init__()
        self.cell, self.lengths = cell, lengths

    def forward(self, xs, *state):
        ys, final = tr.scan(self.cell, xs, state or None, lengths=self.lengths)
        return (ys, *final)


# -- zoneout -----------------------------------------------------------------------------------------------------------


@every_cell
def test_zoneout_keeps_what_the_masks_say(name):
    cell = make(name)
    wrapper, masks = fixed(Zoneout, cell, 0.3)
    assert len(masks) == len(cell.states)
    xs, state = sequence(), initial(cell)

    def change(step, t, b, states):
        return [np.where(m[t, b], s, f) for m, s, f in zip(masks, states, step(*states), strict=True)]

    expected = by_hand(name, cell, xs, state, LENGTHS, change)
    same(tr.scan(wrapper, xs, state, lengths=LENGTHS), expected)
    same(tr.unroll(wrapper, xs, state, lengths=LENGTHS), expected)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "Odyssey-FGR"])
@ragged_or_not
def test_zoneout_in_use_is_its_expectation(name, lengths):
    cell = make(name)
    rates = {"h": 0.1, "c": 0.6, "y": 0.3}
    rates = {k: v for k, v in rates.items() if k in cell.states}
    wrapper = Zoneout(cell, rates).eval()
    xs, state = sequence(), initial(cell)

    def change(step, t, b, states):
        p = [rates.get(name, 0.0) for name in cell.states]
        return [p * s + (1 - p) * f for p, s, f in zip(p, states, step(*states), strict=True)]

    expected = by_hand(name, cell, xs, state, lengths, change)
    same(tr.scan(wrapper, xs, state, lengths=lengths), expected)
    same(tr.unroll(wrapper, xs, state, lengths=lengths), expected)
    assert wrapper.draws(T, B) == ()


def test_zoneouts_masks_are_bernoulli_and_new_for_every_step_row_unit_and_run():
    wrapper = Zoneout(LSTM(I, 40, rng=0), {"h": 0.05, "c": 0.5})
    h, c = (m.data for m in wrapper.draws(100, 50))
    assert h.shape == c.shape == (100, 50, 40)
    for mask, p in ((h, 0.05), (c, 0.5)):
        assert set(np.unique(mask)) == {0.0, 1.0}
        deviation = (p * (1 - p) / mask.size) ** 0.5
        assert abs(mask.mean() - p) < 4 * deviation
        # Neighbours in time, among rows and among units do not know of one another.
        for a, b in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1]), (mask[..., 1:], mask[..., :-1])):
            assert abs(((a - p) * (b - p)).mean()) < 4 * p * (1 - p) / a.size**0.5
    again, _ = (m.data for m in wrapper.draws(100, 50))
    assert (again != h).any()
    first, second = (Zoneout(GRU(I, H, rng=3), 0.2).draws(T, B)[0].data for _ in range(2))
    np.testing.assert_array_equal(first, second)  # the cell's seed decides
    other = Zoneout(GRU(I, H, rng=3), 0.2, rng=4).draws(T, B)[0].data
    assert (first != other).any()


def test_zoneout_of_a_state_with_rate_0_draws_nothing_for_it():
    wrapper = Zoneout(LSTM(I, H, rng=0), {"c": 0.5})
    assert len(wrapper.draws(T, B)) == 1
    assert Zoneout(LSTM(I, H, rng=0), 0).draws(T, B) == ()


# -- recurrent dropout -------------------------------------------------------------------------------------------------

# Cells whose first state goes on by itself beside the products that read it.
CARRIED = "GRU GRU-after-flipped MGU Additive LectureGRU MUT1 MUT2-projected MUT3 LayerNormGRU".split()  # noqa: SIM905


# Cells that read their first state through products alone, and IndRNN, in which u * h stands for the product.
READ = """
    Elman IndRNN LSTM LSTM-full LSTM-projected ConcatenatedLSTM LayerNormLSTM SelectiveRead LectureLSTM Odyssey-vanilla
    Odyssey-FGR
""".split()  # noqa: SIM905


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("loop", [tr.unroll, tr.scan])
def test_one_mask_a_sequence_drops_what_a_step_reads_of_its_first_state(name, loop):
    cell = make(name)
    wrapper, (mask,) = fixed(RecurrentDropout, cell, 0.4)
    xs, state = sequence(), initial(cell)
    np.testing.assert_array_equal(mask, np.broadcast_to(mask[:1], mask.shape))

    def change(step, t, b, states):
        return step(states[0] * mask[0, b], *states[1:])

    same(loop(wrapper, xs, state, lengths=LENGTHS), by_hand(name, cell, xs, state, LENGTHS, change))


class Dropped(np.ndarray):
    """A state of which products alone see a part, (h * mask) @ W, and what is computed from it elementwise alike."""

    mask = None  # of the class: NumPy makes new objects

    def __matmul__(self, other):
        return (np.asarray(self) * Dropped.mask) @ other


@pytest.mark.parametrize("name", CARRIED)
@pytest.mark.parametrize("loop", [tr.unroll, tr.scan])
def test_what_carries_the_state_on_is_not_dropped(name, loop, monkeypatch):
    cell = make(name)
    wrapper, (mask,) = fixed(RecurrentDropout, cell, 0.4)
    xs, state = sequence(), initial(cell)

    def change(step, t, b, states):
        monkeypatch.setattr(Dropped, "mask", mask[0, b])
        return [np.asarray(s) for s in step(states[0].view(Dropped), *states[1:])]

    same(loop(wrapper, xs, state, lengths=LENGTHS), by_hand(name, cell, xs, state, LENGTHS, change))


@pytest.mark.parametrize("name", ["SelectiveWrite", "LectureLSTM-reads-s"])
def test_cells_that_read_another_state_drop_what_their_products_read(name):
    cell = make(name)
    wrapper, (mask,) = fixed(RecurrentDropout, cell, 0.4)
    xs, state = sequence(), initial(cell)
    values = cell.state_dict()

    def matrix(key, b):
        return mask[0, b][:, None] * values[key] if key.startswith("W_h") else values[key]

    ys, final = np.zeros((T, B, H)), [s.copy() for s in state]
    for b in range(B):
        p = {key: matrix(key, b) for key in values}  # (h * m) W = h (diag(m) W)
        row = [s[b] for s in state]
        for t in range(T):
            row = CELLS[name][2](NUMPY, p, xs[t, b], *row)
            ys[t, b] = row[0]
        for s, value in zip(final, row, strict=True):
            s[b] = value
    same(tr.scan(wrapper, xs, state), (ys, final))


def test_the_scale_of_the_mask_and_its_statistics():
    wrapper = RecurrentDropout(GRU(I, 200, rng=0), 0.25)
    (mask,) = wrapper.draws(3, 500)
    assert mask.shape == (3, 500, 200)
    assert set(np.unique(mask.data)) == {0.0, np.float32(1 / 0.75)}
    assert abs((mask.data[0] == 0).mean() - 0.25) < 4 * (0.25 * 0.75 / 1e5) ** 0.5
    assert (wrapper.draws(3, 500)[0].data != mask.data).any()


@pytest.mark.parametrize("name", ["LSTM", "GRU", "SelectiveWrite"])
def test_in_use_dropout_is_not_there(name):
    cell = make(name)
    wrapper = RecurrentDropout(cell, 0.4).eval()
    xs = sequence()
    assert wrapper.draws(T, B) == ()
    np.testing.assert_array_equal(tr.scan(wrapper, xs)[0].data, tr.scan(cell, xs)[0].data)
    wrapper.train()
    assert abs(tr.scan(wrapper, xs)[0].data - tr.scan(cell, xs)[0].data).max() > 1e-6
    none = RecurrentDropout(cell, 0.0)
    np.testing.assert_array_equal(tr.scan(none, xs)[0].data, tr.scan(cell, xs)[0].data)


# -- learned states ----------------------------------------------------------------------------------------------------


@every_cell
@ragged_or_not
def test_a_learned_state_comes_first_and_a_given_one_instead(name, lengths):
    cell = make(name)
    wrapper = LearnedState(cell, init=tr.init.normal)
    xs, state = sequence(), initial(cell)
    firsts = [getattr(wrapper, f"{s}_0").data for s in cell.states]
    assert all(f.shape == (n,) and abs(f).max() > 0 for f, n in zip(firsts, cell.state_sizes, strict=True))
    repeated = tuple(np.tile(f, (B, 1)) for f in firsts)
    expected = tr.unroll(cell, xs, repeated, lengths=lengths)
    same(tr.unroll(wrapper, xs, lengths=lengths), (expected[0].data, [s.data for s in expected[1]]), 0)
    given = tr.scan(cell, xs, state, lengths=lengths)
    same(tr.scan(wrapper, xs, state, lengths=lengths), (given[0].data, [s.data for s in given[1]]), 0)


def test_learned_states_start_at_zero_and_learn():
    wrapper = LearnedState(LSTM(I, H, dtype="float64", rng=0))
    assert [n for n, _ in wrapper.named_parameters()][:2] == ["h_0", "c_0"]
    assert not wrapper.h_0.data.any()
    tr.scan(wrapper, sequence())[0].sum().backward()
    assert abs(wrapper.h_0.grad.data).min() > 0
    assert tr.gradcheck(Run(wrapper, LENGTHS), sequence(), order=2, directions=1).ok


# -- all ---------------------------------------------------------------------------------------------------------------

AROUND = {
    "zoneout": (Zoneout, {"p": 0.3}),
    "zoneout-c": (Zoneout, {"p": {"c": 0.5}}),
    "dropout": (RecurrentDropout, {"p": 0.4}),
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("name", ["LSTM", "LSTM-projected", "Odyssey-FGR", "GRU-after-flipped", "SelectiveWrite"])
def test_gradients_equal_finite_differences_with_fixed_masks(name, around):
    kind, options = AROUND[around]
    cell = make(name)
    if around == "zoneout-c" and "c" not in cell.states:
        options = {"p": {cell.states[-1]: 0.5}}
    wrapper, _ = fixed(kind, cell, steps=3, rows=2, **options)
    task = (sequence(1, (3, 2, I)), *initial(cell, 2))
    assert tr.gradcheck(Run(wrapper, [3, 2]), task, order=2, directions=1).ok


@pytest.mark.parametrize("name", ["GRU", "LSTM"])
def test_wrappers_go_around_one_another_in_any_order(name):
    """Zoneout of a cell that drops is dropout of a cell that zones out: each leaves the other's part alone."""
    cell = make(name)
    xs, state = sequence(), initial(cell)
    zoned, zones = fixed(Zoneout, cell, 0.3, rng=5)
    dropped, drops = fixed(RecurrentDropout, cell, 0.4, rng=6)

    def outer(kind, inner, rate, masks):
        class Outer(kind):
            def own_draws(self, steps, batch):
                return tuple(tr.tensor(m) for m in masks)

        return Outer(inner, rate)

    ys, final = tr.scan(outer(Zoneout, dropped, 0.3, zones), xs, state, lengths=LENGTHS)
    others, ended = tr.scan(outer(RecurrentDropout, zoned, 0.4, drops), xs, state, lengths=LENGTHS)
    same((ys, final), (others.data, [s.data for s in ended]), 1e-14)


@pytest.mark.parametrize("around", [*AROUND, "learned"])
def test_a_users_own_cell_with_several_time_inputs(around):
    kind, options = AROUND.get(around, (LearnedState, {}))
    cell = Leaky(I, H, dtype="float64", rng=0)
    if around == "zoneout-c":
        options = {"p": {"h": 0.5}}
    gain = np.random.default_rng(4).normal(size=(T, B, 1))
    if around == "learned":
        wrapper, masks = LearnedState(cell), []
    else:
        wrapper, masks = fixed(kind, cell, **options)
    h, W, V = np.zeros((B, H)), cell.W.data, cell.V.data
    ys, xs = [], sequence()
    for t in range(T):
        seen = h * masks[0][t] if around == "dropout" else h
        new = 0.5 * seen + gain[t] * np.tanh(xs[t] @ W + seen @ V)
        h = np.where(masks[0][t], h, new) if around.startswith("zone") else new
        ys.append(h)
    for loop in (tr.scan, tr.unroll):
        np.testing.assert_allclose(loop(wrapper, (xs, gain))[0].data, ys, rtol=0, atol=1e-13)


def test_training_and_use_may_alternate():
    """Each has a plan of its own, with and without the masks."""
    wrapper, xs = Zoneout(RecurrentDropout(LSTM(I, H, rng=0), 0.3), 0.2), sequence().astype("float32")
    used = tr.scan(wrapper.eval(), xs)[0].data
    trained = tr.scan(wrapper.train(), xs)[0].data
    np.testing.assert_array_equal(tr.scan(wrapper.eval(), xs)[0].data, used)
    assert (trained != used).any()
    assert (tr.scan(wrapper.train(), xs)[0].data != trained).any()  # new masks


def test_another_like_it():
    cell = LearnedState(Zoneout(RecurrentDropout(LSTM(I, H, rng=0, coupled="input"), 0.3), {"c": 0.5}))
    twin = cell.another(7)
    shapes = {n: p.shape for n, p in twin.named_parameters()}
    assert shapes["cell.cell.cell.W_xf"] == (7, H)
    assert twin.cell.p == {"c": 0.5}
    assert twin.cell.cell.p == 0.3
    assert twin.cell.cell.cell.coupled == "input"
    assert {*shapes} == {n for n, _ in cell.named_parameters()}
    assert (twin.state_dict()["cell.cell.cell.W_hf"] != cell.state_dict()["cell.cell.cell.W_hf"]).any()


def test_repr_shows_the_cell_inside():
    lines = repr(Zoneout(LSTM(I, H, coupled="input"), {"c": 0.5})).splitlines()
    assert lines[0].startswith("Zoneout(p={'c': 0.5})")
    assert lines[1].startswith('└─ cell: LSTM(3, 5, coupled="input")')


@pytest.mark.parametrize(
    ("make_it", "error", "text"),
    [
        (lambda: Zoneout(LSTM, 0.1), TypeError, r"cell must be a tr\.Cell, got <class .* make one of the class first"),
        (lambda: RecurrentDropout(3, 0.1), TypeError, r"cell must be a tr\.Cell, got 3"),
        (lambda: Zoneout(GRU(2, 3), 1.0), ValueError, r"p must be in \[0, 1\), got 1\.0"),
        (lambda: Zoneout(GRU(2, 3), {"h": -0.1}), ValueError, r"p\['h'\] must be in \[0, 1\), got -0\.1"),
        (lambda: Zoneout(GRU(2, 3), {"c": 0.1}), ValueError, r"p must name states of the GRU, h, got 'c'"),
        (lambda: Zoneout(GRU(2, 3), "much"), TypeError, r"p must be a number in \[0, 1\), got 'much'"),
        (lambda: RecurrentDropout(GRU(2, 3), float("nan")), ValueError, r"p must be in \[0, 1\), got nan"),
        (lambda: RecurrentDropout(GRU(2, 3), True), TypeError, r"p must be a number in \[0, 1\), got True"),
        (lambda: LearnedState(GRU(2, 3), init=np.zeros(4)), ValueError, r"init must give shape \(3,\), got \(4,\)"),
        (lambda: Zoneout(Elman(2, 3), 0.1, rng="seed"), TypeError, r"rng must be a numpy\.random\.Generator"),
    ],
)
def test_wrong_arguments_are_named(make_it, error, text):
    with pytest.raises(error, match=text):
        make_it()
