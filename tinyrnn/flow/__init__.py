"""How gradients and information flow through a cell over time, measured on the tape of its step."""

from tinyrnn.flow.decomposition import Paths, paths
from tinyrnn.flow.jacobians import Jacobian, jacobian
from tinyrnn.flow.sensitivities import Sensitivity, sensitivity
from tinyrnn.flow.tracing import Contribution, Signal, Trace, trace

__all__ = [
    "Contribution",
    "Jacobian",
    "Paths",
    "Sensitivity",
    "Signal",
    "Trace",
    "jacobian",
    "paths",
    "sensitivity",
    "trace",
]
