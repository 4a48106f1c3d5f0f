"""Odd cells, one function each: steps that lean on a single part of a plan, or on many at once.

`ODD[name]` makes the cell: input width I, states of H columns unless `sizes` says otherwise. A step reads its
parameters as p.name; their shapes stand beside the name of the step.
"""

import numpy as np

import tinyrnn as tr
from tinyrnn.cells import GRU, LSTM

I, H = 4, 6  # noqa: E741
ODD = {}


class OddCell(tr.Cell):
    """A step given as a function of the cell and the step's arguments."""

    def __init__(self, step, shapes, states, sizes, input_size=I, **options):
        self.taken, self.named, self.sizes = step, tuple(states), sizes or (H,) * len(states)
        super().__init__(input_size, self.sizes[0], **options)
        for name, shape in shapes.items():
            setattr(self, name, self.param(shape))

    @property
    def states(self):
        return self.named

    @property
    def state_sizes(self):
        return self.sizes

    def step(self, *values):
        return self.taken(self, *values)


def odd(shapes="", states="h", sizes=None, more=(), **parts):
    """Register a step. shapes: "W:I,H b:H"; more: widths of further time inputs; parts: attributes, by a function."""
    dims = {"I": I, "H": H}
    table = {}
    for word in shapes.split():
        name, _, shape = word.partition(":")
        table[name] = tuple(dims[d] if d in dims else eval(d, dims) for d in shape.split(",") if d)

    def register(step):
        def make(dtype="float64", rng=0):
            cell = OddCell(step, table, states.split(), sizes, dtype=dtype, rng=rng)
            for name, part in parts.items():
                setattr(cell, name, part(cell))
            return cell

        make.widths = (I, *more)
        ODD[step.__name__] = make
        return step

    return register


# -- gates -------------------------------------------------------------------------------------------------------------


@odd("W:I,4*H U:H,4*H b:4*H g:4*H gb:4*H gc:H", "h c")
def layer_norm_lstm(p, x, h, c):
    i, f, o, g = tr.split(tr.layer_norm(x @ p.W + h @ p.U + p.b, p.g, p.gb), 4, 1)
    c = tr.sigmoid(f) * c + tr.sigmoid(i) * tr.tanh(g)
    return tr.sigmoid(o) * tr.tanh(tr.layer_norm(c, p.gc)), c


@odd("Wf:I+H,H Wg:I+H,H Wh:I+H,H Wo:I+H,H b:H", "y c")
def concatenated_lstm(p, x, y, c):
    z = tr.concat([x, y], 1)
    c = tr.sigmoid(z @ p.Wf + p.b) * c + tr.sigmoid(z @ p.Wg) * tr.tanh(z @ p.Wh)
    return tr.sigmoid(z @ p.Wo) * tr.tanh(c), c


@odd("W:I,4*H U:H,4*H pi:H pf:H po:H V:H,H", "h c")
def peepholes(p, x, h, c):
    zi, zf, zg, zo = tr.split(x @ p.W + h @ p.U, 4, 1)
    i, f = tr.sigmoid(zi + p.pi * c), tr.sigmoid(zf + p.pf * c + c @ p.V)
    c = f * c + i * tr.tanh(zg)
    return tr.sigmoid(zo + p.po * c) * tr.tanh(c), c


@odd("W:I,H Wr:I,H Wp:I,H U:H,H V:H,H bz:H br:H bn:H")
def mut1(p, x, h):
    z, r = tr.sigmoid(x @ p.W + p.bz), tr.sigmoid(x @ p.Wr + h @ p.U + p.br)
    n = tr.tanh((r * h) @ p.V + tr.tanh(x @ p.Wp) + p.bn)
    return n * z + h * (1 - z)


@odd("W:I,H U:H,H V:H,3", "y s", (3, H))
def projected_with_softmax(p, x, y, s):
    s = tr.tanh(x @ p.W + s @ p.U) * tr.softmax(s) + 0.1 * s.max(axis=1, keepdims=True)
    return s @ p.V, s


@odd("W:I,H U:H,H V:H,H Q:H,H b:H")
def four_products_in_a_row(p, x, h):
    for w in (p.U, p.V, p.Q, p.U):
        h = tr.tanh(h @ w + p.b)
    return tr.sigmoid(x @ p.W) * h


@odd("W:I,H b:H", "h c", inner=lambda cell: LSTM(I, H, dtype=cell.dtype, rng=1),
     outer=lambda cell: GRU(H, H, dtype=cell.dtype, rng=2))  # fmt: skip
def two_cells_in_one(p, x, h, c):
    y, c = p.inner.step(x, h, c)
    return p.outer(y, h) + 0.1 * tr.tanh(x @ p.W + p.b), c


