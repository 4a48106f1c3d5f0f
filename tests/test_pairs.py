"""Two elementwise instructions as one: which become one, and that bits stay as they are."""

import numpy as np
import pytest
from scan_cases import WIDTHS, assert_same_bits, case, cell_of, either_dtype, run
from scan_cells import ODD
from test_scan_bits import random_cells

import tinyrnn as tr
from tinyrnn._core import kernels
from tinyrnn.plan import _plan_inside, program
from tinyrnn.plan.instructions import paired
from tinyrnn.plan.program import BufferSpec, Program

PAIRS = list(kernels.PAIRS)
STEPS, ROWS = 2, 3


def instruction(name, dst, *operands, width, spread=0):
    """Of an elementwise op; dst and operands: a buffer, or a buffer and a column."""
    made = dict.fromkeys(kernels.INSTRUCTION_FIELDS, 0)
    made |= {"kind": kernels.KINDS["map"], "code": kernels.POINTWISE[name][0], "width": width, "spread": spread}
    places = [p if isinstance(p, tuple) else (p, 0) for p in (dst, *operands, *[operands[0]] * (3 - len(operands)))]
    for field, (buffer, column) in zip(("dst", "a", "b", "c"), places, strict=True):
        made |= {field: buffer, f"{field}_at": column}
    return made


def pairs_in(instructions, scratch):
    names = {number + 1: pair for pair, number in kernels.PAIRS.items()}
    return [names[i["pair"]] for i in paired(instructions, scratch) if i["pair"]]


@either_dtype
@pytest.mark.parametrize("width", [2, 5, 33])
@pytest.mark.parametrize(("first", "second", "place", "spread"), PAIRS)
def test_every_pair_has_the_bits_of_its_ops(monkeypatch, first, second, place, spread, width, dtype):
    n, m = (kernels.POINTWISE[name][1] for name in (first, second))
    columns = [1 if spread >> k & 1 else width for k in range(n)] + [width] * m
    between, out = n + m - 1, n + m
    others = list(range(n, n + m - 1))
    instructions = [
        instruction(first, between, *range(n), width=width, spread=spread),
        instruction(second, out, *others[:place], between, *others[place:], width=width),
    ]
    assert pairs_in(instructions, {between}) == [(first, second, place, spread)]
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(STEPS * ROWS, c)).astype(dtype) for c in columns[: n + m - 1]]
    found = []
    for change in (paired, lambda instructions, scratch: [dict(i) for i in instructions]):
        monkeypatch.setattr(program, "paired", change)
        made = Program(
            [
                *(BufferSpec("sequence", c) for c in columns[: n + m - 1]),
                BufferSpec("tile", width),
                BufferSpec("sequence", width),
            ],
            instructions=instructions,
        )
        result = np.zeros((STEPS * ROWS, width), dtype)
        counts = np.full(STEPS, ROWS), np.arange(STEPS) * ROWS
        made.loop.run([*arrays, None, result], [None] * (out + 1), [], *counts, False, [0, 2, ROWS])
        found.append(result)
    assert_same_bits(*[[f] for f in found])
    assert np.isfinite(found[0]).all()
    assert found[0].any()


