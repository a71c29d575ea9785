"""Core ML packages: written whole, read back as the program that was meant, or not there at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tightship import formats
from tightship.core import extras, graph
from tightship.core.model import Model
from tightship.core.torch_module import from_torch
from tightship.errors import MissingExtra, OutputError, UnsupportedError, UnsupportedOperators, UsageError
from tightship.formats.coreml import CoreMl

torch = pytest.importorskip("torch")
coremltools = pytest.importorskip("coremltools")
nn = torch.nn

FLOAT32 = 65568
"""coremltools.proto.FeatureTypes_pb2.ArrayFeatureType.FLOAT32."""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, image: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.norm(self.conv(image)).relu().mean((2, 3))
        return {"scaled": features * scale, "features": features}


class Recurrent(nn.Module):
    """coremltools knows no LSTM from torch.export, and is given its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0][:, -1]


class Exotic(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svdvals(x) + torch.special.bessel_j0(x).sum()


def net() -> Model:
    torch.manual_seed(0)
    return from_torch(Net().eval(), (torch.randn(1, 3, 8, 8), torch.randn(1, 1)))


def spec_of(path: Path) -> Any:
    return coremltools.models.MLModel(str(path), skip_model_load=True).get_spec()


def program_of(path: Path) -> Any:
    from coremltools.converters.mil.frontend.milproto import load

    package = coremltools.models.MLModel(str(path), skip_model_load=True)
    spec = package.get_spec()
    return load.load(spec, spec.specificationVersion, package.weights_dir).functions["main"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return formats.write(net(), tmp_path_factory.mktemp("coreml") / "net.mlpackage").path


def test_names_shapes_and_types_of_inputs_and_outputs_are_kept(written: Path) -> None:
    spec = spec_of(written)
    assert [entry.name for entry in spec.description.input] == ["image", "scale"]
    assert [entry.name for entry in spec.description.output] == ["scaled", "features"]
    assert [list(entry.type.multiArrayType.shape) for entry in spec.description.input] == [[1, 3, 8, 8], [1, 1]]
    entries = [*spec.description.input, *spec.description.output]
    assert {entry.type.multiArrayType.dataType for entry in entries} == {FLOAT32}


def test_the_program_is_for_ios_16_and_newer(written: Path) -> None:
    assert spec_of(written).specificationVersion == coremltools.target.iOS16.value


def test_the_weights_in_the_package_are_those_of_the_module(written: Path) -> None:
    """The batch norm is folded into the convolution: its weights are scaled per channel, computed here by hand."""
    module = net().content.module
    scale = (module.norm.weight / torch.sqrt(module.norm.running_var + module.norm.eps)).detach()
    expected = (module.conv.weight.detach() * scale[:, None, None, None]).numpy()
    (convolution,) = program_of(written).find_ops(op_type="conv")
    np.testing.assert_allclose(convolution.weight.val, expected, rtol=1e-6)


def test_float16_halves_the_weights(written: Path, tmp_path: Path) -> None:
    other = CoreMl("float16").write(net(), tmp_path / "net.mlpackage").path
    (convolution,) = program_of(other).find_ops(op_type="conv")
    assert convolution.weight.val.dtype == np.float16
    (kept,) = program_of(written).find_ops(op_type="conv")
    assert kept.weight.val.dtype == np.float32
    np.testing.assert_allclose(convolution.weight.val, kept.weight.val, rtol=2**-10)


def test_the_folder_holds_the_package_and_nothing_else(written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == ["Data", "Manifest.json"]
    assert [path.name for path in written.parent.iterdir()] == ["net.mlpackage"]


def test_a_recurrent_module_is_taken_apart_only_where_it_must(tmp_path: Path) -> None:
    model = from_torch(Recurrent().eval(), (torch.randn(1, 2, 4),))
    program = program_of(formats.write(model, tmp_path / "net.mlpackage").path)
    assert len(program.find_ops(op_type="linear")) >= 2


def test_pooling_without_strides_moves_by_its_window(tmp_path: Path) -> None:
    model = from_torch(nn.MaxPool2d(2).eval(), (torch.randn(1, 3, 8, 8),))
    CoreMl().write(model, tmp_path / "pool.mlpackage")
    (output,) = spec_of(tmp_path / "pool.mlpackage").description.output
    assert list(output.type.multiArrayType.shape) == [1, 3, 4, 4]


def test_operators_without_a_counterpart_are_listed_at_once_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOperators, match=r"2 operators: aten\._linalg_svd\.default, aten\.special_bessel_j0"):
        formats.write(from_torch(Exotic().eval(), (torch.ones(1, 3, 3),)), tmp_path / "net.mlpackage")
    assert list(tmp_path.iterdir()) == []


def test_inputs_that_core_ml_has_no_type_for_are_named(tmp_path: Path) -> None:
    class Mask(nn.Module):
        def forward(self, mask: torch.Tensor) -> torch.Tensor:
            return mask.float()

    with pytest.raises(UnsupportedError, match=r"found input mask: bool"):
        formats.write(from_torch(Mask().eval(), (torch.ones(1, 3, dtype=torch.bool),)), tmp_path / "net.mlpackage")


def test_a_package_takes_the_place_of_an_older_one_but_not_of_another_folder(tmp_path: Path) -> None:
    model = from_torch(nn.Linear(3, 2).eval(), (torch.ones(1, 3),))
    (tmp_path / "net.mlpackage" / "Data").mkdir(parents=True)
    formats.write(model, tmp_path / "net.mlpackage")
    assert (tmp_path / "net.mlpackage" / "Manifest.json").is_file()
    (tmp_path / "net.mlpackage" / "notes.txt").touch()
    with pytest.raises(OutputError, match=r"files that are not ours: notes\.txt"):
        formats.write(model, tmp_path / "net.mlpackage")
    assert (tmp_path / "net.mlpackage" / "notes.txt").is_file()


@pytest.mark.parametrize(("precision", "rtol"), [("float32", 1e-5), ("float16", 2e-3)])
def test_what_is_written_reads_back_and_computes_the_same(precision: Any, rtol: float, tmp_path: Path) -> None:
    """In half precision the weights are rounded, 2**-11 each, and everything else is computed in single."""
    model = net()
    CoreMl(precision).write(model, tmp_path / "net.mlpackage")
    again = formats.read(formats.recognise(str(tmp_path / "net.mlpackage")))
    assert again.form == "graph"
    assert [spec.name for spec in again.inputs] == ["image", "scale"]
    assert {spec.dtype for spec in (*again.inputs, *again.outputs)} == {"float32"}
    tensors = model.content.example_inputs
    feeds = {spec.name: tensor.numpy() for spec, tensor in zip(model.inputs, tensors, strict=True)}
    session = onnxruntime.InferenceSession(graph.to_bytes(again), providers=["CPUExecutionProvider"])
    wanted = model.content.module(*tensors)
    for name, found in zip(("scaled", "features"), session.run(["scaled", "features"], feeds), strict=True):
        np.testing.assert_allclose(found, wanted[name].detach().numpy(), rtol=rtol, atol=rtol)


def wide_net() -> Model:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten(), nn.Linear(512, 10))
    return from_torch(layers.eval(), (torch.randn(1, 3, 8, 8),))


@pytest.mark.parametrize(
    ("precision", "share", "error"),
    [("int8", 0.66, 0.02), ("palette8", 0.68, 0.03), ("palette6", 0.55, 0.08), ("palette4", 0.44, 0.3)],
)
def test_compressed_weights_read_back_as_near_as_their_bits_allow(
    precision: Any, share: float, error: float, tmp_path: Path
) -> None:
    """Sizes as a share of float16's; errors are twice those of rounding 14,000 random weights so (0.9 to 15 %)."""
    model = wide_net()
    whole = CoreMl("float16").write(model, tmp_path / "whole.mlpackage")
    package = CoreMl(precision).write(model, tmp_path / "net.mlpackage")
    assert package.size_bytes < share * whole.size_bytes
    (tensor,) = model.content.example_inputs
    session = onnxruntime.InferenceSession(graph.to_bytes(formats.read(package)), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {model.inputs[0].name: tensor.numpy()})
    wanted = model.content.module(tensor).detach().numpy()
    assert np.linalg.norm(found - wanted) < error * np.linalg.norm(wanted)


@pytest.mark.parametrize(("bits", "precision"), [(4, "palette4"), (2, "palette2")])
def test_a_palette_gives_a_weight_no_more_values_than_its_bits_count(bits: int, precision: Any, tmp_path: Path) -> None:
    again = formats.read(CoreMl(precision).write(wide_net(), tmp_path / "net.mlpackage"))
    weights = [value.const_value.numpy() for value in again.graph.graph.initializers.values()]
    large = [weight for weight in weights if weight.size in (32 * 32 * 9, 512 * 10)]
    assert len(large) == 2
    assert all(1 < len(np.unique(weight)) <= 2**bits for weight in large)


def test_where_no_weight_is_large_enough_to_compress_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="1024 elements or more to write as palette4, found none; write float16"):
        CoreMl("palette4").write(net(), tmp_path / "net.mlpackage")
    assert not (tmp_path / "net.mlpackage").exists()


