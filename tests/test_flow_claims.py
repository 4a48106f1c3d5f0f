"""Claims of the lectures about gradients over time, as tests of the measures on cells that are driven to them."""

from itertools import pairwise

import numpy as np
import pytest

import tinyrnn as tr
from tinyrnn import flow

T, H = 1000, 16
OPEN, SHUT = 60.0, -60.0


def driven(dtype="float64", scale=1.0, **gates):
    """An LSTM whose gates in `gates` are driven to these arguments of the sigmoid, and its inputs."""
    cell = tr.cells.LSTM(4, H, dtype=dtype, rng=0)
    for k, bias in gates.items():
        getattr(cell, f"W_x{k}").data = np.zeros((4, H))
        getattr(cell, f"W_h{k}").data = np.zeros((H, H))
        getattr(cell, f"b_{k}").data = np.full(H, bias)
    for k in set("ifog") - set(gates):
        getattr(cell, f"W_h{k}").data = getattr(cell, f"W_h{k}").data * scale
    return cell, np.random.default_rng(1).normal(size=(T, 2, 4)).astype(dtype)


def last(ys, finals):
    """A loss of the last state."""
    h, c = finals
    return (h * np.linspace(-1, 1, H).astype(h.dtype)).sum() + c.sum()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_gradient_is_kept_over_a_thousand_steps(dtype):
    """f = 1, i = 0: what reaches the last cell state reaches the first, to 1e-6."""
    cell, xs = driven(dtype, f=OPEN, i=SHUT)
    found = flow.trace(cell, xs, last)
    kept = found.states["c"]
    # Once the output gate is left, nothing takes from the gradient and nothing adds to it.
    np.testing.assert_allclose(kept.norms[:-1], np.broadcast_to(kept.norms[-1], (T - 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(found.first["c"].norms, kept.norms[-1], rtol=1e-6)
    np.testing.assert_allclose(found.first["c"].gradients, kept.gradients[-1], rtol=1e-6)
    product = flow.jacobian(cell, xs)
    block = product.slices["c"]
    np.testing.assert_allclose(product.whole[:, block, block], np.broadcast_to(np.eye(H), (2, H, H)), atol=1e-6)


def test_the_gradient_vanishes_only_when_it_should():
    """f and o driven to 0: the old state was not shown and is not kept, so the gradient into it goes to 0 with them."""
    norms = []
    for bias in (0.0, -5.0, -10.0, -20.0, -40.0):
        cell, xs = driven(f=bias, o=bias)
        norms.append(flow.trace(cell, xs[:5], last).states["c"].norms[2].max())
    assert norms[0] > 1e-3
    assert all(after < before for before, after in pairwise(norms))
    assert norms[-1] < 1e-30


@pytest.mark.parametrize(("f", "o"), [(OPEN, SHUT), (SHUT, OPEN)])
def test_either_gate_alone_lets_the_gradient_through(f, o):
    """It vanishes for the state when both are closed, not when one is: f keeps it, o shows it."""
    cell, xs = driven(f=f, o=o)
    assert flow.trace(cell, xs[:3], last).states["c"].norms[1].min() > 1e-3


def test_with_closed_gates_there_is_the_forget_gate_alone():
    """f = 1, i = 0 and o = 0: of the four terms the first is the identity and the others are 0."""
    cell, xs = driven(f=OPEN, i=SHUT, o=SHUT)
    found = flow.paths(cell, xs, to_step=20)
    np.testing.assert_allclose(found.norms["f"], 1.0, rtol=1e-12)
    assert all(found.norms[label].max() < 1e-12 for label in ("c * df/dc", "g * di/dc", "i * dg/dc"))


def test_the_forget_gates_path_is_the_product_of_the_gates():
    """Where i and o are shut, the derivative over many steps is the product of the forget gates, whatever these are."""
    cell, xs = driven(i=SHUT, o=SHUT)
    found = flow.jacobian(cell, xs, 10, 60)
    f = flow.trace(cell, xs, last).probes["f"].values[10:60]
    block = found.slices["c"]
    np.testing.assert_allclose(np.einsum("bkk->bk", found.whole[:, block, block]), f.prod(0), rtol=1e-9)


@pytest.mark.parametrize(("scale", "explodes"), [(0.5, False), (4.0, True)])
def test_a_vanilla_network_vanishes_or_explodes(scale, explodes):
    """d s_t / d s_k is the product of diag(g') Wᵀ, here with g' = 1: it grows or shrinks geometrically."""
    cell = tr.cells.Elman(4, H, activation=tr.cells.identity, dtype="float64", rng=0)
    values, vectors = np.linalg.eigh(np.random.default_rng(2).normal(size=(H, H)))
    del values
    cell.W_h.data = scale * vectors
    found = flow.jacobian(cell, np.zeros((T, 1, 4)))
    np.testing.assert_allclose(found.log10_product_norms[:, 0], np.arange(1, T + 1) * np.log10(scale), rtol=1e-10)
    assert (found.log10_product_norms[-1, 0] > 300) == explodes


def test_the_output_feels_the_first_input_as_long_as_the_gates_keep_it():
    """The figures of lecture 003: an Elman network forgets; an LSTM shows the first input when its o opens."""
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(40, 1, 4))
    elman = tr.cells.Elman(4, H, dtype="float64", rng=0)
    elman.W_h.data = elman.W_h.data * 0.5
    faded = flow.sensitivity(elman, xs).norms[:, 0]
    assert faded[-1] < 1e-9 * faded[0]

    # The first feature opens i at step 0, the second opens o at step 30; f is open throughout.
    cell, _ = driven(f=OPEN, i=SHUT, o=SHUT)
    cell.W_xi.data, cell.W_xo.data = (np.zeros((4, H)) for _ in range(2))
    for k, feature in (("i", 0), ("o", 1)):
        weights = np.zeros((4, H))
        weights[feature] = 2 * OPEN
        getattr(cell, f"W_x{k}").data = weights
    xs[:, :, :2] = 0.0
    xs[0, :, 0] = xs[30, :, 1] = 1.0
    felt = flow.sensitivity(cell, xs).norms[:, 0]
    assert felt[30] > 0.1
    assert np.delete(felt, 30).max() < 1e-9
