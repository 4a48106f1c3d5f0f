"""Pictures: the numbers that they show, against formulas and plain backward passes, and that they can be read."""

import io
import itertools
import re
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

import tinyrnn as tr
from tinyrnn import data
from tinyrnn.plots import style
from tinyrnn.plots.distance import decay, last_output
from tinyrnn.plots.gates import gates_of
from tinyrnn.plots.sensitivity import driven_lstm

pytestmark = pytest.mark.plots

T, B, I, H = 7, 2, 3, 4  # noqa: E741
WORDS = ["the", "film", "was", "long", "but", "good", "!"]


def sequences(seed=0, steps=T, rows=B, width=I):
    return np.random.default_rng(seed).normal(size=(steps, rows, width))


def traced(cell=None, **options):
    cell = cell or tr.cells.LSTM(I, H, dtype="float64", rng=0)
    return tr.flow.trace(cell, sequences(), lambda ys, finals: (ys[-1] * ys[-1]).sum(), **options)


def records(epochs=3, monitor=True):
    found = []
    for k in range(1, epochs + 1):
        part = {"loss": 1 / k, "accuracy": 1 - 0.4 / k}
        record = {"epoch": k, "train": part, "valid": {name: value + 0.05 for name, value in part.items()}}
        if monitor:
            record["monitor"] = {
                "gradient": {"mean": 0.5 * k, "largest": 2.0 * k, "clipped": 0.1},
                "layers": {"rnn.cells.0.0": 0.3 * k, "readout": 0.2},
                "gates": {"rnn.cells.0.0": {"f": {"closed": 0.1, "open": 0.02 * k, "stuck": 0.0}}},
            }
        found.append(record)
    return [*found, {"test": {"loss": 0.1}, "epoch": 2}]


FIGURES = {
    "fading": lambda **look: tr.plots.fading(**look),
    "preservation": lambda **look: tr.plots.preservation(**look),
    "sensitivity of a GRU": lambda **look: tr.plots.sensitivity_map(
        tr.cells.GRU(I, H, rng=0), sequences().astype("float32"), gates={"z": "left"}, title="GRU", **look
    ),
    "distance": lambda **look: tr.plots.gradient_by_distance(
        {
            "one": {
                "LSTM": tr.cells.LSTM(I, H, dtype="float64", rng=0),
                "GRU": tr.cells.GRU(I, H, dtype="float64", rng=0),
            }
        },
        sequences(),
        **look,
    ),
    "gates": lambda **look: tr.plots.gate_map(WORDS, traced(), title="forwards", **look),
    "gates, means": lambda **look: tr.plots.gate_map(WORDS, traced(), units=False, **look),
    "no gates": lambda **look: tr.plots.gate_map(WORDS, traced(tr.cells.Elman(I, H, dtype="float64", rng=0)), **look),
    "curves": lambda **look: tr.plots.curves(records(), **look),
    "curves without monitors": lambda **look: tr.plots.curves(records(1, monitor=False), **look),
}


