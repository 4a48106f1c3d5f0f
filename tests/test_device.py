"""device="cuda" equals the CPU: every op of op_table.py with its gradients, training, cells over time, exchange.

Runs on a GPU (`pytest -m gpu`), and on any machine with a C++ compiler on the stand-in of tests/hostcuda, which runs
the same device text on the CPU: `TINYRNN_TEST_CUDA=host pytest tests/test_device.py`.
"""

import copy
import os
import pickle

import numpy as np
import pytest
from cell_table import CELLS, LENGTHS, B, T, make, sequence
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from op_table import CASES, IDS, OPS

import tinyrnn as tr
from tinyrnn._core.tape import wrap
from tinyrnn.backend import cuda

HOST = os.environ.get("TINYRNN_TEST_CUDA") == "host"
pytestmark = [pytest.mark.device] if HOST else [pytest.mark.gpu, pytest.mark.device]

every_case = pytest.mark.parametrize("case", CASES, ids=IDS)
either_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
RNG = np.random.default_rng


def leaf(a, device="cuda", **options):
    return tr.tensor(a, device=device, requires_grad=True, **options)


def seed_like(y, seed=7):
    return RNG(seed).uniform(0.5, 1.5, y.shape).astype(y.dtype)


def assert_near(found, expected, ulps=16):
    """Equal within that many roundings of the dtype, at the scale of the largest value."""
    found, expected = (t.numpy() if isinstance(t, tr.Tensor) else np.asarray(t) for t in (found, expected))
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=ulps * np.finfo(found.dtype).eps * scale)


# -- every op ----------------------------------------------------------------------------------------------------------


def values_and_gradients(case, arrays, device):
    """The result, its gradients two ways, and the gradients of these."""
    xs = [leaf(a, device) for a in arrays]
    y = case.fn(*xs)
    first = [None] * len(xs)
    if y.requires_grad:
        first = tr.grad(y, xs, tr.tensor(seed_like(y), device=y.device), create_graph=True, allow_unused=True)
        y.backward(seed_like(y), retain_graph=True)
    found = [y, *first, *(x.grad for x in xs)]
    for g in first:
        if g is not None and g.requires_grad:
            found += tr.grad(g, xs, np.ones(g.shape, g.dtype), retain_graph=True, allow_unused=True)
    return found


@every_case
@either_dtype
def test_every_op_and_its_gradients_equal_the_cpu(case, dtype):
    arrays = case.arrays(dtype)
    here, there = (values_and_gradients(case, arrays, device) for device in ("cpu", "cuda"))
    for expected, found in zip(here, there, strict=True):
        assert (expected is None) == (found is None)
        if expected is not None:
            assert found.device == ("cuda" if case.name != "to" else found.device)
            assert_near(found, expected)


@pytest.mark.parametrize("name", [op.name for op in tr.ops.RECORDS if op.code >= 0])
@either_dtype
def test_elementwise_results_do_not_depend_on_size_or_layout(name, dtype):
    op, rng = OPS[name], RNG(0)
    arrays = [rng.uniform(*d, (17, 301)).astype(dtype) for d in op.domain]
    plain = [tr.tensor(a, device="cuda") for a in arrays]
    expected = op(*plain).numpy()
    assert_near(expected, op(*arrays), ulps=2)
    np.testing.assert_array_equal(op(*(x[::-1, ::2] for x in plain)).numpy(), expected[::-1, ::2])
    np.testing.assert_array_equal(op(*(x.T for x in plain)).numpy(), expected.T)
    five = [x[:, :192].reshape(17, 2, 3, 4, 8).transpose(4, 2, 0, 3, 1)[::-1, :, ::2] for x in plain]  # five strides
    within = expected[:, :192].reshape(17, 2, 3, 4, 8).transpose(4, 2, 0, 3, 1)[::-1, :, ::2]
    np.testing.assert_array_equal(op(*five).numpy(), within)


@pytest.mark.parametrize("name", ["sum", "max", "mean"])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, (0, 1), (1, 2), (0, 2), ()])
@either_dtype
def test_reductions(name, axis, dtype):
    x = RNG(0).normal(size=(7, 67, 131)).astype(dtype)
    for layout in (lambda t: t, lambda t: t.transpose(2, 0, 1), lambda t: t[:, ::-1]):
        assert_near(getattr(tr, name)(layout(leaf(x)), axis), getattr(tr, name)(layout(tr.tensor(x)), axis), ulps=256)


