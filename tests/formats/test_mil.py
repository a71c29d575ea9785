"""ML programs read into graphs: types, shapes, images, weights, and what damaged or foreign packages get."""

from __future__ import annotations

import gc
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools")
pytest.importorskip("torch")

import coremltools
import torch
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from coremltools.proto import Model_pb2

from tests.formats.mil_running import Case, read_back, run, saved
from tightship.core.specs import TensorSpec
from tightship.errors import InvalidModel, TightshipError, UnsupportedError, UnsupportedOperators
from tightship.formats.coreml_package import open_package

MESSAGE = Path("Data", "com.apple.CoreML", "model.mlmodel")
WEIGHTS = Path("Data", "com.apple.CoreML", "weights", "weight.bin")
W = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
X = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def quick_collection() -> Iterator[None]:
    """coremltools collects garbage at every conversion; what is loaded already need not be looked through."""
    gc.freeze()
    yield
    gc.unfreeze()


def program(x: Any) -> Any:
    return mb.relu(x=mb.conv(x=x, weight=W, name="convolution"), name="out")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(Case("conv", program, {"x": X}), tmp_path_factory.mktemp("mil"))


@pytest.fixture
def package(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "net.mlpackage"))


def converted(function: Any, folder: Path, **options: Any) -> Path:
    settings = {"minimum_deployment_target": coremltools.target.iOS16, "skip_model_load": True, **options}
    made = coremltools.convert(function, convert_to="mlprogram", **settings)
    made.save(str(folder / "made.mlpackage"))
    return folder / "made.mlpackage"


def expected(x: np.ndarray) -> np.ndarray:
    found: np.ndarray = torch.nn.functional.conv2d(torch.from_numpy(x), torch.from_numpy(W)).relu().numpy()
    return found


def test_names_shapes_and_types_are_those_of_the_program(whole: Path) -> None:
    model = read_back(whole)
    assert model.form == "graph"
    assert model.inputs == (TensorSpec("x", "float32", (1, 3, 8, 8)),)
    assert model.outputs == (TensorSpec("out", "float32", (1, 4, 6, 6)),)


def test_half_precision_keeps_the_types_of_inputs_and_outputs_and_the_values_of_weights(tmp_path: Path) -> None:
    made = mb.program(input_specs=[mb.TensorSpec(X.shape, dtype=types.fp16)], opset_version=coremltools.target.iOS16)(
        lambda x: mb.conv(x=x, weight=W.astype(np.float16), name="out")
    )
    model = read_back(converted(made, tmp_path, compute_precision=coremltools.precision.FLOAT16))
    assert [spec.dtype for spec in (*model.inputs, *model.outputs)] == ["float16", "float16"]
    (found,) = run(model, {"x": X.astype(np.float16)})
    rounded = torch.from_numpy(X.astype(np.float16).astype(np.float32))
    weight = torch.from_numpy(W.astype(np.float16).astype(np.float32))
    wanted = torch.nn.functional.conv2d(rounded, weight).numpy()
    np.testing.assert_allclose(found, wanted, rtol=2**-10)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.dense = torch.nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        return self.dense(self.conv(x).relu().mean((2, 3))).softmax(-1)


def traced() -> tuple[Any, Any]:
    torch.manual_seed(0)
    net = Net().eval()
    return net, torch.jit.trace(net, torch.from_numpy(X))


@pytest.mark.parametrize("shape", ["range", "enumerated"])
def test_free_axes_become_symbols_and_any_length_runs(shape: str, tmp_path: Path) -> None:
    net, script = traced()
    free = (
        coremltools.Shape((coremltools.RangeDim(1, 8), 3, coremltools.RangeDim(6, 32), 8))
        if shape == "range"
        else coremltools.EnumeratedShapes([[1, 3, 8, 8], [2, 3, 12, 8]])
    )
    inputs = [coremltools.TensorType(name="x", shape=free)]
    path = converted(script, tmp_path, inputs=inputs, compute_precision=coremltools.precision.FLOAT32)
    model = read_back(path)
    batch, channels, height, width = model.inputs[0].shape
    assert (batch, channels, width) == ("batch", 3, 8)
    assert isinstance(height, str)
    values = np.random.default_rng(2).standard_normal((2, 3, 12, 8)).astype(np.float32)
    np.testing.assert_allclose(run(model, {"x": values})[0], net(torch.from_numpy(values)).detach(), atol=1e-6)