# -- states ------------------------------------------------------------------------------------------------------------


@odd("W:I,H U:H,H", "o s k")
def output_that_no_one_reads(p, x, o, s, k):
    return tr.sigmoid(x @ p.W), tr.sigmoid((o * tr.tanh(s)) @ p.U + x @ p.W), s


@odd("W:I,H", "a b c")
def a_delay_line(p, x, a, b, c):
    return b, c, tr.tanh(x @ p.W)


@odd("W:I,H", "a b")
def a_state_that_stays(p, x, a, b):
    return tr.tanh(x @ p.W + a) * b, b


@odd("W:I,H", "a b")
def one_value_for_two_states(p, x, a, b):
    new = tr.tanh(x @ p.W + a - 0.5 * b)
    return new, new


@odd("W:I,H")
def no_state_at_all(p, x, h):
    return tr.tanh(x @ p.W)


@odd("W:I,H W_h:H,H")
def work_of_inputs_alone(p, x, h):
    gate = tr.sigmoid(tr.layer_norm(x @ p.W)) * tr.softmax(tr.tanh(x @ p.W), axis=1)
    return gate * tr.tanh(h @ p.W_h) + tr.tanh(x @ p.W).max(axis=1, keepdims=True)


@odd("W:I,H U:3,3 V:3,4 R:8,H")
def heads(p, x, h):
    """Products of parts of a row with one matrix: (B, 2, 3) @ (3, 3)."""
    parts = tr.concat([h.reshape(-1, 2, 3), tr.tanh(x @ p.W).reshape(-1, 2, 3)], axis=1)
    turned = tr.tanh(parts[:, :2] @ p.U + parts[:, 2:] @ p.U)
    return tr.tanh(0.3 * h + (turned @ p.V).reshape(-1, 8) @ p.R) + 0.1 * (parts @ p.U)[:, 1:3].reshape(-1, 6)


