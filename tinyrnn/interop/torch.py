"""PyTorch's recurrent layers and cells, from there and back, weights mapped by name.

    import torch
    import tinyrnn as tr

    theirs = torch.nn.LSTM(8, 16, num_layers=2, bidirectional=True, proj_size=4)
    rnn = tr.interop.torch.load(theirs)                    # a tr.nn.RNN of four tr.cells.LSTM(.., projection=4)
    again = tr.interop.torch.to_torch(rnn)                 # a torch.nn.LSTM, with rnn's values

    xs = torch.randn(20, 3, 8)
    ys, state = rnn(xs.numpy())                            # the outputs of theirs(xs), and the states

What becomes of what, both ways:

    nn.RNN, nn.RNNCell      tr.cells.Elman, of tr.tanh or tr.relu
    nn.LSTM                 tr.cells.LSTM, proj_size is its projection
    nn.LSTMCell             tr.cells.LSTM without a projection
    nn.GRU, nn.GRUCell      tr.cells.GRU(reset="after", flipped=True); with flipped=False it goes to PyTorch too, the
                            weights and bias of z negated there

where a layer, with its num_layers, bidirectional, batch_first and dropout, is a tr.nn.RNN of such cells.

`weight_ih_l0` holds the W_xk of the gates k, transposed, one below the other (of an LSTM i, f, g, o; of a GRU r, z, n),
and belongs to `rnn.cells[0][0]`, `weight_ih_l0_reverse` to `rnn.cells[0][1]`. PyTorch has two biases, of which only the
sum counts: it becomes b_k, and b_k becomes `bias_ih` with zeros for `bias_hh`. (A GRU's candidate does need two, b_n
and b_hn.) The states of `rnn`, a list of tuples (B, size), are the rows of PyTorch's h_n (and c_n) in the same order;
`lengths` stand for a packed sequence. Values are copied: what one learns later the other does not see.

PyTorch is imported when a function is called: `pip install 'tinyrnn[torch]'`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tinyrnn import ops
from tinyrnn.cells import GRU, LSTM, Elman
from tinyrnn.cells.parts import told
from tinyrnn.checks import as_rng
from tinyrnn.interop.errors import CannotExpressError
from tinyrnn.module import Cell
from tinyrnn.nn import RNN

if TYPE_CHECKING:
    import torch

__all__ = ["load", "to_torch"]

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Kind:
    """A kind of layer that both know. name: PyTorch's, that of its cell with "Cell" behind it."""

    name: str
    cell: type[Cell]
    gates: tuple[str, ...]
    """The cell's gates, by our letters, in PyTorch's order."""
    options: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """What the cell's options may be."""


KINDS = (
    Kind("RNN", Elman, ("",), {"activation": (ops.tanh, ops.relu)}),
    Kind(
        "LSTM",
        LSTM,
        ("i", "f", "g", "o"),
        {
            "peephole": (None,),
            "coupled": (None,),
            "cells_per_block": (1,),
            "activation": (ops.tanh,),
            "output_activation": (ops.tanh,),
            "gate_activation": (ops.sigmoid,),
        },
    ),
    Kind(
        "GRU",
        GRU,
        ("r", "z", "n"),
        {"reset": ("after",), "activation": (ops.tanh,), "gate_activation": (ops.sigmoid,)},
    ),
)
FIXED = "its activations are fixed"
WHY = {
    "peephole": "its gates do not see the cell state",
    "coupled": "each of its gates has weights of its own",
    "cells_per_block": "each of its cells has gates of its own",
    "reset": "it multiplies by r after the product with W_hn, which is another function",
}


def load(module: torch.nn.Module, *, rng: np.random.Generator | int | None = None) -> RNN | Cell:
    """PyTorch's nn.RNN, nn.LSTM or nn.GRU as a tr.nn.RNN; nn.RNNCell, nn.LSTMCell or nn.GRUCell as a cell.

    The dtype is the module's, float32 or float64, and so is whether it is training. rng: the numpy Generator of its
    dropout, or a seed for it; None: seeded by the system.

    Raises TypeError for any other module, also for one of a subclass with a `forward` of its own; ValueError for
    another dtype; ModuleNotFoundError if PyTorch is missing.
    """
    theirs = _pytorch()
    for kind in KINDS:
        for suffix, make in (("", _layer), ("Cell", _cell)):
            known = getattr(theirs.nn, kind.name + suffix)
            if isinstance(module, known) and type(module).forward is known.forward:
                found: RNN | Cell = make(kind, module, as_rng(rng))
                found.train(module.training)
                return found
    raise TypeError(
        "module must be a torch.nn.RNN, LSTM, GRU, RNNCell, LSTMCell or GRUCell, none of a subclass with a forward of "
        f"its own, got {type(module).__module__}.{type(module).__qualname__}"
    )


