"""Data sets and how they become batches. Nothing here knows models."""

from tinyrnn.data.adding import adding_batch
from tinyrnn.data.batches import Batch, bucket, pad
from tinyrnn.data.copying import copy_batch
from tinyrnn.data.reviews import MissingExtraError, Review, Split, find_csv, read_reviews, split_reviews
from tinyrnn.data.text import read_text, stream_batches
from tinyrnn.data.words import Alphabet, Vocabulary, tokenise

__all__ = [
    "Alphabet",
    "Batch",
    "MissingExtraError",
    "Review",
    "Split",
    "Vocabulary",
    "adding_batch",
    "bucket",
    "copy_batch",
    "find_csv",
    "pad",
    "read_reviews",
    "read_text",
    "split_reviews",
    "stream_batches",
    "tokenise",
]
