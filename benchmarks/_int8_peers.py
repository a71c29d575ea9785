"""What `int8_files` compares with: `.tflite` files run as they come, and those that TensorFlow's converter writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tightship import bridges
from tightship.core.keras_model import serving_function
from tightship.core.model import Model
from tightship.core.native_output import native_output_hidden
from tightship.core.session import Session
from tightship.core.specs import TensorSpec
from tightship.core.target import Target
from tightship.engines.litert import LiteRt

__all__ = ["TfLiteNetwork", "of_tensorflow", "steps_apart"]

Arrays = Mapping[str, np.ndarray]

_WITH_WEIGHTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


class TfLiteNetwork:
    """A `.tflite` file that takes and gives float32, item by item, whatever the types of its inputs and outputs.

    Integers are made of reals and reals of integers by the scales and zero points that the file states.
    """

    def __init__(self, content: bytes) -> None:
        self.session: Session = LiteRt().open(content, Target("litert", threads=1))
        with native_output_hidden():
            from ai_edge_litert.interpreter import Interpreter

            file: Any = Interpreter(model_content=content)
        self._scales = [entry["quantization"] for entry in (*file.get_input_details(), *file.get_output_details())]

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Take and give one item, `[1, ...]` each, in the order of the file."""
        n_inputs = len(self.session.inputs)
        feed = {
            spec.name: _to_integers(array, spec, scale)
            for array, spec, scale in zip(inputs, self.session.inputs, self._scales[:n_inputs], strict=True)
        }
        found = self.session.run(feed)
        return [
            _to_reals(found[spec.name], spec, scale)
            for spec, scale in zip(self.session.outputs, self._scales[n_inputs:], strict=True)
        ]


def of_tensorflow(graph: Model, calibration: Arrays | None) -> bytes:
    """TensorFlow's converter: int8 with ranges from `calibration`; without it, 8-bit weights alone ("dynamic range").

    It is given the Keras model of the same graph; inputs and outputs stay float32.
    """
    import tensorflow as tf

    model = bridges.route(graph, "keras")
    with native_output_hidden():
        function = serving_function(model).get_concrete_function()
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if calibration is not None:
            names = [spec.name for spec in model.inputs]
            items = [[calibration[name][index : index + 1] for name in names] for index in range(_length(calibration))]
            converter.representative_dataset = lambda: iter(items)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        content: bytes = converter.convert()
    return content


def steps_apart(content: bytes, weights: Sequence[np.ndarray]) -> float:
    """How far 8-bit weights of the file are from `weights`, in steps of their scale: half a step where they are these.

    Values are compared in their order of size, since layouts differ: no two change places by more than their errors.
    """
    from ai_edge_litert.interpreter import Interpreter

    with native_output_hidden():
        file: Any = Interpreter(model_content=content)
    details = {detail["index"]: detail for detail in file.get_tensor_details()}
    worst = 0.0
    for operator in file._get_ops_details():
        if operator["op_name"] in _WITH_WEIGHTS:
            reals, step = _weight(file, details[operator["inputs"][1]])
            distances = [
                np.abs(np.sort(array, axis=None) - reals).max() for array in weights if array.size == reals.size
            ]
            worst = max(worst, min(distances, default=np.inf) / step)
    return float(worst)


def _weight(file: Any, detail: Mapping[str, Any]) -> tuple[np.ndarray, float]:
    """The reals of a quantized weight in their order, and the largest of its scales."""
    parameters = detail["quantization_parameters"]
    integers = file.get_tensor(detail["index"]).astype(np.float32)
    shape = [1] * integers.ndim
    if len(parameters["scales"]) > 1:
        shape[parameters["quantized_dimension"]] = -1
    reals = (integers - parameters["zero_points"].reshape(shape)) * parameters["scales"].reshape(shape)
    return np.sort(reals, axis=None), float(parameters["scales"].max())


def _to_integers(array: np.ndarray, spec: TensorSpec, scale: tuple[float, int]) -> np.ndarray:
    if spec.dtype == "float32":
        return array.astype(np.float32)
    limits = np.iinfo(spec.dtype)
    return np.clip(np.rint(array / scale[0]) + scale[1], limits.min, limits.max).astype(spec.dtype)


def _to_reals(array: np.ndarray, spec: TensorSpec, scale: tuple[float, int]) -> np.ndarray:
    if spec.dtype == "float32":
        return array
    reals: np.ndarray = (array.astype(np.float32) - np.float32(scale[1])) * np.float32(scale[0])
    return reals


def _length(arrays: Arrays) -> int:
    return len(next(iter(arrays.values())))
