"""The training loop: one for all tasks, with checkpoints from which a killed run goes on to the same bits.

A run lives in a folder:
    checkpoint.safetensors   all that is needed to go on; replaced at the end of an epoch, every minute and on a stop
    model.safetensors        the weights of the best epoch so far, with what is needed to use them
    metrics.jsonl            one JSON object an epoch, and one for the test at the end; what stands under "monitor" is
                             told in `tinyrnn.train.monitors`
The checkpoint holds the metrics too, and decides: what a killed run wrote to metrics.jsonl after its last checkpoint
is taken back on resuming, and written again when it is computed again.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyrnn import backend, files
from tinyrnn._core.tape import wrap
from tinyrnn.autograd import no_grad
from tinyrnn.clip import clip_grad_norm
from tinyrnn.data import Batch
from tinyrnn.optim import Adam
from tinyrnn.train.monitors import Monitors, Sums
from tinyrnn.train.task import Outcome, Task

Array = npt.NDArray[Any]

CHECKPOINT, MODEL, METRICS = "checkpoint.safetensors", "model.safetensors", "metrics.jsonl"
SKIPS = 20
"""Steps in a row without a finite gradient after which a run gives up."""


class TrainingError(RuntimeError):
    """A run that cannot go on: its folder is taken or does not fit, or its gradients are not finite any more."""


@dataclass
class Tally:
    """Sums over batches."""

    loss: float = 0.0
    hits: float = 0.0
    total: int = 0
    tokens: int = 0
    seconds: float = 0.0
    skipped: int = 0

    def add(self, outcome: Outcome, batch: Batch) -> None:
        """Count in one batch."""
        self.loss += outcome.loss.item() * outcome.total
        self.hits += outcome.hits
        self.total += outcome.total
        self.tokens += batch.tokens

    @property
    def mean_loss(self) -> float:
        return self.loss / self.total if self.total else math.nan

    @property
    def accuracy(self) -> float:
        return self.hits / self.total if self.total else math.nan

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass
class Progress:
    """Where a run stands. All of it is in the checkpoint."""

    epochs: int
    """Epochs to do at most."""
    epoch: int = 0
    """Epochs done."""
    position: int = 0
    """Batches done of the epoch under way."""
    step: int = 0
    """Batches done in all, those skipped included."""
    skips: int = 0
    """Skipped steps since the last good one."""
    tally: Tally = field(default_factory=Tally)
    best: float | None = None
    best_epoch: int = 0
    """Counted from 1."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """The lines of metrics.jsonl."""
    tested: dict[str, float] | None = None
    """The test's results, once the run has ended."""

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> Progress:
        return cls(**{**saved, "tally": Tally(**saved["tally"])})


class Watcher:
    """Told what a `Trainer` does. This one says nothing; the command line shows it."""

    def epoch_begins(self, epoch: int, batches: int, done: int) -> None:
        """epoch: from 1; done: how many of its batches an earlier process did."""

    def batch_ends(self, done: int, tally: Tally) -> None:
        """done: batches of the epoch so far."""

    def judging(self, part: str, batches: int, done: int, tally: Tally) -> None:
        """part: "validation" or "test", of whose batches so many are done."""

    def epoch_ends(self, record: Mapping[str, Any], best: bool) -> None:
        """record: the epoch's line of metrics.jsonl; best: whether its weights are the best so far."""

    def note(self, text: str) -> None:
        """Something that a person should know."""