def test_an_image_becomes_a_tensor_and_its_scale_is_in_the_graph(tmp_path: Path) -> None:
    net, script = traced()
    image = coremltools.ImageType(name="x", shape=X.shape, scale=1 / 255, bias=[-0.5, -0.4, -0.3])
    path = converted(script, tmp_path, inputs=[image], compute_precision=coremltools.precision.FLOAT32)
    model = read_back(path)
    pixels = np.random.default_rng(2).integers(0, 256, X.shape).astype(np.float32)
    scaled = torch.from_numpy(pixels) / 255 - torch.tensor([0.5, 0.4, 0.3])[:, None, None]
    np.testing.assert_allclose(run(model, {"x": pixels})[0], net(scaled).detach(), atol=1e-6)


def test_a_classifier_gives_its_label_and_its_probabilities(tmp_path: Path) -> None:
    net, script = traced()
    path = converted(
        script,
        tmp_path,
        inputs=[coremltools.TensorType(name="x", shape=X.shape)],
        classifier_config=coremltools.ClassifierConfig(["cat", "dog", "owl"]),
        compute_precision=coremltools.precision.FLOAT32,
    )
    label, probabilities = run(read_back(path), {"x": X})
    wanted = net(torch.from_numpy(X)).detach().numpy()[0]
    assert label == ["cat", "dog", "owl"][wanted.argmax()]
    np.testing.assert_allclose(probabilities, wanted, atol=1e-6)


def compressions() -> dict[str, Any]:
    from coremltools.optimize import coreml as opt

    return {
        **{
            f"{bits} bits": (
                opt.palettize_weights,
                opt.OpPalettizerConfig(mode="uniform", nbits=bits, weight_threshold=0),
            )
            for bits in (8, 4, 2)
        },
        "int8": (opt.linear_quantize_weights, opt.OpLinearQuantizerConfig(weight_threshold=0)),
        "pruned": (opt.prune_weights, opt.OpMagnitudePrunerConfig(target_sparsity=0.5, weight_threshold=0)),
    }


@pytest.mark.parametrize("kind", ["8 bits", "4 bits", "2 bits", "int8", "pruned"])
def test_compressed_weights_are_what_coremltools_makes_of_them(kind: str, whole: Path, tmp_path: Path) -> None:
    from coremltools.optimize import coreml as opt

    package = converted(traced()[1], tmp_path, inputs=[coremltools.TensorType(name="x", shape=X.shape)])
    function, config = compressions()[kind]
    small = function(coremltools.models.MLModel(str(package), skip_model_load=True), opt.OptimizationConfig(config))
    small.save(str(tmp_path / "small.mlpackage"))
    opt.decompress_weights(small).save(str(tmp_path / "plain.mlpackage"))
    kinds = operations(tmp_path / "small.mlpackage") - operations(tmp_path / "plain.mlpackage")
    assert any(name.startswith("constexpr_") for name in kinds)
    found, wanted = (run(read_back(tmp_path / f"{name}.mlpackage"), {"x": X})[0] for name in ("small", "plain"))
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("per", ["block", "grouped table"])
def test_weights_of_four_bits_in_blocks_are_what_coremltools_makes_of_them(per: str, tmp_path: Path) -> None:
    from coremltools.optimize import coreml as opt

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 8)).eval()
    example = torch.randn(2, 64)
    package = converted(
        torch.jit.trace(net, example),
        tmp_path,
        inputs=[coremltools.TensorType(name="x", shape=example.shape)],
        minimum_deployment_target=coremltools.target.iOS18,
    )
    loaded = coremltools.models.MLModel(str(package), skip_model_load=True)
    if per == "block":
        config = opt.OpLinearQuantizerConfig(dtype="int4", granularity="per_block", block_size=16, weight_threshold=0)
        small = opt.linear_quantize_weights(loaded, opt.OptimizationConfig(config))
    else:
        config = opt.OpPalettizerConfig(
            mode="uniform", nbits=4, granularity="per_grouped_channel", group_size=8, weight_threshold=0
        )
        small = opt.palettize_weights(loaded, opt.OptimizationConfig(config))
    small.save(str(tmp_path / "small.mlpackage"))
    opt.decompress_weights(small).save(str(tmp_path / "plain.mlpackage"))
    feeds = {"x": example.numpy()}
    found, wanted = (run(read_back(tmp_path / f"{name}.mlpackage"), feeds)[0] for name in ("small", "plain"))
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)