# -- how they look -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn_and_labelled_without_global_state(name, theme):
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    before = dict(matplotlib.rcParams), sys.modules.get("matplotlib.pyplot")
    figure, _ = FIGURES[name](theme=theme)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3] / 255
    look = style.theme_named(theme)
    background = np.array([int(look.paper[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    assert np.allclose(pixels[0, 0], background, atol=0.01)
    assert (np.abs(pixels - background).max(axis=2) > 0.3).mean() > 0.005, "blank"
    shown = [ax for ax in figure.axes if ax.get_visible()]
    for ax in shown:
        texts = [ax.get_xlabel(), ax.get_ylabel(), *(label.get_text() for label in ax.get_yticklabels())]
        assert any(texts)
        assert all(t.get_color() == look.ink for t in (ax.xaxis.label, ax.yaxis.label) if t.get_text())
    assert (dict(matplotlib.rcParams), sys.modules.get("matplotlib.pyplot")) == before


def linear(colour):
    c = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(a, b):
    """Of WCAG 2, from 1 to 21."""
    light, dark = sorted((float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (a, b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def lab(rgb):
    """CIELAB of linear sRGB."""
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
    )
    xyz = to_xyz @ rgb / [0.95047, 1, 1.08883]
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


# Machado, Oliveira & Fernandes 2009, severity 1.
SIGHT = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


@pytest.mark.parametrize("name", style.THEMES)
def test_colours_stand_out_and_differ_for_every_reader(name):
    theme = style.THEMES[name]
    assert contrast(theme.ink, theme.paper) > 12
    assert all(contrast(colour, theme.paper) >= 3 for colour in theme.series)
    assert contrast(theme.low, theme.high) > 7
    for sight, matrix in SIGHT.items():
        seen = [lab(np.clip(np.array(matrix) @ linear(colour), 0, 1)) for colour in theme.series]
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 25, sight


def test_series_differ_by_line_and_marker_too():
    looks = [style.line(k, style.THEMES["light"]) for k in range(10)]
    assert len({(str(s["linestyle"]), s["marker"], s["color"]) for s in looks}) == 10
    assert len({(str(s["linestyle"]), s["marker"]) for s in looks[:5]}) == 5


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_for_a_page_takes_the_pages_colours(name):
    figure, _ = FIGURES[name](theme=style.PAGE)
    text = style.page_svg(figure, "salt", 'a "label" & more')
    root = ElementTree.fromstring(text)
    assert root.get("aria-label") == 'a "label" & more'
    assert "var(--ink)" in text
    assert not re.search("#0101[01]", text), "a placeholder is left"
    assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", text)
    assert root.findall(".//{http://www.w3.org/2000/svg}text"), "text is text"


def test_the_same_figure_is_the_same_text():
    first, second = (style.svg(tr.plots.fading()[0], "salt") for _ in range(2))
    assert first == second


def test_figures_are_saved_as_files(tmp_path):
    figure, _ = tr.plots.fading()
    for kind, start in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        figure.savefig(tmp_path / f"a.{kind}")
        assert (tmp_path / f"a.{kind}").read_bytes().startswith(start)
    figure.savefig(out := io.BytesIO(), format="pdf")
    assert out.getvalue().startswith(b"%PDF")


# -- what they show ----------------------------------------------------------------------------------------------------


def test_fading_is_the_product_of_the_jacobians():
    """d h_t / d x_1 = W_x diag(g') W_h diag(g') .., by NumPy."""
    _, found = tr.plots.fading(steps=6, rng=3)
    rng = np.random.default_rng(3)
    cell = tr.cells.Elman(3, 8, dtype="float64", rng=rng)
    xs, h = rng.normal(size=(6, 1, 3)), np.zeros(8)
    product, wanted = None, []
    for x in xs[:, 0]:
        h = np.tanh(x @ cell.W_x.numpy() + h @ cell.W_h.numpy() + cell.b.numpy())
        product = (cell.W_x.numpy() if product is None else product @ cell.W_h.numpy()) * (1 - h**2)
        wanted.append(np.linalg.norm(product, 2))
    assert found.norms["h"] == pytest.approx(wanted, rel=1e-10)
    assert (np.diff(found.norms["h"]) < 0).all()
    assert found.shades["h"].max() == 1
    assert found.signs == {}


def test_preservation_shows_the_input_where_the_output_gate_opens():
    _, found = tr.plots.preservation(steps=8, open_at=(3, 7))
    assert found.signs == {"i": "o-------", "f": "oooooooo", "o": "--o---o-"}
    assert found.shades["c"].min() > 0.99
    shown = found.shades["h"] > 0.9
    assert np.flatnonzero(shown).tolist() == [2, 6]
    assert found.shades["h"][~shown].max() < 0.01


def test_preservation_agrees_with_finite_differences():
    rng = np.random.default_rng(0)
    _, found = tr.plots.preservation()
    signal = rng.normal(size=(7, 1, 1))
    drive = np.zeros((7, 1, 3))
    drive[0, :, 0], drive[:, :, 1], drive[[3, 5], :, 2] = 1, 1, 1
    cell, xs = driven_lstm(rng), np.concatenate([signal, drive], axis=2)

    def states(xs):
        ys = [tr.unroll(cell, xs[: t + 1])[1] for t in range(7)]
        return {name: np.stack([y[k].numpy()[0] for y in ys]) for k, name in enumerate("hc")}

    eps, columns = 1e-6, []
    for k in range(4):
        up, down = xs.copy(), xs.copy()
        up[0, 0, k] += eps
        down[0, 0, k] -= eps
        columns.append({n: (states(up)[n] - states(down)[n]) / (2 * eps) for n in "hc"})
    for name in "hc":
        jacobians = np.stack([c[name] for c in columns], axis=2)  # (T, H, I)
        assert found.norms[name] == pytest.approx(np.linalg.norm(jacobians, 2, axis=(1, 2)), rel=1e-6)


@pytest.mark.parametrize("name", ["Elman", "Additive", "SelectiveRead", "LSTM", "GRU"])
def test_distance_is_that_of_a_plain_backward_pass(name):
    """The gradient by every state of every step, from steps taken one by one on the tape."""
    cell, xs = tr.cells.by_name(name)(I, H, dtype="float64", rng=1), sequences(1)
    _, found = tr.plots.gradient_by_distance({"a": {name: cell}}, xs)
    states, every = cell.initial_state(B), []
    for x in xs:
        made = cell.step(tr.tensor(x, dtype="float64"), *states)
        states = made if isinstance(made, tuple) else (made,)
        every.append(states)
    loss = (states[0] * np.array([1, -1, 1, -1])).sum()
    flat = [s for of in every for s in of]
    grads = tr.grad(loss, flat, allow_unused=True)
    squares = [0.0 if g is None else float((g.numpy() ** 2).sum()) / B for g in grads]
    wanted = np.sqrt(np.reshape(squares, (T, -1)).sum(axis=1))[::-1]
    assert found.norms["a"][name] == pytest.approx(wanted, rel=1e-10)
    assert found.relative["a"][name][0] == 1
    assert found.distances.tolist() == list(range(T))


def test_distance_takes_a_loss_and_sequences_of_each_panel():
    cell = tr.cells.GRU(I, H, dtype="float64", rng=0)
    xs = {"a": sequences(0), "b": sequences(1)}
    panels = {"a": {"x": (cell, lambda ys, finals: ys[2].sum())}, "b": {"x": cell}}
    _, found = tr.plots.gradient_by_distance(panels, xs)
    assert (found.norms["a"]["x"][: T - 3] == 0).all(), "what comes after step 3 does not count"
    assert found.norms["b"]["x"] == pytest.approx(decay(cell, xs["b"], last_output))


def test_gates_and_norms_are_those_of_the_sentence():
    cell = tr.cells.LSTM(I, H, dtype="float64", rng=0)
    xs, lengths = sequences(), [T, 4]
    found = tr.flow.trace(cell, xs, lambda ys, finals: finals[1].sum(), lengths=lengths)
    _, shown = tr.plots.gate_map(WORDS[:4], found, row=1)
    with tr.probes() as seen:
        ys, _ = tr.unroll(cell, xs[:4, 1:])
    assert list(shown.gates) == ["i", "f", "o"]
    for name, values in shown.gates.items():
        assert values == pytest.approx(np.stack([v.numpy()[0] for v in seen[name]]), rel=1e-10)
    means = shown.gates["f"].mean(axis=0)[shown.order["o"]]
    assert (np.diff(means) <= 0).all(), "all gates in the order of f"
    assert shown.states["h"] == pytest.approx(np.linalg.norm(ys.numpy()[:, 0], axis=1), rel=1e-10)
    assert shown.gradients["c"][-1] == pytest.approx(2)  # of the sum of 4 units
    assert shown.words == tuple(WORDS[:4])


@pytest.mark.parametrize(
    ("cell", "gates"),
    [
        (tr.cells.LSTM(I, H, dtype="float64", rng=0), ["i", "f", "o"]),
        (tr.cells.LSTM(I, H, cells_per_block=2, dtype="float64", rng=0), ["i", "f", "o"]),
        (tr.cells.GRU(I, H, dtype="float64", rng=0), ["r", "z"]),
        (tr.cells.Elman(I, H, activation=tr.sigmoid, dtype="float64", rng=0), []),
    ],
    ids=["LSTM", "blocks", "GRU", "Elman"],
)
def test_gates_are_found_in_any_cell(cell, gates):
    assert list(gates_of(traced(cell))) == gates
    tr.plots.gate_map(WORDS, traced(cell))


def test_curves_are_the_records():
    _, found = tr.plots.curves(records())
    assert found.epochs.tolist() == [1, 2, 3]
    assert found.results["loss"]["train"] == pytest.approx([1, 1 / 2, 1 / 3])
    assert found.results["accuracy"]["valid"][0] == pytest.approx(0.65)
    assert found.gradient["largest"].tolist() == [2, 4, 6]
    assert found.layers["rnn.cells.0.0"] == pytest.approx([0.3, 0.6, 0.9])
    assert found.saturated["f of rnn.cells.0.0"] == pytest.approx([0.12, 0.14, 0.16])
    # An epoch without a finite gradient, or from before there were monitors, has none.
    some = records()
    some[0]["monitor"]["gradient"] = None
    del some[1]["monitor"]
    _, found = tr.plots.curves(some)
    assert np.isnan(found.gradient["mean"]).tolist() == [True, True, False]


# -- what does not fit -------------------------------------------------------------------------------------------------


def bad(name, function, error, match):
    return pytest.param(function, error, match, id=name)


@pytest.mark.parametrize(
    ("function", "error", "match"),
    [
        bad("theme", lambda: tr.plots.fading(theme="grey"), ValueError, "theme must be one of light, dark, got 'grey'"),
        bad("steps", lambda: tr.plots.fading(0), ValueError, "steps must be a positive int, got 0"),
        bad("open_at", lambda: tr.plots.preservation(5, [6]), ValueError, r"open_at must name steps 1\.\.5, got 6"),
        bad(
            "place",
            lambda: tr.plots.sensitivity_map(driven_lstm(0), sequences(width=4), gates={"i": "under"}),
            ValueError,
            "gates must stand at one of below, left, above, got 'under'",
        ),
        bad(
            "probe",
            lambda: tr.plots.sensitivity_map(driven_lstm(0), sequences(width=4), gates={"q": "left"}),
            ValueError,
            "gates must be among the probes i, f, o, g, c, got 'q'",
        ),
        bad(
            "panels", lambda: tr.plots.gradient_by_distance({}, sequences()), ValueError, "panels must hold one or more"
        ),
        bad(
            "xs of a panel",
            lambda: tr.plots.gradient_by_distance({"a": {"x": driven_lstm(0)}}, {"b": sequences(width=4)}),
            ValueError,
            "xs must hold the sequences of every panel, got none for 'a'",
        ),
        bad(
            "xs of two lengths",
            lambda: tr.plots.gradient_by_distance(
                {"a": {"x": driven_lstm(0)}, "b": {"x": driven_lstm(0)}},
                {"a": sequences(width=4), "b": sequences(width=4, steps=3)},
            ),
            ValueError,
            r"xs must be of one number of steps in every panel, got \[3, 7\]",
        ),
        bad("words", lambda: tr.plots.gate_map(WORDS[1:], traced()), ValueError, "words must be 7 strings, .* got 6"),
        bad("a text", lambda: tr.plots.gate_map("abcdefg", traced()), ValueError, "words must be 7 strings"),
        bad("row", lambda: tr.plots.gate_map(WORDS, traced(), row=2), ValueError, "row must be one of the 2 .* got 2"),
        bad(
            "gate",
            lambda: tr.plots.gate_map(WORDS, traced(), gates=["q"]),
            ValueError,
            "gates must be among the probes i, f, o, g, c, got 'q'",
        ),
        bad("records", lambda: tr.plots.curves([{"test": {}}]), ValueError, "records must hold an epoch or more"),
    ],
)
def test_what_does_not_fit_is_named(function, error, match):
    with pytest.raises(error, match=match):
        function()


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(data.MissingExtraError, match=r"figures need matplotlib: pip install 'tinyrnn\[plots\]'"):
        tr.plots.curves(records())
