"""Hessian- and Jacobian-vector products against finite differences of gradients, PyTorch, and closed forms."""

import textwrap
import time

import numpy as np
import pytest

import tinyrnn as tr

T, B, I, H = 5, 3, 2, 3  # noqa: E741
LENGTHS = [5, 0, 3]
STEP = np.finfo(np.float64).eps ** (1 / 3)


class Own(tr.Cell):
    """A user's cell, of two time inputs and two states of different widths."""

    states = ("h", "m")
    state_sizes = (H, 2)

    def __init__(self):
        super().__init__(I, H, dtype="float64", rng=7)
        self.W_x, self.W_y, self.W_h = self.param((I, H)), self.param((1, H)), self.param((H, H))
        self.W_m, self.a = self.param((H, 2)), self.param((1, 2))

    def step(self, x, y, h, m):
        z = tr.tanh(x @ self.W_x + h @ self.W_h) * tr.exp(y @ self.W_y)
        return z + 0.1 * tr.square(m).sum(axis=1, keepdims=True), tr.sigmoid(z @ self.W_m) * m + self.a * tr.tanh(m)


def lstm(**options):
    return tr.cells.LSTM(I, H, dtype="float64", rng=0, **options)


CELLS = {
    "LSTM": lstm,
    "LSTM-peephole": lambda: lstm(peephole="diagonal"),
    "GRU": lambda: tr.cells.GRU(I, H, dtype="float64", rng=1),
    "Elman": lambda: tr.cells.Elman(I, H, dtype="float64", rng=2),
    "LayerNormLSTM": lambda: tr.cells.LayerNormLSTM(I, H, dtype="float64", rng=3),
    "Own": Own,
}
WAYS = {
    "whole": {},
    "ragged": {"lengths": LENGTHS},
    "reverse": {"lengths": LENGTHS, "reverse": True},
    "segments": {"checkpoint_every": 2},
    "ragged-segments": {"lengths": LENGTHS, "checkpoint_every": 2},
    "unrolled": {"lengths": LENGTHS},
}


class Problem:
    """A cell over a sequence, with a loss that all its outputs and last states enter."""

    def __init__(self, name, way="whole"):
        rng = np.random.default_rng(5)
        self.cell, self.rng = CELLS[name](), rng
        xs = tuple(rng.normal(size=(T, B, n)) for n in (I, 1)[: 2 if name == "Own" else 1])
        self.xs = xs if len(xs) > 1 else xs[0]
        self.state = tuple(rng.normal(size=(B, n)) for n in self.cell.state_sizes)
        self.weights = rng.normal(size=(T, B, H))
        self.run, self.how = tr.unroll if way == "unrolled" else tr.scan, WAYS[way]
        self.params = list(self.cell.parameters())

    def outputs(self, *_):
        return self.run(self.cell, self.xs, self.state, **self.how)

    def loss(self):
        ys, finals = self.outputs()
        return (self.weights * ys * ys).mean() + sum(tr.tanh(s).mean() for s in finals)

    def gradient(self):
        return [g.numpy().copy() for g in tr.grad(self.loss(), self.params)]

    def vector(self):
        return [self.rng.normal(size=p.shape) for p in self.params]


def along(params, v, fn):
    """(fn() at params + h v - fn() at params - h v) / 2h, for lists of arrays; params are put back."""
    homes, found = [p.numpy().copy() for p in params], []
    for sign in (1, -1):
        for p, home, d in zip(params, homes, v, strict=True):
            p.data = home + sign * STEP * d
        found.append(fn())
    for p, home in zip(params, homes, strict=True):
        p.data = home
    return [(a - b) / (2 * STEP) for a, b in zip(*found, strict=True)]


def dot(a, b):
    return sum(float((np.asarray(x) * np.asarray(y)).sum()) for x, y in zip(a, b, strict=True))


def flat(tensors):
    return np.concatenate([np.ravel(t) for t in tensors])


every_cell = pytest.mark.parametrize("name", CELLS)
every_way = pytest.mark.parametrize("way", WAYS)


# -- products with Hessians --------------------------------------------------------------------------------------------


@every_way
@every_cell
def test_hvp_is_the_difference_of_gradients(name, way):
    problem = Problem(name, way)
    v = problem.vector()
    expected = flat(along(problem.params, v, problem.gradient))
    found = flat(tr.hvp(problem.loss, problem.params, v))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8 * abs(expected).max())


