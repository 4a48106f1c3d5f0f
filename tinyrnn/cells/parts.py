"""What the cells of this package share: their options in words, checks, and the sums that gates are made of."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from tinyrnn._core.tape import Tensor
from tinyrnn.checks import as_number
from tinyrnn.module import Cell, probe

Activation: TypeAlias = Callable[[Tensor], Tensor]
"""An op of one argument such as tr.tanh, or any function of one Tensor that is made of ops."""


def identity(x: Tensor) -> Tensor:
    """x itself: the activation that changes nothing."""
    return x


def plus(first: Tensor, *others: Tensor | None) -> Tensor:
    """The sum of what is there: None stands for a term that the cell does without."""
    for term in others:
        if term is not None:
            first = first + term
    return first


def masked(h: Tensor, mask: Tensor | None) -> Tensor:
    """h, dropped out where `tr.cells.RecurrentDropout` gives a mask (B, H)."""
    return h if mask is None else h * mask


def as_activation(name: str, value: Activation) -> Activation:
    """`value` if it can be called; the error names the argument `name`."""
    if not callable(value):
        raise TypeError(f"{name} must be an op like tr.tanh, got {value!r}")
    return value


def as_choice(name: str, value: Any, choices: Iterable[Any]) -> Any:
    """`value` if it is one of `choices`; the error names the argument `name` and lists them."""
    known = list(choices)
    if not any(value is one or (type(value) is type(one) and value == one) for one in known):
        *others, last = map(told, known)
        raise ValueError(f"{name} must be {', '.join(others)} or {last}, got {value!r}")
    return value


def as_bias(name: str, value: float | None) -> float | None:
    """`value` if it is a finite number or None; the error names the argument `name`."""
    if value is not None:
        as_number(name, value)
    return value


def told(value: Any) -> str:
    """An option's value as a person writes it: an activation by its name."""
    if callable(value):
        return str(getattr(value, "name", None) or getattr(value, "__name__", repr(value)))
    return f'"{value}"' if isinstance(value, str) else f"{value}"


class OptionCell(Cell):
    """A cell that shows the options which differ from their defaults, and what its gates do with the state."""

    @property
    def memory_gates(self) -> dict[str, int]:
        """For `tr.init.chrono`: +1 for the bias of a gate that keeps the state, -1 of one that writes over it."""
        return {}

    def extra_repr(self) -> str:
        known = inspect.signature(type(self)).parameters
        changed = (f"{k}={told(v)}" for k, v in self.options().items() if v != known[k].default)
        return ", ".join([super().extra_repr(), *changed])


NAMES = {k: (f"W_x{k}", f"W_h{k}", f"b_{k}") for k in "ifogz"}
"""The names of gates' parameters, made once: an eager step is too short to join strings."""


class Gated(OptionCell):
    """A cell some of whose gates may be missing: they are made and read by their names.

    Gate k has W_xk (I, n), W_hk (read, n) and, unless there are none, b_k (n,).
    """

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def add_gates(
        self,
        widths: Mapping[str, int],
        *,
        read: int | None = None,
        bias: bool = True,
        starts: Mapping[str, float | None] | None = None,
    ) -> None:
        """Make the parameters of the gates. widths: gate -> n. read: the width of h. starts: gate -> its first bias."""
        read = self.hidden_size if read is None else read
        for stem, rows in (("W_x", self.input_size), ("W_h", read)):
            for k, n in widths.items():
                setattr(self, stem + k, self.param((rows, n)))
        for k, n in widths.items():
            setattr(self, f"b_{k}", self.param(n, init=(starts or {}).get(k)) if bias else None)

    def gate(self, k: str, activation: Activation, x: Tensor, h: Tensor, *more: Tensor | None) -> Tensor:
        """activation(x W_xk + h W_hk + more + b_k), probed as k. None stands for a term that the cell does without."""
        own, (W_x, W_h, b) = self.__dict__, NAMES[k]
        total: Tensor = x @ own[W_x] + h @ own[W_h]
        for term in (*more, own[b]):
            if term is not None:
                total = total + term
        return probe(k, activation(total))
