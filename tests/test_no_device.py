"""What holds of device="cuda" on every machine: CuPy is not imported unasked, and what is missing is named."""

import subprocess
import sys
from pathlib import Path

import pytest

import tinyrnn as tr
from tinyrnn._core.kernels import POINTWISE
from tinyrnn.backend.cuda import elementwise, reduce, scatter, text, updates

SOURCES = {
    "float": elementwise.float_source,
    "double": elementwise.double_source,
    "reduce": reduce.source,
    "scatter": scatter.source,
    "updates": updates.source,
}
STANDIN = Path(__file__).parent / "hostcuda"


def python(code, **environment):
    """Run `code` in a fresh interpreter: what it prints, errors included."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment or None)
    return done.stdout + done.stderr


NOTHING_FOUND = """
import sys
sys.modules["cupy"] = None
import tinyrnn as tr
"""


def error_of(code, **environment):
    return python(f"{NOTHING_FOUND}\n{code}", **environment).splitlines()[-1]


def test_nothing_imports_cupy_unasked():
    code = """
import sys
import tinyrnn as tr
cell = tr.cells.LSTM(3, 4, rng=0)
tr.scan(cell, tr.tensor([[[1.0, 2.0, 3.0]]]))[0].sum().backward()
tr.optim.Adam(cell.parameters()).step()
cell.to("cpu"), tr.from_dlpack(cell.W_xi.data), tr.tensor([1.0], device="cpu")
import tinyrnn.backend.cuda.updates, tinyrnn.backend.cuda.arrays
assert "cupy" not in sys.modules
print("fine")
"""
    assert python(code).strip() == "fine"


@pytest.mark.parametrize(
    "call",
    ['tr.tensor([1.0], device="cuda")', 'tr.tensor([1.0]).to("cuda")', 'tr.nn.Linear(2, 3).to("cuda")'],
)
def test_without_cupy_the_error_says_how_to_install_it(call):
    error = error_of(call)
    assert error.startswith("ImportError: device 'cuda' needs CuPy: pip install 'tinyrnn[cuda13]'")
    assert "tinyrnn[cuda12]" in error


def test_without_a_gpu_the_error_says_what_is_missing():
    code = f'import sys; sys.path.insert(0, {str(STANDIN)!r}); import tinyrnn as tr; tr.tensor([1.0], device="cuda")'
    error = python(code, TR_SHIM_NO_DEVICE="1", PYTHONPATH=str(Path(tr.__file__).parents[1])).splitlines()[-1]
    assert error.startswith("RuntimeError: device 'cuda' needs an NVIDIA driver and a GPU, and CuPy ")


def test_a_device_that_is_missing_moves_nothing(monkeypatch):
    monkeypatch.setattr(tr.module, "check_device", lambda device: (_ for _ in ()).throw(RuntimeError("no GPU")))
    layer = tr.nn.Linear(2, 3, rng=0)
    with pytest.raises(RuntimeError):
        layer.to("cuda")
    assert layer.device == "cpu"


@pytest.mark.parametrize("device", ["gpu", "cuda:1", "", 0, ["cpu"]])
def test_other_devices_are_refused(device):
    with pytest.raises(ValueError, match="device must be 'cpu' or 'cuda', got "):
        tr.tensor([1.0], device=device)


def test_the_device_of_what_has_none():
    assert tr.nn.Dropout(0.5, rng=0).device == "cpu"
    assert tr.nn.Linear(2, 3).to("cpu").device == tr.tensor([1.0]).device == "cpu"
    x = tr.tensor([1.0, 2.0])
    assert x.to("cpu") is x


@pytest.mark.parametrize("name", SOURCES)
def test_device_text_includes_nothing_and_has_one_kernel_a_name(name):
    source, headers = SOURCES[name]()
    whole = text.whole(source, headers)
    assert "#include" not in whole
    kernels = [line.split("void ")[1].split("(")[0] for line in whole.splitlines() if 'extern "C" __global__' in line]
    assert kernels
    assert len(set(kernels)) == len(kernels)


def test_every_elementwise_op_has_its_kernels():
    for name in POINTWISE:
        for real in ("float", "double"):
            source, _ = SOURCES[real]()
            assert f"void {name}_{real}(" in source
            assert f"void {name}_{real}_strided(" in source


def test_the_size_of_a_reduction_does_not_depend_on_the_rows_beside_it():
    """What a thread adds depends on the length and on the width of a row alone."""
    for n, inner in ((10, 1), (1000, 1), (70_000, 3), (5, 300)):
        assert len({reduce.tiling(outer, n, inner)[1:] for outer in (1, 7, 1000)}) == 1
