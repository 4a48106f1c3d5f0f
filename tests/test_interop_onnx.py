"""ONNX: every option of RNN, LSTM and GRU nodes against the specification written in NumPy and against onnxruntime;
what is written, against onnxruntime and read back."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tinyrnn as tr
from tinyrnn.cells import GRU, LSTM, Elman
from tinyrnn.interop import onnx as interop
from tinyrnn.nn import RNN

onnx = pytest.importorskip("onnx", reason="needs onnx: pip install 'tinyrnn[oracle]'")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

pytestmark = pytest.mark.oracle  # all of them need the package onnx, which that extra brings

T, B, I, H = 5, 4, 3, 4  # noqa: E741


@pytest.fixture(scope="session")
def runtime():
    return pytest.importorskip("onnxruntime", reason="compares with onnxruntime: pip install 'tinyrnn[oracle]'")


def run_by(runtime, model, feeds):
    """What onnxruntime makes of a model: arrays by the names of its outputs."""
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


def assert_close(got, expected, *, ulps=64):
    """Outputs by name, equal to some roundings of their dtype, at the scale of the largest number."""
    assert list(got) == list(expected)
    for name, value in expected.items():
        assert got[name].shape == value.shape, name
        scale = max(1.0, np.abs(value).max(initial=0.0))
        tolerance = ulps * np.finfo(got[name].dtype).eps * scale
        np.testing.assert_allclose(got[name], value, rtol=0, atol=tolerance, err_msg=name)


# -- the specification -------------------------------------------------------------------------------------------------

ACTIVATIONS = {
    "Relu": lambda x, a, b: np.maximum(x, 0),
    "Tanh": lambda x, a, b: np.tanh(x),
    "Sigmoid": lambda x, a, b: 1 / (1 + np.exp(-x)),
    "Affine": lambda x, a, b: a * x + b,
    "LeakyRelu": lambda x, a, b: np.where(x >= 0, x, a * x),
    "ThresholdedRelu": lambda x, a, b: np.where(x >= a, x, 0),
    "ScaledTanh": lambda x, a, b: a * np.tanh(b * x),
    "HardSigmoid": lambda x, a, b: np.minimum(np.maximum(a * x + b, 0), 1),
    "Elu": lambda x, a, b: np.where(x >= 0, x, a * (np.exp(x) - 1)),
    "Softsign": lambda x, a, b: x / (1 + np.abs(x)),
    "Softplus": lambda x, a, b: np.logaddexp(0, x),
}
HAS_ALPHA = {"Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu"}
HAS_BETA = {"Affine", "ScaledTanh", "HardSigmoid"}
DEFAULT_ALPHA = {"LeakyRelu": 0.01, "ThresholdedRelu": 1.0, "HardSigmoid": 0.2, "Elu": 1.0}
DEFAULT_BETA = {"HardSigmoid": 0.5}
PER_DIRECTION = {"RNN": ("Tanh",), "LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh")}
GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")


def step_by_the_book(case, f, d, x, h, c):
    """One step of one row: the equations of the operators' specification."""
    op, arrays, clip = case["op"], case["arrays"], case["clip"]
    n, gates = case["hidden"], GATES[op]

    def bounded(v):
        return v if clip is None else np.clip(v, -np.float32(clip), np.float32(clip))

    W, R = np.split(arrays["W"][d], gates), np.split(arrays["R"][d], gates)
    Wb, Rb = (np.split(v, gates) for v in np.split(arrays.get("B", np.zeros((2, 2 * gates * n)))[d], 2))
    if op == "RNN":
        return f[0](bounded(x @ W[0].T + h @ R[0].T + Wb[0] + Rb[0])), None
    if op == "GRU":
        z = f[0](bounded(x @ W[0].T + h @ R[0].T + Wb[0] + Rb[0]))
        r = f[0](bounded(x @ W[1].T + h @ R[1].T + Wb[1] + Rb[1]))
        if case["flag"]:
            g = f[1](bounded(x @ W[2].T + r * (h @ R[2].T + Rb[2]) + Wb[2]))
        else:
            g = f[1](bounded(x @ W[2].T + (r * h) @ R[2].T + Rb[2] + Wb[2]))
        return (1 - z) * g + z * h, None
    p_i, p_o, p_f = np.split(arrays.get("P", np.zeros((2, 3 * n)))[d], 3)
    i = f[0](bounded(x @ W[0].T + h @ R[0].T + p_i * c + Wb[0] + Rb[0]))
    if case["flag"]:
        forget = 1 - i
    else:
        forget = f[0](bounded(x @ W[2].T + h @ R[2].T + p_f * c + Wb[2] + Rb[2]))
    c = forget * c + i * f[1](bounded(x @ W[3].T + h @ R[3].T + Wb[3] + Rb[3]))
    o = f[0](bounded(x @ W[1].T + h @ R[1].T + p_o * c + Wb[1] + Rb[1]))
    return o * f[2](c), c


