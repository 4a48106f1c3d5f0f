"""A small scan and its gradient under compute-sanitizer, where there is a GPU: no access out of bounds, no race."""

import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.gpu

SCAN = """
import dataclasses
import sys

import numpy as np
import tinyrnn as tr
from tinyrnn.backend.cuda import loop

if sys.argv[1] == "all":  # a cell of this size would stay in a cluster where there are any
    machine = dataclasses.replace(loop.this_machine(), cluster=0)
    loop.this_machine = lambda: machine
cell = tr.cells.LayerNormLSTM(3, 40, rng=0).to("cuda")  # products, and sums over rows that blocks share
ys, _ = tr.scan(cell, np.ones((3, 5, 3), np.float32), lengths=[3, 1, 2, 0, 3])
(ys * ys).sum().backward()
print(all(np.isfinite(p.grad.numpy()).all() for p in cell.parameters()))
"""


@pytest.mark.parametrize("blocks", ["all", "cluster"])
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_a_small_scan(tool, blocks):
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("needs compute-sanitizer, which comes with the CUDA toolkit")
    command = [sanitizer, "--tool", tool, "--error-exitcode", "3", sys.executable, "-c", SCAN, blocks]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "True" in done.stdout
