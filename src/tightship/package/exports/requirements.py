"""The packages that run a model of each format, in the versions that it was proven with here."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence

__all__ = ["RUNS", "pinned"]

RUNS = {
    "onnx": ("numpy", "onnxruntime"),
    "openvino-ir": ("numpy", "openvino"),
    "tflite": ("numpy", "ai-edge-litert"),
    "torch-export": ("numpy", "torch"),
}


def pinned(names: Sequence[str]) -> tuple[str, ...]:
    """Each name with the version that is installed, or alone where it is not."""
    return tuple(_pinned(name) for name in names)


def _pinned(name: str) -> str:
    try:
        return f"{name}=={importlib.metadata.version(name).partition('+')[0]}"
    except importlib.metadata.PackageNotFoundError:
        return name