@every_cell
def test_hessian_is_symmetric_and_linear(name):
    problem = Problem(name, "ragged")
    u, v = problem.vector(), problem.vector()
    both = [2 * a - 3 * b for a, b in zip(u, v, strict=True)]
    hu, hv, hw = (flat(tr.hvp(problem.loss, problem.params, w)) for w in (u, v, both))
    np.testing.assert_allclose(flat(u) @ hv, flat(v) @ hu, rtol=1e-10)
    np.testing.assert_allclose(hw, 2 * hu - 3 * hv, rtol=1e-9, atol=1e-12 * abs(hw).max())


@every_cell
def test_scan_unroll_and_segments_agree(name):
    products = []
    for way in ("ragged", "unrolled", "ragged-segments"):
        problem = Problem(name, way)
        products.append(flat(tr.hvp(problem.loss, problem.params, problem.vector())))
    for other in products[1:]:
        np.testing.assert_allclose(other, products[0], rtol=1e-9, atol=1e-12 * abs(products[0]).max())


def test_quadratic_form():
    rng = np.random.default_rng(0)
    A, v = rng.normal(size=(4, 4)), rng.normal(size=4)
    x, y = tr.tensor(rng.normal(size=4), requires_grad=True), tr.tensor(rng.normal(size=2), requires_grad=True)

    def loss():
        return (x.reshape(1, 4) @ A @ x.reshape(4, 1)).sum() + y.sum()

    product = tr.hvp(loss, x, v)
    assert isinstance(product, tr.Tensor)
    assert not product.requires_grad
    np.testing.assert_allclose(product, (A + A.T) @ v, rtol=1e-12)
    # What is linear, or not used at all, has zeros.
    unused = tr.tensor(np.ones((2, 2)), requires_grad=True)
    parts = tr.hvp(loss, iter([y, x, unused]), [np.ones(2), v, np.ones((2, 2))])
    np.testing.assert_allclose(flat(parts), [0, 0, *((A + A.T) @ v), 0, 0, 0, 0], rtol=1e-12)


@pytest.mark.parametrize("column", [False, True])
def test_flat_vector(column):
    problem = Problem("LSTM")
    v = problem.vector()
    line = flat(v).reshape(-1, 1) if column else flat(v)
    found = tr.hvp(problem.loss, problem.params, line)
    assert found.shape == line.shape
    assert np.array_equal(np.ravel(found), flat(tr.hvp(problem.loss, problem.params, v)))
    assert np.array_equal(found, tr.hvp(problem.loss, problem.params, tr.tensor(line)))
    whole = np.round(4 * line).astype(int)
    assert np.array_equal(
        tr.hvp(problem.loss, problem.params, whole), tr.hvp(problem.loss, problem.params, whole.astype(float))
    )


def test_product_can_be_differentiated():
    """d (vᵀ H v) / dθ, a third derivative, and by v: 2 H v."""
    problem = Problem("LSTM", "ragged")
    v = [tr.tensor(d, requires_grad=True) for d in problem.vector()]
    arrays = [d.numpy() for d in v]

    def curvature():
        product = tr.hvp(problem.loss, problem.params, v, create_graph=True)
        return sum((d * h).sum() for d, h in zip(v, product, strict=True))

    direction = problem.vector()
    (expected,) = along(problem.params, direction, lambda: [curvature().item()])
    found = tr.grad(curvature(), [*problem.params, *v])
    n = len(v)
    np.testing.assert_allclose(dot(found[:n], direction), expected, rtol=1e-6)
    twice = 2 * flat(tr.hvp(problem.loss, problem.params, arrays))
    np.testing.assert_allclose(flat(found[n:]), twice, rtol=1e-9, atol=1e-12 * abs(twice).max())


def test_float32_is_the_rounded_float64():
    products = []
    for dtype in ("float64", "float32"):
        cell = tr.cells.LSTM(8, 16, dtype=dtype, rng=0)
        rng = np.random.default_rng(0)
        xs, params = rng.normal(size=(30, 4, 8)), list(cell.parameters())
        v = [rng.normal(size=p.shape) for p in params]
        product = tr.hvp(lambda cell=cell, xs=xs: tr.square(tr.scan(cell, xs)[0]).mean(), params, v)
        assert {h.dtype for h in product} == {np.dtype(dtype)}
        products.append(flat(product))
    assert np.linalg.norm(products[0] - products[1]) < 1e-5 * np.linalg.norm(products[0])


