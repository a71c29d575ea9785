"""OpenVINO IR: a network in `NAME.xml` and its weights in `NAME.bin` beside it, made from an ONNX graph."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from tightship.core import extras
from tightship.core.artifact import Artifact
from tightship.core.atomic import writing
from tightship.core.model import Form, Model
from tightship.errors import ArtifactNotFound, UnsupportedError, UsageError
from tightship.formats.format import Format
from tightship.formats.onnx import Onnx

__all__ = ["OpenVinoIr"]


@dataclass(frozen=True)
class OpenVinoIr(Format):
    """Written from a graph; run by OpenVINO, but not read back into a form.

    `precision` is that of the weights in the file; OpenVINO computes in the precision of the Target.
    """

    precision: Literal["float32", "float16"] = "float32"

    name: ClassVar[str] = "openvino-ir"
    suffixes: ClassVar[tuple[str, ...]] = (".xml",)
    reads_into: ClassVar[Form | None] = None
    writes_from: ClassVar[tuple[Form, ...]] = ("graph",)
    engine: ClassVar[str] = "openvino"
    writes_with: ClassVar[tuple[str, ...]] = ("openvino",)

    def artifact(self, source: str, weights: Path | None = None) -> Artifact:
        path = Path(source)
        if weights is not None:
            raise UsageError(f"{path}: its weights are in the .bin file beside it; leave out the weights {weights}")
        for file in (path, path.with_suffix(".bin")):
            if not file.is_file():
                raise ArtifactNotFound(f"{file}: no such file; OpenVINO IR is NAME.xml with NAME.bin beside it")
        return Artifact(path, self.name, (path.with_suffix(".bin"),))

    def read(self, artifact: Artifact) -> Model:
        raise UnsupportedError(
            f"{artifact.path}: OpenVINO IR is run (engine openvino), not read; give the model that it was made from"
        )

    def write(self, model: Model, path: Path) -> Artifact:
        """Write both files, the weights first. Raises `UnsupportedError` where OpenVINO cannot convert the graph."""
        extras.require("openvino", "writing OpenVINO IR")
        import openvino

        if model.form != "graph":
            raise UnsupportedError(f"{path}: OpenVINO IR is written from a graph, found a {model.form}")
        network = _network(model, path)
        with writing(path) as temporary:
            made = temporary.with_name("made")
            made.mkdir()
            openvino.save_model(network, made / "model.xml", compress_to_fp16=self.precision == "float16")
            with writing(path.with_suffix(".bin")) as beside:
                (made / "model.bin").replace(beside)
            (made / "model.xml").replace(temporary)
        return Artifact(path, self.name, (path.with_suffix(".bin"),))


def _network(model: Model, path: Path) -> Any:
    """Convert from a file and not from bytes, so that weights past protobuf's 2 GiB fit."""
    import openvino

    with tempfile.TemporaryDirectory(prefix="tightship-") as folder:
        source = Onnx().write(model, Path(folder, "model.onnx"))
        try:
            network = openvino.convert_model(source.path)
        except Exception as error:  # OpenVINO raises RuntimeError and its own types
            raise UnsupportedError(f"{path}: OpenVINO cannot convert the graph: {_reason(error)}") from error
        for specs, ports in ((model.inputs, network.inputs), (model.outputs, network.outputs)):
            for spec, port in zip(specs, ports, strict=True):
                if spec.name not in port.get_names():
                    port.get_tensor().set_names({spec.name})
        return network


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
