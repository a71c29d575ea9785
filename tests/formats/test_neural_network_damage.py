"""Flipped bytes and hostile numbers in a neural network end in one typed error, or in a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from coremltools.models.neural_network import NeuralNetworkBuilder
from coremltools.proto import Model_pb2
from google.protobuf.message import DecodeError

from tests.formats.neural_network_cases import build, normal, rng
from tightship.errors import TightshipError
from tightship.formats.neural_network import read_neural_network


def images(b: NeuralNetworkBuilder) -> None:
    b.add_convolution(
        "a", 3, 8, 3, 3, 1, 1, "same", 1, normal(3, 3, 3, 8), normal(8), True, input_name="x", output_name="a"
    )
    b.add_pooling("b", 2, 2, 2, 2, "AVERAGE", "INCLUDE_LAST_PIXEL", "a", "b")
    b.add_lrn("c", "b", "c", 0.1, 0.75, 3)
    b.add_reorganize_data("d", "c", "d", "DEPTH_TO_SPACE", 2)
    b.add_upsample("e", 2, 2, "d", "e", "BILINEAR")
    b.add_convolution(
        "f",
        2,
        4,
        2,
        2,
        2,
        2,
        "valid",
        1,
        normal(2, 2, 2, 4),
        None,
        False,
        is_deconv=True,
        input_name="e",
        output_name="f",
    )
    b.add_resize_bilinear("g", "f", "g", 5, 6, "ROI_ALIGN_MODE")
    b.add_padding("h", 1, 2, 3, 0, 0.5, "g", "h")
    b.add_flatten("i", 0, "h", "i")
    b.add_reshape("j", "i", "y", (4, 8, 9), 0)


def any_rank(b: NeuralNetworkBuilder) -> None:
    b.add_split_nd("a", "x", ["a", "b"], 1)
    b.add_topk("c", ["a"], ["c", "d"], k=2, axis=1)
    b.add_slice_static("e", "b", "e", [0, 0, 1], [1, 2, 3], [1, 1, 1], [False] * 3, [False] * 3)
    b.add_tile("f", "e", "f", [2, 1, 2])
    b.add_sliding_windows("g", "c", "g", 2, 2)
    b.add_layer_normalization("h", "g", "h", (2,), normal(2), normal(2))
    b.add_range_static("i", "i", end=4.0)
    b.add_gather("j", ["h", "i"], "j", 0)
    b.add_constant_pad("k", ["f"], "k", 0.0, False, [1, 0, 0, 1, 0, 0])
    b.add_cumsum("l", ["k"], "y")


def recurrent(b: NeuralNetworkBuilder) -> None:
    weights = [normal(4, 3)] * 4, [normal(4, 4)] * 4
    b.add_unilstm(
        "a", weights[1], weights[0], [normal(4)] * 4, 4, 3, ["x", "h", "c"], ["y", "y1", "y2"], output_all=True
    )


SPECS: dict[str, Any] = {
    "images": build({"x": (3, 8, 8)}, images, old=True),
    "any rank": build({"x": (2, 4, 5)}, any_rank),
    "recurrent": build({"x": (5, 2, 3, 1, 1), "h": (1, 2, 4, 1, 1), "c": (1, 2, 4, 1, 1)}, recurrent, 3),
}


def read_or_refuse(spec: Any) -> bool:
    try:
        read_neural_network(spec, "net.mlmodel")
    except TightshipError as error:
        assert "net.mlmodel" in str(error)
        return False
    return True


@pytest.mark.parametrize("name", SPECS)
def test_flipped_bytes_end_in_a_typed_error_or_a_graph(name: str) -> None:
    data, random, outcomes = SPECS[name].SerializeToString(), rng(1), set()
    for _ in range(150):
        changed = bytearray(data)
        for place in random.integers(0, len(data), 3):
            changed[place] ^= 1 << int(random.integers(8))
        spec = Model_pb2.Model()
        try:
            spec.ParseFromString(bytes(changed))
        except DecodeError:
            continue
        outcomes.add(read_or_refuse(spec))
    assert outcomes == {True, False}


HOSTILE = (0, -1, 2**31, 2**40, 2**63 - 1)


@pytest.mark.parametrize("name", SPECS)
def test_hostile_numbers_end_in_a_typed_error_or_a_graph(name: str) -> None:
    original = SPECS[name]
    for index, layer in enumerate(original.neuralNetwork.layers):
        kind = layer.WhichOneof("layer")
        for field in getattr(layer, kind).DESCRIPTOR.fields:
            if field.cpp_type in (field.CPPTYPE_MESSAGE, field.CPPTYPE_STRING, field.CPPTYPE_BOOL, field.CPPTYPE_ENUM):
                continue
            for value in HOSTILE:
                spec = Model_pb2.Model()
                spec.CopyFrom(original)
                if set_to(getattr(spec.neuralNetwork.layers[index], kind), field, value):
                    read_or_refuse(spec)


def set_to(params: Any, field: Any, value: int) -> bool:
    """Set a number; False where the field cannot hold it."""
    number = float(value) if field.cpp_type == field.CPPTYPE_FLOAT else value
    try:
        if isinstance(getattr(params, field.name), (int, float)):
            setattr(params, field.name, number)
        else:
            getattr(params, field.name)[:] = [number] * max(1, len(getattr(params, field.name)))
    except ValueError:
        return False
    return True


def test_infinite_numbers_of_a_range_are_refused() -> None:
    spec = build({"x": (3,)}, lambda b: b.add_range_static("l", "y", end=float("inf"), step=1.0))
    assert not read_or_refuse(spec)
    assert np.isinf(spec.neuralNetwork.layers[0].rangeStatic.endValue)
