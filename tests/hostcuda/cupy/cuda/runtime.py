"""The runtime API: which devices there are, and its errors."""

import os

# the attributes of the device, by the names of cupy.cuda.Device().attributes, and their numbers in CUDA
ATTRIBUTES = {
    "MaxThreadsPerBlock": (1, 1024),
    "MaxRegistersPerBlock": (12, 65536),
    "MultiProcessorCount": (16, 4),
    "ComputeCapabilityMajor": (75, 9),
    "ComputeCapabilityMinor": (76, 0),
    "CooperativeLaunch": (95, 1),
    "MaxSharedMemoryPerBlockOptin": (97, 227 << 10),
}
cudaDevAttrMaxThreadsPerBlock = 1  # noqa: N816
cudaDevAttrMaxRegistersPerBlock = 12  # noqa: N816
cudaDevAttrMultiProcessorCount = 16  # noqa: N816
cudaDevAttrCooperativeLaunch = 95  # noqa: N816
cudaDevAttrMaxSharedMemoryPerBlockOptin = 97  # noqa: N816

MESSAGES = {
    35: "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version",
    101: "cudaErrorInvalidDevice: invalid device ordinal",
    401: "cudaErrorIllegalState: the operation cannot be performed in the present state",
    900: "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing",
}


class CUDARuntimeError(RuntimeError):
    """As in CuPy: `status` is CUDA's number; the message names it."""

    def __init__(self, status):
        self.status = status
        super().__init__(MESSAGES[status])

    def __reduce__(self):
        return type(self), (self.status,)


def need_device():
    """Raise as CuPy does where there is no driver."""
    if os.environ.get("TR_SHIM_NO_DEVICE") == "1":
        raise CUDARuntimeError(35)


def getDeviceCount():  # noqa: N802
    need_device()
    return 1


def deviceGetAttribute(attrib, device):  # noqa: N802
    need_device()
    if device != 0:
        raise CUDARuntimeError(101)
    return dict(ATTRIBUTES.values())[attrib]
