"""An acceptor of real series: which of nine speakers said a Japanese vowel."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyrnn import nn, ops
from tinyrnn.autograd import no_grad
from tinyrnn.data import Batch, Recording, bucket, pad, read_vowels
from tinyrnn.data.vowels import CHANNELS, SPEAKERS
from tinyrnn.files import Checkpoint
from tinyrnn.module import Module
from tinyrnn.train.models import State, cell_maker
from tinyrnn.train.task import DATA, MODEL, Answer, Kind, Options, Outcome, Task, count, option, share

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class VowelsOptions(Options):
    """Options of `tinyrnn train vowels`."""

    held_out: int = count(3, "Training recordings of each speaker to choose by.", DATA)
    bidirectional: bool = option(True, "Read in both directions.", MODEL, flags="--bidirectional/--one-way")
    dropout: float = share(0.5, "Share of features before the readout dropped.")
    noise: float = share(0.3, "Noise on the inputs, in their standard deviations.", most=10.0)
    average: float = share(0.99, "Decay of the running average of the weights; 0: none.", most=0.9999)
    batch: int = 16
    epochs: int = 40
    patience: int = 0
    lr: float = 3e-3


class Standardise(Module):
    """(x - mean) / deviation of each channel, and in training noise of `noise` deviations on top.

    mean and deviation: (channels,), of the training data; kept with the run, not with the weights.
    """

    def __init__(self, mean: Array, deviation: Array, *, noise: float, rng: np.random.Generator) -> None:
        super().__init__()
        self.mean, self.deviation, self.noise, self.rng = mean, deviation, noise, rng

    def forward(self, xs: Array) -> npt.NDArray[np.float32]:
        standard = (xs - self.mean) / self.deviation
        if self.training and self.noise:
            standard = standard + self.noise * self.rng.normal(size=xs.shape)
        return standard.astype(np.float32)


def vowels_task(
    options: VowelsOptions, train: Sequence[Recording] | None = None, test: Sequence[Recording] | None = None
) -> Task:
    """Tell the speakers of the recordings apart; by default those of the package aeon, in its own split.

    `held_out` recordings of each speaker, drawn by the seed, leave the training part to choose the best epoch by; the
    test part only judges it. Raises data.MissingExtraError without aeon, ValueError if there are too few to hold out.
    """
    train = read_vowels("train") if train is None else train
    test = read_vowels("test") if test is None else test
    speakers = np.array([recording.label for recording in train])
    rng = np.random.default_rng(options.seed)
    chosen = [rng.permutation(np.flatnonzero(speakers == k))[: options.held_out] for k in range(SPEAKERS)]
    if np.bincount(speakers, minlength=SPEAKERS).min() <= options.held_out:
        raise ValueError(
            f"held_out must leave recordings of each of the {SPEAKERS} speakers to train on, got {options.held_out}"
        )
    apart = set(np.concatenate(chosen).tolist())
    valid = [train[k] for k in sorted(apart)]
    kept = [recording for k, recording in enumerate(train) if k not in apart]
    steps = np.concatenate([recording.values for recording in kept]).astype(np.float64)
    scale = {"mean": steps.mean(0).tolist(), "deviation": steps.std(0).tolist()}
    lengths = [len(recording.values) for recording in kept]

    def epoch(number: int) -> list[Batch]:
        order = bucket(lengths, options.batch, np.random.default_rng([options.seed, number]))
        return [_batch([kept[k] for k in group]) for group in order]

    return Task(
        name="vowels",
        options=options,
        model=build_speaker_model(options, scale),
        train=epoch,
        valid=_parts(valid),
        test=_parts(test),
        measure=measure_speakers,
        summary=(
            f"{len(kept)} recordings of {SPEAKERS} speakers to train on, {len(valid)} to choose by, {len(test)} to "
            f"test; {min(lengths)} to {max(lengths)} steps of {CHANNELS} numbers"
        ),
        meta=scale,
        fingerprint=_fingerprint([*train, *test]),
    )


def build_speaker_model(options: VowelsOptions, scale: dict[str, list[float]]) -> nn.Acceptor:
    """The untrained model. scale: mean and deviation of each channel."""
    rng = np.random.default_rng(options.seed)
    mean, deviation = (np.array(scale[name], np.float32) for name in ("mean", "deviation"))
    rnn = nn.RNN(
        cell_maker(options.cell, options.hidden, rng), input_size=len(mean), bidirectional=options.bidirectional
    )
    standardise = Standardise(mean, deviation, noise=options.noise, rng=rng)
    return nn.Acceptor(rnn, SPEAKERS, embedding=standardise, pool="mean", dropout=options.dropout)


def measure_speakers(model: nn.Acceptor, batch: Batch, state: State | None) -> Outcome:
    """Cross-entropy in nats, and how many speakers were recognised."""
    logits = model(batch.inputs, batch.lengths)
    right = logits.numpy().argmax(axis=1) == batch.targets
    return Outcome(ops.cross_entropy(logits, batch.targets), int(right.sum()), len(right))


class Listener:
    """A trained model of speakers. checkpoint: as `read_model` gives it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.options = VowelsOptions(**checkpoint.meta["options"])
        self.model = build_speaker_model(self.options, {name: checkpoint.meta[name] for name in ("mean", "deviation")})
        checkpoint.restore(self.model)
        self.model.eval()

    def hear(self, values: npt.ArrayLike) -> tuple[int, float]:
        """The speaker, 1 to 9, of a recording (L, 12), and the probability. Raises ValueError for another shape."""
        steps = np.asarray(values, np.float32)
        if steps.ndim != 2 or steps.shape[1] != CHANNELS or not len(steps) or not np.isfinite(steps).all():
            raise ValueError(f"a recording must be one step or more of {CHANNELS} finite numbers, got {steps.shape}")
        with no_grad():
            p = ops.softmax(self.model(steps[:, None])).numpy()[0]
        return int(p.argmax()) + 1, float(p.max())

    def answer(self, text: str) -> Answer:
        """The speaker of a recording in text: a line a step, 12 numbers in it, with commas or blanks between.

        Raises ValueError for a text of another form.
        """
        try:
            steps = [
                [float(word) for word in line.replace(",", " ").split()] for line in text.splitlines() if line.strip()
            ]
        except ValueError as error:
            raise ValueError(f"a recording is a line a step of {CHANNELS} numbers: {error}") from None
        if wrong := [k for k, step in enumerate(steps, 1) if len(step) != CHANNELS]:
            raise ValueError(
                f"a recording is a line a step of {CHANNELS} numbers, got {len(steps[wrong[0] - 1])} in line {wrong[0]}"
            )
        speaker, p = self.hear(steps)
        return Answer(f"speaker {speaker}  {p:.1%}")


def _parts(recordings: Sequence[Recording]) -> list[Batch]:
    return [_batch([recordings[k] for k in group]) for group in bucket([len(r.values) for r in recordings], 128)]


def _batch(recordings: Sequence[Recording]) -> Batch:
    values, lengths = pad([recording.values for recording in recordings])
    return Batch(values, np.array([recording.label for recording in recordings]), lengths)


def _fingerprint(recordings: Sequence[Recording]) -> str:
    digest = hashlib.sha256()
    for recording in recordings:
        digest.update(f"{recording.label} {recording.values.shape} ".encode() + recording.values.tobytes())
    return digest.hexdigest()


VOWELS = Kind(
    name="vowels",
    options=VowelsOptions,
    build=vowels_task,
    help="Learn to tell nine speakers apart by one spoken vowel.\n\n"
    "Japanese Vowels (Kudo, Toyama & Shimbo 1999). Needs the recordings: pip install --no-deps aeon.",
    example="--cell gru --seed 1",
    tool=Listener,
    then="tinyrnn predict {run} - < recording.csv",
)
