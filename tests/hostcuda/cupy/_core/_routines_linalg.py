"""How matmul computes: CuPy has no public name for this."""

import numpy as np

COMPUTE_TYPE_DEFAULT, COMPUTE_TYPE_TF32 = 1, 7

_types = {np.dtype(np.float32): COMPUTE_TYPE_DEFAULT}


def get_compute_type(dtype):
    return _types[np.dtype(dtype)]


def set_compute_type(dtype, compute_type):
    _types[np.dtype(dtype)] = compute_type


def rounded(x):
    """The operand as a product takes it: a float32 in TF32, if asked for, to nearest."""
    if x.dtype != np.float32 or _types[x.dtype] != COMPUTE_TYPE_TF32:
        return x
    bits = np.ascontiguousarray(x).view(np.uint32)
    bits = (bits + np.uint32(0x0FFF) + ((bits >> np.uint32(13)) & np.uint32(1))) & np.uint32(0xFFFFE000)
    return np.where(np.isnan(x), x, bits.view(np.float32))
