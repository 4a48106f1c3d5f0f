"""Builds the compiled core, `tinyrnn._core`, from the top-level folder `_core/`.

pyproject.toml holds the metadata; this file holds what it cannot say: the two Cython modules; that `isa.cpp` is
compiled once for every instruction set of the target, each time with its own flags, and linked into the one module
that owns the kernel tables (`_core.kernels`), where the one that runs is chosen on import; and what a source
distribution holds. Everything generated goes to the build folder.
"""

import os
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from glob import glob

import numpy
from Cython.Build import cythonize
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist
from setuptools.modified import newer_group

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
# The platform that is built for, which is not always the host's. macOS's universal2 gets the baseline alone.
if sysconfig.get_platform().endswith(("x86_64", "amd64")):
    INSTRUCTION_SETS.update(X86)
if sys.platform == "darwin":
    os.environ.setdefault("MACOSX_DEPLOYMENT_TARGET", "11.0")  # std::aligned_alloc came with 10.15

HEADERS = sorted(glob("_core/*.h"))
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "embedsignature": True,
}


class BuildCore(build_ext):
    """build_ext that compiles `_core/isa.cpp` once an instruction set, and the two modules beside each other.

    An object older than any source or header it may depend on is compiled again.
    """

    def build_extensions(self):
        kernels, tape = self.extensions
        # Cython is not thread-safe, so it runs first.
        made = cythonize(self.extensions, build_dir=self.build_temp, compiler_directives=DIRECTIVES, force=self.force)
        for extension, translated in zip(self.extensions, made, strict=True):
            extension.sources = translated.sources
            extension.extra_compile_args = [*self._flags(), "-pthread", "-Wno-unused-function"]
        with ThreadPoolExecutor() as pool:
            compiled_tape = pool.submit(self.build_extension, tape)
            kernels.extra_objects = list(pool.map(self._compile, INSTRUCTION_SETS))
            self.build_extension(kernels)
            compiled_tape.result()

    def _flags(self):
        # Python's own flags may ask for debugging information, which doubles the time and the size of a build.
        return [*COMMON, "-g" if self.debug else "-g0"]

    def _compile(self, name):
        folder = os.path.join(self.build_temp, name)
        target = os.path.join(folder, "_core", "isa.o")
        if not self.force and not newer_group(["_core/isa.cpp", "setup.py", *HEADERS], target):
            return target
        [compiled] = self.compiler.compile(
            ["_core/isa.cpp"],
            output_dir=folder,
            include_dirs=["_core"],
            macros=[("TR_ISA", name)],
            extra_postargs=self._flags() + INSTRUCTION_SETS[name],
            depends=HEADERS,
        )
        return compiled

    def get_source_files(self):
        return [*glob("_core/*.pyx"), "_core/isa.cpp", *HEADERS]


class BuildPython(build_py):
    """build_py that takes modules deleted since the last build out of the build folder, and so out of wheels."""

    def run(self):
        if not self.editable_mode:
            for path in glob(os.path.join(self.build_lib, "tinyrnn", "**", "*.py*"), recursive=True):
                os.remove(path)
        super().run()


class SourceDistribution(sdist):
    """sdist that also holds tests, benchmarks, documents and pictures, so that it can be tested and changed."""

    def make_distribution(self):
        self.filelist.extend(["CHANGELOG.md", "CONTRIBUTING.md", ".ci/run", ".ci/sdist"])
        for folder in ("tests", "bench", "docs"):
            self.filelist.extend(glob(os.path.join(folder, "**", "*.*"), recursive=True))
        self.filelist.exclude_pattern(r"(^|/)__pycache__/", is_regex=True)
        self.filelist.sort()
        self.filelist.remove_duplicates()
        super().make_distribution()


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
        extra_link_args=[] if sys.platform == "darwin" else ["-pthread", "-Wl,--as-needed"],
        depends=["setup.py", "_core/isa.cpp", *HEADERS],
    )


setup(
    packages=["tinyrnn._core", *find_packages(include=["tinyrnn", "tinyrnn.*"])],
    package_dir={"tinyrnn": "tinyrnn", "tinyrnn._core": "_core"},
    ext_modules=[module("kernels"), module("tape")],
    cmdclass={"build_ext": BuildCore, "build_py": BuildPython, "sdist": SourceDistribution},
)
