"""Small tasks of the four kinds, and what must not differ between two runs of one."""

import json

import numpy as np

from tinyrnn import data, files, train
from tinyrnn.train import loop


def reviews(n=120, seed=0):
    """Made-up reviews of 2 to 9 words, of which one decides the label."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        words = [f"w{k}" for k in rng.integers(0, 12, rng.integers(1, 9))]
        label = int(rng.integers(0, 2))
        words.insert(int(rng.integers(0, len(words) + 1)), ("dull", "fine")[label])
        found.append(data.Review(words, label))
    return found


def sentiment(n=120, **options):
    small = {"hidden": 4, "embed": 6, "batch": 16, "epochs": 2, "lr": 0.02} | options
    return train.sentiment_task(train.SentimentOptions(**small), reviews(n))


def adding(**options):
    small = {"hidden": 4, "steps": 10, "sequences": 60, "held_out": 40, "batch": 20, "epochs": 2} | options
    return train.adding_task(train.AddingOptions(**small))


def copying(**options):
    small = {"hidden": 4, "lag": 3, "length": 2, "sequences": 60, "held_out": 40, "batch": 20, "epochs": 2} | options
    return train.copy_task(train.CopyOptions(**small))


TEXT = "the cat sat on the mat, the dog sat on the log. " * 12


def text(**options):
    small = {"hidden": 4, "embed": 3, "steps": 20, "batch": 8, "epochs": 2} | options
    return train.text_task(train.TextOptions(**small), TEXT)


TASKS = {"sentiment": sentiment, "adding": adding, "copy": copying, "text": text}


def bits(folder):
    """The parts of a run that must not depend on how often it was stopped."""
    last = files.load(folder / loop.CHECKPOINT)
    best = files.load(folder / loop.MODEL)
    progress = {k: v for k, v in last.meta["progress"].items() if k not in ("tally", "history")}
    arrays = {**last.model, **last.optimiser, **last.extra, **{f"best/{k}": v for k, v in best.model.items()}}
    return {k: np.asarray(v).tobytes() for k, v in arrays.items()}, last.rngs, progress, lines(folder)


def lines(folder):
    """metrics.jsonl without what the clock says."""
    found = [json.loads(line) for line in (folder / loop.METRICS).read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in ("seconds", "tokens_per_second")} for record in found]


class StopAt(train.Watcher):
    """Stops its trainer after `steps` batches."""

    def __init__(self, steps):
        self.steps = steps
        self.notes = []

    def batch_ends(self, done, tally):
        self.steps -= 1
        if self.steps == 0:
            self.trainer.stop()

    def note(self, text):
        self.notes.append(text)


def fit(task, folder, stop_after=0, **options):
    watcher = StopAt(stop_after)
    trainer = watcher.trainer = train.Trainer(task, folder, watcher=watcher, **options)
    return trainer.fit(), trainer
