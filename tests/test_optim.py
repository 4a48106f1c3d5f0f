"""Optimisers and clipping, against PyTorch and against the formulas in NumPy."""

import math
import warnings

import numpy as np
import pytest
from tinyrnn._core import kernels

import tinyrnn as tr

SHAPES = [(3, 4), (5,), (1,), (2, 0), (33, 7)]

# One row: our class, PyTorch's, the arguments (the same names in both).
METHODS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("RMSprop", {"lr": 0.01}),
    ("RMSprop", {"lr": 0.01, "alpha": 0.9, "momentum": 0.8, "weight_decay": 0.02}),
    ("Adam", {"lr": 0.01}),
    ("Adam", {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}),
    ("AdamW", {"lr": 0.01}),
    ("AdamW", {"lr": 0.02, "betas": (0.0, 0.9), "weight_decay": 0.3}),
]
IDS = [f"{name}-{'-'.join(k for k in options if k != 'lr') or 'plain'}" for name, options in METHODS]


def start(dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    return [tr.Parameter(rng.normal(size=shape), dtype=dtype) for shape in SHAPES]


def gradients(step, dtype="float64"):
    rng = np.random.default_rng(100 + step)
    return [rng.normal(size=shape).astype(dtype) for shape in SHAPES]


def advance(optimiser, params, steps, dtype="float64"):
    for step in steps:
        for k, (p, g) in enumerate(zip(params, gradients(step, dtype), strict=True)):
            p.grad = None if k == 1 and step % 3 == 2 else tr.tensor(g)
        optimiser.step()


def numpy_steps(
    name, arrays, steps, lr, momentum=0.0, nesterov=False, weight_decay=None, alpha=0.99, betas=(0.9, 0.999), eps=1e-8
):
    """The textbook formulas, one parameter at a time, out of place."""
    decay = (0.01 if name == "AdamW" else 0.0) if weight_decay is None else weight_decay
    b1, b2 = betas
    for k in range(len(arrays)):
        p = arrays[k]
        m, v, taken = np.zeros_like(p), np.zeros_like(p), 0
        for step in steps:
            if k == 1 and step % 3 == 2:
                continue
            taken += 1
            g = gradients(step)[k]
            if name == "AdamW":
                p = p - lr * decay * p
            else:
                g = g + decay * p
            if name == "SGD":
                m = momentum * m + g
                p = p - lr * (g + momentum * m if nesterov else m)
            elif name == "RMSprop":
                v = alpha * v + (1 - alpha) * g**2
                m = momentum * m + g / (np.sqrt(v) + eps)
                p = p - lr * m
            else:
                m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
                p = p - lr * (m / (1 - b1**taken)) / (np.sqrt(v / (1 - b2**taken)) + eps)
        arrays[k] = p
    return arrays


@pytest.mark.parametrize(("name", "options"), METHODS, ids=IDS)
@pytest.mark.parametrize(("dtype", "atol"), [("float64", 1e-13), ("float32", 2e-5)])
def test_steps_equal_the_formulas(name, options, dtype, atol):
    params = start(dtype)
    expected = numpy_steps(name, [p.data.astype(np.float64) for p in params], range(20), **options)
    advance(getattr(tr.optim, name)(params, **options), params, range(20), dtype)
    for p, e in zip(params, expected, strict=True):
        np.testing.assert_allclose(p.data, e, rtol=0, atol=atol)


@pytest.mark.oracle
@pytest.mark.parametrize(("name", "options"), METHODS, ids=IDS)
def test_steps_equal_pytorch(name, options, torch):
    params = start()
    theirs = [torch.nn.Parameter(torch.from_numpy(p.data.copy())) for p in params]
    method = getattr(torch.optim, name)(theirs, **options)
    for step in range(20):
        for k, (p, g) in enumerate(zip(theirs, gradients(step), strict=True)):
            p.grad = None if k == 1 and step % 3 == 2 else torch.from_numpy(g)
        method.step()
    advance(getattr(tr.optim, name)(params, **options), params, range(20))
    for p, q in zip(params, theirs, strict=True):
        np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), METHODS, ids=IDS)
