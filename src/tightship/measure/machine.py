"""Where something is measured: processor, memory, system and the versions that decide what an engine does."""

from __future__ import annotations

import importlib.metadata
import platform

from tightship.core import processor
from tightship.core.measurement import Machine

__all__ = ["machine"]

PACKAGES = ("tightship", "numpy", "onnx", "onnxruntime", "openvino", "torch")


def machine() -> Machine:
    """Describe this machine; only installed packages have a version."""
    import psutil

    return Machine(
        processor=processor.processor_name(),
        n_cores=processor.n_cores(),
        features=processor.features(),
        memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        versions={name: version for name in PACKAGES if (version := _version(name))},
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
