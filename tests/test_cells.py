"""The cells, against NumPy, PyTorch and finite differences, in both directions and with rows of different lengths."""

import functools
import inspect
import warnings

import numpy as np
import pytest
from cell_table import (
    LENGTHS,
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
from tinyrnn.cells import GRU, LSTM, Elman

# -- values ------------------------------------------------------------------------------------------------------------


@every_cell
@ragged_or_not
@either_way
@pytest.mark.parametrize(("dtype", "atol"), [("float64", 1e-13), ("float32", 2e-6)])
def test_unroll_equals_numpy(name, lengths, reverse, dtype, atol):
    cell = make(name, dtype)
    xs, state = sequence().astype(dtype), [s.astype(dtype) for s in initial(cell)]
    ys, final = tr.unroll(cell, xs, tuple(state), lengths=lengths, reverse=reverse)
    expected, ended = run_numpy(name, cell, xs, state, lengths, reverse)
    assert ys.dtype == dtype
    np.testing.assert_allclose(ys.data, expected, rtol=0, atol=atol)
    for s, e in zip(final, ended, strict=True):
        np.testing.assert_allclose(s.data, e, rtol=0, atol=atol)


@every_cell
def test_parameters_have_the_names_and_shapes_of_the_equations(name):
    shapes = {n: p.shape for n, p in make(name).named_parameters()}
    gates = {"E": [""], "L": list("ifog"), "G": list("rzn")}[name[0]]
    under = "" if name[0] == "E" else "_"
    expected = {f"W_x{k}": (I, H) for k in gates} | {f"W_h{k}": (H, H) for k in gates}
    expected |= {f"b{under}{k}": (H,) for k in gates}
    if "after" in name:
        expected["b_hn"] = (H,)
    assert shapes == expected


@every_cell
def test_states_start_at_zero(name):
    cell, xs = make(name), sequence()
    zeros = tuple(np.zeros((B, size)) for size in cell.state_sizes)
    np.testing.assert_array_equal(tr.unroll(cell, xs)[0].data, tr.unroll(cell, xs, zeros)[0].data)


def test_options_of_the_cells():
    assert (LSTM(2, 3).b_f.data == 1).all()
    assert (LSTM(2, 3, forget_bias=0.5).b_f.data == 0.5).all()
    assert len(set(LSTM(2, 30, forget_bias=None).b_f.data)) == 30
    with pytest.raises(ValueError, match='reset must be "before" or "after"'):
        GRU(2, 3, reset="never")
    with pytest.raises(TypeError, match=r"activation must be an op like tr\.tanh"):
        Elman(2, 3, activation="tanh")


def test_gates_are_probed():
    cell = LSTM(I, H, rng=0)
    with tr.probes() as seen:
        tr.unroll(cell, sequence())
    assert sorted(seen) == ["c", "f", "g", "i", "o"]
    assert [g.shape for g in seen["f"]] == [(B, H)] * T
    assert all(g.data.min() > 0 and g.data.max() < 1 for g in seen["i"])
    with tr.probes() as seen:
        tr.unroll(GRU(I, H, rng=0), sequence(), lengths=LENGTHS)
    assert [g.shape[0] for g in seen["z"]] == [3, 3, 2, 2, 2, 1]


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


@every_cell
@ragged_or_not
@either_way
def test_gradients_equal_finite_differences(name, lengths, reverse):
    cell = make(name)
    xs, state = sequence(), initial(cell)

    class Whole(tr.Module):  # so that the parameters are checked by name too
        def __init__(self):
            super().__init__()
            self.cell = cell

        def forward(self, xs, *state):
            return loss_of(cell, xs, state, lengths, reverse)

    assert tr.gradcheck(Whole(), (xs, *state), directions=3).ok


def test_second_derivatives_equal_finite_differences():
    cell = GRU(2, 3, reset="after", dtype="float64", rng=0)

    def fn(xs, h):
        return loss_of(cell, xs, (h,), [3, 1], False)

    assert tr.gradcheck(fn, (sequence(1, (3, 2, 2)), initial(cell, 2)[0]), order=2).ok


def test_a_loss_of_the_final_state_alone_and_of_the_outputs_alone():
    cell = make("LSTM")
    xs, state = sequence(), initial(cell)
    for pick in (lambda ys, s: ys.sum(), lambda ys, s: s[1].sum(), lambda ys, s: (s[0] * ys[0]).sum()):

        def fn(*args, pick=pick):
            return pick(*tr.unroll(cell, args[0], args[1:], lengths=LENGTHS))

        assert tr.gradcheck(fn, (xs, *state), directions=2).ok


# -- PyTorch -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torch", reason="compares with PyTorch: pip install 'tinyrnn[oracle]'")


TWINS = {
    "Elman": ("RNN", {"nonlinearity": "tanh"}, [""]),
    "Elman-relu": ("RNN", {"nonlinearity": "relu"}, [""]),
    "LSTM": ("LSTM", {}, list("ifgo")),
    "GRU-after-flipped": ("GRU", {}, list("rzn")),
}


def pytorch_twin(torch, name, cell, direction=""):
    """The PyTorch module with the cell's weights: one bias of ours is the sum of its two."""
    kind, options, gates = TWINS[name]
    twin = getattr(torch.nn, kind)(I, H, dtype=torch.float64, bidirectional=bool(direction), **options)
    values = cell.state_dict()
    with torch.no_grad():
        bias = [values[f"b_{k}" if k else "b"] for k in gates]
        for side in ["", direction] if direction else [""]:
            for stem, theirs in (("W_x", "weight_ih"), ("W_h", "weight_hh")):
                joined = np.concatenate([values[stem + k].T for k in gates])
                getattr(twin, f"{theirs}_l0{side}").copy_(torch.from_numpy(joined))
            getattr(twin, f"bias_ih_l0{side}").copy_(torch.from_numpy(np.concatenate(bias)))
            getattr(twin, f"bias_hh_l0{side}").zero_()
            if "b_hn" in values:
                getattr(twin, f"bias_hh_l0{side}")[-H:] = torch.from_numpy(values["b_hn"])
    return twin


def twin_gradients(name, twin, side=""):
    """The twin's parameter gradients under our names."""
    gates = TWINS[name][2]
    found = {}
    for stem, theirs in (("W_x", "weight_ih"), ("W_h", "weight_hh"), ("b_" if gates[0] else "b", "bias_ih")):
        whole = getattr(twin, f"{theirs}_l0{side}").grad.numpy()
        found |= {stem + k: part.T for k, part in zip(gates, np.split(whole, len(gates)), strict=True)}
    if name.startswith("GRU"):
        found["b_hn"] = getattr(twin, f"bias_hh_l0{side}").grad.numpy()[-H:]
    return found


@pytest.mark.oracle
@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("lengths", [None, [6, 2, 1, 5]], ids=["whole", "ragged"])
@either_way
def test_outputs_and_all_gradients_equal_pytorch(name, lengths, reverse, torch):
    cell = make(name)
    side = "_reverse" if reverse else ""
    twin = pytorch_twin(torch, name, cell, "_reverse" if reverse else "")
    rng = np.random.default_rng(5)
    xs, state, weight = sequence(), initial(cell), rng.normal(size=(T, B, H))
    weights = [rng.normal(size=s.shape) for s in state]

    ours = [tr.tensor(a, requires_grad=True) for a in (xs, *state)]
    ys, final = tr.unroll(cell, ours[0], tuple(ours[1:]), lengths=lengths, reverse=reverse)
    loss = (ys * weight).sum()
    for s, w in zip(final, weights, strict=True):
        loss = loss + (s * w).sum()
    loss.backward()

    theirs = [torch.tensor(a, requires_grad=True) for a in (xs, *state)]
    # The reverse pass is the second direction of a bidirectional module, whose first is not looked at.
    both = [torch.stack([s, s]) if reverse else s[None] for s in theirs[1:]]
    sent = theirs[0]
    if lengths is not None:
        sent = torch.nn.utils.rnn.pack_padded_sequence(sent, torch.tensor(lengths), enforce_sorted=False)
    out, last = twin(sent, tuple(both) if len(both) > 1 else both[0])
    if lengths is not None:
        out, _ = torch.nn.utils.rnn.pad_packed_sequence(out, total_length=T)
    out = out[..., -H:]
    last = [s[-1] for s in (last if len(both) > 1 else (last,))]
    total = (out * torch.from_numpy(weight)).sum()
    for s, w in zip(last, weights, strict=True):
        total = total + (s * torch.from_numpy(w)).sum()
    total.backward()

    same = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-10)
    same(ys.data, out.detach().numpy())
    for a, b in zip(final, last, strict=True):
        same(a.data, b.detach().numpy())
    for a, b in zip(ours, theirs, strict=True):
        same(a.grad.data, b.grad.numpy())
    expected = twin_gradients(name, twin, side)
    assert expected.keys() == dict(cell.named_parameters()).keys()
    for parameter, p in cell.named_parameters():
        same(p.grad.data, expected[parameter], err_msg=parameter)


def test_every_cell_tells_its_equations_and_source():
    for kind in (Elman, LSTM, GRU):
        text = inspect.getdoc(kind)
        assert "h' =" in text
        assert any(year in text for year in ("1990", "1997", "2014"))
