"""tr.gradcheck must catch every wrong gradient and pass every right one: here are both, with the answers known."""

import itertools
import re

import numpy as np
import pytest
from tinyrnn._core.tape import Op

import tinyrnn as tr

RNG = np.random.default_rng(0)
X = RNG.uniform(0.5, 2.0, (3, 4))
W = RNG.normal(size=(4, 2))


def op_with(vjp, forward=np.tanh):
    return Op("faulty", 1, (vjp,), forward=forward, shape=lambda x: x)


class Affine(tr.Module):
    """x @ W + b, with a factor on b's gradient that should be 1."""

    def __init__(self, factor=1.0, dtype="float64"):
        super().__init__()
        rng = np.random.default_rng(1)
        self.W = tr.Parameter(rng.normal(size=(4, 2)), dtype=dtype)
        self.b = tr.Parameter(rng.normal(size=2), dtype=dtype)
        self.scale = op_with(lambda g, y, x: factor * g, forward=lambda x: x + 0.0)

    def forward(self, x):
        return tr.tanh(x @ self.W + self.scale(self.b))


# -- right gradients pass ----------------------------------------------------------------------------------------------

RIGHT = {
    "one": (lambda x: tr.tanh(x), X),
    "two": (lambda x, w: x @ w, (X, W)),
    "tuple": (lambda x, w: (tr.exp(x), tr.sum(w)), (X, W)),
    "nested": (lambda x, w: (x, (x * x, [w * w])), (X, W)),
    "unused": (lambda x, w: tr.log(x), (X, W)),
    "constant": (lambda x: tr.tensor(3.0, dtype="float64"), X),
    "itself": (lambda x: x, X),
    "scalar": (lambda x: x**3, 0.7),
    "empty": (lambda x: x * 2.0, np.zeros((0, 3))),
    "empty-sum": (lambda x: tr.sum(x), np.zeros((0, 3))),
    "no-results": (lambda x: x[:0], X),
    "integers": (lambda x, rows: tr.take(x, rows), (X, np.array([2, 0, 2]))),
    "booleans": (lambda x, mask: x[mask], (X, X > 1.0)),
    "float32-array": (lambda x: tr.square(x), X.astype("float32")),
    "large": (lambda x: 1e6 * tr.sum(tr.tanh(x)), X),
    "far": (lambda x: tr.square(x), 1e5 * X),
}


@pytest.mark.parametrize("directions", [None, 2], ids=["full", "projected"])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", RIGHT)
def test_right_gradients_pass(name, order, directions):
    fn, inputs = RIGHT[name]
    report = tr.gradcheck(fn, inputs, order=order, directions=directions)
    assert report.ok
    assert bool(report)
    count = sum(np.asarray(x).dtype.kind == "f" for x in (inputs if isinstance(inputs, tuple) else (inputs,)))
    assert [row.order for row in report.rows] == [k for k in range(1, order + 1) for _ in range(count)]


def test_the_numbers_are_the_derivatives():
    [row] = tr.gradcheck(lambda x: x**3, 0.5).rows
    assert (row.name, row.shape, row.index, row.output) == ("inputs[0]", (), (), "output")
    assert row.analytic == 0.75
    assert row.numeric == pytest.approx(0.75, rel=1e-9)
    assert row.max_abs_error < 1e-9
    [_, second] = tr.gradcheck(lambda x: x**3, 0.5, order=2).rows
    assert (second.name, second.order, second.output) == ("inputs[0]", 2, "d/d inputs[0]")
    assert 0.5 <= abs(second.analytic) / 3.0 <= 1.5  # 6x by a seed of that size
    assert second.numeric == pytest.approx(second.analytic, rel=1e-9)


def test_nothing_is_left_changed():
    module = Affine()
    x = tr.tensor(X)
    x.grad = tr.tensor(np.ones_like(X))
    module.W.requires_grad = False
    before = X.copy(), module.state_dict()
    for directions in (None, 3):
        report = tr.gradcheck(module, (x,), order=2, directions=directions)
        assert [row.name for row in report.rows] == ["inputs[0]", "b"] * 2  # W is frozen
    np.testing.assert_array_equal(x.data, before[0])
    assert [x.requires_grad, module.W.requires_grad, module.b.requires_grad] == [False, False, True]
    assert module.b.grad is None
    np.testing.assert_array_equal(x.grad.data, np.ones_like(X))
    for name, value in module.state_dict().items():
        np.testing.assert_array_equal(value, before[1][name])


