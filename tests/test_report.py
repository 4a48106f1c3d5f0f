"""The report on a run: what it says, that it needs nothing but itself, and how a browser shows it."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from small_runs import adding, fit, sentiment

import tinyrnn as tr
from tinyrnn import report, train
from tinyrnn.cli import main
from tinyrnn.files import CheckpointError
from tinyrnn.report import page
from tinyrnn.report.reading import read
from tinyrnn.train import loop

pytestmark = pytest.mark.plots

TEXT = "w1, w2: fine </script><b>&amp; dull"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained run of made-up reviews, whose words are w0 .. w11, fine and dull."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    fit(sentiment(n=200, epochs=2, word_dropout=0.0), folder)
    return folder


@pytest.fixture(scope="module")
def made(run, tmp_path_factory):
    """(the path, the text of the report)"""
    path = report.write_report(run, TEXT, tmp_path_factory.mktemp("out") / "page.html")
    return path, path.read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Tags with their attributes and their text; raises for a tag that is not closed."""

    VOID = ("meta", "link", "br", "path", "use", "image", "rect", "line", "circle", "polyline", "polygon")

    def __init__(self, text):
        super().__init__()
        self.open, self.found = [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        element = (tag, dict(attributes), [])
        self.found.append(element)
        if tag not in self.VOID[:3]:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes), []))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for element in self.open:
            element[2].append(data)

    def of(self, tag, **attributes):
        return [
            (found, "".join(text))
            for name, found, text in self.found
            if name == tag and all(found.get(k.rstrip("_")) == v for k, v in attributes.items())
        ]


# -- what it says ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"bidirectional": False}, {"cell": "gru"}, {"cell": "elman"}], ids=str)
def test_a_reading_is_the_models_and_its_gradient_that_of_a_plain_backward_pass(tmp_path, options):
    fit(sentiment(epochs=1, **options), tmp_path)
    critic = train.Critic(train.read_model(tmp_path))
    found = read(critic, "w1 w2, fine unheard w3")
    assert found.words == ("w1", "w2", ",", "fine", "unheard", "w3")
    assert found.known == (True, True, False, True, False, True)
    label, probability = critic.judge("w1 w2, fine unheard w3")
    assert found.label == label
    assert max(found.positive, 1 - found.positive) == pytest.approx(probability, rel=1e-5)
    model, ids = critic.model, critic.vocabulary.encode(found.words)[:, None]
    vectors = tr.tensor(model.embedding(ids).numpy(), requires_grad=True)
    outputs = [tr.unroll(cell, vectors, reverse=k == 1)[0] for k, cell in enumerate(model.rnn.cells[0])]
    logit = model.readout(tr.concat(outputs, -1).max(0)).sum()
    assert found.logit == pytest.approx(logit.item(), rel=1e-4, abs=1e-5)
    gradient = tr.grad(logit, vectors).numpy()[:, 0]
    assert found.gradient == pytest.approx(np.linalg.norm(gradient, axis=1), rel=1e-4)
    assert found.push == pytest.approx((vectors.numpy()[:, 0] * gradient).sum(axis=1), rel=1e-3, abs=1e-7)
    assert [d.name for d in found.directions] == ["forwards", "backwards"][: len(model.rnn.cells[0])]


def test_it_says_the_sentence_the_prediction_and_the_numbers_of_every_word(run, made):
    elements, reading = Elements(made[1]), read(train.Critic(train.read_model(run)), TEXT)
    assert [text for _, text in elements.of("p", class_="said")] == [TEXT]
    (verdict,) = [text for _, text in elements.of("p", class_="verdict")]
    assert verdict == f"{reading.label}, {max(reading.positive, 1 - reading.positive):.1%}"
    heads = [text for found, text in elements.of("th", scope="col") if "data-t" in found]
    assert heads == [word + "*" * (not known) for word, known in zip(reading.words, reading.known, strict=True)]
    (data,) = [json.loads(text) for _, text in elements.of("script", id="strip")]
    assert data["words"] == list(reading.words)
    groups = dict(data["groups"])
    assert list(groups) == ["The word", "Read forwards", "Read backwards"]
    assert dict(groups["The word"])["push"] == [f"{v:.3g}" for v in reading.push]
    rows = dict(groups["Read forwards"])
    assert list(rows) == ["i", "f", "o", "|h|", "|c|", "|dL/dh|", "|dL/dc|"]
    trace = reading.directions[0].trace
    assert rows["f"] == [f"{v:.3g}" for v in trace.probes["f"].values[:, 0].mean(axis=1)]
    assert rows["|dL/dc|"] == [f"{v:.3g}" for v in trace.states["c"].norms[:, 0]]
    assert len(elements.of("i", class_="bar up")) + len(elements.of("i", class_="bar down")) == len(reading.words)
    assert len(elements.of("svg")) == 4
    results = json.loads((run / loop.METRICS).read_text().splitlines()[-1])["test"]
    assert f"{results['accuracy']:.4f}" in [text for _, text in elements.of("dd")]


