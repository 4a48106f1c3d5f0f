"""A module by itself in one file: its parameters, and what to make it of.

    model = tr.nn.Acceptor(tr.nn.RNN(tr.cells.LSTM(8, 16), 2, bidirectional=True), 3)
    tr.save("model.safetensors", model)
    model = tr.load("model.safetensors")

    def swish(x):                                              # a function or a class of your own is handed over
        return x * tr.sigmoid(x)

    tr.save("swish.safetensors", tr.cells.Elman(8, 16, activation=swish))
    cell = tr.load("swish.safetensors", [swish])

The file holds, for the module and each module among its arguments, the class's name and the arguments: numbers, words,
dtypes, ops by name, modules, and lists, tuples and dicts of them; which modules are not training; then the parameters
by name. A class needs no registration: any module can be saved whose arguments can be read from it again, see
`Module.arguments`.

Loading runs no code of the file. A name in it stands for a class or op of this library or for one of those that the
caller hands over, and for nothing else; nothing is imported. `Module.load_state_dict` is the way for values alone.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tinyrnn import cells, init, nn, ops
from tinyrnn._core.tape import Op, Tensor
from tinyrnn.checks import as_rng, put_back
from tinyrnn.files.container import CheckpointError, pack, unpack
from tinyrnn.module import Cell, Module, Parameter

FORMAT = "tinyrnn module"
MISFITS = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, MemoryError)
"""What a class may raise for arguments that do not fit it."""
PLAIN = (bool, int, float, str)


def save(path: str | os.PathLike[str], module: Module) -> None:
    """Write `module` to `path`, all of it or nothing, so that `tr.load` makes the same one again, to the same bits.

    What is not kept: gradients, the states of random generators (a checkpoint keeps those, `tr.files.save`), and what
    was attached to a module besides its parameters and what its class makes of its arguments.

    Before anything is written the module is made once again from what the file would hold. Raises TypeError if `module`
    is none or has an argument that a file can not hold, as a lambda; ValueError that lists every parameter and option
    in which the module made again would differ; OSError if the file can not be written. The old file then stays.
    """
    if not isinstance(module, Module):
        raise TypeError(f"module must be a tr.Module, got {type(module).__name__}")
    writer = _Writer()
    tree = writer.value("module", module)
    reader = _Reader(writer.names, np.random.default_rng(0))
    again = reader.value("module", tree)
    if not (wrong := reader.wrong):
        wrong = list(_differences(module, again))
    if wrong:
        raise ValueError(
            f"{type(module).__name__} can not be saved: made again from its arguments it would not be the same (see "
            "Module.arguments)\n  " + "\n  ".join(wrong)
        )
    used = [name for name, inside in module.named_modules() if not inside.training]
    pack(path, FORMAT, {"module": tree, "not training": used}, module.state_dict())


def load(
    path: str | os.PathLike[str],
    classes: Iterable[type[Module] | Callable[..., Any]] = (),
    *,
    rng: np.random.Generator | int | None = None,
) -> Module:
    """Read the module at `path`, which `tr.save` wrote.

    classes: your own classes and functions that the module is made of; in the file they stand by their `__name__`.
    rng: the numpy Generator of all that is random in the module, as dropout, or a seed for it; None: seeded by the
    system. Calls the classes' constructors, and no other code.

    Raises FileNotFoundError or another OSError that names the path, TypeError or ValueError for `classes` that are no
    classes or share a name, and `tr.files.CheckpointError`, a ValueError: for a file that is cut short, damaged or of
    another kind; with a list of all that is unknown, or else of all arguments that do not fit their class; with a list
    of every parameter missing or unexpected, and every shape and dtype that differs.
    """
    names = _own(classes)
    generator = as_rng(rng)
    place, content, arrays = unpack(path, FORMAT)
    with put_back(generator):
        module = _made(place, content, arrays, _Reader(names, generator))
    used = content.get("not training")
    for name, inside in module.named_modules():
        inside.training = not isinstance(used, list) or name not in used
    return module


def _made(place: Path, content: Mapping[str, Any], arrays: Mapping[str, Any], reader: _Reader) -> Module:
    """The module that a file holds, its parameters' values too."""
    try:
        module = reader.value("module", content.get("module"))
    except RecursionError:
        raise CheckpointError(f"{place} is a damaged module: it is nested too deep") from None
    if reader.wrong:
        raise CheckpointError(f"{place} can not be loaded:\n  " + "\n  ".join(reader.wrong))
    if not isinstance(module, Module):
        raise CheckpointError(f"{place} is a damaged module: it holds no module but {module!r}")
    try:
        module.load_state_dict(arrays)
    except ValueError as error:
        raise CheckpointError(f"{place} does not fit: {error}") from error
    return module


