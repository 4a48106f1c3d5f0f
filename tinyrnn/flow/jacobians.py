"""`jacobian`: how the state of one time moves with that of another."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyrnn.autograd import enable_grad
from tinyrnn.flow.local import Local, as_range, ended, jacobian_of, stretches
from tinyrnn.flow.norms import spectral_norms
from tinyrnn.flow.runs import on_host, prepare
from tinyrnn.flow.shares import leaf_like
from tinyrnn.loop import Sequences, States
from tinyrnn.module import Cell
from tinyrnn.records import Record

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class Jacobian(Record):
    """d state_to / d state_from and what it is the product of. All states of the cell side by side are n columns."""

    from_step: int
    to_step: int
    slices: dict[str, slice]
    """Where each state lies among the n."""
    steps: Array
    """d state_{t+1} / d state_t for t = from..to - 1, (to - from, B, n, n), rows of what is after the step."""

    @cached_property
    def norms(self) -> Floats:
        """The spectral norm of each step's Jacobian, (to - from, B)."""
        return spectral_norms(self.steps)

    @cached_property
    def whole(self) -> Array:
        """d state_to / d state_from, (B, n, n): the product of all steps'."""
        factor, power = self._product[:2]
        with np.errstate(over="ignore", under="ignore"):
            return np.ldexp(factor, power[:, None, None])

    @cached_property
    def product_norms(self) -> Floats:
        """The spectral norm of d state_{t+1} / d state_from for t = from..to - 1, (to - from, B)."""
        with np.errstate(over="ignore", under="ignore"):
            return 10.0**self.log10_product_norms

    @property
    def log10_product_norms(self) -> Floats:
        """log10 of `product_norms`, also where these leave the range of floats; -inf where a product is 0."""
        return self._product[2]

    @cached_property
    def _product(self) -> tuple[Array, npt.NDArray[np.int64], Floats]:
        """The product as a matrix times a power of two for each row, and the logarithms of the norms on the way."""
        count, rows, n, _ = self.steps.shape
        product = np.broadcast_to(np.eye(n, dtype=self.steps.dtype), (rows, n, n))
        power = np.zeros(rows, np.int64)
        logs = np.empty((count, rows))
        with np.errstate(all="ignore"):
            for k in range(count):
                product = self.steps[k] @ product
                largest = np.abs(product).max((1, 2))
                exponent = np.where(np.isfinite(largest), np.frexp(largest)[1], 0)
                product = np.ldexp(product, -exponent[:, None, None])
                power += exponent
                logs[k] = np.log10(spectral_norms(product)) + power * np.log10(2.0)
        return product, power, logs


@on_host
def jacobian(
    cell: Cell,
    xs: Sequences,
    from_step: int = 0,
    to_step: int | None = None,
    state: States = None,
    *,
    lengths: npt.ArrayLike | None = None,
) -> Jacobian:
    """The exact derivative of the states after some steps by those before them, for each row of the batch.

    cell, xs, state, lengths    as `tr.scan` takes them
    from_step, to_step    state_t is that after t steps, so state_0 is the first one; as a slice xs[from_step:to_step]
                          they name the steps between the two states. None: all of xs.

    The states of a cell are independent of one another here: for an LSTM, d c_t / d c_{t-1} holds h_{t-1} fixed, and
    what c_{t-1} does by way of h_{t-1} is in the product, in the columns of h (`paths` has it in one). Rows that have
    ended keep their state: their Jacobian is the identity.

    Made by vector-Jacobian products, one for each of the n columns, at all steps at once; norms are computed when they
    are asked for. It holds (to_step - from_step) · B · n² numbers in the cell's dtype. Raises what `tr.scan` raises,
    and TypeError or ValueError for steps that are none of xs.
    """
    run, local = prepare(cell, xs, state, lengths, Local)
    first, last = as_range(run, from_step, to_step)
    before = local.states(run, last)
    sizes = cell.state_sizes
    n = sum(sizes)
    found = np.empty((last - first, run.rows, n, n), cell.dtype)
    with enable_grad():
        for cut in stretches(first, last, run.rows):
            inputs = [leaf_like(x._array[cut].reshape(-1, x.shape[2])).detach() for x in run.inputs]
            states = [leaf_like(s[cut].reshape(-1, s.shape[2])) for s in before]
            nexts = local.run(inputs, states)
            found[cut.start - first : cut.stop - first] = jacobian_of(nexts, states).reshape(-1, run.rows, n, n)
    over = ended(run, first, last)
    if over is not None:
        found[over] = np.eye(n, dtype=cell.dtype)
    at = np.cumsum([0, *sizes])
    slices = {name: slice(int(a), int(a) + size) for name, a, size in zip(cell.states, at, sizes, strict=False)}
    return Jacobian(first, last, slices, found)
