"""Options, first values, names and refusals of the cells; tr.init.apply and chrono; `tinyrnn cells`."""

import inspect
from functools import partial

import numpy as np
import pytest
from cell_table import CELLS, H, I, make

import tinyrnn as tr
from tinyrnn import cells
from tinyrnn.cells import GRU, IRNN, LSTM, MGU, MUT1, Elman, IndRNN, LayerNormLSTM, LectureLSTM, Odyssey, Zoneout
from tinyrnn.cli import main
from tinyrnn.plan.explain import explanation_of

# -- what options do ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [LSTM, LayerNormLSTM, MGU])
def test_forget_bias(kind):
    def bias(**options):
        cell = kind(2, 30, rng=0, **options)
        return cell.b.data[30:60] if kind is LayerNormLSTM else cell.b_f.data

    assert (bias() == 1).all()
    assert (bias(forget_bias=0.5) == 0.5).all()
    assert len(set(bias(forget_bias=None))) == 30


def test_first_values_of_the_irnn_and_the_indrnn():
    cell = IRNN(40, 50, scale=0.5, rng=0)
    np.testing.assert_array_equal(cell.W_h.data, 0.5 * np.eye(50, dtype=np.float32))
    assert not cell.b.data.any()
    assert cell.W_x.data.std() == pytest.approx(1e-3, rel=0.05)
    kept, _ = tr.scan(IRNN(2, 3, rng=0), np.zeros((9, 2, 2)), np.full((2, 3), 0.7, np.float32))
    np.testing.assert_array_equal(kept.data, np.full((9, 2, 3), 0.7, np.float32))
    assert 0 <= IndRNN(2, 500, rng=0).u.data.min() < 0.02
    assert 0.98 < IndRNN(2, 500, rng=0).u.data.max() < 1


