"""Every op against NumPy and finite differences, on both dtypes: a few tests over the one table in op_table.py."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from op_table import CASES, IDS, OPS

import tinyrnn as tr
from tinyrnn.ops.composite import bernoulli

every_case = pytest.mark.parametrize("case", CASES, ids=IDS)
either_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])

# -- what layouts an input can come in: the same values, in memory that is not contiguous ------------------------------


def transposed(a):
    leaf = tr.tensor(a.T, requires_grad=True)
    return tr.transpose(leaf)


def every_other(a):
    leaf = tr.tensor(np.repeat(a[..., None], 2, -1), requires_grad=True)
    return leaf[..., 0]


def backwards(a):
    leaf = tr.tensor(a[::-1] if a.ndim else a, requires_grad=True)
    return leaf[::-1] if a.ndim else leaf[...]


LAYOUTS = [transposed, every_other, backwards]


def leaves(arrays):
    return [tr.tensor(a, requires_grad=True) for a in arrays]


def seed_like(y, seed=7):
    return np.random.default_rng(seed).uniform(0.5, 1.5, y.shape).astype(y.dtype)


def gradients(y, xs, create_graph=False, seed=7):
    """The gradient of y by each of xs under a fixed random seed, zeros where there is none."""
    found = [None] * len(xs)
    if y.requires_grad:
        found = tr.grad(y, xs, seed_like(y, seed), create_graph, allow_unused=True)
    return [tr.tensor(np.zeros(x.shape, x.dtype)) if g is None else g for x, g in zip(xs, found, strict=True)]


def derivatives(case, xs):
    """The result, its gradients, and the gradients of all these gradients, as Tensors."""
    y = case.fn(*xs)
    first = gradients(y, xs, create_graph=True)
    second = [np.zeros(x.shape, x.dtype) for x in xs]
    for k, g in enumerate(first):
        for total, gg in zip(second, gradients(g, xs, create_graph=True, seed=8 + k), strict=True):
            total += gg.numpy()
    return y, first, [tr.tensor(s) for s in second]


def assert_near(found, expected, ulps=64):
    """Equal within that many roundings of found's dtype, at the scale of the largest value."""
    expected = np.asarray(expected)
    assert found.shape == expected.shape
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    tolerance = ulps * np.finfo(found.dtype).eps
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=tolerance, atol=tolerance * scale)


# -- every op ----------------------------------------------------------------------------------------------------------


@every_case
@either_dtype
def test_forward(case, dtype):
    arrays = case.arrays(dtype)
    y = case.fn(*leaves(arrays))
    assert y.dtype == dtype
    assert isinstance(y.data, np.ndarray)
    assert_near(y.numpy(), case.reference(*(a.astype(np.float64) for a in arrays)))
    np.testing.assert_array_equal(case.fn(*(tr.tensor(a) for a in arrays)), y)
    with tr.no_grad():
        np.testing.assert_array_equal(case.fn(*leaves(arrays)), y)


@every_case
def test_gradient_and_second_gradient_equal_finite_differences(case):
    assert tr.gradcheck(case.fn, tuple(case.arrays(np.float64)), order=2)


@every_case
def test_float32_agrees_with_float64(case):
    arrays = case.arrays(np.float32)
    single = derivatives(case, leaves(arrays))
    double = derivatives(case, leaves([a.astype(np.float64) for a in arrays]))
    for found, expected in zip(single[1] + single[2], double[1] + double[2], strict=True):
        assert found.dtype == np.float32
        assert_near(found.numpy(), expected.numpy(), ulps=256)


@every_case
@either_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_in_any_layout(case, dtype, layout):
    arrays = case.arrays(dtype)
    plain = derivatives(case, leaves(arrays))
    xs = [layout(a) for a in arrays]
    for x, a in zip(xs, arrays, strict=True):
        np.testing.assert_array_equal(x, a)
    found = derivatives(case, xs)
    assert_near(found[0].numpy(), plain[0].numpy(), ulps=16)
    for ours, theirs in zip(found[1] + found[2], plain[1] + plain[2], strict=True):
        assert_near(ours.numpy(), theirs.numpy(), ulps=256)


