"""Bad calls of Tensors, ops, losses, gradients: rows as `bad_input` has them."""

import numpy as np
from bad_input import I

import tinyrnn as tr

UNARY = "abs exp log neg relu sigmoid sign softplus sqrt square tanh".split()  # noqa: SIM905
BINARY = "add div greater maximum minimum mul pow sub".split()  # noqa: SIM905
NUMBERS = "a Tensor, an array or a number"
FLOATS = "float32 or float64"


def rows():
    for name in UNARY:
        op = getattr(tr, name)
        yield f"tr.{name}", lambda w, op=op: op("a"), TypeError, "operand", NUMBERS, "got str"
        yield f"tr.{name}", lambda w, op=op: op(w.x, w.x), TypeError, op.name, "takes 1", "got 2"
        yield f"tr.{name}", lambda w, op=op: op(np.array(["a"])), TypeError, "data", "numbers", "got str"
    for name in [*BINARY, "where", "fma"]:
        op, more = getattr(tr, name), (1,) * (name in ("where", "fma"))
        yield f"tr.{name}", lambda w, op=op, m=more: op(*m, w.x, None), TypeError, "operand", NUMBERS, "got NoneType"
        yield f"tr.{name}", lambda w, op=op, m=more: op(*m, w.x, w.x[:2]), ValueError, op.name, "(3, 4)", "(2, 4)"
        yield f"tr.{name}", lambda w, op=op, m=more: op(*m, w.x, w.d), TypeError, op.name, "one dtype", "float64"
        yield f"tr.{name}", lambda w, op=op: op(w.x), TypeError, op.name, "arguments", "got 1"
    yield from TENSORS
    yield from SHAPES
    yield from REDUCTIONS
    yield from LOSSES
    yield from GRADIENTS


