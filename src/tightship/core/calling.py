"""`package.module:function` as the user types it: found, imported and called with every failure typed."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tightship.errors import TightshipError, nearest

__all__ = ["import_function", "is_function_name", "module_file"]

_FUNCTION = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")


def is_function_name(source: str) -> bool:
    """Whether `source` reads as `package.module:function`."""
    return _FUNCTION.match(source) is not None


def import_function(source: str, error: type[TightshipError]) -> Callable[..., Any]:
    """Import `package.module:function`, looking in the current directory too, as uvicorn does.

    Raises `error` where the module or the function is not there, or where importing fails.
    """
    module_name, _, name = source.partition(":")
    try:
        with _current_directory_importable():
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as missing:
        raise error(f"{source}: cannot import: {missing}; is it installed, or in the current directory?") from missing
    except Exception as failure:  # the user's module may raise anything
        raise error(f"{source}: importing {module_name} failed: {type(failure).__name__}: {failure}") from failure
    found = getattr(module, name, None)
    if not callable(found):
        public = [key for key in vars(module) if not key.startswith("_")]
        raise error(f"{source}: {module_name} has no function {name!r}{nearest(name, public)}")
    function: Callable[..., Any] = found
    return function


def module_file(function: Callable[..., Any]) -> Path | None:
    """Return the file that defines `function`, or None where there is none (built in, typed at a prompt)."""
    file = getattr(sys.modules.get(function.__module__), "__file__", None)
    return Path(file) if file else None


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)
