"""Inputs and outputs of a spec: their shapes in the graph, the preprocessing of images, and what a classifier gives."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tightship.errors import InvalidModel, UnsupportedError
from tightship.formats.neural_network.control import CONTROL
from tightship.formats.neural_network.network import Network
from tightship.formats.neural_network.recurrent import RECURRENT

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["Axes", "add_inputs", "add_outputs"]

_FIRST_ANY_RANK_LAYER = 600
"""The field number of the first layer that came with specification 4 and takes any rank."""

_INT32 = 131104
_BGR = 30
_CHANNELS = {10: 1, 20: 3, _BGR: 3, 40: 1}
"""Channels by color space: gray, RGB, BGR, gray as float16."""

_SEQUENCE = "sequence"


@dataclass(frozen=True)
class Axes:
    """How the spec counts axes: exactly as written, or as [Sequence, Batch, C, H, W]."""

    sequences: bool
    keep_five: bool
    """Whether all five are kept although the sequence is 1: layers that take any rank would see the difference."""

    along_sequence: frozenset[str]
    """Inputs from which a recurrent layer reads its sequence (or a layer its boxes, which lie along the same axis)."""

    @classmethod
    def of(cls, spec: Any, network: Any) -> Axes:
        """Read the mappings of a network (proto: NeuralNetworkMultiArrayShapeMapping)."""
        arrays = any(feature.type.HasField("multiArrayType") for feature in spec.description.input)
        sequences = not (network.arrayInputShapeMapping if arrays else network.imageInputShapeMapping)
        numbers = [
            field.number for layer in network.layers for field, _ in layer.ListFields() if field.containing_oneof
        ]
        return cls(sequences, max(numbers, default=0) >= _FIRST_ANY_RANK_LAYER, _along_sequence(network))

    def shortened(self, net: Network, value: onnx_ir.Value) -> onnx_ir.Value:
        """Leave a sequence of 1 out where nothing would see it."""
        if self.sequences and not self.keep_five and net.rank(value) == 5 and net.shape(value)[0] == 1:
            return net.squeeze(value, 0)
        return value


def _along_sequence(network: Any) -> frozenset[str]:
    read = {name: layer.input for layer in network.layers for name in layer.output}
    pending = [layer.input[0] for layer in network.layers if layer.WhichOneof("layer") in RECURRENT and layer.input]
    pending += [layer.input[1] for layer in network.layers if layer.HasField("cropResize") and len(layer.input) > 1]
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        if name not in seen:
            seen.add(name)
            pending += read.get(name, ())
    return frozenset(seen)


# Inputs


def add_inputs(
    net: Network, spec: Any, network: Any, axes: Axes
) -> tuple[list[onnx_ir.Value], dict[str, onnx_ir.Value]]:
    """Return the graph's inputs, and by name what the layers read: preprocessed, float32, with the axes they expect."""
    inputs, scope = [], {}
    for feature in spec.description.input:
        net.name_next(feature.name)
        kind = feature.type.WhichOneof("Type")
        if kind == "imageType":
            value = _image(feature)
            read = _preprocessed(net, value, feature, network)
            wide = axes.keep_five if axes.sequences else not network.imageInputShapeMapping
            read = net.unsqueeze(read, 0) if wide else read
        elif kind == "multiArrayType":
            value = _array(feature, axes)
            read = _with_axes(net, net.cast(value, "float"), feature, axes)
        elif kind in ("doubleType", "int64Type"):
            value = read = _value(feature.name, [1], "float")
            read = _with_axes(net, read, feature, axes)
        else:
            raise UnsupportedError(f"input {feature.name!r}: expected an array or an image, found {kind}")
        inputs.append(value)
        scope[feature.name] = read
    return inputs, scope


def _value(name: str, dims: Iterable[int | str], dtype: str) -> onnx_ir.Value:
    import onnx_ir

    kind = onnx_ir.DataType.INT32 if dtype == "int32" else onnx_ir.DataType.FLOAT
    return onnx_ir.Value(name=name, type=onnx_ir.TensorType(kind), shape=onnx_ir.Shape(list(dims)))


def _image(feature: Any) -> onnx_ir.Value:
    image = feature.type.imageType
    channels = _CHANNELS.get(image.colorSpace)
    if channels is None:
        raise InvalidModel(f"input {feature.name!r}: expected a gray, RGB or BGR image, found none of them")
    sizes: list[int | str] = [int(image.height), int(image.width)]
    if image.WhichOneof("SizeFlexibility") is not None:
        sizes = [f"{feature.name}_height", f"{feature.name}_width"]
    elif not all(0 < size < 2**31 for size in (image.height, image.width)):
        raise InvalidModel(f"input {feature.name!r}: expected a positive size, found {sizes}")
    return _value(feature.name, [1, channels, *sizes], "float")


def _array(feature: Any, axes: Axes) -> onnx_ir.Value:
    array = feature.type.multiArrayType
    dims = _dims(feature)
    if axes.sequences and feature.name in axes.along_sequence and len(dims) in (1, 3):
        dims = [_SEQUENCE, 1, *dims, *[1] * (3 - len(dims))]
    return _value(feature.name, dims, "int32" if array.dataType == _INT32 else "float")


