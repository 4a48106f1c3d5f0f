"""Generated data, judged by what did not make them: a parser of dates, a grammar, and guesses without memory."""

import re
from datetime import date, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyrnn import data
from tinyrnn.data import agreement, dates
from tinyrnn.train.dates import LONGEST

# -- dates -------------------------------------------------------------------------------------------------------------

SPELLED = """
    first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth
    sixteenth seventeenth eighteenth nineteenth twentieth
""".split()  # noqa: SIM905
SPELLED += [f"twenty-{word}" for word in SPELLED[:9]] + ["thirtieth", "thirty-first"]
ORDINALS = {word: day for day, word in enumerate(SPELLED, 1)}

PATTERNS = """
    %d %B %Y|%d %b %Y|%B %d %Y|%b %d %Y|%Y %B %d|%Y %b %d|%A %d %B %Y|%A %B %d %Y|%a %d %b %Y|%a %b %d %Y
    %d %b %y|%d %B %y|%b %d %y|%a %b %d %y|%d-%b-%y|%d.%m.%Y|%d.%m.%y|%m/%d/%Y|%m/%d/%y|%Y/%m/%d|%Y%m%d
"""


def readings(text):
    """All days that a written date can mean, by strptime; weekdays must be right."""
    text = re.sub(r"\bthe |\bof |,|'", "", text.lower())
    text = re.sub(r"(\d)(st|nd|rd|th)\b", r"\1", text)
    text = re.sub(r"[a-z]+-?[a-z]*", lambda m: str(ORDINALS.get(m[0], m[0])), text)
    text = re.sub(r"(?<=[a-z])\.|(?<=\d)\. ", " ", text)
    text = " ".join(text.split())
    found = set()
    for pattern in PATTERNS.replace("\n", "|").split("|"):
        try:
            moment = datetime.strptime(text, pattern.strip())
        except ValueError:
            continue
        day = moment.date()
        if day.year >= 2050 and "%y" in pattern:
            day = day.replace(year=day.year - 100)
        if day.strftime("%a").lower() == text[:3] or text[0].isdigit() or not re.search("%[aA]", pattern):
            found.add(day)
    return found


@pytest.mark.parametrize("form", data.dates.FORMS)
def test_every_form_means_its_day_and_no_other(form):
    rng = np.random.default_rng(0)
    days = [date.fromordinal(int(k)) for k in rng.integers(dates.FIRST.toordinal(), dates.LAST.toordinal() + 1, 40)]
    for day in [dates.FIRST, dates.LAST, date(2000, 2, 29), date(2011, 11, 11), date(2012, 10, 13), *days]:
        text = data.write_date(day, form)
        assert readings(text) == {day}, text
        assert len(text) <= LONGEST
        assert set(text + text.upper()) <= set(dates.CHARACTERS)


def test_no_two_days_are_written_alike():
    """Over every day of the century, in all forms that are of numbers alone or have two digits for the year."""
    for form in [f for f in dates.FORMS if "{mon" not in f or "yy" in f]:
        texts = {
            data.write_date(date.fromordinal(k), form)
            for k in range(dates.FIRST.toordinal(), dates.LAST.toordinal() + 1)
        }
        assert len(texts) == dates.DAYS, form


@pytest.mark.parametrize(
    ("day", "form", "text"),
    [
        ((2021, 5, 3), "{day}{th} of {month} {year}", "3rd of May 2021"),
        ((1999, 12, 31), "{mm}/{dd}/{yy}", "12/31/99"),
        ((2000, 2, 29), "{weekday}, {month} {day}{th}, {year}", "Tuesday, February 29th, 2000"),
        ((1969, 7, 20), "{wday}, {mon} {day} '{yy}", "Sun, Jul 20 '69"),
        ((1961, 4, 12), "the {ordinal} of {month} {year}", "the twelfth of April 1961"),
    ],
)
def test_dates_as_written_by_hand(day, form, text):
    assert data.write_date(date(*day), form) == text


def test_forms_and_cases_are_drawn_as_said():
    days = [date(2021, 5, 3)] * 6000
    texts = data.written_dates(np.random.default_rng(0), days)
    assert texts == data.written_dates(np.random.default_rng(0), days)
    assert len({text.lower() for text in texts}) == len(
        {data.write_date(days[0], form).lower() for form in dates.FORMS}
    )
    lettered = [text for text in texts if re.search("[a-z]{3}", text.lower())]
    assert np.mean([text == text.lower() for text in lettered]) == pytest.approx(0.25, abs=0.03)
    assert np.mean([text == text.upper() for text in lettered]) == pytest.approx(0.10, abs=0.03)


def test_days_are_split_without_overlap():
    train, valid, test = data.split_days(3, 500)
    assert (len(valid), len(test)) == (500, 500)
    assert len(train) == 36525 - 1000
    assert len({*train, *valid, *test}) == 36525, "every day of a hundred years once"
    assert data.split_days(3, 500)[2] == test
    assert data.split_days(4, 500)[2] != test
    for wrong in (0, 18_263):
        with pytest.raises(
            ValueError, match=f"held_out must be >= 1 and less than half of the 36,525 days, got {wrong}"
        ):
            data.split_days(0, wrong)


# -- agreement ---------------------------------------------------------------------------------------------------------

NOUNS = (
    "cat/cats dog/dogs bird/birds boy/boys girl/girls horse/horses friend/friends farmer/farmers child/children "
    "mouse/mice woman/women fox/foxes"
)
SEES = "sees/see likes/like follows/follow hears/hear knows/know"
SLEEPS = "sleeps/sleep sings/sing waits/wait plays/play"


