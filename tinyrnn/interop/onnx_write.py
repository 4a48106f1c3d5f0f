"""Cells and stacks of layers as ONNX graphs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinyrnn.files import write
from tinyrnn.interop.errors import CannotExpressError
from tinyrnn.interop.onnx_forms import Form, cannot, form_of
from tinyrnn.interop.onnx_model import onnx_package
from tinyrnn.module import Cell, Module
from tinyrnn.nn import RNN

if TYPE_CHECKING:
    from onnx import ModelProto

Array = npt.NDArray[Any]

OPSET, IR_VERSION = 14, 7  # the oldest that hold what is written, so that old runtimes can read it


def save(module: Module, path: str | os.PathLike[str], *, lengths: bool = False, state: bool = False) -> None:
    """Write a cell or a `tr.nn.RNN` as an ONNX model: what `to_model` makes, checked by `onnx.checker`.

    Raises what `to_model` raises, and OSError; what was at `path` before then stays.
    """
    write(path, to_model(module, lengths=lengths, state=state).SerializeToString())


def to_model(module: Module, *, lengths: bool = False, state: bool = False) -> ModelProto:
    """A cell or a `tr.nn.RNN` as an `onnx.ModelProto` of opset 14, an RNN, LSTM or GRU node a layer.

    The graph computes what `tr.scan(cell, X)` or `rnn.eval()(X)` computes; dropout is not in it. Its inputs and
    outputs, all of the module's dtype, with D directions (1 or 2) and layer l's state of H features:

        X               (time, batch, I); (batch, time, I) of an RNN with batch_first
        sequence_lens   (batch,), int32, with lengths=True
        initial_h       (D, batch, H), with state=True; initial_c too for LSTMs
        Y               (time, batch, output_size); (batch, time, output_size) with batch_first
        Y_h             (D, batch, H), the last states; Y_c too for LSTMs

    A stack of several layers numbers its states: initial_h_0, Y_h_0, and so on. A row of no steps has 0 for its last
    states there, where `scan` gives its initial ones. onnxruntime runs float32 only.

    Cells that can be written: Elman, IRNN and IndRNN; GRU in all its forms, MGU and LectureGRU; LSTM but for
    projection, full peepholes and some couplings, LectureLSTM, ConcatenatedLSTM, and Odyssey where it has three gates;
    with activations that ONNX has (`Activation`). Raises CannotExpressError, a ValueError, that names any other and
    says why, TypeError for a module that is neither a Cell nor an RNN, and ModuleNotFoundError without the package
    onnx.
    """
    onnx = onnx_package()
    if isinstance(module, RNN):
        kind = type(module)
        if kind.forward is not RNN.forward or kind.merge_directions is not RNN.merge_directions:
            raise CannotExpressError(f"ONNX can not express {kind.__name__}: it runs its cells in a way of its own")
        layers, batch_first, merge, residual = module.cells, module.batch_first, module.merge, module.residual
    elif isinstance(module, Cell):
        layers, batch_first, merge, residual = [[module]], False, "concat", False
    else:
        raise TypeError(f"module must be a tr.Cell or a tr.nn.RNN, got {type(module).__name__}")
    if residual and lengths:
        raise CannotExpressError(
            "ONNX can not express this RNN with lengths=True: residual=True would add to a row's outputs, behind its "
            "end, what X holds there"
        )
    forms = [_layer(cells) for cells in layers]
    graph = _Graph(onnx, layers[0][0].dtype)
    swap = [1, 0, 2]
    x = graph.input("X", ["batch", "time", module.input_size] if batch_first else ["time", "batch", module.input_size])
    rows = graph.input("sequence_lens", ["batch"], np.dtype(np.int32)) if lengths else ""
    if batch_first:
        x = graph.add("Transpose", [x], perm=swap)
    for k, (cells, directions) in enumerate(zip(layers, forms, strict=True)):
        last, mark = k == len(layers) - 1, f"_{k}" if len(layers) > 1 else ""
        ys = graph.layer(x, rows, directions, mark, state)
        out = "Y" if last and not (residual or batch_first) else ""
        if len(cells) == 1:
            ys = graph.add("Squeeze", [ys, graph.constant([1])], out)
        elif merge == "sum":
            ys = graph.add("ReduceSum", [ys, graph.constant([1])], out, keepdims=0)
        else:
            beside = graph.add("Transpose", [ys], perm=[0, 2, 1, 3])
            ys = graph.add("Reshape", [beside, graph.constant([0, 0, 2 * directions[0].hidden_size])], out)
        x = graph.add("Add", [ys, x], "Y" if last and not batch_first else "") if residual else ys
    if batch_first:
        x = graph.add("Transpose", [x], "Y", perm=swap)
    width = module.output_size if isinstance(module, RNN) else module.state_sizes[0]
    graph.output("Y", ["batch", "time", width] if batch_first else ["time", "batch", width], first=True)
    model: ModelProto = graph.model()
    onnx.checker.check_model(model, full_check=True)
    return model


def _layer(cells: Sequence[Cell]) -> list[Form]:
    """The forms of a layer's directions, which must be those of one node."""
    forms = [form_of(cell) for cell in cells]
    first = forms[0]
    for cell, form in zip(cells, forms, strict=True):
        if (form.op, form.flags, form.clip, form.hidden_size) != (first.op, first.flags, first.clip, first.hidden_size):
            raise cannot(cell, f"beside a {type(cells[0]).__name__}({cells[0].extra_repr()}) in the other direction: a "
                         "bidirectional node has one operator, hidden_size and clip, and the same options")  # fmt: skip
    return forms


