"""Columns of a step's values: slices of matrices as columns of what they are cut from, and the ops by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinyrnn._core.tape import Op, Tensor
from tinyrnn.ops import add, concat, getitem, neg, sub
from tinyrnn.ops.arrays import RECORDS as ARRAY_OPS
from tinyrnn.plan.step import is_rowed

OPS: dict[str, Op] = {op.name: op for op in ARRAY_OPS}
SUMS = (add, sub, neg)


def column_range(index: Any, shape: Sequence[int]) -> tuple[int, int] | None:
    """(start, stop) if an index takes neighbouring columns of all rows of a matrix, else None."""
    if len(shape) != 2 or not isinstance(index, tuple) or len(index) != 2:
        return None
    rows, cols = index
    if not (isinstance(rows, slice) and isinstance(cols, slice)):
        return None
    if rows != slice(None) and rows.indices(shape[0]) != (0, shape[0], 1):
        return None
    start, stop, stride = cols.indices(shape[1])
    return (start, max(start, stop)) if stride == 1 else None


def as_columns(t: Tensor) -> tuple[Tensor, int, int]:
    """t as columns start..stop of some value; t itself if it is not a slice."""
    if t.op is OPS["getitem"]:
        cut = column_range(t.attrs[0], t.inputs[0].shape)
        if cut is not None and is_rowed(t):
            source, start, _ = as_columns(t.inputs[0])
            return source, start + cut[0], start + cut[1]
    return t, 0, t.shape[1] if t.ndim == 2 else 0


def columns(t: Tensor, start: int, stop: int) -> Tensor:
    """t[:, start:stop], looking through slices and concatenations."""
    if (start, stop) == (0, t.shape[1]):
        return t
    if t.op is OPS["getitem"]:
        source, at, _ = as_columns(t)
        if source is not t:
            return columns(source, at + start, at + stop)
    if t.op is OPS["concat"] and t.attrs[0] == 1:
        at = 0
        for part in t.inputs:
            n = part.shape[1]
            if at <= start and stop <= at + n:
                return columns(part, start - at, stop - at)
            at += n
    return getitem(t, (slice(None), slice(start, stop)))


def join(parts: Sequence[Tensor]) -> Tensor:
    """concat(parts, axis=1), with neighbouring slices of one value joined into one slice."""
    joined: list[Tensor] = []
    for part in parts:
        for piece in part.inputs if part.op is OPS["concat"] and part.attrs[0] == 1 else (part,):
            if joined:
                (a, a0, a1), (b, b0, b1) = as_columns(joined[-1]), as_columns(piece)
                if a is b and a1 == b0:
                    joined[-1] = columns(a, a0, b1)
                    continue
            joined.append(piece)
    return joined[0] if len(joined) == 1 else concat(joined, 1)
