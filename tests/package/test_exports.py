"""Exports, judged by those they are for: MLflow, protobuf's text format, a YAML reader, a Python that runs them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import parser

from tests import nets
from tests.package import triton_schema
from tightship import api, engines
from tightship.cli import main
from tightship.core import atomic
from tightship.core.target import Target
from tightship.errors import OutputError, PackageError, SealError, UnsupportedError, UsageError
from tightship.package import keys
from tightship.package.exports import EXPORTS
from tightship.package.exports.interface import batch_name, plain_name
from tightship.package.exports.yaml_text import to_yaml

IMAGE = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)
NAMES = sorted(EXPORTS)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return nets.save(nets.conv_net(), tmp_path)


@pytest.fixture
def package(model: Path, tmp_path: Path) -> Path:
    api.pack([model], tmp_path / "digits.ship", name="Digits net", version="3", licence="Apache-2.0")
    return tmp_path / "digits.ship"


def written(text: str, folder: Path, name: str = "model.onnx") -> Path:
    model = parser.parse_model(text)
    onnx.checker.check_model(model)
    return nets.save(model, folder, name)


def expected(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path)).run(None, {"image": IMAGE})[0]


def run_folder(folder: Path, **arrays: np.ndarray) -> dict[str, np.ndarray]:
    np.savez(folder.parent / "inputs.npz", **arrays)
    words = [sys.executable, str(folder / "run.py"), "inputs.npz", "outputs.npz"]
    subprocess.run(words, cwd=folder.parent, check=True, capture_output=True)
    with np.load(folder.parent / "outputs.npz") as file:
        return dict(file)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", NAMES)
def test_the_model_in_an_export_is_the_one_in_the_package(
    name: str, package: Path, model: Path, tmp_path: Path
) -> None:
    made = api.export(package, name, tmp_path / "out")
    assert sha256(tmp_path / "out" / made.model) == made.model_sha256 == sha256(model)
    assert sorted(made.files) == sorted(
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_model_file_is_exported_as_its_package_would_be(name: str, model: Path, tmp_path: Path) -> None:
    made = api.export(model, name, tmp_path / "out")
    assert sha256(tmp_path / "out" / made.model) == sha256(model)


@pytest.mark.parametrize("name", NAMES)
def test_an_export_is_the_same_every_time_and_replaces_an_earlier_one(name: str, package: Path, tmp_path: Path) -> None:
    for _ in range(2):
        api.export(package, name, tmp_path / "out")
    api.export(package, name, tmp_path / "other")
    first, second = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "out", tmp_path / "other")
    )
    assert first == second


@pytest.mark.parametrize("name", NAMES)
def test_external_data_comes_along(name: str, tmp_path: Path) -> None:
    onnx.save(nets.conv_net(), tmp_path / "net.onnx", save_as_external_data=True, location="net.bin", size_threshold=0)
    api.pack([tmp_path / "net.onnx"], tmp_path / "net.ship")
    made = api.export(tmp_path / "net.ship", name, tmp_path / "out")
    assert np.array_equal(expected(tmp_path / "out" / made.model), expected(tmp_path / "net.onnx"))


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_with_other_files_is_left_as_it_is(name: str, package: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        api.export(package, name, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", NAMES)
def test_an_export_that_fails_leaves_the_earlier_one(
    name: str, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.export(package, name, tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    monkeypatch.setattr("tightship.package.exports.exportable.file_digest", lambda path: "0" * 64)
    with pytest.raises(PackageError, match="not what the manifest says"):
        api.export(package, name, tmp_path / "out")
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".tmp-")]
    assert atomic.sweep(tmp_path) == 0


def test_a_sealed_package_is_exported_with_its_key_alone(model: Path, tmp_path: Path) -> None:
    for name in ("receiver", "stranger"):
        keys.write_pair(keys.new_key("x25519"), tmp_path / name)
    api.pack([model], tmp_path / "sealed.ship", seal_to=[tmp_path / "receiver.pub"])
    with pytest.raises(UsageError, match="is sealed"):
        api.export(tmp_path / "sealed.ship", "dir", tmp_path / "out")
    with pytest.raises(SealError):
        api.export(tmp_path / "sealed.ship", "dir", tmp_path / "out", api.Keys(str(tmp_path / "stranger.key")))
    assert not (tmp_path / "out").exists()
    made = api.export(tmp_path / "sealed.ship", "dir", tmp_path / "out", api.Keys(str(tmp_path / "receiver.key")))
    assert sha256(tmp_path / "out" / made.model) == sha256(model)


def test_mlflow_loads_the_model_and_its_signature(package: Path, tmp_path: Path) -> None:
    models = pytest.importorskip("mlflow.models")
    api.export(package, "mlflow", tmp_path / "out")
    loaded = models.Model.load(str(tmp_path / "out"))
    assert set(loaded.flavors) == {"onnx", "python_function"}
    assert [(spec.name, str(spec.type), spec.shape) for spec in loaded.signature.inputs] == [
        ("image", "float32", (-1, 1, 8, 8))
    ]
    assert [(spec.name, spec.shape) for spec in loaded.signature.outputs] == [("logits", (-1, 4))]


def test_mlflow_predicts_what_the_model_computes(package: Path, model: Path, tmp_path: Path) -> None:
    pyfunc = pytest.importorskip("mlflow.pyfunc")
    pytest.importorskip("pandas")
    api.export(package, "mlflow", tmp_path / "out")
    found = pyfunc.load_model(str(tmp_path / "out")).predict({"image": IMAGE})
    np.testing.assert_array_equal(found["logits"], expected(model))
    with pytest.raises(Exception, match="schema"):
        pyfunc.load_model(str(tmp_path / "out")).predict({"picture": IMAGE})


def test_a_model_with_a_file_called_as_one_of_mlflow_is_refused(tmp_path: Path) -> None:
    onnx.save(nets.conv_net(), tmp_path / "net.onnx", save_as_external_data=True, location="MLmodel", size_threshold=0)
    with pytest.raises(UnsupportedError, match="MLmodel"):
        api.export(tmp_path / "net.onnx", "mlflow", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_triton_reads_names_types_and_shapes(package: Path, tmp_path: Path) -> None:
    api.export(package, "triton", tmp_path / "out", options={"max_batch": 16})
    config = triton_schema.parse((tmp_path / "out" / "digits-net" / "config.pbtxt").read_text())
    assert (config.name, config.backend, config.platform) == ("digits-net", "onnxruntime", "onnxruntime_onnx")
    assert config.max_batch_size == 16 and config.default_model_filename == "model.onnx"
    assert [(entry.name, entry.data_type, list(entry.dims)) for entry in config.input] == [
        ("image", triton_schema.TYPES.index("TYPE_FP32"), [1, 8, 8])
    ]
    assert [(entry.name, list(entry.dims)) for entry in config.output] == [("logits", [4])]


def test_without_a_common_free_first_axis_there_is_no_batch_in_triton(tmp_path: Path) -> None:
    path = written(
        """<ir_version: 9, opset_import: ["" : 17]>
        net (float[N, 3] x, int64[2] index) => (float[N, 3] y, float[2, 3] z, float s) {
            y = Relu (x)
            z = Gather <axis = 0> (x, index)
            s = ReduceSum <keepdims = 0> (x)
        }""",
        tmp_path,
    )
    api.export(path, "triton", tmp_path / "out")
    config = triton_schema.parse((tmp_path / "out" / "model" / "config.pbtxt").read_text())
    assert config.max_batch_size == 0
    assert [list(entry.dims) for entry in (*config.input, *config.output)] == [[-1, 3], [2], [-1, 3], [2, 3], [1]]
    assert config.output[2].HasField("reshape") and list(config.output[2].reshape.shape) == []


@pytest.mark.parametrize(
    ("onnx_type", "triton_type"),
    [
        ("bool", "TYPE_BOOL"),
        ("uint8", "TYPE_UINT8"),
        ("uint16", "TYPE_UINT16"),
        ("uint32", "TYPE_UINT32"),
        ("uint64", "TYPE_UINT64"),
        ("int8", "TYPE_INT8"),
        ("int16", "TYPE_INT16"),
        ("int32", "TYPE_INT32"),
        ("int64", "TYPE_INT64"),
        ("float16", "TYPE_FP16"),
        ("float", "TYPE_FP32"),
        ("double", "TYPE_FP64"),
        ("bfloat16", "TYPE_BF16"),
        ("string", "TYPE_STRING"),
    ],
)
def test_every_type_has_its_name_in_triton(onnx_type: str, triton_type: str, tmp_path: Path) -> None:
    path = written(
        f"""<ir_version: 9, opset_import: ["" : 17]>
        net ({onnx_type}[N, 2] x) => ({onnx_type}[N, 2] y) {{ y = Identity (x) }}""",
        tmp_path,
    )
    api.export(path, "triton", tmp_path / "out")
    config = triton_schema.parse((tmp_path / "out" / "model" / "config.pbtxt").read_text())
    assert config.input[0].data_type == triton_schema.TYPES.index(triton_type)


@pytest.mark.parametrize("name", ["triton", "mlflow"])
def test_a_type_that_the_other_tool_has_no_word_for_is_refused(name: str, tmp_path: Path) -> None:
    path = written(
        """<ir_version: 10, opset_import: ["" : 21]>
        net (float8e4m3fn[N, 2] x) => (float8e4m3fn[N, 2] y) { y = Identity (x) }""",
        tmp_path,
    )
    with pytest.raises(UnsupportedError, match="float8_e4m3fn"):
        api.export(path, name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_kserve_gets_an_inference_service_of_protocol_2(package: Path, model: Path, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    api.export(package, "kserve", tmp_path / "out", options={"storage_uri": "gs://models/digits"})
    found = yaml.safe_load((tmp_path / "out" / "inferenceservice.yaml").read_text())
    assert found == {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "digits-net", "annotations": {"tightship/model-sha256": sha256(model)}},
        "spec": {
            "predictor": {
                "model": {
                    "modelFormat": {"name": "triton", "version": "2"},
                    "protocolVersion": "v2",
                    "runtime": "kserve-tritonserver",
                    "storageUri": "gs://models/digits",
                }
            }
        },
    }
    triton_schema.parse((tmp_path / "out" / "model-repository" / "digits-net" / "config.pbtxt").read_text())


def test_the_plain_folder_runs_by_itself(package: Path, model: Path, tmp_path: Path) -> None:
    api.export(package, "dir", tmp_path / "out")
    np.testing.assert_array_equal(run_folder(tmp_path / "out", image=IMAGE)["logits"], expected(model))
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "# Digits net, version 3" in readme and "Apache-2.0" in readme and sha256(model) in readme
    copied = [line for line in (tmp_path / "out" / "Dockerfile").read_text().splitlines() if line.startswith("COPY")]
    assert copied == ["COPY requirements.txt .", "COPY . ."]
    assert f"onnxruntime=={onnxruntime.__version__}" in (tmp_path / "out" / "requirements.txt").read_text()


def test_the_plain_folder_runs_openvino_models(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    api.convert(model, tmp_path / "net.xml")
    api.export(tmp_path / "net.xml", "dir", tmp_path / "out")
    # One rounding of each convolution apart: OpenVINO sums in another order.
    np.testing.assert_allclose(run_folder(tmp_path / "out", image=IMAGE)["logits"], expected(model), 1e-5, 1e-5)


def test_the_plain_folder_runs_exported_programs_with_keywords_and_named_outputs(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def forward(self, image: Any, *, scale: Any) -> dict[str, Any]:
            return {"scaled": image * scale, "sum": image.sum(dim=(1, 2, 3))}

    scale = torch.tensor([2.0])
    torch.export.save(torch.export.export(Net(), (torch.from_numpy(IMAGE),), {"scale": scale}), tmp_path / "net.pt2")
    api.export(tmp_path / "net.pt2", "dir", tmp_path / "out")
    found = run_folder(tmp_path / "out", image=IMAGE, scale=scale.numpy())
    np.testing.assert_array_equal(found["scaled"], IMAGE * 2)
    np.testing.assert_allclose(found["sum"], IMAGE.sum((1, 2, 3)), rtol=1e-6)  # 64 terms of float32


def test_the_plain_folder_runs_tflite_models(data_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    path = data_dir / "tflite_micro" / "hello_world_float.tflite"
    api.export(path, "dir", tmp_path / "out")
    with engines.open_session(path, Target("litert")) as session:
        (spec,) = session.inputs
        x = np.full(spec.resolve(), 1.0, np.float32)
        (wanted,) = session.run({spec.name: x}).values()
    (found,) = run_folder(tmp_path / "out", **{spec.name: x}).values()
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_openvino_models_are_exported_to_triton(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    api.convert(model, tmp_path / "net.xml")
    made = api.export(tmp_path / "net.xml", "triton", tmp_path / "out")
    assert set(made.files) == {"net/config.pbtxt", "net/1/net.xml", "net/1/net.bin"}
    assert triton_schema.parse((tmp_path / "out" / "net" / "config.pbtxt").read_text()).backend == "openvino"


NAUGHTY = (
    'a"b',
    "a'b",
    "a: b",
    "- x",
    "#",
    "{{x}}",
    "line\nbreak",
    "tab\t",
    "\\",
    "é",
    "\u2028",
    "\U000e0001",
    "\x1b[2J",
)


@pytest.mark.parametrize("name", NAUGHTY)
def test_any_name_of_an_input_survives_the_way_through_every_export(name: str, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    proto = parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17]> net (float[N] x) => (float[N] y) { y = Relu (x) }'
    )
    proto.graph.input[0].name = proto.graph.node[0].input[0] = name
    path = nets.save(proto, tmp_path)
    api.export(path, "triton", tmp_path / "triton")
    config = triton_schema.parse((tmp_path / "triton" / "model" / "config.pbtxt").read_text())
    assert config.input[0].name == name
    api.export(path, "mlflow", tmp_path / "mlflow")
    signature = yaml.safe_load((tmp_path / "mlflow" / "MLmodel").read_text())["signature"]
    assert json.loads(signature["inputs"])[0]["name"] == name
    api.export(path, "dir", tmp_path / "dir")
    scope: dict[str, Any] = {}
    script = (tmp_path / "dir" / "run.py").read_text()
    exec(compile("\n".join(line for line in script.splitlines() if line.startswith("INPUTS")), "x", "exec"), scope)
    assert scope["INPUTS"] == [name]
    assert (tmp_path / "dir" / "README.md").read_text().replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "text", [*NAUGHTY, "yes", "null", "1.5", "", " ", "~", "!!python/object:os.system", "&a", "*a"]
)
def test_any_text_survives_the_way_through_yaml(text: str) -> None:
    yaml = pytest.importorskip("yaml")
    value = {
        "key": text,
        text: {text: [text, {text: text, "list": [text]}, [], {}]},
        "null": None,
        "size": 7,
        "on": True,
    }
    assert yaml.safe_load(to_yaml(value)) == value


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("Digits net", "digits-net"),
        ("../../etc", "etc"),
        ("7b", "model-7b"),
        ("", "model"),
        ("x" * 100, "x" * 63),
        ("ResNet_50.v2", "resnet-50-v2"),
    ],
)
def test_names_become_labels_that_kubernetes_allows(name: str, plain: str) -> None:
    assert plain_name(name) == plain


def test_an_axis_is_the_batch_where_all_share_it() -> None:
    from tightship.core.specs import TensorSpec

    def spec(*shape: int | str) -> TensorSpec:
        return TensorSpec("x", "float32", shape)

    assert batch_name([spec("N", 3)], [spec("N")]) == "N"
    assert batch_name([spec("?", 3)], [spec("N")]) == "N"
    assert batch_name([spec("N", 3)], [spec("M")]) is None
    assert batch_name([spec("N", 3)], [spec(1)]) is None
    assert batch_name([spec("N", 3)], [spec()]) is None


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["{package}", "--format", "trition"], 2, "did you mean 'triton'"),
        (["{package}", "--format", "dir", "--max-batch", "4"], 2, "has no option max_batch"),
        (["{package}", "--format", "triton", "--max-batch", "-1"], 2, "zero (no batching) or more"),
        (["{package}", "--format", "kserve", "--storage-uri", "here"], 2, "is no URI"),
        (["{package}", "--format", "dir", "--artifact", "onix"], 2, "did you mean 'onnx'"),
        (["{model}", "--format", "dir", "--artifact", "onnx"], 2, "is one model"),
        (["absent.ship", "--format", "dir"], 11, "absent.ship"),
        (["absent.onnx", "--format", "dir"], 3, "absent.onnx"),
        (["{script}", "--format", "dir"], 5, "naming its function"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(
    words: list[str], code: int, message: str, package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text("def net(): ...")
    given = [word.format(package=package, model=tmp_path / "model.onnx", script=tmp_path / "net.py") for word in words]
    assert main(["export", *given, "-o", str(tmp_path / "out")]) == code
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_format_that_is_not_taken_is_told_with_what_to_do(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    api.convert(model, tmp_path / "net.xml")
    with pytest.raises(UnsupportedError, match="takes onnx, found openvino-ir; convert first"):
        api.export(tmp_path / "net.xml", "mlflow", tmp_path / "out")


def test_the_command_names_what_it_has_written(
    package: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(package), "--format", "mlflow", "-o", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "MLmodel" in out and f"sha256:{sha256(model)}" in out
    assert main(["export", str(package), "--format", "mlflow", "-o", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model_sha256"] == sha256(model)
