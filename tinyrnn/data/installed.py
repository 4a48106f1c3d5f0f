"""Files that other packages bring: read where pip put them, without importing the package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tinyrnn.checks import type_name


class MissingExtraError(ModuleNotFoundError):
    """A package that tinyrnn does not install by itself is not there; the text says how to get it."""


def installed_file(package: str, path: str, *, needed: str) -> Path:
    """The file at `path` inside the folder of an installed `package`, which is found and not executed.

    needed: what to say if it is not there. Raises MissingExtraError with that text.
    """
    for name, value in (("package", package), ("path", path), ("needed", needed)):
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a str, got {type_name(value)}")
    spec = importlib.util.find_spec(package)  # of a top-level package: finds, does not import
    for folder in (spec and spec.submodule_search_locations) or ():
        place = Path(folder, path)
        if place.is_file():
            return place
    raise MissingExtraError(needed)