def either(pairs, k):
    return "(?:" + "|".join(pair.split("/")[k] for pair in pairs.split()) + ")"


def grammar():
    """The grammar of the module's docstring as a regular expression; subjects and verbs in one number at a time."""
    often, small = "(?:already|often|never|once|quietly)", "(?:small|old|tired|happy)"
    adverb = f"(?:{often} )"
    saw, slept = "(?:saw|met|fed|chased|helped)", "(?:ate|slept|sang|ran|left)"
    some = f"the (?:{either(NOUNS, 0)}|{either(NOUNS, 1)})"
    phrases = [f"{adverb}?{slept}", f"{adverb}?{saw} {some}"]
    for k, be in enumerate(("was", "were")):
        noun = f"the {either(NOUNS, k)}"
        phrases += [
            f"{saw} {noun} that {either(SLEEPS, k)}",
            f"{saw} {noun} that {be} {small}",
            f"{noun} {adverb}?{either(SEES, k)}",
            f"{noun} {be} {adverb}?near",
            f"{noun} near {some} {either(SEES, k)}",
        ]
    vp = f"which (?:{'|'.join(phrases)})"
    between = f"(?: {often}| near {some}| , {vp}(?: and {vp})* ,)?"
    return [re.compile(f"the {either(NOUNS, k)}{between}") for k in (0, 1)]


GRAMMAR = grammar()
SINGULAR = {pair.split("/")[0] for pair in NOUNS.split()}
PLURAL = {pair.split("/")[1] for pair in NOUNS.split()}


@given(st.lists(st.integers(0, 70).filter(lambda d: d != 2), min_size=1, max_size=8), st.integers(0, 1000))
def test_sentences_follow_the_grammar_at_the_distance_asked_for(distances, seed):
    sentences = data.agreement_pairs(np.random.default_rng(seed), distances)
    assert [s.distance for s in sentences[::2]] == [s.distance for s in sentences[1::2]] == distances
    for sentence in sentences:
        text = " ".join(sentence.words)
        assert GRAMMAR[sentence.plural].fullmatch(text), text
        assert not GRAMMAR[1 - sentence.plural].fullmatch(text), text
        assert len(sentence.words) == 2 + sentence.distance
        assert sentence.distractors == sum(word in SINGULAR | PLURAL for word in sentence.words[2:])
        assert set(sentence.words) <= set(agreement.WORDS)
    for one, many in zip(sentences[::2], sentences[1::2], strict=True):
        assert (one.plural, many.plural) == (0, 1)
        assert one.words[2:] == many.words[2:]
        assert f"{one.words[1]}/{many.words[1]}" in NOUNS.split()


def test_the_grammar_of_the_test_refuses_wrong_agreement():
    right = "the cats , which the dog sees and which met the mice that were old and which the fox was near ,"
    assert GRAMMAR[1].fullmatch(right)
    for wrong in ("dog see", "mice that was", "fox were"):
        words = {"dog see": "dog sees", "mice that was": "mice that were", "fox were": "fox was"}[wrong]
        assert not GRAMMAR[1].fullmatch(right.replace(words, wrong)), wrong
    assert not GRAMMAR[0].fullmatch(right)


@pytest.fixture(scope="module")
def many():
    rng = np.random.default_rng(0)
    pairs = data.agreement_pairs(rng, [int(d) for d in rng.integers(4, 41, 6000)])
    sentences = [pairs[2 * k + plural] for k, plural in enumerate(rng.integers(0, 2, 6000))]
    return [s for s in sentences if s.distractors]


def last_noun(words):
    return next(word in PLURAL for word in reversed(words) if word in SINGULAR | PLURAL)


def most_nouns(words):
    return np.sign(sum((word in PLURAL) - (word in SINGULAR) for word in words)) > 0


def last_verb(words):
    plurals = {pair.split("/")[1] for pair in f"{SEES} {SLEEPS} was/were".split()}
    singulars = {pair.split("/")[0] for pair in f"{SEES} {SLEEPS} was/were".split()}
    return next((word in plurals for word in reversed(words) if word in plurals | singulars), False)


def length(words):
    return len(words) % 2


@pytest.mark.parametrize("guess", [last_noun, most_nouns, last_verb, length], ids=lambda f: f.__name__)
def test_what_stands_between_tells_nothing(many, guess):
    """Within four standard deviations of one half, and exactly a half over pairs."""
    right = np.mean([guess(s.words[2:]) == s.plural for s in many])
    assert abs(right - 0.5) < 4 * 0.5 / np.sqrt(len(many))
    pairs = data.agreement_pairs(np.random.default_rng(1), [20, 30] * 50)
    assert sum(guess(s.words[2:]) == s.plural for s in pairs) == 100


def test_distractors_are_of_either_number_and_more_with_the_distance(many):
    nouns = [word for s in many for word in s.words[2:] if word in SINGULAR | PLURAL]
    assert np.mean([noun in PLURAL for noun in nouns]) == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(len(nouns)))
    near, far = ([s.distractors for s in many if a <= s.distance < b] for a, b in ((10, 16), (34, 41)))
    assert np.mean(far) > 2 * np.mean(near)
    inner = [word for s in many for word in s.words[2:] if word in ("was", "were")]
    assert len(inner) > 0.8 * len(many), "the very words asked for stand between, too"


@pytest.mark.parametrize("distance", [-1, 2])
def test_distances_that_no_sentence_has(distance):
    with pytest.raises(ValueError, match=f"distances must be 0, 1, 3 and above, got {distance}"):
        data.agreement_pairs(np.random.default_rng(0), [5, distance])
