"""The process that measures: pinned to a core a thread, as a rule one, and the names of what it runs on.

Nothing here imports NumPy before `settle` has run: BLAS reads its environment once, when it is loaded.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

THREADS = (
    "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip
WANTED = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
UNWANTED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # some images set them, and halve OpenBLAS


def settle(core: int | None = None, threads: int = 1) -> None:
    """Pin this process to a core a thread and, if its environment is not the wanted one, start it again in one that is.

    core: the first one, a number of the affinity mask; None: the last of it. Libraries look at the mask when they are
    loaded: those that find one core share it among their threads from then on. Must run before NumPy is imported.
    Raises ValueError for a core that this process may not use. Where affinity is unknown (macOS), nothing is pinned.
    """
    wanted = WANTED | dict.fromkeys(THREADS, str(threads))
    if any(name in os.environ for name in UNWANTED) or any(os.environ.get(k) != v for k, v in wanted.items()):
        environment = {k: v for k, v in os.environ.items() if k not in UNWANTED} | wanted
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    if "numpy" in sys.modules:
        raise RuntimeError("bench must be settled before NumPy is imported: run it as `python -m bench`")
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        if core is not None and core not in allowed:
            raise ValueError(f"--core must be one of {allowed}, got {core}")
        chosen = allowed[-1] if core is None else core
        _allowed[:] = [chosen, *(c for c in allowed if c != chosen)]
        _pinned[:] = _allowed[:threads]
        os.sched_setaffinity(0, {*_pinned})


_allowed: list[int] = []
_pinned: list[int] = []


def cores() -> int:
    """How many cores `on_cores` can give."""
    return len(_allowed)


@contextmanager
def on_cores(n: int) -> Iterator[None]:
    """Let the calling thread, and those it starts, run on n cores; then on those of before."""
    if n == len(_pinned) or not _allowed:
        yield
        return
    os.sched_setaffinity(0, set(_allowed[:n]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, {*_pinned})


def busy_seconds(n: int) -> float | None:
    """For how long the cores of `on_cores(n)` have worked for anybody, a host's other guests included.

    None where the system does not say, as Linux does in /proc/stat.
    """
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return None
    times = {name: list(map(int, numbers)) for name, *numbers in map(str.split, lines) if name.startswith("cpu")}
    found = [times.get(f"cpu{core}", []) for core in _allowed[:n]]
    if not found or min(map(len, found)) < 8:
        return None
    idle = {3, 4}  # the columns of idle time and of waiting for input and output
    return sum(t[k] for t in found for k in range(8) if k not in idle) / os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, Any]:
    """What the figures were taken on: processor, instruction set, pinning, BLAS cores, versions, load."""
    import numpy as np

    import tinyrnn as tr
    from tinyrnn._core import kernels

    return {
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "instruction set": f"{kernels.isa} (built and runnable: {', '.join(kernels.isas())})",
        "isa": kernels.isa,
        "pinned to": f"core {' and '.join(map(str, _pinned))} of {len(_allowed)}"
        if _pinned
        else "no core: this system can not",
        "load average": round(os.getloadavg()[0], 2),
        "BLAS of NumPy": _blas(),
        "tinyrnn": tr.__version__,
        "numpy": np.__version__,
    }


def _processor() -> str:
    """The model's name, with family and model number, since a virtual machine's name often hides the generation."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or "unknown"
    pairs = (line.partition(":") for line in info.read_text().splitlines())
    fields: dict[str, str] = {}
    for key, _, value in pairs:
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name", platform.processor() or "unknown")
    return f"{name} (family {fields['cpu family']}, model {fields['model']})" if "cpu family" in fields else name


def _blas() -> str:
    """NumPy's BLAS, which peers use, with the core that its kernels are for; tinyrnn has its own products."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        import numpy as np

        built: Any = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        name = built.get("openblas configuration") or built.get("name", "unknown")
        return f"{name}; the core in use is unknown (pip install threadpoolctl)"
    found = [
        f"{lib['internal_api']} {lib['version']}, {lib.get('architecture', 'unknown core')}"
        for lib in threadpool_info()
        if lib["user_api"] == "blas"
    ]
    return "; ".join(found) or "unknown"
