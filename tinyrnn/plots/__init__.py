"""Pictures of gradients, gates and training runs, by matplotlib (`pip install 'tinyrnn[plots]'`).

Every function returns (figure, data): a matplotlib Figure, to be saved by `figure.savefig("name.png")`, and the numbers
that it shows. theme="dark" draws for dark paper.
"""

from tinyrnn.plots.distance import DistanceData, gradient_by_distance
from tinyrnn.plots.gates import GateMapData, gate_map
from tinyrnn.plots.runs import CurvesData, curves
from tinyrnn.plots.sensitivity import SensitivityData, fading, preservation, sensitivity_map

__all__ = [
    "CurvesData",
    "DistanceData",
    "GateMapData",
    "SensitivityData",
    "curves",
    "fading",
    "gate_map",
    "gradient_by_distance",
    "preservation",
    "sensitivity_map",
]
