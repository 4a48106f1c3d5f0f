"""What `tr.explain` says, and the plans themselves: how many products and groups a step has, and what it keeps."""

import re

import numpy as np
import pytest
from cell_table import CELLS, make
from scan_cells import ODD

import tinyrnn as tr
from tinyrnn._core import kernels
from tinyrnn._core.tape import Tape
from tinyrnn.cells import GRU, LSTM, Elman, LayerNormLSTM
from tinyrnn.plan import PlanError, _plan, _plan_inside
from tinyrnn.plan.columns import OPS, as_columns
from tinyrnn.plan.explain import explanation_of
from tinyrnn.search import RandomCell, random_description

I, H = 3, 5  # noqa: E741


class Concatenated(tr.Cell):
    """The LSTM with z = [x, h] and a matrix a gate."""

    states = ("h", "c")

    def __init__(self, input_size, hidden_size, **options):
        super().__init__(input_size, hidden_size, **options)
        shape = (input_size + hidden_size, hidden_size)
        self.W_i, self.W_f, self.W_o, self.W_g = (self.param(shape) for _ in range(4))
        self.b_i, self.b_f, self.b_o, self.b_g = (self.param(hidden_size) for _ in range(4))

    def step(self, x, h, c):
        z = tr.concat([x, h], 1)
        i = tr.sigmoid(z @ self.W_i + self.b_i)
        f = tr.sigmoid(z @ self.W_f + self.b_f)
        o = tr.sigmoid(z @ self.W_o + self.b_o)
        g = tr.tanh(z @ self.W_g + self.b_g)
        c = f * c + i * g
        return o * tr.tanh(c), c


class InOne(tr.Cell):
    """The LSTM with z = [x, h] and one matrix for all gates."""

    states = ("h", "c")

    def __init__(self, input_size, hidden_size, **options):
        super().__init__(input_size, hidden_size, **options)
        self.W = self.param((input_size + hidden_size, 4 * hidden_size))
        self.b = self.param(4 * hidden_size)

    def step(self, x, h, c):
        i, f, o, g = tr.split(tr.concat([x, h], 1) @ self.W + self.b, 4, 1)
        i, f, o, g = tr.sigmoid(i), tr.sigmoid(f), tr.sigmoid(o), tr.tanh(g)
        c = f * c + i * g
        return o * tr.tanh(c), c


class Peepholes(tr.Cell):
    """The LSTM whose gates see the cell state (Gers & Schmidhuber 2000)."""

    states = ("h", "c")

    def __init__(self, input_size, hidden_size, **options):
        super().__init__(input_size, hidden_size, **options)
        self.W = self.param((input_size, 4 * hidden_size))
        self.U = self.param((hidden_size, 4 * hidden_size))
        self.p_i, self.p_f, self.p_o = (self.param(hidden_size) for _ in range(3))

    def step(self, x, h, c):
        i, f, o, g = tr.split(x @ self.W + h @ self.U, 4, 1)
        i, f = tr.sigmoid(i + self.p_i * c), tr.sigmoid(f + self.p_f * c)
        c = f * c + i * tr.tanh(g)
        return tr.sigmoid(o + self.p_o * c) * tr.tanh(c), c


class Masked(tr.Cell):
    def __init__(self, input_size, hidden_size, **options):
        super().__init__(input_size, hidden_size, **options)
        self.W = self.param((input_size, hidden_size))

    def step(self, x, mask, h):
        return mask * tr.tanh(x @ self.W) + (1 - mask) * h


# -- plans -------------------------------------------------------------------------------------------------------------

PLANS = {
    # cell: its options; products and groups of a step forward, and of a step in reverse
    "Elman": (Elman, {}, (1, 1), (1, 1)),
    "LSTM": (LSTM, {}, (1, 1), (1, 1)),
    "LSTM-concatenated": (Concatenated, {}, (1, 1), (1, 1)),
    "LSTM-in-one": (InOne, {}, (1, 1), (1, 1)),
    "LSTM-peepholes": (Peepholes, {}, (1, 1), (1, 1)),
    "LSTM-layer-norm": (LayerNormLSTM, {}, (1, 1), (1, 1)),
    "GRU": (GRU, {}, (2, 2), (2, 2)),
    "GRU-flipped": (GRU, {"flipped": True}, (2, 2), (2, 2)),
    "GRU-after": (GRU, {"reset": "after"}, (1, 1), (1, 1)),
    "GRU-after-flipped": (GRU, {"reset": "after", "flipped": True}, (1, 1), (1, 1)),
}


