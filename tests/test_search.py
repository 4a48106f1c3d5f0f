"""Random cells: descriptions are plain data that can be kept, printed and checked, and runs stay bounded."""

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import find, given, settings

import tinyrnn as tr
from tinyrnn.search import KINDS, Description, Node, RandomCell, descriptions, random_description


def some(count=200, **options):
    return [random_description(np.random.default_rng(seed), **options) for seed in range(count)]


def test_the_same_seed_gives_the_same_cell():
    assert some(20) == some(20)
    assert len(set(some(100))) > 90
    one, other = (RandomCell(some(1)[0], 3, 2, rng=5).state_dict() for _ in range(2))
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_a_description_is_plain_data():
    for made in some(50, inputs=2):
        assert eval(repr(made)) == made
        assert hash(eval(repr(made))) == hash(made)
        assert pickle.loads(pickle.dumps(made)) == made
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.nodes = ()


@pytest.mark.parametrize(("least", "most"), [(3, 3), (3, 20), (12, 15), (20, 20)])
@pytest.mark.parametrize("states", [(1, 1), (2, 3), (5, 5)])
def test_counts_are_kept(least, most, states):
    for made in some(60, ops=(least, most), states=states):
        assert least <= len(made.nodes) <= most
        assert states[0] <= len(made.states) <= states[1]


def test_every_kind_is_drawn_and_every_node_read():
    found = some(600)
    assert {node.op for made in found for node in made.nodes} == set(KINDS)
    for made in found:
        first = made.inputs + len(made.states)
        read = {*made.nexts, *(a for node in made.nodes for a in node.args)}
        assert read >= set(range(first, first + len(made.nodes)))
    smooth = {node.op for made in some(600, kinks=False) for node in made.nodes}
    assert smooth == {name for name, kind in KINDS.items() if not kind.kink}


def test_parameters_are_shared_now_and_then():
    def uses(made):
        return [(KINDS[n.op].parameter, n.attrs[0]) for n in made.nodes if KINDS[n.op].parameter]

    assert any(len(set(uses(made))) < len(uses(made)) for made in some())


@given(descriptions())
@settings(max_examples=100, derandomize=True)
def test_states_stay_bounded(made):
    rng = np.random.default_rng(0)
    cell = RandomCell(made, 3, 2, dtype="float64", rng=rng)
    ys, final = tr.scan(cell, tuple(rng.normal(size=(200, 2, 3)) for _ in range(made.inputs)))
    assert ys.shape == (200, 2, 2 * made.states[0])
    for state in (ys, *final):
        assert np.abs(state.data).max() <= 1.0 + 1e-12


def test_the_strategy_finds_small_examples():
    few = settings(max_examples=300, database=None, derandomize=True)
    made = find(descriptions(), lambda d: len(d.nodes) >= 4 and any(n.op == "product" for n in d.nodes), settings=few)
    assert len(made.nodes) <= 6


def test_a_description_prints_as_equations():
    made = Description(
        inputs=1,
        states=(2, 1),
        nodes=(
            Node("concat", (0, 1)),
            Node("product", (3,), (0, 2)),
            Node("bias", (4,), (0,)),
            Node("sigmoid", (5,)),
            Node("mix", (6, 1, 5)),
            Node("slice", (6,), (1, 2)),
            Node("scale", (2,), (0.5,)),
            Node("mul", (8, 9)),
            Node("tanh", (7,)),
        ),
        nexts=(11, 10),
    )
    assert str(made).splitlines() == [
        "inputs x; states h (2U), c (1U)",
        "v1 = [x, h]",
        "v2 = v1 W0",
        "v3 = v2 + b0",
        "v4 = σ(v3)",
        "v5 = v4 * h + (1 - v4) * v3",
        "v6 = v4[1U:2U]",
        "v7 = c * 0.5",
        "v8 = v6 * v7",
        "v9 = tanh(v5)",
        "h' = v9",
        "c' = v8",
    ]
    cell = RandomCell(made, 3, 4, rng=0)
    assert cell.states == ("h", "c")
    assert cell.state_sizes == (8, 4)
    assert {n: p.shape for n, p in cell.named_parameters()} == {"W.0": (11, 8), "b.0": (8,)}
    x, h, c = np.ones((2, 3)), np.ones((2, 8)), np.ones((2, 4))
    z = 1 / (1 + np.exp(-(np.concatenate([x, h], 1) @ cell.W[0].data + cell.b[0].data)))
    _, d = cell.step(*(tr.tensor(a, dtype="float32") for a in (x, h, c)))
    np.testing.assert_allclose(d.data, z[:, 4:] * 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("nodes", "nexts", "message"),
    [
        ((Node("nonsense", (0,)),), (1,), "is of no kind in KINDS"),
        ((Node("tanh", (7,)),), (1,), r"Node\(op='tanh', args=\(7,\), attrs=\(\)\) does not fit the values.* I, 2U"),
        ((Node("mul", (0, 1)),), (1,), "does not fit"),
        ((Node("mul", (1,)),), (1,), "does not fit"),
        ((Node("tanh", ()),), (1,), "does not fit"),
        ((Node("product", (0,), (1, 2)),), (2,), "does not fit"),
        ((Node("product", (0,), (0, 2)), Node("product", (1,), (0, 2))), (2,), "does not fit"),
        ((Node("product", (0,)),), (2,), "does not fit"),
        ((Node("slice", (1,), (1, 3)),), (1,), "does not fit"),
        ((), (0,), "value 0 can not be the next one of a state of width 2U"),
        ((), (5,), "value 5 can not be the next one"),
        ((), (1, 1), "needs an input, a state, and a next value for each"),
    ],
)
def test_what_does_not_fit_is_named(nodes, nexts, message):
    with pytest.raises(ValueError, match=message):
        Description(1, (2,), nodes, nexts)