@every_case
@either_dtype
def test_nothing_is_modified_and_nothing_aliased(case, dtype):
    arrays = case.arrays(dtype)
    xs = leaves(arrays)
    y = case.fn(*xs)
    result = y.numpy().copy()
    if not y.requires_grad:
        return
    assert not y.data.flags.writeable or y.is_leaf  # dropout may return its input
    incoming = tr.tensor(seed_like(y))
    before = incoming.data.copy()
    first = tr.grad(y, xs, incoming, create_graph=True, allow_unused=True)
    values = [None if g is None else g.numpy().copy() for g in first]
    y.backward(incoming, retain_graph=True)
    grads = [x.grad for x in xs]
    y.backward(incoming)

    np.testing.assert_array_equal(incoming, before)
    np.testing.assert_array_equal(y, result)
    for x, a, g, value in zip(xs, arrays, grads, values, strict=True):
        np.testing.assert_array_equal(x, a)
        if value is not None:
            np.testing.assert_array_equal(g, value)  # a second pass does not write into what the first gave
            np.testing.assert_array_equal(x.grad, 2 * value)
            assert g.shape == x.shape
            assert g.dtype == x.dtype
            assert g.data.flags.writeable
            assert x.grad.data.flags.writeable
            assert not g.requires_grad
    held = [t._array for t in [incoming, *xs, *grads, *(x.grad for x in xs)] if t is not None and t.size]
    if not any(np.shares_memory(y, x) for x in xs):  # some results are views of their input
        held.append(y._array)
    for i, a in enumerate(held):
        for b in held[:i]:
            assert not np.shares_memory(a, b)


@every_case
def test_the_same_tensor_for_every_input(case):
    if len(case.shapes) < 2 or len(set(case.shapes)) > 1 or case.kink is not None:
        return
    # The narrowest domain suits every input.
    _, a = max(
        zip(case.domain or [(0, 0)] * len(case.shapes), case.arrays(np.float64), strict=True), key=lambda p: p[0]
    )
    separate = derivatives(case, leaves([a] * len(case.shapes)))
    x = tr.tensor(a, requires_grad=True)
    y = case.fn(*[x] * len(case.shapes))
    assert_near(gradients(y, [x])[0].numpy(), np.sum([g.numpy() for g in separate[1]], 0))
    assert tr.gradcheck(lambda x: case.fn(*[x] * len(case.shapes)), x, order=2)


def test_the_table_reaches_every_record():
    reached = {"astype", "stop_gradient"}  # see below
    for case in CASES:
        xs = leaves(case.arrays(np.float64))
        y = case.fn(*xs)
        everything = [y, *gradients(y, xs, create_graph=True)]
        reached |= {node.op.name for node in tr.Tape(everything, everything=True).nodes if node.op is not None}
    assert reached >= {op.name for op in tr.ops.RECORDS if op.vjps != (None,) * op.arity}
    assert {case.name.split("-")[0] for case in CASES} | reached >= set(OPS)


def test_astype_takes_the_gradient_back():
    x = tr.tensor(np.array([1.0, 1e-9]), requires_grad=True)
    y = x.astype("float32")
    assert (y.dtype, x.astype("float64")) == (np.float32, x)
    z = (y * y).astype("float64") * x
    g = tr.grad(z.sum(), x, create_graph=True)
    assert g.dtype == np.float64
    np.testing.assert_allclose(g, 3 * x.data**2, rtol=1e-6)
    np.testing.assert_allclose(tr.grad(g.sum(), x), 6 * x.data, rtol=1e-6)


def test_stop_gradient_stops_it():
    x = tr.tensor([2.0, 3.0], requires_grad=True)
    np.testing.assert_array_equal(tr.grad((x * tr.stop_gradient(x)).sum(), x), x)
    assert not tr.stop_gradient(x).requires_grad


# -- sizes that reach every path of the loops --------------------------------------------------------------------------


