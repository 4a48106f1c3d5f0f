"""What does not fit is refused at the call, by an error that names the argument, what it needs and what it got; and
nothing has changed: no parameter, gradient, optimiser, random generator or file.

One table over the whole public surface (`bad_calls_*`), and a check that the table is complete.
"""

import importlib
import inspect

import bad_calls_cells
import bad_calls_flow
import bad_calls_ops
import bad_calls_rest
import numpy as np
import pytest
from bad_input import B, F, H, I, T, World, state_of

import tinyrnn as tr
from tinyrnn import data

ROWS = [*bad_calls_ops.rows(), *bad_calls_cells.rows(), *bad_calls_flow.rows(), *bad_calls_rest.rows()]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return World(tmp_path_factory.mktemp("files")).folder


@pytest.fixture
def world(tmp_path, files):
    return World(tmp_path, files)


@pytest.mark.parametrize("row", ROWS, ids=[f"{row[0]}-{row[3]}" for row in ROWS])
def test_a_bad_call_says_what_is_wrong_and_changes_nothing(world, row):
    _, call, error, names, needs, got = row
    before, threads = state_of(vars(world)), tr.get_num_threads()
    with pytest.raises(error) as caught:
        call(world)
    text = str(caught.value)
    assert [part for part in (names, needs, got) if part not in text] == [], text
    assert len(text) < 2000
    after = state_of(vars(world))
    assert {name for name in before if before[name] != after[name]} == set()
    assert tr.get_num_threads() == threads


# -- is the table complete? --------------------------------------------------------------------------------------------

PARTS = ["", "nn", "cells", "optim", "init", "data", "flow", "interop", "interop.torch", "interop.onnx", "files"]
RECORD = "a record or an error that the library makes"
NO_ARGUMENTS = "takes nothing that could be wrong"
FLAG = "takes a truth value only"
INSIDE = "called by scan, unroll or other cells with checked arguments"
ANY = "takes any value"
EXEMPT = {
    "tr.Tape": "given the Tensors of a result; see Tensor.backward and grad",
    "tr.Tape.reverse": "called by backward and grad with checked seeds",
    "tr.GradcheckError": RECORD,
    "tr.GradcheckReport": RECORD,
    "tr.data.Batch": RECORD,
    "tr.data.MissingExtraError": RECORD,
    "tr.data.Recording": RECORD,
    "tr.data.Review": RECORD,
    "tr.data.Sentence": RECORD,
    "tr.data.Split": RECORD,
    "tr.files.Checkpoint": RECORD,
    "tr.files.CheckpointError": RECORD,
    "tr.flow.Contribution": RECORD,
    "tr.flow.Jacobian": RECORD,
    "tr.flow.Paths": RECORD,
    "tr.flow.Sensitivity": RECORD,
    "tr.flow.Signal": RECORD,
    "tr.flow.Trace": RECORD,
    "tr.interop.CannotExpressError": RECORD,
    "tr.interop.onnx.CannotExpressError": RECORD,
    "tr.no_grad": NO_ARGUMENTS,
    "tr.enable_grad": NO_ARGUMENTS,
    "tr.Tensor.numpy": NO_ARGUMENTS,
    "tr.Tensor.detach": NO_ARGUMENTS,
    "tr.Module.forward": "of a subclass; calling one without is a NotImplementedError",
    "tr.Module.named_generators": ANY,
    "tr.Module.named_modules": ANY,
    "tr.Module.named_parameters": ANY,
    "tr.Module.train": FLAG,
    "tr.Cell.draws": INSIDE,
    "tr.cells.Wrapper.draws": INSIDE,
    "tr.cells.Wrapper.own_draws": INSIDE,
    "tr.cells.Wrapper.take_step": INSIDE,
    "tr.cells.identity": ANY,
}
"""What needs no row, and why. A cell's `step` needs none either: it is made of ops, and `cell(x, *state)` checks."""


def takes_nothing(value):
    try:
        parameters = [p for p in inspect.signature(value).parameters if p != "self"]
    except ValueError:  # compiled
        return False
    return not parameters


def surface():
    """Every public callable by its name: functions, classes, and the public methods that classes define."""
    found = {}
    for part in PARTS:
        module = importlib.import_module(f"tinyrnn.{part}".rstrip("."))
        named = [name for name, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__]
        for name in getattr(module, "__all__", named):
            value = getattr(module, name)
            if name.startswith("_") or inspect.ismodule(value) or not callable(value):
                continue
            entry = ".".join(filter(None, ["tr", part, name]))
            found[entry] = value
            if inspect.isclass(value):
                found |= {
                    f"{entry}.{k}": getattr(value, k)
                    for k, method in vars(value).items()
                    if not k.startswith("_") and (callable(method) or isinstance(method, classmethod))
                }
    return found