@pytest.mark.parametrize("name", PLANS)
def test_products_and_groups(name):
    kind, options, forward, reverse = PLANS[name]
    e = explanation_of(kind(I, H, **options))
    assert (len(e.forward.products), len(e.forward.groups)) == forward
    assert (len(e.reverse.products), len(e.reverse.groups)) == reverse


@pytest.mark.parametrize("kind", [Concatenated, InOne])
def test_the_concatenated_lstm_plans_like_the_lstm(kind):
    e, lstm = explanation_of(kind(I, H)), explanation_of(LSTM(I, H))
    for mine, other in ((e.forward, lstm.forward), (e.reverse, lstm.reverse)):
        assert mine.instructions == other.instructions
        assert (mine.flops, mine.bytes, mine.weight_bytes) == (other.flops, other.bytes, other.weight_bytes)


def test_products_have_the_least_size():
    lstm = explanation_of(LSTM(I, H))
    assert [(p.inner, p.width) for p in lstm.forward.products] == [(H, 4 * H)]
    assert [(p.inner, p.width) for p in lstm.reverse.products] == [(4 * H, H)]
    assert [w.shape for w in lstm.forward.hoisted] == [f"TB x {I} x {4 * H}"]
    gru = explanation_of(GRU(I, H))
    assert [(p.inner, p.width) for p in gru.forward.products] == [(H, 2 * H), (H, H)]
    assert [(p.inner, p.width) for p in gru.reverse.products] == [(H, H), (2 * H, H)]
    assert [w.shape for w in gru.forward.hoisted] == [f"TB x {I} x {3 * H}"]


def test_the_work_of_training_is_five_products():
    """Input, recurrent, its transpose, and two for the weights: a sixth only for the input's gradient.

    The recurrent one adds the biases.
    """
    e = explanation_of(LSTM(H, H))
    works = [*e.forward.hoisted, *e.forward.products, *e.reverse.products, *e.reverse.deferred]
    assert sum(w.flops for w in works if w.flops >= 2 * H * 4 * H) == 5 * 2 * H * 4 * H + 4 * H
    assert [w.flops for w in e.reverse.optional] == [2 * 4 * H * H]


def test_deferred():
    assert [w.equation for w in explanation_of(LSTM(I, H)).reverse.deferred] == [
        "db_[ifog] = sum(du)",
        "dW_h[ifog] = h.T @ du",
        "dW_x[ifog] = x.T @ du",
    ]


def test_what_only_a_sum_reads_is_added_up_in_the_loop():
    e = explanation_of(LayerNormLSTM(I, H)).reverse
    assert [w.equation.split(" = ")[0] for w in e.summed] == ["da_c", "db_c", "da_h", "da_x", "db"]
    assert [w.equation.split(" = ")[0] for w in e.deferred] == ["dW_h_centred", "dW_x_centred"]
    assert [k.columns for k in e.kept] == [4 * H, 4 * H]
    added = [line for line in e.instructions if line.startswith("partial")]
    # Those of gains are products of elements, which are added where they are made.
    assert [line.split(" ")[2] for line in added].count("fma") == 3
    assert len(added) == 5


def test_merged():
    merged = {m.name: (m.parts, m.shape) for m in explanation_of(LSTM(I, H)).forward.merged}
    assert merged == {
        "W_x[ifog]": (("W_xi", "W_xf", "W_xo", "W_xg"), (I, 4 * H)),
        "W_h[ifog]": (("W_hi", "W_hf", "W_ho", "W_hg"), (H, 4 * H)),
        "b_[ifog]": (("b_i", "b_f", "b_o", "b_g"), (4 * H,)),
    }