@pytest.mark.parametrize("name", [op.name for op in tr.ops.RECORDS if op.code >= 0])
@either_dtype
def test_elementwise_results_do_not_depend_on_size_or_layout(name, dtype):
    op = OPS[name]
    rng = np.random.default_rng(0)
    shape = (17, 1301)  # beyond a tile, beyond the size at which the lock is released, no multiple of a vector
    arrays = [rng.uniform(*d, shape).astype(dtype) for d in op.domain]
    expected = op(*arrays).numpy()
    assert_near(expected, op.reference(*(a.astype(np.float64) for a in arrays)), ulps=16)
    for cut in (1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 64, 100):
        np.testing.assert_array_equal(op(*(a[3, :cut] for a in arrays)), expected[3, :cut])
    for layout in LAYOUTS:
        np.testing.assert_array_equal(op(*(layout(a) for a in arrays)), expected)
    for k in range(1, op.arity):  # one operand repeated down, the next across
        mixed = [a[:1] if i == k else a[:, :1] if i == k - 1 else a for i, a in enumerate(arrays)]
        whole = [
            np.ascontiguousarray(np.broadcast_to(a, np.broadcast_shapes(*(m.shape for m in mixed)))) for a in mixed
        ]
        np.testing.assert_array_equal(op(*mixed), op(*whole))


@pytest.mark.parametrize("name", ["sum", "max", "mean"])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, (0, 1), (1, 2), (0, 2), (0, 1, 2), ()])
@either_dtype
def test_reductions_of_large_arrays(name, axis, dtype):
    x = np.random.default_rng(0).normal(size=(7, 67, 131)).astype(dtype)
    expected = getattr(np, name)(x.astype(np.float64), axis)
    for layout in (tr.tensor, *LAYOUTS):
        found = getattr(tr, name)(layout(x), axis).numpy()
        size = x.size // max(expected.size, 1)
        np.testing.assert_allclose(found, expected, rtol=0, atol=8 * size**0.5 * 10 * np.finfo(dtype).eps)


@either_dtype
@pytest.mark.parametrize("shapes", [((1, 1), (1, 1)), ((37, 65), (65, 129)), ((1, 300), (300, 7)), ((300, 1), (1, 40))])
def test_products_of_many_sizes(shapes, dtype):
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=s).astype(dtype) for s in shapes)
    expected = a.astype(np.float64) @ b.astype(np.float64)
    inner = shapes[0][1]
    for left in (tr.tensor, *LAYOUTS):
        for right in (tr.tensor, *LAYOUTS):
            found = (left(a) @ right(b)).numpy()
            np.testing.assert_allclose(found, expected, rtol=0, atol=40 * inner**0.5 * np.finfo(dtype).eps)


# -- any shape, any index: properties ----------------------------------------------------------------------------------

SETTINGS = {"min_side": 0, "max_side": 4}
values = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def leaf(rng, shape):
    return tr.tensor(rng.normal(size=shape), requires_grad=True)


def summed_to(g, shape):
    """g summed over what broadcasting from `shape` repeated, in NumPy."""
    g = g.sum(tuple(range(g.ndim - len(shape))))
    return g.sum(tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True).reshape(shape)


@given(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, **SETTINGS), values)
def test_broadcasting(shapes, rng):
    a, b = (leaf(rng, s) for s in shapes.input_shapes)
    y = a * b + a
    assert y.shape == shapes.result_shape
    np.testing.assert_allclose(y, a.data * b.data + a.data)
    g = rng.normal(size=y.shape)
    y.backward(g)
    np.testing.assert_allclose(a.grad, summed_to(g * (b.data + 1), a.shape), atol=1e-12)
    np.testing.assert_allclose(b.grad, summed_to(g * a.data, b.shape), atol=1e-12)


@given(hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=4, **SETTINGS), values)
def test_broadcasting_of_three(shapes, rng):
    c, a, b = (leaf(rng, s) for s in shapes.input_shapes)
    y = tr.where(c, a, b) + tr.fma(a, b, c)
    np.testing.assert_allclose(y, np.where(c.data != 0, a.data, b.data) + a.data * b.data + c.data)
    g = rng.normal(size=y.shape)
    y.backward(g)
    np.testing.assert_allclose(a.grad, summed_to(g * ((c.data != 0) + b.data), a.shape), atol=1e-12)
    np.testing.assert_allclose(c.grad, summed_to(g, c.shape), atol=1e-12)


