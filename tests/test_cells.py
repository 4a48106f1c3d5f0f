"""Every cell of the table against NumPy and finite differences, in both directions and ragged.

PyTorch is in test_cell_oracle.py; that `scan` equals `unroll` for every row, to second derivatives, in test_scan.py.
"""

import inspect

import numpy as np
import pytest
from cell_table import (
    CELLS,
    LENGTHS,
    NUMPY,
    B,
    H,
    I,
    T,
    either_way,
    every_cell,
    initial,
    make,
    ragged_or_not,
    run_numpy,
    sequence,
)

import tinyrnn as tr
from tinyrnn.cells import LSTM

TOLERANCE = {"float64": 1e-13, "float32": 2e-6}

# -- values ------------------------------------------------------------------------------------------------------------


@every_cell
@ragged_or_not
@either_way
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_unroll_equals_numpy(name, lengths, reverse, dtype):
    cell = make(name, dtype)
    xs, state = sequence().astype(dtype), [s.astype(dtype) for s in initial(cell)]
    ys, final = tr.unroll(cell, xs, tuple(state), lengths=lengths, reverse=reverse)
    expected, ended = run_numpy(name, cell, xs, state, lengths, reverse)
    assert ys.dtype == dtype
    # Layer norm divides by a row's deviation, a few tenths here, which magnifies the rounding before it. What relu and
    # additive updates make grows beyond 1, and the rounding of sums with it.
    atol = TOLERANCE[dtype] * (4 if name.startswith("LayerNorm") else max(1.0, float(np.abs(expected).max())))
    np.testing.assert_allclose(ys.data, expected, rtol=0, atol=atol)
    for s, e in zip(final, ended, strict=True):
        np.testing.assert_allclose(s.data, e, rtol=0, atol=atol)


@every_cell
def test_every_parameter_has_a_name_of_the_equations_and_is_read(name):
    """The equations in NumPy read each by its name, so a missing one fails there; here none is left over."""

    class Watched(dict):
        def __getitem__(self, key):
            read.add(key)
            return super().__getitem__(key)

    read = set()
    cell = make(name)
    values = Watched(cell.state_dict())
    CELLS[name][2](NUMPY, values, sequence()[0], *initial(cell))
    assert read == {*values}
    shapes = {n: p.shape for n, p in cell.named_parameters()}
    h = cell.state_sizes[0]
    assert all(shapes[k][0] == I for k in shapes if k.startswith("W_x"))
    concatenated = ("W_h",) if name == "ConcatenatedLSTM" else ()
    assert all(shapes[k][0] == h for k in shapes if k.startswith("W_h") and k not in concatenated)


@every_cell
def test_states_start_at_zero(name):
    cell, xs = make(name), sequence()
    zeros = tuple(np.zeros((B, size)) for size in cell.state_sizes)
    np.testing.assert_array_equal(tr.unroll(cell, xs)[0].data, tr.unroll(cell, xs, zeros)[0].data)


@every_cell
def test_another_of_its_kind_has_the_same_equations(name):
    """Its options are kept in attributes, so that a stack or a file can make one like it."""
    cell = make(name)
    twin = cell.another()
    assert twin.options() == cell.options()
    twin.load_state_dict(cell.state_dict())
    np.testing.assert_array_equal(tr.unroll(twin, sequence())[0].data, tr.unroll(cell, sequence())[0].data)


def test_gates_are_probed():
    cell = LSTM(I, H, rng=0)
    with tr.probes() as seen:
        tr.unroll(cell, sequence())
    assert sorted(seen) == ["c", "f", "g", "i", "o"]
    assert [g.shape for g in seen["f"]] == [(B, H)] * T
    assert all(g.data.min() > 0 and g.data.max() < 1 for g in seen["i"])
    with tr.probes() as seen:
        tr.unroll(tr.cells.GRU(I, H, rng=0), sequence(), lengths=LENGTHS)
    assert [g.shape[0] for g in seen["z"]] == [3, 3, 2, 2, 2, 1]


@every_cell
def test_what_is_probed_stands_in_the_docstring(name):
    cell = make(name)
    with tr.probes() as seen:
        tr.unroll(cell, sequence())
    text = " ".join(inspect.getdoc(type(cell)).split())
    told = text[text.index("Probe") :].split(":")[1].split(".")[0]
    told = {word.strip().strip('"') for word in told.split(",")}
    assert seen.keys() <= told
    if cell.options() == type(cell)(I, I).options():
        assert seen.keys() == told


def test_calling_a_cell_takes_one_step():
    cell = LSTM(I, H, rng=0, dtype="float64")
    xs = tr.tensor(sequence())
    h, c = cell(xs[0], *cell.initial_state(B))
    np.testing.assert_array_equal(tr.unroll(cell, xs)[0].data[0], h.data)
    assert c.shape == (B, H)


# -- gradients ---------------------------------------------------------------------------------------------------------


def loss_of(cell, xs, state, lengths, reverse):
    """A scalar in which every output and every final state counts differently."""
    ys, final = tr.unroll(cell, xs, state, lengths=lengths, reverse=reverse)
    rng = np.random.default_rng(5)
    total = (ys * rng.normal(size=ys.shape)).sum()
    for s in final:
        total = total + (s * rng.normal(size=s.shape)).sum()
    return total


class Whole(tr.Module):
    """A pass over time as a module, so that gradcheck finds the parameters by name."""

    def __init__(self, cell, lengths, reverse):
        super().__init__()
        self.cell, self.lengths, self.reverse = cell, lengths, reverse

    def forward(self, xs, *state):
        return loss_of(self.cell, xs, state, self.lengths, self.reverse)


@every_cell
def test_gradients_equal_finite_differences_to_second_order(name):
    cell = make(name, input_size=3, hidden_size=3)
    task = (sequence(1, (2, 2, 3)), *initial(cell, 2))
    assert tr.gradcheck(Whole(cell, [2, 1], reverse=True), task, order=2, directions=1).ok


@pytest.mark.parametrize("name", ["Elman", "LSTM", "LSTM-most", "GRU-after"])
@ragged_or_not
@either_way
def test_gradients_over_more_steps_equal_finite_differences(name, lengths, reverse):
    cell = make(name)
    assert tr.gradcheck(Whole(cell, lengths, reverse), (sequence(), *initial(cell)), directions=3).ok


def test_a_loss_of_the_final_state_alone_and_of_the_outputs_alone():
    cell = make("LSTM")
    xs, state = sequence(), initial(cell)
    for pick in (lambda ys, s: ys.sum(), lambda ys, s: s[1].sum(), lambda ys, s: (s[0] * ys[0]).sum()):

        def fn(*args, pick=pick):
            return pick(*tr.unroll(cell, args[0], args[1:], lengths=LENGTHS))

        assert tr.gradcheck(fn, (xs, *state), directions=2).ok