class _Graph:
    """The parts of a graph while it is written."""

    def __init__(self, onnx: Any, dtype: np.dtype[Any]) -> None:
        self.helper, self.onnx, self.dtype = onnx.helper, onnx, dtype
        self.nodes: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.initialisers: dict[str, Array] = {}

    def input(self, name: str, shape: Sequence[int | str], dtype: np.dtype[Any] | None = None) -> str:
        """Declare an input of the graph; its name."""
        self.inputs.append(self._info(name, shape, dtype))
        return name

    def output(self, name: str, shape: Sequence[int | str], first: bool = False) -> None:
        """Declare an output of the graph."""
        self.outputs.insert(0 if first else len(self.outputs), self._info(name, shape, None))

    def _info(self, name: str, shape: Sequence[int | str], dtype: np.dtype[Any] | None) -> Any:
        kind = self.helper.np_dtype_to_tensor_dtype(self.dtype if dtype is None else dtype)
        return self.helper.make_tensor_value_info(name, kind, shape)

    def constant(self, values: Sequence[int]) -> str:
        """The name of an initialiser with these integers."""
        name = "ints_" + "_".join(map(str, values))
        self.initialisers[name] = np.array(values, np.int64)
        return name

    def add(self, op: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """Add a node with one output; the output's name."""
        name = f"{op}_{len(self.nodes)}"
        output = output or f"{name}_out"
        self.nodes.append(self.helper.make_node(op, inputs, [output], name=name, **attributes))
        return output

    def layer(self, x: str, rows: str, forms: Sequence[Form], mark: str, state: bool) -> str:
        """Add a recurrent node and its weights, states and last states; the name of its Y (T, D, B, H)."""
        first, directions = forms[0], len(forms)
        name = f"{first.op}{mark}"
        bias, peepholes = any(f.has_bias for f in forms), any(f.peepholes is not None for f in forms)
        stacked = [f.stacked(bias, peepholes) for f in forms]
        weights = {}
        for k, arrays in zip("WRBP", zip(*stacked, strict=True), strict=True):
            weights[k] = f"{name}_{k}" if arrays[0] is not None else ""
            if weights[k]:
                self.initialisers[weights[k]] = np.ascontiguousarray(np.stack(arrays), self.dtype)
        kinds = "hc" if first.op == "LSTM" else "h"
        shape: list[int | str] = [directions, "batch", first.hidden_size]
        initial = [self.input(f"initial_{k}{mark}", shape) if state else "" for k in kinds]
        last = [f"Y_{k}{mark}" for k in kinds]
        for k in last:
            self.output(k, shape)
        inputs = [x, weights["W"], weights["R"], weights["B"], rows, *initial, weights["P"]]
        while not inputs[-1]:
            inputs.pop()
        activations = [a for f in forms for a in f.activations]
        attributes: dict[str, Any] = {"activations": [a.name for a in activations], "hidden_size": first.hidden_size}
        for k in ("alpha", "beta"):
            attributes[f"activation_{k}"] = [v for a in activations if (v := getattr(a, k)) is not None]
        attributes |= dict.fromkeys(first.flags, 1)
        attributes |= {"clip": first.clip, "direction": "bidirectional" if directions == 2 else "forward"}
        attributes = {k: v for k, v in attributes.items() if v not in (None, [])}
        ys = f"{name}_Y"
        self.nodes.append(self.helper.make_node(first.op, inputs, [ys, *last], name=name, **attributes))
        return ys

    def model(self) -> Any:
        """All of it."""
        weights = [self.onnx.numpy_helper.from_array(array, name) for name, array in self.initialisers.items()]
        graph = self.helper.make_graph(self.nodes, "tinyrnn", self.inputs, self.outputs, weights)
        opsets = [self.helper.make_opsetid("", OPSET)]
        return self.helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="tinyrnn")