# -- memory ------------------------------------------------------------------------------------------------------------


def held_by(ys, but):
    """Floats in arrays that the graph behind ys holds, `but` for some tensors'."""
    owners = {}

    def visit(value):
        if isinstance(value, np.ndarray):
            while isinstance(value.base, np.ndarray):
                value = value.base
            owners[id(value)] = value
        elif isinstance(value, (tuple, list)):
            for v in value:
                visit(v)

    for t in Tape([ys], everything=True).nodes:
        visit(t._array)
        visit(t.attrs or ())
    skip = {id(t._array if t._array.base is None else t._array.base) for t in but}
    return sum(a.size for key, a in owners.items() if key not in skip)


def test_gates_live_where_the_hoisted_product_was():
    """So the loop needs no memory for them, and the product adds itself to what is there."""
    lstm, gru = explanation_of(LSTM(I, H)).forward.instructions, explanation_of(GRU(I, H)).forward.instructions
    assert lstm[0].startswith("sequence0+0 += product")
    assert f"sequence0+0 = sigmoid {3 * H}:" in lstm[1]
    assert f"sequence0+{3 * H} = tanh {H}:" in lstm[2]
    assert len(lstm) == 7
    assert sum("copy" in line for line in (*lstm, *gru)) == 0


@pytest.mark.parametrize(
    ("name", "most"),
    [("Elman", 1), ("LSTM", 7), ("LSTM-in-one", 7), ("GRU", 5), ("GRU-after", 5), ("LSTM-layer-norm", 15.4375)],
)
def test_training_keeps_no_more_than_it_says(name, most):
    kind, options, _, _ = PLANS[name]
    steps, rows, units = 40, 8, 16
    cell = kind(4, units, **options)
    x = tr.tensor(np.zeros((steps, rows, 4), np.float32))
    ys, _ = tr.scan(cell, x)
    floats = held_by(ys, [x, *cell.parameters()])
    assert explanation_of(cell).kept_floats == most
    around = sum(p.size for p in cell.parameters()) + 4 * rows * units  # merged weights, states before the first step
    assert floats <= most * steps * rows * units + around


def random_cells():
    rng = np.random.default_rng(0)
    for seed in range(200):
        description = random_description(rng)
        yield RandomCell(description, input_size=I, unit=2, rng=seed), (I,) * description.inputs


def last_write(program, source, columns):
    """What an instruction last does to some of these columns of what a program calls `source`."""
    found = None
    for i in program.instructions:
        width = i["inner"] if i["kind"] == kernels.KINDS["scatter_add"] else i["width"]
        here = program.sources[i["dst"]] == source
        if here and i["dst_at"] < columns.stop and columns.start < i["dst_at"] + width:
            product = i["kind"] == kernels.KINDS["product"]
            found = (i["add"] & kernels.ONTO, program.weights[i["code"]]) if product else i["kind"]
    return found


@pytest.mark.parametrize("make", [_plan, _plan_inside])
def test_nobody_reads_what_the_loop_writes_over(make):
    """Neither the reverse, column by column, nor what is hoisted or sunk; the tape lets go of what nobody reads."""
    spent = partly = 0
    for cell, widths in [*((made(), made.widths) for made in ODD.values()), *random_cells()]:
        plan, _ = make(cell, widths)
        body = plan.body
        seqs, keep = body.step.seqs, body.emits_and_kept
        read = {t for t, leaf in zip(plan.hoisted, seqs, strict=True) if leaf in body.read}
        for kept in (body.step.emits, keep):
            program = body.program(body.everywhere, kept)
            assert {plan.hoisted[k] for k in program.spent} <= {*plan.dropped, *read}
            assert all(body.spare[k] for k in program.spent)
            spent += len(program.spent)
        places = {t: (("seq", k), 0) for k, t in enumerate(seqs)}
        places |= {t: (source, at) for t, (source, at, _) in zip(keep, program.keeps, strict=True)}
        for t in body.held:
            whole, start, stop = as_columns(t)
            if whole.op in (None, OPS["matmul"]) and whole.ndim == 2:
                source, at = places[whole]
                done = last_write(program, source, range(at + start, at + stop))
                assert done == (None if whole.op is None else (0, whole.inputs[1]))
                partly += whole is not t
    assert partly > 5
    assert spent > 20 or make is _plan_inside


