"""The program of a loop, as `_core/program.h` has it, with what its buffers and weights stand for."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tinyrnn._core import kernels
from tinyrnn._core.tape import Tensor


class PlanError(ValueError):
    """A step does something that a plan can not hold; the message names it and the way out.

    op: the name of the op that can not run in the loop, or None.
    """

    op: str | None = None


@dataclass(eq=False)
class BufferSpec:
    """place: see program.h. columns: its width. source: what fills or receives it (see `Program.buffers`)."""

    place: str
    columns: int
    source: object = None

    @property
    def number(self) -> int:
        """The place as program.h counts it."""
        return kernels.PLACES[self.place]

    @property
    def is_kept(self) -> bool:
        """Whether it is a sequence that the loop fills with kept values."""
        return isinstance(self.source, tuple) and self.source[0] == "keep"


@dataclass(eq=False)
class Program:
    """The instructions of a body, and what their buffers stand for.

    buffers  BufferSpecs; source is for "vector": (tensor, shape of a row); for "sequence": ("seq", k) an input
             sequence, ("state", k) all states after a step, ("before", k) those before it, ("keep", j) the j-th kept
             buffer; for "before" and "after": the state's number; for "partial": that of the sum over steps
    weights  the parameter-level tensors behind products, by number
    keeps    where each kept value lies: (source of its buffer, first column, columns)
    spent    the numbers of input sequences that the loop writes over
    made     every value of the body, in the order of the schedule, and how many instructions there are when it is made
    """

    buffers: list[BufferSpec] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    instructions: list[dict[str, int]] = field(default_factory=list)
    index: list[int] = field(default_factory=list)
    keeps: list[tuple[tuple[str, int], int, int]] = field(default_factory=list)
    kept_columns: list[int] = field(default_factory=list)
    spent: list[int] = field(default_factory=list)
    made: list[tuple[Tensor, int]] = field(default_factory=list)

    @cached_property
    def flops(self) -> float:
        """Floating-point operations of one step of one row; an elementwise op counts as one an element."""
        product, one = kernels.KINDS["product"], kernels.KINDS["map"]
        return float(
            sum(2 * i["width"] * i["inner"] if i["kind"] == product else i["width"] * (i["kind"] == one)
                for i in self.instructions)
        )  # fmt: skip

    @cached_property
    def fixed(self) -> list[tuple[int, None, None, int]]:
        """For each buffer what `kernels.run_loop` wants to know if it has no array of its own."""
        return [(spec.number, None, None, spec.columns) for spec in self.buffers]

    @cached_property
    def filled(self) -> list[tuple[int, BufferSpec]]:
        """The buffers that have, by number."""
        return [(k, spec) for k, spec in enumerate(self.buffers) if spec.place not in ("scratch", "tile")]

    @cached_property
    def code(self) -> NDArray[np.int32]:
        """The instructions as `kernels.run_loop` takes them."""
        rows = [[i[f] for f in kernels.INSTRUCTION_FIELDS] for i in self.instructions]
        return np.array(rows, np.int32).reshape(len(rows), len(kernels.INSTRUCTION_FIELDS))

    @cached_property
    def columns(self) -> NDArray[np.int32]:
        """The index as an array."""
        return np.array(self.index, np.int32)

    @cached_property
    def on_device(self) -> dict[object, object]:
        """What another device made of the program, by what it was made for."""
        return {}
