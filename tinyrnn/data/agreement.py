"""Agreement of subject and verb over a distance: "the cats, which already ate, were".

The grammar, in which / is a choice, N a noun in either number, and a verb in the present agrees with its own subject:

    sentence   the N [between] was / were
    between    adverb
               near the N
               , which VP (and which VP)* ,
    VP         [adverb] slept                            says nothing about any number
               [adverb] saw the N
               saw the N that sleeps / sleep
               saw the N that was / were small
               the N [adverb] sees / see
               the N was / were [adverb] near
               the N near the N sees / see               agrees with the first of the two

Only the first noun decides between was and were. What stands between it and the verb is drawn before its number is, so
nothing there tells it: neither the last noun, nor a count of them, nor a verb, which may be was or were itself.
`agreement_pairs` gives each sentence in both numbers, so that whatever does not know the first noun is right in exactly
half of them. Linzen, Dupoux & Goldberg 2016 ask the same of corpora.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tinyrnn.checks import as_generator, check_ints, type_name

NOUNS = (
    ("cat", "cats"), ("dog", "dogs"), ("bird", "birds"), ("boy", "boys"), ("girl", "girls"), ("horse", "horses"),
    ("friend", "friends"), ("farmer", "farmers"), ("child", "children"), ("mouse", "mice"), ("woman", "women"),
    ("fox", "foxes"),
)  # fmt: skip
"""(singular, plural)."""
PRESENT = (("sees", "see"), ("likes", "like"), ("follows", "follow"), ("hears", "hear"), ("knows", "know"))
"""Verbs that take an object and agree: (singular, plural)."""
RESTING = (("sleeps", "sleep"), ("sings", "sing"), ("waits", "wait"), ("plays", "play"))
"""Verbs without an object that agree: (singular, plural)."""
PAST = ("saw", "met", "fed", "chased", "helped")
"""Verbs that take an object, of either number."""
RESTED = ("ate", "slept", "sang", "ran", "left")
"""Verbs without an object, of either number."""
ADVERBS = ("already", "often", "never", "once", "quietly")
ADJECTIVES = ("small", "old", "tired", "happy")
VERBS = ("was", "were")
"""What is asked for: (singular, plural)."""

WORDS = (
    "the", ",", "which", "and", "that", "near", *VERBS, *ADJECTIVES, *ADVERBS, *PAST, *RESTED,
    *(word for pairs in (NOUNS, PRESENT, RESTING) for pair in pairs for word in pair),
)  # fmt: skip
"""Every word of a sentence."""

SHORT = (0, 1, 3)
"""The distances without a clause: nothing, an adverb, "near the dogs"."""
NEAREST = 4
"""The shortest distance with a clause: a comma, "which ate", a comma."""


class Sentence(NamedTuple):
    """words: up to the verb and without it. plural: whether it must be "were". distance: words and commas between
    the subject and the verb."""

    words: tuple[str, ...]
    plural: int
    distance: int

    @property
    def distractors(self) -> int:
        """Nouns between the subject and the verb."""
        return sum(word in _NOUN_FORMS for word in self.words[2:])


def agreement_pairs(rng: np.random.Generator, distances: list[int]) -> list[Sentence]:
    """Two sentences a distance, one after the other, alike but for the number of the first noun: singular, plural.

    distances: any but 2. Raises ValueError for that, or one below 0, TypeError for what are no ints or no Generator.
    """
    as_generator(rng)
    if not isinstance(distances, (list, tuple, np.ndarray)):
        raise TypeError(f"distances must be a list of ints, got {type_name(distances)}")
    for distance in distances:
        check_ints(distances=distance)
        if distance < NEAREST and distance not in SHORT:
            raise ValueError(f"distances must be 0, 1, 3 and above, got {distance}")
    found = []
    for distance in distances:
        between = _clauses(rng, distance)
        subject = NOUNS[rng.integers(len(NOUNS))]
        found += [Sentence(("the", subject[plural], *between), plural, distance) for plural in (0, 1)]
    return found


def _clauses(rng: np.random.Generator, distance: int) -> list[str]:
    """`distance` words and commas that may stand between a subject and its verb."""
    if distance < NEAREST:
        if distance == 3:
            return ["near", "the", _noun(rng, int(rng.integers(2)))]
        return [ADVERBS[rng.integers(len(ADVERBS))]] * distance
    words: list[str] = []
    left = distance - 1  # "and which" before each VP, with the first comma for the first "and", and the last comma
    while left:
        fitting = [size for size in _PHRASES if left == size + 2 or left - size - 2 >= 3]
        size = fitting[rng.integers(len(fitting))]
        words += ["and" if words else ",", "which", *_phrase(rng, size)]
        left -= size + 2
    return [*words, ","]


_PHRASES = (1, 2, 3, 4, 5, 6)
"""The lengths of a VP."""


def _phrase(rng: np.random.Generator, size: int) -> list[str]:
    """A VP of `size` words."""

    def one(words: tuple[str, ...]) -> str:
        return words[rng.integers(len(words))]

    def verb(verbs: tuple[tuple[str, str], ...], number: int) -> str:
        return verbs[rng.integers(len(verbs))][number]

    first, second = int(rng.integers(2)), int(rng.integers(2))
    if size <= 2:
        return [one(ADVERBS)] * (size == 2) + [one(RESTED)]
    if size == 6:
        if rng.random() < 0.5:
            return [one(PAST), "the", _noun(rng, first), "that", VERBS[first], one(ADJECTIVES)]
        return ["the", _noun(rng, first), "near", "the", _noun(rng, second), verb(PRESENT, first)]
    near = rng.random() < 0.5
    if size == 5:
        if near:
            return ["the", _noun(rng, first), VERBS[first], one(ADVERBS), "near"]
        return [one(PAST), "the", _noun(rng, first), "that", verb(RESTING, first)]
    if size == 4 and near:
        return ["the", _noun(rng, first), VERBS[first], "near"]
    adverb = [one(ADVERBS)] * (size == 4)
    if rng.random() < 0.5:
        return [*adverb, one(PAST), "the", _noun(rng, first)]
    return ["the", _noun(rng, first), *adverb, verb(PRESENT, first)]


def _noun(rng: np.random.Generator, number: int) -> str:
    return NOUNS[rng.integers(len(NOUNS))][number]


_NOUN_FORMS = frozenset(form for pair in NOUNS for form in pair)
