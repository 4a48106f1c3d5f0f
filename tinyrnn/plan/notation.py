"""Steps as equations: names for the values of a recorded step, and expressions in those names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tinyrnn._core.tape import Tensor
from tinyrnn.plan.columns import as_columns
from tinyrnn.plan.step import ROWS, is_number, is_repeated, is_rowed

# How tightly an expression holds together; an operand that holds less tightly than its operator needs is put in
# parentheses.
SUM, PRODUCT, MATRIX, POWER, ATOM = range(5)
INFIX = {
    "add": ("+", SUM),
    "sub": ("-", SUM),
    "mul": ("*", PRODUCT),
    "div": ("/", PRODUCT),
    "matmul": ("@", MATRIX),
    "pow": ("**", POWER),
}


class Notation:
    """Names of values, each used once, and expressions in them. A value without a name is written out."""

    def __init__(self) -> None:
        self.names: dict[Tensor, str] = {}
        self.taken: set[str] = set()
        self.slices: dict[Tensor, dict[tuple[int, ...], str]] = {}  # of a value: names of its columns from .. to

    def name(self, t: Tensor, wanted: str) -> str:
        """Call t as wanted, or nearly so where that is another value's name."""
        name, k = wanted, 2
        while name in self.taken:
            name, k = f"{wanted}_{k}", k + 1
        self.taken.add(name)
        self.names[t] = name
        return name

    def number(self, t: Tensor, letter: str) -> str:
        """Call t the next of letter1, letter2, .."""
        k = 1
        while f"{letter}{k}" in self.taken:
            k += 1
        return self.name(t, f"{letter}{k}")

    def of(self, t: Tensor) -> str:
        """t as an operand by itself: its name, or what it is made of."""
        return self._operand(t)[0]

    def factor(self, t: Tensor) -> str:
        """t as a factor: its name, or what it is made of, in parentheses if that is a sum or a product."""
        return self._operand(t, ATOM)[0]

    def definition(self, t: Tensor) -> str:
        """What t is made of."""
        return self._expression(t)[0]

    def _operand(self, t: Tensor, least: int = SUM) -> tuple[str, int]:
        if t in self.names:
            return self.names[t], ATOM
        source, *cut = as_columns(t)
        if (name := self.slices.get(source, {}).get(tuple(cut))) is not None:
            return name, ATOM
        if is_number(t):
            return f"{t.item():.6g}", ATOM
        if t.op is None:
            return self.name(t, t.name or "constant"), ATOM
        text, holds = self._expression(t)
        return (f"({text})", ATOM) if holds < least else (text, holds)

    def _expression(self, t: Tensor) -> tuple[str, int]:
        if t.op is None:
            return self._operand(t)
        op, inputs = t.op.name, t.inputs or ()
        if op in INFIX:
            sign, holds = INFIX[op]
            first = self._operand(inputs[0], ATOM if op == "pow" else holds)[0]
            # Sums and products of one kind need no parentheses; what they mean is the same.
            second = self._operand(inputs[1], holds if op in ("add", "mul") else holds + 1)[0]
            return f"{first} {sign} {second}", holds
        if op == "fma":
            return f"{self._operand(inputs[0], PRODUCT)[0]} * {self._operand(inputs[1], PRODUCT)[0]} + " + (
                self._operand(inputs[2])[0]
            ), SUM
        if op == "mix":
            w, a, b = inputs
            return f"{self._operand(w, PRODUCT)[0]} * {self._operand(a, PRODUCT)[0]} + " + (
                f"(1 - {self._operand(w, PRODUCT)[0]}) * {self._operand(b, PRODUCT)[0]}"
            ), SUM
        if op == "lerp":
            a, b, w = (self._operand(s, least)[0] for s, least in zip(inputs, (SUM, SUM, PRODUCT), strict=True))
            return f"{a} + {w} * ({b} - {a})", SUM
        if op == "neg":
            return f"-{self._operand(inputs[0], PRODUCT)[0]}", SUM
        if is_repeated(t) or op == "stop_gradient":
            return self._operand(inputs[0])
        if op == "getitem":
            return f"{self._operand(inputs[0], ATOM)[0]}[{_index(t.attrs[0])}]", ATOM
        if op == "scatter":
            return f"scatter({self.of(inputs[0])}, [{_index(t.attrs[1])}])", ATOM
        if op == "concat" and t.attrs[0] == t.ndim - 1:
            names = [self.of(s) for s in inputs]
            return f"[{', '.join(names)}]" if is_rowed(t) else _together(names), ATOM
        if op == "concat" and t.attrs[0] == 0:
            return f"[{'; '.join(self.of(s) for s in inputs)}]", ATOM
        if op == "transpose" and t.ndim == 2:
            return f"{self._operand(inputs[0], ATOM)[0]}.T", ATOM
        return f"{op.removesuffix('_to')}({', '.join([*map(self.of, inputs), *_attributes(op, t.attrs)])})", ATOM

    def equation(self, t: Tensor) -> str:
        return f"{self.names[t]} = {self.definition(t)}"


