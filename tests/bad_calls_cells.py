"""Bad calls of cells, loops over time and layers: rows as `bad_input` has them."""

import inspect

import numpy as np
from bad_input import B, Branching, F, H, I, T

import tinyrnn as tr

C, N = tr.cells, tr.nn
LAYERS = {"LSTM": C.LSTM, "GRU": C.GRU}
SIZE = "positive int"
NAN = float("nan")


def rows():
    for name in (*C.names(), "Cell"):
        yield from of_class(f"tr.cells.{name}" if name != "Cell" else "tr.Cell", getattr(C, name, tr.Cell))
    yield from of_class("tr.interop.onnx.InputForgetLSTM", tr.interop.onnx.InputForgetLSTM)
    for name in ("scan", "unroll"):
        yield from over_time(f"tr.{name}", getattr(tr, name))
    yield from CELLS
    yield from OPTIONS
    yield from LOOPS
    yield from LAYERS_ROWS
    yield from PATTERNS


def of_class(entry, kind):
    """What every cell's constructor refuses, before it draws a number."""
    yield entry, lambda w: kind(0, H, rng=w.rng), ValueError, "input_size", SIZE, "got 0"
    yield entry, lambda w: kind("a", H, rng=w.rng), TypeError, "input_size", SIZE, "'a'"
    yield entry, lambda w: kind(I, 2.5, rng=w.rng), TypeError, "hidden_size", SIZE, "2.5"
    yield entry, lambda w: kind(I, -1, rng=w.rng), ValueError, "hidden_size", SIZE, "-1"
    yield entry, lambda w: kind(I, H, dtype="int32", rng=w.rng), TypeError, "dtype", "float32 or float64", "'int32'"
    yield entry, lambda w: kind(I, H, rng="a"), TypeError, "rng", "a seed >= 0", "'a'"
    yield entry, lambda w: kind(I, H, rng=-1), TypeError, "rng", "a seed >= 0", "-1"
    for option in inspect.signature(kind).parameters:
        if option.endswith("activation") or option == "phi":
            yield entry, lambda w, o=option: kind(I, H, rng=w.rng, **{o: "a"}), TypeError, option, "an op", "'a'"
        if option in ("forget_bias", "scale"):
            yield entry, lambda w, o=option: kind(I, H, rng=w.rng, **{o: "a"}), TypeError, option, "a number", "'a'"
            yield entry, lambda w, o=option: kind(I, H, rng=w.rng, **{o: NAN}), ValueError, option, "finite", "nan"


