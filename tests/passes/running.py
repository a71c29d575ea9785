"""How tests of passes write, run and compare small models."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper, parser

from tightship.core import graph
from tightship.core.model import Model
from tightship.core.session import Arrays
from tightship.core.target import Target
from tightship.engines import open_session

__all__ = ["made_up_inputs", "model_of", "op_types", "relative_error", "run", "written"]


def model_of(proto: onnx.ModelProto) -> Model:
    return graph.from_bytes(proto.SerializeToString())


def written(text: str, opset: int = 17, ir_version: int = 9, **weights: np.ndarray) -> Model:
    """Parse `name (inputs) => (outputs) { nodes }` and give it `weights` by name."""
    contrib = ', "com.microsoft" : 1' if "com.microsoft" in text else ""
    proto = parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["" : {opset}{contrib}]> {text}')
    for name, array in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return model_of(proto)


def made_up_inputs(model: Model, batch: int = 5, seed: int = 0) -> Arrays:
    """Normal floats, and whole numbers from 0 to 9."""
    rng = np.random.default_rng(seed)
    return {
        spec.name: rng.standard_normal(spec.resolve(batch)).astype(spec.dtype)
        if spec.dtype.startswith("float")
        else rng.integers(0, 10, spec.resolve(batch)).astype(spec.dtype)
        for spec in model.inputs
    }


def run(model: Model, inputs: Mapping[str, np.ndarray], engine: str = "onnxruntime") -> Arrays:
    with open_session(model, Target(engine, threads=1)) as session:
        return session.run(inputs)


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    """Length of the difference as a fraction of the length of `wanted`."""
    assert found.shape == wanted.shape
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def op_types(model: Model) -> list[str]:
    return [node.op_type for node in model.graph.graph]