def equations(notation: Notation, values: Sequence[Tensor], needs_name: Callable[[Tensor], bool]) -> dict[Tensor, str]:
    """The equations that make `values`, which stand in the order in which they are made.

    What has a name gets an equation, what `needs_name` gets a name and an equation, and the rest is written where it is
    read.
    """
    pieces: dict[Tensor, list[Tensor]] = {}
    for t in values:
        source = as_columns(t)[0]
        if source is not t and t.name is not None:
            pieces.setdefault(source, []).append(t)
    whole = {t: parts for t, parts in pieces.items() if _tile(t, parts)}
    for t in values:
        if t.op is None or t in notation.names:
            continue
        if t.name is not None:
            notation.name(t, t.name)
        elif t in whole:
            named = sorted(whole[t], key=lambda p: as_columns(p)[1])
            for p in named:
                if p not in notation.names:
                    notation.name(p, str(p.name))
            notation.name(t, f"[{', '.join(notation.names[p] for p in named)}]")
        elif needs_name(t):
            notation.number(t, "v")
    given = {p for parts in whole.values() for p in parts}

    def has_equation(t: Tensor) -> bool:
        return t.op is not None and t in notation.names and t not in given and as_columns(t)[0].op is not None

    return {t: notation.equation(t) for t in values if has_equation(t)}


def _tile(t: Tensor, parts: Sequence[Tensor]) -> bool:
    """Whether slices of t cover it once."""
    at = 0
    for start, stop in sorted(as_columns(p)[1:] for p in parts):
        if start != at:
            return False
        at = stop
    return at == t.shape[1]


def _together(names: Sequence[str]) -> str:
    """Names of parameters that lie side by side: [a, b]; W_x[ifog] for W_xi, W_xf, W_xo and W_xg."""
    head = _common(names)
    tail = _common([n[len(head) :][::-1] for n in names])[::-1]
    middles = [n[len(head) : len(n) - len(tail)] for n in names]
    if head and all(middles) and len(names) > 1 and not set(head + tail) & set(" ()"):
        return f"{head}[{('' if all(len(m) == 1 for m in middles) else ',').join(middles)}]{tail}"
    return f"[{', '.join(names)}]"


def _common(names: Sequence[str]) -> str:
    """What all names begin with."""
    n = 0
    while all(len(name) > n and name[n] == names[0][n] for name in names):
        n += 1
    return names[0][:n]


def _index(index: Any) -> str:
    parts = index if isinstance(index, tuple) else (index,)
    return ", ".join(_part(p) for p in parts)


def _part(p: Any) -> str:
    if isinstance(p, slice):
        text = f"{'' if p.start is None else p.start}:{'' if p.stop is None else p.stop}"
        text += f":{p.step}" if p.step not in (None, 1) else ""
        return text.replace(str(ROWS), "B")
    if p is Ellipsis:
        return "..."
    return str(p.tolist()) if hasattr(p, "tolist") else str(p)


def _attributes(op: str, attrs: Sequence[Any]) -> list[str]:
    if op in ("sum", "max"):
        axes, keepdims = attrs
        return [f"axis={axes[0] if len(axes) == 1 else axes}", *(["keepdims"] if keepdims else [])]
    if op == "sum_to":
        return []
    return [str(a).replace(str(ROWS), "B") for a in attrs]