def test_long_sums_keep_their_digits_and_their_bits():
    x = RNG(0).uniform(0, 1, 300_000).astype("float32")
    for shape in ((300_000,), (100_000, 3), (2, 150_000)):
        axis = 1 if shape[0] == 2 else 0
        t = tr.tensor(x.reshape(shape), device="cuda")
        total = tr.sum(t, axis).numpy()
        np.testing.assert_allclose(total, x.reshape(shape).sum(axis, dtype=np.float64), rtol=2e-7)
        np.testing.assert_array_equal(tr.sum(t, axis).numpy(), total)
    t = tr.tensor(x.reshape(2, -1), device="cuda")
    np.testing.assert_array_equal(tr.sum(t, 1).numpy()[:1], tr.sum(t[:1], 1).numpy())  # whatever rows are beside it


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_maxima_of_what_is_not_finite(value):
    x = np.arange(600.0).reshape(2, 300)
    x[1, 17] = value
    np.testing.assert_array_equal(tr.max(tr.tensor(x, device="cuda"), 1).numpy(), x.max(1))
    alone = tr.tensor(np.full((3, 2), value), device="cuda")
    np.testing.assert_array_equal(tr.max(alone, 0).numpy(), [value, value])


@given(hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=6, min_side=0, max_side=3), st.integers(0, 99))
def test_broadcasting(shapes, seed):
    arrays = [RNG(seed).normal(size=s) for s in shapes.input_shapes]
    results = []
    for device in ("cpu", "cuda"):
        c, a, b = (leaf(x, device) for x in arrays)
        y = tr.where(c, a, b) + tr.fma(a, b, c)
        y.backward(seed_like(y))
        results.append([y, c.grad, a.grad, b.grad])
    for expected, found in zip(*results, strict=True):
        assert_near(found, expected)


@st.composite
def indexed(draw):
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4))
    kinds = [hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True), hnp.arrays(bool, shape)]
    if all(shape):
        kinds.append(
            hnp.integer_array_indices(shape, result_shape=hnp.array_shapes(min_dims=0, max_dims=2, min_side=0))
        )
    return shape, draw(st.one_of(kinds))


@given(indexed(), st.integers(0, 99))
def test_indexing(shape_and_index, seed):
    shape, index = shape_and_index
    x = RNG(seed).normal(size=shape)
    t = leaf(x)
    y = t[index]
    np.testing.assert_array_equal(y.numpy(), x[index])
    g, expected = RNG(1).normal(size=y.shape), np.zeros(shape)
    np.add.at(expected, index, g)
    y.backward(g, retain_graph=True)
    assert_near(t.grad, expected)
    assert_near(tr.grad(y, t, g, create_graph=True), expected)


@pytest.mark.parametrize("index", [5, [0, 9], (slice(None), 4), np.ones(4, bool), (0, 0, 0)])
def test_an_index_that_does_not_fit_raises_what_it_raises_on_the_cpu(index):
    errors = []
    for device in ("cpu", "cuda"):
        with pytest.raises(IndexError) as error:
            tr.tensor(np.zeros((3, 4)), device=device)[index]
        errors.append(str(error.value))
    assert "does not fit a tensor of shape (3, 4)" in errors[1]


def test_a_row_named_often_gets_its_shares_in_order():
    ids = RNG(0).integers(0, 5, 4000)
    g = RNG(1).normal(size=(4000, 3)).astype("float32")
    found = []
    for device in ("cpu", "cuda", "cuda"):
        table = leaf(np.zeros((5, 3), "float32"), device)
        tr.take(table, ids).backward(g)
        found.append(table.grad.numpy())
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[1])


# -- tensors -----------------------------------------------------------------------------------------------------------


