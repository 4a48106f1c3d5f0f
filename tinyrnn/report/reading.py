"""What a trained classifier of sentences does with one, word by word."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinyrnn import ops
from tinyrnn._core.tape import Tensor
from tinyrnn.autograd import no_grad
from tinyrnn.data import tokenise
from tinyrnn.flow import Trace, trace
from tinyrnn.loop import scan
from tinyrnn.module import Cell
from tinyrnn.train import Classifier, Critic

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Direction:
    """A cell that reads the sentence."""

    name: str
    """"forwards" or "backwards"."""
    cell: Cell
    trace: Trace
    """With the logit as the loss; one row."""


@dataclass(frozen=True)
class Reading:
    """A sentence of T words, read by a classifier."""

    text: str
    words: tuple[str, ...]
    known: tuple[bool, ...]
    """Whether the model has learned the word; what it has not is read as one and the same unknown word."""
    label: str
    positive: float
    """The probability of praise."""
    logit: float
    directions: tuple[Direction, ...]
    gradient: Floats
    """The norm of d logit / d x_t, x_t the vector of word t, (T,)."""
    push: Floats
    """x_t · d logit / d x_t, (T,): above 0 the word pushes to praise, as far as a linear view of the model reaches."""


def read(critic: Critic, text: str) -> Reading:
    """Run the classifier over `text` and trace the gradient of its logit back through each direction.

    Raises ValueError if the text holds no word.
    """
    label, _ = critic.judge(text)
    words = tuple(tokenise(text)[: critic.options.max_length])
    model, ids = critic.model, critic.vocabulary.encode(words)[:, None]
    cells, xs = model.rnn.cells[0], embed(model, ids)
    with no_grad():
        outputs = [scan(cell, xs, reverse=k == 1)[0] for k, cell in enumerate(cells)]

    def traced(k: int, cell: Cell) -> Trace:
        def logit(ys: Tensor, finals: tuple[Tensor, ...]) -> Tensor:
            every = [ys if j == k else other for j, other in enumerate(outputs)]
            return ops.sum(model.readout(model.rnn.merge_directions(every).max(0)))

        return trace(cell, xs, logit, reverse=k == 1)

    found = [traced(k, cell) for k, cell in enumerate(cells)]
    dx = np.sum([t.inputs[0].gradients[:, 0] for t in found], axis=0, dtype=np.float64)
    logit = found[0].loss
    return Reading(
        text=text,
        words=words,
        known=tuple(word in critic.vocabulary for word in words),
        label=label,
        positive=float(1 / (1 + np.exp(-logit))),
        logit=logit,
        directions=tuple(Direction(("forwards", "backwards")[k], cell, found[k]) for k, cell in enumerate(cells)),
        gradient=np.linalg.norm(dx, axis=1),
        push=(xs.numpy()[:, 0] * dx).sum(axis=1),
    )


def embed(model: Classifier, ids: npt.ArrayLike) -> Tensor:
    """The vectors of ids (T, B): (T, B, E), without a record."""
    assert model.embedding is not None
    with no_grad():
        vectors: Tensor = model.embedding(ids)
    return vectors


def random_words(critic: Critic, steps: int, rows: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Ids (steps, rows) of known words, drawn alike."""
    return np.random.default_rng(seed).integers(2, len(critic.vocabulary), (steps, rows))
