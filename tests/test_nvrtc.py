"""What CuPy tells without a GPU: every scalar function and every time loop compiles for the devices that are meant, and
the stand-in for CuPy (tests/hostcuda) has no name that CuPy lacks."""

import functools
import importlib.util
from importlib.resources import files

import numpy as np
import pytest
from hostcuda import stand_in
from loop_cases import calls_of, piece
from nvrtc import compile_with_nvrtc
from scan_cases import RAGGED, WIDTHS, case, cell_of

from tinyrnn._core import kernels
from tinyrnn.backend.cuda.looptext import pack_text
from tinyrnn.backend.cuda.text import whole
from tinyrnn.search import RandomCell, random_description

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


# -- the time loop: without and with recorded states, and its reverse --------------------------------------------------

ARCHS = ["sm_80", "sm_90"]
NUMBERS = [("float", "float"), ("double", "double"), ("float", "tf32"), ("float", "bf16")]
RESIDENT, STREAMING = (2, 4, 16, 256, 256, True), (3, 2, 4, 32, 128, False)  # blocks, rows, chunk, depth, threads
TILINGS = {"sm_80": (RESIDENT, STREAMING), "sm_90": (RESIDENT, STREAMING, (2, 4, 16, 256, 256, True, True))}


def compile_loops(texts, arch):
    source, names = piece(texts)
    cubin = compile_with_nvrtc(whole(source), arch, "loops.cu")
    assert cubin.startswith(b"\x7fELF")
    for name in names.values():
        assert name.encode() in cubin


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("real", "storage"), NUMBERS)
@pytest.mark.parametrize(("name", "lengths"), [("LSTM", None), ("GRU", RAGGED)], ids=["LSTM", "GRU-ragged"])
def test_loops_compile(name, lengths, real, storage, arch):
    cell = cell_of(name)
    calls = calls_of(cell, case(cell, lengths=lengths))
    compile_loops([c.text(tiling, storage, real) for c in calls for tiling in TILINGS[arch]], arch)


def compile_in_turns(calls, number):
    """With one kind of number and for one device, the next ones by the next number."""
    (real, storage), arch = NUMBERS[number % 4], ARCHS[number // 4 % 2]
    tilings = TILINGS[arch]
    texts = [c.text(tilings[(number + k) % len(tilings)], storage, real) for k, c in enumerate(calls)]
    compile_loops(texts, arch)


@pytest.mark.parametrize("name", WIDTHS)
def test_the_loop_of_every_cell_compiles(name):
    cell, number = cell_of(name), list(WIDTHS).index(name)
    task = case(cell, WIDTHS[name], lengths=[None, RAGGED][number % 3 == 0], reverse=number % 5 == 0)
    compile_in_turns(calls_of(cell, task)[number % 2 :], number)


@pytest.mark.parametrize("seed", range(16))
def test_the_loop_of_a_random_cell_compiles(seed):
    rng = np.random.default_rng(100 + seed)
    description = random_description(rng, inputs=1 + seed % 2, ops=(8, 20))
    cell = RandomCell(description, 3, [1, 3, 5, 9][seed // 2 % 4], rng=rng)
    compile_in_turns(calls_of(cell, case(cell, (3,) * description.inputs)), seed)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("real", "storage"), NUMBERS)
def test_packing_compiles(real, storage, arch):
    assert b"pack" in compile_with_nvrtc(whole(pack_text(real, storage)), arch, "pack.cu")


# -- the stand-in ------------------------------------------------------------------------------------------------------


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