def test_what_a_tensor_of_the_device_says():
    t = tr.tensor([[1, 2], [3, 4]], device="cuda", dtype="float64")
    assert (t.device, t.shape, t.dtype, t.ndim, t.size, len(t)) == ("cuda", (2, 2), np.float64, 2, 4, 2)
    assert cuda.is_array(t.data)
    assert isinstance(t.numpy(), np.ndarray)
    t.numpy()[0, 0] = 9  # a copy
    assert t[0, 0].item() == float(t[0, 0]) == 1.0
    assert bool(t[0, 0])
    assert repr(t) == "tensor([[1., 2.],\n        [3., 4.]], dtype=float64, device='cuda')"
    assert tr.tensor(t).device == tr.tensor(t.data).device == t.detach().device == "cuda"
    assert tr.tensor(t.data, dtype="float32").dtype == np.float32
    assert tr.tensor(t, device="cpu").device == "cpu"
    with pytest.raises(TypeError, match=r"is on cuda, and NumPy can not read it there; \.numpy\(\) copies it"):
        np.asarray(t)


def test_moving_is_an_op_whose_gradient_comes_back():
    x = leaf(np.arange(3.0), "cpu")
    y = x.to("cuda")
    z = (y * y).to("cpu") * x
    assert (y.device, z.device, y.to("cuda") is y) == ("cuda", "cpu", True)
    g = tr.grad(z.sum(), x, create_graph=True)
    assert g.device == "cpu"
    np.testing.assert_array_equal(g.numpy(), 3 * np.arange(3.0) ** 2)
    np.testing.assert_array_equal(tr.grad(g.sum(), x).numpy(), 6 * np.arange(3.0))


def test_plain_operands_go_to_the_device():
    x, a = tr.tensor([[1.0, 2.0]], device="cuda"), np.array([[3.0], [4.0]])
    for y in (
        x + 1,
        1 - x,
        x * a,
        a / x,
        x**2,
        2.0**x,
        x @ a,
        tr.where(a > 3, x, 0.0),
        tr.concat([a.T, x]),
        x * x.data,
    ):
        assert y.device == "cuda"
        assert y.dtype == np.float32
    np.testing.assert_array_equal((a * x).numpy(), [[3, 6], [4, 8]])
    zero = tr.tensor([1.0], device="cuda")
    assert [np.signbit((zero * s).item()) for s in (0.0, -0.0)] == [False, True]


@pytest.mark.parametrize("call", [lambda a, b: a + b, lambda a, b: a @ b.T, lambda a, b: tr.concat([b, a])])
def test_tensors_of_two_devices_do_not_mix(call):
    here, there = tr.tensor([[1.0]]), tr.tensor([[2.0]], device="cuda")
    for a, b in ((here, there), (there, here)):
        with pytest.raises(
            TypeError, match=r"(add|matmul|concat) needs inputs on one device, got .* on c.* and .*on c"
        ):
            call(a, b)


def test_a_constant_without_axes_meets_both_devices():
    x = leaf([1.0, 2.0])
    y = tr.tensor(2.0) * x * x
    np.testing.assert_array_equal(tr.grad(y.sum(), x).numpy(), [4.0, 8.0])
    with pytest.raises(TypeError, match="mul needs inputs on one device"):
        tr.tensor(2.0, requires_grad=True) * x


def test_gradients_and_values_stay_on_their_device():
    x = leaf([1.0, 2.0])
    with pytest.raises(
        TypeError, match=r"the gradient of a tensor of shape .* must be on cuda like it, got one on cpu"
    ):
        (x * x).backward(tr.tensor([1.0, 1.0]))
    with pytest.raises(ValueError, match="grad must be on cuda like its tensor, got one on cpu"):
        x.grad = tr.tensor([1.0, 1.0])
    x.data = np.array([3.0, 4.0])  # NumPy's is brought there
    assert x.device == "cuda"
    x.data = x.data.copy()
    np.testing.assert_array_equal(x.numpy(), [3, 4])
    with pytest.raises(TypeError, match="on cpu must be NumPy's, got an array on cuda"):
        tr.tensor([1.0, 2.0]).data = x.data


def test_a_value_replaced_after_it_was_saved_is_noticed():
    x = leaf([1.0, 2.0])
    y = (x * x).sum()
    x.data = np.zeros(2)
    with pytest.raises(RuntimeError, match="was changed in place after mul saved it"):
        y.backward()


def test_what_backward_gives_is_nobody_elses():
    x = leaf(np.ones((2, 3)))
    seed = tr.tensor(np.ones((3, 2)), device="cuda")
    x.T.backward(seed)
    before = x.grad
    x.T.backward(seed)
    before.data[...] = 7.0
    np.testing.assert_array_equal(seed.numpy(), np.ones((3, 2)))
    np.testing.assert_array_equal(x.grad.numpy(), np.full((2, 3), 2.0))


