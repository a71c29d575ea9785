"""Reading and writing ONNX files: what goes out comes back, in one file or two."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest

from tightship import formats
from tightship.core import graph
from tightship.core.model import Model
from tightship.core.target import Target
from tightship.engines import open_session
from tightship.errors import InvalidModel, OutputError, UnsupportedError, UsageError
from tightship.formats.onnx import Onnx

LINEAR = """
<ir_version: 8, opset_import: ["" : 17]>
linear (float[batch, 64] x) => (float[batch, 32] y) { y = MatMul(x, w) }
"""


def linear_proto(seed: int = 0) -> onnx.ModelProto:
    model = onnx.parser.parse_model(LINEAR)
    weight = np.random.default_rng(seed).standard_normal((64, 32)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return model


def linear(seed: int = 0) -> Model:
    return graph.from_bytes(linear_proto(seed).SerializeToString())


def run(source: Path | Model) -> np.ndarray:
    x = np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64)
    with open_session(source, Target()) as session:
        return session.run({"x": x})["y"]


@pytest.fixture
def no_room_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let any model count as larger than one protobuf message can be."""
    monkeypatch.setattr(graph, "MAX_PROTOBUF_BYTES", 100)


def test_a_written_model_reads_back_with_its_interface(tmp_path: Path) -> None:
    model = linear()
    artifact = formats.write(model, tmp_path / "m.onnx")
    back = formats.read(artifact)
    assert (back.form, back.inputs, back.outputs) == ("graph", model.inputs, model.outputs)


def test_a_small_model_is_written_as_one_file(tmp_path: Path) -> None:
    artifact = formats.write(linear(), tmp_path / "m.onnx")
    assert artifact.companions == ()
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_a_model_past_the_limit_is_written_with_its_data_beside(tmp_path: Path, no_room_inside: None) -> None:
    artifact = formats.write(linear(), tmp_path / "m.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", artifact.companions[0].name]
    assert artifact.size_bytes > 64 * 32 * 4 > (tmp_path / "m.onnx").stat().st_size


def test_external_data_computes_what_one_file_computes(tmp_path: Path, no_room_inside: None) -> None:
    formats.write(linear(), tmp_path / "m.onnx")
    model = linear_proto()
    onnx.save(model, tmp_path / "inside.onnx")
    np.testing.assert_array_equal(run(tmp_path / "m.onnx"), run(tmp_path / "inside.onnx"))


def test_a_model_read_from_external_data_runs_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(graph, "MAX_PROTOBUF_BYTES", 100)
        artifact = formats.write(linear(), tmp_path / "m.onnx")
    np.testing.assert_array_equal(run(formats.read(artifact)), run(linear()))


def test_reading_does_not_load_external_weights(tmp_path: Path, no_room_inside: None) -> None:
    model = formats.read(formats.write(linear(), tmp_path / "m.onnx"))
    weight = model.graph.graph.initializers["w"].const_value
    assert isinstance(weight, onnx_ir.ExternalTensor)
    assert weight.raw is None  # the mapping that the check of values made has been let go


def test_the_digest_of_an_artifact_covers_its_external_data(tmp_path: Path, no_room_inside: None) -> None:
    formats.write(linear(), tmp_path / "m.onnx")
    artifact = formats.recognise(str(tmp_path / "m.onnx"))
    before = artifact.digest()
    data = artifact.companions[0]
    content = bytearray(data.read_bytes())
    content[7] ^= 1
    data.write_bytes(content)
    assert formats.recognise(str(tmp_path / "m.onnx")).digest() != before


def test_external_data_is_found_without_parsing_a_file_that_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    formats.write(linear(), tmp_path / "m.onnx")

    def refuse(*_: object) -> None:
        raise AssertionError("the file was parsed")

    monkeypatch.setattr(onnx, "load_model_from_string", refuse)
    assert formats.recognise(str(tmp_path / "m.onnx")).companions == ()