def over_time(entry, run):
    """What both `scan` and `unroll` refuse, before a cell draws a mask."""

    def no_rows(w):
        return run(w.noisy, w.xs, lengths=[1])

    four = np.ones((T, B, 4), F)
    yield from [(entry, *row) for row in (
        (lambda w: run(C.LSTM, w.xs), TypeError, "cell", "tr.Cell", "<class"),
        (lambda w: run(w.linear, w.xs), TypeError, "cell", "tr.Cell", "got Linear"),
        (lambda w: run(w.cell, w.xs[0]), ValueError, "xs", "(time, batch, features)", "(2, 3)"),
        (lambda w: run(w.cell, w.xs[..., :2]), ValueError, "xs", "(time, batch, 3)", "(5, 2, 2)"),
        (lambda w: run(w.cell, tr.tensor(w.xs, dtype="float64")), TypeError, "xs", "float32", "float64"),
        (lambda w: run(w.cell, w.xs.tolist()), TypeError, "xs", "a Tensor or an array", "got list"),
        (lambda w: run(w.cell, w.torch.ones(T, B, I)), TypeError, "xs", "a Tensor or an array", "got torch.Tensor"),
        (lambda w: run(w.cell, w.xs * 1j), TypeError, "xs", "numbers", "complex"),
        (lambda w: run(w.cell, ()), ValueError, "xs", "one or more", "empty tuple"),
        (lambda w: run(w.cell, (w.xs, w.xs)), TypeError, "xs", "1, as many time inputs", "got 2"),
        (lambda w: run(w.noisy, (w.xs, w.xs)), TypeError, "xs", "1, as many time inputs", "got 2"),
        (lambda w: run(w.two, w.xs), TypeError, "xs", "2, as many time inputs", "got 1"),
        (lambda w: run(w.two, (w.xs, four[:2])), ValueError, "xs[1]", "(5, 2)", "got (2, 2)"),
        (lambda w: run(w.cell, w.xs, w.h), ValueError, "state", "2 tensors, h, c", "got 1"),
        (lambda w: run(w.cell, w.xs, 3), TypeError, "state", "a Tensor, a tuple of Tensors", "got int"),
        (lambda w: run(w.cell, w.xs, (w.h, None)), TypeError, "state, 'c'", "a Tensor or an array", "NoneType"),
        (lambda w: run(w.cell, w.xs, (w.h, w.h[:1])), ValueError, "state, 'c'", "(2, 4)", "(1, 4)"),
        (lambda w: run(w.cell, w.xs, (w.h, w.h[:, :3])), ValueError, "state, 'c'", "(2, 4)", "(2, 3)"),
        (lambda w: run(w.gru, w.xs, tr.tensor(w.h, dtype="float64")), TypeError, "state, 'h'", "float32", "float64"),
        (no_rows, ValueError, "lengths", "(2,)", "(1,)"),
        (lambda w: run(w.noisy, w.xs, lengths=3), ValueError, "lengths", "(2,)", "()"),
        (lambda w: run(w.noisy, w.xs, lengths=[6, 1]), ValueError, "lengths", "0..5", "6 for row 0"),
        (lambda w: run(w.noisy, w.xs, lengths=[1, -1]), ValueError, "lengths", "0..5", "-1 for row 1"),
        (lambda w: run(w.noisy, w.xs, lengths=[1.0, 2.0]), TypeError, "lengths", "ints", "float64"),
        (lambda w: run(w.noisy, w.xs, lengths=[True, False]), TypeError, "lengths", "ints", "bool"),
        (lambda w: run(w.noisy, w.xs, lengths=[[1], [1, 2]]), ValueError, "lengths", "rectangular", "ragged list"),
        (lambda w: run(w.noisy, w.nan, check_finite=True), ValueError, "xs", "finite", "nan at time 3, row 1"),
        (lambda w: run(w.two, (w.xs, four * F("inf")), check_finite=True), ValueError, "xs[1]", "finite",
         "inf at time 0, row 0, feature 0"),
        (lambda w: run(w.cell, w.xs, (w.h, w.h + F(NAN)), check_finite=True), ValueError, "state, 'c'", "finite",
         "nan at row 0, feature 0"),
    )]  # fmt: skip