@np.errstate(over="ignore", invalid="ignore")
def by_the_book(case):
    """The node's outputs, row by row and step by step, in layout 0 and float64."""
    n, arrays = case["hidden"], {k: v.astype(float) if v.dtype.kind == "f" else v for k, v in case["arrays"].items()}
    case = case | {"arrays": arrays}
    X, reverses = arrays["X"], {"forward": [0], "reverse": [1], "bidirectional": [0, 1]}[case["direction"]]
    steps, rows, count = X.shape[0], X.shape[1], len(PER_DIRECTION[case["op"]])
    Y = np.zeros((steps, len(reverses), rows, n))
    last = np.zeros((2, len(reverses), rows, n))
    for (d, reverse), b in itertools.product(enumerate(reverses), range(rows)):
        f = [
            lambda x, name=name, a=a, beta=beta: ACTIVATIONS[name](x, a, beta)
            for name, a, beta in case["activations"][d * count : (d + 1) * count]
        ]
        h, c = (arrays[k][d, b] if k in arrays else np.zeros(n) for k in ("initial_h", "initial_c"))
        ends = arrays["sequence_lens"][b] if "sequence_lens" in arrays else steps
        for t in range(ends)[:: -1 if reverse else 1]:
            h, c = step_by_the_book(case, f, d, X[t, b], h, c)
            Y[t, d, b] = h
            last[0, d, b] = h
            if c is not None:
                last[1, d, b] = c
    # Gates without bounds can square a state at each step, and its roundings with it: such a case says nothing.
    assume(all(np.abs(v).max() < 4 for v in (Y, last)))
    found = {"Y": Y, "Y_h": last[0], "Y_c": last[1]}
    return {k: found[k] for k in case["outputs"]}


# -- random nodes ------------------------------------------------------------------------------------------------------


@st.composite
def nodes(draw):
    """A node of any operator with its inputs, all options drawn; arrays stand in layout 0."""
    op = draw(st.sampled_from(["RNN", "LSTM", "GRU"]))
    direction = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    D, gates = 1 + (direction == "bidirectional"), GATES[op]
    steps, rows, inputs, n = draw(st.tuples(*(st.integers(1, k) for k in (T, B, I, H))))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = np.dtype(draw(st.sampled_from(["float32", "float32", "float64"])))

    def normal(*shape):
        return rng.normal(scale=0.4, size=shape).astype(dtype)

    arrays = {"X": normal(steps, rows, inputs), "W": normal(D, gates * n, inputs), "R": normal(D, gates * n, n)}
    optional = {
        "B": lambda: normal(D, 2 * gates * n),
        "sequence_lens": lambda: rng.integers(0, steps + 1, rows).astype(np.int32),
        "initial_h": lambda: normal(D, rows, n),
        "initial_c": lambda: normal(D, rows, n),
        "P": lambda: normal(D, 3 * n),
    }
    arrays |= {k: make() for k, make in optional.items() if (op == "LSTM" or k[-1] not in "cP") and draw(st.booleans())}

    named = draw(st.sampled_from(["any", "any", "plain", "not"]))
    names = list(PER_DIRECTION[op]) * D
    if named != "not":
        known = ["Relu", "Tanh", "Sigmoid", "Softsign", "Softplus"] if named == "plain" else sorted(ACTIVATIONS)
        names = draw(st.lists(st.sampled_from(known), min_size=len(names), max_size=len(names)))
    # None of these, nor a default, is a bound of clip: at x = alpha a ThresholdedRelu is x by the specification, and 0
    # in onnxruntime.
    scale = st.sampled_from([-0.5, float(np.float32(0.3)), 0.75, 1.25])
    by_default = not {"Affine", "ScaledTanh"} & set(names) and not draw(st.integers(0, 2))
    activations = [
        (name, DEFAULT_ALPHA.get(name), DEFAULT_BETA.get(name))
        if by_default
        else (name, draw(scale) if name in HAS_ALPHA else None, draw(scale) if name in HAS_BETA else None)
        for name in names
    ]
    outputs = ["Y", "Y_h", "Y_c"][: 2 + (op == "LSTM")]
    wanted = draw(st.lists(st.sampled_from(outputs), min_size=1, unique=True))
    opset = draw(st.sampled_from([7, 14, 22]))
    return {
        "op": op, "direction": direction, "hidden": n, "arrays": arrays, "activations": activations,
        "named": named != "not", "by_default": by_default, "clip": draw(st.sampled_from([None, None, 0.2, 0.9])),
        "flag": op != "RNN" and draw(st.booleans()), "outputs": [k for k in outputs if k in wanted], "opset": opset,
        "layout": draw(st.integers(0, 1)) if opset >= 14 else 0, "fixed": draw(st.booleans()),
        "sized": draw(st.booleans()),
    }  # fmt: skip


def turned(case, name, value):
    """An array of layout 0 in layout 1, or an output of layout 1 in layout 0."""
    axes = {"X": (1, 0, 2), "initial_h": (1, 0, 2), "initial_c": (1, 0, 2)}
    return value.transpose(axes[name]) if case["layout"] and name in axes else value


