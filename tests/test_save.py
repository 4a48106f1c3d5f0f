"""Modules in files: the same bits and options back, and what can not be kept is named before anything is written."""

import functools
import math
import os
import re
import sys
import textwrap

import numpy as np
import pytest
from cell_table import CELLS, every_cell, make
from hypothesis import assume, given
from hypothesis import strategies as st
from save_cases import Both, H, I, Leaky, again, everything, swish

import tinyrnn as tr
from tinyrnn import cells, files, nn

# -- random trees ------------------------------------------------------------------------------------------------------

dtypes = st.sampled_from(["float32", "float64"])
rates = st.sampled_from([0.0, 0.1, 1 / 3])


@st.composite
def some_cell(draw, dtype):
    name = draw(st.sampled_from([*CELLS, "Leaky", "swish"]))
    if name == "Leaky":
        cell = Leaky(I, H, rate=draw(st.floats(allow_nan=False)), dtype=dtype)
    elif name == "swish":
        cell = cells.Elman(I, H, activation=swish, dtype=dtype)
    else:
        cell = make(name, dtype)
    for kind in draw(st.lists(st.sampled_from(["zoneout", "per state", "dropout", "learned"]), max_size=2)):
        if kind == "zoneout":
            cell = cells.Zoneout(cell, draw(rates))
        elif kind == "per state":
            cell = cells.Zoneout(cell, {name: draw(rates) for name in cell.states})
        elif kind == "dropout":
            cell = cells.RecurrentDropout(cell, draw(rates))
        else:
            starts = [0.5, tr.init.zeros, functools.partial(tr.init.constant, value=2.0)]
            cell = cells.LearnedState(cell, init=draw(st.sampled_from(starts)))
    return cell


@st.composite
def some_rnn(draw, dtype):
    flags = {name: draw(st.booleans()) for name in ("bidirectional", "batch_first", "residual")}
    options = flags | {"dropout": draw(rates), "merge": draw(st.sampled_from(["concat", "sum"])), "rng": 0}
    layers = draw(st.integers(1, 3))
    cell = draw(some_cell(dtype))
    mixed = draw(st.booleans())
    try:
        if not mixed:
            return nn.RNN(cell, layers, **options)
        others = [draw(some_cell(dtype)) for _ in range(2 * layers)]
        return nn.RNN(lambda width: others.pop().another(width), layers, input_size=cell.input_size, **options)
    except ValueError:  # widths that do not go together
        assume(False)


@st.composite
def some_pattern(draw, dtype):
    rnn = draw(some_rnn(dtype))
    embedding = draw(st.sampled_from([None, nn.Embedding(7, rnn.input_size, padding_idx=2, dtype=dtype)]))
    kind = draw(st.sampled_from([nn.Acceptor, nn.Transducer, nn.Encoder]))
    if kind is nn.Encoder:
        return kind(rnn, embedding=embedding)
    pool = {"pool": draw(st.sampled_from(["last", "max", "mean"]))} if kind is nn.Acceptor else {}
    return kind(rnn, draw(st.integers(1, 4)), embedding=embedding, dropout=draw(rates), **pool)


@st.composite
def some_layer(draw, dtype):
    made = [
        nn.Linear(I, draw(st.integers(1, 4)), draw(st.booleans()), dtype=dtype),
        nn.Embedding(4, 2, padding_idx=draw(st.sampled_from([None, 0, 3])), dtype=dtype),
        nn.Dropout(draw(rates)),
    ]
    return draw(st.sampled_from(made))


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([tr.tanh, tr.softmax]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.text(), inner)
    ),
    max_leaves=5,
)
module = dtypes.flatmap(lambda dtype: some_cell(dtype) | some_rnn(dtype) | some_pattern(dtype) | some_layer(dtype))
tree = st.recursive(
    module,
    lambda inner: st.builds(Both, st.lists(inner, max_size=3), plain, scale=st.floats(width=32), dtype=dtypes),
    max_leaves=4,
)


