"""Training: models, tasks and the loop that `tinyrnn train` runs."""

from tinyrnn.train.loop import Progress, Tally, Trainer, TrainingError, Watcher, read_model, read_run
from tinyrnn.train.models import Classifier, Regressor, Transducer
from tinyrnn.train.problems import AddingOptions, CopyOptions, adding_task, copy_task
from tinyrnn.train.sentiment import Critic, SentimentOptions, sentiment_task
from tinyrnn.train.task import Options, Outcome, Task
from tinyrnn.train.text import TextOptions, Writer, text_task

__all__ = [
    "AddingOptions",
    "Classifier",
    "CopyOptions",
    "Critic",
    "Options",
    "Outcome",
    "Progress",
    "Regressor",
    "SentimentOptions",
    "Tally",
    "Task",
    "TextOptions",
    "Trainer",
    "TrainingError",
    "Transducer",
    "Watcher",
    "Writer",
    "adding_task",
    "copy_task",
    "read_model",
    "read_run",
    "sentiment_task",
    "text_task",
]
