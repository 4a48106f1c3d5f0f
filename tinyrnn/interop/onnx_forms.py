"""Which cells ONNX's recurrent operators can express, with which weights, and why the others can not.

A gate that is wanted as 1 - σ(a) is written as σ(-a), with the weights of a negated: the same function, and the same
number but for the last bit. Only a gate activation with g(-a) = 1 - g(a) allows that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyrnn import cells
from tinyrnn.cells.parts import Activation as AnyActivation
from tinyrnn.cells.parts import told
from tinyrnn.interop.errors import CannotExpressError
from tinyrnn.interop.onnx_cells import NAMES, Activation, InputForgetLSTM, as_onnx
from tinyrnn.module import Cell

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Gate:
    """What enters a gate: x @ W_x + h @ W_h + b. b is None for a gate without bias."""

    W_x: Array
    W_h: Array
    b: Array | None = None

    def negated(self) -> Gate:
        """The gate of the opposite sum."""
        return Gate(-self.W_x, -self.W_h, None if self.b is None else -self.b)


@dataclass(frozen=True)
class Form:
    """One direction of an operator. gates: in ONNX's order. activations: f, g, h, clips aside.

    flags: its attributes that are 1. peepholes: P, i, o, f in one array. recurrent_bias: GRU's Rb of the candidate.
    clip: its attribute, None for none.
    """

    op: str
    gates: Sequence[Gate]
    activations: Sequence[Activation]
    flags: tuple[str, ...] = ()
    peepholes: Array | None = None
    recurrent_bias: Array | None = None
    clip: float | None = None

    @property
    def hidden_size(self) -> int:
        """The width of the state."""
        return self.gates[0].W_h.shape[0]

    @property
    def has_bias(self) -> bool:
        """Whether any gate has one."""
        return self.recurrent_bias is not None or any(gate.b is not None for gate in self.gates)

    def stacked(self, bias: bool, peepholes: bool) -> tuple[Array, Array, Array | None, Array | None]:
        """W (G·H, I), R (G·H, H), and, zeros if need be, B (2·G·H,) and P (3·H,)."""
        W = np.concatenate([gate.W_x.T for gate in self.gates])
        R = np.concatenate([gate.W_h.T for gate in self.gates])
        zero = np.zeros(self.hidden_size, W.dtype)
        given = [zero if gate.b is None else gate.b for gate in self.gates]
        recurrent = [zero] * (len(given) - 1) + [zero if self.recurrent_bias is None else self.recurrent_bias]
        P = np.tile(zero, 3) if self.peepholes is None else self.peepholes
        return W, R, np.concatenate([*given, *recurrent]) if bias else None, P if peepholes else None


def form_of(cell: Cell) -> Form:
    """The operator that computes what the cell computes in use, and its weights.

    Raises CannotExpressError that names the cell and says why there is none.
    """
    while isinstance(cell, cells.RecurrentDropout):  # in use it is the cell inside
        cell = cell.cell
    write = WRITERS.get(type(cell))
    if write is None:
        reason = REASONS.get(type(cell), "its step is its own, and ONNX has no operator for it but RNN, LSTM and GRU")
        raise CannotExpressError(f"ONNX can not express {type(cell).__name__}: {reason}")
    form = write(cell)
    clips = {a.clip for a in (form.activations[:2] if form.op == "LSTM" else form.activations)}
    if len(clips) > 1 or (form.op == "LSTM" and form.activations[2].clip is not None):
        raise cannot(cell, "its activations clip differently; ONNX has one clip for what enters the gates")
    return replace(form, activations=[replace(a, clip=None) for a in form.activations], clip=clips.pop())


def cannot(cell: Cell, why: str) -> CannotExpressError:
    """The error that says it."""
    return CannotExpressError(f"ONNX can not express this {type(cell).__name__}: {why}")


def _activation(cell: Cell, name: str, given: AnyActivation) -> Activation:
    found = as_onnx(given)
    if found is None:
        raise cannot(
            cell, f"its {name}, {told(given)}, is not one of ONNX's activations, {', '.join(NAMES.values())}; a cell "
            "can have one of those by tr.interop.onnx.Activation"
        )  # fmt: skip
    return found


def _gate(cell: Any, k: str, width: int | None = None) -> Gate:
    """Gate k of a cell, by the names of its parameters. width: of the state, over which narrower gates are repeated."""
    found = [getattr(cell, name).data for name in (f"W_x{k}", f"W_h{k}")]
    b = getattr(cell, f"b_{k}" if k else "b", None)
    arrays = [*found, None if b is None else b.data]
    if width is not None and arrays[0].shape[1] != width:
        arrays = [None if a is None else np.repeat(a, width // a.shape[-1], axis=-1) for a in arrays]
    return Gate(*arrays)


def _is_even(f: Activation) -> bool:
    """Whether f(-a) = 1 - f(a) for all a."""
    return f.name == "Sigmoid" or (f.name in ("HardSigmoid", "Affine") and f.beta == 0.5)


# -- one function a cell -----------------------------------------------------------------------------------------------


def _elman(cell: Any) -> Form:
    return Form("RNN", [_gate(cell, "")], [_activation(cell, "activation", cell.activation)])


def _indrnn(cell: Any) -> Form:
    gate = Gate(cell.W_x.data, np.diag(cell.u.data), cell.b.data)
    return Form("RNN", [gate], [_activation(cell, "activation", cell.activation)])


def _gru(cell: Any) -> Form:
    f, g = (_activation(cell, k, getattr(cell, k)) for k in ("gate_activation", "activation"))
    z, r, n = (_gate(cell, k) for k in "zrn")
    flags = ("linear_before_reset",) if cell.reset == "after" else ()
    recurrent = None if cell.b_hn is None else cell.b_hn.data
    return Form("GRU", [z if cell.flipped else _kept(cell, z, f), r, n], [f, g], flags, recurrent_bias=recurrent)


def _kept(cell: Cell, z: Gate, f: Activation) -> Gate:
    """ONNX's update gate says how much is kept: this one of a cell whose z says how much is new."""
    if not _is_even(f):
        raise cannot(cell, f"its z says how much is new, and 1 - {f.name}(a) is not {f.name}(-a); flipped=True can be")
    return z.negated()


