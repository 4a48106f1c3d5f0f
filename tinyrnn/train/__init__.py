"""Training: models, tasks and the loop that `tinyrnn train` runs.

A new task is a module that makes a `Kind`, and its place in `KINDS`.
"""

from tinyrnn.train.agreement import AGREEMENT, AgreementOptions, Speaker, agreement_task
from tinyrnn.train.dates import DATES, DatesOptions, Rewriter, dates_task
from tinyrnn.train.loop import Progress, Tally, Trainer, TrainingError, Watcher, read_model, read_run
from tinyrnn.train.models import Classifier, Regressor, Transducer
from tinyrnn.train.problems import ADDING, COPY, AddingOptions, CopyOptions, adding_task, copy_task
from tinyrnn.train.sentiment import SENTIMENT, Critic, SentimentOptions, sentiment_task
from tinyrnn.train.task import Answer, Kind, Options, Outcome, Task, Tool
from tinyrnn.train.text import TEXT, TextOptions, Writer, text_task
from tinyrnn.train.vowels import VOWELS, Listener, VowelsOptions, vowels_task

KINDS = {kind.name: kind for kind in (SENTIMENT, VOWELS, DATES, AGREEMENT, TEXT, ADDING, COPY)}
"""What `tinyrnn train` offers, by name."""

__all__ = [
    "KINDS",
    "AddingOptions",
    "AgreementOptions",
    "Answer",
    "Classifier",
    "CopyOptions",
    "Critic",
    "DatesOptions",
    "Kind",
    "Listener",
    "Options",
    "Outcome",
    "Progress",
    "Regressor",
    "Rewriter",
    "SentimentOptions",
    "Speaker",
    "Tally",
    "Task",
    "TextOptions",
    "Tool",
    "Trainer",
    "TrainingError",
    "Transducer",
    "VowelsOptions",
    "Watcher",
    "Writer",
    "adding_task",
    "agreement_task",
    "copy_task",
    "dates_task",
    "read_model",
    "read_run",
    "sentiment_task",
    "text_task",
    "vowels_task",
]