CELLS = [
    ("tr.Cell.forward", lambda w: w.cell(w.xs[0, :, :2], w.h, w.h), ValueError, "x must", "(batch, 3)", "(2, 2)"),
    ("tr.Cell.forward", lambda w: w.cell(w.xs, w.h, w.h), ValueError, "x must", "(batch, 3)", "(5, 2, 3)"),
    ("tr.Cell.forward", lambda w: w.cell(w.xs[0], w.h[:, :1], w.h), ValueError, "h must", "(batch, 4)", "(2, 1)"),
    ("tr.Cell.forward", lambda w: w.cell(w.xs[0], w.h, w.h[:1]), ValueError, "c must", "the 2 rows of x", "got 1"),
    ("tr.Cell.forward", lambda w: w.cell(w.xs[0], w.h), TypeError, "LSTM", "x, h, c", "2 arguments"),
    ("tr.Cell.forward", lambda w: w.cell("a", w.h, w.h), TypeError, "x must", "a Tensor or an array", "got str"),
    ("tr.Cell.forward", lambda w: w.cell(tr.tensor(w.xs[0], dtype="float64"), w.h, w.h), TypeError, "x must",
     "float32", "float64"),
    ("tr.Cell.forward", lambda w: w.noisy(w.xs[0], w.h, w.h), TypeError, "RecurrentDropout", "3 of draws, h, c",
     "3 arguments"),
    ("tr.Cell.param", lambda w: w.cell.param((0, 3)), ValueError, "shape", SIZE, "got 0"),
    ("tr.Cell.param", lambda w: w.cell.param("a"), TypeError, "shape", SIZE, "'a'"),
    ("tr.Cell.param", lambda w: w.cell.param(3, init=np.zeros(2)), ValueError, "init", "(3,)", "(2,)"),
    ("tr.Cell.param", lambda w: w.cell.param(3, init="a"), TypeError, "init", "numbers", "str"),
    ("tr.Cell.initial_state", lambda w: w.cell.initial_state(-1), ValueError, "batch", "int >= 0", "-1"),
    ("tr.Cell.initial_state", lambda w: w.cell.initial_state(2.5), TypeError, "batch", "int >= 0", "2.5"),
    ("tr.Cell.another", lambda w: w.cell.another(0), ValueError, "input_size", SIZE, "got 0"),
    ("tr.Cell.another", lambda w: w.cell.another(rng="a"), TypeError, "rng", "a seed >= 0", "'a'"),
    ("tr.Module.load_state_dict", lambda w: w.cell.load_state_dict(3), TypeError, "state", "a dict", "got int"),
    ("tr.Module.load_state_dict", lambda w: w.cell.load_state_dict({}), ValueError, "state", "missing: W_xi (3, 4)",
     "nothing was loaded"),
    ("tr.Module.load_state_dict", lambda w: w.cell.load_state_dict({**w.cell.state_dict(), "b_f": np.zeros(3, F)}),
     ValueError, "b_f", "needs (4,)", "got (3,)"),
    ("tr.Module.load_state_dict", lambda w: w.cell.load_state_dict({**w.cell.state_dict(), "b_f": np.zeros(4)}),
     ValueError, "b_f", "needs float32", "got float64"),
    ("tr.Module.load_state_dict", lambda w: w.cell.load_state_dict({**w.cell.state_dict(), "b_f": [[1], [1, 2]]}),
     ValueError, "state['b_f']", "rectangular", "ragged list"),
    ("tr.Module", lambda w: setattr(w.cell, "b_f", tr.tensor([1.0])), TypeError, "LSTM.b_f", "tr.Parameter", "Tensor"),
    ("tr.cells.by_name", lambda w: C.by_name("gruu"), ValueError, "cell", "LSTM, MGU", "'gruu'"),
    ("tr.cells.by_name", lambda w: C.by_name("gru", depth=3), TypeError, "option", "reset, flipped", "'depth'"),
]  # fmt: skip
OPTIONS = [
    ("tr.cells.LSTM", lambda w: C.LSTM(I, H, peephole="all", rng=w.rng), ValueError, "peephole", '"full"', "'all'"),
    ("tr.cells.LSTM", lambda w: C.LSTM(I, H, coupled=True, rng=w.rng), ValueError, "coupled", '"input"', "True"),
    ("tr.cells.LSTM", lambda w: C.LSTM(I, H, projection=0, rng=w.rng), ValueError, "projection", SIZE, "0"),
    ("tr.cells.LSTM", lambda w: C.LSTM(I, H, cells_per_block=3, rng=w.rng), ValueError, "cells_per_block", "4", "3"),
    ("tr.cells.GRU", lambda w: C.GRU(I, H, reset="late", rng=w.rng), ValueError, "reset", '"after"', "'late'"),
    ("tr.cells.LectureLSTM", lambda w: C.LectureLSTM(I, H, reads="c", rng=w.rng), ValueError, "reads", '"s"', "'c'"),
    ("tr.cells.Odyssey", lambda w: C.Odyssey(I, H, variant="x", rng=w.rng), ValueError, "variant", '"FGR"', "'x'"),
    ("tr.cells.MUT1", lambda w: C.MUT1(I, H, projection=False, rng=w.rng), ValueError, "input_size", "4", "got 3"),
    ("tr.cells.MUT2", lambda w: C.MUT2(I, H, projection="a", rng=w.rng), ValueError, "projection", "True", "'a'"),
    ("tr.interop.onnx.InputForgetLSTM", lambda w: tr.interop.onnx.InputForgetLSTM(I, H, peephole="full", rng=w.rng),
     ValueError, "peephole", '"diagonal"', "'full'"),
    ("tr.cells.Wrapper", lambda w: C.Wrapper(3), TypeError, "cell", "tr.Cell", "got 3"),
    ("tr.cells.Zoneout", lambda w: C.Zoneout(C.LSTM, 0.1), TypeError, "cell", "tr.Cell", "<class"),
    ("tr.cells.Zoneout", lambda w: C.Zoneout(w.cell, 1.0), ValueError, "p must", "[0, 1)", "1.0"),
    ("tr.cells.Zoneout", lambda w: C.Zoneout(w.cell, {"s": 0.1}), ValueError, "p must", "h, c", "'s'"),
    ("tr.cells.Zoneout", lambda w: C.Zoneout(w.cell, {"h": "a"}), TypeError, "p['h']", "[0, 1)", "'a'"),
    ("tr.cells.Zoneout", lambda w: C.Zoneout(w.cell, 0.1, rng="a"), TypeError, "rng", "a seed >= 0", "'a'"),
    ("tr.cells.RecurrentDropout", lambda w: C.RecurrentDropout(w.cell, None), TypeError, "p must", "[0, 1)", "None"),
    ("tr.cells.LearnedState", lambda w: C.LearnedState(3), TypeError, "cell", "tr.Cell", "got 3"),
    ("tr.cells.LearnedState", lambda w: C.LearnedState(w.cell, init="a"), TypeError, "init", "numbers", "str"),
    ("tr.cells.LearnedState",
     lambda w: C.LearnedState(C.LSTM(I, H, projection=2, rng=1), init=lambda g, *_: g.uniform(size=2), rng=w.rng),
     ValueError, "init", "(4,)", "(2,)"),
    ("tr.cells.LearnedState.initial_state", lambda w: C.LearnedState(w.cell).initial_state(-1), ValueError, "batch",
     "int >= 0", "-1"),
    ("tr.cells.Wrapper.initial_state", lambda w: w.noisy.initial_state("a"), TypeError, "batch", "int >= 0", "'a'"),
    ("tr.cells.Wrapper.another", lambda w: w.noisy.another(0), ValueError, "input_size", SIZE, "got 0"),
]  # fmt: skip
LOOPS = [
    ("tr.scan", lambda w: tr.scan(w.noisy, w.xs, checkpoint_every=0), ValueError, "checkpoint_every", SIZE, "got 0"),
    ("tr.scan", lambda w: tr.scan(w.noisy, w.xs, checkpoint_every=1.5), TypeError, "checkpoint_every", SIZE, "1.5"),
    ("tr.scan", lambda w: tr.scan(Branching(I, H), w.xs), RuntimeError, "one value of one row", "tr.where", "(B, 4)"),
    ("tr.explain", lambda w: tr.explain(C.LSTM), TypeError, "cell", "tr.Cell", "<class"),
    ("tr.explain", lambda w: tr.explain(w.linear), TypeError, "cell", "tr.Cell", "got Linear"),
    ("tr.explain", lambda w: tr.explain(w.cell, 0), ValueError, "batch", SIZE, "got 0"),
    ("tr.explain", lambda w: tr.explain(w.cell, widths=3), TypeError, "widths", "a tuple of ints", "got 3"),
    ("tr.explain", lambda w: tr.explain(w.cell, widths=(2,)), ValueError, "widths", "input_size, 3", "got (2,)"),
    ("tr.explain", lambda w: tr.explain(w.cell, widths=(3, 4)), ValueError, "widths", "1, one for each", "got (3, 4)"),
    ("tr.explain", lambda w: tr.explain(w.two), ValueError, "widths", "how wide", "2 time inputs"),
]  # fmt: skip
LAYERS_ROWS = [
    ("tr.nn.Linear", lambda w: N.Linear(0, H, rng=w.rng), ValueError, "in_features", SIZE, "got 0"),
    ("tr.nn.Linear", lambda w: N.Linear(I, "a", rng=w.rng), TypeError, "out_features", SIZE, "'a'"),
    ("tr.nn.Linear", lambda w: N.Linear(I, H, dtype="int8", rng=w.rng), TypeError, "dtype", "float32", "'int8'"),
    ("tr.nn.Linear", lambda w: N.Linear(I, H, rng=-1), TypeError, "rng", "a seed >= 0", "-1"),
    ("tr.nn.Linear.forward", lambda w: w.linear(w.h), ValueError, "x must", "(..., 3)", "(2, 4)"),
    ("tr.nn.Linear.forward", lambda w: w.linear("a"), TypeError, "x must", "array of numbers", "got str"),
    ("tr.nn.Linear.forward", lambda w: w.linear(tr.tensor(w.xs, dtype="float64")), TypeError, "x must", "float32",
     "float64"),
    ("tr.nn.Embedding", lambda w: N.Embedding(0, I, rng=w.rng), ValueError, "num", SIZE, "got 0"),
    ("tr.nn.Embedding", lambda w: N.Embedding(7, 1.5, rng=w.rng), TypeError, "dim", SIZE, "1.5"),
    ("tr.nn.Embedding", lambda w: N.Embedding(7, I, padding_idx=7, rng=w.rng), ValueError, "padding_idx", "0..6", "7"),
    ("tr.nn.Embedding", lambda w: N.Embedding(7, I, padding_idx="a", rng=w.rng), TypeError, "padding_idx", "0..6",
     "'a'"),
    ("tr.nn.Embedding.forward", lambda w: w.embedding([[0, 7]]), IndexError, "ids", "0..6", "7 at (0, 1)"),
    ("tr.nn.Embedding.forward", lambda w: w.embedding([0.5]), TypeError, "ids", "integers", "float64"),
    ("tr.nn.Embedding.forward", lambda w: w.embedding([[1], [1, 2]]), ValueError, "ids", "rectangular", "ragged list"),
    ("tr.nn.Dropout", lambda w: N.Dropout(1.0), ValueError, "p must", "[0, 1)", "1.0"),
    ("tr.nn.Dropout", lambda w: N.Dropout("a"), TypeError, "p must", "[0, 1)", "'a'"),
    ("tr.nn.Dropout.forward", lambda w: N.Dropout(0.5, rng=w.rng)("a"), TypeError, "x must", "an array", "got str"),
    ("tr.nn.detach", lambda w: N.detach([w.x, 3]), TypeError, "state", "Tensor", "got int"),
    ("tr.nn.RNN", lambda w: N.RNN(C.LSTM), TypeError, "cell", "tr.Cell", "<class"),
    ("tr.nn.RNN", lambda w: N.RNN(lambda n: 3, input_size=I), TypeError, "cell", "tr.Cell", "got int"),
    ("tr.nn.RNN", lambda w: N.RNN(lambda n: w.cell), TypeError, "input_size", "given", "function"),
    ("tr.nn.RNN", lambda w: N.RNN(w.cell, input_size=4), ValueError, "input_size", "3", "got 4"),
    ("tr.nn.RNN", lambda w: N.RNN(w.cell, 0), ValueError, "num_layers", SIZE, "got 0"),
    ("tr.nn.RNN", lambda w: N.RNN(w.cell, dropout="a"), TypeError, "dropout", "[0, 1)", "'a'"),
    ("tr.nn.RNN", lambda w: N.RNN(w.cell, dropout=1), ValueError, "dropout", "[0, 1)", "1"),
    ("tr.nn.RNN", lambda w: N.RNN(w.cell, merge="max"), ValueError, "merge", '"concat" or "sum"', "'max'"),
    ("tr.nn.RNN", lambda w: N.RNN(w.cell, rng="a"), TypeError, "rng", "a seed >= 0", "'a'"),
    ("tr.nn.RNN", lambda w: N.RNN(w.cell, bidirectional=True, residual=True), ValueError, "residual", "as wide",
     "8 features of 3"),
    ("tr.nn.RNN", lambda w: N.RNN([[w.cell], [w.cell]]), ValueError, "cell", "input_size 4", "LSTM(3, 4)"),
    ("tr.nn.RNN.forward", lambda w: w.rnn(w.xs[0]), ValueError, "xs", "(time, batch, features)", "(2, 3)"),
    ("tr.nn.RNN.forward", lambda w: w.rnn(w.xs[..., :2]), ValueError, "xs", "3 features", "(5, 2, 2)"),
    ("tr.nn.RNN.forward", lambda w: w.rnn(tr.tensor(w.xs, dtype="float64")), TypeError, "xs", "float32", "float64"),
    ("tr.nn.RNN.forward", lambda w: w.rnn(w.xs.tolist()), TypeError, "xs", "a Tensor or an array", "got list"),
    ("tr.nn.RNN.forward", lambda w: w.rnn(w.xs * 1j), TypeError, "xs", "numbers", "complex"),
    ("tr.nn.RNN.forward", lambda w: w.rnn(w.xs, 3), TypeError, "state", "a list of 2", "got int"),
    ("tr.nn.RNN.forward", lambda w: w.rnn(w.xs, [(w.h, w.h)]), ValueError, "state", "a list of 2", "got 1"),
    ("tr.nn.RNN.forward", lambda w: w.rnn(w.xs, [None, (w.h,)]), ValueError, "state[1]", "2 tensors, h, c", "got 1"),
    ("tr.nn.RNN.forward", lambda w: w.rnn(w.xs, [None, (w.h, "a")]), TypeError, "state[1]", "tensors, h, c", "str"),
    ("tr.nn.RNN.forward", lambda w: w.rnn(w.xs, [None, (w.h, w.h[:1])]), ValueError, "state[1], 'c'", "(2, 4)",
     "(1, 4)"),
    ("tr.nn.RNN.forward", lambda w: w.rnn(w.xs, lengths=[6, 1]), ValueError, "lengths", "0..5", "6 for row 0"),
    ("tr.nn.RNN.forward", lambda w: w.rnn(w.xs, lengths=[-1, 1]), ValueError, "lengths", "0..5", "-1 for row 0"),
    ("tr.nn.RNN.forward", lambda w: w.rnn(w.xs, lengths=[1.0, 1.0]), TypeError, "lengths", "ints", "float64"),
    ("tr.nn.RNN.forward", lambda w: w.rnn(w.xs, lengths=[1]), ValueError, "lengths", "(2,)", "(1,)"),
    ("tr.nn.RNN.forward", lambda w: w.rnn(w.nan, check_finite=True), ValueError, "xs", "finite", "time 3, row 1"),
    ("tr.nn.RNN.forward", lambda w: w.rnn(w.xs, [None, (w.h, w.h + F(NAN))], check_finite=True), ValueError,
     "state[1], 'c'", "finite", "nan at row 0"),
    ("tr.nn.RNN.merge_directions", lambda w: w.both.merge_directions([w.x]), ValueError, "outputs", "2 tensors", "1"),
]  # fmt: skip
PATTERNS = [
    row
    for entry, make in (("tr.nn.Acceptor", N.Acceptor), ("tr.nn.Transducer", N.Transducer))
    for row in (
        (entry, lambda w, f=make: f(w.cell, 2), TypeError, "rnn", "tr.nn.RNN", "got LSTM"),
        (entry, lambda w, f=make: f(w.rnn, 0), ValueError, "outputs", SIZE, "got 0"),
        (entry, lambda w, f=make: f(w.rnn, 2.5), TypeError, "outputs", SIZE, "2.5"),
        (entry, lambda w, f=make: f(w.rnn, 2, dropout=2), ValueError, "dropout", "[0, 1)", "got 2"),
        (entry, lambda w, f=make: f(w.rnn, 2, embedding=3), TypeError, "embedding", "a module", "got int"),
        (entry, lambda w, f=make: f(w.rnn, 2, embedding=N.Embedding(7, 9)), ValueError, "embedding", "3 wide", "got 9"),
        (entry, lambda w, f=make: f(w.rnn, 2, rng="a"), TypeError, "rng", "a seed >= 0", "'a'"),
    )
] + [
    ("tr.nn.Acceptor", lambda w: N.Acceptor(w.rnn, 2, pool="sum"), ValueError, "pool", '"last", "max"', "'sum'"),
    ("tr.nn.Acceptor.forward", lambda w: w.acceptor(w.xs[0]), ValueError, "xs", "(time, batch, features)", "(2, 3)"),
    ("tr.nn.Acceptor.forward", lambda w: w.acceptor(w.xs, [9, 9]), ValueError, "lengths", "0..5", "9 for row 0"),
    ("tr.nn.Acceptor.forward", lambda w: w.reader(w.ids[0]), ValueError, "xs", "ids (time, batch)", "(2,)"),
    ("tr.nn.Acceptor.forward", lambda w: w.reader(w.ids + 7), IndexError, "xs", "0..6", "7 at (0, 0)"),
    ("tr.nn.Acceptor.forward", lambda w: w.reader(w.ids * 0.5), TypeError, "xs", "integers", "float64"),
    ("tr.nn.Transducer.forward", lambda w: w.transducer(w.ids, 3), TypeError, "state", "a list of 2", "got int"),
    ("tr.nn.Transducer.forward", lambda w: w.transducer(w.ids - 1), IndexError, "xs", "0..6", "-1 at (0, 0)"),
    ("tr.nn.Transducer.forward", lambda w: w.transducer(w.ids, lengths=[1]), ValueError, "lengths", "(2,)", "(1,)"),
    ("tr.nn.Encoder", lambda w: N.Encoder(3), TypeError, "rnn", "tr.nn.RNN", "got int"),
    ("tr.nn.Encoder.forward", lambda w: w.encoder(w.ids, [9, 1]), ValueError, "lengths", "0..5", "9 for row 0"),
    ("tr.nn.EncoderDecoder", lambda w: N.EncoderDecoder(3, w.transducer), TypeError, "encoder", "tr.nn.Encoder", "int"),
    ("tr.nn.EncoderDecoder", lambda w: N.EncoderDecoder(w.encoder, 3), TypeError, "decoder", "tr.nn.Transducer", "int"),
    ("tr.nn.EncoderDecoder", lambda w: N.EncoderDecoder(w.encoder, N.Transducer(w.both, 2, rng=0)), ValueError,
     "decoder", "one direction", "backwards"),
    ("tr.nn.EncoderDecoder", lambda w: N.EncoderDecoder(w.encoder, N.Transducer(N.RNN(C.LSTM(I, 5)), 2)), ValueError,
     "decoder", "[(4, 4), (4, 4)]", "[(5, 5)]"),
    ("tr.nn.EncoderDecoder.forward", lambda w: w.translator(w.ids[0], w.ids), ValueError, "src", "ids", "(2,)"),
    ("tr.nn.EncoderDecoder.forward", lambda w: w.translator(w.ids, w.ids[:, :1]), ValueError, "tgt", "the 2 rows", "1"),
    ("tr.nn.EncoderDecoder.forward", lambda w: w.translator(w.ids, w.ids + 7), IndexError, "tgt", "0..6", "7 at"),
    ("tr.nn.EncoderDecoder.forward", lambda w: w.translator(w.ids, w.ids, [9, 1]), ValueError, "lengths", "0..5", "9"),
] + [
    ("tr.nn.EncoderDecoder.greedy", lambda w, k=given: w.translator.greedy(w.ids, **known(k)), error, *says)
    for given, error, *says in (
        ({"start": 7}, ValueError, "start", "0..6", "got 7"),
        ({"stop": "a"}, TypeError, "stop", "an int", "'a'"),
        ({"max_steps": 0}, ValueError, "max_steps", SIZE, "got 0"),
        ({"lengths": [9, 1]}, ValueError, "lengths", "0..5", "9 for row 0"),
    )
]  # fmt: skip


def known(changes):
    return {"start": 0, "stop": 1, "max_steps": 3} | changes