def test_everything_is_put_back_when_fn_raises():
    x, calls = tr.tensor(X), []

    def fn(x):
        calls.append(x)
        if len(calls) == 5:
            raise KeyError("in fn")
        return x * 2.0

    with pytest.raises(KeyError, match="in fn"):
        tr.gradcheck(fn, x)
    np.testing.assert_array_equal(x.data, X)
    assert not x.requires_grad


def test_inputs_may_be_reached_by_closure():
    module, x = Affine(), tr.tensor(X)
    assert tr.gradcheck(lambda *_: module(x), (x, *module.parameters())).rows[0].max_rel_error > 0
    faulty = Affine(factor=1.1)
    report = tr.gradcheck(lambda *_: faulty(x), tuple(faulty.parameters()), raise_exception=False)
    assert [(row.name, row.ok) for row in report.rows] == [("W", True), ("b", False)]


def test_it_works_under_no_grad_and_inside_recorded_functions():
    with tr.no_grad():
        assert tr.gradcheck(lambda x: tr.tanh(x), X).ok
    inner = lambda x: tr.grad(tr.sum(tr.exp(x)), x, create_graph=True)  # noqa: E731
    x = tr.tensor(X, requires_grad=True)
    assert tr.gradcheck(inner, x).ok


# -- wrong gradients do not --------------------------------------------------------------------------------------------


def half_detached(x):
    return x * x.detach()


WRONG = {  # fn, and the value of its gradient that is wrong
    "wrong-vjp": lambda x: op_with(lambda g, y, x: g * (1.0 - y))(x),
    "wrong-sign": lambda x: op_with(lambda g, y, x: -g, forward=lambda x: x + 0.0)(x),
    "slightly": lambda x: op_with(lambda g, y, x: 1.00001 * g, forward=lambda x: x + 0.0)(x),
    "detached": lambda x: tr.tensor(x.data**2),
    "half-detached": half_detached,
    "no-grad": lambda x: tr.no_grad()(tr.tanh)(x),
    "vjp-of-none": lambda x: op_with(None)(x),
    "one-output": lambda x: (x * 2.0, x.detach() * x),
}


@pytest.mark.parametrize("directions", [None, 1], ids=["full", "projected"])
@pytest.mark.parametrize("name", WRONG)
def test_wrong_gradients_are_caught(name, directions):
    with pytest.raises(tr.GradcheckError, match="gradcheck failed") as caught:
        tr.gradcheck(WRONG[name], X, directions=directions)
    report = caught.value.report
    assert not report.ok
    assert not report
    assert str(report) == str(caught.value)
    assert report.worst.name == "inputs[0]"
    assert report.worst.miss > 1
    quiet = tr.gradcheck(WRONG[name], X, directions=directions, raise_exception=False)
    assert quiet == report  # the same every time


@pytest.mark.parametrize("directions", [None, 1, 4])
def test_the_worst_input_and_element_are_named(directions):
    shape = (30, 40)
    slope = np.full(shape, 2.0)
    slope[17, 29] = 2.5
    faulty = op_with(lambda g, y, x: g * slope, forward=lambda x: 2.0 * x)
    weights = RNG.normal(size=shape)
    a, b = tr.tensor(RNG.normal(size=(2, 3))), tr.tensor(RNG.normal(size=shape))
    a.name, b.name = "a", "table"

    def fn(a, b):
        return tr.sum(a), tr.sum(faulty(b) * weights)

    report = tr.gradcheck(fn, (a, b), directions=directions, raise_exception=False)
    assert [(row.name, row.ok) for row in report.rows] == [("a", True), ("table", False)]
    assert (report.worst.name, report.worst.index) == ("table", (17, 29))
    assert report.worst.analytic / report.worst.numeric == pytest.approx(1.25, rel=1e-6)
    if directions is None:
        assert report.worst.output == "output[1]"
        assert report.worst.analytic == pytest.approx(2.5 * weights[17, 29])
    assert "table[17, 29]" in str(report)