def to_torch(rnn: RNN | Cell) -> torch.nn.Module:
    """A tr.nn.RNN as PyTorch's nn.RNN, nn.LSTM or nn.GRU; a cell as nn.RNNCell, nn.LSTMCell or nn.GRUCell.

    On the CPU, of the same dtype, and training if `rnn` is. PyTorch's random state is left alone.

    Raises TypeError for anything else; CannotExpressError, a ValueError, that lists each cell and option that PyTorch
    does not have, and why; ModuleNotFoundError if PyTorch is missing.
    """
    if not isinstance(rnn, (RNN, Cell)):
        raise TypeError(f"rnn must be a tr.nn.RNN or a cell, got {type(rnn).__name__}")
    theirs = _pytorch()
    layers = rnn.cells if isinstance(rnn, RNN) else [[rnn]]
    names = {(layer, d): cell for layer, directions in enumerate(layers) for d, cell in enumerate(directions)}
    first = layers[0][0]
    kind = _kind(first)
    if wrong := _not_expressed(rnn, kind, names):
        raise CannotExpressError("PyTorch can not express this:\n  " + "\n  ".join(wrong))
    assert kind is not None  # or something were wrong
    options: dict[str, Any] = {"bias": first.bias, "dtype": getattr(theirs, str(first.dtype))}  # type: ignore[attr-defined]
    if kind.cell is Elman:
        options["nonlinearity"] = told(first.activation)  # type: ignore[attr-defined]
    sizes = (first.input_size, first.hidden_size)
    if isinstance(rnn, RNN):
        if kind.cell is LSTM:
            options["proj_size"] = first.projection or 0  # type: ignore[attr-defined]
        options |= {"num_layers": rnn.num_layers, "batch_first": rnn.batch_first, "bidirectional": rnn.bidirectional}
    make = getattr(theirs.nn, kind.name + "Cell" * isinstance(rnn, Cell))
    made = make(*sizes, device="meta", **options).to_empty(device="cpu")  # "meta" draws no numbers
    values: dict[str, Array] = {}
    for (layer, d), cell in names.items():
        end = f"_l{layer}{'_reverse' * d}" if isinstance(rnn, RNN) else ""
        values |= {name + end: array for name, array in _theirs(kind, cell).items()}
    made.load_state_dict({name: theirs.from_numpy(array) for name, array in values.items()})
    if isinstance(rnn, RNN):
        made.dropout = rnn.dropout  # not on construction, where PyTorch warns of dropout in a single layer
    return made.train(rnn.training)


def _pytorch() -> Any:
    """PyTorch. Raises ModuleNotFoundError that names the extra if it is missing."""
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ModuleNotFoundError(
            "tr.interop.torch needs PyTorch: pip install 'tinyrnn[torch]'", name="torch"
        ) from None
    return torch


# -- from PyTorch ------------------------------------------------------------------------------------------------------


def _layer(kind: Kind, module: Any, rng: np.random.Generator) -> RNN:
    sides = ["", "_reverse"][: 1 + module.bidirectional]
    layers: list[list[Cell]] = []
    width = module.input_size
    for layer in range(module.num_layers):
        layers.append([_ours(kind, module, width, f"_l{layer}{side}", rng) for side in sides])
        width = len(sides) * (module.proj_size or module.hidden_size)
    return RNN(
        layers,
        module.num_layers,
        bidirectional=module.bidirectional,
        dropout=module.dropout,
        batch_first=module.batch_first,
        rng=rng,
    )


def _cell(kind: Kind, module: Any, rng: np.random.Generator) -> Cell:
    return _ours(kind, module, module.input_size, "", rng)


def _ours(kind: Kind, module: Any, width: int, end: str, rng: np.random.Generator) -> Cell:
    """The cell whose weights have names with this end in the module."""
    names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"][: 4 if module.bias else 2]
    names += ["weight_hr"] * (getattr(module, "proj_size", 0) > 0)
    tensors = {name: getattr(module, name + end).detach().cpu() for name in names}
    if other := [f"{name}{end} is {t.dtype}" for name, t in tensors.items() if str(t.dtype) not in DTYPES]:
        raise ValueError(f"module must be float32 or float64, but {other[0]}; module.float() converts it")
    options: dict[str, Any] = {"bias": bool(module.bias), "dtype": DTYPES[str(tensors["weight_ih"].dtype)], "rng": rng}
    if kind.cell is Elman:
        options["activation"] = {"tanh": ops.tanh, "relu": ops.relu}[module.nonlinearity]
    elif kind.cell is GRU:
        options |= {"reset": "after", "flipped": True}
    elif "weight_hr" in tensors:
        options["projection"] = module.proj_size
    cell = kind.cell(width, module.hidden_size, **options)
    cell.load_state_dict(_values(kind, {name: tensor.numpy() for name, tensor in tensors.items()}))
    return cell


DTYPES = {"torch.float32": "float32", "torch.float64": "float64"}