def operations(path: Path) -> set[str]:
    function = spec_of(path).mlProgram.functions["main"]
    return {operation.type for operation in function.block_specializations[function.opset].operations}


def spec_of(path: Path) -> Any:
    return Model_pb2.Model.FromString((path / MESSAGE).read_bytes())


def edited(path: Path, edit: Any) -> Path:
    spec = spec_of(path)
    function = spec.mlProgram.functions["main"]
    edit(function, function.block_specializations[function.opset])
    (path / MESSAGE).write_bytes(spec.SerializeToString())
    return path


def test_a_program_without_a_package_is_read_from_a_single_file(tmp_path: Path) -> None:
    path = saved(Case("relu", lambda x: mb.relu(x=x), {"x": X}), tmp_path)
    (tmp_path / "net.mlmodel").write_bytes((path / MESSAGE).read_bytes())
    np.testing.assert_array_equal(run(read_back(tmp_path / "net.mlmodel"), {"x": X})[0], np.maximum(X, 0))


def test_the_weights_are_those_that_coremltools_own_loader_reads(whole: Path) -> None:
    from coremltools.converters.mil.frontend.milproto import load

    package = coremltools.models.MLModel(str(whole), skip_model_load=True)
    spec = package.get_spec()
    theirs = load.load(spec, spec.specificationVersion, package.weights_dir).functions["main"]
    (convolution,) = theirs.find_ops(op_type="conv")
    (weight,) = (value for value in read_back(whole).graph.graph.initializers.values() if value.shape.rank() == 4)
    np.testing.assert_array_equal(weight.const_value.numpy(), convolution.weight.val)


def test_operators_without_a_counterpart_are_listed_all_at_once(package: Path) -> None:
    def rename(function: Any, block: Any) -> None:
        for operation in block.operations:
            operation.type = {"conv": "frobnicate", "relu": "custom_layer"}.get(operation.type, operation.type)

    with pytest.raises(UnsupportedOperators, match=r"net\.mlpackage: .* 1 operator") as caught:
        read_back(edited(package, rename))
    assert "frobnicate (convolution): no entry in the table" in str(caught.value)


def test_an_input_that_no_version_of_an_operator_has_is_named(package: Path) -> None:
    def add(function: Any, block: Any) -> None:
        block.operations[-1].inputs["sharpness"].CopyFrom(block.operations[-1].inputs["x"])

    with pytest.raises(UnsupportedOperators, match=r"relu \(out\): its input sharpness is not known"):
        read_back(edited(package, add))


def test_a_state_is_refused_with_what_to_do(tmp_path: Path) -> None:
    @mb.program(
        input_specs=[mb.TensorSpec((2, 3)), mb.StateTensorSpec((2, 3), dtype=types.fp16)],
        opset_version=coremltools.target.iOS18,
    )
    def stateful(x: Any, memory: Any) -> Any:
        value = mb.read_state(input=memory)
        mb.coreml_update_state(state=memory, value=mb.add(x=value, y=np.float16(1)))
        return mb.add(x=x, y=mb.cast(x=value, dtype="fp32"))

    path = converted(stateful, tmp_path, minimum_deployment_target=coremltools.target.iOS18)
    with pytest.raises(UnsupportedError, match=r"keeps a state between runs \(memory\).* as an input and an output"):
        read_back(path)


