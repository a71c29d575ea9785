"""The protocol's answers: JSON, binary, or both, whatever the outputs' types and names."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tightship.core.specs import TensorSpec
from tightship.serve.protocol.answers import Answers
from tightship.serve.protocol.datatypes import DATATYPES, bytes_elements, numpy_dtype
from tightship.serve.protocol.requests import InferRequest
from tightship.serve.protocol.signature import Signature


def answers(**dtypes: str) -> Answers:
    outputs = tuple(TensorSpec(name, dtype, ("n", "m")) for name, dtype in dtypes.items())
    return Answers('a "model"', "1%", Signature((), outputs))


def test_json_holds_names_shapes_and_values() -> None:
    body, headers = answers(y="float32").write(InferRequest({}, id="7%"), {"y": np.array([[1.5, -2]], np.float32)})
    assert json.loads(body) == {
        "model_name": 'a "model"',
        "model_version": "1%",
        "id": "7%",
        "outputs": [{"name": "y", "shape": [1, 2], "datatype": "FP32", "data": [1.5, -2.0]}],
    }
    assert dict(headers) == {b"content-type": b"application/json", b"content-length": b"%d" % len(body)}


def test_what_is_no_finite_number_is_null_in_json() -> None:
    body, _ = answers(y="float32").write(InferRequest({}), {"y": np.array([[np.nan, np.inf]], np.float32)})
    assert json.loads(body)["outputs"][0]["data"] == [None, None]


@pytest.mark.parametrize("dtype", [name for name in DATATYPES if name != "str"])
def test_binary_outputs_of_every_number_type_come_through_bit_by_bit(dtype: str) -> None:
    array = np.array([[0, 1, 1]], np.float64).astype(numpy_dtype(dtype))
    made = answers(y=dtype)
    for _ in range(2):  # the second time the document is known
        body, headers = made.write(InferRequest({}, binary=frozenset({"y"})), {"y": array})
        length = int(dict(headers)[b"inference-header-content-length"])
        described = json.loads(body[:length])["outputs"][0]
        assert described["parameters"]["binary_data_size"] == array.nbytes and described["shape"] == [1, 3]
        assert body[length:] == array.tobytes() and dict(headers)[b"content-length"] == b"%d" % len(body)


def test_one_output_may_be_binary_and_another_json() -> None:
    request = InferRequest({}, outputs=("t", "y"), binary=frozenset({"t"}))
    outputs = {"y": np.array([[3]], np.int64), "t": np.array([["ä", "bc"]], object)}
    body, headers = answers(y="int64", t="str").write(request, outputs)
    length = int(dict(headers)[b"inference-header-content-length"])
    texts, numbers = json.loads(body[:length])["outputs"]
    assert numbers["data"] == [3] and texts["name"] == "t"
    assert bytes_elements(memoryview(body[length:]), 2, "t") == ["ä", "bc"]


def test_an_output_that_is_a_view_is_written_in_its_own_order() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    body, headers = answers(y="float32").write(InferRequest({}, binary=frozenset({"y"})), {"y": array})
    assert body[int(dict(headers)[b"inference-header-content-length"]) :] == array.tobytes()


def test_answers_of_many_shapes_do_not_pile_up() -> None:
    made = answers(y="float32")
    for length in range(1000):
        made.write(InferRequest({}, binary=frozenset({"y"})), {"y": np.zeros((1, length), np.float32)})
    assert len(made._documents) <= 256 and len(made._heads) <= 256