def test_nothing_else_changes():
    problem = Problem("GRU")
    v = problem.vector()
    free = flat(tr.hvp(problem.loss, problem.params, v))
    with tr.no_grad():
        assert np.array_equal(flat(tr.hvp(problem.loss, problem.params, v)), free)
    assert all(p.grad is None for p in problem.params)
    # A graph of the caller's that the loss is made with lives on.
    x = tr.tensor(np.ones(3), requires_grad=True)
    y = tr.exp(x)
    for _ in range(2):
        np.testing.assert_allclose(tr.hvp(lambda: (y * y * y).sum(), y, np.ones(3)), 6 * np.exp(np.ones(3)))
        np.testing.assert_allclose(tr.hvp(lambda: (y * y).sum(), x, np.ones(3)), 4 * np.exp(2 * np.ones(3)))
        np.testing.assert_allclose(tr.jvp(lambda y: y * y, y, np.ones(3))[1], 2 * np.exp(np.ones(3)))
    np.testing.assert_allclose(tr.grad(y.sum(), x), np.exp(np.ones(3)))


# -- products with Jacobians -------------------------------------------------------------------------------------------


@every_way
@every_cell
def test_jvp_by_parameters_is_a_difference(name, way):
    problem = Problem(name, way)
    v = problem.vector()
    (ys, finals), (dys, dfinals) = tr.jvp(problem.outputs, tuple(problem.params), tuple(v))
    assert isinstance(finals, tuple)
    assert isinstance(dfinals, tuple)

    def values():
        ys, finals = problem.outputs()
        return [ys.numpy().copy(), *(s.numpy().copy() for s in finals)]

    for value, tangent, plain, expected in zip(
        [ys, *finals], [dys, *dfinals], values(), along(problem.params, v, values), strict=True
    ):
        assert np.array_equal(value, plain)
        np.testing.assert_allclose(tangent, expected, rtol=1e-6, atol=1e-8)


@every_cell
def test_jvp_by_inputs_and_states_fits_the_vjp(name):
    """<u, J v> = <Jᵀ u, v>."""
    problem = Problem(name, "ragged")
    xs, rng = problem.xs if isinstance(problem.xs, tuple) else (problem.xs,), problem.rng
    inputs = (*xs, *problem.state)
    v = tuple(rng.normal(size=x.shape) for x in inputs)

    def fn(*args):
        x = args[: len(xs)]
        return tr.scan(problem.cell, x if len(x) > 1 else x[0], args[len(xs) :], lengths=LENGTHS)

    (ys, finals), (dys, dfinals) = tr.jvp(fn, inputs, v)
    assert not any(t.requires_grad for t in (ys, *finals, dys, *dfinals))
    tensors = [tr.tensor(x, requires_grad=True) for x in inputs]
    ys, finals = fn(*tensors)
    u = [rng.normal(size=y.shape) for y in (ys, *finals)]
    pulled = tr.grad([ys, *finals], tensors, u)
    np.testing.assert_allclose(dot(u, [dys, *dfinals]), dot(pulled, v), rtol=1e-10)


def test_jvp_of_each_kind_of_input_and_output():
    x, ids = tr.tensor(np.array([1.0, 2.0])), np.array([1, 0, 1])
    w = tr.tensor(np.array([3.0, 4.0]), requires_grad=True)
    got, scale = [], tr.Parameter(np.array(2.0))

    def fn(x, y, w, ids, name):
        got.append((ids, name))
        return [tr.take(x * w, ids) * scale, (y, x.sum() * 0 + 1.0), tr.tensor(np.ones(2)), x, w * scale]

    values, tangents = tr.jvp(
        fn, (x, np.float64(5), w, ids, "as it is"), ([1, -1], None, np.array([0.5, 0.5]), None, None)
    )
    assert got[0][0] is ids
    assert got[0][1] == "as it is"
    assert not x.requires_grad
    expected = [2 * np.array([-4 + 1.0, 3 + 0.5, -4 + 1.0]), (0.0, 0.0), np.zeros(2), [1, -1], [1, 1]]
    for tangent, value in zip(tangents, expected, strict=True):
        for part, number in zip(tangent, value, strict=True) if isinstance(value, tuple) else [(tangent, value)]:
            np.testing.assert_allclose(part, number, atol=1e-15)
    assert isinstance(values, list)
    assert isinstance(values[1], tuple)
    np.testing.assert_allclose(values[0], [16.0, 6.0, 16.0])
    value, tangent = tr.jvp(tr.tanh, np.float32(0.5), 1)
    assert tangent.dtype == np.float32
    np.testing.assert_allclose(tangent, 1 - np.tanh(0.5) ** 2, rtol=1e-6)
    assert tr.jvp(tr.tanh, x, None)[1].numpy().tolist() == [0, 0]


