"""What the table of bad calls is made of: the things to call with, fresh for every call, and what must not change.

A row is (entry, call, error, names, needs, got): the public entry; a function of a `World` that calls it wrongly; the
error; and three pieces of its message, which name the argument, say what it needs and what it got.
"""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import tinyrnn as tr
from tinyrnn import data

T, B, I, H = 5, 2, 3, 4  # noqa: E741
F = np.float32


class Two(tr.Cell):
    """A cell of two time inputs."""

    def __init__(self, input_size, hidden_size, **options):
        super().__init__(input_size, hidden_size, **options)
        self.W = self.param((input_size, hidden_size))

    def step(self, x, y, h):
        return h + x @ self.W + y


class Wider(Two):
    """What `Two` has become since it was saved."""

    def __init__(self, input_size, hidden_size, **options):
        super().__init__(input_size, hidden_size + 1, **options)


Wider.__name__ = "Two"


class Branching(tr.Cell):
    """A step that asks for a value."""

    def step(self, x, h):
        return h if h[0, 0].item() > 0 else -h


class Unkept(tr.Module):
    """A module that does not keep its argument."""

    def __init__(self, scale):
        super().__init__()
        self.factor = scale


class World:
    """Small instances of everything that has a state, and one step of training behind them.

    folder: an empty one, for files. like: another World's folder, to copy them from.
    """

    def __init__(self, folder, like=None):
        self.rng = np.random.default_rng(7)
        self.xs = np.ones((T, B, I), F)
        self.nan = self.xs.copy()
        self.nan[3, 1, 2] = np.nan
        self.h = np.zeros((B, H), F)
        self.ids = np.zeros((T, B), np.int64)
        self.x = tr.tensor(np.ones((3, 4), F), requires_grad=True)
        self.y = tr.tensor(np.ones((3, 4), F))
        self.d = tr.tensor(np.ones((3, 4)), dtype="float64")
        self.x.grad = self.y * 2.0
        self.cell = tr.cells.LSTM(I, H, rng=1)
        self.gru = tr.cells.GRU(I, H, rng=1)
        self.two = Two(I, H, rng=1)
        self.noisy = tr.cells.RecurrentDropout(tr.cells.Zoneout(tr.cells.LSTM(I, H, rng=2), 0.5), 0.5, rng=3)
        self.linear = tr.nn.Linear(I, H, rng=4)
        self.embedding = tr.nn.Embedding(7, I, rng=4)
        self.rnn = tr.nn.RNN(tr.cells.LSTM(I, H, rng=5), 2, dropout=0.5)
        self.both = tr.nn.RNN(tr.cells.GRU(I, H, rng=5), bidirectional=True)
        self.acceptor = tr.nn.Acceptor(self.rnn, 2, dropout=0.5, rng=6)
        self.reader = tr.nn.Acceptor(self.rnn, 2, embedding=self.embedding, pool="max", rng=6)
        self.transducer = tr.nn.Transducer(self.rnn, 7, embedding=tr.nn.Embedding(7, I, rng=6), rng=6)
        self.encoder = tr.nn.Encoder(self.rnn, embedding=self.embedding)
        self.translator = tr.nn.EncoderDecoder(self.encoder, self.transducer)
        self.params = self.linear.parameters()
        for p in self.params:
            p.grad = tr.tensor(np.ones(p.shape, F))
        self.adam = tr.optim.Adam(self.params)
        self.adam.step()
        self.sgd = tr.optim.SGD(self.params, 0.1, momentum=0.9)
        self.folder = folder
        self.path = folder / "model.safetensors"
        if like is None:
            self.write_files()
        else:
            shutil.copytree(like, folder, dirs_exist_ok=True)
        self.alphabet = data.Alphabet("ab")
        self.vocabulary = data.Vocabulary(["a", "b"])

    def write_files(self):
        tr.save(self.path, self.linear)
        tr.save(self.folder / "two.safetensors", self.two)
        tr.files.save(self.folder / "run.safetensors", self.linear, self.adam, meta={"epoch": 1})
        (self.folder / "damaged").write_bytes(b"no file of ours")
        (self.folder / "empty.txt").write_text(" \n")
        (self.folder / "table.csv").write_text("text,mark\nfine,1\n")
        (self.folder / "series.ts").write_text("@classLabel true a\n@data\n1,2:b\n")

    @property
    def torch(self):
        return pytest.importorskip("torch")

    @property
    def onnx(self):
        """The LSTM as an ONNX model that takes lengths and states, and what to call it with."""
        pytest.importorskip("onnx")
        model = tr.interop.onnx.load(tr.interop.onnx.to_model(self.cell, lengths=True, state=True))
        state = np.zeros((1, B, H), F)
        given = {"X": self.xs, "sequence_lens": np.full(B, T, np.int32), "initial_h": state, "initial_c": state}
        return SimpleNamespace(model=model, run=lambda **changes: model(**given | changes))

    @property
    def checkpoint(self):
        return tr.files.load(self.folder / "run.safetensors")


def state_of(value):
    """All that a call could change in a value, as something to compare."""
    if isinstance(value, tr.Tensor):
        grad = None if value.grad is None else value.grad.numpy().tobytes()
        return value.numpy().tobytes(), str(value.dtype), value.shape, grad, value.requires_grad, value.name
    if isinstance(value, np.ndarray):
        return value.tobytes(), str(value.dtype), value.shape
    if isinstance(value, np.random.Generator):
        return str(value.bit_generator.state)
    if isinstance(value, Path):
        files = sorted(p for p in value.rglob("*") if p.is_file())
        return [(str(p.relative_to(value)), p.stat().st_mtime_ns, p.read_bytes()) for p in files]
    if isinstance(value, tr.optim.Optimizer):
        return state_of(value.state_dict()), state_of(value.params)
    if isinstance(value, dict):
        return {key: state_of(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [state_of(item) for item in value]
    if isinstance(value, tr.Module):
        return type(value).__name__, state_of(vars(value))
    return repr(value)
