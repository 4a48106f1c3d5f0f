"""Every cell of the table against PyTorch: its autograd on the same equations, and its own modules."""

import functools
import warnings

import numpy as np
import pytest
from cell_table import (
    CELLS,
    LENGTHS,
    H,
    I,
    T,
    either_way,
    every_cell,
    initial,
    make,
    sequence,
    torch_functions,
)

import tinyrnn as tr

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def torch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torch", reason="compares with PyTorch: pip install 'tinyrnn[oracle]'")


def torch_run(torch, name, cell, xs, state, lengths, reverse):
    """The equations of the table over time, each row by itself, in PyTorch: ys, the final states, and the leaves."""
    n, step = torch_functions(torch), CELLS[name][2]
    p = {key: torch.tensor(value, requires_grad=True) for key, value in cell.state_dict().items()}
    x, *s = (torch.tensor(a, requires_grad=True) for a in (xs, *state))
    zero = torch.zeros(cell.state_sizes[0], dtype=torch.float64)
    columns, final = [], []
    for b, end in enumerate(lengths):
        row, ys = [a[b] for a in s], [zero] * len(xs)
        for t in range(end)[::-1] if reverse else range(end):
            row = step(n, p, x[t, b], *row)
            ys[t] = row[0]
        columns.append(torch.stack(ys))
        final.append(row)
    return torch.stack(columns, 1), [torch.stack(rows) for rows in zip(*final, strict=True)], (x, *s), p


@every_cell
def test_values_and_all_gradients_equal_pytorch_autograd(name, torch):
    cell, lengths, reverse = make(name), LENGTHS, True
    xs, state = sequence(), initial(cell)
    ys, final, theirs, p = torch_run(torch, name, cell, xs, state, lengths, reverse)
    weights = [np.random.default_rng(7).normal(size=tuple(y.shape)) for y in (ys, *final)]
    sum((y * torch.from_numpy(w)).sum() for y, w in zip((ys, *final), weights, strict=True)).backward()

    leaves = [tr.tensor(a, requires_grad=True) for a in (xs, *state)]
    got, ended = tr.scan(cell, leaves[0], tuple(leaves[1:]), lengths=lengths, reverse=reverse)
    functools.reduce(tr.add, ((y * w).sum() for y, w in zip((got, *ended), weights, strict=True))).backward()

    def same(our, their, what):
        their = np.zeros(our.shape) if their is None else their.detach().numpy()
        our = np.zeros(our.shape) if our is None else our.data
        np.testing.assert_allclose(our, their, rtol=1e-10, atol=1e-10, err_msg=what)

    for k, (a, b) in enumerate(zip((got, *ended), (ys, *final), strict=True)):
        same(a, b, f"value {k}")
    for k, (a, b) in enumerate(zip(leaves, theirs, strict=True)):
        same(tr.tensor(np.zeros(a.shape)) if a.grad is None else a.grad, b.grad, f"gradient by input {k}")
    for key, ours in cell.named_parameters():
        same(ours.grad, p[key].grad, f"gradient by {key}")


TWINS = {
    "Elman": ("RNN", {"nonlinearity": "tanh"}, [""]),
    "IRNN": ("RNN", {"nonlinearity": "relu"}, [""]),
    "Elman-relu": ("RNN", {"nonlinearity": "relu"}, [""]),
    "LSTM": ("LSTM", {}, list("ifgo")),
    "LSTM-unbiased": ("LSTM", {"bias": False}, list("ifgo")),
    "LSTM-projected": ("LSTM", {"proj_size": 2}, list("ifgo")),
    "GRU-after-flipped": ("GRU", {}, list("rzn")),
    "GRU-after-flipped-unbiased": ("GRU", {"bias": False}, list("rzn")),
}


def pytorch_twin(torch, name, cell, direction=""):
    """The PyTorch module with the cell's weights: one bias of ours is the sum of its two."""
    kind, options, gates = TWINS[name]
    twin = getattr(torch.nn, kind)(I, H, dtype=torch.float64, bidirectional=bool(direction), **options)
    values = cell.state_dict()
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
        for side in ["", direction] if direction else [""]:
            for stem, theirs in places(values, gates):
                joined = np.concatenate([values[stem + k].T for k in gates])
                getattr(twin, f"{theirs}_l0{side}").copy_(torch.from_numpy(joined))
            if "b_hn" in values:
                getattr(twin, f"bias_hh_l0{side}")[-H:] = torch.from_numpy(values["b_hn"])
            if "W_p" in values:
                getattr(twin, f"weight_hr_l0{side}").copy_(torch.from_numpy(values["W_p"].T))
    return twin


def places(values, gates):
    """Our stems of gates' parameters and the names of PyTorch's stacks of them, their bias_hh aside."""
    bias = "b_" if gates[0] else "b"
    stems = [("W_x", "weight_ih"), ("W_h", "weight_hh"), (bias, "bias_ih")]
    return [(stem, theirs) for stem, theirs in stems if stem + gates[0] in values]


def twin_gradients(name, cell, twin, side=""):
    """The twin's parameter gradients under our names."""
    gates, values = TWINS[name][2], cell.state_dict()
    found = {}
    for stem, theirs in places(values, gates):
        whole = getattr(twin, f"{theirs}_l0{side}").grad.numpy()
        found |= {stem + k: part.T for k, part in zip(gates, np.split(whole, len(gates)), strict=True)}
    if "b_hn" in values:
        found["b_hn"] = getattr(twin, f"bias_hh_l0{side}").grad.numpy()[-H:]
    if "W_p" in values:
        found["W_p"] = getattr(twin, f"weight_hr_l0{side}").grad.numpy().T
    return found


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("lengths", [None, [6, 2, 1, 5]], ids=["whole", "ragged"])
@either_way
def test_outputs_and_all_gradients_equal_pytorchs_modules(name, lengths, reverse, torch):
    cell = make(name)
    side = "_reverse" if reverse else ""
    twin = pytorch_twin(torch, name, cell, "_reverse" if reverse else "")
    rng = np.random.default_rng(5)
    xs, state = sequence(), initial(cell)
    weight = rng.normal(size=(*xs.shape[:2], cell.state_sizes[0]))
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
    out = out[..., -cell.state_sizes[0] :]
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
    expected = twin_gradients(name, cell, twin, side)
    assert expected.keys() == dict(cell.named_parameters()).keys()
    for parameter, p in cell.named_parameters():
        same(p.grad.data, expected[parameter], err_msg=parameter)
