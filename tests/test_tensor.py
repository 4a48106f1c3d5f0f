"""The Tensor as users meet it: values in and out, operators, gradients, and what it says when something is wrong."""

import copy
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyrnn as tr
from tinyrnn._core.tape import TraceError, abstract

either_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def leaf(*values, dtype=None):
    return tr.tensor(list(values), requires_grad=True, dtype=dtype)


# -- making one --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("data", "dtype"), [
    (3, "float32"),
    (2.5, "float32"),
    (True, "float32"),
    ([1, 2], "float32"),
    ([[1.5, 2], [3, 4]], "float32"),
    ((1.0, 2.0), "float32"),
    ([], "float32"),
    (np.arange(3), "float32"),
    (np.array([True, False]), "float32"),
    (np.arange(3, dtype="uint8"), "float32"),
    (np.ones(3, "float16"), "float32"),
    (np.ones(3, "float32"), "float32"),
    (np.ones(3, "float64"), "float64"),
    (np.ones(3, ">f8"), "float64"),
    (np.ones(3, ">f4"), "float32"),
    (np.float64(1.0), "float64"),
    (np.ones(()), "float64"),
    (np.ones((2, 0, 3)), "float64"),
])  # fmt: skip
def test_dtype_and_shape(data, dtype):
    t = tr.tensor(data)
    assert t.dtype == np.dtype(dtype)
    assert t.dtype.isnative
    assert t.shape == np.shape(data)
    assert (t.ndim, t.size) == (np.ndim(data), np.size(data))
    assert (t.device, t.requires_grad, t.grad, t.name, t.is_leaf) == ("cpu", False, None, None, True)
    np.testing.assert_array_equal(t.data, data)
    for wanted in ("float32", "float64", np.float64, np.dtype("float32")):
        assert tr.tensor(data, dtype=wanted).dtype == np.dtype(wanted)
    again = tr.tensor(t)
    assert again.dtype == t.dtype
    assert not np.shares_memory(again.data, t.data)


def test_data_are_copied_and_contiguous():
    array = np.arange(12.0).reshape(3, 4)
    for view in (array, array.T, array[:, ::-2], array[::-1], np.broadcast_to(array[0], (5, 4))):
        t = tr.tensor(view)
        np.testing.assert_array_equal(t.data, view)
        assert t.data.flags.c_contiguous
        assert t.data.flags.writeable
        assert not np.shares_memory(t.data, array)
    frozen = array.copy()
    frozen.flags.writeable = False
    assert tr.tensor(frozen).data.flags.writeable


@pytest.mark.parametrize(("data", "options", "error", "message"), [
    ([[1, 2], [3]], {}, ValueError, "rectangular array"),
    ("abc", {}, TypeError, "data must be numbers"),
    (["a", "b"], {}, TypeError, "data must be numbers"),
    (None, {}, TypeError, "data must be numbers"),
    ([None, 1.0], {}, TypeError, "data must be numbers"),
    (1j, {}, TypeError, "data must be numbers, got complex128"),
    (np.array(["2020-01-01"], "M8[D]"), {}, TypeError, "data must be numbers"),
    ({}, {}, TypeError, "data must be numbers"),
    (1.0, {"dtype": "int32"}, TypeError, "dtype must be float32 or float64, got 'int32'"),
    (1.0, {"dtype": "float16"}, TypeError, "dtype must be float32 or float64"),
    (1.0, {"dtype": "number"}, TypeError, "dtype must be float32 or float64"),
    (1.0, {"dtype": ">f8"}, TypeError, "dtype must be float32 or float64"),
    (1.0, {"device": "gpu"}, ValueError, "device must be 'cpu'.*'cuda'"),
])  # fmt: skip
def test_what_can_not_be_a_tensor(data, options, error, message):
    with pytest.raises(error, match=message):
        tr.tensor(data, **options)


# -- values out --------------------------------------------------------------------------------------------------------


def test_repr():
    t = tr.tensor([[1.0, -2.5], [0.0, 1e6]])
    assert repr(t) == f"tensor({np.array2string(t.data, separator=', ', prefix='tensor(')}, dtype=float32)"
    assert repr(tr.tensor(3)) == "tensor(3., dtype=float32)"
    x = leaf(1.0, dtype="float64")
    assert repr(x) == "tensor([1.], dtype=float64, requires_grad=True)"
    x.name = "x"
    assert repr(x) == "tensor([1.], dtype=float64, name='x', requires_grad=True)"
    assert repr(x * 2.0) == "tensor([2.], dtype=float64, op=mul)"
    assert repr(tr.tensor([])) == "tensor([], dtype=float32)"
    assert "shape=(2, 0)" in repr(tr.tensor(np.zeros((2, 0)))) or "[]" in repr(tr.tensor(np.zeros((2, 0))))
    long = repr(tr.tensor(np.zeros(10_000)))
    assert "..." in long
    assert len(long) < 200


