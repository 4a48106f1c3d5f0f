"""The table that all tests of cells run over: a new cell is one row of CELLS.

A row says how to make the cell, and gives one step of its equations, (n, p, x, *states) -> states, written over a
namespace n of functions and parameters p by name. With NumPy's functions it is the reference of values, with PyTorch's
that of gradients. Nothing in it is taken from the package.
"""

import functools
from types import SimpleNamespace

import numpy as np
import pytest

import tinyrnn as tr
from tinyrnn import cells

T, B, I, H = 6, 4, 3, 5  # noqa: E741
LENGTHS = [6, 2, 0, 5]


def gentle(a):
    """A user's own gate, made of ops."""
    return 0.5 + 0.25 * tr.tanh(a)


NUMPY = SimpleNamespace(
    gentle=lambda a: 0.5 + 0.25 * np.tanh(a),
    sigma=lambda a: 1 / (1 + np.exp(-a)),
    tanh=np.tanh,
    relu=lambda a: np.maximum(a, 0),
    softplus=lambda a: np.log1p(np.exp(a)),
    same=lambda a: a,
    beside=lambda *parts: np.concatenate(parts, -1),
    repeat=lambda a, n: np.repeat(a, n, -1),
    blocks=lambda a, n: a.reshape(*a.shape[:-1], -1, n).sum(-1),
    mean=lambda a: a.mean(-1, keepdims=True),
    sqrt=np.sqrt,
    cut=lambda a, n: np.split(a, n, -1),
)


def torch_functions(torch):
    """The same names, for tensors of PyTorch."""
    return SimpleNamespace(
        gentle=lambda a: 0.5 + 0.25 * torch.tanh(a),
        sigma=torch.sigmoid,
        tanh=torch.tanh,
        relu=torch.relu,
        softplus=torch.nn.functional.softplus,
        same=lambda a: a,
        beside=lambda *parts: torch.cat(parts, -1),
        repeat=lambda a, n: torch.repeat_interleave(a, n, -1),
        blocks=lambda a, n: a.reshape(*a.shape[:-1], -1, n).sum(-1),
        mean=lambda a: a.mean(-1, keepdim=True),
        sqrt=torch.sqrt,
        cut=lambda a, n: torch.chunk(a, n, -1),
    )


# -- equations ---------------------------------------------------------------------------------------------------------


def elman(n, p, x, h, g="tanh", bias=True):
    return (getattr(n, g)(x @ p["W_x"] + h @ p["W_h"] + (p["b"] if bias else 0)),)


def additive(n, p, x, s, g="tanh"):
    return (s + getattr(n, g)(x @ p["W_x"] + s @ p["W_h"] + p["b"]),)


def indrnn(n, p, x, h):
    return (n.relu(x @ p["W_x"] + p["u"] * h + p["b"]),)


def lstm(n, p, x, h, c, tied=None, bias=True, block=1, g="tanh", out="tanh", gate="sigma"):
    """peephole and projection are seen by their parameters."""

    def total(k, c):
        z = x @ p[f"W_x{k}"] + h @ p[f"W_h{k}"]
        if f"W_c{k}" in p:
            z = z + c @ p[f"W_c{k}"]
        if f"p_{k}" in p:
            z = z + n.blocks(p[f"p_{k}"] * c, block)
        return z + p[f"b_{k}"] if bias else z

    gated = getattr(n, gate)
    f = gated(total("f", c))
    i = 1 - f if tied == "i" else gated(total("i", c))
    candidate = getattr(n, g)(total("g", c))
    new = n.repeat(f, block) * c + n.repeat(i, block) * candidate
    o = 1 - i if tied == "o" else gated(total("o", new if "p_o" in p else c))
    y = n.repeat(o, block) * getattr(n, out)(new)
    return y @ p["W_p"] if "W_p" in p else y, new


