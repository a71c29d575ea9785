"""Optional frameworks: importing one that is missing names the extra and the command that installs it."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from tightship.errors import MissingExtra

__all__ = ["available", "check", "install_command", "require"]

EXTRA_OF_MODULE = {
    "torch": "torch",
    "safetensors": "torch",
    "openvino": "openvino",
    "tensorflow": "tensorflow",
    "keras": "tensorflow",
    "h5py": "tensorflow",
    "tf2onnx": "tensorflow",
    "ai_edge_litert": "litert",
    "litert_torch": "litert",
    "coremltools": "coreml",
    "executorch": "executorch",
    "hdf5plugin": "weights",
    "cryptography": "package",
    "cyclonedx": "package",
    "pkcs11": "pkcs11",
    "oras": "registry",
    "grpc": "serve",
    "prometheus_client": "serve",
    "starlette": "serve",
    "uvicorn": "serve",
    "ray": "cluster",
    "opentelemetry": "tracing",
    "PIL": "media",
    "tokenizers": "media",
}


def install_command(module: str) -> str:
    """Return the command that installs the extra holding `module`."""
    return f"pip install 'tightship[{EXTRA_OF_MODULE.get(module, module)}]'"


def available(module: str) -> bool:
    """Whether `module` can be found; nothing is imported."""
    return importlib.util.find_spec(module) is not None


def check(module: str, purpose: str) -> None:
    """Raise `MissingExtra` where `module` is not installed, with what it was wanted for and how to install it."""
    root = module.partition(".")[0]
    if not available(root):
        raise MissingExtra(f"{purpose} needs {root}, which is not installed; install it with: {install_command(root)}")


def require(module: str, purpose: str) -> ModuleType:
    """Import `module`. Raises `MissingExtra` as `check` does."""
    check(module, purpose)
    return importlib.import_module(module)
