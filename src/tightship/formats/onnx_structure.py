"""Whether the graph of an ONNX file is sound: versions, operators, names, order, declared shapes.

Each check is linear in the size of the graph and looks at no weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING

from tightship.errors import InvalidModel, UnsupportedError, UnsupportedOperators

if TYPE_CHECKING:
    import onnx

__all__ = ["MAX_DIM", "all_nodes", "check_structure", "proto_operator_name", "run_checker", "subgraphs"]

MAX_DIM = 2**40
"""No axis of a real tensor is longer; a longer one is a corrupt or hostile declaration."""

_MAX_GRAPHS = 1000
"""Graphs inside graphs. Real models have a few dozen; a tree of branches 12 deep has 8,190, and takes minutes."""

_UNCHECKED_DOMAIN = "unchecked"
_MAX_LISTED = 100


def check_structure(model: onnx.ModelProto) -> None:
    """Raise `InvalidModel`, `UnsupportedError` or `UnsupportedOperators` where versions, names or order are not sound.

    Rules: the ONNX IR specification (https://github.com/onnx/onnx/blob/main/docs/IR.md). Messages do not hold the
    path; the caller adds it.
    """
    _check_versions(model)
    _check_nesting(model)
    _check_interface(model.graph)
    _check_operators(model)
    _check_names(model.graph, frozenset())
    for function in model.functions:
        _check_body(function.node, set(function.input), function.output, f"function {function.name!r}")
    _check_declared_shapes(model.graph)


def run_checker(model: onnx.ModelProto) -> None:
    """Raise `InvalidModel` where ONNX's own checker finds fault: arguments and attributes of each operator.

    It sees the model without weights, so that this needs little memory and opens no file.
    """
    import onnx

    try:
        onnx.checker.check_model(_skeleton(model))
    except onnx.checker.ValidationError as error:
        raise InvalidModel(f"ONNX's checker refuses it: {' '.join(str(error).split())}") from error


def proto_operator_name(node: onnx.NodeProto) -> str:
    """Return the name `core.graph.operator_name` gives this node once it is read."""
    return node.name or next((name for name in node.output if name), "") or str(node.op_type)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs among a node's attributes (bodies of If, Loop, Scan)."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield nodes and those of their subgraphs."""
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from all_nodes(graph.node)


def _check_versions(model: onnx.ModelProto) -> None:
    import onnx

    if not model.HasField("graph") or not model.ir_version:
        raise InvalidModel("no graph inside; expected an ONNX model, found other or truncated data")
    if model.ir_version > onnx.IR_VERSION:
        raise UnsupportedError(f"IR version {model.ir_version}; this onnx reads up to {onnx.IR_VERSION}: upgrade onnx")
    versions = {_domain(entry.domain): entry.version for entry in model.opset_import}
    if len(versions) < len(model.opset_import) or any(not 1 <= version < 2**31 for version in versions.values()):
        raise InvalidModel(f"opset imports must be positive and once per domain, found {_listed_opsets(model)}")
    if "" not in versions and any(not _domain(node.domain) for node in all_nodes(model.graph.node)):
        raise InvalidModel("no opset version is given for the standard operators; the file may be truncated")
    newest = onnx.defs.onnx_opset_version()
    if versions.get("", 1) > newest:
        raise UnsupportedError(
            f"opset {versions['']}; this onnx knows opsets up to {newest}: upgrade onnx or re-export"
        )


def _check_nesting(model: onnx.ModelProto) -> None:
    pending, found = [model.graph, *model.functions], 0
    while pending:
        inner = [body for node in pending.pop().node for body in subgraphs(node)]
        pending += inner
        found += len(inner)
        if found > _MAX_GRAPHS:
            raise InvalidModel(f"more than {_MAX_GRAPHS} graphs inside graphs; no trained model branches so often")


def _check_interface(graph: onnx.GraphProto) -> None:
    if not graph.output:
        raise InvalidModel("the graph has no outputs, so nothing can be computed with it")
    values = (*graph.input, *graph.output)
    others = [info.name for info in values if info.type.WhichOneof("value") not in (None, "tensor_type")]
    if others:
        raise UnsupportedError(f"inputs and outputs must be tensors; these are sequences or optionals: {_few(others)}")


def _check_operators(model: onnx.ModelProto) -> None:
    versions = {_domain(entry.domain): entry.version for entry in model.opset_import}
    own = {(_domain(function.domain), function.name) for function in model.functions}
    nodes = all_nodes([*model.graph.node, *(node for function in model.functions for node in function.node)])
    called: dict[tuple[str, str], list[str]] = {}
    for node in nodes:
        called.setdefault((_domain(node.domain), node.op_type), []).append(proto_operator_name(node))
    unknown = [key for key in called if key not in own and not _in_onnx(*key, versions)]
    unknown = [key for key in unknown if key not in _runtime_operators()] if unknown else []
    if unknown:
        listed = "; ".join(f"{_type_name(*key)}: {_few(called[key])}" for key in unknown)
        raise UnsupportedOperators(
            "these operators are defined neither by ONNX at the model's opset nor by ONNX Runtime: "
            f"{listed} - export again without custom operators, or at another opset"
        )


def _in_onnx(domain: str, op_type: str, versions: Mapping[str, int]) -> bool:
    import onnx

    try:
        return not onnx.defs.get_schema(op_type, versions.get(domain, 1), domain).deprecated
    except onnx.defs.SchemaError:
        return False


@cache
def _runtime_operators() -> frozenset[tuple[str, str]]:
    # ONNX Runtime's own registry knows its contributed operators: com.microsoft, and a few in the standard domain.
    import onnx
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

    standard = {schema.name for schema in onnx.defs.get_all_schemas_with_history()}
    schemas = get_all_operator_schema()
    return frozenset((entry.domain, entry.name) for entry in schemas if entry.domain or entry.name not in standard)


def _check_names(graph: onnx.GraphProto, outer: frozenset[str]) -> None:
    initializers = [tensor.name for tensor in graph.initializer]
    if graph.sparse_initializer:
        raise UnsupportedError(f"graph {graph.name!r} has sparse initializers; store them densely")
    _refuse_duplicates("inputs", [info.name for info in graph.input])
    _refuse_duplicates("initializers", initializers)
    inside = {*(info.name for info in graph.input), *initializers}
    outputs = [info.name for info in graph.output]
    _check_body(graph.node, inside, outputs, f"graph {graph.name!r}", outer)
    visible = outer | inside | {name for node in graph.node for name in node.output if name}
    for node in graph.node:
        for body in subgraphs(node):
            _check_names(body, visible)


def _check_body(
    nodes: Iterable[onnx.NodeProto],
    inside: set[str],
    outputs: Iterable[str],
    where: str,
    outer: frozenset[str] = frozenset(),
) -> None:
    nodes = list(nodes)
    made = [name for node in nodes for name in node.output if name]
    _refuse_duplicates("values", [*made, *inside])
    known = {*inside, *made}
    for node in nodes:
        for name in _needs(node):
            if name not in known and name not in outer:
                raise InvalidModel(f"{where}: operator {_called(node)} uses {name!r}, which nothing defines")
    for name in outputs:
        if name not in known and name not in outer:
            raise InvalidModel(f"{where}: output {name!r} is made by no operator")
    _check_order(nodes, known - set(made) | outer, where)


def _check_order(nodes: list[onnx.NodeProto], ready: set[str] | frozenset[str], where: str) -> None:
    done = set(ready)
    for node in nodes:
        missing = next((name for name in _needs(node) if name not in done), None)
        if missing is not None:
            in_cycle = _find_cycle(nodes, set(ready))
            if in_cycle is not None:
                raise InvalidModel(f"{where}: a cycle goes through operator {_called(in_cycle)}; no order can run it")
            raise InvalidModel(
                f"{where}: operator {_called(node)} stands before the one that makes its input {missing!r}; "
                "ONNX requires operators in topological order, so sort them and save again"
            )
        done.update(node.output)


def _find_cycle(nodes: list[onnx.NodeProto], ready: set[str]) -> onnx.NodeProto | None:
    # From any node that can never run, walking to one it waits for, again and again, ends in a cycle.
    makers = {name: node for node in _never_ready(nodes, ready) for name in node.output if name}
    if not makers:
        return None
    node, seen = next(iter(makers.values())), set()
    while id(node) not in seen:
        seen.add(id(node))
        node = next(makers[name] for name in _needs(node) if name in makers)
    return node


def _never_ready(nodes: list[onnx.NodeProto], ready: set[str]) -> list[onnx.NodeProto]:
    """Nodes left when all that can run in any order have run (Kahn's algorithm)."""
    waits_for = [{name for name in _needs(node) if name not in ready} for node in nodes]
    users: dict[str, list[int]] = {}
    for index, names in enumerate(waits_for):
        for name in names:
            users.setdefault(name, []).append(index)
    runnable = [index for index, names in enumerate(waits_for) if not names]
    while runnable:
        for name in nodes[runnable.pop()].output:
            for user in users.get(name, ()):
                waits_for[user].discard(name)
                if not waits_for[user]:
                    runnable.append(user)
    return [node for node, names in zip(nodes, waits_for, strict=True) if names]


def _needs(node: onnx.NodeProto) -> list[str]:
    """What a node reads: its inputs, and what its subgraphs take from outside."""
    needs = [name for name in node.input if name]
    for graph in subgraphs(node):
        own = {*(info.name for info in graph.input), *(tensor.name for tensor in graph.initializer)}
        own.update(name for inner in graph.node for name in inner.output)
        needs += [name for inner in graph.node for name in _needs(inner) if name not in own]
        needs += [info.name for info in graph.output if info.name not in own]
    return needs


def _check_declared_shapes(graph: onnx.GraphProto) -> None:
    for info in (*graph.input, *graph.output, *graph.value_info):
        dims = [dim.dim_value for dim in info.type.tensor_type.shape.dim if dim.HasField("dim_value")]
        if any(not 0 <= dim <= MAX_DIM for dim in dims):
            raise InvalidModel(f"value {info.name!r} is declared with impossible dimensions {dims}")


def _skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    # Weights of the main graph become inputs; those of branches and loop bodies are emptied.
    import onnx

    graph = model.graph
    inputs = {info.name for info in graph.input}
    skeleton = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    skeleton.opset_import.append(onnx.helper.make_opsetid(_UNCHECKED_DOMAIN, 1))
    skeleton.graph.CopyFrom(onnx.GraphProto(name=graph.name, node=graph.node, input=graph.input, output=graph.output))
    skeleton.graph.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in graph.initializer
        if tensor.name not in inputs
    )
    versions = {_domain(entry.domain): entry.version for entry in model.opset_import}
    for node in all_nodes(skeleton.graph.node):
        if not _domain(node.domain) and not _in_onnx("", node.op_type, versions):
            node.domain = _UNCHECKED_DOMAIN  # the checker wants a schema for each standard name, or another domain
        for body in subgraphs(node):
            empty = [onnx.TensorProto(name=it.name, data_type=it.data_type, dims=[0]) for it in body.initializer]
            del body.initializer[:]
            body.initializer.extend(empty)
    return skeleton


def _refuse_duplicates(what: str, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidModel(f"{what} must have names of their own, found {name!r} twice")
        seen.add(name)


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _type_name(domain: str, op_type: str) -> str:
    return f"{domain}.{op_type}" if domain else op_type


def _called(node: onnx.NodeProto) -> str:
    return f"{proto_operator_name(node)!r} ({node.op_type})"


def _listed_opsets(model: onnx.ModelProto) -> str:
    return ", ".join(f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in model.opset_import)


def _few(names: list[str]) -> str:
    more = len(names) - _MAX_LISTED
    return ", ".join(names[:_MAX_LISTED]) + (f" and {more} more" if more > 0 else "")