def test_a_resumed_run_has_the_same_bits(name, options):
    params = start("float32")
    optimiser = getattr(tr.optim, name)(params, **options)
    advance(optimiser, params, range(5), "float32")
    optimiser.lr *= 0.5
    kept, state = [p.data.copy() for p in params], optimiser.state_dict()
    advance(optimiser, params, range(5, 9), "float32")

    again = [tr.Parameter(k) for k in kept]
    resumed = getattr(tr.optim, name)(again, **options)
    resumed.load_state_dict(state)
    assert resumed.lr == optimiser.lr
    advance(resumed, again, range(5, 9), "float32")
    for p, q in zip(params, again, strict=True):
        np.testing.assert_array_equal(p.data, q.data)


def test_dtypes_may_be_mixed():
    mixed = [tr.Parameter(np.ones(3)), tr.Parameter(np.ones(2, np.float32)), tr.Parameter(np.ones(4))]
    optimiser = tr.optim.Adam(mixed, lr=0.1)
    for p in mixed:
        p.grad = tr.tensor(np.full(p.shape, 2.0), dtype=p.dtype)
    optimiser.step()
    for p in mixed:
        np.testing.assert_allclose(p.data, 0.9, rtol=1e-6)
    state = optimiser.state_dict()
    assert state["m.float64"].shape == (7,)
    assert state["m.float32"].shape == (2,)
    assert state["steps.float64"].tolist() == [1, 1]


def test_gradients_of_any_layout_and_frozen_parameters():
    p, frozen = tr.Parameter(np.zeros((2, 3))), tr.Parameter(np.ones(2))
    frozen.requires_grad = False
    optimiser = tr.optim.SGD([p, frozen], lr=1.0)
    g = np.arange(6.0).reshape(3, 2)
    (p * tr.tensor(g).T).sum().backward()
    optimiser.step()
    np.testing.assert_array_equal(p.data, -g.T)
    np.testing.assert_array_equal(frozen.data, 1)
    optimiser.zero_grad()
    assert p.grad is None
    optimiser.step()
    np.testing.assert_array_equal(p.data, -g.T)


def test_a_step_invalidates_graphs_that_saved_the_parameters():
    p = tr.Parameter([3.0])
    loss = (p * p).sum()
    p.grad = tr.tensor([1.0])
    tr.optim.SGD([p], lr=0.1).step()
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