# -- names -------------------------------------------------------------------------------------------------------------


def _known() -> dict[str, Any]:
    """The classes and functions of this library that a file may name."""
    functions = {f"tinyrnn.{name}": getattr(ops, name) for name in ops.__all__ if callable(getattr(ops, name))}
    starts = {f"tinyrnn.init.{k}": v for k, v in vars(init).items() if inspect.isfunction(v) and not k.startswith("_")}
    classes = {
        f"tinyrnn.{part}.{name}": getattr(space, name)
        for part, space in (("cells", cells), ("nn", nn))
        for name in space.__all__
        if isinstance(getattr(space, name), type) and issubclass(getattr(space, name), Module)
    }
    return functions | starts | classes | {"tinyrnn.cells.identity": cells.identity}


def _own(classes: Iterable[Any]) -> dict[str, Any]:
    """The caller's classes and functions by name."""
    if isinstance(classes, (type, str)) or not isinstance(classes, Iterable):
        raise TypeError(f"classes must be a list of classes, got {classes!r}")
    found: dict[str, Any] = {}
    for one in classes:
        name = getattr(one, "__name__", None)
        if not callable(one) or name is None or (isinstance(one, type) and not issubclass(one, Module)):
            raise TypeError(f"classes must hold subclasses of tr.Module and functions, got {one!r}")
        if found.setdefault(name, one) is not one:
            raise ValueError(f"classes must have different names, got two called {name!r}")
    return found


def _takes_rng(kind: type[Module]) -> bool:
    taken = inspect.signature(kind).parameters.values()
    return any(p.name == "rng" or (p.kind is p.VAR_KEYWORD and issubclass(kind, Cell)) for p in taken)


# -- from a module to JSON and back ------------------------------------------------------------------------------------
#
# None, bools, numbers and strings stand for themselves, a JSON list for a list. All else is a JSON object of one form:
# {"class", "arguments"}, {"again": n}: the nth module to be complete, {"function"}, {"partial", "given", "options"},
# {"tuple"}, {"dict": [[key, value], ..]}, {"dtype"}.