def gru(n, p, x, h, after=False, flipped=False, bias=True, g="tanh", gate="sigma"):
    b = p if bias else dict.fromkeys(["b_r", "b_z", "b_n", "b_hn"], 0.0)
    r, z = (getattr(n, gate)(x @ p[f"W_x{k}"] + h @ p[f"W_h{k}"] + b[f"b_{k}"]) for k in "rz")
    product = r * (h @ p["W_hn"] + b["b_hn"]) if after else (r * h) @ p["W_hn"]
    new = getattr(n, g)(x @ p["W_xn"] + b["b_n"] + product)
    return (z * h + (1 - z) * new if flipped else (1 - z) * h + z * new,)


def mgu(n, p, x, h):
    f = n.sigma(x @ p["W_xf"] + h @ p["W_hf"] + p["b_f"])
    new = n.tanh(x @ p["W_xn"] + (f * h) @ p["W_hn"] + p["b_n"])
    return ((1 - f) * h + f * new,)


def lecture(n, p, k, x, h):
    """A gate of the lectures, or the argument of the candidate if k is ""."""
    under = f"_{k}" if k else ""
    z = x @ p[f"W_x{k}"] + h @ p[f"W_h{k}"] + p[f"b{under}"]
    return n.sigma(z) if k else z


def selective_write(n, p, x, s, o, phi="sigma"):
    h = o * getattr(n, phi)(s)
    return n.sigma(lecture(n, p, "", x, h)), lecture(n, p, "o", x, h)


def selective_read(n, p, x, h, s, phi="sigma"):
    new = s + lecture(n, p, "i", x, h) * n.sigma(lecture(n, p, "", x, h))
    return lecture(n, p, "o", x, h) * getattr(n, phi)(new), new


def lecture_lstm(n, p, x, h, s, phi="sigma", reads_s=False):
    read = s if reads_s else h
    new = lecture(n, p, "f", x, read) * s + lecture(n, p, "i", x, read) * n.sigma(lecture(n, p, "", x, read))
    return lecture(n, p, "o", x, read) * getattr(n, phi)(new), new


def lecture_gru(n, p, x, s, phi="sigma"):
    o, i = lecture(n, p, "o", x, s), lecture(n, p, "i", x, s)
    return ((1 - i) * s + i * getattr(n, phi)(lecture(n, p, "", x, o * s)),)


def concatenated_lstm(n, p, x, y, c):
    z = n.beside(x, y)
    c = n.sigma(z @ p["W_f"]) * c + n.sigma(z @ p["W_g"]) * n.tanh(z @ p["W_h"])
    return n.sigma(z @ p["W_o"]) * n.tanh(c), c


def odyssey(n, p, x, y, c, *before, v="vanilla"):
    def total(k, c=None):
        z = x @ p[f"W_x{k}"] + y @ p[f"W_h{k}"] + p[f"b_{k}"]
        if k != "z" and v != "NP":
            z = z + p[f"p_{k}"] * c
        if k != "z" and v == "FGR":
            for name, gate in zip("ifo", before, strict=True):
                z = z + gate @ p[f"W_{name}{k}"]
        return z

    z = total("z") if v == "NIAF" else n.tanh(total("z"))
    i = 1.0 if v == "NIG" else n.sigma(total("i", c))
    f = 1.0 if v == "NFG" else 1 - i if v == "CIFG" else n.sigma(total("f", c))
    c = i * z + f * c
    o = 1.0 if v == "NOG" else n.sigma(total("o", c))
    y = (c if v == "NOAF" else n.tanh(c)) * o
    return (y, c, i, f, o) if v == "FGR" else (y, c)


def mut(n, p, x, h, number=1):
    wide = x @ p["W_p"] if "W_p" in p else x
    z = x @ p["W_xz"] + p["b_z"]
    if number > 1:
        z = z + (n.tanh(h) if number == 3 else h) @ p["W_hz"]
    z = n.sigma(z)
    r = n.sigma((wide if number == 2 else x @ p["W_xr"]) + h @ p["W_hr"] + p["b_r"])
    new = n.tanh((r * h) @ p["W_hh"] + (n.tanh(wide) if number == 1 else x @ p["W_xh"]) + p["b_h"])
    return (new * z + h * (1 - z),)


