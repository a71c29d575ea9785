"""Weights of Core ML's neural networks: half precision, lines and look-up tables of 1 to 8 bits, damage."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

import coremltools
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coremltools import models
from coremltools.models.neural_network import NeuralNetworkBuilder
from coremltools.models.neural_network import quantization_utils as quantization
from coremltools.proto import NeuralNetwork_pb2
from scipy.cluster.vq import kmeans2

from tests.formats.neural_network_cases import assert_close, build, normal, run
from tightship.errors import InvalidModel
from tightship.formats.neural_network import read_neural_network, weights

X = normal(1, 4, 8, 8)
CONV, UP, DENSE, BIAS = normal(6, 4, 3, 3), normal(6, 4, 2, 2), normal(10, 256), normal(6)


def net(b: NeuralNetworkBuilder) -> None:
    """A convolution, a transposed one, and a dense layer: 6 x 6, 12 x 12, 10."""
    common = {"groups": 1, "border_mode": "valid"}
    b.add_convolution(
        "conv",
        4,
        6,
        3,
        3,
        1,
        1,
        W=CONV.transpose(2, 3, 1, 0),
        b=BIAS,
        has_bias=True,
        input_name="x",
        output_name="c",
        **common,
    )
    b.add_convolution(
        "up",
        6,
        4,
        2,
        2,
        2,
        2,
        W=UP.transpose(2, 3, 0, 1),
        b=None,
        has_bias=False,
        is_deconv=True,
        input_name="c",
        output_name="u",
        **common,
    )
    b.add_crop("crop", 2, 2, 2, 2, 0, ["u"], "k")
    b.add_inner_product("dense", DENSE, None, 256, 10, False, "k", "y")


MODES = {
    "linear": models._QUANTIZATION_MODE_LINEAR_QUANTIZATION,
    "linear_symmetric": models._QUANTIZATION_MODE_LINEAR_SYMMETRIC,
    "linear_lut": models._QUANTIZATION_MODE_LOOKUP_TABLE_LINEAR,
    "kmeans": models._QUANTIZATION_MODE_CUSTOM_LOOKUP_TABLE,
}


def quantized(bits: int, mode: str) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        return quantization._quantize_spec_weights(build({"x": X.shape}, net), bits, mode, lut_function=by_means)


def by_means(bits: int, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A table of k-means (coremltools' own fails with numpy 2)."""
    start = np.quantile(values, np.linspace(0, 1, 2**bits))
    table, codes = kmeans2(values.ravel(), start, minit="matrix")
    return table, codes.reshape(values.shape)


def expected(spec: Any) -> np.ndarray:
    """Run the network in torch with the weights that coremltools' own de-quantization gives."""
    plain = copy.deepcopy(spec)
    network = plain.neuralNetwork
    if network.layers[0].convolution.weights.rawValue:
        with contextlib.redirect_stdout(io.StringIO()):
            quantization._dequantize_nn_spec(network)
    conv, up, dense = (network.layers[0].convolution, network.layers[1].convolution, network.layers[3].innerProduct)

    def tensor(found: Any, *shape: int) -> torch.Tensor:
        if found.float16Value:
            return torch.tensor(np.frombuffer(found.float16Value, np.float16).astype(np.float32).reshape(shape))
        return torch.tensor(np.array(found.floatValue, np.float32).reshape(shape))

    x = F.conv2d(torch.tensor(X), tensor(conv.weights, 6, 4, 3, 3), tensor(conv.bias, 6))
    x = F.conv_transpose2d(x, tensor(up.weights, 6, 4, 2, 2), stride=2)[:, :, 2:-2, 2:-2]
    return (x.flatten(1) @ tensor(dense.weights, 10, 256).T)[:, :, None, None].numpy()


CASES = [(bits, "linear") for bits in (8, 4, 3, 2, 1)] + [(bits, "kmeans") for bits in (8, 4, 2, 1)]
CASES += [(8, "linear_symmetric"), (5, "linear_lut")]


@pytest.mark.parametrize(("bits", "mode"), CASES)
def test_quantized_weights_are_those_of_coremltools(bits: int, mode: str) -> None:
    spec = quantized(bits, MODES[mode])
    assert spec.neuralNetwork.layers[0].convolution.weights.quantization.numberOfBits == bits
    assert_close(run(spec, {"x": X})["y"], expected(spec))


def test_half_precision_weights_are_read() -> None:
    spec = coremltools.utils._convert_neural_network_spec_weights_to_fp16(build({"x": X.shape}, net))
    assert spec.neuralNetwork.layers[0].convolution.weights.float16Value
    assert_close(run(spec, {"x": X})["y"], expected(spec))


def damaged(change: Any) -> Any:
    spec = build({"x": X.shape}, net)
    change(spec.neuralNetwork.layers[0].convolution)
    return spec


def odd_bytes(params: Any) -> None:
    del params.weights.floatValue[:]
    params.weights.float16Value = b"abc"


def bits(count: int, kind: str) -> Any:
    def change(params: Any) -> None:
        del params.weights.floatValue[:]
        params.weights.rawValue = bytes(range(27)) * 8
        params.weights.quantization.numberOfBits = count
        if kind == "line":
            params.weights.quantization.linearQuantization.scale.extend([1.0, 2.0])
        elif kind == "table":
            params.weights.quantization.lookupTableQuantization.floatValue.extend([1.0, 2.0])

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda params: params.weights.Clear(), "weights: expected weights, found none"),
        (lambda params: params.bias.floatValue.append(1), r"bias: expected \[6\] = 6 weights, found 7"),
        (lambda params: params.kernelSize.__setitem__(0, 2**40), r"kernelSize: expected 2 positive integers"),
        (lambda params: params.stride.__setitem__(0, 0), r"stride: expected 2 positive integers"),
        (odd_bytes, "expected 2 bytes for each float16, found 3"),
        (bits(8, ""), "expected a quantization for the raw weights"),
        (bits(8, "line"), "expected 1 or 6 scales and biases, found 2"),
        (bits(8, "table"), "expected a look-up table of 27 or more, found 2"),
        (bits(0, "line"), "expected 1 to 8 bits, found 0"),
        (bits(9, "line"), "expected 1 to 8 bits, found 9"),
        (bits(7, "line"), None),
    ],
)
def test_damaged_weights_are_refused_by_layer_and_field(change: Any, message: str | None) -> None:
    with pytest.raises(InvalidModel, match=rf"net.mlmodel: layer 'conv' \(convolution\): .*{message or ''}"):
        read_neural_network(damaged(change), "net.mlmodel")


@pytest.mark.parametrize("count", range(1, 9))
def test_codes_are_packed_with_the_most_significant_bit_first(count: int) -> None:
    codes = np.arange(24) % 2**count
    found = NeuralNetwork_pb2.WeightParams()
    packed = "".join(f"{code:0{count}b}" for code in codes)
    found.rawValue = int(packed, 2).to_bytes(len(packed) // 8, "big")
    found.quantization.numberOfBits = count
    found.quantization.linearQuantization.scale.append(2)
    found.quantization.linearQuantization.bias.append(-1)
    assert weights.array(found, [24], 0, "these").tolist() == (codes * 2 - 1).tolist()
