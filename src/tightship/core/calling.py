"""`package.module:function` as the user types it: found, imported and called with every failure typed."""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tightship.core import extras
from tightship.errors import TightshipError, nearest

__all__ = ["current_directory_importable", "import_function", "is_function_name", "module_file"]

_FUNCTION = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")


def is_function_name(source: str) -> bool:
    """Whether `source` reads as `package.module:function`."""
    return _FUNCTION.match(source) is not None


def import_function(
    source: str, error: type[TightshipError], broken: type[TightshipError] | None = None
) -> Callable[..., Any]:
    """Import `package.module:function`, looking in the current directory too, as uvicorn does.

    Raises `error` where the module or the function is not there, `broken` (None: `error`) where importing fails, and
    `MissingExtra` where it fails for want of a framework that is an extra.
    """
    module_name, _, name = source.partition(":")
    broken = broken or error
    try:
        with current_directory_importable():
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] in extras.EXTRA_OF_MODULE:
            extras.check(missing.name or "", f"{source}: importing {module_name}")
        if missing.name is None or not f"{module_name}.".startswith(f"{missing.name}."):
            raise broken(f"{source}: importing {module_name} failed: {missing}; install what it needs") from missing
        hint = nearest(module_name, _modules_beside(module_name))
        raise error(f"{source}: cannot import: {missing}{hint}; is it in the current directory?") from missing
    except (Exception, SystemExit) as failure:  # the user's module may raise anything
        raise broken(f"{source}: importing {module_name} failed: {type(failure).__name__}: {failure}") from failure
    found = getattr(module, name, None)
    if not callable(found):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise error(f"{source}: {module_name} has no function {name!r}{nearest(name, public)}")
    function: Callable[..., Any] = found
    return function


def module_file(function: Callable[..., Any]) -> Path | None:
    """Return the file that defines `function`, or None where there is none (built in, typed at a prompt)."""
    file = getattr(sys.modules.get(function.__module__), "__file__", None)
    return Path(file) if file else None


@contextmanager
def current_directory_importable() -> Iterator[None]:
    """Let imports in the block find the modules of the current directory, as those of a script do."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()  # a module may have been written a moment ago
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


def _modules_beside(name: str) -> list[str]:
    """Names of the modules that lie where module `name` should, as far as that is in the current directory."""
    package = name.rpartition(".")[0]
    prefix = f"{package}." if package else ""
    return [prefix + entry.name for entry in pkgutil.iter_modules([str(Path.cwd().joinpath(*package.split(".")))])]