def test_weights_that_are_cut_short_are_refused(package: Path) -> None:
    data = (package / WEIGHTS).read_bytes()
    for length in (0, 10, 64, 100, 130, len(data) // 2, len(data) - 1):
        (package / WEIGHTS).write_bytes(data[:length])
        with pytest.raises(InvalidModel, match=r"net\.mlpackage: .*weight\.bin"):
            read_back(package)


@pytest.mark.parametrize("offset", [1, 65, 2**31, 2**63, 2**64 - 1])
def test_an_offset_of_a_weight_that_leads_nowhere_is_refused(package: Path, offset: int) -> None:
    def move(function: Any, block: Any) -> None:
        for operation in block.operations:
            if "val" in operation.attributes and operation.attributes["val"].HasField("blobFileValue"):
                operation.attributes["val"].blobFileValue.offset = offset

    with pytest.raises(InvalidModel, match=r"net\.mlpackage: .*weight\.bin: the weight at"):
        read_back(edited(package, move))


def test_a_weight_that_says_it_is_larger_than_the_file_is_refused(package: Path) -> None:
    data = bytearray((package / WEIGHTS).read_bytes())
    for place in (72, 80):  # the size and the place of the data, in the description behind the header
        broken = data[:]
        broken[place : place + 8] = (2**63).to_bytes(8, "little")
        (package / WEIGHTS).write_bytes(broken)
        with pytest.raises(InvalidModel, match=r"ends at .* the file is cut short"):
            read_back(package)


def test_weights_that_are_not_there_or_lead_elsewhere_are_refused(package: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "weight.bin"
    (package / WEIGHTS).rename(elsewhere)
    with pytest.raises(InvalidModel, match=r"keeps weights in weight\.bin, which the package does not hold"):
        read_back(package)
    (package / WEIGHTS).symlink_to(elsewhere)
    with pytest.raises(InvalidModel, match="which the package does not hold"):
        read_back(package)


def test_a_constant_that_says_it_is_huge_takes_no_memory(package: Path) -> None:
    def grow(function: Any, block: Any) -> None:
        for operation in block.operations:
            if operation.type == "const" and operation.attributes["val"].HasField("blobFileValue"):
                operation.attributes["val"].type.tensorType.dimensions[0].constant.size = 2**50

    with pytest.raises(InvalidModel, match=r"expected \d+ elements .* found 108"):
        read_back(edited(package, grow))


def test_a_program_that_reads_what_nothing_computes_is_refused(package: Path) -> None:
    def rename(function: Any, block: Any) -> None:
        block.operations[-1].inputs["x"].arguments[0].name = "ghost"

    with pytest.raises(InvalidModel, match=r"reads 'ghost', which nothing before it computes"):
        read_back(edited(package, rename))


def test_operands_that_an_operator_cannot_have_are_refused(package: Path) -> None:
    def shorten(function: Any, block: Any) -> None:
        del block.operations[-1].inputs["x"]

    with pytest.raises(InvalidModel, match=r"operation out \(relu\): its input x is missing"):
        read_back(edited(package, shorten))


@pytest.mark.parametrize("length", [0, 1, 20, 100, 300])
def test_a_message_that_is_cut_short_is_refused(package: Path, length: int) -> None:
    (package / MESSAGE).write_bytes((package / MESSAGE).read_bytes()[:length])
    with pytest.raises(InvalidModel, match=r"net\.mlpackage"):
        read_back(package)


def test_changed_bytes_never_get_more_than_a_typed_error(package: Path) -> None:
    data, rng = (package / MESSAGE).read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            broken[place] = rng.integers(0, 256)
        (package / MESSAGE).write_bytes(broken)
        try:
            read_back(package)
        except TightshipError as error:
            assert "net.mlpackage" in str(error)


@pytest.mark.parametrize("path", ["../../../../etc/passwd", "/etc/passwd", "com.apple.CoreML/../../../net"])
def test_a_manifest_that_leads_out_of_the_package_is_refused(package: Path, path: str) -> None:
    manifest = json.loads((package / "Manifest.json").read_text())
    manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = path
    (package / "Manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InvalidModel, match=re.escape(f"names {path!r}, which lies outside the package")):
        open_package(package)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rootModelIdentifier": 3}', '{"itemInfoEntries": []}', "[" * 9999])
def test_a_manifest_that_names_nothing_is_refused(package: Path, text: str) -> None:
    (package / "Manifest.json").write_text(text)
    with pytest.raises(InvalidModel, match=r"Manifest\.json does not name the model's file"):
        open_package(package)


def test_a_folder_without_a_manifest_is_refused(package: Path) -> None:
    (package / "Manifest.json").unlink()
    with pytest.raises(InvalidModel, match="this is no Core ML package"):
        open_package(package)


def test_other_kinds_of_models_are_refused_by_their_kind(package: Path) -> None:
    spec = Model_pb2.Model(specificationVersion=1)
    spec.treeEnsembleRegressor.SetInParent()
    (package / MESSAGE).write_bytes(spec.SerializeToString())
    with pytest.raises(UnsupportedError, match=r"of the kind treeEnsembleRegressor; ML programs and neural networks"):
        read_back(package)
