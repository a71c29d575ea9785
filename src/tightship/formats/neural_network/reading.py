"""From a spec to a graph: the layers one after the other, between the inputs and outputs of the description."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tightship.errors import InvalidModel, TightshipError, UnsupportedError, UnsupportedOperators
from tightship.formats.neural_network.control import CONTROL, nested_networks
from tightship.formats.neural_network.features import Axes, add_inputs, add_outputs
from tightship.formats.neural_network.layer import Layer
from tightship.formats.neural_network.network import IR_VERSION, OPSET, Network
from tightship.formats.neural_network.table import TABLE

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["read_neural_network"]

_KINDS = ("neuralNetwork", "neuralNetworkClassifier", "neuralNetworkRegressor")


def read_neural_network(spec: Any, where: str) -> onnx_ir.Model:
    """Read coremltools' Model message with a neural network, classifier or regressor as an ONNX graph.

    `where` names the file in messages. Class labels of a classifier are left out; its probabilities stay, under the
    name that the description gives them. Quantized and float16 weights become float32. Raises `UnsupportedOperators`
    that lists every layer without a counterpart, `UnsupportedError` for features of other types, and `InvalidModel`
    where the spec contradicts itself: missing weights, wrong sizes, names that nothing gives, cycles.
    """
    kind = spec.WhichOneof("Type")
    if kind not in _KINDS:
        raise UnsupportedError(f"{where}: expected a neural network, found {kind or 'no model'}")
    network = getattr(spec, kind)
    _refuse_unknown(network, where)
    try:
        return _read(spec, network)
    except TightshipError as error:
        raise type(error)(f"{where}: {error}") from error


def _read(spec: Any, network: Any) -> onnx_ir.Model:
    import onnx_ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    features = [*spec.description.input, *spec.description.output]
    net = Network(reserved=(feature.name for feature in features))
    axes = Axes.of(spec, network)
    inputs, scope = add_inputs(net, spec, network, axes)
    _Reader(axes).add(net, network.layers, scope)
    outputs = add_outputs(net, spec, network, axes, scope)
    graph = onnx_ir.Graph(
        inputs,
        outputs,
        nodes=net.nodes,
        initializers=net.initializers,
        opset_imports={"": OPSET},
        name="neural_network",
    )
    model = onnx_ir.Model(graph, ir_version=IR_VERSION, producer_name="tightship")
    RemoveUnusedNodesPass()(model)
    return model


@dataclass(frozen=True)
class _Reader:
    axes: Axes

    def add(self, net: Network, layers: Any, scope: dict[str, onnx_ir.Value]) -> None:
        """Add layers in order; `scope` has the values known by name before, and after also theirs.

        Layers inside others may give a name again, as the next round of a loop does.
        """
        given: set[str] = set()
        given_later = {name for layer in layers for name in layer.output}
        for spec_layer in layers:
            net.name_next(spec_layer.name or spec_layer.WhichOneof("layer"))
            layer = self._layer(spec_layer, scope, given_later)
            try:
                if layer.kind in CONTROL:
                    scope.update(CONTROL[layer.kind](net, layer))
                else:
                    self._give(net, layer, spec_layer, scope, given)
            except TightshipError:
                raise
            except Exception as error:  # numbers that make no sense end in many ways
                raise InvalidModel(f"layer {layer.name!r} ({layer.kind}): {error}") from error

    def _layer(self, spec_layer: Any, scope: dict[str, onnx_ir.Value], given_later: set[str]) -> Layer:
        kind = spec_layer.WhichOneof("layer")
        return Layer(
            kind=kind,
            name=spec_layer.name,
            params=getattr(spec_layer, kind),
            inputs=tuple(_found(name, spec_layer, scope, given_later) for name in spec_layer.input),
            output_count=len(spec_layer.output),
            sequences=self.axes.sequences,
            scope=scope,
            nested=self.add,
        )

    def _give(
        self, net: Network, layer: Layer, spec_layer: Any, scope: dict[str, onnx_ir.Value], given: set[str]
    ) -> None:
        import onnx_ir

        built = TABLE[layer.kind](net, layer)
        results = (built,) if isinstance(built, onnx_ir.Value) else tuple(built)
        if len(results) != len(spec_layer.output):
            raise layer.refuse(f"expected {len(results)} outputs, found {len(spec_layer.output)}")
        for name, result in zip(spec_layer.output, results, strict=True):
            if name in given and layer.kind != "copy":
                raise layer.refuse(f"gives {name!r}, which there is already")
            given.add(name)
            value = self.axes.shortened(net, result)
            if value not in layer.scope.values():
                net.rename(value, name)
            scope[name] = value


def _found(name: str, layer: Any, scope: dict[str, onnx_ir.Value], given_later: set[str]) -> onnx_ir.Value:
    if name in scope:
        return scope[name]
    reason = "which only this or a later layer gives" if name in given_later else "which nothing gives"
    raise InvalidModel(f"layer {layer.name!r} ({layer.WhichOneof('layer')}): reads {name!r}, {reason}")


def _refuse_unknown(network: Any, where: str) -> None:
    unknown: dict[str, list[str]] = {}
    for layer in _all_layers(network):
        kind = layer.WhichOneof("layer")
        if kind is None:
            raise InvalidModel(f"{where}: layer {layer.name!r}: expected a type, found none")
        if kind not in TABLE and kind not in CONTROL:
            what = f"custom {layer.custom.className}" if kind == "custom" else kind
            unknown.setdefault(what, []).append(repr(layer.name))
    if unknown:
        listed = "; ".join(f"{kind} ({', '.join(names)})" for kind, names in sorted(unknown.items()))
        raise UnsupportedOperators(f"{where}: no counterpart for these layers: {listed}")


def _all_layers(network: Any) -> Iterator[Any]:
    for layer in network.layers:
        yield layer
        for nested in nested_networks(layer):
            yield from _all_layers(nested)
