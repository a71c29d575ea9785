"""Tensors in gRPC messages: every type there and back, and nothing that does not fit gets through."""

from __future__ import annotations

import os
import subprocess
from importlib import resources
from typing import Any

import numpy as np
import pytest

from tightship.core.specs import TensorSpec
from tightship.serve.failures import BadRequest
from tightship.serve.grpc_service.messages import METHODS, SERVICE, message
from tightship.serve.grpc_service.tensors import CONTENTS, read_request, write_answer
from tightship.serve.protocol.datatypes import DATATYPES, numpy_dtype, pack_bytes
from tightship.serve.protocol.signature import Signature

EXTREMES = {"f": [-1.5, 0.0, np.inf], "b": [True, False, True], "V": [1.0, -2.0, 0.5], "O": ["a", "", "é\n"]}


def values(dtype: str) -> np.ndarray:
    plain = numpy_dtype(dtype)
    if plain.kind in "iu":
        return np.array([np.iinfo(plain).min, 0, np.iinfo(plain).max], plain)
    return np.array(EXTREMES[plain.kind], plain)


def signature(dtype: str = "float32", shape: tuple[int | str, ...] = ("n",)) -> Signature:
    return Signature([TensorSpec("x", dtype, shape)], [TensorSpec("y", dtype, shape)])


def request(array: np.ndarray, dtype: str, raw: bool) -> Any:
    found = message("ModelInferRequest")(model_name="m", id="7")
    tensor = found.inputs.add(name="x", datatype=DATATYPES[dtype], shape=array.shape)
    if raw:
        found.raw_input_contents.append(pack_bytes(array) if dtype == "str" else array.tobytes())
    else:
        elements = [value.encode() for value in array] if dtype == "str" else array.tolist()
        getattr(tensor.contents, CONTENTS[DATATYPES[dtype]]).extend(elements)
    return message("ModelInferRequest").FromString(found.SerializeToString())


FORMS = [(dtype, True) for dtype in DATATYPES] + [(dtype, False) for dtype in DATATYPES if DATATYPES[dtype] in CONTENTS]


@pytest.mark.parametrize(("dtype", "raw"), FORMS)
def test_every_type_comes_back_as_it_went_in_the_form_in_which_it_came(dtype: str, raw: bool) -> None:
    array = values(dtype)
    read = read_request(request(array, dtype, raw), signature(dtype))
    assert read.inputs["x"].dtype == array.dtype and np.array_equal(read.inputs["x"], array)
    answer = write_answer("m", "3", read, {"y": read.inputs["x"]}, signature(dtype))
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "3", "7")
    assert (answer.outputs[0].datatype, list(answer.outputs[0].shape)) == (DATATYPES[dtype], [3])
    if raw:
        assert answer.raw_output_contents[0] == (pack_bytes(array) if dtype == "str" else array.tobytes())
    else:
        found = list(getattr(answer.outputs[0].contents, CONTENTS[DATATYPES[dtype]]))
        assert found == ([value.encode() for value in array] if dtype == "str" else array.tolist())
        assert not answer.raw_output_contents


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_types_without_lists_are_asked_for_raw(dtype: str) -> None:
    found = message("ModelInferRequest")()
    found.inputs.add(name="x", datatype=DATATYPES[dtype], shape=[1]).contents.fp32_contents.append(1.0)
    with pytest.raises(BadRequest, match="send it in raw_input_contents"):
        read_request(found, signature(dtype))


@pytest.mark.parametrize(("dtype", "value"), [("uint8", 256), ("int8", -129), ("uint16", 65536), ("int16", 40000)])
def test_a_number_too_large_for_its_type_is_refused(dtype: str, value: int) -> None:
    found = message("ModelInferRequest")()
    tensor = found.inputs.add(name="x", datatype=DATATYPES[dtype], shape=[1])
    getattr(tensor.contents, CONTENTS[DATATYPES[dtype]]).append(value)
    with pytest.raises(BadRequest, match=f"{value} does not fit {DATATYPES[dtype]}"):
        read_request(found, signature(dtype))


def broken(change: str) -> Any:
    found = request(np.zeros(3, np.float32), "float32", raw=change.startswith("raw"))
    tensor = found.inputs[0]
    if change == "raw too short":
        found.raw_input_contents[0] = b"12345"
    elif change == "raw for more inputs":
        found.raw_input_contents.append(b"")
    elif change == "raw without shape":
        del tensor.shape[:]
    elif change == "negative shape":
        tensor.shape[0] = -3
    elif change == "enormous shape":
        tensor.shape[0] = 2**62
    elif change == "other type":
        tensor.datatype = "INT32"
    elif change == "other list":
        tensor.contents.int_contents.append(1)
    elif change == "too few":
        del tensor.contents.fp32_contents[0]
    elif change == "twice":
        found.inputs.append(tensor)
    elif change == "another name":
        tensor.name = "xx"
    elif change == "missing":
        del found.inputs[:]
    elif change == "shared memory":
        tensor.parameters["shared_memory_region"].string_param = "r"
    elif change == "unknown output":
        found.outputs.add(name="z")
    return found


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("raw too short", "expected 12 bytes for 3 elements of FP32, found 5"),
        ("raw for more inputs", "1 inputs and 2 raw_input_contents"),
        ("raw without shape", r"expected shape \[any\], found \[\]"),
        ("negative shape", r"expected shape \[any\], found \[-3\]"),
        ("enormous shape", "expected shape"),
        ("other type", "expected datatype FP32, found 'INT32'"),
        ("other list", "is sent in fp32_contents, found int_contents"),
        ("too few", "expected 3 elements .* found 2"),
        ("twice", "is there twice"),
        ("another name", "has no input 'xx'"),
        ("missing", "lacks the input x"),
        ("shared memory", "shared memory is not offered"),
        ("unknown output", "has no output 'z'"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_with_what_was_expected(change: str, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        read_request(broken(change), signature())


def test_only_the_outputs_asked_for_are_sent() -> None:
    both = Signature([TensorSpec("x", "float32", ("n",))], [TensorSpec(name, "float32", ("n",)) for name in "yz"])
    found = request(np.zeros(3, np.float32), "float32", raw=True)
    found.outputs.add(name="z")
    array = np.zeros(3, np.float32)
    answer = write_answer("m", "1", read_request(found, both), {"y": array, "z": array}, both)
    assert [tensor.name for tensor in answer.outputs] == ["z"]


def test_the_messages_stay_out_of_protobufs_common_pool() -> None:
    from google.protobuf import descriptor_pool

    message("ModelInferRequest")
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("inference.ModelInferRequest")


def test_every_method_of_the_service_is_named() -> None:
    service = message("ModelInferRequest").DESCRIPTOR.file.services_by_name[SERVICE.split(".")[1]]
    assert tuple(service.methods_by_name) == METHODS


def test_the_descriptor_is_made_of_the_proto_that_lies_beside_it(tmp_path: Any) -> None:
    python = os.environ.get("TIGHTSHIP_CLIENTS")
    if not python:
        pytest.skip("protoc is in the clients' environment; set TIGHTSHIP_CLIENTS to its python")
    folder = resources.files("tightship.serve.grpc_service")
    with resources.as_file(folder.joinpath("open_inference.proto")) as proto:
        options = ["-I", str(proto.parent), f"--descriptor_set_out={tmp_path / 'made'}", proto.name]
        subprocess.run([python, "-m", "grpc_tools.protoc", *options], check=True)
    assert (tmp_path / "made").read_bytes() == folder.joinpath("open_inference.desc").read_bytes()
