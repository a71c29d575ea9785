"""A whole program as an ONNX graph: its inputs and outputs, and what lies between.

The graph computes in single precision what the program computes in half; inputs and outputs keep the types that the
program declares, and weights the values that the file has. So it shows what the program means, not how the arithmetic
of a device rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tightship.errors import InvalidModel, UnsupportedError, UnsupportedOperators
from tightship.formats.mil import constants, operators  # noqa: F401 (fills its table)
from tightship.formats.mil.build import Build
from tightship.formats.mil.operands import Operand, Type, Unsupported
from tightship.formats.mil.table import OPSETS
from tightship.formats.mil.values import Weights, type_of
from tightship.formats.mil.walk import Walk

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["OPSET", "read_program"]

OPSET = 20
"""Of ONNX: the first with Gelu, GridSample and AffineGrid as MIL has them."""

_IR_VERSION = 9
_MOST_NAMED = 3

Lengths = Mapping[str, Sequence[str]]


def read_program(spec: Any, weights: Path | None, where: str) -> onnx_ir.Model:
    """Convert the program of a model spec (coremltools' `Model` message, `mlProgram`) with its folder of blob files.

    A free axis of the inputs is a symbol: `batch` for the first one, and the same symbol for axes of different inputs
    at one place that may have the same lengths. Raises `UnsupportedOperators` that lists every operation without a
    counterpart, `UnsupportedError`, and `InvalidModel` where the program or a blob file is damaged. `where` names the
    package in messages.
    """
    operators.load()
    function, opset = _function(spec, where)
    block = function.block_specializations[function.opset]
    walk = Walk(Weights(weights), opset, where)
    nodes: list[onnx_ir.Node] = []
    inputs, scope = _inputs(function, _symbols(spec), walk, nodes, where)
    walk.ground.reserve(block.outputs)
    found = walk.block(block, scope, nodes)
    _refuse(walk.problems, where)
    outputs = _outputs(found, block.outputs, inputs, walk, nodes, where)
    return _model(inputs, outputs, nodes, walk)


def _function(spec: Any, where: str) -> tuple[Any, int]:
    program = spec.mlProgram
    name = spec.description.defaultFunctionName or "main"
    if name not in program.functions:
        known = ", ".join(sorted(program.functions)) or "none"
        raise InvalidModel(f"{where}: expected a program with the function {name}, found {known}")
    function = program.functions[name]
    if function.opset not in OPSETS:
        raise UnsupportedError(f"{where}: the program is of opset {function.opset!r}; known are {', '.join(OPSETS)}")
    if function.opset not in function.block_specializations:
        raise InvalidModel(f"{where}: the function {name} has no block for its opset {function.opset}")
    return function, OPSETS[function.opset]


def _inputs(
    function: Any, symbols: Lengths, walk: Walk, nodes: list[onnx_ir.Node], where: str
) -> tuple[list[onnx_ir.Value], dict[str, Operand]]:
    import onnx_ir

    inputs, scope = [], {}
    for entry in function.inputs:
        try:
            kind = type_of(entry.type)
        except Unsupported as error:
            raise UnsupportedError(f"{where}: input {entry.name}: {error}") from error
        if kind.kind != "tensor":
            _refuse_kind(entry.name, kind, where)
        names = symbols.get(entry.name, ())
        shape = [
            (names[axis] if axis < len(names) else f"{entry.name}_{axis}") if length is None else length
            for axis, length in enumerate(kind.shape)
        ]
        value = onnx_ir.Value(
            name=walk.ground.name(entry.name), type=_onnx_type(kind.dtype), shape=onnx_ir.Shape(shape)
        )
        inputs.append(value)
        build = Build(walk.ground, nodes, entry.name)
        carried = build.cast(value, "float32") if kind.dtype in ("float16", "float64") else value
        scope[entry.name] = Operand(entry.name, kind, value=carried)
    return inputs, scope


def _refuse_kind(name: str, kind: Type, where: str) -> None:
    if kind.kind == "state":
        raise UnsupportedError(
            f"{where}: it keeps a state between runs ({name}), which a graph cannot: convert the model with the state "
            "as an input and an output"
        )
    raise UnsupportedError(f"{where}: input {name} is a {kind.kind}; only tensors and images can be read")


def _symbols(spec: Any) -> dict[str, list[str]]:
    """Names for the axes of every described input; only free ones are used."""
    return {entry.name: _axes(entry.type) for entry in spec.description.input}


def _axes(kind: Any) -> list[str]:
    which = kind.WhichOneof("Type")
    if which == "imageType":
        return ["batch", "channel", "height", "width"]
    if which != "multiArrayType":
        return []
    array = kind.multiArrayType
    ranges = [(entry.lowerBound, entry.upperBound) for entry in array.shapeRange.sizeRanges]
    if not ranges and array.enumeratedShapes.shapes:
        ranges = [
            (min(lengths), max(lengths))
            for lengths in zip(*(entry.shape for entry in array.enumeratedShapes.shapes), strict=False)
        ]
    return [
        "batch" if not axis else f"axis{axis}_{low}_{high if high > 0 else 'any'}"
        for axis, (low, high) in enumerate(ranges)
    ]


def _outputs(
    found: Sequence[Operand],
    names: Sequence[str],
    inputs: Sequence[onnx_ir.Value],
    walk: Walk,
    nodes: list[onnx_ir.Node],
    where: str,
) -> list[onnx_ir.Value]:
    """Outputs under their own names and in their own types."""
    import onnx_ir

    outputs: list[onnx_ir.Value] = []
    for operand, name in zip(found, names, strict=True):
        if operand.type.kind == "list":
            raise UnsupportedError(f"{where}: output {name} is a list; only tensors can be read")
        build = Build(walk.ground, nodes, name)
        value = _output(operand, outputs, build)
        taken = {entry.name for entry in (*inputs, *outputs)}
        value.name = walk.ground.name(name) if name in taken else name
        kind = operand.type
        value.type = _onnx_type("float32" if kind.kind == "dictionary" else kind.dtype)
        if kind.kind == "tensor":
            value.shape = onnx_ir.Shape([f"{name}_{a}" if d is None else d for a, d in enumerate(kind.shape)])
        else:
            value.shape = onnx_ir.Shape([f"{name}_classes"])
        outputs.append(value)
    return outputs


def _output(operand: Operand, others: Sequence[onnx_ir.Value], build: Build) -> onnx_ir.Value:
    """A value that can take the output's name: one that an operator computes, and no other output has."""
    if operand.type.dtype == "float16":
        return build("Cast", operand, to=_onnx_type("float16").dtype.value)
    value = build.value(operand)
    own = value is not None and value.producer() is not None and all(value is not other for other in others)
    return value if own else build("Identity", value)


def _onnx_type(dtype: str) -> Any:
    import onnx_ir

    if dtype == "string":
        return onnx_ir.TensorType(onnx_ir.DataType.STRING)
    kind = np.dtype("float16") if dtype == "float16" else Type(dtype, ()).carrier
    return onnx_ir.TensorType(onnx_ir.DataType.from_numpy(kind))


def _refuse(problems: Sequence[tuple[str, str, str]], where: str) -> None:
    if not problems:
        return
    grouped: dict[tuple[str, str], list[str]] = {}
    for kind, name, reason in problems:
        grouped.setdefault((kind, reason), []).append(name)
    lines = [f"{kind} ({_listed(names)}): {reason}" for (kind, reason), names in grouped.items()]
    count = len({kind for kind, _, _ in problems})
    raise UnsupportedOperators(
        f"{where}: ONNX has no counterpart for {count} operator{'s' if count > 1 else ''} of the program:\n  "
        + "\n  ".join(lines)
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def _model(inputs: Sequence[Any], outputs: Sequence[Any], nodes: Sequence[Any], walk: Walk) -> onnx_ir.Model:
    import onnx_ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    graph = onnx_ir.Graph(
        inputs, outputs, nodes=nodes, initializers=walk.ground.initializers, opset_imports={"": OPSET}, name="main"
    )
    model = onnx_ir.Model(graph, ir_version=_IR_VERSION, producer_name="coreml")
    RemoveUnusedNodesPass()(model)
    return model