SHAPES = {
    "LSTM-coupled": "W_xf W_xo W_xg W_hf W_ho W_hg b_f b_o b_g",
    "LSTM-tied-output": "W_xi W_xf W_xg W_hi W_hf W_hg b_i b_f b_g",
    "LSTM-unbiased": "W_xi W_xf W_xo W_xg W_hi W_hf W_ho W_hg",
    "GRU-after": "W_xr W_xz W_xn W_hr W_hz W_hn b_r b_z b_n b_hn",
    "GRU-activations": "W_xr W_xz W_xn W_hr W_hz W_hn",
    "MUT1": "W_xz W_xr W_hr W_hh b_z b_r b_h",
    "MUT1-projected": "W_p W_xz W_xr W_hr W_hh b_z b_r b_h",
    "Odyssey-CIFG": "W_xz W_xi W_xo W_hz W_hi W_ho b_z b_i b_o p_i p_o",
    "Odyssey-NP": "W_xz W_xi W_xf W_xo W_hz W_hi W_hf W_ho b_z b_i b_f b_o",
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_missing_part_has_no_parameters(name):
    assert " ".join(n for n, _ in make(name).named_parameters()) == SHAPES[name]


def test_shapes_of_blocks_projection_and_peepholes():
    shapes = {n: p.shape for n, p in LSTM(3, 6, cells_per_block=3, projection=4, peephole="full").named_parameters()}
    assert [shapes[k] for k in ("W_xi", "W_hf", "W_co", "b_i")] == [(3, 2), (4, 2), (6, 2), (2,)]
    assert [shapes[k] for k in ("W_xg", "W_hg", "W_cg", "b_g", "W_p")] == [(3, 6), (4, 6), (6, 6), (6,), (6, 4)]
    assert LSTM(3, 6, cells_per_block=3, peephole="diagonal").p_i.shape == (6,)
    assert LSTM(3, 6, projection=4).state_sizes == (4, 6)
    assert len(list(Odyssey(3, 5, variant="FGR").named_parameters())) == 4 * 3 + 3 + 9


def test_cells_of_a_block_share_their_gates():
    cell = make("LSTM-blocks")
    with tr.probes() as seen:
        tr.unroll(cell, np.ones((2, 4, I)))
    assert [seen[k][0].shape for k in "ifog"] == [(4, 2)] * 3 + [(4, 6)]


def test_a_sum_of_n_cells_of_a_block_equals_the_lstm_of_repeated_gates():
    """Blocks are the plain LSTM whose gates' columns are equal within a block."""
    blocks, plain = make("LSTM-blocks"), LSTM(I, 6, dtype="float64", rng=0)
    plain.load_state_dict(
        {k: v if k.endswith("g") else np.repeat(v, 3, axis=-1) for k, v in blocks.state_dict().items()}
    )
    xs = np.random.default_rng(0).normal(size=(5, 2, I))
    np.testing.assert_allclose(tr.scan(blocks, xs)[0].data, tr.scan(plain, xs)[0].data, rtol=0, atol=1e-14)


def test_the_concatenated_lstm_plans_as_the_unbiased_lstm():
    one, other = explanation_of(cells.ConcatenatedLSTM(I, H)), explanation_of(LSTM(I, H, bias=False))
    for mine, its in ((one.forward, other.forward), (one.reverse, other.reverse)):
        assert (len(mine.products), len(mine.groups)) == (len(its.products), len(its.groups)) == (1, 1)
        assert (mine.flops, mine.bytes, mine.weight_bytes) == (its.flops, its.bytes, its.weight_bytes)


def test_repr_tells_what_is_not_the_default():
    assert LSTM(2, 3).extra_repr() == "2, 3"
    text = LSTM(2, 4, peephole="full", bias=False, activation=tr.relu, forget_bias=None, cells_per_block=2).extra_repr()
    assert text == '2, 4, forget_bias=None, bias=False, peephole="full", cells_per_block=2, activation=relu'
    assert GRU(2, 3, flipped=True).extra_repr() == "2, 3, flipped=True"
    assert LectureLSTM(2, 3, phi=cells.identity).extra_repr() == "2, 3, phi=identity"


@pytest.mark.parametrize("name", [name for name in CELLS if not name.endswith("activations")])  # a user's function
def test_repr_makes_the_same_cell(name):
    cell = make(name)
    known = {k: getattr(tr, k) for k in tr.__all__} | {k: getattr(cells, k) for k in cells.__all__}
    twin = eval(f"{type(cell).__name__}({cell.extra_repr()})", known)
    assert twin.options() == cell.options()
    assert twin.state_sizes == cell.state_sizes


WRONG = [
    (GRU, {"reset": "never"}, ValueError, 'reset must be "before" or "after", got \'never\''),
    (LSTM, {"peephole": "half"}, ValueError, 'peephole must be None, "diagonal" or "full", got \'half\''),
    (LSTM, {"peephole": True}, ValueError, 'peephole must be None, "diagonal" or "full", got True'),
    (LSTM, {"coupled": "forget"}, ValueError, 'coupled must be None, "input" or "output", got \'forget\''),
    (LSTM, {"projection": 0}, ValueError, "projection must be a positive int, got 0"),
    (LSTM, {"projection": 2.0}, TypeError, "projection must be a positive int, got 2.0"),
    (LSTM, {"cells_per_block": 2}, ValueError, "cells_per_block must divide hidden_size, 3, got 2"),
    (LSTM, {"cells_per_block": -1}, ValueError, "cells_per_block must be a positive int, got -1"),
    (LSTM, {"gate_activation": "sigmoid"}, TypeError, "gate_activation must be an op like tr.tanh, got 'sigmoid'"),
    (Elman, {"activation": "tanh"}, TypeError, "activation must be an op like tr.tanh, got 'tanh'"),
    (LectureLSTM, {"phi": None}, TypeError, "phi must be an op like tr.tanh, got None"),
    (LectureLSTM, {"reads": "c"}, ValueError, 'reads must be "h" or "s", got \'c\''),
    (Odyssey, {"variant": "NOPE"}, ValueError, '"NP" or "FGR", got \'NOPE\''),
    (MUT1, {"projection": False}, ValueError, "without a projection input_size must be hidden_size, 3, got 2"),
    (MUT1, {"projection": 1}, ValueError, "projection must be None, False or True, got 1"),
]


@pytest.mark.parametrize(("kind", "options", "error", "text"), WRONG)
def test_wrong_options_are_named(kind, options, error, text):
    with pytest.raises(error) as raised:
        kind(2, 3, **options)
    assert text in str(raised.value)


# -- names -------------------------------------------------------------------------------------------------------------


def test_every_class_is_in_the_table_and_tells_equations_and_source():
    kinds = {kind for kind, _, _ in CELLS.values()}
    assert {cells.by_name(name) for name in cells.names()} == kinds
    for kind in kinds:
        text = inspect.getdoc(kind)
        assert "' = " in text, kind
        assert any(str(year) in text for year in range(1990, 2020)) or "lecture" in text, kind


def test_by_name():
    assert cells.by_name("lstm") is LSTM
    assert cells.by_name("layer-norm_lstm") is LayerNormLSTM
    cell = cells.by_name("Gru", reset="after", dtype="float64")(2, 3, rng=0)
    assert (type(cell), cell.reset, cell.dtype) == (GRU, "after", np.float64)
    assert cells.names() == sorted(cells.names(), key=str.lower)
    assert not {"Zoneout", "Cell", "Wrapper"} & {*cells.names()}
    with pytest.raises(ValueError, match=r"there is no cell 'lstms'; there are Additive, ConcatenatedLSTM, Elman, GRU"):
        cells.by_name("lstms")
    with pytest.raises(ValueError, match="there is no cell 3"):
        cells.by_name(3)
    with pytest.raises(TypeError, match="Elman takes no option 'reset'; it takes activation, bias, dtype, rng"):
        cells.by_name("elman", reset="after")


# -- initialisers ------------------------------------------------------------------------------------------------------


class Two(tr.Module):
    def __init__(self):
        super().__init__()
        self.cells = [GRU(I, H, rng=0), LSTM(H, H, rng=1)]
        self.head = tr.nn.Linear(H, 2, rng=2)


def test_apply_gives_values_by_name_and_the_last_rule_counts():
    cell = LSTM(I, H, rng=0, dtype="float64")
    rules = {"W_x*": tr.init.glorot, "W_h*": tr.init.orthogonal, "b_*": 0.0, "b_f": 2, "b_g": np.arange(5)}
    tr.init.apply(cell, rules, rng=3)
    rng = np.random.default_rng(3)
    for name, p in cell.named_parameters():
        if name.startswith("W_x"):
            expected = tr.init.glorot(rng, (I, H), np.float64)
        elif name.startswith("W_h"):
            expected = tr.init.orthogonal(rng, (H, H), np.float64)
            np.testing.assert_allclose(p.data @ p.data.T, np.eye(H), atol=1e-14)
        else:
            expected = {"b_f": np.full(H, 2.0), "b_g": np.arange(5)}.get(name, np.zeros(H))
        np.testing.assert_array_equal(p.data, expected, err_msg=name)


def test_apply_reaches_every_module_and_leaves_the_rest():
    model, before = Two(), Two().state_dict()
    tr.init.apply(model, {"W_h*": tr.init.identity, "cells.1.b_f": 3.0, "head.*": partial(tr.init.constant, value=4.0)})
    for name, value in model.state_dict().items():
        last = name.rpartition(".")[2]
        if last.startswith("W_h"):
            np.testing.assert_array_equal(value, np.eye(H))
        elif name == "cells.1.b_f" or name.startswith("head."):
            assert (value == (4 if "head" in name else 3)).all()
        else:
            np.testing.assert_array_equal(value, before[name])
    assert model.cells[0].W_hr.dtype == np.float32


def test_apply_draws_from_the_cells_own_generator():
    one, two = (LSTM(I, H, rng=5) for _ in range(2))
    for cell in (one, two):
        tr.init.apply(cell, {"W_*": tr.init.normal})
    np.testing.assert_array_equal(one.W_hi.data, two.W_hi.data)
    assert (one.W_hi.data != one.W_hf.data).any()


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ({"W_hx": 0.0}, "the GRU has no parameter 'W_hx': it has W_xr, W_xz, W_xn, W_hr, W_hz, W_hn, b_r, b_z, b_n"),
        ({"b_*": 1.0, "W_hz": np.zeros(H)}, r"the rule for W_hz must give shape \(5, 5\), got \(5,\)"),
        ({"b_*": 1.0, "b_r": tr.init.orthogonal}, "orthogonal needs the shape of a matrix"),
    ],
)
def test_apply_changes_nothing_where_a_rule_does_not_fit(rules, text):
    cell = GRU(I, H, rng=0)
    before = cell.state_dict()
    with pytest.raises(ValueError, match=text):
        tr.init.apply(cell, rules)
    for name, value in cell.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    with pytest.raises(TypeError, match=r"rng must be a numpy\.random\.Generator"):
        tr.init.apply(cell, {"b_*": 1.0}, rng="seed")