def test_copies_and_pickles():
    x = leaf([1.0, 2.0])
    x.name = "x"
    twin, back = copy.deepcopy(x), pickle.loads(pickle.dumps(x))
    assert (twin.device, twin.name, twin.requires_grad) == ("cuda", "x", True)
    assert (back.device, back.name, back.requires_grad) == ("cpu", "x", True)
    twin.data[...] = 5.0
    np.testing.assert_array_equal(x.numpy(), back.numpy())


# -- exchange ----------------------------------------------------------------------------------------------------------


def test_dlpack_shares_memory_both_ways():
    cupy = cuda.cupy()
    theirs = cupy.zeros((2, 3), np.float32)
    t = tr.from_dlpack(theirs)
    assert t.device == "cuda"
    theirs[...] = 2.0
    np.testing.assert_array_equal(t.numpy(), np.full((2, 3), 2.0))
    back = cupy.from_dlpack(t)
    back[...] = 3.0
    np.testing.assert_array_equal(t.numpy(), np.full((2, 3), 3.0))
    assert tr.from_dlpack(t).device == "cuda"
    assert t.__dlpack_device__()[0] == 2


def test_dlpack_of_the_cpu():
    a = np.zeros(3)
    t = tr.from_dlpack(a)
    a[1] = 4.0
    assert (t.device, t[1].item()) == ("cpu", 4.0)
    torch = pytest.importorskip("torch")
    theirs = torch.zeros(3)
    t = tr.from_dlpack(theirs)
    theirs[2] = 5.0
    assert t[2].item() == 5.0
    if torch.cuda.is_available() and not HOST:
        theirs = torch.zeros(3, device="cuda")
        t = tr.from_dlpack(theirs)
        t.data[...] = 6.0
        torch.cuda.synchronize()
        assert theirs.tolist() == [6.0] * 3
        assert torch.from_dlpack(t).is_cuda


# -- modules and training ----------------------------------------------------------------------------------------------


def test_moving_a_module():
    model = tr.nn.Transducer(tr.nn.RNN(tr.cells.LSTM(4, 5, rng=0)), 3, embedding=tr.nn.Embedding(7, 4, rng=1))
    model.table = [tr.tensor([1.0])]
    before = model.state_dict()
    model.embedding.W.grad = wrap(np.ones((7, 4), "float32"))
    assert model.to("cuda") is model
    assert model.device == model.embedding.W.grad.device == model.table[0].device == "cuda"
    assert {p.device for p in model.parameters()} == {"cuda"}
    after = model.state_dict()
    for name in before:
        np.testing.assert_array_equal(after[name], before[name])
    model.load_state_dict({name: a + 1 for name, a in before.items()})
    assert model.device == "cuda"
    model.to("cpu")
    assert model.device == model.embedding.W.grad.device == "cpu"
    np.testing.assert_array_equal(model.embedding.W.numpy(), before["embedding.W"] + 1)


def test_a_saved_module_comes_back(tmp_path):
    model = tr.nn.Linear(3, 2, rng=0).to("cuda")
    tr.save(tmp_path / "model.safetensors", model)
    again = tr.load(tmp_path / "model.safetensors")
    assert again.device == "cpu"
    np.testing.assert_array_equal(again.W.numpy(), model.W.numpy())


OPTIMISERS = {
    "sgd": lambda p: tr.optim.SGD(p, 0.1, weight_decay=0.01),
    "momentum": lambda p: tr.optim.SGD(p, 0.1, momentum=0.9),
    "nesterov": lambda p: tr.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: tr.optim.RMSprop(p, weight_decay=0.1),
    "rmsprop-momentum": lambda p: tr.optim.RMSprop(p, momentum=0.5),
    "adam": lambda p: tr.optim.Adam(p, weight_decay=0.1),
    "adamw": lambda p: tr.optim.AdamW(p, weight_decay=0.1),
}


def parameters(device, dtype):
    """Three parameters, of which the second has no gradient and the third one that is not contiguous."""
    rng = RNG(3)
    found = [leaf(rng.normal(size=s).astype(dtype), device) for s in ((4, 3), (5,), (3, 300))]
    found[0].grad = tr.tensor(rng.normal(size=(4, 3)).astype(dtype), device=device)
    found[2].grad = tr.tensor(rng.normal(size=(300, 3)).astype(dtype), device=device).T.detach()
    return found


