"""Monitors of training: what they measure, against NumPy and by construction, and that they change nothing."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from small_runs import TASKS, adding, bits, fit, lines, sentiment

import tinyrnn as tr
from tinyrnn import data, train
from tinyrnn.plan import plan_of
from tinyrnn.train import monitors
from tinyrnn.train.task import Outcome, Task

T, B = 5, 3


def unwatched(found):
    """bits() without what the monitors write."""
    arrays, rngs, progress, records = found
    return arrays, rngs, progress, [{k: v for k, v in record.items() if k != "monitor"} for record in records]


@pytest.mark.parametrize("name", TASKS)
def test_a_run_has_the_same_bits_with_and_without(tmp_path, name):
    fit(TASKS[name](), tmp_path / "with")
    fit(TASKS[name](), tmp_path / "without", monitors=False)
    assert unwatched(bits(tmp_path / "with")) == bits(tmp_path / "without")
    assert all("monitor" in record for record in lines(tmp_path / "with") if "train" in record)


def test_random_cells_draw_the_same_with_and_without(tmp_path):
    """Zoneout draws in every run of its cell, and so would one more run of it."""

    def task():
        plain = adding(epochs=2)
        cell = tr.cells.Zoneout(tr.cells.LSTM(2, 4, rng=0), 0.2, rng=1)
        model = tr.nn.Acceptor(tr.nn.RNN(cell), 1, dropout=0.2, rng=2)

        def measure(model, batch, state):
            answers = model(batch.inputs, batch.lengths).reshape(-1)
            return Outcome(tr.mse_loss(answers, batch.targets), 0, len(batch.targets))

        return replace(plain, model=model, measure=measure)

    fit(task(), tmp_path / "with")
    fit(task(), tmp_path / "without", monitors=False)
    assert unwatched(bits(tmp_path / "with")) == bits(tmp_path / "without")
    assert "rnn.cells.0.0.cell" in lines(tmp_path / "with")[0]["monitor"]["gates"]


# -- norms -------------------------------------------------------------------------------------------------------------


class Norms(train.Watcher):
    """The norms of the gradients as they are after each step, by layer, in float64."""

    def __init__(self, model):
        self.model, self.found = model, []

    def batch_ends(self, done, tally):
        layers = {}
        for name, p in self.model.named_parameters():
            layer = name.rpartition(".")[0]
            layers[layer] = layers.get(layer, 0.0) + float((p.grad.numpy().astype(np.float64) ** 2).sum())
        self.found.append({name: math.sqrt(total) for name, total in layers.items()})


@pytest.mark.parametrize("clip", [1e6, 0.4])
def test_norms_and_clipped_steps_are_those_of_the_gradients(tmp_path, clip):
    def run(limit):
        task = adding(epochs=1, sequences=20 * 36, clip=limit)
        watcher = Norms(task.model)
        train.Trainer(task, tmp_path / str(limit), watcher=watcher).fit()
        return lines(tmp_path / str(limit))[0]["monitor"], watcher.found

    monitor, found = run(clip)
    norms = np.array([math.hypot(*layers.values()) for layers in found])
    if clip > 1:
        assert monitor["gradient"]["mean"] == pytest.approx(norms.mean(), rel=1e-3)
        assert monitor["gradient"]["largest"] == pytest.approx(norms.max(), rel=1e-3)
        assert monitor["gradient"]["clipped"] == 0
        for layer in ("rnn.cells.0.0", "readout"):
            wanted = np.mean([found[k][layer] for k in (0, 16, 32)])
            assert monitor["layers"][layer] == pytest.approx(wanted, rel=1e-3)
    else:  # after clipping, what was clipped has the norm `clip`
        share = np.isclose(norms, clip, rtol=1e-5).mean()
        assert 0 < share < 1
        assert monitor["gradient"]["clipped"] == pytest.approx(share, rel=1e-3)
        assert monitor["gradient"]["largest"] > clip


# -- gates -------------------------------------------------------------------------------------------------------------


class Shown(tr.Cell):
    """Probes a gate that is its input, what is no gate, and a state."""

    def __init__(self, rng=0):
        super().__init__(2, 2, rng=rng)
        self.w = self.param(2)

    def step(self, x, h):
        f = tr.probe("f", x + 0 * h)
        tr.probe("wide", x * 3 - 1)
        return tr.probe("h", tr.relu(self.w * 0 + f))


def task_of(model, inputs, loss=lambda ys: ys.mean(), lengths=None):
    """A task of one batch. model: has .cell."""
    inputs = np.asarray(inputs, np.float32)
    batch = data.Batch(inputs, np.zeros(inputs.shape[1], np.float32), lengths)

    def measure(model, batch, state):
        ys, _ = tr.scan(model.cell, batch.inputs, lengths=batch.lengths)
        return Outcome(loss(ys), 0, len(batch.targets))

    plain = train.AddingOptions(epochs=1)
    return Task("own", plain, model, lambda epoch: [batch], [batch], [batch], measure, "")


class Holder(tr.Module):
    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self):
        raise NotImplementedError


def test_gates_are_counted_by_construction():
    """Unit 0 is closed in half its values and else in between, unit 1 always open; a row of 2 steps, one of 4."""
    xs = np.full((4, 2, 2), 0.99)
    xs[:, :, 0] = [[0.01, 0.5], [0.01, 0.01], [0.5, 7.0], [0.5, 7.0]]
    watch = monitors.Monitors(task := task_of(Holder(Shown()), xs, lengths=np.array([4, 2])), 1.0)
    assert watch.gates(task.train(0)[0]) == {"cell": {"f": {"closed": 0.25, "open": 0.5, "stuck": 0.5}}}
    # A row beyond the 16th is not read.
    many = np.concatenate([np.full((1, 16, 2), 0.5), np.full((1, 4, 2), 0.99)], axis=1)
    watch = monitors.Monitors(task := task_of(Holder(Shown()), many), 1.0)
    assert watch.gates(task.train(0)[0])["cell"]["f"]["open"] == 0


@pytest.mark.parametrize(
    ("cell", "gates"),
    [
        (tr.cells.LSTM(2, 3, rng=0), "i f o"),
        (tr.cells.LSTM(2, 3, coupled="input", rng=0), "i f o"),
        (tr.cells.GRU(2, 3, rng=0), "r z"),
        (tr.cells.SelectiveWrite(2, 3, rng=0), "o h"),  # o is carried as a state; h = o * σ(s) lies in [0, 1] too
        (tr.cells.Elman(2, 3, activation=tr.relu, rng=0), ""),
        (tr.cells.Elman(2, 3, activation=tr.sigmoid, rng=0), "h"),
        (tr.cells.Elman(2, 3, rng=0), ""),
    ],
    ids=lambda value: getattr(value, "__class__", type(value)).__name__ if isinstance(value, tr.Cell) else value,
)
def test_gates_are_found_in_any_cell(cell, gates):
    xs = np.random.default_rng(0).normal(size=(T, B, 2))
    watch = monitors.Monitors(task := task_of(Holder(cell), xs), 1.0)
    assert set(watch.gates(task.train(0)[0]).get("cell", {})) == set(gates.split())


def test_watching_leaves_cells_and_plans_as_they_were():
    inner = tr.cells.GRU(2, 3, rng=0)
    cell = tr.cells.Zoneout(inner, 0.1)
    model, xs = Holder(cell).eval(), np.ones((T, B, 2), np.float32)
    tr.scan(cell, xs)
    before, attributes = plan_of(cell, (2,)), [dict(vars(m)) for m in model.modules()]
    with monitors.watching(model) as seen:
        tr.scan(cell, xs)
    assert [(one.cell, one.step, one.name) for one in seen[:4]] == [
        ("cell.cell", 0, "r"), ("cell.cell", 0, "z"), ("cell.cell", 0, "n"), ("cell.cell", 1, "r")
    ]  # fmt: skip
    assert len(seen) == 3 * T
    with pytest.raises(ValueError, match="xs must be"), monitors.watching(model):
        tr.scan(cell, xs[..., :1])
    assert [dict(vars(m)) for m in model.modules()] == attributes
    assert plan_of(cell, (2,))[0] is before[0]


# -- what is not finite ------------------------------------------------------------------------------------------------


class Grows(tr.Cell):
    """h' = w h + x, beyond float32 after some steps; probes twice."""

    def __init__(self, w):
        super().__init__(1, 1, rng=0)
        self.w = self.param(1, init=w)

    def step(self, x, h):
        grown = tr.probe("grown", self.w * h)
        return tr.probe("sum", grown + x)


