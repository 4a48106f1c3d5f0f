"""Cells around any cell, also a user's own: noise on the states, and first states that are learned."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from tinyrnn._core.tape import Tensor, wrap
from tinyrnn.cells.parts import told
from tinyrnn.checks import as_count, as_rate, put_back
from tinyrnn.module import Cell, Initialiser
from tinyrnn.ops import broadcast_to
from tinyrnn.ops.composite import bernoulli


class Wrapper(Cell):
    """What wrappers share: the sizes, states, time inputs and draws are those of the cell inside, `cell`.

    A subclass takes the cell first and then options, which it keeps in attributes of their names, and defines
    `own_draws` and `step`. Its random numbers come from the generator `rng`, by default the cell's.
    """

    def __init__(self, cell: Cell, *, rng: np.random.Generator | int | None = None) -> None:
        if not isinstance(cell, Cell):
            hint = "; make one of the class first" if isinstance(cell, type) else ""
            raise TypeError(f"cell must be a tr.Cell, got {cell!r}{hint}")
        super().__init__(cell.input_size, cell.hidden_size, dtype=cell.dtype, rng=cell.rng if rng is None else rng)
        self.cell = cell
        self._takes_mask = "mask" in inspect.signature(cell.step).parameters

    @property
    def states(self) -> tuple[str, ...]:  # type: ignore[override]  # those of the cell inside
        return self.cell.states

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """The width of every state of the cell inside."""
        return self.cell.state_sizes

    @property
    def memory_gates(self) -> dict[str, int]:
        """The cell's, by their names here."""
        return {f"cell.{name}": sign for name, sign in getattr(self.cell, "memory_gates", {}).items()}

    def initial_state(self, batch: int) -> tuple[Tensor, ...]:
        """The cell's."""
        return self.cell.initial_state(batch)

    def draws(self, steps: int, batch: int) -> tuple[Tensor, ...]:
        """The cell's, then `own_draws`."""
        return (*self.cell.draws(steps, batch), *self.own_draws(steps, batch))

    def _step_takes(self) -> tuple[int, float]:
        """What the cell takes, and `own_draws`."""
        own = len(self.own_draws(0, 0))
        low, high = self.cell._step_takes()
        return low + own, high + own

    def own_draws(self, steps: int, batch: int) -> tuple[Tensor, ...]:
        """The masks of this wrapper for a run, (steps, batch, n) each; none by default."""
        return ()

    def another(self, input_size: int | None = None, *, rng: np.random.Generator | int | None = None) -> Cell:
        """A wrapper with the same options around `cell.another(..)`."""
        options = {name: value for name, value in self.options().items() if name != "cell"}
        inside = self.cell.another(input_size, rng=rng)
        return type(self)(inside, rng=self.rng if rng is None and self.rng is not self.cell.rng else None, **options)

    def take_step(
        self, inputs: tuple[Tensor, ...], states: tuple[Tensor, ...], mask: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """The cell's step, always as a tuple. mask: what its first state is multiplied by where products read it."""
        if mask is None:
            got = self.cell.step(*inputs, *states)
        elif self._takes_mask:
            got = self.cell.step(*inputs, *states, mask=mask)
        else:
            got = self.cell.step(*inputs, states[0] * mask, *states[1:])
        return got if isinstance(got, tuple) else (got,)

    def extra_repr(self) -> str:
        options = {name: value for name, value in self.options().items() if name != "cell"}
        return ", ".join(f"{name}={told(value)}" for name, value in options.items())


class Zoneout(Wrapper):
    """Zoneout: in training, units of the states keep their value of the step before (Krueger et al. 2017).

        s' = d * s + (1 - d) * F(s)         in training, d drawn anew for every step, row and unit; P(d = 1) = p
        s' = p * s + (1 - p) * F(s)         in use, after .eval(): the expectation

    for every state s of a cell whose step gives F(s); other states of the same step do not see it.

    p: for all states, or a dict by their names, {"h": 0.05, "c": 0.5} in the paper's language models; 0 for those not
    named. In [0, 1). rng: a numpy Generator or a seed for d; None: the cell's generator. Raises ValueError for another
    p or a state that the cell does not have.
    """

    def __init__(
        self, cell: Cell, p: float | Mapping[str, float], *, rng: np.random.Generator | int | None = None
    ) -> None:
        super().__init__(cell, rng=rng)
        self.p = dict(p) if isinstance(p, Mapping) else p
        if isinstance(p, Mapping) and (unknown := [name for name in p if name not in cell.states]):
            raise ValueError(
                f"p must name states of the {type(cell).__name__}, {', '.join(cell.states)}, got {unknown[0]!r}"
            )
        by_name = {name: p.get(name, 0.0) if isinstance(p, Mapping) else p for name in cell.states}
        self.rates = tuple(as_rate(f"p[{k!r}]" if isinstance(p, Mapping) else "p", v) for k, v in by_name.items())

    def own_draws(self, steps: int, batch: int) -> tuple[Tensor, ...]:
        """d for each state of p > 0 while training, 1 where the old value stays."""
        if not self.training:
            return ()
        sizes = ((steps, batch, n) for n in self.state_sizes)
        return tuple(_bits(self, shape, p) for shape, p in zip(sizes, self.rates, strict=True) if p)

    def step(self, *args: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """The cell's step, and each state's old value for a part of its units."""
        count = sum(p > 0 for p in self.rates) if self.training else 0
        inputs, drawn, states = _cut(args, count, len(self.states))
        kept = iter(drawn)
        new = self.take_step(inputs, states, mask)
        return tuple(
            _mixed(next(kept) if self.training else p, s, f) if p else f
            for p, s, f in zip(self.rates, states, new, strict=True)
        )


class RecurrentDropout(Wrapper):
    """Dropout of what runs in time, with one mask for the whole sequence (Gal & Ghahramani 2016).

        a product that reads the first state, h W, becomes (h * m) W;   P(m = 0) = p, else m = 1 / (1 - p)

    in training; m (B, H) is drawn for every run of `scan` or `unroll` and is the same at all its steps. In use, after
    .eval(), the cell is as it is. Other states, as the c of an LSTM, and what carries the first state to the next
    step, as (1 - z) * h in a GRU, are not dropped: a mask that never changes would empty or blow up a unit.

    A step that also reads its first state other than through products takes a keyword argument `mask`, None or
    (B, H), and multiplies what its products read by it: all such cells of this package do. For a step that does not
    take it, every use of its first state sees h * m.

    p: in [0, 1). rng: a numpy Generator or a seed for m; None: the cell's generator.
    """

    def __init__(self, cell: Cell, p: float, *, rng: np.random.Generator | int | None = None) -> None:
        super().__init__(cell, rng=rng)
        self.p = as_rate("p", p)

    def own_draws(self, steps: int, batch: int) -> tuple[Tensor, ...]:
        """m while training, once more for every step."""
        if not self.training or not self.p:
            return ()
        scale = self.dtype.type(1 / (1 - self.p))
        mask = (1 - _bits(self, (1, batch, self.state_sizes[0]), self.p).data) * scale
        return (wrap(np.repeat(mask, steps, axis=0)),)

    def step(self, *args: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """The cell's step with a part of its first state dropped."""
        inputs, drawn, states = _cut(args, int(self.training and self.p > 0), len(self.states))
        if drawn:
            mask = drawn[0] if mask is None else mask * drawn[0]
        return self.take_step(inputs, states, mask)


class LearnedState(Wrapper):
    """A cell whose first states are learned, one row for all sequences, in place of zeros.

        s_0 = the parameter s_0 (H,), repeated for every row, for each state s; named h_0, c_0, ..

    A state that is given to `scan` or `unroll` still counts instead. init: the values at the start, as
    `Cell.param` takes them: a number, or a function (rng, shape, dtype) -> array.
    """

    def __init__(
        self, cell: Cell, *, init: Initialiser | float = 0.0, rng: np.random.Generator | int | None = None
    ) -> None:
        super().__init__(cell, rng=rng)
        self.init = init
        with put_back(self.rng):
            for name, size in zip(cell.states, cell.state_sizes, strict=True):
                setattr(self, f"{name}_0", self.param(size, init=init))

    def initial_state(self, batch: int) -> tuple[Tensor, ...]:
        """The learned states, (batch, size) each."""
        batch = as_count("batch", batch)
        firsts = (getattr(self, f"{name}_0") for name in self.states)
        return tuple(broadcast_to(s, (batch, size)) for s, size in zip(firsts, self.state_sizes, strict=True))

    def step(self, *args: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """The cell's step."""
        inputs, _, states = _cut(args, 0, len(self.states))
        return self.take_step(inputs, states, mask)


def _bits(cell: Cell, shape: tuple[int, ...], p: float) -> Tensor:
    """1 with probability p, else 0."""
    return wrap(bernoulli(cell.rng, shape, p).astype(cell.dtype))


def _mixed(d: Tensor | float, old: Tensor, new: Tensor) -> Tensor:
    return d * old + (1 - d) * new


def _cut(args: tuple[Any, ...], drawn: int, states: int) -> tuple[tuple[Tensor, ...], ...]:
    """A step's arguments: time inputs with the cell's own draws, the wrapper's draws, states."""
    n = len(args) - states
    return args[: n - drawn], args[n - drawn : n], args[n:]
