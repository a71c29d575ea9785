"""TorchScript files (`torch.jit.save`): read into a module by way of torch.export.

A TorchScript file is a program, part of which runs when it is loaded. It is opened only where its code names no
operator that reads or writes files and none of another library, and in a child process first.
"""

from __future__ import annotations

import inspect
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tightship.core import extras
from tightship.core.artifact import Artifact
from tightship.core.child import run_in_child
from tightship.core.exported import quiet_torch
from tightship.core.model import Form, Model
from tightship.core.torch_files import check_zip
from tightship.core.torch_module import by_position, from_torch, named_outputs
from tightship.core.torch_pickle import holds_module, read_pickled
from tightship.errors import (
    ArtifactNotFound,
    InvalidModel,
    UnsupportedError,
    UnsupportedOperators,
    UsageError,
    nearest,
)
from tightship.formats.format import Format

if TYPE_CHECKING:
    import torch

__all__ = ["TorchScript", "describe"]

_READING_S = 300
_LARGEST_CODE_BYTES = 2**26
_TOLERANCE = 1e-5
"""Largest difference of the exported program from the file's own, relative to the largest output."""

_FILES = re.compile(rb"\b(save|from_file)\b")
"""Operators that write or read a file of any name."""

_ESCAPE = re.compile(rb"\\[xuUN0-7]")
"""With such in a text, getattr could name an operator without its name being seen."""

_OTHER_LIBRARY = re.compile(rb"\bops\.(?!(?:aten|prim|prims|quantized)\.)(\w+\.\w+)")
_NAMESPACES = ("aten", "prim", "prims", "quantized")

_PASSING = frozenset({"view", "reshape", "flatten", "to", "contiguous", "unsqueeze", "squeeze", "permute", "transpose"})
"""Operators that hand on the values of their first input, in another shape or order."""


@dataclass(frozen=True)
class TorchScript(Format):
    """Read into a module, traced or scripted, with the shapes of `input_shapes` (`--input-shape name=1,3,224,224`).

    The file does not hold them; they may be left out where a linear layer takes the input as it is. A module that was
    pickled whole is read where all its classes are PyTorch's layers or named in `trusted`.
    """

    input_shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    trusted: tuple[str, ...] = ()

    name: ClassVar[str] = "torchscript"
    suffixes: ClassVar[tuple[str, ...]] = (".pt", ".jit")
    reads_into: ClassVar[Form | None] = "module"
    writes_from: ClassVar[tuple[Form, ...]] = ()
    engine: ClassVar[str] = "torch"
    reads_with: ClassVar[tuple[str, ...]] = ("torch",)

    def artifact(self, source: str, weights: Path | None = None) -> Artifact:
        path = Path(source)
        if not path.is_file():
            raise ArtifactNotFound(f"{path}: no such file")
        if weights is not None:
            raise UsageError(f"{path} holds its own weights; weights beside it are for package.module:function only")
        return Artifact(path, self.name)

    def read(self, artifact: Artifact) -> Model:
        """Read a program and its weights.

        Raises `InvalidModel` on damaged and hostile files and on those that hold weights only, `UnsupportedError`
        where the shapes of inputs are not known, or the program branches on values of tensors.
        """
        extras.require("torch", "reading a TorchScript file")
        path = artifact.path
        if _is_pickle(path):
            return _pickled(path, self.trusted, dict(self.input_shapes))
        _check_file(path)
        function = f"{__name__}:{describe.__name__}"
        found = run_in_child(function, [path], purpose=f"reading {path}", timeout_s=_READING_S)
        examples = _examples(path, found, dict(self.input_shapes))
        return from_torch(_exported(path, examples), tuple(examples.values()))

    def write(self, model: Model, path: Path) -> Artifact:
        raise UnsupportedError(
            f"{path}: TorchScript is read, not written: PyTorch has given it up for torch.export; write a .pt2 file"
        )