def _mgu(cell: Any) -> Form:
    f = _gate(cell, "f")
    return Form("GRU", [f.negated(), f, _gate(cell, "n")], [Activation("Sigmoid"), Activation("Tanh")])


def _lecture_gru(cell: Any) -> Form:
    gates = [_gate(cell, "i").negated(), _gate(cell, "o"), _gate(cell, "")]
    return Form("GRU", gates, [Activation("Sigmoid"), _activation(cell, "phi", cell.phi)])


def _lstm(cell: Any) -> Form:
    if cell.projection is not None:
        raise cannot(cell, f"its projection={cell.projection} narrows h, and ONNX's LSTM has no projection")
    if cell.peephole == "full":
        raise cannot(cell, 'its peephole="full" is a matrix for each gate; ONNX\'s P is diagonal')
    if cell.peephole == "diagonal" and cell.cells_per_block > 1:
        raise cannot(cell, "its blocks of cells add their peepholes up; ONNX's P belongs to one cell each")
    names = ("gate_activation", "activation", "output_activation")
    f, g, h = (_activation(cell, name, getattr(cell, name)) for name in names)
    if cell.coupled is not None and not _is_even(f):
        tied = "i = 1 - f" if cell.coupled == "input" else "o = 1 - i"
        raise cannot(cell, f"its {tied}, and 1 - {f.name}(a) is not {f.name}(-a)")
    if cell.coupled == "output" and cell.peephole == "diagonal":
        raise cannot(cell, "its o = 1 - i sees c by the peephole of i; ONNX's output gate sees the new c")
    made = {k: _gate(cell, k, cell.hidden_size) for k in "ifog" if hasattr(cell, f"W_x{k}")}
    peepholes = {k: getattr(cell, f"p_{k}").data for k in "ifo" if hasattr(cell, f"p_{k}")}
    flags: tuple[str, ...] = ()
    if cell.coupled == "input":  # f = 1 - i and i = 1 - f are the same of a gate and its opposite
        flags, made["i"] = ("input_forget",), made["f"].negated()
        if peepholes:
            peepholes["i"] = -peepholes["f"]
    elif cell.coupled == "output":
        made["o"] = made["i"].negated()
    P = np.concatenate([peepholes[k] for k in "iof"]) if peepholes else None
    return Form("LSTM", [made[k] for k in "iofg"], [f, g, h], flags, peepholes=P)


