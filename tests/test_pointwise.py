"""The compiled loops: accuracy, special values and reproducible bits of every elementwise op, and of the reductions.

Everything runs for each instruction set that was built and that this processor has. References are NumPy in the same
dtype where IEEE 754 leaves one answer, NumPy in float64 for float32, and mpmath for float64.
"""

import functools

import mpmath
import numpy as np
import pytest

from tinyrnn._core import kernels

INF, NAN = np.inf, np.nan
DTYPES = [np.float32, np.float64]

# Ops that round once or not at all: equal to NumPy's, bit for bit.
EXACT = {
    "neg": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "square": np.square,
    "sqrt": np.sqrt,
    "relu": lambda a: np.where(a <= 0, 0, a),
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "greater": np.greater,
    "wins": lambda a, b: np.where(np.isnan(a) | np.isnan(b), NAN, (np.sign(np.where(a == b, 0, a - b)) + 1) / 2),
    "d_relu": lambda g, y: np.where(y > 0, g, 0),
    "where": lambda c, a, b: np.where(c != 0, a, b),
}

# Ops with a bound in units in the last place: (for NumPy in float64, for mpmath).
SMOOTH = {
    "exp": (np.exp, mpmath.exp),
    "log": (np.log, mpmath.log),
    "sigmoid": (lambda a: 1 / (1 + np.exp(-a)), lambda a: 1 / (1 + mpmath.exp(-a))),
    "tanh": (np.tanh, mpmath.tanh),
    "softplus": (lambda a: np.logaddexp(0, a), lambda a: mpmath.log1p(mpmath.exp(a))),
    "pow": (np.power, mpmath.power),
}

# Ops of a few roundings: (the formula, the size of what is rounded on the way).
FORMULAS = {
    "d_sigmoid": (lambda g, y: g * y * (1 - y), lambda g, y: np.abs(g * y) * (1 + np.abs(y))),
    "d_tanh": (lambda g, y: g * (1 - y * y), lambda g, y: np.abs(g) * (1 + y * y)),
    "fma": (lambda a, b, c: a * b + c, lambda a, b, c: np.abs(a * b) + np.abs(c)),
    "lerp": (lambda a, b, w: a + w * (b - a), lambda a, b, w: np.abs(a) + np.abs(w) * (np.abs(a) + np.abs(b))),
    "mix": (lambda w, a, b: w * a + (1 - w) * b, lambda w, a, b: np.abs(w * a) + (1 + np.abs(w)) * np.abs(b)),
}

ULPS = {np.float32: 2, np.float64: 4}
ABSOLUTE = {np.float32: 1e-7, np.float64: 0.0}  # enough in float32, whatever the unit in the last place

every_isa = pytest.mark.parametrize("isa", kernels.isas())
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_op = pytest.mark.parametrize("name", list(kernels.POINTWISE))


@pytest.fixture(autouse=True)
def quiet():
    """References overflow and divide by zero on purpose."""
    with np.errstate(all="ignore"):
        yield


def special(dtype):
    """Zeros, infinities, NaN, denormals, the ends of the range and ±1e4."""
    info = np.finfo(dtype)
    tiny, small, huge = info.smallest_subnormal, info.tiny, info.max
    values = [0, tiny, 3 * tiny, small - tiny, small, info.eps, 0.5, 1, 1e4, np.sqrt(huge), huge, INF]
    return np.array([*values, *np.negative(values), NAN], dtype)


def sample(dtype, n, seed=0):
    """n numbers of every magnitude and sign, dense where something happens, and `special`."""
    rng = np.random.default_rng(seed)
    info = np.finfo(dtype)
    k = n // 8
    edges = np.log(2) * (np.arange(-40, 40) + 0.5)  # where exp's reduction rounds the other way
    edges = np.concatenate([edges, edges / 2, [0.5, 0.75, 1.5, np.log(info.max), np.log(info.tiny)]])
    parts = [
        rng.integers(0, 2**info.bits, 2 * k, f"u{info.bits // 8}").view(dtype),  # any bits
        rng.uniform(-1, 1, k),
        rng.uniform(-20, 20, 2 * k),
        rng.uniform(np.log(info.smallest_subnormal) - 1, np.log(info.max) + 1, k),
        rng.uniform(0.6, 1.6, k),  # log near 1
        rng.choice(edges, k) * (1 + rng.integers(-3, 4, k) * info.eps),
    ]
    return np.concatenate([special(dtype), *(part.astype(dtype) for part in parts)])