def test_a_hoisted_value_that_is_read_outside_the_loop_stays():
    class Twice(tr.Cell):
        states = ("h", "m")

        def __init__(self):
            super().__init__(I, H, dtype="float64", rng=0)
            self.W, self.U, self.V = self.param((I, H)), self.param((H, H)), self.param((H, H))

        def step(self, x, h, m):
            u = x @ self.W
            return tr.tanh(u + h @ self.U + m), tr.tanh(u @ self.V)

    x = tr.tensor(np.random.default_rng(0).normal(size=(4, 2, I)), requires_grad=True)
    tr.gradcheck(lambda x: tr.scan(Twice(), x)[0], [x])


def test_a_hoisted_value_that_the_reverse_reads_is_counted():
    class Gate(tr.Cell):
        def __init__(self):
            super().__init__(I, H)
            self.W = self.param((I, H))

        def step(self, x, h):
            return (x @ self.W) * tr.tanh(h)

    kept = {k.name: (k.columns, k.by) for k in explanation_of(Gate()).forward.kept}
    assert kept == {"h'": (H, "state"), "v1": (H, "loop"), "u": (H, "hoisted")}


def test_cheap_values_are_computed_again():
    class Distance(tr.Cell):
        def __init__(self):
            super().__init__(I, I)
            self.U = self.param((I, I))

        def step(self, x, h):
            d = tr.probe("d", x - h)
            return tr.tanh(h @ self.U) * d

    e = explanation_of(Distance())
    assert e.reverse.recomputed == ("d",)
    assert "d" not in [k.name for k in e.forward.kept]


# What a gate takes of one value and leaves of another, in every order; and what looks like it.
MIXED = [
    lambda z, a, b: z * a + (1 - z) * b,
    lambda z, a, b: a * z + b * (1 - z),
    lambda z, a, b: (1 - z) * b + z * a,
    lambda z, a, b: b * (1.0 - z) + a * z,
]
NOT_MIXED = [
    lambda z, a, b: z * a + (2 - z) * b,
    lambda z, a, b: z * a + (1 - a * z) * b,
    lambda z, a, b: z * a + (z - 1) * b,
    lambda z, a, b: z * a - (1 - z) * b,
]


@pytest.mark.parametrize(("update", "mixes"), [*((f, True) for f in MIXED), *((f, False) for f in NOT_MIXED)])
def test_what_a_gate_mixes_is_one_op(update, mixes):
    class Mixed(tr.Cell):
        def __init__(self):
            super().__init__(I, H, dtype="float64", rng=0)
            self.W, self.U = self.param((I, H)), self.param((H, H))

        def step(self, x, h):
            z = x @ self.W + h @ self.U  # of any size: the numbers 1 and 2 shall matter
            return update(z, tr.tanh(z), h * 0.5)

    cell = Mixed()
    last = explanation_of(cell).forward.instructions[-1]
    assert (" = mix " in last) == mixes
    x = tr.tensor(np.random.default_rng(0).normal(size=(3, 2, I)), requires_grad=True)
    np.testing.assert_allclose(tr.scan(cell, x)[0].numpy(), tr.unroll(cell, x)[0].numpy(), rtol=1e-12)
    assert tr.gradcheck(lambda x: tr.scan(cell, x)[0], [x])


# What moves a value towards another one; and what looks like it.
MOVED = [
    lambda z, a, b: a + z * (b - a),
    lambda z, a, b: (b - a) * z + a,
    lambda z, a, b: a - z * (a - b),
    lambda z, a, b: a - (a - b) * z,
]
NOT_MOVED = [
    lambda z, a, b: b + z * (b - a),
    lambda z, a, b: a - z * (b - a),
    lambda z, a, b: z * (a - b) - a,
    lambda z, a, b: a + z * (b - a) * (b - a),
    lambda z, a, b: a[:, :1] + z * (b - a[:, :1]) * z,
]


