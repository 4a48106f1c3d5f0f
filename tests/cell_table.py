"""The table that all tests of cells run over: a new cell is one row of CELLS."""

import functools

import numpy as np
import pytest

import tinyrnn as tr
from tinyrnn.cells import GRU, LSTM, Elman

T, B, I, H = 6, 4, 3, 5  # noqa: E741
LENGTHS = [6, 2, 0, 5]


def sigma(a):
    return 1 / (1 + np.exp(-a))


def relu(a):
    return np.maximum(a, 0)


# One row a cell: how to make it, and one step of its equations in NumPy, (parameters, x, *states) -> states.


def elman(p, x, h, g=np.tanh):
    return (g(x @ p["W_x"] + h @ p["W_h"] + p["b"]),)


def lstm(p, x, h, c):
    i, f, o = (sigma(x @ p[f"W_x{k}"] + h @ p[f"W_h{k}"] + p[f"b_{k}"]) for k in "ifo")
    c = f * c + i * np.tanh(x @ p["W_xg"] + h @ p["W_hg"] + p["b_g"])
    return o * np.tanh(c), c


def gru(p, x, h, after=False, flipped=False):
    r, z = (sigma(x @ p[f"W_x{k}"] + h @ p[f"W_h{k}"] + p[f"b_{k}"]) for k in "rz")
    product = r * (h @ p["W_hn"] + p["b_hn"]) if after else (r * h) @ p["W_hn"]
    n = np.tanh(x @ p["W_xn"] + p["b_n"] + product)
    return (z * h + (1 - z) * n if flipped else (1 - z) * h + z * n,)


CELLS = {
    "Elman": (Elman, {}, elman),
    "Elman-sigmoid": (Elman, {"activation": tr.sigmoid}, functools.partial(elman, g=sigma)),
    "Elman-relu": (Elman, {"activation": tr.relu}, functools.partial(elman, g=relu)),
    "LSTM": (LSTM, {}, lstm),
    "GRU": (GRU, {}, gru),
    "GRU-flipped": (GRU, {"flipped": True}, functools.partial(gru, flipped=True)),
    "GRU-after": (GRU, {"reset": "after"}, functools.partial(gru, after=True)),
    "GRU-after-flipped": (GRU, {"reset": "after", "flipped": True}, functools.partial(gru, after=True, flipped=True)),
}

every_cell = pytest.mark.parametrize("name", CELLS)
either_way = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
ragged_or_not = pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "ragged"])


def make(name, dtype="float64", seed=0):
    kind, options, _ = CELLS[name]
    return kind(I, H, dtype=dtype, rng=seed, **options)


def sequence(seed=1, shape=(T, B, I)):
    return np.random.default_rng(seed).normal(size=shape)


def initial(cell, rows=B, seed=2):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=(rows, size)) for size in cell.state_sizes)


def run_numpy(name, cell, xs, state, lengths=None, reverse=False):
    """Each row by itself, over its own steps."""
    values, step = cell.state_dict(), CELLS[name][2]
    ends = [len(xs)] * xs.shape[1] if lengths is None else lengths
    ys = np.zeros((*xs.shape[:2], cell.hidden_size))
    final = [s.copy() for s in state]
    for b, end in enumerate(ends):
        row = [s[b] for s in state]
        for t in range(end)[::-1] if reverse else range(end):
            row = step(values, xs[t, b], *row)
            ys[t, b] = row[0]
        for s, value in zip(final, row, strict=True):
            s[b] = value
    return ys, final
