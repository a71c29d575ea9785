"""Exported programs: written, read back, and refused where they are damaged."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from tightship import formats
from tightship.core import extras
from tightship.core.model import Model
from tightship.core.torch_module import from_torch
from tightship.errors import InvalidModel, MissingExtra, OutputError, UnsupportedError, UsageError

torch = pytest.importorskip("torch")
nn = torch.nn


class Net(nn.Module):
    """Two inputs, two named outputs, and every kind of state: weights, statistics, a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.register_buffer("offset", torch.full((4,), 0.5), persistent=False)

    def forward(self, image: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.norm(self.conv(image)).relu().mean((2, 3)) + self.offset
        return {"features": features, "scaled": features * scale}


class FixedBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(1, 4) * 2


class CountedBatch(nn.Module):
    """Runs on any number of items, but len() makes it a constant when traced."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(len(x), -1) * 2


class Nested(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, None]]:
        return x.relu(), (x + 1, None)


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x - 1


class SchemaWords(nn.Module):
    """Inputs, outputs and weights that are called what torch's file format calls its own parts."""

    def __init__(self) -> None:
        super().__init__()
        self.target = nn.Linear(4, 4)
        self.metadata = nn.ParameterDict({"a b": torch.ones(4)})

    def forward(self, name: torch.Tensor, custom_obj: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"expr_str": self.target(name) * self.metadata["a b"], "as_string": custom_obj * 2}


def net() -> Model:
    torch.manual_seed(0)
    return from_torch(Net().eval(), (torch.randn(1, 3, 8, 8), torch.randn(1, 1)))


def round_trip(model: Model, folder: Path) -> Model:
    return formats.read(formats.write(model, folder / "model.pt2"))


def run(model: Model, count: int = 1) -> list[np.ndarray]:
    generator = torch.Generator().manual_seed(count)
    inputs = [torch.randn(count, *spec.shape[1:], generator=generator) for spec in model.inputs]
    with torch.inference_mode():
        result = model.content.module(*inputs)
    return [tensor.numpy() for tensor in (result.values() if isinstance(result, dict) else [result])]


def test_a_module_is_the_same_after_writing_and_reading(tmp_path: Path) -> None:
    model = net()
    copy = round_trip(model, tmp_path)
    assert (copy.form, copy.inputs, copy.outputs) == ("module", model.inputs, model.outputs)
    for expected, found in zip(run(model), run(copy), strict=True):
        np.testing.assert_array_equal(found, expected)  # the same operators on the same weights


def test_the_batch_axis_stays_free(tmp_path: Path) -> None:
    model = net()
    copy = round_trip(model, tmp_path)
    assert [spec.shape[0] for spec in (*copy.inputs, *copy.outputs)] == ["batch"] * 4
    for expected, found in zip(run(model, 5), run(copy, 5), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("module", [FixedBatch(), CountedBatch()])
def test_a_batch_that_cannot_be_free_stays_that_of_the_example(tmp_path: Path, module: nn.Module) -> None:
    copy = round_trip(from_torch(module.eval(), (torch.randn(1, 4),)), tmp_path)
    assert copy.inputs[0].shape == (1, 4)


def test_nested_outputs_keep_their_names(tmp_path: Path) -> None:
    model = from_torch(Nested().eval(), (torch.randn(1, 4),))
    assert round_trip(model, tmp_path).outputs == model.outputs
    assert [spec.name for spec in model.outputs] == ["output_0", "output_1_0"]


def test_names_that_torch_itself_uses_in_the_file_are_read(tmp_path: Path) -> None:
    model = from_torch(SchemaWords().eval(), (torch.randn(1, 4), torch.randn(1, 4)))
    copy = round_trip(model, tmp_path)
    assert (copy.inputs, copy.outputs) == (model.inputs, model.outputs)


def test_a_file_that_torch_wrote_is_read_and_its_keyword_inputs_too(tmp_path: Path) -> None:
    program = torch.export.export(Net().eval(), (torch.randn(2, 3, 8, 8),), {"scale": torch.randn(2, 1)})
    torch.export.save(program, tmp_path / "model.pt2")
    model = formats.read(formats.recognise(str(tmp_path / "model.pt2")))
    assert [spec.name for spec in model.inputs] == ["image", "scale"]


def test_paths_of_this_machine_are_not_written(tmp_path: Path) -> None:
    formats.write(net(), tmp_path / "model.pt2")
    assert Path(__file__).name.encode() not in (tmp_path / "model.pt2").read_bytes()


def test_a_file_without_example_inputs_says_so(tmp_path: Path) -> None:
    program = torch.export.export(nn.Linear(3, 2).eval(), (torch.randn(1, 3),))
    program.example_inputs = None
    torch.export.save(program, tmp_path / "model.pt2")
    with pytest.raises(InvalidModel, match="expected tensors as example inputs, found none"):
        formats.read(formats.recognise(str(tmp_path / "model.pt2")))


def test_a_module_that_branches_on_values_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"torch\.export cannot trace Branching"):
        formats.write(from_torch(Branching().eval(), (torch.ones(2, 4),)), tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_said_on_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    round_trip(net(), tmp_path)
    with pytest.raises(UnsupportedError):
        formats.write(from_torch(Branching().eval(), (torch.ones(2, 4),)), tmp_path / "other.pt2")
    assert capfd.readouterr() == ("", "")


def test_another_form_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="written from a module, found a graph"):
        formats.write(Model("graph", None, (), ()), tmp_path / "model.pt2")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        formats.write(net(), tmp_path / "file" / "model.pt2")


def test_weights_beside_it_make_no_sense(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").touch()
    with pytest.raises(UsageError, match="holds its own weights"):
        formats.recognise(str(tmp_path / "model.pt2"), tmp_path / "weights.pt")


def test_without_torch_the_command_that_installs_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = formats.write(net(), tmp_path / "model.pt2")
    monkeypatch.setattr(extras, "available", lambda module: module != "torch")
    with pytest.raises(MissingExtra, match=r"pip install 'tightship\[torch\]'"):
        formats.read(artifact)


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.9, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: float) -> None:
    path = formats.write(net(), tmp_path / "model.pt2").path
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if 0 < keep < 1 else int(keep)])
    with pytest.raises(InvalidModel, match=r"model\.pt2"):
        formats.read(formats.recognise(str(path)))


def test_a_flipped_bit_in_a_member_is_refused(tmp_path: Path) -> None:
    path = formats.write(net(), tmp_path / "model.pt2").path
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        contents = [content for content in map(archive.read, archive.namelist()) if whole.count(content) == 1]
    middles = [whole.index(content) + len(content) // 2 for content in contents]
    assert len(middles) > 5
    for middle in middles:
        flipped = bytearray(whole)
        flipped[middle] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(InvalidModel):
            formats.read(formats.recognise(str(path)))


def test_another_kind_of_torch_file_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(3)}, tmp_path / "state.pt2")
    with pytest.raises(InvalidModel, match="which no plain exported model does"):
        formats.read(formats.recognise(str(tmp_path / "state.pt2")))
