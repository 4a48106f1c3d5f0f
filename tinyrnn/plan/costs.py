"""What ops and instructions cost, in floating-point operations and floats moved, for one row of one step."""

from __future__ import annotations

from collections.abc import Iterator

from tinyrnn._core import kernels
from tinyrnn._core.tape import Tensor
from tinyrnn.plan.columns import OPS
from tinyrnn.plan.program import Program
from tinyrnn.plan.step import ROWS, is_repeated, is_rowed, width

NAMES = {code: name for name, (code, _) in kernels.POINTWISE.items()}
OPERATIONS = {"fma": 2, "mix": 4, "lerp": 3}
"""Floating-point operations an element, of the elementwise ops that have more than one."""


def is_free(t: Tensor) -> bool:
    """Whether t costs nothing: a leaf, columns of something, something repeated or in another shape."""
    return t.op is None or is_repeated(t) or t.op.name in ("getitem", "reshape", "stop_gradient", "transpose")


def flops_of(t: Tensor) -> int:
    """Floating-point operations of an op for one row."""
    if t.op is None or is_free(t):
        return 0
    if t.op is OPS["matmul"]:
        a, b = t.inputs
        if is_rowed(t):
            return 2 * a.shape[-1] * b.shape[-1]
        return 2 * a.shape[0] * b.shape[-1] if a.shape[-1] == ROWS else 0
    rowed = [s for s in t.inputs or () if is_rowed(s)]
    if not rowed or t.op is OPS["concat"]:
        return 0
    n = width(t) if is_rowed(t) else width(rowed[0])
    return n * OPERATIONS.get(t.op.name, 1) if t.op.code >= 0 else max(map(width, rowed))


def floats_moved(t: Tensor) -> int:
    """Floats that an op over all steps reads and writes for one row."""
    if t.op is None or is_free(t):
        return 0
    values = [s for s in t.inputs or () if is_rowed(s) or ROWS in s.shape] + [t] * is_rowed(t)
    return sum(s.size // ROWS for s in values if not is_repeated(s))


def instruction_flops(i: dict[str, int]) -> int:
    kinds = kernels.KINDS
    if i["kind"] == kinds["map"]:
        return i["width"] * OPERATIONS.get(NAMES[i["code"]], 1)
    if i["kind"] in (kinds["sum"], kinds["max"]):
        return i["width"] * i["n"] * (1 + i["code"])
    return i["width"] if i["kind"] == kinds["scatter_add"] else 0


def runs_of(program: Program) -> Iterator[tuple[bool, int, int]]:
    """(is it a product, first instruction, the one behind its last): products singly, what lies between in one."""
    start, product = 0, kernels.KINDS["product"]
    for k, i in enumerate(program.instructions):
        if i["kind"] == product:
            if start < k:
                yield False, start, k
            yield True, k, k + 1
            start = k + 1
    if start < len(program.instructions):
        yield False, start, len(program.instructions)


def listing(program: Program) -> tuple[str, ...]:
    kinds = {v: k for k, v in kernels.KINDS.items()}

    def text(i: dict[str, int]) -> str:
        kind = kinds[i["kind"]]
        adds = i["add"] & kernels.BIAS if kind == "product" else 0
        arity = kernels.POINTWISE[NAMES[i["code"]]][1] if kind == "map" else 1 + bool(adds)
        at = [f"{program.buffers[i[n]].place}{i[n]}+{i[f'{n}_at']}" for n in ("dst", "a", "b", "c")[: arity + 1]]
        kind += " of squares" * (kind == "sum" and i["code"])
        what = NAMES[i["code"]] if kind == "map" else f"{kind}{i['code']} {i['inner']} x" if kind == "product" else kind
        return f"{at[0]} {'+' * (i['add'] & kernels.ONTO)}= {what} {i['width']}: {', '.join(at[1:])}"

    return tuple(map(text, program.instructions))
