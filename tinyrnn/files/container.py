"""The files of this library: one safetensors file each, arrays by name and one JSON text, written all or nothing.

A file is written beside its place, fsynced and renamed, so that under the name stands either what was there before or
the whole new file, at whatever moment the process or the machine dies. Reading one never runs code. A checksum over
text and arrays finds what changed in between; a file without one is read as it is.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from tinyrnn.checks import as_array, as_path, type_name

Array = npt.NDArray[Any]

FORMATS = {"tinyrnn checkpoint": 1, "tinyrnn module": 1}
"""What a file may be, and the version of it that is written and read."""


class CheckpointError(ValueError):
    """A file that is not whole, not of this library, or does not fit what it is to be restored into."""


def pack(
    path: str | os.PathLike[str], kind: str, content: Mapping[str, Any], arrays: Mapping[str, npt.ArrayLike]
) -> None:
    """Write a file of `kind`. content: what JSON can hold, with NumPy's scalars and arrays; a float keeps all its bits.

    Raises TypeError for content that JSON can not hold, OSError if the file can not be written; the old file stays.
    """
    text = json.dumps(content, default=_plain)
    whole = {name: np.array(as_array(name, a), order="C") for name, a in arrays.items()}  # safetensors wants C order
    header = {"format": kind, "version": str(FORMATS[kind]), "content": text, "crc32": _checksum(text, whole)}
    try:
        data = safetensors.numpy.save(whole, header)
    except safetensors.SafetensorError as error:
        dtypes = ", ".join(sorted({str(array.dtype) for array in whole.values()}))
        raise TypeError(f"arrays must be of dtypes that safetensors can hold, got {dtypes}: {error}") from None
    write(path, data)


def unpack(path: str | os.PathLike[str], kind: str) -> tuple[Path, dict[str, Any], dict[str, Array]]:
    """Read a file of `kind`: (its path, the content, the arrays by name).

    Raises FileNotFoundError or another OSError that names the path, and CheckpointError for a file that is cut short,
    damaged, of another kind, or of a newer version of this library.
    """
    place, noun = as_path("path", path), kind.removeprefix("tinyrnn ")
    with place.open("rb"):  # safetensors' own errors do not name the file
        pass
    try:
        with safetensors.safe_open(place, framework="numpy") as file:
            header = file.metadata() or {}
            if header.get("format") != kind:
                other = f"; it is a {header['format']}" if header.get("format") in FORMATS else ""
                raise CheckpointError(f"{place} is a safetensors file, but no {noun} of tinyrnn{other}")
            if header.get("version") != str(FORMATS[kind]):
                raise CheckpointError(
                    f"{place} is a {noun} of version {header.get('version')}; this tinyrnn reads version "
                    f"{FORMATS[kind]}"
                )
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
            if foreign := [f"{k} is {a.dtype}" for k, a in arrays.items() if a.dtype.isbuiltin != 1]:
                raise TypeError(", ".join(foreign))  # another package has taught NumPy such a type
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{place} is cut short, damaged or no safetensors file ({error})") from error
    except (TypeError, AttributeError) as error:  # of a type that NumPy does not have, as bfloat16
        raise CheckpointError(f"{place} holds an array that NumPy can not hold: {error}") from error
    try:
        text = header["content"]
        found = _checksum(text, arrays)
        if header.get("crc32", found) != found:
            raise ValueError("its checksum is not that of its content")
        content = json.loads(text)
        if not isinstance(content, dict):
            raise TypeError(f"its content is no JSON object but {type(content).__name__}")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{place} is a damaged {noun}: {error!r} in its header") from error
    return place, content, arrays


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace the file at `path` by `data`: first to a temporary file beside it, fsynced, then renamed, then the
    folder fsynced. Raises OSError; the old file then stays."""
    place = as_path("path", path)
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"data must be bytes, got {type_name(data)}")
    if not place.name:
        raise IsADirectoryError(errno.EISDIR, "path must name a file, got a folder", str(path))
    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(place)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:  # of the file that was asked for
            raise OSError(error.errno, error.strerror, str(place)) from error
        raise
    folder = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _checksum(text: str, arrays: Mapping[str, Array]) -> str:
    total = zlib.crc32(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        total = zlib.crc32(array.data, zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), total))
    return f"{total:08x}"


def _plain(value: Any) -> Any:
    """What JSON writes for NumPy's scalars and arrays (an MT19937 holds its key in one)."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"meta must hold what JSON can hold, got a {type(value).__name__}")