def test_every_public_callable_is_in_the_table():
    entries, known = {row[0] for row in ROWS}, surface()
    missing = [
        name
        for name, value in known.items()
        if name not in entries and name not in EXEMPT and not takes_nothing(value) and not is_step(name)
    ]
    assert missing == []


def is_step(name):
    """A cell's step, and what subclasses of cells define again under a name that `Cell` or `Wrapper` has."""
    part, _, method = name.rpartition(".")
    return method == "step" or (part.startswith("tr.cells.") and method == "own_draws")


def test_rows_and_exceptions_are_of_what_there_is():
    known = surface()
    for entry in {row[0] for row in ROWS} | set(EXEMPT):
        owner, _, name = entry.rpartition(".")
        assert entry in known or isinstance(getattr(known.get(owner), name, None), (property, type(tr.Tensor.data)))
    assert not {row[0] for row in ROWS} & set(EXEMPT)


# -- NaN and infinity --------------------------------------------------------------------------------------------------

RUNS = {
    "scan": lambda cell, xs, **options: tr.scan(cell, xs, **options),
    "unroll": lambda cell, xs, **options: tr.unroll(cell, xs, **options),
    "RNN": lambda cell, xs, **options: tr.nn.RNN(cell)(xs, **options),
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_check_finite_names_the_first_and_reads_what_the_cell_reads(world, name, bad):
    xs = np.ones((T, B, I), F)
    xs[2:, 1, 2] = bad
    expected = rf"xs must be finite \(check_finite\), got {bad} at time 2, row 1, feature 2"
    with pytest.raises(ValueError, match=expected):
        RUNS[name](world.gru, xs, check_finite=True)
    with pytest.raises(ValueError, match=expected):
        RUNS[name](world.gru, xs, lengths=[1, 3], check_finite=True)
    ys, _ = RUNS[name](world.gru, xs, lengths=[T, 2], check_finite=True)  # row 1 ends before
    assert np.isfinite(ys.numpy()).all()
    RUNS[name](world.gru, xs)  # not asked for


@pytest.mark.parametrize("name", RUNS)
def test_check_finite_changes_no_result(world, name):
    with tr.no_grad():
        plain, checked = (RUNS[name](world.gru, world.xs, check_finite=asked) for asked in (False, True))
    assert state_of(plain) == state_of(checked)


def test_check_finite_sees_batch_first(world):
    rnn = tr.nn.RNN(world.gru, batch_first=True)
    with pytest.raises(ValueError, match="got nan at time 3, row 1, feature 2"):
        rnn(world.nan.transpose(1, 0, 2), check_finite=True)


# -- batches without rows ----------------------------------------------------------------------------------------------
#
# What works on rows works on none of them, as NumPy's functions do: shapes are right, and every parameter that was used
# has a gradient of zeros. What sums over rows gives 0. A mean over nothing is refused where it is a loss (see the
# table); `tr.mean` gives NaN as np.mean does, without its warning.

NO_XS, NO_IDS, NO_STATE = np.zeros((T, 0, I), F), np.zeros((T, 0), np.int64), np.zeros((0, H), F)
NONE = np.zeros((0, 3), F)


def noisy():
    return tr.cells.RecurrentDropout(tr.cells.Zoneout(tr.cells.LSTM(I, H, rng=0), 0.5), 0.5)


def blocks():
    return tr.cells.LSTM(I, H, cells_per_block=2, peephole="diagonal", projection=3, rng=0)


CELLS = {name: lambda name=name: tr.cells.by_name(name)(I, H, rng=0) for name in tr.cells.names()}
CELLS |= {"noise": noisy, "learned": lambda: tr.cells.LearnedState(tr.cells.GRU(I, H, rng=0)), "blocks": blocks}


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("lengths", [None, []], ids=["whole", "ragged"])
@pytest.mark.parametrize("run", [tr.scan, tr.unroll])
def test_cells_run_over_no_rows(name, lengths, run):
    cell = CELLS[name]()
    ys, finals = run(cell, NO_XS, lengths=lengths)
    assert ys.shape == (T, 0, cell.state_sizes[0])
    assert [s.shape for s in finals] == [(0, n) for n in cell.state_sizes]
    (ys.sum() + sum((s.sum() for s in finals), tr.tensor(0.0))).backward()
    assert all(p.grad is not None and not p.grad.numpy().any() for p in cell.parameters())


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("run", [tr.scan, tr.unroll])
def test_cells_run_over_no_steps(name, run):
    cell = CELLS[name]()
    ys, finals = run(cell, np.zeros((0, B, I), F), lengths=[0] * B)
    assert ys.shape == (0, B, cell.state_sizes[0])
    assert all((s.numpy() == first.numpy()).all() for s, first in zip(finals, cell.initial_state(B), strict=True))


MODELS = {
    "a step": (lambda w: w.gru(NONE, NO_STATE), (0, H)),
    "Linear": (lambda w: w.linear(NONE), (0, H)),
    "Embedding": (lambda w: w.embedding(NO_IDS), (T, 0, I)),
    "Dropout": (lambda w: tr.nn.Dropout(0.5, rng=w.rng)(NONE), (0, 3)),
    "RNN": (lambda w: w.rnn(NO_XS)[0], (T, 0, H)),
    "RNN, ragged": (lambda w: w.both(NO_XS, lengths=[])[0], (T, 0, 2 * H)),
    "RNN, last": (lambda w: w.both(NO_XS, return_sequences=False)[0], (0, 2 * H)),
    "RNN, states": (lambda w: w.rnn(NO_XS, [(NO_STATE, NO_STATE)] * 2)[1][1][1], (0, H)),
    "Acceptor": (lambda w: w.acceptor(NO_XS), (0, 2)),
    "Acceptor, max": (lambda w: w.reader(NO_IDS, []), (0, 2)),
    "Acceptor, mean": (lambda w: tr.nn.Acceptor(w.rnn, 2, pool="mean")(NO_XS), (0, 2)),
    "Transducer": (lambda w: w.transducer(NO_IDS)[0], (T, 0, 7)),
    "Encoder": (lambda w: w.encoder(NO_IDS)[0][0], (0, H)),
    "EncoderDecoder": (lambda w: w.translator(NO_IDS, NO_IDS), (T, 0, 7)),
    "greedy": (lambda w: w.translator.greedy(NO_IDS, start=0, stop=1, max_steps=3)[1], (0,)),
    "OnnxModel": (lambda w: w.onnx.run(**NO_ONNX)["Y"], (T, 0, H)),
    "softmax": (lambda w: tr.softmax(NONE), (0, 3)),
    "log_softmax": (lambda w: tr.log_softmax(NONE), (0, 3)),
    "layer_norm": (lambda w: tr.layer_norm(NONE), (0, 3)),
    "matmul": (lambda w: tr.matmul(NONE, w.xs[0].T), (0, B)),
    "take": (lambda w: tr.take(w.x, []), (0, 4)),
    "concat": (lambda w: tr.concat([NONE, NONE]), (0, 3)),
    "stack": (lambda w: tr.stack([NONE, NONE]), (2, 0, 3)),
    "split": (lambda w: tr.split(NONE, 2)[1], (0, 3)),
    "losses": (lambda w: tr.cross_entropy(NONE, [], "none"), (0,)),
    "bucket": (lambda w: data.bucket([], 2, w.rng), 0),
    "agreement_pairs": (lambda w: data.agreement_pairs(w.rng, []), 0),
    "written_dates": (lambda w: data.written_dates(w.rng, []), 0),
}
NO_ONNX = {
    "X": NO_XS,
    "sequence_lens": np.zeros(0, np.int32),
    "initial_h": NO_STATE[None],
    "initial_c": NO_STATE[None],
}


@pytest.mark.parametrize("name", MODELS)
def test_no_rows_give_none(world, name):
    call, shape = MODELS[name]
    found = call(world)
    assert (len(found) if shape == 0 else found.shape) == shape


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: tr.cross_entropy(x, [], "sum"),
        lambda x: tr.mse_loss(x, NONE, "sum"),
        lambda x: tr.binary_cross_entropy_with_logits(x, NONE, "sum"),
        lambda x: x.sum(),
    ],
)
def test_sums_over_no_rows_are_zero(loss):
    x = tr.tensor(NONE, requires_grad=True)
    y = loss(x)
    y.backward()
    assert (y.item(), x.grad.shape) == (0.0, (0, 3))


def test_the_mean_of_nothing_is_that_of_numpy():
    assert np.isnan(tr.mean(NONE).item())
    assert tr.mean(NONE, axis=1).shape == (0,)


def test_gradcheck_of_no_rows():
    cell = tr.cells.GRU(I, H, dtype="float64", rng=0)
    assert tr.gradcheck(cell, (NONE.astype("float64"), NO_STATE.astype("float64")))
