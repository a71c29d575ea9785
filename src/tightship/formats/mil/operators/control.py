"""Branches, loops, lists, and what a classifier says.

A list is a tensor whose first axis counts its elements; writing behind the end makes it longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tightship.formats.mil.build import Build
from tightship.formats.mil.operands import CARRIERS, Operand, Unsupported
from tightship.formats.mil.table import OPERATORS

if TYPE_CHECKING:
    import onnx_ir

op = OPERATORS.op

_DTYPES = {"fp16": "float16", "fp32": "float32"}


@op("cond", since=15)
def cond(pred: Operand, *, build: Build) -> Any:
    branches = []
    for block in build.blocks:
        nodes: list[onnx_ir.Node] = []
        found = build.inline(block, [], nodes)
        branches.append(_graph([], [_own(value, build.within(nodes)) for value in found], nodes, build))
    if len(branches) != 2:
        raise Unsupported(f"{len(branches)} branches")
    count = len(build.types)
    return build.several("If", count, _scalar(pred, build), then_branch=branches[0], else_branch=branches[1])


@op("while_loop", since=15)
def while_loop(loop_vars: Sequence[Operand], *, build: Build) -> Any:
    """The condition is computed before the loop, and again at the end of its body."""
    condition, body = build.blocks
    begin = _holds(condition, loop_vars, build)
    nodes: list[onnx_ir.Node] = []
    inner = build.within(nodes)
    inputs = [_input(operand, build) for operand in loop_vars]
    values = [Operand(o.name, o.type, value=v, fixed=o.fixed) for o, v in zip(loop_vars, inputs, strict=True)]
    found = build.inline(body, values, nodes)
    again = _holds(condition, found, inner)
    outputs = [build_bool(again, inner), *(_own(value, inner) for value in found)]
    graph = _graph([_scalar_input("int64", build), _scalar_input("bool", build), *inputs], outputs, nodes, build)
    made = build.several("Loop", len(loop_vars), None, begin, *loop_vars, body=graph)
    given = zip(loop_vars, build.types, made, strict=True)
    return [Operand(o.name, kind, value=value, fixed=o.fixed) for o, kind, value in given]


def build_bool(value: Any, build: Build) -> Any:
    """A value of its own for an output."""
    return build("Identity", value)


def _holds(block: Any, given: Sequence[Operand], build: Build) -> Any:
    (found,) = build.inline(block, given, build._nodes)
    return _scalar(found, build)


def _scalar(value: Operand, build: Build) -> Any:
    return build.reshape(value, []) if value.rank else build.value(value)


def _own(operand: Operand, build: Build) -> Any:
    """An output of a subgraph must be computed in it."""
    return build("Identity", operand)


def _input(operand: Operand, build: Build) -> Any:
    """An input of a loop's body, of any shape of its rank: what the body returns may be longer."""
    import onnx_ir

    rank = operand.rank + (operand.type.kind == "list")
    return onnx_ir.Value(
        name=build.ground.name(f"{build.name}/{operand.name}"),
        type=onnx_ir.TensorType(onnx_ir.DataType.from_numpy(operand.type.carrier)),
        shape=onnx_ir.Shape([None] * rank),
    )


def _scalar_input(dtype: str, build: Build) -> Any:
    import onnx_ir

    return onnx_ir.Value(
        name=build.ground.name(f"{build.name}/{dtype}"),
        type=onnx_ir.TensorType(onnx_ir.DataType.from_numpy(np.dtype(dtype))),
        shape=onnx_ir.Shape([]),
    )


def _graph(inputs: Sequence[Any], outputs: Sequence[Any], nodes: Sequence[Any], build: Build) -> Any:
    import onnx_ir

    return onnx_ir.Graph(inputs, outputs, nodes=nodes, name=build.ground.name(f"{build.name}/graph"))


@op("make_list", since=15)
def make_list(
    init_length: Operand | None = None,
    *,
    elem_shape: Sequence[Any],
    dynamic_length: bool = True,
    dtype: str = "fp32",
    build: Build,
) -> Any:
    if not all(isinstance(length, int) for length in elem_shape):
        raise Unsupported("a list of elements whose shape is not known before the model runs")
    carrier = CARRIERS[_DTYPES.get(dtype, dtype)]
    first: Any = np.array([1], np.int64) if init_length is None else build.reshape(build.integers(init_length), [1])
    shape = build("Concat", first, np.array(elem_shape, np.int64), axis=0)
    empty = build("Expand", np.zeros((), carrier), shape)
    return Operand(build.name, build.types[0], value=empty, fixed=not dynamic_length)


@op("list_length", since=15)
def list_length(ls: Operand, *, build: Build) -> Any:
    return build.cast(build.squeeze(build("Shape", ls, end=1), [0]), "int32")


def _long_enough(ls: Operand, last: Any, build: Build) -> Any:
    """The list with zeros behind it, so that it has an element of this index, [1]."""
    if ls.fixed:
        return ls
    missing = build("Sub", build("Add", last, np.array([1], np.int64)), build("Shape", ls, end=1))
    zeros = np.zeros(ls.rank, np.int64)
    more = build("Max", missing, np.array([0], np.int64))
    return build("Pad", ls, build("Concat", np.zeros(ls.rank + 1, np.int64), more, zeros, axis=0))


@op("list_write", since=15)
def list_write(ls: Operand, index: Operand, value: Operand, *, build: Build) -> Any:
    place = build.reshape(build.integers(index), [1])
    written = build(
        "ScatterND", _long_enough(ls, place, build), build.unsqueeze(place, [1]), build.unsqueeze(value, [0])
    )
    return Operand(ls.name, ls.type, value=written, fixed=ls.fixed)


@op("list_scatter", since=15)
def list_scatter(ls: Operand, indices: Operand, value: Operand, *, build: Build) -> Any:
    places = build.integers(indices)
    last = build("ReduceMax", places, keepdims=1)
    written = build("ScatterND", _long_enough(ls, last, build), build.unsqueeze(places, [1]), value)
    return Operand(ls.name, ls.type, value=written, fixed=ls.fixed)


@op("list_read", since=15)
def list_read(ls: Operand, index: Operand, *, build: Build) -> Any:
    return build("Gather", ls, build.reshape(build.integers(index), []), axis=0)


@op("list_gather", since=15)
def list_gather(ls: Operand, indices: Operand, *, build: Build) -> Any:
    return build("Gather", ls, build.integers(indices), axis=0)


@op("classify", since=15)
def classify(probabilities: Operand, *, classes: np.ndarray, build: Build) -> Any:
    """The label of the highest probability, and all probabilities in the order of the classes."""
    flat = build.reshape(probabilities, [-1])
    best = build("ArgMax", flat, axis=0, keepdims=0)
    labels = np.asarray(classes)
    return build("Gather", labels if labels.dtype.kind in "UO" else labels.astype(np.int64), best, axis=0), flat
