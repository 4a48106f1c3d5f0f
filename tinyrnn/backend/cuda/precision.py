"""How the GPU's time loop takes the operands of float32 products."""

from __future__ import annotations

PRECISIONS = ("float32", "tf32", "bf16")

_precision = "float32"


def set_precision(precision: str) -> None:
    """How float32 products inside the GPU's time loop take their operands, from now on; sums are float32 always.

    precision: "float32" as they are, the default; "tf32" rounded to 10 bits behind the point; "bf16" to 7, which takes
    half the room, so that wider states fit the chip. The last two run on tensor cores. Nothing else is affected: not
    float64, not the CPU, and not the products before and behind the loop, which are CuPy's and follow its settings
    (CUPY_TF32=1). Raises ValueError for any other precision.
    """
    global _precision
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    _precision = precision


def get_precision() -> str:
    """The precision that `set_precision` set."""
    return _precision