TENSORS = [
    ("tr.tensor", lambda w: tr.tensor("abc"), TypeError, "data", "numbers", "(str)"),
    ("tr.tensor", lambda w: tr.tensor([[1], [1, 2]]), ValueError, "data", "rectangular array", "inhomogeneous"),
    ("tr.tensor", lambda w: tr.tensor(1j), TypeError, "data", "numbers", "complex128"),
    ("tr.tensor", lambda w: tr.tensor([1], dtype="int32"), TypeError, "dtype", FLOATS, "'int32'"),
    ("tr.tensor", lambda w: tr.tensor([1], dtype="float16"), TypeError, "dtype", FLOATS, "'float16'"),
    ("tr.tensor", lambda w: tr.tensor([1], device="gpu"), ValueError, "device", "'cpu'", "'cuda'"),
    ("tr.tensor", lambda w: tr.tensor([1], device="cuda:1"), ValueError, "device", "one GPU", "'cuda:1'"),
    ("tr.from_dlpack", lambda w: tr.from_dlpack([1.0]), TypeError, "x must", "__dlpack__", "got list"),
    ("tr.from_dlpack", lambda w: tr.from_dlpack(np.zeros(2, int)), TypeError, "dtype", FLOATS, "int64"),
    ("tr.Tensor.to", lambda w: w.x.to("gpu"), ValueError, "device", "'cpu'", "'gpu'"),
    ("tr.Module.to", lambda w: tr.nn.Linear(2, 3).to("gpu"), ValueError, "device", "'cpu'", "'gpu'"),
    ("tr.Tensor", lambda w: tr.Tensor(None), TypeError, "data", "numbers", "NoneType"),
    ("tr.Parameter", lambda w: tr.Parameter("a"), TypeError, "data", "numbers", "(str)"),
    ("tr.Parameter", lambda w: tr.Parameter([1.0], "int8"), TypeError, "dtype", FLOATS, "'int8'"),
    ("tr.Tensor.item", lambda w: w.x.item(), ValueError, "item()", "one element", "(3, 4)"),
    ("tr.Tensor.astype", lambda w: w.x.astype("int32"), TypeError, "dtype", FLOATS, "'int32'"),
    ("tr.Tensor.data", lambda w: setattr(w.x, "data", np.zeros(3)), ValueError, "data", "(3, 4)", "got (3,)"),
    ("tr.Tensor.grad", lambda w: setattr(w.x, "grad", np.ones(3)), TypeError, "grad", "Tensor or None", "got ndarray"),
    ("tr.Tensor.grad", lambda w: setattr(w.x, "grad", w.d), ValueError, "grad", "(3, 4) float32", "float64"),
    ("tr.Tensor.name", lambda w: setattr(w.x, "name", 3), TypeError, "name", "a str or None", "got int"),
    ("tr.Tensor.requires_grad", lambda w: setattr(w.x * 2, "requires_grad", False), RuntimeError, "requires_grad",
     "a leaf", "the result of mul"),
    ("tr.astype", lambda w: tr.astype(w.x, "int32"), TypeError, "dtype", FLOATS, "'int32'"),
    ("tr.astype", lambda w: tr.astype(w.x, None), TypeError, "dtype", FLOATS, "None"),
    ("tr.astype", lambda w: tr.astype("a", "float32"), TypeError, "x must", NUMBERS, "got str"),
    ("tr.stop_gradient", lambda w: tr.stop_gradient("a"), TypeError, "operand", NUMBERS, "got str"),
    ("tr.probe", lambda w: tr.probe(3, w.x), TypeError, "name", "a str", "got int"),
    ("tr.probe", lambda w: tr.probe("f", 3), TypeError, "value", "a Tensor", "got str and int"),
    ("tr.set_num_threads", lambda w: tr.set_num_threads(0), ValueError, "n must", "positive int", "got 0"),
    ("tr.set_precision", lambda w: tr.set_precision("fp8"), ValueError, "precision must", "float32, tf32, bf16", "fp8"),
    ("tr.set_num_threads", lambda w: tr.set_num_threads(1.5), ValueError, "n must", "positive int", "got 1.5"),
]  # fmt: skip
SHAPES = [
    ("tr.Tensor.reshape", lambda w: w.x.reshape(5), ValueError, "shape", "(5,)", "(3, 4)"),
    ("tr.reshape", lambda w: tr.reshape(w.x, (-1, -1)), ValueError, "shape", "12 elements", "(-1, -1)"),
    ("tr.reshape", lambda w: tr.reshape(w.x, (3.9, 4)), ValueError, "shape", "ints", "(3.9, 4)"),
    ("tr.reshape", lambda w: tr.reshape("a", 1), TypeError, "x must", NUMBERS, "got str"),
    ("tr.Tensor.transpose", lambda w: w.x.transpose(0), ValueError, "axes", "each of the 2 axes", "(0,)"),
    ("tr.transpose", lambda w: tr.transpose(w.x, (0, 2)), ValueError, "axes", "-2..1", "(0, 2)"),
    ("tr.transpose", lambda w: tr.transpose(w.x, (0, 0)), ValueError, "axes", "not name an axis twice", "(0, 0)"),
    ("tr.transpose", lambda w: tr.transpose(w.x, "ab"), ValueError, "axes", "ints", "'ab'"),
    ("tr.broadcast_to", lambda w: tr.broadcast_to(w.x, (5,)), ValueError, "shape", "(5,)", "(3, 4)"),
    ("tr.broadcast_to", lambda w: tr.broadcast_to(w.x, (2.5, 3, 4)), ValueError, "shape", "ints", "2.5"),
    ("tr.concat", lambda w: tr.concat([]), ValueError, "concat", "one or more tensors", "got none"),
    ("tr.concat", lambda w: tr.concat(w.x), ValueError, "concat", "a list", "got Tensor"),
    ("tr.concat", lambda w: tr.concat([w.x, w.x[0]]), ValueError, "concat", "one rank", "(4,)"),
    ("tr.concat", lambda w: tr.concat([w.x, w.x[:, :2]]), ValueError, "concat", "agree", "(3, 2)"),
    ("tr.concat", lambda w: tr.concat([w.x, w.d]), TypeError, "concat", "one dtype", "float64"),
    ("tr.concat", lambda w: tr.concat([w.x], axis=2), ValueError, "axis", "-2..1", "got 2"),
    ("tr.concat", lambda w: tr.concat([w.x], axis=1.0), ValueError, "axis", "an int", "got 1.0"),
    ("tr.stack", lambda w: tr.stack([]), ValueError, "stack", "one or more tensors", "got none"),
    ("tr.stack", lambda w: tr.stack([w.x, w.x[0]]), ValueError, "stack", "one shape", "(4,)"),
    ("tr.stack", lambda w: tr.stack([w.x, w.d]), TypeError, "stack", "one dtype", "float64"),
    ("tr.stack", lambda w: tr.stack([w.x], axis=4), ValueError, "axis", "-3..2", "got 4"),
    ("tr.split", lambda w: tr.split(w.x, 2), ValueError, "sections", "divide the 3", "got 2"),
    ("tr.split", lambda w: tr.split(w.x, [1.5]), ValueError, "sections", "ints", "[1.5]"),
    ("tr.split", lambda w: tr.split(w.x, 1, axis=2), ValueError, "axis", "-2..1", "got 2"),
    ("tr.getitem", lambda w: tr.getitem(w.x, 5), IndexError, "index [5]", "(3, 4)", "out of bounds"),
    ("tr.getitem", lambda w: w.x[0, 0, 0], IndexError, "index [0, 0, 0]", "(3, 4)", "3 were indexed"),
    ("tr.getitem", lambda w: w.x["a"], IndexError, "index ['a']", "integers, slices", "(3, 4)"),
    ("tr.getitem", lambda w: w.x[w.y], TypeError, "index", "ints, slices", "got a Tensor"),
    ("tr.getitem", lambda w: w.x[np.zeros(5, bool)], IndexError, "index [ndarray (5,)]", "size of axis is 3", "is 5"),
    ("tr.take", lambda w: tr.take(w.x, [3]), IndexError, "indices", "0..2", "got 3"),
    ("tr.take", lambda w: tr.take(w.x, [-1]), IndexError, "indices", "0..2", "got -1"),
    ("tr.take", lambda w: tr.take(w.x, [0.5]), TypeError, "indices", "integers", "float64"),
    ("tr.take", lambda w: tr.take(w.x, [[0], [0, 1]]), ValueError, "indices", "rectangular", "ragged list"),
    ("tr.take", lambda w: tr.take(1.0, [0]), ValueError, "table", "at least one axis", "()"),
    ("tr.matmul", lambda w: tr.matmul(w.x, w.x), ValueError, "matmul", "inner sizes that agree", "(3, 4) @ (3, 4)"),
    ("tr.matmul", lambda w: tr.matmul(w.x, 2.0), ValueError, "matmul", "at least one axis", "()"),
    ("tr.matmul", lambda w: w.x @ w.d.T, TypeError, "matmul", "one dtype", "float64"),
    ("tr.matmul", lambda w: w.x @ "a", TypeError, "operand", NUMBERS, "got str"),
    ("tr.matmul", lambda w: tr.matmul(np.ones((2, 3, 4)), np.ones((3, 4, 5))), ValueError, "matmul", "broadcast",
     "(2, 3, 4) @ (3, 4, 5)"),
]  # fmt: skip
AXIS = ["tr.sum", "tr.mean", "tr.max", "tr.Tensor.sum", "tr.Tensor.mean", "tr.Tensor.max"]
REDUCTIONS = [
    row
    for entry in AXIS
    for method in [entry.rpartition(".")[2]]
    for reduce in [lambda x, *a, m=method, bound="Tensor" in entry: getattr(x if bound else tr, m)(*[x][bound:], *a)]
    for row in (
        (entry, lambda w, f=reduce: f(w.x, 2), ValueError, "axis", "-2..1", "got 2"),
        (entry, lambda w, f=reduce: f(w.x, (0, 0)), ValueError, "axis", "not name an axis twice", "(0, 0)"),
        (entry, lambda w, f=reduce: f(w.x, 0.5), ValueError, "axis", "an int", "0.5"),
        (entry, lambda w, f=reduce: f(w.x, True), ValueError, "axis", "an int", "True"),
    )
] + [
    ("tr.sum", lambda w: tr.sum("a"), TypeError, "x must", NUMBERS, "got str"),
    ("tr.mean", lambda w: tr.mean(None), TypeError, "x must", NUMBERS, "got NoneType"),
    ("tr.max", lambda w: tr.max(np.zeros((0, 3))), ValueError, "axis None", "undefined", "(0, 3)"),
    ("tr.softmax", lambda w: tr.softmax(w.x, axis=2), ValueError, "axis", "-2..1", "got 2"),
    ("tr.softmax", lambda w: tr.softmax(np.zeros((2, 0))), ValueError, "axis -1", "undefined", "(2, 0)"),
    ("tr.log_softmax", lambda w: tr.log_softmax(w.x, axis="a"), ValueError, "axis", "an int", "'a'"),
    ("tr.layer_norm", lambda w: tr.layer_norm(1.0), ValueError, "x of", "at least one axis", "()"),
    ("tr.layer_norm", lambda w: tr.layer_norm(w.x, np.ones(3)), ValueError, "weight", "(4,)", "(3,)"),
    ("tr.layer_norm", lambda w: tr.layer_norm(w.x, w.d[0]), TypeError, "weight", "float32", "float64"),
    ("tr.layer_norm", lambda w: tr.layer_norm(w.x, None, np.ones((4, 1))), ValueError, "bias", "(4,)", "(4, 1)"),
    ("tr.layer_norm", lambda w: tr.layer_norm(w.x, eps=-1.0), ValueError, "eps", ">= 0", "-1.0"),
    ("tr.layer_norm", lambda w: tr.layer_norm(w.x, eps=float("nan")), ValueError, "eps", "finite", "nan"),
    ("tr.dropout", lambda w: tr.dropout(w.x, 1.0, w.rng), ValueError, "p must", "[0, 1)", "1.0"),
    ("tr.dropout", lambda w: tr.dropout(w.x, "a", w.rng), TypeError, "p must", "a number in [0, 1)", "'a'"),
    ("tr.dropout", lambda w: tr.dropout(w.x, 0.5, 3), TypeError, "rng", "numpy.random.Generator", "got 3"),
    ("tr.dropout", lambda w: tr.dropout("a", 0.5, w.rng), TypeError, "x must", NUMBERS, "got str"),
]  # fmt: skip
PAIRS = ["mse_loss", "binary_cross_entropy_with_logits"]
LOSSES = [
    ("tr.cross_entropy", lambda w: tr.cross_entropy(w.x[0], [0]), ValueError, "logits", "(N, C)", "(4,)"),
    ("tr.cross_entropy", lambda w: tr.cross_entropy("a", [0]), TypeError, "logits", NUMBERS, "got str"),
    ("tr.cross_entropy", lambda w: tr.cross_entropy(w.x, [0, 1]), ValueError, "targets", "(3,)", "(2,)"),
    ("tr.cross_entropy", lambda w: tr.cross_entropy(w.x, [0, 1, 4]), ValueError, "targets", "0..3", "0..4"),
    ("tr.cross_entropy", lambda w: tr.cross_entropy(w.x, [0, 1, -1]), ValueError, "targets", "0..3", "-1"),
    ("tr.cross_entropy", lambda w: tr.cross_entropy(w.x, [0.0, 1, 2]), TypeError, "targets", "integers", "float64"),
    ("tr.cross_entropy", lambda w: tr.cross_entropy(w.x, [0, 1, 2], "avg"), ValueError, "reduction", "'mean', 'sum'",
     "'avg'"),
    ("tr.cross_entropy", lambda w: tr.cross_entropy(w.x[:0], []), ValueError, "logits", "one element or more",
     "(0, 4)"),
] + [
    row
    for name, first, second in (("mse_loss", "pred", "target"), (PAIRS[1], "logits", "targets"))
    for loss in [getattr(tr, name)]
    for row in (
        (f"tr.{name}", lambda w, f=loss: f(w.x, w.x[0]), ValueError, first, "one shape", "(4,)"),
        (f"tr.{name}", lambda w, f=loss: f(w.x, w.d), TypeError, second, "one dtype", "float64"),
        (f"tr.{name}", lambda w, f=loss: f(w.x, "a"), TypeError, second, "numbers (3, 4)", "got str"),
        (f"tr.{name}", lambda w, f=loss: f("a", w.x), TypeError, first, NUMBERS, "got str"),
        (f"tr.{name}", lambda w, f=loss: f(w.x, w.y, None), ValueError, "reduction", "'mean', 'sum'", "None"),
        (f"tr.{name}", lambda w, f=loss: f(w.x[:0], w.y[:0]), ValueError, first, "one element or more", "(0, 4)"),
    )
] + [
    (f"tr.{PAIRS[1]}", lambda w: getattr(tr, PAIRS[1])(w.x, w.y + 1.0), ValueError, "targets", "[0, 1]", "got 2.0"),
    (f"tr.{PAIRS[1]}", lambda w: getattr(tr, PAIRS[1])(w.x, w.y * float("nan")), ValueError, "targets", "[0, 1]",
     "got nan"),
]  # fmt: skip
GRADIENTS = [
    ("tr.Tensor.backward", lambda w: (w.x * 2).backward(), RuntimeError, "gradient", "must be given", "(3, 4)"),
    ("tr.Tensor.backward", lambda w: (w.x * 2).backward(np.ones(3)), ValueError, "gradient", "(3, 4)", "got (3,)"),
    ("tr.Tensor.backward", lambda w: (w.x * 2).backward(w.d), ValueError, "gradient", "float32", "got (3, 4) float64"),
    ("tr.Tensor.backward", lambda w: w.y.sum().backward(), RuntimeError, "()", "requires a gradient", "does not"),
    ("tr.grad", lambda w: tr.grad("a", w.x), TypeError, "outputs", "Tensors", "got str"),
    ("tr.grad", lambda w: tr.grad(3, w.x), TypeError, "outputs", "Tensors", "got int"),
    ("tr.grad", lambda w: tr.grad([], w.x), ValueError, "outputs", "one Tensor or more", "none"),
    ("tr.grad", lambda w: tr.grad(w.x.sum(), None), TypeError, "inputs", "Tensors", "got NoneType"),
    ("tr.grad", lambda w: tr.grad(w.x.sum(), w.y), RuntimeError, "inputs[0]", "require a gradient", "(3, 4)"),
    ("tr.grad", lambda w: tr.grad([w.x.sum()], w.x, [1, 2]), ValueError, "grad_outputs", "each of the 1", "got 2"),
    ("tr.grad", lambda w: tr.grad([w.x.sum()], w.x, 3.0), TypeError, "grad_outputs", "a list", "got float"),
    ("tr.gradcheck", lambda w: tr.gradcheck(3, w.d), TypeError, "fn", "a function or a Module", "got int"),
    ("tr.gradcheck", lambda w: tr.gradcheck(tr.tanh, w.x), TypeError, "inputs[0]", "float64", "float32"),
    ("tr.gradcheck", lambda w: tr.gradcheck(tr.tanh, ("a",)), TypeError, "inputs[0]", "array of numbers", "got str"),
    ("tr.gradcheck", lambda w: tr.gradcheck(tr.tanh, 1j * np.ones(2)), TypeError, "inputs[0]", "real", "complex128"),
    ("tr.gradcheck", lambda w: tr.gradcheck(tr.tanh, ()), ValueError, "an input", "real numbers", "neither"),
    ("tr.gradcheck", lambda w: tr.gradcheck(w.linear, np.ones((2, I))), TypeError, "W is", "float64", "float32"),
    ("tr.gradcheck", lambda w: tr.gradcheck(lambda x: 3, w.d), TypeError, "fn must return", "a Tensor", "int"),
    ("tr.gradcheck", lambda w: tr.gradcheck(tr.tanh, w.d, order=3), ValueError, "order", "1 or 2", "got 3"),
    ("tr.gradcheck", lambda w: tr.gradcheck(tr.tanh, w.d, eps=0.0), ValueError, "eps", "positive", "got 0.0"),
    ("tr.gradcheck", lambda w: tr.gradcheck(tr.tanh, w.d, rtol="a"), TypeError, "rtol", "number", "'a'"),
    ("tr.gradcheck", lambda w: tr.gradcheck(tr.tanh, w.d, directions=0), ValueError, "directions", "positive int",
     "got 0"),
    ("tr.hvp", lambda w: tr.hvp(3, w.x, w.x), TypeError, "loss_fn", "a function", "got int"),
    ("tr.hvp", lambda w: tr.hvp(lambda: w.x * w.x, w.x, w.x), ValueError, "loss_fn", "one element", "(3, 4)"),
    ("tr.hvp", lambda w: tr.hvp(lambda: w.x.sum(), 3, w.x), TypeError, "params", "Tensors", "got int"),
    ("tr.hvp", lambda w: tr.hvp(lambda: w.x.sum(), [w.y], w.x), ValueError, "params", "require gradients", "number 0"),
    ("tr.hvp", lambda w: tr.hvp(lambda: w.x.sum(), w.x, w.x[0]), ValueError, "v must", "(3, 4)", "got (4,)"),
    ("tr.hvp", lambda w: tr.hvp(lambda: w.x.sum(), w.x, "a"), TypeError, "v must", "array of numbers", "got str"),
    ("tr.jvp", lambda w: tr.jvp(3, w.x, w.x), TypeError, "fn", "a function", "got int"),
    ("tr.jvp", lambda w: tr.jvp(tr.tanh, w.x, w.x[0]), ValueError, "tangents", "(3, 4)", "got (4,)"),
    ("tr.jvp", lambda w: tr.jvp(tr.tanh, (w.x,), (w.x, w.x)), ValueError, "tangents", "1, one for each", "got 2"),
    ("tr.jvp", lambda w: tr.jvp(lambda x: 3, w.x, w.x), TypeError, "fn must return", "a Tensor", "int"),
]  # fmt: skip
