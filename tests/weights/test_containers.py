"""Every container keeps every bit of every element type, under every name; one test for the whole table."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from tests.weights.strategies import WEIGHTS, one_of_each
from tightship.errors import InvalidModel, OutputError, UnknownFormat
from tightship.weights import CONTAINERS, Container, Tensor, TensorType, Weights, container_of, digest
from tightship.weights.dtypes import DTYPES
from tightship.weights.hdf5 import Hdf5
from tightship.weights.numpy import Numpy

EACH = [*CONTAINERS.values(), Hdf5("gzip"), Hdf5("lzf"), Hdf5("blosc"), Numpy("gzip")]


def named(container: Container) -> str:
    return f"{container.name}-{getattr(container, 'compression', '')}".removesuffix("-")


each = pytest.mark.parametrize("container", EACH, ids=named)


def written(container: Container, weights: Weights, folder: Path) -> Path:
    path = folder / f"weights{container.suffixes[0]}"
    container.write(weights, path)
    return path


def check_same(found: Weights, expected: Weights) -> None:
    assert dict(found.types) == dict(expected.types)
    assert not found.left_out
    for name in expected:
        assert bytes(found[name].data) == bytes(expected[name].data), name


@each
def test_every_element_type_and_shape_comes_back_the_same(container: Container, tmp_path: Path) -> None:
    weights = one_of_each()
    path = written(container, weights, tmp_path)
    with container.open(path) as found:
        check_same(found, weights)


@each
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(weights=WEIGHTS)
def test_any_tensors_under_any_names_come_back_the_same(container: Container, tmp_path: Path, weights: Weights) -> None:
    # HDF5 is opened here, not in a child, to be quick; the test above and the attacks take the child.
    path = written(container, weights, tmp_path)
    with container.reopen(path) as found:
        check_same(found, weights)


@each
def test_the_digest_is_that_of_the_tensors_whatever_the_container_and_order(
    container: Container, tmp_path: Path
) -> None:
    weights = one_of_each()
    backwards = Weights({name: weights.types[name] for name in reversed(list(weights))}, weights.load)
    with container.open(written(container, backwards, tmp_path)) as found:
        assert digest(found).hexdigest() == digest(weights).hexdigest()


@each
def test_the_same_weights_are_the_same_bytes(container: Container, tmp_path: Path) -> None:
    if container.name == "hdf5":
        pytest.skip("libhdf5 writes the time into groups")
    (tmp_path / "again").mkdir()
    first, second = (written(container, one_of_each(), folder) for folder in (tmp_path, tmp_path / "again"))
    assert first.read_bytes() == second.read_bytes()


MIB = 2**20


def eight_of_8_mib() -> Weights:
    """Made when they are asked for."""
    types = {f"layer{index}": TensorType.of("float32", (2, MIB)) for index in range(8)}
    return Weights(types, lambda name: np.random.default_rng(int(name.removeprefix("layer"))).bytes(8 * MIB))


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("container", CONTAINERS.values(), ids=named)
def test_no_more_than_a_few_tensors_are_in_memory(container: Container, tmp_path: Path) -> None:
    # What libhdf5 itself allocates is not seen here: chunks of a MiB. 3.5 is a tensor, its base64 and copies of parts.
    path = written(container, eight_of_8_mib(), tmp_path)
    with container.reopen(path) as found:
        assert digest(found).hexdigest() == digest(eight_of_8_mib()).hexdigest()
    assert tracemalloc.get_traced_memory()[1] < 3.5 * 8 * MIB


@each
def test_a_bit_that_flips_in_the_numbers_is_found_where_the_container_has_checksums(
    container: Container, tmp_path: Path
) -> None:
    if container.name in ("safetensors", "json", "pickle"):
        pytest.skip(f"{container.name} has no checksums; the digest of the tensors tells")
    numbers = np.random.default_rng(0).bytes(4096)
    path = written(container, Weights.of({"a": Tensor(TensorType.of("uint8", (4096,)), numbers)}), tmp_path)
    content = bytearray(path.read_bytes())
    place = content.find(numbers[1000:1016])  # not there where they are packed, which makes them most of the file
    content[place if place > 0 else len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(InvalidModel, match=path.name), container.open(path) as found:
        found["a"]


def test_a_digest_is_what_the_documentation_says() -> None:
    weights = Weights.of(
        {"b": Tensor(TensorType.of("int8", (2,)), b"\1\2"), "a": Tensor(TensorType.of("bool", ()), b"\1")}
    )
    import hashlib

    whole = hashlib.sha256()
    for name, dtype, shape, data in (("a", "bool", "", b"\1"), ("b", "int8", "2", b"\1\2")):
        for part in (name.encode(), dtype.encode(), shape.encode(), hashlib.sha256(data).digest()):
            whole.update(len(part).to_bytes(8, "little") + part)
    assert digest(weights).hexdigest() == whole.hexdigest()


@pytest.mark.parametrize("change", ["bit", "type", "shape", "name"])
def test_tensors_that_differ_in_anything_are_told_apart(change: str) -> None:
    one = Tensor(TensorType.of("uint8", (4,)), b"\0\0\0\1")
    other = {
        "bit": {"a": Tensor(one.type, b"\0\0\0\0")},
        "type": {"a": Tensor(TensorType.of("int8", (4,)), one.data)},
        "shape": {"a": Tensor(TensorType.of("uint8", (2, 2)), one.data)},
        "name": {"b": one},
    }[change]
    first, second = digest(Weights.of({"a": one})), digest(Weights.of(other))
    assert "a" in first.differing(second)
    assert first.hexdigest() != second.hexdigest()


@pytest.mark.parametrize("name", [name for name, dtype in DTYPES.items() if dtype.bits])
def test_an_array_of_any_type_becomes_the_tensor_that_gives_it(name: str) -> None:
    bits = DTYPES[name].bits
    data = np.random.default_rng(1).bytes(12 * bits // 8)
    tensor = Tensor(TensorType.of(name, (3, 4)), bytes(b & 1 for b in data) if name == "bool" else data)
    again = Tensor.from_array(tensor.array())
    assert (again.type, bytes(again.data)) == (tensor.type, bytes(tensor.data))


def test_packed_elements_are_those_of_onnx() -> None:
    import ml_dtypes
    import onnx_ir

    values = np.array([-8, 7, -1, 0, 3], ml_dtypes.int4)
    tensor = Tensor.from_array(values)
    assert bytes(tensor.data) == onnx_ir.tensor(values, dtype=onnx_ir.DataType.INT4).tobytes()
    assert tensor.array().tolist() == values.tolist()


def test_an_unknown_suffix_is_told_the_known_ones() -> None:
    with pytest.raises(UnknownFormat, match=r"weights\.xyz: .*\.safetensors, \.json, \.h5"):
        container_of("weights.xyz")


def test_what_reads_back_differently_is_not_delivered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tightship import api

    np.savez(tmp_path / "in.npz", a=np.arange(9))
    true_write = type(CONTAINERS["json"]).write

    def lossy(self: Container, weights: Weights, path: Path) -> None:
        true_write(self, weights, path)  # type: ignore[arg-type]
        path.write_bytes(path.read_bytes().replace(b"[0, 1, 2", b"[0, 1, 3"))

    monkeypatch.setattr(type(CONTAINERS["json"]), "write", lossy)
    with pytest.raises(OutputError, match="1 tensors read back differently: a"):
        api.weights(tmp_path / "in.npz", tmp_path / "out.json")
    assert [path.name for path in tmp_path.iterdir()] == ["in.npz"]
