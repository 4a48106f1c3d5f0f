"""Contenders in PyTorch: `nn.LSTM`, `nn.GRU`, and a Python loop over a cell's equations. Needs torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from bench.peers import Equations, Library
from tinyrnn.interop.torch import to_torch

Array = NDArray[Any]
torch.set_num_threads(1)


class _Library:
    """The ops of `bench.peers.Library`, in torch."""

    sigmoid = staticmethod(torch.sigmoid)
    tanh = staticmethod(torch.tanh)
    softplus = staticmethod(torch.nn.functional.softplus)
    maximum = staticmethod(torch.maximum)
    addmm = staticmethod(torch.addmm)

    @staticmethod
    def split(x: torch.Tensor, n: int) -> tuple[torch.Tensor, ...]:
        return x.chunk(n, -1)

    @staticmethod
    def affine(xs: torch.Tensor, W: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
        flat = xs.reshape(-1, xs.shape[-1])
        return (flat @ W if b is None else torch.addmm(b, flat, W)).view(*xs.shape[:2], -1)

    @staticmethod
    def layer_norm(x: torch.Tensor, gain: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return torch.nn.functional.layer_norm(x, x.shape[-1:], gain, bias)


class Loop(torch.nn.Module):
    """A Python loop over time, with whatever does not depend on the state done before it."""

    def __init__(self, equations: Equations, hidden: int, parameters: Mapping[str, Array]) -> None:
        super().__init__()
        self.equations, self.hidden = equations, hidden
        self.p = torch.nn.ParameterDict({k: torch.from_numpy(v.copy()) for k, v in parameters.items()})

    def forward(self, xs: torch.Tensor) -> torch.Tensor:
        F, p = cast(Library, _Library()), dict(self.p.items())
        steps = zip(*(s.unbind(0) for s in self.equations.hoist(F, p, xs)), strict=True)
        states: tuple[torch.Tensor, ...] = (xs.new_zeros(xs.shape[1], self.hidden),) * self.equations.states
        ys = []
        for a in steps:
            states = self.equations.step(F, p, a, *states)
            ys.append(states[0])
        return torch.stack(ys)


class OpForOp(torch.nn.Module):
    """LSTM in a Python loop with the very ops of `tr.cells.LSTM`'s step, nothing merged or hoisted."""

    def __init__(self, parameters: Mapping[str, Array]) -> None:
        super().__init__()
        self.p = torch.nn.ParameterDict({k: torch.from_numpy(v.copy()) for k, v in parameters.items()})

    def forward(self, xs: torch.Tensor) -> torch.Tensor:
        p = dict(self.p.items())
        h = c = xs.new_zeros(xs.shape[1], len(p["b_i"]))
        ys = []
        for x in xs:
            i = torch.sigmoid(x @ p["W_xi"] + h @ p["W_hi"] + p["b_i"])
            f = torch.sigmoid(x @ p["W_xf"] + h @ p["W_hf"] + p["b_f"])
            o = torch.sigmoid(x @ p["W_xo"] + h @ p["W_ho"] + p["b_o"])
            g = torch.tanh(x @ p["W_xg"] + h @ p["W_hg"] + p["b_g"])
            c = f * c + i * g
            h = o * torch.tanh(c)
            ys.append(h)
        return torch.stack(ys)


class Native(torch.nn.Module):
    """nn.LSTM or nn.GRU with our cell's weights; its second bias vector is zero but for b_hn."""

    def __init__(self, kind: str, ours: Mapping[str, Array]) -> None:
        super().__init__()
        gates = {"LSTM": "ifgo", "GRU": "rzn"}[kind]
        inputs, hidden = ours["W_x" + gates[0]].shape
        self.rnn = getattr(torch.nn, kind)(inputs, hidden)
        second = [ours.get(f"b_h{k}", np.zeros_like(ours[f"b_{k}"])) for k in gates]
        values = {
            "weight_ih_l0": np.concatenate([ours[f"W_x{k}"].T for k in gates]),
            "weight_hh_l0": np.concatenate([ours[f"W_h{k}"].T for k in gates]),
            "bias_ih_l0": np.concatenate([ours[f"b_{k}"] for k in gates]),
            "bias_hh_l0": np.concatenate(second),
        }
        self.rnn.load_state_dict({name: torch.from_numpy(value) for name, value in values.items()})

    def forward(self, xs: torch.Tensor) -> torch.Tensor:
        ys: torch.Tensor = self.rnn(xs)[0]
        return ys


