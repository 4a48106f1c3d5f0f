"""The user's side of the tape: making tensors, asking for gradients, switching the record off."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ContextDecorator
from typing import Any, Self, overload

from numpy.typing import ArrayLike, DTypeLike

from tinyrnn._core.tape import EVERYTHING, OFF, ON, Mode, Tape, Tensor, float_dtype, share
from tinyrnn.backend import check_device
from tinyrnn.backend import from_dlpack as array_from_dlpack
from tinyrnn.checks import type_name

__all__ = ["Tape", "Tensor", "enable_grad", "from_dlpack", "grad", "no_grad", "tensor"]


def tensor(
    data: ArrayLike | Tensor,
    requires_grad: bool = False,
    dtype: DTypeLike | None = None,
    device: str | None = None,
) -> Tensor:
    """A Tensor holding a copy of `data`, any array or nest of numbers.

    dtype: float32 or float64; by default a float array keeps its own and everything else becomes float32.
    device: "cpu" or "cuda", an NVIDIA GPU through CuPy; None: that of data which are a Tensor or a CuPy array, else
    "cpu". Raises TypeError for data that are not real numbers, ValueError for a ragged nest; for "cuda" ImportError
    without CuPy and RuntimeError without a GPU, which say what is missing.
    """
    return Tensor(data, requires_grad, dtype, None if device is None else check_device(device))


def from_dlpack(x: Any) -> Tensor:
    """A Tensor over the memory of `x`, an array of NumPy, CuPy, PyTorch or another library that has `__dlpack__`.

    Nothing is copied: what the other library writes into x, the tensor holds. x: float32 or float64, on the CPU or on
    the GPU; the other way, `torch.from_dlpack(t)` and the like share a Tensor's memory. Raises TypeError for what is no
    such array, ValueError for another device.
    """
    if not hasattr(x, "__dlpack__") or not hasattr(x, "__dlpack_device__"):
        raise TypeError(f"x must be an array with __dlpack__, got {type_name(x)}")
    array = array_from_dlpack(x)
    float_dtype(array.dtype)
    return share(array)


class _Mode(Mode, ContextDecorator):
    """Sets the calling thread's recording mode for a with block or a decorated function; may be nested."""

    def _recreate_cm(self) -> Self:
        return type(self)()  # a call of its own, as a decorated function may run in several threads at once


class no_grad(_Mode):  # noqa: N801  (named as a function, as in PyTorch)
    """Record nothing: `with tr.no_grad(): ...` or `@tr.no_grad()`. Holds for the calling thread alone."""

    mode = OFF


class enable_grad(_Mode):  # noqa: N801
    """Record again inside a no_grad block."""

    mode = ON


class recording(_Mode):  # noqa: N801
    """Record every op, whether a gradient is wanted or not: how a cell's step becomes a program."""

    mode = EVERYTHING


@overload
def grad(
    outputs: Tensor | Sequence[Tensor], inputs: Tensor, grad_outputs: Any = None, create_graph: bool = False, *,
    retain_graph: bool | None = None, allow_unused: bool = False,
) -> Tensor: ...  # fmt: skip
@overload
def grad(
    outputs: Tensor | Sequence[Tensor], inputs: Sequence[Tensor], grad_outputs: Any = None, create_graph: bool = False,
    *, retain_graph: bool | None = None, allow_unused: bool = False,
) -> tuple[Tensor, ...]: ...  # fmt: skip
def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Any = None,
    create_graph: bool = False,
    *,
    retain_graph: bool | None = None,
    allow_unused: bool = False,
) -> Any:
    """The gradients of `outputs` with respect to `inputs`, leaves or results; touches no `.grad`.

    grad_outputs: the gradient of each output, of its shape; None for outputs of one element.
    create_graph: record the gradients too, so that they can be differentiated again.
    retain_graph: keep the graph for another pass; by default only if create_graph.
    allow_unused: return None for an input that the outputs do not depend on, instead of raising RuntimeError.
    Returns a Tensor if inputs is one, else a tuple.
    """
    out, wanted = _tensors("outputs", outputs), _tensors("inputs", inputs)
    if not out:
        raise ValueError("outputs must be one Tensor or more, got none")
    if grad_outputs is None:
        seeds: list[Any] = [None] * len(out)
    elif isinstance(outputs, Tensor):
        seeds = [grad_outputs]
    elif isinstance(grad_outputs, Iterable):
        seeds = list(grad_outputs)
    else:
        raise TypeError(
            f"grad_outputs must be a list, one entry for each of the {len(out)} outputs, got {type_name(grad_outputs)}"
        )
    if len(seeds) != len(out):
        raise ValueError(f"grad_outputs must have one entry for each of the {len(out)} outputs, got {len(seeds)}")
    for i, t in enumerate(wanted):
        if not t.requires_grad:
            raise RuntimeError(f"inputs[{i}], of shape {t.shape}, does not require a gradient")
    keep = create_graph if retain_graph is None else retain_graph
    _, found = Tape(out).reverse(seeds, wanted, create_graph, keep)
    for i, g in enumerate(found):
        if g is None and not allow_unused:
            raise RuntimeError(
                f"the outputs do not depend on inputs[{i}], of shape {wanted[i].shape}; allow_unused=True returns None"
            )
    return found[0] if isinstance(inputs, Tensor) else tuple(found)


def _tensors(name: str, value: Any) -> list[Tensor]:
    """One Tensor or several, as a list."""
    if isinstance(value, Tensor):
        return [value]
    if not isinstance(value, Iterable):
        raise TypeError(f"{name} must be Tensors, got {type_name(value)}")
    found = list(value)
    for t in found:
        if not isinstance(t, Tensor):
            raise TypeError(f"{name} must be Tensors, got {type_name(t)}")
    return found
