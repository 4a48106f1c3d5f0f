"""What CuPy tells without a GPU: every scalar function compiles for the devices that are meant, and the stand-in for
CuPy (tests/hostcuda) has no name that CuPy lacks."""

import functools
import importlib.util
from importlib.resources import files

import pytest
from hostcuda import stand_in
from nvrtc import compile_with_nvrtc

from tinyrnn._core import kernels

pytestmark = [
    pytest.mark.nvrtc,
    pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="needs cupy: pip install 'tinyrnn[nvrtc]'"),
]

POINTWISE = (files("tinyrnn._core") / "pointwise.h").read_text()


def every_op(T):
    """A text whose kernel `every_op` applies every op to arrays of the type T."""
    calls = "".join(
        f"    y[{place}] = tr::device::op::{name}::f({', '.join(f'x[{i}]' for i in range(arity))});\n"
        for name, (place, arity) in kernels.POINTWISE.items()
    )
    return f'{POINTWISE}\nextern "C" __global__ void every_op(const {T} *x, {T} *y) {{\n{calls}}}\n'


@pytest.mark.parametrize("T", ["float", "double"])
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_every_op_compiles(T, arch):
    assert compile_with_nvrtc(every_op(T), arch, "every_op.cu").startswith(b"\x7fELF")
    ptx = compile_with_nvrtc(every_op(T), arch.replace("sm", "compute"), "every_op.cu")
    assert b".visible .entry every_op" in ptx
    assert ptx.count(b"st.global") == len(kernels.POINTWISE)


def test_errors_name_the_text():
    from cupy.cuda.compiler import CompileException

    with pytest.raises(CompileException, match=r"wrong\.cu\(2\): error"):
        compile_with_nvrtc('\nextern "C" __global__ void f() { nothing_like_it(); }', "sm_80", "wrong.cu")


def public(thing):
    return {name for name in dir(thing) if not name.startswith("_")}


def test_cupy_has_what_the_stand_in_has():
    with stand_in() as module:
        names = {"": set(module.__all__) - {"cuda"}, "cuda": set(module.cuda.__all__)}
        for path in ("ndarray", "RawModule", "RawKernel", "cuda.Device", "cuda.Stream", "cuda.Graph", "cuda.Event"):
            names[path] = public(functools.reduce(getattr, path.split("."), module))
        names["RawModule"] -= {"code", "options", "enable_cooperative_groups"}
        names["cuda.runtime"] = {n for n in public(module.cuda.runtime) if n.startswith(("get", "device", "cuda"))}
        names["cuda.driver"] = {"CUDADriverError", "occupancyMaxActiveBlocksPerMultiprocessor"}
        names["cuda.compiler"] = {"CompileException"}
    import cupy as real

    assert real.__file__ != module.__file__
    for path, expected in names.items():
        thing = functools.reduce(getattr, path.split("."), real) if path else real
        assert expected <= set(dir(thing)), path