def test_item_float_bool_len_iter():
    t = tr.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert len(t) == 3
    assert [row.shape for row in t] == [(2,)] * 3
    assert [x.item() for x in t[0]] == [1.0, 2.0]
    assert isinstance(t[0, 0].item(), float)
    assert float(t[1, 1]) == 4.0
    assert bool(tr.tensor([[0.5]]))
    assert not tr.tensor(0.0)
    with pytest.raises(ValueError, match=r"item\(\) needs a tensor of one element, got shape \(3, 2\)"):
        t.item()
    with pytest.raises(ValueError, match=r"one element, got shape \(2,\)"):
        float(t[0])
    with pytest.raises(ValueError, match=r"truth of a tensor of shape \(3, 2\)"):
        bool(t)
    for call in (len, iter):
        with pytest.raises(TypeError, match="without dimensions"):
            call(tr.tensor(1.0))
    for row in leaf(1.0, 2.0):
        assert row.requires_grad


def test_arrays_share_memory_where_they_can():
    x = leaf(1.0, 2.0)
    y = x * 2.0
    for get in (lambda t: t.data, lambda t: t.numpy(), np.asarray, np.from_dlpack):
        assert np.shares_memory(get(x), x.data)
        assert np.shares_memory(get(y), y.data)
        np.testing.assert_array_equal(get(y), [2.0, 4.0])
    for get in (np.array, lambda t: np.asarray(t, "float64"), lambda t: np.array(t, copy=True)):
        assert not np.shares_memory(get(x), x.data)
    assert np.asarray(x, "float64").dtype == np.float64
    with pytest.raises(ValueError, match="copy"):
        np.array(x, dtype="float64", copy=False)
    assert x.data.flags.writeable
    for result in (y, y[0], y.T, y.reshape(1, 2), x[:1], x.T, x.reshape(2), x[...], x.astype("float32") * 1.0):
        assert not result.data.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            result.data[...] = 0.0


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dlpack_with_pytorch(dtype):
    import torch

    x = tr.tensor(np.arange(6.0).reshape(2, 3), dtype=dtype)
    for t in (x, x.T, x[:, ::2], x * 2.0, tr.sum(x)):
        theirs = torch.from_dlpack(t)
        np.testing.assert_array_equal(theirs.numpy(), t.numpy())
        assert str(theirs.dtype) == f"torch.{dtype}"
        assert np.shares_memory(theirs.numpy(), t.numpy())
    ours = tr.tensor(torch.arange(3, dtype=getattr(torch, dtype)).numpy())
    assert ours.dtype == dtype
    torch.from_dlpack(x)[0, 0] = 7.0
    assert x[0, 0].item() == 7.0


def test_copies():
    x = leaf(1.0, 2.0, dtype="float64")
    x.name = "x"
    for twin in (copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert (twin.name, twin.dtype, twin.requires_grad) == ("x", np.float64, True)
        np.testing.assert_array_equal(twin, x)
        twin.data[0] = 5.0
        assert x.data[0] == 1.0
    with pytest.raises(TypeError, match=r"only leaves can be copied or pickled.*mul.*detach"):
        copy.deepcopy(x * 2.0)
    result = x * 2.0
    assert copy.copy(result) is result, "its values do not change; Matplotlib copies what it plots"


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda t: np.concatenate([t, np.ones((2, 3))]), "numpy.concatenate"),
        (lambda t: np.stack((t, t)), "numpy.stack"),
        (lambda t: np.sum(t), "numpy.sum"),
        (lambda t: np.reshape(t, (3, 2)), "numpy.reshape"),
        (lambda t: np.split(t, 2), "numpy.split"),
        (lambda t: np.where(np.ones((2, 3)) > 0, t, 0.0), "numpy.where"),
        (lambda t: np.einsum("ij->i", t), "numpy.einsum"),
        (lambda t: np.linalg.norm(t), "numpy.linalg.norm"),
        (lambda t: np.clip(a=t, a_min=0.0, a_max=1.0), "numpy.clip"),
    ],
)
def test_functions_of_numpy_lose_no_gradient(function, name):
    t = leaf([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], dtype="float64")
    for learns in (t, t * 2.0):
        with pytest.raises(TypeError, match=rf"^{name} makes an array.*shape \(2, 3\).*tr.concat.*np.asarray"):
            function(learns)
        expected = np.asarray(function(learns.numpy()))
        np.testing.assert_array_equal(np.asarray(function(learns.detach())), expected)
        with tr.no_grad():
            np.testing.assert_array_equal(np.asarray(function(learns)), expected)