def operands(name, dtype, n, seed=0):
    """Operands of an op: samples against each other, with ties, and every pair of special values."""
    arity = kernels.POINTWISE[name][1]
    rng = np.random.default_rng(seed + 1)
    x = sample(dtype, n, seed)
    columns = [x, *(rng.permutation(x) for _ in range(arity - 1))]
    if arity > 1:
        columns[1][::7] = columns[0][::7]
    grid = np.meshgrid(*[special(dtype)] * min(arity, 2))
    grid = [g.ravel() for g in grid] + [np.ones(grid[0].size, dtype)] * (arity - len(grid))
    return [np.concatenate(pair) for pair in zip(columns, grid, strict=True)]


def ulp(want, dtype):
    """The spacing of numbers of this dtype at `want`, as a float64 (a float64 holds it for both)."""
    return np.spacing(np.abs(want).astype(dtype)).astype(np.float64)


def bits(x):
    """The bits, all NaN being one."""
    return np.where(np.isnan(x), x.dtype.type(NAN), x).view(f"u{x.dtype.itemsize}")


def test_every_op_is_tested():
    assert {*EXACT, *SMOOTH, *FORMULAS} == set(kernels.POINTWISE)


# -- accuracy ----------------------------------------------------------------------------------------------------------


@every_isa
@every_dtype
@pytest.mark.parametrize("name", EXACT)
def test_exact(name, dtype, isa):
    args = operands(name, dtype, 4000)
    got, want = kernels.pointwise(name, *args, isa=isa), EXACT[name](*args).astype(dtype)
    np.testing.assert_array_equal(got, want)  # -0 equals 0


@every_isa
@pytest.mark.parametrize("name", SMOOTH)
def test_float32_accuracy(name, isa):
    args = operands(name, np.float32, 100_000)
    got = kernels.pointwise(name, *args, isa=isa)
    want = SMOOTH[name][0](*(a.astype(np.float64) for a in args))
    rounded = want.astype(np.float32)
    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(got[~finite], rounded[~finite])
    error = np.abs(got[finite] - want[finite])
    within = (error <= ULPS[np.float32] * ulp(rounded[finite], np.float32)) | (error <= ABSOLUTE[np.float32])
    assert within.all(), f"{name}{[a[finite][~within][0] for a in args]}: {got[finite][~within][0]}"


@functools.cache
def exactly(name):
    """Operands in float64, and mpmath's results: rounded to float64, and what the rounding left."""
    args = operands(name, np.float64, 6000)
    if name == "pow":  # mpmath knows no signed zeros, and an irrational power of a negative number is complex
        a, b = (x[np.isfinite(x)] for x in args)
        n = min(a.size, b.size)
        a, b = np.abs(a[:n]), b[:n]
        keep = (a > 0) & (np.abs(b * np.log(a)) < 1e4)
        args = [a[keep], b[keep]]
    else:
        args = [args[0][np.isfinite(args[0]) & ((args[0] > 0) | (name != "log"))]]
    rounded, rest = [], []
    with mpmath.workprec(160):
        for values in zip(*(a.tolist() for a in args), strict=True):
            exact = SMOOTH[name][1](*map(mpmath.mpf, values))
            rounded.append(float(exact))
            rest.append(float(exact - rounded[-1]) if np.isfinite(rounded[-1]) else 0.0)
    return args, np.array(rounded), np.array(rest)


@every_isa
@pytest.mark.parametrize("name", SMOOTH)
def test_float64_accuracy(name, isa):
    args, want, rest = exactly(name)
    got = kernels.pointwise(name, *args, isa=isa)
    finite = np.isfinite(want)
    np.testing.assert_array_equal(got[~finite], want[~finite])
    error = np.abs(got - want - rest)[finite] / ulp(want[finite], np.float64)
    worst = error.argmax()
    at = [a[finite][worst] for a in args]
    assert error[worst] <= ULPS[np.float64], f"{name}{at}: {got[finite][worst]}, {error[worst]:.2f} ulp"


@every_isa
@every_dtype
@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name, dtype, isa):
    rng = np.random.default_rng(3)
    arity = kernels.POINTWISE[name][1]
    args = [(rng.uniform(-1, 1, 5000) * 10.0 ** rng.integers(-6, 4, 5000)).astype(dtype) for _ in range(arity)]
    args[1][:2500] = rng.uniform(0, 1, 2500)  # gates
    got = kernels.pointwise(name, *args, isa=isa)
    formula, size = FORMULAS[name]
    wide = [a.astype(np.longdouble) for a in args]
    assert (np.abs(got - formula(*wide)) <= 2 * np.finfo(dtype).eps * size(*wide)).all()


# -- special values ----------------------------------------------------------------------------------------------------

