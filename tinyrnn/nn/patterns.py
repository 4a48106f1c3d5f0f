"""Four ways to use a recurrent network: label a sequence, label its steps, summarise it, turn it into another.

The names are those of Goldberg 2016, "A primer on neural network models for natural language processing". Arguments
that do not fit raise TypeError or ValueError that names them, what they got and what they need; see also `RNN`.

Notation: T steps, B rows, I features a step, C classes or other outputs. An `embedding` is any module that turns what
a model is given into features (T, B, I), `tr.nn.Embedding` for ids (T, B); None: xs are features already. With
`batch_first` in the RNN, (T, B, ..) reads (B, T, ..) everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tinyrnn import ops
from tinyrnn._core.tape import Tensor
from tinyrnn.autograd import no_grad
from tinyrnn.checks import as_array, as_rate, as_rng, as_size
from tinyrnn.loop import check_lengths
from tinyrnn.module import Module
from tinyrnn.nn.layers import Dropout, Embedding, Linear
from tinyrnn.nn.rnn import RNN, RNNState

Ids = npt.NDArray[np.int64]


class Acceptor(Module):
    """Label a sequence: xs (T, B, I) -> logits (B, outputs), read from the last step or from all.

        model = tr.nn.Acceptor(tr.nn.RNN(tr.cells.LSTM(32, 64), bidirectional=True), 2, embedding=words, pool="max")
        logits = model(ids, lengths)

    rnn: a tr.nn.RNN. pool: what is read of its outputs, "last" (see RNN's return_sequences), "max" or "mean", each
    feature's largest or mean value over the row's own steps; a row of no steps gives 0. dropout: of what is read, in
    training. rng: for the readout and dropout; None: the RNN's.
    """

    def __init__(
        self,
        rnn: RNN,
        outputs: int,
        *,
        embedding: Module | None = None,
        pool: str = "last",
        dropout: float = 0.0,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__()
        if pool not in ("last", "max", "mean"):
            raise ValueError(f'pool must be "last", "max" or "mean", got {pool!r}')
        self.embedding, self.rnn, self.pool = _check_embedding(embedding, rnn), rnn, pool
        rng = rnn.rng if rng is None else as_rng(rng)
        self.dropout = Dropout(as_rate("dropout", dropout), rng=rng)
        self.outputs = as_size("outputs", outputs)
        self.readout = Linear(rnn.output_size, outputs, dtype=rnn.dtype, rng=rng)

    def arguments(self) -> dict[str, Any]:
        """As `Module.arguments`, of dropout its p."""
        return super().arguments() | {"dropout": self.dropout.p}

    def forward(self, xs: npt.ArrayLike | Tensor, lengths: npt.ArrayLike | None = None) -> Tensor:
        ys, _ = self.rnn(_embed(self, xs), lengths=lengths, return_sequences=self.pool != "last")
        return self.readout(self.dropout(ys if self.pool == "last" else self._over_time(ys, lengths)))

    def _over_time(self, ys: Tensor, lengths: npt.ArrayLike | None) -> Tensor:
        ys = ys.transpose(1, 0, 2) if self.rnn.batch_first else ys
        steps, rows = ys.shape[:2]
        ends = check_lengths(lengths, steps, rows)
        count = np.full((rows, 1), steps) if ends is None else ends[:, None]
        if self.pool == "mean":  # outputs beyond a row's end are 0
            return ys.sum(0) / np.maximum(count, 1)
        if steps == 0:
            return ys.sum(0)
        inside = np.arange(steps)[:, None, None] < count
        peaks = ys if ends is None else ops.where(inside, ys, -np.inf)
        return ops.where(count > 0, peaks.max(0), 0.0)


class Transducer(Module):
    """Label each step: xs (T, B, I) -> logits (T, B, outputs), and the state, from which a next segment goes on.

        logits, state = model(xs, state, lengths=lengths)

    Beyond a row's end its logits mean nothing; leave them out of the loss. dropout: of what the readout reads, in
    training. rng: for the readout and dropout; None: the RNN's.
    """

    def __init__(
        self,
        rnn: RNN,
        outputs: int,
        *,
        embedding: Module | None = None,
        dropout: float = 0.0,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__()
        self.embedding, self.rnn = _check_embedding(embedding, rnn), rnn
        rng = rnn.rng if rng is None else as_rng(rng)
        self.dropout = Dropout(as_rate("dropout", dropout), rng=rng)
        self.outputs = as_size("outputs", outputs)
        self.readout = Linear(rnn.output_size, outputs, dtype=rnn.dtype, rng=rng)

    def arguments(self) -> dict[str, Any]:
        """As `Module.arguments`, of dropout its p."""
        return super().arguments() | {"dropout": self.dropout.p}

    def forward(
        self,
        xs: npt.ArrayLike | Tensor,
        state: RNNState | None = None,
        *,
        lengths: npt.ArrayLike | None = None,
    ) -> tuple[Tensor, RNNState]:
        ys, state = self.rnn(_embed(self, xs), state, lengths=lengths)
        return self.readout(self.dropout(ys)), state


class Encoder(Module):
    """Summarise a sequence: xs (T, B, I) -> the last states, a tuple of (B, size) tensors a layer.

    The two directions of a bidirectional RNN are merged as its outputs are, so that a layer has one tuple.
    """

    def __init__(self, rnn: RNN, *, embedding: Module | None = None) -> None:
        super().__init__()
        self.embedding, self.rnn = _check_embedding(embedding, rnn), rnn

    def forward(self, xs: npt.ArrayLike | Tensor, lengths: npt.ArrayLike | None = None) -> RNNState:
        _, state = self.rnn(_embed(self, xs), lengths=lengths, return_sequences=False)
        if not self.rnn.bidirectional:
            return state
        pairs = zip(state[::2], state[1::2], strict=True)
        return [tuple(self.rnn.merge_directions(both) for both in zip(*pair, strict=True)) for pair in pairs]


class EncoderDecoder(Module):
    """Turn a sequence into another: the decoder starts from the encoder's last states (Sutskever, Vinyals & Le 2014;
    Cho et al. 2014).

        logits = model(src, tgt, lengths)         # training, tgt (T', B): the start id, then the targets but the last
        ids, ends = model.eval().greedy(src, lengths, start=0, stop=1, max_steps=20)

    decoder: a Transducer in one direction with the layers and state sizes of the encoder, and an embedding for greedy
    decoding. Raises ValueError on construction if the states do not fit.
    """

    def __init__(self, encoder: Encoder, decoder: Transducer) -> None:
        super().__init__()
        _check_pair(encoder, decoder)
        self.encoder, self.decoder = encoder, decoder

    def forward(self, src: npt.ArrayLike | Tensor, tgt: npt.ArrayLike, lengths: npt.ArrayLike | None = None) -> Tensor:
        rows = _check_ids("src", src, self.encoder)
        given = _check_ids("tgt", tgt, self.decoder)
        if rows != given and None not in (rows, given):
            raise ValueError(f"tgt must have the {rows} rows of src, got {given}")
        logits, _ = self.decoder(tgt, self.encoder(src, lengths))
        return logits

    def greedy(
        self,
        src: npt.ArrayLike | Tensor,
        lengths: npt.ArrayLike | None = None,
        *,
        start: int,
        stop: int,
        max_steps: int,
    ) -> tuple[Ids, Ids]:
        """Decode step by step, each step fed the likeliest id of the one before: (ids (S, B), ends (B,)).

        Begins with the id `start`; a row ends before its first `stop`, with which it is filled up, or after max_steps.
        ends: how many ids of each row come before. S <= max_steps: all rows have stopped. No gradient is recorded;
        call `eval()` first, or dropout acts. Raises ValueError if start, stop or max_steps does not fit the decoder.
        """
        time = 1 if self.decoder.rnn.batch_first else 0
        _check_decoding(self.decoder, start, stop, max_steps)
        _check_ids("src", src, self.encoder)
        with no_grad():
            state = self.encoder(src, lengths)
            ids = np.full(state[0][0].shape[0], start)
            running, found = np.full(len(ids), True), list[Ids]()
            while running.any() and len(found) < max_steps:
                logits, state = self.decoder(np.expand_dims(ids, time), state)
                ids = np.where(running, logits.numpy().squeeze(time).argmax(axis=1), stop)
                running = ids != stop
                found.append(ids)
        out = np.stack(found, time) if found else np.zeros((0, 0), np.int64)
        return out, (out != stop).sum(axis=time)


# -- arguments ---------------------------------------------------------------------------------------------------------


def _check_embedding(embedding: Module | None, rnn: RNN) -> Module | None:
    if not isinstance(rnn, RNN):
        raise TypeError(f"rnn must be a tr.nn.RNN, got {type(rnn).__name__}; RNN(cell) makes one of a cell")
    if embedding is not None and not isinstance(embedding, Module):
        raise TypeError(f"embedding must be a module or None, got {type(embedding).__name__}")
    if isinstance(embedding, Embedding) and (embedding.dim, embedding.dtype) != (rnn.input_size, rnn.dtype):
        raise ValueError(
            f"embedding must be {rnn.input_size} wide and {rnn.dtype} like the input of rnn, got {embedding.dim} and "
            f"{embedding.dtype}"
        )
    return embedding


def _embed(model: Acceptor | Transducer | Encoder, xs: Any) -> Any:
    """What the model's RNN reads."""
    _check_ids("xs", xs, model)
    return xs if model.embedding is None else model.embedding(xs)


