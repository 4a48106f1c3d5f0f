"""Layers without time, against NumPy."""

import numpy as np
import pytest

import tinyrnn as tr


@pytest.mark.parametrize("shape", [(4, 3), (2, 5, 3), (3,), (0, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_equals_numpy(shape, bias):
    layer = tr.nn.Linear(3, 2, bias, dtype="float64", rng=0)
    x = np.random.default_rng(1).normal(size=shape)
    y = layer(tr.tensor(x, requires_grad=True))
    np.testing.assert_allclose(y.data, x @ layer.W.data + (layer.b.data if bias else 0), rtol=0, atol=1e-14)
    weight = np.random.default_rng(2).normal(size=y.shape)
    (y * weight).sum().backward()
    flat, sent = x.reshape(-1, 3), weight.reshape(-1, 2)
    np.testing.assert_allclose(layer.W.grad.data, flat.T @ sent, atol=1e-13)
    if bias:
        np.testing.assert_allclose(layer.b.grad.data, sent.sum(0), atol=1e-13)


def test_linear_starts_within_its_bound():
    layer = tr.nn.Linear(100, 50, rng=0)
    assert 0.099 < abs(layer.W.data).max() <= 0.1
    assert layer.W.dtype == np.float32
    assert layer(np.ones((2, 100))).dtype == np.float32


def test_linear_rejects_another_width():
    with pytest.raises(ValueError, match=r"x must be \(\.\.\., 3\) for Linear\(3, 2\), got shape \(4, 2\)"):
        tr.nn.Linear(3, 2)(tr.tensor(np.zeros((4, 2))))
    with pytest.raises(ValueError, match="in_features must be a positive int, got 0"):
        tr.nn.Linear(0, 2)


@pytest.mark.parametrize("ids", [[1, 4, 1, 0], [[2, 2], [0, 3], [1, 1]], 3, np.zeros((0, 2), np.int64)])
def test_embedding_gathers_and_scatters(ids):
    layer = tr.nn.Embedding(5, 3, dtype="float64", rng=0)
    y = layer(ids)
    np.testing.assert_array_equal(y.data, layer.W.data[np.asarray(ids)])
    weight = np.random.default_rng(1).normal(size=y.shape)
    (y * weight).sum().backward()
    expected = np.zeros((5, 3))
    np.add.at(expected, np.asarray(ids), weight)
    np.testing.assert_allclose(layer.W.grad.data, expected, atol=1e-14)


def test_padding_gives_zeros_and_is_not_learned():
    layer = tr.nn.Embedding(4, 2, padding_idx=0, rng=0)
    assert not layer.W.data[0].any()
    layer.W.data[0] = 9.0
    y = layer([[0, 1], [2, 0]])
    assert not y.data[0, 0].any()
    assert y.data[0, 1].any()
    y.sum().backward()
    np.testing.assert_array_equal(layer.W.grad.data, [[0, 0], [1, 1], [1, 1], [0, 0]])


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([[0, 1], [5, 0]], IndexError, r"ids must lie in 0\.\.4, got 5 at \(1, 0\)"),
        ([-1], IndexError, r"ids must lie in 0\.\.4, got -1 at \(0,\)"),
        ([0.0], TypeError, "ids must be integers, got float64"),
    ],
)
def test_embedding_rejects_ids_outside(ids, error, message):
    with pytest.raises(error, match=message):
        tr.nn.Embedding(5, 2)(ids)


def test_embedding_rejects_wrong_sizes():
    with pytest.raises(ValueError, match=r"padding_idx must lie in 0\.\.4, got 5"):
        tr.nn.Embedding(5, 2, padding_idx=5)
    with pytest.raises(ValueError, match="num must be a positive int"):
        tr.nn.Embedding(0, 2)


def test_dropout_scales_what_it_keeps():
    x = tr.tensor(np.ones((400, 400)), requires_grad=True)
    layer = tr.nn.Dropout(0.25, rng=3)
    y = layer(x)
    np.testing.assert_allclose(np.unique(y.data), [0, 4 / 3])
    assert abs((y.data == 0).mean() - 0.25) < 0.01
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.data, y.data)
    np.testing.assert_array_equal(tr.nn.Dropout(0.25, rng=3)(x).data, y.data)
    assert (layer(x).data != y.data).any()


def test_dropout_is_the_identity_when_evaluating_or_zero():
    x = tr.tensor(np.ones((3, 3)))
    assert tr.nn.Dropout(0.5).eval()(x) is x
    assert tr.nn.Dropout(0.0)(x) is x
    for p in (-0.1, 1.0, 2.0):
        with pytest.raises(ValueError, match=r"p must be in \[0, 1\)"):
            tr.nn.Dropout(p)
