"""How the GPU takes the operands of float32 products."""

from __future__ import annotations

PRECISIONS = ("float32", "tf32", "bf16")

_precision = "float32"


def set_precision(precision: str) -> None:
    """How float32 products on the GPU take their operands, from now on; sums are float32 always.

    precision: "float32" as they are, the default; "tf32" rounded to 10 bits behind the point; "bf16" to 7 inside the
    time loop, where that takes half the room, so that wider states fit the chip and half as much goes from block to
    block, and to TF32's 10 in all other products. The last two run on tensor cores. Float64 and the CPU are not
    affected. Raises ValueError for any other precision.
    """
    global _precision
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    _precision = precision


def get_precision() -> str:
    """The precision that `set_precision` set."""
    return _precision
