"""Input shapes as the user fixes them: `name=1,3,224,224`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tightship.core.graph import from_ir
from tightship.core.model import Model, Step
from tightship.core.specs import TensorSpec
from tightship.errors import UsageError, nearest

__all__ = ["fix_input_shapes", "parse_shapes"]

LARGEST_AXIS = 2**31 - 1


def parse_shapes(words: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Parse `name=1,3,224,224`; a model with one input may leave the name out. Raises `UsageError`."""
    shapes = {}
    for word in words:
        name, found, lengths = word.rpartition("=")
        try:
            shape = tuple(int(length) for length in lengths.replace("x", ",").split(","))
        except ValueError:
            shape = ()
        if not shape or not all(0 < length <= LARGEST_AXIS for length in shape) or (found and not name):
            raise UsageError(f"an input shape is written name=1,3,224,224, found {word!r}")
        shapes[name] = shape
    return shapes


def fix_input_shapes(model: Model, shapes: Mapping[str, Sequence[int]]) -> Model:
    """Return a graph or module whose inputs have these shapes. An empty name stands for the only input.

    Raises `UsageError` where a name or a fixed axis does not fit.
    """
    if not shapes:
        return model
    wanted = {_spec(model, name).name: tuple(shape) for name, shape in shapes.items()}
    for name, shape in wanted.items():
        spec = _spec(model, name)
        if spec.shape and not (model.form == "module" or spec.accepts(shape)):
            raise UsageError(f"input {spec} cannot have the shape {list(shape)}; only unknown axes can be fixed")
    step = Step("input-shape", {name: list(shape) for name, shape in wanted.items()})
    return _fix_graph(model, wanted, step) if model.form == "graph" else _fix_module(model, wanted, step)


def _spec(model: Model, name: str) -> TensorSpec:
    names = [spec.name for spec in model.inputs]
    if not name and len(names) == 1:
        name = names[0]
    found = [spec for spec in model.inputs if spec.name == name]
    if not found:
        raise UsageError(f"no input {name!r}{nearest(name, names)}; the inputs are {', '.join(map(str, model.inputs))}")
    return found[0]


def _fix_graph(model: Model, wanted: Mapping[str, tuple[int, ...]], step: Step) -> Model:
    import onnx_ir
    from onnx_ir.passes.common import ShapeInferencePass

    graph = model.graph.clone()
    for value in graph.graph.inputs:
        if value.name in wanted:
            value.shape = onnx_ir.Shape(wanted[value.name])
    for value in (*(value for node in graph.graph for value in node.outputs),):
        value.shape = None  # what was inferred for a free axis is stale
    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(graph)
    return from_ir(graph, (*model.history, step))


def _fix_module(model: Model, wanted: Mapping[str, tuple[int, ...]], step: Step) -> Model:
    if model.form != "module":
        raise UsageError(f"input shapes can be fixed in a graph or a module, found a {model.form} model")
    import torch

    from tightship.core.torch_module import from_torch

    examples = tuple(
        torch.from_numpy(_resized(example.detach().numpy(), wanted[spec.name])) if spec.name in wanted else example
        for spec, example in zip(model.inputs, model.content.example_inputs, strict=True)
    )
    fixed = from_torch(model.content.module, examples, (*model.history, step))
    inputs = tuple(replace(spec, shape=wanted.get(spec.name, spec.shape)) for spec in fixed.inputs)
    return replace(fixed, inputs=inputs)


def _resized(example: object, shape: tuple[int, ...]) -> object:
    import numpy as np

    return np.resize(np.asarray(example), shape)  # repeats the example's own values, so that indices stay in range