def _is_pickle(path: Path) -> bool:
    """Whether a file holds a module that was pickled whole: neither a program nor weights alone."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any("/code/" in name for name in names) or not any(name.endswith("/data.pkl") for name in names):
                return False
        check_zip(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False
    return holds_module(path)


def _pickled(path: Path, trusted: Sequence[str], shapes: Mapping[str, tuple[int, ...]]) -> Model:
    module = read_pickled(path, trusted)
    parameters = inspect.signature(module.forward).parameters.values()
    names = [entry.name for entry in parameters if entry.default is entry.empty]
    found = [{"name": name, "type": "Tensor"} for name in names]
    examples = _examples(path, found, shapes)
    return from_torch(module, tuple(examples.values()))


def describe(path: Path) -> list[dict[str, Any]]:
    """Load a file and describe its inputs; called in a child process.

    Each has its name, type, and, where an operator tells them, its dtype, a hint of its shape and the shape itself.
    Raises `UnsupportedOperators` for operators of other libraries, `InvalidModel` for those that touch files.
    """
    import torch

    module = torch.jit.load(str(path), map_location="cpu")
    nodes = list(_nodes(module.inlined_graph))
    _check_operators(path, sorted({node.kind() for node in nodes}))
    arguments = module.forward.schema.arguments[1:]
    values = list(module.inlined_graph.inputs())[1:]
    weights = _weights(module)
    return [
        {"name": argument.name, "type": str(argument.type), **_seen(value, weights)}
        for argument, value in zip(arguments, values, strict=True)
        if str(argument.type) == "Tensor" or not argument.has_default_value()
    ]


def _check_file(path: Path) -> None:
    """Raise `InvalidModel` for what is no TorchScript, or names what touches files, before torch sees it."""
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"\x80\x02":
        raise InvalidModel(f"{path}: holds {_WEIGHTS}")
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive)
            for entry in _code(archive):
                _check_code(path, archive.read(entry))
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise InvalidModel(f"{path}: not a TorchScript file, or cut short: {error}") from error


def _code(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    return [entry for entry in archive.infolist() if re.fullmatch(r"[^/]+/code/.*\.py", entry.filename)]


def _check_members(path: Path, archive: zipfile.ZipFile) -> None:
    names = archive.namelist()
    if not _code(archive):
        what = _WEIGHTS if any(name.endswith("/data.pkl") for name in names) else "no TorchScript program"
        exported = any(name.endswith("models/model.json") for name in names)
        raise InvalidModel(f"{path}: holds {'an exported program: give it the suffix .pt2' if exported else what}")
    packed = [entry for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
    stored = [entry for entry in archive.infolist() if entry.compress_type == zipfile.ZIP_STORED]
    if any("/code/" not in entry.filename for entry in packed) or len(names) != len(set(names)):
        raise InvalidModel(f"{path}: weights are compressed or named twice, as torch never writes them; not opened")
    if sum(entry.file_size for entry in stored) > path.stat().st_size:
        raise InvalidModel(f"{path}: its members overlap, as torch never writes them; not opened")
    if sum(entry.file_size for entry in packed) > _LARGEST_CODE_BYTES:
        raise InvalidModel(f"{path}: its code is larger than {_LARGEST_CODE_BYTES >> 20} MiB; not opened")
    damaged = archive.testzip()
    if damaged:
        raise InvalidModel(f"{path}: the checksum of {damaged!r} is wrong; the file is damaged: fetch it again")


_WEIGHTS = (
    "weights (a pickle of tensors) and no network; give the network as package.module:function and this file "
    "with --weights"
)


def _check_code(path: Path, code: bytes) -> None:
    touching = _FILES.search(code)
    if touching:
        raise InvalidModel(
            f"{path}: its code names {touching[1].decode()!r}, with which TorchScript writes or reads files; "
            "it is not run"
        )
    if b"getattr" in code and _ESCAPE.search(code):
        raise InvalidModel(f"{path}: its code hides names from being read (getattr with escapes); it is not run")
    others = sorted({name.decode() for name in _OTHER_LIBRARY.findall(code)})
    if others:
        raise UnsupportedOperators(
            f"{path}: calls {len(others)} operators of other libraries: {', '.join(others)}; "
            "export the model without them"
        )


def _check_operators(path: Path, kinds: Sequence[str]) -> None:
    """The same once more, on what torch has understood."""
    foreign = [kind for kind in kinds if kind.partition("::")[0] not in _NAMESPACES]
    if foreign:
        raise UnsupportedOperators(f"{path}: calls {len(foreign)} operators of other libraries: {', '.join(foreign)}")
    touching = [kind for kind in kinds if kind in ("aten::save", "aten::from_file")]
    if touching:
        raise InvalidModel(f"{path}: calls {', '.join(touching)}, which writes or reads files; it is not run")


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _weights(module: Any) -> Mapping[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _seen(value: Any, weights: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """What the first operator that computes with an input tells about it."""
    direct = True
    for _ in range(8):
        users = [use.user for use in value.uses()]
        kinds = {node.kind().partition("::")[2].lstrip("_"): node for node in users}
        if "embedding" in kinds:
            return {"dtype": "int64", "hint": "1,LENGTH"}
        if "linear" in kinds:
            shape = weights.get(_attribute(_argument(kinds["linear"], 1)), ())
            return {"shape": [1, shape[1]]} if direct and len(shape) == 2 else {}
        for name in ("convolution", "conv1d", "conv2d", "conv3d"):
            if name in kinds:
                return {"hint": _convolution_hint(kinds[name], weights)}
        passing = [node for name, node in kinds.items() if name in _PASSING]
        if len(passing) != 1 or not list(passing[0].outputs()):
            return {}
        value, direct = next(iter(passing[0].outputs())), False
    return {}


def _convolution_hint(node: Any, weights: Mapping[str, tuple[int, ...]]) -> str:
    shape = weights.get(_attribute(_argument(node, 1)), ())
    lengths = {3: "LENGTH", 4: "HEIGHT,WIDTH", 5: "DEPTH,HEIGHT,WIDTH"}.get(len(shape))
    return f"1,{shape[1]},{lengths}" if lengths else ""


def _argument(node: Any, index: int) -> Any:
    return list(node.inputs())[index]


def _attribute(value: Any) -> str:
    """The name in the state dict of a value that is read from a module: `conv.weight`."""
    names: list[str] = []
    node = value.node()
    while node.kind() == "prim::GetAttr":
        names.insert(0, node.s("name"))
        node = _argument(node, 0).node()
    return ".".join(names)


def _examples(
    path: Path, found: Sequence[Mapping[str, Any]], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, torch.Tensor]:
    names = [entry["name"] for entry in found]
    if "" in shapes and len(names) == 1:
        shapes = {names[0]: shapes[""]}
    for name in shapes:
        if name not in names:
            raise UsageError(f"{path}: no input {name!r}{nearest(name, names)}; the inputs are {', '.join(names)}")
    strange = [f"{entry['name']}: {entry['type']}" for entry in found if entry["type"] != "Tensor"]
    if strange or not found:
        raise UnsupportedError(f"{path}: expected tensors as inputs, found {', '.join(strange) or 'none'}")
    unknown = [entry for entry in found if entry["name"] not in shapes and "shape" not in entry]
    if unknown:
        wanted = " ".join(f"--input-shape {entry['name']}={entry.get('hint') or '1,...'}" for entry in unknown)
        raise UnsupportedError(
            f"{path}: a TorchScript file does not hold the shapes of its inputs ({', '.join(names)}); "
            f"give them, as in --input-shape name=1,3,224,224: {wanted}"
        )
    return {entry["name"]: _example(entry, shapes.get(entry["name"])) for entry in found}


def _example(entry: Mapping[str, Any], shape: Sequence[int] | None) -> torch.Tensor:
    import torch

    shape = entry["shape"] if shape is None else shape
    generator = torch.Generator().manual_seed(0)
    if entry.get("dtype") == "int64":
        return torch.randint(0, 2, tuple(shape), generator=generator)
    return torch.randn(tuple(shape), generator=generator)


def _exported(path: Path, examples: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """Return the program as torch.export gives it, compared with the file's own on the examples.

    It is traced with two items where that serves one too: torch.export takes a length of 1 for a constant.
    """
    import torch

    inputs = tuple(examples.values())
    with quiet_torch(), torch.no_grad():
        script = torch.jit.load(str(path), map_location="cpu").eval()
        expected = _run(path, script, examples)
        if all(len(tensor.shape) and len(tensor) == 1 for tensor in inputs):
            try:
                module = _traced(script, tuple(torch.cat([tensor, tensor]) for tensor in inputs), tuple(examples))
                if not _difference(module(*inputs), expected):
                    return module
            except Exception:  # many programs take the number of items that they were traced with only
                pass
        try:
            module = _traced(script, inputs, tuple(examples))
            difference = _difference(module(*inputs), expected)
        except Exception as error:  # the converter raises what its parts raise
            raise UnsupportedError(
                f"{path}: torch.export cannot take the TorchScript program over: {_reason(error)}; "
                "export the network that it was made from with torch.export.save"
            ) from error
    if difference:
        raise UnsupportedError(f"{path}: torch.export makes another program of it: output {difference} differs")
    return module


def _run(path: Path, script: Any, examples: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    try:
        return named_outputs(script(*examples.values()))
    except InvalidModel:
        raise
    except Exception as error:  # torch.jit raises what its operators raise
        given = ", ".join(f"{name}={','.join(map(str, tensor.shape))}" for name, tensor in examples.items())
        raise UnsupportedError(
            f"{path}: it does not run on inputs of these shapes ({given}): {_reason(error)}; "
            "give those that it was made for with --input-shape"
        ) from error


def _traced(script: Any, inputs: tuple[torch.Tensor, ...], names: tuple[str, ...]) -> torch.nn.Module:
    from torch._export.converter import TS2EPConverter

    return by_position(TS2EPConverter(script, inputs).convert().module(check_guards=False), names)


def _difference(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> str:
    """The first output that differs, or nothing."""
    return next((name for name, tensor in expected.items() if not _close(found.get(name), tensor)), "")


def _close(found: torch.Tensor | None, expected: torch.Tensor) -> bool:
    import torch

    if found is None or found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if not expected.is_floating_point() or not expected.numel():
        return bool(torch.equal(found, expected))
    scale = float(expected.abs().max())
    return bool(torch.allclose(found, expected, rtol=0, atol=_TOLERANCE * scale, equal_nan=True))


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = next((line for line in reversed(lines) if line.startswith("RuntimeError")), lines[0] if lines else "")
    return f"{type(error).__name__}: {text[:300]}"
