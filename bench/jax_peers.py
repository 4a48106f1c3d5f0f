"""Contenders in JAX: `lax.scan` over a cell's equations, under jit. Needs jax; only processors are used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from bench.peers import Equations
from bench.record import Run

Array = NDArray[Any]


class _Library:
    """The ops of `bench.peers.Library`, in JAX."""

    sigmoid = staticmethod(jax.nn.sigmoid)
    tanh = staticmethod(jnp.tanh)
    softplus = staticmethod(jax.nn.softplus)
    maximum = staticmethod(jnp.maximum)

    @staticmethod
    def split(x: jax.Array, n: int) -> tuple[jax.Array, ...]:
        return tuple(jnp.split(x, n, -1))

    @staticmethod
    def affine(xs: jax.Array, W: jax.Array, b: jax.Array | None = None) -> jax.Array:
        return xs @ W if b is None else xs @ W + b

    @staticmethod
    def addmm(a: jax.Array, h: jax.Array, W: jax.Array) -> jax.Array:
        return a + h @ W

    @staticmethod
    def layer_norm(x: jax.Array, gain: jax.Array, bias: jax.Array | None = None) -> jax.Array:
        centred = x - x.mean(-1, keepdims=True)
        y = centred * jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-5) * gain
        return y if bias is None else y + bias


def _outputs(equations: Equations, hidden: int, p: Mapping[str, jax.Array], xs: jax.Array) -> jax.Array:
    F = _Library()
    state = (jnp.zeros((xs.shape[1], hidden), xs.dtype),) * equations.states

    def body(state: tuple[jax.Array, ...], a: tuple[jax.Array, ...]) -> tuple[tuple[jax.Array, ...], jax.Array]:
        state = equations.step(F, p, a, *state)
        return state, state[0]

    ys: jax.Array = jax.lax.scan(body, state, equations.hoist(F, p, xs))[1]
    return ys


def forward(equations: Equations, hidden: int, parameters: Mapping[str, Array], xs: Array) -> Run:
    """The outputs, by a function compiled afresh for this call of `forward`."""
    p, x = jax.device_put(dict(parameters)), jax.device_put(xs)
    compiled = jax.jit(lambda p, x: _outputs(equations, hidden, p, x))
    return lambda: jax.block_until_ready(compiled(p, x))


def training_step(
    equations: Equations, hidden: int, parameters: Mapping[str, Array], xs: Array, gradient: Array
) -> Run:
    """Forward and backward from a given gradient of the outputs; returns the outputs."""
    p, x, g = jax.device_put(dict(parameters)), jax.device_put(xs), jax.device_put(gradient)

    @jax.jit
    def step(p: Any, x: jax.Array, g: jax.Array) -> tuple[jax.Array, Any]:
        ys, back = jax.vjp(lambda p: _outputs(equations, hidden, p, x), p)
        return ys, back(g)[0]

    return lambda: jax.block_until_ready(step(p, x, g))[0]


def gradients(equations: Equations, hidden: int, parameters: Mapping[str, Array], xs: Array, gradient: Array) -> Any:
    """The parameters' gradients from a given gradient of the outputs, as arrays; for tests."""
    p = jax.device_put(dict(parameters))
    back = jax.vjp(lambda p: _outputs(equations, hidden, p, jnp.asarray(xs)), p)[1]
    return {name: np.asarray(value) for name, value in back(jnp.asarray(gradient))[0].items()}