def test_it_is_one_file_that_loads_nothing(made):
    text = re.sub(r'xmlns(:xlink)?="[^"]*"', "", made[1])
    assert "http" not in text
    assert not re.search(r"@import|url\((?!#)", text)
    for tag, found, _ in Elements(made[1]).found:
        for name in ("src", "href", "xlink:href", "data", "action"):
            if name in found:
                assert found[name].startswith(("#", "data:")), (tag, found)
    assert "prefers-color-scheme: dark" in text


def test_text_can_not_become_markup(made):
    assert "<b>&amp; dull" not in made[1]
    assert "</script><b>" not in made[1]


@pytest.mark.parametrize("bars", [[0.0, 0.0], [np.inf, 1.0], [np.nan, 1.0]])
def test_odd_numbers_make_no_odd_bars(bars):
    strip = page.Strip(["a", "b"], ["", ""])
    strip.head("x")
    strip.row("n", "about", bars)
    shares = [float(v) for v in re.findall(r"--v:([^;]+);", strip.html())]
    assert all(0 <= v <= 1 for v in shares)


def test_a_run_of_another_task_has_its_curves(tmp_path):
    fit(adding(), tmp_path / "run")
    path = report.write_report(tmp_path / "run")
    assert path == tmp_path / "run" / report.REPORT
    elements = Elements(path.read_text(encoding="utf-8"))
    assert [text for _, text in elements.of("h2")] == ["Training"]
    assert len(elements.of("svg")) == 1
    with pytest.raises(ValueError, match="`tinyrnn train adding`, which reads no sentence; leave the text out"):
        report.write_report(tmp_path / "run", "what a film")


def test_what_the_monitors_noticed_is_told(tmp_path):
    fit(adding(lr=3.0, epochs=2, sequences=400, cell="gru"), tmp_path)
    text = report.write_report(tmp_path).read_text(encoding="utf-8")
    assert re.search(r"<li>epoch \d: gate &quot;r&quot; of rnn.cells.0.0 saturated in training", text)


def test_a_run_without_monitors_or_metrics_has_a_report(tmp_path):
    fit(adding(), tmp_path, monitors=False)
    assert "norm of the gradient" not in report.write_report(tmp_path).read_text(encoding="utf-8")
    (tmp_path / loop.METRICS).unlink()
    assert "<h2>" not in report.write_report(tmp_path).read_text(encoding="utf-8")


def test_what_can_not_be_reported_leaves_the_old_report(tmp_path, run):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / report.REPORT).write_text("old")
    with pytest.raises(ValueError, match="the text holds no word"):
        report.write_report(copy, "?!")
    (copy / loop.METRICS).write_text("{torn")
    with pytest.raises(CheckpointError, match=r"metrics.jsonl is damaged"):
        report.write_report(copy)
    (copy / loop.MODEL).unlink()
    with pytest.raises(train.TrainingError, match="no trained model yet"):
        report.write_report(copy)
    assert (copy / report.REPORT).read_text() == "old"
    with pytest.raises(train.TrainingError, match="there is no run folder"):
        report.write_report(tmp_path / "none")


# -- in a browser ------------------------------------------------------------------------------------------------------

browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium")


def chromium(page, tmp_path, *options):
    """(what it prints, what it complains of) after showing a page."""
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000", "--window-size=1000,4400",
            *options, page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.stdout, done.stderr


@browser
@pytest.mark.parametrize(("scheme", "number"), [("light", 1), ("dark", 0)])
def test_the_page_is_not_blank_in_light_and_dark(made, tmp_path, scheme, number):
    from matplotlib.image import imread

    shot = tmp_path / "shot.png"
    _, complaints = chromium(
        made[0], tmp_path, f"--screenshot={shot}", f"--blink-settings=preferredColorScheme={number}"
    )
    assert "CONSOLE" not in complaints, complaints
    pixels = imread(shot)[..., :3]
    background = pixels[2, 2]
    assert background.mean() > 0.9 if scheme == "light" else background.mean() < 0.15
    marked = np.abs(pixels - background).max(axis=2) > 0.25
    for part in np.array_split(marked[: np.flatnonzero(marked.any(axis=1))[-1]], 8):
        assert part.mean() > 0.005, "a part of the page is blank"