@pytest.mark.parametrize(("update", "moves"), [*((f, True) for f in MOVED), *((f, False) for f in NOT_MOVED)])
def test_what_moves_towards_another_value_is_one_op(update, moves):
    class Moved(tr.Cell):
        def __init__(self):
            super().__init__(I, H, dtype="float64", rng=0)
            self.W, self.U = self.param((I, H)), self.param((H, H))

        def step(self, x, h):
            z = x @ self.W + h @ self.U
            return update(z, h, tr.tanh(z))

    cell = Moved()
    e = explanation_of(cell)
    assert (" = lerp " in e.forward.instructions[-1]) == moves
    assert bool(re.search(r"h' = h \+ v\d \* \((v\d|tanh\(v\d\)) - h\)(  |\n)", str(e).split("reverse")[0])) == moves
    x = tr.tensor(np.random.default_rng(0).normal(size=(3, 2, I)), requires_grad=True)
    np.testing.assert_allclose(tr.scan(cell, x)[0].numpy(), tr.unroll(cell, x)[0].numpy(), rtol=1e-12)
    assert tr.gradcheck(lambda x: tr.scan(cell, x)[0], [x])


def mean(v):
    return tr.ops.mean(v, 1, keepdims=True)


CENTRED = [
    lambda v: v - mean(v),
    lambda v: tr.layer_norm(v),
    lambda v: tr.tanh(v - mean(v)) * (v - mean(v)),
]
NOT_CENTRED = [
    lambda v: v - 2.0 * mean(v),
    lambda v: v - mean(v) + tr.tanh(v),  # v itself is wanted
    lambda v: (v - mean(v)) * mean(v),  # and its mean
    lambda v: v - mean(tr.tanh(v)),
    lambda v: mean(v) - v,
]


@pytest.mark.parametrize(("update", "centres"), [*((f, True) for f in CENTRED), *((f, False) for f in NOT_CENTRED)])
def test_a_product_less_its_mean_has_centred_weights(update, centres):
    class Less(tr.Cell):
        def __init__(self):
            super().__init__(I, H, dtype="float64", rng=0)
            self.W, self.U = self.param((I, H)), self.param((H, H))

        def step(self, x, h):
            return tr.tanh(x @ self.W + update(h @ self.U))

    cell = Less()
    e = explanation_of(cell)
    assert [(c.name, c.of, c.shape) for c in e.forward.centred] == [("U_centred", "U", (H, H))] * centres
    assert ("dU_centred" in "".join(w.equation for w in e.reverse.deferred)) == centres
    assert ("U_centred = U - mean of each row" in str(e)) == centres
    x = tr.tensor(np.random.default_rng(0).normal(size=(3, 2, I)), requires_grad=True)
    np.testing.assert_allclose(tr.scan(cell, x)[0].numpy(), tr.unroll(cell, x)[0].numpy(), rtol=1e-11)
    assert tr.gradcheck(lambda *leaves: tr.scan(cell, x)[0], [x, *cell.parameters()], order=2)


def test_other_differences_of_parameters_are_not_called_centred():
    class Difference(tr.Cell):
        def __init__(self):
            super().__init__(I, H, rng=0)
            self.W, self.U, self.V = self.param((I, H)), self.param((H, H)), self.param((H, H))

        def step(self, x, h):
            return tr.tanh(x @ self.W + h @ tr.probe("D", self.U - self.V))

    e = explanation_of(Difference())
    assert e.forward.centred == ()
    assert "centred" not in str(e)


def test_squares_that_are_only_summed_stay_apart():
    class Parts(tr.Cell):
        def __init__(self):
            super().__init__(I, 2 * H)
            self.U = self.param((2 * H, 2 * H))

        def step(self, x, h):
            a, b = tr.split(h @ self.U, 2, 1)
            return tr.concat([tr.layer_norm(a), tr.layer_norm(b)], 1)

    sums = [line for line in explanation_of(Parts()).forward.instructions if " sum" in line]
    assert sum("sum of squares" in line for line in sums) == 2