def test_functions_of_numpy_that_only_look():
    t = leaf([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], dtype="float64")
    assert (np.shape(t), np.ndim(t), np.size(t)) == ((2, 3), 2, 6)
    assert np.allclose(t, t)
    assert np.array_equal(t, t.numpy())
    assert np.argmax(t) == 5
    assert (np.zeros_like(t) == 0).all()
    copied = np.copy(t)
    np.copyto(copied, t)
    np.testing.assert_array_equal(copied, t)
    assert np.array2string(t) == np.array2string(t.numpy())
    recorded = abstract((7, 3), t.dtype)
    assert (np.shape(recorded), np.ndim(recorded)) == ((7, 3), 2), "a step may ask for shapes"
    with pytest.raises(TraceError, match="has no value yet"):
        np.concatenate([recorded, recorded], 1)


# -- operators ---------------------------------------------------------------------------------------------------------

OPERATORS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "**": lambda a, b: a**b,
}


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
@either_dtype
def test_operators_take_the_tensors_dtype(operator, dtype):
    values = np.array([[1.0, 2.0], [3.0, 4.0]])
    t = tr.tensor(values, dtype=dtype)
    others = [
        2, 2.5, True, np.float32(2.5), np.float64(2.5), np.int64(2), [1.0, 2.0], (1, 2), np.array([1, 2]), 2.0 * values,
        values.astype("float32"), np.array(2.0), values > 0.0,
    ]  # fmt: skip
    for other in others:
        for a, b in ((t, other), (other, t)):
            found = operator(a, b)
            assert isinstance(found, tr.Tensor)
            assert found.dtype == dtype
            expected = operator(np.asarray(a, "float64"), np.asarray(b, "float64"))
            np.testing.assert_allclose(found, expected, rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_allclose(operator(t, t), operator(values, values), rtol=4 * np.finfo(dtype).eps)


@either_dtype
def test_products_and_unary_operators(dtype):
    values = np.array([[1.0, -2.0], [3.0, 4.0]])
    t = tr.tensor(values, dtype=dtype)
    for found, expected in [
        (t @ values, values @ values), (values @ t, values @ values), (t @ [1.0, 2.0], values @ [1.0, 2.0]),
        ([1.0, 2.0] @ t, [1.0, 2.0] @ values), (-t, -values), (+t, values), (abs(t), abs(values)), (t.T, values.T),
        (t.transpose(), values.T), (t.transpose(1, 0), values.T), (t.transpose((0, 1)), values),
        (t.reshape(4), values.ravel()), (t.reshape(1, -1), values.reshape(1, 4)), (t.reshape((4,)), values.ravel()),
        (t.sum(), 6), (t.sum(0), values.sum(0)), (t.mean(-1, keepdims=True), values.mean(1, keepdims=True)),
        (t.max(1), values.max(1)), (t.max(), 4), (t[0], values[0]), (t[:, None, ::-1], values[:, None, ::-1]),
    ]:  # fmt: skip
        assert found.dtype == dtype
        assert found.shape == np.shape(expected)
        np.testing.assert_allclose(found, expected)


def test_operators_refuse_what_they_can_not_mean():
    a, b = tr.tensor([1.0, 2.0]), tr.tensor([1.0, 2.0], dtype="float64")
    for operator in (*OPERATORS.values(), lambda a, b: a @ b):
        with pytest.raises(TypeError, match=r"inputs of one dtype.*float32.*float64.*astype"):
            operator(a, b)
        for other in (None, "a", {}, object()):
            with pytest.raises((TypeError, ValueError), match=r"unsupported operand|must be|needs|multiply sequence"):
                operator(a, other)
        with pytest.raises(TypeError, match=r"must be .*number.*complex128"):
            operator(a, np.array([1j, 2.0]))
    with pytest.raises(ValueError, match=r"mul can not broadcast shapes \(2,\) and \(3,\)"):
        a * [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match=r"inner sizes that agree.*\(1, 2\) @ \(3, 1\)|inner sizes.*\(2,\) @ \(3,\)"):
        a @ [1.0, 2.0, 3.0]
    with pytest.raises(TypeError):
        pow(a, 2, 3)


def test_an_operand_changed_after_the_call_does_no_harm():
    x, array = leaf(1.0, 2.0), np.array([3.0, 4.0], "float32")
    y = (x * array).sum()
    array[:] = 0.0
    y.backward()
    np.testing.assert_array_equal(x.grad, [3.0, 4.0])


# -- attributes that can be set ----------------------------------------------------------------------------------------


def test_data_can_be_replaced():
    t = tr.tensor([[1.0, 2.0]])
    given = np.array([[3.0, 4.0]])
    t.data = given
    np.testing.assert_array_equal(t, [[3.0, 4.0]])
    assert t.dtype == np.float32
    given[:] = 0.0
    t.data -= 1.0
    np.testing.assert_array_equal(t, [[2.0, 3.0]])
    t.data = [[5, 6]]
    np.testing.assert_array_equal(t, [[5.0, 6.0]])
    with pytest.raises(ValueError, match=r"must keep its shape, got \(2,\)"):
        t.data = [1.0, 2.0]
    with pytest.raises(RuntimeError, match=r"only a leaf's data.*result of mul.*detach"):
        (leaf(1.0) * 2.0).data = [1.0]
    for name in ("shape", "dtype", "ndim", "size", "device", "T", "is_leaf"):
        with pytest.raises(AttributeError):
            setattr(t, name, None)


def test_requires_grad_and_name_can_be_set():
    x = tr.tensor([1.0])
    assert not (x * 2.0).requires_grad
    x.requires_grad = True
    assert (x * 2.0).requires_grad
    with pytest.raises(RuntimeError, match=r"requires_grad can be set on a leaf only.*mul"):
        (x * 2.0).requires_grad = False
    x.name = "weights"
    with pytest.raises(TypeError, match="name must be a str or None, got int"):
        x.name = 3
    with pytest.raises(ValueError, match=r"gradient of tensor 'weights' of shape \(1,\) must be"):
        x.backward([1.0, 2.0])


def test_grad_can_be_set():
    x = leaf(1.0, 2.0)
    x.grad = tr.tensor([3.0, 4.0])
    (x * 2.0).sum().backward()
    np.testing.assert_array_equal(x.grad, [5.0, 6.0])
    x.grad = None
    assert x.grad is None
    for wrong, error in [(1.0, TypeError), (np.ones(2, "float32"), TypeError), (tr.tensor([1.0]), ValueError),
                         (tr.tensor(np.ones(2)), ValueError)]:  # fmt: skip
        with pytest.raises(error, match="grad must be"):
            x.grad = wrong


def test_detach():
    x = leaf(1.0, 2.0)
    y = x * 2.0
    for t in (x, y):
        d = t.detach()
        assert (d.requires_grad, d.is_leaf, d.grad) == (False, True, None)
        assert np.shares_memory(d.data, t.data)
    np.testing.assert_array_equal(tr.grad((x * y.detach()).sum(), x), y)
    with pytest.raises(ValueError, match="read-only"):
        y.detach().data[0] = 1.0


# -- gradients ---------------------------------------------------------------------------------------------------------


def test_gradients_accumulate_in_leaves_alone():
    x, frozen = leaf(1.0, 2.0), tr.tensor([3.0, 4.0])
    y = x * frozen
    y.sum().backward()
    assert isinstance(x.grad, tr.Tensor)
    assert (x.grad.dtype, x.grad.shape, x.grad.requires_grad) == (np.float32, (2,), False)
    first = x.grad
    for _ in range(2):
        (x * frozen).sum().backward()
    np.testing.assert_array_equal(x.grad, [9.0, 12.0])
    np.testing.assert_array_equal(first, [3.0, 4.0])
    assert y.grad is None
    assert frozen.grad is None


def test_a_gradient_can_be_changed_in_place():
    x = leaf(1.0, 2.0)
    for passes in (1, 2):
        x.grad = None
        for _ in range(passes):
            (x * 3.0).sum().backward()
        x.grad.data[...] *= 0.5
        x.grad.data *= 2.0
        np.testing.assert_array_equal(x.grad, [3.0 * passes] * 2)
    (x * 3.0).sum().backward()
    np.testing.assert_array_equal(x.grad, [9.0, 9.0])


def test_backward_with_a_gradient():
    x = leaf(1.0, 2.0)
    for g in ([3.0, 4.0], np.array([3, 4]), tr.tensor([3.0, 4.0])):
        x.grad = None
        (x * x).backward(g)
        np.testing.assert_array_equal(x.grad, [6.0, 16.0])
    x.grad = None
    x.backward([1.0, 2.0])
    np.testing.assert_array_equal(x.grad, [1.0, 2.0])
    (x[:1] * 2.0).backward()  # one element is scalar enough
    np.testing.assert_array_equal(x.grad, [3.0, 2.0])
    with pytest.raises(RuntimeError, match=r"gradient of a tensor of shape \(2,\) must be given: only a tensor of one"):
        (x * x).backward()
    for g in ([1.0], tr.tensor([1.0, 2.0], dtype="float64"), 1.0):
        with pytest.raises(ValueError, match=r"must be \(2,\) float32, got"):
            (x * x).backward(g)
    with pytest.raises(RuntimeError, match="does not depend on anything that requires a gradient"):
        tr.tensor(1.0).backward()


def test_grad_returns_what_it_is_asked_for():
    x, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    h = x * w
    y = (h * h).sum()
    assert isinstance(tr.grad(y, x, retain_graph=True), tr.Tensor)
    by_x, by_h, again = tr.grad(y, [x, h, x], retain_graph=True)
    np.testing.assert_array_equal(by_x, 2 * h.data * w.data)
    np.testing.assert_array_equal(by_h, 2 * h.data)
    np.testing.assert_array_equal(again, by_x)
    assert not np.shares_memory(again.data, by_x.data)
    np.testing.assert_array_equal(tr.grad(y, y, retain_graph=True), 1.0)
    both = tr.grad([y, h], (x,), [2.0, [1.0, 1.0]], retain_graph=True)
    np.testing.assert_array_equal(both[0], 2 * by_x.data + w.data)
    np.testing.assert_array_equal(tr.grad([h, h], x, [[1.0, 1.0]] * 2, retain_graph=True), 2 * w.data)
    assert x.grad is None
    assert w.grad is None
    y.backward()  # the graph is still there


def test_grad_of_what_does_not_depend():
    x, other = leaf(1.0), leaf(2.0)
    with pytest.raises(RuntimeError, match=r"outputs do not depend on inputs\[1\], of shape \(1,\); allow_unused"):
        tr.grad(x * 2.0, [x, other])
    assert tr.grad(x * 2.0, [x, other], allow_unused=True)[1] is None
    with pytest.raises(RuntimeError, match=r"inputs\[0\], of shape \(1,\), does not require a gradient"):
        tr.grad(x * 2.0, tr.tensor([1.0]))
    for outputs, inputs in ((3.0, x), ([3.0], x), (x, [3.0])):
        with pytest.raises((TypeError), match=r"must be Tensors|not iterable"):
            tr.grad(outputs, inputs)
    with pytest.raises(ValueError, match="one entry for each of the 2 outputs, got 1"):
        tr.grad([x * 2.0, x * 3.0], x, [[1.0]])


@either_dtype
def test_derivatives_of_any_order(dtype):
    x = tr.tensor(0.3, requires_grad=True, dtype=dtype)
    y = tr.exp(x * 2.0)
    for order in range(1, 6):
        y = tr.grad(y, x, create_graph=True)
        assert y.requires_grad
        assert y.item() == pytest.approx(2**order * np.exp(0.6), rel=10 * float(np.finfo(dtype).eps))


def test_a_hessian_vector_product():
    x = tr.tensor(np.random.default_rng(0).normal(size=4), requires_grad=True)
    a = np.random.default_rng(1).normal(size=(4, 4))
    v = np.arange(4.0)
    g = tr.grad((x * (a @ x)).sum() + (x**3).sum(), x, create_graph=True)
    (g * v).sum().backward()
    np.testing.assert_allclose(x.grad, (a + a.T) @ v + 6 * x.data * v)


def test_no_grad_and_enable_grad():
    x = leaf(1.0)
    with tr.no_grad():
        y = x * 2.0
        assert (y.requires_grad, y.is_leaf) == (False, True)
        with tr.enable_grad():
            assert (x * 2.0).requires_grad
            with tr.no_grad():
                assert not (x * 2.0).requires_grad
        assert not (x * 2.0).requires_grad
    assert (x * 2.0).requires_grad

    @tr.no_grad()
    def double(t):
        """Twice t."""
        return t * 2.0 if t.size == 1 else double(t[:1])

    assert not double(x).requires_grad
    assert not double(leaf(1.0, 2.0)).requires_grad
    assert double.__doc__ == "Twice t."
    with pytest.raises(KeyError), tr.no_grad():
        raise KeyError
    assert (x * 2.0).requires_grad
    with tr.no_grad(), pytest.raises(RuntimeError, match=r"computed under tr.no_grad\(\)"):
        (x * 2.0).backward()
    outside = x * 2.0
    with tr.no_grad():
        outside.backward()
        assert tr.grad(tr.enable_grad()(lambda: x * x)(), x, create_graph=True).requires_grad
    np.testing.assert_array_equal(x.grad, [2.0])


# -- graphs that were used ---------------------------------------------------------------------------------------------


def test_a_graph_is_used_once_unless_kept():
    x = leaf(2.0)
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    np.testing.assert_array_equal(x.grad, [8.0])
    for use in (y.backward, lambda: tr.grad(y, x), lambda: tr.grad(y, x, allow_unused=True), (y * 2.0).backward):
        with pytest.raises(RuntimeError, match=r"was freed by an earlier backward pass.*retain_graph=True"):
            use()
    np.testing.assert_array_equal(x.grad, [8.0])


def test_a_graph_of_which_a_part_was_freed():
    x = leaf(2.0)
    part = x * x
    whole = part * x
    part.backward()
    x.grad = None
    for use in (lambda: whole.backward(), lambda: tr.grad(whole, x), lambda: tr.grad(whole, [x, part])):
        with pytest.raises(RuntimeError, match="freed by an earlier backward pass"):
            use()
    assert x.grad is None
    np.testing.assert_array_equal(tr.grad(whole, part), [2.0])  # which needs no more than is there


def test_what_a_pass_does_not_reach_is_not_freed():
    x, w = leaf(2.0), leaf(3.0)
    left, right = x * x, w * w
    (left * 2.0).backward()
    (right * 2.0).backward()
    np.testing.assert_array_equal(w.grad, [12.0])


# -- values that were changed in place ---------------------------------------------------------------------------------


def by_data(x):
    x.data[...] = 5.0


def by_one_element(x):
    x.data[-1] += 1e-6


def by_assignment(x):
    x.data = np.full(x.shape, 5.0)


def by_augmented_assignment(x):
    x.data -= 1.0


def by_numpy(x):
    x.numpy()[0] = 5.0


def by_asarray(x):
    np.asarray(x)[0] = 5.0


def by_dlpack(x):
    np.from_dlpack(x)[0] = 5.0


def by_view(x):
    x.data.reshape(-1)[:1] += 1.0


def by_detached(x):
    x.detach().data[0] = 5.0


def by_library_code(x):
    x._array += 1.0
    x._bump()


DAMAGES = [
    by_data, by_one_element, by_assignment, by_augmented_assignment, by_numpy, by_asarray, by_dlpack, by_view,
    by_detached, by_library_code,
]  # fmt: skip
any_damage = pytest.mark.parametrize("damage", DAMAGES)


@any_damage
def test_damage_between_forward_and_backward_is_told(damage):
    for use in (lambda y, x: y.backward(), lambda y, x: tr.grad(y, x), lambda y, x: tr.grad(y, x, create_graph=True)):
        x = leaf(1.0, 2.0)
        x.name = "W_hh"
        y = (x * x).sum()
        damage(x)
        with pytest.raises(RuntimeError, match=r"'W_hh' of shape \(2,\).*changed in place after mul saved it"):
            use(y, x)
        assert x.grad is None


@any_damage
def test_damage_by_one_who_held_the_array_before(damage):
    x = leaf(1.0, 2.0)
    held = x.data
    y = (x * x).sum()
    held[0] = 7.0
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()
    damage(x)
    (x * x).sum().backward()
    np.testing.assert_array_equal(x.grad, 2.0 * x.data)


@any_damage
def test_a_change_after_backward_or_before_forward_is_none(damage):
    x = leaf(1.0, 2.0)
    for _ in range(4):
        damage(x)
        y = (x * x).sum()
        x.grad = None
        y.backward()
        np.testing.assert_allclose(x.grad, 2.0 * np.array(x))


@any_damage
def test_damage_is_told_though_the_value_is_used_again(damage):
    x = leaf(1.0, 2.0)
    before = (x * x).sum()
    damage(x)
    after = (x * x).sum()
    after.backward()
    np.testing.assert_allclose(x.grad, 2.0 * x.data)
    with pytest.raises(RuntimeError, match="changed in place"):
        before.backward()


def test_damage_by_a_value_of_its_own_for_what_was_a_view():
    """Changes are counted along with those of the leaf that the memory belonged to."""
    x, w = leaf(1.0, 2.0), leaf(1.0)
    view = x.detach()
    x.data = [3.0, 4.0]
    y = (view * w).sum()
    view.data = [5.0, 6.0]
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()
    x.data[...] = 7.0
    (view * w).sum().backward()
    np.testing.assert_allclose(w.grad, [11.0])


def through_data(w, held, step):
    w.data[...] -= step


def augmented(w, held, step):
    w.data -= step


def assigned(w, held, step):
    w.data = w.data - step


def through_a_held_array(w, held, step):
    held -= step


@pytest.mark.parametrize("update", [through_data, augmented, assigned, through_a_held_array])
def test_gradient_descent_by_hand(update):
    target = np.array([1.0, -2.0], "float32")
    w = leaf(0.0, 0.0)
    held = w.data if update is through_a_held_array else None
    for _ in range(60):
        w.grad = None
        tr.mse_loss(w, target, "sum").backward()
        update(w, held, 0.1 * w.grad.numpy())
    np.testing.assert_allclose(w, target, atol=1e-4)


@pytest.mark.parametrize("view", [
    lambda x: x.detach(), lambda x: x.reshape(2, 1), lambda x: x[:1], lambda x: x[None].T, tr.stop_gradient,
    lambda x: x[:, None][:1].T.detach(), lambda x: tr.broadcast_to(x, (3, 2)),
])  # fmt: skip
@pytest.mark.parametrize("requires_grad", [False, True])
def test_damage_under_a_view_that_the_graph_saved(view, requires_grad):
    for damage in (by_data, by_one_element, by_numpy, by_asarray, by_dlpack, by_view, by_detached, by_library_code):
        x, w = tr.tensor([1.0, 2.0], requires_grad), leaf(1.0)
        y = (view(x) * w).sum()
        damage(x)
        with pytest.raises(RuntimeError, match="changed in place"):
            y.backward()
        y = (view(x) * w).sum()
        y.backward()
        np.testing.assert_allclose(w.grad, [view(x).numpy().sum()], rtol=1e-6)


def test_reading_is_no_damage():
    x = leaf(1.0, 2.0)
    y = (x * x).sum()
    for read in (np.asarray, np.from_dlpack, repr, list, len, copy.deepcopy, lambda x: x.detach() * 2.0):
        read(x)
    y.backward()
    np.testing.assert_array_equal(x.grad, [2.0, 4.0])


def test_views_without_memory_of_their_own_can_be_guarded():
    x = tr.tensor(np.zeros(1), requires_grad=True)
    wide = tr.broadcast_to(x, (1 << 22,)).detach()
    tail = tr.tensor(np.arange(1.0, 5.0))[::-1].detach()
    for t in (wide, tail, tail[::2].detach()):
        held = t.data
        y = (t * x).sum()
        assert held is t.data
        y.backward()
    np.testing.assert_array_equal(x.grad, [10.0 + 4.0 + 2.0])


# -- size, threads, memory ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [100_000])
def test_long_chains(length):
    x = leaf(1.0)
    y = x
    for _ in range(length):
        y = y * 1.0
    g = tr.grad(y, x, create_graph=True)
    np.testing.assert_array_equal(g, [1.0])
    y.backward()
    np.testing.assert_array_equal(x.grad, [1.0])
    for _ in range(length):
        y = tr.tanh(y)
    del y, g  # a graph that is dropped unused


def test_wide_graphs():
    x = leaf(1.0)
    total = x
    for _ in range(18):  # 2**18 paths
        total = total + total
    total.backward()
    np.testing.assert_array_equal(x.grad, [2.0**18])


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("second_order", [False, True])
def test_graphs_are_freed_without_the_collector(second_order):
    class Traced(tr.Tensor):
        pass

    x = Traced(np.ones((3, 4)), True)
    kept = weakref.ref(x)
    hidden = tr.tanh(x @ np.ones((4, 2)))
    y = tr.concat([hidden, tr.softmax(hidden)], 1)[0].max() + tr.layer_norm(hidden).sum()
    results = [weakref.ref(hidden), weakref.ref(y)]
    if second_order:
        g = tr.grad(y, x, create_graph=True)
        results.append(weakref.ref(g))
        g.sum().backward()
        del g
    else:
        y.backward()
    results.append(weakref.ref(x.grad))
    del hidden, y
    assert [ref() for ref in results[:-1]] == [None] * len(results[:-1])
    assert kept() is x
    del x
    assert kept() is None
    assert results[-1]() is None
    assert gc.collect() == 0


@pytest.mark.usefixtures("no_collector")
def test_backward_frees_what_the_graph_held_while_its_result_lives():
    x = tr.tensor(np.ones(1000), requires_grad=True)
    hidden = tr.tanh(x)
    gone = weakref.ref(hidden)
    y = (hidden * 2.0).sum()
    del hidden
    assert gone() is not None
    y.backward()
    assert gone() is None
    assert y.item() == pytest.approx(2000 * np.tanh(1))


def in_threads(count, work):
    """Run work(k) in `count` threads at once; raise what any of them raised."""
    barrier, errors = threading.Barrier(count), []

    def run(k):
        try:
            barrier.wait()
            work(k)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(count)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]


