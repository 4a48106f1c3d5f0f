"""The program of a loop, as `_core/program.h` has it, with what its buffers and weights stand for."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tinyrnn._core import kernels
from tinyrnn._core.tape import Tensor
from tinyrnn.plan.instructions import paired, take_turns


class PlanError(ValueError):
    """A step does something that a plan can not hold; the message names it and the way out.

    op: the name of the op that can not run in the loop, or None.
    """

    op: str | None = None


@dataclass(eq=False)
class BufferSpec:
    """place: see program.h. columns: its width. source: which array of a run it is (see `Program`); None: scratch."""

    place: str
    columns: int
    source: tuple[str, int] | None = None

    @property
    def is_kept(self) -> bool:
        """Whether it is a sequence that the loop fills with kept values."""
        return self.source is not None and self.source[0] == "keep"


@dataclass(eq=False)
class Program:
    """The instructions of a body, and what their buffers stand for.

    buffers  BufferSpecs; the source of a "sequence" is ("seq", k), an input sequence, ("state", k), all states after a
             step, ("before", k), those before it, or ("keep", j), the j-th kept buffer; that of "before" and "after"
             is ("pair", k) for state k, of "partial" ("sum", k) for the k-th sum over steps, of "vector" ("vector", k)
    vectors  (tensor, shape of a row) of each vector: a parameter-level tensor that is repeated for all rows
    weights  the parameter-level tensors behind products, by number
    keeps    where each kept value lies: (source of its buffer, first column, columns)
    spent    the numbers of input sequences that the loop writes over
    made     every value of the body, in the order of the schedule, and how many instructions there are when it is made
    """

    buffers: list[BufferSpec] = field(default_factory=list)
    vectors: list[tuple[Tensor, tuple[int, ...]]] = field(default_factory=list)
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
    def sources(self) -> list[tuple[str, int]]:
        """Each buffer's source; ("none", 0) for scratch."""
        return [spec.source or ("none", 0) for spec in self.buffers]

    @cached_property
    def columns(self) -> NDArray[np.int32]:
        """The index as an array."""
        return np.array(self.index, np.int32)

    @cached_property
    def loop(self) -> kernels.Loop:
        """What runs the program on the CPU."""
        scratch = {k for k, spec in enumerate(self.buffers) if spec.place in ("scratch", "tile")}
        instructions = paired(self.instructions, scratch)
        idle = take_turns(instructions, {k: s.columns for k, s in enumerate(self.buffers) if s.place == "tile"})
        places = [(kernels.PLACES[s.place], 0 if k in idle else s.columns) for k, s in enumerate(self.buffers)]
        rows = [[i[f] for f in kernels.INSTRUCTION_FIELDS] for i in instructions]
        code = np.array(rows, np.int32).reshape(len(rows), len(kernels.INSTRUCTION_FIELDS))
        return kernels.Loop(code, self.columns, np.array(places, np.int64).reshape(len(places), 2))

    @cached_property
    def on_device(self) -> dict[object, object]:
        """What another device made of the program, by what it was made for."""
        return {}