def test_a_recurrent_module_reads_back_and_computes_the_same(tmp_path: Path) -> None:
    model = from_torch(Recurrent().eval(), (torch.randn(1, 2, 4),))
    again = formats.read(formats.write(model, tmp_path / "net.mlpackage"))
    session = onnxruntime.InferenceSession(graph.to_bytes(again), providers=["CPUExecutionProvider"])
    (tensor,) = model.content.example_inputs
    (found,) = session.run(None, {model.inputs[0].name: tensor.numpy()})
    np.testing.assert_allclose(found, model.content.module(tensor).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_a_package_holds_its_weights(written: Path) -> None:
    assert formats.recognise(str(written)).size_bytes > 0
    with pytest.raises(UsageError, match="leave out the weights"):
        formats.recognise(str(written), Path("weights.pt"))


def test_a_program_is_not_written_as_a_single_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"name the output net\.mlpackage"):
        formats.write(net(), tmp_path / "net.mlmodel")


def test_another_form_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="written from a module, found a graph"):
        formats.write(Model("graph", None, (), ()), tmp_path / "net.mlpackage")


def test_without_coremltools_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "available", lambda module: module != "coremltools")
    with pytest.raises(MissingExtra, match=r"pip install 'tightship\[coreml\]'"):
        formats.write(net(), tmp_path / "net.mlpackage")
