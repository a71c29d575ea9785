"""ONNX files, with weights inside or in external data beside them.

Reading parses no more than protobuf: the graph and the weights are checked before anything is made of them.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tightship.core import graph
from tightship.core.artifact import Artifact, file_digest
from tightship.core.atomic import writing
from tightship.core.model import Form, Model
from tightship.core.opset import at_opset
from tightship.errors import ArtifactNotFound, InvalidModel, TightshipError, UsageError
from tightship.formats.format import Format
from tightship.formats.onnx_stream import write_stream, write_tensor
from tightship.formats.onnx_structure import check_structure, run_checker
from tightship.formats.onnx_tensors import check_fills, check_tensors, check_values, external_files

if TYPE_CHECKING:
    import onnx
    import onnx_ir

__all__ = ["Onnx"]

_MAX_FILE_BYTES = 2**31 - 1
_ALIGNMENT = 4096
_SMALLEST_OUTSIDE_BYTES = 1024
"""Smaller tensors stay inside: shape inference has to read the shapes among them."""

_OTHER_FILES = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"PK\x03\x04": "a zip archive (.pt, .pt2, .keras and .npz files are such)",
    b"\x89HDF": "an HDF5 file",
    b"\x80\x02": "a Python pickle",
    b"\x80\x04": "a Python pickle",
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself with: git lfs pull",
    b"<": "a web page or XML file",
    b"{": "a JSON file",
}


@dataclass(frozen=True)
class Onnx(Format):
    """Read into a graph; written from a graph, at the opset it has or another."""

    name: ClassVar[str] = "onnx"
    suffixes: ClassVar[tuple[str, ...]] = (".onnx",)
    reads_into: ClassVar[Form | None] = "graph"
    writes_from: ClassVar[tuple[Form, ...]] = ("graph",)
    engine: ClassVar[str] = "onnxruntime"

    opset: int | None = None

    def artifact(self, source: str, weights: Path | None = None) -> Artifact:
        """Describe the file and its external data files, without loading a weight.

        Raises `ArtifactNotFound` where one of them is not there, `InvalidModel` where external data leaves the folder.
        """
        path = Path(source)
        if weights is not None:
            raise UsageError(f"{path}: an ONNX file holds its weights; leave out the weights {weights}")
        if not path.is_file():
            found = "a folder" if path.is_dir() else "no such file" if not path.exists() else "no plain file"
            raise ArtifactNotFound(f"{path}: expected an ONNX file, found {found}")
        if not _mentions_external_data(path):
            return Artifact(path, self.name)
        with _naming(path):
            return Artifact(path, self.name, external_files(_parse(path), path.parent))

    def read(self, artifact: Artifact) -> Model:
        """Read and check the whole file; weights in external data are mapped into memory only when they are touched.

        Raises `InvalidModel`, `UnsupportedError` or `UnsupportedOperators`; see `onnx_structure` and `onnx_tensors`.
        """
        import onnx_ir

        path = artifact.path
        with _naming(path):
            proto = _parse(path)
            check_structure(proto)
            check_tensors(proto, path.parent)
            run_checker(proto)
            model = onnx_ir.from_proto(proto)
            onnx_ir.external_data.set_base_dir(model.graph, path.parent.absolute())
            check_fills(model)
            check_values(model)
            return graph.from_ir(model)

    def write(self, model: Model, path: Path) -> Artifact:
        """Write one file, or, past protobuf's 2 GiB, the graph and `NAME.onnx.DIGEST.data` beside it.

        The data file is named by its content: a graph that is already there keeps its own until the new graph takes
        its place in one rename, so that a reader finds the old pair or the new one.
        Raises `UnsupportedError` where the graph cannot be brought to `opset`.
        """
        model = model if self.opset is None else at_opset(model, self.opset)
        data = None
        if graph.initializer_bytes(model.graph) <= graph.MAX_PROTOBUF_BYTES:
            with writing(path) as temporary:
                write_stream(model.graph, temporary)
        else:
            data = _write_with_data(model.graph, path)
        _remove_old_data(path, keep=data)
        return Artifact(path, self.name, (data,) if data else ())


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the path before the message of an error, and give foreign errors a type of ours."""
    try:
        yield
    except TightshipError as error:
        raise type(error)(f"{path}: {error}") from error
    except OSError as error:
        raise InvalidModel(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # protobuf, onnx and onnx_ir raise many types on hostile files
        raise InvalidModel(f"{path}: not a sound ONNX model: {error}") from error


def _mentions_external_data(path: Path) -> bool:
    # Every tensor outside has an entry with this key, so most files need not be parsed to know that there is none.
    if path.stat().st_size > _MAX_FILE_BYTES:
        return False
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(b"\n\x08location") >= 0  # as a field of eight bytes
    except (OSError, ValueError):  # unreadable, or empty: reading says so
        return False


def _parse(path: Path) -> onnx.ModelProto:
    import onnx

    size = path.stat().st_size
    if not size:
        raise InvalidModel("the file is empty")
    if size > _MAX_FILE_BYTES:
        raise InvalidModel(f"{size / 2**30:.1f} GiB; a single ONNX file ends at 2 GiB: save weights as external data")
    content = path.read_bytes()
    for magic, what in _OTHER_FILES.items():
        if content.startswith(magic):
            raise InvalidModel(f"expected an ONNX model, found {what}")
    try:
        return onnx.load_model_from_string(content)
    except Exception as error:  # each protobuf implementation has its own
        raise InvalidModel("not an ONNX model, or a truncated one: its protobuf does not parse") from error


def _write_with_data(model: onnx_ir.Model, path: Path) -> Path:
    import onnx_ir

    new = None
    try:
        with writing(path) as temporary:
            moved = temporary.with_name("data")
            outside = model.clone()
            tensors = _write_tensors(outside, moved)
            data = path.with_name(f"{path.name}.{file_digest(moved)[:16]}.data")
            for value, offset in tensors:
                value.const_value = _external(value, data.name, offset)
            temporary.write_bytes(onnx_ir.to_proto(outside).SerializeToString())
            new = None if data.exists() else data
            with writing(data) as landing:
                moved.replace(landing)
    except BaseException:
        if new is not None:
            new.unlink(missing_ok=True)
        raise
    return data


def _write_tensors(model: onnx_ir.Model, path: Path) -> list[tuple[onnx_ir.Value, int]]:
    """Append every large weight to the file at `path`, one at a time; return each with its offset."""
    written = []
    with path.open("wb") as file:
        for subgraph in model.graphs():
            for value in subgraph.initializers.values():
                tensor = value.const_value
                if tensor is not None and tensor.nbytes >= _SMALLEST_OUTSIDE_BYTES:
                    file.write(b"\0" * (-file.tell() % _ALIGNMENT))
                    written.append((value, file.tell()))
                    write_tensor(tensor, file)
    return written


def _external(value: onnx_ir.Value, location: str, offset: int) -> onnx_ir.ExternalTensor:
    import onnx_ir

    tensor = value.const_value
    return onnx_ir.ExternalTensor(
        location, offset, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=value.name or ""
    )


def _remove_old_data(path: Path, keep: Path | None) -> None:
    for old in path.parent.glob(f"{path.name}.*.data"):
        digest = old.name.removeprefix(f"{path.name}.").removesuffix(".data")
        if old != keep and len(digest) == 16 and set(digest) <= set("0123456789abcdef"):
            old.unlink(missing_ok=True)
