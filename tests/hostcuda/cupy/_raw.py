"""Kernels: CUDA C++ text, compiled by the host's compiler with cuda_host.h."""

import ctypes
import functools
import hashlib
import math
import os
import re
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from cupy import cuda
from cupy._array import ndarray
from cupy.cuda import driver, runtime
from cupy.cuda.compiler import CompileException
from cupy.cuda.driver import CUDADriverError

HEADERS = [Path(__file__).parents[1] / name for name in ("cuda_host.h", "fibers.h")]
FLAGS = ["-std=c++17", "-O1", "-ffp-contract=off", "-w", "-D__CUDACC__", "-DTR_HOST_SHIM", "-shared", "-fPIC"]

CLUSTER = r"(?:__cluster_dims__\s*\([^()]*\)\s*)?"
BOUNDS = CLUSTER + r"(?:__launch_bounds__\s*\((?P<bounds{}>(?:[^()]|\([^()]*\))*)\)\s*)?"
KERNEL = re.compile(
    r'extern\s+"C"\s+__global__\s+' + BOUNDS.format(1) + r"void\s+" + BOUNDS.format(2) + r"(?P<name>\w+)\s*\("
)
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
PACKED = {"f4": "f", "f8": "d", "i4": "i", "u4": "I", "i8": "q", "u8": "Q"}  # a parameter's type: its struct code


def compiler():
    """The C++ compiler, or None."""
    return next(filter(None, map(shutil.which, [os.environ.get("CXX", ""), "g++", "clang++", "c++"])), None)


@functools.cache
def filling():
    """What fills variables that the text leaves unset, where the compiler can: g++ from 12 on, clang."""
    flag = "-ftrivial-auto-var-init=pattern"
    tried = subprocess.run([compiler(), flag, "-x", "c++", "-E", os.devnull], capture_output=True, check=False)
    return [flag] if tried.returncode == 0 else []