def test_a_product_that_others_read_is_not_mixed():
    class Taken(tr.Cell):
        states = ("h", "taken")

        def step(self, x, h, taken):
            z = tr.sigmoid(x + taken)
            taken = z * x
            return taken + (1 - z) * h, taken

    text = "\n".join(explanation_of(Taken(I, I)).forward.instructions)
    assert " = mix " not in text
    assert " = fma " in text


# -- what it says ------------------------------------------------------------------------------------------------------


def test_equations():
    assert explanation_of(LSTM(I, H)).equations == (
        "i = sigmoid(x @ W_xi + h @ W_hi + b_i)",
        "f = sigmoid(x @ W_xf + h @ W_hf + b_f)",
        "o = sigmoid(x @ W_xo + h @ W_ho + b_o)",
        "g = tanh(x @ W_xg + h @ W_hg + b_g)",
        "c' = f * c + i * g",
        "h' = o * tanh(c')",
    )
    assert explanation_of(Elman(I, H)).equations == ("h' = tanh(x @ W_x + h @ W_h + b)",)
    assert explanation_of(GRU(I, H)).equations[-1] == "h' = (1 - z) * h + z * n"


def test_expressions_have_the_parentheses_they_need():
    class Many(tr.Cell):
        def __init__(self):
            super().__init__(H, H)
            self.W, self.k = self.param((H, H)), tr.tensor(np.ones(H, np.float32))

        def step(self, x, h):
            a = tr.probe("a", (x - (h - x)) * (x + h) / (h * x))
            b = tr.probe("b", (a * h) @ (self.W + self.W.T) - -(h**3.0))
            return tr.where(tr.greater(x, h), a / (b / h), b[:, [0, 2, 1, 3, 4]] * self.k)

    assert explanation_of(Many()).equations == (
        "a = (x - (h - x)) * (x + h) / (h * x)",
        "b = (a * h) @ (W + W.T) - (-h ** 3)",
        "h' = where(greater(x, h), a / (b / h), b[:, [0, 2, 1, 3, 4]] * k1)",
    )


def test_the_loop_is_told_in_the_names_of_the_step():
    e = explanation_of(LSTM(I, H))
    (group,) = e.forward.groups
    assert group.equations == (
        f"[i, f, o] = sigmoid(v1[:, 0:{3 * H}])",
        f"g = tanh(v1[:, {3 * H}:{4 * H}])",
        "c' = i * g + f * c",
        "v2 = tanh(c')",
        "h' = o * v2",
    )
    assert e.forward.products[0].equation == "v1 = u + h @ W_h[ifog] + b_[ifog]"
    assert e.reverse.products[0].equation == "dh = du @ W_h[ifog].T"
    assert "do = v1 * v2" in e.reverse.groups[0].equations
    assert e.reverse.reads == ("h", "c", "[i, f, o]", "g", "v2")


def test_operations_and_bytes():
    cell = LSTM(I, H)
    e, batch = explanation_of(cell), explanation_of(cell, batch=4)
    product = 2 * H * 4 * H
    # for every unit: the bias to four gates, which the product adds, five activations, f * c, the multiply-add, and
    # o * tanh(c')
    assert e.forward.loop_flops == product + (4 + 5 + 1 + 2 + 1) * H
    assert e.forward.flops == e.forward.loop_flops + 2 * I * 4 * H
    assert e.forward.weight_bytes == 4 * H * 4 * H
    # the hoisted product reads x and writes four units' worth; the loop turns them into gates, and adds three more
    assert e.forward.bytes == 4 * (I + 4 * H + 4 * H + 3 * H)
    assert sum(e.forward.shares) == pytest.approx(1)
    assert e.forward.shares[0] == (product + 4 * H) / e.forward.loop_flops
    assert batch.flops == 4 * e.flops
    assert batch.bytes == 4 * (e.bytes - 2 * e.forward.weight_bytes) + 2 * e.forward.weight_bytes
    assert e.batch is None
    assert batch.batch == 4
    assert explanation_of(LSTM(I, H, dtype="float64")).bytes == 2 * e.bytes