shapes = hnp.array_shapes(min_dims=1, max_dims=4, **SETTINGS)


@st.composite
def indexed(draw):
    shape = draw(shapes)
    kinds = [hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True), hnp.arrays(bool, shape)]
    if all(shape):
        kinds.append(
            hnp.integer_array_indices(shape, result_shape=hnp.array_shapes(min_dims=0, max_dims=2, min_side=0))
        )
    return shape, draw(st.one_of(kinds))


@given(indexed(), values)
def test_indexing(shape_and_index, rng):
    shape, index = shape_and_index
    x = leaf(rng, shape)
    y = x[index]
    np.testing.assert_array_equal(y, x.data[index])
    assert y.shape == np.shape(x.data[index])
    g, expected = rng.normal(size=y.shape), np.zeros(shape)
    np.add.at(expected, index, g)
    y.backward(g, retain_graph=True)
    np.testing.assert_allclose(x.grad, expected, atol=1e-14)
    recorded = tr.grad(y, x, g, create_graph=True)
    np.testing.assert_array_equal(recorded, x.grad)


@st.composite
def reduced(draw):
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, **SETTINGS))
    axes = (
        st.none()
        if not shape
        else st.none() | hnp.valid_tuple_axes(len(shape)) | st.integers(-len(shape), len(shape) - 1)
    )
    return shape, draw(axes), draw(st.booleans())


@given(reduced(), values)
def test_reductions(arguments, rng):
    shape, axis, keepdims = arguments
    x = leaf(rng, shape)
    y = x.sum(axis, keepdims)
    np.testing.assert_allclose(y, x.data.sum(axis, keepdims=keepdims), atol=1e-12)
    assert y.shape == x.data.sum(axis, keepdims=keepdims).shape
    g = rng.normal(size=y.shape)
    y.backward(g)
    spread = np.broadcast_to(g.reshape(x.data.sum(axis, keepdims=True).shape), shape)
    np.testing.assert_array_equal(x.grad, spread)
    axes = range(x.ndim) if axis is None else np.atleast_1d(np.asarray(axis, int))
    if all(shape[a] for a in axes):
        np.testing.assert_allclose(x.mean(axis, keepdims), x.data.mean(axis, keepdims=keepdims), atol=1e-12)
        largest = x.max(axis, keepdims)
        np.testing.assert_array_equal(largest, x.data.max(axis, keepdims=keepdims))
        x.grad = None
        largest.backward(g)
        np.testing.assert_array_equal(
            x.grad, np.where(x.data == x.data.max(axis, keepdims=True, initial=None), spread, 0)
        )


@given(
    hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=2, **SETTINGS), st.tuples(*[st.integers(0, 5)] * 3), values
)
def test_batched_products(batch, sizes, rng):
    m, k, n = sizes
    a, b = leaf(rng, (*batch.input_shapes[0], m, k)), leaf(rng, (*batch.input_shapes[1], k, n))
    y = a @ b
    np.testing.assert_allclose(y, a.data @ b.data, atol=1e-12)
    g = rng.normal(size=y.shape)
    y.backward(g)
    np.testing.assert_allclose(a.grad, summed_to(g @ b.data.swapaxes(-1, -2), a.shape), atol=1e-12)
    np.testing.assert_allclose(b.grad, summed_to(a.data.swapaxes(-1, -2) @ g, b.shape), atol=1e-12)


