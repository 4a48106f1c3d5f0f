"""From text to ids: a tokeniser for English and vocabularies of words or characters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]

_MARKUP = re.compile(r"</?[A-Za-z][^<>]{0,20}>")  # the IMDB reviews hold <br />
_TOKEN = re.compile(r"[^\W_]+(?:'[^\W_]+)*|[!?.,;:()\"]")


def tokenise(text: str) -> list[str]:
    """Lower-case words (with their apostrophes: "didn't") and the marks ! ? . , ; : ( ) " of `text`, in order."""
    return _TOKEN.findall(_MARKUP.sub(" ", text).replace("\u2019", "'").lower())


class Vocabulary:
    """Ids for words: 0 is padding, 1 stands for every unknown word, then `words` in their order.

    words: different strings. Raises ValueError for a word that comes twice.
    """

    PADDING = 0
    UNKNOWN = 1

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self._ids = {word: k + 2 for k, word in enumerate(self.words)}
        if len(self._ids) < len(self.words):
            raise ValueError("words must differ from one another")

    @classmethod
    def of(cls, texts: Iterable[Sequence[str]], *, at_least: int = 2) -> Vocabulary:
        """The words that come `at_least` times in `texts`, most frequent first (ties in the order of appearance)."""
        counts = Counter(word for text in texts for word in text)
        return cls([word for word, n in counts.most_common() if n >= at_least])

    def encode(self, words: Sequence[str]) -> Ids:
        """The ids of `words`, (len(words),) int64."""
        return np.array([self._ids.get(word, self.UNKNOWN) for word in words], dtype=np.int64)

    def __contains__(self, word: str) -> bool:
        return word in self._ids

    def __len__(self) -> int:
        return len(self.words) + 2

    def __repr__(self) -> str:
        return f"Vocabulary({len(self.words):,} words)"


class Alphabet:
    """Ids for characters, 0 .. len-1 in the order of `characters`. Raises ValueError if one comes twice."""

    def __init__(self, characters: str) -> None:
        self.characters = characters
        self._ids = {c: k for k, c in enumerate(characters)}
        if len(self._ids) < len(characters):
            raise ValueError("characters must differ from one another")

    @classmethod
    def of(cls, text: str) -> Alphabet:
        """The characters of `text`, sorted."""
        return cls("".join(sorted(set(text))))

    def encode(self, text: str) -> Ids:
        """The ids of the characters, (len(text),) int64. Raises ValueError that names an unknown character."""
        try:
            return np.array([self._ids[c] for c in text], dtype=np.int64)
        except KeyError as error:
            raise ValueError(f"the character {error.args[0]!r} does not occur in the training text") from None

    def decode(self, ids: Iterable[int]) -> str:
        """The characters of `ids`."""
        return "".join(self.characters[i] for i in ids)

    def __len__(self) -> int:
        return len(self.characters)

    def __repr__(self) -> str:
        return f"Alphabet({len(self.characters)} characters)"