class _Writer:
    """Turns modules and their arguments into what JSON can hold. names: the caller's classes and functions it met."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}
        self.known = {id(value): name for name, value in _known().items()}
        self.done: dict[int, int] = {}
        self.open: set[int] = set()

    def value(self, where: str, value: Any) -> Any:
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, PLAIN):
            return value
        if isinstance(value, Module):
            return self.module(where, value)
        if isinstance(value, np.dtype):
            return {"dtype": value.name}
        if isinstance(value, (list, tuple)):
            items = [self.value(f"{where}[{k}]", item) for k, item in enumerate(value)]
            return items if isinstance(value, list) else {"tuple": items}
        if isinstance(value, Mapping):
            if strange := [key for key in value if not (key is None or isinstance(key, PLAIN))]:
                raise TypeError(f"{where} can not be saved: a file can not hold the key {strange[0]!r}")
            return {"dict": [[self.value(where, k), self.value(f"{where}[{k!r}]", v)] for k, v in value.items()]}
        if isinstance(value, partial):
            function = self.name(where, value.func)
            options = {key: self.value(f"{where}.{key}", option) for key, option in value.keywords.items()}
            return {"partial": function, "given": self.value(where, list(value.args)), "options": options}
        if callable(value) and not isinstance(value, type):
            return {"function": self.name(where, value)}
        raise TypeError(f"{where} can not be saved: a file can not hold a {type(value).__name__}, {value!r}")

    def module(self, where: str, module: Module) -> dict[str, Any]:
        if id(module) in self.done:
            return {"again": self.done[id(module)]}
        if id(module) in self.open:
            raise ValueError(f"{where} can not be saved: it is among its own arguments")
        self.open.add(id(module))
        try:
            arguments = module.arguments()
        except TypeError as error:
            raise TypeError(f"{where} can not be saved: {error}") from error
        arguments = {name: self.value(f"{where}.{name}", value) for name, value in arguments.items()}
        self.done[id(module)] = len(self.done)
        return {"class": self.name(where, type(module)), "arguments": arguments}

    def name(self, where: str, value: Any) -> str:
        """What stands in the file for a class or function."""
        if id(value) in self.known:
            return self.known[id(value)]
        name = getattr(value, "__name__", None)
        if name is None or not name.isidentifier():
            raise TypeError(f"{where} can not be saved: a file holds functions by their names, and {value!r} has none")
        if self.names.setdefault(name, value) is not value:
            raise ValueError(f"{where} can not be saved: two different classes or functions are called {name!r}")
        return str(name)


class _Reader:
    """Makes modules of what a file holds, and lists all that it can not make in `wrong`.

    own: classes and functions by name, beside those of this library. rng: handed to every class that takes one.
    """

    def __init__(self, own: Mapping[str, Any], rng: np.random.Generator) -> None:
        self.names, self.rng = _known() | dict(own), rng
        self.done: list[Module | None] = []
        self.wrong: list[str] = []

    def value(self, where: str, value: Any) -> Any:
        if isinstance(value, list):
            return [self.value(f"{where}[{k}]", item) for k, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        match value:
            case {"class": str(name), "arguments": dict(arguments)}:
                return self.module(where, name, arguments)
            case {"again": int(n)} if 0 <= n < len(self.done):
                return self.done[n]
            case {"function": str(name)}:
                return self.named(where, name, function=True)
            case {"partial": str(name), "given": list(given), "options": dict(options)}:
                function = self.named(where, name, function=True)
                options = {key: self.value(f"{where}.{key}", option) for key, option in options.items()}
                return function and partial(function, *self.value(where, given), **options)
            case {"tuple": list(items)}:
                return tuple(self.value(where, items))
            case {"dict": list(pairs)} if all(map(_is_pair, pairs)):
                return {key: self.value(f"{where}[{key!r}]", item) for key, item in pairs}
            case {"dtype": str(name)} if name in np.sctypeDict:
                return np.dtype(name)
        self.wrong.append(f"{where} is damaged: {str(value)[:80]}")
        return None

    def module(self, where: str, name: str, arguments: Mapping[str, Any]) -> Module | None:
        kind = self.named(where, name, function=False)
        before = len(self.wrong)
        given = {key: self.value(f"{where}.{key}", argument) for key, argument in arguments.items()}
        made: Module | None = None
        if kind is not None and len(self.wrong) == before:
            try:
                made = kind(**given, **({"rng": self.rng} if _takes_rng(kind) else {}))
            except MISFITS as error:
                self.wrong.append(f"{where}: {kind.__name__} can not be made of its arguments: {error}")
        self.done.append(made)
        return made

    def named(self, where: str, name: str, function: bool) -> Any:
        """The class or function of that name, or None."""
        found = self.names.get(name)
        what = "function" if function else "class"
        if found is None:
            own = "" if name.startswith("tinyrnn.") else f"; pass it: tr.load(path, [{name}])"
            self.wrong.append(f"{where}: unknown {what} {name!r}{own}")
        elif isinstance(found, type) is function:
            self.wrong.append(f"{where}: {name!r} is no {what}")
        else:
            return found
        return None


# -- is it the same? ---------------------------------------------------------------------------------------------------


def _differences(module: Module, again: Module) -> Iterator[str]:
    """All in which a module that was made again differs from the module, but for parameters' values."""
    ours, theirs = ({n: (p.shape, p.dtype) for n, p in m.named_parameters()} for m in (module, again))
    for name in ours | theirs:
        if ours.get(name) != theirs.get(name):
            yield f"parameter {name}: {_shape(ours.get(name))}, made again {_shape(theirs.get(name))}"
    found = dict(again.named_modules())
    for path, one in module.named_modules():
        other, at = found.get(path), f"{path}." if path else ""
        if type(other) is not type(one):
            yield f"module {path}: {type(one).__name__}, made again {type(other).__name__}"
            continue
        kept = vars(other)
        for name, value in vars(one).items():
            if name == "training" or name not in kept or isinstance(value, Parameter):
                continue
            if not _same(value, kept[name]):
                yield f"{at}{name}: {value!r}, made again {kept[name]!r}"


def _shape(found: tuple[Any, ...] | None) -> str:
    return "none" if found is None else f"{found[0]} {found[1]}"


def _same(a: Any, b: Any) -> bool:
    """Whether two attributes are equal, as far as they are plain values. Parameters and modules are compared by others,
    generators and objects of other kinds are not kept."""
    if isinstance(a, Tensor) and not isinstance(a, Parameter):
        return isinstance(b, Tensor) and _same(a.numpy(), b.numpy())
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, partial):
        return isinstance(b, partial) and _same([a.func, a.args, a.keywords], [b.func, b.args, b.keywords])
    if inspect.isroutine(a) and _code(a) is not None:  # what a constructor defines, it defines anew
        return _code(a) is _code(b)
    if a is None or isinstance(a, (*PLAIN, np.generic, np.dtype)):
        return bool(a == b) or (a != a and b != b)
    return type(a) is type(b) and (not isinstance(a, Op) or a is b)


def _code(function: Any) -> Any:
    return getattr(getattr(function, "__func__", function), "__code__", None)


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and not isinstance(pair[0], (list, dict))
