"""Core ML: `.mlpackage` folders and `.mlmodel` files for Apple's systems, read into graphs, written as ML programs."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from tightship.core import extras, graph
from tightship.core.artifact import Artifact
from tightship.core.atomic import replace_folder
from tightship.core.exported import export, quiet_torch
from tightship.core.model import Form, Model
from tightship.core.native_output import native_output_hidden
from tightship.errors import ArtifactNotFound, TightshipError, UnsupportedError, UnsupportedOperators, UsageError
from tightship.formats.coreml_package import open_package
from tightship.formats.coreml_weights import compressed
from tightship.formats.format import Format

if TYPE_CHECKING:
    import torch

__all__ = ["CoreMl"]

_OURS = frozenset({"Manifest.json", "Data"})
_NETWORKS = ("neuralNetwork", "neuralNetworkClassifier", "neuralNetworkRegressor")
_INPUT_DTYPES = ("float32", "float16", "int32", "int64")
"""What Core ML takes as inputs; int64 becomes int32, the only integers there are."""


@dataclass(frozen=True)
class CoreMl(Format):
    """Read into a graph, ML programs and neural networks; written from a module, for iOS 16 and macOS 13 or newer.

    Written with the shapes of the example inputs. `precision` is that of weights and arithmetic; inputs and outputs
    stay float32. `int8` stores weights linearly in 8 bits, `palette8` to `palette2` as indices of so many bits into a
    table of values; the arithmetic is that of float16. Nothing but macOS runs the result; here it can be read back,
    which shows what the program means.
    """

    precision: Literal["float32", "float16", "int8", "palette8", "palette6", "palette4", "palette2"] = "float32"

    name: ClassVar[str] = "coreml"
    suffixes: ClassVar[tuple[str, ...]] = (".mlpackage", ".mlmodel")
    reads_into: ClassVar[Form | None] = "graph"
    writes_from: ClassVar[tuple[Form, ...]] = ("module",)
    engine: ClassVar[str] = ""
    device_engine: ClassVar[str] = "coreml"
    reads_with: ClassVar[tuple[str, ...]] = ("coremltools",)
    writes_with: ClassVar[tuple[str, ...]] = ("torch", "coremltools")

    def artifact(self, source: str, weights: Path | None = None) -> Artifact:
        path = Path(source)
        if path.suffix.lower() == ".mlmodel":
            if not path.is_file():
                raise ArtifactNotFound(f"{path}: no such file")
        elif not path.is_dir():
            raise ArtifactNotFound(f"{path}: no such folder; a Core ML package is a folder NAME.mlpackage")
        if weights is not None:
            raise UsageError(f"{path}: a Core ML package holds its weights; leave out the weights {weights}")
        return Artifact(path, self.name)

    def read(self, artifact: Artifact) -> Model:
        """Read an ML program, or a neural network of the older kind, into a graph.

        Images become tensors [1, channels, height, width] of 0 to 255 in the colour layout of the description; what
        the model does to them before its first layer is in the graph. Raises `InvalidModel`, `UnsupportedOperators`
        that lists every operator without a counterpart, and `UnsupportedError` for other kinds of models.
        """
        path = artifact.path
        for module in self.reads_with:
            extras.require(module, "reading a Core ML package")
        spec, weights = open_package(path)
        kind = spec.WhichOneof("Type")
        if kind == "mlProgram":
            from tightship.formats.mil import read_program

            return graph.from_ir(read_program(spec, weights, str(path)))
        if kind in _NETWORKS:
            from tightship.formats.neural_network import read_neural_network

            return graph.from_ir(read_neural_network(spec, str(path)))
        raise UnsupportedError(f"{path}: a Core ML model of the kind {kind}; ML programs and neural networks are read")

    def write(self, model: Model, path: Path) -> Artifact:
        """Write a module; the folder appears whole, after it was read back.

        Raises `UnsupportedOperators` that lists every operator without a counterpart, `UnsupportedError` where
        coremltools cannot convert the module or reads another program back.
        """
        for module in self.writes_with:
            if not extras.available(module):
                extras.require(module, "writing a Core ML package")
        if path.suffix.lower() == ".mlmodel":
            raise UsageError(f"{path}: ML programs are written as packages; name the output {path.stem}.mlpackage")
        if model.form != "module":
            raise UnsupportedError(f"{path}: a Core ML package is written from a module, found a {model.form}")
        with ExitStack() as stack:
            stack.enter_context(native_output_hidden())
            stack.enter_context(quiet_torch())
            package = _converted(model, "float32" if self.precision == "float32" else "float16", path)
            if self.precision not in ("float32", "float16"):
                package = compressed(package, self.precision, str(path))
            with replace_folder(path, _OURS) as folder:
                made = folder.with_name("made.mlpackage")
                package.save(str(made))
                _check(made, model, path)
                for name in _OURS:  # and not the notes that it leaves for ExecuTorch
                    (made / name).replace(folder / name)
        return Artifact(path, self.name)


def _converted(model: Model, precision: str, path: Path) -> Any:
    import coremltools

    wrong = [str(spec) for spec in model.inputs if spec.dtype not in _INPUT_DTYPES]
    if wrong:
        raise UnsupportedError(f"{path}: Core ML takes {', '.join(_INPUT_DTYPES)}, found input {', '.join(wrong)}")
    program = _decomposed(export(model, batch=False), path)
    try:
        return coremltools.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=coremltools.target.iOS16,
            compute_precision=getattr(coremltools.precision, precision.upper()),
            inputs=[
                coremltools.TensorType(name=_legal(spec.name), shape=tuple(tensor.shape), dtype=_kept(spec.dtype))
                for spec, tensor in zip(model.inputs, model.content.example_inputs, strict=True)
            ],
            outputs=[coremltools.TensorType(name=_legal(spec.name), dtype=_kept(spec.dtype)) for spec in model.outputs],
            skip_model_load=True,
        )
    except TightshipError:
        raise
    except Exception as error:  # coremltools raises what its parts raise
        raise UnsupportedError(f"{path}: coremltools cannot convert the module: {_reason(error)}") from error


def _kept(dtype: str) -> type[np.float32] | None:
    """The type that an input or output keeps in a package of half precision, which would have all of them in half."""
    return np.float32 if dtype == "float32" else None


def _decomposed(program: torch.export.ExportedProgram, path: Path) -> torch.export.ExportedProgram:
    """Return the program with the operators that coremltools does not know taken apart, and no others.

    It keeps what it knows whole: it makes one operator of a convolution, and thirty of its decomposition.
    """
    import torch

    program = program.run_decompositions({})
    _write_out_strides(program)
    _without_aliases(program)
    known = torch.export.default_decompositions()
    unknown = {target for target in _targets(program) if not _converts(target)}
    if unknown:
        program = program.run_decompositions({target: known[target] for target in unknown if target in known})
    left = sorted({str(target) for target in _targets(program) if not _converts(target)})
    if left:
        raise UnsupportedOperators(
            f"{path}: Core ML (coremltools) has no counterpart for {len(left)} operators: {', '.join(left)}; "
            "write them with others in the module"
        )
    return program


def _without_aliases(program: torch.export.ExportedProgram) -> None:
    """What is the same tensor under another name, coremltools does not know."""
    import torch

    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten.alias.default:
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)


def _write_out_strides(program: torch.export.ExportedProgram) -> None:
    """Pooling without strides moves by its window; coremltools wants that written down."""
    for node in program.graph.nodes:
        if node.op == "call_function" and "max_pool" in str(node.target) and len(node.args) == 2:
            node.args = (*node.args, node.args[1])


def _targets(program: torch.export.ExportedProgram) -> set[Any]:
    return {node.target for node in program.graph.nodes if node.op == "call_function" and hasattr(node.target, "name")}


def _converts(target: Any) -> bool:
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY
    from coremltools.converters.mil.frontend.torch.utils import sanitize_op_kind

    return sanitize_op_kind(target.name()) in _TORCH_OPS_REGISTRY


def _check(made: Path, model: Model, path: Path) -> None:
    """Read the package back, as Core ML's own loader would begin."""
    import coremltools
    from coremltools.converters.mil.frontend.milproto import load

    package = coremltools.models.MLModel(str(made), skip_model_load=True)
    spec = package.get_spec()
    program = load.load(spec, spec.specificationVersion, package.weights_dir)
    main = program.functions["main"]
    found = [set(main.inputs), {value.name for value in main.outputs}]
    wanted = [{_legal(entry.name) for entry in entries} for entries in (model.inputs, model.outputs)]
    if found != wanted:
        raise UnsupportedError(f"{path}: the package reads back with {found}, expected {wanted}; it was not written")


def _legal(name: str) -> str:
    """The name as an identifier, as which programs of Core ML have all of theirs."""
    name = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"var_{name}" if name[:1].isdigit() else name


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:400]}" if lines else type(error).__name__
