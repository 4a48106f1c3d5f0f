"""Bad calls of optimisers, initial values, files, data and other libraries: rows as `bad_input` has them."""

from datetime import date

import numpy as np
from bad_input import F, H, I, Unkept, Wider

import tinyrnn as tr
from tinyrnn import data as D  # noqa: N812

P, N, S = tr.optim, tr.init, tr.files
ONNX, TORCH = tr.interop.onnx, tr.interop.torch
PATH = "a str or a path"
GENERATOR = "numpy.random.Generator"


def rows():
    for kind in (P.SGD, P.RMSprop, P.Adam, P.AdamW, P.Optimizer):
        yield from of_optimiser(kind)
    for name in ("zeros", "constant", "uniform", "normal", "glorot", "orthogonal", "identity"):
        yield from of_initialiser(name)
    for name in DRAWN:
        yield f"tr.data.{name}", lambda w, n=name: getattr(D, n)(3, **DRAWN[n]), TypeError, "rng", GENERATOR, "got 3"
    yield from OPTIMISERS
    yield from CLIPPING
    yield from VALUES
    yield from FILES
    yield from DATA
    yield from OTHERS


def of_optimiser(kind):
    entry, more = f"tr.optim.{kind.__name__}", ((),) * (kind is P.Optimizer)
    make = lambda p, lr=0.1, **k: kind(p, lr, *more, **k)  # noqa: E731
    yield entry, lambda w: make(3), TypeError, "params", "Tensors", "got a int"
    yield entry, lambda w: make(w.x), TypeError, "params", "Tensors", "got a Tensor"
    yield entry, lambda w: make([w.h]), TypeError, "params", "Tensors", "got a ndarray"
    yield entry, lambda w: make([]), ValueError, "params", "at least one parameter", "got none"
    yield entry, lambda w: make([w.x, w.x]), ValueError, "params", "different", "twice"
    yield entry, lambda w: make([w.y]), ValueError, "params[0]", "a leaf that requires a gradient", "without gradient"
    yield entry, lambda w: make([w.x * 2]), ValueError, "params[0]", "a leaf", "the result of mul"
    yield entry, lambda w: make([w.x], -1), ValueError, "lr", ">= 0", "-1"
    yield entry, lambda w: make([w.x], "a"), TypeError, "lr", "a number", "'a'"
    yield entry, lambda w: make([w.x], float("nan")), ValueError, "lr", "finite", "nan"
    if kind is not P.Optimizer:
        yield entry, lambda w: make([w.x], weight_decay=-1), ValueError, "weight_decay", ">= 0", "-1"


def of_initialiser(name):
    make, entry = getattr(N, name), f"tr.init.{name}"
    yield entry, lambda w: make(w.rng, (2, -1), F), ValueError, "shape", "ints >= 0", "(2, -1)"
    yield entry, lambda w: make(w.rng, 3, F), ValueError, "shape", "a tuple of ints", "got 3"
    yield entry, lambda w: make(w.rng, (2, 2), "int"), TypeError, "dtype", "float32 or float64", "'int'"
    if name in ("glorot", "orthogonal", "identity"):
        yield entry, lambda w: make(w.rng, (3,), F), ValueError, "shape", "a matrix", "(3,)"
        yield entry, lambda w: make(w.rng, (3, 3), F, gain="a"), TypeError, "gain", "a number", "'a'"
    if name not in ("zeros", "constant", "identity"):
        yield entry, lambda w: make(3, (2, 2), F), TypeError, "rng", GENERATOR, "got 3"