@odd("W:I,H")
def columns_alone(p, x, h):
    mean, top = h.mean(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
    wide = tr.broadcast_to(mean, h.shape) * 2.0 + tr.broadcast_to(top, h.shape)
    return tr.tanh(wide * tr.broadcast_to(top * top, h.shape) + x @ p.W) - (-h).sum(axis=1, keepdims=True) * 0.1


@odd("b:H")
def no_input_at_all(p, x, h):
    return tr.tanh(0.9 * h + p.b)


@odd("b:H", "h c")
def only_a_parameter(p, x, h, c):
    return tr.broadcast_to(p.b, h.shape), 0.5 * c + h


@odd("", sizes=(I,))
def only_the_input(p, x, h):
    return x


@odd("V:I,H W:I,H b:H", "h c")
def a_product_of_inputs_alone(p, x, h, c):
    """Nothing is done to the gradient of the second state's: it stands beside that of the sigmoid as it came."""
    z = tr.sigmoid(x @ p.V)
    return z * h + (1.0 - z) * z, x @ p.W + p.b


@odd("W:I,H V:2,H b:H", "h c", more=(2,))
def a_next_state_inside(p, x, y, h, c):
    """A product of inputs is a state, and part of a sum that is computed again or kept, whoever makes the product."""
    made = y @ p.V
    return tr.layer_norm(tr.sigmoid(x) @ p.W + p.b + made, eps=0.1) * tr.sigmoid(h), made


@odd("V:I,H", "h")
def no_gradient_but_for_one_column(p, x, h):
    """The gradients of the other columns are -0, or 0 where a row is brought to its place by adding it to 0."""
    return -tr.sigmoid(x @ p.V + h.max(axis=1, keepdims=True)) * tr.relu(-x.sum(axis=1, keepdims=True))


@odd("b:I", sizes=(1,))
def a_column_of_a_biased_constant(p, x, h):
    """The gradient of b's gradient is one row, repeated for all: a column of it has no room between its rows."""
    return tr.sigmoid(tr.tanh((tr.stop_gradient(x) + p.b)[:, 1:2]) * h)


@odd("", sizes=(I,))
def the_input_inside(p, x, h):
    return tr.tanh(0.5 * h * x + x)


@odd("W:1,1 u:1", sizes=(1,))
def one_column(p, x, h):
    return tr.tanh(h @ p.W + x.mean(axis=1, keepdims=True) * p.u)


@odd("W:I,1 U:3,1 V:1,3", "h c", (1, 3))
def a_narrow_state_beside_a_wide_one(p, x, h, c):
    h = tr.tanh(x @ p.W + c @ p.U)
    return h, tr.tanh(h @ p.V + (1 - c) * c)


@odd("W:I,H V:H,2 U:2,H", "h m", (H, 2), more=(1,))
def masked(p, x, mask, h, m):
    h = mask * tr.tanh(x @ p.W + m @ p.U) + (1 - mask) * h
    return h, 0.5 * m + 0.1 * (h @ p.V)


@odd("W:I,H V:3,H U:H,H", more=(3, H))
def three_inputs(p, x, y, z, h):
    return tr.tanh(x @ p.W + y @ p.V + z * (h @ p.U))


# -- sums and products -------------------------------------------------------------------------------------------------


@odd("W:I,H U:H,H b:H")
def everything_negative(p, x, h):
    return tr.tanh(-(x @ p.W) - (h @ p.U) - p.b - -(h - -x[:, :1]))


@odd("U:H,H W:I,H b:H")
def shared_and_transposed(p, x, h):
    return tr.tanh(h @ p.U + (tr.sigmoid(h + p.b) * p.b) @ p.U.T + x @ p.W + (h @ p.U) * p.b)


@odd("A:4,I B:4,H V:4,H")
def products_of_parameters_that_have_a_side_in_common(p, x, h):
    return tr.tanh(x @ (p.A.T @ p.V) + h @ (p.B.T @ p.V))


@odd("W:I+2*H+2,H U:H,H", "h c")
def long_concatenation(p, x, h, c):
    z = tr.concat([x, c, tr.tanh(h), tr.concat([h[:, :1], x[:, 1:2]], 1)], 1)
    return tr.tanh(z @ p.W), tr.tanh(h @ p.U + c)


@odd("W:I,2*H U:H,2*H k:1 s: d:H")
def parameters_of_parameters(p, x, h):
    w = p.W / tr.sqrt((p.W * p.W).sum(axis=0, keepdims=True) + 1e-3)
    u = tr.concat([p.U[:, :H] @ p.U[:, H:], p.U[:, H:]], 1)
    a, b = tr.split(x @ w + h @ u, [H], 1)
    return tr.sigmoid(p.d) * tr.tanh(a) * p.k + tr.sigmoid(b) * h * p.s


@odd("W:3,H U:4,H V:2,H b:H")
def products_of_slices(p, x, h):
    return tr.tanh(h[:, :4] @ p.U + h[:, 2:6] @ p.U + x[:, 1:] @ p.W + x[:, 2:] @ p.V - h[:, 4:] @ p.V + p.b)


@odd("W:I,H U:H,H")
def a_sum_read_twice(p, x, h):
    z = x @ p.W + h @ p.U
    y = z + h
    return tr.tanh(y) * tr.sigmoid(z) + 0.1 * tr.tanh(y + z)


@odd("W:I,H V:I,H U:H,H")
def a_product_whose_other_half_the_reverse_reads(p, x, h):
    """tanh(..) could be kept in one half of the inputs' product, and softplus(..) in the other."""
    return tr.softplus(x @ p.W) * tr.tanh(x @ p.V + h @ p.U)


@odd("W:H+2*I,H Q:H,H")
def an_input_twice(p, x, h):
    """Both halves of the inputs' product meet the same op: what it makes could be kept in either, but not in both."""
    v = tr.tanh(tr.concat([h, x, x], 1) @ p.W)
    return tr.tanh(tr.tanh(tr.tanh(v @ p.Q) @ p.Q))


@odd("W:I,H V:I,H", "h c")
def two_products_of_inputs(p, x, h, c):
    return x @ p.V, x @ p.W


@odd("U:H,H b:H d:H", "h c")
def two_biases(p, x, h, c):
    c = tr.sigmoid(h @ p.U + p.b + p.d)
    return tr.tanh(c * tr.tanh(c)), c


@odd("W:I,70 U:70,70 V:70,70 b:70", sizes=(70,))
def a_sum_with_a_product_of_itself(p, x, h):
    """So wide that a product which wrote over its left side would read some of what it wrote."""
    u = (h @ p.V) * h + x @ p.W + p.b
    return tr.tanh(u + u @ p.U)


@odd("W:I,H U:H,H V:H,H q:H b:H")
def a_sum_of_elements_that_grows(p, x, h):
    """Made in a group, read there, and the place of a sum with a product behind that."""
    u = (h @ p.U) * h + x @ p.W * p.q + p.b
    return tr.tanh(u + (p.q * tr.tanh(u)) @ p.V)


@odd("W:I,H V:I,H U:H,H Q:H,H R:H,H b:H d:H", "h c")
def a_sum_that_grows(p, x, h, c):
    """Read first, then the place of a longer one, and another."""
    u = x @ p.W + h @ p.U + p.b
    v = u + (tr.sigmoid(u) * c) @ p.Q + p.d
    w = v + (tr.tanh(v) * c) @ p.R
    return tr.tanh(w) * tr.softplus(x @ p.V), tr.sigmoid(w)


# -- rows --------------------------------------------------------------------------------------------------------------


@odd("W:I,2 U:H,2 A:H,H")
def blocks(p, x, h):
    rows = h.shape[0]
    g = tr.reshape(tr.sigmoid(x @ p.W + h @ p.U), (rows, 2, 1))
    g = tr.broadcast_to(g, (rows, 2, 3)).reshape(rows, 6)
    turned = tr.transpose(h.reshape(rows, 2, 3), (0, 2, 1)).reshape(rows, 6)
    folded = h.reshape(rows, 2, 3).sum(axis=2)[:, [0, 1, 0, 1, 1, 0]]
    return g * tr.tanh(h @ p.A) + (1 - g) * turned * tr.abs(h).mean(axis=1, keepdims=True) + 0.1 * folded


@odd("W:I,H K:I,3 V:I,2", "h m", (2, 6))
def memory(p, x, h, m):
    """Slots (3, 2), read by softmax and written by an outer product."""
    slots = m.reshape(-1, 3, 2)
    where = tr.softmax(x @ p.K)
    read = (slots * where.reshape(-1, 3, 1)).sum(axis=1)
    slots = tr.tanh(0.9 * slots + where[:, :, None] * (x @ p.V + h)[:, None, :])
    return tr.tanh(read + 0.5 * h), slots.reshape(-1, 6)


@odd("W:I,H")
def stacked(p, x, h):
    a, b = tr.tanh(x @ p.W), tr.sigmoid(h)
    rows = tr.stack([a, b, a * b], axis=1).mean(axis=1)
    columns = tr.stack([a, h], axis=2).max(axis=2)
    return 0.5 * rows + 0.3 * columns + 0.1 * tr.concat([a.reshape(-1, 2, 3), b.reshape(-1, 2, 3)], 2)[:, 1, :]


@odd("W:I,H")
def sums_over_several_axes(p, x, h):
    z = tr.tanh(x @ p.W + h).reshape(-1, 2, 3, 1) * h.reshape(-1, 1, 3, 2)
    wide = tr.broadcast_to(tr.softplus(h).reshape(-1, 1, 6, 1), (h.shape[0], 2, 6, 3))
    return 0.3 * z.sum(axis=(1, 3), keepdims=True).reshape(-1, 3)[:, [0, 1, 2, 2, 1, 0]] + 0.1 * wide.sum(axis=(1, 3))


@odd("W:I,H")
def picked_columns(p, x, h):
    first, last = h[:, 0], x[:, -1]
    mixed = h[:, ::2][:, [0, 0, 2]] * (first * last)[:, None]
    return tr.tanh(x @ p.W + h[:, ::-1] + tr.concat([mixed, mixed[:, ::-1]], 1))


@odd("W:I,H U:H,H")
def kinks(p, x, h):
    z, y = x @ p.W, h @ p.U
    a = tr.maximum(z, y) - tr.minimum(z, 0.3) + tr.relu(y) + tr.abs(z) * tr.sign(y)
    return tr.tanh(tr.where(tr.greater(z, y), a, h) + tr.where(h > 0 if False else tr.greater(h, 0.0), y, 0.0))


@odd("W:I,H U:H,H")
def every_function(p, x, h):
    z = x @ p.W + h @ p.U
    y = tr.exp(0.3 * z) + tr.softplus(z) + tr.square(h)
    y = tr.sqrt(y + 0.5) / (1.0 + y) + tr.log(y + 1.0) * 0.5 + tr.pow(y + 1.0, -0.5) + 2.0 ** (0.1 * z) + y**2.0 * 0.01
    return tr.tanh(tr.fma(y, h, z) - (3.0 - z) / (y + 2.0) + tr.log_softmax(z) * 0.1)


@odd("W:I,H U:H,H", "h c")
def stopped(p, x, h, c):
    z = tr.tanh(x @ p.W + tr.stop_gradient(h @ p.U) + c)
    return tr.stop_gradient(z) * c + z, tr.stop_gradient(tr.tanh(z + c)) * z


@odd("W:I,H", mask=lambda cell: np.arange(H) % 2, scale=lambda cell: tr.tensor(0.7, dtype=cell.dtype),
     shift=lambda cell: tr.tensor(np.linspace(0, 1, H), dtype=cell.dtype))  # fmt: skip
def constants(p, x, h):
    return tr.tanh(x @ p.W + p.shift + h * p.mask * p.scale + [0.1] * H - np.float64(0.25))


@odd("W:I,H b:1,H g:1,1 q:2,3 k:1,2,1")
def parameters_of_one_row(p, x, h):
    wide = h.reshape(-1, 2, 3) * p.q + p.k
    return tr.tanh(x @ p.W + h * p.g + p.b + wide.reshape(-1, 6))
