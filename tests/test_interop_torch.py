"""Layers and cells from PyTorch and back: the same outputs and states, and clear words where that can not be."""

import re
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest

import tinyrnn as tr
from tinyrnn import cells, nn
from tinyrnn.interop import CannotExpressError

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]

T, B, I, H = 7, 4, 3, 5  # noqa: E741
LENGTHS = [3, 7, 1, 5]
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}

# A row a layer: PyTorch's class and options, and our cell and options.
LAYERS = {
    "tanh": ("RNN", {}, cells.Elman, {}),
    "relu": ("RNN", {"nonlinearity": "relu"}, cells.Elman, {"activation": tr.relu}),
    "lstm": ("LSTM", {}, cells.LSTM, {}),
    "projected": ("LSTM", {"proj_size": 2}, cells.LSTM, {"projection": 2}),
    "gru": ("GRU", {}, cells.GRU, {"reset": "after", "flipped": True}),
}
# The forms of a stack: each option is seen with and without the others.
FORMS = [
    {},
    {"bias": False, "batch_first": True},
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 3, "dropout": 0.4, "batch_first": True},
    {"num_layers": 2, "dropout": 0.3, "bias": False, "bidirectional": True},
]

every_layer = pytest.mark.parametrize("name", LAYERS)
every_single = pytest.mark.parametrize("name", [name for name in LAYERS if name != "projected"])
every_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(form) or "plain")
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE)
ragged_or_not = pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "packed"])


@pytest.fixture(scope="module")
def torch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torch", reason="compares with PyTorch: pip install 'tinyrnn[oracle]'")


def theirs(torch, name, form, dtype, single=""):
    kind, options, _, _ = LAYERS[name]
    torch.manual_seed(0)
    return getattr(torch.nn, kind + single)(I, H, dtype=getattr(torch, dtype), **options, **form).eval()


def ours(name, dtype="float32", bias=True):
    _, _, kind, options = LAYERS[name]
    return kind(I, H, bias=bias, dtype=dtype, rng=0, **options)


