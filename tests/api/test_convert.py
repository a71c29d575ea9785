"""Conversions: what is written, what is proven, and what is left alone where the proof fails."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
import torch

import tightship as ts
from tests import nets
from tightship import bridges, formats
from tightship.core import extras
from tightship.core.artifact import Artifact
from tightship.core.evidence import evidence_path
from tightship.core.exported import export
from tightship.core.model import Model
from tightship.core.progress import Progress
from tightship.core.session import Session
from tightship.core.table import Table
from tightship.core.torch_module import from_torch
from tightship.errors import EngineError, OutputError, ParityError, UnknownFormat, UnsupportedError, UsageError
from tightship.formats.coreml import CoreMl
from tightship.formats.executorch import ExecuTorch
from tightship.formats.onnx import Onnx
from tightship.search import Source


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return nets.save(nets.conv_net(), tmp_path)


@dataclass(frozen=True)
class Spoiled(Onnx):
    """Writes another model than it was given, and so has to be caught."""

    suffixes: ClassVar[tuple[str, ...]] = (".spoiled.onnx",)
    name: ClassVar[str] = "spoiled"

    def write(self, model: Model, path: Path) -> Artifact:
        onnx.save(nets.conv_net(seed=1), path)
        return Artifact(path, self.name)


@pytest.fixture
def spoiled(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"spoiled": Spoiled(), **formats.FORMATS}
    monkeypatch.setattr(formats, "FORMATS", Table("format", rows))


def test_the_evidence_says_what_was_made_of_what_and_that_it_agrees(model: Path, tmp_path: Path) -> None:
    evidence = ts.convert(model, tmp_path / "out" / "net.onnx", options={"opset": 20})
    written = json.loads(evidence_path(tmp_path / "out" / "net.onnx").read_text())
    assert (evidence.verdict, written["verdict"]) == ("equal", "equal")
    assert written["source_format"] == written["output_format"] == "onnx"
    assert written["steps"] == [{"name": "write-onnx", "parameters": {"opset": 20}}]
    assert list(written["files"]) == ["net.onnx"]
    assert written["agreement"]["n_items"] == 16
    assert onnx.load(tmp_path / "out" / "net.onnx").opset_import[0].version == 20


def test_what_differs_is_not_written(model: Path, tmp_path: Path, spoiled: None) -> None:
    output = tmp_path / "out" / "net.spoiled.onnx"
    with pytest.raises(ParityError, match=r"net\.spoiled\.onnx: not written.*--force.*--locate"):
        ts.convert(model, output)
    assert list(output.parent.iterdir()) == []


def test_the_operator_that_went_wrong_is_named(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = bridges.BRIDGES["graph", "module"]

    def wrong(graph: Model, progress: Progress) -> Model:
        made = right(graph, progress)
        code = made.content.module
        next(node for node in code.graph.nodes if node.target is torch.relu).target = torch.tanh
        code.recompile()
        return made

    monkeypatch.setattr(bridges, "BRIDGES", {**bridges.BRIDGES, ("graph", "module"): wrong})
    with pytest.raises(ParityError, match=r"first operator that it does not compute: Relu 'b' "):
        ts.convert(model, tmp_path / "net.pt2")
    evidence = ts.convert(model, tmp_path / "net.pt2", force=True)
    assert "Relu 'b'" in evidence.difference


def test_an_operator_that_only_the_written_file_gets_wrong_is_named(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("executorch", reason="needs the executorch extra")
    right = ExecuTorch.write

    def wrong(self: ExecuTorch, model: Model, path: Path) -> Artifact:
        code = export(model, batch=False).module()
        for node in code.graph.nodes:
            if str(node.target) == "aten.relu.default":
                node.target = torch.ops.aten.tanh.default
        code.recompile()
        return right(self, from_torch(code, model.content.example_inputs), path)

    monkeypatch.setattr(ExecuTorch, "write", wrong)
    with pytest.raises(
        ParityError, match=r"right, but executorch does not .* first operator that goes wrong: aten\.relu 'relu'"
    ):
        ts.convert(model, tmp_path / "net.pte")


def test_an_earlier_output_stays_where_a_new_one_differs(model: Path, tmp_path: Path, spoiled: None) -> None:
    output = tmp_path / "net.spoiled.onnx"
    output.write_bytes(b"earlier")
    with pytest.raises(ParityError):
        ts.convert(model, output)
    assert output.read_bytes() == b"earlier"


def test_force_writes_what_differs_and_says_so(model: Path, tmp_path: Path, spoiled: None) -> None:
    evidence = ts.convert(model, tmp_path / "net.spoiled.onnx", force=True)
    assert evidence.verdict == "differs" and not evidence.proven
    assert "operator" in evidence.difference
    assert (tmp_path / "net.spoiled.onnx").exists()


def test_a_tolerance_is_the_users(model: Path, tmp_path: Path, spoiled: None) -> None:
    assert ts.convert(model, tmp_path / "net.spoiled.onnx", rtol=1e3).verdict == "within tolerance"


def test_the_users_data_is_what_it_is_proven_on(model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", image=np.random.default_rng(0).random((5, 1, 8, 8), np.float32))
    evidence = ts.convert(model, tmp_path / "b.onnx", str(tmp_path / "data.npz"), options={"opset": 18})
    assert evidence.agreement is not None and evidence.agreement.n_items == 5
    assert evidence.data.endswith("data.npz")


def test_an_input_shape_is_fixed(model: Path, tmp_path: Path) -> None:
    ts.convert(model, tmp_path / "b.onnx", input_shapes={"image": (2, 1, 8, 8)})
    shape = onnx.load(tmp_path / "b.onnx").graph.input[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim] == [2, 1, 8, 8]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"imag": (1, 1, 8, 8)}, "no input 'imag' .did you mean 'image'.*image: float32"),
        ({"image": (1, 3, 8, 8)}, r"cannot have the shape \[1, 3, 8, 8\]"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(
    model: Path, tmp_path: Path, shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        ts.convert(model, tmp_path / "b.onnx", input_shapes=shapes)


def test_a_graph_becomes_a_module_and_comes_back(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    there = ts.convert(model, tmp_path / "net.pt2")
    back = ts.convert(tmp_path / "net.pt2", tmp_path / "again.onnx")
    assert there.proven and back.proven
    assert [step.name for step in there.steps] == ["onnx-to-torch", "write-torch-export"]


def test_the_output_may_not_be_the_source(model: Path) -> None:
    with pytest.raises(UsageError, match="would replace the source"):
        ts.convert(model, model)


def test_an_unknown_suffix_names_those_that_can_be_written(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownFormat, match=r"model\.docx.*\.onnx, \.pt2"):
        ts.convert(model, tmp_path / "model.docx")


def test_an_option_that_the_format_does_not_have_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="format onnx has no option precision; it has opset"):
        ts.convert(model, tmp_path / "b.onnx", options={"precision": "float16"})


def test_a_precision_that_the_format_does_not_have_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="format openvino-ir has the precision float32, float16; found palette4"):
        ts.convert(model, tmp_path / "b.xml", options={"precision": "palette4"})


def test_a_folder_that_cannot_be_written_is_told_before_the_work(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        ts.convert(model, tmp_path / "file" / "net.onnx")


def test_a_folder_that_is_no_earlier_output_is_left_alone(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine.onnx"
    folder.mkdir()
    (folder / "diary.txt").write_text("dear diary")
    with pytest.raises(OutputError, match="no conversion has written"):
        ts.convert(model, folder)
    assert (folder / "diary.txt").exists()


def test_a_source_that_its_engine_refuses_is_converted_but_not_proven(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Source, exact: bool = False) -> Session:
        raise EngineError("the engine refuses")

    monkeypatch.setattr(Source, "open", refuse)
    evidence = ts.convert(model, tmp_path / "out.onnx")
    assert (evidence.verdict, evidence.proven) == ("not checked", False)
    assert evidence.reason == "onnxruntime cannot run the source: the engine refuses"


def test_a_format_that_nothing_here_runs_is_proven_by_reading_back(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("coremltools", reason="needs the coreml extra")
    evidence = ts.convert(model, tmp_path / "net.mlpackage")
    assert (evidence.proven, evidence.checked_by, evidence.output_engine) == (True, "reading back", "")
    back = ts.convert(tmp_path / "net.mlpackage", tmp_path / "back.onnx")
    assert (back.proven, back.checked_by, back.source_engine) == (True, "running", "onnxruntime f32")


def test_indices_of_64_bits_are_proven_with_the_32_that_core_ml_has(tmp_path: Path) -> None:
    pytest.importorskip("coremltools", reason="needs the coreml extra")
    evidence = ts.convert("examples.zoo.several:dlrm", tmp_path / "net.mlpackage")
    assert (evidence.proven, evidence.checked_by) == (True, "reading back")


@pytest.mark.skipif(platform.system() == "Darwin", reason="there Core ML runs")
def test_core_ml_itself_is_asked_for_on_macos_only(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("coremltools", reason="needs the coreml extra")
    ts.convert(model, tmp_path / "net.mlpackage")
    assert ts.check(model, tmp_path / "net.mlpackage").agreement.agrees
    with pytest.raises(UnsupportedError, match="Core ML runs on macOS only"):
        ts.check(model, tmp_path / "net.mlpackage", device=True)


def test_a_core_ml_package_that_computes_something_else_is_caught(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("coremltools", reason="needs the coreml extra")
    right = CoreMl.write

    def wrong(self: CoreMl, model: Model, path: Path) -> Artifact:
        code = model.content.module
        next(node for node in code.graph.nodes if node.target is torch.relu).target = torch.tanh
        code.recompile()
        return right(self, model, path)

    monkeypatch.setattr(CoreMl, "write", wrong)
    with pytest.raises(ParityError, match=r"off by .*, .* is allowed"):
        ts.convert(model, tmp_path / "net.mlpackage")
    assert not (tmp_path / "net.mlpackage").exists()


def test_a_way_that_fails_leaves_room_for_the_next(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")

    @dataclass(frozen=True)
    class EitherWay(Onnx):
        """Written from a module, which fails, or from a graph."""

        name: ClassVar[str] = "either"
        suffixes: ClassVar[tuple[str, ...]] = (".either.onnx",)

        def write(self, model: Model, path: Path) -> Artifact:
            if model.form == "module":
                raise UnsupportedError("no way from a module")
            return Onnx().write(model, path)

    monkeypatch.setattr(EitherWay, "writes_from", ("module", "graph"))
    monkeypatch.setattr(formats, "FORMATS", Table("format", {"either": EitherWay(), **formats.FORMATS}))
    monkeypatch.setattr(bridges, "ways", lambda *_: (("graph", "module"), ("graph",)))
    evidence = ts.convert(model, tmp_path / "net.either.onnx")
    assert evidence.proven
    assert evidence.attempts == ("by way of graph and module: no way from a module",)


def test_every_row_of_the_matrix_says_what_can_be_done(model: Path) -> None:
    rows = {row.name: row for row in ts.list_formats()}
    assert set(rows) == set(formats.FORMATS)
    assert (rows["onnx"].read, rows["onnx"].write) == ("yes", "yes")
    for row in rows.values():
        for cell in (row.read, row.write):
            assert cell in ("yes", "no") or cell.startswith("pip install")


def test_one_command_installs_all_that_a_cell_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "available", lambda module: False)
    rows = {row.name: row for row in ts.list_formats()}
    assert rows["coreml"].write == "pip install 'tightship[coreml]'"
    assert rows["executorch"].write == "pip install 'tightship[executorch]'"


def test_options_are_the_fields_of_the_row() -> None:
    assert replace(Onnx(), opset=17).opset == 17
    assert next(row for row in ts.list_formats() if row.name == "onnx").options == {"opset": None}
