"""Files of modules that are damaged, made up, or do not fit: no code is run, and one error lists all that is wrong."""

import functools
import json
import sys

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from save_cases import Both, H, I, Leaky, everything, swish

import tinyrnn as tr
from tinyrnn import cells, files, nn
from tinyrnn.files import container
from tinyrnn.files.modules import FORMAT

MODEL = nn.Acceptor(nn.RNN(cells.Zoneout(cells.LSTM(2, 3, rng=0), {"h": 0.1}), 2, rng=0), 2, rng=0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "a.safetensors"
    tr.save(path, MODEL)
    return path.read_bytes()


@given(data=st.data())
def test_a_file_cut_short_or_longer_is_named(whole, tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "cut.safetensors"
    size = data.draw(st.integers(0, len(whole) - 1))
    for content in (whole[:size], whole + whole[: size + 1]):
        path.write_bytes(content)
        with pytest.raises(
            files.CheckpointError, match=r"cut\.safetensors is cut short, damaged or no safetensors file"
        ):
            tr.load(path)


@given(data=st.data())
def test_a_damaged_byte_is_found_or_meant_nothing(whole, tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    damaged = bytearray(whole)
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=3)):
        damaged[at] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    try:
        module = tr.load(path)
    except files.CheckpointError:
        pass
    else:  # the same byte, a space of the header's padding, or the checksum's name: without one nothing is checked
        assert everything(module) == everything(MODEL) or b'"crc32"' not in damaged


def test_a_changed_weight_is_found(whole, tmp_path):
    (tmp_path / "a").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(
        files.CheckpointError, match=r"a is a damaged module: .*its checksum is not that of its content"
    ):
        tr.load(tmp_path / "a")


def test_a_checkpoint_and_a_module_are_told_apart(tmp_path):
    tr.save(tmp_path / "module", MODEL)
    files.save(tmp_path / "checkpoint", MODEL)
    with pytest.raises(files.CheckpointError, match=r"but no module of tinyrnn; it is a tinyrnn checkpoint$"):
        tr.load(tmp_path / "checkpoint")
    with pytest.raises(files.CheckpointError, match=r"but no checkpoint of tinyrnn; it is a tinyrnn module$"):
        files.load(tmp_path / "module")
    with pytest.raises(FileNotFoundError, match="none"):
        tr.load(tmp_path / "none")


def linear(**changes):
    return {"class": "tinyrnn.nn.Linear", "arguments": {"in_features": 2, "out_features": 3} | changes}


def rnn_of(cell):
    return {"class": "tinyrnn.nn.RNN", "arguments": {"cell": cell}}


DEEP = functools.reduce(lambda inner, _: [inner], range(400), 0)
MADE_UP = {
    "no tree": ({}, "holds no module but None"),
    "a number": ({"module": 3}, "holds no module but 3"),
    "a function alone": ({"module": {"function": "tinyrnn.tanh"}}, "holds no module but <op tanh>"),
    "code": ({"module": {"class": "os.system", "arguments": {}}}, "module: unknown class 'os.system'"),
    "eval": ({"module": {"function": "eval"}}, "module: unknown function 'eval'; pass it"),
    "another module": ({"module": {"class": "antigravity.Cell", "arguments": {}}}, "unknown class 'antigravity.Cell'"),
    "a way in": ({"module": {"function": "tinyrnn.nn.np.save"}}, "unknown function 'tinyrnn.nn.np.save'$"),
    "a base class": ({"module": {"class": "tinyrnn.module.Module", "arguments": {}}}, "unknown class 'tinyrnn.module"),
    "a function as class": ({"module": {"class": "tinyrnn.tanh", "arguments": {}}}, "'tinyrnn.tanh' is no class"),
    "a class as function": (
        {"module": {"function": "tinyrnn.nn.Linear"}},
        "module: 'tinyrnn.nn.Linear' is no function",
    ),
    "no arguments": ({"module": {"class": "tinyrnn.nn.Linear"}}, "module is damaged: {'class': 'tinyrnn.nn.Linear'}"),
    "a missing argument": ({"module": rnn_of(None) | {"arguments": {}}}, "RNN can not be made .* missing"),
    "an unknown argument": ({"module": linear(colour=3)}, "Linear can not be made of its arguments: .* 'colour'"),
    "another rng": ({"module": linear(rng=3)}, "Linear can not be made of its arguments: .* 'rng'"),
    "a size of words": ({"module": linear(in_features="2")}, "in_features must be a positive int, got '2'"),
    "too large": ({"module": linear(in_features=10**12)}, "Linear can not be made of its arguments"),
    "far too large": ({"module": linear(in_features=10**30)}, "Linear can not be made of its arguments"),
    "a dtype": ({"module": linear(dtype={"dtype": "object of desire"})}, "module.dtype is damaged"),
    "a number's dtype": ({"module": linear(dtype={"dtype": "int64"})}, "Linear can not be made .*float32 or float64"),
    "an unknown form": ({"module": linear(bias={"eval": "1"})}, "module.bias is damaged: {'eval': '1'}"),
    "a reference": ({"module": rnn_of({"again": 0})}, "module.cell is damaged"),
    "a dict": ({"module": linear(bias={"dict": [[[], 1]]})}, "module.bias is damaged"),
    "a partial": ({"module": linear(bias={"partial": "tinyrnn.init.zeros", "given": 3})}, "module.bias is damaged"),
    "a cell of words": (
        {"module": rnn_of("eval('1')")},
        "RNN can not be made of its arguments: cell must be a tr.Cell",
    ),
    "layers of words": ({"module": rnn_of(["eval"])}, "RNN can not be made .* cell must be a list of layers"),
    "no layers": ({"module": rnn_of([])}, "RNN can not be made .* cell must hold layers of 1 cell"),
    "too deep": ({"module": linear(bias=DEEP)}, "can not be loaded|does not fit|nested too deep"),
}


@pytest.mark.parametrize("case", MADE_UP)
def test_a_made_up_file_is_refused_and_runs_nothing(tmp_path, case):
    content, says = MADE_UP[case]
    container.pack(tmp_path / "a.safetensors", FORMAT, content, {})
    with pytest.raises(files.CheckpointError, match=f"a.safetensors(.|\n)*{says}"):
        tr.load(tmp_path / "a.safetensors", [Leaky])
    assert "antigravity" not in sys.modules


def test_a_text_that_is_no_object_is_refused(tmp_path):
    for text, says in (("[1]", "no JSON object but list"), ("{", "JSONDecodeError"), ("[" * 100_000, "Error")):
        header = {"format": FORMAT, "version": "1", "content": text}
        (tmp_path / "a").write_bytes(safetensors.numpy.save({}, header))
        with pytest.raises(files.CheckpointError, match=f"is a damaged module: .*{says}"):
            tr.load(tmp_path / "a")


# -- all that is wrong, at once ----------------------------------------------------------------------------------------


def test_all_unknown_classes_and_misfits_are_listed(tmp_path):
    tree = Both([Leaky(I, H), cells.Elman(I, H, activation=swish), nn.Linear(2, 3)])
    tr.save(tmp_path / "a", tree)
    place, content, arrays = container.unpack(tmp_path / "a", FORMAT)
    content["module"]["arguments"]["parts"][2]["arguments"]["in_features"] = 0
    container.pack(place, FORMAT, content, arrays)
    with pytest.raises(files.CheckpointError) as raised:
        tr.load(place)
    said = str(raised.value).splitlines()
    assert said[0].endswith("a can not be loaded:")
    assert [line.strip().partition(":")[0] for line in said[1:]] == [
        "module", "module.parts[0]", "module.parts[1].activation", "module.parts[2]"
    ]  # fmt: skip


def test_all_shapes_names_and_dtypes_that_differ_are_listed(tmp_path):
    tr.save(tmp_path / "a", nn.Transducer(nn.RNN(cells.Elman(2, 3)), 4))
    place, content, arrays = container.unpack(tmp_path / "a", FORMAT)
    arrays["readout.W"] = arrays["readout.W"].T
    arrays["readout.b"] = arrays["readout.b"].astype(np.float16)
    arrays["rnn.cells.0.0.V"] = arrays.pop("rnn.cells.0.0.W_h")
    container.pack(place, FORMAT, content, arrays)
    with pytest.raises(files.CheckpointError) as raised:
        tr.load(place)
    said = str(raised.value)
    assert said.startswith(f"{place} does not fit: ")
    for line in (
        "missing: rnn.cells.0.0.W_h (3, 3) float32",
        "unexpected: rnn.cells.0.0.V (3, 3) float32",
        "shape of readout.W: got (4, 3), needs (3, 4)",
        "dtype of readout.b: got float16, needs float32",
    ):
        assert f"\n  {line}" in said


def test_an_array_that_numpy_can_not_hold_is_named(tmp_path):
    header = {
        "__metadata__": {"format": FORMAT, "version": "1", "content": json.dumps({"module": linear()})},
        "W": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
    }
    text = json.dumps(header).encode()
    (tmp_path / "a").write_bytes(len(text).to_bytes(8, "little") + text + bytes(12))
    with pytest.raises(files.CheckpointError, match=r"a holds an array that NumPy can not hold: .*bfloat16"):
        tr.load(tmp_path / "a")