@given(shapes, st.data(), values)
def test_taking_apart_and_joining(shape, data, rng):
    x = leaf(rng, shape)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    cuts = sorted(data.draw(st.lists(st.integers(0, shape[axis]), max_size=3)))
    parts = tr.split(x, cuts, axis)
    for ours, theirs in zip(parts, np.split(x.data, cuts, axis), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    order = data.draw(st.permutations(range(len(shape))))
    y = tr.transpose(tr.concat(parts, axis), order)
    np.testing.assert_array_equal(y, x.data.transpose(order))
    g = rng.normal(size=y.shape)
    y.reshape(-1).backward(g.reshape(-1))
    np.testing.assert_array_equal(x.grad, g.transpose(np.argsort(order)))
    stacked = tr.stack([x, x * 2.0], axis)
    np.testing.assert_array_equal(stacked, np.stack([x.data, 2 * x.data], axis))


@given(st.integers(1, 5), hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=6), values)
def test_taking_rows(rows, shape, rng):
    table = leaf(rng, (rows, 3))
    indices = rng.integers(0, rows, shape)
    y = tr.take(table, indices)
    np.testing.assert_array_equal(y, table.data[indices])
    g, expected = rng.normal(size=y.shape), np.zeros((rows, 3))
    np.add.at(expected, indices, g)
    y.backward(g)
    np.testing.assert_allclose(table.grad, expected, atol=1e-13)


# -- ties, extremes, chance --------------------------------------------------------------------------------------------


@either_dtype
def test_ties_share_and_kinks_have_a_side(dtype):
    x = tr.tensor([2.0, 5.0, 5.0], requires_grad=True, dtype=dtype)
    tr.max(x).backward()
    np.testing.assert_array_equal(x.grad, [0, 0.5, 0.5])
    for fn, expected in [
        (lambda x: tr.maximum(x, x.detach()), 0.5), (lambda x: tr.minimum(x.detach(), x), 0.5),
        (lambda x: tr.relu(x - 5.0), 0.0), (lambda x: tr.abs(x - 5.0), 0.0),
    ]:  # fmt: skip
        assert tr.grad(fn(x).sum(), x).numpy()[1] == expected


@either_dtype
def test_powers_at_zero(dtype):
    x = tr.tensor([0.0, 2.0], requires_grad=True, dtype=dtype)
    for exponent, first, second in [
        (0.0, [0, 0], [0, 0]),
        (1.0, [1, 1], [0, 0]),
        (2.0, [0, 4], [2, 2]),
        (3.0, [0, 12], [0, 12]),
    ]:
        for power in (tr.pow(x, exponent), x**exponent):
            g = tr.grad(power.sum(), x, create_graph=True)
            np.testing.assert_allclose(g, first)
            if g.requires_grad:
                gg = tr.grad(g.sum(), x, allow_unused=True)
                np.testing.assert_allclose([0, 0] if gg is None else gg, second)
    b = tr.tensor([2.0, 2.0], requires_grad=True, dtype=dtype)
    np.testing.assert_allclose(tr.grad(tr.pow(x.detach(), b).sum(), b), [0, 4 * np.log(2)], rtol=1e-6)
    negative = tr.tensor([-2.0], requires_grad=True, dtype=dtype)
    np.testing.assert_array_equal(tr.grad((negative**3).sum(), negative), [12.0])


@either_dtype
def test_losses_do_not_overflow(dtype):
    x = tr.tensor([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]], requires_grad=True, dtype=dtype)
    np.testing.assert_allclose(tr.softmax(x).data[0], [1, 0, 0])
    np.testing.assert_allclose(tr.log_softmax(x).data[0], [0, -1e4, -2e4])
    loss = tr.cross_entropy(x, [2, 1], "none")
    np.testing.assert_allclose(loss, [2e4, np.log(3)], rtol=1e-6)
    loss.sum().backward()
    np.testing.assert_allclose(x.grad, [[1, 0, -1], [1 / 3, -2 / 3, 1 / 3]], rtol=1e-6)
    x = tr.tensor([1e4, -1e4, 1e4, -1e4], requires_grad=True, dtype=dtype)
    loss = tr.binary_cross_entropy_with_logits(x, [1.0, 0.0, 0.0, 1.0], "none")
    np.testing.assert_allclose(loss, [0, 0, 1e4, 1e4])
    loss.sum().backward()
    np.testing.assert_allclose(x.grad, [0, 0, 1, -1])
    for fn, g in [(tr.sigmoid, [0, 0, 0, 0]), (tr.tanh, [0, 0, 0, 0]), (tr.softplus, [1, 0, 1, 0])]:
        np.testing.assert_array_equal(tr.grad(fn(x).sum(), x), g)


