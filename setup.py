"""Builds the compiled core, `tinyrnn._core`, from the top-level folder `_core/`.

pyproject.toml holds the metadata; this file holds what it cannot say: the two Cython modules, and that `isa.cpp`
is compiled once for every instruction set of the target, each time with its own flags, and linked into the one
module that owns the kernel tables (`_core.kernels`). Which of them runs is decided when the package is imported.
"""

import os
import platform
import sys

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

COMMON = [
    "-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden",
    # One rounding per written operation: fused multiply-adds are asked for by name in pointwise.h, so that a
    # vector body, its remainder and the scalar code give the same bits.
    "-ffp-contract=off", "-fopenmp-simd",
]  # fmt: skip
X86 = {
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
}
INSTRUCTION_SETS = {"baseline": []}
# `ARCHFLAGS` is how macOS asks for a cross or universal build, where the host's processor says nothing.
TARGET = os.environ.get("ARCHFLAGS") or platform.machine()
if "arm64" not in TARGET and any(name in TARGET for name in ("x86_64", "AMD64")):
    INSTRUCTION_SETS.update(X86)

HEADERS = sorted(f"_core/{name}" for name in os.listdir("_core") if name.endswith(".h"))


class BuildCore(build_ext):
    """build_ext that compiles `_core/isa.cpp` once an instruction set."""

    def build_extension(self, ext):
        if ext.name.endswith(".kernels"):
            ext.extra_objects = [self._compile(name, flags) for name, flags in INSTRUCTION_SETS.items()]
        super().build_extension(ext)

    def _compile(self, name, flags):
        folder = os.path.join(self.build_temp, name)
        target = os.path.join(folder, "_core", "isa.o")
        sources = ["_core/isa.cpp", "setup.py", *HEADERS]
        if not self.force and os.path.exists(target):
            if os.path.getmtime(target) > max(map(os.path.getmtime, sources)):
                return target
        [compiled] = self.compiler.compile(
            ["_core/isa.cpp"],
            output_dir=folder,
            include_dirs=["_core"],
            macros=[("TR_ISA", name)],
            extra_postargs=COMMON + flags,
            depends=HEADERS,
        )
        return compiled


def module(name):
    return Extension(
        f"tinyrnn._core.{name}",
        [f"_core/{name}.pyx"],
        language="c++",
        include_dirs=["_core", numpy.get_include()],
        define_macros=[
            ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"),
            ("NPY_TARGET_VERSION", "NPY_2_0_API_VERSION"),
            *((f"TR_HAVE_{isa.upper()}", "1") for isa in INSTRUCTION_SETS),
        ],
        extra_compile_args=[*COMMON, "-Wno-unused-function"],
        extra_link_args=[] if sys.platform == "darwin" else ["-Wl,--as-needed"],
        depends=[*HEADERS, "_core/isa.cpp"],
    )


setup(
    ext_modules=cythonize(
        [module("kernels"), module("tape")],
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
            "embedsignature": True,
        },
    ),
    cmdclass={"build_ext": BuildCore},
)
