"""CuPy, found when a device is first asked for, and what to do where it or the GPU is missing."""

from __future__ import annotations

import importlib
import sys
from functools import cache
from typing import Any

INSTALL = "pip install 'tinyrnn[cuda13]' (or 'tinyrnn[cuda12]', for a driver of CUDA 12)"


def is_array(value: object) -> bool:
    """Whether `value` is a CuPy array; does not import CuPy."""
    return isinstance(value, getattr(sys.modules.get("cupy"), "ndarray", ()))


@cache
def cupy() -> Any:
    """The module CuPy, on a machine with a GPU.

    Raises ImportError that says what to install, and RuntimeError where there is no driver or no GPU.
    """
    try:
        module = importlib.import_module("cupy")
    except ImportError as error:
        if error.name == "cupy":
            raise ImportError(f"device 'cuda' needs CuPy: {INSTALL}", name="cupy") from None
        raise ImportError(f"device 'cuda' needs CuPy, which can not be imported: {error}", name="cupy") from error
    runtime = module.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise RuntimeError(
            f"device 'cuda' needs an NVIDIA driver and a GPU, and CuPy {module.__version__} finds none: {error}"
        ) from error
    if count < 1:
        raise RuntimeError(f"device 'cuda' needs a GPU, and CuPy {module.__version__} finds none")
    return module
