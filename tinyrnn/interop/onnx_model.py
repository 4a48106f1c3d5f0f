"""An ONNX graph that runs on this library's cells."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinyrnn._core.tape import Tensor
from tinyrnn.autograd import no_grad
from tinyrnn.checks import as_array, type_name
from tinyrnn.interop.onnx_cells import GATES
from tinyrnn.interop.onnx_nodes import MOVES, Move, Node, Recurrent, Value, as_value
from tinyrnn.module import Cell, Module

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, ValueInfoProto

Array = npt.NDArray[Any]

VERSIONS = (7, 14, 22)
"""Of the recurrent operators: the opsets that brought the forms which `Recurrent` runs."""

OPERATORS = (*GATES, "Constant", *MOVES)


def onnx_package() -> Any:
    """The package onnx. Raises ModuleNotFoundError that names the extra if it is not installed."""
    try:
        import onnx
        import onnx.checker
        import onnx.numpy_helper
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "tr.interop.onnx needs the package onnx: pip install 'tinyrnn[onnx]'", name=error.name
        ) from error
    return onnx


@dataclass(frozen=True)
class Input:
    """An input of a graph: its name, its dtype, and its shape, where a str or None is any size; None: any shape."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...] | None

    def check(self, value: Any) -> Value:
        """`value` as what nodes compute with. Raises TypeError or ValueError that names the input."""
        if isinstance(value, (Tensor, np.ndarray)):
            integers = self.dtype.kind in "iu" and value.dtype.kind in "iu"
            if value.dtype != self.dtype and not integers:
                raise TypeError(f"{self.name} must be {self.dtype}, got {value.dtype}")
            found: Value = value.astype(self.dtype) if isinstance(value, np.ndarray) else value
        else:
            plain = as_array(self.name, value)
            if plain.dtype.kind not in ("iuf" if self.dtype.kind == "f" else "iu") and plain.size:
                raise TypeError(f"{self.name} must be an array of {self.dtype}, got {type_name(value)}")
            found = plain.astype(self.dtype)
        if self.shape is not None and not (
            found.ndim == len(self.shape)
            and all(not isinstance(n, int) or n == m for n, m in zip(self.shape, found.shape, strict=True))
        ):
            told = ", ".join("any" if n is None else str(n) for n in self.shape) + "," * (len(self.shape) == 1)
            raise ValueError(f"{self.name} must be of shape ({told}), got {tuple(found.shape)}")
        return as_value(found) if isinstance(found, np.ndarray) else found


class OnnxModel(Module):
    """A graph of ONNX's RNN, LSTM and GRU, run by `tr.scan`; `tr.interop.onnx.load` makes it.

        model = tr.interop.onnx.load("model.onnx")
        model(X=xs, initial_h=h)["Y"]                      # arrays by the names of the graph's outputs
        model.forward(X=tr.tensor(xs))["Y"]                # Tensors, through which gradients pass

    Arguments are the graph's inputs by their names; what the graph has a value for may be left out. `inputs` lists
    them with dtype and shape; `outputs` are their names. `cells` holds, by the name of each recurrent node, its cells,
    one a direction: `tr.cells.Elman`, `LSTM` and `GRU`, so that their weights are this module's parameters. Nodes
    whose weights are inputs of the graph make their cells at every call.
    """

    def __init__(self, graph: GraphProto) -> None:
        super().__init__()
        if not isinstance(graph, onnx_package().GraphProto):
            raise TypeError(f"graph must be an onnx.GraphProto, got {type_name(graph)}; load takes a path or a model")
        constants = _initialisers(graph)
        self.constants = {name: as_value(array) for name, array in constants.items()}
        self.inputs = {i.name: _input(i) for i in graph.input if i.name not in constants}
        """What a call must give, by name."""
        self.optional = {i.name: _input(i) for i in graph.input if i.name in constants}
        """What a call may give in place of the graph's own value."""
        self.outputs = [o.name for o in graph.output]
        fixed = {name: array for name, array in constants.items() if name not in self.optional}
        self.nodes: list[Node] = []
        for proto in graph.node:
            if proto.op_type == "Constant":
                fixed[proto.output[0]] = array = _constant(proto)
                self.constants[proto.output[0]] = as_value(array)
            else:
                self.nodes.append(_node(proto, fixed))
        self.cells: dict[str, list[Cell]] = {}
        for k, node in enumerate(self.nodes):
            if isinstance(node, Recurrent) and node.cells is not None:
                name = node.name or node.op
                self.cells[name if node.name and name not in self.cells else f"{name}_{k}"] = node.cells

    def forward(self, /, **inputs: Any) -> dict[str, Any]:
        """The graph's outputs by their names: Tensors, but NumPy arrays where they are integers.

        inputs: Tensors or arrays of the dtype and shape that the graph declares (any integers for integers), or
        lists. Raises TypeError for an input that is missing or unknown or has another dtype, ValueError for one of
        another shape, and for sequence_lens out of range; each names the input or the node, what it got and needs.
        """
        known = self.inputs | self.optional
        for name in inputs:
            if name not in known:
                raise TypeError(f"the graph has no input {name!r}; its inputs are {', '.join(known)}")
        missing = [name for name in self.inputs if name not in inputs]
        if missing:
            raise TypeError(f"the graph needs {', '.join(self.inputs)}; missing: {', '.join(missing)}")
        values = self.constants | {name: known[name].check(value) for name, value in inputs.items()}
        for node in self.nodes:
            values |= node.run(values)
        return {name: values[name] for name in self.outputs}

    def __call__(self, /, **inputs: Any) -> dict[str, Array]:
        """The graph's outputs by their names, as arrays; arguments and errors are those of `forward`."""
        with no_grad():
            found = self.forward(**inputs)
        return {name: np.array(value.data if isinstance(value, Tensor) else value) for name, value in found.items()}

    def extra_repr(self) -> str:
        return f"{', '.join(self.inputs)} -> {', '.join(self.outputs)}"


