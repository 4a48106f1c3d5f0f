"""Bad calls of `tr.flow`: rows as in bad_input.py."""

import numpy as np

import tinyrnn as tr
from tinyrnn import flow


def first_output(ys, state):
    return ys[0].sum()


def rows():
    return [*COMMON, *TRACE, *RANGES, *OTHERS]


COMMON = [
    (f"tr.flow.{function.__name__}", lambda w, f=function, more=more, call=call: call(f, w, more), error, *says)
    for function, more in (
        (flow.trace, (first_output,)), (flow.jacobian, ()), (flow.paths, ()), (flow.sensitivity, ()),
    )
    for call, error, *says in (
        (lambda f, w, more: f(tr.cells.LSTM, w.xs, *more), TypeError, "cell must", "a tr.Cell", "lstm.LSTM"),
        (lambda f, w, more: f("LSTM", w.xs, *more), TypeError, "cell must", "a tr.Cell", "got str"),
        (lambda f, w, more: f(w.cell, w.xs[0], *more), ValueError, "xs must", "(time, batch, features)", "(2, 3)"),
        (lambda f, w, more: f(w.cell, w.xs[..., :2], *more), ValueError, "xs must", "(time, batch, 3)", "(5, 2, 2)"),
        (lambda f, w, more: f(w.cell, w.xs[:0], *more), ValueError, "xs must", "one step and one row", "(0, 2, 3)"),
        (lambda f, w, more: f(w.cell, w.xs[:, :0], *more), ValueError, "xs must", "one step and one row", "(5, 0, 3)"),
        (lambda f, w, more: f(w.cell, "ab", *more), TypeError, "xs must", "an array", "got str"),
        (lambda f, w, more: f(w.cell, w.xs, *more, state=w.h), ValueError, "state must", "2 tensors", "got 1"),
        (lambda f, w, more: f(w.cell, w.xs, *more, state=(w.h, w.h[:1])), ValueError, "state", "(2, 4)", "(1, 4)"),
        (lambda f, w, more: f(w.cell, w.xs, *more, lengths=[6, 1]), ValueError, "lengths must", "0..5", "6"),
        (lambda f, w, more: f(w.cell, w.xs, *more, lengths=[-1, 1]), ValueError, "lengths must", "0..5", "-1"),
        (lambda f, w, more: f(w.cell, w.xs, *more, lengths=[1]), ValueError, "lengths must", "(2,)", "(1,)"),
        (lambda f, w, more: f(w.cell, w.xs, *more, lengths=[1.5, 1]), TypeError, "lengths must", "int", "float64"),
    )
]  # fmt: skip
TRACE = [
    ("tr.flow.trace", lambda w, f=loss: flow.trace(w.cell, w.xs, f), error, *says)
    for loss, error, *says in (
        (None, TypeError, "loss_fn must", "a function", "got NoneType"),
        (lambda ys, s: 1.0, ValueError, "loss_fn must", "a Tensor of one element", "got float"),
        (lambda ys, s: ys, ValueError, "loss_fn must", "a Tensor of one element", "(5, 2, 4)"),
        (lambda ys, s: tr.tensor(1.0), ValueError, "loss_fn", "depends on ys or on the final states", "must"),
        (lambda ys, s: ys.detach().sum(), ValueError, "loss_fn", "depends on ys or on the final states", "must"),
    )
]  # fmt: skip
RANGES = [
    (f"tr.flow.{function.__name__}", lambda w, f=function, at=at: f(w.cell, w.xs, **at), error, *says)
    for function in (flow.jacobian, flow.paths)
    for at, error, *says in (
        ({"from_step": 3, "to_step": 2}, ValueError, "from_step", "0 <= from_step < to_step <= 5", "got 3 and 2"),
        ({"from_step": 2, "to_step": 2}, ValueError, "to_step", "0 <= from_step < to_step <= 5", "got 2 and 2"),
        ({"to_step": 6}, ValueError, "to_step", "0 <= from_step < to_step <= 5", "got 0 and 6"),
        ({"from_step": -1, "to_step": 5}, ValueError, "from_step", "0 <= from_step < to_step <= 5", "got -1 and 5"),
        ({"from_step": 0.0}, TypeError, "from_step", "an int in 0..5", "got 0.0"),
        ({"to_step": "end"}, TypeError, "to_step", "an int in 0..5", "got 'end'"),
        ({"to_step": np.float64(2)}, TypeError, "to_step", "an int in 0..5", "2.0"),
    )
]  # fmt: skip
OTHERS = [
    ("tr.flow.paths", lambda w: flow.paths(w.cell, w.xs, of="q"), ValueError, "of must", "h, c", "'q'"),
    ("tr.flow.paths", lambda w: flow.paths(w.cell, w.xs, of=1), ValueError, "of must", "h, c", "got 1"),
    ("tr.flow.paths", lambda w: flow.paths(w.gru, w.xs, of="c"), ValueError, "of must", "h", "got 'c'"),
    ("tr.flow.sensitivity", lambda w: flow.sensitivity(w.cell, w.xs, step=5), ValueError, "step must", "0..4", "5"),
    ("tr.flow.sensitivity", lambda w: flow.sensitivity(w.cell, w.xs, step=-1), ValueError, "step must", "0..4", "-1"),
    ("tr.flow.sensitivity", lambda w: flow.sensitivity(w.cell, w.xs, step=True), TypeError, "step must", "an int",
     "True"),
]  # fmt: skip
