"""What the tests of neural networks share: a spec is read, run in ONNX Runtime, and compared."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir
import onnxruntime
from coremltools.models import datatypes
from coremltools.models.neural_network import NeuralNetworkBuilder

from tightship.formats.neural_network import read_neural_network

Feeds = dict[str, np.ndarray]


def run(spec: Any, feeds: Feeds) -> Feeds:
    """Read a spec and run it; feeds take the shapes and types of the graph's inputs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    model = onnx_ir.to_proto(read_neural_network(spec, "net.mlmodel")).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    taken = {each.name: _fitting(feeds[each.name], each) for each in session.get_inputs()}
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(None, taken), strict=True))


def _fitting(array: np.ndarray, wanted: Any) -> np.ndarray:
    dtype = np.int32 if wanted.type == "tensor(int32)" else np.float32
    shape = [size if isinstance(size, int) else -1 for size in wanted.shape]
    return np.asarray(array, dtype).reshape(shape if shape.count(-1) < 2 else array.shape)


def build(
    inputs: dict[str, tuple[int, ...]],
    add: Callable[[NeuralNetworkBuilder], object],
    outputs: int = 1,
    old: bool = False,
) -> Any:
    """Return the spec of a network whose layers `add` adds between `inputs` and output(s) y, y1, .."""
    names = ["y", *(f"y{index}" for index in range(1, outputs))]
    with contextlib.redirect_stdout(io.StringIO()):
        builder = NeuralNetworkBuilder(
            [(name, datatypes.Array(*shape)) for name, shape in inputs.items()],
            [(name, None) for name in names],
            disable_rank5_shape_mapping=not old,
        )
        add(builder)
    return builder.spec


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return rng(seed).standard_normal(shape).astype(np.float32)


def assert_close(found: np.ndarray, expected: Any, tolerance: float = 1e-5) -> None:
    """Compare shape and values; the tolerance is relative to the largest expected value, or to 1 where that is less."""
    expected = np.asarray(expected)
    assert found.shape == expected.shape
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)