def _dims(feature: Any) -> list[int | str]:
    """Return the dimensions: a name where the spec allows several sizes."""
    array = feature.type.multiArrayType
    flexible = array.WhichOneof("ShapeFlexibility")
    if flexible == "enumeratedShapes":
        allowed = [[int(size) for size in each.shape] for each in array.enumeratedShapes.shapes]
    elif flexible == "shapeRange":
        ranges = array.shapeRange.sizeRanges
        allowed = [[int(each.lowerBound) for each in ranges], [int(each.upperBound) for each in ranges]]
    else:
        allowed = [[int(size) for size in array.shape]]
    if not allowed or not allowed[0] or len({len(shape) for shape in allowed}) > 1:
        raise InvalidModel(f"input {feature.name!r}: expected shapes of one rank above 0, found {allowed}")
    named: list[int | str] = [
        sizes[0] if len(set(sizes)) == 1 else f"{feature.name}_{axis}"
        for axis, sizes in enumerate(zip(*allowed, strict=True))
    ]
    if not all(isinstance(size, str) or 0 < size < 2**31 for size in named):
        raise InvalidModel(f"input {feature.name!r}: expected positive sizes, found {named}")
    return named


def _with_axes(net: Network, value: onnx_ir.Value, feature: Any, axes: Axes) -> onnx_ir.Value:
    """Bring [C] and [C, H, W] to [1, C, H, W], or to all five axes."""
    rank = net.rank(value)
    if not axes.sequences or rank == 5:
        return value
    if rank not in (1, 3):
        raise InvalidModel(
            f"input {feature.name!r}: expected a shape [C] or [C, H, W] in a specification before 4, found rank {rank}"
        )
    spatial = net.unsqueeze(value, 1, 2) if rank == 1 else value
    return net.unsqueeze(spatial, *range(2 if axes.keep_five else 1))


def _preprocessed(net: Network, value: onnx_ir.Value, feature: Any, network: Any) -> onnx_ir.Value:
    """Scale and shift each channel, or subtract a mean image, as the spec asks for this input."""
    image = feature.type.imageType
    for step in network.preprocessing:
        if step.featureName not in ("", feature.name):
            continue
        if step.WhichOneof("preprocessor") == "meanImage":
            value = net.op("Sub", value, net.constant(_mean_image(step.meanImage, net.static(value), feature.name)))
        elif step.WhichOneof("preprocessor") == "scaler":
            value = _scaled(net, value, step.scaler, image.colorSpace)
    return value


def _scaled(net: Network, value: onnx_ir.Value, scaler: Any, color_space: int) -> onnx_ir.Value:
    if _CHANNELS[color_space] == 1:
        biases = [scaler.grayBias]
    else:
        biases = [scaler.redBias, scaler.greenBias, scaler.blueBias]
        biases = biases[::-1] if color_space == _BGR else biases
    scaled = value if scaler.channelScale == 1 else net.op("Mul", value, net.number(scaler.channelScale))
    if not any(biases):
        return scaled
    return net.op("Add", scaled, net.constant(np.array(biases, np.float32).reshape(-1, 1, 1)))


def _mean_image(message: Any, shape: list[int], name: str) -> np.ndarray:
    values = np.array(message.meanImage, np.float32)
    if values.size != np.prod(shape):
        raise InvalidModel(f"input {name!r}: expected a mean image of {shape[1:]}, found {values.size} numbers")
    return values.reshape(shape)


# Outputs


def add_outputs(
    net: Network, spec: Any, network: Any, axes: Axes, scope: dict[str, onnx_ir.Value]
) -> list[onnx_ir.Value]:
    """Return the graph's outputs under the description's names: shapes as written there, labels left out."""
    outputs: list[onnx_ir.Value] = []
    for name, blob, feature in _wanted(spec, network):
        if blob not in scope:
            raise InvalidModel(f"output {name!r}: expected a layer that gives {blob!r}, found none")
        net.name_next(name)
        value = _as_written(net, scope[blob], feature, axes) if axes.sequences else scope[blob]
        if feature is not None and feature.type.multiArrayType.dataType == _INT32:
            value = net.cast(value, "int32")
        if value.producer() is None or value in outputs:
            value = net.op("Identity", value)
        value.name = name
        outputs.append(value)
    if not outputs:
        raise InvalidModel("expected an output, found none")
    return outputs


def _wanted(spec: Any, network: Any) -> list[tuple[str, str, Any]]:
    """Return (name, blob, feature) of each output; the feature is None for the probabilities of a classifier."""
    description = spec.description
    plain = [(feature.name, feature.name, feature) for feature in description.output]
    if spec.WhichOneof("Type") != "neuralNetworkClassifier":
        return plain
    blob = network.labelProbabilityLayerName or _last_blob(network)
    name = description.predictedProbabilitiesName or blob
    labels = {description.predictedFeatureName, description.predictedProbabilitiesName}
    rest = [each for each in plain if each[0] not in labels and each[0] != name]
    rest = [each for each in rest if each[2].type.WhichOneof("Type") not in ("dictionaryType", "stringType")]
    return [(name, blob, None), *rest]


def _last_blob(network: Any) -> str:
    giving = [layer for layer in network.layers if layer.output and layer.WhichOneof("layer") not in CONTROL]
    if not giving:
        raise InvalidModel("expected a layer that gives the probabilities, found none")
    return str(giving[-1].output[0])


def _as_written(net: Network, value: onnx_ir.Value, feature: Any, axes: Axes) -> onnx_ir.Value:
    """Leave out what [C] and [C, H, W] leave out; sequences and batches keep all axes, images [1, C, H, W]."""
    shape = net.shape(value)
    if len(shape) == 5 and shape[0] == 1:
        value, shape = net.squeeze(value, 0), shape[1:]
    if len(shape) != 4 or shape[0] != 1 or (feature is not None and feature.type.HasField("imageType")):
        return value
    written = len(feature.type.multiArrayType.shape) if feature is not None else 0
    flat = shape[2:] == [1, 1] and written != 3
    return net.squeeze(value, 0, 2, 3) if flat else net.squeeze(value, 0)
