"""Whether the weights of an ONNX file are sound: lengths, where external data lies, and values.

External data is named by the model, so its location is hostile input: it must stay in the model's own folder.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tightship.errors import ArtifactNotFound, InvalidModel
from tightship.formats.onnx_structure import MAX_DIM, all_nodes, proto_operator_name, subgraphs

if TYPE_CHECKING:
    import onnx
    import onnx_ir

__all__ = ["check_fills", "check_tensors", "check_values", "constant_tensors", "external_files"]

_DATA_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
_ENTRIES = ("location", "offset", "length", "checksum", "basepath")
_CHUNK_ELEMENTS = 2**22

_MAX_FILL_BYTES = 2**32

_MULTIPLIERS = """
Attention BatchNormalization BiasGelu Conv ConvInteger ConvTranspose DeformConv DequantizeLinear Div Einsum
EmbedLayerNormalization FusedConv FusedGemm FusedMatMul GRU Gemm GroupNormalization InstanceNormalization LSTM
LayerNormalization MatMul MatMulInteger MatMulNBits Mul MultiHeadAttention PRelu QLinearConv QLinearMatMul
QuantizeLinear RMSNormalization RNN SimplifiedLayerNormalization SkipLayerNormalization SkipSimplifiedLayerNormalization
"""
"""Operators that multiply by what they read; times zero, infinity is NaN."""


def external_files(model: onnx.ModelProto, folder: Path) -> tuple[Path, ...]:
    """Return the external data files of a model in `folder`, sorted, each once.

    Raises `InvalidModel` where a location leaves the folder or is no plain file, `ArtifactNotFound` where it is absent.
    """
    return tuple(sorted(set(_locations(model, folder).values())))


def check_tensors(model: onnx.ModelProto, folder: Path) -> None:
    """Raise `InvalidModel` where a tensor's data does not have the length that its type and dimensions ask for."""
    files = _locations(model, folder)
    sizes = {location: path.stat().st_size for location, path in files.items()}
    _check_entries(model, files)
    for tensor in (*_initializers(model.graph), *_constants(model)):
        if any(not 0 <= dim <= MAX_DIM for dim in tensor.dims):
            raise InvalidModel(f"tensor {tensor.name!r} has impossible dimensions {list(tensor.dims)}")
        n_bits = _bits_per_element(tensor)
        if _is_external(tensor):
            file_size = sizes[_external_entries(tensor).get("location", "")]
            _check_extent(tensor, -(-math.prod(tensor.dims) * n_bits // 8), file_size)
        else:
            _check_length(tensor, n_bits)


def check_values(model: onnx_ir.Model) -> None:
    """Raise `InvalidModel` where weights hold NaN, or infinity where something is multiplied by it.

    NaN is never of use in a constant. Infinity is, as a mask, a bound or a fill value; but times zero it is NaN, so it
    is refused in tensors that a convolution, matrix product, recurrence, normalization or product reads.
    """
    multipliers = set(_MULTIPLIERS.split())
    not_numbers, infinite = [], []
    for value, tensor in constant_tensors(model):
        has_nan, has_inf = _scan(tensor) if tensor.dtype.is_floating_point() else (False, False)
        if has_nan:
            not_numbers.append(value.name or "")
        elif has_inf and any(node.op_type in multipliers for node, _ in value.uses()):
            infinite.append(value.name or "")
    for found, names in (("NaN", not_numbers), ("infinity", infinite)):
        if names:
            listed = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
            raise InvalidModel(f"{len(names)} weights hold {found}: {listed}; the training or export went wrong")


def check_fills(model: onnx_ir.Model) -> None:
    """Raise `InvalidModel` where a few bytes ask for gigabytes: a ConstantOfShape of a shape that the file holds.

    Whatever runs the model, or computes its constants once, would allocate them.
    """
    for node in model.graph.all_nodes():
        shape = (
            node.inputs[0].const_value if node.op_type == "ConstantOfShape" and node.inputs and node.inputs[0] else None
        )
        if shape is None:
            continue
        fill = node.attributes.get("value")
        bits = int(fill.as_tensor().dtype.bitwidth) if fill is not None else 32
        n_bytes = math.prod(int(dim) for dim in shape.numpy().reshape(-1)) * bits // 8
        if n_bytes > _MAX_FILL_BYTES:
            name = node.outputs[0].name
            raise InvalidModel(f"ConstantOfShape {name!r} fills {n_bytes / 2**30:.0f} GiB with one number; not opened")


def constant_tensors(model: onnx_ir.Model) -> Iterator[tuple[onnx_ir.Value, onnx_ir.TensorProtocol]]:
    """Yield each weight and constant of a graph and its subgraphs, with the value that stands for it."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value, value.const_value
    for node in model.graph.all_nodes():
        if node.op_type == "Constant" and "value" in node.attributes:
            yield node.outputs[0], node.attributes["value"].as_tensor()


def _initializers(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in all_nodes(graph.node):
        for body in subgraphs(node):
            yield from body.initializer


def _constants(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Tensors that are attributes, those of functions too; no runtime reads external data for them."""
    for node in all_nodes([*model.graph.node, *(node for function in model.functions for node in function.node)]):
        for attribute in node.attribute:
            for tensor in (*attribute.tensors, *([attribute.t] if attribute.HasField("t") else [])):
                if _is_external(tensor):
                    raise InvalidModel(
                        f"attribute {attribute.name!r} of {proto_operator_name(node)!r} is external data"
                    )
                yield tensor


def _is_external(tensor: onnx.TensorProto) -> bool:
    import onnx

    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def _external_entries(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _locations(model: onnx.ModelProto, folder: Path) -> dict[str, Path]:
    named = {
        _external_entries(tensor).get("location", "") for tensor in _initializers(model.graph) if _is_external(tensor)
    }
    return {location: _contained(location, folder) for location in named}


def _check_entries(model: onnx.ModelProto, files: Mapping[str, Path]) -> None:
    """Raise `InvalidModel` at an entry that ONNX does not know, and at a checksum (SHA-1 of the file) that is wrong."""
    digests: dict[str, str] = {}
    for tensor in filter(_is_external, _initializers(model.graph)):
        entries = _external_entries(tensor)
        unknown = [
            key for key in entries if key not in _ENTRIES and not key.startswith("prepacked_")
        ]  # of ONNX Runtime
        if unknown:
            raise InvalidModel(
                f"tensor {tensor.name!r}: external data has an entry {unknown[0][:80]!r}; known: {', '.join(_ENTRIES)}"
            )
        location, wanted = entries.get("location", ""), entries.get("checksum")
        if wanted is None:
            continue
        if location not in digests:
            with files[location].open("rb") as file:
                digests[location] = hashlib.file_digest(file, "sha1").hexdigest()
        if wanted.lower() != digests[location]:
            raise InvalidModel(f"external data at {location!r}: its checksum is wrong; it is damaged: fetch it again")


def _contained(location: str, folder: Path) -> Path:
    """The file at `location`, after making sure that opening it cannot reach outside `folder` or hang."""
    parts = Path(location).parts
    if not parts or "\0" in location or Path(location).is_absolute() or ".." in parts:
        raise InvalidModel(f"external data at {location!r}: expected a relative path below the model's folder")
    path = folder / location
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
        status = path.stat() if inside else None
    except FileNotFoundError as error:
        raise ArtifactNotFound(f"external data {path} is missing; copy it beside the model") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidModel(f"external data at {location!r} cannot be looked at: {error}") from error
    if status is None:
        raise InvalidModel(f"external data at {location!r} is a link out of the model's folder; copy the file there")
    if not stat.S_ISREG(status.st_mode) or not os.access(path, os.R_OK):
        raise InvalidModel(f"external data at {location!r} is not a readable plain file")
    if status.st_nlink > 1:
        raise InvalidModel(f"external data at {location!r} has hard links elsewhere; copy the file")
    return path


def _check_extent(tensor: onnx.TensorProto, n_bytes: int, file_size: int) -> None:
    entries = _external_entries(tensor)
    numbers = {key: entries[key] for key in ("offset", "length") if key in entries}
    if not all(text.isascii() and text.isdigit() and len(text) < 20 for text in numbers.values()):
        raise InvalidModel(
            f"tensor {tensor.name!r}: offset and length of external data must be counts, found {numbers}"
        )
    offset, length = int(numbers.get("offset", 0)), int(numbers.get("length", n_bytes))
    if length != n_bytes or offset + length > file_size:
        raise InvalidModel(
            f"tensor {tensor.name!r} of {_type_name(tensor)}{list(tensor.dims)} needs {n_bytes} bytes outside, "
            f"found {length} at offset {offset} of {file_size}"
        )


def _check_length(tensor: onnx.TensorProto, n_bits: int) -> None:
    import onnx

    n_elements = math.prod(tensor.dims)
    wanted, unit = -(-n_elements * n_bits // 8), "bytes"
    counts = [len(getattr(tensor, field)) for field in _DATA_FIELDS]
    if tensor.data_type == onnx.TensorProto.STRING:
        wanted, found, unit = n_elements, len(tensor.string_data), "strings"
    elif tensor.HasField("raw_data"):
        found = len(tensor.raw_data)
    else:  # one entry per element; two for complex numbers, one per byte for packed types
        complex_types = (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128)
        wanted = wanted if n_bits < 8 else n_elements * (2 if tensor.data_type in complex_types else 1)
        found, unit = sum(counts), "numbers"
    if found != wanted or sum(map(bool, counts)) > 1:
        raise InvalidModel(
            f"tensor {tensor.name!r} of {_type_name(tensor)}{list(tensor.dims)} needs {wanted} {unit}, found {found}"
        )


def _bits_per_element(tensor: onnx.TensorProto) -> int:
    import onnx_ir

    try:
        kind = onnx_ir.DataType(tensor.data_type)
        return 0 if kind == onnx_ir.DataType.STRING and not _is_external(tensor) else int(kind.bitwidth)
    except (ValueError, TypeError) as error:
        raise InvalidModel(
            f"tensor {tensor.name!r} has data type {tensor.data_type}, which holds no numbers"
        ) from error


def _type_name(tensor: onnx.TensorProto) -> str:
    import onnx_ir

    return str(onnx_ir.DataType(tensor.data_type).name).lower()


def _scan(tensor: onnx_ir.TensorProtocol) -> tuple[bool, bool]:
    """Whether there is NaN, and whether there is infinity; a mapped file is let go afterwards."""
    import onnx_ir

    found = _scan_array(tensor.numpy().reshape(-1))
    if isinstance(tensor, onnx_ir.ExternalTensor):
        tensor.release()
    return found


def _scan_array(flat: np.ndarray) -> tuple[bool, bool]:
    # In chunks, so that what is allocated on the way stays small beside the tensor.
    chunks = (flat[start : start + _CHUNK_ELEMENTS] for start in range(0, flat.size, _CHUNK_ELEMENTS))
    bad = [chunk for chunk in chunks if not np.isfinite(chunk).all()]
    return any(bool(np.isnan(chunk).any()) for chunk in bad), any(bool(np.isinf(chunk).any()) for chunk in bad)