def forward(model: torch.nn.Module, xs: Array | torch.Tensor) -> Callable[[], torch.Tensor]:
    """The outputs, as fast as torch gives them: in inference mode."""
    x = torch.as_tensor(xs)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            ys: torch.Tensor = model(x)
        return ys

    return run


def training_step(
    model: torch.nn.Module, xs: Array | torch.Tensor, gradient: Array | torch.Tensor
) -> Callable[[], torch.Tensor]:
    """Forward and backward from a given gradient of the outputs; returns the outputs."""
    x, g = torch.as_tensor(xs), torch.as_tensor(gradient)
    parameters = list(model.parameters())

    def run() -> torch.Tensor:
        for p in parameters:
            p.grad = None
        ys: torch.Tensor = model(x)
        ys.backward(g)
        return ys

    return run


def kept(model: torch.nn.Module, xs: Array) -> float:
    """Floats that a forward pass leaves for the backward pass and in its result, inputs and parameters aside."""
    x = torch.from_numpy(xs)
    known = {t.untyped_storage().data_ptr() for t in (x, *model.parameters())}
    storages: dict[int, int] = {}

    def note(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in known:
            storages[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        note(model(x))
    return sum(storages.values()) / 4


class Classifier(torch.nn.Module):
    """A `tinyrnn.train.models.Classifier` as one would write it in torch, with its weights."""

    def __init__(self, ours: Any) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding.from_pretrained(torch.from_numpy(ours.embedding.W.numpy().copy()), False)
        self.rnn = to_torch(ours.rnn)
        self.readout = torch.nn.Linear(ours.readout.in_features, 1)
        self.readout.load_state_dict({
            "weight": torch.from_numpy(ours.readout.W.numpy().T.copy()),
            "bias": torch.from_numpy(ours.readout.b.numpy().copy()),
        })  # fmt: skip
        self.dropout = torch.nn.Dropout(ours.dropout.p)
        self.word_dropout, self.unknown = ours.embedding.word_dropout, ours.embedding.unknown

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        if self.training and self.word_dropout:
            ids = torch.where(torch.rand(ids.shape) < self.word_dropout, self.unknown, ids)
        x = torch.nn.utils.rnn.pack_padded_sequence(self.dropout(self.embedding(ids)), lengths, enforce_sorted=False)
        ys, _ = torch.nn.utils.rnn.pad_packed_sequence(self.rnn(x)[0], padding_value=-torch.inf)
        logits: torch.Tensor = self.readout(self.dropout(ys.max(0).values))
        return logits[:, 0]


def train_classifier(model: Classifier, batches: Sequence[Any], lr: float, clip: float) -> Callable[[], torch.Tensor]:
    """Train on all batches; returns the loss on the first one before all training, without dropout."""
    data = [tuple(map(torch.from_numpy, (b.inputs.astype(np.int64), b.lengths, b.targets))) for b in batches]
    parameters = list(model.parameters())
    optimiser = torch.optim.Adam(parameters, lr=lr, fused=True)
    loss_of = torch.nn.functional.binary_cross_entropy_with_logits
    with torch.no_grad():
        ids, lengths, targets = data[0]
        loss = loss_of(model.eval()(ids, lengths), targets)
    model.train()

    def run() -> torch.Tensor:
        for ids, lengths, targets in data:
            optimiser.zero_grad()
            loss_of(model(ids, lengths), targets).backward()
            torch.nn.utils.clip_grad_norm_(parameters, clip)
            optimiser.step()
        return loss

    return run
