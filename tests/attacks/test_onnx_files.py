"""Hostile and broken ONNX files: each ends in one typed error, soon, in bounded memory, with nothing written."""

from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tightship import formats
from tightship.core.model import Model
from tightship.errors import (
    ArtifactError,
    ArtifactNotFound,
    InvalidModel,
    TightshipError,
    UnsupportedError,
    UnsupportedOperators,
)

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'
PEAK_BYTES = 64 * 2**20  # the most that refusing any of these files may allocate through Python; seen: below 5 MiB


def read(path: Path) -> Model:
    return formats.read(formats.recognise(str(path)))


def refuse(path: Path, error: type[TightshipError], match: str) -> None:
    """Assert that the file is refused with this error, in little memory, and that no file appears or changes."""
    before = {child: child.lstat().st_mtime_ns for child in path.parent.rglob("*")}
    tracemalloc.start()
    try:
        with pytest.raises(error, match=match) as caught:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < PEAK_BYTES
    finally:
        tracemalloc.stop()
    assert path.name in str(caught.value)
    assert {child: child.lstat().st_mtime_ns for child in path.parent.rglob("*")} == before


@pytest.fixture(autouse=True, scope="module")
def libraries_are_loaded(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Read one good file first, so that no measurement of memory counts what importing libraries takes."""
    read(saved(small(), tmp_path_factory.mktemp("good")))


def parsed(body: str, header: str = HEADER) -> onnx.ModelProto:
    return onnx.parser.parse_model(header + body)


def small() -> onnx.ModelProto:
    model = parsed("g (float[1, 4] x) => (float[1, 4] y) { t = MatMul(x, w)  y = Relu(t) }")
    model.graph.initializer.append(numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"))
    return model


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


# -- what is no ONNX file -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "empty"),
        (np.random.default_rng(0).bytes(4096), "not an ONNX model"),
        (b"\0" * 4096, "not an ONNX model"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "a PNG image"),
        (b"PK\x03\x04" + b"\0" * 100, "a zip archive"),
        (b"\x80\x04\x95" + b"\0" * 100, "a Python pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"\x08\x08", "no graph inside"),
    ],
    ids=["empty", "random", "zeros", "png", "zip", "pickle", "lfs-pointer", "html", "only-a-version"],
)
def test_other_content_is_refused_by_what_it_is(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    refuse(path, InvalidModel, match)


@pytest.mark.parametrize("tenth", range(10))
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path, data_dir: Path, tenth: int) -> None:
    content = (data_dir / "mnist_onnx" / "mnist.onnx").read_bytes()
    for offset in range(12):
        path = tmp_path / "m.onnx"
        path.write_bytes(content[: len(content) * tenth // 10 + offset])
        with pytest.raises(InvalidModel):
            read(path)


def test_a_file_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    content = small().SerializeToString()
    path = tmp_path / "m.onnx"
    for end in range(len(content)):
        path.write_bytes(content[:end])
        with pytest.raises(InvalidModel):
            read(path)


def test_a_file_with_any_byte_changed_reads_or_is_refused_with_a_type(tmp_path: Path) -> None:
    content = small().SerializeToString()
    path = tmp_path / "m.onnx"
    random = np.random.default_rng(0)
    n_refused = 0
    for index in range(len(content)):
        changed = bytearray(content)
        changed[index] ^= int(random.integers(1, 256))
        path.write_bytes(changed)
        try:
            read(path)
        except (ArtifactError, UnsupportedError):
            n_refused += 1
    assert n_refused > len(content) // 4


def test_a_folder_is_not_found_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").mkdir()
    refuse(tmp_path / "m.onnx", ArtifactNotFound, "found a folder")


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    refuse(tmp_path / "m.onnx", ArtifactNotFound, "no such file")


def test_a_pipe_is_refused_without_opening_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.onnx")
    refuse(tmp_path / "m.onnx", ArtifactNotFound, "no plain file")


def test_an_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(small(), tmp_path)

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)  # permissions do not bind root, who may run the tests
    monkeypatch.setattr(Path, "read_bytes", denied)
    refuse(path, InvalidModel, "Permission denied")


def test_a_file_past_two_gib_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with path.open("wb") as file:
        file.truncate(2**34)  # sparse: takes no space
    refuse(path, InvalidModel, "2 GiB")


# -- graphs that are not sound ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "match"),
    [
        ("g (float[1] x) => (float[1] y) { a = Add(x, b)  b = Relu(a)  y = Neg(b) }", "a cycle .* '[ab]'"),
        ("g (float[1] x) => (float[1] y) { y = Add(x, y) }", "a cycle .* 'y'"),
        ("g (float[1] x) => (float[1] y) { y = Relu(a)  a = Neg(x) }", "topological order"),
        ("g (float[1] x) => (float[1] y) { y = Add(x, nowhere) }", "'nowhere', which nothing defines"),
        ("g (float[1] x) => (float[1] y) { z = Relu(x) }", "output 'y' is made by no operator"),
        ("g (float[1] x) => (float[1] y) { y = Relu(x)  y = Neg(x) }", "found 'y' twice"),
        ("g (float[1] x) => (float[1] y) { x = Relu(x)  y = Neg(x) }", "found 'x' twice"),
        ("g (float[1] x, float[2] x) => (float[1] y) { y = Relu(x) }", "found 'x' twice"),
        ("g (float[1] x) => () { y = Relu(x) }", "no outputs"),
        ("g (float[1] x) => (float[1] y) { y = Add(x) }", "checker refuses"),
        ("g (float[1] x) => (float[1] y) { y = Relu<nonsense = 1>(x) }", "checker refuses"),
        ("g (float[1] x, bool c) => (float[1] y) { y = If(c) <"
         "then_branch = t () => (float[1] a) { a = Add(x, lost) }, else_branch = e () => (float[1] b) { b = Relu(x) }"
         "> }", "'lost', which nothing defines"),
    ],
    ids=["cycle", "self-cycle", "unsorted", "undefined", "output-of-nothing", "two-makers", "made-input", "two-inputs",
         "no-outputs", "too-few-inputs", "wrong-attribute", "undefined-in-a-branch"],
)  # fmt: skip
def test_an_unsound_graph_is_refused_by_name(tmp_path: Path, body: str, match: str) -> None:
    refuse(saved(parsed(body), tmp_path), InvalidModel, match)


def test_a_long_cycle_is_found_soon(tmp_path: Path) -> None:
    model = parsed("g (float[1] x) => (float[1] v9999) { v0 = Add(x, v9999) }")
    model.graph.node.extend(helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(9_999))
    refuse(saved(model, tmp_path), InvalidModel, "a cycle")


def test_all_unknown_operators_are_listed_at_once(tmp_path: Path) -> None:
    body = "g (float[1] x) => (float[1] y) { a = Frobnicate(x)  b = Frobnicate(a)  y = my.lab.Magic(b) }"
    model = parsed(body, '<ir_version: 8, opset_import: ["" : 17, "my.lab" : 1]>\n')
    path = saved(model, tmp_path)
    refuse(path, UnsupportedOperators, r"Frobnicate: a, b; my.lab.Magic: y")


def test_an_operator_that_its_opset_has_dropped_is_unknown(tmp_path: Path) -> None:
    model = parsed("g (float[1, 1, 2, 2] x, float[4] s) => (float[1, 1, 4, 4] y) { y = Upsample(x, s) }")
    refuse(saved(model, tmp_path), UnsupportedOperators, "Upsample: y")


def test_many_unknown_operators_give_a_short_message_soon(tmp_path: Path) -> None:
    model = parsed("g (float[1] v0) => (float[1] v20000) { }")
    model.graph.node.extend(helper.make_node("Frobnicate", [f"v{i}"], [f"v{i + 1}"]) for i in range(20_000))
    refuse(saved(model, tmp_path), UnsupportedOperators, "and 19900 more")


@pytest.mark.parametrize(
    ("version", "error"), [(9999, UnsupportedError), (2**62, InvalidModel), (0, InvalidModel), (-1, InvalidModel)]
)
def test_an_impossible_opset_is_refused(tmp_path: Path, version: int, error: type[TightshipError]) -> None:
    model = small()
    model.opset_import[0].version = version
    refuse(saved(model, tmp_path), error, "opset")


@pytest.mark.parametrize("dim", [-1, 2**62])
@pytest.mark.parametrize("where", ["input", "output", "value_info"])
def test_an_impossible_declared_dimension_is_refused(tmp_path: Path, dim: int, where: str) -> None:
    model = small()
    model.graph.value_info.append(helper.make_tensor_value_info("t", TensorProto.FLOAT, [1, 4]))
    getattr(model.graph, where)[0].type.tensor_type.shape.dim[1].dim_value = dim
    refuse(saved(model, tmp_path), InvalidModel, "impossible dimensions")


def test_sequences_as_inputs_are_unsupported(tmp_path: Path) -> None:
    model = parsed("g (seq(float[1]) s) => (int64 y) { y = SequenceLength(s) }")
    refuse(saved(model, tmp_path), UnsupportedError, "must be tensors")


def test_a_constant_of_sixteen_gib_is_refused_without_computing_it(tmp_path: Path) -> None:
    model = parsed("g (float[1] x) => (float[1] y) { c = ConstantOfShape(n)  r = ReduceMax(c)  y = Add(x, r) }")
    model.graph.initializer.append(numpy_helper.from_array(np.array([2**32]), "n"))
    refuse(saved(model, tmp_path), InvalidModel, "ConstantOfShape 'c' fills 16 GiB")


def test_a_constant_of_some_mib_is_read(tmp_path: Path) -> None:
    model = parsed("g (float[1] x) => (float[1] y) { c = ConstantOfShape(n)  r = ReduceMax(c)  y = Add(x, r) }")
    model.graph.initializer.append(numpy_helper.from_array(np.array([2**20]), "n"))
    read(saved(model, tmp_path))


def branches(depth: int, tag: str = "") -> str:
    """A tree of If in ONNX text: the body of a graph whose output is `o{tag}`, with two branches at each step."""
    if not depth:
        return f"o{tag} = Relu(x)"
    inner = (f"b{tag}{side} () => (float[1] o{tag}{side}) {{ {branches(depth - 1, tag + side)} }}" for side in "01")
    return "o{} = If(c) <then_branch = {}, else_branch = {}>".format(tag, *inner)


def test_a_tree_of_branches_twelve_deep_is_refused_soon(tmp_path: Path) -> None:
    model = parsed(f"g (float[1] x, bool c) => (float[1] o) {{ {branches(12)} }}")
    refuse(saved(model, tmp_path), InvalidModel, "more than 1000 graphs inside graphs")


def test_branches_nested_twelve_deep_are_read(tmp_path: Path) -> None:
    body = "o0 = Relu(x)"
    for depth in range(1, 13):
        then, other = (f"{side}{depth} () => (float[1] " for side in "te")
        last = f"o{depth - 1}"
        body = (
            f"o{depth} = If(c) <then_branch = {then}{last}) {{ {body} }}, "
            f"else_branch = {other}n{depth}) {{ n{depth} = Neg(x) }}>"
        )
    read(saved(parsed(f"g (float[1] x, bool c) => (float[1] o12) {{ {body} }}"), tmp_path))


def test_branches_nested_past_what_protobuf_parses_are_refused(tmp_path: Path) -> None:
    # Built from the inside out as bytes, since protobuf refuses to build it: graph -> node -> attribute -> graph ...
    def field(number: int, content: bytes) -> bytes:
        return _varint(number << 3 | 2) + _varint(len(content)) + content

    graph = field(1, field(4, b"Relu"))
    for _ in range(500):
        graph = field(1, field(4, b"If") + field(5, field(1, b"then_branch") + field(6, graph)))
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08\x08" + field(7, graph))
    refuse(path, InvalidModel, "does not parse")


def _varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


# -- weights that are not sound -----------------------------------------------------------------------------------


def with_tensor(tensor: TensorProto) -> onnx.ModelProto:
    model = small()
    model.graph.initializer[0].CopyFrom(tensor)
    return model


@pytest.mark.parametrize(
    ("dims", "match"),
    [([4, 5], "needs 80 bytes"), ([4, 3], "needs 48 bytes"), ([-4, -4], "impossible"), ([2**62, 1], "impossible"),
     ([2**31, 2**31], "needs"), ([0], "needs 0 bytes")],
    ids=["longer", "shorter", "negative", "huge-axis", "huge-product", "none"],
)  # fmt: skip
def test_data_of_another_length_than_its_dimensions_is_refused(tmp_path: Path, dims: list[int], match: str) -> None:
    tensor = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    del tensor.dims[:]
    tensor.dims.extend(dims)
    refuse(saved(with_tensor(tensor), tmp_path), InvalidModel, match)


@pytest.mark.parametrize(
    ("tensor", "match"),
    [
        (TensorProto(name="w", dims=[4, 4], data_type=TensorProto.FLOAT), "needs 16 numbers, found 0"),
        (TensorProto(name="w", dims=[4], data_type=TensorProto.FLOAT, float_data=[1, 2]), "needs 4 numbers, found 2"),
        (TensorProto(name="w", dims=[4], data_type=TensorProto.INT4, int32_data=[1, 2, 3]), "needs 2 numbers, found 3"),
        (TensorProto(name="w", dims=[2], data_type=TensorProto.STRING, string_data=[b"a"]), "needs 2 strings, found 1"),
        (TensorProto(name="w", dims=[1], data_type=TensorProto.FLOAT, float_data=[1], int32_data=[1]), "found 2"),
        (TensorProto(name="w", dims=[4], data_type=99, raw_data=b"1234"), "data type 99"),
        (TensorProto(name="w", dims=[4], data_type=0, raw_data=b"1234"), "data type 0"),
    ],
    ids=["no-data", "too-few", "packed", "strings", "two-fields", "unknown-type", "no-type"],
)
def test_typed_data_of_another_length_is_refused(tmp_path: Path, tensor: TensorProto, match: str) -> None:
    refuse(saved(with_tensor(tensor), tmp_path), InvalidModel, match)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_nan_weights_are_refused_by_name(tmp_path: Path, dtype: type[np.floating]) -> None:
    weight = np.eye(4, dtype=dtype)
    weight[2, 1] = np.nan
    refuse(saved(with_tensor(numpy_helper.from_array(weight, "w")), tmp_path), InvalidModel, "1 weights hold NaN: w")


def test_nan_in_a_constant_node_is_refused_by_name(tmp_path: Path) -> None:
    model = parsed("g (float[1] x) => (float[1] y) { c = Constant<value_float = 1.0>()  y = Add(x, c) }")
    del model.graph.node[0].attribute[:]
    nan = numpy_helper.from_array(np.array([np.nan], np.float32))
    model.graph.node[0].attribute.append(helper.make_attribute("value", nan))
    refuse(saved(model, tmp_path), InvalidModel, "NaN: c")


# -- external data ------------------------------------------------------------------------------------------------


def external(folder: Path, location: str, **entries: object) -> Path:
    """Save the small model with its weight at `location`, which is not written."""
    tensor = TensorProto(name="w", dims=[4, 4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return saved(with_tensor(tensor), folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder with a good data file, beside a secret it must not reach."""
    (tmp_path / "secret").write_bytes(b"\0" * 64)
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "w.data").write_bytes(np.eye(4, dtype=np.float32).tobytes())
    return folder


