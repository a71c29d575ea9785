"""PyTorch modules to ONNX graphs, by torch.export and torch.onnx."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tightship.core import extras, graph
from tightship.core.exported import export, has_batch, quiet_torch
from tightship.core.model import Model, Step
from tightship.core.progress import SILENT, Progress
from tightship.core.session import Arrays
from tightship.core.target import Target
from tightship.core.torch_module import BATCH, to_numpy, vary
from tightship.engines import open_session
from tightship.errors import EngineError, UnsupportedError, UnsupportedOperators

if TYPE_CHECKING:
    import onnx_ir
    import torch

__all__ = ["DEFAULT_OPSET", "to_graph"]

DEFAULT_OPSET = 20

_BATCHES = (1, 2, 3)
"""Numbers of items that a graph with a free batch axis is tried with."""

_BATCH_TOLERANCE = 1e-3
"""Largest error of a try, relative to the largest output. It tells a wrong batch axis; parity is measured elsewhere."""


def to_graph(model: Model, progress: Progress = SILENT, opset: int = DEFAULT_OPSET) -> Model:
    """Convert a module to a graph with the same names of inputs and outputs.

    The batch axis is free where the module takes any number of items and the graph gives the same for 1, 2 and 3;
    else it stays that of the example, and a note says why. Raises `UnsupportedError` where the module cannot be traced
    and `UnsupportedOperators` where ONNX has no counterpart for what it calls.
    """
    extras.require("torch", "converting a PyTorch model")
    with progress.step("converting PyTorch to ONNX"):
        reason = "the module gives items in a batch other outputs than alone"
        if has_batch(model):
            try:
                converted = _convert(model, opset, batch=True)
                reason = _batch_fault(model, converted)
                if not reason:
                    return converted
            except UnsupportedOperators:
                raise
            except UnsupportedError as error:
                reason = str(error)
        converted = _convert(model, opset, batch=False)
    progress.note(f"the batch axis is fixed: {reason}")
    return converted


def _convert(model: Model, opset: int, batch: bool) -> Model:
    program = export(model, batch)
    result = _to_ir(program, model, opset)
    _clean(result)
    _name_batch(result)
    step = Step("torch-to-onnx", {"opset": opset, "free_batch": batch})
    return graph.from_ir(result, (*model.history, step))


def _to_ir(program: torch.export.ExportedProgram, model: Model, opset: int) -> onnx_ir.Model:
    import torch

    with tempfile.TemporaryDirectory() as folder, quiet_torch():

        def call(report: bool) -> onnx_ir.Model:
            return torch.onnx.export(
                program,
                (),
                dynamo=True,
                opset_version=opset,
                input_names=[spec.name for spec in model.inputs],
                output_names=[spec.name for spec in model.outputs],
                report=report,
                artifacts_dir=folder,
                verbose=False,
            ).model

        try:
            return call(report=False)
        except Exception as error:  # OnnxExporterError, and what torch's and onnxscript's parts raise
            with contextlib.suppress(Exception):
                call(report=True)
            missing = _missing_operators(Path(folder))
            if missing:
                raise UnsupportedOperators(
                    f"ONNX (opset {opset}) has no counterpart for {len(missing)} operators: {', '.join(missing)}; "
                    "write them with others in the module, or run it with the torch engine"
                ) from error
            raise UnsupportedError(f"torch.onnx cannot convert the module: {_cause(error)}") from error


def _missing_operators(folder: Path) -> list[str]:
    """Operators that torch.onnx's own report lists: its error names only the first."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in folder.glob("*.md"))
    _, _, errors = text.partition("Errors grouped by operator:")
    return sorted(set(re.findall(r"^- `([\w.]+)`:", errors, re.MULTILINE)))


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).strip().partition("\n\n")[0].split())[:400] or type(error).__name__


def _clean(result: onnx_ir.Model) -> None:
    """Drop the exporter's notes (stack traces with paths of this machine) and the prefix of `exportable`'s wrapper."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    ClearMetadataAndDocStringPass()(result)
    taken = {value.name for node in result.graph for value in node.outputs} | set(result.graph.initializers)
    for value in tuple(result.graph.initializers.values()):
        name = (value.name or "").removeprefix("module.")
        if name not in taken:
            value.name = name


def _name_batch(result: onnx_ir.Model) -> None:
    """Call the free axis by its name: torch.export numbers its symbols (`s31`, `2*s31`)."""
    import onnx_ir

    symbols = {str(value.shape[0]) for value in result.graph.inputs if value.shape}
    pattern = re.compile("|".join(rf"\b{symbol}\b" for symbol in symbols if re.fullmatch(r"[a-z]+\d+", symbol)) or "$^")

    def named(dim: int | onnx_ir.SymbolicDim) -> int | str | None:
        if isinstance(dim, int):
            return dim
        return None if dim.value is None else pattern.sub(BATCH, dim.value)

    for value in _values(result):
        if value.shape is not None:
            value.shape = onnx_ir.Shape([named(dim) for dim in value.shape])


def _values(result: onnx_ir.Model) -> Iterator[onnx_ir.Value]:
    for subgraph in result.graphs():
        yield from subgraph.inputs
        for node in subgraph:
            yield from node.outputs


def _batch_fault(model: Model, converted: Model) -> str:
    """Say what is wrong with the free batch axis, or nothing where every try agrees with torch."""
    try:
        with open_session(model, Target("torch")) as module, open_session(converted, Target()) as session:
            for count in _BATCHES:
                items = _items(model, count)
                found, expected = session.run(items), module.run(items)
                for name, array in expected.items():
                    if not _agree(found[name], array):
                        return f"with {count} items output {name} differs from torch's"
    except EngineError as error:
        return str(error)
    return ""


def _items(model: Model, count: int) -> Arrays:
    """Inputs of `count` items that differ from one another."""
    import torch

    return {
        spec.name: to_numpy(torch.cat([vary(tensor[:1], index) for index in range(count)]))
        for spec, tensor in zip(model.inputs, model.content.example_inputs, strict=True)
    }


def _agree(found: np.ndarray, expected: np.ndarray) -> bool:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if not np.issubdtype(expected.dtype, np.floating):
        return bool(np.array_equal(found, expected))
    scale = float(np.max(np.abs(expected), initial=0.0))
    return bool(np.allclose(found, expected, rtol=0, atol=_BATCH_TOLERANCE * scale, equal_nan=True))
