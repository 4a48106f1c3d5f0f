"""A stand-in for CuPy on machines without a GPU: the part of CuPy 14 that tinyrnn uses, and nothing more.

With `tests/hostcuda` first on `sys.path`, `import cupy` finds this package. Its arrays wrap NumPy arrays, and a C++
compiler compiles its kernels with `cuda_host.h`, which runs CUDA's threads on the CPU. It is stricter than CuPy where
that finds mistakes: fresh memory is NaN, a kernel's arguments are compared with its parameters, writes next to an array
are seen, and what CuPy has but tinyrnn may not use is not here.

The device: compute capability 9.0, 4 multiprocessors, 2 blocks of up to 1024 threads on each, 227 KB of shared memory a
block. With TR_SHIM_NO_DEVICE=1 in the environment there is none, and what needs one raises as CuPy does without a
driver.
"""

from cupy import cuda
from cupy._array import (
    asarray,
    ascontiguousarray,
    broadcast_to,
    concatenate,
    empty,
    from_dlpack,
    full,
    matmul,
    ndarray,
    ones,
    zeros,
)
from cupy._raw import RawKernel, RawModule

__version__ = "14.0.0"

__all__ = [
    "RawKernel",
    "RawModule",
    "asarray",
    "ascontiguousarray",
    "broadcast_to",
    "concatenate",
    "cuda",
    "empty",
    "from_dlpack",
    "full",
    "matmul",
    "ndarray",
    "ones",
    "zeros",
]
