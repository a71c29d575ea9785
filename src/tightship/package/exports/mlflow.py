"""An MLflow model folder, flavours `onnx` and `python_function` (mlflow.org/docs, MLflow Models, storage format)."""

from __future__ import annotations

import json
import platform
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tightship.core.specs import TensorSpec
from tightship.errors import UnsupportedError
from tightship.package.exports.export import Export
from tightship.package.exports.exportable import Exportable
from tightship.package.exports.requirements import pinned
from tightship.package.exports.yaml_text import Value, to_yaml

__all__ = ["MLflow"]

WRITTEN = frozenset({"MLmodel", "requirements.txt", "conda.yaml", "python_env.yaml"})
LIBRARIES = ("mlflow", "numpy", "onnx", "onnxruntime", "pandas")
DTYPES = frozenset(
    {"bool", "float16", "float32", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}
)
"""What numpy knows by itself, and MLflow therefore; `str` is its `object`."""


@dataclass(frozen=True)
class MLflow(Export):
    """A model that `mlflow.onnx.load_model`, `mlflow.pyfunc.load_model` and `mlflow models serve` read."""

    name = "mlflow"
    about = "an MLflow model (flavours onnx and pyfunc) with signature and requirements"
    takes: ClassVar[tuple[str, ...]] = ("onnx",)

    def ours(self, model: Exportable) -> frozenset[str]:
        return WRITTEN | model.tops

    def write(self, model: Exportable, folder: Path) -> Path:
        if model.tops & WRITTEN:
            raise UnsupportedError(
                f"{model.file_name}: beside it lies {min(model.tops & WRITTEN)}, a name of MLflow's own"
            )
        signature = _signature(model)
        model.write_files(folder)
        requirements = pinned(LIBRARIES)
        texts = {
            "MLmodel": to_yaml(_mlmodel(model, folder, signature)),
            "requirements.txt": "".join(f"{line}\n" for line in requirements),
            "conda.yaml": to_yaml(_conda(requirements)),
            "python_env.yaml": to_yaml({"python": platform.python_version(), "dependencies": ["-r requirements.txt"]}),
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        return folder / model.file_name


def _mlmodel(model: Exportable, folder: Path, signature: Value) -> dict[str, Value]:
    onnx_version = pinned(("onnx",))[0].partition("==")[2]
    digests = {path: model.digests.get(name, "") for name, path in model.files.items()}
    return {
        "flavors": {
            "onnx": {
                "code": None,
                "data": model.file_name,
                "onnx_session_options": None,
                "onnx_version": onnx_version,
                "providers": ["CPUExecutionProvider"],
            },
            "python_function": {
                "data": model.file_name,
                "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
                "loader_module": "mlflow.onnx",
                "python_version": platform.python_version(),
            },
        },
        "metadata": {"tightship": {"package": model.digest, "sha256": digests}},
        "model_size_bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        "model_uuid": uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(digests, sort_keys=True)).hex,
        "signature": signature,
    }


def _signature(model: Exportable) -> Value:
    """Tensors by name, free axes as -1. Raises `UnsupportedError` for a type that is none of numpy's."""
    for spec in (*model.inputs, *model.outputs):
        if spec.dtype not in {*DTYPES, "str"}:
            raise UnsupportedError(f"{spec}: MLflow has no type for {spec.dtype}; it has {', '.join(sorted(DTYPES))}")
    return {
        "inputs": json.dumps([_tensor(spec) for spec in model.inputs]),
        "outputs": json.dumps([_tensor(spec) for spec in model.outputs]),
        "params": None,
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    shape = [dim if isinstance(dim, int) else -1 for dim in spec.shape]
    dtype = "object" if spec.dtype == "str" else spec.dtype
    return {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": shape}, "name": spec.name}


def _conda(requirements: tuple[str, ...]) -> dict[str, Value]:
    pip: Value = {"pip": list(requirements)}
    return {
        "name": "mlflow-env",
        "channels": ["conda-forge"],
        "dependencies": [f"python={platform.python_version()}", "pip", pip],
    }
