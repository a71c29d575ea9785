"""Core ML packages: `.mlpackage` folders for Apple's systems, as ML programs."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tightship.core import extras
from tightship.core.artifact import Artifact
from tightship.core.atomic import replace_folder
from tightship.core.exported import export, quiet_torch
from tightship.core.model import Form, Model
from tightship.core.native_output import native_output_hidden
from tightship.errors import ArtifactNotFound, TightshipError, UnsupportedError, UnsupportedOperators, UsageError
from tightship.formats.format import Format

if TYPE_CHECKING:
    import torch

__all__ = ["CoreMl"]

_OURS = frozenset({"Manifest.json", "Data"})
_INPUT_DTYPES = ("float32", "float16", "int32", "int64")
"""What Core ML takes as inputs; int64 becomes int32, the only integers there are."""


@dataclass(frozen=True)
class CoreMl(Format):
    """Written from a module with the shapes of its example inputs, for iOS 16 and macOS 13 or newer.

    `precision` is that of weights and arithmetic; inputs and outputs stay float32. Nothing but macOS runs the result,
    so what is checked here is that the package reads back as the program that was written.
    """

    precision: Literal["float32", "float16"] = "float32"

    name: ClassVar[str] = "coreml"
    suffixes: ClassVar[tuple[str, ...]] = (".mlpackage",)
    reads_into: ClassVar[Form | None] = None
    writes_from: ClassVar[tuple[Form, ...]] = ("module",)
    engine: ClassVar[str] = ""
    writes_with: ClassVar[tuple[str, ...]] = ("torch", "coremltools")

    def artifact(self, source: str, weights: Path | None = None) -> Artifact:
        path = Path(source)
        if not path.is_dir():
            raise ArtifactNotFound(f"{path}: no such folder; a Core ML package is a folder NAME.mlpackage")
        if weights is not None:
            raise UsageError(f"{path}: a Core ML package holds its weights; leave out the weights {weights}")
        return Artifact(path, self.name)

    def read(self, artifact: Artifact) -> Model:
        raise UnsupportedError(
            f"{artifact.path}: Core ML packages are written, not read; give the model that it was made from"
        )

    def write(self, model: Model, path: Path) -> Artifact:
        """Write a module; the folder appears whole, after it was read back.

        Raises `UnsupportedOperators` that lists every operator without a counterpart, `UnsupportedError` where
        coremltools cannot convert the module or reads another program back.
        """
        for module in self.writes_with:
            if not extras.available(module):
                extras.require(module, "writing a Core ML package")
        if model.form != "module":
            raise UnsupportedError(f"{path}: a Core ML package is written from a module, found a {model.form}")
        with ExitStack() as stack:
            stack.enter_context(native_output_hidden())
            stack.enter_context(quiet_torch())
            package = _converted(model, self.precision, path)
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
                coremltools.TensorType(name=spec.name, shape=tuple(tensor.shape))
                for spec, tensor in zip(model.inputs, model.content.example_inputs, strict=True)
            ],
            outputs=[coremltools.TensorType(name=spec.name) for spec in model.outputs],
            skip_model_load=True,
        )
    except TightshipError:
        raise
    except Exception as error:  # coremltools raises what its parts raise
        raise UnsupportedError(f"{path}: coremltools cannot convert the module: {_reason(error)}") from error


def _decomposed(program: torch.export.ExportedProgram, path: Path) -> torch.export.ExportedProgram:
    """Return the program with the operators that coremltools does not know taken apart, and no others.

    It keeps what it knows whole: it makes one operator of a convolution, and thirty of its decomposition.
    """
    import torch

    program = program.run_decompositions({})
    _write_out_strides(program)
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
    wanted = [{entry.name for entry in entries} for entries in (model.inputs, model.outputs)]
    if found != wanted:
        raise UnsupportedError(f"{path}: the package reads back with {found}, expected {wanted}; it was not written")


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:400]}" if lines else type(error).__name__
