"""Keras models to ONNX graphs, by TensorFlow and tf2onnx.

Keras' own exporter is the same tf2onnx, but calls single outputs `Identity:0`, takes constants of the model for inputs
and leaves operators that ONNX does not have in the graph.
"""

from __future__ import annotations

from tightship.core import extras, graph
from tightship.core.model import Model, Step
from tightship.core.progress import SILENT, Progress
from tightship.core.tensorflow_runtime import require_keras
from tightship.core.tensorflow_to_onnx import OPSET, keras_to_proto

__all__ = ["to_graph"]


def to_graph(model: Model, progress: Progress = SILENT) -> Model:
    """Convert a Keras model to a graph with the same names of inputs and outputs; free axes stay free.

    Raises `UnsupportedOperators` listing all that ONNX has no counterpart for, and `UnsupportedError` where TensorFlow
    cannot trace the model.
    """
    require_keras("converting a Keras model")
    extras.require("tf2onnx", "converting a Keras model to ONNX")
    import onnx_ir

    with progress.step("converting Keras to ONNX"):
        converted = onnx_ir.from_proto(keras_to_proto(model))
    return graph.from_ir(converted, (*model.history, Step("keras-to-onnx", {"opset": OPSET})))
