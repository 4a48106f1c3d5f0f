"""Devices, streams, graphs, events. A stream runs what it is given at once, unless it captures."""

import time
import weakref

from cupy.cuda import compiler, driver, runtime

__all__ = ["Device", "Event", "Graph", "Stream", "compiler", "driver", "get_elapsed_time", "runtime"]

_entered = []  # the streams whose `with` is open, the current one last


class Device:
    """Device 0."""

    def __init__(self, device=0):
        runtime.need_device()
        if device != 0:
            raise runtime.CUDARuntimeError(101)
        self.id = device

    attributes = property(lambda self: {name: value for name, (_, value) in runtime.ATTRIBUTES.items()})
    compute_capability = property(lambda self: "90")

    def synchronize(self):
        forbid_capture()


class Stream:
    """A stream that is not the default one; only such a stream can capture."""

    def __init__(self, *, non_blocking=False):
        runtime.need_device()
        self._captured = None
        self._non_blocking = non_blocking

    def __enter__(self):
        _entered.append(self)
        return self

    def __exit__(self, *error):
        assert _entered.pop() is self, "streams are left in the order they were not entered in"

    def synchronize(self):
        if self._captured is not None:
            raise runtime.CUDARuntimeError(900)

    def begin_capture(self, mode=None):
        if self._captured is not None:
            raise runtime.CUDARuntimeError(401)
        self._captured = []

    def end_capture(self):
        if self._captured is None:
            raise runtime.CUDARuntimeError(401)
        captured, self._captured = self._captured, None
        return Graph._of(captured)


class Graph:
    """What a stream captured. It holds no array: one that is gone when the graph is launched is an error."""

    def __init__(self):
        raise NotImplementedError("a graph comes from Stream.end_capture()")

    @classmethod
    def _of(cls, captured):
        graph = cls.__new__(cls)
        graph._captured = captured
        return graph

    def launch(self, stream=None):
        with stream or current() or Stream():
            for work, references in self._captured:
                memories = [reference() for reference in references]
                if None in memories:
                    raise driver.CUDADriverError(
                        "CUDA_ERROR_ILLEGAL_ADDRESS: the graph uses an array that does not exist any more"
                    )
                submit(work, memories)


class Event:
    """A point in time."""

    def __init__(self):
        runtime.need_device()
        self._time = None

    def record(self, stream=None):
        self._time = time.perf_counter()

    def synchronize(self):
        pass


def get_elapsed_time(start_event, end_event):
    """Milliseconds from one recorded event to another."""
    return 1e3 * (end_event._time - start_event._time)


def current():
    """The stream whose `with` is open, or None: the default stream."""
    return _entered[-1] if _entered else None


def forbid_capture():
    """Raise where the current stream captures: for what allocates, waits or copies to the host."""
    stream = current()
    if stream is not None and stream._captured is not None:
        raise runtime.CUDARuntimeError(900)


def submit(work, memories):
    """Call work(memories) now, or, if the current stream captures, whenever the graph is launched."""
    stream = current()
    if stream is None or stream._captured is None:
        work(memories)
    else:
        stream._captured.append((work, [weakref.ref(memory) for memory in memories]))
