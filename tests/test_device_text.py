"""The text of every kernel of the device that is not a time loop's compiles, for the devices that are meant."""

import importlib.util

import pytest
from nvrtc import compile_with_nvrtc
from test_no_device import SOURCES

from tinyrnn.backend.cuda import text

pytestmark = [
    pytest.mark.nvrtc,
    pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="needs cupy: pip install 'tinyrnn[nvrtc]'"),
]


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_every_kernel_compiles(name, arch):
    source, headers = SOURCES[name]()
    cubin = compile_with_nvrtc(text.whole(source, headers), arch, f"{name}.cu")
    assert cubin.startswith(b"\x7fELF")