def bad_parameter():
    cell = Grows(1.0)
    cell.w.data = np.array([np.nan])
    return task_of(Holder(cell), np.ones((T, B, 1)))


def bad_input():
    xs = np.ones((T, B, 1))
    xs[3, 1] = np.inf
    return task_of(Holder(Grows(1.0)), xs)


FINDS = {
    "parameter": (bad_parameter, "the parameter cell.w"),
    "input": (bad_input, "the inputs of the batch at step 4"),
    # h is 1e20 after a step, 1e40 in the next
    "probe": (lambda: task_of(Holder(Grows(1e20)), np.full((T, B, 1), 1e10)), '"grown" of cell at its step 3'),
    "loss": (
        lambda: task_of(Holder(Grows(1.0)), np.ones((T, B, 1)), lambda ys: tr.log(ys * 0).sum()),
        "the loss",
    ),
    # the values stay 0, but dh'/dh = 1e20 a step: too large three steps before the end
    "gradient": (
        lambda: task_of(Holder(Grows(1e20)), np.zeros((T, B, 1)), lambda ys: ys[-1].sum()),
        'on the way back, the gradient of "sum" of cell at its step 3',
    ),
}


@pytest.mark.parametrize("name", FINDS)
def test_the_first_value_that_is_not_finite_is_found(tmp_path, name):
    make, wanted = FINDS[name]
    task = make()
    assert monitors.find_nonfinite(task, task.train(0)[0], None) == wanted
    _, trainer = fit(task, tmp_path)
    (note,) = trainer.watcher.notes
    assert note.endswith(f"; the step was skipped; first not finite: {wanted}; try a smaller --lr or --clip")
    record = lines(tmp_path)[0]
    assert record["monitor"]["nonfinite"] == wanted
    assert record["monitor"]["gradient"] is None
    assert record["skipped"] == 1