def test_state_that_does_not_fit_is_listed_and_changes_nothing():
    params = start()
    optimiser = tr.optim.Adam(params)
    advance(optimiser, params, range(3))
    before = optimiser.state_dict()
    wrong = dict(before)
    del wrong["v.float64"]
    wrong["m.float64"] = wrong["m.float64"][:-1]
    wrong["sizes.float64"] = wrong["sizes.float64"][::-1].copy()
    wrong["other"] = np.zeros(1)
    with pytest.raises(ValueError, match="nothing was loaded") as error:
        optimiser.load_state_dict(wrong)
    for part in ("missing: v.float64", "unexpected: other", "m.float64: got (", "sizes.float64: the parameters differ"):
        assert part in str(error.value)
    with pytest.raises(ValueError, match=r"missing: m\.float64"):
        optimiser.load_state_dict(tr.optim.SGD(params, lr=0.1).state_dict())
    with pytest.raises(ValueError, match="lr must be"):
        optimiser.load_state_dict({**before, "lr": -1.0})
    with pytest.raises(TypeError, match="state must be a dict"):
        optimiser.load_state_dict(None)
    for name, value in optimiser.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: tr.optim.SGD([], lr=0.1), ValueError, "at least one parameter"),
        (lambda p: tr.optim.SGD(p, lr=0.1), TypeError, "params must be Tensors"),
        (lambda p: tr.optim.SGD(tr.nn.Linear(2, 2), lr=0.1), TypeError, r"model\.parameters\(\)"),
        (lambda p: tr.optim.SGD([p, p], lr=0.1), ValueError, "one of them twice"),
        (lambda p: tr.optim.SGD([p * 2.0], lr=0.1), ValueError, r"params\[0\] must be a leaf"),
        (lambda p: tr.optim.SGD([tr.tensor([1.0])], lr=0.1), ValueError, "requires a gradient"),
        (lambda p: tr.optim.SGD([p], lr=-0.1), ValueError, "lr must be >= 0 and finite, got -0.1"),
        (lambda p: tr.optim.SGD([p], lr=math.nan), ValueError, "lr must be"),
        (lambda p: tr.optim.SGD([p], lr="fast"), TypeError, "lr must be a number, got 'fast'"),
        (lambda p: tr.optim.SGD([p], lr=0.1, momentum=1.0), ValueError, "momentum must be >= 0 and < 1, got 1"),
        (lambda p: tr.optim.SGD([p], lr=0.1, nesterov=True), ValueError, "nesterov needs momentum > 0"),
        (lambda p: tr.optim.Adam([p], betas=(0.9, 1.0)), ValueError, r"betas\[1\] must be"),
        (lambda p: tr.optim.Adam([p], betas=0.9), TypeError, "betas must be two numbers"),
        (lambda p: tr.optim.RMSprop([p], eps=-1), ValueError, "eps must be"),
    ],
)
def test_wrong_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make(tr.Parameter([1.0]))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"gradients": [np.zeros((2, 2)), np.zeros((2, 3))]}, ValueError, r"gradient of parameter 1 must be \(3, 2\)"),
        ({"gradients": [np.zeros((2, 2)), np.zeros((3, 2), np.float32)]}, ValueError, "got .* float32"),
        ({"gradients": [None]}, ValueError, "a gradient or None for each parameter, got 1 for 2"),
        ({"parameters": [np.zeros((2, 2)), np.zeros((2, 3)).T]}, ValueError, "parameter 1 must be a contiguous"),
        ({"parameters": [np.zeros((2, 2)), np.zeros((3, 2), np.float32)]}, ValueError, "parameter 1 must be"),
        ({"parameters": [np.zeros(2, int), np.zeros(2)]}, TypeError, "must be float32 or float64"),
        ({"parameters": [], "gradients": [], "steps": np.zeros(0, np.int64)}, ValueError, "got 0 for 0"),
        ({"means": np.zeros(9)}, ValueError, "state must be .* of 10 elements"),
        ({"squares": np.zeros(10, np.float32)}, ValueError, "state must be"),
        ({"steps": np.zeros(2)}, ValueError, "steps must be int64"),
    ],
)
def test_the_compiled_update_checks_its_arrays_and_happens_whole_or_not_at_all(change, error, message):
    arguments = {
        "parameters": [np.zeros((2, 2)), np.zeros((3, 2))],
        "gradients": [np.ones((2, 2)), np.ones((3, 2))],
        "means": np.zeros(10),
        "squares": np.zeros(10),
        "steps": np.zeros(2, np.int64),
    } | change
    with pytest.raises(error, match=message):
        kernels.adam(*arguments.values(), 0.1, 0.9, 0.999, 1e-8, 0.0, False)
    assert not any(a.any() for a in (*arguments["parameters"], arguments["means"], arguments["steps"]))


def test_adam_finds_a_minimum():
    target = np.array([1.0, -2.0, 0.5])
    p = tr.Parameter(np.zeros(3))
    optimiser = tr.optim.Adam([p], lr=0.1)
    for _ in range(300):
        optimiser.zero_grad()
        tr.mse_loss(p, target).backward()
        optimiser.step()
    np.testing.assert_allclose(p.data, target, atol=1e-3)


# -- clipping ----------------------------------------------------------------------------------------------------------


def with_gradients(*arrays, names=None):
    params = []
    for k, g in enumerate(arrays):
        p = tr.Parameter(np.zeros(np.shape(g)), dtype=np.asarray(g).dtype)
        p.name = names[k] if names else None
        p.grad = tr.tensor(g)
        params.append(p)
    return params


