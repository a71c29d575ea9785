"""Decoders as transformers saves them: a folder with `config.json` and safetensors, one file or several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tightship.core.artifact import Artifact
from tightship.core.graph import QUANTIZED_BY, from_ir
from tightship.core.model import Form, Model
from tightship.errors import ArtifactNotFound, InvalidModel, UnsupportedError, UsageError
from tightship.formats.decoder.architecture import Architecture
from tightship.formats.decoder.config import DecoderConfig
from tightship.formats.decoder.quantized import Layout, Wanted, parse_layout
from tightship.formats.decoder.shards import CONFIG, Checkpoint, checkpoint_files, naming, read_table
from tightship.formats.format import Format

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["Decoder"]

_OLD_GPTQ = "quantize_config.json"
_COMPUTED = "rotary_emb.inv_freq"
"""Old checkpoints hold what the configuration says already."""

_N_LISTED = 10


@dataclass(frozen=True)
class Decoder(Format):
    """Llama, Mistral and Qwen2 checkpoints, plain or quantized by GPTQ, AWQ or llm-compressor, read into a graph.

    Nothing is loaded before it is touched, and nothing is kept: a model may be larger than memory. `cache` gives the
    graph inputs and outputs for the keys and values of earlier tokens, for generating one token after another.
    """

    name: ClassVar[str] = "decoder"
    suffixes: ClassVar[tuple[str, ...]] = ()
    without_suffix: ClassVar[str] = "a folder with config.json"
    reads_into: ClassVar[Form | None] = "graph"
    writes_from: ClassVar[tuple[Form, ...]] = ()
    engine: ClassVar[str] = ""

    cache: bool = False

    def recognise(self, source: str) -> bool:
        """A folder that holds `config.json`, or that file itself."""
        path = Path(source)
        return path.name == CONFIG or (path / CONFIG).is_file()

    def artifact(self, source: str, weights: Path | None = None) -> Artifact:
        """The configuration, with the files of the weights as companions."""
        path = Path(source)
        config = path if path.name == CONFIG and not path.is_dir() else path / CONFIG
        if not config.is_file():
            raise ArtifactNotFound(f"{config}: no such file")
        if weights is not None:
            raise UsageError(f"{source} holds its own weights; weights beside it are for package.module:function only")
        old = config.with_name(_OLD_GPTQ)
        return Artifact(config, self.name, (*checkpoint_files(config.parent), *((old,) if old.is_file() else ())))

    def read(self, artifact: Artifact) -> Model:
        """Check every name, type and shape against the configuration, and write the graph around them.

        Raises `UnsupportedError` for another architecture or way of quantization, `InvalidModel` where tensors are
        missing (all are named), are not what the configuration says, or would be left out.
        """
        table = read_table(artifact.path)
        with naming(artifact.path):
            config, layout = DecoderConfig.parse(table), _layout(artifact, table)
        checkpoint = Checkpoint.open(artifact.path.parent)
        with naming(artifact.path.parent):
            found = Architecture(config, layout, checkpoint.tensors)
            _check(found)
            return from_ir(_named_by(found.build(self.cache), layout))

    def write(self, model: Model, path: Path) -> Artifact:
        raise UnsupportedError(f"{path}: a {model.form} cannot be written as a checkpoint; write an .onnx file instead")


def _named_by(graph: onnx_ir.Model, layout: Layout | None) -> onnx_ir.Model:
    if layout is not None:
        graph.metadata_props[QUANTIZED_BY] = layout.method
    return graph


def _layout(artifact: Artifact, table: Mapping[str, object]) -> Layout | None:
    given = table.get("quantization_config")
    if given is None and artifact.path.with_name(_OLD_GPTQ).is_file():
        given = read_table(artifact.path.with_name(_OLD_GPTQ))
    if given is None:
        return None
    if not isinstance(given, dict):
        raise InvalidModel(f"quantization_config must be a table, found {str(given)[:80]}")
    return parse_layout(given)


def _check(found: Architecture) -> None:
    wanted, optional = found.wanted(), found.optional()
    missing = [name for name in wanted if name not in found.tensors]
    if missing:
        raise InvalidModel(f"{len(missing)} tensors are missing: {_few(missing)}")
    wrong = [
        told
        for name, want in {**optional, **wanted}.items()
        if name in found.tensors and (told := _told(found, name, want))
    ]
    if wrong:
        raise InvalidModel(f"{len(wrong)} tensors are not what the configuration says: {_few(wrong)}")
    unused = {"lm_head.weight"} if found.config.tied else set()
    strangers = [
        repr(name[:200])
        for name in found.tensors
        if name not in wanted and name not in optional and name not in unused and not name.endswith(_COMPUTED)
    ]
    if strangers:
        raise UnsupportedError(
            f"{len(strangers)} tensors have no place in a {found.config.model_type} decoder, "
            f"so its numbers would be wrong without them: {_few(strangers)}"
        )


def _told(found: Architecture, name: str, want: Wanted) -> str:
    tensor = found.tensors[name]
    if tensor.shape == want.shape and tensor.dtype in want.dtypes:
        return ""
    types = " or ".join(want.dtypes)
    return f"{name[:200]} is {tensor.dtype}{list(tensor.shape)}, expected {types}{list(want.shape)}"


def _few(names: list[str]) -> str:
    more = len(names) - _N_LISTED
    return ", ".join(name[:300] for name in names[:_N_LISTED]) + (f" and {more} more" if more > 0 else "")