def test_a_step_is_looked_into_with_the_masks_that_it_had(tmp_path):
    """Word dropout decides which words a step sees; the replay must see the same."""
    seen = []

    def measure(model, batch, state):
        with tr.probes() as found:
            outcome = task.measure(model, batch, state)
        if model.training:
            seen.append(found["c"][0].numpy() if "c" in found else None)
            return outcome._replace(loss=outcome.loss * float("nan"))
        return outcome

    task = sentiment(n=60, epochs=1)
    watch = monitors.Monitors(replace(task, measure=measure), 1.0)
    batch = task.train(0)[0]
    watch.epoch_begins(batch)
    watch.step_begins()
    watch.task.measure(task.model, batch, None)
    state = task.model.rnn.rng.bit_generator.state
    assert watch.not_finite(batch, None) == "the loss"
    assert watch.not_finite(batch, None) == ""
    assert np.array_equal(seen[0], seen[1])
    assert task.model.rnn.rng.bit_generator.state == state


# -- warnings ----------------------------------------------------------------------------------------------------------


def close(gradient=None, layers=None, gates=None, start=None, warned=()):
    """The kinds and texts of the warnings of an epoch in which this was measured, at clip 1."""
    watch = monitors.Monitors(task_of(Holder(Shown()), np.ones((1, 1, 2))), 1.0)
    mean, largest, share = gradient or (0.5, 2.0, 0.1)
    watch.sums = monitors.Sums(
        steps=10, norm=10 * mean, largest=largest, clipped=round(10 * share), sampled=2,
        layers={name: 2 * norm for name, norm in (layers or {"a": 1.0}).items()}, start=start, warned=list(warned),
    )  # fmt: skip
    watch.gates = lambda batch: gates or {}
    record, texts = watch.epoch_ends(watch.task.train(0)[0])
    assert list(record.get("warnings", {}).values()) == texts
    return list(record.get("warnings", {})), texts


def gate(share, name="f"):
    return {"cell": {name: {"closed": share / 4, "open": share * 3 / 4, "stuck": 0.0}}}


@pytest.mark.parametrize(
    ("measured", "kind", "text"),
    [
        ({}, None, ""),
        ({"gradient": (0.5, 120.0, 0.1)}, "exploding", "reached 1.2e+02 where --clip is 1: it explodes"),
        ({"gradient": (12.0, 90.0, 1.0)}, "clipped", "100% of the steps were clipped, from a norm of 12 on average"),
        ({"gradient": (2.0, 90.0, 1.0)}, None, ""),
        ({"layers": {"a": 1.0, "b": 1e-7}}, "vanishing", "hardly any gradient reaches b: its norm is 1.0e-07"),
        ({"layers": {"a": 1.0, "b": 1e-5}}, None, ""),
        ({"gates": gate(0.95), "start": gate(0.1)}, "saturated", 'gate "f" of cell saturated in training: 95%'),
        ({"gates": gate(0.95), "start": gate(0.9)}, None, ""),  # as it was meant to begin
        ({"gates": gate(0.85), "start": gate(0.1)}, None, ""),
        ({"gradient": (0.5, 120.0, 0.1), "warned": ["exploding"]}, None, ""),
    ],
)
def test_a_warning_says_what_to_try_and_is_given_once(measured, kind, text):
    kinds, texts = close(**measured)
    assert kinds == ([kind] if kind else [])
    assert all(text in found and re.search("; try|a smaller --lr", found) for found in texts)


def test_a_run_that_goes_wrong_is_warned_once(tmp_path):
    """Adam at a rate of 3 saturates every gate in a few steps."""
    _, trainer = fit(adding(lr=3.0, epochs=3, sequences=400, cell="gru"), tmp_path)
    notes = [note for note in trainer.watcher.notes if "saturated" in note]
    assert len(notes) == 1
    records = [record["monitor"] for record in lines(tmp_path) if "train" in record]
    assert sum("saturated" in record.get("warnings", ()) for record in records) == 1