def test_jvp_twice_is_a_second_derivative():
    xs, v = np.array([0.3, -0.7]), np.array([1.0, 2.0])

    def slope(x):
        return tr.jvp(tr.tanh, x, v, create_graph=True)[1]

    _, second = tr.jvp(slope, xs, v)
    t = np.tanh(xs)
    np.testing.assert_allclose(second, -2 * t * (1 - t * t) * v * v, rtol=1e-12)


# -- other judges ------------------------------------------------------------------------------------------------------


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's own, in jvp
@pytest.mark.parametrize("way", ["whole", "ragged", "segments"])
def test_hessian_and_jacobian_are_those_of_pytorch(way):
    import torch

    problem = Problem("LSTM", way)
    xs, state, weights = (torch.from_numpy(np.stack(a)) for a in (problem.xs, problem.state, problem.weights))
    values = {p.name: torch.from_numpy(p.numpy().copy()) for p in problem.params}
    ends = torch.tensor(problem.how.get("lengths", [T] * B))

    def outputs(p):
        h, c = state
        ys = []
        for t, x in enumerate(xs):
            i, f, o, g = (x @ p[f"W_x{k}"] + h @ p[f"W_h{k}"] + p[f"b_{k}"] for k in "ifog")
            new_c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            new_h = torch.sigmoid(o) * torch.tanh(new_c)
            going = (ends > t)[:, None]
            h, c = torch.where(going, new_h, h), torch.where(going, new_c, c)
            ys.append(torch.where(going, h, 0.0))
        return torch.stack(ys), h, c

    def loss(p):
        ys, h, c = outputs(p)
        return (weights * ys * ys).mean() + torch.tanh(h).mean() + torch.tanh(c).mean()

    names = [p.name for p in problem.params]
    blocks = torch.func.hessian(loss)(values)
    rows = [[blocks[a][b].reshape(values[a].numel(), values[b].numel()) for b in names] for a in names]
    dense = torch.cat([torch.cat(row, 1) for row in rows]).numpy()
    products = np.stack([tr.hvp(problem.loss, problem.params, unit).numpy() for unit in np.eye(len(dense))], axis=1)
    np.testing.assert_allclose(products, dense, rtol=1e-8, atol=1e-12 * abs(dense).max())

    v = problem.vector()
    directions = dict(zip(names, map(torch.from_numpy, v), strict=True))
    _, expected = torch.func.jvp(outputs, (values,), (directions,))
    _, (dys, finals) = tr.jvp(problem.outputs, tuple(problem.params), tuple(v))
    for tangent, other in zip((dys, *finals), expected, strict=True):
        np.testing.assert_allclose(tangent, other.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.oracle
def test_largest_eigenvalue_of_a_trained_lstm():
    """The example of the docstring, as written, against the eigenvalues of the dense Hessian."""
    rng = np.random.default_rng(0)
    xs, targets = rng.normal(size=(8, 16, 2)), rng.normal(size=(16, 1))

    class Model(tr.Module):
        def __init__(self):
            super().__init__()
            self.cell = tr.cells.LSTM(2, 3, dtype="float64", rng=0)
            self.head = tr.nn.Linear(3, 1, dtype="float64", rng=0)

        def forward(self, xs):
            return self.head(tr.scan(self.cell, xs)[1][0])

    model = Model()
    optimiser = tr.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(200):
        loss = tr.mse_loss(model(xs), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    namespace = {"tr": tr, "model": model, "xs": xs, "targets": targets}
    example = tr.hvp.__doc__.partition("n × n matrix:\n")[2]
    exec(textwrap.dedent(example), namespace)
    params, n = namespace["params"], namespace["n"]
    dense = np.stack([tr.hvp(namespace["loss_fn"], params, unit).numpy() for unit in np.eye(n)])
    np.testing.assert_allclose(dense, dense.T, atol=1e-12 * abs(dense).max())
    np.testing.assert_allclose(namespace["sharpness"], np.linalg.eigvalsh(dense)[-1], rtol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "hidden"), [(16, 64), (32, 128)])
def test_hvp_costs_less_than_four_gradients(rows, hidden):
    rng, steps = np.random.default_rng(0), 100
    cell = tr.cells.LSTM(hidden, hidden, rng=0)
    xs, params = tr.tensor(rng.normal(size=(steps, rows, hidden)).astype("float32")), list(cell.parameters())
    v = [rng.normal(size=p.shape).astype("float32") for p in params]

    def loss():
        return tr.square(tr.scan(cell, xs)[0]).mean()

    times = {"gradient": [], "product": []}
    threads = tr.get_num_threads()
    tr.set_num_threads(1)
    try:
        for _ in range(25):
            for name, fn in (
                ("gradient", lambda: tr.grad(loss(), params)),
                ("product", lambda: tr.hvp(loss, params, v)),
            ):
                start = time.perf_counter()
                fn()
                times[name].append(time.perf_counter() - start)
    finally:
        tr.set_num_threads(threads)
    assert min(times["product"]) < 4 * min(times["gradient"])  # the fastest of each: what others do costs neither


# -- what is refused ---------------------------------------------------------------------------------------------------

W = tr.tensor(np.ones((2, 3)), requires_grad=True)
U = tr.tensor(np.ones(4), requires_grad=True)
PLAIN = tr.tensor(np.ones(4))


def total():
    return (W * W).sum() + (U * U).sum()


def one(x):
    return x * 2.0


BAD = {
    "hvp-loss": (tr.hvp, (3, W, W), TypeError, "loss_fn must be a function of no arguments, got int"),
    "hvp-params": (tr.hvp, (total, 3, W), TypeError, "params must be Tensors, as model.parameters"),
    "hvp-params-array": (tr.hvp, (total, [np.ones(2)], [W]), TypeError, "got a ndarray as number 0"),
    "hvp-none": (tr.hvp, (total, [], []), ValueError, "params must be one Tensor or more, got none"),
    "hvp-frozen": (tr.hvp, (total, [W, PLAIN], [W, U]), ValueError, r"number 1, of shape \(4,\), does not"),
    "hvp-count": (tr.hvp, (total, [W, U], [W]), ValueError, "v must be 2 arrays, one a parameter, got 1"),
    "hvp-shape": (tr.hvp, (total, [W, U], [U, U]), ValueError, r"v\[0\] must be of the shape of params\[0\], \(2, 3\)"),
    "hvp-flat": (tr.hvp, (total, [W, U], np.ones(9)), ValueError, r"or flat, \(10,\), .* got shape \(9,\)"),
    "hvp-text": (tr.hvp, (total, [W], "abc"), TypeError, "v must be arrays, one a parameter, .* got str"),
    "hvp-kind": (tr.hvp, (total, W, [["a"] * 3] * 2), TypeError, "v must be a Tensor or an array of numbers, got list"),
    "hvp-loss-size": (
        tr.hvp,
        (lambda: W * 2.0, W, W),
        ValueError,
        r"one element, got one of shape \(2, 3\)",
    ),
    "hvp-loss-kind": (tr.hvp, (lambda: 3.0, W, W), ValueError, "a Tensor of one element, got float"),
    "hvp-cut": (tr.hvp, (lambda: (U * U).sum(), W, W), ValueError, "depends on none of params"),
    "hvp-constant": (tr.hvp, (lambda: tr.tensor(1.0), W, W), ValueError, "depends on none of params"),
    "jvp-fn": (tr.jvp, (3, W, W), TypeError, "fn must be a function, got int"),
    "jvp-form": (tr.jvp, (one, W, (W,)), TypeError, "tangents must be one as inputs, got tuple"),
    "jvp-forms": (tr.jvp, (one, (W,), W), TypeError, "tangents must be a tuple as inputs, got Tensor"),
    "jvp-count": (tr.jvp, (one, (W,), (W, U)), ValueError, "tangents must be 1, one for each of the inputs, got 2"),
    "jvp-shape": (tr.jvp, (one, (W,), (U,)), ValueError, r"tangents\[0\] must be of the shape of inputs\[0\]"),
    "jvp-ids": (tr.jvp, (one, np.arange(3), np.ones(3)), TypeError, "tangents must be None where inputs is ndarray"),
    "jvp-twice": (tr.jvp, (one, (W, W), (W, W)), ValueError, r"inputs\[1\] is the same Tensor as one before"),
    "jvp-result": (tr.jvp, (lambda x: (x, 3), W, W), TypeError, r"its output\[1\] is int"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    fn, arguments, error, message = BAD[case]
    with pytest.raises(error, match=message):
        fn(*arguments)
    assert not PLAIN.requires_grad
    assert W.grad is None
