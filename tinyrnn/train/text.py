"""A language model of characters, and sampling from it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinyrnn import ops
from tinyrnn.autograd import no_grad
from tinyrnn.data import Alphabet, Batch, read_text, stream_batches
from tinyrnn.files import Checkpoint
from tinyrnn.train.models import State, Transducer
from tinyrnn.train.task import DATA, MODEL, Kind, Options, Outcome, Task, count, option, share


@dataclass(frozen=True)
class TextOptions(Options):
    """Options of `tinyrnn train text`."""

    file: str = option("", "A UTF-8 text to learn.", DATA, shown="Python's own help topics")
    steps: int = count(64, "Characters of a segment, through which gradients run back.", DATA)
    embed: int = count(64, "Width of a character's embedding.", MODEL)
    hidden: int = 192
    dropout: float = share(0.1, "Share of features dropped.")
    epochs: int = 8


def text_task(options: TextOptions, text: str | None = None) -> Task:
    """Predict each next character of `text` (by default that of options.file): 90 % to learn from, 5 % to choose by,
    5 % to judge by, in the order of the text.

    Training is by truncated BPTT: `batch` streams in segments of `steps`, the state carried from one to the next and
    the gradient not. Raises OSError or ValueError for a file that cannot be read, is not UTF-8 or is too short.
    """
    whole = read_text(Path(options.file) if options.file else None) if text is None else text
    alphabet = Alphabet.of(whole)
    ids = alphabet.encode(whole)
    first, second = len(ids) * 90 // 100, len(ids) * 95 // 100
    if second - first < 2 or first < 2 * options.batch:
        raise ValueError(
            f"the text must have {max(40, 3 * options.batch)} characters or more to train in {options.batch} streams, "
            f"got {len(ids)}"
        )
    train = stream_batches(ids[:first], options.batch, options.steps)
    few = min(options.batch, (second - first) // 2)
    return Task(
        name="text",
        options=options,
        model=build_transducer(options, len(alphabet)),
        train=lambda epoch: train,
        valid=stream_batches(ids[first:second], few, options.steps),
        test=stream_batches(ids[second:], few, options.steps),
        measure=measure_text,
        summary=f"{len(ids):,} characters, {len(alphabet)} different ones; {options.batch} streams",
        report=lambda loss, accuracy: {"bits": loss / math.log(2), "accuracy": accuracy},
        meta={"characters": alphabet.characters, "opening": whole.split(maxsplit=1)[0][:20]},
        fingerprint=hashlib.sha256(whole.encode()).hexdigest(),
    )


def build_transducer(options: TextOptions, characters: int) -> Transducer:
    """The untrained model for an alphabet of `characters`."""
    return Transducer(
        characters,
        characters,
        embed=options.embed,
        hidden=options.hidden,
        cell=options.cell,
        dropout=options.dropout,
        rng=np.random.default_rng(options.seed),
    )


def measure_text(model: Transducer, batch: Batch, state: State | None) -> Outcome:
    """The mean cross-entropy of a character in nats, and how many were foretold right."""
    logits, (state,) = model(batch.inputs, None if state is None else [state])  # of one layer
    targets = batch.targets.reshape(-1)
    flat = logits.reshape(len(targets), -1)
    right = flat.numpy().argmax(axis=1) == targets
    return Outcome(ops.cross_entropy(flat, targets), int(right.sum()), len(targets), state)


class Writer:
    """A trained language model. checkpoint: as `read_model` gives it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.options = TextOptions(**checkpoint.meta["options"])
        self.alphabet = Alphabet(checkpoint.meta["characters"])
        self.opening: str = checkpoint.meta["opening"]
        self.model = build_transducer(self.options, len(self.alphabet))
        checkpoint.restore(self.model)
        self.model.eval()

    def write(
        self, prompt: str | None = None, *, length: int = 400, temperature: float = 0.7, rng: np.random.Generator
    ) -> Iterator[str]:
        """Yield `prompt` (by default the first word of the training text), then `length` characters that go on from it.

        temperature: divides the logits; 0 takes the likeliest character each time. Raises ValueError for a negative
        one, an empty prompt, or a character in it that the model does not know.
        """
        if temperature < 0 or not math.isfinite(temperature):
            raise ValueError(f"temperature must be >= 0, got {temperature}")
        prompt = self.opening if prompt is None else prompt
        if not prompt:
            raise ValueError("the prompt must hold a character or more")
        ids, state = self.alphabet.encode(prompt)[:, None], None
        yield prompt
        for _ in range(length):
            with no_grad():
                logits, state = self.model(ids, state)
            scores = logits.numpy()[-1, 0].astype(np.float64)
            if temperature == 0:
                choice = int(scores.argmax())
            else:
                # Adding Gumbel noise and taking the largest draws from the softmax.
                choice = int((scores / temperature + rng.gumbel(size=len(scores))).argmax())
            yield self.alphabet.decode([choice])
            ids = np.array([[choice]])


TEXT = Kind(
    name="text",
    options=TextOptions,
    build=text_task,
    help="Learn to write like a text, character by character.\n\nAfterwards: tinyrnn sample.",
    example="--file novel.txt --run runs/novel",
    then="tinyrnn sample {run}",
)
