"""Cells as people write them, in every way that a loop runs.

`pytest -m slow tests/test_soak.py` draws thousands of them in some minutes, each time others, and TINYRNN_SOAK times as
many if that is set. What fails is shown as the text of its step, made as short as it can be.
"""

import copy
import functools
import math
import os
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from unittest import mock

import numpy as np
import pytest
from drawn_cells import drawn_cells
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scan_cases import assert_equal, assert_rows_are_their_own, assert_same_bits, case, mixed, run

import tinyrnn as tr
from tinyrnn.backend import threads
from tinyrnn.plan import checkpoint

HOST = os.environ.get("TINYRNN_TEST_CUDA") == "host"


@dataclass(frozen=True)
class Way:
    """How a cell is run: a batch, what is wanted of it, and where its inputs are multiplied.

    wanted, frozen, read: the inputs and states whose gradients are wanted, the parameters whose are not, the results in
    the loss. many: from so many rows on a loop multiplies its inputs itself; None: as it does.
    """

    rows: int
    steps: int
    ragged: bool
    reverse: bool
    wanted: list[bool] | None
    frozen: list[bool]
    read: list[bool]
    order: int
    many: float | None
    seed: int

    def prepare(self, cell, inputs):
        """The case for inputs of these widths, with the cell's parameters frozen, and the loss."""
        for p, frozen in zip(cell.parameters(), self.frozen, strict=False):
            p.requires_grad = not frozen
        lengths = np.random.default_rng(self.seed).integers(0, self.steps + 1, self.rows) if self.ragged else None
        task = case(cell, inputs, self.steps, self.rows, lengths, self.reverse, self.seed)
        task = replace(task, wanted=self.wanted and self.wanted[: len(task.xs) + len(task.state)])

        def loss(results, weights):
            pairs = zip(results, weights, strict=True)
            some = [pair for pair, here in zip(pairs, self.read, strict=False) if here]
            return mixed(*zip(*(some or [(results[0], weights[0])]), strict=True))

        return task, loss

    def multiplies(self):
        return nullcontext() if self.many is None else mock.patch.object(tr.plan, "MANY_ROWS", self.many)


def flags(size):
    return st.lists(st.booleans(), min_size=size, max_size=size)


ways = st.builds(
    Way,
    rows=st.sampled_from([2, 1, 3, 7, 8, 9, 17]),
    steps=st.integers(1, 4),
    ragged=st.booleans(),
    reverse=st.booleans(),
    wanted=flags(5),
    frozen=st.just([]) | flags(6),
    read=flags(4),
    order=st.sampled_from([1, 1, 2]),
    many=st.sampled_from([None, 0, math.inf]),
    seed=st.integers(0, 99),
)


def by_unroll(cell, task, loss=mixed, order=1):
    """What `unroll` gives, if it is numbers that are not large, so that another way differs by rounding alone."""
    with np.errstate(all="ignore"):
        found = run(tr.unroll, cell, task, loss, order)
    assume(all((np.abs(a) < 1e4).all() for part in found for a in part))
    return found


def check_drawn(drawn, way):
    """`scan` equals `unroll`, and has the same bits without gradients, for other threads, with checkpoints."""
    cell = drawn.cell()
    task, loss = way.prepare(cell, drawn.inputs)
    expected = by_unroll(cell, task, loss, way.order)
    with way.multiplies():
        found = run(tr.scan, cell, task, loss, way.order)
        assert_equal(found, expected, "float64")
        with tr.no_grad():
            alone = run(tr.scan, cell, task, order=0)
        assert_same_bits(alone[0], found[0])
        try:
            with mock.patch.object(threads, "WORTH", 1.0):
                tr.set_num_threads(2)
                again = run(tr.scan, cell, task, loss, way.order)
        finally:
            tr.set_num_threads(None)
        assert_same_bits(chain(*again), chain(*found))
        with mock.patch.object(checkpoint, "BLOCK", way.rows):
            plain = run(tr.scan, cell, task, loss)
            again = run(functools.partial(tr.scan, checkpoint_every=2), cell, task, loss)
        assert_same_bits(chain(*again), chain(*plain))
        assert_equal(plain, expected[:2], "float64")


def check_rows(drawn, way, dtype):
    cell = drawn.cell(dtype)
    task, _ = replace(way, wanted=None, frozen=[]).prepare(cell, drawn.inputs)
    by_unroll(cell, task)
    assert_rows_are_their_own(cell, task, [[0], range(0, way.rows, 2)])


def many(count):
    return settings(max_examples=count * int(os.environ.get("TINYRNN_SOAK", "1")), suppress_health_check=[*HealthCheck])


few = settings(max_examples=60, derandomize=True, suppress_health_check=[*HealthCheck])


@few
@given(drawn_cells(), ways)
def test_any_cell_in_any_way(drawn, way):
    check_drawn(drawn, way)


@pytest.mark.slow
@many(4000)
@given(drawn_cells(), ways)
def test_many_cells_in_any_way(drawn, way):
    check_drawn(drawn, way)


@pytest.mark.slow
@many(4000)
@given(drawn_cells(), ways, st.sampled_from(["float64", "float32"]))
def test_rows_of_many_cells_are_their_own(drawn, way, dtype):
    check_rows(drawn, way, dtype)


@pytest.mark.slow
@many(400)
@given(drawn_cells((515, 260, 600)), ways)
def test_rows_are_their_own_where_products_sum_in_blocks(drawn, way):
    check_rows(drawn, way, "float64")


@pytest.mark.slow
@(pytest.mark.device if HOST else pytest.mark.gpu)
@many(100)
@given(drawn_cells(), ways)
def test_cells_on_a_device(drawn, way):
    """The device equals the CPU."""
    cell = drawn.cell()
    task, loss = way.prepare(cell, drawn.inputs)
    expected = by_unroll(cell, task, loss, way.order)
    assert_equal(run(tr.scan, copy.deepcopy(cell).to("cuda"), task, loss, way.order), expected, "float64")