def test_many_rows_multiply_their_inputs_in_the_loop():
    few, many = (explanation_of(GRU(I, H), batch=n) for n in (4, 32))
    assert [w.equation for w in few.forward.hoisted] == ["u = x @ W_x[rzn]"]
    assert len(few.forward.products) == 2
    assert many.forward.hoisted == ()
    assert [p.equation for p in many.forward.products] == [
        "v1 = x @ W_x[rzn]",
        f"v2 = v1[:, 0:{2 * H}] + h @ W_h[rz] + b_[rz]",
        f"v4 = v1[:, {2 * H}:{3 * H}] + v3 @ W_hn + b_n",
    ]
    assert many.forward.weight_bytes == 4 * 3 * H * (I + H)
    assert many.forward.row_bytes == 4 * (I + 5 * H)  # x, and what is kept: h', r, z, r * h, n
    assert many.flops == 8 * few.flops
    assert [w.equation for w in few.reverse.optional] == ["dx = du @ W_x[rzn].T"]
    assert [w.equation for w in many.reverse.optional] == ["dx = v7 @ W_x[rzn].T"]


def test_it_prints_and_returns(capsys):
    e = tr.explain(LSTM(I, H), batch=4)
    printed = capsys.readouterr().out
    assert printed == f"{e}\n"
    assert max(map(len, printed.splitlines())) <= 100
    assert f"4 x {H} x {4 * H}" in printed
    assert repr(e) == (
        f"<Explanation of LSTM({I}, {H}): 1 product and 1 group a step, 1 product and 1 group in reverse>"
    )


@pytest.mark.parametrize("name", ODD)
def test_any_cell_can_be_explained(name):
    made = ODD[name]
    cell = made()
    e = explanation_of(cell, batch=3, widths=made.widths)
    text = str(e)
    assert max(map(len, text.splitlines())) <= 100
    assert "1000003" not in text
    assert len(e.equations) >= len(cell.states)


@pytest.mark.parametrize("name", CELLS)
def test_explaining_changes_nothing(name):
    x = tr.tensor(np.random.default_rng(0).normal(size=(4, 2, I)))
    results = []
    for explained in (False, True):
        cell = make(name)
        if explained:
            explanation_of(cell)
        ys, _ = tr.scan(cell, x)
        ys.sum().backward()
        results.append([ys.data, *(p.grad.data for p in cell.parameters())])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_several_time_inputs():
    e = explanation_of(Masked(I, H), widths=(I, 1))
    assert e.equations == ("h' = x2 * tanh(x @ W) + (1 - x2) * h",)
    with pytest.raises(ValueError, match=r"Masked.step takes 2 time inputs: .* widths=\(3, \.\.\)"):
        explanation_of(Masked(I, H))
    with pytest.raises(ValueError, match="widths must begin with the cell's input_size, 3, got"):
        explanation_of(Masked(I, H), widths=(1, I))


def test_names():
    class Clash(tr.Cell):
        states = ("y",)

        def __init__(self):
            super().__init__(H, H)
            self.v1, self.u, self.dy = (self.param((H, H)) for _ in range(3))
            self.zero = self.param(H)

        def step(self, x, y):
            a = x @ self.u
            a = a * a
            zero = tr.broadcast_to(self.zero, (x.shape[0], H))
            return tr.probe("y", tr.tanh(a + y @ self.v1 + (y * a) @ self.dy + tr.concat([x, zero], 1)[:, H:]))

    e = explanation_of(Clash())
    assert e.equations == (
        "v2 = x @ u",
        "v3 = v2 * v2",
        f"y' = tanh(v3 + y @ v1 + (y * v3) @ dy + [x, zero][:, {H}:])",
    )


def test_errors():
    with pytest.raises(TypeError, match=r"cell must be a tr\.Cell, got <class"):
        tr.explain(LSTM)
    with pytest.raises(ValueError, match="batch must be a positive int, got 0"):
        tr.explain(LSTM(I, H), batch=0)

    class Mixes(tr.Cell):
        def step(self, x, h):
            return h - h.mean(axis=0, keepdims=True)

    with pytest.raises(PlanError, match="rows of the batch would depend on one another"):
        tr.explain(Mixes(H, H))