OPTIMISERS = [
    ("tr.optim.SGD", lambda w: P.SGD([w.x], 0.1, momentum=1), ValueError, "momentum", "< 1", "got 1"),
    ("tr.optim.SGD", lambda w: P.SGD([w.x], 0.1, nesterov=True), ValueError, "nesterov", "momentum > 0", "momentum=0"),
    ("tr.optim.Adam", lambda w: P.Adam([w.x], betas=0.9), TypeError, "betas", "two numbers", "0.9"),
    ("tr.optim.Adam", lambda w: P.Adam([w.x], betas=(0.9, 1.0)), ValueError, "betas[1]", "< 1", "1.0"),
    ("tr.optim.AdamW", lambda w: P.AdamW([w.x], eps=-1), ValueError, "eps", ">= 0", "-1"),
    ("tr.optim.RMSprop", lambda w: P.RMSprop([w.x], alpha=2), ValueError, "alpha", "< 1", "got 2"),
    ("tr.optim.Optimizer", lambda w: setattr(w.adam, "lr", "a"), TypeError, "lr", "a number", "'a'"),
    ("tr.optim.Optimizer", lambda w: P.Optimizer(w.params, 0.1, ()).step(), NotImplementedError, "Optimizer", "update",
     "defines no"),
] + [
    ("tr.optim.Optimizer.load_state_dict", lambda w, f=given: w.adam.load_state_dict(f(w)), error, *says)
    for given, error, *says in (
        (lambda w: 3, TypeError, "state", "a dict", "got int"),
        (lambda w: {}, ValueError, "state", "missing: lr", "nothing was loaded"),
        (lambda w: w.sgd.state_dict(), ValueError, "state", "missing: v.float32", "nothing was loaded"),
        (lambda w: w.adam.state_dict() | {"m.float32": np.zeros(4, F)}, ValueError, "m.float32", "needs (16,)", "(4,)"),
        (lambda w: w.adam.state_dict() | {"m.float32": [[1], [1, 2]]}, ValueError, "state['m.float32']", "rectangular",
         "ragged list"),
        (lambda w: w.adam.state_dict() | {"lr": "a"}, ValueError, "lr", "a number", "'a'"),
        (lambda w: w.adam.state_dict() | {"lr": -1.0}, ValueError, "lr", ">= 0", "-1.0"),
        (lambda w: w.adam.state_dict() | {"steps.float32": np.array([-1, 1])}, ValueError, "steps.float32", ">= 0",
         "[-1, 1]"),
    )
]  # fmt: skip
CLIPPING = [
    ("tr.clip_grad_norm", lambda w: tr.clip_grad_norm(3, 1.0), TypeError, "params", "Tensors", "got int"),
    ("tr.clip_grad_norm", lambda w: tr.clip_grad_norm([*w.params, "a"], 1.0), TypeError, "params", "Tensors", "a str"),
    ("tr.clip_grad_norm", lambda w: tr.clip_grad_norm(w.params, -1), ValueError, "max_norm", "> 0", "-1"),
    ("tr.clip_grad_norm", lambda w: tr.clip_grad_norm(w.params, float("nan")), ValueError, "max_norm", "> 0", "nan"),
    ("tr.clip_grad_norm", lambda w: tr.clip_grad_norm(w.params, "a"), TypeError, "max_norm", "a number", "'a'"),
    ("tr.clip_grad_value", lambda w: tr.clip_grad_value(w.params, 0), ValueError, "value", "> 0", "got 0"),
    ("tr.clip_grad_value", lambda w: tr.clip_grad_value(w.params, None), TypeError, "value", "a number", "None"),
    ("tr.clip_grad_value", lambda w: tr.clip_grad_value([*w.params, w.h], 0.5), TypeError, "params", "Tensors",
     "ndarray"),
]  # fmt: skip
VALUES = [
    ("tr.init.constant", lambda w: N.constant(w.rng, (2,), F, value="a"), TypeError, "value", "a number", "'a'"),
    ("tr.init.uniform", lambda w: N.uniform(w.rng, (2,), F, low=1, high=0), ValueError, "low", "<= high", "high=0"),
    ("tr.init.uniform", lambda w: N.uniform(w.rng, (2,), F, high=np.inf), ValueError, "high", "finite", "inf"),
    ("tr.init.normal", lambda w: N.normal(w.rng, (2,), F, std=-1), ValueError, "std", ">= 0", "-1"),
    ("tr.init.normal", lambda w: N.normal(w.rng, (2,), F, mean="a"), TypeError, "mean", "a number", "'a'"),
    ("tr.init.apply", lambda w: N.apply(3, {}), TypeError, "module", "tr.Module", "got int"),
    ("tr.init.apply", lambda w: N.apply(w.cell, 3), TypeError, "rules", "a dict", "got 3"),
    ("tr.init.apply", lambda w: N.apply(w.cell, {"Q": 1.0}), ValueError, "parameter", "W_xi", "'Q'"),
    ("tr.init.apply", lambda w: N.apply(w.cell, {"W_x*": N.orthogonal, "b_f": N.orthogonal}), ValueError, "shape",
     "a matrix", "(4,)"),
    ("tr.init.apply", lambda w: N.apply(w.cell, {"W_x*": N.glorot, "b_f": np.zeros(3)}), ValueError, "b_f", "(4,)",
     "(3,)"),
    ("tr.init.apply", lambda w: N.apply(w.cell, {"b_f": 1.0, "b_i": None}), TypeError, "b_i", "numbers", "object"),
    ("tr.init.apply", lambda w: N.apply(w.cell, {"b_f": 1.0}, rng=-1), TypeError, "rng", "a seed >= 0", "-1"),
    ("tr.init.chrono", lambda w: N.chrono(3, 5), TypeError, "cell", "tr.Module", "got int"),
    ("tr.init.chrono", lambda w: N.chrono(w.cell, 1), ValueError, "longest", "at least 2", "got 1"),
    ("tr.init.chrono", lambda w: N.chrono(w.cell, 2.5), TypeError, "longest", "an int", "2.5"),
    ("tr.init.chrono", lambda w: N.chrono(w.cell, 5, gates=3), TypeError, "gates", "a dict", "got 3"),
    ("tr.init.chrono", lambda w: N.chrono(w.cell, 5, gates={"q": 1}), ValueError, "parameter", "b_f", "'q'"),
    ("tr.init.chrono", lambda w: N.chrono(w.cell, 5, gates={"b_f": 2}), ValueError, "gates", "1 for", "2"),
    ("tr.init.chrono", lambda w: N.chrono(w.cell, 5, gates={"b_f": 1, "W_xi": 1}), ValueError, "gates", "one shape",
     "(3, 4)"),
]  # fmt: skip
FILES = [
    ("tr.save", lambda w: tr.save(w.path, 3), TypeError, "module", "tr.Module", "got int"),
    ("tr.save", lambda w: tr.save(3, w.linear), TypeError, "path", PATH, "got int"),
    ("tr.save", lambda w: tr.save(w.folder / "no" / "x", w.linear), FileNotFoundError, "no/x", "file or directory",
     "No such"),
    ("tr.save", lambda w: tr.save(w.folder, w.linear), IsADirectoryError, "directory", "Is a", "Errno 21"),
    ("tr.save", lambda w: tr.save(w.path, tr.cells.Elman(I, H, activation=lambda x: x, rng=0)), TypeError,
     "module.activation", "by their names", "lambda"),
    ("tr.save", lambda w: tr.save(w.path, Unkept(3)), TypeError, "module", "assign self.scale", "'scale'"),
    ("tr.load", lambda w: tr.load(3), TypeError, "path", PATH, "got int"),
    ("tr.load", lambda w: tr.load(w.folder / "none"), FileNotFoundError, "none", "file or directory", "No such"),
    ("tr.load", lambda w: tr.load(w.folder / "damaged"), S.CheckpointError, "damaged", "safetensors file", "cut short"),
    ("tr.load", lambda w: tr.load(w.folder / "run.safetensors"), S.CheckpointError, "run.safetensors",
     "no module of tinyrnn", "a tinyrnn checkpoint"),
    ("tr.load", lambda w: tr.load(w.path, 3), TypeError, "classes", "a list of classes", "got 3"),
    ("tr.load", lambda w: tr.load(w.path, [3]), TypeError, "classes", "subclasses of tr.Module", "got 3"),
    ("tr.load", lambda w: tr.load(w.path, rng="a"), TypeError, "rng", "a seed >= 0", "'a'"),
    ("tr.load", lambda w: tr.load(w.folder / "two.safetensors", rng=w.rng), S.CheckpointError, "'Two'", "[Two]",
     "unknown class"),
    ("tr.load", lambda w: tr.load(w.folder / "two.safetensors", [Wider], rng=w.rng), S.CheckpointError, "W", "(3, 5)",
     "(3, 4)"),
    ("tr.files.save", lambda w: S.save(w.path, 3), TypeError, "model", "tr.Module", "got int"),
    ("tr.files.save", lambda w: S.save(3, w.linear), TypeError, "path", PATH, "got int"),
    ("tr.files.save", lambda w: S.save(w.path, w.linear, 3), TypeError, "optimiser", "tr.optim", "got int"),
    ("tr.files.save", lambda w: S.save(w.path, w.linear, rngs=3), TypeError, "rngs", "a dict", "got int"),
    ("tr.files.save", lambda w: S.save(w.path, w.linear, rngs={"a": 3}), TypeError, "rngs['a']", GENERATOR, "got int"),
    ("tr.files.save", lambda w: S.save(w.path, w.linear, extra={3: w.h}), TypeError, "extra", "a str", "got 3"),
    ("tr.files.save", lambda w: S.save(w.path, w.linear, extra={"a": "b"}), TypeError, "extra['a']", "numbers", "<U1"),
    ("tr.files.save", lambda w: S.save(w.path, w.linear, extra={"a": w.h.astype(complex)}), TypeError, "arrays",
     "float32", "complex128"),
    ("tr.files.save", lambda w: S.save(w.path, w.linear, meta={"a": object()}), TypeError, "meta", "JSON", "a object"),
    ("tr.files.load", lambda w: S.load(3), TypeError, "path", PATH, "got int"),
    ("tr.files.load", lambda w: S.load(w.folder / "none"), FileNotFoundError, "none", "file or directory", "No such"),
    ("tr.files.load", lambda w: S.load(w.path), S.CheckpointError, "model.safetensors", "no checkpoint of tinyrnn",
     "a tinyrnn module"),
    ("tr.files.write", lambda w: S.write(w.path, "text"), TypeError, "data", "bytes", "got str"),
    ("tr.files.write", lambda w: S.write(None, b""), TypeError, "path", PATH, "got NoneType"),
] + [
    ("tr.files.Checkpoint.restore", lambda w, f=call: f(w.checkpoint, w), error, *says)
    for call, error, *says in (
        (lambda c, w: c.restore(3), TypeError, "model", "tr.Module", "got int"),
        (lambda c, w: c.restore(w.linear, 3), TypeError, "optimiser", "tr.optim", "got int"),
        (lambda c, w: c.restore(w.linear, w.adam, rngs=3), TypeError, "rngs", "a dict", "got int"),
        (lambda c, w: c.restore(w.linear, w.adam, rngs={"a": w.rng}), S.CheckpointError, "generator: a", "missing",
         "nothing was restored"),
        (lambda c, w: c.restore(w.embedding), S.CheckpointError, "W", "needs (7, 3)", "got (3, 4)"),
        (lambda c, w: c.restore(w.linear, w.sgd), S.CheckpointError, "v.float32", "unexpected: v.float32", "not fit"),
    )
]  # fmt: skip
DAY = date(2020, 1, 1)
DRAWN = {
    "written_dates": {"days": [DAY]},
    "agreement_pairs": {"distances": [3]},
    "adding_batch": {"rows": 2, "steps": 20},
    "copy_batch": {"rows": 2, "length": 1, "lag": 1},
}
DATA = [
    ("tr.data.adding_batch", lambda w: D.adding_batch(w.rng, 0, 20), ValueError, "rows", ">= 1", "rows=0"),
    ("tr.data.adding_batch", lambda w: D.adding_batch(w.rng, 2, 5), ValueError, "steps", ">= 10", "steps=5"),
    ("tr.data.adding_batch", lambda w: D.adding_batch(w.rng, 2.5, 20), TypeError, "rows", "an int", "2.5"),
    ("tr.data.copy_batch", lambda w: D.copy_batch(w.rng, 0, length=1, lag=1), ValueError, "rows", ">= 1", "0, 1, 1"),
    ("tr.data.copy_batch", lambda w: D.copy_batch(w.rng, 1, length="a", lag=1), TypeError, "length", "an int", "'a'"),
    ("tr.data.agreement_pairs", lambda w: D.agreement_pairs(w.rng, [5, 2]), ValueError, "distances", "0, 1, 3", "2"),
    ("tr.data.agreement_pairs", lambda w: D.agreement_pairs(w.rng, [5, 4.5]), TypeError, "distances", "an int", "4.5"),
    ("tr.data.agreement_pairs", lambda w: D.agreement_pairs(w.rng, 3), TypeError, "distances", "a list", "got int"),
    ("tr.data.bucket", lambda w: D.bucket([1, 2], 0), ValueError, "size", ">= 1", "got 0"),
    ("tr.data.bucket", lambda w: D.bucket([1, 2], 1.5), TypeError, "size", "an int", "1.5"),
    ("tr.data.bucket", lambda w: D.bucket([1, 2], 2, w.rng, pool=0), ValueError, "pool", ">= 1", "got 0"),
    ("tr.data.bucket", lambda w: D.bucket([1, -2], 2, w.rng), ValueError, "lengths", ">= 0", "-2"),
    ("tr.data.bucket", lambda w: D.bucket([[1, 2]], 2, w.rng), ValueError, "lengths", "(n,)", "(1, 2)"),
    ("tr.data.bucket", lambda w: D.bucket([1.5, 2], 2, w.rng), TypeError, "lengths", "ints", "float64"),
    ("tr.data.bucket", lambda w: D.bucket([1, 2], 2, 3), TypeError, "rng", GENERATOR, "got 3"),
    ("tr.data.pad", lambda w: D.pad([]), ValueError, "sequences", "one or more arrays", "none"),
    ("tr.data.pad", lambda w: D.pad([w.h, w.h[:, :3]]), ValueError, "sequences[1]", "(steps, 4)", "(2, 3)"),
    ("tr.data.pad", lambda w: D.pad([w.h, w.h.astype(int)]), TypeError, "sequences[1]", "float32", "int64"),
    ("tr.data.pad", lambda w: D.pad(["ab"]), TypeError, "sequences[0]", "numbers", "<U2"),
    ("tr.data.pad", lambda w: D.pad([w.ids], 0.5), ValueError, "value", "an integer", "0.5"),
    ("tr.data.pad", lambda w: D.pad([w.ids], "a"), TypeError, "value", "a number", "'a'"),
    ("tr.data.stream_batches", lambda w: D.stream_batches(w.ids[:, 0], 0, 2), ValueError, "rows", ">= 1", "rows=0"),
    ("tr.data.stream_batches", lambda w: D.stream_batches(w.ids[:, 0], 5, 2), ValueError, "text", "10 characters", "5"),
    ("tr.data.stream_batches", lambda w: D.stream_batches(w.ids, 1, 2), ValueError, "ids", "(n,)", "(5, 2)"),
    ("tr.data.stream_batches", lambda w: D.stream_batches(w.xs[:, 0, 0], 1, 2), TypeError, "ids", "integers", "float"),
    ("tr.data.stream_batches", lambda w: D.stream_batches(w.ids[:, 0], 1, "a"), TypeError, "steps", "an int", "'a'"),
    ("tr.data.split_days", lambda w: D.split_days(0, 0), ValueError, "held_out", ">= 1", "got 0"),
    ("tr.data.split_days", lambda w: D.split_days(-1, 3), ValueError, "seed", ">= 0", "-1"),
    ("tr.data.write_date", lambda w: D.write_date(3, "{day}"), TypeError, "day", "datetime.date", "got int"),
    ("tr.data.write_date", lambda w: D.write_date(DAY, "{q}"), ValueError, "form", "day, dd", "'{q}'"),
    ("tr.data.written_dates", lambda w: D.written_dates(w.rng, [DAY, "a"]), TypeError, "days", "dates", "got str"),
    ("tr.data.installed_file", lambda w: D.installed_file("no_such", "x", needed="pip install it"),
     D.MissingExtraError, "it", "pip install", "pip"),
    ("tr.data.installed_file", lambda w: D.installed_file(3, "x", needed="it"), TypeError, "package", "a str", "int"),
    ("tr.data.read_reviews", lambda w: D.read_reviews("q"), ValueError, "source", "rotten_tomatoes, imdb", "'q'"),
    ("tr.data.read_reviews", lambda w: D.read_reviews("imdb", 3), TypeError, "path", PATH, "got int"),
    ("tr.data.read_reviews", lambda w: D.read_reviews("imdb", w.folder / "table.csv"), ValueError, "table.csv",
     "column", "label, source"),
    ("tr.data.split_reviews", lambda w: D.split_reviews([], 0), ValueError, "reviews", "10 reviews or more", "got 0"),
    ("tr.data.split_reviews", lambda w: D.split_reviews([1] * 10, -1), ValueError, "seed", ">= 0", "-1"),
    ("tr.data.read_text", lambda w: D.read_text(3), TypeError, "path", PATH, "got int"),
    ("tr.data.read_text", lambda w: D.read_text(w.folder / "empty.txt"), ValueError, "empty.txt", "text", "holds no"),
    ("tr.data.read_ts", lambda w: D.read_ts(3), TypeError, "path", PATH, "got int"),
    ("tr.data.read_ts", lambda w: D.read_ts(w.folder / "series.ts"), ValueError, "line 3", "one of a", "'b'"),
    ("tr.data.read_vowels", lambda w: D.read_vowels("all"), ValueError, "part", '"train" or "test"', "'all'"),
    ("tr.data.Alphabet", lambda w: D.Alphabet(3), TypeError, "characters", "a str", "got int"),
    ("tr.data.Alphabet", lambda w: D.Alphabet("aa"), ValueError, "characters", "differ", "'a' twice"),
    ("tr.data.Alphabet.of", lambda w: D.Alphabet.of(3), TypeError, "text", "a str", "got int"),
    ("tr.data.Alphabet.encode", lambda w: w.alphabet.encode("z"), ValueError, "character", "training text", "'z'"),
    ("tr.data.Alphabet.encode", lambda w: w.alphabet.encode(3), TypeError, "text", "strings", "got int"),
    ("tr.data.Alphabet.decode", lambda w: w.alphabet.decode([-1]), IndexError, "ids", "0..1", "-1"),
    ("tr.data.Alphabet.decode", lambda w: w.alphabet.decode([0.5]), TypeError, "ids", "integers", "0.5"),
    ("tr.data.Vocabulary", lambda w: D.Vocabulary(["a", "a"]), ValueError, "words", "differ", "'a' twice"),
    ("tr.data.Vocabulary", lambda w: D.Vocabulary([3]), TypeError, "words", "strings", "int"),
    ("tr.data.Vocabulary.of", lambda w: D.Vocabulary.of(3), TypeError, "texts", "lists of words", "got int"),
    ("tr.data.Vocabulary.of", lambda w: D.Vocabulary.of([["a"]], at_least="a"), TypeError, "at_least", "an int", "'a'"),
    ("tr.data.Vocabulary.encode", lambda w: w.vocabulary.encode(3), TypeError, "words", "strings", "got int"),
    ("tr.data.tokenise", lambda w: D.tokenise(None), TypeError, "text", "a str", "got NoneType"),
]  # fmt: skip
OTHERS = [
    ("tr.interop.torch.load", lambda w: TORCH.load(w.torch and 3), TypeError, "module", "torch.nn.RNN", "int"),
    ("tr.interop.torch.load", lambda w: TORCH.load(w.torch.nn.Linear(I, H)), TypeError, "module", "torch.nn.RNN",
     "Linear"),
    ("tr.interop.torch.load", lambda w: TORCH.load(w.torch.nn.LSTM(I, H).half(), rng=w.rng), ValueError, "module",
     "float32 or float64", "torch.float16"),
    ("tr.interop.torch.load", lambda w: TORCH.load(w.torch.nn.LSTM(I, H), rng="a"), TypeError, "rng", "a seed", "'a'"),
    ("tr.interop.torch.to_torch", lambda w: TORCH.to_torch(w.torch and 3), TypeError, "rnn", "tr.nn.RNN", "got int"),
    ("tr.interop.torch.to_torch", lambda w: TORCH.to_torch(w.torch and tr.cells.MGU(I, H)),
     tr.interop.CannotExpressError, "MGU", "Elman", "no such cell"),
    ("tr.interop.onnx.load", lambda w: ONNX.load(w.onnx and 3), TypeError, "path_or_model", "a path", "got int"),
    ("tr.interop.onnx.load", lambda w: ONNX.load(w.onnx and w.folder / "damaged"), ValueError, "damaged", "ONNX model",
     "is not"),
    ("tr.interop.onnx.load", lambda w: ONNX.load(w.onnx and w.folder / "none"), FileNotFoundError, "none",
     "file or directory", "No such"),
    ("tr.interop.onnx.save", lambda w: ONNX.save(w.onnx and 3, w.path), TypeError, "module", "tr.Cell", "got int"),
    ("tr.interop.onnx.save", lambda w: ONNX.save(w.onnx and w.cell, 3), TypeError, "path", PATH, "got int"),
    ("tr.interop.onnx.save", lambda w: ONNX.save(w.onnx and tr.cells.MUT1(I, H), w.path),
     tr.interop.CannotExpressError, "MUT1", "ONNX's GRU", "can not express"),
    ("tr.interop.onnx.to_model", lambda w: ONNX.to_model(w.onnx and w.linear), TypeError, "module", "tr.Cell", "got"),
    ("tr.interop.onnx.Activation", lambda w: ONNX.Activation("swish"), ValueError, "activation", "Relu", "'swish'"),
    ("tr.interop.onnx.Activation", lambda w: ONNX.Activation("affine"), ValueError, "alpha", "default", "Affine"),
    ("tr.interop.onnx.Activation", lambda w: ONNX.Activation("elu", "a"), TypeError, "alpha", "a number", "'a'"),
    ("tr.interop.onnx.Activation", lambda w: ONNX.Activation("relu", clip=-1), ValueError, "clip", "above 0", "-1"),
    ("tr.interop.onnx.OnnxModel", lambda w: ONNX.OnnxModel(w.onnx and 3), TypeError, "graph", "GraphProto", "got int"),
] + [
    ("tr.interop.onnx.OnnxModel.forward", lambda w, f=changes: w.onnx.run(**f(w)), error, *says)
    for changes, error, *says in (
        (lambda w: {"q": 3}, TypeError, "input", "sequence_lens", "'q'"),
        (lambda w: {"X": w.xs[0]}, ValueError, "X must", "(time, batch, 3)", "(2, 3)"),
        (lambda w: {"X": w.xs[..., :2]}, ValueError, "X must", "(time, batch, 3)", "(5, 2, 2)"),
        (lambda w: {"X": w.xs.astype("float64")}, TypeError, "X must", "float32", "float64"),
        (lambda w: {"X": "a"}, TypeError, "X must", "float32", "got str"),
        (lambda w: {"sequence_lens": np.array([6, 1])}, ValueError, "sequence_lens", "0..5", "got 6"),
        (lambda w: {"sequence_lens": np.array([-1, 1])}, ValueError, "sequence_lens", "0..5", "-1"),
        (lambda w: {"sequence_lens": np.array([1.0, 1])}, TypeError, "sequence_lens", "int32", "float64"),
        (lambda w: {"sequence_lens": [[1], [1, 2]]}, ValueError, "sequence_lens", "rectangular", "ragged list"),
        (lambda w: {"initial_h": np.zeros((1, 1, H), F)}, ValueError, "initial_h", "(1, 2, 4)", "(1, 1, 4)"),
    )
]  # fmt: skip
