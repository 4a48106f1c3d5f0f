"""From text to ids: a tokeniser for English and vocabularies of words or characters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from tinyrnn.checks import as_words, check_ints, is_int, type_name

Ids = npt.NDArray[np.int64]

_MARKUP = re.compile(r"</?[A-Za-z][^<>]{0,20}>")  # the IMDB reviews hold <br />
_TOKEN = re.compile(r"[^\W_]+(?:'[^\W_]+)*|[!?.,;:()\"]")


def tokenise(text: str) -> list[str]:
    """Lower-case words (with their apostrophes: "didn't") and the marks ! ? . , ; : ( ) " of `text`, in order."""
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, got {type_name(text)}")
    return _TOKEN.findall(_MARKUP.sub(" ", text).replace("\u2019", "'").lower())


class Vocabulary:
    """Ids for words: 0 is padding, 1 stands for every unknown word, then `words` in their order.

    words: different strings. Raises ValueError for a word that comes twice.
    """

    PADDING = 0
    UNKNOWN = 1

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(as_words("words", words))
        self._ids = {word: k + 2 for k, word in enumerate(self.words)}
        if len(self._ids) < len(self.words):
            twice = next(word for word, n in Counter(self.words).items() if n > 1)
            raise ValueError(f"words must differ from one another, got {twice!r} twice")

    @classmethod
    def of(cls, texts: Iterable[Sequence[str]], *, at_least: int = 2) -> Vocabulary:
        """The words that come `at_least` times in `texts`, most frequent first (ties in the order of appearance)."""
        check_ints(at_least=at_least)
        if not isinstance(texts, Iterable):
            raise TypeError(f"texts must be lists of words, got {type_name(texts)}")
        counts = Counter(word for text in texts for word in as_words("texts", text))
        return cls([word for word, n in counts.most_common() if n >= at_least])

    def encode(self, words: Sequence[str]) -> Ids:
        """The ids of `words`, (len(words),) int64."""
        return np.array([self._ids.get(word, self.UNKNOWN) for word in as_words("words", words)], dtype=np.int64)

    def __contains__(self, word: str) -> bool:
        return word in self._ids

    def __len__(self) -> int:
        return len(self.words) + 2

    def __repr__(self) -> str:
        return f"Vocabulary({len(self.words):,} words)"


class Alphabet:
    """Ids for characters, 0 .. len-1 in the order of `characters`. Raises ValueError if one comes twice."""

    def __init__(self, characters: str) -> None:
        if not isinstance(characters, str):
            raise TypeError(f"characters must be a str, got {type_name(characters)}")
        self.characters = characters
        self._ids = {c: k for k, c in enumerate(characters)}
        if len(self._ids) < len(characters):
            twice = next(c for c, n in Counter(characters).items() if n > 1)
            raise ValueError(f"characters must differ from one another, got {twice!r} twice")

    @classmethod
    def of(cls, text: str) -> Alphabet:
        """The characters of `text`, sorted."""
        if not isinstance(text, str):
            raise TypeError(f"text must be a str, got {type_name(text)}")
        return cls("".join(sorted(set(text))))

    def encode(self, text: str) -> Ids:
        """The ids of the characters, (len(text),) int64. Raises ValueError that names an unknown character."""
        try:
            return np.array([self._ids[c] for c in as_words("text", text)], dtype=np.int64)
        except KeyError as error:
            raise ValueError(f"the character {error.args[0]!r} does not occur in the training text") from None

    def decode(self, ids: Iterable[int]) -> str:
        """The characters of `ids`. Raises TypeError for what are no integers, IndexError for others than 0 .. len-1."""
        if not isinstance(ids, Iterable):
            raise TypeError(f"ids must be integers, got {type_name(ids)}")
        return "".join(self._character(i) for i in ids)

    def _character(self, i: int) -> str:
        if not is_int(i):
            raise TypeError(f"ids must be integers, got {i!r}")
        if not 0 <= i < len(self.characters):
            raise IndexError(f"ids must lie in 0..{len(self.characters) - 1}, got {i}")
        return self.characters[i]

    def __len__(self) -> int:
        return len(self.characters)

    def __repr__(self) -> str:
        return f"Alphabet({len(self.characters)} characters)"
