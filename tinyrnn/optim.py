"""Optimisers. Their state is flat: one array a moment over all parameters of a dtype, updated by one compiled call.

Every optimiser changes parameters in place from their `.grad`; one whose `.grad` is None keeps its value and state.
Parameters may be moved between devices at any time; what `state_dict` gives is NumPy's and fits on both.
The formulas stand in `_core/updates.h` and are those of PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tinyrnn import backend
from tinyrnn._core.tape import Tensor
from tinyrnn.checks import as_array, type_name
from tinyrnn.module import Parameter

Array = npt.NDArray[Any]


class _Group:
    """The parameters of one dtype and their flat state, which follows them to their device.

    state: name -> array over all their elements, in order. steps: on the host.
    """

    def __init__(self, params: list[Tensor], moments: tuple[str, ...]) -> None:
        self.params = params
        self.dtype = params[0].dtype
        self.sizes = np.array([p.size for p in params], dtype=np.int64)
        self.steps = np.zeros(len(params), dtype=np.int64)
        self.device, self._kind = "cpu", type(self.steps)
        self.state: dict[str, Any] = {name: np.zeros(int(self.sizes.sum()), self.dtype) for name in moments}
        self.settle()

    def settle(self) -> None:
        """Bring the state to the device of the parameters; ValueError if they are on different ones."""
        kind = self._kind
        for p in self.params:
            if type(p._array) is not kind:
                break
        else:
            return
        if len({p.device for p in self.params}) > 1:
            where = " and ".join(sorted({p.device for p in self.params}))
            raise ValueError(f"params must be on one device, got some of {self.dtype} on {where}")
        self.device, self._kind = self.params[0].device, type(self.params[0]._array)
        self.state = {name: backend.move(array, self.device) for name, array in self.state.items()}


class Optimizer:
    """What the optimisers share: parameters by dtype, their flat state, `step`, `lr` and checkpoints.

    params: Tensors that require gradients, as `model.parameters()` gives them. lr: the learning rate, > 0; may be set
    between steps. Raises TypeError or ValueError for parameters that are none, doubled, or not learnable.
    """

    _counts: ClassVar[bool] = False
    """Whether the update depends on how many steps a parameter has taken."""

    def __init__(self, params: Iterable[Tensor], lr: float, moments: tuple[str, ...]) -> None:
        self.lr = lr
        self.params = _learnable(params)
        dtypes = dict.fromkeys(p.dtype for p in self.params)
        self._groups = [_Group([p for p in self.params if p.dtype == dtype], moments) for dtype in dtypes]

    @property
    def lr(self) -> float:
        """The learning rate."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = _number("lr", value)

    def step(self) -> None:
        """Change every parameter that has a gradient by one step of the method."""
        for group in self._groups:
            group.settle()
        for group in self._groups:
            gradients = [None if p.grad is None else p.grad._array for p in group.params]
            self._update(group, [p._array for p in group.params], gradients)
            for p, g in zip(group.params, gradients, strict=True):
                if g is not None:
                    p._bump()

    def _update(self, group: _Group, arrays: list[Any], gradients: list[Any]) -> None:
        raise NotImplementedError(f"{type(self).__name__} defines no update; SGD, RMSprop, Adam and AdamW do")

    def zero_grad(self) -> None:
        """Forget the gradients: every parameter's `.grad` is None afterwards."""
        for p in self.params:
            p.grad = None

    def state_dict(self) -> dict[str, Array | float]:
        """Copies of what a later run needs to go on with the same bits: the learning rate and the flat state.

        Keys: "lr", and for each dtype "sizes.float32" (elements of each parameter), the moments ("m.float32" ..) and,
        where the method counts them, "steps.float32".
        """
        return {"lr": self.lr, **{name: np.array(backend.to_host(array)) for name, array in self._arrays().items()}}

    def load_state_dict(self, state: Mapping[str, Array | float]) -> None:
        """Take over what `state_dict` gave, of the same method over parameters of the same sizes in the same order.

        Raises TypeError if `state` is no mapping, and ValueError that lists everything missing, unexpected or of
        another shape, dtype or size; then nothing was changed.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state must be a dict, got {type_name(state)}")
        own = self._arrays()
        given = {name: as_array(f"state[{name!r}]", value) for name, value in state.items() if name != "lr"}
        wrong = [f"missing: {name}" for name in ("lr", *own) if name not in state]
        lr = self.lr
        if "lr" in state:
            try:
                value: Any = state["lr"]
                lr = _number("lr", value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value)
            except (TypeError, ValueError) as error:
                wrong.append(str(error))
        wrong += [f"unexpected: {name}" for name in given if name not in own]
        for name in [n for n in own if n in given]:
            if given[name].shape != own[name].shape or given[name].dtype != own[name].dtype:
                got, needs = given[name], own[name]
                wrong.append(f"{name}: got {got.shape} {got.dtype}, needs {needs.shape} {needs.dtype}")
            elif name.startswith("sizes.") and (given[name] != own[name]).any():
                wrong.append(f"{name}: the parameters differ, got {given[name].tolist()}, needs {own[name].tolist()}")
            elif name.startswith("steps.") and (given[name] < 0).any():
                wrong.append(f"{name}: got {given[name].tolist()}, needs counts >= 0")
        if wrong:
            raise ValueError(
                f"state does not fit this {type(self).__name__}, nothing was loaded:\n  " + "\n  ".join(wrong)
            )
        self.lr = lr
        for name, array in own.items():
            array[...] = given[name] if isinstance(array, np.ndarray) else backend.cuda.asarray(given[name])

    def _arrays(self) -> dict[str, Any]:
        """The arrays that make up the state, by the names they have in a checkpoint."""
        arrays: dict[str, Any] = {}
        for group in self._groups:
            arrays[f"sizes.{group.dtype}"] = group.sizes
            if self._counts:
                arrays[f"steps.{group.dtype}"] = group.steps
            arrays.update({f"{name}.{group.dtype}": array for name, array in group.state.items()})
        return arrays

    def __repr__(self) -> str:
        count = sum(p.size for p in self.params)
        return f"{type(self).__name__}(lr={self.lr:g}, {len(self.params)} tensors, {count:,} parameters)"


class SGD(Optimizer):
    """Stochastic gradient descent: p -= lr·g, with momentum m = momentum·m + g: p -= lr·m.

    nesterov: p -= lr·(g + momentum·m) (Sutskever et al. 2013). weight_decay: adds weight_decay·p to the gradient.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        self.momentum = _number("momentum", momentum, below=1.0)
        self.nesterov = bool(nesterov)
        self.weight_decay = _number("weight_decay", weight_decay)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs momentum > 0, got momentum=0")
        super().__init__(params, lr, ("m",) if self.momentum else ())

    def _update(self, group: _Group, arrays: list[Any], gradients: list[Any]) -> None:
        backend.updates(group.device).sgd(
            arrays, gradients, group.state.get("m"), self.lr, self.momentum, self.weight_decay, self.nesterov
        )  # fmt: skip