def _values(kind: Kind, theirs: Mapping[str, Array]) -> dict[str, Array]:
    """A cell's values by our names, of PyTorch's."""
    found: dict[str, Array] = {}
    for stem, name in (("W_x", "weight_ih"), ("W_h", "weight_hh")):
        blocks = np.split(theirs[name], len(kind.gates))
        found |= {stem + gate: block.T for gate, block in zip(kind.gates, blocks, strict=True)}
    if "bias_ih" in theirs:
        pairs = zip(*(np.split(theirs[name], len(kind.gates)) for name in ("bias_ih", "bias_hh")), strict=True)
        for gate, (b, b_h) in zip(kind.gates, pairs, strict=True):
            if gate == "n":
                found |= {"b_n": b, "b_hn": b_h}
            else:
                found[f"b_{gate}".rstrip("_")] = b + b_h
    if "weight_hr" in theirs:
        found["W_p"] = theirs["weight_hr"].T
    return found


# -- to PyTorch --------------------------------------------------------------------------------------------------------


def _theirs(kind: Kind, cell: Cell) -> dict[str, Array]:
    """A cell's values by PyTorch's names, with zeros for the biases that it has twice."""
    values = cell.state_dict()
    if isinstance(cell, GRU) and not cell.flipped:  # 1 - σ(a) = σ(-a)
        values |= {name: -values[name] for name in ("W_xz", "W_hz", "b_z") if name in values}
    found = {
        name: np.concatenate([values[stem + gate].T for gate in kind.gates])
        for stem, name in (("W_x", "weight_ih"), ("W_h", "weight_hh"))
    }
    biases = [f"b_{gate}".rstrip("_") for gate in kind.gates]
    if biases[0] in values:
        found["bias_ih"] = np.concatenate([values[name] for name in biases])
        found["bias_hh"] = np.zeros_like(found["bias_ih"])
        if "b_hn" in values:
            found["bias_hh"][-len(values["b_hn"]) :] = values["b_hn"]
    if "W_p" in values:
        found["weight_hr"] = np.ascontiguousarray(values["W_p"].T)
    return found


def _kind(cell: Cell) -> Kind | None:
    """The kind of the cell: its class, or a subclass that computes the same."""
    for kind in KINDS:
        if isinstance(cell, kind.cell) and all(
            getattr(type(cell), name) is getattr(kind.cell, name) for name in ("step", "initial_state", "draws")
        ):
            return kind
    return None


def _not_expressed(rnn: RNN | Cell, kind: Kind | None, cells: Mapping[tuple[int, int], Cell]) -> list[str]:
    """All in which the layer or cell goes beyond PyTorch's, a line each: what, in which cells, and why not."""
    stack = isinstance(rnn, RNN)
    whole = f"torch.nn.{kind.name if kind else ''}{'' if stack else 'Cell'}"
    found: dict[tuple[str, str], list[str]] = {}
    for (layer, d), cell in cells.items():
        name = f"cells.{layer}.{d}" if stack else ""
        for fault in _faults(cell, kind, next(iter(cells.values())), whole, stack):
            found.setdefault(fault, []).append(name)
    lines = [
        f"{what}{f' in {names}' if (names := ', '.join(where)) else ''}: {why}" for (what, why), where in found.items()
    ]
    if isinstance(rnn, RNN) and rnn.residual:
        lines.append("residual=True: PyTorch's layers do not add their input to their output")
    if isinstance(rnn, RNN) and rnn.bidirectional and rnn.merge != "concat":
        lines.append(f"merge={told(rnn.merge)}: PyTorch's layers put the directions side by side")
    return lines


def _faults(cell: Cell, kind: Kind | None, first: Cell, whole: str, stack: bool) -> Iterator[tuple[str, str]]:
    """What of a cell PyTorch does not have, and why. first: the first cell of the layers, of that kind."""
    name = type(cell).__name__
    if (found := _kind(cell)) is None:
        yield name, "torch.nn has no such cell, only those of RNN (Elman), LSTM and GRU"
        return
    if kind is None or found is not kind:
        yield name, f"all cells of a layer of torch.nn are alike, here like the {type(first).__name__} of cells.0.0"
        return
    for option, allowed in kind.options.items():
        value = getattr(cell, option)
        if not any(value is one or value == one for one in allowed):
            yield f"{name}'s {option}={told(value)}", f"{whole} has none, for {WHY.get(option, FIXED)}"
    alike: dict[str, Any] = {"hidden_size": cell.hidden_size}
    for option in ("projection", "bias", *(["activation"] if kind.cell is Elman else [])):
        alike[option] = getattr(cell, option, None)
    if not stack and alike["projection"] is not None:
        yield f"{name}'s projection", f"{whole} has none; torch.nn.{kind.name} has, which tr.nn.RNN(cell) becomes"
    for option, value in alike.items():
        if value != (common := getattr(first, option, None)):
            yield f"{name}'s {option}={told(value)}", f"{whole} has one for all cells, here {told(common)} in cells.0.0"