def _input_forget_lstm(cell: Any) -> Form:
    names = ("gate_activation", "activation", "output_activation")
    i, o, g = (_gate(cell, k) for k in "iog")
    P = None
    if cell.peephole is not None:
        P = np.concatenate([cell.p_i.data, cell.p_o.data, np.zeros_like(cell.p_i.data)])
    activations = [_activation(cell, name, getattr(cell, name)) for name in names]
    return Form("LSTM", [i, o, _nothing(i), g], activations, ("input_forget",), peepholes=P)


def _nothing(like: Gate) -> Gate:
    """The weights of a gate that input_forget leaves out."""
    return Gate(np.zeros_like(like.W_x), np.zeros_like(like.W_h), None if like.b is None else np.zeros_like(like.b))


def _odyssey(cell: Any) -> Form:
    missing = {"NIG": "no input gate", "NFG": "no forget gate", "NOG": "no output gate"}.get(cell.variant)
    if missing:
        raise cannot(cell, f'its variant "{cell.variant}" has {missing}, ONNX\'s LSTM always has one')
    if cell.variant == "FGR":
        raise cannot(cell, 'its gates, with variant "FGR", see those of the step before')
    made = {k: _gate(cell, k) for k in "ifoz" if hasattr(cell, f"W_x{k}")}
    flags = ("input_forget",) if cell.variant == "CIFG" else ()
    P = None
    if cell.variant != "NP":
        zero = np.zeros_like(cell.p_i.data)
        P = np.concatenate([cell.p_i.data, cell.p_o.data, zero if flags else cell.p_f.data])
    linear, tanh = Activation("Affine", 1.0, 0.0), Activation("Tanh")
    g, h = (linear if cell.variant == without else tanh for without in ("NIAF", "NOAF"))
    gates = [made["i"], made["o"], made.get("f", _nothing(made["i"])), made["z"]]
    return Form("LSTM", gates, [Activation("Sigmoid"), g, h], flags, peepholes=P)


def _lecture_lstm(cell: Any) -> Form:
    if cell.reads != "h":
        raise cannot(cell, f'its gates, with reads="{cell.reads}", read the cell state by matrices')
    sigmoid = Activation("Sigmoid")
    gates = [_gate(cell, k) for k in ("i", "o", "f", "")]
    return Form("LSTM", gates, [sigmoid, sigmoid, _activation(cell, "phi", cell.phi)])


def _concatenated_lstm(cell: Any) -> Form:
    n = cell.input_size
    gates = [Gate(W.data[:n], W.data[n:]) for W in (cell.W_g, cell.W_o, cell.W_f, cell.W_h)]
    return Form("LSTM", gates, [Activation("Sigmoid"), Activation("Tanh"), Activation("Tanh")])


# By the class itself: a class derived from one of these may step otherwise.
WRITERS: Mapping[type[Cell], Callable[[Any], Form]] = {
    cells.Elman: _elman,
    cells.IRNN: _elman,
    cells.IndRNN: _indrnn,
    cells.GRU: _gru,
    cells.MGU: _mgu,
    cells.LectureGRU: _lecture_gru,
    cells.LSTM: _lstm,
    InputForgetLSTM: _input_forget_lstm,
    cells.Odyssey: _odyssey,
    cells.LectureLSTM: _lecture_lstm,
    cells.ConcatenatedLSTM: _concatenated_lstm,
}
MUT = "its gates see x or h through other functions than ONNX's GRU has them"
REASONS: Mapping[type[Cell], str] = {
    cells.Additive: "it adds to its state, which ONNX's RNN replaces",
    cells.SelectiveWrite: "it carries its output gate as a state",
    cells.SelectiveRead: "it has no forget gate, ONNX's LSTM always has one",
    cells.MUT1: MUT,
    cells.MUT2: MUT,
    cells.MUT3: MUT,
    cells.LayerNormLSTM: "it normalises what enters its gates",
    cells.LayerNormGRU: "it normalises what enters its gates",
    cells.Zoneout: "it mixes old states into the new ones; save its .cell instead if that is no matter",
    cells.LearnedState: "its first states are learned; save its .cell with state=True, and give them as initial_h and "
    "initial_c",
}