def test_threads_each_with_a_graph_of_its_own():
    shared = tr.tensor(np.random.default_rng(0).normal(size=(40, 40)), requires_grad=True)

    def loss_of(x):
        h = x
        for _ in range(30):
            h = tr.tanh(h @ shared) + x
        return (h * h).sum()

    inputs = [np.random.default_rng(k).normal(size=(600, 40)) for k in range(2)]  # large enough to release the lock
    alone = [tr.grad(loss_of(tr.tensor(a)), shared).numpy() for a in inputs]

    def work(k):
        for _ in range(3):
            np.testing.assert_array_equal(tr.grad(loss_of(tr.tensor(inputs[k])), shared), alone[k])

    in_threads(2, work)


def test_threads_that_add_to_one_gradient():
    x = tr.tensor(np.zeros(100_000), requires_grad=True)  # large enough to release the lock

    def work(k):
        for _ in range(30):
            (x * 1.0).sum().backward()

    in_threads(2, work)
    np.testing.assert_array_equal(x.grad, np.full(x.shape, 60.0))


def test_no_grad_holds_for_its_thread_alone():
    x = leaf(1.0)
    step = threading.Barrier(2)

    def work(k):
        if k == 0:
            with tr.no_grad():
                step.wait()
                assert not (x * 2.0).requires_grad
                step.wait()
        else:
            step.wait()
            assert (x * 2.0).requires_grad
            step.wait()

    in_threads(2, work)
    with tr.no_grad():
        in_threads(1, lambda k: (x * 2.0).backward())  # a new thread records


