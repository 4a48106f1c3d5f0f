"""What a user without tinyrnn would write: the cells for a time loop in torch or JAX, each once for both.

Each is written as an expert would for speed: the input's products are taken out of the loop and done for the whole
sequence, gates that can share a product share one, and a sum with a product is one addmm. `F` is the library; see
`Library` for what a cell needs of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

A = Any  # an array of the library
P = Mapping[str, A]


class Library(Protocol):
    """What the cells below need of torch or JAX."""

    def sigmoid(self, x: A, /) -> A: ...
    def tanh(self, x: A, /) -> A: ...
    def softplus(self, x: A, /) -> A: ...
    def maximum(self, a: A, b: A, /) -> A: ...
    def split(self, x: A, n: int, /) -> tuple[A, ...]:
        """n equal parts of the last axis."""

    def affine(self, xs: A, W: A, b: A | None = None, /) -> A:
        """xs (T, B, I) @ W + b, in one product."""

    def addmm(self, a: A, h: A, W: A, /) -> A:
        """a + h @ W."""

    def layer_norm(self, x: A, gain: A, bias: A | None = None, /) -> A:
        """(x - mean) / sqrt(variance + 1e-5) * gain + bias along the last axis."""


@dataclass(frozen=True)
class Equations:
    """A cell for a time loop.

    packed  the peer's parameters: name -> the parameters of our cell that stand side by side in it
    hoist   (F, p, xs (T, B, I)) -> the sequences that the loop reads, (T, B, ..) each
    step    (F, p, a: one time step of those, *states) -> the new states; the first is the output
    states  how many
    """

    packed: Mapping[str, tuple[str, ...]]
    hoist: Callable[[Library, P, A], tuple[A, ...]]
    step: Callable[..., tuple[A, ...]]
    states: int = 1

    def pack(self, ours: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Our cell's parameters, or their gradients, in the peer's form."""
        return {name: np.concatenate([ours[k] for k in parts], axis=-1) for name, parts in self.packed.items()}


def _names(prefix: str, gates: str) -> tuple[str, ...]:
    return tuple(prefix + k for k in gates)


def _one_product(F: Library, p: P, xs: A) -> tuple[A, ...]:
    return (F.affine(xs, p["Wx"], p["b"]),)


def _lstm(F: Library, p: P, a: tuple[A], h: A, c: A) -> tuple[A, ...]:
    ifo, g = _three_and_one(F.addmm(a[0], h, p["Wh"]))
    i, f, o = F.split(F.sigmoid(ifo), 3)
    c = f * c + i * F.tanh(g)
    return o * F.tanh(c), c


def _three_and_one(z: A) -> tuple[A, A]:
    cut = z.shape[-1] // 4 * 3
    return z[..., :cut], z[..., cut:]


LSTM = Equations({"Wx": _names("W_x", "ifog"), "Wh": _names("W_h", "ifog"), "b": _names("b_", "ifog")},
                 _one_product, _lstm, states=2)  # fmt: skip


def _peephole(F: Library, p: P, a: tuple[A], h: A, c: A) -> tuple[A, ...]:
    i, f, o, g = F.split(F.addmm(a[0], h, p["Wh"]), 4)
    i, f = F.sigmoid(i + p["p_i"] * c), F.sigmoid(f + p["p_f"] * c)
    c = f * c + i * F.tanh(g)
    return F.sigmoid(o + p["p_o"] * c) * F.tanh(c), c


PEEPHOLE = Equations({**LSTM.packed, "p_i": ("p_i",), "p_f": ("p_f",), "p_o": ("p_o",)},
                     _one_product, _peephole, states=2)  # fmt: skip


def _layer_norm_hoist(F: Library, p: P, xs: A) -> tuple[A, ...]:
    return (F.layer_norm(F.affine(xs, p["W_x"]), p["a_x"], p["b"]),)


