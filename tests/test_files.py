"""Checkpoints: the same bits back, all or nothing in both directions, and no code run."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import tinyrnn as tr
from tinyrnn import files


class Net(tr.Module):
    """Parameters of both dtypes, a cell and dropout with a generator that they share, one that they do not."""

    def __init__(self, seed=0, hidden=4):
        super().__init__()
        rng = np.random.default_rng(seed)
        self.cell = tr.cells.LSTM(3, hidden, rng=rng)
        self.dropout = tr.nn.Dropout(0.5, rng=rng)
        self.scale = tr.Parameter(np.array(2.0))
        self.other = np.random.Generator(np.random.MT19937(seed))

    def forward(self, xs):
        ys, _ = tr.unroll(self.cell, self.dropout(tr.tensor(xs)))
        return tr.mean(tr.square(ys)) * float(self.other.random()) + tr.astype(tr.square(self.scale), "float32")


XS = np.random.default_rng(5).normal(size=(3, 2, 3)).astype(np.float32)


def make(seed=0, hidden=4):
    net = Net(seed, hidden)
    return net, tr.optim.Adam(net.parameters(), lr=0.01)


def advance(net, optimiser, steps):
    for _ in range(steps):
        optimiser.zero_grad()
        net(XS).backward()
        optimiser.step()


def everything(net, optimiser):
    """All the bits that decide what a run does next."""
    numbers = {name: np.asarray(v).tobytes() for name, v in {**net.state_dict(), **optimiser.state_dict()}.items()}
    states = [json.dumps(g.bit_generator.state, default=np.ndarray.tolist) for g in (net.cell.rng, net.other)]
    return numbers, states


@pytest.fixture
def saved(tmp_path):
    net, optimiser = make()
    advance(net, optimiser, 3)
    path = tmp_path / "a.safetensors"
    files.save(path, net, optimiser, extra={"carry": np.arange(3.0)}, meta={"epoch": 3, "loss": 0.1 + 0.2})
    return path


def test_a_restored_run_goes_on_to_the_same_bits(saved):
    wanted = make()
    advance(*wanted, 3 + 4)
    got = make(seed=1)
    advance(*got, 1)
    checkpoint = files.load(saved)
    checkpoint.restore(*got)
    advance(*got, 4)
    assert everything(*got) == everything(*wanted)
    assert checkpoint.meta == {"epoch": 3, "loss": 0.1 + 0.2}
    assert checkpoint.extra["carry"].tolist() == [0, 1, 2]


def test_generators_outside_the_model_are_saved_by_name(tmp_path):
    net, _ = make()
    rng = np.random.default_rng(7)
    rng.random(5)
    files.save(tmp_path / "a", net, rngs={"order": rng})
    wanted = rng.random(3)
    again = np.random.default_rng(0)
    files.load(tmp_path / "a").restore(net, rngs={"order": again})
    assert (again.random(3) == wanted).all()
    with pytest.raises(files.CheckpointError, match="unexpected generator: order"):
        files.load(tmp_path / "a").restore(net)
    with pytest.raises(TypeError, match=r"rngs\['order'\] must be a numpy.random.Generator, got int"):
        files.save(tmp_path / "a", net, rngs={"order": 3})


def test_arrays_of_any_layout_keep_their_bits(tmp_path):
    net, _ = make()
    odd = {
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "strided": np.arange(10)[::-3],
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.float64(0.1),
        "nan": np.array([np.nan, -0.0, np.inf]),
        "bool": np.array([True, False]),
    }
    files.save(tmp_path / "a", net, extra=odd, meta={"nan": float("nan"), "n": np.int64(3), "x": np.float32(0.5)})
    got = files.load(tmp_path / "a")
    for name, array in odd.items():
        assert got.extra[name].dtype == np.asarray(array).dtype
        assert got.extra[name].shape == np.shape(array)
        assert got.extra[name].tobytes() == np.asarray(array).tobytes()
    assert np.isnan(got.meta["nan"])
    assert got.meta["n"] == 3
    with pytest.raises(TypeError, match="meta must hold what JSON can hold, got a set"):
        files.save(tmp_path / "a", net, meta={"bad": {1}})
    assert "fortran" in files.load(tmp_path / "a").extra, "the old file stays"


# -- files that are none -----------------------------------------------------------------------------------------------


def test_every_truncation_is_found_and_changes_nothing(saved):
    whole = saved.read_bytes()
    target = make(seed=1)
    before = everything(*target)
    for size in [*range(0, 200), *range(200, len(whole), 97), len(whole) - 1]:
        saved.write_bytes(whole[:size])
        with pytest.raises(files.CheckpointError, match=r"a\.safetensors is cut short, damaged or no safetensors file"):
            files.load(saved).restore(*target)
    saved.write_bytes(whole + b"x")
    with pytest.raises(files.CheckpointError, match="cut short, damaged"):
        files.load(saved)
    assert everything(*target) == before


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


def foreign(path, kind):
    array = {"x": np.zeros(2)}
    content = {"format": files.FORMAT, "version": str(files.FORMATS[files.FORMAT]), "content": "{}"}
    if kind == "text":
        path.write_text("hello, this is no checkpoint at all")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    elif kind == "plain safetensors":
        path.write_bytes(safetensors.numpy.save(array))
    elif kind == "another's safetensors":
        path.write_bytes(safetensors.numpy.save(array, {"format": "pt"}))
    elif kind == "a newer version":
        path.write_bytes(safetensors.numpy.save(array, content | {"version": "99"}))
    elif kind == "no content":
        path.write_bytes(safetensors.numpy.save({"model/x": np.zeros(2)}, content))
    elif kind == "content of code":
        path.write_bytes(safetensors.numpy.save({}, content | {"content": "__import__('os').mkdir('exploded')"}))
    elif kind == "an unknown group":
        good = json.dumps({"meta": {}, "rngs": {}, "optimiser": None})
        path.write_bytes(safetensors.numpy.save({"who/x": np.zeros(2)}, content | {"content": good}))


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("text", "no safetensors file"),
        ("pickle", "no safetensors file"),
        ("plain safetensors", "is a safetensors file, but no checkpoint of tinyrnn"),
        ("another's safetensors", "is a safetensors file, but no checkpoint of tinyrnn"),
        ("a newer version", "is a checkpoint of version 99; this tinyrnn reads version 1"),
        ("no content", "is a damaged checkpoint"),
        ("content of code", "is a damaged checkpoint"),
        ("an unknown group", "is a damaged checkpoint"),
    ],
)
def test_a_foreign_file_is_named_with_what_it_is_and_runs_nothing(tmp_path, monkeypatch, kind, says):
    monkeypatch.chdir(tmp_path)
    foreign(Path("b.safetensors"), kind)
    with pytest.raises(files.CheckpointError, match=f"^b.safetensors.*{says}"):
        files.load("b.safetensors")
    assert not Path("exploded").exists()


def test_no_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        files.load(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        files.load(tmp_path)


def test_a_changed_bit_is_found_and_a_file_without_a_checksum_is_read(saved):
    whole = saved.read_bytes()
    saved.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(files.CheckpointError, match=r"is a damaged checkpoint: .*checksum is not that of its content"):
        files.load(saved)
    saved.write_bytes(whole)
    with safetensors.safe_open(saved, framework="numpy") as file:
        header = {name: text for name, text in file.metadata().items() if name != "crc32"}
    saved.write_bytes(safetensors.numpy.save(safetensors.numpy.load_file(saved), header))
    assert files.load(saved).meta["epoch"] == 3


# -- what does not fit -------------------------------------------------------------------------------------------------


def damaged_state(checkpoint, where):
    if where == "optimiser":
        checkpoint.optimiser.pop("lr")
    elif where == "model":
        checkpoint.model["cell.b_i"] = checkpoint.model["cell.b_i"].astype(np.float64)
    elif where == "generator":
        checkpoint.rngs["model.other"]["bit_generator"] = "PCG64"
    elif where == "generator's state":
        checkpoint.rngs["model.other"]["state"]["key"] = [1, 2]
    elif where == "no generator":
        checkpoint.rngs.clear()


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("optimiser", "missing: lr"),
        ("model", "dtype of cell.b_i"),
        ("generator", "generator model.other"),
        ("generator's state", "generator model.other"),
        ("no generator", "missing generator: model.other; missing generator: model.cell.rng"),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(saved, where, says):
    target = make(seed=1)
    advance(*target, 1)
    before = everything(*target)
    checkpoint = files.load(saved)
    damaged_state(checkpoint, where)
    with pytest.raises(files.CheckpointError, match=f"a.safetensors does not fit(.|\n)*{says}"):
        checkpoint.restore(*target)
    assert everything(*target) == before


def test_another_model_and_a_missing_optimiser_are_named(saved, tmp_path):
    with pytest.raises(files.CheckpointError, match=r"shape of cell.W_xi: got \(3, 4\), needs \(3, 7\)"):
        files.load(saved).restore(*make(hidden=7))
    net, optimiser = make()
    files.save(tmp_path / "b", net)
    with pytest.raises(files.CheckpointError, match="b holds no optimiser state"):
        files.load(tmp_path / "b").restore(net, optimiser)
    files.load(saved).restore(net)  # an optimiser's state may be left aside


# -- writing -----------------------------------------------------------------------------------------------------------


def test_a_write_that_fails_leaves_the_old_file_alone(saved, monkeypatch):
    before = saved.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.save(saved, make(seed=2)[0])
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_file_then_name_then_folder_reach_the_disk_in_that_order(tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, Path.replace

    def see_fsync(descriptor):
        events.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def see_replace(path, target):
        assert path.parent == target.parent
        assert path.read_bytes() == b"new"
        events.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", see_fsync)
    monkeypatch.setattr(Path, "replace", see_replace)
    files.write(tmp_path / "a", b"new")
    if os.path.isdir("/proc/self/fd"):
        assert events == ["file", "rename", "folder"]
    assert (tmp_path / "a").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


def test_the_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    files.write(tmp_path / "a", b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode
