"""The driver API: how many blocks fit on a multiprocessor, and its errors."""

from cupy.cuda.runtime import need_device

RESERVED = 1 << 10  # shared memory that CUDA takes of each block
SHARED = 228 << 10  # shared memory of a multiprocessor
BLOCKS = 2  # blocks on a multiprocessor
THREADS = 1024  # threads of a block


class CUDADriverError(RuntimeError):
    """As in CuPy, but that the message goes on to say what was wrong."""


def occupancyMaxActiveBlocksPerMultiprocessor(func, blockSize, dynamicSMemSize):  # noqa: N802
    need_device()
    if not 1 <= blockSize <= THREADS:
        return 0
    return min(BLOCKS, SHARED // (dynamicSMemSize + RESERVED))