def test_good_external_data_is_a_companion(folder: Path) -> None:
    artifact = formats.recognise(str(external(folder, "w.data")))
    assert artifact.companions == (folder / "w.data",)
    formats.read(artifact)


@pytest.mark.parametrize(
    "location",
    ["../secret", "sub/../../secret", "{absolute}", "/dev/zero", "", ".", "w.data\0.png", "a" * 5000],
    ids=["parent", "parent-inside", "absolute", "device", "none", "itself", "nul", "too-long"],
)
def test_external_data_outside_the_folder_is_refused(folder: Path, location: str) -> None:
    place = location.replace("{absolute}", str(folder / "w.data"))
    refuse(external(folder, place), InvalidModel, "external data at")


def link(folder: Path, target: Path) -> None:
    (folder / "w.data").unlink()
    (folder / "w.data").symlink_to(target)


def to_secret(folder: Path) -> None:
    link(folder, folder.parent / "secret")


def to_device(folder: Path) -> None:
    link(folder, Path("/dev/zero"))


def to_itself(folder: Path) -> None:
    link(folder, folder / "w.data")


def to_pipe(folder: Path) -> None:
    (folder / "w.data").unlink()
    os.mkfifo(folder / "w.data")


def to_folder(folder: Path) -> None:
    (folder / "w.data").unlink()
    (folder / "w.data").mkdir()