@given(tree=tree, data=st.data())
def test_any_tree_of_modules_comes_back_to_the_same_bits(tmp_path_factory, tree, data):
    bits = np.random.default_rng(data.draw(st.integers(0, 9)))
    for p in tree.parameters():  # any bits at all: NaNs of every kind, infinities, -0.0
        p.data = np.frombuffer(bits.bytes(p.dtype.itemsize * p.size), p.dtype).reshape(p.shape)
    for inside in tree.modules():
        inside.training = data.draw(st.booleans())
    assert everything(again(tree, tmp_path_factory.getbasetemp() / "tree")) == everything(tree)


@every_cell
def test_every_cell_comes_back(tmp_path, name):
    cell = make(name)
    other = again(cell, tmp_path / "a")
    assert everything(other) == everything(cell)
    xs = np.random.default_rng(0).normal(size=(4, 2, cell.input_size))
    assert (tr.scan(other, xs)[0].numpy() == tr.scan(cell, xs)[0].numpy()).all()


# -- what comes back ---------------------------------------------------------------------------------------------------


def translator():
    words = nn.Embedding(9, I, rng=0)
    encoder = nn.Encoder(nn.RNN(cells.GRU(I, 2, rng=1), bidirectional=True), embedding=words)
    return nn.EncoderDecoder(encoder, nn.Transducer(nn.RNN(cells.GRU(I, 4, rng=2)), 9, embedding=words, dropout=0.5))


def test_what_is_shared_stays_shared(tmp_path):
    model = translator()
    other = again(model, tmp_path / "a")
    assert other.encoder.embedding is other.decoder.embedding
    assert everything(other) == everything(model)
    src, tgt = np.arange(6).reshape(3, 2), np.ones((4, 2), int)
    assert (other.eval()(src, tgt).numpy() == model.eval()(src, tgt).numpy()).all()


def test_one_generator_for_all_that_is_random(tmp_path):
    tr.save(tmp_path / "a", translator())
    src, tgt = np.arange(6).reshape(3, 2), np.ones((4, 2), int)
    first, second, third = (tr.load(tmp_path / "a", rng=seed)(src, tgt).numpy() for seed in (1, 1, 2))
    assert (first == second).all()
    assert (first != third).any()


def test_functions_and_classes_of_the_caller(tmp_path):
    rnn = nn.RNN(Leaky(I, H, rate=0.5, rng=0), 2)
    tr.save(tmp_path / "a", rnn)
    assert everything(tr.load(tmp_path / "a", [Leaky])) == everything(rnn)
    tr.save(tmp_path / "b", cells.Elman(I, H, activation=swish))
    assert tr.load(tmp_path / "b", (swish,)).activation is swish
    with pytest.raises(
        files.CheckpointError, match=r"module.cell\[0\]\[0\]: unknown class 'Leaky'; pass it: tr.load\(p"
    ):
        tr.load(tmp_path / "a", [swish])
    with pytest.raises(files.CheckpointError, match=r"module\.activation: unknown function 'swish'; pass it"):
        tr.load(tmp_path / "b")
    with pytest.raises(files.CheckpointError, match=r"module\.activation: 'swish' is no function"):
        tr.load(tmp_path / "b", [type("swish", (Leaky,), {})])


@pytest.mark.parametrize(
    ("classes", "error", "says"),
    [
        (Leaky, TypeError, "classes must be a list of classes, got <class"),
        ("Leaky", TypeError, "classes must be a list of classes, got 'Leaky'"),
        (["Leaky"], TypeError, "subclasses of tr.Module and functions, got 'Leaky'"),
        ([dict], TypeError, "subclasses of tr.Module and functions, got <class 'dict'>"),
        ([Leaky, type("Leaky", (Leaky,), {})], ValueError, "different names, got two called 'Leaky'"),
    ],
)
def test_classes_that_are_none_are_named(tmp_path, classes, error, says):
    tr.save(tmp_path / "a", Leaky(I, H))
    with pytest.raises(error, match=says):
        tr.load(tmp_path / "a", classes)