class RMSprop(Optimizer):
    """v = alpha·v + (1 - alpha)·g²; p -= lr·g / (sqrt(v) + eps) (Tieleman & Hinton 2012).

    momentum: m = momentum·m + g / (sqrt(v) + eps); p -= lr·m. weight_decay: adds weight_decay·p to the gradient.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        self.alpha = _number("alpha", alpha, below=1.0)
        self.eps = _number("eps", eps)
        self.momentum = _number("momentum", momentum, below=1.0)
        self.weight_decay = _number("weight_decay", weight_decay)
        super().__init__(params, lr, ("v", "m") if self.momentum else ("v",))

    def _update(self, group: _Group, arrays: list[Any], gradients: list[Any]) -> None:
        backend.updates(group.device).rmsprop(
            arrays, gradients, group.state["v"], group.state.get("m"), self.lr, self.alpha, self.eps, self.momentum,
            self.weight_decay,
        )  # fmt: skip


class Adam(Optimizer):
    """m = beta1·m + (1 - beta1)·g; v = beta2·v + (1 - beta2)·g²; p -= lr·m̂ / (sqrt(v̂) + eps) (Kingma & Ba 2015).

    m̂ = m / (1 - beta1^t) and v̂ = v / (1 - beta2^t), where t counts the steps a parameter has taken.
    betas: (beta1, beta2), each in [0, 1). weight_decay: adds weight_decay·p to the gradient.
    """

    _counts = True
    _decoupled: ClassVar[bool] = False

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise TypeError(f"betas must be two numbers, got {betas!r}")
        self.betas = (_number("betas[0]", betas[0], below=1.0), _number("betas[1]", betas[1], below=1.0))
        self.eps = _number("eps", eps)
        self.weight_decay = _number("weight_decay", weight_decay)
        super().__init__(params, lr, ("m", "v"))

    def _update(self, group: _Group, arrays: list[Any], gradients: list[Any]) -> None:
        backend.updates(group.device).adam(
            arrays, gradients, group.state["m"], group.state["v"], group.steps, self.lr, *self.betas, self.eps,
            self.weight_decay, self._decoupled,
        )  # fmt: skip


class AdamW(Adam):
    """Adam whose weight decay acts on the parameter and not through the gradient: p *= 1 - lr·weight_decay.

    Loshchilov & Hutter 2019. Arguments as for Adam.
    """

    _decoupled = True

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)


def _learnable(params: Iterable[Tensor]) -> list[Tensor]:
    if isinstance(params, Tensor) or not isinstance(params, Iterable):
        raise TypeError(f"params must be Tensors, as model.parameters() gives them, got a {type_name(params)}")
    found = list(params)
    if not found:
        raise ValueError("params must hold at least one parameter, got none")
    for k, p in enumerate(found):
        if not isinstance(p, Tensor):
            raise TypeError(
                f"params must be Tensors, as model.parameters() gives them, got a {type_name(p)} as number {k}"
            )
        if not p.is_leaf or not (p.requires_grad or isinstance(p, Parameter)):  # a Parameter may be frozen
            what = "a leaf without gradient" if p.is_leaf else f"the result of {p.op.name}"
            raise ValueError(f"params[{k}] must be a leaf that requires a gradient, got {what}, of shape {p.shape}")
    if len({id(p) for p in found}) < len(found):
        raise ValueError("params must be different tensors, got one of them twice")
    return found


def _number(name: str, value: float, below: float = np.inf) -> float:
    """`value` as a float in [0, below); errors name the argument."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 <= value < below:
        raise ValueError(f"{name} must be >= 0 and {'finite' if below == np.inf else f'< {below:g}'}, got {value}")
    return float(value)