def test_a_gradient_that_is_right_but_can_not_be_differentiated_is_caught_at_order_2():
    first_only = op_with(lambda g, y, x: g * (1.0 - tr.square(y.detach())))
    assert tr.gradcheck(first_only, X).ok
    report = tr.gradcheck(first_only, X, order=2, raise_exception=False)
    assert [(row.order, row.ok) for row in report.rows] == [(1, True), (2, False)]
    assert "second derivative of d/d inputs[0]" in str(report)
    wrong_second = op_with(lambda g, y, x: g * op_with(lambda g, y, x: g, lambda y: 1.0 - y * y)(y))
    assert not tr.gradcheck(wrong_second, X, order=2, directions=2, raise_exception=False).ok


@pytest.mark.parametrize("directions", [None, 2], ids=["full", "projected"])
def test_a_module_is_checked_by_the_names_of_its_parameters(directions):
    report = tr.gradcheck(Affine(), X, directions=directions)
    assert [(row.name, row.shape) for row in report.rows] == [("inputs[0]", (3, 4)), ("W", (4, 2)), ("b", (2,))]

    class Outer(tr.Module):
        def __init__(self):
            super().__init__()
            self.layers = [Affine(), Affine(factor=0.5)]

        def forward(self, x):
            return self.layers[0](x) * self.layers[1](x)

    report = tr.gradcheck(Outer(), X, directions=directions, raise_exception=False)
    assert [row.name for row in report.rows if not row.ok] == ["layers.1.b"]


# -- what is no plain mistake ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("directions", [None, 1], ids=["full", "projected"])
def test_fn_must_be_deterministic(directions):
    module, rng, turn = tr.nn.Dropout(0.5, rng=0), np.random.default_rng(0), itertools.count()
    for fn in (module, lambda x: x * rng.random(), lambda x: x[: 1 + next(turn) % 2]):
        with pytest.raises(tr.GradcheckError, match=r"not deterministic: of two calls on the same inputs"):
            tr.gradcheck(fn, X, directions=directions)
    assert tr.gradcheck(module.eval(), X, directions=directions).ok
    assert tr.gradcheck(lambda x: tr.dropout(x, 0.5, np.random.default_rng(3)), X, directions=directions).ok
    report = tr.gradcheck(lambda x: x * rng.random(), X, raise_exception=False)
    assert report.worst is None
    assert "output[0, 0] was" in report.problem


