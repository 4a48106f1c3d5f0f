"""The experiment on clipping: its mechanics on a small scale, and, among the slow tests, what it claims."""

import importlib
import io
import json
import math
import sys

import numpy as np
import pytest

import tinyrnn as tr
from tinyrnn.cli import main
from tinyrnn.cli.clipping import as_json, table_of
from tinyrnn.experiments import clipping as experiment
from tinyrnn.experiments.clipping import MEAN_LOSS, Net, Settings, cell_of, decay, make_batches, nets, train

SMALL = Settings(lengths=(12, 10), updates=30, hidden=4, batch=5)


@pytest.fixture(scope="module")
def found():
    seen = []
    got = experiment.run(SMALL, lambda done, text: seen.append((done, text)))
    work = [done for done, _ in seen]
    assert work == sorted(work)
    assert work[-1] == experiment.work_of(SMALL)
    assert "GRU, 10 steps, clipped  loss 0." in seen[-1][1]
    return got


def strict(text):
    """JSON without NaN and Infinity, which only Python reads."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.mark.parametrize("net", nets(SMALL), ids=lambda net: net.name)
def test_decay_is_the_gradient_of_the_states(net):
    """Against the gradient by the states from which the last steps are run again; that of an LSTM's c counts its way
    through h = o tanh(c) too."""
    steps, model = 10, net.build(10, SMALL)
    (batch, *_) = make_batches(steps, SMALL)
    xs, ends = batch.inputs, batch.lengths
    assert len(set(ends)) > 1
    norms = decay(model, batch, steps)
    for distance in (0, 1, 4, steps - 1):
        with tr.no_grad():
            _, states = tr.unroll(cell_of(model), xs, lengths=ends - distance)
        rest = np.stack([xs[end - distance : end, b] for b, end in enumerate(ends)], axis=1)
        leaves = [tr.tensor(s, requires_grad=True) for s in states]
        _, finals = tr.unroll(cell_of(model), rest, tuple(leaves))
        loss = tr.mse_loss(model.readout(finals[0]).reshape(-1), batch.targets)
        found = tr.grad(loss, leaves, allow_unused=True)
        gradients = [0.0 if g is None else g.numpy().astype(float) for g in found]
        if net.cell == "lstm":
            h, tanh_c = leaves[0].numpy(), np.tanh(leaves[1].numpy().astype(float))
            gradients[1] = gradients[1] + gradients[0] * (h / tanh_c) * (1 - tanh_c**2)
        total = sum((g**2).sum() for g in gradients)
        np.testing.assert_allclose(norms[distance], math.sqrt(total / len(ends)), rtol=1e-4)


def test_networks_start_as_they_are_described():
    for net in nets(SMALL):
        model, again = net.build(10, SMALL), net.build(10, SMALL)
        for p, q in zip(model.parameters(), again.parameters(), strict=True):
            assert np.array_equal(p.data, q.data)
        if net.gain is not None:
            singular = np.linalg.svd(cell_of(model).W_h.numpy())[1]
            np.testing.assert_allclose(singular, net.gain, rtol=1e-5)


def test_runs_share_data_and_start(found):
    assert list(found.courses) == [
        (net.name, steps, clipped) for steps in (12, 10) for net in found.nets for clipped in (False, True)
    ]
    for net in found.nets:
        for steps in SMALL.lengths:
            without, clipped = (found.courses[net.name, steps, which] for which in (False, True))
            assert (without.losses[0], without.norms[0]) == (clipped.losses[0], clipped.norms[0])
            assert (without.clip, clipped.clip) == (None, SMALL.clip)
            assert len(without.losses) == len(without.norms) == SMALL.updates
            assert found.decays[net.name, steps].shape == (steps,)
            assert clipped.final_loss == pytest.approx(clipped.losses[-3:].mean())
            assert clipped.largest_norm == clipped.norms.max()
    # The first update of the large gain is clipped, so the second losses differ.
    name = found.nets[1].name
    assert found.courses[name, 12, False].norms[0] > SMALL.clip
    assert found.courses[name, 12, False].losses[1] != found.courses[name, 12, True].losses[1]


def test_same_seed_same_bits(found):
    again = experiment.run(SMALL)
    for key, course in found.courses.items():
        assert np.array_equal(course.losses, again.courses[key].losses)
        assert np.array_equal(course.norms, again.courses[key].norms)
    for key, norms in found.decays.items():
        assert np.array_equal(norms, again.decays[key])
    assert as_json(again) == as_json(found)
    other = make_batches(10, Settings(lengths=(10,), updates=1, batch=5, seed=1))
    assert not np.array_equal(other[0].targets, make_batches(10, SMALL)[0].targets)


def test_a_run_that_overflows_ends():
    net = Net("Elman, too fast", "elman", 1e8, 3.0)
    batches = make_batches(10, SMALL)
    course = train(net, batches, 10, SMALL, None)
    assert course.stopped
    assert 1 < len(course.losses) < SMALL.updates
    assert np.isfinite(course.losses[:-1]).all()
    assert np.isfinite(course.norms[:-1]).all()
    assert course.final_loss == course.largest_norm == math.inf
    updates, losses, norms = course.curves
    assert len(updates) == len(losses) == len(norms) == len(course.losses)
    whole = train(net, batches, 10, SMALL, 1e-9)
    assert not whole.stopped
    found = experiment.Findings(SMALL, [net])
    for steps in SMALL.lengths:
        found.decays[net.name, steps] = np.ones(steps)
        found.courses[net.name, steps, False], found.courses[net.name, steps, True] = course, whole
    assert found.calmed == found.cured == (net.name, 12)
    told = strict(json.dumps(as_json(found)))
    assert told["runs"][0]["stopped_after"] == len(course.losses)
    assert told["runs"][0]["loss_at_the_end"] is None
    assert told["runs"][1]["stopped_after"] is None
    assert table_of(found).row_count == 2
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'tinyrnn[plots]'")
    from tinyrnn.experiments.clipping_figure import draw, small_png

    assert small_png(draw(found)[0])


def test_curves_are_blocks():
    course = experiment.Course(
        nets(SMALL)[0], 10, None, 250, np.arange(250.0), np.where(np.arange(250) == 100, 9.0, 1.0)
    )
    updates, losses, norms = course.curves
    assert course.block == 3
    assert updates.tolist() == [*range(3, 250, 3), 250]
    assert losses[:2].tolist() == [1.0, 4.0]
    assert losses[-1] == 249.0
    assert np.flatnonzero(norms == 9.0).tolist() == [33]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_figure(found, theme):
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'tinyrnn[plots]'")
    from tinyrnn.experiments.clipping_figure import draw, small_png

    figure, data = draw(found, theme=theme)
    assert data is found
    assert [len(ax.get_lines()) > 1 for ax in figure.axes] == [True] * 4
    for ax in figure.axes:
        assert ax.get_xlabel()
        assert ax.get_ylabel()
        assert ax.get_yscale() == "log"
    (drawn,) = [ln for ln in figure.axes[0].get_lines() if ln.get_label() == "GRU"]
    norms = found.decays["GRU", 12]
    np.testing.assert_allclose(drawn.get_ydata(), norms / norms[0])
    picture = small_png(figure)
    assert len(picture) < 150_000
    with importlib.import_module("PIL.Image").open(io.BytesIO(picture)) as image:
        assert image.size == (1100, 770)
        assert len(image.convert("RGB").getcolors(1 << 20)) > 20


def run_command(capsys, *arguments):
    """(exit code, standard output, standard error)"""
    with pytest.raises(SystemExit) as stopped:
        main(["clipping", *map(str, arguments)])
    return stopped.value.code, *capsys.readouterr()


def test_command(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'tinyrnn[plots]'")
    small = ["--length", 10, "--updates", 20, "--hidden", 4, "--clip", 1, "--gain", 0.5, "--gain", 1.5, "--seed", 3]
    code, out, err = run_command(capsys, *small, "--out", tmp_path / "new" / "place")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    rows = {line.split("  ")[0]: line.split()[-6:] for line in lines if line.startswith(("Elman", "LSTM", "GRU"))}
    assert list(rows) == ["Elman, gain 0.5", "Elman, gain 1.5", "LSTM", "GRU"]
    assert max(map(len, lines[:7])) <= 80
    told = strict((tmp_path / "new" / "place" / "clipping.json").read_text())
    assert told["settings"] == {
        "lengths": [10], "updates": 20, "clip": 1.0, "gains": [0.5, 1.5], "hidden": 4, "batch": 32, "seed": 3
    }  # fmt: skip
    assert [run["clip"] for run in told["runs"]] == [None, 1.0] * 4
    for run in told["runs"]:
        assert f"{run['loss_at_the_end']:.4f}" in rows[run["network"]]
    assert (tmp_path / "new" / "place" / "clipping.png").read_bytes().startswith(b"\x89PNG")


def test_command_without_matplotlib(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    code, out, _ = run_command(capsys, "--length", 10, "--updates", 2, "--hidden", 2, "--out", tmp_path)
    assert code == 0
    assert "no picture: figures need matplotlib: pip install 'tinyrnn[plots]'" in out
    assert [path.name for path in tmp_path.iterdir()] == ["clipping.json"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--clip", "0"], 1, "clip must be a number > 0, got 0.0"),
        (["--clip", "nan"], 1, "clip must be a number > 0, got nan"),
        (["--gain", "2", "--gain", "2"], 1, "gains must be different numbers > 0, got (2.0, 2.0)"),
        (["--gain", "-1"], 1, "gains must be different numbers > 0"),
        (["--length", "20", "--length", "20"], 1, "lengths must be different numbers of at least 10 steps"),
        (["--length", "9"], 2, "--length"),
        (["--updates", "0"], 2, "--updates"),
        (["--theme", "grey"], 2, "--theme"),
    ],
)
def test_command_refuses(arguments, code, message, tmp_path, capsys):
    got, out, err = run_command(capsys, *arguments, "--out", tmp_path / "none")
    assert (got, out) == (code, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": ()}, "lengths must be"),
        ({"lengths": (9,)}, "lengths must be"),
        ({"updates": 0}, "updates must be at least 1, got 0"),
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"gains": (0.5, math.inf)}, "gains must be"),
    ],
)
def test_settings_refuse(options, message):
    with pytest.raises(ValueError, match=message):
        Settings(**options)


def test_help_has_an_example(capsys):
    code, out, _ = run_command(capsys, "--help")
    assert code == 0
    assert "Example: tinyrnn clipping" in out


# -- what it claims ----------------------------------------------------------------------------------------------------

DEFAULT = Settings()


def end(name, steps, clip, settings=DEFAULT):
    net = next(net for net in nets(settings) if net.name == name)
    return train(net, make_batches(steps, settings), steps, settings, clip)


@pytest.mark.parametrize("steps", [10, 30, 80])
def test_before_training_gradients_vanish_explode_or_are_kept(steps):
    (batch, *_) = make_batches(steps, Settings(updates=1))
    kept = {}
    for net in nets(DEFAULT):
        norms = decay(net.build(steps, DEFAULT), batch, steps)
        kept[net.name] = norms[-1] / norms[0]
    assert kept.pop("Elman, gain 0.5") < 1.5 * 0.5 ** (steps - 1)
    assert kept.pop("Elman, gain 2") > {10: 5, 30: 50, 80: 1e4}[steps]
    assert 0.05 < min(kept.values()) <= max(kept.values()) < 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_explosion_and_its_cure(seed):
    settings = Settings(seed=seed)
    wrecked, sound = (end("Elman, gain 1.2", 80, clip, settings) for clip in (None, settings.clip))
    assert wrecked.final_loss > 2 * MEAN_LOSS
    assert wrecked.largest_norm > 10 * sound.largest_norm
    assert sound.final_loss < 1.1 * MEAN_LOSS
    # At a shorter length the clipped network learns what the other does not.
    assert end("Elman, gain 1.2", 30, None, settings).final_loss > 2 * MEAN_LOSS
    assert end("Elman, gain 1.2", 30, settings.clip, settings).final_loss < 0.4 * MEAN_LOSS
    # The gradient that explodes from the first: clipping keeps the network sound, and can not make it learn.
    wrecked, sound = (end("Elman, gain 2", 80, clip, settings) for clip in (None, settings.clip))
    assert min(wrecked.norms[0], sound.norms[0]) > 1e4
    assert wrecked.final_loss > 5 * MEAN_LOSS
    assert 0.9 * MEAN_LOSS < sound.final_loss < 1.4 * MEAN_LOSS


@pytest.mark.slow
@pytest.mark.parametrize("steps", [10, 30, 80])
@pytest.mark.parametrize("name", ["Elman, gain 1.2", "Elman, gain 2"])
def test_readout_alone_is_stable_at_that_rate(name, steps):
    """What explodes is the recurrence: the readout of the same states, learned at the same rate, settles (it is linear
    least squares: an unstable rate would end in an overflow)."""
    (model,) = (net.build(steps, DEFAULT) for net in nets(DEFAULT) if net.name == name)
    params = list(model.readout.parameters())
    optimiser = tr.optim.SGD(params, lr=experiment.ELMAN_RATE, momentum=experiment.MOMENTUM)
    losses = []
    for batch in make_batches(steps, Settings(updates=500)):
        loss = tr.mse_loss(model(batch.inputs, batch.lengths), batch.targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-100:]) < 1.6 * MEAN_LOSS


@pytest.mark.slow
@pytest.mark.parametrize("clip", [None, DEFAULT.clip])
def test_gates_learn_at_every_length_and_vanishing_gradients_do_not(clip):
    for steps in DEFAULT.lengths:
        for name in ("LSTM", "GRU"):
            course = end(name, steps, clip)
            assert course.final_loss < 0.15 * MEAN_LOSS
            assert course.largest_norm < 2
        if steps > 10:
            assert end("Elman, gain 0.5", steps, clip).final_loss > 0.9 * MEAN_LOSS
