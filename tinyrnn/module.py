"""Modules, parameters, cells and probes: how a model holds its weights, and how a person names what to look at.

A `Module` finds its parameters by walking its attributes, so that assigning one is all the registration there is, and
a parameter's name is the path to it: `layers.0.W_xi`. A `Cell` is a module that knows how to take one step.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MethodType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from tinyrnn import init as initialisers
from tinyrnn._core.tape import EVERYTHING, Tensor, float_dtype, mode, zeros
from tinyrnn.backend import check_device, to_host
from tinyrnn.checks import as_array, as_count, as_rng, as_rows, as_size, positional, type_name

Array = npt.NDArray[Any]
STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
Initialiser = Callable[[np.random.Generator, tuple[int, ...], np.dtype[Any]], npt.ArrayLike]


class Parameter(Tensor):
    """A leaf Tensor that is learned: `requires_grad` is True, and a Module that is given one finds it by name.

    data: numbers of any shape, copied. dtype: float32 or float64; that of a float array if None, else float32.
    """

    def __init__(self, data: npt.ArrayLike | Tensor, dtype: npt.DTypeLike | None = None) -> None:
        super().__init__(data, True, dtype)


class Module:
    """Something with parameters. Subclasses call `super().__init__()`, assign parameters and define `forward`.

    Parameters and modules are found in attributes, and in lists, tuples and dicts in attributes, whenever they are
    asked for. What is reachable by two paths is counted once, under the first.
    """

    training: bool
    """Whether this module is being trained (dropout draws) or used (it does not); see `train` and `eval`."""

    def __init__(self) -> None:
        object.__setattr__(self, "training", True)

    def __setattr__(self, name: str, value: Any) -> None:
        if "training" not in self.__dict__ and next(_members("", value), None) is not None:
            raise AttributeError(
                f"{type(self).__name__}.{name} was assigned before super().__init__() was called; call it first"
            )
        if isinstance(value, Tensor) and not isinstance(value, Parameter):
            if isinstance(self.__dict__.get(name), Parameter):
                raise TypeError(
                    f"{type(self).__name__}.{name} is a Parameter, and a Tensor in its place would not be learned; "
                    "assign tr.Parameter(...), or set its values by .data"
                )
        elif isinstance(value, Parameter) and value.name is None:
            value.name = name
        object.__setattr__(self, name, value)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            hint = "" if "training" in self.__dict__ else "; its __init__ has not called super().__init__()"
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{hint}")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What calling the module computes."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    # -- what is inside ------------------------------------------------------------------------------------------------

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module, then those inside it, each once, with the path to it (this one's is `prefix`)."""
        found: set[int] = set()
        stack = [(prefix, self)]
        while stack:
            path, module = stack.pop()
            if id(module) in found:
                continue
            found.add(id(module))
            yield path, module
            inside = [m for name, value in vars(module).items() for m in _members(name, value)]
            stack += [(_join(path, name), m) for name, m in reversed(inside) if isinstance(m, Module)]

    def modules(self) -> Iterator[Module]:
        """This module, then those inside it, each once."""
        return (module for _, module in self.named_modules())

    def named_generators(self, prefix: str = "") -> Iterator[tuple[str, np.random.Generator]]:
        """Every random generator that a module holds as an attribute, once, with the path to it."""
        found: set[int] = set()
        for path, module in self.named_modules(prefix):
            for name, value in vars(module).items():
                if isinstance(value, np.random.Generator) and id(value) not in found:
                    found.add(id(value))
                    yield _join(path, name), value

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Every parameter once, with the path to it: a module's own first, then those of the modules inside it."""
        found: set[int] = set()
        for path, module in self.named_modules(prefix):
            for name, p in _own_parameters(module):
                if id(p) not in found:
                    found.add(id(p))
                    yield _join(path, name), p

    def parameters(self) -> list[Parameter]:
        """Every parameter once, in the order of `named_parameters`."""
        return [p for _, p in self.named_parameters()]

    def zero_grad(self) -> None:
        """Forget every parameter's gradient: `.grad` is None afterwards."""
        for p in self.parameters():
            p.grad = None

    def train(self, mode: bool = True) -> Module:
        """Set `.training` here and in every module inside; returns the module."""
        for module in self.modules():
            module.training = bool(mode)
        return self

    def eval(self) -> Module:
        """`train(False)`."""
        return self.train(False)

    @property
    def device(self) -> str:
        """Where the module computes, "cpu" or "cuda": where its parameters are; "cpu" without any."""
        one = self._a_parameter()
        return "cpu" if one is None else one.device

    def _a_parameter(self) -> Parameter | None:
        """One of the module's parameters; every run asks, and most modules have their own behind their sizes."""
        for value in reversed(vars(self).values()):
            if isinstance(value, Parameter):
                return value
        return next((p for _, p in self.named_parameters()), None)

    def to(self, device: str) -> Module:
        """Move the module to "cpu" or "cuda", in place: parameters with their gradients, and all other tensors that
        modules hold as attributes, or in lists, tuples and dicts, and that are no results; returns the module.

        An optimiser's state follows at its next step. Plain arrays are moved where an op meets them. Raises ValueError
        for another device, ImportError without CuPy, RuntimeError without a GPU; then nothing was moved.
        """
        device = check_device(device)
        for module in self.modules():
            for value in vars(module).values():
                for tensor in _tensors(value):
                    if tensor.is_leaf:
                        tensor._move(device)
        return self

    # -- values out and in ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Array]:
        """Copies of all parameters' values, by name, as NumPy arrays."""
        return {name: np.array(to_host(p._array)) for name, p in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, npt.ArrayLike]) -> None:
        """Copy values from `state`, which must hold exactly this module's names, each of its shape and dtype.

        Raises TypeError if `state` is no mapping, and ValueError that lists every name missing or unexpected and every
        shape or dtype that differs; then nothing was changed.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state must be a dict of arrays, got {type(state).__name__}")
        own = dict(self.named_parameters())
        arrays = {name: as_array(f"state[{name!r}]", value) for name, value in state.items()}
        wrong = [f"missing: {name} {p.shape} {p.dtype}" for name, p in own.items() if name not in arrays]
        wrong += [f"unexpected: {name} {a.shape} {a.dtype}" for name, a in arrays.items() if name not in own]
        for name, p in own.items():
            array = arrays.get(name)
            if array is None:
                continue
            if array.shape != p.shape:
                wrong.append(f"shape of {name}: got {array.shape}, needs {p.shape}")
            if array.dtype != p.dtype:
                wrong.append(f"dtype of {name}: got {array.dtype}, needs {p.dtype}")
        if wrong:
            raise ValueError(f"state does not fit {type(self).__name__}, nothing was loaded:\n  " + "\n  ".join(wrong))
        for name, p in own.items():
            p.data = arrays[name]

    def arguments(self) -> dict[str, Any]:
        """What to call the class with to make another module like this one, but for `rng`: by name, read from
        attributes of the same names.

        `dtype` is among them if the class takes it, also by `**options`. Override it where an argument is kept in
        another form; `tr.save` writes what it gives. Raises TypeError if an argument was not kept in an attribute:
        `self.activation = activation`.
        """
        found: dict[str, Any] = {}
        for name, argument in inspect.signature(type(self)).parameters.items():
            if argument.kind is argument.VAR_KEYWORD and isinstance(self, Cell):
                found["dtype"] = self.dtype
            if name == "rng" or argument.kind in STARRED:
                continue
            if not hasattr(self, name):
                raise TypeError(
                    f"{type(self).__name__} does not keep its argument {name!r}, so another one like it can not be "
                    f"made; assign self.{name} = {name} in __init__"
                )
            found[name] = getattr(self, name)
        return found

    # -- how it looks --------------------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """What stands in the parentheses behind the class's name; for subclasses to override."""
        return ""

    def __repr__(self) -> str:
        return "\n".join(_tree(self, "", "", ""))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _members(name: str, value: Any) -> Iterator[tuple[str, Parameter | Module]]:
    """The parameters and modules in the attribute `name`, containers opened, with their paths."""
    if isinstance(value, (Parameter, Module)):
        yield name, value
    elif isinstance(value, (list, tuple)):
        for k, item in enumerate(value):
            yield from _members(f"{name}.{k}", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _members(f"{name}.{key}", item)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in an attribute, containers opened."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)


def _own_parameters(module: Module) -> Iterator[tuple[str, Parameter]]:
    for name, value in vars(module).items():
        for path, member in _members(name, value):
            if isinstance(member, Parameter):
                yield path, member


def _tree(module: Module, name: str, head: str, indent: str) -> Iterator[str]:
    """The lines of a module's repr. head: what leads its first line; indent: what leads the others."""
    count = sum(p.size for p in module.parameters())
    label = f"{name}: " if name else ""
    yield f"{head}{label}{type(module).__name__}({module.extra_repr()})  {count:,} parameter{'s' * (count != 1)}"
    children = [
        (path, m) for attr, value in vars(module).items() for path, m in _members(attr, value) if isinstance(m, Module)
    ]
    shapes: dict[str, list[str]] = {}
    for path, p in _own_parameters(module):
        shapes.setdefault(f"{p.shape} {p.dtype}", []).append(path)
    for shape, names in shapes.items():
        yield f"{indent}{'│' if children else ' '}   {' '.join(names)}: {shape}"
    for k, (path, child) in enumerate(children):
        last = k == len(children) - 1
        yield from _tree(child, path, f"{indent}{'└─ ' if last else '├─ '}", f"{indent}{'   ' if last else '│  '}")


# -- cells -------------------------------------------------------------------------------------------------------------


class Cell(Module):
    """One step of a recurrent network. Subclasses name their `states`, make parameters and define `step`.

        class Leaky(tr.Cell):
            states = ("h",)                                    # the first is the output

            def __init__(self, input_size, hidden_size, *, dtype="float32", rng=None):
                super().__init__(input_size, hidden_size, dtype=dtype, rng=rng)
                self.W = self.param((input_size, hidden_size))

            def step(self, x, h):                              # x (B, I), h (B, H)
                return 0.9 * h + tr.tanh(x @ self.W)           # the new states, in order

    input_size, hidden_size: the widths of x and of the states. dtype: of parameters and states, float32 or float64.
    rng: a numpy Generator or a seed, from which initial values are drawn; None: seeded by the system.
    A step must treat every row of the batch by itself: rows that have ended are not passed to it any more.
    """

    states: ClassVar[tuple[str, ...]] = ("h",)
    """The names of the states, in the order in which `step` takes and returns them. The first is the output."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        names = cls.__dict__.get("states", cls.states)
        if isinstance(names, property):
            return
        if not isinstance(names, tuple) or not names or not all(isinstance(n, str) for n in names):
            raise TypeError(f'{cls.__name__}.states must be a tuple of names like ("h", "c") or ("h",), got {names!r}')
        if len(set(names)) < len(names):
            raise TypeError(f"{cls.__name__}.states must be different names, got {names!r}")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        dtype: npt.DTypeLike = "float32",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__()
        self.input_size = as_size("input_size", input_size)
        self.hidden_size = as_size("hidden_size", hidden_size)
        self.dtype = float_dtype(dtype)
        self.rng = as_rng(rng)

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """The width of every state, in order; `hidden_size` each. Override it where widths differ."""
        return (self.hidden_size,) * len(self.states)

    def param(
        self, shape: int | tuple[int, ...], init: Initialiser | npt.ArrayLike | Tensor | None = None
    ) -> Parameter:
        """A new parameter of the cell's dtype; assign it to an attribute to give it its name.

        init: a callable (rng, shape, dtype) -> array (see `tr.init`), a number, or an array of that shape;
        None: uniform in ±1/sqrt(hidden_size). Raises ValueError if what it gives has another shape.
        """
        shape = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
        shape = tuple(as_size("every size in shape", n) for n in shape)
        if init is None:
            bound = self.hidden_size**-0.5
            values: Any = initialisers.uniform(self.rng, shape, self.dtype, low=-bound, high=bound)
        else:
            values = as_array("init", init(self.rng, shape, self.dtype) if callable(init) else init)
            if values.ndim == 0:
                values = np.full(shape, values)
        if values.dtype.kind not in "fiub":
            raise TypeError(f"init must give numbers, got {values.dtype.name}")
        if values.shape != shape:
            raise ValueError(f"init must give shape {shape}, got {values.shape}")
        return Parameter(values, dtype=self.dtype)

    def initial_state(self, batch: int) -> tuple[Tensor, ...]:
        """The states before the first step: zeros, (batch, size) each."""
        return self._zero_states(as_count("batch", batch), self.device)

    def _zero_states(self, batch: int, device: str) -> tuple[Tensor, ...]:
        """`Cell.initial_state` for a caller that has checked the batch and knows where the cell computes."""
        return zeros(batch, self.state_sizes, self.dtype, device)

    def draws(self, steps: int, batch: int) -> tuple[Tensor, ...]:
        """Further time inputs that the cell makes itself for every run, (steps, batch, n) each; none by default.

        `scan` and `unroll` call it once a run and hand a step its part behind the caller's time inputs, before the
        states. It is the place for random masks: what a step draws itself would be the same at every step of a scan.
        """
        return ()

    def options(self) -> dict[str, Any]:
        """The arguments of the class beside sizes, dtype and rng: `arguments()` without them.

        Raises TypeError if an argument was not kept in an attribute: `self.activation = activation`.
        """
        return {k: v for k, v in self.arguments().items() if k not in ("input_size", "hidden_size", "dtype")}

    def another(self, input_size: int | None = None, *, rng: np.random.Generator | int | None = None) -> Cell:
        """A new cell of this class with the same sizes, dtype and `options()`, and parameters of its own.

        input_size: another width of x. rng: what its parameters are drawn from; None: this cell's generator.
        """
        width = self.input_size if input_size is None else input_size
        rng = self.rng if rng is None else rng
        return type(self)(width, self.hidden_size, dtype=self.dtype, rng=rng, **self.options())

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """step(x, *state) -> the new states, in order. x: (B, input_size); state: a (B, size) Tensor each.

        A cell of one state may return it bare. With several time inputs, all come before the states.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no step()")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """`step` on checked arguments: calling a cell takes one step.

        Arrays become Tensors of the cell's dtype. Raises TypeError or ValueError that names the argument, what it got
        and what it needs.
        """
        if not kwargs.keys() - {"mask"}:
            args = self._checked(args)
        return self.step(*args, **kwargs)

    def _checked(self, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
        """The arguments of a step as Tensors: time inputs, what `draws` gives, states."""
        n, kind = len(args) - len(self.states), type(self).__name__
        low, high = self._step_takes()
        if n < 1 or not low <= len(args) <= high:
            drawn = len(self.draws(0, 0))
            needs = f"x, {f'{drawn} of draws, ' if drawn else ''}{', '.join(self.states)}"
            raise TypeError(f"{kind} takes {needs}, each (batch, features), got {len(args)} arguments")
        names = ["x" if k == 0 else f"x{k + 1}" for k in range(n)] + list(self.states)
        widths = [self.input_size, *[None] * (n - 1), *self.state_sizes]
        return as_rows(names, args, widths, self.dtype, kind, self.device)

    def _step_takes(self) -> tuple[int, float]:
        """How many arguments `step` takes, at least and at most: time inputs, draws and states."""
        step = self.step
        if not isinstance(step, MethodType):
            return positional(step)
        low, high = positional(step.__func__)
        return low - 1, high - 1

    def _check_count(self, count: int, drawn: int) -> None:
        """Raise TypeError unless `step` takes so many time inputs of the caller's and so many that are drawn."""
        others = drawn + len(self.states)
        low, high = self._step_takes()
        if not low <= count + others <= high:
            needs = f"{low - others}{'' if low == high else ' or more'}"
            step = f"{type(self).__name__}.step{inspect.signature(self.step)}"
            raise TypeError(
                f"xs must hold {needs}, as many time inputs as {step} takes before its {len(self.states)} states, got "
                f"{count}"
            )

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"


# -- probes ------------------------------------------------------------------------------------------------------------

_listening: ContextVar[tuple[dict[str, list[Tensor]], ...]] = ContextVar("tinyrnn_probes", default=())


def listening() -> bool:
    """Whether a `probes()` block is around the caller."""
    return bool(_listening.get())


def probe(name: str, value: Tensor) -> Tensor:
    """`value` itself, seen under `name` by every `probes()` block around the call, and called so in `tr.explain`."""
    if not isinstance(value, Tensor) or not isinstance(name, str):
        raise TypeError(
            f"probe needs a name, a str, and a value, a Tensor, got {type_name(name)} and {type_name(value)}"
        )
    if mode() == EVERYTHING and value.op is not None and value.name is None:
        value.name = name
    for seen in _listening.get():
        seen.setdefault(name, []).append(value)
    return value


@contextmanager
def probes() -> Iterator[dict[str, list[Tensor]]]:
    """Collect what `probe` calls in the block are given: name -> list of Tensors, in order; in this thread only.

    After `with tr.probes() as seen: tr.unroll(lstm, xs)`, seen["f"][t] is the forget gate at step t, (B, H).
    """
    with _collect(_listening.get()) as seen:
        yield seen


@contextmanager
def probes_alone() -> Iterator[dict[str, list[Tensor]]]:
    """`probes()`, but the blocks around see nothing of it: for who calls a step on values that are no run's."""
    with _collect(()) as seen:
        yield seen


@contextmanager
def _collect(others: tuple[dict[str, list[Tensor]], ...]) -> Iterator[dict[str, list[Tensor]]]:
    seen: dict[str, list[Tensor]] = {}
    token = _listening.set((*others, seen))
    try:
        yield seen
    finally:
        _listening.reset(token)