def test_a_function_that_records_nothing_in_two_threads():
    """Each call puts back the mode of its own thread, also where the first to come is the first to go."""
    x = leaf(1.0)
    came, went = [threading.Event(), threading.Event()], threading.Event()

    @tr.no_grad()
    def stay(k):
        came[k].set()
        assert (came[1] if k == 0 else went).wait(60)

    def work(k):
        if k == 0:
            stay(k)
            went.set()
            assert (x * 2.0).requires_grad
        else:
            assert came[0].wait(60)
            with tr.no_grad():
                stay(k)
                assert not (x * 2.0).requires_grad

    in_threads(2, work)


# -- any program -------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from(["add", "sub", "mul", "tanh", "matmul", "index", "sum"]),
                          st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=15))  # fmt: skip
def test_any_program_of_ops_has_right_gradients(program):
    """Sums and products are means, for where slopes grow from op to op, differences of any step are wrong."""

    def run(a, b):
        made = [a, b]
        for name, i, j in program:
            x, y = made[i % len(made)], made[j % len(made)]
            if name in ("tanh", "matmul"):
                made.append(tr.tanh(x) if name == "tanh" else tr.tanh(x @ y / 3))
            elif name == "index":
                made.append(x[[j % 3, 0, i % 3]])
            elif name == "sum":
                made.append((y + x.sum(0)) / 4)
            else:
                made.append(0.5 * getattr(tr, name)(x, y))
        return tr.tanh(made[-1]), tr.tanh(made[len(made) // 2])

    rng = np.random.default_rng(0)
    assert tr.gradcheck(run, (rng.normal(size=(3, 3)), rng.normal(size=(3, 3))), directions=2, order=2)