@pytest.mark.parametrize("name", OPTIMISERS)
@either_dtype
def test_optimisers_equal_the_cpu(name, dtype):
    ours, theirs = parameters("cuda", dtype), parameters("cpu", dtype)
    here, there = OPTIMISERS[name](theirs), OPTIMISERS[name](ours)
    for _ in range(3):
        here.step()
        there.step()
    for expected, found in zip(theirs, ours, strict=True):
        assert_near(found, expected, ulps=4)
    assert there.state_dict().keys() == here.state_dict().keys()
    for key, expected in here.state_dict().items():
        assert isinstance(there.state_dict()[key], np.ndarray | float)
        np.testing.assert_allclose(there.state_dict()[key], expected, rtol=1e-5, atol=1e-6)


def test_an_optimiser_follows_its_parameters():
    layer = tr.nn.Linear(3, 2, rng=0)
    adam = tr.optim.Adam(layer.parameters())
    x = RNG(0).normal(size=(4, 3)).astype("float32")

    def step():
        adam.zero_grad()
        layer(x).sum().backward()
        adam.step()

    step()
    saved, values = adam.state_dict(), layer.state_dict()
    step()
    expected = layer.state_dict()
    layer.load_state_dict(values)
    layer.to("cuda")
    adam.load_state_dict(saved)
    step()
    for name, value in layer.state_dict().items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-6)
    layer.W.data = layer.W.data  # of one dtype, on two devices
    layer.b._move("cpu")
    with pytest.raises(ValueError, match="params must be on one device, got some of float32 on cpu and cuda"):
        adam.step()


@either_dtype
def test_clipping_equals_the_cpu(dtype):
    for limit in (0.5, 1e6):
        ours, theirs = parameters("cuda", dtype), parameters("cpu", dtype)
        np.testing.assert_allclose(tr.clip_grad_norm(ours, limit), tr.clip_grad_norm(theirs, limit), rtol=1e-14)
        for a, b in zip(ours, theirs, strict=True):
            if b.grad is not None:
                assert a.grad.device == "cuda"
                assert_near(a.grad, b.grad, ulps=2)
    tr.clip_grad_value(ours, 0.3)
    assert max(float(np.abs(p.grad.numpy()).max()) for p in ours if p.grad is not None) == np.dtype(dtype).type(0.3)
    ours[0].grad.data[0, 0] = np.nan
    tr.clip_grad_value(ours, 0.1)
    assert np.isnan(ours[0].grad.numpy()).sum() == 1
    with pytest.raises(RuntimeError, match="not finite: parameter 0"):
        tr.clip_grad_norm(ours, 1.0, error_if_nonfinite=True)


def test_norms_beyond_the_range_of_float64():
    x = leaf(np.ones(2))
    x.grad = tr.tensor(np.array([3e200, 4e200]), device="cuda")
    np.testing.assert_allclose(tr.clip_grad_norm([x], np.inf), 5e200)


# -- cells over time ---------------------------------------------------------------------------------------------------


def run(cell, xs, device, lengths, reverse):
    cell.to(device)
    x = leaf(xs, device)
    ys, finals = tr.unroll(cell, x, lengths=lengths, reverse=reverse)
    total = (ys * seed_like(ys)).sum()
    for s in finals:
        total = total + (s * s).sum()
    total.backward()
    found = [ys, *finals, x.grad, *(p.grad for p in cell.parameters())]
    cell.zero_grad()
    return found


@pytest.mark.parametrize("name", CELLS)
def test_unroll_equals_the_cpu(name):
    cell = make(name)
    xs = sequence(shape=(T, B, cell.input_size))
    runs = [(LENGTHS, False)] if name not in ("LSTM", "GRU") else [(None, False), (LENGTHS, False), (LENGTHS, True)]
    for lengths, reverse in runs:
        here, there = (run(cell, xs, device, lengths, reverse) for device in ("cpu", "cuda"))
        for expected, found in zip(here, there, strict=True):
            assert (expected is None) == (found is None)
            if expected is not None:
                assert found.device == "cuda"
                assert_near(found, expected, ulps=256)