def test_dropout_keeps_the_mean_and_draws_anew():
    rng = np.random.default_rng(0)
    x = tr.tensor(np.ones(100_000), requires_grad=True)
    y = tr.dropout(x, 0.25, rng)
    kept = y.numpy() != 0
    assert abs(kept.mean() - 0.75) < 5 * (0.25 * 0.75 / x.size) ** 0.5
    np.testing.assert_array_equal(y.data[kept], 1 / 0.75)
    y.backward(np.ones(x.shape))
    np.testing.assert_array_equal(x.grad, y)
    assert not np.array_equal(tr.dropout(x, 0.25, rng), y)
    assert tr.dropout(x, 0.0, rng) is x


@either_dtype
def test_an_index_changed_after_the_call_does_no_harm(dtype):
    x = tr.tensor(np.arange(3.0), requires_grad=True, dtype=dtype)
    for make in (lambda i: x[i], lambda i: x[i,], lambda i: tr.take(x, i), lambda i: tr.cross_entropy(x[None], i[:1])):
        index = np.array([0, 1])
        expected = tr.grad(make(index).sum(), x).numpy()
        y = make(index)
        index[:] = 2
        np.testing.assert_array_equal(tr.grad(y.sum(), x), expected)
    mask = np.array([True, False, True])
    y = x[mask]
    mask[:] = False
    np.testing.assert_array_equal(tr.grad(y.sum(), x), [1, 0, 1])


# -- mistakes ----------------------------------------------------------------------------------------------------------