def hard_linked(folder: Path) -> None:
    (folder / "w.data").unlink()
    os.link(folder.parent / "secret", folder / "w.data")


@pytest.mark.parametrize("make", [to_secret, to_device, to_itself, to_pipe, to_folder, hard_linked])
def test_external_data_that_is_no_plain_file_of_the_folder_is_refused(
    folder: Path, make: Callable[[Path], None]
) -> None:
    make(folder)
    refuse(external(folder, "w.data"), InvalidModel, "external data at 'w.data'")


def test_missing_external_data_is_not_found_by_its_name(folder: Path) -> None:
    refuse(external(folder, "lost.data"), ArtifactNotFound, "lost.data is missing")


@pytest.mark.parametrize(
    "entries",
    [{"offset": 4}, {"offset": -4}, {"offset": 2**62}, {"offset": "NaN"}, {"offset": "1e3"}, {"offset": "٣"},
     {"length": 60}, {"length": 68}, {"length": -64}, {"length": 2**62}, {"length": "9" * 4000}, {"length": 0}],
    ids=lambda entries: f"{next(iter(entries))}-{str(next(iter(entries.values())))[:8]}",
)  # fmt: skip
def test_external_data_that_does_not_fit_its_file_is_refused(folder: Path, entries: dict[str, object]) -> None:
    refuse(external(folder, "w.data", **entries), InvalidModel, "tensor 'w'")


