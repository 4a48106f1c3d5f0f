"""Device text: CUDA C++ behind the headers of `_core/`, in one piece, compiled by NVRTC when its kernels are wanted.

NVRTC's cache does not see headers, so they are pasted in front. Nothing here needs a GPU but `kernels_of`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import Any

from tinyrnn.backend.cuda.library import cupy

STANDARD = "-std=c++17"
EXACT = "-fmad=false"
"""One rounding for each written operation, as on the CPU: fused multiply-adds are asked for by name."""
REALS = {"f": "float", "d": "double"}
"""What device text calls the dtypes, by their characters."""


@cache
def header(name: str) -> str:
    """The text of a header in `_core/`, without its includes: NVRTC has none of them."""
    text = resources.files("tinyrnn._core").joinpath(name).read_text(encoding="utf-8")
    return re.sub(r"^#include .*\n", "", text, flags=re.MULTILINE)


def whole(text: str, headers: tuple[str, ...] = ("pointwise.h", "device.h")) -> str:
    """A text behind its headers, as NVRTC gets it."""
    return "\n".join([*map(header, headers), text])


@cache
def kernels_of(
    text: str,
    headers: tuple[str, ...] = ("pointwise.h", "device.h"),
    options: tuple[str, ...] = (STANDARD,),
    cooperative: bool = False,
) -> Any:
    """The cupy.RawModule of a text behind its headers, once a process. cooperative: blocks may wait for each other."""
    return cupy().RawModule(
        code=whole(text, headers), options=options, backend="nvrtc", enable_cooperative_groups=cooperative
    )


@cache
def kernel(source: Callable[[], tuple[str, tuple[str, ...]]], name: str) -> Any:
    """One kernel, by its name, of what `source` gives: a text, and its headers."""
    text, headers = source()
    return kernels_of(text, headers, (STANDARD, EXACT)).get_function(name)


def blocks(n: int, threads: int = 256) -> int:
    """How many blocks cover n elements, each thread taking several where there are very many; at least one."""
    return min(max(1, -(-n // threads)), 8192)
