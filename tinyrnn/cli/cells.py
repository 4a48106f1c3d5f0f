"""`tinyrnn cells`: the cells there are, with their equations and how many parameters they have."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.table import Table

from tinyrnn import cells as library
from tinyrnn import ops
from tinyrnn.cells.wrappers import Wrapper
from tinyrnn.cli.show import UserError, console
from tinyrnn.module import Cell
from tinyrnn.plan.explain import explanation_of


def cells(
    name: Annotated[str, typer.Argument(help="A cell by its name, as lstm.", show_default="all cells")] = "",
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", metavar="NAME=VALUE", help="An option of that cell.")
    ] = None,
    input_size: Annotated[int, typer.Option(min=1, metavar="N", help="Columns of the input, I.")] = 64,
    hidden_size: Annotated[int, typer.Option(min=1, metavar="N", help="Columns of a state, H.")] = 128,
) -> None:
    """List the cells, or tell all about one: its options, its step as it is recorded, its parameters.

    x is (B, I), a state (B, H), * the elementwise product, σ the logistic sigmoid; W_xk carries the input into gate k,
    W_hk the state, b_k is the bias. The parameters are counted for the sizes given.

    Example: tinyrnn cells lstm --option peephole=diagonal --option coupled=input
    """
    if not name:
        if option:
            raise UserError("--option needs the name of a cell")
        _list(input_size, hidden_size)
        return
    try:
        cell = library.by_name(name, **_options(name, option or []))(input_size, hidden_size, rng=0)
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from None
    _tell(cell)


def _list(input_size: int, hidden_size: int) -> None:
    out = console()
    for name in library.names():
        kind = library.by_name(name)
        cell = kind(input_size, hidden_size, rng=0)
        first = _documentation(type(cell)).partition("\n\n")[0]
        out.print(f"{name}  {_count(cell)}, states {', '.join(cell.states)}", style="bold")
        out.print(" ".join(first.split()))
        out.print("\n".join(_equations(type(cell))) + "\n", soft_wrap=True)
    around = [kind for kind in vars(library).values() if _is_wrapper(kind)]
    out.print("Around any cell", style="bold")
    for kind in around:
        out.print(f"{kind.__name__}: " + " ".join(_documentation(kind).partition("\n\n")[0].split()))
    out.print(f"\nParameters are counted for I = {input_size}, H = {hidden_size}. Options: tinyrnn cells NAME")


def _tell(cell: Cell) -> None:
    out = console()
    out.print(f"{type(cell).__name__}({cell.extra_repr()})", style="bold")
    out.print(_documentation(type(cell)), soft_wrap=True)
    if options := list(_defaults(type(cell))):
        out.print("\noptions", style="bold")
        out.print("\n".join(f"    {line}" for line in options), soft_wrap=True)
    out.print("\nstep, as recorded", style="bold")
    out.print("\n".join(f"    {line}" for line in explanation_of(cell).equations), soft_wrap=True)
    out.print(f"\n{_count(cell)}", style="bold")
    table = Table(box=None, pad_edge=True, show_header=False)
    shapes: dict[tuple[int, ...], list[str]] = {}
    for name, p in cell.named_parameters():
        shapes.setdefault(p.shape, []).append(name)
    for shape, found in shapes.items():
        table.add_row("  " + str(shape), " ".join(found))
    out.print(table)


def _equations(kind: type[Cell]) -> Iterator[str]:
    """The first indented block of a docstring."""
    _, _, rest = _documentation(kind).partition("\n\n    ")
    for line in ("    " + rest).splitlines():
        if line and not line.startswith("    "):
            return
        if line:
            yield line


def _defaults(kind: type[Cell]) -> Iterator[str]:
    for name, argument in inspect.signature(kind).parameters.items():
        if argument.kind is argument.KEYWORD_ONLY and name not in ("dtype", "rng"):
            default = argument.default
            yield f"{name}={getattr(default, 'name', None) or getattr(default, '__name__', default)}"


def _options(name: str, given: list[str]) -> dict[str, Any]:
    """NAME=VALUE as arguments: Python's numbers, True, False and None, an activation by its name, else text."""
    library.by_name(name)  # so that a wrong name is told before a wrong option
    found: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"--option must be NAME=VALUE, got {text!r}")
        found[key] = _value(key, value)
    return found


def _value(key: str, text: str) -> Any:
    if key == "phi" or key.endswith("activation"):
        known = {"identity": library.identity} | {op.name: op for op in ops.RECORDS if op.code >= 0 and op.arity == 1}
        if text not in known:
            raise UserError(f"--option {key} must be one of {', '.join(known)}, got {text!r}")
        return known[text]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _documentation(kind: type[Cell]) -> str:
    return inspect.cleandoc(kind.__doc__ or "")


def _count(cell: Cell) -> str:
    return f"{sum(p.size for p in cell.parameters()):,} parameters"


def _is_wrapper(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Wrapper) and kind is not Wrapper
