"""Stacks of recurrent layers, in one direction or both, from any cell.

Notation: T steps, B rows, I features of the input, H those of a cell's output, D directions (1 or 2), L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from tinyrnn import ops
from tinyrnn._core.tape import Tensor, wrap
from tinyrnn.checks import as_rate, as_rng, as_size, put_back, type_name
from tinyrnn.loop import check_finite_sequence, check_finite_states, check_lengths, scan_layer
from tinyrnn.module import Cell, Module

Array = npt.NDArray[Any]
Given: TypeAlias = Tensor | Array
RNNState: TypeAlias = list[tuple[Tensor, ...]]
"""The states of a stack: layer by layer, forward then backward direction, each cell's states (B, size)."""
Source: TypeAlias = Cell | Callable[[int], Cell] | Sequence[Sequence[Cell]]
Nested = TypeVar("Nested")


class RNN(Module):
    """num_layers recurrent layers, one above the other, each of one cell or of one a direction.

        rnn = tr.nn.RNN(tr.cells.GRU(8, 16), 2, bidirectional=True, dropout=0.3)
        ys, state = rnn(xs, lengths=lengths)                  # xs (T, B, 8), ys (T, B, 32), 4 states

    cell           a Cell, which becomes the first layer's (the others are `cell.another(..)`), or a function
                   input_size -> Cell, called once a layer and direction, or all the cells, as `cells` lists them
    input_size     the width of xs; needed if cell is a function
    bidirectional  a second cell a layer runs every row from its own last step to its first (Schuster & Paliwal 1997)
    merge          "concat": a layer's output is both directions' side by side, (.., 2H); "sum": their sum, (.., H)
    dropout        the probability with which what rises from one layer to the next is zeroed, the rest scaled by
                   1/(1-p), anew at each step; never what runs in time, nor what leaves the last layer
                   (Zaremba, Sutskever & Vinyals 2014). In training only.
    residual       add to each layer's output what was given to it, before dropout: all must be of one width
    batch_first    xs and ys are (B, T, ..) instead of (T, B, ..); states are (B, size) in any case
    rng            what dropout and the cells that `another` makes are drawn from, a numpy Generator or a seed;
                   None: the first cell's generator

    `cells` is the list of layers, each a list of one or two cells, so that parameters are called `cells.0.0.W_xi`.
    Raises TypeError or ValueError that names the argument; a residual error names the layer and its two widths.
    """

    def __init__(
        self,
        cell: Source,
        num_layers: int = 1,
        *,
        input_size: int | None = None,
        bidirectional: bool = False,
        dropout: float = 0.0,
        residual: bool = False,
        batch_first: bool = False,
        merge: str = "concat",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__()
        num_layers = as_size("num_layers", num_layers)
        dropout = as_rate("dropout", dropout)
        if merge not in ("concat", "sum"):
            raise ValueError(f'merge must be "concat" or "sum", got {merge!r}')
        if isinstance(cell, (list, tuple)):
            num_layers, bidirectional = _check_cells(cell, num_layers, bidirectional)
        self.num_layers, self.bidirectional, self.merge = num_layers, bool(bidirectional), merge
        self.dropout, self.residual, self.batch_first = float(dropout), bool(residual), bool(batch_first)
        generator = None if rng is None else as_rng(rng)
        self.input_size, make = _maker(cell, input_size, generator)
        self.cells: list[list[Cell]] = []
        width = self.input_size
        with put_back(generator, cell.rng if isinstance(cell, Cell) else None):
            for layer in range(self.num_layers):
                self.cells.append([make(width) for _ in range(1 + self.bidirectional)])
                out = self._check_layer(layer, width)
                if residual and out != width:
                    raise ValueError(
                        f"residual adds a layer's input to its output, which must be as wide, but layer {layer} makes "
                        f"{out} features of {width}"
                    )
                width = out
        self.output_size = width
        """The width of ys."""
        self.dtype = self.cells[0][0].dtype
        self.rng = self.cells[0][0].rng if generator is None else generator

    def arguments(self) -> dict[str, Any]:
        """As `Module.arguments`; `cell` is the list of all cells."""
        if type(self).__init__ is not RNN.__init__:
            return super().arguments()
        names = ("num_layers", "bidirectional", "dropout", "residual", "batch_first", "merge")
        return {"cell": self.cells} | {name: getattr(self, name) for name in names}

    def _check_layer(self, layer: int, width: int) -> int:
        """The width of what the layer gives; raises if its cells do not fit each other or what they are given."""
        cells = self.cells[layer]
        for made in cells:
            if made.input_size != width or made.dtype != self.cells[0][0].dtype:
                raise ValueError(
                    f"cell must give one of input_size {width} and dtype {self.cells[0][0].dtype} for layer {layer}, "
                    f"got {type(made).__name__}({made.extra_repr()}) of {made.dtype}"
                )
        outs = [made.state_sizes[0] for made in cells]
        if self.merge == "sum" and len(set(outs)) > 1:
            raise ValueError(f'merge="sum" needs directions of one width, got {outs[0]} and {outs[1]} in layer {layer}')
        return sum(outs) if self.merge == "concat" else outs[0]

    def forward(
        self,
        xs: Given,
        state: Sequence[Any] | None = None,
        *,
        lengths: npt.ArrayLike | None = None,
        return_sequences: bool = True,
        check_finite: bool = False,
    ) -> tuple[Tensor, RNNState]:
        """Run the stack: (ys (T, B, output_size), the final states).

        xs       (T, B, I), a Tensor of the cells' dtype or an array.
        state    a list of L·D states, layer by layer, forward direction before backward; each a tuple of (B, size)
                 tensors, one a state of the cell, or None for the cell's initial one. It is what a call returns, so
                 that a next segment of the same rows goes on from there; `detach` it where no gradient shall pass.
        lengths  (B,) ints in 0..T, in any order: row b ends after lengths[b] steps. Beyond, its outputs are 0 and xs
                 is not read; its states are those of its last step, of the backward direction those of step 0.
        return_sequences  False: instead of ys the last output of each row, (B, output_size): that of the row's last
                 step, of the backward direction that of step 0; 0 for a row of no steps. (With residual and
                 merge="sum", the input that is added is that of the last step.)
        check_finite  raise ValueError for the first NaN or infinity in xs, as far as it is read, and in state: it names
                 the time, the row and the feature.

        Raises TypeError or ValueError that names the argument, what it got and what it needs, before the first step.
        """
        xs = self._check_input(xs)
        steps, rows = xs.shape[:2]
        ends = check_lengths(lengths, steps, rows)
        before = self._check_states(state, rows)
        if check_finite:
            check_finite_sequence("xs", xs, ends)
            for k, (cell, given) in enumerate(zip((c for layer in self.cells for c in layer), before, strict=True)):
                if given is not None:
                    values = (given,) if isinstance(given, (Tensor, np.ndarray)) else given
                    check_finite_states(f"state[{k}]", cell, values)
        if self.residual and ends is not None:
            xs = ops.where((np.arange(steps)[:, None] < ends)[:, :, None], xs, 0.0)
        after: RNNState = []
        for layer, cells in enumerate(self.cells):
            read = ops.dropout(xs, self.dropout, self.rng, self.training) if layer else xs
            wanted = return_sequences or layer < self.num_layers - 1
            merge = self.merge_directions if wanted else None
            ys, finals = scan_layer(cells, read, before[len(after) : len(after) + len(cells)], ends, merge)
            after += finals
            if ys is None:
                return self._last([states[0] for states in finals], xs, ends), after
            xs = ys + xs if self.residual else ys
        return (xs.transpose(1, 0, 2) if self.batch_first else xs), after

    def merge_directions(self, outputs: Sequence[Tensor]) -> Tensor:
        """One tensor of what the directions give, one each: side by side along the last axis, or summed."""
        if not isinstance(outputs, (list, tuple)) or len(outputs) != 1 + self.bidirectional:
            got = len(outputs) if isinstance(outputs, (list, tuple)) else type_name(outputs)
            raise ValueError(f"outputs must be {1 + self.bidirectional} tensors, one a direction, got {got}")
        if len(outputs) == 1:
            return outputs[0]
        return ops.concat(outputs, -1) if self.merge == "concat" else outputs[0] + outputs[1]

    def _last(self, outputs: list[Tensor], xs: Tensor, ends: Array | None) -> Tensor:
        """The last layer's last outputs, from its cells' first states, which are outputs, and from its input."""
        steps, rows = xs.shape[:2]
        if steps == 0:
            return wrap(np.zeros((rows, self.output_size), self.dtype), xs)
        if self.residual:
            last = xs[-1] if ends is None else xs[np.maximum(ends - 1, 0), np.arange(rows)]
            if len(outputs) == 2 and self.merge == "concat":
                width = outputs[0].shape[1]
                last = ops.concat([last[:, :width], xs[0, :, width:]], 1)
            merged = self.merge_directions(outputs) + last
        else:
            merged = self.merge_directions(outputs)
        return merged if ends is None or ends.all() else ops.where((ends > 0)[:, None], merged, 0.0)

    def _check_input(self, xs: Given) -> Tensor:
        """xs as a Tensor (T, B, I) of the cells' dtype."""
        order = "(batch, time, features)" if self.batch_first else "(time, batch, features)"
        if not isinstance(xs, (Tensor, np.ndarray)):
            raise TypeError(f"xs must be a Tensor or an array {order}, got {type_name(xs)}")
        if isinstance(xs, Tensor) and xs.dtype != self.dtype:
            raise TypeError(f"xs must be {self.dtype} like the RNN, got {xs.dtype}")
        if not isinstance(xs, Tensor) and xs.dtype.kind not in "fiub":
            raise TypeError(f"xs must be an array of numbers, got {xs.dtype}")
        if xs.ndim != 3 or xs.shape[2] != self.input_size:
            raise ValueError(f"xs must be {order} with {self.input_size} features, got shape {xs.shape}")
        xs = xs if isinstance(xs, Tensor) else Tensor(xs, dtype=self.dtype, device=self.device)
        return xs.transpose(1, 0, 2) if self.batch_first else xs

    def _check_states(self, state: Sequence[Any] | None, rows: int) -> Sequence[Any]:
        """state with one entry a cell, each None or of the sizes of its cell."""
        cells = [cell for layer in self.cells for cell in layer]
        if state is None:
            return [None] * len(cells)
        if not isinstance(state, (list, tuple)) or len(state) != len(cells):
            got = f"{len(state)}" if isinstance(state, (list, tuple)) else type_name(state)
            raise (ValueError if isinstance(state, (list, tuple)) else TypeError)(
                f"state must be a list of {len(cells)}, one tuple of tensors a layer and direction, got {got}"
            )
        for k, (cell, given) in enumerate(zip(cells, state, strict=True)):
            if given is None:
                continue
            values = (given,) if isinstance(given, (Tensor, np.ndarray)) else given
            if not isinstance(values, (list, tuple)) or not all(isinstance(v, (Tensor, np.ndarray)) for v in values):
                got = ", ".join(map(type_name, values)) if isinstance(values, (list, tuple)) else type_name(values)
                raise TypeError(f"state[{k}] must be a tuple of tensors, {', '.join(cell.states)}, or None, got {got}")
            if len(values) != len(cell.states):
                raise ValueError(
                    f"state[{k}] must be {len(cell.states)} tensors, {', '.join(cell.states)}, got {len(values)}"
                )
            for name, size, value in zip(cell.states, cell.state_sizes, values, strict=True):
                if value.shape != (rows, size):
                    raise ValueError(f"state[{k}], {name!r}, must be of shape {(rows, size)}, got {value.shape}")
                if value.dtype != self.dtype if isinstance(value, Tensor) else value.dtype.kind not in "fiub":
                    raise TypeError(f"state[{k}], {name!r}, must be {self.dtype} like the RNN, got {value.dtype}")
        return state

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.output_size}"]
        parts += [f"num_layers={self.num_layers}"] * (self.num_layers > 1)
        parts += [f"{name}=True" for name in ("bidirectional", "residual", "batch_first") if getattr(self, name)]
        parts += [f"merge={self.merge!r}"] * (self.bidirectional and self.merge != "concat")
        parts += [f"dropout={self.dropout:g}"] * bool(self.dropout)
        return ", ".join(parts)