def test_reading_works_from_another_current_directory(
    tmp_path: Path, no_room_inside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    formats.write(linear(), tmp_path / "m.onnx")
    monkeypatch.chdir(tmp_path)
    model = formats.read(formats.recognise("m.onnx"))
    monkeypatch.chdir("/")
    assert model.graph.graph.initializers["w"].const_value.numpy().shape == (64, 32)


def test_overwriting_leaves_one_data_file(tmp_path: Path, no_room_inside: None) -> None:
    first = formats.write(linear(0), tmp_path / "m.onnx")
    second = formats.write(linear(1), tmp_path / "m.onnx")
    assert first.companions != second.companions
    assert sorted(tmp_path.iterdir()) == sorted(second.files)


def test_overwriting_removes_no_stranger_with_a_similar_name(tmp_path: Path, no_room_inside: None) -> None:
    strangers = [tmp_path / "m.onnx.data", tmp_path / "m.onnx.holiday-pictures.data", tmp_path / "other.onnx.data"]
    for stranger in strangers:
        stranger.write_text("mine")
    formats.write(linear(), tmp_path / "m.onnx")
    assert all(stranger.read_text() == "mine" for stranger in strangers)


def test_a_failed_write_leaves_the_old_pair_and_nothing_new(
    tmp_path: Path, no_room_inside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    formats.write(linear(0), tmp_path / "m.onnx")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    replace = Path.replace

    def full_disk(self: Path, target: Path) -> Path:
        if target == tmp_path / "m.onnx":
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OutputError, match="No space left"):
        formats.write(linear(1), tmp_path / "m.onnx")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_small_tensors_stay_inside_so_that_shapes_can_be_inferred(tmp_path: Path, no_room_inside: None) -> None:
    model = linear_proto()
    model.graph.node[0].output[0] = "flat"
    model.graph.node.append(onnx.helper.make_node("Reshape", ["flat", "shape"], ["y"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, 32]), "shape"))
    formats.write(graph.from_bytes(model.SerializeToString()), tmp_path / "m.onnx")
    back = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    outside = {tensor.name for tensor in back.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL}
    assert outside == {"w"}


def test_weights_given_beside_an_onnx_file_are_refused(tmp_path: Path) -> None:
    formats.write(linear(), tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="holds its weights"):
        Onnx().artifact(str(tmp_path / "m.onnx"), tmp_path / "w.safetensors")


def test_an_opset_from_the_future_is_unsupported_and_says_what_to_upgrade(tmp_path: Path) -> None:
    model = linear_proto()
    model.opset_import[0].version = onnx.defs.onnx_opset_version() + 1
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError, match="upgrade"):
        formats.read(formats.recognise(str(tmp_path / "m.onnx")))


@pytest.mark.parametrize(
    "node",
    [
        "y = com.microsoft.FusedMatMul (x, w)",
        "t = ai.onnx.ml.Normalizer <norm = 'L2'> (x)  y = MatMul (t, w)",
        "t = SimplifiedLayerNormalization <axis = -1> (x, s)  y = MatMul (t, w)",
    ],
)
def test_operators_that_onnx_runtime_contributes_are_accepted(tmp_path: Path, node: str) -> None:
    text = LINEAR.replace('["" : 17]', '["" : 17, "com.microsoft" : 1, "ai.onnx.ml" : 3]')
    model = onnx.parser.parse_model(text.replace("y = MatMul(x, w)", node.replace("'", '"')))
    model.graph.initializer.extend(linear_proto().graph.initializer)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(64, np.float32), "s"))
    onnx.save(model, tmp_path / "m.onnx")
    formats.read(formats.recognise(str(tmp_path / "m.onnx")))


def test_an_infinite_mask_is_accepted_and_an_infinite_weight_is_not(tmp_path: Path) -> None:
    masked = onnx.parser.parse_model(LINEAR.replace("y = MatMul(x, w)", "t = MatMul(x, w)  y = Add(t, mask)"))
    masked.graph.initializer.extend(linear_proto().graph.initializer)
    masked.graph.initializer.append(onnx.numpy_helper.from_array(np.full((1, 32), -np.inf, np.float32), "mask"))
    onnx.save(masked, tmp_path / "masked.onnx")
    formats.read(formats.recognise(str(tmp_path / "masked.onnx")))

    broken = linear_proto()
    weight = onnx.numpy_helper.to_array(broken.graph.initializer[0]).copy()
    weight[3, 4] = np.inf
    broken.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(broken, tmp_path / "broken.onnx")
    with pytest.raises(InvalidModel, match="1 weights hold infinity: w"):
        formats.read(formats.recognise(str(tmp_path / "broken.onnx")))


def test_every_real_model_reads(data_dir: Path) -> None:
    paths = sorted(data_dir.rglob("*.onnx"))
    assert len(paths) >= 10
    for path in paths:
        model = formats.read(formats.recognise(str(path)))
        assert model.inputs and model.outputs, path


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads and writes everything")
def test_a_folder_that_is_not_writable_is_an_output_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError):
        formats.write(linear(), tmp_path / "m.onnx")