def normed(n, a):
    centred = a - n.mean(a)
    return centred / n.sqrt(n.mean(centred * centred) + 1e-5)


def layer_norm_lstm(n, p, x, h, c):
    z = normed(n, x @ p["W_x"]) * p["a_x"] + normed(n, h @ p["W_h"]) * p["a_h"] + p["b"]
    i, f, o, g = n.cut(z, 4)
    c = n.sigma(f) * c + n.sigma(i) * n.tanh(g)
    return n.sigma(o) * n.tanh(normed(n, c) * p["a_c"] + p["b_c"]), c


def layer_norm_gru(n, p, x, h):
    r, z = n.cut(n.sigma(normed(n, x @ p["W_x"]) * p["a_x"] + normed(n, h @ p["W_h"]) * p["a_h"] + p["b"]), 2)
    fresh = normed(n, x @ p["W_xn"]) * p["a_xn"] + p["b_n"]
    new = n.tanh(fresh + r * (normed(n, h @ p["W_hn"]) * p["a_hn"] + p["b_hn"]))
    return ((1 - z) * h + z * new,)


# -- the table ---------------------------------------------------------------------------------------------------------


def row(kind, step, options=None, **told):
    """(the class, its options, its equations). told: what the equations have to know of the options."""
    return kind, options or {}, functools.partial(step, **told) if told else step


def blocks(**more):
    return {"hidden_size": 6, "cells_per_block": 3} | more


CELLS = {
    "Elman": row(cells.Elman, elman),
    "Elman-sigmoid": row(cells.Elman, elman, {"activation": tr.sigmoid}, g="sigma"),
    "Elman-relu": row(cells.Elman, elman, {"activation": tr.relu}, g="relu"),
    "Elman-unbiased": row(cells.Elman, elman, {"activation": tr.softplus, "bias": False}, g="softplus", bias=False),
    "IRNN": row(cells.IRNN, elman, g="relu"),
    "Additive": row(cells.Additive, additive),
    "Additive-sigmoid": row(cells.Additive, additive, {"activation": tr.sigmoid}, g="sigma"),
    "IndRNN": row(cells.IndRNN, indrnn),
    "LSTM": row(cells.LSTM, lstm),
    "LSTM-unbiased": row(cells.LSTM, lstm, {"bias": False}, bias=False),
    "LSTM-activations": row(
        cells.LSTM,
        lstm,
        {"activation": tr.softplus, "output_activation": cells.identity, "gate_activation": gentle},
        g="softplus",
        out="same",
        gate="gentle",
    ),
    "LSTM-diagonal": row(cells.LSTM, lstm, {"peephole": "diagonal"}),
    "LSTM-full": row(cells.LSTM, lstm, {"peephole": "full"}),
    "LSTM-coupled": row(cells.LSTM, lstm, {"coupled": "input"}, tied="i"),
    "LSTM-tied-output": row(cells.LSTM, lstm, {"coupled": "output"}, tied="o"),
    "LSTM-projected": row(cells.LSTM, lstm, {"projection": 2}),
    "LSTM-blocks": row(cells.LSTM, lstm, blocks(), block=3),
    "LSTM-most": row(
        cells.LSTM,
        lstm,
        blocks(peephole="diagonal", coupled="input", projection=4, bias=False),
        block=3,
        tied="i",
        bias=False,
    ),
    "LSTM-most-full": row(cells.LSTM, lstm, blocks(peephole="full", coupled="output", projection=4), block=3, tied="o"),
    "GRU": row(cells.GRU, gru),
    "GRU-flipped": row(cells.GRU, gru, {"flipped": True}, flipped=True),
    "GRU-after": row(cells.GRU, gru, {"reset": "after"}, after=True),
    "GRU-after-flipped": row(cells.GRU, gru, {"reset": "after", "flipped": True}, after=True, flipped=True),
    "GRU-after-flipped-unbiased": row(
        cells.GRU, gru, {"reset": "after", "flipped": True, "bias": False}, after=True, flipped=True, bias=False
    ),
    "GRU-unbiased": row(cells.GRU, gru, {"bias": False}, bias=False),
    "GRU-activations": row(
        cells.GRU,
        gru,
        {"reset": "after", "bias": False, "activation": tr.softplus, "gate_activation": gentle},
        after=True,
        bias=False,
        g="softplus",
        gate="gentle",
    ),
    "MGU": row(cells.MGU, mgu),
    "SelectiveWrite": row(cells.SelectiveWrite, selective_write),
    "SelectiveWrite-tanh": row(cells.SelectiveWrite, selective_write, {"phi": tr.tanh}, phi="tanh"),
    "SelectiveRead": row(cells.SelectiveRead, selective_read),
    "SelectiveRead-identity": row(cells.SelectiveRead, selective_read, {"phi": cells.identity}, phi="same"),
    "LectureLSTM": row(cells.LectureLSTM, lecture_lstm),
    "LectureLSTM-tanh": row(cells.LectureLSTM, lecture_lstm, {"phi": tr.tanh}, phi="tanh"),
    "LectureLSTM-identity": row(cells.LectureLSTM, lecture_lstm, {"phi": cells.identity}, phi="same"),
    "LectureLSTM-reads-s": row(cells.LectureLSTM, lecture_lstm, {"reads": "s"}, reads_s=True),
    "ConcatenatedLSTM": row(cells.ConcatenatedLSTM, concatenated_lstm),
    "LectureGRU": row(cells.LectureGRU, lecture_gru),
    "LectureGRU-tanh": row(cells.LectureGRU, lecture_gru, {"phi": tr.tanh}, phi="tanh"),
    "MUT1": row(cells.MUT1, mut, {"hidden_size": I}, number=1),
    "MUT1-projected": row(cells.MUT1, mut, number=1),
    "MUT2": row(cells.MUT2, mut, {"hidden_size": I, "projection": False}, number=2),
    "MUT2-projected": row(cells.MUT2, mut, {"hidden_size": I, "projection": True}, number=2),
    "MUT3": row(cells.MUT3, mut, number=3),
    "LayerNormLSTM": row(cells.LayerNormLSTM, layer_norm_lstm),
    "LayerNormGRU": row(cells.LayerNormGRU, layer_norm_gru),
} | {
    f"Odyssey-{v}": row(cells.Odyssey, odyssey, {"variant": v}, v=v)
    for v in ("vanilla", "NIG", "NFG", "NOG", "NIAF", "NOAF", "CIFG", "NP", "FGR")
}