@browser
def test_its_script_runs_and_shows_the_word_pointed_at(made, tmp_path):
    pointing = """<script>document.querySelector('.strip th[data-t="2"]').focus()</script></body>"""
    (tmp_path / "page.html").write_text(made[1].replace("</body>", pointing), encoding="utf-8")
    shown, complaints = chromium(tmp_path / "page.html", tmp_path, "--dump-dom")
    assert "CONSOLE" not in complaints, complaints
    elements = Elements(shown)
    ((root, _),) = elements.of("html")
    assert root["data-ready"] == "yes"
    (said,) = [text for _, text in elements.of("p", class_="pointed")]
    data = json.loads(elements.of("script", id="strip")[0][1])
    assert said.startswith(data["words"][2])
    push = dict(dict(data["groups"])["The word"])["push"][2]
    assert f"The word: push {push} · " in said
    assert "Read backwards: i " in said


# -- the commands ------------------------------------------------------------------------------------------------------


@pytest.fixture
def ran(capsys, monkeypatch):
    """A command, run in this process: (code, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        got = capsys.readouterr()
        return ended.value.code, got.out, got.err

    return call


def test_explain_writes_where_it_is_told(ran, run, tmp_path, monkeypatch):
    out = tmp_path / "a.html"
    monkeypatch.setattr(sys, "stdin", type("In", (), {"read": staticmethod(lambda: "dull w2\n")}))
    assert ran("explain", run, "-", "--out", out) == (0, f"Report: {out}\n", "")
    assert '<p class="said">dull w2' in out.read_text()
    assert ran("explain", run, "--out", out)[0] == 0
    assert report.EXAMPLE in out.read_text()
    code, _, err = ran("explain", tmp_path / "none", "fine")
    assert (code, err) == (1, f"tinyrnn: error: there is no run folder {tmp_path / 'none'}\n")
    assert ran("explain", run, "?!")[2] == "tinyrnn: error: the text holds no word: '?!'\n"


def test_train_ends_with_a_report_or_says_how_to_get_one(ran, tmp_path, monkeypatch):
    small = ["--steps", 10, "--sequences", 40, "--hidden", 4, "--epochs", 1]
    code, out, _ = ran("train", "adding", *small, "--run", tmp_path / "a")
    assert code == 0
    assert out.endswith(f"Report: {tmp_path / 'a' / 'report.html'}\n")
    assert (tmp_path / "a" / "report.html").exists()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, _ = ran("train", "adding", *small, "--run", tmp_path / "b")
    assert code == 0
    assert out.endswith(
        f"No report: figures need matplotlib: pip install 'tinyrnn[plots]'; then: tinyrnn explain {tmp_path / 'b'}\n"
    )
    needs = "tinyrnn: error: figures need matplotlib: pip install 'tinyrnn[plots]'\n"
    assert ran("explain", tmp_path / "b")[2] == needs
    assert ran("flow")[2] == needs


def test_flow_draws_and_prints_the_comparison(ran, tmp_path):
    arguments = ["lstm", "elman", "--steps", 12, "--hidden", 4, "--training", 3, "--out", tmp_path]
    code, out, err = ran("flow", *arguments)
    assert (code, err) == (0, "")
    assert re.search(r"^cell +parameters +as made +gates set to keep +after training +loss$", out, re.MULTILINE)
    data = json.loads((tmp_path / "comparison.json").read_text())
    assert data["parameters"] == {"LSTM": 112, "Elman": 28}
    for name in ("LSTM", "Elman"):
        row = re.search(rf"^{name} +\d+ +(\S+) +(\S+) +(\S+) +(\S+)$", out, re.MULTILINE)
        norms = [data["norms"][panel][name] for panel in ("as made", "gates set to keep", "after training")]
        assert [len(n) for n in norms] == [12] * 3
        assert row.groups() == (*(f"{n[-1] / n[0]:.1e}" for n in norms), f"{data['losses'][name]:.4f}")
    elman = data["norms"]
    assert elman["as made"]["Elman"] == elman["gates set to keep"]["Elman"], "it has no gates"
    assert elman["after training"]["Elman"] != elman["as made"]["Elman"]
    files = {f"{name}.{kind}" for name in ("comparison", "fading", "preservation") for kind in ("png", "svg")}
    assert {path.name for path in tmp_path.iterdir()} == {*files, "comparison.json"}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["lstn"], "there is no cell 'lstn'; there are Additive, "),
        (["lstm", "LSTM"], "each cell must be given once, got LSTM, LSTM"),
    ],
)
def test_flow_names_what_is_wrong(ran, tmp_path, arguments, error):
    code, _, err = ran("flow", *arguments, "--out", tmp_path / "out")
    assert code == 1
    assert err.startswith(f"tinyrnn: error: {error}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["flow", "explain"])
def test_help_gives_an_example(ran, name):
    code, out, _ = ran(name, "--help")
    assert code == 0
    assert f"Example: tinyrnn {name}" in out
