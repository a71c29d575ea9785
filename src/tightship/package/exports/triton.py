"""A model repository of NVIDIA Triton: `NAME/config.pbtxt` and `NAME/1/` with the model's files.

config.pbtxt is the text format of ModelConfig (triton-inference-server/common, protobuf/model_config.proto).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tightship.core.specs import Dim, TensorSpec
from tightship.errors import UnsupportedError, UsageError
from tightship.package.exports.export import Export
from tightship.package.exports.exportable import Exportable
from tightship.package.exports.interface import batch_name, plain_name

__all__ = ["Triton"]

BACKENDS = {"onnx": "onnxruntime", "openvino-ir": "openvino"}
VERSION = "1"

TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "bfloat16": "TYPE_BF16",
    "str": "TYPE_STRING",
}


@dataclass(frozen=True)
class Triton(Export):
    """A Triton model repository.

    Where every input and output has the same free first axis, it is the batch and requests of up to `max_batch` items
    are taken together; 0 leaves the axis to the client.
    """

    max_batch: int = 8

    name = "triton"
    about = "a model repository for NVIDIA Triton, with config.pbtxt"
    takes: ClassVar[tuple[str, ...]] = tuple(BACKENDS)

    def __post_init__(self) -> None:
        if not 0 <= self.max_batch < 2**31:
            raise UsageError(f"--max-batch must be zero (no batching) or more, found {self.max_batch}")

    def ours(self, model: Exportable) -> frozenset[str]:
        return frozenset({plain_name(model.manifest.name)})

    def write(self, model: Exportable, folder: Path) -> Path:
        place = folder / plain_name(model.manifest.name)
        model.write_files(place / VERSION)
        (place / "config.pbtxt").write_text(self.config(model), encoding="utf-8")
        return place / VERSION / model.file_name

    def config(self, model: Exportable) -> str:
        """Return the text of config.pbtxt."""
        batched = self.max_batch > 0 and batch_name(model.inputs, model.outputs) is not None
        head = {
            "name": _string(plain_name(model.manifest.name)),
            "backend": _string(BACKENDS[model.artifact.format]),
            "default_model_filename": _string(model.file_name),
            "max_batch_size": str(self.max_batch if batched else 0),
        }
        if model.artifact.format == "onnx":
            head = {"name": head.pop("name"), "platform": _string("onnxruntime_onnx"), **head}
        lines = [f"{key}: {value}" for key, value in head.items()]
        for kind, specs in (("input", model.inputs), ("output", model.outputs)):
            for spec in specs:
                lines += (f"{kind} {{", *(f"  {line}" for line in _tensor(spec, batched)), "}")
        return "\n".join(lines) + "\n"


def _tensor(spec: TensorSpec, batched: bool) -> Iterator[str]:
    if spec.dtype not in TYPES:
        raise UnsupportedError(f"{spec}: Triton has no type for {spec.dtype}; it has {', '.join(TYPES)}")
    shape = spec.shape[1:] if batched else spec.shape
    yield f"name: {_string(spec.name)}"
    yield f"data_type: {TYPES[spec.dtype]}"
    yield f"dims: [ {', '.join(map(_dim, shape)) or '1'} ]"
    if not shape:  # Triton has no scalars: they travel as one element
        yield "reshape: { shape: [ ] }"


def _dim(dim: Dim) -> str:
    return str(dim) if isinstance(dim, int) else "-1"


def _string(text: str) -> str:
    """A string of the protobuf text format: bytes outside printable ASCII as octal escapes."""
    escaped = "".join(
        f"\\{byte:03o}" if byte < 32 or byte > 126 or byte in b'"\\' else chr(byte) for byte in text.encode()
    )
    return f'"{escaped}"'
