"""To and from ONNX: graphs of RNN, LSTM and GRU nodes run on this library's cells, and cells and layers as graphs.

    model = tr.interop.onnx.load("model.onnx")             # a path or an onnx.ModelProto
    model(X=xs, initial_h=h)["Y"]                          # arrays by the names of the graph's outputs
    tr.interop.onnx.save(rnn, "rnn.onnx", lengths=True)    # a cell or a tr.nn.RNN

Notation: T steps, B rows, D directions (1 or 2), H features of a state. Needs the package onnx (extra `onnx`), which
is imported at the first call.
"""

from tinyrnn.interop.errors import CannotExpressError
from tinyrnn.interop.onnx_cells import Activation, InputForgetLSTM
from tinyrnn.interop.onnx_model import OnnxModel, load
from tinyrnn.interop.onnx_write import save, to_model

__all__ = ["Activation", "CannotExpressError", "InputForgetLSTM", "OnnxModel", "load", "save", "to_model"]