def load(path_or_model: str | os.PathLike[str] | ModelProto) -> OnnxModel:
    """A callable of an ONNX model that is made of RNN, LSTM and GRU nodes: see `OnnxModel`.

    path_or_model: the path of a file, or an `onnx.ModelProto`. The operators are run as their specification has them,
    of opsets 7 to 22, in float32 or float64, with all attributes and inputs. Where it says little, this is what
    onnxruntime does: `clip` bounds what enters the gates (not the cell state); alpha and beta are consumed by the
    activations that have such a parameter; outputs behind a row's end are 0, and a row of no steps has Y_h = Y_c = 0.
    Between them may stand what moves values about: Constant, Identity, Squeeze, Unsqueeze, Transpose, Reshape, Concat,
    Slice, Gather, Shape, ConstantOfShape, Expand, Add, ReduceSum.

    Raises ModuleNotFoundError without the package onnx, OSError if the file can not be read, ValueError if it holds
    no ONNX model, another operator (naming the node), or attributes and weights that do not fit each other.
    """
    onnx = onnx_package()
    if isinstance(path_or_model, (str, os.PathLike)):
        source = os.fspath(path_or_model)
        try:
            model = onnx.load(source)
        except OSError:
            raise
        except Exception as error:  # protobuf raises errors of its own for bytes that are no message
            raise ValueError(f"{source} is not an ONNX model: {error}") from None
    elif isinstance(path_or_model, onnx.ModelProto):
        source, model = "the model", path_or_model
    else:
        raise TypeError(f"path_or_model must be a path or an onnx.ModelProto, got {type_name(path_or_model)}")
    if not model.graph.node:
        raise ValueError(f"{source} is not an ONNX model, or its graph has no nodes")
    _check_operators(onnx, model)
    graph = model.graph
    made = {name for node in graph.node for name in node.output} | {v.name for v in (*graph.input, *graph.initializer)}
    for output in graph.output:  # the checker of onnx 1.16 does not look for it
        if output.name not in made:
            raise ValueError(f"the graph's output {output.name!r} is made by no node")
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ValueError(f"{source} is not a valid ONNX model: {error}") from None
    return OnnxModel(graph)


def _check_operators(onnx: Any, model: ModelProto) -> None:
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    for node in model.graph.node:
        label = f"node {node.name!r} ({node.op_type})"
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            domain = f" of the domain {node.domain}" if node.domain not in ("", "ai.onnx") else ""
            raise ValueError(f"{label}{domain} can not be run here; what can is {', '.join(OPERATORS)}")
        if node.op_type in GATES:
            since = onnx.defs.get_schema(node.op_type, opset).since_version if opset >= VERSIONS[0] else opset
            if since not in VERSIONS:
                raise ValueError(f"{label} must be as of opset {VERSIONS[0]} to {VERSIONS[-1]}, got {since}")


def _node(proto: NodeProto, constants: Mapping[str, Array]) -> Node:
    about = (proto.op_type, proto.name, proto.input, proto.output, {a.name: _attribute(a) for a in proto.attribute})
    if proto.op_type in GATES:
        return Recurrent(*about, constants=constants)
    return Move(*about)


def _constant(proto: NodeProto) -> Array:
    """What a Constant node holds."""
    (given,) = proto.attribute
    value = _attribute(given)
    if not given.name.startswith("value") or isinstance(value, str) or given.name == "value_strings":
        raise ValueError(f"node {proto.name!r} (Constant) must hold a dense tensor of numbers, got {given.name}")
    return np.asarray(value, np.float32 if given.name in ("value_float", "value_floats") else None)


def _attribute(proto: AttributeProto) -> Any:
    """An attribute's value: numbers, text, lists of them, or an array."""
    onnx = onnx_package()
    value = onnx.helper.get_attribute_value(proto)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if proto.type == proto.STRINGS:
        return [text.decode() for text in value]
    return list(value) if proto.type in (proto.INTS, proto.FLOATS) else value


def _initialisers(graph: GraphProto) -> dict[str, Array]:
    if graph.sparse_initializer:
        raise ValueError(f"the initializer {graph.sparse_initializer[0].values.name!r} is sparse; needs a dense one")
    onnx = onnx_package()
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}


def _input(info: ValueInfoProto) -> Input:
    kind = info.type.tensor_type
    if not info.type.HasField("tensor_type"):
        raise ValueError(f"the graph's input {info.name!r} must be a tensor")
    dtype = np.dtype(onnx_package().helper.tensor_dtype_to_np_dtype(kind.elem_type))
    if dtype not in (np.float32, np.float64) and dtype.kind not in "iu":
        raise ValueError(f"the graph's input {info.name!r} must be float32, float64 or integers, got {dtype}")
    shape = None
    if kind.HasField("shape"):
        dims = kind.shape.dim
        shape = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in dims)
    return Input(info.name, dtype, shape)
