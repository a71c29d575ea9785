"""ExecuTorch programs: `.pte` files for phones and microcontrollers, with XNNPACK kernels where there are some."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tightship.core import extras
from tightship.core.artifact import Artifact
from tightship.core.atomic import write_bytes
from tightship.core.exported import export, quiet_torch
from tightship.core.model import Form, Model
from tightship.core.native_output import native_output_hidden
from tightship.errors import ArtifactNotFound, TightshipError, UnsupportedError, UsageError
from tightship.formats.format import Format

if TYPE_CHECKING:
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

__all__ = ["ExecuTorch"]


@dataclass(frozen=True)
class ExecuTorch(Format):
    """Written from a module, in float32, with the shapes of its example inputs; run, but not read back into a form."""

    name: ClassVar[str] = "executorch"
    suffixes: ClassVar[tuple[str, ...]] = (".pte",)
    reads_into: ClassVar[Form | None] = None
    writes_from: ClassVar[tuple[Form, ...]] = ("module",)
    engine: ClassVar[str] = "executorch"
    writes_with: ClassVar[tuple[str, ...]] = ("torch", "executorch")

    def artifact(self, source: str, weights: Path | None = None) -> Artifact:
        path = Path(source)
        if not path.is_file():
            raise ArtifactNotFound(f"{path}: no such file")
        if weights is not None:
            raise UsageError(f"{path}: a .pte file holds its weights; leave out the weights {weights}")
        return Artifact(path, self.name)

    def read(self, artifact: Artifact) -> Model:
        raise UnsupportedError(
            f"{artifact.path}: a .pte file is run (engine executorch), not read; give the model that it was made from"
        )

    def write(self, model: Model, path: Path) -> Artifact:
        """Write a module. Raises `UnsupportedError` where ExecuTorch cannot lower it.

        Axes are fixed: a program has memory planned for one size of each tensor. Names are not kept in the file,
        which knows inputs and outputs by position.
        """
        for module in self.writes_with:
            if not extras.available(module):
                extras.require(module, "writing a .pte file")
        if model.form != "module":
            raise UnsupportedError(f"{path}: a .pte file is written from a module, found a {model.form}")
        write_bytes(path, _lowered(model, path))
        return Artifact(path, self.name)


def _lowered(model: Model, path: Path) -> bytes:
    with ExitStack() as stack:
        stack.enter_context(native_output_hidden())
        stack.enter_context(quiet_torch())
        from executorch.exir import to_edge_transform_and_lower

        try:
            program = to_edge_transform_and_lower(export(model, batch=False), partitioner=[_partitioner()])
            return bytes(program.to_executorch().buffer)
        except TightshipError:
            raise
        except Exception as error:  # the passes raise what their parts raise
            raise UnsupportedError(f"{path}: ExecuTorch cannot lower the module: {_reason(error)}") from error


def _partitioner() -> XnnpackPartitioner:
    """All that XNNPACK can take but the softmax of images.

    What follows a convolution it keeps channels-last, and its softmax (ExecuTorch 1.5) then runs over the channels,
    whichever axis was asked for.
    """
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
    from executorch.backends.xnnpack.partition.config.generic_node_configs import SoftmaxConfig
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    class SoftmaxOfVectors(SoftmaxConfig):  # type: ignore[misc]
        def check_constraints(self, node: torch.fx.Node, ep: torch.export.ExportedProgram) -> bool:
            return node.all_input_nodes[0].meta["val"].dim() != 4 and bool(super().check_constraints(node, ep))

    others = [config for config in ALL_PARTITIONER_CONFIGS if config is not SoftmaxConfig]
    return XnnpackPartitioner(configs=[*others, SoftmaxOfVectors])


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:400]}" if lines else type(error).__name__
