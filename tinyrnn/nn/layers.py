"""Layers without time: what goes before and behind a recurrent cell."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tinyrnn import init, ops
from tinyrnn._core.tape import Tensor, float_dtype
from tinyrnn.checks import as_array, as_rate, as_rng, as_size, check_place, is_int, type_name
from tinyrnn.module import Module, Parameter


class Linear(Module):
    """x W + b for x (..., in_features); W (in_features, out_features), b (out_features,), or None without bias.

    Both start uniform in ±1/sqrt(in_features). Calling it raises ValueError if x's last axis is not in_features.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: npt.DTypeLike = "float32",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__()
        self.in_features = as_size("in_features", in_features)
        self.out_features = as_size("out_features", out_features)
        self.bias = bool(bias)
        self.dtype = float_dtype(dtype)
        rng, bound = as_rng(rng), self.in_features**-0.5
        shape = (self.in_features, self.out_features)
        self.W = Parameter(init.uniform(rng, shape, self.dtype, low=-bound, high=bound))
        self.b = Parameter(init.uniform(rng, shape[1:], self.dtype, low=-bound, high=bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor):
            array = as_array("x", x)
            if array.dtype.kind not in "fiub":
                raise TypeError(f"x must be a Tensor or an array of numbers for {self._label()}, got {type_name(x)}")
            x = Tensor(array, dtype=self.dtype, device=self.W.device)
        if x.shape[-1:] != (self.in_features,):
            raise ValueError(f"x must be (..., {self.in_features}) for {self._label()}, got shape {x.shape}")
        if x.dtype != self.dtype:
            raise TypeError(f"x must be {self.dtype} like {self._label()}, got {x.dtype}; .astype() converts")
        if x.device != self.W.device:
            check_place("x", x, self.W.device, self._label())
        y = x @ self.W
        return y if self.b is None else y + self.b

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}" + ("" if self.b is not None else ", bias=False")

    def _label(self) -> str:
        return f"Linear({self.extra_repr()})"


class Embedding(Module):
    """Rows of a table W (num, dim) by integer ids of any shape: (...) -> (..., dim). W starts normal(0, 1).

    padding_idx: an id that stands for nothing: its output is 0 and its row gets no gradient. Calling it raises
    TypeError for ids that are no integers, and IndexError that names the first id outside 0..num-1.
    """

    def __init__(
        self,
        num: int,
        dim: int,
        *,
        padding_idx: int | None = None,
        dtype: npt.DTypeLike = "float32",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__()
        self.num, self.dim = as_size("num", num), as_size("dim", dim)
        self.dtype = float_dtype(dtype)
        if padding_idx is not None and not is_int(padding_idx):
            raise TypeError(f"padding_idx must be an int in 0..{num - 1} or None, got {padding_idx!r}")
        if padding_idx is not None and not 0 <= padding_idx < num:
            raise ValueError(f"padding_idx must lie in 0..{num - 1}, got {padding_idx}")
        self.padding_idx = None if padding_idx is None else int(padding_idx)
        table = init.normal(as_rng(rng), (self.num, self.dim), self.dtype)
        if padding_idx is not None:
            table[padding_idx] = 0
        self.W = Parameter(table)

    def forward(self, ids: npt.ArrayLike) -> Tensor:
        which = as_array("ids", ids)
        if which.dtype.kind not in "iu" and which.size:
            raise TypeError(f"ids must be integers, got {which.dtype}")
        outside = (which < 0) | (which >= self.num)
        if outside.any():
            at = tuple(int(i) for i in np.argwhere(outside)[0])
            raise IndexError(f"ids must lie in 0..{self.num - 1}, got {which[at]} at {at}")
        rows = ops.take(self.W, which)
        if self.padding_idx is None:
            return rows
        return ops.where((which != self.padding_idx)[..., None], rows, 0.0)

    def extra_repr(self) -> str:
        return f"{self.num}, {self.dim}" + ("" if self.padding_idx is None else f", padding_idx={self.padding_idx}")


class Dropout(Module):
    """In training, zeroes each element with probability p and scales the rest by 1/(1-p); else x as it is.

    p: in [0, 1). rng: a numpy Generator or a seed for the masks. Srivastava et al. 2014.
    """

    def __init__(self, p: float = 0.5, *, rng: np.random.Generator | int | None = None) -> None:
        super().__init__()
        self.p = as_rate("p", p)
        self.rng = as_rng(rng)

    def forward(self, x: Tensor) -> Tensor:
        return ops.dropout(x, self.p, self.rng, training=self.training)

    def extra_repr(self) -> str:
        return f"p={self.p:g}"