@functools.cache
def cache_folder():
    """Where compiled texts are kept, for this and for later sessions."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "tinyrnn-hostcuda"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="tinyrnn-hostcuda-"))


@functools.cache
def load(code, options):
    """The library that a text compiles to, and the names of its kernels."""
    bare = COMMENT.sub(" ", code)
    if re.search(r"^\s*#\s*include", bare, re.MULTILINE):
        raise CompileException("device text includes nothing: NVRTC has no headers", code, "", options)
    kernels = {found["name"]: found["bounds1"] or found["bounds2"] or "0" for found in KERNEL.finditer(bare)}
    tail = "".join(f"TR_SHIM_KERNEL({name}, {bounds})\n" for name, bounds in kernels.items())
    text = f'#line 1 "device text"\n{code}\n{tail}'
    defines = [option for option in options if option.startswith("-D")]
    command = [compiler(), *FLAGS, *filling(), *defines, "-include", str(HEADERS[0])]
    content = "\0".join([*command[:-1], *(header.read_text() for header in HEADERS), text])
    library = cache_folder() / f"{hashlib.sha256(content.encode()).hexdigest()}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            made = Path(folder, "made.so")
            done = subprocess.run(
                [*command, "-x", "c++", "-", "-o", made], input=text, text=True, capture_output=True, check=False
            )
            if done.returncode:
                raise CompileException(done.stderr, code, "", options)
            made.replace(library)
    return ctypes.PyDLL(str(library)), tuple(kernels)  # PyDLL: one launch at a time, whatever the Python threads


class RawModule:
    """A text with kernels. As in CuPy it is compiled when the first of them is wanted."""

    def __init__(self, *, code, options=(), backend="nvrtc", name_expressions=None, enable_cooperative_groups=False):
        if not isinstance(options, tuple):
            raise TypeError(f"Argument 'options' has incorrect type (expected tuple, got {type(options).__name__})")
        if backend != "nvrtc" or name_expressions is not None:
            raise ValueError("the stand-in knows NVRTC, and kernels that are not templates")
        self.code, self.options, self.enable_cooperative_groups = code, options, enable_cooperative_groups

    def compile(self, log_stream=None):
        runtime.need_device()
        load(self.code, self.options)

    def get_function(self, name):
        runtime.need_device()
        library, kernels = load(self.code, self.options)
        if name not in kernels:
            raise CUDADriverError(
                f"CUDA_ERROR_NOT_FOUND: named symbol not found ({name!r}; the text has {', '.join(kernels) or 'none'}: "
                '`extern "C" __global__ void name(...)`, not made by a macro)'
            )
        # The blocks of a cluster run together, as do those of a cooperative launch.
        return RawKernel._of(library, name, self.enable_cooperative_groups or "__cluster_dims__(" in self.code)


class Function:
    """What is behind a kernel; `ptr` is only to be handed on."""

    def __init__(self, ptr):
        self.ptr = ptr


class RawKernel:
    """A kernel. Arguments: arrays for pointers, NumPy scalars of the parameter's very type for the rest."""

    def __init__(self, *args, **kwargs):
        raise NotImplementedError("a kernel comes from RawModule.get_function()")

    @classmethod
    def _of(cls, library, name, cooperative):
        kernel = cls.__new__(cls)
        kernel.name, kernel.cooperative = name, cooperative
        kernel._launch = library[f"tr_shim_launch_{name}"]
        kernel.kernel = Function(ctypes.cast(kernel._launch, ctypes.c_void_p).value)
        parameters = library[f"tr_shim_parameters_{name}"]
        parameters.restype = ctypes.c_char_p
        kernel._parameters = parameters().decode().split()
        kernel._most_threads = library[f"tr_shim_bound_{name}"]() or driver.THREADS
        kernel._most_shared = 48 << 10
        return kernel

    num_regs = property(lambda self: 32)

    @property
    def max_dynamic_shared_size_bytes(self):
        return self._most_shared

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, nbytes):
        most = runtime.ATTRIBUTES["MaxSharedMemoryPerBlockOptin"][1]
        if not 0 <= nbytes <= most:
            raise CUDADriverError(f"CUDA_ERROR_INVALID_VALUE: invalid argument ({nbytes} bytes of {most})")
        self._most_shared = nbytes

    def __call__(self, grid, block, args, *, shared_mem=0):
        grid, block = three(grid), three(block)
        self._check_size(grid, block, shared_mem)
        packed, places, memories = self._pack(args)
        shape = (ctypes.c_uint * 6)(*grid, *block)

        def work(memories):
            values = ctypes.create_string_buffer(packed, len(packed))
            base = ctypes.addressof(values)
            pointers = (ctypes.c_void_p * len(self._parameters))(*range(base, base + len(packed), 8))
            message = ctypes.create_string_buffer(2048)
            failed = self._launch(pointers, shape, shared_mem, int(self.cooperative), message, len(message))
            if failed:
                raise CUDADriverError(f"CUDA_ERROR_LAUNCH_FAILED: {message.value.decode()}")
            for place, memory in zip(places, memories, strict=True):
                if not memory.intact():
                    raise CUDADriverError(
                        f"CUDA_ERROR_ILLEGAL_ADDRESS: kernel {self.name!r} wrote next to the array of argument {place}"
                    )

        cuda.submit(work, memories)

    def _check_size(self, grid, block, shared):
        threads, blocks = math.prod(block), math.prod(grid)
        wrong = None
        if not (all(1 <= n < 2**31 for n in grid) and max(grid[1:]) <= 65535):
            wrong = f"a grid of {grid}"
        elif not (min(block) >= 1 and block[2] <= 64 and threads <= self._most_threads):
            wrong = f"a block of {block} threads, at most {self._most_threads}"
        elif not 0 <= shared <= self._most_shared:
            wrong = f"{shared} bytes of shared memory, max_dynamic_shared_size_bytes is {self._most_shared}"
        if wrong:
            raise CUDADriverError(f"CUDA_ERROR_INVALID_VALUE: invalid argument ({self.name!r}: {wrong})")
        fit = driver.occupancyMaxActiveBlocksPerMultiprocessor(self.kernel.ptr, threads, shared)
        fit *= runtime.ATTRIBUTES["MultiProcessorCount"][1]
        if self.cooperative and blocks > fit:
            raise CUDADriverError(
                "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE: too many blocks in cooperative launch "
                f"({self.name!r}: {blocks}, {fit} fit)"
            )

    def _pack(self, args):
        """The arguments' bytes, 8 for each; the places of those that are arrays, and their memory."""
        if len(args) != len(self._parameters):
            raise TypeError(f"kernel {self.name!r} takes {len(self._parameters)} arguments, got {len(args)}")
        packed, places, memories = [], [], []
        for place, (arg, parameter) in enumerate(zip(args, self._parameters, strict=True)):
            if isinstance(arg, ndarray) and fits(parameter, arg.dtype):
                packed.append(struct.pack("Q", arg.data.ptr))
                places.append(place)
                memories.append(arg._memory)
            elif isinstance(arg, np.uint64) and parameter.startswith("*"):  # an address
                packed.append(struct.pack("Q", arg))
            elif isinstance(arg, np.generic) and PACKED.get(parameter) and arg.dtype.str[1:] == parameter:
                packed.append(struct.pack(PACKED[parameter], arg).ljust(8, b"\0"))
            else:
                kind = f"an array of {arg.dtype}" if isinstance(arg, ndarray) else type(arg)
                raise TypeError(f"Unsupported type {kind} for argument {place} ({parameter}) of kernel {self.name!r}")
        return b"".join(packed), places, memories


def fits(parameter, dtype):
    """Whether an array's elements are what the kernel's pointer points at."""
    target = parameter[1:]
    return parameter.startswith("*") and (
        target in ("?", dtype.str[1:]) or (target.startswith("*") and dtype.str[1:] in ("i8", "u8"))
    )


def three(size):
    if not isinstance(size, tuple) or not 1 <= len(size) <= 3 or not all(isinstance(n, int) for n in size):
        raise TypeError(f"a grid or block is a tuple of 1 to 3 ints, got {size!r}")
    return size + (1,) * (3 - len(size))
