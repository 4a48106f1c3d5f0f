"""Data sets and how they become batches. Nothing here knows models."""

from tinyrnn.data.adding import adding_batch
from tinyrnn.data.agreement import Sentence, agreement_pairs
from tinyrnn.data.batches import Batch, bucket, pad
from tinyrnn.data.copying import copy_batch
from tinyrnn.data.dates import split_days, write_date, written_dates
from tinyrnn.data.installed import MissingExtraError, installed_file
from tinyrnn.data.reviews import Review, Split, find_csv, read_reviews, split_reviews
from tinyrnn.data.text import read_text, stream_batches
from tinyrnn.data.vowels import Recording, read_ts, read_vowels
from tinyrnn.data.words import Alphabet, Vocabulary, tokenise

__all__ = [
    "Alphabet",
    "Batch",
    "MissingExtraError",
    "Recording",
    "Review",
    "Sentence",
    "Split",
    "Vocabulary",
    "adding_batch",
    "agreement_pairs",
    "bucket",
    "copy_batch",
    "find_csv",
    "installed_file",
    "pad",
    "read_reviews",
    "read_text",
    "read_ts",
    "read_vowels",
    "split_days",
    "split_reviews",
    "stream_batches",
    "tokenise",
    "write_date",
    "written_dates",
]