@pytest.mark.parametrize(("fn", "at", "note"), [
    (lambda x: tr.relu(x), 0.0, r"fn has a kink here, of slopes 0 and 1 "),
    (lambda x: op_with(lambda g, y, x: g, np.abs)(x), 0.0, r"fn has a kink here, of slopes -1 and 1 "),
    (lambda x: tr.abs(x), 1e-6, r"depends on the step.* fn has a kink or a jump within a step"),
    (lambda x: tr.sign(x), 0.0, r"depends on the step.* fn has a kink or a jump within a step"),
    (lambda x: tr.sqrt(x), 0.0, r"fn is not finite here"),
    (lambda x: tr.log(x), -1.0, r"fn is not finite here"),
    (lambda x: op_with(lambda g, y, x: g * np.inf)(x), 1.0, r"analytic gradient is not finite, though fn is"),
    (lambda x: tr.tensor(x.data * 2.0), 1.0, r"no gradient arrives"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_reason_is_told(fn, at, note):
    for x in (at, np.array([at]), np.array([1.3, at, 1.2])):
        report = tr.gradcheck(fn, x, raise_exception=False)
        assert not report.ok
        assert re.search(note, report.worst.note), report
        assert report.worst.note in str(report)
        assert not tr.gradcheck(fn, x, directions=1, raise_exception=False).ok


def test_where_a_gradient_takes_the_mean_of_two_slopes_so_does_the_difference():
    assert tr.gradcheck(lambda x: tr.maximum(x, 0.25 * x), np.array([0.0, 1.0, -1.0])).ok
    assert tr.gradcheck(lambda x: tr.abs(x), 0.0).ok


def test_tolerances_decide():
    slightly = WRONG["slightly"]
    assert tr.gradcheck(slightly, X, rtol=1e-4).ok
    assert tr.gradcheck(slightly, X, atol=1e-4, rtol=0).ok
    assert not tr.gradcheck(slightly, X, atol=1e-6, rtol=0, raise_exception=False).ok
    assert not tr.gradcheck(lambda x: tr.exp(x), X, atol=0, rtol=0, raise_exception=False).ok
    coarse = tr.gradcheck(lambda x: tr.exp(x), X, eps=1e-2, raise_exception=False)
    assert coarse.worst.max_rel_error == pytest.approx(1e-4 / 6 * X.max() ** 2, rel=1.0)


def test_projections_cost_two_calls_an_input_each():
    calls = []

    def fn(x, y):
        calls.append(1)
        return tr.tanh(x) @ y

    a, b = RNG.normal(size=(200, 300)), RNG.normal(size=(300, 100))
    assert tr.gradcheck(fn, (a, b), directions=3).ok
    assert len(calls) == 2 + 2 * 3 * 2


def test_the_report_is_a_table():
    lines = str(tr.gradcheck(Affine(), X, order=2)).splitlines()
    assert lines[0] == "gradcheck passed: the full Jacobian by central differences of step 6.1e-06"
    columns = ["input", "shape", "order", "abs error", "rel error", "worst element", "analytic", "numeric"]
    assert re.split("  +", lines[1]) == columns
    assert [line.split()[0] for line in lines[2:]] == ["inputs[0]", "W", "b"] * 2
    assert all(line.endswith("ok") for line in lines[2:])
    assert len({line.index("ok") for line in lines[2:]}) == 1
    assert all(len(line) < 120 for line in lines)


@pytest.mark.parametrize(("fn", "inputs", "options", "error", "message"), [
    (3, X, {}, TypeError, "fn must be a function or a Module, got int"),
    (lambda x: x, "abc", {}, TypeError, r"inputs\[0\] must be a Tensor or an array of numbers, got str"),
    (lambda x, y: x, (X, None), {}, TypeError, r"inputs\[1\] must be a Tensor or an array of numbers, got NoneType"),
    (lambda x: x, np.array([1, 2]), {}, ValueError, "needs an input of real numbers"),
    (lambda: tr.tensor(1.0), (), {}, ValueError, "needs an input of real numbers"),
    (lambda x: x, tr.tensor([1.0, 2.0]), {}, TypeError, r"needs float64.*inputs\[0\] is float32: use .astype"),
    (Affine(dtype="float32"), X, {}, TypeError, 'W is float32: make the module with dtype="float64"'),
    (lambda x: x.astype("float32"), X, {}, TypeError, "fn's output is float32, but gradcheck needs float64"),
    (lambda x: (x, 3), X, {}, TypeError, r"its output\[1\] is int"),
    (lambda x: None, X, {}, TypeError, "its output is NoneType"),
    (lambda x: x, X, {"order": 3}, ValueError, "order must be 1 or 2, got 3"),
    (lambda x: x, X, {"eps": 0.0}, ValueError, "eps must be a positive number, got 0"),
    (lambda x: x, X, {"atol": -1.0}, ValueError, "atol must be a non-negative number, got -1"),
    (lambda x: x, X, {"rtol": float("nan")}, ValueError, "rtol must be a non-negative number, got nan"),
    (lambda x: x, X, {"directions": 0}, ValueError, "directions must be a positive int or None, got 0"),
    (lambda x: x, X, {"directions": 1.5}, TypeError, "directions must be a positive int or None, got 1.5"),
    (lambda x: x, np.zeros(10_000), {}, ValueError, "10000 x 10000 elements; .*directions=k"),
])  # fmt: skip
def test_wrong_arguments(fn, inputs, options, error, message):
    with pytest.raises(error, match=message):
        tr.gradcheck(fn, inputs, **options)