def model_of(case, *, layout=None, explicit=False):
    """The node as a model, and what to feed it. explicit: with hidden_size, and every alpha and beta."""
    case = case if layout is None else case | {"layout": layout}
    arrays = {k: turned(case, k, v) for k, v in case["arrays"].items()}
    attributes = {"direction": case["direction"], "clip": case["clip"]}
    if case["sized"] or explicit:
        attributes["hidden_size"] = case["hidden"]
    if case["layout"]:
        attributes["layout"] = 1
    if case["flag"]:
        attributes["input_forget" if case["op"] == "LSTM" else "linear_before_reset"] = 1
    if case["named"]:
        attributes["activations"] = [name for name, _, _ in case["activations"]]
    for k, which in ((1, "alpha"), (2, "beta")):
        values = [a[k] for a in case["activations"]]
        if not explicit and case["by_default"]:
            continue
        if any(v is not None for v in values):
            attributes[f"activation_{which}"] = [v for v in values if v is not None]
    attributes = {k: v for k, v in attributes.items() if v is not None}

    inputs = [k if k in arrays else "" for k in INPUTS[: 8 if case["op"] == "LSTM" else 6]]
    outputs = [k if k in case["outputs"] else "" for k in ("Y", "Y_h", "Y_c")[: 2 + (case["op"] == "LSTM")]]
    for names in (inputs, outputs):
        while not names[-1]:
            names.pop()
    node = helper.make_node(case["op"], inputs, outputs, name="it", **attributes)
    held = {k for k in ("W", "R", "B", "P") if k in arrays} if case["fixed"] else set()
    fed = {k: np.ascontiguousarray(v) for k, v in arrays.items() if k not in held}
    kind = {
        k: TensorProto.INT32 if v.dtype == np.int32 else helper.np_dtype_to_tensor_dtype(v.dtype)
        for k, v in fed.items()
    }
    out = helper.np_dtype_to_tensor_dtype(arrays["X"].dtype)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(k, kind[k], [None] * v.ndim) for k, v in fed.items()],
        [helper.make_tensor_value_info(k, out, [None] * (4 if k == "Y" else 3)) for k in outputs if k],
        [numpy_helper.from_array(np.ascontiguousarray(arrays[k]), k) for k in sorted(held)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", case["opset"])], ir_version=8)
    onnx.checker.check_model(model)
    return model, fed


@settings(max_examples=200)
@given(nodes())
def test_a_node_is_what_the_specification_says(case):
    expected = by_the_book(case)
    model, feeds = model_of(case)
    got = interop.load(model)(**feeds)
    assert {v.dtype for v in got.values()} == {case["arrays"]["X"].dtype}
    if case["layout"]:
        got = {k: v.transpose((1, 2, 0, 3) if k == "Y" else (1, 0, 2)) for k, v in got.items()}
    assert_close(got, expected)


@settings(max_examples=200)
@given(case=nodes())
def test_a_node_is_what_onnxruntime_computes(runtime, case):
    """onnxruntime has neither float64 nor layout 1, takes 0 for ThresholdedRelu's alpha, and reads memory before the
    outputs for a row of no steps in an RNN: it is given float32 in layout 0, every alpha and beta, and RNNs whose rows
    have a step. The test above holds what is left out here."""
    arrays = {k: v.astype("float32") if v.dtype.kind == "f" else v for k, v in case["arrays"].items()}
    if case["op"] == "RNN" and "sequence_lens" in arrays:
        arrays["sequence_lens"] = np.maximum(arrays["sequence_lens"], 1)
    case = case | {"arrays": arrays}
    expected = by_the_book(case)
    model, feeds = model_of(case)
    got = interop.load(model)(**feeds)
    if case["layout"]:
        got = {k: v.transpose((1, 2, 0, 3) if k == "Y" else (1, 0, 2)) for k, v in got.items()}
    twin, fed = model_of(case, layout=0, explicit=True)
    theirs = run_by(runtime, twin, fed)
    assert_close(theirs, expected)  # the specification above is read as onnxruntime reads it
    assert_close(got, theirs)


# -- the cells of ONNX -------------------------------------------------------------------------------------------------


def test_an_activation_is_its_function_and_has_its_gradients():
    x = tr.tensor(np.random.default_rng(0).uniform(-2.9, 2.9, 40), dtype="float64")
    for name, function in ACTIVATIONS.items():
        a, b = 0.7 if name in HAS_ALPHA else None, 0.3 if name in HAS_BETA else None
        made = interop.Activation(name.upper(), a, b)
        assert made.name == name
        np.testing.assert_allclose(made(x).data, function(x.data, a, b), rtol=1e-13, atol=1e-13)
        assert tr.gradcheck(made, (x,), order=2).ok
        clipped = interop.Activation(name, a, b, clip=0.5)
        np.testing.assert_allclose(clipped(x).data, function(np.clip(x.data, -0.5, 0.5), a, b), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("peephole", [None, "diagonal"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_input_forget_cell(peephole, bias):
    """Against `tr.cells.LSTM(coupled="input")` with the opposite gate, scan against unroll, finite differences."""
    cell = interop.InputForgetLSTM(I, H, peephole=peephole, bias=bias, dtype="float64", rng=0)
    twin = LSTM(I, H, peephole=peephole, bias=bias, coupled="input", dtype="float64", rng=1)
    swapped = {name.replace("f", "i"): v for name, v in twin.state_dict().items()}
    cell.load_state_dict({k: -v if k[-1] == "i" else v for k, v in swapped.items()})
    xs = np.random.default_rng(0).normal(size=(T, B, I))
    ys, finals = tr.scan(cell, xs, lengths=[3, 5, 0, 4])
    for other, run in ((twin, tr.scan), (cell, tr.unroll)):
        expected, last = run(other, xs, lengths=[3, 5, 0, 4])
        np.testing.assert_allclose(ys.data, expected.data, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(finals[1].data, last[1].data, rtol=1e-12, atol=1e-14)
    assert tr.gradcheck(cell, (xs[0], *np.random.default_rng(1).normal(size=(2, B, H))), order=2).ok


# -- whole graphs ------------------------------------------------------------------------------------------------------


def graph_of(nodes, inputs, outputs, held=None, *, opset=14, dtype=TensorProto.FLOAT):
    """A model of nodes; inputs: name -> shape; outputs: name -> rank; held: name -> array."""
    declared = [
        v if not isinstance(v, (list, tuple)) else helper.make_tensor_value_info(k, dtype, v) for k, v in inputs.items()
    ]
    made = [helper.make_tensor_value_info(k, dtype, [None] * rank) for k, rank in outputs.items()]
    weights = [numpy_helper.from_array(v, k) for k, v in (held or {}).items()]
    graph = helper.make_graph(nodes, "graph", declared, made, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def normal(*shape, seed=1, dtype="float32"):
    return np.random.default_rng(seed).normal(scale=0.5, size=shape).astype(dtype)


def lengths_info():
    return helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"])


HELD = {"W": normal(1, H, I), "R": normal(1, H, H, seed=2)}
NODE = helper.make_node("RNN", ["X", "W", "R", "", "lengths", "h"], ["Y", "Y_h"], name="rnn", hidden_size=H)
LONE = {"X": ["time", "batch", I], "lengths": lengths_info(), "h": [1, "batch", H]}
FEEDS = {"X": normal(T, B, I), "lengths": np.array([5, 2, 0, 1], np.int32), "h": normal(1, B, H, seed=3)}


def lone(**changes):
    """A model of one RNN node, some of its parts replaced."""
    parts = {"nodes": [NODE], "inputs": LONE, "outputs": {"Y": 4, "Y_h": 3}, "held": HELD} | changes
    return graph_of(**parts)


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(0, B, I), (T, 0, I)], ids=["no-steps", "no-rows"])
@pytest.mark.parametrize("op", ["RNN", "LSTM", "GRU"])
def test_nothing_gives_nothing(op, shape, kind):
    gates = GATES[op]
    names = ["Y", "Y_h", "Y_c"][: 2 + (op == "LSTM")]
    held = {"W": normal(1, gates * H, I, dtype=kind), "R": normal(1, gates * H, H, dtype=kind)}
    code = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    node = helper.make_node(op, ["X", "W", "R", "", "", "h"], names)
    inputs = {"X": [None, None, I], "h": [1, None, H]}
    model = graph_of([node], inputs, {k: 4 if k == "Y" else 3 for k in names}, held, dtype=code)
    got = interop.load(model)(X=np.zeros(shape, kind), h=np.ones((1, shape[1], H), kind))
    assert got["Y"].shape == (shape[0], 1, shape[1], H)
    for k in names[1:]:
        assert got[k].shape == (1, shape[1], H)
        assert not got[k].any()


def test_gradients_pass_through_a_loaded_model():
    model = interop.load(lone())
    (cell,) = model.cells["rnn"]
    assert isinstance(cell, Elman)
    assert [name for name, _ in model.named_parameters()] == ["cells.rnn.0.W_x", "cells.rnn.0.W_h"]
    given = {"X": tr.tensor(FEEDS["X"], requires_grad=True), "h": tr.tensor(FEEDS["h"], requires_grad=True)}
    out = model.forward(lengths=FEEDS["lengths"], **given)
    found = tr.grad(out["Y"].sum() + out["Y_h"].sum(), [*given.values(), cell.W_h])
    ys, (h,) = tr.unroll(cell, given["X"], given["h"][0], lengths=FEEDS["lengths"])
    alive = (FEEDS["lengths"] > 0)[:, None]
    expected = tr.grad(ys.sum() + tr.where(alive, h, 0.0).sum(), [*given.values(), cell.W_h])
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.data, b.data, rtol=1e-5, atol=1e-6)


def test_an_input_with_a_value_of_its_own_may_be_left_out():
    inputs = LONE | {"W": [1, H, I]}
    model = interop.load(lone(inputs=inputs))
    assert list(model.inputs) == ["X", "lengths", "h"]
    plain = interop.load(lone())
    np.testing.assert_array_equal(model(**FEEDS)["Y"], plain(**FEEDS)["Y"])
    other = model(**FEEDS, W=2 * HELD["W"])["Y"]
    assert not np.allclose(other, plain(**FEEDS)["Y"])
    np.testing.assert_array_equal(other, interop.load(lone(held=HELD | {"W": 2 * HELD["W"]}))(**FEEDS)["Y"])


def test_weights_of_constant_nodes_become_cells_at_once():
    nodes = [helper.make_node("Constant", [], [k], value=numpy_helper.from_array(v)) for k, v in HELD.items()]
    model = interop.load(lone(nodes=[*nodes, NODE], held={}))
    assert list(model.cells) == ["rnn"]
    np.testing.assert_array_equal(model(**FEEDS)["Y"], interop.load(lone())(**FEEDS)["Y"])


def ints(*values):
    return numpy_helper.from_array(np.array(values, np.int64))


MOVES = {
    "Squeeze": ("Squeeze", {"axes": [1]}, {}),
    "Squeeze-all": ("Squeeze", {}, {}),
    "Unsqueeze": ("Unsqueeze", {"axes": [0, -1]}, {}),
    "Transpose": ("Transpose", {}, {"perm": [0, 2, 1, 3]}),
    "Transpose-all": ("Transpose", {}, {}),
    "Reshape": ("Reshape", {"shape": [0, -1, 6]}, {}),
    "Concat": ("Concat", {}, {"axis": -1}),
    "Slice": ("Slice", {"starts": [-1, 0], "ends": [-100, 2], "axes": [0, -1], "steps": [-2, 1]}, {}),
    "Slice-past": ("Slice", {"starts": [1], "ends": [2**62]}, {}),
    "Gather": ("Gather", {"indices": [2, 0, -1]}, {"axis": 3}),
    "Expand": ("Expand", {"shape": [2, 1, 1, 1, 1]}, {}),
    "ReduceSum": ("ReduceSum", {"axes": [1, -1]}, {"keepdims": 0}),
    "ReduceSum-all": ("ReduceSum", {}, {}),
    "ReduceSum-noop": ("ReduceSum", {}, {"noop_with_empty_axes": 1}),
    "Add": ("Add", {}, {}),
    "Identity": ("Identity", {}, {}),
    "Shape": ("Shape", {}, {"start": 1, "end": -1}),
}


@pytest.mark.parametrize("name", MOVES)
def test_what_moves_values_is_what_the_reference_does(name):
    """Against the reference evaluator of the package onnx."""
    from onnx.reference import ReferenceEvaluator

    op, extra, attributes = MOVES[name]
    nodes = [helper.make_node("Constant", [], [k], value=ints(*v)) for k, v in extra.items()]
    inputs = ["x", "x"] if op in ("Concat", "Add") else ["x"]
    nodes.append(helper.make_node(op, [*inputs, *extra], ["y"], **attributes))
    model = graph_of(nodes, {"x": [None] * 4}, {"y": 4}, opset=15)
    x = normal(3, 1, 2, 3)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_allclose(interop.load(model)(x=x)["y"], expected, rtol=1e-6)


def test_constants_and_attributes_of_older_opsets():
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.float32([[1.0, 2.0]]))),
        helper.make_node("Unsqueeze", ["c"], ["d"], axes=[0]),
        helper.make_node("Slice", ["d"], ["e"], axes=[2], starts=[1], ends=[2]),
        helper.make_node("Squeeze", ["e"], ["f"], axes=[1, 2]),
        helper.make_node("Add", ["f", "x"], ["y"]),
    ]
    assert interop.load(graph_of(nodes, {"x": [1]}, {"y": 1}, opset=9))(x=[3]) == {"y": [5.0]}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("states", [True, False], ids=["states", "no-states"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_what_pytorch_exports_is_what_pytorch_computes(kind, batch_first, states, tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layer = getattr(torch.nn, kind)(I, H, 2, bidirectional=True, batch_first=batch_first)
    x, h, c = (
        torch.from_numpy(normal(*shape)) for shape in ((B, T, I) if batch_first else (T, B, I), (4, B, H), (4, B, H))
    )
    given = () if not states else ((h, c),) if kind == "LSTM" else (h,)
    names = ["X", *(["h", "c"] if kind == "LSTM" else ["h"])] if states else ["X"]
    out = ["Y", "Y_h", "Y_c"][: 2 + (kind == "LSTM")]
    path = tmp_path / "layer.onnx"
    with torch.no_grad():
        ys, last = layer(x, *given)
        axes = {"X": {0: "a", 1: "b"}}
        torch.onnx.export(
            layer, (x, *given), path, input_names=names, output_names=out, dynamo=False, dynamic_axes=axes,
            opset_version=17,
        )  # fmt: skip
    feeds = {k: v.numpy() for k, v in zip(names, (x, h, c), strict=False)}
    got = interop.load(path)(**feeds)
    expected = {"Y": ys, "Y_h": last[0] if kind == "LSTM" else last, "Y_c": last[1]}
    for k in out:
        np.testing.assert_allclose(got[k], expected[k].numpy(), rtol=0, atol=1e-6)


# -- writing -----------------------------------------------------------------------------------------------------------

SIGMOID = interop.Activation("HardSigmoid", 0.25, 0.5)
WRITTEN = {
    "Elman": lambda n, **k: Elman(n, H, **k),
    "Elman-relu": lambda n, **k: Elman(n, H, activation=tr.relu, **k),
    "Elman-sigmoid": lambda n, **k: Elman(n, H, activation=tr.sigmoid, bias=False, **k),
    "Elman-softplus-clip": lambda n, **k: Elman(n, H, activation=interop.Activation("Softplus", clip=0.3), **k),
    "Elman-identity": lambda n, **k: Elman(n, H, activation=tr.cells.identity, **k),
    "IRNN": lambda n, **k: tr.cells.IRNN(n, H, scale=0.5, **k),
    "IndRNN": lambda n, **k: tr.cells.IndRNN(n, H, **k),
    "GRU": lambda n, **k: GRU(n, H, **k),
    "GRU-after": lambda n, **k: GRU(n, H, reset="after", **k),
    "GRU-flipped": lambda n, **k: GRU(n, H, flipped=True, bias=False, **k),
    "GRU-after-flipped": lambda n, **k: GRU(n, H, reset="after", flipped=True, activation=tr.relu, **k),
    "GRU-hard": lambda n, **k: GRU(n, H, gate_activation=SIGMOID, **k),
    "MGU": lambda n, **k: tr.cells.MGU(n, H, **k),
    "LectureGRU": lambda n, **k: tr.cells.LectureGRU(n, H, **k),
    "LSTM": lambda n, **k: LSTM(n, H, **k),
    "LSTM-bare": lambda n, **k: LSTM(n, H, bias=False, output_activation=tr.cells.identity, **k),
    "LSTM-peephole": lambda n, **k: LSTM(n, H, peephole="diagonal", activation=tr.relu, **k),
    "LSTM-coupled-input": lambda n, **k: LSTM(n, H, coupled="input", peephole="diagonal", **k),
    "LSTM-coupled-output": lambda n, **k: LSTM(n, H, coupled="output", gate_activation=SIGMOID, **k),
    "LSTM-blocks": lambda n, **k: LSTM(n, H, cells_per_block=2, **k),
    "InputForgetLSTM": lambda n, **k: interop.InputForgetLSTM(n, H, peephole="diagonal", **k),
    "InputForgetLSTM-relu": lambda n, **k: interop.InputForgetLSTM(n, H, gate_activation=tr.relu, **k),
    "LectureLSTM": lambda n, **k: tr.cells.LectureLSTM(n, H, **k),
    "ConcatenatedLSTM": lambda n, **k: tr.cells.ConcatenatedLSTM(n, H, **k),
    "RecurrentDropout": lambda n, **k: tr.cells.RecurrentDropout(LSTM(n, H, **k), 0.5),
}
for variant in ("vanilla", "NIAF", "NOAF", "CIFG", "NP"):
    WRITTEN[f"Odyssey-{variant}"] = lambda n, variant=variant, **k: tr.cells.Odyssey(n, H, variant=variant, **k)


def run_ours(module, feeds, layers):
    """What a cell or an RNN gives, by the names of the graph's outputs."""
    lengths = feeds.get("sequence_lens")
    states, kinds = [], len(layers[0][0].states)
    for k, cells in enumerate(layers):
        mark = f"_{k}" if len(layers) > 1 else ""
        for d in range(len(cells)):
            given = [feeds[f"initial_{c}{mark}"][d] for c in "hc"[:kinds] if f"initial_{c}{mark}" in feeds]
            states.append(tuple(given) or None)
    if isinstance(module, RNN):
        ys, last = module(feeds["X"], states, lengths=lengths)
    else:
        ys, one = tr.scan(module, feeds["X"], states[0], lengths=lengths)
        last = [one]
    found, after = {"Y": ys.data}, iter(last)
    for k, cells in enumerate(layers):
        mark = f"_{k}" if len(layers) > 1 else ""
        ends = [next(after) for _ in cells]
        found |= {f"Y_{c}{mark}": np.stack([s[j].data for s in ends]) for j, c in enumerate("hc"[:kinds])}
    return found


def feeds_of(module, layers, *, lengths, state, dtype="float32"):
    width = module.input_size
    swap = getattr(module, "batch_first", False)
    feeds = {"X": normal(B, T, width, dtype=dtype) if swap else normal(T, B, width, dtype=dtype)}
    if lengths:
        feeds["sequence_lens"] = np.array([3, 5, 1, 4], np.int32)
    for k, cells in enumerate(layers if state else []):
        mark = f"_{k}" if len(layers) > 1 else ""
        for c in "hc"[: len(cells[0].states)]:
            feeds[f"initial_{c}{mark}"] = normal(len(cells), B, H, seed=k + ord(c), dtype=dtype)
    return feeds


SHAPES = {
    "cell": None,
    "lone": {},
    "two": {"num_layers": 2},
    "both-ways": {"bidirectional": True, "batch_first": True},
    "both-ways-two": {"bidirectional": True, "num_layers": 2, "dropout": 0.5},
    "summed": {"bidirectional": True, "num_layers": 2, "merge": "sum"},
}
CASES = [(name, "cell" if name in ("GRU", "LSTM-peephole") else "both-ways-two") for name in WRITTEN]
CASES += [(name, shape) for name in ("Elman", "GRU-after", "LSTM") for shape in SHAPES]


@pytest.mark.parametrize("given", [set(), {"lengths", "state"}], ids=["plain", "lengths-and-states"])
@pytest.mark.parametrize(("name", "shape"), dict.fromkeys(CASES))
def test_onnxruntime_computes_what_was_written(runtime, name, shape, given, tmp_path):
    rng = np.random.default_rng(0)
    make = WRITTEN[name]
    if shape == "cell":
        module = make(I, rng=rng)
        layers = [[module]]
    else:
        module = RNN(lambda n: make(n, rng=rng), input_size=I, **SHAPES[shape]).eval()
        layers = module.cells
    module.eval()
    options = {k: k in given for k in ("lengths", "state")}
    path = tmp_path / "module.onnx"
    interop.save(module, path, **options)
    feeds = feeds_of(module, layers, **options)
    expected = run_ours(module, feeds, layers)
    theirs = run_by(runtime, onnx.load(path), feeds)
    again = interop.load(path)(**feeds)
    assert list(theirs) == list(again) == list(expected)
    for k, v in expected.items():
        np.testing.assert_allclose(theirs[k], v, rtol=0, atol=1e-6, err_msg=k)
        np.testing.assert_allclose(again[k], v, rtol=0, atol=1e-6, err_msg=k)


@pytest.mark.parametrize("name", WRITTEN)
def test_what_was_written_is_read_back_in_float64(name, tmp_path):
    rng = np.random.default_rng(0)
    module = RNN(lambda n: WRITTEN[name](n, dtype="float64", rng=rng), 2, input_size=I, bidirectional=True).eval()
    interop.save(module, tmp_path / "module.onnx", lengths=True, state=True)
    feeds = feeds_of(module, module.cells, lengths=True, state=True, dtype="float64")
    got = interop.load(tmp_path / "module.onnx")(**feeds)
    # a clip and activation parameters are float32 in ONNX
    tolerance = 1e-7 if "clip" in name else 1e-14
    for k, v in run_ours(module, feeds, module.cells).items():
        np.testing.assert_allclose(got[k], v, rtol=0, atol=tolerance, err_msg=k)


def test_a_residual_stack_is_written_without_lengths():
    rnn = RNN(GRU(H, H, rng=0), 2, residual=True, batch_first=True)
    feeds = feeds_of(rnn, rnn.cells, lengths=False, state=False)
    got = interop.load(interop.to_model(rnn))(**feeds)
    np.testing.assert_allclose(got["Y"], rnn(feeds["X"])[0].data, rtol=0, atol=1e-6)
    with pytest.raises(interop.CannotExpressError, match="residual=True would add to a row's outputs, behind its end"):
        interop.to_model(rnn, lengths=True)


def test_layers_of_different_cells_are_written():
    """In one direction or both: some with bias or peepholes, some without, each layer another operator and width."""
    made = iter([
        LSTM(I, 4, rng=0, bias=False), LSTM(I, 4, rng=1, peephole="diagonal"),
        GRU(8, 3, rng=2, bias=False, reset="after"), GRU(8, 3, rng=3, reset="after", activation=tr.relu),
        Elman(6, 5, rng=4, activation=tr.sigmoid), Elman(6, 5, rng=5, activation=interop.Activation("LeakyRelu", 0.2)),
    ])  # fmt: skip
    rnn = RNN(lambda n: next(made), 3, input_size=I, bidirectional=True)
    feeds = {"X": normal(T, B, I), "sequence_lens": np.array([2, 0, 5, 3], np.int32)}
    got = interop.load(interop.to_model(rnn, lengths=True))(**feeds)
    np.testing.assert_allclose(got["Y"], rnn(feeds["X"], lengths=feeds["sequence_lens"])[0].data, rtol=0, atol=1e-6)


class OwnForward(RNN):
    """A stack that does otherwise than its class."""

    def forward(self, xs, state=None, **options):
        ys, state = super().forward(xs, state, **options)
        return 2 * ys, state


class OwnStep(Elman):
    """A cell derived from one that can be written, which steps otherwise."""

    def step(self, x, h):
        return 0.5 * super().step(x, h)


def swish(x):
    return x * tr.sigmoid(x)


REFUSED = [
    (lambda: OwnStep(I, H), "ONNX can not express OwnStep: its step is its own"),
    (lambda: tr.cells.Additive(I, H), "can not express Additive: it adds to its state"),
    (lambda: tr.cells.SelectiveWrite(I, H), "SelectiveWrite: it carries its output gate"),
    (lambda: tr.cells.SelectiveRead(I, H), "SelectiveRead: it has no forget gate"),
    (lambda: tr.cells.MUT1(I, H), "MUT1: its gates see"),
    (lambda: tr.cells.LayerNormLSTM(I, H), "LayerNormLSTM: it normalises"),
    (lambda: tr.cells.Zoneout(LSTM(I, H), 0.1), "Zoneout: it mixes old states"),
    (lambda: tr.cells.RecurrentDropout(tr.cells.LearnedState(GRU(I, H)), 0.1), "LearnedState: its first states"),
    (lambda: Elman(I, H, activation=swish), "this Elman: its activation, swish, is not one of ONNX's .*Softplus"),
    (lambda: LSTM(I, H, projection=2), "this LSTM: its projection=2 narrows h"),
    (lambda: LSTM(I, H, peephole="full"), 'this LSTM: its peephole="full"'),
    (lambda: LSTM(I, H, peephole="diagonal", cells_per_block=2), "this LSTM: its blocks of cells"),
    (lambda: LSTM(I, H, coupled="output", peephole="diagonal"), "this LSTM: its o = 1 - i sees c"),
    (lambda: LSTM(I, H, coupled="input", gate_activation=tr.tanh), r"this LSTM: its i = 1 - f, and 1 - Tanh\(a\)"),
    (lambda: GRU(I, H, gate_activation=tr.relu), r"this GRU: its z says how much is new, and 1 - Relu\(a\)"),
    (lambda: GRU(I, H, activation=interop.Activation("Tanh", clip=1)), "this GRU: its activations clip differently"),
    (lambda: tr.cells.LectureLSTM(I, H, reads="s"), "this LectureLSTM: its gates, with reads"),
    (lambda: tr.cells.Odyssey(I, H, variant="NIG"), 'this Odyssey: its variant "NIG" has no input gate'),
    (lambda: tr.cells.Odyssey(I, H, variant="FGR"), "this Odyssey: its gates, with variant"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_a_cell_that_onnx_can_not_express_is_named_with_the_reason(make, message, tmp_path):
    path = tmp_path / "cell.onnx"
    path.write_bytes(b"before")
    for module in (make(), RNN(make())):
        with pytest.raises(interop.CannotExpressError, match=message):
            interop.save(module, path)
    assert path.read_bytes() == b"before"


def test_directions_of_one_layer_must_be_of_one_operator():
    cells = iter([GRU(I, H), GRU(I, H, reset="after")])
    rnn = RNN(lambda n: next(cells), input_size=I, bidirectional=True)
    with pytest.raises(interop.CannotExpressError, match=r"this GRU: beside a GRU.* in the other direction"):
        interop.to_model(rnn)
    with pytest.raises(interop.CannotExpressError, match="ONNX can not express OwnForward: it runs its cells in a way"):
        interop.to_model(OwnForward(GRU(I, H)))
    with pytest.raises(TypeError, match=r"module must be a tr.Cell or a tr.nn.RNN, got Linear"):
        interop.to_model(tr.nn.Linear(I, H))


# -- bad input ---------------------------------------------------------------------------------------------------------


def node(op="RNN", inputs=("X", "W", "R"), outputs=("Y",), **attributes):
    return [helper.make_node(op, inputs, outputs, name="it", **attributes)]


X_ONLY, Y_ONLY = {"X": ["time", "batch", I]}, {"Y": 4}
MODELS = [
    ({"nodes": [helper.make_node("Softmax", ["X"], ["Y"], name="s")]}, r"node 's' \(Softmax\) can not be run here"),
    (
        {"nodes": [helper.make_node("LSTM", ["X"], ["Y"], name="s", domain="mine")]},
        r"node 's' \(LSTM\) of the domain mine",
    ),
    ({"opset": 6}, r"node 'it' \(RNN\) must be as of opset 7 to 22, got 6"),
    (
        {"nodes": node(direction="up")},
        r"direction of node 'it' \(RNN\) must be forward or reverse or bidirectional, got 'up'",
    ),
    ({"nodes": node(layout=2)}, r"layout of node 'it' \(RNN\) must be 0 or 1, got 2"),
    ({"nodes": node(activations=["Swish"])}, r"node 'it' \(RNN\): an activation must be one of Relu, .*, got 'Swish'"),
    ({"nodes": node(activations=["Affine"])}, r"node 'it' \(RNN\): the activation Affine needs alpha"),
    ({"nodes": node(activations=["Relu"] * 3)}, r"activations of node 'it' \(RNN\) must be 1, got 3: Relu, Relu, Relu"),
    ({"nodes": node(activation_alpha=[0.1, 0.2])}, r"activation_alpha of node 'it' \(RNN\) must be at most 1 numbers"),
    ({"nodes": node(clip=0.0)}, r"node 'it' \(RNN\): clip must be above 0, got 0.0"),
    ({"nodes": node(hidden_size=9)}, r"W of node 'it' \(RNN\) must be of shape \(1, 9, 3\) .* got \(1, 4, 3\)"),
    ({"nodes": node("GRU")}, r"W of node 'it' \(GRU\) must be of shape \(1, 12, 3\) for 1 direction, hidden_size 4"),
    ({"nodes": node(direction="bidirectional")}, r"W of .* must be of shape \(2, 4, 3\) for 2 directions"),
    ({"held": HELD | {"R": normal(1, H, 2)}}, r"W of node 'it' \(RNN\) must be of shape \(1, 2, 3\)"),
    (
        {"held": HELD | {"R": HELD["R"].astype("float64")}},
        r"R of .* must be float32 or float64 like W, which is float32",
    ),
    ({"held": {k: v.astype("float16") for k, v in HELD.items()}}, "W of .* must be float32 or float64 .* got float16"),
    ({"nodes": node(inputs=("Z", "W", "R"))}, "is not a valid ONNX model: .*Z"),
    ({"nodes": node(mystery=1)}, "is not a valid ONNX model: .*mystery"),
    ({"outputs": {"Z": 4}}, "the graph's output 'Z' is made by no node"),
    ({"nodes": []}, "is not an ONNX model, or its graph has no nodes"),
]


@pytest.mark.parametrize(("changes", "message"), MODELS)
def test_a_model_that_can_not_be_run_is_refused(changes, message):
    model = graph_of(**({"nodes": node(), "inputs": X_ONLY, "outputs": Y_ONLY, "held": HELD} | changes))
    with pytest.raises((ValueError, TypeError), match=message):
        interop.load(model)


def test_a_file_that_is_no_model_is_refused(tmp_path):
    path = tmp_path / "some.onnx"
    with pytest.raises(FileNotFoundError):
        interop.load(path)
    path.write_bytes(b"\xff\xfe no model")
    with pytest.raises(ValueError, match=r"some\.onnx is not an ONNX model"):
        interop.load(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is not an ONNX model, or its graph has no nodes"):
        interop.load(path)
    with pytest.raises(TypeError, match=r"path_or_model must be a path or an onnx.ModelProto, got int"):
        interop.load(3)


CALLS = [
    ({"X": None}, TypeError, "the graph needs X, lengths, h; missing: X"),
    ({"Z": FEEDS["h"]}, TypeError, "the graph has no input 'Z'; its inputs are X, lengths, h"),
    ({"X": FEEDS["X"].astype("float64")}, TypeError, "X must be float32, got float64"),
    ({"X": tr.tensor(FEEDS["X"], dtype="float64")}, TypeError, "X must be float32, got float64"),
    ({"X": "abc"}, TypeError, "X must be an array of float32, got str"),
    ({"X": FEEDS["X"][0]}, ValueError, r"X must be of shape \(time, batch, 3\), got \(4, 3\)"),
    ({"X": FEEDS["X"][:, :, :2]}, ValueError, r"X must be of shape \(time, batch, 3\), got \(5, 4, 2\)"),
    (
        {"h": FEEDS["h"][:, :3]},
        ValueError,
        r"initial_h of node 'rnn' \(RNN\) must be of shape \(1, 4, 4\), got \(1, 3, 4\)",
    ),
    ({"lengths": np.ones(B, "float32")}, TypeError, "lengths must be int32, got float32"),
    ({"lengths": [1.0, 2.0]}, TypeError, "lengths must be an array of int32, got list"),
    ({"lengths": [1, 2]}, ValueError, r"sequence_lens of node 'rnn' \(RNN\) must be of shape \(4,\), got \(2,\)"),
    (
        {"lengths": [1, 2, 3, 6]},
        ValueError,
        r"sequence_lens of node 'rnn' \(RNN\) must lie in 0\.\.5, the steps of X, got 6",
    ),
    ({"lengths": [1, -2, 3, 4]}, ValueError, r"sequence_lens of node 'rnn' .* got -2"),
]


@pytest.mark.parametrize(("changes", "error", "message"), CALLS)
def test_a_call_is_refused(changes, error, message):
    feeds = {k: v for k, v in (FEEDS | changes).items() if v is not None}
    with pytest.raises(error, match=message):
        interop.load(lone())(**feeds)


def test_shapes_that_the_graph_does_not_declare_are_checked_by_the_node():
    loose = {"X": [None] * 3, "lengths": lengths_info(), "h": [None] * 3, "W": [None] * 3}
    model = interop.load(lone(inputs=loose, held={"R": HELD["R"]}))
    with pytest.raises(
        ValueError, match=r"X of node 'rnn' \(RNN\) must be of shape \(time, batch, 3\), got \(5, 4, 2\)"
    ):
        model(**FEEDS | {"X": FEEDS["X"][:, :, :2]}, W=HELD["W"])
    with pytest.raises(ValueError, match=r"W of node 'rnn' \(RNN\) must be of shape \(1, 4, 3\) .* got \(1, 5, 3\)"):
        model(**FEEDS, W=normal(1, 5, 3))
    moved = graph_of(
        [helper.make_node("Squeeze", ["x"], ["y"], name="q", axes=[0])], {"x": [None] * 2}, {"y": 1}, opset=9
    )
    with pytest.raises(
        ValueError, match=r"node 'q' \(Squeeze\) can not be run on x \(3, 1\): axes \[0\] must be of size 1"
    ):
        interop.load(moved)(x=np.zeros((3, 1), "float32"))


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    for call in (lambda: interop.load("some.onnx"), lambda: interop.to_model(Elman(I, H))):
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'tinyrnn\[onnx\]'"):
            call()


def test_importing_the_module_does_not_import_onnx():
    code = "import tinyrnn.interop.onnx, sys; sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "error", "-I", "-c", code]).returncode == 0