@pytest.mark.parametrize("kind", [tr.cells.RecurrentDropout, tr.cells.Zoneout])
def test_the_same_seed_gives_the_same_masks(kind):
    xs, results = sequence(), []
    for device in ("cpu", "cuda"):
        cell = kind(tr.cells.LSTM(xs.shape[2], 5, dtype="float64", rng=0), 0.4, rng=1).to(device)
        results.append(tr.unroll(cell, xs)[0])
    assert_near(results[1], results[0], ulps=64)
    dropped = [tr.dropout(tr.tensor(xs, device=device), 0.4, RNG(2)) for device in ("cpu", "cuda")]
    np.testing.assert_array_equal(dropped[1].numpy(), dropped[0].numpy())


def test_learned_states_and_no_steps():
    cell = tr.cells.LearnedState(tr.cells.GRU(3, 4, rng=0), init=0.5).to("cuda")
    ys, (h,) = tr.unroll(cell, np.zeros((0, 2, 3), "float32"))
    assert (ys.device, ys.shape, h.device) == ("cuda", (0, 2, 4), "cuda")
    assert tr.unroll(cell, np.zeros((2, 2, 3), "float32"), lengths=[0, 0])[0].device == "cuda"


def test_arrays_are_moved_and_tensors_of_another_device_refused():
    cell = tr.cells.LSTM(3, 4, rng=0).to("cuda")
    x, h = np.zeros((2, 5, 3), "float32"), np.zeros((5, 4), "float32")
    assert tr.unroll(cell, x, (h, h))[0].device == "cuda"
    assert cell(x[0], h, h)[0].device == "cuda"
    told = r"must be on cuda like the LSTM, got a tensor on cpu; \.to\('cuda'\) moves it"
    with pytest.raises(TypeError, match=f"^xs {told}"):
        tr.unroll(cell, tr.tensor(x))
    with pytest.raises(TypeError, match=f"^state, 'h', {told}"):
        tr.unroll(cell, x, (tr.tensor(h), tr.tensor(h)))
    with pytest.raises(TypeError, match=f"^x {told}"):
        cell(tr.tensor(x[0]), h, h)
    with pytest.raises(TypeError, match=r"^x must be on cuda like the Linear\(3, 2\), got a tensor on cpu"):
        tr.nn.Linear(3, 2, rng=0).to("cuda")(tr.tensor(x))
    x[1, 2, 0] = np.nan
    with pytest.raises(ValueError, match=r"xs must be finite .*got nan at time 1, row 2, feature 0"):
        tr.unroll(cell, x, check_finite=True)


def test_layers_and_losses():
    ids, targets = RNG(0).integers(0, 7, (5, 3)), RNG(1).integers(0, 4, 15)
    results = []
    for device in ("cpu", "cuda"):
        table, layer = tr.nn.Embedding(7, 6, padding_idx=2, rng=0).to(device), tr.nn.Linear(6, 4, rng=1).to(device)
        logits = layer(table(ids)).reshape(15, 4)
        loss = tr.cross_entropy(logits, targets) + tr.mse_loss(logits, np.ones((15, 4)))
        loss = loss + tr.binary_cross_entropy_with_logits(logits, np.full((15, 4), 0.3))
        loss.backward()
        results.append([loss, table.W.grad, layer.W.grad, layer.b.grad])
    for expected, found in zip(*results, strict=True):
        assert_near(found, expected, ulps=32)
    with pytest.raises(ValueError, match=r"targets must lie in \[0, 1\], got 2"):
        tr.binary_cross_entropy_with_logits(logits, tr.tensor(np.full((15, 4), 2.0, "float32"), device="cuda"))


def test_gradcheck_and_curvature():
    x = leaf(RNG(0).normal(size=(3, 2)))
    assert tr.gradcheck(lambda x: tr.tanh(x @ x.T).sum(0), x, order=2)
    v = np.ones((3, 2))
    assert_near(tr.hvp(lambda: tr.exp(x).sum(), x, v), np.exp(x.numpy()))
    assert_near(tr.hvp(lambda: tr.exp(x).sum(), [x], v.ravel()), np.exp(x.numpy()).ravel())
    y, tangent = tr.jvp(tr.exp, x, v)
    assert_near(tangent, y)