def _check_ids(name: str, given: Any, model: Acceptor | Transducer | Encoder) -> int | None:
    """How many rows what a model is given has, or None where its rank is not known; raises for ids that do not fit."""
    first = model.rnn.batch_first
    if model.embedding is None:
        return given.shape[0 if first else 1] if isinstance(given, (Tensor, np.ndarray)) and given.ndim == 3 else None
    if not isinstance(model.embedding, Embedding):
        return None
    ids, num = as_array(name, given), model.embedding.num
    if ids.ndim != 2:
        order = "(batch, time)" if first else "(time, batch)"
        raise ValueError(f"{name} must be ids {order} for the embedding, got shape {ids.shape}")
    if ids.dtype.kind not in "iu" and ids.size:
        raise TypeError(f"{name} must be ids, integers in 0..{num - 1}, got {ids.dtype}")
    if (outside := (ids < 0) | (ids >= num)).any():
        at = tuple(int(i) for i in np.argwhere(outside)[0])
        raise IndexError(f"{name} must be ids in 0..{num - 1}, got {ids[at]} at {at}")
    return ids.shape[0 if first else 1]


def _check_pair(encoder: Encoder, decoder: Transducer) -> None:
    """Raise unless the decoder can start from the encoder's states."""
    if not isinstance(encoder, Encoder):
        raise TypeError(f"encoder must be a tr.nn.Encoder, got {type(encoder).__name__}")
    if not isinstance(decoder, Transducer):
        raise TypeError(f"decoder must be a tr.nn.Transducer, got {type(decoder).__name__}")
    if decoder.rnn.bidirectional:
        raise ValueError("decoder must run in one direction: what it has not written yet can not be read backwards")
    if encoder.rnn.dtype != decoder.rnn.dtype:
        raise ValueError(f"decoder must be {encoder.rnn.dtype} like the encoder, got {decoder.rnn.dtype}")
    gives, takes = _state_sizes(encoder.rnn), _state_sizes(decoder.rnn)
    if gives != takes:
        raise ValueError(f"decoder must take the states of the encoder, of sizes {gives} layer by layer, got {takes}")


def _state_sizes(rnn: RNN) -> list[tuple[int, ...]]:
    """The widths of each layer's states, its directions merged."""
    sides = sum if rnn.merge == "concat" else max
    return [tuple(sides(w) for w in zip(*(cell.state_sizes for cell in cells), strict=True)) for cells in rnn.cells]


def _check_decoding(decoder: Transducer, start: int, stop: int, max_steps: int) -> None:
    if decoder.embedding is None:
        raise ValueError("greedy feeds ids to the decoder, which needs an embedding for them")
    for name, value, many in (
        ("start", start, getattr(decoder.embedding, "num", None)),
        ("stop", stop, decoder.readout.out_features),
    ):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"{name} must be an id, an int, got {value!r}")
        if value < 0 or (many is not None and value >= many):
            raise ValueError(
                f"{name} must be an id of {'0 or more' if many is None else f'0..{many - 1}'}, got {value}"
            )
    as_size("max_steps", max_steps)