CHRONO = {
    "LSTM": {"b_f": 1, "b_i": -1},
    "LSTM-coupled": {"b_f": 1},
    "LSTM-tied-output": {"b_f": 1, "b_i": -1},
    "GRU": {"b_z": -1},
    "GRU-flipped": {"b_z": 1},
    "MGU": {"b_f": -1},
    "LectureGRU": {"b_i": -1},
    "LectureLSTM": {"b_f": 1, "b_i": -1},
    "SelectiveRead": {"b_i": -1},
    "Odyssey-vanilla": {"b_f": 1, "b_i": -1},
    "Odyssey-NIG": {"b_f": 1},
    "Odyssey-NFG": {"b_i": -1},
    "Odyssey-CIFG": {"b_i": -1},
    "MUT2": {"b_z": -1},
}


@pytest.mark.parametrize("name", CHRONO)
def test_chrono_makes_gates_keep_the_state(name):
    cell = make(name)
    before = cell.state_dict()
    tr.init.chrono(cell, 50, rng=4)
    memory = np.log(np.random.default_rng(4).uniform(1, 49, cell.hidden_size))
    for key, value in cell.state_dict().items():
        np.testing.assert_array_equal(value, CHRONO[name][key] * memory if key in CHRONO[name] else before[key])


@pytest.mark.parametrize("kind", [LSTM, GRU, partial(GRU, flipped=True), MGU])
def test_a_chrono_cell_forgets_about_as_slowly_as_it_was_told(kind):
    """Without inputs the state falls by the gates alone: by 1 / (1 + u) a step, u uniform in 1 .. longest - 1."""
    cell = kind(1, 400, dtype="float64", rng=0)
    tr.init.apply(cell, {"W_*": 0.0, "b_*": 0.0})
    tr.init.chrono(cell, 100)
    state = tuple(np.full((1, 400), 0.5) for _ in cell.states)
    _, final = tr.scan(cell, np.zeros((1, 1, 1)), state)
    u = 1 / (1 - final[-1].data / 0.5) - 1
    assert 0.99 < u.min() < 5
    assert 95 < u.max() < 99.01
    assert u.mean() == pytest.approx(50, abs=5)