def test_what_makes_no_pair():
    """Buffers: 0 and 1 are inputs, 2 and 3 tiles, 4 a result."""
    W = 6
    sigmoid, mul = instruction("sigmoid", 2, 0, width=W), instruction("mul", 4, 2, 1, width=W)
    assert pairs_in([sigmoid, mul], {2, 3}) == [("sigmoid", "mul", 0, 0)]
    assert pairs_in([sigmoid, instruction("mul", 4, 1, 2, width=W)], {2, 3}) == [("sigmoid", "mul", 0, 0)]
    # What is between them is a result, is read twice, or later, or was changed.
    assert not pairs_in([sigmoid, mul], {3})
    assert not pairs_in([sigmoid, instruction("mul", 4, 2, 2, width=W)], {2, 3})
    assert not pairs_in([sigmoid, mul, instruction("neg", 3, 2, width=W)], {2, 3})
    assert not pairs_in([sigmoid, instruction("neg", (2, 1), 1, width=1), mul], {2, 3})
    # An operand of the first is gone before the second, which may write over it only element by element.
    assert not pairs_in([sigmoid, instruction("neg", (0, 5), 1, width=1), mul], {2, 3})
    assert pairs_in([sigmoid, instruction("mul", 0, 2, 1, width=W)], {2, 3})
    assert not pairs_in([instruction("sigmoid", 2, (0, 1), width=W), instruction("mul", 0, 2, 1, width=W)], {2, 3})
    # A product is between them; or no pair is made of these.
    product = dict.fromkeys(kernels.INSTRUCTION_FIELDS, 0)
    product |= {"kind": kernels.KINDS["product"], "width": W, "inner": W, "dst": 3, "a": 1, "b": 1, "c": 1}
    assert not pairs_in([sigmoid, product, mul], {2, 3})
    assert not pairs_in([instruction("exp", 2, 0, width=W), mul], {2, 3})
    # One column is passed over as a row that lies down.
    assert not pairs_in([instruction("sigmoid", 2, 0, width=1), instruction("mul", 4, 2, 1, width=1)], {2, 3})


def test_columns_that_one_op_makes_for_several():
    """i, f and o of an LSTM: three pieces of one sigmoid, each of which goes to another op."""
    W = 4
    made = paired(
        [
            instruction("sigmoid", 2, 0, width=3 * W),
            instruction("mul", 4, (2, W), 1, width=W),
            instruction("fma", 5, (2, 0), 1, 4, width=W),
            instruction("neg", 6, (2, 2 * W), width=W),
        ],
        {2},
    )
    assert [(i["pair"] > 0, i["dst"], i["a"], i["a_at"], i["width"]) for i in made] == [
        (False, 2, 0, 2 * W, W),
        (True, 4, 0, W, W),
        (True, 5, 0, 0, W),
        (False, 6, 2, 2 * W, W),
    ]
    assert made[0]["dst_at"] == 2 * W


def both_ways(monkeypatch, cell, widths, rows):
    """The same task with pairs and without."""
    task = case(cell, widths, rows=rows)
    found = []
    for change in (paired, lambda instructions, scratch: [dict(i) for i in instructions]):
        monkeypatch.setattr(program, "paired", change)
        tr.plan._made.clear()
        found.append([a for part in run(tr.scan, cell, task, order=2) for a in part])
    tr.plan._made.clear()
    return found


@pytest.mark.parametrize("name", ODD)
def test_pairs_do_not_change_bits(monkeypatch, name):
    for dtype, rows in (("float32", 9), ("float64", 3)):
        assert_same_bits(*both_ways(monkeypatch, cell_of(name, dtype), WIDTHS[name], rows))


def test_pairs_do_not_change_bits_of_random_cells(monkeypatch):
    for k, cell in enumerate(random_cells(30)):
        assert_same_bits(*both_ways(monkeypatch, cell, None, 9 if k % 2 else 2))


@pytest.mark.parametrize(
    ("cell", "pairs"),
    [
        (tr.cells.LSTM(8, 8), {("sigmoid", "mul"), ("sigmoid", "fma")}),
        (tr.cells.GRU(8, 8), {("sigmoid", "mul"), ("tanh", "mix")}),
        (tr.cells.LayerNormLSTM(8, 8), {("mul", "fma"), ("sigmoid", "mul"), ("sigmoid", "fma")}),
    ],
    ids=["LSTM", "GRU", "LayerNormLSTM"],
)
def test_pairs_of_known_cells(cell, pairs):
    body = _plan_inside(cell, (8,))[0].body
    made = body.program((False,) * len(body.step.states), body.step.emits)
    scratch = {k for k, spec in enumerate(made.buffers) if spec.place in ("scratch", "tile")}
    assert {pair[:2] for pair in pairs_in(made.instructions, scratch)} == pairs
