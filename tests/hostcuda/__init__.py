"""The GPU's code without a GPU: a stand-in for CuPy, and the CUDA execution model for a host's compiler."""

import contextlib
import importlib
import sys
from pathlib import Path

import pytest


def _forget():
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "cupy"}


@contextlib.contextmanager
def stand_in():
    """A context in which `import cupy` gives the stand-in, whether or not CuPy itself is installed; gives it too.

    Skips the test where no C++ compiler is found.
    """
    before, folder = _forget(), str(Path(__file__).parent)
    sys.path.insert(0, folder)
    try:
        cupy = importlib.import_module("cupy")
        if cupy._raw.compiler() is None:
            pytest.skip("needs a C++ compiler")
        yield cupy
    finally:
        sys.path.remove(folder)
        _forget()
        sys.modules.update(before)
