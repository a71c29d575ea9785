"""Running MIL programs: built with coremltools' own builder, saved, read back by us, run by ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coremltools
import numpy as np
import onnxruntime
import torch
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types

from tightship import formats
from tightship.core import graph
from tightship.core.model import Model

__all__ = ["CASES", "Case", "add", "by_torch", "inferred", "numbers", "read_back", "results", "run", "saved", "whole"]

CASES: list[Case] = []
"""Filled by the modules of `mil_cases`."""

RNG = np.random.default_rng(0)

TARGETS = {15: "iOS15", 16: "iOS16", 17: "iOS17", 18: "iOS18"}
TYPES = {"float32": types.fp32, "float16": types.fp16, "int32": types.int32, "bool": types.bool}

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One use of an operator: how it is built from named inputs, and what it must give.

    `expected` computes that from the inputs; without one, coremltools' own value inference does, on constants.
    """

    kind: str
    build: Callable[..., Any]
    inputs: Arrays
    expected: Callable[..., Any] | None = None
    opset: int = 15
    rtol: float = 1e-5
    atol: float = 1e-6
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}{'-' if self.name else ''}{self.name}"


def saved(case: Case, folder: Path) -> Path:
    """Save the case as a package without any of coremltools' passes, so that its operators stay as they are."""
    specs = [mb.TensorSpec(array.shape, dtype=TYPES[str(array.dtype)]) for array in case.inputs.values()]
    names, build = list(case.inputs), case.build

    def program(*values: Any) -> Any:
        return build(**dict(zip(names, values, strict=True)))

    target = getattr(coremltools.target, TARGETS[case.opset])
    made = mb.program(input_specs=specs, opset_version=target)(_named(program, names))
    package = coremltools.convert(
        made,
        convert_to="mlprogram",
        compute_precision=coremltools.precision.FLOAT32,
        minimum_deployment_target=target,
        pass_pipeline=coremltools.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    path = folder / "case.mlpackage"
    package.save(str(path))
    return path


def _named(function: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """coremltools takes the names of inputs from the signature."""
    source = f"def program({', '.join(names)}): return function({', '.join(names)})"
    scope: dict[str, Any] = {"function": function}
    exec(source, scope)  # the names are those of a case
    found: Callable[..., Any] = scope["program"]
    return found


def inferred(case: Case) -> list[np.ndarray]:
    """What coremltools computes itself where everything is constant."""
    found: list[Any] = []

    def program() -> Any:
        values = case.build(**{name: mb.const(val=array) for name, array in case.inputs.items()})
        found.extend(values if isinstance(values, tuple | list) else [values])
        return found[0]

    mb.program(input_specs=[], opset_version=getattr(coremltools.target, TARGETS[case.opset]))(program)
    values = [value.val if value.val is not None else value.op.materialized_val_inference() for value in found]
    return [np.asarray(value) for value in values]


def read_back(path: Path) -> Model:
    return formats.read(formats.recognise(str(path)))


def run(model: Model, inputs: Arrays) -> list[np.ndarray]:
    """Run a graph on one thread; outputs in its order."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(graph.to_bytes(model), options, providers=["CPUExecutionProvider"])
    wanted = {spec.name: spec.dtype for spec in model.inputs}
    given = {name: array.astype(wanted[name]) for name, array in inputs.items() if name in wanted}
    found: list[np.ndarray] = session.run(None, given)
    return found


def results(case: Case) -> list[np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        return run(read_back(saved(case, Path(folder))), case.inputs)


def numbers(*shape: int, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    return RNG.uniform(low, high, shape).astype(np.float32)


def whole(*shape: int, low: int = -9, high: int = 10) -> np.ndarray:
    return RNG.integers(low, high, shape).astype(np.int32)


def add(kind: str, build: Callable[..., Any], expected: Callable[..., Any] | None = None, /, **rest: Any) -> None:
    """Add a case; what is no option of it is an input."""
    options = {key: rest.pop(key) for key in ("opset", "rtol", "atol", "name") if key in rest}
    CASES.append(Case(kind, build, rest, expected, **options))


def by_torch(function: Callable[..., Any]) -> Callable[..., Any]:
    """Judge with a function of tensors."""

    def expected(**arrays: np.ndarray) -> Any:
        found = function(*(torch.from_numpy(array) for array in arrays.values()))
        return [value.numpy() for value in found] if isinstance(found, tuple | list) else found.numpy()

    return expected