def test_clip_grad_norm_scales_all_by_one_factor():
    params = [*with_gradients(np.array([3.0, 0.0]), np.array([[4.0]], np.float32)), tr.Parameter([1.0])]
    assert tr.clip_grad_norm(params, 1.0) == 5.0
    np.testing.assert_allclose(params[0].grad.data, [0.6, 0.0], rtol=1e-15)
    np.testing.assert_allclose(params[1].grad.data, [[0.8]], rtol=1e-7)
    assert params[1].grad.dtype == np.float32
    assert params[2].grad is None
    assert tr.clip_grad_norm(params, 2.0) == pytest.approx(1.0)
    np.testing.assert_allclose(params[0].grad.data, [0.6, 0.0], rtol=1e-15)
    assert isinstance(tr.clip_grad_norm(params, math.inf), float)


def test_clip_takes_generators_one_tensor_and_nothing():
    params = with_gradients(np.array([3.0, 4.0]))
    assert tr.clip_grad_norm((p for p in params), 1.0) == 5.0
    assert tr.clip_grad_norm(params[0], 10.0) == pytest.approx(1.0)
    assert tr.clip_grad_norm([], 1.0) == 0.0
    assert tr.clip_grad_norm([tr.Parameter([1.0])], 1.0) == 0.0


@pytest.mark.parametrize("scale", [1e200, 1e-200, 1e300])
def test_the_norm_neither_overflows_nor_vanishes(scale):
    params = with_gradients(np.array([3.0, 0.0]) * scale, np.array([4.0]) * scale)
    assert tr.clip_grad_norm(params, scale) == pytest.approx(5 * scale, rel=1e-14)
    np.testing.assert_allclose(params[0].grad.data, [0.6 * scale, 0.0], rtol=1e-14)
    single = with_gradients(np.full(1000, 1e30, np.float32))
    assert tr.clip_grad_norm(single, 1.0) == pytest.approx(1e30 * 1000**0.5, rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_norm_that_is_not_finite_is_reported_and_changes_nothing(bad):
    params = with_gradients(np.array([3.0, bad]), np.array([4.0]), names=["W_h", "b"])
    norm = tr.clip_grad_norm(params, 1.0)
    assert not math.isfinite(norm)
    np.testing.assert_array_equal(params[0].grad.data, [3.0, bad])
    np.testing.assert_array_equal(params[1].grad.data, [4.0])
    with pytest.raises(RuntimeError, match=r"norm of the gradients is (nan|inf); not finite: W_h$"):
        tr.clip_grad_norm(params, 1.0, error_if_nonfinite=True)


def test_a_gradient_that_is_read_only_is_replaced():
    params = with_gradients(np.ones(4))
    shared = params[0].grad
    params[0].grad = tr.broadcast_to(tr.tensor(np.ones(1), requires_grad=True), (4,))
    assert tr.clip_grad_norm(params, 1.0) == 2.0
    np.testing.assert_allclose(params[0].grad.data, 0.5)
    np.testing.assert_array_equal(shared.data, 1.0)


def test_clip_grad_value_limits_every_element():
    params = with_gradients(np.array([-3.0, 0.5, np.nan, np.inf]), np.array([4.0], np.float32))
    tr.clip_grad_value(params, 1.0)
    np.testing.assert_array_equal(params[0].grad.data, [-1.0, 0.5, np.nan, 1.0])
    np.testing.assert_array_equal(params[1].grad.data, [1.0])


@pytest.mark.parametrize("clip", [tr.clip_grad_norm, tr.clip_grad_value])
def test_clipping_names_wrong_arguments(clip):
    for wrong, error in ((0.0, ValueError), (-1.0, ValueError), (math.nan, ValueError), ("1", TypeError)):
        with pytest.raises(error, match="must be"):
            clip([], wrong)
    with pytest.raises(TypeError, match="params must be Tensors"):
        clip([1.0], 1.0)
    with pytest.raises(TypeError, match="params must be Tensors"):
        clip(5, 1.0)


@pytest.fixture(scope="module")
def torch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torch", reason="compares with PyTorch: pip install 'tinyrnn[oracle]'")
