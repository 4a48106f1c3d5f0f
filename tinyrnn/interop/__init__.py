"""Models that come from, or go to, other libraries: PyTorch's layers and cells, and graphs of ONNX.

    rnn = tr.interop.torch.load(torch.nn.LSTM(8, 16))      # and tr.interop.torch.to_torch(rnn)
    model = tr.interop.onnx.load("model.onnx")             # and tr.interop.onnx.save(rnn, "rnn.onnx")

The other library is imported when a function needs it; if it is missing, the error names the extra that brings it.
"""

from tinyrnn.interop import onnx, torch
from tinyrnn.interop.errors import CannotExpressError

__all__ = ["CannotExpressError", "onnx", "torch"]