def test_external_data_that_is_too_short_is_refused(folder: Path) -> None:
    (folder / "w.data").write_bytes(b"\0" * 63)
    refuse(external(folder, "w.data"), InvalidModel, "needs 64 bytes outside")


def test_nan_in_external_data_is_refused(folder: Path) -> None:
    (folder / "w.data").write_bytes(struct.pack("<16f", *[1.0] * 15, float("nan")))
    refuse(external(folder, "w.data"), InvalidModel, "NaN: w")


def test_external_data_in_a_function_is_refused(folder: Path) -> None:
    text = HEADER.replace('"" : 17', '"" : 17, "f" : 1')
    body = "g (float[1] x) => (float[1] y) { y = f.twice(x) }\n"
    function = (
        '<domain: "f", opset_import: ["" : 17]> twice (x) => (y) { c = Constant<value_float = 2.0>()  y = Mul(x, c) }'
    )
    model = parsed(body + function, text)
    del model.functions[0].node[0].attribute[:]
    tensor = TensorProto(name="c", dims=[1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="w.data")
    tensor.external_data.add(key="length", value="4")
    model.functions[0].node[0].attribute.append(helper.make_attribute("value", tensor))
    refuse(saved(model, folder), InvalidModel, "attribute 'value' of 'c' is external data")
