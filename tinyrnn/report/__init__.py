"""A training run as one HTML file that needs no network: `tinyrnn explain`, and the end of `tinyrnn train`.

    tinyrnn.report.write_report("runs/sentiment", "the movie was long, but I really loved it")

Needs matplotlib: pip install 'tinyrnn[plots]'.
"""

from tinyrnn.report.reading import Direction, Reading, read
from tinyrnn.report.writing import EXAMPLE, REPORT, write_report

__all__ = ["EXAMPLE", "REPORT", "Direction", "Reading", "read", "write_report"]
