"""Branches and loops: networks inside layers, which see the values around them and give some of them anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tightship.errors import UnsupportedError
from tightship.formats.neural_network.layer import Layer
from tightship.formats.neural_network.network import Network

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["CONTROL", "nested_networks"]

_Scope = dict[str, "onnx_ir.Value"]


def nested_networks(layer: Any) -> Iterator[Any]:
    """Yield the networks inside a layer of a spec."""
    kind = layer.WhichOneof("layer")
    for field in {"branch": ("ifBranch", "elseBranch"), "loop": ("conditionNetwork", "bodyNetwork")}.get(kind, ()):
        yield getattr(getattr(layer, kind), field)


def _branch(net: Network, layer: Layer) -> _Scope:
    """If: gives what both branches give (or give anew)."""
    condition = net.cast(net.reshape(layer.x, []), "bool")
    bodies = [net.body(), net.body()]
    scopes: list[_Scope] = [dict(layer.scope), dict(layer.scope)]
    for body, scope, network in zip(bodies, scopes, (layer.params.ifBranch, layer.params.elseBranch), strict=True):
        layer.nested(body, network.layers, scope)
    changed = [name for name in scopes[0] if name in scopes[1] and _differ(name, layer.scope, *scopes)]
    if not changed:
        return {}
    results = [
        [body.op("Identity", scope[name]) for name in changed] for body, scope in zip(bodies, scopes, strict=True)
    ]
    described = [_common(net, *pair) for pair in zip(*results, strict=True)]
    graphs = [_graph(net, body, [], values) for body, values in zip(bodies, results, strict=True)]
    outputs = net.subgraph_op("If", [condition], described, then_branch=graphs[0], else_branch=graphs[1])
    return dict(zip(changed, outputs, strict=True))


def _differ(name: str, outer: Any, *scopes: _Scope) -> bool:
    return any(scope[name] is not outer.get(name) for scope in scopes)


def _common(net: Network, first: onnx_ir.Value, second: onnx_ir.Value) -> onnx_ir.Value:
    """Describe what may be either: the type, and the dimensions that agree."""
    import onnx_ir

    shapes = [net.shape(first), net.shape(second)]
    if len(shapes[0]) != len(shapes[1]):
        raise UnsupportedError(f"layer {net.layer!r}: branches give ranks {len(shapes[0])} and {len(shapes[1])}")
    dims = [one if one == other else None for one, other in zip(*shapes, strict=True)]
    return onnx_ir.Value(type=first.type, shape=onnx_ir.Shape(dims))


def _loop(net: Network, layer: Layer) -> _Scope:
    """Loop: at most so many times, and as long as the condition network's variable is not 0."""
    params = layer.params
    scope = dict(layer.scope)
    conditional = bool(params.conditionVar)
    if conditional:
        layer.nested(net, params.conditionNetwork.layers, scope)
    carried = [name for name in dict.fromkeys(_given(params)) if name in scope]
    body = net.body()
    inputs = [_body_input(net, "iteration", np.int64), _body_input(net, "condition", np.bool_)]
    inputs += [_like(net, scope[name]) for name in carried]
    inside = {**scope, **dict(zip(carried, inputs[2:], strict=True))}
    layer.nested(body, params.bodyNetwork.layers, inside)
    if conditional:
        layer.nested(body, params.conditionNetwork.layers, inside)
    again = _truth(body, inside, params) if conditional else inputs[1]
    outputs = [body.op("Identity", value) for value in (again, *(inside[name] for name in carried))]
    for name, before, after in zip(carried, inputs[2:], outputs[1:], strict=True):
        if net.shape(before) != net.shape(after):
            raise UnsupportedError(f"layer {layer.name!r}: a loop that changes the shape of {name!r}")
    first = _truth(net, scope, params) if conditional else net.constant(np.array(True))
    times = [_times(net, layer), first, *(scope[name] for name in carried)]
    results = net.subgraph_op("Loop", times, outputs[1:], body=_graph(net, body, inputs, outputs))
    return scope | dict(zip(carried, results, strict=True))


def _times(net: Network, layer: Layer) -> onnx_ir.Value:
    given = layer.take(0, 1)
    if given:
        return net.reshape(net.cast(given[0], "int64"), [])
    endless = bool(layer.params.conditionVar) and not layer.params.maxLoopIterations
    return net.constant(np.array(2**62 if endless else min(layer.params.maxLoopIterations, 2**62), np.int64))


def _given(params: Any) -> Iterator[str]:
    """Yield the names that the layers of a loop give, those of networks inside them too."""
    pending = [params.conditionNetwork, params.bodyNetwork]
    while pending:
        for layer in pending.pop(0).layers:
            yield from layer.output
            pending += nested_networks(layer)


def _truth(net: Network, scope: _Scope, params: Any) -> onnx_ir.Value:
    found = scope.get(params.conditionVar)
    if found is None:
        raise UnsupportedError(f"layer {net.layer!r}: its condition network gives no {params.conditionVar!r}")
    return net.cast(net.reshape(found, []), "bool")


def _body_input(net: Network, name: str, dtype: type) -> onnx_ir.Value:
    import onnx_ir

    kind = onnx_ir.DataType.from_numpy(np.dtype(dtype))
    return onnx_ir.Value(name=net.unique(f"{net.layer}/{name}"), type=onnx_ir.TensorType(kind), shape=onnx_ir.Shape([]))


def _like(net: Network, value: onnx_ir.Value) -> onnx_ir.Value:
    import onnx_ir

    return onnx_ir.Value(
        name=net.unique(f"{value.name}/carried"), type=value.type, shape=onnx_ir.Shape(net.shape(value))
    )


def _graph(net: Network, body: Network, inputs: list[onnx_ir.Value], outputs: Iterable[onnx_ir.Value]) -> onnx_ir.Graph:
    import onnx_ir

    return onnx_ir.Graph(inputs, list(outputs), nodes=body.nodes, name=net.unique(f"{net.layer}/body"))


CONTROL: dict[str, Callable[[Network, Layer], _Scope]] = {"branch": _branch, "loop": _loop}
"""What each gives by name; the layers themselves list no outputs."""