VALUES = {
    "exp": [(0, 1), (-0.0, 1), (INF, INF), (-INF, 0), (1e4, INF), (-1e4, 0), (1e-40, 1)],
    "log": [(1, 0), (0, -INF), (-0.0, -INF), (INF, INF), (-1, NAN), (-INF, NAN), (-1e-40, NAN)],
    "sigmoid": [(0, 0.5), (INF, 1), (-INF, 0), (1e4, 1), (-1e4, 0)],
    "tanh": [(0, 0), (-0.0, -0.0), (INF, 1), (-INF, -1), (1e4, 1), (-1e4, -1), (1e-40, 1e-40), (-1e-40, -1e-40)],
    "softplus": [(0, np.log(2)), (INF, INF), (-INF, 0), (1e4, 1e4), (-1e4, 0)],
}


@every_isa
@every_dtype
@pytest.mark.parametrize("name", VALUES)
def test_special_values(name, dtype, isa):
    a, want = np.array(VALUES[name], dtype).T.copy()
    got = kernels.pointwise(name, a, isa=isa)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.signbit(got[got == 0]), np.signbit(want[got == 0]))


# Operands in which a NaN is not passed on: a comparison is false, a condition is not zero.
NAN_IGNORED = {("greater", 0), ("greater", 1), ("d_relu", 1), ("where", 0), ("where", 2)}


@every_isa
@every_dtype
@every_op
def test_nan_stays_nan(name, dtype, isa):
    arity = kernels.POINTWISE[name][1]
    for position in range(arity):
        args = [np.full(19, 0.5, dtype) for _ in range(arity)]
        args[position][:] = NAN
        passed_on = np.isnan(kernels.pointwise(name, *args, isa=isa))
        assert passed_on.all() if (name, position) not in NAN_IGNORED else not passed_on.any()


@every_isa
@every_dtype
def test_squashing_functions_keep_their_range(dtype, isa):
    """tanh is odd, and neither it nor the sigmoid leaves its range by a rounding."""
    x = np.abs(sample(dtype, 20_000))
    x = x[~np.isnan(x)]
    up, down = (kernels.pointwise("tanh", a, isa=isa) for a in (x, -x))
    np.testing.assert_array_equal(up, -down)
    assert up.min() >= 0
    assert up.max() == 1
    gate = kernels.pointwise("sigmoid", np.concatenate([x, -x]), isa=isa)
    assert gate.min() >= 0
    assert gate.max() == 1


# -- reproducible bits -------------------------------------------------------------------------------------------------


@every_isa
@every_dtype
@every_op
def test_bits_do_not_depend_on_position_or_length(name, dtype, isa):
    """The vector body, its remainder and a lone element compute the same bits."""
    args = [a[:200] for a in operands(name, dtype, 2000, seed=5)]
    whole = bits(kernels.pointwise(name, *args, isa=isa))
    for start in range(9):
        for n in (1, 2, 3, 4, 5, 7, 8, 9, 13, 15, 16, 17, 31, 33, 64, 67):
            part = kernels.pointwise(name, *(a[start : start + n] for a in args), isa=isa)
            np.testing.assert_array_equal(bits(part), whole[start : start + n])


@every_dtype
@pytest.mark.parametrize("inner", [1, 3, 64, 300])
@pytest.mark.parametrize("n", [1, 7, 16, 100, 1000])
def test_sum(n, inner, dtype):
    """Accurate to a few roundings at any length; a row's sum ignores the rows beside it and the memory's alignment."""
    rng = np.random.default_rng(n)
    x = rng.normal(1, 1, (3, n, inner)).astype(dtype)
    got = kernels.reduce("sum", x, 1, 2)
    exact = x.astype(np.longdouble)
    assert (np.abs(got - exact.sum(1)) <= 16 * np.finfo(dtype).eps * np.abs(exact).sum(1)).all()
    shifted = np.empty(x[1].size + 1, dtype)[1:].reshape(1, n, inner)
    shifted[0] = x[1]
    np.testing.assert_array_equal(kernels.reduce("sum", shifted, 1, 2)[0], got[1])


@pytest.mark.parametrize("inner", [1, 3])
def test_the_error_of_a_float32_sum_does_not_grow_with_its_length(inner):
    x = np.full((1, 200_000, inner), 0.1, np.float32)  # one running float32 sum would be off by 0.6 %
    np.testing.assert_allclose(kernels.reduce("sum", x, 1, 2), 200_000 * np.float64(x[0, 0, 0]), rtol=1e-6)


@every_dtype
@pytest.mark.parametrize("inner", [1, 3, 300])
@pytest.mark.parametrize("n", [1, 7, 100, 1000])
def test_max(n, inner, dtype):
    x = np.random.default_rng(n).normal(-5, 1, (3, n, inner)).astype(dtype)
    x[1, n // 2, inner // 2] = NAN
    x[2, :, 0] = -INF
    np.testing.assert_array_equal(kernels.reduce("max", x, 1, 2), x.max(1))