def test_chrono_of_wrapped_and_own_cells_and_what_it_refuses():
    wrapped = Zoneout(LSTM(I, H, rng=0), 0.1)
    tr.init.chrono(wrapped, 20)
    np.testing.assert_array_equal(wrapped.cell.b_f.data, -wrapped.cell.b_i.data)
    own = Elman(I, H, rng=0)
    tr.init.chrono(own, 20, gates={"b": 1})
    assert 0 <= own.b.data.min() <= own.b.data.max() <= np.log(19)
    for cell, arguments, error, text in (
        (Elman(2, 3), (9,), ValueError, "the Elman does not say which gates keep its state"),
        (LSTM(2, 3, bias=False), (9,), ValueError, "the LSTM has no parameter 'b_f': it has W_xi"),
        (LSTM(2, 3), (1,), ValueError, "longest must be at least 2 steps, got 1"),
        (LSTM(2, 3), (9.5,), TypeError, "longest must be a number of steps, an int, got 9.5"),
    ):
        with pytest.raises(error, match=text):
            tr.init.chrono(cell, *arguments)
    with pytest.raises(ValueError, match="gates must be 1 for a gate that keeps and -1 for one that writes"):
        tr.init.chrono(LSTM(2, 3), 9, gates={"b_f": 2})
    with pytest.raises(ValueError, match=r"the biases in gates must be of one shape, got \(2, 3\), \(3,\)"):
        tr.init.chrono(LSTM(2, 3), 9, gates={"b_f": 1, "W_xi": -1})


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def ran(capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["cells", *arguments])
        got = capsys.readouterr()
        return ended.value.code, got.out, got.err

    return call


def test_tinyrnn_cells_lists_all_with_equations_and_counts(ran):
    code, out, err = ran("--input-size", "3", "--hidden-size", "5")
    assert (code, err) == (0, "")
    blocks = {block.split()[0]: block for block in out.split("\n\n")}
    for name in cells.names():
        count = sum(p.size for p in cells.by_name(name)(3, 5).parameters())
        assert f"{name}  {count} parameters, states" in blocks[name]
        assert " = " in blocks[name]
    assert "f = σ(x W_xf + h W_hf + b_f)" in blocks["LSTM"]
    assert "Zoneout: " in blocks["Around"]


def test_tinyrnn_cells_tells_all_about_one(ran):
    code, out, _ = ran(
        "lstm", "-o", "peephole=diagonal", "-o", "activation=relu", "-o", "bias=False", "-o", "projection=2"
    )
    assert code == 0
    assert 'LSTM(64, 128, bias=False, peephole="diagonal", projection=2, activation=relu)' in out
    assert "    o = sigmoid(x @ W_xo + h @ W_ho + p_o * c')" in out
    assert "    g = relu(x @ W_xg + h @ W_hg)" in out
    assert "coupled=None" in out
    assert "(64, 128)" in out


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["lstms"], 1, "there is no cell 'lstms'; there are Additive"),
        (["lstm", "-o", "reset=after"], 1, "LSTM takes no option 'reset'"),
        (["lstm", "-o", "peephole=no"], 1, "peephole must be None"),
        (["lstm", "-o", "peephole"], 1, "--option must be NAME=VALUE, got 'peephole'"),
        (["lstm", "-o", "activation=swish"], 1, "--option activation must be one of identity"),
        (["-o", "bias=False"], 1, "--option needs the name of a cell"),
        (["lstm", "--hidden-size", "0"], 2, "Invalid value for '--hidden-size'"),
    ],
)
def test_what_a_user_can_get_wrong(ran, arguments, code, text):
    ended, out, err = ran(*arguments)
    assert (ended, out) == (code, "")
    assert text in err
    assert err.count("\n") == 1
