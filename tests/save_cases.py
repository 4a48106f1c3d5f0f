"""What the tests of `tr.save` and `tr.load` share: modules of a user's own, and what makes two modules the same."""

import numpy as np
from cell_table import CELLS

import tinyrnn as tr

I, H = 3, 5  # noqa: E741


def swish(x):
    return x * tr.sigmoid(x)


class Leaky(tr.Cell):
    """As in the README: sizes and **options."""

    def __init__(self, input_size, hidden_size, *, rate=0.9, **options):
        super().__init__(input_size, hidden_size, **options)
        self.rate = rate
        self.W = self.param((input_size, hidden_size))

    def step(self, x, h):
        return self.rate * h + tr.tanh(x @ self.W)


class Both(tr.Module):
    """Arguments of every sort: modules, lists of them, plain values, a parameter of its own."""

    def __init__(self, parts, note=None, *, scale=1.0, dtype="float64"):
        super().__init__()
        self.parts, self.note, self.scale, self.dtype = parts, note, scale, np.dtype(dtype)
        self.own = tr.Parameter(np.full(2, scale), dtype=dtype)


TABLES = {
    f for _, options, _ in CELLS.values() for f in options.values() if getattr(f, "__module__", "") == "cell_table"
}
OWN = [Leaky, Both, swish, *TABLES]


def everything(module):
    """All that makes a module: the tree with its options, parameters to the bit, and what is training."""
    values = {name: (str(p.dtype), p.shape, p.data.tobytes()) for name, p in module.named_parameters()}
    inside = {}
    for path, one in module.named_modules():
        plain = {name: show(value) for name, value in vars(one).items() if name != "rng"}
        inside[path] = (type(one), plain)
    return repr(module), values, inside


def show(value):
    """A value as text, in which addresses and parameters' values do not count."""
    if isinstance(value, (tr.Tensor, tr.Module)):
        return type(value).__name__
    if isinstance(value, dict):
        return {key: show(item) for key, item in value.items()}
    return [show(item) for item in value] if isinstance(value, (list, tuple)) else repr(value)


def again(module, path, **options):
    tr.save(path, module)
    return tr.load(path, OWN, **options)