def normal(*shape, dtype, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def check_layer(torch, rnn, layer, lengths, dtype):
    """Outputs and final states of ours and theirs are equal, from first states that are given."""
    xs = normal(*((B, T, I) if layer.batch_first else (T, B, I)), dtype=dtype)
    count = layer.num_layers * (1 + layer.bidirectional)
    sizes = [getattr(layer, "proj_size", 0) or H] + [H] * isinstance(layer, torch.nn.LSTM)
    first = [normal(count, B, size, dtype=dtype, seed=size) for size in sizes]
    ys, state = rnn(xs, list(zip(*first, strict=True)), lengths=lengths)

    given = torch.from_numpy(xs)
    if lengths is not None:
        given = torch.nn.utils.rnn.pack_padded_sequence(given, lengths, layer.batch_first, enforce_sorted=False)
    h = tuple(map(torch.from_numpy, first))
    expected, final = layer(given, h if len(h) > 1 else h[0])
    if lengths is not None:
        expected, _ = torch.nn.utils.rnn.pad_packed_sequence(expected, layer.batch_first, total_length=T)
    close(ys, expected, dtype)
    assert len(state) == count
    for k, states in enumerate(state):
        for s, their in zip(states, final if len(h) > 1 else (final,), strict=True):
            close(s, their[k], dtype)


def close(found, expected, dtype):
    assert found.dtype == dtype
    assert str(expected.dtype) == f"torch.{dtype}"
    np.testing.assert_allclose(found.numpy(), expected.detach().numpy(), rtol=0, atol=TOLERANCE[dtype])


def bits(module):
    return {name: (str(a.dtype), a.shape, np.asarray(a).tobytes()) for name, a in module.state_dict().items()}


# -- both ways ---------------------------------------------------------------------------------------------------------


@every_layer
@every_form
@ragged_or_not
@every_dtype
def test_a_layer_of_theirs_gives_the_same_here(torch, name, form, lengths, dtype):
    layer = theirs(torch, name, form, dtype)
    rnn = tr.interop.torch.load(layer)
    wanted = ours(name, dtype, form.get("bias", True))
    for cell in [cell for layers in rnn.cells for cell in layers]:
        assert (type(cell), cell.options()) == (type(wanted), wanted.options())
    check_layer(torch, rnn, layer, lengths, dtype)


@every_layer
@every_form
@ragged_or_not
@every_dtype
def test_a_layer_of_ours_gives_the_same_there(torch, name, form, lengths, dtype):
    form = dict(form)
    rnn = nn.RNN(ours(name, dtype, form.pop("bias", True)), **form).eval()
    layer = tr.interop.torch.to_torch(rnn)
    assert type(layer) is getattr(torch.nn, LAYERS[name][0])
    check_layer(torch, rnn, layer, lengths, dtype)
    again = tr.interop.torch.load(layer)
    assert bits(again) == bits(rnn)
    assert again.arguments() == rnn.arguments() | {"cell": again.cells}


@ragged_or_not
@pytest.mark.parametrize("bias", [True, False], ids=["biased", "unbiased"])
@every_dtype
def test_a_gru_that_is_not_flipped_gives_the_same_there(torch, lengths, bias, dtype):
    rnn = nn.RNN(cells.GRU(I, H, reset="after", bias=bias, dtype=dtype, rng=0), 2, bidirectional=True)
    check_layer(torch, rnn, tr.interop.torch.to_torch(rnn), lengths, dtype)


@every_single
@pytest.mark.parametrize("bias", [True, False], ids=["biased", "unbiased"])
@every_dtype
def test_a_cell_gives_the_same_both_ways(torch, name, bias, dtype):
    def check(cell, single):
        x, states = normal(B, I, dtype=dtype), [normal(B, H, dtype=dtype, seed=k) for k in range(len(cell.states))]
        found = cell.step(tr.tensor(x), *map(tr.tensor, states))
        h = tuple(map(torch.from_numpy, states))
        expected = single(torch.from_numpy(x), h if len(h) > 1 else h[0])
        pairs = zip(found, expected, strict=True) if len(h) > 1 else [(found, expected)]
        for s, their in pairs:
            close(s, their, dtype)

    there = theirs(torch, name, {"bias": bias}, dtype, "Cell")
    check(tr.interop.torch.load(there), there)
    here = ours(name, dtype, bias)
    back = tr.interop.torch.to_torch(here)
    assert type(back) is getattr(torch.nn, LAYERS[name][0] + "Cell")
    check(here, back)
    assert bits(tr.interop.torch.load(back)) == bits(here)


def test_gradients_are_equal_too(torch):
    """A layer that was taken over learns on as it would have there; of PyTorch's two biases each gets our gradient."""
    layer = theirs(torch, "lstm", {"num_layers": 2}, "float64")
    rnn = tr.interop.torch.load(layer)
    xs = normal(T, B, I, dtype="float64")
    tr.square(rnn(xs)[0]).sum().backward()
    layer(torch.from_numpy(xs))[0].square().sum().backward()
    for k, cell in enumerate(layers[0] for layers in rnn.cells):
        for stem, their in (("W_x", "weight_ih"), ("W_h", "weight_hh"), ("b_", "bias_ih"), ("b_", "bias_hh")):
            found = np.concatenate([getattr(cell, stem + gate).grad.numpy().T for gate in "ifgo"])
            expected = getattr(layer, f"{their}_l{k}").grad.numpy()
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


# -- what comes along --------------------------------------------------------------------------------------------------


def test_our_biases_are_theirs_of_the_input(torch):
    layer = tr.interop.torch.to_torch(nn.RNN(ours("lstm")))
    assert not layer.bias_hh_l0.any()
    np.testing.assert_array_equal(layer.bias_ih_l0.detach()[H : 2 * H], np.ones(H), err_msg="the forget gate's")
    gru = tr.interop.torch.to_torch(ours("gru"))
    assert not gru.bias_hh[: 2 * H].any()
    assert gru.bias_hh[2 * H :].all(), "b_hn has no other place"


def test_irnn_and_a_subclass_that_computes_the_same_go_along(torch):
    class PyTorchGRU(cells.GRU):
        def __init__(self, input_size, hidden_size, **options):
            super().__init__(input_size, hidden_size, reset="after", flipped=True, **options)

    assert tr.interop.torch.to_torch(cells.IRNN(I, H)).nonlinearity == "relu"
    assert isinstance(tr.interop.torch.to_torch(nn.RNN(PyTorchGRU(I, H))), torch.nn.GRU)


@pytest.mark.parametrize("training", [True, False])
def test_mode_dropout_and_random_numbers(torch, training):
    layer = theirs(torch, "gru", {"num_layers": 2, "dropout": 0.5}, "float32").train(training)
    xs = normal(T, B, I, dtype="float32")
    rnn, twin = (tr.interop.torch.load(layer, rng=3) for _ in range(2))
    assert rnn.training is all(module.training for module in rnn.modules()) is training
    assert (rnn(xs)[0].numpy() == twin(xs)[0].numpy()).all(), "the same seed, the same dropout"
    assert (rnn(xs)[0].numpy() == twin.eval()(xs)[0].numpy()).all() != training
    before = torch.random.get_rng_state()
    assert tr.interop.torch.to_torch(rnn).training is training
    assert (before == torch.random.get_rng_state()).all()


def test_dropout_of_a_single_layer_is_kept_without_a_warning(torch):
    layer = tr.interop.torch.to_torch(nn.RNN(ours("gru"), dropout=0.25))
    assert layer.dropout == tr.interop.torch.load(layer).dropout == 0.25


def test_values_are_copies(torch):
    layer = theirs(torch, "lstm", {}, "float64")
    rnn = tr.interop.torch.load(layer)
    back = tr.interop.torch.to_torch(rnn)
    before = bits(rnn)
    with torch.no_grad():
        for p in (*layer.parameters(), *back.parameters()):
            p.zero_()
    assert bits(rnn) == before


# -- what can not be ---------------------------------------------------------------------------------------------------


class Doubled(cells.LSTM):
    def step(self, x, h, c):
        h, c = super().step(x, h, c)
        return 2 * h, c


def mixed(*made):
    made = list(made)
    return nn.RNN(lambda width: made.pop(0), len(made), input_size=I)


CANNOT = {
    "another cell": (cells.MGU(I, H), "MGU: torch.nn has no such cell"),
    "an own step": (nn.RNN(Doubled(I, H)), "Doubled in cells.0.0: torch.nn has no such cell"),
    "a wrapper": (nn.RNN(cells.Zoneout(ours("gru"), 0.1), 2), "Zoneout in cells.0.0, cells.1.0: torch.nn has no such"),
    "a learned state": (cells.LearnedState(ours("gru")), "LearnedState: torch.nn has no such cell"),
    "sigmoid": (cells.Elman(I, H, activation=tr.sigmoid), "Elman's activation=sigmoid: torch.nn.RNNCell has none"),
    "peephole": (nn.RNN(cells.LSTM(I, H, peephole="full")), "peephole=\"full\" in cells.0.0: torch.nn.LSTM has none"),
    "coupled": (cells.LSTM(I, H, coupled="input"), 'LSTM\'s coupled="input": torch.nn.LSTMCell has none'),
    "blocks": (cells.LSTM(I, 6, cells_per_block=2), "cells_per_block=2: torch.nn.LSTMCell has none"),
    "activation": (cells.LSTM(I, H, activation=tr.relu), "LSTM's activation=relu: .* its activations are fixed"),
    "output": (cells.LSTM(I, H, output_activation=cells.identity), "output_activation=identity: .* are fixed"),
    "gates": (cells.GRU(I, H, gate_activation=tr.tanh), "gate_activation=tanh: torch.nn.GRUCell has none"),
    "before": (cells.GRU(I, H, flipped=True), 'GRU\'s reset="before": .* after the product with W_hn'),
    "a projected cell": (ours("projected"), "projection: torch.nn.LSTMCell has none; torch.nn.LSTM has, which tr.nn"),
    "residual": (nn.RNN(cells.Elman(H, H), residual=True), "residual=True: PyTorch's layers do not add"),
    "sum": (nn.RNN(ours("gru"), bidirectional=True, merge="sum"), 'merge="sum": PyTorch\'s layers put'),
    "sizes": (mixed(cells.Elman(I, H), cells.Elman(H, 2)), "hidden_size=2 in cells.1.0: .* one .* 5 in cells.0.0"),
    "some biases": (mixed(ours("tanh"), cells.Elman(H, H, bias=False)), "bias=False in cells.1.0: .* one for all"),
    "activations": (mixed(cells.Elman(I, H), cells.IRNN(H, H)), "IRNN's activation=relu in cells.1.0: .* here tanh"),
    "kinds": (mixed(ours("lstm"), cells.Elman(H, H)), "Elman in cells.1.0: all cells .* like the LSTM of cells.0.0"),
}  # fmt: skip


@pytest.mark.parametrize("case", CANNOT)
def test_what_pytorch_can_not_express_is_named_with_the_reason(torch, case):
    module, says = CANNOT[case]
    with pytest.raises(CannotExpressError, match=f"^PyTorch can not express this:\n(.*\n)*  .*{says}"):
        tr.interop.torch.to_torch(module)


def test_all_that_can_not_be_expressed_is_listed(torch):
    rnn = nn.RNN(cells.LSTM(I, H, peephole="full", coupled="output"), bidirectional=True, merge="sum")
    with pytest.raises(CannotExpressError) as raised:
        tr.interop.torch.to_torch(rnn)
    assert [re.split("=| in", line.strip())[0] for line in str(raised.value).splitlines()[1:]] == [
        "LSTM's peephole", "LSTM's coupled", "merge"
    ]  # fmt: skip


def foreign(torch):
    class Own(torch.nn.LSTM):
        def forward(self, xs):
            return super().forward(2 * xs)

    return {
        "linear": (torch.nn.Linear(2, 3), TypeError, "module must be a torch.nn.RNN, .* got torch.nn.*Linear"),
        "an own forward": (Own(2, 3), TypeError, "none of a subclass with a forward of its own, got .*Own"),
        "nothing": (None, TypeError, "got builtins.NoneType"),
        "half": (torch.nn.GRU(2, 3).half(), ValueError, "float32 or float64, but weight_ih_l0 is torch.float16"),
        "bfloat16": (torch.nn.LSTMCell(2, 3).bfloat16(), ValueError, "weight_ih is torch.bfloat16; module.float"),
    }


@pytest.mark.parametrize("case", ["linear", "an own forward", "nothing", "half", "bfloat16"])
def test_what_is_no_layer_of_theirs_is_named(torch, case):
    module, error, says = foreign(torch)[case]
    with pytest.raises(error, match=says):
        tr.interop.torch.load(module)


@pytest.mark.parametrize("given", [nn.Linear(2, 3), None])
def test_what_is_no_layer_of_ours_is_named(given):
    with pytest.raises(TypeError, match=f"^rnn must be a tr.nn.RNN or a cell, got {type(given).__name__}"):
        tr.interop.torch.to_torch(given)


# -- without PyTorch ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [tr.interop.torch.load, tr.interop.torch.to_torch])
def test_a_missing_pytorch_is_named_with_the_extra(monkeypatch, call):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs PyTorch: pip install 'tinyrnn\[torch\]'"):
        call(ours("gru"))


def test_pytorch_is_imported_only_when_needed():
    code = "import tinyrnn as tr, sys; tr.interop.torch; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_example_runs(torch):
    names = {}
    example = re.search(r"\n\n((    .*|)\n)+", tr.interop.torch.__doc__)[0]
    exec(textwrap.dedent(example), names)
    assert isinstance(names["again"], torch.nn.LSTM)
    expected = names["theirs"](names["xs"])[0].detach().numpy()
    np.testing.assert_allclose(names["ys"].numpy(), expected, rtol=0, atol=1e-6)