every_cell = pytest.mark.parametrize("name", CELLS)
either_way = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
ragged_or_not = pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "ragged"])


def make(name, dtype="float64", seed=0, **sizes):
    """The cell of a row, of the sizes I and H unless the row (never of I) or `sizes` names others."""
    kind, options, _ = CELLS[name]
    cell = kind(**{"input_size": I, "hidden_size": H, "dtype": dtype, "rng": seed} | options | sizes)
    for p in cell.parameters():  # so that no gain is 1 and no bias 0
        p.data = p.data + cell.rng.uniform(-0.3, 0.3, p.shape)
    return cell


def sequence(seed=1, shape=(T, B, I)):
    return np.random.default_rng(seed).normal(size=shape)


def initial(cell, rows=B, seed=2):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=(rows, size)) for size in cell.state_sizes)


def run_numpy(name, cell, xs, state, lengths=None, reverse=False):
    """Each row by itself, over its own steps."""
    values, step = cell.state_dict(), CELLS[name][2]
    ends = [len(xs)] * xs.shape[1] if lengths is None else lengths
    ys = np.zeros((*xs.shape[:2], cell.state_sizes[0]))
    final = [s.copy() for s in state]
    for b, end in enumerate(ends):
        row = [s[b] for s in state]
        for t in range(end)[::-1] if reverse else range(end):
            row = step(NUMPY, values, xs[t, b], *row)
            ys[t, b] = row[0]
        for s, value in zip(final, row, strict=True):
            s[b] = value
    return ys, final