def _check_cells(layers: Sequence[Any], num_layers: int, bidirectional: bool) -> tuple[int, bool]:
    """How many layers and directions a list of layers has; raises if it is none, or not what the arguments say."""
    if not all(isinstance(layer, (list, tuple)) and all(isinstance(c, Cell) for c in layer) for layer in layers):
        raise TypeError("cell must be a list of layers, each a list of cells, one a direction")
    counts = sorted({len(layer) for layer in layers})
    if counts not in ([1], [2]) or (bidirectional and counts == [1]):
        needs = "2 cells," if bidirectional else "1 cell, or 2 each,"
        raise ValueError(f"cell must hold layers of {needs} one a direction, got {[len(layer) for layer in layers]}")
    if num_layers not in (1, len(layers)):
        raise ValueError(f"num_layers must be {len(layers)}, the layers in cell, got {num_layers}")
    return len(layers), counts == [2]


def _maker(cell: Source, input_size: int | None, rng: np.random.Generator | None) -> tuple[int, Callable[[int], Cell]]:
    """The width of the first layer's input, and what gives the next cell for a width."""
    if input_size is not None:
        input_size = as_size("input_size", input_size)
    if isinstance(cell, (Cell, list, tuple)):
        ready = [cell] if isinstance(cell, Cell) else [c for layer in cell for c in layer]
        if input_size not in (None, ready[0].input_size):
            raise ValueError(f"input_size must be {ready[0].input_size}, that of the cell, or None, got {input_size}")
        waiting = ready[::-1]
        return ready[0].input_size, lambda width: waiting.pop() if waiting else ready[0].another(width, rng=rng)
    if isinstance(cell, type) or not callable(cell):
        hint = "; make one of the class first" if isinstance(cell, type) else ""
        raise TypeError(f"cell must be a tr.Cell or a function input_size -> tr.Cell, got {cell!r}{hint}")
    if input_size is None:
        raise TypeError("input_size must be given where cell is a function")

    def make(width: int) -> Cell:
        made = cell(width)
        if not isinstance(made, Cell):
            raise TypeError(f"cell must give a tr.Cell for an input_size, got {type(made).__name__}")
        return made

    return input_size, make


def detach(state: Nested) -> Nested:
    """The same states, cut from the tape: the next segment goes on from their values, and no gradient passes back.

    state: a Tensor, or lists and tuples of them, as `RNN`, `scan` and `unroll` return; None stays None. This is how
    BPTT is truncated. Raises TypeError for anything else.
    """
    if isinstance(state, Tensor):
        return state.detach()  # type: ignore[return-value]
    if isinstance(state, (list, tuple)):
        return type(state)(map(detach, state))
    if state is None:
        return state
    raise TypeError(f"state must be a Tensor or a list or tuple of Tensors, got {type_name(state)}")
