"""The table that the tests of ops run over: every record of tr.ops.RECORDS, and every function made of them.

A new elementwise op needs no row here: its record names its NumPy reference, its domain and its kinks. A new op of
another kind is one row.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

import tinyrnn as tr
from tinyrnn.ops.elementwise import POSITIVE, REAL, UNIT

OPS = {op.name: op for op in tr.ops.RECORDS}
MARGIN = 0.02  # how far from a kink arguments are drawn


@dataclass
class Case:
    """One op at one set of shapes. fn maps Tensors, reference maps the same arrays in float64."""

    name: str
    fn: Callable
    reference: Callable
    shapes: list
    domain: list = field(default_factory=list)
    kink: Callable | None = None  # distance of the arrays from the nearest point without derivative

    def arrays(self, dtype, seed=0):
        """Random arguments, drawn again where they are near a kink."""
        rng = np.random.default_rng([seed, *self.name.encode()])
        domain = self.domain or [REAL] * len(self.shapes)
        for _ in range(1000):
            drawn = [rng.uniform(*d, s).astype(dtype) for d, s in zip(domain, self.shapes, strict=True)]
            if self.kink is None or np.min(self.kink(*drawn), initial=np.inf) >= MARGIN:
                return drawn
        raise AssertionError(f"no arguments of {self.name} away from its kinks in 1000 draws")


def broadcast_shapes(arity):
    """Shapes of that many operands: equal, without axes, empty, and broadcast in different ways."""
    yield "same", [(3, 4)] * arity
    yield "scalar", [()] * arity
    yield "empty", [(2, 0, 3)] * arity
    if arity == 2:
        yield "row", [(3, 4), (4,)]
        yield "column", [(3, 1), (2, 3, 4)]
        yield "outer", [(3, 1), (1, 4)]
        yield "number", [(), (2, 3)]
        yield "empty-row", [(0, 3), (3,)]
        yield "grown-to-empty", [(1, 3), (0, 3)]
    if arity == 3:
        yield "outer", [(3, 1, 1), (2, 1), (4,)]
        yield "numbers", [(2, 3), (), ()]


def elementwise_cases():
    for op in tr.ops.RECORDS:
        if op.code >= 0:
            for label, shapes in broadcast_shapes(op.arity):
                yield Case(f"{op.name}-{label}", op, op.reference, shapes, list(op.domain), op.kink)


def gap(axis):
    """How far the largest element along `axis` is ahead of the next."""

    def distance(x):
        flat = np.sort(x, axis) if isinstance(axis, int) else np.sort(x.ravel())
        return np.diff(flat, axis=axis if isinstance(axis, int) else 0).take(-1, axis if isinstance(axis, int) else 0)

    return distance


def softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def log_softmax(x, axis):
    return x - x.max(axis, keepdims=True) - np.log(np.exp(x - x.max(axis, keepdims=True)).sum(axis, keepdims=True))


def cross_entropy(x, targets):
    return -log_softmax(x, 1)[np.arange(len(targets)), targets]


def bernoulli(x, t):
    p = 1 / (1 + np.exp(-x))
    return -(t * np.log(p) + (1 - t) * np.log(1 - p))


def layer_norm(x, weight=1.0, bias=0.0, eps=1e-5):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * weight + bias


def dropped(x, p):
    bits = np.random.default_rng(5).integers(0, 1 << 64, x.size, dtype=np.uint64).view(np.uint16)
    return np.where(bits[: x.size].reshape(x.shape) < (1 - p) * 65536, x / (1 - p), 0)


def scatter(g, shape, index):
    out = np.zeros(shape)
    np.add.at(out, index, g)
    return out


TARGETS = np.array([2, 0, 2, 1])
ROWS = np.array([[3, 0], [3, 3]])
DISTINCT = np.array([2, 0, 3])
MASK = np.arange(12).reshape(3, 4) % 3 == 0

# name, function of Tensors, function of float64 arrays, shapes
ROWS_OF_FUNCTIONS = [
    ("matmul-2d", tr.matmul, np.matmul, [(3, 4), (4, 2)]),
    ("matmul-row", tr.matmul, np.matmul, [(4,), (4, 2)]),
    ("matmul-column", tr.matmul, np.matmul, [(3, 4), (4,)]),
    ("matmul-dot", tr.matmul, np.matmul, [(4,), (4,)]),
    ("matmul-batched", tr.matmul, np.matmul, [(2, 3, 4), (2, 4, 2)]),
    ("matmul-batched-row", tr.matmul, np.matmul, [(4,), (2, 4, 3)]),
    ("matmul-batched-column", tr.matmul, np.matmul, [(2, 3, 4), (4,)]),
    ("matmul-weights", tr.matmul, np.matmul, [(2, 3, 4), (4, 2)]),
    ("matmul-broadcast", tr.matmul, np.matmul, [(2, 1, 3, 4), (3, 4, 2)]),
    ("matmul-left", tr.matmul, np.matmul, [(3, 4), (2, 4, 2)]),
    ("matmul-empty-rows", tr.matmul, np.matmul, [(0, 4), (4, 2)]),
    ("matmul-empty-inner", tr.matmul, np.matmul, [(3, 0), (0, 2)]),
    ("matmul-empty-batch", tr.matmul, np.matmul, [(0, 3, 4), (4, 2)]),
    ("sum", tr.sum, np.sum, [(3, 4)]),
    ("sum-axis", lambda x: tr.sum(x, 0), lambda x: x.sum(0), [(3, 4)]),
    ("sum-axes", lambda x: tr.sum(x, (0, -1)), lambda x: x.sum((0, -1)), [(2, 3, 4)]),
    ("sum-keepdims", lambda x: tr.sum(x, 1, keepdims=True), lambda x: x.sum(1, keepdims=True), [(2, 3, 4)]),
    ("sum-no-axis", lambda x: tr.sum(x, ()), lambda x: x.sum(()), [(2, 3)]),
    ("sum-scalar", tr.sum, np.sum, [()]),
    ("sum-empty", lambda x: tr.sum(x, 0), lambda x: x.sum(0), [(0, 3)]),
    ("mean", tr.mean, np.mean, [(3, 4)]),
    ("mean-axis", lambda x: tr.mean(x, -1), lambda x: x.mean(-1), [(2, 3, 4)]),
    ("mean-axes", lambda x: tr.mean(x, (2, 0), True), lambda x: x.mean((0, 2), keepdims=True), [(2, 3, 4)]),
    ("mean-empty", lambda x: tr.mean(x, 1), lambda x: x.mean(1), [(0, 3)]),
    ("max", tr.max, np.max, [(3, 4)], None, gap(None)),
    ("max-axis", lambda x: tr.max(x, 1), lambda x: x.max(1), [(3, 4)], None, gap(1)),
    ("max-axes", lambda x: tr.max(x, (0, 1), True), lambda x: x.max((0, 1), keepdims=True), [(3, 4)], None, gap(None)),
    ("max-empty", lambda x: tr.max(x, 1), lambda x: x.max(1), [(0, 3)]),
    ("reshape", lambda x: tr.reshape(x, (2, 6)), lambda x: x.reshape(2, 6), [(3, 4)]),
    ("reshape-flat", lambda x: tr.reshape(x, -1), lambda x: x.reshape(-1), [(2, 3, 2)]),
    ("reshape-empty", lambda x: tr.reshape(x, (3, -1)), lambda x: x.reshape(3, 0), [(0, 3)]),
    ("transpose", tr.transpose, np.transpose, [(3, 4)]),
    ("transpose-all", tr.transpose, np.transpose, [(2, 3, 4)]),
    ("transpose-axes", lambda x: tr.transpose(x, (1, -1, 0)), lambda x: x.transpose(1, 2, 0), [(2, 3, 4)]),
    ("broadcast_to", lambda x: tr.broadcast_to(x, (2, 3, 4)), lambda x: np.broadcast_to(x, (2, 3, 4)), [(3, 1)]),
    ("sum_to", lambda x: tr.ops.sum_to(x, (3, 1)), lambda x: x.sum((0, 2))[:, None], [(2, 3, 4)]),
    ("concat", lambda *xs: tr.concat(xs), lambda *xs: np.concatenate(xs), [(1, 3), (2, 3), (0, 3)]),
    ("concat-axis", lambda *xs: tr.concat(xs, -1), lambda *xs: np.concatenate(xs, -1), [(2, 3, 1), (2, 3, 2)]),
    ("concat-one", lambda x: tr.concat([x], 1), lambda x: x, [(2, 3)]),
    ("stack", lambda *xs: tr.stack(xs), lambda *xs: np.stack(xs), [(2, 3)] * 3),
    ("stack-last", lambda *xs: tr.stack(xs, -1), lambda *xs: np.stack(xs, -1), [(2, 3)] * 2),
    ("stack-scalars", lambda *xs: tr.stack(xs), lambda *xs: np.stack(xs), [()] * 2),
    ("split", lambda x: tr.split(x, 3)[1], lambda x: np.split(x, 3)[1], [(6, 2)]),
    ("split-at", lambda x: tr.split(x, [1, 3], 1)[2], lambda x: np.split(x, [1, 3], 1)[2], [(2, 5)]),
    ("split-all", lambda x: tr.concat(tr.split(x, 2, 1)[::-1], 1), lambda x: np.roll(x, 2, 1), [(3, 4)]),
    ("getitem-int", lambda x: x[1], lambda x: x[1], [(3, 4)]),
    ("getitem-slices", lambda x: x[::-2, 1:3], lambda x: x[::-2, 1:3], [(4, 4)]),
    ("getitem-none", lambda x: x[None, ..., 0], lambda x: x[None, ..., 0], [(3, 4)]),
    ("getitem-rows", lambda x: x[TARGETS], lambda x: x[TARGETS], [(3, 2)]),
    ("getitem-list", lambda x: x[[0, 0, -1]], lambda x: x[[0, 0, -1]], [(3, 2)]),
    ("getitem-pairs", lambda x: x[TARGETS, TARGETS], lambda x: x[TARGETS, TARGETS], [(3, 3)]),
    ("getitem-mask", lambda x: x[MASK], lambda x: x[MASK], [(3, 4)]),
    ("getitem-mixed", lambda x: x[:, TARGETS, 1:], lambda x: x[:, TARGETS, 1:], [(2, 3, 3)]),
    ("getitem-nothing", lambda x: x[:0], lambda x: x[:0], [(3, 4)]),
    ("getitem-scalar", lambda x: x[()], lambda x: x[()], [()]),
    ("scatter", lambda g: OPS["scatter"](g, (3, 2), TARGETS), lambda g: scatter(g, (3, 2), TARGETS), [(4, 2)]),
    ("take", lambda x: tr.take(x, ROWS), lambda x: x[ROWS], [(4, 3)]),
    ("take-vector", lambda x: tr.take(x, TARGETS), lambda x: x[TARGETS], [(3,)]),
    ("take-one", lambda x: tr.take(x, 2), lambda x: x[2], [(3, 4)]),
    ("take-none", lambda x: tr.take(x, []), lambda x: x[:0], [(3, 4)]),
    ("take-high", lambda x: tr.take(x, ROWS), lambda x: x[ROWS], [(4, 2, 3)]),
    ("scatter_rows", lambda g: OPS["scatter_rows"](g, ROWS, (4, 3)), lambda g: scatter(g, (4, 3), ROWS), [(2, 2, 3)]),
    ("pick_rows", lambda x: OPS["pick_rows"](x, DISTINCT), lambda x: x[DISTINCT], [(4, 3)]),
    ("place_rows", lambda g: OPS["place_rows"](g, DISTINCT, (4, 3)), lambda g: scatter(g, (4, 3), DISTINCT), [(3, 3)]),
    ("to", lambda x: OPS["to"](x, "cpu"), np.copy, [(3, 4)]),
    ("softmax", tr.softmax, lambda x: softmax(x, -1), [(3, 4)]),
    ("softmax-axis", lambda x: tr.softmax(x, 1), lambda x: softmax(x, 1), [(2, 3, 4)]),
    ("softmax-empty", tr.softmax, lambda x: x, [(0, 4)]),
    ("log_softmax", tr.log_softmax, lambda x: log_softmax(x, -1), [(3, 4)]),
    ("log_softmax-axis", lambda x: tr.log_softmax(x, 0), lambda x: log_softmax(x, 0), [(2, 3, 4)]),
    ("cross_entropy", lambda x: tr.cross_entropy(x, TARGETS), lambda x: cross_entropy(x, TARGETS).mean(), [(4, 3)]),
    ("cross_entropy-sum", lambda x: tr.cross_entropy(x, TARGETS, "sum"), lambda x: cross_entropy(x, TARGETS).sum(),
     [(4, 3)]),
    ("cross_entropy-none", lambda x: tr.cross_entropy(x, TARGETS, "none"), lambda x: cross_entropy(x, TARGETS),
     [(4, 3)]),
    ("mse_loss", tr.mse_loss, lambda x, y: ((x - y) ** 2).mean(), [(3, 4), (3, 4)]),
    ("mse_loss-sum", lambda x, y: tr.mse_loss(x, y, "sum"), lambda x, y: ((x - y) ** 2).sum(), [(3, 4), (3, 4)]),
    ("mse_loss-none", lambda x, y: tr.mse_loss(x, y, "none"), lambda x, y: (x - y) ** 2, [(3, 4), (3, 4)]),
    ("binary_cross_entropy_with_logits", tr.binary_cross_entropy_with_logits, lambda x, t: bernoulli(x, t).mean(),
     [(3, 4), (3, 4)], [REAL, UNIT]),
    ("binary_cross_entropy_with_logits-sum", lambda x, t: tr.binary_cross_entropy_with_logits(x, t, "sum"),
     lambda x, t: bernoulli(x, t).sum(), [(5,), (5,)], [REAL, UNIT]),
    ("binary_cross_entropy_with_logits-none", lambda x, t: tr.binary_cross_entropy_with_logits(x, t, "none"), bernoulli,
     [(5,), (5,)], [REAL, UNIT]),
    ("layer_norm", tr.layer_norm, layer_norm, [(3, 5)]),
    ("layer_norm-weight", tr.layer_norm, layer_norm, [(2, 3, 5), (5,)]),
    ("layer_norm-bias", tr.layer_norm, layer_norm, [(3, 5), (5,), (5,)], [REAL, POSITIVE, REAL]),
    ("layer_norm-eps", lambda x: tr.layer_norm(x, eps=0.5), lambda x: layer_norm(x, eps=0.5), [(5,)]),
    ("layer_norm-empty", tr.layer_norm, layer_norm, [(0, 5)]),
    ("dropout", lambda x: tr.dropout(x, 0.4, np.random.default_rng(5)), lambda x: dropped(x, 0.4), [(3, 4)]),
    ("dropout-eval", lambda x: tr.dropout(x, 0.4, np.random.default_rng(5), training=False), np.copy, [(3, 4)]),
]  # fmt: skip

CASES = [*elementwise_cases(), *(Case(*row) for row in ROWS_OF_FUNCTIONS)]
IDS = [case.name for case in CASES]
