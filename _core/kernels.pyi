from collections.abc import Sequence
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

_Float = TypeVar("_Float", np.float32, np.float64)

POINTWISE: Final[dict[str, tuple[int, int]]]
PLACES: Final[dict[str, int]]
ONTO: Final[int]
BIAS: Final[int]
SUM_STEPS: Final[int]
SUM_BYTES: Final[int]
KINDS: Final[dict[str, int]]
INSTRUCTION_FIELDS: Final[tuple[str, ...]]
PAIRS: Final[dict[tuple[str, str, int, int], int]]
isa: Final[str]

@disjoint_base
class Block: ...

def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]: ...
def isas() -> list[str]: ...
def active_table() -> object: ...
def passing() -> object: ...
def pointwise(name: str, *arrays: NDArray[_Float], isa: str | None = None) -> NDArray[_Float]: ...
def reduce(kind: str, array: NDArray[_Float], first: int, last: int) -> NDArray[_Float]: ...
def zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]: ...
def reshape(x: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]: ...
def matrix(x: NDArray[Any], rows: int, columns: int) -> NDArray[Any]: ...
def repeated(x: NDArray[Any], row: tuple[int, ...]) -> NDArray[Any]: ...
def take_rows(table: NDArray[_Float], index: NDArray[np.integer[Any]]) -> NDArray[_Float]: ...
def add_rows(table: NDArray[_Float], index: NDArray[np.integer[Any]], source: NDArray[_Float]) -> None: ...
def sumsq(array: NDArray[_Float]) -> float: ...
def set_num_threads(n: int | None) -> None: ...
def get_num_threads() -> int: ...
def matmul(a: NDArray[_Float], b: NDArray[_Float], into: NDArray[_Float] | None = None) -> NDArray[_Float]: ...
def products(lefts: list[NDArray[_Float]], b: NDArray[_Float]) -> list[NDArray[_Float]]: ...
def sgd(
    parameters: list[NDArray[_Float]],
    gradients: list[NDArray[_Float] | None],
    momenta: NDArray[_Float] | None,
    lr: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
) -> None: ...
def rmsprop(
    parameters: list[NDArray[_Float]],
    gradients: list[NDArray[_Float] | None],
    squares: NDArray[_Float],
    momenta: NDArray[_Float] | None,
    lr: float,
    alpha: float,
    eps: float,
    momentum: float,
    weight_decay: float,
) -> None: ...
def adam(
    parameters: list[NDArray[_Float]],
    gradients: list[NDArray[_Float] | None],
    means: NDArray[_Float],
    squares: NDArray[_Float],
    steps: NDArray[np.int64],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
) -> None: ...

@disjoint_base
class Loop:
    def __init__(self, code: NDArray[np.int32], index: NDArray[np.int32], places: NDArray[np.int64]) -> None: ...
    def run(
        self,
        arrays: list[NDArray[_Float] | None],
        others: list[NDArray[_Float] | None],
        weights: list[NDArray[_Float]],
        count: NDArray[np.int64],
        offset: NDArray[np.int64],
        backwards: bool,
        cuts: Sequence[int],
        serial: int = ...,
    ) -> None: ...