def _layer_norm(F: Library, p: P, a: tuple[A], h: A, c: A) -> tuple[A, ...]:
    ifo, g = _three_and_one(a[0] + F.layer_norm(h @ p["W_h"], p["a_h"]))
    i, f, o = F.split(F.sigmoid(ifo), 3)
    c = f * c + i * F.tanh(g)
    return o * F.tanh(F.layer_norm(c, p["a_c"], p["b_c"])), c


LAYER_NORM = Equations({k: (k,) for k in ("W_x", "W_h", "a_x", "a_h", "b", "a_c", "b_c")},
                       _layer_norm_hoist, _layer_norm, states=2)  # fmt: skip


def _gru_hoist(F: Library, p: P, xs: A) -> tuple[A, ...]:
    return F.affine(xs, p["Wx_rz"], p["b_rz"]), F.affine(xs, p["W_xn"], p["b_n"])


def _gru_before(F: Library, p: P, a: tuple[A, A], h: A) -> tuple[A, ...]:
    r, z = F.split(F.sigmoid(F.addmm(a[0], h, p["Wh_rz"])), 2)
    n = F.tanh(F.addmm(a[1], r * h, p["W_hn"]))
    return (h + z * (n - h),)


GRU_BEFORE = Equations(
    {"Wx_rz": _names("W_x", "rz"), "Wh_rz": _names("W_h", "rz"), "b_rz": _names("b_", "rz"),
     "W_xn": ("W_xn",), "W_hn": ("W_hn",), "b_n": ("b_n",)},
    _gru_hoist, _gru_before,
)  # fmt: skip


def _gru_after(F: Library, p: P, a: tuple[A, A], h: A) -> tuple[A, ...]:
    product = h @ p["Wh"]
    cut = product.shape[-1] // 3 * 2
    r, z = F.split(F.sigmoid(a[0] + product[..., :cut]), 2)
    n = F.tanh(a[1] + r * (product[..., cut:] + p["b_hn"]))
    return (n + z * (h - n),)


GRU_AFTER = Equations(
    {"Wx_rz": _names("W_x", "rz"), "b_rz": _names("b_", "rz"), "W_xn": ("W_xn",), "b_n": ("b_n",),
     "Wh": _names("W_h", "rzn"), "b_hn": ("b_hn",)},
    _gru_hoist, _gru_after,
)  # fmt: skip


def _mut1_hoist(F: Library, p: P, xs: A) -> tuple[A, ...]:
    z, r = F.split(F.affine(xs, p["Wx"], p["b"]), 2)
    return F.sigmoid(z), r, F.tanh(xs) + p["b_h"]


def _mut1(F: Library, p: P, a: tuple[A, A, A], h: A) -> tuple[A, ...]:
    z, r, x = a
    r = F.sigmoid(F.addmm(r, h, p["W_hr"]))
    return (h + z * (F.tanh(F.addmm(x, r * h, p["W_hh"])) - h),)


MUT1 = Equations({"Wx": _names("W_x", "zr"), "b": _names("b_", "zr"), "W_hr": ("W_hr",), "W_hh": ("W_hh",),
                  "b_h": ("b_h",)}, _mut1_hoist, _mut1)  # fmt: skip


def _random18_hoist(F: Library, p: P, xs: A) -> tuple[A, ...]:
    return F.affine(xs, p["W_xu"], p["b_u"]), F.softplus(F.affine(xs, p["W_xs"]))


def _random18(F: Library, p: P, a: tuple[A, A], h: A, c: A) -> tuple[A, ...]:
    u = F.addmm(a[0], h, p["W_hu"])
    gate = F.sigmoid(u)
    v = F.tanh(F.addmm(u, gate * c, p["W_cv"]))
    c = c + gate * (v - c)
    return gate * F.tanh(F.maximum(c, v) * a[1]), c


RANDOM18 = Equations({k: (k,) for k in ("W_xu", "W_xs", "W_hu", "W_cv", "b_u")},
                     _random18_hoist, _random18, states=2)  # fmt: skip
