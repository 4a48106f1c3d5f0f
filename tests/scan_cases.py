"""What tests of `tr.scan` share: the cells, one run by either loop, and the comparison of two runs."""

import functools
import math
from dataclasses import dataclass, replace
from unittest import mock

import numpy as np
import pytest
from cell_table import CELLS, make
from scan_cells import ODD

import tinyrnn as tr

TOLERANCE = {"float64": 1e-12, "float32": 2e-5}
RAGGED = [3, 0, 6, 1]
WIDTHS = dict.fromkeys(CELLS, (3,)) | {name: make_odd.widths for name, make_odd in ODD.items()}
SOME = ["LSTM", "GRU", "layer_norm_lstm", "blocks", "masked", "long_concatenation"]

any_length = pytest.mark.parametrize("lengths", [None, RAGGED], ids=["whole", "ragged"])
either_way = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
either_dtype = pytest.mark.parametrize("dtype", TOLERANCE)
some_cells = pytest.mark.parametrize("name", SOME)


def cell_of(name, dtype="float64"):
    return make(name, dtype) if name in CELLS else ODD[name](dtype)


@dataclass(frozen=True)
class Case:
    """Inputs, initial states and the weights of the loss: plain arrays, so that each run makes leaves of its own.

    wanted: of which inputs and initial states, in this order, the gradient is; None: of all.
    """

    xs: list
    state: list
    weights: list
    lengths: list | None = None
    reverse: bool = False
    wanted: list | None = None

    def rows(self, which):
        """The case of some rows of the batch."""
        cut = functools.partial(map, lambda a: a[:, which])
        ys, *finals = self.weights
        lengths = None if self.lengths is None else np.asarray(self.lengths)[which]
        state, finals = [s[which] for s in self.state], [f[which] for f in finals]
        return replace(self, xs=[*cut(self.xs)], state=state, weights=[ys[:, which], *finals], lengths=lengths)


def case(cell, widths=None, steps=6, rows=4, lengths=None, reverse=False, seed=1):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(size=shape).astype(cell.dtype)

    xs = [draw(steps, rows, n) for n in widths or (cell.input_size,)]
    state = [np.tanh(draw(rows, n)) for n in cell.state_sizes]
    weights = [draw(steps, rows, cell.state_sizes[0]), *(draw(rows, n) for n in cell.state_sizes)]
    return Case(xs, state, weights, lengths, reverse)


def mixed(results, weights):
    """A loss that reads everything, each element by its own weight."""
    return functools.reduce(tr.add, ((r * w).sum() for r, w in zip(results, weights, strict=True)))


def run(loop, cell, task, loss=mixed, order=1):
    """What a loop gives: [values, gradients, second-order gradients up to `order`], lists of arrays.

    The gradients are by wanted inputs and initial states and by parameters that are not frozen; 0 where there is none.
    """
    given, n = [*task.xs, *task.state], len(task.xs)
    wanted = task.wanted or [True] * len(given)
    given = [tr.tensor(a, device=cell.device, requires_grad=w) for a, w in zip(given, wanted, strict=True)]
    ys, final = loop(cell, tuple(given[:n]), tuple(given[n:]), lengths=task.lengths, reverse=task.reverse)
    leaves = [t for t in (*given, *cell.parameters()) if t.requires_grad]
    found = [[y.numpy() for y in (ys, *final)]]
    value = loss([ys, *final], task.weights)
    for k in range(order):
        if value.requires_grad:
            grads = tr.grad(value, leaves, create_graph=k + 1 < order, allow_unused=True)
        else:
            grads = [None] * len(leaves)
        found.append([np.zeros(t.shape) if g is None else g.numpy() for t, g in zip(leaves, grads, strict=True)])
        squares = [(g * g).sum() for g in grads if g is not None]
        value = functools.reduce(tr.add, squares, tr.tensor(0.0, dtype=cell.dtype))
    return found


def assert_equal(found, expected, dtype):
    """Relative to the largest element of all values, of all gradients, of all second derivatives."""
    for order, (some, others) in enumerate(zip(found, expected, strict=True)):
        largest = max([1.0, *(np.abs(a).max(initial=0) for a in others)])
        for k, (a, b) in enumerate(zip(some, others, strict=True)):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE[dtype] * largest, err_msg=f"order {order}, {k}")


def assert_same_bits(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()


def assert_rows_are_their_own(cell, task, splits):
    """Values, and gradients of inputs and initial states, of some rows do not depend on the rows beside them."""
    n = 1 + len(task.state)
    whole = run(tr.scan, cell, task)
    for which in splits:
        part = run(tr.scan, cell, task.rows(which))
        sequences = [0], range(len(task.xs))
        rows = range(1, n), range(len(task.xs), len(task.xs) + n - 1)
        for a, b, by_time, by_row in zip(whole[:2], part[:2], sequences, rows, strict=True):
            assert_same_bits([b[k] for k in by_time], [np.ascontiguousarray(a[k][:, which]) for k in by_time])
            assert_same_bits([b[k] for k in by_row], [np.ascontiguousarray(a[k][which]) for k in by_row])


def check(cell, task, loss=mixed, order=1):
    """`scan` equals `unroll`, with products of inputs before the loop and in it."""
    expected = run(tr.unroll, cell, task, loss, order)
    for many in (math.inf, 0):
        with mock.patch.object(tr.plan, "MANY_ROWS", many):
            assert_equal(run(tr.scan, cell, task, loss, order), expected, cell.dtype.name)
