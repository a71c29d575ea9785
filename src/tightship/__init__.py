"""Make a trained deep-learning model small, fast and proven.

    import tightship as ts
    plan = ts.optimize("model.onnx", data="calib.npz", output="out", budget=ts.Budget(max_drop=0.01))

The verbs live in `tightship.api`, the nouns in `tightship.core`, the errors in `tightship.errors`. Names are imported
when they are first used, so that `import tightship` costs next to nothing.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tightship.api import (
        Access,
        Keys,
        Options,
        bench,
        check,
        compress,
        convert,
        diff,
        doctor,
        export,
        inspect,
        list_formats,
        optimize,
        pack,
        pull,
        push,
        rekey,
        run,
        sign,
        unpack,
        verify,
    )
    from tightship.core.budget import Budget
    from tightship.core.dataset import Dataset
    from tightship.core.plan import Plan
    from tightship.core.recipe import Recipe
    from tightship.core.target import Target
    from tightship.errors import TightshipError

__version__ = "0.1.0"

__all__ = [
    "Access",
    "Budget",
    "Dataset",
    "Keys",
    "Options",
    "Plan",
    "Recipe",
    "Target",
    "TightshipError",
    "bench",
    "check",
    "compress",
    "convert",
    "diff",
    "doctor",
    "export",
    "inspect",
    "list_formats",
    "optimize",
    "pack",
    "pull",
    "push",
    "rekey",
    "run",
    "sign",
    "unpack",
    "verify",
]

# onnxruntime 1.31 writes a device id and a database of events when it is imported, unless this says not to. It must be
# set before the import, wherever that comes from, and a person who set it otherwise keeps their choice.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "Budget": "core.budget",
    "Dataset": "core.dataset",
    "Plan": "core.plan",
    "Recipe": "core.recipe",
    "Target": "core.target",
    "TightshipError": "errors",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'tightship' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tightship.{_HOMES.get(name, 'api')}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
