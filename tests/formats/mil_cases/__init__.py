"""At least one case for every operator of the tables of MIL; judged by numpy, PyTorch, or coremltools itself."""

from __future__ import annotations

import importlib
import pkgutil

from tests.formats.mil_running import CASES

__all__ = ["CASES"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
