"""A small task of each kind, and what must not differ between two runs of one."""

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


def recordings(each, seed=0):
    """Made-up recordings of 3 to 6 steps, `each` of every speaker, whose number shifts one channel."""
    rng = np.random.default_rng(seed)
    found = []
    for label in range(9):
        for _ in range(each):
            values = 0.3 * rng.normal(size=(int(rng.integers(3, 7)), 12)).astype(np.float32)
            values[:, label] += 2
            found.append(data.Recording(values, label))
    return found


def vowels(**options):
    small = {"hidden": 4, "held_out": 1, "batch": 8, "epochs": 2} | options
    return train.vowels_task(train.VowelsOptions(**small), recordings(4), recordings(2, seed=1))


def dates(**options):
    small = {"hidden": 4, "embed": 3, "dates": 60, "held_out": 30, "batch": 20, "epochs": 2} | options
    return train.dates_task(train.DatesOptions(**small))


def agreement(**options):
    small = {"hidden": 4, "embed": 3, "sentences": 60, "longest": 8, "held_out": 20, "batch": 20, "epochs": 2} | options
    return train.agreement_task(train.AgreementOptions(**small))


TASKS = {
    "sentiment": sentiment,
    "vowels": vowels,
    "dates": dates,
    "agreement": agreement,
    "text": text,
    "adding": adding,
    "copy": copying,
}


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
