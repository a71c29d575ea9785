"""TFLite (LiteRT) files: read into a graph by tf2onnx, written from a module by litert-torch or from Keras."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tightship.core import extras, graph
from tightship.core.artifact import Artifact
from tightship.core.atomic import write_bytes
from tightship.core.child import run_in_child
from tightship.core.exported import quiet_torch
from tightship.core.keras_model import serving_function
from tightship.core.model import Form, Model
from tightship.core.native_output import native_output_hidden
from tightship.core.torch_module import BATCH, exportable
from tightship.errors import (
    ArtifactNotFound,
    InvalidModel,
    UnsupportedError,
    UnsupportedOperators,
    UsageError,
)
from tightship.formats.format import Format
from tightship.formats.tflite_structure import IDENTIFIER, Outline, outline

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["TfLite", "convert_to_onnx"]

_OPSET = 18
"""The newest that tf2onnx 1.17 writes."""

_CONVERTED_CUSTOM = ("Flex", "TFLite_Detection_PostProcess")
"""What names of custom operators that tf2onnx knows begin with."""

_READING_S = 600
_MAX_FILE_BYTES = 2**31 - 1
_WIDE = ("int64", "uint64", "float64")


@dataclass(frozen=True)
class TfLite(Format):
    """Read into a graph, float and quantized; written from a module or Keras with the shapes of its example inputs.

    `precision` float16 halves the weights, which are widened again when the model runs. `int8` stores weights of
    matrix products and convolutions in 8 bits per channel and quantizes their inputs while running ("dynamic range"):
    it needs no data, and inputs and outputs stay float.
    """

    precision: Literal["float32", "float16", "int8"] = "float32"

    name: ClassVar[str] = "tflite"
    suffixes: ClassVar[tuple[str, ...]] = (".tflite",)
    reads_into: ClassVar[Form | None] = "graph"
    writes_from: ClassVar[tuple[Form, ...]] = ("module", "keras")
    engine: ClassVar[str] = "litert"
    reads_with: ClassVar[tuple[str, ...]] = ("tensorflow", "tf2onnx")
    writes_with: ClassVar[tuple[str, ...]] = ("litert_torch",)

    def artifact(self, source: str, weights: Path | None = None) -> Artifact:
        path = Path(source)
        if not path.is_file():
            raise ArtifactNotFound(f"{path}: no such file")
        if weights is not None:
            raise UsageError(f"{path}: a TFLite file holds its weights; leave out the weights {weights}")
        return Artifact(path, self.name)

    def read(self, artifact: Artifact) -> Model:
        """Read into a graph whose inputs and outputs have the names of the file's signature, or of its tensors.

        Quantized tensors become QuantizeLinear and DequantizeLinear pairs around float operators.
        Raises `InvalidModel`, and `UnsupportedOperators` that names every operator without a counterpart.
        """
        path = artifact.path
        data, found = _checked(path)
        custom = [name for name in found.custom_operators if not name.startswith(_CONVERTED_CUSTOM)]
        if custom:
            raise UnsupportedOperators(_unsupported(path, custom, found))
        for module in self.reads_with:
            _require(module, "reading a TFLite file")
        with tempfile.TemporaryDirectory(prefix="tightship-") as folder:
            sound, converted = Path(folder, path.name), Path(folder, "model.onnx")
            sound.write_bytes(found.repaired(data))
            function = f"{__name__}:{convert_to_onnx.__name__}"
            unknown = run_in_child(function, [sound, converted], purpose=f"reading {path}", timeout_s=_READING_S)
            if unknown:
                raise UnsupportedOperators(_unsupported(path, unknown, found))
            return _named(graph.from_bytes(converted.read_bytes()), found)

    def write(self, model: Model, path: Path) -> Artifact:
        """Write a module or Keras model. Raises `UnsupportedError` where its converter cannot.

        A free batch axis of a module is fixed to that of its example inputs.
        """
        if model.form not in self.writes_from:
            raise UnsupportedError(f"{path}: a .tflite file is written from a module or Keras, found a {model.form}")
        with _quiet():
            data = _from_module(model, path) if model.form == "module" else _from_keras(model, path)
            data = _compressed(_with_names(data, model), self.precision, path)
        write_bytes(path, data)
        return Artifact(path, self.name)


def convert_to_onnx(source: Path, output: Path) -> list[str]:
    """Write the ONNX model that tf2onnx makes of a `.tflite` file; called in a child process.

    Returns the operators, sorted, that it left as they were; where there are some, the output is no valid model.
    """
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import onnx
    import tf2onnx.convert

    proto, _ = tf2onnx.convert.from_tflite(str(source), opset=_OPSET)
    output.write_bytes(proto.SerializeToString())
    return sorted({node.op_type for node in _nodes(proto.graph) if not onnx.defs.has(node.op_type, node.domain)})


def _nodes(part: Any) -> list[Any]:
    """Nodes of a graph and of the graphs inside them."""
    inner = [attribute.g for node in part.node for attribute in node.attribute if attribute.HasField("g")]
    return [*part.node, *(node for part in inner for node in _nodes(part))]


def _checked(path: Path) -> tuple[bytes, Outline]:
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise InvalidModel(f"{path}: {path.stat().st_size / 2**30:.1f} GiB; a TFLite file ends at 2 GiB")
    data = path.read_bytes()
    try:
        return data, outline(data)
    except InvalidModel as error:
        raise InvalidModel(f"{path}: {error}") from error


def _require(module: str, purpose: str) -> None:
    """As `extras.require`, without importing what is needed in another process only."""
    if not extras.available(module):
        extras.require(module, purpose)


def _unsupported(path: Path, unknown: Sequence[str], found: Outline) -> str:
    names = [name.removeprefix("TFL_") for name in unknown]
    custom = [name for name in names if name in found.custom_operators]
    others = [name for name in names if name not in custom]
    parts = [f"{len(custom)} custom operators ({', '.join(custom)})"] if custom else []
    parts += [f"{len(others)} operators of TFLite ({', '.join(others)})"] if others else []
    return (
        f"{path}: ONNX has no counterpart for {' and '.join(parts)}; "
        "convert the model that the file was made from, with these steps outside it"
    )


def _named(model: Model, found: Outline) -> Model:
    """Return the graph with the names that LiteRT shows and the unknown axes named."""
    result: onnx_ir.Model = model.graph
    taken = {value.name for node in result.graph for value in node.outputs} | set(result.graph.initializers)
    wanted = {tensor: name for tensor, name in found.signature_names.items() if name == tensor or name not in taken}
    for value in (*result.graph.inputs, *result.graph.outputs):
        value.name = wanted.get(value.name or "", value.name)
        _name_axes(value)
    return graph.from_ir(result)


def _name_axes(value: onnx_ir.Value) -> None:
    import onnx_ir

    if value.shape is not None:  # tf2onnx numbers them: unk__17
        dims = [
            dim if isinstance(dim, int) else onnx_ir.SymbolicDim(None if axis else BATCH)
            for axis, dim in enumerate(value.shape)
        ]
        value.shape = onnx_ir.Shape(dims)


def _from_module(model: Model, path: Path) -> bytes:
    litert_torch = extras.require("litert_torch", "writing a .tflite file from a PyTorch model")
    wide = any(spec.dtype in _WIDE for spec in (*model.inputs, *model.outputs))  # else they would become 32 bits
    try:
        edge = litert_torch.convert(exportable(model), model.content.example_inputs, enable_x64=wide)
        content: bytes = edge.model_content()
    except Exception as error:  # torch.export, jax and MLIR raise what they like
        raise UnsupportedError(f"{path}: litert-torch cannot convert the module: {_reason(error)}") from error
    return content


def _from_keras(model: Model, path: Path) -> bytes:
    """With any number of items where the converter can, else (recurrent layers) with one."""
    extras.require("tensorflow", "writing a .tflite file from a Keras model")
    one = replace(model, inputs=tuple(replace(spec, shape=(1, *spec.shape[1:])) for spec in model.inputs))
    ways = [model, one] if any(spec.batch is None for spec in model.inputs) else [model]
    failures: list[Exception] = []
    for way in ways:
        try:
            return _frozen(way)
        except Exception as error:  # the converter raises what its parts raise
            failures.append(error)
    raise UnsupportedError(f"{path}: TFLite cannot hold the Keras model: {_reason(failures[0])}") from failures[0]


def _frozen(model: Model) -> bytes:
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    function = serving_function(model).get_concrete_function()
    # Weights that a loop reads would stay variables, which no interpreter initializes.
    frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    if any(node.op.startswith("FakeQuant") for node in frozen.graph.as_graph_def().node):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]  # integer operators between two roundings
    content: bytes = converter.convert()
    return content


def _with_names(data: bytes, model: Model) -> bytes:
    """Return the file with a signature of the model's own names, paired by name where one is kept, else in order."""
    import flatbuffers  # type: ignore[import-untyped]
    from ai_edge_litert import schema_py_generated as schema

    content = schema.ModelT.InitFromPackedBuf(data)
    main = content.subgraphs[0]
    if not content.signatureDefs:
        content.signatureDefs = [_signature(main, model, schema)]
    signature = content.signatureDefs[0]
    main.inputs = _renamed(main, signature.inputs, [spec.name for spec in model.inputs])
    main.outputs = _renamed(main, signature.outputs, [spec.name for spec in model.outputs])
    builder = flatbuffers.Builder(len(data))
    builder.Finish(content.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def _signature(subgraph: Any, model: Model, schema: Any) -> Any:
    """A signature for what was frozen: TensorFlow orders a dict of outputs by name."""
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    inputs, outputs = [spec.name for spec in model.inputs], sorted(spec.name for spec in model.outputs)
    signature.inputs, signature.outputs = (
        [schema.TensorMapT(name.encode(), index) for name, index in zip(names, indices, strict=True)]
        for names, indices in ((inputs, subgraph.inputs), (outputs, subgraph.outputs))
    )
    return signature


def _renamed(subgraph: Any, entries: list[Any], names: Sequence[str]) -> list[int]:
    """Give the entries of a signature, and their tensors, these names; return the tensors in the order of the names."""
    kept = {entry.name.decode() for entry in entries} == set(names)
    entries = sorted(entries, key=lambda entry: names.index(entry.name.decode()) if kept else _order(entry))
    for entry, name in zip(entries, names, strict=True):
        entry.name = name
        subgraph.tensors[entry.tensorIndex].name = name
    return [entry.tensorIndex for entry in entries]


def _order(entry: Any) -> tuple[int, str]:
    """Converters number what has no name: args_0, output_10."""
    name = entry.name.decode()
    digits = name.rpartition("_")[2]
    return (int(digits) if digits.isdigit() else 0, name)


def _compressed(data: bytes, precision: str, path: Path) -> bytes:
    if precision == "float32":
        return data
    quantizer = extras.require("ai_edge_quantizer.quantizer", f"writing a {precision} .tflite file")
    tool = quantizer.Quantizer(bytearray(data))
    try:
        tool.load_quantization_recipe([_RECIPES[precision]])
        return bytes(tool.quantize().quantized_model)
    except Exception as error:  # ValueError, RuntimeError and others, by operator
        raise UnsupportedError(f"{path}: the weights cannot be written as {precision}: {_reason(error)}") from error


_RECIPES: Mapping[str, Mapping[str, Any]] = {
    "float16": {
        "regex": ".*",
        "operation": "*",
        "algorithm_key": "float_casting",
        "op_config": {
            "weight_tensor_config": {"num_bits": 16, "dtype": "FLOAT"},
            "compute_precision": "FLOAT",
            "explicit_dequantize": True,
        },
    },
    "int8": {
        "regex": ".*",
        "operation": "*",
        "algorithm_key": "min_max_uniform_quantize",
        "op_config": {
            "weight_tensor_config": {"num_bits": 8, "symmetric": True, "granularity": "CHANNELWISE", "dtype": "INT"},
            "compute_precision": "INTEGER",
            "explicit_dequantize": False,
        },
    },
}


def _quiet() -> AbstractContextManager[Any]:
    stack = ExitStack()
    stack.enter_context(native_output_hidden())
    stack.enter_context(quiet_torch())
    return stack


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:400]}" if lines else type(error).__name__