def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for doc in (files.__doc__, sys.modules["tinyrnn.files.modules"].__doc__):
        example = re.search(r"\n\n((    .*|)\n)+", doc)[0]
        exec(textwrap.dedent(example), {"tr": tr})
    assert sorted(os.listdir()) == ["last.safetensors", "model.safetensors", "swish.safetensors"]


def test_numbers_keep_all_their_bits(tmp_path):
    odd = {"tenth": 0.1 + 0.2, "inf": -math.inf, "nan": math.nan, "large": 2**70, "zero": -0.0, "np": np.float64(0.1)}
    got = again(Both([], odd), tmp_path / "a").note
    assert {name: repr(float(value)) for name, value in got.items()} == {n: repr(float(v)) for n, v in odd.items()}


# -- what can not be saved ---------------------------------------------------------------------------------------------


class Forgetful(tr.Module):
    def __init__(self, size):
        super().__init__()


class Counter(tr.Module):
    def __init__(self):
        super().__init__()
        self.seen = 0


class Fixed(cells.GRU):
    """What comes in options is not known from outside."""

    def __init__(self, input_size, hidden_size, **options):
        super().__init__(input_size, hidden_size, flipped=True, **options)


class Renamed(nn.Acceptor):
    def __init__(self, size):
        super().__init__(nn.RNN(cells.Elman(size, size)), 2)
        self.size = size

    def arguments(self):
        return {"width": self.size}


def counted():
    counter = Counter()
    counter.seen = 3
    return counter


def tied():
    both = Both([nn.Linear(2, 2), nn.Linear(2, 2)])
    both.parts[1].W = both.parts[0].W
    return both


def own_argument():
    both = Both([])
    both.parts.append(both)
    return both


def same_name():
    return Both([Leaky(I, H), type("Leaky", (Leaky,), {})(I, H)])


CANNOT = {
    "no module": (lambda: 3, TypeError, "^module must be a tr.Module, got int"),
    "a lambda": (lambda: cells.Elman(I, H, activation=lambda x: x), TypeError, "module.activation .* has none"),
    "an array": (lambda: Both([], np.zeros(2)), TypeError, "module.note can not be saved: .* can not hold a ndarray"),
    "a set": (lambda: Both([], {"a": {1}}), TypeError, r"module.note\['a'\] can not be saved: .* a set, \{1\}"),
    "a key": (lambda: Both([], {(1,): 1}), TypeError, r"module.note .* can not hold the key \(1,\)"),
    "a class": (lambda: Both([], Leaky), TypeError, "module.note can not be saved: .* can not hold a type"),
    "not kept": (lambda: Both([Forgetful(3)]), TypeError, r"module.parts\[0\] .* does not keep its argument 'size'"),
    "another argument": (lambda: Renamed(3), ValueError, "Renamed can not be made .* unexpected keyword .*'width'"),
    "hidden options": (
        lambda: Fixed(I, H, reset="after", activation=tr.relu),
        ValueError,
        r"made again from its .*(?s:.*)parameter b_hn: \(5,\) float32, made again none\n"
        "  reset: 'after', made again 'before'\n  activation: <op relu>, made again <op tanh>$",
    ),
    "a counter": (lambda: Both([counted()]), ValueError, "parts.0.seen: 3, made again 0"),
    "tied": (tied, ValueError, r"parameter parts.1.W: none, made again \(2, 2\) float32"),
    "itself": (own_argument, ValueError, r"module.parts\[0\] can not be saved: it is among its own arguments"),
    "one name": (same_name, ValueError, r"module.parts\[1\] .* two different .* called 'Leaky'"),
}


@pytest.mark.parametrize("case", CANNOT)
def test_what_can_not_be_saved_is_named_and_the_old_file_stays(tmp_path, case):
    make, error, says = CANNOT[case]
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(error, match=says):
        tr.save(tmp_path / "a", make())
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch):
    tr.save(tmp_path / "a", nn.Linear(2, 3))
    before = (tmp_path / "a").read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        tr.save(tmp_path / "a", nn.Linear(4, 5))
    assert (tmp_path / "a").read_bytes() == before
    assert os.listdir(tmp_path) == ["a"]
