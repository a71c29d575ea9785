"""The protocol's requests: what is taken, what is refused and how, and that nothing else can happen."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tightship.core.specs import TensorSpec
from tightship.serve.failures import BadRequest
from tightship.serve.protocol.datatypes import DATATYPES, bytes_elements, numpy_dtype, pack_bytes
from tightship.serve.protocol.layouts import Layouts
from tightship.serve.protocol.requests import read_request
from tightship.serve.protocol.signature import Signature

PLAIN = Signature((TensorSpec("x", "float32", ("n", 3)),), (TensorSpec("y", "float32", ("n", 2)),))
MIXED = Signature(
    (TensorSpec("t", "str", ("n",)), TensorSpec("i", "int32", ("n", 2)), TensorSpec("b", "bool", ())),
    (TensorSpec("y", "float32", ("n",)), TensorSpec("z", "int64", ("n",))),
)


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3], **changes}


def asked(*inputs: dict[str, Any], **others: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **others}).encode()


def binary(array: np.ndarray, **changes: Any) -> tuple[bytes, int]:
    """Return a request whose one tensor follows its JSON, and the length of that."""
    described = {"name": "x", "shape": list(array.shape), "datatype": "FP32", **changes}
    described.setdefault("parameters", {"binary_data_size": array.nbytes})
    head = asked(described)
    return head + array.tobytes(), len(head)


def test_values_are_taken_flat_in_row_major_order() -> None:
    read = read_request(asked(tensor(shape=[2, 3], data=[1, 2, 3, 4, 5, 6])), None, PLAIN)
    assert np.array_equal(read.inputs["x"], np.array([[1, 2, 3], [4, 5, 6]], np.float32))


def test_values_are_taken_nested_as_the_shape_is() -> None:
    read = read_request(asked(tensor(shape=[2, 3], data=[[1, 2, 3], [4, 5, 6.5]])), None, PLAIN)
    assert read.inputs["x"][1, 2] == 6.5


def test_all_types_of_a_model_are_taken() -> None:
    body = asked(
        {"name": "t", "shape": [2], "datatype": "BYTES", "data": ["ä", ""]},
        {"name": "i", "shape": [2, 2], "datatype": "INT32", "data": [1, -2, 3, 2147483647]},
        {"name": "b", "shape": [], "datatype": "BOOL", "data": [True]},
    )
    inputs = read_request(body, None, MIXED).inputs
    assert inputs["t"].tolist() == ["ä", ""] and inputs["i"].dtype == np.int32 and bool(inputs["b"])


@pytest.mark.parametrize("dtype", [name for name in DATATYPES if name != "str"])
def test_binary_tensors_of_every_number_type_come_through_bit_by_bit(dtype: str) -> None:
    kind = numpy_dtype(dtype)
    array = np.array([[0, 1, 1]], np.float64).astype(kind)
    signature = Signature((TensorSpec("x", dtype, ("n", 3)),), ())
    body, length = binary(array, datatype=DATATYPES[dtype])
    assert read_request(body, length, signature).inputs["x"].tobytes() == array.tobytes()


def test_a_binary_tensor_is_looked_at_where_it_lies() -> None:
    array = np.ones((1, 3), np.float32)
    body, length = binary(array)
    padded = body[:length].replace(b'{"inputs"', b" " * (-length % 4) + b'{"inputs"')  # where float32 may lie
    inputs = read_request(padded + array.tobytes(), len(padded), PLAIN).inputs
    assert not inputs["x"].flags.owndata and not inputs["x"].flags.writeable


def test_binary_texts_come_through() -> None:
    words = np.array(["a", "", "größer"], object)
    content = pack_bytes(words)
    assert bytes_elements(memoryview(content), 3, "t") == words.tolist()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not the JSON"),
        (b"[]", "not the JSON"),
        (b'{"inputs": ' + b"[" * 100_000, "not the JSON"),
        (asked(), "lacks the input x"),
        (asked(tensor(name="y")), "no input 'y'"),
        (asked(tensor(), tensor()), "there twice"),
        (asked(tensor(datatype="FP64")), "expected datatype FP32, found 'FP64'"),
        (asked(tensor(shape=[3])), r"expected shape \[any, 3\], found \[3\]"),
        (asked(tensor(shape=[-1, 3])), "expected shape"),
        (asked(tensor(shape=[1 << 60, 3])), "expected shape"),
        (asked(tensor(data=[1, 2])), "expected 3 values"),
        (asked(tensor(data=[[1, 2], [3]])), "nested as the shape"),
        (asked(tensor(data=[1, 2, "x"])), "must be a list of FP32"),
        (asked(tensor(data=[1, None, 3])), "must be a list of FP32"),
        (asked(tensor(data=[1, 2, 1e300])), "does not fit FP32"),
        (asked(tensor(data={})), "must be a list of FP32"),
        (asked(tensor(parameters={"binary_data_size": 12})), "either data or"),
        (asked({"name": "x", "shape": [1, 3], "datatype": "FP32"}), "found neither"),
        (asked(tensor(parameters={"shared_memory_region": "r"})), "shared memory"),
        (asked(tensor(), outputs=[{"name": "w"}]), "no output 'w'"),
        (asked(tensor(), outputs=[{"name": "y", "parameters": {"classification": 3}}]), "classification"),
        (asked(tensor()) + b"tail", "not the JSON"),
        (b"\xff" + asked(tensor()), "not the JSON"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_reason(body: bytes, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason):
        read_request(body, None, PLAIN)


@pytest.mark.parametrize(
    ("body", "length", "reason"),
    [
        (*binary(np.ones((1, 3), np.float32), parameters={"binary_data_size": 16}), "16 bytes are announced"),
        (*binary(np.ones((1, 3), np.float32), parameters={"binary_data_size": -1}), "binary_data_size is -1"),
        (*binary(np.ones((1, 3), np.float32), parameters={"binary_data_size": 8}), "expected 12 bytes"),
        (binary(np.ones((1, 3), np.float32))[0] + b"x", binary(np.ones((1, 3), np.float32))[1], "1 bytes after"),
        (b"{}", 3, "expected no more"),
    ],
)
def test_binary_tensors_must_be_as_long_as_they_say(body: bytes, length: int, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason):
        read_request(body, length, PLAIN)


def test_a_bool_is_a_byte_of_0_or_1() -> None:
    signature = Signature((TensorSpec("x", "bool", ("n",)),), ())
    body, length = binary(np.array([0, 1, 2], np.uint8), datatype="BOOL")
    with pytest.raises(BadRequest, match="byte of 0 or 1"):
        read_request(body, length, signature)


@pytest.mark.parametrize(
    "content", [b"\x01\0\0", b"\x05\0\0\0a", b"\x01\0\0\0ab", b"\x01\0\0\0\xff", b"\xff\xff\xff\xff"]
)
def test_damaged_texts_are_refused(content: bytes) -> None:
    with pytest.raises(BadRequest):
        bytes_elements(memoryview(content), 1, "t")


def test_outputs_are_binary_where_they_or_all_are_wanted_so() -> None:
    both = {"binary_data_output": True}
    wanted = [{"name": "z"}, {"name": "y", "parameters": {"binary_data": False}}]
    inputs = [
        {"name": "t", "shape": [1], "datatype": "BYTES", "data": ["a"]},
        {"name": "i", "shape": [1, 2], "datatype": "INT32", "data": [1, 2]},
        {"name": "b", "shape": [], "datatype": "BOOL", "data": [False]},
    ]
    assert read_request(asked(*inputs, parameters=both), None, MIXED).binary == {"y", "z"}
    read = read_request(asked(*inputs, parameters=both, outputs=wanted), None, MIXED)
    assert read.outputs == ("z", "y") and read.binary == {"z"}


def test_a_request_that_begins_as_one_before_it_is_read_the_same() -> None:
    layouts = Layouts(PLAIN)
    for value in (1.0, 2.0, 3.0):
        array = np.full((1, 3), value, np.float32)
        body, length = binary(array)
        again = layouts.read(body, str(length).encode())
        assert np.array_equal(again.inputs["x"], array) and again.n_elements == 3


def test_a_known_beginning_with_another_length_of_tensors_is_refused() -> None:
    layouts = Layouts(PLAIN)
    body, length = binary(np.ones((1, 3), np.float32))
    layouts.read(body, str(length).encode())
    for other in (body + b"more", body[:-1]):
        with pytest.raises(BadRequest):
            layouts.read(other, str(length).encode())


@pytest.mark.parametrize("text", [b"-1", b"1e3", b"", b"9" * 30, b"0x10"])
def test_a_length_of_the_json_that_is_no_count_is_refused(text: bytes) -> None:
    with pytest.raises(BadRequest, match="expected a count"):
        Layouts(PLAIN).read(b"{}", text)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.one_of(st.none(), st.integers(-5, 80)))
def test_any_bytes_are_read_or_refused(body: bytes, length: int | None) -> None:
    with pytest.raises(BadRequest):
        read_request(body, length, PLAIN)


ANY_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(
    ANY_JSON, st.lists(st.integers(), max_size=3), st.sampled_from(["FP32", "INT8", "BYTES", ""]), ANY_JSON, ANY_JSON
)
def test_any_json_is_read_or_refused(data: Any, shape: list[int], datatype: str, parameters: Any, outputs: Any) -> None:
    described = {"name": "x", "shape": shape, "datatype": datatype, "parameters": parameters, "data": data}
    try:
        read = read_request(asked(described, outputs=outputs), None, PLAIN)
    except BadRequest:
        return
    assert read.inputs["x"].shape == tuple(shape)