A, B = tr.tensor(np.ones((2, 3))), tr.tensor(np.ones((4, 3)))
S = tr.tensor(np.ones((2, 3)), dtype="float32")


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: tr.add(A, B), ValueError, r"add can not broadcast shapes \(2, 3\) and \(4, 3\)"),
    (lambda: tr.where(A, B, A), ValueError, r"where can not broadcast"),
    (lambda: tr.add(A, S), TypeError, r"add needs inputs of one dtype.*float64.*float32.*astype"),
    (lambda: tr.matmul(A, S.T), TypeError, r"matmul needs inputs of one dtype"),
    (lambda: tr.concat([A, S]), TypeError, r"concat needs inputs of one dtype"),
    (lambda: tr.add(A), TypeError, r"add\(\) takes 2 arguments, got 1"),
    (lambda: tr.tanh("a"), TypeError, r"must be a Tensor, an array or a number, got str"),
    (lambda: tr.tanh(np.array(["a"])), TypeError, r"data must be numbers"),
    (lambda: tr.matmul(A, B), ValueError, r"matmul needs inner sizes that agree, got \(2, 3\) @ \(4, 3\)"),
    (lambda: tr.matmul(A, 2.0), ValueError, r"matmul needs operands of at least one axis"),
    (lambda: tr.matmul(np.ones((2, 3, 4)), np.ones((3, 4, 2))), ValueError, r"batch axes of \(2, 3, 4\) @ \(3, 4, 2\)"),
    (lambda: tr.sum(A, 2), ValueError, r"axis must be an int in -2..1.*got 2"),
    (lambda: tr.sum(A, (0, 0)), ValueError, r"axis must not name an axis twice, got \(0, 0\)"),
    (lambda: tr.sum(A, 0.5), (TypeError, ValueError), r"axis|iterable"),
    (lambda: tr.max(np.zeros((0, 3)), 0), ValueError, r"maximum of no elements.*\(0, 3\)"),
    (lambda: tr.reshape(A, (4, 2)), ValueError, r"reshape can not make shape \(4, 2\) of \(2, 3\)"),
    (lambda: tr.reshape(A, (-1, -1)), ValueError, r"reshape can not make shape \(-1, -1\)"),
    (lambda: tr.transpose(A, (0,)), ValueError, r"axes must name each of the 2 axes"),
    (lambda: tr.transpose(A, (0, 0)), ValueError, r"twice"),
    (lambda: tr.broadcast_to(A, (3, 3)), ValueError, r"broadcast_to can not make shape \(3, 3\) of \(2, 3\)"),
    (lambda: tr.concat([]), ValueError, r"concat needs a list of one or more tensors"),
    (lambda: tr.concat(A), ValueError, r"concat needs a list of one or more tensors"),
    (lambda: tr.concat([A, B], 1), ValueError, r"concat along axis 1 needs shapes that agree.*\(2, 3\), \(4, 3\)"),
    (lambda: tr.concat([A, A[0]]), ValueError, r"concat needs tensors of one rank"),
    (lambda: tr.stack([A, B]), ValueError, r"stack needs tensors of one shape, got \[\(2, 3\), \(4, 3\)\]"),
    (lambda: tr.split(A, 2, 1), ValueError, r"sections must divide the 3 elements of axis 1 equally, got 2"),
    (lambda: tr.split(A, 0), ValueError, r"sections must divide"),
    (lambda: A[2], IndexError, r"out of bounds"),
    (lambda: A[0, 0, 0], IndexError, r"too many indices"),
    (lambda: A[A], TypeError, r"an index must be made of ints.*got a Tensor"),
    (lambda: tr.take(A, [2]), IndexError, r"indices must lie in 0..1, got 2..2"),
    (lambda: tr.take(A, [-1, 0]), IndexError, r"indices must lie in 0..1, got -1..0"),
    (lambda: tr.take(A, [0.5]), TypeError, r"indices must be integers, got float64"),
    (lambda: tr.take(3.0, [0]), ValueError, r"table must have at least one axis"),
    (lambda: tr.softmax(A, 2), ValueError, r"axis"),
    (lambda: tr.cross_entropy(A, [0, 3]), ValueError, r"targets must lie in 0..2, got 0..3"),
    (lambda: tr.cross_entropy(A, [0]), ValueError, r"targets must be \(2,\), one a row of logits, got shape \(1,\)"),
    (lambda: tr.cross_entropy(A, [0.0, 1.0]), TypeError, r"targets must be integers, got float64"),
    (lambda: tr.cross_entropy(A[0], [0]), ValueError, r"logits must be \(N, C\), got shape \(3,\)"),
    (lambda: tr.cross_entropy(A, [0, 1], "average"), ValueError, r"reduction must be 'mean', 'sum' or 'none'"),
    (lambda: tr.mse_loss(A, B), ValueError, r"pred and target must be of one shape, got \(2, 3\) and \(4, 3\)"),
    (lambda: tr.mse_loss(A, S), TypeError, r"one dtype"),
    (lambda: tr.binary_cross_entropy_with_logits(A, A[0]), ValueError, r"logits and targets must be of one shape"),
    (lambda: tr.layer_norm(1.0), ValueError, r"layer_norm needs x of at least one axis"),
    (lambda: tr.layer_norm(A, np.ones(2)), ValueError, r"layer_norm's weight must be of shape \(3,\), got \(2,\)"),
    (lambda: tr.layer_norm(A, None, np.ones((2, 3))), ValueError, r"layer_norm's bias must be of shape \(3,\)"),
    (lambda: tr.dropout(A, 1.0, np.random.default_rng(0)), ValueError, r"p must be in \[0, 1\), got 1.0"),
    (lambda: tr.astype(A, "int32"), TypeError, r"dtype must be float32 or float64, got 'int32'"),
])  # fmt: skip
def test_mistakes_are_told(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("p", [0.0, 1e-3, 0.2, 0.5, 0.93, 1.0])
def test_bernoulli(p):
    """As often as p says, and apart from its neighbours, by 5 standard deviations."""
    n = 300_001
    found = bernoulli(np.random.default_rng(3), (n,), p)
    assert found.shape == (n,)
    assert abs(found.mean() - p) <= 5 * (p * (1 - p) / n) ** 0.5
    for lag in (1, 2, 3, 4, 5):
        both = (found[lag:] & found[:-lag]).mean()
        assert abs(both - p * p) <= 5 * (2 * p * p / n) ** 0.5