class Trainer:
    """Trains a task in a run folder; `Trainer(..).fit()`.

    task: see `Task`. folder: created if need be; must hold no run, unless resume, then one of the same task and data.
    epochs: in place of those of the options, or of the run that is resumed. save_every: seconds between checkpoints
    within an epoch. monitors: look at gradients and gates, see `tinyrnn.train.monitors`; the bits are the same without.
    Raises TrainingError if the folder is taken or does not fit, files.CheckpointError for a damaged checkpoint.
    """

    def __init__(
        self,
        task: Task,
        folder: str | os.PathLike[str],
        *,
        resume: bool = False,
        epochs: int | None = None,
        save_every: float = 60.0,
        watcher: Watcher | None = None,
        monitors: bool = True,
    ) -> None:
        self.task, self.folder, self.save_every = task, Path(folder), save_every
        self.watcher = Watcher() if watcher is None else watcher
        self.optimiser = Adam(task.model.to(task.options.device).parameters(), lr=task.options.lr)
        self.progress = Progress(task.options.epochs)
        self.monitors = Monitors(task, task.options.clip) if monitors else None
        self._stop = False
        self._state: tuple[Array, ...] = ()
        # By name, beside the parameters that they follow.
        self._average: dict[str, Any] | None = None
        if task.options.average:
            self._average = self._beside(task.model.state_dict())
        if resume:
            self._restore(epochs)
        else:
            self.progress.epochs = epochs or task.options.epochs
            self._begin()

    def stop(self) -> None:
        """Ask a running `fit` to save and return after the step it is at. Safe in a signal handler."""
        self._stop = True

    def fit(self) -> bool:
        """Train to the end and test the best weights. True when that is done, False if `stop` came before.

        Raises TrainingError after 20 steps in a row whose gradients were not finite.
        """
        self._stop = False
        while not self.ended:
            if not self._epoch():
                self._save()
                return False
        if self.progress.tested is None:
            with self._weights(files.load(self.folder / MODEL).model):
                tally = self._evaluate("test", self.task.test)
            if tally is None:
                return False
            self.progress.tested = self.task.report(tally.mean_loss, tally.accuracy)
            self._log({"test": self.progress.tested, "epoch": self.progress.best_epoch})
            self._save()
        return True

    @property
    def ended(self) -> bool:
        """Whether all epochs are done, or as many as `patience` allows went by without a better one."""
        p = self.progress
        return p.position == 0 and (p.epoch >= p.epochs or p.epoch - p.best_epoch >= self.task.options.patience > 0)

    # -- one epoch -----------------------------------------------------------------------------------------------------

    def _epoch(self) -> bool:
        """The rest of the epoch under way, with its validation; False if `stop` came before its end."""
        p, batches = self.progress, self.task.train(self.progress.epoch)
        self.watcher.epoch_begins(p.epoch + 1, len(batches), p.position)
        self.task.model.train()
        if self.monitors and batches:
            self.monitors.epoch_begins(batches[0])
        saved = time.monotonic()
        while p.position < len(batches):
            if self._stop:
                return False
            self._step(batches[p.position])
            self.watcher.batch_ends(p.position, p.tally)
            if time.monotonic() - saved >= self.save_every and p.position < len(batches):
                self._save()
                saved = time.monotonic()
        watched = self.monitors.epoch_ends(batches[0]) if self.monitors and batches else ({}, [])
        with self._weights(self._averages()):
            valid = self._evaluate("validation", self.task.valid)
            if valid is None:
                return False
            self._close(valid, *watched)
        self._save()
        return True

    def _step(self, batch: Batch) -> None:
        p, options, started = self.progress, self.task.options, time.perf_counter()
        if self.monitors:
            self.monitors.step_begins()
        before = tuple(wrap(s, self.optimiser.params[0]) for s in self._state) if batch.goes_on else ()
        outcome = self.task.measure(self.task.model, batch, before or None)
        self.optimiser.zero_grad()
        outcome.loss.backward()
        if self.monitors:
            self.monitors.gradients(p.position)
        norm = clip_grad_norm(self.optimiser.params, options.clip)
        p.position += 1
        p.step += 1
        if math.isfinite(norm):
            self.optimiser.step()
            p.skips = 0
            p.tally.add(outcome, batch)
            self._state = tuple(s.numpy() for s in outcome.state)
            self._follow()
            if self.monitors:
                self.monitors.step_ends(norm)
        else:
            p.skips += 1
            p.tally.skipped += 1
            self._state = ()
            found = self.monitors.not_finite(batch, before) if self.monitors else ""
            self.watcher.note(
                f"step {p.step}: the gradient's norm is {norm}; the step was skipped"
                + (f"; first not finite: {found}; try a smaller --lr or --clip" if found else "")
            )
            if p.skips >= SKIPS:
                raise TrainingError(f"{SKIPS} steps in a row had no finite gradient; try a smaller --lr")
        p.tally.seconds += time.perf_counter() - started

    def _follow(self) -> None:
        """Move the average towards the weights: by 1 - decay, and by more in the first steps."""
        if self._average is not None:
            rate = 1 - min(self.task.options.average, self.progress.step / (self.progress.step + 10))
            values = [p._array for _, p in self.task.model.named_parameters()]
            backend.move_towards([*self._average.values()], values, rate)

    def _beside(self, weights: Mapping[str, Array]) -> dict[str, Any]:
        """Arrays for the averages of the parameters, in their order, on their device."""
        params = self.task.model.named_parameters()
        return {name: backend.move(np.array(weights[name]), p.device) for name, p in params}

    def _averages(self) -> dict[str, Array]:
        """The averages on the host; empty if there are none."""
        return {name: backend.to_host(mean) for name, mean in (self._average or {}).items()}

    def _close(self, valid: Tally, watched: dict[str, Any], warnings: Sequence[str]) -> None:
        """Write down an epoch whose validation is done. The model holds the weights that were validated."""
        p, task = self.progress, self.task
        p.epoch += 1
        p.position = 0
        train, p.tally, self._state = p.tally, Tally(), ()
        record = {
            "epoch": p.epoch,
            "step": p.step,
            "train": task.report(train.mean_loss, train.accuracy),
            "valid": task.report(valid.mean_loss, valid.accuracy),
            "tokens_per_second": round(train.tokens_per_second),
            "seconds": round(train.seconds, 2),
            "skipped": train.skipped,
        }
        if self.monitors and watched:
            record["monitor"] = watched
            self.monitors.next_epoch(watched)
        value = -valid.mean_loss if task.watch == "loss" else valid.accuracy
        best = p.best is None or value > p.best
        if best:
            p.best, p.best_epoch = value, p.epoch
            files.save(self.folder / MODEL, task.model, meta=self._about() | task.meta | {"valid": record["valid"]})
        self._log(record)
        self.watcher.epoch_ends(record, best)
        for text in warnings:
            self.watcher.note(text)

    def _evaluate(self, part: str, batches: Sequence[Batch]) -> Tally | None:
        """The tally of a pass without training; None if `stop` came."""
        tally, state = Tally(), None
        self.task.model.eval()
        with no_grad():
            for done, batch in enumerate(batches):
                if self._stop:
                    return None
                self.watcher.judging(part, len(batches), done, tally)
                outcome = self.task.measure(self.task.model, batch, state if batch.goes_on else None)
                tally.add(outcome, batch)
                state = outcome.state
        return tally

    @contextmanager
    def _weights(self, weights: Mapping[str, Array]) -> Iterator[None]:
        """Lend the model other weights; none: its own."""
        if not weights:
            yield
            return
        own = self.task.model.state_dict()
        self.task.model.load_state_dict(weights)
        try:
            yield
        finally:
            self.task.model.load_state_dict(own)

    # -- the run folder ------------------------------------------------------------------------------------------------

    def _about(self) -> dict[str, Any]:
        return {"task": self.task.name, "options": self.task.options.as_json(), "data": self.task.fingerprint}

    def _save(self) -> None:
        extra = {f"state/{k}": s for k, s in enumerate(self._state)}
        extra |= {f"average/{name}": a for name, a in self._averages().items()}
        files.save(
            self.folder / CHECKPOINT,
            self.task.model,
            self.optimiser,
            extra=extra,
            meta=self._about()
            | {"progress": asdict(self.progress), "monitors": asdict(self.monitors.sums if self.monitors else Sums())},
        )

    def _begin(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise TrainingError(f"{self.folder} is a file, not a folder for a run")
        if (self.folder / CHECKPOINT).exists():
            raise TrainingError(
                f"{self.folder} holds a run already: go on with --resume, or take another folder (--run)"
            )
        for name in (MODEL, METRICS):  # not of a run killed early: its checkpoint comes first
            if (self.folder / name).exists():
                raise TrainingError(f"{self.folder} holds a {name} of something else; take another folder (--run)")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._save()

    def _restore(self, epochs: int | None) -> None:
        checkpoint = read_run(self.folder)
        about = {key: checkpoint.meta.get(key) for key in self._about()}
        for key, wanted in self._about().items():
            if about[key] != wanted:
                raise TrainingError(
                    f"{self.folder} cannot be resumed: its {key} differ from those given"
                    if key != "data"
                    else f"{self.folder} cannot be resumed: the data are not those that the run began with"
                )
        checkpoint.restore(self.task.model, self.optimiser)
        self.progress = Progress.of(checkpoint.meta["progress"])
        self.progress.epochs = epochs or self.progress.epochs
        if self.monitors:
            self.monitors.sums = Sums(**checkpoint.meta.get("monitors", {}))
        groups: dict[str, dict[str, Array]] = {"state": {}, "average": {}}
        for name, array in checkpoint.extra.items():
            group, _, rest = name.partition("/")
            groups[group][rest] = array
        self._state = tuple(groups["state"][str(k)] for k in range(len(groups["state"])))
        if self._average is not None:
            self._average = self._beside(groups["average"])
        if not self.ended:
            self.progress.tested = None  # of a run that had ended and is to go on for more epochs
        for left in self.folder.glob(".*.tmp"):
            left.unlink(missing_ok=True)
        files.write(self.folder / METRICS, "".join(map(_line, self.progress.history)).encode())

    def _log(self, record: dict[str, Any]) -> None:
        self.progress.history.append(record)
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(_line(record))
            file.flush()
            os.fsync(file.fileno())


def read_run(folder: str | os.PathLike[str]) -> files.Checkpoint:
    """The checkpoint of the run in `folder`; its meta holds task, options, data and progress.

    Raises TrainingError if there is none, files.CheckpointError if it is damaged.
    """
    return _read(folder, CHECKPOINT, "no run to resume")


def read_model(folder: str | os.PathLike[str]) -> files.Checkpoint:
    """The best weights of the run in `folder`, with task, options and the task's own meta.

    Raises TrainingError if there are none yet, files.CheckpointError if they are damaged.
    """
    return _read(folder, MODEL, "no trained model")


def _read(folder: str | os.PathLike[str], name: str, lacks: str) -> files.Checkpoint:
    place = Path(folder)
    if not place.is_dir():
        raise TrainingError(f"there is no run folder {place}")
    if not (place / name).exists():
        begun = name == MODEL and (place / CHECKPOINT).exists()
        raise TrainingError(f"{place} holds {lacks}" + (" yet: its first epoch is not done" if begun else ""))
    checkpoint = files.load(place / name)
    if "task" not in checkpoint.meta or "options" not in checkpoint.meta:
        raise files.CheckpointError(f"{checkpoint.path} is a checkpoint, but not of a run of `tinyrnn train`")
    return checkpoint


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record) + "\n"
